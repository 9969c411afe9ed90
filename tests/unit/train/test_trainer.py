"""The loop in one process: what it writes, that a stopped run goes on to the last bit, how a step may be cut."""

import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import aquila
from aquila.checkpoint.convert import convert
from aquila.errors import CheckpointError, TrainingError
from aquila.generate.infill import InfillFormat
from aquila.train.start import run_recipe
from train_parts import metrics_of, recipe_of, run_folder, same_part

KEYS = {
    "step",
    "num_tokens",
    "loss",
    "lr",
    "grad_norm",
    "tokens_per_second",
    "step_seconds",
    "peak_memory_bytes",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and an uninterrupted run of eight steps in `run`."""
    folder = run_folder(tmp_path_factory.mktemp("trainer"))
    run_recipe(recipe_of(folder), folder / "run")
    return folder


def test_every_step_has_a_line_with_the_fixed_keys(folder: Path) -> None:
    records = metrics_of(folder / "run")
    assert [record["step"] for record in records] == list(range(1, 9))
    assert all(record.keys() >= KEYS for record in records)
    assert [record["num_tokens"] for record in records] == [step * 8 * 32 for step in range(1, 9)]


def test_a_model_knows_whether_it_was_trained_to_fill_in_the_middle(folder: Path, tmp_path: Path) -> None:
    """Its vocabulary has the marks either way."""
    assert aquila.load(folder / "run" / "model").infill is None
    data = {"mix": [{"path": str(folder / "data"), "fim_rate": 0.5}], "fim": {"spm_rate": 0}, "sequence_length": 64}
    run_recipe(recipe_of(folder, data=data, train__steps=2), tmp_path / "run")
    expected = InfillFormat(("psm",), marks_files=False)
    assert aquila.load(tmp_path / "run" / "model").infill == expected
    assert aquila.load(tmp_path / "run").infill == expected
    convert(tmp_path / "run" / "model", tmp_path / "copy", to="native")
    assert aquila.load(tmp_path / "copy").infill == expected


def test_the_loss_falls_on_training_and_held_out_text(folder: Path) -> None:
    from aquila.train.metrics import read_lines

    records = metrics_of(folder / "run")
    assert records[-1]["loss"] < records[0]["loss"] - 0.3
    evaluations = read_lines(folder / "run" / "evaluations.jsonl")
    assert [record["step"] for record in evaluations] == [0, 4, 8]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"] - 0.3
    assert evaluations[-1]["bits_per_byte"] < evaluations[0]["bits_per_byte"]


def test_the_trained_model_is_left_where_other_commands_load_it(folder: Path) -> None:
    """And it gives the held-out loss that the run measured: another program, another route."""
    from aquila.checkpoint.open import open_checkpoint
    from aquila.checkpoint.torch_model import load_model
    from aquila.data.config import DataConfig
    from aquila.data.loader import open_loader
    from aquila.train.metrics import read_lines
    from parts import tiny_tokenizer

    checkpoint = open_checkpoint(folder / "run" / "model")
    model = load_model(checkpoint, device=torch.device("cpu"), dtype=torch.float32)
    data = DataConfig(path=folder / "data", validation=[folder / "held"], sequence_length=32)
    tokenizer = tiny_tokenizer()
    loader = open_loader(
        data, stage="pretrain", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size, global_batch_size=1, seed=0
    )
    nats = count = 0.0
    for batch in loader.validation(1)[0].batches:
        for document in sorted(set(batch.document_ids[0]) - {-1}):
            places = batch.document_ids[0] == document
            ids = torch.from_numpy(batch.input_ids[0][places])[None]
            labels = torch.from_numpy(batch.labels[0][places])
            losses = torch.nn.functional.cross_entropy(model(ids)[0], labels, reduction="none", ignore_index=-100)
            nats, count = nats + losses.sum().item(), count + int((labels != -100).sum())
    measured = read_lines(folder / "run" / "evaluations.jsonl")[-1]
    assert measured["loss"] == pytest.approx(nats / count, rel=1e-5)


def test_continuations_of_prompts_are_kept(folder: Path) -> None:
    from aquila.train.metrics import read_lines

    samples = read_lines(folder / "run" / "samples.jsonl")
    assert [(sample["step"], sample["prompt"]) for sample in samples] == [(step, "def add") for step in (0, 4, 8)]


@pytest.mark.parametrize("stop_after", [4, 6])
def test_a_run_that_was_stopped_goes_on_to_the_last_bit(folder: Path, tmp_path: Path, stop_after: int) -> None:
    """Stopped by a real SIGTERM; step 6 is one that saves anyway."""

    def stop(record: Mapping[str, Any]) -> None:
        if record["step"] == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = run_recipe(recipe_of(folder), tmp_path / "run", on_step=stop)
    assert (outcome.step, outcome.exit_code) == (stop_after + 1, 75)
    outcome = run_recipe(recipe_of(folder), tmp_path / "run")
    assert (outcome.step, outcome.exit_code) == (8, 0)
    assert same_part(metrics_of(tmp_path / "run")) == same_part(metrics_of(folder / "run"))
    weights = [path / "run" / "model" / "model.safetensors" for path in (folder, tmp_path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_how_a_step_is_cut_does_not_matter(folder: Path, tmp_path: Path) -> None:
    """One micro-batch of 8, or 8 of one: the loss counts tokens, not micro-batches."""
    losses = {}
    for size in (8, 1):
        recipe = recipe_of(
            folder, train__micro_batch_size=size, train__steps=3, eval__eval_interval=0, eval__prompts=[]
        )
        run_recipe(recipe, tmp_path / f"run-{size}")
        losses[size] = [record["loss"] for record in metrics_of(tmp_path / f"run-{size}")]
    assert losses[8] == pytest.approx(losses[1], rel=1e-6)


def test_a_finished_run_says_so_and_changes_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the command has it, with a recipe that does not name the folder: the plan does."""
    from aquila.cli.train_run import train

    run_dir = folder / "run"
    before = (run_dir / "metrics.jsonl").read_bytes()
    written = (run_dir / "model" / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert train(recipe_of(folder, run_dir=None), run_dir) == 0
    assert f"nothing left to do: all 8 steps of {run_dir} are done" in caplog.messages
    assert f"run         {run_dir}" in caplog.messages
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    assert (run_dir / "model" / "model.safetensors").stat().st_mtime_ns == written


def test_a_run_of_other_data_is_refused(folder: Path) -> None:
    """Whatever the recipe says: the digest of what was trained on is in the checkpoint."""
    recipe = recipe_of(folder, data__path=str(folder / "held"))
    files = [folder / "run" / name for name in ("metrics.jsonl", "recipe.yaml")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(CheckpointError, match="was trained with other data: digest"):
        run_recipe(recipe, folder / "run")
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("form", ["hf", "gguf"])
def test_an_adapter_goes_on_whatever_else_lies_beside_its_base(folder: Path, tmp_path: Path, form: str) -> None:
    """Its base is the weights; and the adapter is left as it was."""
    base = tmp_path / "base" if form == "hf" else tmp_path / "base" / "base.gguf"
    base.parent.mkdir(exist_ok=True)
    convert(folder / "run" / "model", base, to=form)
    recipe = recipe_of(
        folder,
        stage="continue",
        model=None,
        tokenizer=None,
        init={"checkpoint": str(base)},
        train__steps=1,
        train__warmup_steps=0,
        eval={"eval_interval": 0},
        lora={"r": 2},
    )
    run_recipe(recipe, tmp_path / "run")
    weights = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    written = weights.stat().st_mtime_ns
    (tmp_path / "base" / ("notes.txt" if form == "hf" else "another.gguf")).write_text("x")
    assert run_recipe(recipe, tmp_path / "run").num_steps == 0
    assert weights.stat().st_mtime_ns == written
    file = base if form == "gguf" else base / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(CheckpointError):
        run_recipe(recipe, tmp_path / "run")


def test_a_full_device_is_one_line(folder: Path, tmp_path: Path) -> None:
    def full(record: Mapping[str, Any]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 79 GiB")

    message = (
        r"^rank 0: cpu has not enough memory \(CUDA out of memory\); lower train.micro_batch_size, now 4, or set "
        r"parallel.activation_checkpointing=full; --dry-run shows what fits$"
    )
    with pytest.raises(TrainingError, match=message):
        run_recipe(recipe_of(folder, eval={"eval_interval": 0}), tmp_path / "run", on_step=full)


def test_weights_that_are_not_numbers_end_the_run_at_once(folder: Path, tmp_path: Path) -> None:
    from aquila.checkpoint.checkpoint import Export
    from aquila.checkpoint.native import write_native
    from aquila.checkpoint.tensors import from_array
    from parts import tiny_model, tiny_tokenizer

    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    tensors = {name: from_array(weight.numpy()) for name, weight in model.named_parameters()}
    (tmp_path / "broken").mkdir()
    write_native(Export(model.config, tensors, "fp32", tiny_tokenizer(), {}), tmp_path / "broken")
    recipe = recipe_of(
        folder, stage="continue", model=None, init={"checkpoint": str(tmp_path / "broken")}, tokenizer=None
    )
    with pytest.raises(TrainingError, match=r"step 1: loss nan.*before anything was learned"):
        run_recipe(recipe, tmp_path / "run")


def test_conversations_are_trained_from_a_run(folder: Path, tmp_path: Path) -> None:
    """SFT on top of the pre-trained run; only the assistant's tokens count."""
    recipe = recipe_of(
        folder,
        stage="sft",
        model=None,
        tokenizer=None,
        init={"checkpoint": str(folder / "run" / "model")},
        data={
            "sft": str(folder / "chats.jsonl"),
            "template": "aquila-v1",
            "sequence_length": 64,
            "validation_fraction": 0.2,
        },
        train={"steps": 4, "global_batch_size": 4, "lr": 3e-3, "warmup_steps": 0},
    )
    run_recipe(recipe, tmp_path / "run")
    records = metrics_of(tmp_path / "run")
    assert records[-1]["loss"] < records[0]["loss"]
    assert all(record["num_targets"] < 0.8 * 4 * 64 for record in records)


def test_a_picture_of_the_loss(folder: Path) -> None:
    from aquila.train.plot import plot_run

    path = plot_run(folder / "run")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000
