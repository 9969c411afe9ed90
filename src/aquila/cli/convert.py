"""`aquila convert`: from one checkpoint format to another."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="Checkpoint folder, .gguf file, or the name of a pulled model."),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="Folder to create; for GGUF the file.gguf to create.")
    ],
    to: Annotated[str, typer.Option("--to", help="native, hf (Hugging Face), flagai or gguf.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="fp32, fp16 or bf16. Default: as the source; fp16 if that is quantised."),
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="q8_0 or q4_0, with --to gguf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON with the result.")] = False,
) -> None:
    """Convert a checkpoint, tensor by tensor: a model larger than memory converts too.

    The result appears whole or not at all, with the tokenizer and the chat template.
    """
    import json
    import time

    from rich.console import Console

    from aquila.checkpoint.convert import convert as run
    from aquila.cli.byte_progress import byte_progress
    from aquila.zoo.pull import resolve

    began = time.perf_counter()
    console = Console(stderr=True)
    with byte_progress(console, "convert") as progress:
        run(resolve(source), destination, to=to, dtype=dtype, quantize=quantize, progress=progress)
    files = [destination] if destination.is_file() else sorted(destination.iterdir())
    num_bytes = sum(file.stat().st_size for file in files)
    seconds = time.perf_counter() - began
    if as_json:
        result = {
            "path": str(destination),
            "format": to,
            "num_bytes": num_bytes,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(result, ensure_ascii=False))
    else:
        console.print(f"{destination}: {num_bytes / 1e6:,.1f} MB in {seconds:.1f} s", highlight=False)
