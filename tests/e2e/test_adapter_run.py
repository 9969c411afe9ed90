"""A run that trains an adapter: killed and resumed, on one rank and on two, over a plain base and a quantised one."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from aquila.checkpoint.adapter import open_adapter, read_adapter
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.run_folder import RunFolder
from aquila.errors import CheckpointError
from parts import tiny_checkpoint
from run_parts import Fault, losses, tiny_run, train

pytestmark = pytest.mark.e2e

LORA = {"r": 4, "alpha": 8, "dropout": 0.3, "targets": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("adapter-runs") / "base", initializer_range=0.1)


def run(base: Path, name: str, **lora: object) -> Path:
    changes = {"stage": "continue", "model": None, "tokenizer": None, "lora": {**LORA, **lora}}
    return tiny_run(base.parent / name, **changes, init={"checkpoint": str(base)})


@pytest.fixture(scope="module")
def reference(base: Path) -> Path:
    """The run that nobody interrupted."""
    run_dir = run(base, "reference")
    assert train(run_dir, 1) == [0]
    return run_dir


def weights(run_dir: Path) -> dict[str, np.ndarray]:
    return load_file(run_dir / "adapter" / "adapter_model.safetensors")


def test_a_killed_run_goes_on_with_the_same_masks(base: Path, reference: Path):
    """Dropout is part of it: what is left out at a step does not depend on how the process came there."""
    run_dir = run(base, "killed")
    assert train(run_dir, 1, Fault(0, "os.rename", "step-00000006.tmp")) == [-signal.SIGKILL]
    assert train(run_dir, 1) == [0]
    assert losses(run_dir) == losses(reference)
    found, expected = weights(run_dir), weights(reference)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def test_two_ranks_train_the_same_adapter(base: Path, reference: Path):
    run_dir = run(base, "two")
    assert train(run_dir, 2) == [0, 0]
    found, expected = weights(run_dir), weights(reference)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-5, err_msg=name)


def test_an_adapter_comes_out_and_no_model(base: Path, reference: Path):
    adapter = read_adapter(reference / "adapter", open_checkpoint(base).config)
    assert len(adapter.matrices) == 4
    assert all(pair.up.numpy().any() for pair in adapter.matrices.values())
    assert open_adapter(reference / "adapter").base_name == str(base)
    saved = RunFolder(reference).checkpoint(8)
    names = [name for file in saved.glob("model-*.safetensors") for name in load_file(file)]
    assert len(names) == 8
    assert all(name.endswith(("lora_A", "lora_B")) for name in names)
    with pytest.raises(CheckpointError, match="the run trained an adapter, so its checkpoints hold no whole model"):
        open_checkpoint(reference)
    raw = json.loads((reference / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert {key: raw[f"lora_{key}"] for key in ("alpha", "dropout")} == {"alpha": 8, "dropout": 0.3}


def test_a_quantised_base_trains_nearly_the_same(base: Path, reference: Path):
    """8 bits of the base move the losses a little, and are not the plain base in disguise."""
    run_dir = run(base, "quantised", quantize="w8")
    assert train(run_dir, 1) == [0]
    found, expected = ([float.fromhex(line[2]) for line in losses(each)] for each in (run_dir, reference))
    distance = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    assert 1e-6 < distance < 0.02
