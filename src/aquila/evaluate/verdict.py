"""What a judge says of one sample."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Status = Literal[
    "passed",
    "wrong",  # an answer that the tests do not accept
    "exception",  # it raised, crashed or ended before it answered
    "compile_error",
    "timeout",
    "memory",
    "output_limit",
    "violation",  # it pretended to be done, or broke what watches it
    "harness_error",  # ours: says nothing about the sample
]
STATUSES: tuple[str, ...] = get_args(Status)
MAX_DETAIL = 300


@dataclass(frozen=True)
class Verdict:
    """A status and what led to it.

    Attributes:
        detail: one line for people; empty where the status says it all.
        seconds: on the clock, from the sample's start to the verdict.
        peak_bytes: resident memory of its largest process.
    """

    status: Status
    detail: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def one_line(text: str) -> str:
    """`text` without line breaks, not longer than a detail may be."""
    line = " ".join(text.encode(errors="replace").decode().split())  # half a surrogate could not be printed
    return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 3] + "..."
