"""Many clients with random requests, some of whom leave, for minutes; then: what is left in the server?

    python bench/soak.py [--minutes 30] [--quick] [--model PATH] [--adapter NAME=FOLDER] [--seed 0]

A real `aquila serve` with more clients than places, so that its queue is full all the time: completions and chats,
whole and streamed, several answers at once, stops, grammars, adapters, prompts that do not fit; a third of the clients
leave at a random moment. Three kinds of requests know their answer (a word that only one request allows, a prompt that
comes back, a text that was drawn before anybody else was there): another's text in it would show.

Sound means: every request was answered, refused with 429 or left by its client; no 5xx; nothing of one answer in
another; afterwards nothing runs or waits and every page is back; resident memory grew by less than 3 % from the end of
the warm-up (a quarter of the time) to the end. The exit code says whether. Without --model: two layers of random
weights.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import torch

import aquila
from aquila.checkpoint.checkpoint import Export
from aquila.checkpoint.native import write_native
from aquila.checkpoint.tensors import from_array
from aquila.model.config import ModelConfig
from aquila.model.transformer import Transformer
from aquila.tokenizer.train import train_tokenizer

NUM_CLIENTS = 32
MAX_SEQUENCES, MAX_QUEUE = 8, 8
CONTEXT = 4096
MEMORY_LIMIT = "1GiB"  # keys and values of one context then, so pages are short, and all are touched early
SAMPLE_SECONDS = 2
WARM_UP_SHARE = 0.25
GROWTH_LIMIT = 0.03
START_SECONDS = 180
QUIET_SECONDS = 30
PAGE = "".join(f"def add_{i}(a, b):\n    return a + b + {i}  # 第{i}行\n" for i in range(40))
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
READY = re.compile(r"ready +(http://\S+)")


@dataclass
class Tally:
    """What became of the requests, and what the server looked like meanwhile."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # answers that are another's, statuses that must not be
    rss: list[tuple[float, int]] = field(default_factory=list)  # seconds, bytes
    queue: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)  # share in use

    def complain(self, text: str) -> None:
        self.wrong.append(text)
        print(f"  WRONG: {text[:300]}", flush=True)


@dataclass(frozen=True)
class Ask:
    """A request, and what its answer has to be where that is known."""

    path: str
    body: dict[str, Any]
    kind: str
    answer: str | None = None  # the whole text of every choice
    begins: str | None = None  # how the text begins
    status: int = 200


def write_tiny(path: Path) -> Path:
    """A checkpoint of two layers with random weights, in a new folder."""
    tokenizer = train_tokenizer([PAGE], vocab_size=290)
    fields = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,  # wide: no two logits nearly tie
    }
    config = ModelConfig.model_validate(fields)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    tensors = {name: from_array(weight.detach().numpy()) for name, weight in model.named_parameters()}
    path.mkdir()
    write_native(Export(config, tensors, "fp32", tokenizer, {"name": "soak"}), path)
    return path


