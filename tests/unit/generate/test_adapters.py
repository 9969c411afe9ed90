"""LoRA adapters in both runners: like the model they would be merged into, each request with its own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import aquila
from adapter_parts import ALL, flagai_adapter, merged, random_adapter
from aquila.checkpoint.adapter import Adapter, read_adapter
from aquila.checkpoint.convert import convert
from aquila.checkpoint.native_weights import choose_formats
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.checkpoint.packed_writer import quantise
from aquila.cli.app import app
from aquila.errors import AquilaError, ConfigError, GenerationError
from aquila.generate.engine import Engine
from aquila.generate.memory_plan import step_bytes
from aquila.generate.native_adapter import adapter_bytes
from aquila.generate.native_runner import (
    NativeRunner,
    make_decoder,
    make_limited_runner,
    make_native_runner,
    place_weights,
)
from aquila.generate.request import Completion, Request
from aquila.generate.runner import Runner, SequenceStep
from aquila.generate.sampling import SamplingParams
from aquila.generate.torch_runner import make_runner
from aquila.kernels.native import native_module, usable_kernels
from checkpoint_parts import with_interleaved_rows
from parts import tiny_checkpoint, tiny_tokenizer

KV_BYTES = 1 << 20
KERNELS = [*usable_kernels(), "torch"]
native_only = pytest.mark.skipif(not usable_kernels(), reason="the native kernels are not built")
FORMATS = ("fp32", "fp16", "bf16", "w4", "w4m", "w8")
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=16, seed=0, ignore_eos=True, logprobs=0)
TARGETS = (("q_proj", "v_proj"), ("k_proj", "o_proj"), ("gate_proj",), ("up_proj", "down_proj"), ALL)
MODELS: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "biases, and rows that fill no group": {
        "hidden_size": 40,
        "head_dim": 10,
        "intermediate_size": 72,
        "qkv_bias": True,
    },
}


def make(checkpoint: Checkpoint, kernels: str, threads: int = 1, dtype: str = "fp32") -> Runner:
    if kernels == "torch":
        return make_runner(checkpoint, device="cpu", dtype=dtype, max_context=None, kv_bytes=KV_BYTES)
    return make_native_runner(
        native_module(), checkpoint, dtype=dtype, kv_bytes=KV_BYTES, kernels=kernels, threads=threads
    )


def prompt(count: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, tiny_tokenizer().vocab_size, size=count).tolist()


def logits(runner: Runner, ids: Sequence[int], adapter: int = 0, *, chunk: int | None = None) -> np.ndarray:
    """Logits of every token, computed `chunk` tokens a step: float32 `[tokens, vocab]`."""
    pages, chunk = range(-(-len(ids) // 16)), chunk or len(ids)
    rows = []
    for start in range(0, len(ids), chunk):
        piece = ids[start : start + chunk]
        rows.append(runner.step([SequenceStep(piece, start, pages, len(piece), adapter)]))
    return np.concatenate(rows)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("targets", TARGETS, ids="-".join)
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_the_merged_model(tmp_path: Path, name: str, targets: tuple[str, ...], kernels: str):
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "tiny", **MODELS[name]))
    adapter = read_adapter(random_adapter(tmp_path / "a", checkpoint.config, targets), checkpoint.config)
    expected = logits(make(merged(checkpoint, adapter, tmp_path / "merged"), "torch"), prompt(120))
    runner = make(checkpoint, kernels)
    plain = logits(runner, prompt(120))
    found = logits(runner, prompt(120), runner.load_adapter(adapter))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.abs(plain - expected).max() > 0.1
    np.testing.assert_allclose(logits(runner, prompt(120)), plain, rtol=0, atol=1e-4 if kernels == "torch" else 0)


def moved(checkpoint: Checkpoint, path: Path, kind: str) -> Checkpoint:
    """The same model with the rows of q and k in another order: in memory, or in a file that reorders them on load."""
    if kind == "interleaved":
        return with_interleaved_rows(checkpoint)
    target = path / ("moved.gguf" if kind == "gguf" else "moved")
    return open_checkpoint(convert(checkpoint.path, target, to=kind, dtype="fp32"))


@pytest.mark.parametrize("kernels", KERNELS[-2:])
@pytest.mark.parametrize("kind", ["interleaved", "gguf", "flagai"])
@pytest.mark.parametrize("adapter_kind", ["peft", "flagai"])
def test_any_order_of_rotary_rows_equals_the_merged_model(tmp_path: Path, kind: str, adapter_kind: str, kernels: str):
    """Adapters of q and k follow the rows of the model, however model and adapter were stored."""
    plain = open_checkpoint(tiny_checkpoint(tmp_path / "tiny"))
    targets = ("q_proj", "k_proj", "v_proj")
    make_folder = random_adapter if adapter_kind == "peft" else flagai_adapter
    reference = read_adapter(random_adapter(tmp_path / "reference", plain.config, targets), plain.config)
    expected = logits(make(merged(plain, reference, tmp_path / "merged"), "torch"), prompt(60))
    checkpoint = moved(plain, tmp_path, kind)
    adapter = read_adapter(make_folder(tmp_path / "a", plain.config, targets), checkpoint.config)
    runner = make(checkpoint, kernels)
    found = logits(runner, prompt(60), runner.load_adapter(adapter))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert checkpoint.config.rope_interleaved == (kind == "interleaved")


@pytest.mark.parametrize(("rank", "dtype"), [(1, "fp32"), (3, "fp16"), (16, "bf16"), (33, "fp32")])
@pytest.mark.parametrize("kernels", KERNELS)
def test_any_rank_and_dtype(tmp_path: Path, rank: int, dtype: str, kernels: str):
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "tiny"))
    path = random_adapter(tmp_path / "a", checkpoint.config, rank=rank, dtype=dtype, use_rslora=True)
    adapter = read_adapter(path, checkpoint.config)
    expected = logits(make(merged(checkpoint, adapter, tmp_path / "merged"), "torch"), prompt(50))
    runner = make(checkpoint, kernels)
    found = logits(runner, prompt(50), runner.load_adapter(adapter))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@dataclass(frozen=True)
class Parts:
    """A model and three adapters that differ in rank and matrices."""

    checkpoint: Checkpoint
    adapters: tuple[Adapter, ...]
    folders: tuple[Path, ...]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    path = tmp_path_factory.mktemp("adapters")
    checkpoint = open_checkpoint(
        tiny_checkpoint(path / "tiny", hidden_size=48, head_dim=24, max_position_embeddings=512)
    )
    folders = (
        random_adapter(path / "all", checkpoint.config, rank=6, seed=1),
        random_adapter(path / "some", checkpoint.config, ("v_proj", "up_proj"), rank=17, seed=2),
        random_adapter(path / "gate", checkpoint.config, ("gate_proj",), rank=2, seed=3, dtype="bf16"),
    )
    return Parts(checkpoint, tuple(read_adapter(folder, checkpoint.config) for folder in folders), folders)


@native_only
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("threads", [1, 3])
def test_company_and_pieces_do_not_change_bits(small: Parts, dtype: str, threads: int):
    """Sequences with each adapter and with none, mixed: in one step, in pieces, with a prompt or decoding."""
    runner = make(small.checkpoint, "", threads, dtype)
    lengths = (1, 2, 7, 40, 130, 290, 30, 9)
    texts = [prompt(count, seed=count) for count in lengths]
    plain = [logits(runner, text) for text in texts]
    numbers = [runner.load_adapter(adapter) for adapter in small.adapters]
    chosen = [numbers[0], 0, numbers[1], numbers[0], numbers[2], 0, numbers[1], numbers[0]]
    alone = [logits(runner, *pair) for pair in zip(texts, chosen, strict=True)]
    for rows, before, adapter in zip(alone, plain, chosen, strict=True):
        assert np.isfinite(rows).all()
        assert np.array_equal(rows, before) == (adapter == 0)
    for chunk in (1, 5, 97):
        np.testing.assert_array_equal(logits(runner, texts[4], chosen[4], chunk=chunk), alone[4])
    places, first = [], 0
    for text in texts:
        places.append(range(first, first + -(-len(text) // 16)))
        first = places[-1].stop
    parts = list(zip(texts, places, chosen, strict=True))
    together = [SequenceStep(text, 0, pages, len(text), adapter) for text, pages, adapter in parts]
    np.testing.assert_array_equal(runner.step(together), np.concatenate(alone))
    again = [SequenceStep(text[-1:], len(text) - 1, pages, 1, adapter) for text, pages, adapter in parts]
    np.testing.assert_array_equal(runner.step(again[::-1]), [rows[-1] for rows in alone[::-1]])
    mixed = [SequenceStep(texts[4][100:], 100, places[4], 3, chosen[4]), again[1], again[7]]
    np.testing.assert_array_equal(runner.step(mixed), [*alone[4][-3:], alone[1][-1], alone[7][-1]])


def test_torch_gives_each_sequence_of_a_step_its_own_adapter(small: Parts):
    """As alone, to rounding; sequences without an adapter are among them."""
    runner = make(small.checkpoint, "torch")
    numbers = [runner.load_adapter(adapter) for adapter in small.adapters]
    chosen = [numbers[1], 0, numbers[0], numbers[2], numbers[0]]
    texts = [prompt(count, seed=count) for count in (5, 20, 16, 1, 40)]
    alone = [logits(runner, *pair) for pair in zip(texts, chosen, strict=True)]
    parts = [
        SequenceStep(text, 0, range(4 * place, 4 * place + 4), len(text), adapter)
        for place, (text, adapter) in enumerate(zip(texts, chosen, strict=True))
    ]
    np.testing.assert_allclose(runner.step(parts), np.concatenate(alone), rtol=0, atol=1e-4)
    others = [logits(runner, text, 0) for text in texts]
    assert [np.abs(a - b).max() > 0.1 for a, b in zip(alone, others, strict=True)] == [n > 0 for n in chosen]


@native_only
def test_threads_do_not_change_bits(small: Parts):
    """One token of a long context among them: its attention is cut into chunks."""
    runner = make(small.checkpoint, "", 1, "w4")
    number = runner.load_adapter(small.adapters[0])
    expected = logits(runner, prompt(300), number)
    for threads in (2, 5):
        runner = make(small.checkpoint, "", threads, "w4")
        number = runner.load_adapter(small.adapters[0])
        np.testing.assert_array_equal(logits(runner, prompt(300), number), expected)
        last = runner.step([SequenceStep(prompt(300)[299:], 299, range(19), 1, number)])
        np.testing.assert_array_equal(last, expected[-1:])


@native_only
@pytest.mark.parametrize("to", ["f32", "w4", "w8"])
def test_streamed_weights_do_not_change_bits(small: Parts, tmp_path: Path, to: str):
    checkpoint = open_checkpoint(quantise(small.checkpoint.path, tmp_path / "model.aqw", to=to))
    formats, runners = choose_formats(checkpoint.tensors, None), []
    for pinned in (tuple(formats), ()):
        decoder = make_decoder(native_module(), checkpoint.config, threads=2)
        place_weights(native_module(), decoder, checkpoint, formats, pinned=pinned)
        if not pinned:
            decoder.set_stream(str(checkpoint.path), 4096, 3, 2)
        runners.append(NativeRunner(decoder, checkpoint.config, max_context=512, num_pages=40, kv_type="f32"))
    for adapter in small.adapters:
        resident, streamed = (logits(runner, prompt(40), runner.load_adapter(adapter), chunk=7) for runner in runners)
        np.testing.assert_array_equal(streamed, resident)


@native_only
@pytest.mark.parametrize(("tokens", "threads"), [(1, 3), (100, 1), (256, 2)])
def test_the_decoder_allocates_what_is_planned(small: Parts, tokens: int, threads: int):
    runner = make_native_runner(native_module(), small.checkpoint, dtype="w8", kv_bytes=KV_BYTES, threads=threads)
    module = native_module()
    assert module is not None
    for adapter in small.adapters:
        before = module.allocated_bytes()
        number = runner.load_adapter(adapter)
        assert module.allocated_bytes() - before <= adapter_bytes(adapter) + 4096
    runner.step([SequenceStep([1] * tokens, 0, range(16), tokens, number)])
    rounding = 11 * 4096  # each of eleven allocations ends with a page
    assert runner.decoder.scratch_bytes <= step_bytes(small.checkpoint.config, tokens, threads, 17) + rounding


@native_only
def test_a_memory_limit_counts_adapters(small: Parts, tmp_path: Path):
    checkpoint = open_checkpoint(quantise(small.checkpoint.path, tmp_path / "model.aqw", to="w8"))
    limit = 4 << 30
    plans = [
        make_limited_runner(native_module(), checkpoint, memory_limit=limit, threads=1, adapters=adapters).plan
        for adapters in ((), small.adapters)
    ]
    plain, adapted = (plan for plan in plans if plan is not None)
    more = adapted.process_bytes - plain.process_bytes
    assert more >= sum(adapter_bytes(adapter) for adapter in small.adapters)
    assert adapted.step_bytes > plain.step_bytes


def engine_of(small: Parts, kernels: str, **options: Any) -> Engine:
    engine = Engine(make(small.checkpoint, kernels), tiny_tokenizer(), **options)
    for name, adapter in zip(("a", "b", "c"), small.adapters, strict=True):
        engine.load_adapter(name, adapter)
    return engine


def only(engine: Engine, request: Request) -> Completion:
    return engine.generate([request])[0][0]


@pytest.mark.parametrize("kernels", KERNELS[-2:])
def test_a_prefix_is_used_again_under_its_own_adapter_only(small: Parts, kernels: str):
    engine = engine_of(small, kernels)
    request = Request(tuple(prompt(70)), GREEDY)
    requests = [replace(request, adapter=name) for name in (None, "a", "b", None, "a", "b")]
    found = [only(engine, each) for each in requests]
    assert [each.num_cached_tokens for each in found] == [0, 0, 0, 64, 64, 64]
    fresh = [only(engine_of(small, kernels, prefix_cache=False), each) for each in requests[:3]]
    assert [each.token_ids for each in found] == [each.token_ids for each in fresh] * 2
    assert len({tuple(each.token_ids) for each in fresh}) == 3


@native_only
def test_requests_with_different_adapters_run_together(small: Parts):
    """Few pages and small steps: sequences are preempted and begin again with their own adapter."""
    names = (None, "a", "b", "c", "a", None)
    requests = [
        Request(tuple(prompt(20 + 9 * index, seed=index)), replace(GREEDY, n=1 + index % 2), name)
        for index, name in enumerate(names)
    ]
    alone = [engine_of(small, "").generate([request])[0] for request in requests]
    engine = engine_of(small, "", max_batched_tokens=24, max_sequences=5)
    assert [strip(group) for group in engine.generate(requests)] == [strip(group) for group in alone]


def strip(group: Sequence[Completion]) -> list[tuple[Any, ...]]:
    return [(each.token_ids, each.text, each.logprobs) for each in group]


def test_names_that_are_not_loaded_are_refused(small: Parts):
    engine = engine_of(small, "torch")
    with pytest.raises(GenerationError, match="adapter 'd' is not loaded; known: a, b, c; name one"):
        engine.submit(Request((1, 2), GREEDY, "d"))
    with pytest.raises(ConfigError, match="adapter 'a': the name is taken"):
        engine.load_adapter("a", small.adapters[1])
    with pytest.raises(GenerationError, match="adapter 'a' is not loaded; none is; name one"):
        Engine(engine.runner, tiny_tokenizer()).submit(Request((1, 2), GREEDY, "a"))


def test_load_takes_adapters_by_name(small: Parts, tmp_path: Path):
    model = aquila.load(small.checkpoint.path, device="cpu", adapters={"mine": small.folders[0]})
    plain, adapted = (model.generate("def is_prime", GREEDY, adapter=name)[0] for name in (None, "mine"))
    whole = merged(small.checkpoint, small.adapters[0], tmp_path / "merged")
    assert adapted.token_ids == aquila.load(whole.path, device="cpu").generate("def is_prime", GREEDY)[0].token_ids
    assert adapted.token_ids != plain.token_ids
    deltas = list(model.stream(model.prompt_ids("def is_prime"), GREEDY, adapter="mine"))
    assert [token for delta in deltas for token in delta.token_ids] == adapted.token_ids


def test_generate_takes_an_adapter(small: Parts, tmp_path: Path):
    def tokens(*options: str | Path) -> list[int]:
        arguments = ["generate", "--json", "--quiet", "--temperature", "0", "--max-new-tokens", "12", *options]
        done = CliRunner().invoke(app, [*map(str, arguments), "def is_prime"], catch_exceptions=False)
        return json.loads(done.stdout.splitlines()[0])["token_ids"]

    checkpoint = small.checkpoint.path
    whole = merged(small.checkpoint, small.adapters[0], tmp_path / "merged")
    adapted = tokens("--model", checkpoint, "--adapter", small.folders[0])
    assert adapted == tokens("--model", whole.path) != tokens("--model", checkpoint)
    with pytest.raises(AquilaError, match="none: is not a folder"):
        tokens("--model", checkpoint, "--adapter", tmp_path / "none")
