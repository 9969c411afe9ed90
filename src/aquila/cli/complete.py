"""`aquila complete FILE:LINE:COL`: what belongs at a place in a file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from aquila.cli.completer import Completer, Cursor


def complete(
    place: Annotated[
        str,
        typer.Argument(
            metavar="FILE:LINE[:COL]", help="Where: line and column count from 1; without a column, the line's end."
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name from `aquila models`, or a checkpoint's path.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(envvar="AQUILA_BASE_URL", help="Ask this server instead of loading a model.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="AQUILA_API_KEY", help="Key of the server.")] = None,
    extra: Annotated[
        list[Path] | None,
        typer.Option("--extra", help="Another file for context; may be repeated, the last counts most."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest insertion, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Makes the draw repeatable.")] = None,
    single_line: Annotated[bool, typer.Option("--single-line", help="End with the first line.")] = False,
    as_diff: Annotated[
        bool, typer.Option("--diff", help="Print a unified diff, for `patch -p1` or `git apply`.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line with the insertion and its place.")
    ] = False,
    quantize: Annotated[str | None, typer.Option(help="w4 or w8: 4 or 8 bits a weight, on a CPU.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
) -> None:
    """Complete a file at a place. The insertion goes to stdout; the file stays as it is."""
    from aquila.cli.completer import Settings, never
    from aquila.errors import ConfigError

    if as_diff and as_json:
        raise ConfigError("--diff and --json were both given; leave one out")
    path, line, column = parse_place(place)
    text = _read(path)
    cursor = cursor_at(text, line, column, path, [(str(file), _read(file)) for file in extra or ()])
    settings = Settings(max_new_tokens, temperature, seed, single_line)
    settings.params()  # a number out of its range shows before a model is loaded or a server asked
    completer = choose_completer(model, base_url=base_url, api_key=api_key, quantize=quantize, quiet=quiet)
    insertion = completer.complete(cursor, settings, never)
    assert insertion is not None, "nobody cancelled it"
    column = len(cursor.line) + 1
    if as_json:
        import json

        print(json.dumps({"file": str(path), "line": line, "column": column} | insertion.as_json(), ensure_ascii=False))
    elif as_diff:
        sys.stdout.write(_diff(path, text, cursor, insertion.text))
    else:
        print(insertion.text)
    if not quiet:
        rate = f"{insertion.num_prompt_tokens} prompt tokens, {insertion.num_new_tokens} new"
        print(f"{insertion.model}: {rate} in {insertion.seconds:.2f} s", file=sys.stderr)


def choose_completer(
    model: str | None, *, base_url: str | None, api_key: str | None, quantize: str | None = None, quiet: bool = False
) -> "Completer":
    """A server's, where an address is given, else a model's that is loaded now."""
    from aquila.cli.completer import LocalCompleter, RemoteCompleter

    check_server(base_url, api_key, quantize)
    if base_url is not None:
        return RemoteCompleter(base_url, api_key, model)
    from aquila.generate.load import load

    if not quiet:
        print(f"loading {model or 'the default model'} ...", file=sys.stderr)
    return LocalCompleter(load(model, quantize=quantize))


def check_server(base_url: str | None, api_key: str | None, quantize: str | None) -> None:
    """`ConfigError` for an address or a key that is none, and for an option that a server's model does not take."""
    from aquila.chat.event_stream import key_header, server_root
    from aquila.errors import ConfigError

    if base_url is None:
        return
    server_root(base_url)
    key_header(api_key)
    if quantize is not None:
        raise ConfigError("--quantize is for a model of this process; leave it out with --base-url")


def parse_place(place: str) -> tuple[Path, int, int | None]:
    """File, line and column of `FILE:LINE[:COL]`; a file's name may have colons of its own."""
    from aquila.errors import ConfigError

    numbers: list[int] = []
    rest = place
    while len(numbers) < 2:
        head, colon, tail = rest.rpartition(":")
        if not (colon and head and tail.isascii() and tail.isdigit()):
            break
        numbers.insert(0, int(tail))
        rest = head
    if not numbers or 0 in numbers:
        raise ConfigError(f"{place!r} is no place in a file; give FILE:LINE or FILE:LINE:COL, counted from 1")
    return Path(rest), numbers[0], numbers[1] if len(numbers) == 2 else None


def cursor_at(text: str, line: int, column: int | None, path: Path, extra: list[tuple[str, str]]) -> "Cursor":
    """The text around a place. `ConfigError` when there is no such line or column."""
    from aquila.cli.completer import Cursor
    from aquila.errors import ConfigError

    lines = text.split("\n")
    if line > len(lines):
        raise ConfigError(f"{path}:{line}: the file has {len(lines)} lines; give one of them")
    content = lines[line - 1]
    column = len(content.removesuffix("\r")) + 1 if column is None else column
    if column > len(content) + 1:
        raise ConfigError(
            f"{path}:{line}:{column}: the line has {len(content)} characters; give 1 to {len(content) + 1}"
        )
    start = sum(len(each) + 1 for each in lines[: line - 1])
    cut = start + column - 1
    return Cursor(text[:start], text[start:cut], text[cut:], str(path), extra)


def _read(path: Path) -> str:
    from aquila.cli.text_input import decode_utf8
    from aquila.errors import ConfigError

    if not path.is_file():
        raise ConfigError(f"{path} is not a file; give the path of a text")
    return decode_utf8(path.read_bytes(), str(path))


def _diff(path: Path, text: str, cursor: "Cursor", insertion: str) -> str:
    import difflib

    new = cursor.prefix + cursor.line + insertion + cursor.suffix
    name = path.as_posix().lstrip("/")
    lines = difflib.unified_diff(_lines(text), _lines(new), f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Lines as diff and patch count them: `splitlines` would also cut at form feeds."""
    return [line + "\n" for line in text.split("\n")[:-1]] + (
        [text.rpartition("\n")[2]] if text[-1:] not in ("", "\n") else []
    )
