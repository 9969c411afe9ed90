"""`aquila quantise`: packs a model into the file that the native kernels run."""

from pathlib import Path
from typing import Annotated

import typer


def quantise(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Checkpoint folder or file, or the name of a pulled model.")
    ],
    to: Annotated[str, typer.Option("--to", help="w4, w4m or w8 (4 or 8 bits a weight), f16, bf16 or f32.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file.aqw to create. Default: in the cache folder.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="Format of the embedding and the output matrix. Default: w8 beside 4 bits, else as --to."),
    ] = None,
    rounding: Annotated[
        str, typer.Option(help="For w4: search (the best scale of each block) or absmax (as GGUF's Q4_0).")
    ] = "search",
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON with the result.")] = False,
) -> None:
    """Pack a model into one .aqw file, tensor by tensor: a model larger than memory is packed too.

    GGUF matrices that have the matching type already (Q4_0, Q4_1, Q8_0) are kept bit for bit.
    """
    import json
    import time

    from rich.console import Console

    from aquila.checkpoint.packed_writer import default_path
    from aquila.checkpoint.packed_writer import quantise as run
    from aquila.cli.byte_progress import byte_progress
    from aquila.zoo.pull import resolve

    began = time.perf_counter()
    source = resolve(model)
    destination = out or default_path(source if Path(model).expanduser().exists() else Path(model), to)
    console = Console(stderr=True)
    with byte_progress(console, "quantise") as progress:
        run(source, destination, to=to, head=head, rounding=rounding, progress=progress)
    num_bytes = destination.stat().st_size
    seconds = time.perf_counter() - began
    if as_json:
        result = {"path": str(destination), "format": to, "num_bytes": num_bytes, "seconds": round(seconds, 3)}
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(destination)
        console.print(f"{num_bytes / 1e6:,.1f} MB in {seconds:.1f} s", highlight=False)
