"""A conversation, whoever answers it: the rounds so far, the system message, how answers are drawn, and files of it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from aquila.chat.transcript import Transcript, load_transcript, save_transcript
from aquila.errors import ConfigError
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.templates import Message

Prompt = TypeVar("Prompt")


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


class Conversation(ABC, Generic[Prompt]):
    """Rounds of messages and answers. A subclass says who answers.

    Args:
        system: instruction that stands before the conversation.
        params: how answers are drawn.
    """

    def __init__(self, *, system: str | None, params: SamplingParams | None) -> None:
        self.system = system
        self.params = params or SamplingParams()
        self.rounds: list[Round] = []
        self.last_answer: AnswerStats | None = None
        self._num_retries = 0

    @property
    @abstractmethod
    def model_name(self) -> str: ...

    @property
    @abstractmethod
    def template_name(self) -> str: ...

    @property
    @abstractmethod
    def max_context(self) -> int:
        """Tokens that prompt and answer may have together."""

    @abstractmethod
    def _prompt(self, text: str, rounds: Sequence[Round]) -> Prompt:
        """What is asked for a message after these rounds; raises where it cannot be."""

    @abstractmethod
    def _answer(self, text: str, prompt: Prompt, params: SamplingParams) -> Generator[str, None, None]:
        """Answers piece by piece, then adds the round and sets `last_answer`, also when it is closed before its end."""

    @property
    def messages(self) -> list[Message]:
        """The whole conversation, the system message first."""
        return self._messages(self.rounds)

    def send(self, text: str) -> Generator[str, None, None]:
        """Answers a message, piece by piece. The round joins the history when the iterator ends or is closed.

        Raises:
            ConfigError: the message is empty.
            GenerationError: the message alone is longer than the model's context.
        """
        if not text.strip():
            raise ConfigError("the message is empty; write something")
        prompt = self._prompt(text, self.rounds)
        self._num_retries = 0
        return self._answer(text, prompt, self.params)

    def retry(self) -> Generator[str, None, None]:
        """Answers the last message anew; the old answer stays if the new one is stopped before its first word.

        A fixed seed would give the old answer again, so every retry adds one to it.
        """
        last = self._last_round()
        prompt = self._prompt(last.user, self.rounds[:-1])
        self._num_retries += 1
        params = self.params
        if params.seed is not None:
            params = replace(params, seed=params.seed + self._num_retries)
        return self._replace_last(last.user, prompt, params)

    def undo(self) -> Round:
        """Takes back the last round and returns it. `ConfigError` when there is none."""
        last = self._last_round()
        self.rounds.pop()
        return last

    def reset(self) -> None:
        """Forgets the rounds; the system message stays."""
        self.rounds.clear()
        self.last_answer = None

    def save(self, path: Path) -> None:
        """Writes the conversation as JSON."""
        save_transcript(path, Transcript.of(self.messages, model=self.model_name, template=self.template_name))

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

    def _replace_last(self, text: str, prompt: Prompt, params: SamplingParams) -> Generator[str, None, None]:
        old = self.rounds.pop()
        num_rounds = len(self.rounds)
        try:
            yield from self._answer(text, prompt, params)
        finally:
            if len(self.rounds) == num_rounds:
                self.rounds.append(old)


class AnswerClock:
    """Counts and times the tokens of one answer."""

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._start = time.perf_counter()
        self._first: float | None = None
        self._new_tokens = 0
        self._finish_reason = "cancelled"

    def hear(self, num_tokens: int, finish_reason: str | None) -> None:
        if self._first is None:
            self._first = time.perf_counter()
        self._new_tokens += num_tokens
        self._finish_reason = finish_reason or self._finish_reason

    def count(self, prompt_tokens: int, new_tokens: int) -> None:
        """What a server counted, in place of what was heard."""
        self._prompt_tokens, self._new_tokens = prompt_tokens, new_tokens

    def stats(self) -> AnswerStats:
        now = time.perf_counter()
        return AnswerStats(
            prompt_tokens=self._prompt_tokens,
            new_tokens=self._new_tokens,
            seconds_to_first_token=(self._first or now) - self._start,
            seconds=now - self._start,
            finish_reason=self._finish_reason,
        )
