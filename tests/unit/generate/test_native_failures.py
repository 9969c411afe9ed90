"""What the native runner does with numbers that are none, files that change under it, and arguments that lie."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquila.checkpoint.native_weights import choose_formats
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.checkpoint.packed_writer import quantise
from aquila.checkpoint.tensors import LazyTensor
from aquila.errors import GenerationError
from aquila.generate.memory_forecast import smallest_limit
from aquila.generate.native_runner import (
    NativeRunner,
    make_decoder,
    make_limited_runner,
    make_native_runner,
    place_weights,
    planner,
)
from aquila.generate.runner import SequenceStep
from aquila.kernels.formats import FORMATS
from aquila.kernels.native import native_module, usable_kernels
from parts import tiny_checkpoint

pytestmark = pytest.mark.skipif(not usable_kernels(), reason="the native kernels are not built")

IDS = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4)
PAGES = (0, 1)


def streamed(path: Path, *, threads: int = 2, kernels: str = "") -> NativeRunner:
    """Reads every matrix from the file in every step."""
    checkpoint = open_checkpoint(path)
    decoder = make_decoder(native_module(), checkpoint.config, threads=threads, kernels=kernels)
    formats = {name: item.quantised.type for name, item in checkpoint.tensors.items() if item.quantised}
    names = {item.gguf_type.lower(): name for name, item in FORMATS.items()}
    formats = {name: names[kind] for name, kind in formats.items()}
    place_weights(native_module(), decoder, checkpoint, formats, pinned=())
    decoder.set_stream(str(path), 4096, 3, 2)
    return NativeRunner(decoder, checkpoint.config, max_context=128, num_pages=16, kv_type="f16")


def step(runner: NativeRunner, ids: tuple[int, ...] = IDS) -> np.ndarray:
    return runner.step([SequenceStep(ids, 0, PAGES, len(ids))])


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    source = tiny_checkpoint(tmp_path / "tiny", hidden_size=64)
    return quantise(source, tmp_path / "model.aqw", to="w8")


def change_tensor(checkpoint: Checkpoint, name: str, change: Callable[[np.ndarray], None]) -> Checkpoint:
    from aquila.checkpoint.tensors import from_array

    values = checkpoint.tensors[name].numpy(np.dtype(np.float32)).copy()
    change(values)
    checkpoint.tensors[name] = from_array(values)
    return checkpoint


def native_runner(checkpoint: Checkpoint, **options: Any) -> NativeRunner:
    return make_native_runner(native_module(), checkpoint, kv_bytes=1 << 18, threads=2, **options)


@pytest.mark.parametrize("kernels", usable_kernels())
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_broken_row_does_not_outlive_its_step(tmp_path: Path, dtype: str, kernels: str):
    """A token whose numbers are none gives NaN; the next request is computed in the same memory and is well.

    Rows of 40 leave room behind them, up to whole vectors, that nobody may leave dirty.
    """

    def spoil(values: np.ndarray) -> None:
        values[7] = np.nan

    path = tiny_checkpoint(tmp_path / "tiny", hidden_size=40, head_dim=10, intermediate_size=72)
    changed = change_tensor(open_checkpoint(path), "model.embed_tokens.weight", spoil)
    runner = native_runner(changed, dtype=dtype, kernels=kernels)
    assert np.isnan(step(runner, (7,) * len(IDS))).all()
    sound = tuple(3 if token == 7 else token for token in IDS)
    expected = step(native_runner(changed, dtype=dtype, kernels=kernels), sound)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(step(runner, sound), expected)


@pytest.mark.parametrize("kernels", usable_kernels())
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj"])
def test_what_is_no_number_is_seen_in_the_logits(tmp_path: Path, name: str, value: float, kernels: str):
    """A finite answer from a query, key or value that is none would be a wrong one."""

    def spoil(values: np.ndarray) -> None:
        values[0] = value

    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "tiny", qkv_bias=True, initializer_range=0.02))
    changed = change_tensor(checkpoint, f"model.layers.1.self_attn.{name}.bias", spoil)
    assert np.isnan(step(native_runner(changed, kernels=kernels))).all()


@pytest.mark.parametrize("replace", ["rename", "unlink"])
def test_a_file_that_is_replaced_or_removed_goes_on_being_read(packed: Path, tmp_path: Path, replace: str):
    runner = streamed(packed)
    expected = step(runner)
    if replace == "rename":
        other = tiny_checkpoint(tmp_path / "other", seed=1, hidden_size=64)
        os.replace(quantise(other, tmp_path / "other.aqw", to="w8"), packed)
    else:
        packed.unlink()
    for _ in range(3):
        np.testing.assert_array_equal(step(runner), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_that_is_cut_ends_the_request(packed: Path, threads: int):
    runner = streamed(packed, threads=threads)
    expected = step(runner)
    content = packed.read_bytes()
    os.truncate(packed, len(content) // 2)
    for _ in range(2):
        with pytest.raises(GenerationError, match=r"ends at byte|was changed") as caught:
            step(runner)
    assert str(packed) in str(caught.value)
    assert expected.shape == (len(IDS), runner.config.vocab_size)


def test_no_step_is_computed_from_a_file_that_was_written_to(packed: Path):
    """Pieces of the next step are read ahead: those from before the change must not be mixed with those after it."""
    runner = streamed(packed)
    expected = step(runner)
    size = packed.stat().st_size
    with packed.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size // 4))
    try:
        found = step(runner)
    except GenerationError:  # which one, the next step shows
        found = expected
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(GenerationError, match="was changed"):
        step(runner)


def test_a_step_that_was_interrupted_leaves_the_next_one_whole(tmp_path: Path):
    """Ctrl-C inside a long step: the pieces that were read ahead belong to no step and are read anew."""
    source = tiny_checkpoint(tmp_path / "tiny", num_hidden_layers=30, max_position_embeddings=512)
    runner = streamed(quantise(source, tmp_path / "model.aqw", to="w8"), kernels="portable")
    expected = step(runner)
    prompt = [SequenceStep(IDS * 12, 0, tuple(range(16)), 0)]

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  the signal comes during any of them
            signal.setitimer(signal.ITIMER_REAL, 0.03)
            for _ in range(1000):
                runner.step(prompt)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for _ in range(2):
        np.testing.assert_array_equal(step(runner), expected)


def test_a_file_that_is_gone_at_the_start(packed: Path):
    decoder = streamed(packed).decoder
    with pytest.raises(RuntimeError, match=r"nothing\.aqw: cannot be opened: No such file"):
        decoder.set_stream(str(packed.with_name("nothing.aqw")), 4096, 3, 2)


def then(tensor: LazyTensor, happens: Callable[[], object]) -> LazyTensor:
    """The tensor, and what happens once it has been read."""

    def read(start: int, stop: int) -> np.ndarray:
        values = tensor.read(start, stop)
        happens()
        return values

    return LazyTensor(tensor.shape, tensor.dtype, read)


def test_a_file_that_ends_early_while_it_is_loaded(packed: Path):
    checkpoint = open_checkpoint(packed)
    first, second = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
    formats = choose_formats(checkpoint.tensors, None) | {first: "f32"}  # read in Python, and the rest by the kernels
    checkpoint.tensors[first] = then(checkpoint.tensors[first], lambda: os.truncate(packed, 4096))
    decoder = make_decoder(native_module(), checkpoint.config, threads=1)
    with pytest.raises(GenerationError, match=r"model\.aqw: .*; check the disk, and `aquila verify` the file"):
        place_weights(native_module(), decoder, checkpoint, formats, pinned=(first, second))


def test_a_file_that_is_gone_before_the_ring_opens_it(tmp_path: Path):
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}  # 16 MiB: more than the ring
    checkpoint = open_checkpoint(quantise(tiny_checkpoint(tmp_path / "plain", **shape), tmp_path / "m.aqw", to="w8"))
    formats = choose_formats(checkpoint.tensors, None)
    last = "model.layers.3.post_attention_layernorm.weight"
    checkpoint.tensors[last] = then(checkpoint.tensors[last], lambda: checkpoint.path.unlink())
    limit = smallest_limit(planner(checkpoint.config, formats)) + (1 << 20)
    with pytest.raises(GenerationError, match=r"m\.aqw: cannot be opened: No such file.*; check the disk, and `aquila"):
        make_limited_runner(native_module(), checkpoint, memory_limit=limit)


def arguments(runner: NativeRunner, **changes: Any) -> dict[str, np.ndarray]:
    """Of a step of three tokens at positions 0 to 2."""
    pairs = runner.config.head_dim // 2
    fields = {
        "tokens": np.array([1, 2, 3], np.int32),
        "spans": np.array([[0, 3, 0, 1, 0, 0]], np.int64),
        "pages": np.array([0], np.int32),
        "cos": np.ones((3, pairs), np.float32),
        "sin": np.zeros((3, pairs), np.float32),
        "logits": np.empty((1, runner.config.vocab_size), np.float32),
    }
    return fields | changes


LIES: list[tuple[str, Any, str]] = [
    ("tokens", np.array([1, 2, -1], np.int32), "vocabulary"),
    ("tokens", np.array([1, 2, 320], np.int32), "vocabulary"),
    ("tokens", np.array([], np.int32), "has tokens"),
    ("spans", np.array([[0, 2, 0, 1, 0, 0]], np.int64), "cover all tokens"),
    ("spans", np.array([[0, 4, 0, 1, 0, 0]], np.int64), "cover all tokens"),
    ("spans", np.array([[1, 2, 0, 1, 0, 0]], np.int64), "follow each other"),
    ("spans", np.array([[0, 3, -1, 1, 0, 0]], np.int64), "follow each other"),
    ("spans", np.array([[0, 3, 0, 4, 0, 0]], np.int64), "follow each other"),
    ("spans", np.array([[0, 3, 14, 1, 0, 0]], np.int64), "too short"),
    ("spans", np.array([[0, 3, 2**62, 1, 0, 0]], np.int64), "too short"),
    ("spans", np.array([[0, 3, 0, 1, -1, 0]], np.int64), "too short"),
    ("spans", np.array([[0, 3, 0, 1, 0]], np.int64), "six numbers"),
    ("spans", np.array([[0, 3, 0, 1, 0, 7]], np.int64), "adapter"),
    ("pages", np.array([-1], np.int32), "no such page"),
    ("pages", np.array([10**6], np.int32), "no such page"),
    ("cos", np.ones((2, 4), np.float32), "rotation tables"),
    ("sin", np.ones((3, 5), np.float32), "rotation tables"),
    ("logits", np.empty((2, 320), np.float32), "logits are"),
    ("logits", np.empty((1, 319), np.float32), "logits are"),
]


@pytest.mark.parametrize(("field", "value", "message"), LIES)
def test_a_step_that_would_leave_its_memory_is_refused(tmp_path: Path, field: str, value: Any, message: str):
    runner = native_runner(open_checkpoint(tiny_checkpoint(tmp_path / "tiny", vocab_size=320)))
    runner.decoder.step(*arguments(runner).values())
    with pytest.raises(ValueError, match=message):
        runner.decoder.step(*arguments(runner, **{field: value}).values())


def test_weights_of_another_size_are_refused(tmp_path: Path):
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "tiny"))
    decoder = make_decoder(native_module(), checkpoint.config, threads=1)
    with pytest.raises(ValueError, match="fewer bytes"):
        decoder.set_matrix(0, 0, "f32", 32, 32, np.empty(32 * 32 * 4 - 1, np.uint8))
    with pytest.raises(ValueError, match="no weight format 'q5'"):
        decoder.set_matrix(0, 0, "q5", 32, 32, np.empty(32 * 32 * 4, np.uint8))
    with pytest.raises(ValueError, match="is no matrix"):
        decoder.set_matrix(0, 0, "f32", 16, 32, np.empty(32 * 32 * 4, np.uint8))
    with pytest.raises(ValueError, match="is no matrix"):
        decoder.set_matrix(2, 0, "f32", 32, 32, np.empty(32 * 32 * 4, np.uint8))
    with pytest.raises(ValueError, match="hidden_size"):
        decoder.set_norm(0, 0, np.ones(31, np.float32))
    with pytest.raises(ValueError, match="rows of its matrix"):
        decoder.set_bias(0, 1, np.ones(15, np.float32))
    with pytest.raises(ValueError, match="no kernels for 'mmx'"):
        make_decoder(native_module(), checkpoint.config, kernels="mmx")
