"""The commands, put together. They import what they need when they run, so that `aquila --help` stays instant."""

from typing import Annotated

import typer

from aquila import __version__
from aquila.cli import (
    bench,
    chat,
    complete,
    convert,
    data,
    demo,
    doctor,
    eval,
    generate,
    launch,
    lora,
    lsp,
    models,
    quantise,
    sandbox,
    serve,
    tokenizer,
    tools,
    train,
)

app = typer.Typer(
    name="aquila",
    help="A bilingual (Chinese / English) code language model, from corpus to editor.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate.generate)
app.command()(chat.chat)
app.command()(complete.complete)
app.command()(lsp.lsp)
app.command()(serve.serve)
app.add_typer(models.app, name="models")
app.command()(models.pull)
app.command()(models.verify)
app.command()(convert.convert)
app.command()(quantise.quantise)
app.command("quantize", hidden=True)(quantise.quantise)
app.add_typer(lora.app, name="lora")
app.add_typer(train.app, name="train")
app.command()(launch.launch)
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(data.app, name="data")
app.add_typer(eval.app, name="eval")
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(bench.app, name="bench")
app.add_typer(tools.app, name="tools")
app.command()(doctor.doctor)
app.command()(demo.demo)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"aquila {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show the traceback of an error.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines on stderr as JSON.")] = False,
) -> None:
    from aquila.log import setup_logging

    setup_logging("debug" if debug else "info", json=log_json)


def command_names() -> tuple[str, ...]:
    """Every command as it is typed, such as `models info`."""
    names = _names(app)
    for group in app.registered_groups:
        assert group.typer_instance is not None, "every group of ours is an app"
        names += [str(group.name), *(f"{group.name} {name}" for name in _names(group.typer_instance))]
    return tuple(names)


def _names(group: typer.Typer) -> list[str]:
    return [c.name or getattr(c.callback, "__name__") for c in group.registered_commands]  # noqa: B009  a function's
