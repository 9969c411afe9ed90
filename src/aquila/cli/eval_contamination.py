"""`aquila eval contamination`: how much of a benchmark a corpus holds."""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquila.cli.eval_judge import DataOption

if TYPE_CHECKING:
    from aquila.evaluate.contamination_items import Items
    from aquila.evaluate.training_data import TrainingData

_SHOWN_ITEMS = 20


def contamination(
    bench: Annotated[str, typer.Option(help="humaneval, humaneval-x, or a benchmark's file (JSON lines).")],
    corpus: Annotated[
        list[Path] | None,
        typer.Option("--corpus", metavar="PATH", help="Text of any kind, token shards, folders of them. Repeatable."),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More of the corpus.")] = None,
    trained: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Instead of --corpus: what this model of ours was trained on.")
    ] = None,
    data: DataOption = None,
    lang: Annotated[str | None, typer.Option("--lang", "-l", help="Of humaneval-x: the language.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="PATH_OR_MODEL", help="That made the shards; needed where there are any.")
    ] = None,
    text_key: Annotated[
        str | None, typer.Option(help="Only this field or column; all texts of a record by default.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the result goes.")] = Path("contamination.json"),
    attach: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Also into this run, for its reports. Repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a usable core by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Look for a benchmark in a corpus: 13 words or 50 characters in a row of any prompt, solution or test."""
    from aquila.cli.tokenizer import open_tokenizer
    from aquila.evaluate.contamination import attach as attach_to
    from aquila.evaluate.contamination import find_contamination, write_contamination
    from aquila.evaluate.contamination_lookup import keep, search_training_data
    from aquila.evaluate.run_folder import read_facts
    from aquila.machine import read_cpu

    inputs = [*(corpus or []), *(more or [])]
    _check_inputs(inputs, trained, tokenizer)
    items = _open_items(bench, data, lang)
    for run in attach or []:
        read_facts(run)  # before the search
    count = workers or read_cpu().num_usable_threads
    with _progress() as step:
        if trained is not None:
            record = search_training_data(items, _open_trained(trained), workers=count, progress=step)
            keep(record)
        else:
            opened = open_tokenizer(tokenizer) if tokenizer is not None else None
            record = find_contamination(
                items, inputs, tokenizer=opened, text_key=text_key, workers=count, progress=step
            )
    write_contamination(record, out)
    written = [out, *(attach_to(record, run) for run in attach or [])]
    if as_json:
        print(json.dumps(record))
    else:
        _print(record)
        print(f"written: {', '.join(map(str, written))}")


def _check_inputs(inputs: list[Path], trained: str | None, tokenizer: str | None) -> None:
    from aquila.errors import ConfigError

    if (trained is None) == (not inputs):
        raise ConfigError(
            "give --corpus with the files to search, or --trained with a model whose training data is here"
        )
    if trained is not None and tokenizer is not None:
        raise ConfigError("--tokenizer: --trained takes that of the model; leave it out")


def _open_items(bench: str, data: Path | None, lang: str | None) -> "Items":
    from aquila.errors import ConfigError
    from aquila.evaluate.contamination_items import items_of, items_of_file
    from aquila.evaluate.data_files import open_benchmark
    from aquila.evaluate.tasks import BENCHMARKS, read_benchmark
    from aquila.sandbox.toolchains import language_of

    if bench not in BENCHMARKS:
        if Path(bench).is_file():
            return items_of_file(Path(bench))
        raise ConfigError(f"--bench {bench!r} is neither a file nor one of {', '.join(BENCHMARKS)}")
    language = language_of(lang) if lang else ("python" if bench == "humaneval" else None)
    if data is not None and (data.is_file() or language is not None):
        return items_of(read_benchmark(bench, data, language))
    if language is None:
        raise ConfigError(f"--bench {bench} has a file for each language: give --data FILE, or --lang")
    return items_of(open_benchmark(bench, language))


def _open_trained(name: str) -> "TrainingData":
    from aquila.checkpoint.open import open_checkpoint
    from aquila.errors import EvaluationError
    from aquila.evaluate.training_data import open_training_data, training_facts
    from aquila.zoo.store import resolve

    facts = training_facts(open_checkpoint(resolve(name)))
    if facts is None:
        raise EvaluationError(
            f"{name} does not say what it was trained on; give the folder of a training run, or --corpus with the files"
        )
    return open_training_data(facts)


@contextmanager
def _progress() -> Generator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("search", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(record: dict[str, Any]) -> None:
    from aquila.config import format_size
    from aquila.evaluate.markup import clean

    corpus = record["corpus"]
    unread = f", {corpus['num_skipped']:,} not readable" if corpus["num_skipped"] else ""
    print(
        f"{record['bench']['name']} in {corpus['num_documents']:,} documents ({format_size(corpus['num_bytes'])}"
        f"{unread}): "
        f"{record['num_touched']} of {record['num_items']} items share 13 words or 50 characters in a row, "
        f"{record['num_mostly']} have a part that is there at least by half"
    )
    for item in record["items"][:_SHOWN_ITEMS]:
        for name, part in item["parts"].items():
            if part["words_found"] or part["characters_found"]:
                where = part["examples"][0]["where"] if part["examples"] else ""
                print(
                    clean(
                        f"  {item['task_id']} {name}: {part['words_found']} of {part['words']} runs of words, longest "
                        f"{part['longest_characters']} characters; {where}"
                    )
                )
    if len(record["items"]) > _SHOWN_ITEMS:
        print(f"  and {len(record['items']) - _SHOWN_ITEMS} more items")
    if record["num_parts_too_short"]:
        print(f"{record['num_parts_too_short']} of {record['num_parts']} parts are too short to be found")
