"""What judges are told: which rule, and how much a sample may take."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from aquila.sandbox.job import MIB

Rule = Literal["trusted", "official"]


@dataclass(frozen=True)
class Rules:
    """How samples are judged; it is part of a report, since a score depends on it.

    Attributes:
        rule: `trusted`, or `official`: as the harness does that was published with the benchmark.
        seconds: for all of a sample's tests, on the clock.
        call_seconds: for one call of the function, where calls are made one by one.
        memory_bytes: of Python's process; the other languages have limits of their own, in judge/.
        answer_bytes: of one call's answer, as text.
    """

    rule: Rule = "trusted"
    seconds: float = 6.0
    call_seconds: float = 3.0
    memory_bytes: int = 512 * MIB
    answer_bytes: int = 16 * MIB

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
