"""`aquila generate`: continue a prompt, a file or stdin."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from aquila.generate.load import Model
    from aquila.generate.request import Completion, Delta, Request


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue. Without it: --file, or what stdin holds.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name from `aquila models`, or a checkpoint's path.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from this file (UTF-8).")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest continuation, in tokens.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw among the k likeliest tokens; 0: all.")] = 30,
    top_p: Annotated[float, typer.Option(help="Draw among tokens that make up this probability.")] = 0.95,
    min_p: Annotated[float, typer.Option(help="Drop tokens less likely than this share of the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: avoid tokens seen before.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes the draw repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the continuation; may be repeated.")] = None,
    n: Annotated[int, typer.Option("--n", help="Continuations of the prompt.")] = 1,
    logprobs: Annotated[int | None, typer.Option(help="With --json: log-probabilities of so many tokens.")] = None,
    stream: Annotated[
        bool | None, typer.Option("--stream/--no-stream", help="Print as it comes; the default in a terminal.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON line a continuation, and one of statistics at the end.")
    ] = False,
    max_context: Annotated[int | None, typer.Option(help="Positions to serve; the model's limit by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps ...; an accelerator where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    quantize: Annotated[str | None, typer.Option(help="w4 or w8: 4 or 8 bits a weight, on a CPU.")] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Bytes of the whole process, as 2GiB or 2<<30; the rest is read from disk.")
    ] = None,
    kv_dtype: Annotated[
        str | None, typer.Option(help="f16 or i8: bits of keys and values, on a CPU; a memory limit may choose i8.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print how the memory limit is spent.")] = False,
    lookup: Annotated[
        bool | None,
        typer.Option("--lookup/--no-lookup", help="Guess what the text said before: fewer steps where it repeats."),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Folder of a LoRA adapter, as PEFT saves it, to continue with.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
) -> None:
    """Continue a text. The continuation goes to stdout, progress and tokens a second to stderr."""
    from aquila.errors import ConfigError
    from aquila.generate.sampling import SamplingParams

    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        seed=seed,
        stop=tuple(stop or ()),
        n=n,
        logprobs=logprobs,
    )
    if stream and (n > 1 or as_json):
        raise ConfigError("--stream prints one continuation as it comes; leave out --json and --n")
    if explain and memory_limit is None:
        raise ConfigError("--explain shows how a memory limit is spent; add --memory-limit, as in 2GiB")
    if logprobs is not None and not as_json:
        raise ConfigError("--logprobs has a place in JSON only; add --json")
    text = read_prompt(prompt, file)
    streaming = (sys.stdout.isatty() and n == 1 and not as_json) if stream is None else stream

    from aquila.generate.load import load
    from aquila.generate.request import Request

    started = time.perf_counter()
    loaded = load(
        model,
        device=device,
        dtype=dtype,
        quantize=quantize,
        memory_limit=memory_limit,
        max_context=max_context,
        kv_dtype=kv_dtype,
        lookup=lookup,
        adapters=None if adapter is None else {str(adapter): adapter},
    )
    if explain and loaded.plan is not None:
        print(loaded.plan.explain(), file=sys.stderr)
    if not quiet:
        print(f"loaded {loaded.name} in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    run = _Run(loaded, Request(tuple(loaded.prompt_ids(text)), params, None if adapter is None else str(adapter)))
    completions = run.finish(_write if streaming else None)
    if as_json:
        _print_json(completions, run)
    else:
        _print_text(completions, streaming=streaming)
    if not quiet:
        print(run.summary(), file=sys.stderr)


class _Run:
    """One request with its clock: first token, speed, tokens."""

    def __init__(self, model: "Model", request: "Request"):
        self.model = model
        self.request = request
        self.first_token_seconds = 0.0
        self.decode_seconds = 0.0
        self.num_tokens = 0

    def finish(self, on_text: Callable[[str], None] | None) -> "list[Completion]":
        """Runs the request to its end; `on_text` gets text as it comes."""
        from aquila.generate.request import assemble

        deltas: list[list[Delta]] = [[] for _ in range(self.request.params.n)]
        started = time.perf_counter()
        for delta in self.model.engine.stream(self.request):
            if not self.num_tokens:
                self.first_token_seconds = time.perf_counter() - started
            self.num_tokens += len(delta.token_ids)
            deltas[delta.index].append(delta)
            if on_text is not None:
                on_text(delta.text)
        self.decode_seconds = time.perf_counter() - started - self.first_token_seconds
        return [assemble(self.request, entry) for entry in deltas]

    @property
    def tokens_per_second(self) -> float:
        """Speed after the first token, which waits for the prompt."""
        return (self.num_tokens - 1) / self.decode_seconds if self.num_tokens > 1 else 0.0

    def stats(self) -> dict[str, Any]:
        from aquila.machine import peak_memory_bytes

        return {
            "model": self.model.name,
            "num_prompt_tokens": len(self.request.prompt_ids),
            "num_output_tokens": self.num_tokens,
            "tokens_per_second": round(self.tokens_per_second, 2),
            "time_to_first_token_seconds": round(self.first_token_seconds, 4),
            "num_drafted_tokens": self.model.engine.stats.num_drafted_tokens,
            "num_accepted_tokens": self.model.engine.stats.num_accepted_tokens,
            "peak_memory_bytes": peak_memory_bytes(),
            "plan": None if self.model.plan is None else self.model.plan.as_json(),
        }

    def summary(self) -> str:
        speed = f", then {self.tokens_per_second:.1f} tokens/s" if self.num_tokens > 1 else ""
        engine = self.model.engine.stats
        guesses = f"; {engine.num_accepted_tokens} of {engine.num_drafted_tokens} guesses right"
        return (
            f"{len(self.request.prompt_ids)} prompt tokens, {self.num_tokens} new; first after "
            f"{self.first_token_seconds:.2f} s{speed}{guesses if engine.num_drafted_tokens else ''}"
        )


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt from the argument, a file or stdin; `ConfigError` when it is empty, missing or not UTF-8."""
    from aquila.cli.text_input import decode_utf8
    from aquila.errors import ConfigError

    if prompt is not None and file is not None:
        raise ConfigError("a prompt and --file were both given; leave one out")
    if prompt is not None:
        text = decode_utf8(prompt.encode("utf-8", "surrogateescape"), "the prompt")
    elif file is not None:
        if file.is_dir() or not file.exists():  # a pipe such as <(git diff) is as good as a file
            raise ConfigError(f"--file: {file} is not a file; give the path of a text")
        text = decode_utf8(file.read_bytes(), str(file))
    elif sys.stdin.isatty():
        raise ConfigError("no prompt; give one, as in `aquila generate 'def is_prime(n):'`, or use --file or a pipe")
    else:
        text = decode_utf8(sys.stdin.buffer.read(), "standard input")
    if not text:
        raise ConfigError("the prompt is empty; give at least one character to continue")
    return text


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print_text(completions: "list[Completion]", *, streaming: bool) -> None:
    if streaming:
        print()
        return
    for completion in completions:
        if len(completions) > 1:
            print(f"--- {completion.index + 1} of {len(completions)} ---")
        print(completion.text)


def _print_json(completions: "list[Completion]", run: _Run) -> None:
    import json

    for completion in completions:
        line: dict[str, Any] = {
            "index": completion.index,
            "text": completion.text,
            "token_ids": completion.token_ids,
            "prompt_token_ids": completion.prompt_token_ids,
            "finish_reason": completion.finish_reason,
            "seed": completion.seed,
        }
        if completion.logprobs is not None:
            line["logprobs"] = [
                {"token_id": entry.token_id, "logprob": entry.logprob, "top": [list(pair) for pair in entry.top]}
                for entry in completion.logprobs
            ]
        print(json.dumps(line, ensure_ascii=False))
    print(json.dumps(run.stats()))
