"""`aquila demo`: a small real model completes code and answers a question; then its speed and what to try."""

import statistics
import time
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from aquila.generate.load import Model

MODEL = "smollm2-135m"
PROMPTS = ("#补全代码\ndef quick_sort(x):", "def is_prime(n):")
QUESTION = "What is a prime number? Answer in one sentence."
NEXT_STEPS = """\
Try next:
  aquila generate --stream 'def fibonacci(n):'   continue a prompt, a file or stdin
  aquila chat                                    talk to the model; /help lists its commands
  aquila models                                  every model of the family, with sizes and licences
  aquila doctor                                  which of them fit into this machine
"""


def demo() -> None:
    """Pull a small model, complete code with it, chat once, and show the speed."""
    from aquila.zoo.pull import pull

    typer.echo(f"Model: {MODEL}: small and quick rather than clever; pulled once, then kept", err=True)
    pull(MODEL)
    started = time.perf_counter()
    import aquila

    model = aquila.load(MODEL)
    typer.echo(f"Loaded in {time.perf_counter() - started:.1f} s", err=True)
    speeds = [_complete(model, prompt) for prompt in PROMPTS]
    speeds.append(_chat(model))
    _summarise(speeds)


def _complete(model: "Model", prompt: str) -> float:
    """Streams one greedy completion behind its prompt; gives its tokens a second."""
    from aquila.generate.sampling import SamplingParams

    _rule("code completion")
    print(prompt, end="", flush=True)
    params = SamplingParams(temperature=0.0, max_new_tokens=96, stop=("\n\n", "\ndef ", "\nclass "))
    num_tokens, first = 0, time.perf_counter()
    for delta in model.stream(model.prompt_ids(prompt), params):
        if num_tokens == 0:
            first = time.perf_counter()
        num_tokens += len(delta.token_ids)
        print(delta.text, end="", flush=True)
    print()
    return (num_tokens - 1) / (time.perf_counter() - first) if num_tokens > 1 else 0.0


def _chat(model: "Model") -> float:
    """Streams the answer to one question; gives its tokens a second."""
    from aquila.chat.session import ChatSession
    from aquila.generate.sampling import SamplingParams

    _rule("chat")
    print(f"user: {QUESTION}\nassistant: ", end="", flush=True)
    session = ChatSession(model, params=SamplingParams(temperature=0.0, max_new_tokens=96))
    for text in session.send(QUESTION):
        print(text, end="", flush=True)
    print()
    return session.last_answer.tokens_per_second if session.last_answer else 0.0


def _summarise(speeds: list[float]) -> None:
    from aquila.config import format_size
    from aquila.machine import peak_memory_bytes

    _rule("how it went")
    peak = peak_memory_bytes()
    each = ", ".join(f"{speed:.1f}" for speed in speeds)
    print(f"{statistics.median(speeds):.1f} tokens/s (median of {each})")
    print(f"peak memory {format_size(peak) if peak else 'unknown'}\n")
    print(NEXT_STEPS, end="")


def _rule(title: str) -> None:
    print(f"\n--- {title} ---", flush=True)