@contextmanager
def serving(model: Path, adapters: list[str], said: IO[str]) -> Generator[tuple[str, int]]:
    """The server's address and process id; it is asked to stop at the end, and has to."""
    command = [sys.executable, "-m", "aquila", "serve", str(model), "--port", "0", "--template", "aquila-chat"]
    command += ["--max-queue", str(MAX_QUEUE), "--max-sequences", str(MAX_SEQUENCES)]
    command += ["--memory-limit", MEMORY_LIMIT]
    for adapter in adapters:
        command += ["--adapter", adapter]
    process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        yield _address(process, said), process.pid
    finally:
        if process.poll() is not None:
            words = Path(said.name).read_text(encoding="utf-8")
            print(f"the server ended by itself, code {process.returncode}: {words[-3000:]}")
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], said: IO[str]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = READY.search(Path(said.name).read_text(encoding="utf-8"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f"the server did not come up: {Path(said.name).read_text(encoding='utf-8')[-1000:]}")


def resident_bytes(pid: int) -> int:
    """Physical memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the server is gone")


class Soak:
    """The clients.

    Args:
        url: of the server.
        models: names that it answers to.
        seed: of everything random.
    """

    def __init__(self, url: str, models: list[str], seed: int):
        self.tally = Tally()
        self._models = models
        self._random = random.Random(seed)
        self._known: dict[tuple[str, str], str] = {}  # (model, prompt) -> text at temperature 0, drawn alone
        self._count = 0
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=NUM_CLIENTS)
        self._client = httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False)

    async def run(self, seconds: float, pid: int) -> None:
        """Asks for `seconds`, then waits until the server has nothing to do."""
        async with self._client:
            await self._learn()
            started = time.monotonic()
            sampler = asyncio.ensure_future(self._sample(pid, started))
            await asyncio.gather(*(self._be_a_client(started + seconds) for _ in range(NUM_CLIENTS)))
            await self._until_quiet()
            sampler.cancel()
            self.tally.rss.append((time.monotonic() - started, resident_bytes(pid)))

    async def _learn(self) -> None:
        for model in self._models:
            for number in range(8):
                prompt = f"def add_{number}(a, b):"
                body = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0}
                found = await self._client.post("/v1/completions", json=body)
                self._known[model, prompt] = found.json()["choices"][0]["text"]

    async def _be_a_client(self, until: float) -> None:
        while time.monotonic() < until:
            ask = self._ask()
            patience = self._random.uniform(0, 0.6) if self._random.random() < 0.33 else None
            try:
                async with asyncio.timeout(patience):
                    outcome = await self._send(ask)
            except TimeoutError:
                outcome = "left"
            except (httpx.HTTPError, ValueError) as error:  # the latter: an event that was cut short
                outcome = "broken"
                self.tally.complain(f"{ask.kind}: {error!r}")
            self.tally.outcomes[outcome] += 1
            self.tally.outcomes[f"kind {ask.kind}"] += 1
            if outcome == "429":
                await asyncio.sleep(self._random.uniform(0, 0.2))

    async def _send(self, ask: Ask) -> str:
        if ask.body.get("stream"):
            async with self._client.stream("POST", ask.path, json=ask.body) as response:
                texts = await _read_stream(response) if response.status_code == 200 else {}
                status = response.status_code
        else:
            response = await self._client.post(ask.path, json=ask.body)
            status = response.status_code
            texts = _texts(response.json()) if status == 200 else {}
        if status == 429 and int(response.headers["retry-after"]) > 0:
            return "429"
        if status != ask.status:
            self.tally.complain(f"{ask.kind}: status {status}, not {ask.status}: {response.text[:200]}")
            return "wrong status"
        if status == 200:
            self._judge(ask, texts)
        return "answered" if status == 200 else "refused"

    def _judge(self, ask: Ask, texts: dict[int, str]) -> None:
        if len(texts) != (ask.body.get("n") or 1):
            self.tally.complain(f"{ask.kind}: {len(texts)} choices, not {ask.body.get('n') or 1}")
        for text in texts.values():
            if ask.answer is not None and text != ask.answer:
                self.tally.complain(f"{ask.kind}: {text!r} is not {ask.answer!r}")
            if ask.begins is not None and not text.startswith(ask.begins):
                self.tally.complain(f"{ask.kind}: {text!r} does not begin with {ask.begins!r}")

    def _ask(self) -> Ask:
        self._count += 1
        rng, own = self._random, f"own-{self._count}-{self._random.randrange(10**6)}"
        model = rng.choice(self._models)
        common = {"model": model, "stream": rng.random() < 0.5, "n": rng.choice((1, 1, 1, 2, 3))}
        free = {**common, "temperature": 1, "max_tokens": rng.choice((1, 4, 16, 60)), "seed": self._count}
        match rng.choice(("known", "echo", "choice", "chat", "stop", "schema", "long", "too long")):
            case "known":
                prompt = f"def add_{rng.randrange(8)}(a, b):"
                body = {**common, "prompt": prompt, "max_tokens": 24, "temperature": 0}
                return Ask("/v1/completions", body, "known", answer=self._known[model, prompt])
            case "echo":
                return Ask("/v1/completions", {**free, "prompt": own, "echo": True}, "echo", begins=own)
            case "choice":
                body = {**free, "prompt": "x", "guided_choice": [own], "max_tokens": 60}
                return Ask("/v1/completions", body, "choice", answer=own)
            case "stop":
                return Ask("/v1/completions", {**free, "prompt": own, "stop": ["a", "\n"]}, "stop")
            case "schema":
                wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
                messages = [{"role": "user", "content": own}]
                body = {**free, "messages": messages, "response_format": wanted}
                return Ask("/v1/chat/completions", body, "schema")
            case "long":
                prompt = PAGE[rng.randrange(200) :][: rng.randrange(100, 500)]
                return Ask("/v1/completions", {**free, "prompt": prompt, "max_tokens": 100}, "long")
            case "too long":
                return Ask("/v1/completions", {**free, "prompt": [7] * (CONTEXT + 1)}, "too long", status=400)
        messages = [{"role": "system", "content": PAGE[:200]}, {"role": "user", "content": own}]
        return Ask("/v1/chat/completions", {**free, "messages": messages}, "chat")

    async def _sample(self, pid: int, started: float) -> None:
        while True:
            figures = await self._figures()
            self.tally.rss.append((time.monotonic() - started, resident_bytes(pid)))
            self.tally.queue.append(figures["aquila_queue_depth"])
            self.tally.running.append(figures["aquila_running"])
            self.tally.pages.append(figures["aquila_kv_usage_ratio"])
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _figures(self) -> dict[str, float]:
        page = (await self._client.get("/metrics")).text
        rows = (line.split() for line in page.splitlines() if line and not line.startswith("#") and "{" not in line)
        return {name: float(value) for name, value in rows}

    async def _until_quiet(self) -> None:
        names = ("aquila_running", "aquila_queue_depth", "aquila_kv_usage_ratio")
        deadline, left = time.monotonic() + QUIET_SECONDS, {"not asked": 1.0}
        while left and time.monotonic() < deadline:
            figures = await self._figures()
            left = {name: figures[name] for name in names if figures[name]}
            await asyncio.sleep(0.1)
        if left:
            self.tally.complain(f"{QUIET_SECONDS} s after the last client the server still has {left}")


async def _read_stream(response: httpx.Response) -> dict[int, str]:
    texts: dict[int, str] = {}
    ended = False
    async for value in _events(response):
        if value is None:
            ended = True
            break
        if "error" in value:
            raise httpx.ReadError(f"the stream ended with {value['error']}")
        for choice in value["choices"]:
            text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            texts[choice["index"]] = texts.get(choice["index"], "") + text
    if not ended:
        raise httpx.ReadError("the stream ended without [DONE]")
    return texts


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any] | None]:
    """Events as JSON; None for `[DONE]`."""
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield None if data == "[DONE]" else json.loads(data)


def _texts(value: dict[str, Any]) -> dict[int, str]:
    return {
        each["index"]: each["text"] if "text" in each else each["message"]["content"] or "" for each in value["choices"]
    }


def growth(rss: list[tuple[float, int]], seconds: float) -> tuple[float, int, int]:
    """(share that it grew by, bytes after the warm-up, bytes at the end): medians of a tenth of the time each."""
    tenth = seconds / 10
    begin = seconds * WARM_UP_SHARE
    first = [size for at, size in rss if begin <= at < begin + tenth] or [rss[0][1]]
    last = [size for at, size in rss if at >= seconds - tenth]
    before, after = int(statistics.median(first)), int(statistics.median(last))
    return after / before - 1, before, after


def report(soak: Soak, seconds: float, seed: int) -> dict[str, Any]:
    """The figures, and whether they are sound."""
    tally = soak.tally
    grown, before, after = growth(tally.rss, seconds)
    outcomes = {name: count for name, count in sorted(tally.outcomes.items()) if not name.startswith("kind ")}
    kinds = {name.removeprefix("kind "): count for name, count in tally.outcomes.items() if name.startswith("kind ")}
    flat = grown < GROWTH_LIMIT
    return {
        "name": "soak",
        "aquila": aquila.__version__,
        "minutes": round(seconds / 60, 2),
        "seed": seed,
        "clients": NUM_CLIENTS,
        "requests": sum(outcomes.values()),
        "outcomes": outcomes,
        "kinds": kinds,
        "rss_bytes": {"after_warm_up": before, "end": after, "most": max(size for _, size in tally.rss)},
        "rss_mib": [round(size / 2**20, 1) for _, size in tally.rss[:: max(1, len(tally.rss) // 20)]],
        "rss_growth_percent": round(grown * 100, 2),
        "mean_running": round(statistics.fmean(tally.running), 2),
        "mean_queue": round(statistics.fmean(tally.queue), 2),
        "most_pages_share": round(max(tally.pages), 4),
        "wrong": tally.wrong[:20],
        "rss_flat": flat,
        "sound": flat and not tally.wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--quick", action="store_true", help="half a minute: too short to judge memory by")
    parser.add_argument("--model", type=Path, help=f"checkpoint with a context of {CONTEXT} tokens or less")
    parser.add_argument("--adapter", action="append", default=[], help="NAME=FOLDER, to be asked for too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seconds = 30.0 if options.quick else options.minutes * 60
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "said.txt"), "w+", encoding="utf-8") as said:
        model = options.model or write_tiny(Path(folder, "soak"))
        with serving(model, options.adapter, said) as (url, pid):
            models = [each["id"] for each in httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]]
            print(f"{url}, process {pid}, models {', '.join(models)}", flush=True)
            soak = Soak(url, models, options.seed)
            asyncio.run(soak.run(seconds, pid))
        words = Path(said.name).read_text(encoding="utf-8")
        if "Traceback" in words:
            soak.tally.complain(f"the server's log has a traceback: {words[words.index('Traceback') :][:3000]}")
    result = report(soak, seconds, options.seed)
    if options.quick:
        result["sound"] = not soak.tally.wrong
    for name in ("outcomes", "kinds", "rss_growth_percent", "mean_running", "mean_queue", "most_pages_share"):
        print(f"{name:20} {result[name]}")
    print(json.dumps(result))
    raise SystemExit(0 if result["sound"] else 1)


if __name__ == "__main__":
    main()
