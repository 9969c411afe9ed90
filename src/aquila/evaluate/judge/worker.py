"""A process that judges: `python -m aquila.evaluate.judge.worker`, spoken to in JSON lines by pool.py.

{"bench", "data", "language", "isolation", "rules"}     {"ready": true}
{"task_id", "program"}                                  a verdict
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from aquila.errors import AquilaError
from aquila.evaluate.judge.judges import open_judge
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import read_benchmark
from aquila.evaluate.verdict import Verdict, one_line
from aquila.sandbox.isolation import Isolation


def main() -> None:
    requests = sys.stdin
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints here does not speak for us
    order = json.loads(requests.readline())
    try:
        benchmark = read_benchmark(order["bench"], Path(order["data"]), order["language"])
        walls = Isolation(**order["isolation"] | {"bwrap": _path(order["isolation"]["bwrap"])})
        judge = open_judge(benchmark.language, walls, Rules(**order["rules"]))
    except (AquilaError, OSError) as error:
        _say(replies, {"failed": type(error).__name__, "text": str(error)})
        return
    _say(replies, {"ready": True})
    try:
        for line in requests:
            request = json.loads(line)
            try:
                verdict = judge.judge(benchmark.tasks[request["task_id"]], request["program"])
            except (AquilaError, OSError) as error:  # a full disk, for one
                verdict = Verdict("harness_error", one_line(str(error)))
            _say(replies, verdict.to_json())
    finally:
        judge.close()


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _say(replies: Any, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # nobody listens any more
        main()
