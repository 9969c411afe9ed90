"""A completion at a cursor, from a model in this process or from a server: what `aquila complete` and `aquila lsp`
share.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import httpx

    from aquila.generate.load import Model
    from aquila.generate.request import Delta, Request
    from aquila.generate.sampling import SamplingParams

MAX_CHARACTERS = 64_000  # before and after the cursor, sent to a server; it cuts to its context


@dataclass(frozen=True)
class Cursor:
    """A place in a text, and other files that may help.

    Attributes:
        prefix: the text up to the cursor's line.
        line: the line up to the cursor.
        suffix: the text from the cursor on.
        extra: (file name, text) of other files, the most important last.
    """

    prefix: str
    line: str
    suffix: str
    filename: str = ""
    extra: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Settings:
    """How a completion is drawn; see `SamplingParams`."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int | None = None
    single_line: bool = False

    def params(self) -> "SamplingParams":
        """For the engine. `ConfigError` names the setting that is out of its range."""
        from aquila.generate.sampling import SamplingParams

        return SamplingParams(temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=self.seed)


@dataclass(frozen=True)
class Insertion:
    """What to put at the cursor, and what it took."""

    text: str
    num_prompt_tokens: int
    num_new_tokens: int
    seconds: float
    model: str

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"seconds": round(self.seconds, 4)}


class Completer(Protocol):
    """Completes at cursors. `cancelled` is asked between tokens; a completion it ends is None."""

    def complete(self, cursor: Cursor, settings: Settings, cancelled: Callable[[], bool]) -> Insertion | None: ...


def never() -> bool:
    return False


@dataclass
class LocalCompleter:
    """A model in this process. A base model completes at the end of a text; within it, one trained to."""

    model: "Model"

    def complete(self, cursor: Cursor, settings: Settings, cancelled: Callable[[], bool]) -> Insertion | None:
        from aquila.generate.middle import MiddleStream

        started = time.perf_counter()
        request = self._request(cursor, settings)
        middle = MiddleStream(cursor.suffix, single_line=settings.single_line)
        num_tokens, last = 0, None
        with closing(self.model.engine.stream(request)) as deltas:
            for delta in deltas:
                if cancelled():
                    return None
                middle.push(delta.text)
                num_tokens, last = num_tokens + len(delta.token_ids), delta
                if middle.done:
                    break
        middle.finish(ended=_ended(last))
        seconds = time.perf_counter() - started
        return Insertion(middle.text, len(request.prompt_ids), num_tokens, seconds, self.model.name)

    def _request(self, cursor: Cursor, settings: Settings) -> "Request":
        from aquila.generate.infill import ExtraFile, infill_request
        from aquila.generate.request import Request

        params = settings.params()
        if self.model.infill is None and not cursor.suffix.strip():
            ids = self.model.prompt_ids(cursor.prefix + cursor.line)
            room = self.model.max_context - min(settings.max_new_tokens, self.model.max_context // 4)
            return Request(tuple(ids[max(0, len(ids) - room) :]), params)
        extra = [ExtraFile(text, name) for name, text in cursor.extra]
        return infill_request(self.model, cursor.prefix, cursor.suffix, params, extra, line=cursor.line)


@dataclass
class RemoteCompleter:
    """A server that knows `/infill`: `aquila serve`, or llama.cpp's."""

    base_url: str
    api_key: str | None = None
    model: str | None = None
    timeout_seconds: float = 120.0
    _client: "httpx.Client | None" = field(default=None, init=False, repr=False)

    def complete(self, cursor: Cursor, settings: Settings, cancelled: Callable[[], bool]) -> Insertion | None:
        started = time.perf_counter()
        body = {
            "input_prefix": cursor.prefix[-MAX_CHARACTERS:],
            "input_suffix": cursor.suffix[:MAX_CHARACTERS],
            "input_extra": [{"filename": name, "text": text} for name, text in cursor.extra],
            "prompt": cursor.line,
            "n_predict": settings.max_new_tokens,
            "temperature": settings.temperature,
            "single_line": settings.single_line,
            "cache_prompt": True,
            "stream": True,
        }
        if settings.seed is not None:
            body["seed"] = settings.seed
        if self.model is not None:
            body["model"] = self.model
        text, last = "", {}
        for event in self._events(body):
            if cancelled():
                return None
            text += event.get("content", "")
            last = event
        return Insertion(
            text,
            int(last.get("tokens_evaluated", 0)),
            int(last.get("tokens_predicted", 0)),
            time.perf_counter() - started,
            str(last.get("model", self.base_url)),
        )

    def _events(self, body: dict[str, Any]):
        import httpx

        from aquila.chat.event_stream import Lines, event_data, key_header, refused, server_root, unreachable

        url = f"{server_root(self.base_url)}/infill"
        headers = key_header(self.api_key)
        self._client = self._client or httpx.Client(timeout=self.timeout_seconds)
        try:
            with self._client.stream("POST", url, json=body, headers=headers) as response:
                if response.status_code != 200:
                    response.read()
                    raise refused(url, response)
                lines = Lines()
                for line in chain.from_iterable(map(lines.feed, response.iter_text())):
                    if (event := event_data(line)) is not None:
                        yield event
        except httpx.HTTPError as error:
            raise unreachable(url, error) from error


def _ended(delta: "Delta | None") -> bool:
    return delta is not None and delta.finish_reason == "stop"
