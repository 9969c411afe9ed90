"""Directories of evaluation runs, written by hand as `aquila eval` leaves them."""

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HUMANEVAL_SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"


def run_settings(**changes: Any) -> dict[str, Any]:
    """A run.json; `changes` replace its fields, and those of objects in it."""
    settings: dict[str, Any] = {
        "format": "aquila-eval-run",
        "format_version": 1,
        "bench": "humaneval",
        "language": "python",
        "model": {"name": "tiny", "source": "engine", "digest": "ab" * 32, "training": None, "quantisation": None},
        "prompt_style": "bare",
        "preset": None,
        "sampling": {
            "n": 5,
            "temperature": 0.2,
            "top_p": 0.95,
            "top_k": 0,
            "max_new_tokens": 512,
            "stop": ["\ndef ", "\nclass "],
            "seed": 0,
        },
        "judge": {"rule": "trusted", "seconds": 10.0},
        "isolation": "namespaces",
        "toolchain": "Python 3.11.2",
        "data": {"file": "HumanEval.jsonl.gz", "sha256": HUMANEVAL_SHA256},
        "num_tasks": 20,
        "versions": {"aquila": "0.1.0", "python": "3.11.2"},
        "created": "2026-11-24T10:00:00Z",
    }
    for name, value in changes.items():
        inside = isinstance(value, Mapping) and isinstance(settings.get(name), dict)
        settings[name] = {**settings[name], **value} if inside else value
    return settings


def write_run(
    path: Path,
    passed: Mapping[str, int],
    *,
    failure: str = "wrong",
    detail: str = "an answer differs",
    order: random.Random | None = None,
    **settings: Any,
) -> Path:
    """A finished run: of each task, so many of its samples passed. `order` shuffles the lines of both files."""
    facts = run_settings(**{"num_tasks": len(passed), **settings})
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    samples, verdicts = [], []
    for number, (task_id, count) in enumerate(passed.items()):
        for i in range(facts["sampling"]["n"]):
            text = f"    return {i}\n"
            digest = hashlib.sha256(text.encode()).hexdigest()
            length = 5 + (number * 7 + i * 13) % 90
            sample = {"task_id": task_id, "i": i, "seed": i, "prompt_sha256": digest, "raw": text, "completion": text}
            samples.append({**sample, "finish_reason": "stop", "num_tokens": length, "seconds": length / 40})
            verdict = {"task_id": task_id, "i": i, "program_sha256": digest}
            status = {"status": "passed", "detail": ""} if i < count else {"status": failure, "detail": detail}
            verdicts.append({**verdict, **status, "seconds": 0.01, "peak_bytes": 9 << 20, "cached": i > 2})
    for name, rows in (("samples", samples), ("verdicts", verdicts)):
        if order is not None:
            order.shuffle(rows)
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tasks(count: int, passed: int = 2, *, name: str = "HumanEval") -> dict[str, int]:
    """`count` task ids, each with so many passed samples."""
    return {f"{name}/{number}": passed for number in range(count)}
