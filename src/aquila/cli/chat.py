"""`aquila chat`: a conversation in the terminal, or one answer in a pipe."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquila.cli.tools import EditModel, ImageModel, McpConfig, Pictures, confirm_on_terminal, tool_settings

if TYPE_CHECKING:
    from aquila.chat.conversation import Conversation
    from aquila.chat.tools.registry import ToolSettings
    from aquila.cli.tool_talk import ToolTalk
    from aquila.generate.load import Model

DEFAULT_MAX_NEW_TOKENS = 1024  # clamped to the context; the engine's 200 cuts most answers


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(help="Answer this and leave. Without it: a conversation, or what stdin holds."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name from `aquila models`, or a checkpoint's path.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="Instruction before the conversation.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template by name, instead of the model's own.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest tokens; 0: all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among tokens that make up this probability.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="An answer's longest length, in tokens.")
    ] = DEFAULT_MAX_NEW_TOKENS,
    seed: Annotated[int | None, typer.Option(help="Makes answers repeatable.")] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Folder of a LoRA adapter, as PEFT saves it, to answer with.")
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="w4 or w8: 4 or 8 bits a weight, on a CPU.")] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Bytes of the whole process, as 2GiB or 2<<30; the rest is read from disk.")
    ] = None,
    tools: Annotated[str | None, typer.Option(help="Tools that the model may call, separated by commas.")] = None,
    image_model: ImageModel = None,
    edit_model: EditModel = None,
    mcp_config: McpConfig = None,
    pictures: Pictures = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Tools may use the network, write and run programs unasked.")
    ] = False,
    base_url: Annotated[
        str | None, typer.Option(envvar="AQUILA_BASE_URL", help="Talk to this OpenAI-compatible server instead.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="AQUILA_API_KEY", help="Key of the server.")] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing but the answer: no progress on stderr.")
    ] = False,
) -> None:
    """Chat with a model. In a pipe it answers once, as plain text: `echo question | aquila chat -q`."""
    from dataclasses import replace
    from functools import partial

    from aquila.chat.session import ChatSession
    from aquila.generate.sampling import SamplingParams

    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    params = replace(
        SamplingParams(max_new_tokens=max_new_tokens),
        **{name: value for name, value in drawing.items() if value is not None},
    )
    interactive = prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    message = None if interactive else _message(prompt)
    settings = tool_settings(image_model, edit_model, mcp_config)
    if tools is not None:
        from aquila.chat.tools.registry import check_names

        check_names(_names(tools), settings)  # a typo shows before the model is loaded
    run = partial(_run, message=message, tools=tools, settings=settings, pictures=pictures, yes=yes, quiet=quiet)
    if base_url is not None:
        _refuse_local(template=template, adapter=adapter, quantize=quantize, memory_limit=memory_limit)
        from aquila.chat.remote import RemoteSession

        remote = RemoteSession(base_url, api_key=api_key, model=model, system=system, params=params)
        run(remote)
        return
    loaded = _load(model, template=template, adapter=adapter, quantize=quantize, memory_limit=memory_limit, quiet=quiet)
    session = ChatSession(
        loaded, template=template, system=system, params=params, adapter=None if adapter is None else str(adapter)
    )
    run(session)


def _run(
    session: "Conversation[Any]",
    *,
    message: str | None,
    tools: str | None,
    settings: "ToolSettings",
    pictures: Path | None,
    yes: bool,
    quiet: bool,
) -> None:
    """A conversation, or one answer where there is a message."""
    names = _names(tools or "")
    if not names:
        _converse(session) if message is None else _answer(session, message, quiet=quiet)
        return
    from rich.console import Console

    from aquila.chat.tools.registry import ToolBox
    from aquila.cli.repl import system_language
    from aquila.cli.tool_talk import ToolTalk

    notices = Console(stderr=True, highlight=False, markup=False, quiet=quiet)
    with ToolBox(names, settings) as box:
        talk = ToolTalk(
            session,
            box.tools,
            confirm=confirm_on_terminal(yes=yes),
            show=notices.print,
            pictures=pictures,
            language=system_language(),
        )
        _converse(session, talk) if message is None else _answer(session, message, quiet=quiet, talk=talk)


def _names(tools: str) -> list[str]:
    return [name.strip() for name in tools.split(",") if name.strip()]


def _refuse_local(**options: object) -> None:
    """`ConfigError` where an option for a model of this process goes with a server."""
    from aquila.errors import ConfigError

    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')} is for a model of this process; leave it out with --base-url"
            )


def _message(prompt: str | None) -> str:
    """The prompt, or all of stdin as one message; both must be valid UTF-8."""
    from aquila.cli.text_input import decode_utf8
    from aquila.errors import ConfigError

    if prompt is None:
        data, where = sys.stdin.buffer.read(), "standard input"
    else:
        data, where = prompt.encode("utf-8", "surrogateescape"), "the prompt"
    text = decode_utf8(data, where)
    if not text.strip():
        raise ConfigError(f"{where} is empty; give a message, as in `echo question | aquila chat -q`")
    return text.rstrip("\r\n")


def _load(
    model: str | None,
    *,
    template: str | None,
    adapter: Path | None,
    quantize: str | None,
    memory_limit: str | None,
    quiet: bool,
) -> "Model":
    from aquila.generate.load import load
    from aquila.tokenizer.templates import named_template

    if template is not None:
        named_template(template)  # a typo shows before the model is loaded
    if not quiet:
        print(f"loading {model or 'the default model'} ...", file=sys.stderr)
    adapters = None if adapter is None else {str(adapter): adapter}
    return load(model, adapters=adapters, quantize=quantize, memory_limit=memory_limit)


def _answer(session: "Conversation[Any]", message: str, *, quiet: bool, talk: "ToolTalk | None" = None) -> None:
    last = ""
    for answer in (session.send(message),) if talk is None else talk.send(message):
        if last and not last.endswith("\n"):
            sys.stdout.write("\n")
        for text in answer:
            sys.stdout.write(text)
            sys.stdout.flush()
            last = text
    if not last.endswith("\n"):
        sys.stdout.write("\n")
    stats = session.last_answer
    if stats is not None and not quiet:
        print(f"{stats.new_tokens} tokens, {stats.tokens_per_second:.1f} tokens/s", file=sys.stderr)


def _converse(session: "Conversation[Any]", talk: "ToolTalk | None" = None) -> None:
    from rich.console import Console

    from aquila.cli.repl import Repl, system_language
    from aquila.cli.repl_prompt import terminal_reader
    from aquila.files import cache_dir

    repl = Repl(session, Console(highlight=False), language=system_language(), tools=talk)
    repl.run(terminal_reader(cache_dir() / "chat_history", toolbar=repl.toolbar))
