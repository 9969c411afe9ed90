"""`aquila tokenizer`: train a vocabulary, turn text into ids and back, measure how tightly it packs text."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from aquila.tokenizer.tokenizer import Tokenizer

DEFAULT_MODEL = "smollm2-135m"

app = typer.Typer(help="Train, apply and measure tokenizers.", no_args_is_help=True)

TokenizerOption = Annotated[
    str,
    typer.Option("--tokenizer", metavar="PATH_OR_MODEL", help="A folder, tokenizer.json, checkpoint or model name."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def train(
    files: Annotated[list[Path], typer.Argument(help="UTF-8 text files, or .jsonl with a text in each line.")],
    vocab_size: Annotated[int, typer.Option(help="Number of ids, special tokens included.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    min_frequency: Annotated[int, typer.Option(min=1, help="Do not merge pairs seen less often.")] = 2,
) -> None:
    """Train a byte-level BPE tokenizer. The same files always give the same tokenizer."""
    from aquila.tokenizer.train import read_texts, train_tokenizer

    tokenizer = train_tokenizer(
        read_texts(files), vocab_size=vocab_size, min_frequency=min_frequency, progress=sys.stderr.isatty()
    )
    tokenizer.save(out)
    print(f"{out}: {tokenizer.vocab_size} ids, {len(tokenizer.special_ids)} of them special tokens")


@app.command()
def encode(
    tokenizer: TokenizerOption = DEFAULT_MODEL,
    as_json: JsonOption = False,
    allow_special: Annotated[
        bool, typer.Option("--allow-special", help="Read the texts of special tokens as those tokens.")
    ] = False,
) -> None:
    """Token ids of the text on standard input."""
    text = _read_stdin()
    token_ids = open_tokenizer(tokenizer).encode(text, allow_special=allow_special)
    print(json.dumps({"token_ids": token_ids}) if as_json else " ".join(map(str, token_ids)))


@app.command()
def decode(
    tokenizer: TokenizerOption = DEFAULT_MODEL,
    as_json: JsonOption = False,
    keep_special: Annotated[
        bool, typer.Option("--keep-special", help="Write special tokens out instead of leaving them out.")
    ] = False,
) -> None:
    """Text of the token ids on standard input: numbers, a JSON list, or what `encode --json` prints."""
    token_ids = _parse_ids(_read_stdin())
    chosen = open_tokenizer(tokenizer)
    _check_range(token_ids, chosen)
    text = chosen.decode(token_ids, skip_special=not keep_special)
    if as_json:
        print(json.dumps({"text": text}, ensure_ascii=False))
    else:
        sys.stdout.write(text)  # exactly the text: no newline of ours


@app.command()
def stats(
    files: Annotated[list[Path] | None, typer.Argument(help="Text files; built-in samples if none.")] = None,
    tokenizer: TokenizerOption = DEFAULT_MODEL,
    as_json: JsonOption = False,
) -> None:
    """Bytes of text per token, for Chinese, English and code, or for your own files. More is tighter."""
    from aquila.tokenizer.samples import SAMPLES
    from aquila.tokenizer.train import read_texts

    chosen = open_tokenizer(tokenizer)
    if files:
        rows = [_measure(str(path), read_texts([path]), chosen) for path in files]
    else:
        rows = [_measure(name, [text], chosen) for name, text in SAMPLES.items()]
    if as_json:
        print(json.dumps({"vocab_size": chosen.vocab_size, "texts": rows}, ensure_ascii=False))
        return
    width = max(len(row["name"]) for row in rows)
    print(f"{'':{width}}  {'bytes':>10}  {'tokens':>10}  bytes/token")
    for row in rows:
        print(f"{row['name']:{width}}  {row['bytes']:>10}  {row['tokens']:>10}  {row['bytes_per_token']:>11.2f}")


def open_tokenizer(source: str) -> "Tokenizer":
    """The tokenizer of a local file or folder, else of a model that was pulled."""
    from aquila.tokenizer.load import has_tokenizer_files, load_tokenizer
    from aquila.zoo.pull import resolve

    path = resolve(source)
    if path.suffix == ".gguf" or (not has_tokenizer_files(path) and any(path.glob("*.gguf"))):
        from aquila.checkpoint.open import open_checkpoint

        return open_checkpoint(path).load_tokenizer()
    return load_tokenizer(path)


def _measure(name: str, pieces: Iterable[str], tokenizer: "Tokenizer") -> dict:
    num_bytes = num_tokens = 0
    for piece in pieces:
        num_bytes += len(piece.encode())
        num_tokens += len(tokenizer.encode(piece))
    ratio = round(num_bytes / num_tokens, 4) if num_tokens else 0.0
    return {"name": name, "bytes": num_bytes, "tokens": num_tokens, "bytes_per_token": ratio}


def _read_stdin() -> str:
    from aquila.cli.text_input import decode_utf8

    return decode_utf8(sys.stdin.buffer.read(), "standard input")


def _parse_ids(text: str) -> list[int]:
    from aquila.errors import ConfigError

    words: list = text.replace(",", " ").split()
    if text.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:  # the latter from lists in lists in lists
            raise ConfigError(f"standard input is not valid JSON: {error}; give token ids") from error
        words = value.get("token_ids") if isinstance(value, dict) else value
        if not isinstance(words, list):
            raise ConfigError('standard input has no token_ids; give a list, or {"token_ids": [...]}')
    wrong = next((word for word in words if not str(word).isdecimal()), None)
    if wrong is not None:
        raise ConfigError(f"standard input: {wrong!r} is not a token id; give whole numbers")
    return [int(word) for word in words]


def _check_range(token_ids: list[int], tokenizer: "Tokenizer") -> None:
    from aquila.errors import ConfigError

    wrong = next((token_id for token_id in token_ids if not 0 <= token_id < tokenizer.vocab_size), None)
    if wrong is not None:
        raise ConfigError(
            f"standard input: token id {wrong} is not in the vocabulary; its ids are 0 to {tokenizer.vocab_size - 1}"
        )
