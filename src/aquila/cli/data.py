"""`aquila data`: pack text into token shards, look at what a run reads, check files."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Pack text into token shards, look at what a run reads, check files.", no_args_is_help=True)

TokenizerOption = Annotated[
    str,
    typer.Option("--tokenizer", metavar="PATH_OR_MODEL", help="A folder, tokenizer.json, checkpoint or model name."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SHOWN_INVALID = 20


@app.command()
def pack(
    files: Annotated[
        list[Path],
        typer.Argument(help="Text: .jsonl (.zst, .gz), .parquet, other files as they are, folders of them."),
    ],
    tokenizer: TokenizerOption,
    out: Annotated[Path, typer.Option(metavar="PREFIX", help="Where PREFIX.bin, PREFIX.idx and PREFIX.json go.")],
    text_key: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Of a folder only such files: '*.py'. Repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a usable core by default.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where a record is invalid.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Encode text into a token shard: each document is [BOS] ids EOS. After a kill, the same command goes on.

    Special tokens that a text spells are text. Records that cannot be used are named, counted and left out.
    """
    import json
    import time

    from rich.console import Console
    from rich.progress import Progress

    from aquila.cli.tokenizer import open_tokenizer
    from aquila.data.pack import pack as run
    from aquila.machine import read_cpu

    began = time.perf_counter()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("pack", total=None)
        report = run(
            files,
            open_tokenizer(tokenizer),
            out,
            workers=workers or read_cpu().num_usable_threads,
            text_key=text_key,
            include=include or (),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for each in report.invalid[:_SHOWN_INVALID]:
        console.print(f"left out: {each}", highlight=False, markup=False, soft_wrap=True)
    if len(report.invalid) > _SHOWN_INVALID:
        console.print(f"left out: {len(report.invalid) - _SHOWN_INVALID} more", highlight=False)
    seconds = time.perf_counter() - began
    if as_json:
        record = {
            "prefix": str(report.prefix),
            "num_documents": report.num_documents,
            "num_tokens": report.num_tokens,
            "num_bytes": report.num_bytes,
            "num_empty": report.num_empty,
            "num_binary": report.num_binary,
            "num_invalid": len(report.invalid),
            "invalid": list(report.invalid),
            "seconds": round(seconds, 3),
        }
        print(json.dumps(record, ensure_ascii=False))
    else:
        left_out = [f"{report.num_empty:,} empty"] if report.num_empty else []
        left_out += [f"{report.num_binary:,} binary"] if report.num_binary else []
        left_out += [f"{len(report.invalid):,} invalid"] if report.invalid else []
        print(
            f"{report.prefix}: {report.num_documents:,} documents, {report.num_tokens:,} tokens, "
            f"{report.num_bytes / report.num_tokens:.2f} bytes/token, {seconds:.1f} s"
            + (f"; left out: {', '.join(left_out)}" if left_out else "")
        )
    if strict and report.invalid:
        raise typer.Exit(1)


@app.command()
def peek(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE|RUN_DIR", help="A recipe (YAML), or the folder of a run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key.sub=value ...]", help="Settings that replace the recipe's.")
    ] = None,
    step: Annotated[int, typer.Option(min=0, help="Which step's batch; the first is 0.")] = 0,
    rows: Annotated[int, typer.Option(min=1, help="Sequences to show.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Show what the model reads at a step, and what of it is learned; then the shares of the mixture."""
    from aquila.cli.data_page import print_peek

    print_peek(recipe, overrides or [], step=step, rows=rows, as_json=as_json)


@app.command()
def preview(
    files: Annotated[list[Path], typer.Argument(help="Files or folders of conversations.")],
    tokenizer: TokenizerOption,
    template: Annotated[str | None, typer.Option(help="Chat template; the tokenizer's own by default.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Conversations to show.")] = 1,
    skip: Annotated[int, typer.Option(min=0, help="Conversations to pass over first.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show conversations as the model reads them: what is learned in colour, everything else dim."""
    from aquila.cli.data_page import print_preview

    print_preview(files, tokenizer, template, count=count, skip=skip, as_json=as_json)


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Files or folders of conversations, or token shards.")],
    as_json: JsonOption = False,
) -> None:
    """Check every record of conversations, and every byte of shards. Names file, line and field; exits with 1."""
    from aquila.cli.data_page import print_validation

    if not print_validation(files, as_json=as_json):
        raise typer.Exit(1)


@app.command("index-maps")
def index_maps(
    shard: Annotated[Path, typer.Argument(metavar="PREFIX", help="A token shard.")],
    num_samples: Annotated[str, typer.Option(help="Samples of train, valid and test: 90,10,0.")],
    sequence_length: Annotated[int, typer.Option(min=1, help="Tokens of a sample.")] = 2048,
    split: Annotated[str, typer.Option(help="Shares of the documents for train, valid and test.")] = "90,10,0",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the shuffle.")] = 1234,
) -> None:
    """Write Megatron's index maps beside a shard, the same bits: the order in which other programs read it."""
    from aquila.data.index_maps import SPLITS, build_index_maps, parse_counts, split_documents
    from aquila.data.shards import Shard

    opened = Shard(shard)
    counts = parse_counts(num_samples)
    for name, documents, count in zip(SPLITS, split_documents(opened.num_documents, split), counts, strict=True):
        if not count:
            continue
        lengths = opened.starts[1:] - opened.starts[:-1]
        maps = build_index_maps(lengths, documents, num_samples=count, sequence_length=sequence_length, seed=seed)
        for path in maps.save(opened.prefix, name, num_samples=count, sequence_length=sequence_length, seed=seed):
            print(path)
