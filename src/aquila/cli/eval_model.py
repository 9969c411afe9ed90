"""What the commands of `aquila eval` that run a model share: options, and a bar of progress."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Name from `aquila models`, or a checkpoint's path.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, mps ...; an accelerator where there is one.")]
DtypeOption = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")]
QuantizeOption = Annotated[str | None, typer.Option(help="w4, w4m or w8: 4 or 8 bits a weight, on a CPU.")]
OutOption = Annotated[
    Path | None, typer.Option(help="A folder for the run; the same command goes on with one that was stopped.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines; the last is the result.")]


@contextmanager
def progress_bar(total: int | None, name: str, good: str) -> Generator[Callable[[bool], None]]:
    """A bar on a terminal: how many are done, how many of them are `good`, how long it still takes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[passed]}} {good}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, passed=0)
        passed = 0

        def step(ok: bool) -> None:
            nonlocal passed
            passed += ok
            bar.update(task, advance=1, passed=passed)

        yield step


def default_out(*words: str) -> Path:
    """A run's folder where none was given: the same for the same words, so that the same command goes on."""
    names = [Path(word).name for word in words if word]
    return Path("eval_runs") / "-".join("".join(c if c.isalnum() or c in "._-" else "_" for c in n) for n in names)
