"""How a limit of an accelerator's memory is spent, by arithmetic."""

import re
from itertools import pairwise
from math import prod
from typing import Any

import pytest
import torch

from aquila.checkpoint.names import expected_tensors
from aquila.errors import ConfigError
from aquila.generate.device_plan import (
    DRIVER_BYTES,
    MIN_STEP_TOKENS,
    DevicePlan,
    layer_places,
    plan_device,
    step_bytes,
)
from aquila.model.count import kv_bytes_per_token
from aquila.model.presets import preset
from parts import tiny_config

GIB = 1 << 30


def plan(name: str, limit_gib: float, **options: Any) -> DevicePlan:
    return plan_device(
        preset(name),
        itemsize=2,
        device="gpu:0",
        limit_bytes=int(limit_gib * GIB),
        process_bytes=DRIVER_BYTES,
        **options,
    )


@pytest.mark.parametrize(
    ("name", "limit_gib"),
    [
        ("aquila-7b", 2.5),
        ("aquila-7b", 4.3),
        ("aquila-7b", 8),
        ("aquila-7b", 16),
        ("aquila2-34b", 8),
        ("aquila2-34b", 80),
    ],
)
def test_plans_of_published_models_add_up(name: str, limit_gib: float):
    config, made = preset(name), plan(name, limit_gib)
    layers = config.num_hidden_layers
    weights = sum(prod(shape) for tensor, shape in expected_tensors(config).items() if ".layers.0." in tensor) * 2
    per_layer = layer_places(config, 2)[1] * 2
    assert weights <= per_layer < weights + 1024
    assert made.total_bytes <= made.limit_bytes
    assert made.pinned_bytes == len(made.pinned_layers) * per_layer
    assert made.pinned_bytes + made.streamed_bytes == layers * per_layer
    assert made.slot_bytes == (2 * per_layer if made.streamed_bytes else 0)
    assert made.kv_bytes >= made.context * kv_bytes_per_token(config, 2)
    assert made.step_bytes == step_bytes(config, made.step_tokens, made.context, 2)
    assert made.step_tokens >= MIN_STEP_TOKENS
    table = config.vocab_size * config.hidden_size * 2
    assert made.host_bytes == made.streamed_bytes + (table if made.embedding_on_host else 0)
    assert made.limit_bytes - made.total_bytes < per_layer or len(made.pinned_layers) == layers


def test_one_or_two_layers_are_never_streamed():
    """They would fit into the slots."""
    for limit in range(3 * 1024, 20 * 1024, 50):
        made = plan("aquila-7b", limit / 1024)
        assert made.num_layers - len(made.pinned_layers) not in (1, 2)


def test_more_memory_copies_less():
    copied = [plan("aquila-7b", limit / 1024).streamed_bytes for limit in range(2560, 20 * 1024, 100)]
    layer = layer_places(preset("aquila-7b"), 2)[1] * 2
    assert all(more <= less + layer for less, more in pairwise(copied))
    assert copied[0] > 12e9
    assert copied[-1] == 0


def test_a_context_that_is_asked_for_is_kept_or_refused():
    assert plan("aquila-7b", 5, max_context=2048).context == 2048
    with pytest.raises(ConfigError, match=r"on gpu:0 with 2048 positions; the smallest that works is \d+MiB"):
        plan("aquila-7b", 2.5, max_context=2048)


def test_the_plan_is_told():
    text = plan("aquila-7b", 4.3).explain()
    assert text.startswith("memory limit 4.3 GiB on gpu:0\n")
    assert re.search(r"slots for streamed layers +772 MiB  2 layers", text)
    assert "copied to the device in every step: 10.9 GiB" in text


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": True, "hidden_size": 40, "head_dim": 10}])
def test_places_of_a_layer_do_not_overlap_and_neighbours_touch(changes: dict[str, Any]):
    config = tiny_config(**changes)
    places, length = layer_places(config, 4)
    taken = torch.zeros(length, dtype=torch.int)
    for start, shape in places.values():
        taken[start : start + prod(shape)] += 1
    assert taken.max() == 1
    assert {f"model.layers.0.{name}": shape for name, (_, shape) in places.items()} == {
        name: shape for name, shape in expected_tensors(config).items() if ".layers.0." in name
    }
    for before, after in (("self_attn.q_proj", "self_attn.k_proj"), ("mlp.gate_proj", "mlp.up_proj")):
        start, shape = places[f"{before}.weight"]
        assert places[f"{after}.weight"][0] == start + prod(shape)
