"""Middles cut out of solutions: which, what prompts they make, and what becomes of the answers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aquila.errors import ConfigError, SandboxError
from aquila.evaluate.engine_source import EngineSource, fim_tokens
from aquila.evaluate.fim import KINDS, FimRun, Kind, Span, draw, find_kind, is_exact, judge, spans_of
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.report import make_report
from aquila.evaluate.report_words import remarks
from aquila.evaluate.run_folder import RunFolder
from aquila.evaluate.run_results import read_run
from aquila.evaluate.sampling import Answer, Prompt, Scored, Settings
from aquila.evaluate.tasks import Benchmark, Task, read_benchmark
from aquila.generate.load import Model
from aquila.sandbox.isolation import Isolation, find_isolation
from aquila.tokenizer.tokenizer import Tokenizer
from parts import shared_data, tiny_engine, tiny_model, tiny_tokenizer

TASK = Task(
    "HumanEval/0",
    "python",
    "def total(values):\n    '''Adds.'''\n",
    "    found = 0\n\n    for value in values:\n        found += value\n    return found\n",
    "",
    "total",
)
LINES = ["    found = 0", "    for value in values:", "        found += value", "    return found"]


def test_single_lines_are_all_that_are_not_blank_without_their_line_break():
    spans = spans_of(TASK, "single-line")
    assert [span.middle for span in spans] == LINES
    assert [span.task_id for span in spans] == [f"HumanEval/0/{number}" for number in range(4)]
    assert spans[1].after == "\n        found += value\n    return found\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_span_and_what_is_around_it_make_the_program(kind: Kind):
    spans = spans_of(TASK, kind, per_task=5)
    assert spans
    for span in spans:
        assert span.before + span.middle + span.after == TASK.prompt + TASK.canonical_solution
        assert span.before.startswith(TASK.prompt)
        assert span.middle.strip()
        assert span.program(span.middle).text == TASK.prompt + TASK.canonical_solution
    assert len({(span.before, span.middle) for span in spans}) == len(spans)
    assert spans == spans_of(TASK, kind, per_task=5)


def test_several_lines_are_two_or_more_and_end_where_a_line_does():
    found = {span.middle for span in spans_of(TASK, "multi-line", per_task=100)}
    whole = TASK.canonical_solution.splitlines()
    lines = [number for number, line in enumerate(whole) if line]
    assert found == {"\n".join(whole[a : b + 1]) for a in lines for b in lines if a < b}


def test_which_spans_follows_from_the_seed():
    drawn = [spans_of(TASK, "random-span", per_task=5, seed=seed) for seed in (0, 1)]
    assert [span.middle for span in drawn[0]] != [span.middle for span in drawn[1]]
    assert len(spans_of(TASK, "single-line", per_task=2)) == 2


def test_white_space_at_the_end_does_not_matter():
    (first, *_) = spans_of(TASK, "single-line")
    assert is_exact("    found = 0  ", first)
    assert not is_exact("found = 0", first)


def test_kinds_have_names():
    assert find_kind("random-span") == "random-span"
    with pytest.raises(ConfigError, match=r"'single' is unknown.*single-line"):
        find_kind("single")


def model_with(tokenizer: Tokenizer, max_context: int = 1024) -> Model:
    decoder = tiny_model(max_position_embeddings=max_context)
    return Model("tiny", decoder.config, tokenizer, tiny_engine(decoder))


def test_both_orders_in_the_models_own_tokens():
    tokenizer = Tokenizer(tiny_tokenizer().backend, bos_token_id=0, add_bos_token=True)
    marks = tokenizer.fim
    assert marks is not None
    before, after = tokenizer.encode("print("), tokenizer.encode(")\n")
    psm, stops = fim_tokens(model_with(tokenizer), Prompt(("t", 0), "print(", suffix=")\n"))
    spm, _ = fim_tokens(model_with(tokenizer), Prompt(("t", 0), "print(", suffix=")\n", order="spm"))
    assert psm == [0, marks.prefix, *before, marks.suffix, *after, marks.middle]
    assert spm == [0, marks.prefix, marks.suffix, *after, marks.middle, *before]
    assert set(stops) == set(marks.ids().values())


def test_text_that_spells_a_mark_is_text():
    ids, _ = fim_tokens(model_with(tiny_tokenizer()), Prompt(("t", 0), "<|fim_suffix|>", suffix=""))
    marks = tiny_tokenizer().fim
    assert marks is not None
    assert ids.count(marks.suffix) == 1


def test_a_model_without_such_tokens_is_told():
    from aquila.tokenizer.train import train_tokenizer

    plain = train_tokenizer(["print(1)\n" * 9], vocab_size=270, specials=("<|endoftext|>",))
    assert plain.fim is None
    with pytest.raises(ConfigError, match="tiny has no fill-in-the-middle tokens in its vocabulary"):
        fim_tokens(model_with(plain), Prompt(("t", 0), "a", suffix="b"))


class Knowing:
    """A source that knows some of the middles, and writes another line behind each."""

    name = "knowing"

    def __init__(self, spans: Sequence[Span], known: int) -> None:
        self._answers = {span.task_id: span.middle if place < known else "    pass" for place, span in enumerate(spans)}
        self.num_asked = 0

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "source": "file", "digest": None, "training": None, "quantisation": None}

    def sample(self, prompts: Sequence[Prompt], settings: Settings) -> Iterator[Answer]:
        for prompt in prompts:
            self.num_asked += 1
            yield Answer(prompt.key, f"{self._answers[prompt.key[0]]}\nmore", "stop", 3, 0.0)

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        raise ConfigError("not here")


@pytest.fixture
def walls() -> Isolation:
    try:
        return find_isolation()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def benchmark() -> Benchmark:
    return read_benchmark("humaneval", shared_data("humaneval"))


def test_answers_are_compared_and_judged_and_a_run_goes_on(tmp_path: Path, walls: Isolation, benchmark: Benchmark):
    run = FimRun(benchmark, "single-line", "psm", Settings(max_new_tokens=9), walls, Rules(seconds=30.0), num_tasks=1)
    spans = run.spans()
    source = Knowing(spans, known=2)
    passed: list[bool] = []
    with RunFolder(tmp_path / "run", run.facts(source.facts())) as folder:
        draw(run, source, folder)
        judge(run, folder, num_workers=1, on_verdict=passed.append)
        assert [folder.verdicts[span.task_id, 0]["status"] for span in spans[:2]] == ["passed", "passed"]
        assert sum(passed) < len(passed) == len(spans)
        assert folder.verdicts[spans[-1].task_id, 0]["exact"] is False
    with RunFolder(tmp_path / "run", run.facts(source.facts())) as folder:
        draw(run, source, folder)
        judge(run, folder, num_workers=1, on_verdict=passed.append)
    assert source.num_asked == len(spans) == len(passed)
    described = make_report([read_run(tmp_path / "run")], ks=(1,))["runs"][0]
    assert described["exact_match"]["value"] == pytest.approx(2 / len(spans))
    assert described["exact_match"]["low"] < described["exact_match"]["value"] < described["exact_match"]["high"]
    assert "Exactly what was cut out: " in " ".join(remarks(described))


def test_prompts_without_room_are_told_of(tmp_path: Path, walls: Isolation, benchmark: Benchmark):
    run = FimRun(benchmark, "random-span", "psm", Settings(max_new_tokens=4), walls, Rules(), num_tasks=1, per_task=2)
    source = EngineSource(model_with(tiny_tokenizer(), max_context=64))
    with RunFolder(tmp_path / "run", run.facts({"name": "tiny"})) as folder:
        draw(run, source, folder)
    described = make_report([read_run(tmp_path / "run")])["runs"][0]
    assert "2 of 2 prompts fill the model's context alone" in " ".join(remarks(described))


def test_the_engine_fills_gaps(tmp_path: Path, walls: Isolation, benchmark: Benchmark):
    run = FimRun(benchmark, "random-span", "spm", Settings(max_new_tokens=4), walls, Rules(), num_tasks=1, per_task=2)
    source = EngineSource(model_with(tiny_tokenizer()))
    with RunFolder(tmp_path / "run", run.facts({"name": "tiny"})) as folder:
        draw(run, source, folder)
        assert set(folder.samples) == {("HumanEval/0/0", 0), ("HumanEval/0/1", 0)}
        assert all(row["num_tokens"] <= 4 for row in folder.samples.values())
