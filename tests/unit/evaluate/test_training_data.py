"""What a model was trained on, by the manifest of its training, and reports that search it by themselves."""

from pathlib import Path

import pytest

from aquila.checkpoint.folder import write_json
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.run_folder import RunFolder
from aquila.errors import EvaluationError
from aquila.evaluate import contamination_lookup
from aquila.evaluate.data_files import add_files
from aquila.evaluate.report import write_report
from aquila.evaluate.tasks import read_benchmark
from aquila.evaluate.training_data import open_training_data, training_facts
from aquila.model.config import to_hugging_face
from data_parts import TEXTS, loader_of, pack_texts
from parts import shared_data, tiny_checkpoint, tiny_config, tiny_tokenizer
from run_results_parts import tasks, write_run


def trained(folder: Path, texts: tuple[str, ...] = TEXTS, *, init: str | None = None) -> Path:
    """The last checkpoint of a run on a shard of `texts`, without its weights."""
    folder.mkdir()
    pack_texts(folder / "shard", texts)
    runs = RunFolder(folder)
    where = runs.temporary(6)
    where.mkdir(parents=True)
    write_json(where / "config.json", to_hugging_face(tiny_config(), "fp32"))
    tiny_tokenizer().save(where)
    recipe = {
        "stage": "pretrain",
        "data": {"path": str(folder / "shard"), "sequence_length": 32},
        "train": {"global_batch_size": 4, "seed": 1},
        "init": {"checkpoint": init},
    }
    identity = {"data": loader_of(folder / "shard").digest}
    manifest = {"step": 6, "num_tokens": 768, "identity": identity, "recipe": recipe, "files": {}, "record": {}}
    return runs.publish(6, {**manifest, "adapter_only": False})


def facts_of(checkpoint: Path, folder: Path) -> dict:
    """Those of a model that was converted from a checkpoint: its manifest names the source."""
    model = open_checkpoint(tiny_checkpoint(folder))
    model.manifest["source"] = str(checkpoint)
    facts = training_facts(model)
    assert facts is not None
    return facts


def test_a_model_that_was_made_from_a_run_names_the_runs_data(tmp_path: Path):
    checkpoint = trained(tmp_path / "run", init="smollm2-135m")
    facts = facts_of(checkpoint, tmp_path / "model")
    assert (facts["step"], facts["num_tokens"], facts["base"]) == (6, 768, "smollm2-135m")
    assert facts["sources"] == [str(tmp_path / "run" / "shard")]
    data = open_training_data(facts)
    assert (data.digest, data.paths) == (facts["data"], (tmp_path / "run" / "shard",))
    assert training_facts(open_checkpoint(tmp_path / "model")) is None


def test_other_data_under_the_same_name_is_not_taken_for_it(tmp_path: Path):
    checkpoint = trained(tmp_path / "run")
    facts = facts_of(checkpoint, tmp_path / "model")
    pack_texts(tmp_path / "run" / "shard", TEXTS[:20])
    with pytest.raises(EvaluationError, match="are not those of the training: their digest is"):
        open_training_data(facts)
    (tmp_path / "run" / "shard.bin").unlink()
    with pytest.raises(EvaluationError, match=r"the training data is not here: .*shard\.bin: no such file"):
        open_training_data(facts)


def test_a_report_searches_a_models_training_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = shared_data("humaneval") / "HumanEval.jsonl.gz"
    add_files(file)
    task = read_benchmark("humaneval", file).tasks["HumanEval/12"]
    checkpoint = trained(tmp_path / "run", (*TEXTS, task.prompt + task.canonical_solution))
    facts = facts_of(checkpoint, tmp_path / "model")
    run = write_run(tmp_path / "eval", tasks(2), model={"training": facts})
    [found] = write_report([run], tmp_path)["runs"]
    assert [item["task_id"] for item in found["contamination"]["items"]] == ["HumanEval/12"]
    assert found["contamination"]["corpus"]["num_documents"] == 31
    (tmp_path / "run" / "shard.bin").unlink()  # what was found is kept
    assert write_report([run], tmp_path)["runs"] == [found]


def test_a_report_does_not_search_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contamination_lookup, "_AT_ONCE_BYTES", 100)
    facts = facts_of(trained(tmp_path / "run"), tmp_path / "model")
    run = write_run(tmp_path / "eval", tasks(2), model={"training": facts})
    [found] = write_report([run], tmp_path)["runs"]
    assert "was not searched yet: `aquila eval contamination" in found["contamination"]["reason"]
