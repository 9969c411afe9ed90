"""How a memory limit is spent, by arithmetic: for the published models, and against what the decoder allocates."""

import tracemalloc
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
    assert made.slots * made.job_bytes < made.ring_bytes or made.streamed_bytes == 0
    assert made.step_bytes == step_bytes(config, made.step_tokens, 4)
    assert sorted(set(made.pinned_layers)) == list(made.pinned_layers)
    left = made.limit_bytes - made.total_bytes
    assert left < weights.layer_bytes  # or one more would be in memory


@pytest.mark.parametrize(("limit_gib", "least_share"), [(1, 0.05), (2, 0.3), (3, 0.5), (4.3, 0.85)])
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


@pytest.mark.parametrize("name", ["smollm2-135m", "aquila-7b", "aquila2-34b"])
def test_keys_and_values_are_rounded_only_where_it_is_worth_it(name: str):
    """f16 wherever it works, unless i8 spares a fifth of what a step reads; and the context never pays for i8."""
    config = preset(name)
    weights = four_bit(config)
    smallest = plan_or_none(config, weights, None)[0]
    chosen = set()
    for step in range(60):
        limit = int(smallest * (1 + step / 8))
        (_, free), (_, plain), (_, compact) = (plan_or_none(config, weights, kv, limit) for kv in (None, "f16", "i8"))
        assert free is not None
        assert compact is not None
        chosen.add(free.kv_type)
        if free.kv_type == "f16":
            assert free == plain
        elif plain is not None:
            assert free.streamed_bytes <= 0.8 * plain.streamed_bytes + weights.layer_bytes
            assert free.context >= plain.context / 2
    assert chosen == {"f16", "i8"}


def plan_or_none(
    config: ModelConfig, weights: Weights, kv_dtype: str | None, limit: int = 0
) -> tuple[int, MemoryPlan | None]:
    """The smallest limit that works where this one does not, and the plan where it does."""
    try:
        made = plan_memory(config, weights, limit_bytes=limit, process_bytes=PROCESS, threads=4, kv_dtype=kv_dtype)
    except ConfigError as error:
        return int(str(error).rpartition(" ")[2].removesuffix("MiB")) << 20, None
    return limit, made


@pytest.mark.parametrize("kv_dtype", ["f16", "i8"])
def test_keys_and_values_are_as_asked_or_refused(kv_dtype: str):
    for limit_gib in (1, 2, 3, 4.3, 5, 8):
        assert plan("aquila-7b", limit_gib, kv_dtype=kv_dtype)[2].kv_type == kv_dtype
    with pytest.raises(ConfigError, match=f"with 2048 positions in {kv_dtype}; the smallest that works"):
        plan("aquila-7b", 0.6, max_context=2048, kv_dtype=kv_dtype)


def test_left_over_memory_extends_the_context():
    """With all weights in memory nothing lies idle before the model's whole context has room."""
    config = preset("smollm2-135m")
    weights = four_bit(config)
    contexts = []
    for mib in range(250, 600, 10):
        made = plan_memory(config, weights, limit_bytes=mib << 20, process_bytes=PROCESS, threads=2)
        if made.streamed_bytes == 0 and made.kv_type == "f16":
            contexts.append(made.context)
            idle = made.limit_bytes - made.total_bytes
            whole = made.context == config.max_position_embeddings
            assert whole or idle < MIN_CONTEXT * kv_token_bytes(config, "f16") + (256 << 10)
    assert contexts == sorted(contexts)
    assert contexts[-1] == config.max_position_embeddings
    assert len(set(contexts)) > 10


def test_rows_of_the_embedding_are_read_before_a_layer_is_streamed():
    made = [plan("aquila-7b", limit / 10)[2] for limit in range(10, 80)]
    between = [each for each in made if each.streamed_bytes == 0 and not each.embedding_pinned]
    assert between
    assert all(each.reads_file and each.embedding_bytes == 0 for each in between)
    assert made[-1].embedding_pinned
    assert not made[-1].reads_file
    assert made[-1].embedding_bytes == four_bit(preset("aquila-7b")).embedding_bytes


@pytest.mark.parametrize("full", [128, 300, 2001])
def test_contexts_that_are_no_multiple_of_anything(full: int):
    config = preset("smollm2-135m").model_copy(update={"max_position_embeddings": full})
    weights = four_bit(config)
    seen = set()
    for mib in range(150, 400, 5):
        try:
            made = plan_memory(config, weights, limit_bytes=mib << 20, process_bytes=PROCESS, threads=2)
        except ConfigError:
            continue
        seen.add(made.context)
        assert made.context == full or (made.context % MIN_CONTEXT == 0 and MIN_CONTEXT <= made.context < full)
    assert full in seen


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


@pytest.mark.skipif(not usable_kernels(), reason="the native kernels are not built")
@pytest.mark.parametrize("tokens", [1, 200])
def test_a_step_far_into_a_text_takes_what_is_planned(tmp_path, tokens: int):
    """With the angles, sines and cosines that Python computes for it, and the partial sums of a token alone."""
    from aquila.checkpoint.open import open_checkpoint
    from aquila.generate.native_runner import make_native_runner
    from aquila.generate.runner import SequenceStep
    from parts import tiny_checkpoint

    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "tiny", head_dim=128, max_position_embeddings=32768))
    runner = make_native_runner(native_module(), checkpoint, kv_bytes=1 << 20, threads=1)
    pages = [0] * (32768 // PAGE_SIZE)
    start = 32768 - tokens
    tracemalloc.start()
    try:
        runner.step([SequenceStep([1] * tokens, start, pages, 1)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    runner.step([SequenceStep([1], start, pages, 1)])
    rounding = 8 * 4096
    assert runner.decoder.scratch_bytes + peak <= step_bytes(checkpoint.config, tokens, 1) + rounding
