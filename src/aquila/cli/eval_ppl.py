"""`aquila eval ppl`: how well a model predicts texts."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquila.cli.eval_model import DeviceOption, DtypeOption, ModelOption

if TYPE_CHECKING:
    from rich.progress import Progress

    from aquila.evaluate.perplexity import Score
    from aquila.generate.load import Model


def ppl(
    files: Annotated[
        list[Path], typer.Argument(help="Text files (UTF-8); folders, whose files are put together by language.")
    ],
    model: ModelOption = None,
    window: Annotated[int | None, typer.Option(help="Positions read together; the model's context by default.")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens from one window to the next; half a window.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Only the first so many tokens of each file.")] = None,
    text_key: Annotated[str, typer.Option(help="Of .jsonl in a folder: the field with the text.")] = "text",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line a file or language, and one in all.")] = False,
) -> None:
    """Bits per byte and perplexity of text files. Bits per byte compares models with different vocabularies."""
    from rich.console import Console
    from rich.progress import Progress

    from aquila.cli.text_input import decode_utf8
    from aquila.evaluate.perplexity import Score
    from aquila.generate.load import load

    texts = {file: decode_utf8(file.read_bytes(), str(file)) for file in files if not file.is_dir()}
    loaded = load(model, device=device, dtype=dtype, max_context=window)
    options = {"window": window, "stride": stride, "max_tokens": max_tokens}
    console = Console(stderr=True)
    total, num_lines = Score(0, 0, 0.0), 0
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for file in files:
            if file.is_dir():
                for language, count, score in _score_tree(loaded, file, text_key, options, bar):
                    total, num_lines = total + score, num_lines + 1
                    _print({"file": str(file), "language": language, "num_files": count}, score, as_json=as_json)
            else:
                score = _score(loaded, file.name, texts[file], options, bar)
                total, num_lines = total + score, num_lines + 1
                _print({"file": str(file)}, score, as_json=as_json)
    if num_lines > 1:
        _print({"file": "total"}, total, as_json=as_json)


def _score_tree(
    model: "Model", folder: Path, text_key: str, options: dict[str, Any], bar: "Progress"
) -> "list[tuple[str, int, Score]]":
    """Language, texts and score; the most bytes first. What cannot be scored is counted on stderr."""
    from aquila.errors import EvaluationError
    from aquila.evaluate.perplexity import Score, can_score
    from aquila.evaluate.text_tree import TreeText, read_tree

    found: dict[str, tuple[int, Score]] = {}
    skipped: dict[str, int] = {}
    for each in read_tree(folder, text_key=text_key):
        if not isinstance(each, TreeText) or not can_score(model.tokenizer, each.text):
            reason = "a single token" if isinstance(each, TreeText) else each.reason
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        count, score = found.get(each.language, (0, Score(0, 0, 0.0)))
        found[each.language] = count + 1, score + _score(model, each.name, each.text, options, bar)
    for reason, count in skipped.items():
        print(f"{folder}: {count} skipped: {reason}", file=sys.stderr)
    if not found:
        raise EvaluationError(f"{folder}: holds no text that can be scored; give a folder of source files or prose")
    listed = [(language, count, score) for language, (count, score) in found.items()]
    return sorted(listed, key=lambda entry: (-entry[2].num_bytes, entry[0]))


def _score(model: "Model", name: str, text: str, options: dict[str, Any], bar: "Progress") -> "Score":
    from aquila.evaluate.perplexity import score_text

    task = bar.add_task(name, total=None)
    try:
        return score_text(
            model.engine.runner,
            model.tokenizer,
            text,
            **options,
            progress=lambda done, count: bar.update(task, completed=done, total=count),
        )
    finally:
        bar.remove_task(task)


def _print(names: dict[str, Any], score: "Score", *, as_json: bool) -> None:
    if as_json:
        counts = {"num_bytes": score.num_bytes, "num_tokens": score.num_tokens}
        figures = {"bits_per_byte": score.bits_per_byte, "perplexity": score.perplexity}
        print(json.dumps(names | counts | figures, ensure_ascii=False))
    else:
        name = f"{names['language']} ({names['num_files']} texts)" if "language" in names else names["file"]
        figures = f"{score.bits_per_byte:.4f} bits per byte, perplexity {score.perplexity:.3f}"
        print(f"{name}: {figures} ({score.num_tokens:,} tokens, {score.num_bytes:,} bytes)")
    sys.stdout.flush()
