"""What is asked of a model, and what comes back, wherever it runs: in this process or behind a URL.

Every sample has a seed of its own, a function of the run's seed, the task and the sample's number. So a run that goes
on after an end draws what it would have drawn without one.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from aquila.errors import ConfigError
from aquila.tokenizer.messages import Message

Key = tuple[str, int]  # task id, number of the sample among those of the task
Order = Literal["psm", "spm"]  # of a prompt with a gap: prefix, suffix, middle; or the suffix first
IsComplete = Callable[[str], bool]  # whether an answer so far needs no more text


@dataclass(frozen=True)
class Settings:
    """How answers are drawn.

    Attributes:
        n: samples a task.
        temperature: 0 is greedy.
        top_p: draw among the likeliest tokens that make up this probability.
        top_k: draw among so many; 0 among all.
        max_new_tokens: of an answer.
        stop: texts that end an answer; they are cut off.
        seed: of the run.
    """

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"n: must be at least 1, got {self.n}")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens: must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature <= 100:
            raise ConfigError(f"temperature: must be between 0 and 100, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p: must be above 0 and at most 1, got {self.top_p}")
        if self.top_k < 0 or self.seed < 0:
            raise ConfigError(f"top_k and seed: must be 0 or more, got {self.top_k} and {self.seed}")
        if self.temperature == 0 and self.n > 1:
            raise ConfigError(f"n: {self.n} greedy samples would all be the same; give a temperature, or n 1")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "stop": list(self.stop)}


@dataclass(frozen=True)
class Prompt:
    """One answer that is wanted: a text to go on from, or a conversation to answer.

    Attributes:
        key: task and sample.
        text: to go on from; None where there are messages.
        messages: a conversation whose last word is the user's.
        seed: of this answer alone.
        suffix: what follows the gap, where a middle is to be filled in; `text` stands before it.
        order: of the two, for a model of ours; a server has its own.
        is_complete: ends the answer early; what comes after would be cut off anyway.
    """

    key: Key
    text: str | None = None
    messages: Sequence[Message] | None = None
    seed: int = 0
    suffix: str | None = None
    order: Order = "psm"
    is_complete: IsComplete | None = None

    def __post_init__(self) -> None:
        assert (self.text is None) != (self.messages is None), "a prompt is a text or a conversation"


@dataclass(frozen=True)
class Answer:
    """What the model wrote.

    Attributes:
        finish_reason: `stop`, `length`, or `too_long`: the prompt alone fills the context.
        num_tokens: of the answer; None where the server does not say.
        seconds: on the clock, from asking to the end; others are answered meanwhile.
    """

    key: Key
    text: str
    finish_reason: str
    num_tokens: int | None
    seconds: float
    logprobs: Sequence[float] | None = None


class Scored(NamedTuple):
    """What a model thinks of a text as what follows another one.

    Attributes:
        total: log-likelihood, nats.
        greedy: greedy decoding gives it.
        cut: both together were longer than the context, and the first lost its beginning.
    """

    total: float
    greedy: bool
    cut: bool


@runtime_checkable
class Source(Protocol):
    """Where answers come from."""

    @property
    def name(self) -> str: ...

    def facts(self) -> dict[str, Any]:
        """The `model` object of `run.json`."""
        ...

    def sample(self, prompts: Sequence[Prompt], settings: Settings) -> Iterator[Answer]:
        """An answer to each prompt, in the order in which they are finished.

        Raises:
            AquilaError: the source answers no more. What was finished has been handed out before.
        """
        ...

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        """Of each text and what follows it.

        Raises:
            EvaluationError: the source cannot say.
        """
        ...


def sample_seed(run_seed: int, task_id: str, index: int) -> int:
    """31 bits: what every server takes."""
    digest = hashlib.sha256(f"{run_seed}\0{task_id}\0{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
