"""A run's samples in the formats of other harnesses; `samples_file.py` reads the same ones."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aquila.config import suggest
from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.data_files import open_benchmark
from aquila.evaluate.judge.pool import assemble
from aquila.evaluate.run_folder import read_facts, read_rows
from aquila.evaluate.samples_file import Sample
from aquila.evaluate.tasks import BENCHMARKS, Benchmark
from aquila.files import atomic_write

FORMATS = ("openai", "codegeex", "evalplus", "bigcode")
_FIELDS = {"openai": "completion", "codegeex": "generation"}


def export_samples(run: Path, out: Path, form: str, data: Path | None = None) -> int:
    """Writes the samples of a run, those of a task together and in order; gives how many.

    Args:
        run: its folder.
        out: a file; packed where it ends in `.gz`.
        form: one of FORMATS. `openai` and `codegeex` go on from the prompt, the others are whole programs.
        data: the benchmark's file, where it is not found by itself.

    Raises:
        ConfigError: no such format, or one that cannot hold these samples.
        EvaluationError: the run, or its benchmark's file, cannot be read.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form!r} is unknown{suggest(form, FORMATS)}; there are {', '.join(FORMATS)}")
    facts = read_facts(run)
    if facts["bench"] not in BENCHMARKS:
        raise ConfigError(f"{run} is a run of {facts['bench']}, whose answers are no programs; there is no such format")
    benchmark = open_benchmark(facts["bench"], facts["language"], data)
    rows = read_rows(run, "samples.jsonl")
    if not rows:
        raise EvaluationError(f"{run}: holds no samples yet; finish the run first")
    places = {task_id: place for place, task_id in enumerate(benchmark.tasks)}
    samples = [rows[key] for key in sorted(rows, key=lambda key: (places[key[0]], key[1]))]
    text = _bigcode(benchmark, samples) if form == "bigcode" else "".join(_lines(benchmark, samples, form))
    with atomic_write(out) as temporary:
        packed = text.encode(errors="surrogatepass")
        temporary.write_bytes(gzip.compress(packed, mtime=0) if out.suffix == ".gz" else packed)
    return len(samples)


def _lines(benchmark: Benchmark, samples: Sequence[Mapping[str, Any]], form: str) -> Iterator[str]:
    for row in samples:
        if form == "evalplus":
            fields = {"solution": _program(benchmark, row)}
        elif row.get("whole"):
            raise ConfigError(
                f"sample {row['i']} of {row['task_id']} is a whole program, which --format {form} cannot hold; "
                "take evalplus or bigcode"
            )
        else:
            fields = {_FIELDS[form]: row["completion"]}
            fields |= {"prompt": benchmark.tasks[row["task_id"]].prompt} if form == "codegeex" else {}
        yield json.dumps({"task_id": row["task_id"], **fields}, ensure_ascii=False) + "\n"


def _bigcode(benchmark: Benchmark, samples: Sequence[Mapping[str, Any]]) -> str:
    """A list a task, in the benchmark's order; empty where a task has no sample."""
    lists: dict[str, list[str]] = {task_id: [] for task_id in benchmark.tasks}
    for row in samples:
        lists[row["task_id"]].append(_program(benchmark, row))
    return json.dumps(list(lists.values()), ensure_ascii=False) + "\n"


def _program(benchmark: Benchmark, row: Mapping[str, Any]) -> str:
    return assemble(benchmark, Sample(row["task_id"], row["i"], row["completion"], row.get("whole", False))).text
