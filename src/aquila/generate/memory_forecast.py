"""What memory limits would give a model on a machine, by arithmetic: context, share in memory, tokens a second.

A step of one token reads every weight once. All of them pass through the kernels; those that are not in memory also
come from the disk, ahead of the computation (native/stream.h). So the slower of the two sets the pace:

    seconds a token = max(all weights / rate of the kernels, streamed weights / rate of the disk)

What else a step does (attention over a long text, sampling) is left out: the forecast is for short texts. Tokens that
are guessed right (lookup.py) come on top.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from aquila.errors import ConfigError
from aquila.generate.memory_plan import MIB, MemoryPlan, least_limit
from aquila.generate.weight_rates import Rates

Planner = Callable[[int], MemoryPlan]  # from a limit in bytes; ConfigError where it cannot work


@dataclass(frozen=True)
class Forecast:
    """What one memory limit gives.

    Attributes:
        limit_bytes: for the whole process.
        pinned_layers: of `num_layers`, those that are in memory.
        pinned_share: of the bytes that a step reads, those that are in memory, 0 to 1.
        context: positions for which there is room, of `full_context`.
        kv_type: how keys and values are kept, "f16" or "i8".
        read_bytes: weights that a step reads, in all.
        streamed_bytes: those of them that come from the disk, in every step.
        tokens_per_second: of one sequence with little text.
        paced_by: "disk" or "memory", what sets that pace.
    """

    limit_bytes: int
    pinned_layers: int
    num_layers: int
    pinned_share: float
    context: int
    full_context: int
    kv_type: str
    read_bytes: int
    streamed_bytes: int
    tokens_per_second: float
    paced_by: str


def forecast(plan: MemoryPlan, rates: Rates) -> Forecast:
    read = plan.pinned_bytes + plan.streamed_bytes
    seconds = {"memory": read / rates.memory, "disk": plan.streamed_bytes / rates.disk}
    paced_by = max(seconds, key=lambda name: seconds[name])
    return Forecast(
        limit_bytes=plan.limit_bytes,
        pinned_layers=len(plan.pinned_layers),
        num_layers=plan.num_layers,
        pinned_share=1 - plan.streamed_bytes / read,
        context=plan.context,
        full_context=plan.full_context,
        kv_type=plan.kv_type,
        read_bytes=read,
        streamed_bytes=plan.streamed_bytes,
        tokens_per_second=1 / seconds[paced_by],
        paced_by=paced_by,
    )


def smallest_limit(make_plan: Planner) -> int:
    """The least limit that works, in whole MiB."""
    return least_limit(lambda limit: _plan_or_none(make_plan, limit) is not None)


def limits_to_show(make_plan: Planner, *, smallest: int, most_bytes: int) -> list[int]:
    """Limits that differ in what they give, up to `most_bytes`; empty when not even the smallest fits.

    `smallest`, as `smallest_limit` gives it; then sizes people think in (.., 1, 1.5, 2, 3, 4, 6 GiB, ..); then the
    least that keeps all weights in memory, and the least with room for the whole context beside them, in 16 bits.
    """

    def resident(limit: int, *, whole: bool) -> bool:
        plan = _plan_or_none(make_plan, limit)
        if plan is None or plan.streamed_bytes:
            return False
        return not whole or (plan.context >= plan.full_context and plan.kv_type == "f16")

    everything = least_limit(lambda limit: resident(limit, whole=False))
    roomy = least_limit(lambda limit: resident(limit, whole=True))
    limits = {smallest, *_round_sizes(1.1 * smallest, 0.97 * everything), everything, roomy}
    return sorted(limit for limit in limits if limit <= most_bytes)


def _round_sizes(low: float, high: float) -> list[int]:
    """Powers of two and one and a half times those, between two numbers of bytes."""
    found = []
    for power in count():
        for size in (MIB << power, (3 * MIB << power) // 2):
            if size > high:
                return found
            if size >= low:
                found.append(size)
    return found


def _plan_or_none(make_plan: Planner, limit_bytes: int) -> MemoryPlan | None:
    try:
        return make_plan(limit_bytes)
    except ConfigError:
        return None
