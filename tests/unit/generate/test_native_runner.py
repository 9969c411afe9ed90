"""The native runner against the torch one, and against itself: whatever is computed together, the bits are the same.

Every bound on a distance was set at two to four times the largest distance found over the models of its test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aquila.checkpoint.checkpoint import Export
from aquila.checkpoint.native_weights import choose_formats
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.checkpoint.packed_writer import quantise
from aquila.checkpoint.tensors import from_array
from aquila.generate.native_runner import NativeRunner, make_decoder, make_native_runner, place_weights
from aquila.generate.runner import Runner, SequenceStep
from aquila.generate.torch_runner import TorchRunner, make_runner
from aquila.kernels.native import native_module, usable_kernels
from aquila.kernels.reference import rounded
from aquila.model.config import RopeScaling
from aquila.model.linear import Linear
from checkpoint_parts import with_interleaved_rows, write
from parts import tiny_checkpoint, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(not usable_kernels(), reason="the native kernels are not built")

KV_BYTES = 1 << 20
LONG = 400  # tokens: more than three chunks of 128 positions, so that partial softmaxes are merged
MODELS: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "a kv head for every head": {"num_key_value_heads": 4},
    "one kv head": {"num_key_value_heads": 1},
    "more queries than an item of attention takes": {
        "num_attention_heads": 20,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "hidden_size": 64,
    },
    "heads of 24": {"head_dim": 24, "hidden_size": 48},
    "heads of 80": {"head_dim": 80},
    "rows that fill no group": {"hidden_size": 40, "head_dim": 10, "intermediate_size": 72},
    "biases": {"qkv_bias": True},
    "interleaved pairs": {"rope_interleaved": True},
    "tied": {"tie_word_embeddings": True},
    "linear": {"rope_scaling": RopeScaling(type="linear", factor=4.0)},
    "dynamic": {"rope_scaling": RopeScaling(type="dynamic", factor=4.0)},
    "llama3": {"rope_scaling": RopeScaling(type="llama3", factor=8.0, original_max_position_embeddings=64)},
}


@cache
def prompt(count: int, seed: int = 1) -> list[int]:
    """Random token ids."""
    return np.random.default_rng(seed).integers(0, tiny_tokenizer().vocab_size, size=count).tolist()


def pages_for(count: int, first: int = 0) -> list[int]:
    return list(range(first, first + -(-count // 16)))


def logits(runner: Runner, ids: Sequence[int], *, chunk: int | None = None, pages: Sequence[int] | None = None) -> Any:
    """Logits of every token, computed `chunk` tokens a step: float32 `[tokens, vocab]`."""
    chunk, pages = chunk or len(ids), pages or pages_for(len(ids))
    rows = []
    for start in range(0, len(ids), chunk):
        piece = ids[start : start + chunk]
        rows.append(runner.step([SequenceStep(piece, start, pages, len(piece))]))
    return np.concatenate(rows)


@dataclass(frozen=True)
class Parts:
    """A checkpoint on disk, and runners over it."""

    checkpoint: Checkpoint

    def native(self, dtype: str | None = None, *, kernels: str = "", threads: int = 1) -> NativeRunner:
        return make_native_runner(
            native_module(), self.checkpoint, dtype=dtype, kv_bytes=KV_BYTES, kernels=kernels, threads=threads
        )

    def torch(self, max_context: int | None = None) -> TorchRunner:
        return make_runner(self.checkpoint, device="cpu", dtype="fp32", max_context=max_context, kv_bytes=KV_BYTES)


def runner_of(
    checkpoint: Checkpoint,
    *,
    pinned: Sequence[str] | None = None,
    kv_type: str = "f32",
    kernels: str = "",
    threads: int = 1,
    job_bytes: int = 4096,
) -> NativeRunner:
    """A runner with a choice that callers do not have: keys and values of a type, a part of the weights in memory."""
    native, config = native_module(), checkpoint.config
    formats = choose_formats(checkpoint.tensors, None)
    decoder = make_decoder(native, config, threads=threads, kernels=kernels)
    place_weights(native, decoder, checkpoint, formats, pinned=tuple(formats) if pinned is None else pinned)
    if pinned is not None:
        decoder.set_stream(str(checkpoint.path), job_bytes, 3, 2)
    pages = -(-config.max_position_embeddings // 16) * 2
    return NativeRunner(decoder, config, max_context=config.max_position_embeddings, num_pages=pages, kv_type=kv_type)


def parts(path: Path, **changes: Any) -> Parts:
    checkpoint = open_checkpoint(tiny_checkpoint(path / "tiny", **{"max_position_embeddings": 512, **changes}))
    if changes.get("rope_interleaved"):  # files know the other order only
        checkpoint = with_interleaved_rows(checkpoint)
    return Parts(checkpoint)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference, as a share of the expected values'."""
    return float(np.sqrt(np.square(found - expected, dtype=np.float64).mean() / np.square(expected).mean()))


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_the_torch_model(tmp_path: Path, name: str):
    """fp32 on both sides, over a context of four chunks, on every instruction set."""
    made = parts(tmp_path, **MODELS[name])
    ids = prompt(LONG)
    expected = logits(made.torch(), ids)
    for kernels in usable_kernels():
        found = logits(made.native(kernels=kernels), ids)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4, err_msg=kernels)


