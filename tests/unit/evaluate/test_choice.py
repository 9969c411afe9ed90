"""Multiple choice: the published files, lm-eval's templates, and what is made of the scores."""

import json
import random
from pathlib import Path

import pytest

from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.choice import Accuracy, Asked, accuracies, ask, pose
from aquila.evaluate.choice_data import TASKS, ChoiceSet, read_choice_set
from aquila.evaluate.engine_source import EngineSource
from aquila.evaluate.loglikelihood import loglikelihood
from aquila.evaluate.url_source import UrlSource
from aquila.generate.load import Model
from choice_parts import BOOLQ, LAW, NETWORKS, boolq_rows, ceval_folder, write_csv, write_jsonl
from parts import tiny_engine, tiny_model, tiny_tokenizer
from serve_parts import running, tiny_served


def ceval(root: Path, **options) -> ChoiceSet:
    return read_choice_set(TASKS["ceval"], [ceval_folder(root)], **options)


def test_ceval_prompts_are_lm_evals_to_the_letter(tmp_path: Path):
    posed = pose(ceval(tmp_path), num_shots=2)
    assert [each.task_id for each in posed] == [
        *(f"ceval/computer_network/{number}" for number in range(4)),
        *(f"ceval/law/{number}" for number in range(2)),
    ]
    assert posed[1].prompt == (
        "以下是中国关于计算机网络的单项选择题，请选出其中的正确答案。\n\n"
        "“域名，解析”用哪个协议？\nA. FTP\nB. SMTP\nC. ARP\nD. DNS\n答案： D\n\n"
        "IPv4地址有多少位？\nA. 16\nB. 64\nC. 32\nD. 128\n答案： C\n\n"
        "HTTP默认的端口号是多少？\nA. 80\nB. 21\nC. 443\nD. 25\n答案："
    )
    assert posed[-1].prompt.startswith("以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n成年")


def test_cmmlu_has_an_unnamed_first_column_and_words_of_its_own(tmp_path: Path):
    header = ["", "Question", "A", "B", "C", "D", "Answer"]
    rows = [[number, *row] for number, row in enumerate(LAW)]
    write_csv(tmp_path / "test" / "college_law.csv", header, rows)
    write_csv(tmp_path / "dev" / "college_law.csv", header, rows)
    (first, _) = pose(read_choice_set(TASKS["cmmlu"], [tmp_path]), num_shots=1)
    assert first.prompt == (
        "以下是关于大学法律的单项选择题，请直接给出正确答案的选项。\n\n"
        "我国的根本大法是____。\nA. 宪法\nB. 刑法\nC. 民法典\nD. 行政法\n答案： A\n\n"
        "我国的根本大法是____。\nA. 宪法\nB. 刑法\nC. 民法典\nD. 行政法\n答案："
    )


def test_mmlu_as_published_without_a_header_and_as_on_the_hub_pose_the_same(tmp_path: Path):
    rows = [("What is 1+1?", "1", "2", "3", "4", "B"), ("None of these?\nSay.", "a,b", '"c"', "d", "e", "D")]
    write_csv(tmp_path / "csv" / "test" / "abstract_algebra_test.csv", None, rows)
    write_csv(tmp_path / "csv" / "dev" / "abstract_algebra_dev.csv", None, rows[:1])
    write_csv(tmp_path / "csv" / "auxiliary_train" / "arc_easy.csv", None, rows[:1])
    hub = [
        {"question": row[0], "subject": "abstract_algebra", "choices": row[1:5], "answer": "ABCD".index(row[5])}
        for row in rows
    ]
    write_jsonl(tmp_path / "hub" / "test.jsonl", hub)
    write_jsonl(tmp_path / "hub" / "dev.jsonl", hub[:1])
    published, on_hub = (
        pose(read_choice_set(TASKS["mmlu"], [tmp_path / name]), num_shots=1) for name in ("csv", "hub")
    )
    assert [each.prompt for each in published] == [each.prompt for each in on_hub]
    assert [each.question.answer for each in published] == [1, 3]
    assert published[1].prompt == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "What is 1+1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
        'None of these?\nSay.\nA. a,b\nB. "c"\nC. d\nD. e\nAnswer:'
    )


