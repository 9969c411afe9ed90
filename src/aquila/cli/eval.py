"""`aquila eval`: how good a model is."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aquila.cli import eval_judge

if TYPE_CHECKING:
    from aquila.evaluate.perplexity import Score

app = typer.Typer(help="Measure how good a model is.", no_args_is_help=True)
app.command()(eval_judge.judge)
app.command()(eval_judge.selftest)
app.command()(eval_judge.add)


@app.command()
def ppl(
    files: Annotated[list[Path], typer.Argument(help="Text files (UTF-8).")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name from `aquila models`, or a checkpoint's path.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Positions read together; the model's context by default.")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens from one window to the next; half a window.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Only the first so many tokens of each file.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps ...; an accelerator where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line a file, and one of the total.")] = False,
) -> None:
    """Bits per byte and perplexity of text files. Bits per byte compares models with different vocabularies."""
    from rich.console import Console
    from rich.progress import Progress

    from aquila.cli.text_input import decode_utf8
    from aquila.evaluate.perplexity import Score, score_text
    from aquila.generate.load import load

    texts = {file: decode_utf8(file.read_bytes(), str(file)) for file in files}
    loaded = load(model, device=device, dtype=dtype, max_context=window)
    console = Console(stderr=True)
    total = Score(0, 0, 0.0)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for file, text in texts.items():
            task = bar.add_task(file.name, total=None)
            score = score_text(
                loaded.engine.runner,
                loaded.tokenizer,
                text,
                window=window,
                stride=stride,
                max_tokens=max_tokens,
                progress=lambda done, count, task=task: bar.update(task, completed=done, total=count),
            )
            bar.remove_task(task)
            total += score
            _print(str(file), score, as_json=as_json)
    if len(files) > 1:
        _print("total", total, as_json=as_json)


def _print(name: str, score: "Score", *, as_json: bool) -> None:
    if as_json:
        counts = {"file": name, "num_bytes": score.num_bytes, "num_tokens": score.num_tokens}
        figures = {"bits_per_byte": score.bits_per_byte, "perplexity": score.perplexity}
        print(json.dumps(counts | figures, ensure_ascii=False))
    else:
        figures = f"{score.bits_per_byte:.4f} bits per byte, perplexity {score.perplexity:.3f}"
        print(f"{name}: {figures} ({score.num_tokens:,} tokens, {score.num_bytes:,} bytes)")
    sys.stdout.flush()
