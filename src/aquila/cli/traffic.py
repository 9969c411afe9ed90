"""Traffic for a server, and what it did with it: time to first token, time per token, tokens a second.

A level is a number of streams that are open at once, each with a prompt of its own; when one ends the next begins,
until all requests are done. Times are as a client sees them: from the request to the first text, and between pieces.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from aquila.chat.event_stream import Lines, event_data, key_header, refused, server_root, unreachable
from aquila.errors import AquilaError

_WORDS = """
the of and to in is that it for was on are as with they at be this from have or by one had not but what all were when we
there can an your which their said if do will each about how up out them then she many some so these would other into
has more her two like him see time could no make than first been its who now people my made over did down only way find
"""  # a token each in most vocabularies, so that prompts are about as long as asked for


@dataclass(frozen=True)
class Sample:
    """One request: seconds from its start to the first and the last text, and tokens."""

    first: float
    last: float
    num_tokens: int
    num_prompt_tokens: int

    @property
    def per_token(self) -> float:
        return (self.last - self.first) / (self.num_tokens - 1) if self.num_tokens > 1 else 0.0


@dataclass(frozen=True)
class Level:
    """What a server did with so many streams at once. Times in seconds, of the middle and of the slowest in twenty."""

    concurrency: int
    num_requests: int
    num_failed: int
    seconds: float
    tokens_per_second: float
    first_token_p50: float
    first_token_p95: float
    per_token_p50: float
    per_token_p95: float
    mean_prompt_tokens: float

    def as_json(self) -> dict[str, Any]:
        return {name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Target:
    """A server and how to ask it; `ignore_eos` has answers go on to their full length, where the server knows it."""

    base_url: str
    model: str
    api_key: str | None = None
    timeout_seconds: float = 600.0
    ignore_eos: bool = True

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(headers=key_header(self.api_key), timeout=self.timeout_seconds, limits=limits)


def first_model(base_url: str, api_key: str | None = None) -> str:
    """Name of the first model of a server. `GenerationError` when nobody answers."""
    url = f"{server_root(base_url)}/v1/models"
    headers = key_header(api_key)
    try:
        response = httpx.get(url, headers=headers, timeout=30)
    except httpx.HTTPError as error:
        raise unreachable(url, error) from error
    if response.status_code != 200:
        raise refused(url, response)
    return str(response.json()["data"][0]["id"])


def prompt(num_tokens: int, key: str) -> str:
    """Words, the same for the same key."""
    dice, words = random.Random(key), _WORDS.split()
    return " ".join(dice.choice(words) for _ in range(num_tokens))


def measure_level(
    target: Target, concurrency: int, *, num_requests: int, prompt_tokens: int, new_tokens: int, run: str = ""
) -> Level:
    """Keeps `concurrency` streams open until `num_requests` are done. `run` gives other prompts than another run's."""
    prompts = [prompt(prompt_tokens, f"{run}/{concurrency}/{place}") for place in range(num_requests)]
    started = time.perf_counter()
    samples, errors = asyncio.run(_all(target, prompts, concurrency, new_tokens))
    seconds = time.perf_counter() - started
    if not samples:
        raise errors[0]
    first, each = [s.first for s in samples], [s.per_token for s in samples]
    return Level(
        concurrency=concurrency,
        num_requests=num_requests,
        num_failed=len(errors),
        seconds=seconds,
        tokens_per_second=sum(sample.num_tokens for sample in samples) / seconds,
        first_token_p50=statistics.median(first),
        first_token_p95=_percentile(first, 0.95),
        per_token_p50=statistics.median(each),
        per_token_p95=_percentile(each, 0.95),
        mean_prompt_tokens=statistics.fmean(sample.num_prompt_tokens for sample in samples),
    )


def measure_shared_prefix(target: Target, *, prefix_tokens: int, num_requests: int, run: str = "") -> list[float]:
    """Seconds to the first token of requests whose prompts begin alike, one after the other, behind a first one."""
    prefix = prompt(prefix_tokens, f"{run}/prefix")
    prompts = [f"{prefix} {prompt(20, f'{run}/tail/{place}')}" for place in range(num_requests + 1)]
    samples, errors = asyncio.run(_all(target, prompts, 1, 2))
    if errors:
        raise errors[0]
    return [sample.first for sample in samples[1:]]


async def _all(
    target: Target, prompts: Sequence[str], concurrency: int, new_tokens: int
) -> tuple[list[Sample], list[AquilaError]]:
    waiting = list(reversed(prompts))
    samples: list[Sample] = []
    errors: list[AquilaError] = []

    async def stream(client: httpx.AsyncClient) -> None:
        while waiting:
            try:
                samples.append(await _one(client, target, waiting.pop(), new_tokens))
            except AquilaError as error:
                errors.append(error)

    async with target.client() as client:
        await asyncio.gather(*(stream(client) for _ in range(concurrency)))
    return samples, errors


async def _one(client: httpx.AsyncClient, target: Target, text: str, new_tokens: int) -> Sample:
    url = f"{server_root(target.base_url)}/v1/completions"
    body = {
        "model": target.model,
        "prompt": text,
        "max_tokens": new_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if target.ignore_eos:
        body["ignore_eos"] = True
    started = time.perf_counter()
    first, last, pieces = 0.0, 0.0, 0
    usage: dict[str, Any] = {}
    try:
        async with client.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                await response.aread()
                raise refused(url, response)
            lines = Lines()
            async for text in response.aiter_text():
                for event in filter(None, map(event_data, lines.feed(text))):
                    usage = event.get("usage") or usage
                    if any(choice.get("text") for choice in event.get("choices", ())):
                        last = time.perf_counter() - started
                        first, pieces = first or last, pieces + 1
    except httpx.HTTPError as error:
        raise unreachable(url, error) from error
    num_tokens = int(usage.get("completion_tokens") or pieces)
    return Sample(first, last, num_tokens, int(usage.get("prompt_tokens") or 0))


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