def test_dynamic_scaling_follows_the_context_served(tmp_path: Path):
    changes = {"max_position_embeddings": 128, "rope_scaling": RopeScaling(type="dynamic", factor=4.0)}
    made = parts(tmp_path, **changes)
    ids = prompt(300)
    runner = make_native_runner(native_module(), made.checkpoint, max_context=512, kv_bytes=KV_BYTES)
    np.testing.assert_allclose(logits(runner, ids), logits(made.torch(512), ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kv_type", "bound"), [("f16", 2e-3), ("i8", 4e-2)])
@pytest.mark.parametrize("name", ["grouped queries", "heads of 24"])
def test_compact_keys_and_values_cost_little(tmp_path: Path, name: str, kv_type: str, bound: float):
    """Half precision rounds to 2^-11 of a value, int8 to 1/254 of the largest of a head."""
    checkpoint = parts(tmp_path, **MODELS[name]).checkpoint
    ids = prompt(LONG)
    exact = logits(runner_of(checkpoint), ids)
    found = logits(runner_of(checkpoint, kv_type=kv_type), ids)
    assert bound / 20 < distance(found, exact) < bound


@pytest.mark.parametrize("quantize", ["q4_0", "q8_0"])
@pytest.mark.parametrize("name", ["grouped queries", "heads of 24"])
def test_quantised_files_give_the_model_with_rounded_activations(tmp_path: Path, name: str, quantize: str):
    """The weights are those of the file; inputs of products are rounded to 1/254 of the largest in a block of 32.

    With that rounding in the torch model, nearly all logits agree to 1e-5; the others saw a code on the other side of
    a half step. Without it they differ by what the rounding is worth.
    """
    checkpoint = quantised_file(tmp_path / "model.gguf", quantize, **MODELS[name])
    texts = [prompt(6, seed=seed) for seed in range(20)]
    torch_runner = Parts(checkpoint).torch()
    plain = np.concatenate([logits(torch_runner, text) for text in texts])
    round_inputs(torch_runner)
    twin = np.concatenate([logits(torch_runner, text) for text in texts])
    for kernels in usable_kernels():
        runner = runner_of(checkpoint, kernels=kernels)
        found = np.concatenate([logits(runner, text) for text in texts])
        same = [distance(*rows) < 1e-5 for rows in zip(found, twin, strict=True)]
        assert np.mean(same) > 0.9, kernels
        assert distance(found, twin) < distance(found, plain) < 0.03, kernels


def quantised_file(path: Path, quantize: str, **changes: Any) -> Checkpoint:
    """A GGUF file whose norms have random weights: with weights of 1, inputs would lie on half steps."""
    model = tiny_model(**{"intermediate_size": 96, "initializer_range": 0.15, **changes, "hidden_size": 64})
    generator = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        if weight.ndim == 1:
            weight.uniform_(0.5, 1.5, generator=generator)
    tensors = {key: from_array(weight.numpy()) for key, weight in model.named_parameters()}
    whole = Export(model.config, tensors, "fp32", tiny_tokenizer(), {"name": "tiny"})
    checkpoint = open_checkpoint(write(whole, path, "gguf", quantize))
    types = [tensor.quantised and tensor.quantised.type for tensor in checkpoint.tensors.values()]
    assert types.count(quantize) >= 14  # seven matrices in each of two layers
    return checkpoint


class RoundedLinear(Linear):
    """A product that sees what the kernels see. Its type keeps it from being computed together with others."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        values = rounded(input.reshape(-1, input.shape[-1]).numpy())
        return torch.nn.functional.linear(torch.from_numpy(values).reshape(input.shape), self.weight, self.bias)


def round_inputs(runner: TorchRunner) -> None:
    for module in runner.model.modules():
        if isinstance(module, Linear):
            module.__class__ = RoundedLinear


FORMATS = ("fp32", "fp16", "bf16", "w4", "w4m", "w8")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts(tmp_path_factory.mktemp("small"), hidden_size=48, head_dim=24)


@pytest.mark.parametrize("kernels", usable_kernels())
@pytest.mark.parametrize("dtype", FORMATS)
def test_pieces_do_not_change_bits(small: Parts, dtype: str, kernels: str):
    """A prompt computed at once, token by token, and in pieces that end inside pages, chunks and tiles."""
    ids = prompt(300)
    runner = small.native(dtype, kernels=kernels)
    whole = logits(runner, ids)
    assert np.isfinite(whole).all()
    for chunk in (1, 5, 16, 97, 128, 129):
        np.testing.assert_array_equal(logits(runner, ids, chunk=chunk), whole, err_msg=str(chunk))


@pytest.mark.parametrize("dtype", FORMATS)
def test_threads_do_not_change_bits(small: Parts, dtype: str):
    ids = prompt(300)
    alone = small.native(dtype)
    whole, single = logits(alone, ids), logits(alone, ids[:260], chunk=20)
    for threads in (2, 3, 5):
        runner = small.native(dtype, threads=threads)
        np.testing.assert_array_equal(logits(runner, ids), whole)
        np.testing.assert_array_equal(logits(runner, ids[:260], chunk=20), single)
        # one token of a long context: its attention is cut into chunks
        decoded = runner.step([SequenceStep(ids[299:], 299, pages_for(300), 1)])
        logits(runner, ids)
        decoded = runner.step([SequenceStep(ids[299:], 299, pages_for(300), 1)])
        np.testing.assert_array_equal(decoded, whole[-1:])


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("threads", [1, 3])
def test_company_does_not_change_bits(small: Parts, dtype: str, threads: int):
    """Sequences of several lengths, some decoding and some with a prompt, in one step."""
    runner = small.native(dtype, threads=threads)
    lengths = (1, 2, 7, 40, 130, 290)
    texts = [prompt(count, seed=count) for count in lengths]
    alone = [logits(runner, text) for text in texts]
    places, first = [], 0
    for text in texts:
        places.append(pages_for(len(text), first))
        first += len(places[-1])
    together = [SequenceStep(text, 0, pages, len(text)) for text, pages in zip(texts, places, strict=True)]
    np.testing.assert_array_equal(runner.step(together), np.concatenate(alone))
    again = [SequenceStep(text[-1:], len(text) - 1, pages, 1) for text, pages in zip(texts, places, strict=True)]
    np.testing.assert_array_equal(runner.step(again[::-1]), np.array([rows[-1] for rows in alone[::-1]]))
    mixed = [SequenceStep(texts[5][200:], 200, places[5], 3), again[0], SequenceStep(texts[4][:9], 0, places[4], 0)]
    np.testing.assert_array_equal(runner.step([*mixed, again[3]]), [*alone[5][-3:], alone[0][-1], alone[3][-1]])


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_cached_prefix_does_not_change_bits(small: Parts, dtype: str):
    """Two texts that share their first nine pages, the second computed from there on; pages lie in any order."""
    runner = small.native(dtype, threads=2)
    first = prompt(200)
    second = [*first[:144], *prompt(80, seed=2)]
    expected = logits(runner, second)
    places = np.random.default_rng(3).permutation(runner.num_pages)[:40].tolist()
    logits(runner, first, pages=places[:13])
    found = runner.step([SequenceStep(second[144:], 144, [*places[:9], *places[13:18]], 80)])
    np.testing.assert_array_equal(found, expected[144:])


@pytest.mark.parametrize("dtype", FORMATS)
def test_drafts_do_not_change_bits(small: Parts, dtype: str):
    """Tokens behind a wrong guess are written over and leave no trace."""
    runner = small.native(dtype, threads=2)
    ids = prompt(150)
    expected = logits(runner, ids)
    runner.step([SequenceStep(ids[:140], 0, pages_for(150), 0)])
    guessed = [*ids[140:142], *prompt(4, seed=9)]
    found = runner.step([SequenceStep(guessed, 140, pages_for(150), 6)])
    np.testing.assert_array_equal(found[:2], expected[140:142])
    assert (found[2:] != expected[142:146]).any()
    found = runner.step([SequenceStep(ids[142:], 142, pages_for(150), 8)])
    np.testing.assert_array_equal(found, expected[142:])


def layer_names(checkpoint: Checkpoint, layer: int) -> list[str]:
    return [
        name
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(f"model.layers.{layer}.") and len(tensor.shape) == 2
    ]


@pytest.mark.parametrize(
    ("to", "kv_type"), [("f32", "f32"), ("f16", "f16"), ("w4", "i8"), ("w4m", "f16"), ("w8", "f32")]
)
def test_streamed_weights_do_not_change_bits(small: Parts, tmp_path: Path, to: str, kv_type: str):
    """All weights, or those of one layer and the head, pass through a ring of three pieces of one row group or more."""
    checkpoint = open_checkpoint(quantise(small.checkpoint.path, tmp_path / "model.aqw", to=to))
    ids = prompt(40)
    expected = logits(runner_of(checkpoint, kv_type=kv_type, threads=2), ids)
    first_layer = [*layer_names(checkpoint, 0), "model.embed_tokens.weight"]
    for pinned, threads, job_bytes, chunk in (
        ((), 1, 1, 23),
        ((), 3, 8192, 1),
        ((), 2, 100_000, 40),
        (first_layer, 2, 4096, 7),
    ):
        runner = runner_of(checkpoint, pinned=pinned, kv_type=kv_type, threads=threads, job_bytes=job_bytes)
        np.testing.assert_array_equal(logits(runner, ids, chunk=chunk), expected)
        np.testing.assert_array_equal(logits(runner, ids), expected)
        assert runner.decoder.bytes_read > 0


def test_a_tied_head_is_streamed_and_its_rows_are_read(tmp_path: Path):
    made = parts(tmp_path, tie_word_embeddings=True)
    checkpoint = open_checkpoint(quantise(made.checkpoint.path, tmp_path / "model.aqw", to="w8"))
    ids = prompt(40)
    expected = logits(runner_of(checkpoint), ids)
    np.testing.assert_array_equal(logits(runner_of(checkpoint, pinned=()), ids, chunk=7), expected)


def test_a_step_may_want_nothing(small: Parts, tmp_path: Path):
    """Inside a prompt no logits are wanted; the ring still passes by the head."""
    checkpoint = open_checkpoint(quantise(small.checkpoint.path, tmp_path / "model.aqw", to="w4"))
    ids = prompt(40)
    expected = logits(runner_of(checkpoint), ids)
    runner = runner_of(checkpoint, pinned=(), threads=2)
    assert runner.step([SequenceStep(ids[:30], 0, pages_for(40), 0)]).shape == (0, checkpoint.config.vocab_size)
    np.testing.assert_array_equal(runner.step([SequenceStep(ids[30:], 30, pages_for(40), 10)]), expected[30:])
