"""A conversation with a model: rounds so far, the prompt that still fits, the answer as it comes.

    session = ChatSession(aquila.load("smollm2-135m"))
    for text in session.send("What is a prime number?"):
        ...

When the context is full the oldest rounds are left out of the prompt (they stay in the history); the message
just sent never is. Closing the iterator that `send` returns stops the model; what it said so far stays in the
history.
"""

import bisect
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from aquila.chat.transcript import Transcript, load_transcript, save_transcript
from aquila.errors import ConfigError, GenerationError
from aquila.generate.request import Delta
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.templates import TEMPLATES, ChatTemplate, Message, stop_token_ids, template_for
from aquila.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

BASE_MODEL_TEMPLATE = "aquila-chat"  # plain words only, so every vocabulary can spell it


@runtime_checkable  # the type checks of the tests ask it
class ChatModel(Protocol):
    """What a conversation needs of a model; `aquila.load` returns one."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def template_name(self) -> str | None: ...
    @property
    def max_context(self) -> int: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, adapter: str | None = None
    ) -> Generator[Delta, None, None]: ...


@dataclass(frozen=True)
class Round:
    """A user's message and the answer to it, perhaps cut short."""

    user: str
    assistant: str


@dataclass(frozen=True)
class AnswerStats:
    """How the last answer went. Times count from the request; up to the first token it is mostly prefill."""

    prompt_tokens: int
    new_tokens: int
    seconds_to_first_token: float
    seconds: float
    finish_reason: str

    @property
    def tokens_per_second(self) -> float:
        """Speed after the first token; 0 for an answer of one token."""
        decoding = self.seconds - self.seconds_to_first_token
        return (self.new_tokens - 1) / decoding if self.new_tokens > 1 and decoding > 0 else 0.0


