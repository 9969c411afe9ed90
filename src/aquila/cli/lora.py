"""`aquila lora`: put an adapter into its model, take it out again, look at it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from aquila.checkpoint.adapter import AdapterFolder

app = typer.Typer(help="Work with LoRA adapters, in PEFT's format.", no_args_is_help=True)

_Adapter = Annotated[
    Path, typer.Argument(metavar="ADAPTER", help="Folder with adapter_config.json, of PEFT, FlagAI or `aquila train`.")
]
_Destination = Annotated[
    Path, typer.Argument(metavar="DST", help="Folder to create; with --to gguf the file.gguf to create.")
]
_To = Annotated[str, typer.Option("--to", help="native, hf (Hugging Face), flagai or gguf.")]
_Dtype = Annotated[str | None, typer.Option(help="fp32, fp16 or bf16. Default: as the model; fp16 if quantised.")]
_Quantize = Annotated[str | None, typer.Option(help="q8_0 or q4_0, with --to gguf.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON with the result.")]


@app.command()
def merge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base: a checkpoint, or a pulled model's name.")],
    adapter: _Adapter,
    destination: _Destination,
    to: _To = "native",
    dtype: _Dtype = None,
    quantize: _Quantize = None,
    as_json: _Json = False,
) -> None:
    """Write the model with the adapter in its weights, tensor by tensor; it then runs without the adapter."""
    _write(model, adapter, destination, sign=1, options=(to, dtype, quantize), as_json=as_json)


@app.command()
def unmerge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model that the adapter was merged into.")],
    adapter: _Adapter,
    destination: _Destination,
    to: _To = "native",
    dtype: _Dtype = None,
    quantize: _Quantize = None,
    as_json: _Json = False,
) -> None:
    """Write the base again, from a merged model and the adapter; exact to the rounding of the merged weights."""
    _write(model, adapter, destination, sign=-1, options=(to, dtype, quantize), as_json=as_json)


def _write(
    model: str,
    adapter: Path,
    destination: Path,
    *,
    sign: int,
    options: tuple[str, str | None, str | None],
    as_json: bool,
) -> None:
    import json
    import time

    from rich.console import Console

    from aquila.checkpoint.adapter import read_adapter
    from aquila.checkpoint.adapter_merge import merge_adapter
    from aquila.checkpoint.convert import check_options, convert
    from aquila.checkpoint.open import open_checkpoint
    from aquila.cli.byte_progress import byte_progress
    from aquila.zoo.store import resolve

    to, dtype, quantize = options
    check_options(destination, to, dtype, quantize)
    began = time.perf_counter()
    checkpoint = open_checkpoint(resolve(model))
    found = read_adapter(adapter.expanduser(), checkpoint.config)
    if quantize is None:
        dtype = dtype or checkpoint.dtype  # of the base: sums are fp32
    changed = merge_adapter(checkpoint, found, name=destination.resolve().stem, sign=sign)
    console = Console(stderr=True)
    with byte_progress(console, "lora") as progress:
        convert(changed, destination, to=to, dtype=dtype, quantize=quantize, progress=progress)
    files = [destination] if destination.is_file() else list(destination.iterdir())
    num_bytes = sum(file.stat().st_size for file in files)
    seconds = time.perf_counter() - began
    if as_json:
        result = {"path": str(destination), "format": to, "num_matrices": len(found.matrices), "num_bytes": num_bytes}
        print(json.dumps({**result, "seconds": round(seconds, 3)}, ensure_ascii=False))
    else:
        what = f"{len(found.matrices)} matrices {'adapted' if sign > 0 else 'restored'}"
        console.print(f"{destination}: {what}, {num_bytes / 1e6:,.1f} MB in {seconds:.1f} s", highlight=False)


@app.command()
def info(
    adapter: _Adapter,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Check that the adapter fits this model as well.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Show what an adapter changes, and check its files."""
    import json

    from aquila.checkpoint.adapter import open_adapter, read_adapter
    from aquila.checkpoint.open import open_checkpoint
    from aquila.zoo.store import resolve

    folder = adapter.expanduser()
    found = open_adapter(folder)
    if model is not None:
        read_adapter(folder, open_checkpoint(resolve(model)).config)
    facts = _facts(found)
    if as_json:
        print(json.dumps({**facts, **({} if model is None else {"fits": model})}, ensure_ascii=False))
        return
    print(f"{found.path}: LoRA in the format of {'FlagAI' if found.format == 'flagai' else 'PEFT'}")
    print(f"  made for  {found.base_name or 'not stated'}{'' if model is None else f'; fits {model}'}")
    print(f"  rank      {found.rank}, alpha {found.alpha:g}: updates are scaled by {found.scale:g}")
    print(f"  adapts    {', '.join(facts['targets'])} in {facts['num_layers']} layers")
    print(f"  weights   {facts['num_parameters']:,} in {facts['dtype']}, {facts['num_bytes'] / 1e6:,.1f} MB")


def _facts(found: "AdapterFolder") -> dict[str, Any]:
    halves = [half for pair in found.pairs.values() for half in pair]
    return {
        "path": str(found.path),
        "format": found.format,
        "base_model": found.base_name,
        "r": found.rank,
        "alpha": found.alpha,
        "scale": found.scale,
        "targets": sorted({name.rpartition(".")[2] for name in found.pairs}),
        "num_layers": len({name.split(".")[2] for name in found.pairs if name.count(".") > 2}),
        "num_parameters": sum(half.num_elements for half in halves),
        "dtype": ", ".join(sorted({str(half.dtype) for half in halves})),
        "num_bytes": found.weights.stat().st_size,
    }
