"""A limit of an accelerator's memory: the same tokens, below the limit. Skipped where there is no accelerator."""

from pathlib import Path

import pytest
import torch

import aquila
from aquila.errors import ConfigError
from aquila.generate.device_plan import DRIVER_BYTES, DevicePlan
from aquila.generate.sampling import SamplingParams
from parts import tiny_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator"),
]

MIB = 1 << 20
SHAPE = {
    "num_hidden_layers": 16,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.05,
}
PROMPTS = ["def is_prime(n):", "class Stack:\n" * 8, "print('hello world')"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 layers of 30 MiB in bf16."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "model", **SHAPE)


def say(path: Path, memory_limit: int | None = None) -> tuple[list[list[int]], DevicePlan | None, int]:
    """Token ids, the plan, and the most memory that torch held on the device meanwhile."""
    device = torch.accelerator.current_accelerator()
    assert device is not None
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    model = aquila.load(path, device=device.type, memory_limit=memory_limit)
    params = SamplingParams(temperature=0.0, max_new_tokens=48, ignore_eos=True)
    said = [completion.token_ids for completion in model.generate(PROMPTS, params)]
    plan = model.plan
    assert plan is None or isinstance(plan, DevicePlan)
    return said, plan, torch.accelerator.max_memory_reserved()


@pytest.mark.parametrize("extra_mib", [120, 250, 400])
def test_the_tokens_are_the_same_below_the_limit(checkpoint: Path, extra_mib: int):
    expected, _, _ = say(checkpoint)
    limit = DRIVER_BYTES + extra_mib * MIB
    said, plan, peak = say(checkpoint, limit)
    assert plan is not None
    assert plan.streamed_bytes > 0
    assert said == expected
    assert peak + DRIVER_BYTES <= limit


def test_a_limit_below_the_floor_is_refused(checkpoint: Path):
    with pytest.raises(ConfigError, match="the smallest that works is"):
        say(checkpoint, 64 * MIB)
