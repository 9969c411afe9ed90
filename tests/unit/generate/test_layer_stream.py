"""A memory limit of the torch runner: layers pass through two slots, and every bit stays what it was."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapter_parts import random_adapter
from aquila.checkpoint.adapter import read_adapter
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.errors import ConfigError
from aquila.generate.device_plan import plan_device
from aquila.generate.engine import Engine
from aquila.generate.request import Request
from aquila.generate.runner import SequenceStep
from aquila.generate.sampling import SamplingParams
from aquila.generate.torch_runner import TorchRunner, make_limited_runner, make_runner
from parts import tiny_checkpoint, tiny_tokenizer

CPU = torch.device("cpu")
LAYERS = 7
MODELS: dict[str, dict[str, Any]] = {
    "a head of its own": {},
    "tied": {"tie_word_embeddings": True},
    "biases, and rows that fill no line": {
        "hidden_size": 40,
        "head_dim": 10,
        "intermediate_size": 72,
        "qkv_bias": True,
    },
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return open_checkpoint(tiny_checkpoint(folder, num_hidden_layers=LAYERS, **request.param))


def whole(checkpoint: Checkpoint, dtype: str = "fp32") -> TorchRunner:
    return make_runner(checkpoint, device="cpu", dtype=dtype, max_context=None, kv_bytes=1 << 16)


def limit_for(checkpoint: Checkpoint, pinned: int, itemsize: int = 4) -> int:
    """The least limit, to some 4 KiB, at which so many layers stay on the device."""
    low, high = 0, 1 << 24
    while high - low > 4096:
        middle = (low + high) // 2
        try:
            plan = plan_device(checkpoint.config, itemsize=itemsize, device="cpu", limit_bytes=middle, process_bytes=0)
            enough = len(plan.pinned_layers) >= pinned
        except ConfigError:
            enough = False
        low, high = (low, middle) if enough else (middle, high)
    return high


def limited(checkpoint: Checkpoint, pinned: int, dtype: torch.dtype = torch.float32) -> TorchRunner:
    limit = limit_for(checkpoint, pinned, dtype.itemsize)
    runner = make_limited_runner(checkpoint, device=CPU, dtype=dtype, memory_limit=limit)
    assert runner.plan is not None
    assert len(runner.plan.pinned_layers) == pinned
    return runner


def logits(runner: TorchRunner, ids: Sequence[int], chunk: int, adapter: int = 0) -> np.ndarray:
    """Logits of every token, computed `chunk` tokens a step: float32 `[tokens, vocab]`."""
    rows = []
    for start in range(0, len(ids), chunk):
        piece = ids[start : start + chunk]
        rows.append(runner.step([SequenceStep(piece, start, range(8), len(piece), adapter)]))
    return np.concatenate(rows)


PROMPT = np.random.default_rng(1).integers(0, 300, size=40).tolist()


def test_streamed_layers_give_the_same_bits(checkpoint: Checkpoint):
    """An odd and an even number of layers take turns; steps of many tokens, of some, of one."""
    runners = [limited(checkpoint, pinned) for pinned in (0, 1, 4)]
    for chunk in (24, 7, 1):
        expected = logits(whole(checkpoint), PROMPT[:24], chunk)
        for runner in runners:
            assert np.array_equal(logits(runner, PROMPT[:24], chunk), expected)


def test_half_precision_gives_the_same_bits(checkpoint: Checkpoint):
    expected = logits(whole(checkpoint, "bf16"), PROMPT, 40)
    assert np.array_equal(logits(limited(checkpoint, 2, torch.bfloat16), PROMPT, 40), expected)


def test_a_limit_with_room_for_all_streams_nothing(checkpoint: Checkpoint):
    runner = make_limited_runner(checkpoint, device=CPU, dtype=torch.float32, memory_limit=1 << 28)
    assert runner.plan is not None
    assert (runner.plan.streamed_bytes, runner.plan.slot_bytes, runner.plan.host_bytes) == (0, 0, 0)
    assert np.array_equal(logits(runner, PROMPT, 40), logits(whole(checkpoint), PROMPT, 40))


def test_the_engine_says_the_same(checkpoint: Checkpoint):
    params = SamplingParams(temperature=0.8, seed=3, max_new_tokens=8, ignore_eos=True)
    requests = [Request(tuple(PROMPT[:length]), params) for length in (5, 30, 17)]
    said = [
        [completion.token_ids for (completion,) in Engine(runner, tiny_tokenizer()).generate(requests)]
        for runner in (whole(checkpoint), limited(checkpoint, 2))
    ]
    assert said[0] == said[1]


def storages(runner: TorchRunner, layers: Sequence[int]) -> dict[int, int]:
    """Where the parameters of some layers lie -> bytes there."""
    found = [
        parameter.untyped_storage() for layer in layers for parameter in runner.model.model.layers[layer].parameters()
    ]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def test_two_streamed_layers_are_alive_at_most(checkpoint: Checkpoint):
    runner = limited(checkpoint, 2)
    plan = runner.plan
    assert plan is not None
    streamed = [layer for layer in range(LAYERS) if layer not in plan.pinned_layers]
    seen: set[tuple[tuple[int, int], ...]] = set()
    for block in runner.model.model.layers:
        block.register_forward_hook(lambda *_: seen.add(tuple(storages(runner, streamed).items())))
    logits(runner, PROMPT, 20)
    assert [sum(size for _, size in where) for where in seen] == [plan.slot_bytes]  # one place, all the time
    assert sum(storages(runner, plan.pinned_layers).values()) <= plan.pinned_bytes
    assert runner.keys.nbytes + runner.values.nbytes == plan.kv_bytes


class Broken(Exception):
    pass


def test_a_step_that_breaks_off_spoils_nothing(checkpoint: Checkpoint):
    expected = logits(whole(checkpoint), PROMPT, 20)
    runner = limited(checkpoint, 2)

    def break_off(*_: object) -> None:
        raise Broken

    for block in runner.model.model.layers:
        handle = block.mlp.register_forward_hook(break_off)
        with pytest.raises(Broken):
            logits(runner, PROMPT, 20)
        handle.remove()
        assert np.array_equal(logits(runner, PROMPT, 20), expected)


def test_adapters_work_on_streamed_layers(checkpoint: Checkpoint, tmp_path: Path):
    adapter = read_adapter(random_adapter(tmp_path / "adapter", checkpoint.config), checkpoint.config)
    plain, streamed = whole(checkpoint), limited(checkpoint, 2)
    assert plain.load_adapter(adapter) == streamed.load_adapter(adapter) == 1
    expected = logits(plain, PROMPT, 20, adapter=1)
    assert np.array_equal(logits(streamed, PROMPT, 20, adapter=1), expected)
    assert not np.array_equal(expected, logits(streamed, PROMPT, 20))


def test_the_smallest_limit_is_named_and_works(checkpoint: Checkpoint):
    with pytest.raises(
        ConfigError, match="memory_limit: 100 KiB is too little for this model on cpu; the sm"
    ) as caught:
        make_limited_runner(checkpoint, device=CPU, dtype=torch.float32, memory_limit=100 << 10)
    smallest = int(str(caught.value).rpartition(" ")[2].removesuffix("MiB")) << 20
    runner = make_limited_runner(checkpoint, device=CPU, dtype=torch.float32, memory_limit=smallest)
    assert logits(runner, PROMPT, 16).shape == (40, checkpoint.config.vocab_size)
