"""`aquila serve`: a model behind an OpenAI-compatible API, and in the browser."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aquila.cli.tools import EditModel, ImageModel, McpConfig, tool_settings

if TYPE_CHECKING:
    from aquila.serve.server import Server
    from aquila.serve.settings import Settings

KEY_VARIABLE = "AQUILA_API_KEY"


def serve(
    model: Annotated[str | None, typer.Argument(help="Name from `aquila models`, or a checkpoint's path.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None, typer.Option(help="Key that clients must send; may be repeated. Others can see it in `ps`.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"Keys, one a line. Without any: the variable {KEY_VARIABLE}.")
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Completions that may wait; more get 429.")] = 256,
    max_sequences: Annotated[int, typer.Option(help="Completions that are computed at once.")] = 64,
    tools: Annotated[str | None, typer.Option(help="Tools that the web page may run, separated by commas.")] = None,
    image_model: ImageModel = None,
    edit_model: EditModel = None,
    mcp_config: McpConfig = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of web pages that may ask, or *; may be repeated.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Name that clients may call this server by, or *; may be repeated.")
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a LoRA adapter, served as the model NAME; may be repeated.")
    ] = None,
    served_name: Annotated[str | None, typer.Option(help="What clients call the model.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template by name, instead of the model's own.")] = None,
    max_context: Annotated[int | None, typer.Option(help="Positions to serve; the model's limit by default.")] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Bytes of the whole process, as 2GiB or 2<<30; the rest is read from disk.")
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="w4 or w8: 4 or 8 bits a weight, on a CPU.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps ...; an accelerator where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    lookup: Annotated[
        bool | None,
        typer.Option("--lookup/--no-lookup", help="Guess what the text said before; the answers are the same."),
    ] = None,
    read_timeout: Annotated[
        float, typer.Option(help="Seconds that a request's head may take to come, or its body to begin.")
    ] = 30.0,
    drain: Annotated[float, typer.Option(help="Seconds that answers may take to finish after SIGTERM.")] = 30.0,
    legacy_flagai: Annotated[
        bool, typer.Option("--legacy-flagai", help="Answer the routes of FlagAI's server too.")
    ] = False,
) -> None:
    """Serve a model: an OpenAI-compatible API, and a web page. Ctrl-C lets answers finish, twice ends at once."""
    try:
        from aquila.serve.run import Service, listen
    except ModuleNotFoundError as error:
        from aquila.errors import ConfigError

        raise ConfigError(f"serving needs {error.name}; run `pip install 'aquila-lm[serve]'`") from None
    from functools import partial

    from aquila.generate.load import load
    from aquila.serve.server import Server
    from aquila.serve.settings import Settings
    from aquila.tokenizer.templates import named_template

    settings = Settings(
        host=host,
        port=port,
        api_keys=_keys(api_key or [], api_key_file),
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        max_queue=max_queue,
        read_seconds=read_timeout,
        drain_seconds=drain,
        served_name=served_name,
        template=template,
        tools=tuple(name.strip() for name in (tools or "").split(",") if name.strip()),
        legacy_flagai=legacy_flagai,
    )
    if template is not None:
        named_template(template)  # a typo shows before the model is loaded
    _check_max_sequences(max_sequences)
    server = Server(settings)
    if settings.tools:
        from aquila.serve.tool_service import ToolService

        server.tools = ToolService(settings, tool_settings(image_model, edit_model, mcp_config))
    _allow_many_connections()
    sock = listen(host, port)
    load_model = partial(
        load,
        model,
        device=device,
        dtype=dtype,
        quantize=quantize,
        memory_limit=memory_limit,
        max_context=max_context,
        max_sequences=max_sequences,
        lookup=lookup,
        adapters=_adapters(adapter or []),
    )
    address = _address(host, sock.getsockname()[1])
    _warn_if_open(settings)
    service = Service(server, sock, load_model, on_ready=lambda: _print_ready(server, address))
    service.take_signals()
    print(f"loading {model or 'the default model'}; {address}/health says when it is ready", file=sys.stderr)
    try:
        raise typer.Exit(service.run_until_stopped())
    finally:
        if server.tools is not None:
            server.tools.close()


def _keys(given: list[str], file: Path | None) -> tuple[str, ...]:
    """Keys from the options, else from the environment."""
    from aquila.cli.text_input import decode_utf8
    from aquila.errors import ConfigError

    keys = list(given)
    if file is not None:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ConfigError(f"--api-key-file: {file} cannot be read: {error.strerror}") from None
        found = [line.strip() for line in decode_utf8(data, str(file)).splitlines()]
        found = [line for line in found if line and not line.startswith("#")]
        if not found:
            raise ConfigError(f"--api-key-file: {file} has no key; write one a line")
        keys += found
    if not keys and KEY_VARIABLE in os.environ:
        keys = [os.environ[KEY_VARIABLE]]
    return tuple(dict.fromkeys(keys))


def _adapters(given: list[str]) -> dict[str, str]:
    from aquila.errors import ConfigError

    found: dict[str, str] = {}
    for entry in given:
        name, separator, folder = entry.partition("=")
        if not (separator and name and folder):
            raise ConfigError(f"--adapter: {entry!r} is not NAME=FOLDER, as in mine=runs/lora/adapter")
        if name in found:
            raise ConfigError(f"--adapter: the name {name!r} is given twice; give every adapter a name of its own")
        found[name] = folder
    return found


def _check_max_sequences(count: int) -> None:
    from aquila.errors import ConfigError

    if not 1 <= count <= 4096:
        raise ConfigError(f"--max-sequences: {count} is not between 1 and 4096")


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _warn_if_open(settings: "Settings") -> None:
    if settings.loopback or settings.api_keys:
        return
    print(
        f"WARNING: anybody who can reach {settings.host} can use this server: it has no key.\n"
        "         Give it one with --api-key-file, or leave out --host to serve this machine only.",
        file=sys.stderr,
    )


def _print_ready(server: "Server", address: str) -> None:
    settings, model = server.settings, server.model
    key = "asked for" if settings.api_keys else "not asked for"
    names = ", ".join([server.model_name, *server.adapters])
    header = " -H 'authorization: Bearer KEY'" if settings.api_keys else ""
    body = f'{{"model":"{server.model_name}","messages":[{{"role":"user","content":"Hello!"}}]}}'
    print(
        f"ready    {address}\n"
        f"model    {names}; context {model.max_context} tokens; chat template {server.template.name}\n"
        f"key      {key}\n"
        f"try      curl {address}/v1/chat/completions{header} -H 'content-type: application/json' -d '{body}'\n"
        f"clients  base URL {address}/v1; Ctrl-C stops",
        file=sys.stderr,
        flush=True,
    )


def _allow_many_connections() -> None:
    """As many open files as the system lets this process have: a shell's 1024 are few for a server."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
