"""How a memory limit is spent, by arithmetic: for the published models, and against what the decoder allocates."""

from typing import Any

import numpy as np
import pytest

from aquila.checkpoint.names import expected_tensors
from aquila.errors import ConfigError
from aquila.generate.memory_plan import (
    MIN_CONTEXT,
    PAGE_SIZE,
    MemoryPlan,
    Weights,
    evenly,
    kv_token_bytes,
    plan_memory,
    step_bytes,
)
from aquila.generate.native_runner import make_decoder, place_weights
from aquila.generate.runners import parse_limit
from aquila.kernels.native import native_module, usable_kernels
from aquila.machine import read_memory
from aquila.model.config import ModelConfig
from aquila.model.presets import preset

GIB = 1 << 30
PROCESS = 110 << 20


def four_bit(config: ModelConfig) -> Weights:
    """As `aquila quantise --to w4` lays a model out: embedding and head in w8."""
    shapes = {name: tuple(shape) for name, shape in expected_tensors(config).items()}
    formats = {
        name: "w4" if name.startswith("model.layers.") else "w8" for name, shape in shapes.items() if len(shape) == 2
    }
    return Weights.of(config, formats, shapes)


def plan(name: str, limit_gib: float, **options: Any) -> tuple[ModelConfig, Weights, MemoryPlan]:
    config = preset(name)
    weights = four_bit(config)
    limit = int(limit_gib * GIB)
    return (
        config,
        weights,
        plan_memory(config, weights, limit_bytes=limit, process_bytes=PROCESS, threads=4, **options),
    )


CASES = [("aquila2-7b", 1), ("aquila2-7b", 2), ("aquila2-7b", 3), ("aquila2-7b", 4.3), ("aquila2-34b", 8)]


@pytest.mark.parametrize(("name", "limit_gib"), CASES)
def test_plans_of_published_models_add_up(name: str, limit_gib: float):
    config, weights, made = plan(name, limit_gib)
    layers = config.num_hidden_layers
    everything = layers * weights.layer_bytes + weights.head_bytes
    held = len(made.pinned_layers) * weights.layer_bytes + made.head_pinned * weights.head_bytes
    assert made.total_bytes <= made.limit_bytes == int(limit_gib * GIB)
    assert (made.pinned_bytes, made.streamed_bytes) == (held, everything - held)
    assert made.process_bytes >= PROCESS
    assert MIN_CONTEXT <= made.context <= config.max_position_embeddings
    assert made.kv_bytes == -(-made.context // PAGE_SIZE) * PAGE_SIZE * kv_token_bytes(config, made.kv_type)
    assert made.slots >= 4
    assert made.slots * made.job_bytes < made.ring_bytes
    assert made.step_bytes == step_bytes(config, made.step_tokens, 4)
    assert sorted(set(made.pinned_layers)) == list(made.pinned_layers)
    left = made.limit_bytes - made.total_bytes
    assert left < weights.layer_bytes  # or one more would be in memory


@pytest.mark.parametrize(("limit_gib", "least_share"), [(1, 0.05), (2, 0.3), (3, 0.55), (4.3, 0.85)])
def test_most_of_the_limit_goes_to_weights(limit_gib: float, least_share: float):
    _, _, made = plan("aquila2-7b", limit_gib)
    assert made.pinned_bytes / (made.pinned_bytes + made.streamed_bytes) > least_share


def test_more_memory_reads_less():
    """But for one layer, which a longer context or larger steps may take the place of."""
    config = preset("aquila2-7b")
    weights = four_bit(config)
    read = [
        plan_memory(config, weights, limit_bytes=mib << 20, process_bytes=PROCESS, threads=2).streamed_bytes
        for mib in range(700, 6500, 50)
    ]
    assert np.diff(read).max() <= weights.layer_bytes
    assert read[-1] == 0
    assert read[0] > 3.5e9


def test_the_smallest_limit_is_named_and_exact():
    with pytest.raises(ConfigError, match="is too little for this model; the smallest") as caught:
        plan("aquila2-7b", 0.1)
    smallest = int(str(caught.value).rpartition(" ")[2].removesuffix("MiB"))
    _, _, made = plan("aquila2-7b", smallest / 1024)
    assert made.streamed_bytes > 3.5e9
    with pytest.raises(ConfigError, match=f"smallest that works is {smallest}MiB"):
        plan("aquila2-7b", (smallest - 2) / 1024)


def test_a_context_that_is_asked_for_is_kept_or_refused():
    _, _, made = plan("aquila2-7b", 2, max_context=2048)
    assert made.context == 2048
    with pytest.raises(ConfigError, match="with 2048 positions"):
        plan("aquila2-7b", 0.7, max_context=2048)


@pytest.mark.parametrize("layers", [1, 7, 32])
def test_layers_in_memory_are_spread(layers: int):
    for pinned in range(1, layers + 1):
        chosen = evenly(pinned, layers)
        assert len(set(chosen)) == pinned
        gaps = np.diff([*chosen, layers + chosen[0]])
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (0, "0 leaves no memory"),
        ("0", "0 leaves no memory"),
        (-1, "-1 is negative"),
        ("-2GiB", "-2GiB"),
        ("many", "many"),
        ("", "''"),
        ("1<<60", "more than the"),
    ],
)
def test_limits_that_cannot_be(limit: int | str, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_limit(limit)


def test_all_memory_may_be_asked_for_and_not_a_byte_more():
    memory = read_memory()
    if memory is None:
        pytest.skip("this system does not say how much memory it has")
    assert parse_limit(memory.total_bytes) == memory.total_bytes
    with pytest.raises(ConfigError, match="more than the"):
        parse_limit(memory.total_bytes + 1)


@pytest.mark.skipif(not usable_kernels(), reason="the native kernels are not built")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("tokens", [1, 16, 200])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head_dim": 24, "hidden_size": 48},
        {"num_attention_heads": 20, "num_key_value_heads": 1, "head_dim": 8, "hidden_size": 40},
    ],
)
def test_the_decoder_allocates_what_is_planned(tmp_path, changes: dict[str, int], tokens: int, threads: int):
    from aquila.checkpoint.native_weights import choose_formats
    from aquila.checkpoint.open import open_checkpoint
    from aquila.checkpoint.packed_writer import quantise
    from aquila.generate.native_runner import NativeRunner
    from aquila.generate.runner import SequenceStep
    from parts import tiny_checkpoint

    source = tiny_checkpoint(tmp_path / "tiny", max_position_embeddings=256, **changes)
    checkpoint = open_checkpoint(quantise(source, tmp_path / "model.aqw", to="w8"))
    config = checkpoint.config
    decoder = make_decoder(native_module(), config, threads=threads)
    place_weights(native_module(), decoder, checkpoint, choose_formats(checkpoint.tensors, None), pinned=())
    job, slots = 64 << 10, 4
    decoder.set_stream(str(checkpoint.path), job, slots, 2)
    for kv_type in ("f32", "f16", "i8"):
        runner = NativeRunner(decoder, config, max_context=256, num_pages=16, kv_type=kv_type)
        assert decoder.page_bytes == PAGE_SIZE * kv_token_bytes(config, kv_type)
    runner.step([SequenceStep([1] * tokens, 0, range(16), tokens)])
    rounding = 8 * 4096  # each of eight allocations ends with a page
    assert decoder.scratch_bytes <= step_bytes(config, tokens, threads) + rounding
    assert decoder.stream_bytes <= slots * 2 * (job + 12288)
