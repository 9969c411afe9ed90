"""What a report says of contamination: what was attached to the run, or what its model's training manifest leads to."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aquila.errors import AquilaError, EvaluationError
from aquila.evaluate.contamination import FILE, Progress, find_contamination, read_contamination, write_contamination
from aquila.evaluate.contamination_items import Items, items_of
from aquila.evaluate.data_files import open_benchmark
from aquila.evaluate.run_results import RunResults
from aquila.evaluate.tasks import BENCHMARKS
from aquila.evaluate.training_data import TrainingData, open_training_data
from aquila.files import cache_dir

log = logging.getLogger(__name__)

_AT_ONCE_BYTES = 64 << 20  # of training data that a report searches by itself: seconds
_COMMAND = "aquila eval contamination --bench NAME --attach RUN"


def contamination_of(run: RunResults) -> dict[str, Any]:
    """`known` and what was found, or the reason why it is not known."""
    attached = run.path / FILE
    if attached.is_file():
        record = read_contamination(attached)
        if record["bench"]["sha256"] != run.settings["data"].get("sha256"):
            return _unknown(f"{FILE} beside the run is of another benchmark ({record['bench']['file']})")
        trained = (run.settings["model"].get("training") or {}).get("data")
        same = trained is not None and trained == record["corpus"]["training_data"]
        note = "" if same else "Whether the model was trained on that corpus is for whoever attached this to say."
        return _known(record, note)
    training = run.settings["model"].get("training")
    if not isinstance(training, dict) or not training.get("data"):
        return _unknown(
            f"the model does not say what it was trained on; where the corpus is: `{_COMMAND} --corpus FILES`"
        )
    try:
        record = _of_training(run, training)
    except AquilaError as error:
        return _unknown(str(error))
    base = training.get("base")
    note = f"What {base}, which the training began with, was trained on is not known." if base else ""
    return _known(record, note)


def keep(record: Mapping[str, Any]) -> Path | None:
    """Keeps what was found in a model's training data, so that no report has to search it again."""
    digest = record["corpus"]["training_data"]
    if digest is None:
        return None
    path = _kept(digest, record["bench"]["sha256"])
    write_contamination(record, path)
    return path


def search_training_data(
    items: Items,
    data: TrainingData,
    *,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """`find_contamination` in what a model was trained on."""
    return find_contamination(
        items, data.paths, tokenizer=data.tokenizer, training_data=data.digest, workers=workers, progress=progress
    )


def _of_training(run: RunResults, training: Mapping[str, Any]) -> dict[str, Any]:
    sha256 = str(run.settings["data"].get("sha256"))
    kept = _kept(training["data"], sha256)
    if kept.is_file():
        return read_contamination(kept)
    data = open_training_data(training)
    if data.num_bytes > _AT_ONCE_BYTES:
        raise EvaluationError(f"the training data is here and was not searched yet: `{_COMMAND} --trained MODEL`")
    items = _items(run.settings, sha256)
    log.info("looking for %s in the model's training data", run.settings["bench"])
    record = search_training_data(items, data)
    keep(record)
    return record


def _items(settings: Mapping[str, Any], sha256: str) -> Items:
    name = "humaneval" if settings["bench"] == "fim" else settings["bench"]  # whose solutions it cuts
    if name in BENCHMARKS:
        benchmark = open_benchmark(name, settings["language"])
        if benchmark.sha256 == sha256:
            return items_of(benchmark)
    raise EvaluationError(f"the benchmark's file {settings['data'].get('file')} is not where it could be found again")


def _kept(training_data: str, bench: str) -> Path:
    key = hashlib.sha256(f"{training_data} {bench}".encode()).hexdigest()
    return cache_dir() / "contamination" / f"{key}.json"


def _known(record: dict[str, Any], note: str) -> dict[str, Any]:
    return {
        "known": True,
        "note": note,
        **{key: value for key, value in record.items() if not key.startswith("format")},
    }


def _unknown(reason: str) -> dict[str, Any]:
    return {"known": False, "reason": reason}
