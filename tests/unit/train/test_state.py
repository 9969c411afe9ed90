"""A run that is saved and loaded goes on bit for bit; what cannot be loaded is named; what fails costs nothing."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.run_folder import RunFolder
from aquila.errors import CheckpointError
from aquila.train.export import export_checkpoint, export_run, is_exported
from aquila.train.state import MAX_FAILURES, Checkpoints, Identity, RunFacts, TrainState
from parts import tiny_config, tiny_model, tiny_tokenizer
from train_parts import full_disk

IDENTITY = Identity(model="m" * 8, tokenizer="t" * 8, data="d" * 8)


def facts(**changes: Any) -> RunFacts:
    return RunFacts(replace(IDENTITY, **changes), tiny_config(), tiny_tokenizer(), {"name": "mine"})


class Run:
    """A tiny model in training on noise that follows from the step, with all that a run keeps."""

    def __init__(self, run_dir: Path, *, seed: int = 0, frozen: str = "", **options: Any) -> None:
        self.model: nn.Module = tiny_model(seed).requires_grad_(True)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not frozen or frozen not in name)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizers = [
            torch.optim.AdamW(trained[:3], lr=1e-2, fused=True),
            torch.optim.SGD(trained[3:], lr=1e-2, momentum=0.9),
        ]
        self.checkpoints = Checkpoints(run_dir, facts(**options.pop("identity", {})), **options)
        self.state = TrainState()

    def step(self) -> float:
        generator = torch.Generator().manual_seed(self.state.step)
        input_ids = torch.randint(0, 300, (2, 16), generator=generator)
        loss = nn.functional.cross_entropy(self.model(input_ids)[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        value = float(loss.detach())
        seen = [*self.state.extras.get("seen", []), value]
        self.state = TrainState(self.state.step + 1, self.state.num_tokens + 32, {"seen": seen, "scale": 1 / 3})
        return value

    def save(self, **options: Any) -> None:
        self.checkpoints.save(self.model, self.optimizers, self.state, **options)

    def load(self) -> None:
        self.state = self.checkpoints.load_latest(self.model, self.optimizers) or TrainState()


def everything(run: Run) -> dict[str, Tensor]:
    tensors = dict(run.model.state_dict())
    for number, optimizer in enumerate(run.optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"{number}.{index}.{key}": value for key, value in values.items() if value is not None}
    return tensors


def assert_same(one: Run, other: Run) -> None:
    ours, theirs = everything(one), everything(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(ours[name].dtype == theirs[name].dtype for name in ours)
    assert one.state == other.state


@pytest.mark.parametrize("wait", [True, False])
def test_a_loaded_run_goes_on_bit_for_bit(tmp_path: Path, wait: bool):
    """The model that loads begins with other weights: everything has to come from the files."""
    first = Run(tmp_path)
    for _ in range(3):
        first.step()
    first.save(wait=wait)
    saved = {name: tensor.clone() for name, tensor in everything(first).items()}
    losses = [first.step() for _ in range(3)]  # a background save must not see these
    first.checkpoints.close()
    second = Run(tmp_path, seed=1)
    second.load()
    assert second.state.step == 3
    assert all(torch.equal(tensor, saved[name]) for name, tensor in everything(second).items())
    assert [second.step() for _ in range(3)] == losses
    assert_same(first, second)


def test_a_new_run_has_nothing_to_load(tmp_path: Path):
    run = Run(tmp_path)
    run.load()
    assert run.state == TrainState()


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path):
    run = Run(tmp_path)
    run.step()
    run.save(wait=True)
    names = sorted(file.name for file in RunFolder(tmp_path).checkpoint(1).iterdir())
    assert names[:2] == ["config.json", "manifest.json"]
    assert {Path(name).suffix for name in names} == {".json", ".safetensors"}
    assert [name for name in names if name.endswith("safetensors")] == [
        "model-001-rank-00000.safetensors",
        "optimizer-001-rank-00000.safetensors",
    ]


def test_frozen_weights_are_not_saved_and_not_touched(tmp_path: Path):
    run = Run(tmp_path, frozen="mlp")
    run.step()
    run.save(wait=True)
    run.checkpoints.close()
    again = Run(tmp_path, seed=1, frozen="mlp")
    before = again.model.get_parameter("model.layers.0.mlp.up_proj.weight").clone()
    again.load()
    assert torch.equal(again.model.get_parameter("model.layers.0.mlp.up_proj.weight"), before)
    other, ours = run.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], other[name]) for name in ours if "mlp" not in name)
    with pytest.raises(CheckpointError, match="trained an adapter"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "x" * 8}, "was trained with another model: digest mmmmmmmm, this run has xxxxxxxx"),
        ({"tokenizer": "x" * 8}, "was trained with another tokenizer: digest tttttttt, this run has xxxxxxxx"),
        ({"data": "x" * 8}, "was trained with other data: digest dddddddd, this run has xxxxxxxx"),
        ({"base": "x" * 8}, "was trained with other weights: digest none, this run has xxxxxxxx"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, changes: dict[str, str], message: str):
    run = Run(tmp_path)
    run.save(wait=True)
    run.checkpoints.close()
    other = Run(tmp_path, seed=1, identity=changes)
    before = everything(other)
    with pytest.raises(CheckpointError, match=message):
        other.load()
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(other).items())


def test_weights_of_another_shape_are_named(tmp_path: Path):
    run = Run(tmp_path)
    run.save(wait=True)
    run.checkpoints.close()
    other = Run(tmp_path)
    other.model.get_submodule("lm_head").register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(
        CheckpointError, match=r"does not hold the weights that this run trains: it lacks 1 of them, such as"
    ):
        other.load()


def cut_short(path: Path) -> None:
    file = next(path.glob("optimizer-*"))
    file.write_bytes(file.read_bytes()[:-8])


def flip_a_bit(path: Path) -> None:
    file = next(path.glob("model-*"))
    data = bytearray(file.read_bytes())
    data[-5] ^= 4
    file.write_bytes(data)


def lose_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, lose_the_manifest])
def test_a_damaged_checkpoint_is_passed_over_aloud(tmp_path: Path, caplog, damage):
    run = Run(tmp_path)
    for _ in range(2):
        run.step()
        run.save(wait=True)
    run.checkpoints.close()
    newest = RunFolder(tmp_path).checkpoint(2)
    damage(newest)
    again = Run(tmp_path, seed=1)
    with caplog.at_level(logging.WARNING):
        again.load()
    assert again.state.step == 1
    assert f"{newest} is damaged and passed over: " in caplog.text
    again.step()
    again.save(wait=True)  # in place of the damaged one
    again.checkpoints.close()
    last = Run(tmp_path)
    last.load()
    assert_same(last, run)


def test_when_none_is_whole_the_run_does_not_begin_anew(tmp_path: Path):
    run = Run(tmp_path)
    run.save(wait=True)
    run.checkpoints.close()
    cut_short_model = next(RunFolder(tmp_path).checkpoint(0).glob("model-*"))
    cut_short_model.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of 1 checkpoints is whole: .*; put back a copy of one, or"):
        Run(tmp_path).load()


def test_a_full_disk_costs_one_save_and_nothing_else(tmp_path: Path, caplog):
    run = Run(tmp_path)
    run.step()
    run.save(wait=True)
    with full_disk(20_000):
        run.step()
        run.save()
        run.checkpoints.wait()
    assert "step 2 could not be saved: " in caplog.text
    assert "File too large; training goes on (1 of 3 failures in a row that end it)" in caplog.text
    assert run.checkpoints.failures_in_a_row == 1
    assert [entry.name for entry in RunFolder(tmp_path).path.glob("step-*")] == ["step-00000001"]
    run.step()
    run.save(wait=True)
    assert run.checkpoints.failures_in_a_row == 0
    run.checkpoints.close()
    again = Run(tmp_path, seed=1)
    again.load()
    assert_same(again, run)


def test_a_disk_that_stays_full_ends_the_run(tmp_path: Path):
    run = Run(tmp_path)
    run.save(wait=True)
    with full_disk(20_000):
        for _ in range(MAX_FAILURES - 1):
            run.step()
            run.save()
            run.checkpoints.wait()
        run.step()
        run.save()
        with pytest.raises(
            CheckpointError, match=r"step 3 could not be saved: .*; the checkpoint of step 0 is untouched"
        ):
            run.checkpoints.wait()


def test_the_last_save_must_succeed(tmp_path: Path):
    run = Run(tmp_path)
    run.step()
    with (
        full_disk(20_000),
        pytest.raises(CheckpointError, match=r"step 1 could not be saved: .*no checkpoint was there"),
    ):
        run.save(wait=True)


def test_old_checkpoints_go_when_new_ones_are_there(tmp_path: Path):
    run = Run(tmp_path, keep_last=2, keep_interval=3)
    for _ in range(7):
        run.step()
        run.save()
    run.checkpoints.close()
    assert RunFolder(tmp_path).steps() == [7, 6, 3]


def test_a_damaged_newer_checkpoint_does_not_push_out_the_one_just_saved(tmp_path: Path):
    run = Run(tmp_path)
    run.save(wait=True)
    for _ in range(3):
        run.step()
    run.save(wait=True)
    run.checkpoints.close()
    flip_a_bit(RunFolder(tmp_path).checkpoint(3))
    again = Run(tmp_path, keep_last=1)
    again.load()
    again.step()
    again.save(wait=True)
    again.checkpoints.close()
    assert RunFolder(tmp_path).steps() == [3, 1]
    last = Run(tmp_path, seed=1)
    last.load()
    assert_same(last, again)


def test_an_export_that_fails_is_no_save_that_failed(tmp_path: Path, caplog):
    (tmp_path / "exports").write_text("a file where a folder should be")
    run = Run(tmp_path, on_published=lambda path: export_checkpoint(path, "hf"))
    for _ in range(MAX_FAILURES + 1):
        run.step()
        run.save()
    run.checkpoints.close()
    assert run.checkpoints.failures_in_a_row == 0
    assert RunFolder(tmp_path).steps()[0] == MAX_FAILURES + 1
    message = f"step 1 is saved, but what is made of it could not be: {tmp_path / 'exports'}: File exists"
    assert message in caplog.messages


def test_a_save_is_exported_as_models_that_load(tmp_path: Path):
    run = Run(tmp_path, keep_last=1, on_published=lambda path: export_checkpoint(path, "hf"))
    mine = ("best", "step-by-step", "step-00000001-mine")
    for name in (*mine, ".step-00000002-hf.0123abcd.tmp"):  # of a user, and of a process that was killed
        (tmp_path / "exports" / name).mkdir(parents=True)
    for _ in range(2):
        run.step()
        run.save()
    run.checkpoints.close()
    assert {folder.name for folder in (tmp_path / "exports").iterdir()} == {*mine, "step-00000002-hf"}
    assert not is_exported(tmp_path, 2)
    assert export_run(tmp_path) == tmp_path / "model"
    assert is_exported(tmp_path, 2)
    assert not is_exported(tmp_path, 3)  # the run was extended since
    assert export_run(tmp_path) == tmp_path / "model"  # a second end replaces the first
    weights = run.model.state_dict()
    for path in (tmp_path, tmp_path / "model", tmp_path / "exports" / "step-00000002-hf"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.load_tokenizer().vocab_size == tiny_tokenizer().vocab_size
        for name, tensor in checkpoint.tensors.items():
            assert torch.equal(torch.from_numpy(tensor.numpy()), weights[name])
