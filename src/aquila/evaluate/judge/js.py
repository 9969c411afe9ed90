"""JavaScript: sample and tests in two realms of one Node process, see support/js/runner.js."""

import re
from functools import cache
from pathlib import Path

from aquila.evaluate.judge.marked import Plan, support_file
from aquila.evaluate.tasks import Task
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import MIB, Limits
from aquila.sandbox.toolchains import Toolchain


class JavaScript:
    name = "js"
    limits = Limits(memory_bytes=2048 * MIB, total_memory_bytes=1024 * MIB)  # Node reserves more than it holds
    disk_bytes = 16 * MIB
    out_of_memory = (b"JavaScript heap out of memory", b"Array buffer allocation failed")

    def prepare(self, isolation: Isolation, tools: Toolchain) -> dict[str, Path]:
        return {}

    def close(self) -> None:
        pass

    def plan(self, sandbox: Sandbox, tools: Toolchain, task: Task, program: str) -> Plan:
        names = ",".join(_functions(task.prompt))
        run = [tools.inside("node", sandbox), "--max-old-space-size=512", "runner.js", "sample.js", "tests.js", names]
        ours = {name: support_file(f"js/{name}") for name in ("runner.js", "js-md5.js")}
        return Plan(run, files={**ours, "sample.js": program, "tests.js": task.test})


@cache
def _functions(prompt: str) -> list[str]:
    """What the prompt defines: the function under test, and helpers that tests call too."""
    return re.findall(r"^(?:const|let|var|function)\s+(\w+)", prompt, re.MULTILINE)
