"""A conversation that a server answers, over OpenAI's chat API."""

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

import httpx

from aquila.chat.conversation import AnswerClock, Conversation, Round
from aquila.chat.event_stream import Lines, event_data, key_header, refused, server_root, unreachable
from aquila.errors import GenerationError
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.templates import Message

_DRAWING = {  # the field of a body -> ours; the first four as OpenAI has them, the rest as most servers do
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
}


class RemoteSession(Conversation[list[Message]]):
    """A conversation with a model behind an address.

    Args:
        base_url: `http://host:port`, with or without `/v1`.
        api_key: sent as a bearer token.
        model: name of one of its models; its first when None.
        system: instruction that stands before the conversation.
        params: how answers are drawn; what was never set is left to the server.
        timeout_seconds: without a word from the server the request fails.

    Raises:
        ConfigError: the address or the key is none.
        GenerationError: nobody answers there, or there is no such model.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        system: str | None = None,
        params: SamplingParams | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        super().__init__(system=system, params=params)
        self._untouched = SamplingParams(max_new_tokens=self.params.max_new_tokens)
        self._url = f"{server_root(base_url)}/v1"
        self._client = httpx.Client(headers=key_header(api_key), timeout=httpx.Timeout(timeout_seconds, connect=10.0))
        card = self._card(model)
        self._model = str(card["id"])
        self._max_context = int(card.get("max_model_len") or 0)

    @property
    def model_name(self) -> str:
        return self._model

    @property
    def template_name(self) -> str:
        return self._url

    @property
    def max_context(self) -> int:
        """0 where the server does not say."""
        return self._max_context

    def _card(self, model: str | None) -> dict[str, Any]:
        url = f"{self._url}/models"
        try:
            response = self._client.get(url)
        except httpx.HTTPError as error:
            raise unreachable(url, error) from error
        if response.status_code != 200:
            raise refused(url, response)
        try:
            cards = {str(card["id"]): card for card in response.json()["data"]}
        except (ValueError, KeyError, TypeError) as error:
            raise GenerationError(
                f"{url}: the answer is no list of models; is it an OpenAI-compatible server?"
            ) from error
        if not cards or (model is not None and model not in cards):
            raise GenerationError(f"{url}: has {', '.join(cards) or 'no model'}, not {model!r}; name one of these")
        return cards[model] if model is not None else next(iter(cards.values()))

    def _prompt(self, text: str, rounds: Sequence[Round]) -> list[Message]:
        return [*self._messages(rounds), Message("user", text)]

    def _answer(self, text: str, prompt: list[Message], params: SamplingParams) -> Generator[str, None, None]:
        clock = AnswerClock(0)
        parts: list[str] = []
        try:
            with closing(self._events(self._body(prompt, params))) as events:
                for event in events:
                    if usage := event.get("usage"):
                        clock.count(int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
                    for choice in event.get("choices", ())[:1]:
                        part = (choice.get("delta") or {}).get("content") or ""
                        if part or choice.get("finish_reason"):
                            clock.hear(bool(part), choice.get("finish_reason"))
                        if part:
                            parts.append(part)
                            yield part
        finally:
            self.last_answer = clock.stats()
            if parts:
                self.rounds.append(Round(text, "".join(parts)))

    def _body(self, messages: list[Message], params: SamplingParams) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": params.max_new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for field, ours in _DRAWING.items():
            value = getattr(params, ours)
            if value != getattr(self._untouched, ours):
                body[field] = value
        if params.seed is not None:
            body["seed"] = params.seed
        return body

    def _events(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        url = f"{self._url}/chat/completions"
        try:
            with self._client.stream("POST", url, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise refused(url, response)
                lines = Lines()
                for line in chain.from_iterable(map(lines.feed, response.iter_text())):
                    if (event := event_data(line)) is not None:
                        yield event
        except httpx.HTTPError as error:
            raise unreachable(url, error) from error