@pytest.mark.parametrize("name", ["dev.jsonl", "val.jsonl", "validation.jsonl", "mine.jsonl"])
def test_boolq_draws_its_examples_as_lm_eval_does(tmp_path: Path, name: str):
    write_jsonl(tmp_path / name, boolq_rows())
    write_jsonl(tmp_path / "train.jsonl", boolq_rows([(f"Passage {n}.", f"is it {n}", n % 2 == 0) for n in range(9)]))
    posed = pose(read_choice_set(TASKS["boolq"], [tmp_path / name, tmp_path / "train.jsonl"]), num_shots=2)
    generator = random.Random(1234)
    for each, (text, question, _) in zip(posed, BOOLQ, strict=True):
        shown = generator.sample(range(9), 3)[:2]  # lm-eval draws one more than it shows
        before = "".join(f"Passage {n}.\nQuestion: is it {n}?\nAnswer: {('no', 'yes')[n % 2 == 0]}\n\n" for n in shown)
        assert each.prompt == f"{before}{text}\nQuestion: {question}?\nAnswer:"
    assert [each.question.answer for each in posed] == [1, 0, 1, 0]


def test_superglue_says_label_instead_of_answer(tmp_path: Path):
    rows = [{"question": "is it", "passage": "P.", "idx": 0, "label": label} for label in (True, False, 1, 0, "yes")]
    found = read_choice_set(TASKS["boolq"], [write_jsonl(tmp_path / "val.jsonl", rows)])
    assert [question.answer for question in found.questions[""]] == [1, 0, 1, 0, 1]


def test_scores_are_those_of_the_labels_after_the_prompt(tmp_path: Path):
    engine = tiny_engine(tiny_model(max_position_embeddings=1024))
    model = Model("tiny", tiny_model().config, tiny_tokenizer(), engine)
    choice_set = ceval(tmp_path)
    posed = pose(choice_set, num_shots=2)
    asked = list(ask(EngineSource(model), posed, choice_set.task.labels))
    assert [each.task_id for each, _ in asked] == [each.task_id for each in posed]
    assert not any(cut for _, cut in asked)
    for each, (answer, _) in zip(posed, asked, strict=True):
        scores = [score for score, _ in loglikelihood(model, [(each.prompt, f" {label}") for label in "ABCD"])]
        assert answer.scores == pytest.approx(scores)
        assert answer.chosen == scores.index(max(scores))


@pytest.mark.parametrize("max_context", [1024, 120])
def test_a_server_scores_as_the_engine_does(tmp_path: Path, max_context: int):
    """Our own, over HTTP; where prompts are too long it cuts them too, two tokens earlier."""
    choice_set = ceval(tmp_path)
    posed = pose(choice_set, num_shots=2)
    labels = choice_set.task.labels
    here = list(ask(EngineSource(tiny_served(max_context=max_context - 2)), posed, labels))
    with running(lambda: tiny_served(max_context=max_context)) as server:
        source = UrlSource(server.url, num_concurrent=3)
        there = list(ask(source, posed, labels))
        source.close()
    assert [cut for _, cut in there] == [cut for _, cut in here]
    assert any(cut for _, cut in there) == (max_context == 120)
    for (ours, _), (theirs, _) in zip(here, there, strict=True):
        assert theirs.scores == pytest.approx(ours.scores, abs=1e-4)


def test_accuracy_by_subject_and_in_all(tmp_path: Path):
    posed = pose(ceval(tmp_path), num_shots=0)
    always_a = [Asked(each.task_id, each.question, (-1.0, -2.0, -1.0, -3.0)) for each in posed]
    by_subject, overall = accuracies(always_a)
    assert by_subject == {"computer_network": Accuracy(4, 1), "law": Accuracy(2, 1)}
    assert overall == Accuracy(6, 2)
    with pytest.raises(ConfigError, match="no question was asked"):
        accuracies([])


