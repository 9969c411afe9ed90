"""A model's run over a benchmark of code: samples are drawn, cut to what is judged, and judged meanwhile.

Everything goes into the run's folder as it comes, so a run that ends in whatever way goes on from there.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aquila.evaluate import prompts as styles
from aquila.evaluate.judge.background import BackgroundJudge
from aquila.evaluate.judge.pool import Program, assemble
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.run_folder import RunFolder
from aquila.evaluate.samples_file import Sample
from aquila.evaluate.sampling import Key, Prompt, Settings, Source
from aquila.evaluate.tasks import Benchmark, Task
from aquila.evaluate.translation import sources_by_number, translation_text
from aquila.evaluate.verdict import Verdict
from aquila.evaluate.verdict_cache import VerdictCache
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.toolchains import find_toolchain


@dataclass(frozen=True)
class CodeRun:
    """What one folder holds: a benchmark in one language, drawn at one temperature.

    Attributes:
        num_tasks: only the first so many.
        settings: as drawn, with `stop` of the language.
        num_workers: judging processes.
        source: the same benchmark in a language that is translated from, instead of documentation.
    """

    benchmark: Benchmark
    num_tasks: int
    style: str
    settings: Settings
    isolation: Isolation
    rules: Rules
    preset: str | None = None
    num_workers: int | None = None
    source: Benchmark | None = None

    @property
    def tasks(self) -> list[Task]:
        return list(self.benchmark.tasks.values())[: self.num_tasks]

    def prompts_of(self, task: Task, wanted: Sequence[int]) -> list[Prompt]:
        """Prompts for some of a task's samples."""
        prompts = styles.prompts_of(task, self.style, self.settings, wanted)
        if self.source is None:
            return prompts
        text = translation_text(sources_by_number(self.source), task)
        return [replace(prompt, text=text) for prompt in prompts]

    def facts(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """What goes into run.json."""
        translated = {"translate_from": self.source.language} if self.source else {}
        return {
            "bench": "translation" if self.source else self.benchmark.name,
            "language": self.benchmark.language,
            **translated,
            "model": dict(model),
            "prompt_style": self.style,
            "preset": self.preset,
            "sampling": self.settings.to_json(),
            **self._judging(),
        }

    def facts_of_file(self, name: str, sha256: str, samples: Sequence[Sample]) -> dict[str, Any]:
        """The same, of samples that somebody else drew: nobody knows how."""
        counts = Counter(sample.task_id for sample in samples)
        return {
            "bench": self.benchmark.name,
            "language": self.benchmark.language,
            "model": {"name": name, "source": "file", "digest": sha256, "training": None, "quantisation": None},
            "prompt_style": None,
            "preset": None,
            "sampling": {"n": max(counts.values()), "temperature": None},
            **self._judging(),
            "num_tasks": len(counts),
        }

    def _judging(self) -> dict[str, Any]:
        return {
            "judge": self.rules.to_json(),
            "isolation": self.isolation.mode,
            "toolchain": find_toolchain(self.benchmark.language).version(),
            "data": {"file": self.benchmark.path.name, "sha256": self.benchmark.sha256},
            "num_tasks": len(self.tasks),
        }


@dataclass(frozen=True)
class Progress:
    """How far a run is. A task is done when all its samples are judged."""

    num_tasks: int
    num_samples: int
    num_judged: int
    num_passed: int


def draw_and_judge(
    run: CodeRun,
    source: Source,
    folder: RunFolder,
    *,
    cache: VerdictCache | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Draws and judges what the folder lacks.

    Raises:
        AquilaError: the source answers no more, the judge cannot work, or the disk is full. What there is stays.
    """
    missing = [prompt for task in run.tasks for prompt in run.prompts_of(task, _missing(folder, task, run.settings.n))]
    asked = {prompt.key: hashlib.sha256(styles.prompt_bytes(prompt)).hexdigest() for prompt in missing}
    seeds = {prompt.key: prompt.seed for prompt in missing}
    wanted = {task.task_id: run.settings.n for task in run.tasks}
    with _Judging(run, folder, cache, wanted, on_progress) as judging:
        judging.give(folder.samples.values())
        for answer in source.sample(missing, run.settings):
            task_id, index = answer.key
            cut = styles.read_answer(answer.text, run.benchmark.tasks[task_id], run.style)
            row = {
                "task_id": task_id,
                "i": index,
                "seed": seeds[answer.key],
                "prompt_sha256": asked[answer.key],
                "raw": answer.text,
                "completion": cut.text,
                **({"whole": True} if cut.whole else {}),
                "finish_reason": answer.finish_reason,
                "num_tokens": answer.num_tokens,
                "seconds": answer.seconds,
            }
            folder.add_samples([row])
            judging.give([row])
            judging.take(may_be_slow=True)
        judging.finish()


def judge_file(
    run: CodeRun,
    samples: Sequence[Sample],
    folder: RunFolder,
    *,
    cache: VerdictCache | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Takes samples as they are, and judges what the folder has no verdict on. Raises as `draw_and_judge` does."""
    folder.add_samples(
        {
            "task_id": sample.task_id,
            "i": sample.index,
            "raw": sample.text,
            "completion": sample.text,
            "whole": sample.whole,
        }
        for sample in samples
        if (sample.task_id, sample.index) not in folder.samples
    )
    wanted = Counter(sample.task_id for sample in samples)
    with _Judging(run, folder, cache, wanted, on_progress) as judging:
        judging.give(folder.samples.values())
        judging.finish()


def _missing(folder: RunFolder, task: Task, n: int) -> list[int]:
    return [index for index in range(n) if (task.task_id, index) not in folder.samples]


class _Judging:
    """Samples on their way to verdicts. Equal programs are judged once."""

    def __init__(
        self,
        run: CodeRun,
        folder: RunFolder,
        cache: VerdictCache | None,
        wanted: Mapping[str, int],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._benchmark = run.benchmark
        self._folder = folder
        self._cache = cache
        self._on_progress = on_progress
        self._judge = BackgroundJudge(run.benchmark, run.isolation, run.rules, num_workers=run.num_workers)
        self._open: dict[str, list[Key]] = {}  # programs that are being judged, and the samples that wait for it
        self._again: list[Program] = []
        self._left = Counter(wanted)  # samples of each task that are to be judged yet
        self._num_judged = self._num_passed = 0
        self._known: dict[str, Verdict] = {}
        for row in folder.verdicts.values():
            if row["status"] != "harness_error":
                self._known[row["program_sha256"]] = _verdict(row)
                self._count([(row["task_id"], row["i"])], self._known[row["program_sha256"]])

    def __enter__(self) -> "_Judging":
        return self

    def __exit__(self, *error: Any) -> None:
        self._judge.__exit__(*error)

    def give(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes samples; those that have a verdict are passed over."""
        for row in list(rows):
            key = row["task_id"], row["i"]
            judged = self._folder.verdicts.get(key)
            if judged is not None and judged["status"] != "harness_error":
                continue
            program = assemble(self._benchmark, Sample(*key, row["completion"], row.get("whole", False)))
            digest = program.digest
            verdict = self._known.get(digest) or (self._cache.get(program) if self._cache else None)
            if verdict is not None:
                self._known[digest] = verdict
                self._record(digest, [key], verdict, cached=True)
            elif digest in self._open:
                self._open[digest].append(key)
            else:
                self._open[digest] = [key]
                self._judge.put(program)
        self._report()

    def take(self, *, may_be_slow: bool) -> None:
        """Records the verdicts that are there. A timeout beside a model at work says little: it is judged again."""
        while (judged := self._judge.take(wait=False)) is not None:
            program, verdict = judged
            if may_be_slow and verdict.status == "timeout":
                self._again.append(program)
            else:
                self._settle(program, verdict)
        self._report()

    def finish(self) -> None:
        """Waits for all that is open."""
        self.take(may_be_slow=True)
        for program in self._again:
            self._judge.put(program)
        while (judged := self._judge.take(wait=True)) is not None:
            self._settle(*judged)
            self._report()

    def _settle(self, program: Program, verdict: Verdict) -> None:
        keys = self._open.pop(program.digest)
        if verdict.status != "harness_error":
            self._known[program.digest] = verdict
        self._record(program.digest, keys[:1], verdict, cached=False)
        self._record(program.digest, keys[1:], verdict, cached=True)
        if self._cache is not None:
            self._cache.put([(program, verdict)])

    def _record(self, digest: str, keys: Sequence[Key], verdict: Verdict, *, cached: bool) -> None:
        self._folder.add_verdicts(_rows(digest, keys, verdict, cached=cached))
        self._count(keys, verdict)

    def _count(self, keys: Sequence[Key], verdict: Verdict) -> None:
        self._left.subtract(task_id for task_id, _ in keys)
        self._num_judged += len(keys)
        self._num_passed += len(keys) * verdict.passed

    def _report(self) -> None:
        num_tasks = sum(left <= 0 for left in self._left.values())
        self._on_progress(Progress(num_tasks, len(self._folder.samples), self._num_judged, self._num_passed))


def _rows(digest: str, keys: Sequence[Key], verdict: Verdict, *, cached: bool) -> Iterator[dict[str, Any]]:
    for task_id, index in keys:
        yield {
            "task_id": task_id,
            "i": index,
            "program_sha256": digest,
            "status": verdict.status,
            "detail": verdict.detail,
            "seconds": round(verdict.seconds, 4),
            "peak_bytes": verdict.peak_bytes,
            "cached": cached,
        }


def _verdict(row: Mapping[str, Any]) -> Verdict:
    return Verdict(row["status"], row["detail"], row["seconds"], row["peak_bytes"])
