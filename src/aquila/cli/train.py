"""`aquila train`: run a recipe, resume a run, draw its loss, and say beforehand whether it fits."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _RecipeOrCommand(TyperGroup):
    """`aquila train plot RUN` is a command; `aquila train RECIPE ...` runs what it names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:
            _check_not_meant_as_path(args[0], args[1:])
        elif args and args[0] not in {"-h", "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


def _check_not_meant_as_path(command: str, rest: list[str]) -> None:
    """Refuses `aquila train plot` where `plot` is a path: nothing follows that the command could work on."""
    named = any("=" not in each and not each.startswith("-") for each in rest)
    if named or {"-h", "--help"} & set(rest) or not Path(command).exists():
        return
    from aquila.errors import ConfigError

    raise ConfigError(
        f"{command}: is a command of `aquila train`, and here also a path; for the path write ./{command}"
    )


app = typer.Typer(cls=_RecipeOrCommand, no_args_is_help=True, help="Train a model: pretrain, continue, sft, adapters.")


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE|RUN_DIR", help="A recipe (YAML), or a run to resume.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key.sub=value ...]", help="Settings that replace the recipe's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, allocate nothing.")
    ] = False,
    world: Annotated[
        int | None, typer.Option("--world", min=1, help="With --dry-run: plan for so many devices.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="With --dry-run: plan for accelerators of this memory, as 24GiB.")
    ] = None,
) -> None:
    """Train as a recipe says. The same command goes on where a run of it was stopped."""
    from aquila.cli.train_run import dry_run as print_plan
    from aquila.cli.train_run import train
    from aquila.train.run_dir import open_recipe

    chosen, run_dir = open_recipe(recipe, overrides or [])
    if dry_run:
        print_plan(chosen, run_dir, world, memory)
        return
    if world is not None or memory is not None:
        raise typer.BadParameter(
            "--world and --memory plan a run and need --dry-run; start processes with torchrun or aquila launch"
        )
    code = train(chosen, run_dir)
    if code:
        sys.exit(code)


@app.command()
def plot(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="PNG to write; loss.png in the run by default.")] = None,
) -> None:
    """Draw loss, evaluations, learning rate and gradient norm of a run."""
    from aquila.train.plot import plot_run

    print(plot_run(run_dir, out))


@app.command()
def estimate(
    model: Annotated[str, typer.Argument(metavar="MODEL|RECIPE", help="A preset, a checkpoint or a recipe.")],
    gpus: Annotated[int | None, typer.Option(min=1, help="Devices of the run: those of the recipe, or 1.")] = None,
    memory: Annotated[str, typer.Option(help="Memory of one device, such as 80GiB.")] = "80GiB",
    sequence_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a sequence: those of the recipe, or 2048.")
    ] = None,
    micro_batch_size: Annotated[int, typer.Option(min=1, help="Sequences that a device computes at once.")] = 1,
) -> None:
    """Does it fit? Memory of each device for full training, checkpointing, offload, LoRA and QLoRA."""
    from aquila.cli.train_estimate import print_estimate

    print_estimate(model, gpus, memory, sequence_length=sequence_length, micro_batch_size=micro_batch_size)