def test_the_interval_is_wilsons_and_the_error_that_of_a_sample():
    accuracy = Accuracy(10, 7)
    for end in accuracy.interval:  # where the truth would lie just 1.96 of its own deviations away
        assert abs(end - 0.7) == pytest.approx(1.959964 * (end * (1 - end) / 10) ** 0.5, rel=1e-6)
    assert accuracy.interval[0] < 0.7 < accuracy.interval[1]
    values = [1.0] * 7 + [0.0] * 3
    assert accuracy.stderr == pytest.approx((sum((v - 0.7) ** 2 for v in values) / 9) ** 0.5 / 10**0.5)
    assert Accuracy(5, 5).interval[1] == 1.0
    assert Accuracy(5, 0).interval[0] == 0.0
    assert Accuracy(1, 1).stderr is None


def test_answers_that_were_never_published_leave_the_other_split(tmp_path: Path):
    folder = ceval_folder(tmp_path)
    with pytest.raises(EvaluationError, match=r"no questions of the split test; splits .*: .*val \(2 files"):
        read_choice_set(TASKS["ceval"], [folder], split="test")
    with pytest.raises(EvaluationError, match="no questions of the split val or test"):
        read_choice_set(TASKS["ceval"], [folder / "test"])


def test_given_examples_and_chosen_subjects(tmp_path: Path):
    folder = ceval_folder(tmp_path)
    found = read_choice_set(
        TASKS["ceval"],
        [folder / "val" / "law_val.csv"],
        examples=[folder / "val" / "law_val.csv"],
        subjects=["law"],
    )
    assert list(found.questions) == ["law"]
    assert [each.text for each in found.examples["law"]] == [row[0] for row in LAW]
    assert set(found.digests) == {"val/law_val.csv"}
    with pytest.raises(ConfigError, match=r"--subjects: there is no 'laws'.*law"):
        ceval(folder, subjects=["laws"])


def test_too_few_examples_are_refused_with_their_number(tmp_path: Path):
    with pytest.raises(EvaluationError, match="computer_network: 5 examples are asked for and 4 are there"):
        pose(ceval(tmp_path), num_shots=5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "A": "1", "B": "2", "C": "3", "answer": "A"}, "needs four choices"),
        ({"question": "q", "choices": ["1", "2"], "answer": 0}, "needs four choices"),
        ({"question": "q", "choices": list("1234"), "answer": "E"}, "the answer is 'E', and must be one of A, B, C, D"),
        ({"question": "q", "choices": list("1234"), "answer": 4}, "the answer is 4, and must"),
        ({"question": "q", "choices": list("1234")}, r"has no answer \(those of C-Eval's test files"),
        ({"question": " ", "choices": list("1234"), "answer": 0}, "field question is ' ', and must be a text"),
        ([1], "is a list, not an object"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, row, message: str):
    path = tmp_path / "law_val.jsonl"
    good = {"question": "q", "choices": list("1234"), "answer": "A"}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(EvaluationError, match=rf"law_val\.jsonl:2: {message}"):
        read_choice_set(TASKS["ceval"], [path])


def test_files_that_cannot_be_read(tmp_path: Path):
    broken = tmp_path / "law_val.csv"
    broken.write_bytes("question,A,B,C,D,answer\n法律".encode("gb18030"))
    with pytest.raises(EvaluationError, match=r"law_val\.csv: byte 24 is not UTF-8"):
        read_choice_set(TASKS["ceval"], [broken])
    short = write_csv(tmp_path / "x" / "law_val.csv", ["question", "A", "B", "C", "D", "answer"], [NETWORKS[0][:4]])
    with pytest.raises(EvaluationError, match=r"law_val\.csv:2: has 4 fields, not 6"):
        read_choice_set(TASKS["ceval"], [short])
    with pytest.raises(EvaluationError, match=r"is no \.csv or \.jsonl file"):
        read_choice_set(TASKS["ceval"], [write_jsonl(tmp_path / "ceval-exam.zip", [])])
    with pytest.raises(EvaluationError, match=r"law_val\.jsonl: no such file or folder"):
        read_choice_set(TASKS["ceval"], [tmp_path / "law_val.jsonl"])
    unnamed = write_jsonl(tmp_path / "val.jsonl", [{"question": "q", "choices": list("1234"), "answer": "A"}])
    with pytest.raises(EvaluationError, match=r"name the file SUBJECT_val\.jsonl"):
        read_choice_set(TASKS["ceval"], [unnamed])
