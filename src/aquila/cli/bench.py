"""`aquila bench serve`: how a server does under load."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from aquila.cli.traffic import Level, Target

app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure on this machine."""


@app.command()
def serve(
    target: Annotated[
        str, typer.Argument(metavar="URL|MODEL", help="An OpenAI-compatible server, or a model to serve meanwhile.")
    ],
    concurrency: Annotated[str, typer.Option(help="Streams at once, one level after the other.")] = "1,2,4,8,16",
    requests: Annotated[int, typer.Option(help="Requests of a level, for each of its streams.")] = 4,
    prompt_tokens: Annotated[int, typer.Option(help="Length of each prompt, about.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Length of each answer.")] = 64,
    prefix_tokens: Annotated[int, typer.Option(help="Beginning that prompts share in a last level; 0: none.")] = 1000,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Which model of the server.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="AQUILA_API_KEY", help="Key of the server.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG of the levels here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Sweep the number of streams: time to first token, time per token, tokens a second."""
    from contextlib import nullcontext

    from aquila.cli.served import served_model
    from aquila.cli.traffic import Target, first_model, measure_level
    from aquila.errors import ConfigError

    levels = _levels(concurrency)
    if min(requests, prompt_tokens, new_tokens) < 1:
        raise ConfigError("--requests, --prompt-tokens and --new-tokens are 1 or more")
    if prefix_tokens < 0:
        raise ConfigError(f"--prefix-tokens: must be 0 or more, got {prefix_tokens}")
    if plot is not None:
        _require_matplotlib()
    is_url = target.startswith(("http://", "https://"))
    if not is_url and re.fullmatch(r"[^/\s]+:\d+(/.*)?", target):
        raise ConfigError(f"{target!r} is no model; give a server's address as http://{target}")
    results: list[Level] = []
    with nullcontext(target) if is_url else served_model(target) as base_url:
        asked = Target(base_url, model or first_model(base_url, api_key), api_key)
        measure_level(asked, 1, num_requests=1, prompt_tokens=prompt_tokens, new_tokens=new_tokens, run="warm-up")
        for streams in levels:
            level = measure_level(
                asked,
                streams,
                num_requests=streams * requests,
                prompt_tokens=prompt_tokens,
                new_tokens=new_tokens,
            )
            results.append(level)
            if not as_json:
                _print_level(level, header=len(results) == 1)
        shared = _shared_prefix(asked, prefix_tokens, max(3, requests)) if prefix_tokens else []
    _report(results, shared, asked.model, prefix_tokens, as_json=as_json)
    if plot is not None:
        _plot(results, asked.model, plot)


def _shared_prefix(asked: "Target", prefix_tokens: int, num_requests: int) -> list[float]:
    """Empty where the server will not have such prompts: what was measured so far is not lost for it."""
    from aquila.cli.traffic import measure_shared_prefix
    from aquila.errors import GenerationError

    try:
        return measure_shared_prefix(asked, prefix_tokens=prefix_tokens, num_requests=num_requests)
    except GenerationError as error:
        print(f"not measured with a shared prefix (--prefix-tokens {prefix_tokens}): {error}", file=sys.stderr)
        return []


def _levels(text: str) -> list[int]:
    from aquila.errors import ConfigError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= 10_000 for word in words):
        raise ConfigError(f"--concurrency: {text!r} is no list of numbers of streams; write it as 1,4,16")
    return [int(word) for word in words]


def _print_level(level: "Level", *, header: bool) -> None:
    if header:
        print("streams   tokens/s   first token p50   p95 (ms)   per token p50   p95 (ms)   failed")
    first = f"{level.first_token_p50 * 1000:15.1f} {level.first_token_p95 * 1000:10.1f}"
    each = f"{level.per_token_p50 * 1000:15.2f} {level.per_token_p95 * 1000:10.2f}"
    print(f"{level.concurrency:7d} {level.tokens_per_second:10.1f} {first} {each} {level.num_failed:8d}", flush=True)


def _report(results: "list[Level]", shared: list[float], model: str, prefix_tokens: int, *, as_json: bool) -> None:
    import json
    import statistics

    middle = statistics.median(shared) if shared else None
    if as_json:
        document = {
            "model": model,
            "levels": [level.as_json() for level in results],
            "shared_prefix": None
            if middle is None
            else {"tokens": prefix_tokens, "num_requests": len(shared), "first_token_p50": round(middle, 5)},
        }
        print(json.dumps(document))
    elif middle is not None:
        print(f"with the same first {prefix_tokens} tokens: first token after {middle * 1000:.1f} ms")


def _require_matplotlib() -> None:
    from importlib.util import find_spec

    from aquila.errors import ConfigError

    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib; run `pip install matplotlib`, or leave --plot out")


def _plot(results: "list[Level]", model: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    from aquila.files import atomic_write

    figure = Figure(figsize=(9, 4), layout="constrained")
    rate, delay = figure.subplots(1, 2)
    streams = [level.concurrency for level in results]
    rate.plot(streams, [level.tokens_per_second for level in results], marker="o")
    rate.set(title=f"{model}: throughput", xlabel="streams", ylabel="tokens/s", ylim=(0, None))
    for name, label in (("first_token", "first token"), ("per_token", "each token")):
        for part, style in (("p50", "-"), ("p95", "--")):
            values = [getattr(level, f"{name}_{part}") * 1000 for level in results]
            delay.plot(streams, values, style, marker="o", label=f"{label}, {part}")
    delay.set(title="what a client waits for", xlabel="streams", ylabel="ms", yscale="log")
    delay.legend()
    for axes in (rate, delay):
        axes.set_xticks(streams)  # there is no half of a stream
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    print(f"plot: {path}", file=sys.stderr)
