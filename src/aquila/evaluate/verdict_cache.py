"""Verdicts that are known already: the same program, judged by the same rules and tools on the same tests.

One file of SQLite in the cache folder. The key holds a digest of the judge's own source, so a judge that was changed
believes nothing that another one said. What depends on how busy the machine was is not kept: timeouts, and errors of
ours.
"""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import TracebackType

from aquila.evaluate.judge.pool import Program
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Benchmark
from aquila.evaluate.verdict import Verdict
from aquila.files import cache_dir
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.toolchains import find_toolchain

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[1]
_JUDGES = ("evaluate/judge", "evaluate/tasks.py", "evaluate/benchmarks.yaml", "sandbox")
_SUFFIXES = frozenset({".py", ".yaml", ".js", ".java", ".go", ".h", ".hpp", ".cpp", ".rs"})
_NOT_KEPT = frozenset({"timeout", "harness_error"})
_TABLE = "create table if not exists verdicts (key text primary key, verdict text not null) without rowid"


class VerdictCache:
    """Of one benchmark under one set of rules. Where its file cannot be used it says so once, and knows nothing.

    Args:
        path: its file; `verdicts/verdicts.sqlite` in the cache folder when None.
    """

    def __init__(self, benchmark: Benchmark, isolation: Isolation, rules: Rules, *, path: Path | None = None) -> None:
        toolchain = find_toolchain(benchmark.language).version()
        facts = [benchmark.sha256, benchmark.language, rules.to_json(), isolation.mode, toolchain, _judge_digest()]
        self._facts = json.dumps(facts, sort_keys=True)
        self._path = path or cache_dir() / "verdicts" / "verdicts.sqlite"
        self._connection: sqlite3.Connection | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=10.0, isolation_level=None)
            self._connection.execute("pragma journal_mode = wal")
            self._connection.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def __enter__(self) -> "VerdictCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def get(self, program: Program) -> Verdict | None:
        """The verdict on a program, if it is known."""
        if self._connection is None:
            return None
        try:
            found = self._connection.execute("select verdict from verdicts where key = ?", (self._key(program),))
            row = found.fetchone()
            return Verdict(**json.loads(row[0])) if row else None
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._give_up(error)
            return None

    def put(self, judged: Iterable[tuple[Program, Verdict]]) -> None:
        """Keeps verdicts, but for those that another try may change."""
        rows = [(self._key(program), json.dumps(verdict.to_json())) for program, verdict in judged if _is_kept(verdict)]
        if self._connection is None or not rows:
            return
        try:
            self._connection.executemany("insert or replace into verdicts values (?, ?)", rows)
        except sqlite3.Error as error:
            self._give_up(error)

    def _key(self, program: Program) -> str:
        return hashlib.sha256(f"{self._facts}\0{program.digest}".encode()).hexdigest()

    def _give_up(self, error: Exception) -> None:
        log.warning(
            "%s: cannot be used (%s), so every program is judged; delete the file to begin anew", self._path, error
        )
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _is_kept(verdict: Verdict) -> bool:
    return verdict.status not in _NOT_KEPT


@cache
def _judge_digest() -> str:
    """Of every file that a verdict depends on."""
    digest = hashlib.sha256()
    for name in _JUDGES:
        top = _PACKAGE / name
        files = [top] if top.is_file() else sorted(each for each in top.rglob("*") if each.suffix in _SUFFIXES)
        for file in files:
            digest.update(f"{file.relative_to(_PACKAGE).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()
