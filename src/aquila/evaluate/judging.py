"""A file of samples judged: verdicts, counts, pass@k, and what they rest on."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aquila import __version__
from aquila.errors import EvaluationError
from aquila.evaluate.judge.pool import Program, assemble, judge_programs
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.pass_at_k import Estimate, estimate
from aquila.evaluate.samples_file import Sample
from aquila.evaluate.tasks import Benchmark
from aquila.evaluate.verdict import STATUSES, Verdict
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.toolchains import find_toolchain

DEFAULT_KS = (1, 10, 100)


@dataclass(frozen=True)
class Judged:
    """Samples with their verdicts, in the samples' order."""

    benchmark: Benchmark
    rules: Rules
    isolation: Isolation
    samples: Sequence[Sample]
    verdicts: Sequence[Verdict]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Samples and passed ones of each task that has any, in the benchmark's order."""
        total: Counter[str] = Counter(sample.task_id for sample in self.samples)
        passed: Counter[str] = Counter(
            sample.task_id for sample, verdict in zip(self.samples, self.verdicts, strict=True) if verdict.passed
        )
        return {task_id: (total[task_id], passed[task_id]) for task_id in self.benchmark.tasks if task_id in total}

    def num_harness_errors(self) -> int:
        return sum(verdict.status == "harness_error" for verdict in self.verdicts)

    def estimates(self, ks: Sequence[int] = DEFAULT_KS) -> list[Estimate]:
        """pass@k for those k that it is defined for.

        Raises:
            EvaluationError: some samples have no verdict, so there is no score.
        """
        if errors := self.num_harness_errors():
            first = next(verdict for verdict in self.verdicts if verdict.status == "harness_error")
            raise EvaluationError(
                f"{errors} of {len(self.verdicts)} samples have no verdict ({first.detail}), so there is no pass@k; "
                "mend what is named and judge again"
            )
        counts = list(self.counts().values())
        return [found for k in ks if (found := estimate(counts, k)) is not None]

    def _rules(self) -> dict[str, Any]:
        """Limits of calls and memory are those of Python's judge alone."""
        found = self.rules.to_json()
        python = self.benchmark.language == "python"
        return found if python else {key: found[key] for key in ("rule", "seconds") if key in found}

    def summary(self, ks: Sequence[int] = DEFAULT_KS) -> dict[str, Any]:
        """The report as JSON; `pass_at_k` is null where there are samples without a verdict."""
        statuses: Counter[str] = Counter(verdict.status for verdict in self.verdicts)
        complete = not self.num_harness_errors()
        return {
            "bench": self.benchmark.name,
            "language": self.benchmark.language,
            "num_tasks": len(self.counts()),
            "num_tasks_missing": len(self.benchmark.tasks) - len(self.counts()),
            "num_samples": len(self.samples),
            "statuses": {status: statuses[status] for status in STATUSES},
            "pass_at_k": _figures(self.estimates(ks)) if complete else None,
            "data_sha256": self.benchmark.sha256,
            "rules": self._rules(),
            "isolation": self.isolation.mode,
            "toolchain": find_toolchain(self.benchmark.language).version(),
            "version": __version__,
        }


def judge_samples(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    isolation: Isolation,
    rules: Rules,
    *,
    num_workers: int | None = None,
    on_verdict: Callable[[Program, Verdict], None] | None = None,
) -> Judged:
    """Judges every sample. Equal programs share a verdict.

    Raises:
        MissingToolchainError: the language's tools are not here.
        SandboxError: no judge starts.
    """
    programs = [assemble(benchmark, sample) for sample in samples]
    found = judge_programs(benchmark, programs, isolation, rules, num_workers=num_workers, on_verdict=on_verdict)
    return Judged(benchmark, rules, isolation, samples, [found[program.digest] for program in programs])


def _figures(estimates: Sequence[Estimate]) -> dict[str, dict[str, float]]:
    return {str(each.k): {"value": each.value, "low": each.low, "high": each.high} for each in estimates}