class ChatSession:
    """A conversation with a model.

    Args:
        model: answers.
        template: name of a chat template, instead of the model's own.
        system: instruction that stands before the conversation.
        params: how answers are drawn; the template's stops are added to its stops.
        adapter: name of an adapter of the model that answers are given with.

    Raises:
        ConfigError: no such template.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        template: str | None = None,
        system: str | None = None,
        params: SamplingParams | None = None,
        adapter: str | None = None,
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.template = _choose_template(model, template)
        self.system = system
        self.params = params or SamplingParams()
        self.rounds: list[Round] = []
        self.last_answer: AnswerStats | None = None
        self._num_left_out = 0  # oldest rounds that the last prompt had no room for
        self._num_retries = 0

    @property
    def messages(self) -> list[Message]:
        """The whole conversation, the system message first."""
        return self._messages(self.rounds)

    @property
    def max_context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.model.max_context

    def send(self, text: str) -> Generator[str, None, None]:
        """Answers a message, piece by piece. The round joins the history when the iterator ends or is closed.

        Raises:
            ConfigError: the message is empty.
            GenerationError: the message alone is longer than the model's context.
        """
        if not text.strip():
            raise ConfigError("the message is empty; write something")
        prompt_ids = self._prompt(text, self.rounds)
        self._num_retries = 0
        return self._answer(text, prompt_ids, self.params)

    def retry(self) -> Generator[str, None, None]:
        """Answers the last message anew; the old answer stays if the new one is stopped before its first word.

        A fixed seed would give the old answer again, so every retry adds one to it.
        """
        last = self._last_round()
        prompt_ids = self._prompt(last.user, self.rounds[:-1])
        self._num_retries += 1
        params = self.params
        if params.seed is not None:
            params = replace(params, seed=params.seed + self._num_retries)
        return self._replace_last(last.user, prompt_ids, params)

    def undo(self) -> Round:
        """Takes back the last round and returns it. `ConfigError` when there is none."""
        last = self._last_round()
        self.rounds.pop()
        return last

    def reset(self) -> None:
        """Forgets the rounds; the system message stays."""
        self.rounds.clear()
        self.last_answer = None
        self._num_left_out = 0

    def save(self, path: Path) -> None:
        """Writes the conversation as JSON."""
        save_transcript(path, Transcript.of(self.messages, model=self.model.name, template=self.template.name))

    def load(self, path: Path) -> None:
        """Continues a saved conversation. `ConfigError` if the file is not one; then nothing changes."""
        messages = load_transcript(path).conversation()
        system = messages[0].content if messages and messages[0].role == "system" else None
        turns = messages[0 if system is None else 1 :]
        self.reset()
        self.system = system
        self.rounds = [
            Round(user.content, assistant.content) for user, assistant in zip(turns[::2], turns[1::2], strict=True)
        ]

    def _last_round(self) -> Round:
        if not self.rounds:
            raise ConfigError("there is no earlier message; send one first")
        return self.rounds[-1]

    def _messages(self, rounds: Sequence[Round]) -> list[Message]:
        opening = [Message("system", self.system)] if self.system else []
        turns = [(Message("user", each.user), Message("assistant", each.assistant)) for each in rounds]
        return [*opening, *(message for turn in turns for message in turn)]

    def _prompt(self, text: str, rounds: Sequence[Round]) -> list[int]:
        """Token ids of the newest rounds that fit, and of the message, which always is there."""

        def prompt_from(first: int) -> list[int]:
            messages = [*self._messages(rounds[first:]), Message("user", text)]
            return self.template.encode(self.model.tokenizer, messages)

        # An answer may take what it asks for up to a quarter of the context; the rest is for the history.
        limit = self.max_context - min(self.params.max_new_tokens, max(1, self.max_context // 4))
        first = bisect.bisect_left(range(len(rounds)), True, key=lambda first: len(prompt_from(first)) <= limit)
        prompt_ids = prompt_from(first)
        if len(prompt_ids) >= self.max_context:
            raise GenerationError(
                f"the message takes {len(prompt_ids)} tokens with its template, and {self.model.name} has "
                f"a context of {self.max_context}, answer included; send a shorter one"
            )
        if first > self._num_left_out:
            log.info(
                "the context of %d tokens is full: the oldest %d of %d rounds are left out of the prompt",
                self.max_context,
                first,
                len(rounds),
            )
        self._num_left_out = first
        return prompt_ids

    def _replace_last(self, text: str, prompt_ids: list[int], params: SamplingParams) -> Generator[str, None, None]:
        old = self.rounds.pop()
        num_rounds = len(self.rounds)
        try:
            yield from self._answer(text, prompt_ids, params)
        finally:
            if len(self.rounds) == num_rounds:
                self.rounds.append(old)

    def _answer(self, text: str, prompt_ids: list[int], params: SamplingParams) -> Generator[str, None, None]:
        params = replace(
            params,
            n=1,
            stop=tuple(dict.fromkeys((*params.stop, *self.template.stop))),
            stop_token_ids=(*params.stop_token_ids, *stop_token_ids(self.template, self.model.tokenizer)),
        )
        clock = _AnswerClock(len(prompt_ids))
        parts: list[str] = []
        surplus = " " if self.template.strip_leading_space else ""
        try:
            with closing(self.model.stream(prompt_ids, params, adapter=self.adapter)) as deltas:
                for delta in deltas:
                    clock.hear(delta)
                    if not delta.text:
                        continue
                    part, surplus = delta.text.removeprefix(surplus), ""
                    if part:
                        parts.append(part)
                        yield part
        finally:
            self.last_answer = clock.stats()
            if parts:
                self.rounds.append(Round(text, "".join(parts)))


class _AnswerClock:
    """Counts and times the tokens of one answer."""

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._start = time.perf_counter()
        self._first: float | None = None
        self._new_tokens = 0
        self._finish_reason = "cancelled"

    def hear(self, delta: Delta) -> None:
        if self._first is None:
            self._first = time.perf_counter()
        self._new_tokens += len(delta.token_ids)
        self._finish_reason = delta.finish_reason or self._finish_reason

    def stats(self) -> AnswerStats:
        now = time.perf_counter()
        return AnswerStats(
            prompt_tokens=self._prompt_tokens,
            new_tokens=self._new_tokens,
            seconds_to_first_token=(self._first or now) - self._start,
            seconds=now - self._start,
            finish_reason=self._finish_reason,
        )


def _choose_template(model: ChatModel, name: str | None) -> ChatTemplate:
    template = template_for(name or model.template_name, model.tokenizer)
    if name is None and (template is None or model.kind == "base"):
        log.warning(
            "%s is not a chat model: it continues text, so answers may wander; `aquila models` lists chat models",
            model.name,
        )
    return template or TEMPLATES[BASE_MODEL_TEMPLATE]
