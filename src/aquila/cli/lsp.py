"""`aquila lsp`: inline completion for any editor that speaks the Language Server Protocol."""

import sys
from typing import Annotated

import typer


def lsp(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name from `aquila models`, or a checkpoint's path.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(envvar="AQUILA_BASE_URL", help="Ask this server instead of loading a model.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="AQUILA_API_KEY", help="Key of the server.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest completion, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    single_line: Annotated[bool, typer.Option("--single-line", help="End with the first line.")] = False,
    quantize: Annotated[str | None, typer.Option(help="w4 or w8: 4 or 8 bits a weight, on a CPU.")] = None,
    stdio: Annotated[bool, typer.Option("--stdio", help="What editors add; there is no other way.")] = True,
) -> None:
    """Language server on stdin and stdout: textDocument/inlineCompletion. The model is loaded when first asked."""
    from aquila.cli.complete import check_server, choose_completer
    from aquila.cli.completer import Completer, Settings
    from aquila.cli.lsp_server import LanguageServer

    settings = Settings(max_new_tokens, temperature, None, single_line)
    settings.params()  # an editor shows what is wrong at the start, and not at each request
    check_server(base_url, api_key, quantize)

    def make_completer() -> Completer:
        return choose_completer(model, base_url=base_url, api_key=api_key, quantize=quantize)

    server = LanguageServer(sys.stdin.buffer, sys.stdout.buffer, make_completer, settings)
    raise typer.Exit(server.run())
