"""Forecasts for memory limits are arithmetic over plans and rates."""

import pytest

from aquila.checkpoint.names import expected_tensors
from aquila.errors import ConfigError
from aquila.generate.memory_forecast import MIB, Planner, forecast, limits_to_show, smallest_limit
from aquila.generate.memory_plan import Weights, plan_memory
from aquila.generate.weight_rates import Rates
from aquila.model.presets import preset

GIB = 1 << 30


def planner(name: str) -> Planner:
    config = preset(name)
    shapes = expected_tensors(config)
    formats = {name: "w4" if ".layers." in name else "w8" for name, shape in shapes.items() if len(shape) == 2}
    weights = Weights.of(config, formats, shapes)
    return lambda limit: plan_memory(config, weights, limit_bytes=limit, process_bytes=92 * MIB, threads=2)


def rates(memory: float, disk: float) -> Rates:
    return Rates(kernels="avx2", threads=2, memory=memory, disk=disk, direct=True)


def test_the_slower_of_disk_and_memory_sets_the_pace():
    plan = planner("aquila-7b")(3 * GIB)
    slow_disk = forecast(plan, rates(memory=30e9, disk=1e9))
    assert slow_disk.paced_by == "disk"
    assert slow_disk.tokens_per_second == pytest.approx(1e9 / plan.streamed_bytes)
    fast_disk = forecast(plan, rates(memory=10e9, disk=9e9))
    assert fast_disk.paced_by == "memory"
    assert fast_disk.tokens_per_second == pytest.approx(10e9 / (plan.pinned_bytes + plan.streamed_bytes))


def test_with_everything_in_memory_the_disk_does_not_matter():
    found = forecast(planner("aquila-7b")(8 * GIB), rates(memory=30e9, disk=1.0))
    assert (found.pinned_share, found.streamed_bytes, found.paced_by) == (1.0, 0, "memory")
    assert found.tokens_per_second == pytest.approx(7.36, rel=0.01)  # 30 GB/s over 3.8 GiB; the embedding is not read


@pytest.mark.parametrize("name", ["smollm2-135m", "aquila-7b", "aquila2-34b"])
def test_the_limits_shown_begin_with_the_smallest_and_end_with_room_for_all(name: str):
    make_plan = planner(name)
    smallest = smallest_limit(make_plan)
    limits = limits_to_show(make_plan, smallest=smallest, most_bytes=1 << 50)
    assert limits[0] == smallest
    with pytest.raises(ConfigError):
        make_plan(limits[0] - MIB)
    last = make_plan(limits[-1])
    assert (last.streamed_bytes, last.context, last.kv_type) == (0, last.full_context, "f16")
    before = make_plan(limits[-1] - MIB)
    assert before.context < last.context or before.kv_type == "i8"
    assert len(limits) <= 18
    streamed = [make_plan(limit).streamed_bytes for limit in limits]
    assert streamed == sorted(streamed, reverse=True)


def test_limits_stop_at_what_the_machine_has():
    make_plan = planner("aquila-7b")
    smallest = smallest_limit(make_plan)
    assert max(limits_to_show(make_plan, smallest=smallest, most_bytes=2 * GIB)) <= 2 * GIB
    assert limits_to_show(make_plan, smallest=smallest, most_bytes=GIB // 8) == []
    assert {GIB, 2 * GIB, 3 * GIB, 4 * GIB} < set(limits_to_show(make_plan, smallest=smallest, most_bytes=1 << 50))
