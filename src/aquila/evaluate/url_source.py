"""Answers from a server that speaks OpenAI's protocol: `/v1/completions` for texts, `/v1/chat/completions` for
conversations.

Several requests run at once. One that fails is tried again, after a while that grows. When a request has failed too
often the run ends with what was finished; the same command goes on from there.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.sampling import Answer, Prompt, Scored, Settings
from aquila.zoo.download import Retry

MAX_STOPS = 4  # what OpenAI's servers take; the others are cut off here
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MAX_TIMEOUTS = 2  # a server that says nothing for so long is rarely about to
T = TypeVar("T")
R = TypeVar("R")
_ROUTES = ("/chat/completions", "/completions")


class _AgainError(Exception):
    """The request may be tried again."""

    def __init__(self, reason: str, *, retry_after: float | None = None, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.timed_out = timed_out


class UrlSource:
    """Asks a server.

    Args:
        base_url: `http://host:port`, with or without `/v1`.
        api_key: sent as a bearer token; never recorded.
        model: as the server calls it; the first one it lists when not given.
        num_concurrent: requests at once.
        retry: how often and after how long.
        timeout_seconds: for one answer.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        num_concurrent: int = 8,
        retry: Retry | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        self.base_url = _api_root(base_url)
        self._retry = retry or Retry()
        self._num_concurrent = num_concurrent
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=min(30.0, timeout_seconds)),
            limits=httpx.Limits(max_connections=num_concurrent),
        )
        self._stop = threading.Event()
        self._name = model

    @property
    def name(self) -> str:
        if self._name is None:
            listed = self._ask("GET", f"{self.base_url}/models", None, lambda reply: [m["id"] for m in reply["data"]])
            if not listed:
                raise EvaluationError(f"{self.base_url}/models lists no model; say which one by --url-model")
            self._name = str(listed[0])
        return self._name

    def facts(self) -> dict[str, Any]:
        """See `Source.facts`."""
        facts = {"name": self.name, "source": "url", "digest": None, "training": None, "quantisation": None}
        return facts | {"url": self.base_url}

    def close(self) -> None:
        self._stop.set()
        self._client.close()

    def sample(self, prompts: Sequence[Prompt], settings: Settings) -> Iterator[Answer]:
        """See `Source.sample`."""
        name = self.name

        def answer(prompt: Prompt) -> Answer:
            return self._answer(name, prompt, settings)

        yield from self._parallel(answer, prompts)

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        """See `Source.loglikelihood`. The server has to know `echo`, `logprobs`, prompts of tokens and `/tokenize`."""
        name = self.name
        tokens = cache(lambda text: self._tokens(name, text))  # the same context comes with each of its continuations

        def score(place: int) -> tuple[int, Scored]:
            return place, self._score(name, tokens, *pairs[place])

        found = dict(self._parallel(score, range(len(pairs))))
        return [found[place] for place in range(len(pairs))]

    def _parallel(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        return _in_threads(work, items, min(self._num_concurrent, len(items)), self._stop)

    def _answer(self, name: str, prompt: Prompt, settings: Settings) -> Answer:
        body: dict[str, Any] = {
            "model": name,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": prompt.seed,
        }
        if settings.stop:
            body["stop"] = list(settings.stop[:MAX_STOPS])
        if settings.top_k:
            body["top_k"] = settings.top_k  # no field of OpenAI's; vLLM, llama.cpp and we know it
        if prompt.messages is not None:
            route = "/chat/completions"
            body["messages"] = [{"role": each.role, "content": each.content} for each in prompt.messages]
        else:
            route = "/completions"
            body |= {"prompt": prompt.text} | ({"suffix": prompt.suffix} if prompt.suffix is not None else {})
        started = time.monotonic()
        text, reason, num_tokens = self._ask("POST", self.base_url + route, body, _read_answer)
        text, cut = _cut(text, settings.stop)
        seconds = round(time.monotonic() - started, 4)
        return Answer(prompt.key, text, "stop" if cut else reason, num_tokens, seconds)

    def _score(
        self, name: str, tokens: Callable[[str], tuple[list[int], int | None]], context: str, continuation: str
    ) -> Scored:
        (whole, limit), (alone, _) = tokens(context + continuation), tokens(context.rstrip())
        num_wanted = len(whole) - len(alone)
        if not alone or num_wanted <= 0:
            raise EvaluationError("a context and a continuation need at least one token each")
        room = len(whole) if limit is None else limit - 1  # a server wants room for one more
        cut, whole = len(whole) > room, whole[-room:]
        body = {"model": name, "prompt": whole, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        logprobs, top = self._ask("POST", f"{self.base_url}/completions", body, _read_logprobs)
        if len(logprobs) != len(whole):
            raise EvaluationError(
                f"{self.base_url}/completions gives log-probabilities of {len(logprobs)} tokens where the prompt has "
                f"{len(whole)}; it does not know `echo`, so it cannot score"
            )
        start = max(0, len(logprobs) - 1 - num_wanted)  # the last one is of the token that was generated
        values = logprobs[start:-1]
        greedy = all(max(best.values()) <= value for best, value in zip(top[start:-1], values, strict=True))
        return Scored(float(sum(values)), greedy, cut)

    def _tokens(self, name: str, text: str) -> tuple[list[int], int | None]:
        """The tokens of a prompt, and how many the context has room for, where the server says so."""
        url = f"{self.base_url.removesuffix('/v1')}/tokenize"
        body = {"model": name, "prompt": text, "add_special_tokens": True}
        return self._ask("POST", url, body, _read_tokens)

    def _ask(self, method: str, url: str, body: dict[str, Any] | None, read: Callable[[Any], R]) -> R:
        """The answer of a server to one request, tried again while there is hope."""
        num_timeouts = 0
        for failures in range(1, self._retry.attempts + 1):
            try:
                return self._ask_once(method, url, body, read)
            except _AgainError as error:
                num_timeouts += error.timed_out
                if failures == self._retry.attempts or num_timeouts == _MAX_TIMEOUTS or self._stop.is_set():
                    raise EvaluationError(
                        f"{url}: {error}, {failures} times in a row; see that the server runs, then run the same "
                        "command again: it goes on from what was finished"
                    ) from None
                self._retry.sleep(self._retry.delay_seconds(failures, error.retry_after))
        raise AssertionError("unreachable")

    def _ask_once(self, method: str, url: str, body: dict[str, Any] | None, read: Callable[[Any], R]) -> R:
        try:
            reply = self._client.request(method, url, json=body)
        except httpx.TimeoutException as error:
            raise _AgainError(f"no answer in time ({type(error).__name__})", timed_out=True) from None
        except httpx.TransportError as error:
            raise _AgainError(f"the connection failed ({error or type(error).__name__})") from None
        except httpx.InvalidURL as error:
            raise ConfigError(f"--url {url}: {error}; give http://host:port/v1") from None
        if reply.status_code in _BUSY:
            raise _AgainError(f"it says {reply.status_code} {_reason(reply)}", retry_after=_retry_after(reply))
        if reply.status_code >= 400:
            raise EvaluationError(f"{url}: it says {reply.status_code} {_reason(reply)}; {_advice(reply.status_code)}")
        try:
            return read(reply.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"{url}: its answer is not of OpenAI's form ({type(error).__name__}: {error}): {reply.text[:80]!r}; "
                "give the address of such a server"
            ) from None


def _in_threads(work: Callable[[T], R], items: Sequence[T], num_threads: int, closed: threading.Event) -> Iterator[R]:
    """Results as they come. Threads are daemons: Ctrl-C does not wait for a server that hangs."""
    todo: queue.SimpleQueue[T] = queue.SimpleQueue()
    results: queue.SimpleQueue[R | Exception] = queue.SimpleQueue()
    over = threading.Event()

    def run() -> None:
        while not over.is_set() and not closed.is_set():
            try:
                results.put(work(todo.get_nowait()))
            except queue.Empty:
                return
            except Exception as error:  # noqa: BLE001  the thread that asked raises it
                over.set()
                results.put(error)

    for item in items:
        todo.put(item)
    for _ in range(num_threads):
        threading.Thread(target=run, daemon=True, name="url-source").start()
    try:
        for _ in items:
            result = results.get()
            if isinstance(result, Exception):
                yield from _finished(results)
                raise result
            yield result
    finally:
        over.set()


def _finished(results: "queue.SimpleQueue[R | Exception]") -> Iterator[R]:
    """What is there already."""
    while True:
        try:
            result = results.get_nowait()
        except queue.Empty:
            return
        if not isinstance(result, Exception):
            yield result


def _api_root(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"--url {url!r}: give the address of a server, such as http://127.0.0.1:8000/v1")
    root = url.partition("?")[0].rstrip("/")
    for route in _ROUTES:
        root = root.removesuffix(route)
    return root if urlsplit(root).path.strip("/") else f"{root}/v1"


def _read_answer(reply: Any) -> tuple[str, str, int | None]:
    choice = reply["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    tokens = (reply.get("usage") or {}).get("completion_tokens")
    return str(text or ""), str(choice.get("finish_reason") or "stop"), None if tokens is None else int(tokens)


def _read_tokens(reply: Any) -> tuple[list[int], int | None]:
    limit = reply.get("max_model_len")
    return [int(token) for token in reply["tokens"]], None if limit is None else int(limit)


def _read_logprobs(reply: Any) -> tuple[list[float], list[dict[str, float]]]:
    """From the second token on, and of the one that was generated."""
    found = reply["choices"][0]["logprobs"]
    return found["token_logprobs"][1:], found["top_logprobs"][1:]


def _cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    places = [place for each in stop if (place := text.find(each)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _reason(reply: httpx.Response) -> str:
    """What the server says, on one line."""
    try:
        said = reply.json()
        error = said.get("error", said) if isinstance(said, dict) else said
        text = error.get("message", error) if isinstance(error, dict) else error
    except json.JSONDecodeError:
        text = reply.text
    return " ".join(str(text).split())[:200] or reply.reason_phrase


def _retry_after(reply: httpx.Response) -> float | None:
    value = reply.headers.get("retry-after", "")
    return float(value) if value.isdigit() else None


def _advice(status: int) -> str:
    known = {401: "give a key by --api-key", 403: "give a key by --api-key", 404: "check the address and --url-model"}
    return known.get(status, "mend what it names and run the same command again")
