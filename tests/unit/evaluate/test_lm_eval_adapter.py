"""lm-eval over our engine, in this process, beside our own multiple choice and our own likelihoods."""

from pathlib import Path
from typing import Any

import pytest

from aquila.evaluate.choice import accuracies, ask, pose
from aquila.evaluate.choice_data import TASKS, read_choice_set
from aquila.evaluate.engine_source import EngineSource
from aquila.evaluate.gsm8k import STOPS, extract, is_right, read_gsm8k
from aquila.evaluate.perplexity import score_text
from aquila.generate.load import Model
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.tokenizer import Tokenizer
from choice_parts import BOOLQ, LAW, NETWORKS, boolq_rows, write_jsonl
from parts import CORPUS, tiny_engine, tiny_model, tiny_tokenizer

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is an extra and is not installed here")
pytestmark = pytest.mark.filterwarnings("default")  # of other people's packages


def new_model() -> Model:
    """With nothing in its pages: what is there already changes the shapes of steps, and so the last digits."""
    engine = tiny_engine(tiny_model(max_position_embeddings=1024))
    return Model("tiny", tiny_model().config, tiny_tokenizer(), engine, template_name="aquila-chat")


@pytest.fixture
def adapter() -> Any:
    from aquila.evaluate.lm_eval_adapter import EngineLM

    return EngineLM(new_model())


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def published(task: str) -> dict[str, Any]:
    """lm-eval's own task, which lies in its package."""
    import yaml

    path = Path(lm_eval.__file__).parent / "tasks" / task
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "include" in own:
        own = yaml.safe_load((path.parent / own.pop("include")).read_text(encoding="utf-8")) | own
    for name in ("tag", "dataset_name", "dataset_path", "task_alias"):
        own.pop(name, None)
    return own


def run(adapter: Any, task: dict[str, Any], files: dict[str, Path], **options: Any) -> dict[str, Any]:
    data = {"data_files": {split: str(path) for split, path in files.items()}}
    local = {"dataset_path": "json", "dataset_kwargs": data}
    return lm_eval.simple_evaluate(model=adapter, tasks=[task | local], bootstrap_iters=10, log_samples=True, **options)


def by_document(result: dict[str, Any], task: str) -> list[dict[str, Any]]:
    return sorted(result["samples"][task], key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize(
    ("task", "file", "subject"),
    [
        ("ceval", "ceval/ceval-valid_computer_network.yaml", "computer_network"),
        ("cmmlu", "cmmlu/cmmlu_computer_security.yaml", "computer_security"),
        ("mmlu", "mmlu/default/mmlu_computer_security.yaml", "computer_security"),
    ],
)
def test_letters_score_the_same_to_the_last_bit(adapter: Any, tmp_path: Path, task: str, file: str, subject: str):
    names = {"cmmlu": ["Question", *"ABCD", "Answer"]}.get(task, ["question", *"ABCD", "answer"])
    rows = [dict(zip(names, row, strict=True)) for row in (*NETWORKS, *LAW)]
    if task == "mmlu":
        rows = [
            {"question": row["question"], "choices": [row[x] for x in "ABCD"], "answer": "ABCD".index(row["answer"])}
            for row in rows
        ]
    asked, shown = TASKS[task].questions[0], TASKS[task].examples
    files = {
        asked: write_jsonl(tmp_path / f"{subject}_{asked}.jsonl", rows[:4]),
        shown: write_jsonl(tmp_path / f"{subject}_{shown}.jsonl", rows[4:]),
    }
    theirs = run(adapter, published(file), files, num_fewshot=2)
    name = published(file)["task"]
    choice_set = read_choice_set(TASKS[task], [tmp_path])
    posed = pose(choice_set, num_shots=2)
    ours = [each for each, _ in ask(EngineSource(new_model()), posed, "ABCD")]
    for mine, pose_, sample in zip(ours, posed, by_document(theirs, name), strict=True):
        assert [pose_.prompt] * 4 == [arguments[0] for arguments in sample["arguments"]]
        assert list(mine.scores) == [float(response[0][0]) for response in sample["resps"]]
    _, overall = accuracies(ours)
    assert overall.value == theirs["results"][name]["acc,none"]
    if overall.stderr:
        assert overall.stderr == pytest.approx(theirs["results"][name]["acc_stderr,none"])


def test_boolq_draws_the_same_examples(adapter: Any, tmp_path: Path):
    train = [(f"Passage {n}.", f"is it {n}", n % 2 == 0) for n in range(9)]
    rows = [{"passage": text, "question": question, "label": int(right)} for text, question, right in BOOLQ]
    files = {
        "validation": write_jsonl(tmp_path / "val.jsonl", rows),
        "train": write_jsonl(
            tmp_path / "train.jsonl",
            [{"passage": text, "question": question, "label": int(right)} for text, question, right in train],
        ),
    }
    theirs = run(adapter, published("super_glue/boolq/default.yaml"), files, num_fewshot=3)
    posed = pose(read_choice_set(TASKS["boolq"], [tmp_path]), num_shots=3)
    ours = [each for each, _ in ask(EngineSource(new_model()), posed, ("no", "yes"))]
    for mine, pose_, sample in zip(ours, posed, by_document(theirs, "boolq"), strict=True):
        assert pose_.prompt == sample["arguments"][0][0]
        assert list(mine.scores) == [float(response[0][0]) for response in sample["resps"]]
    assert len(boolq_rows()) == len(ours)


def test_gsm8k_asks_the_same_and_reads_answers_the_same(adapter: Any, tmp_path: Path):
    rows = [{"question": f"What is {n}+1?", "answer": f"{n}+1 is {n + 1}.\n#### {n + 1}"} for n in range(7)]
    files = {name: write_jsonl(tmp_path / f"{name}.jsonl", rows[::step]) for name, step in (("test", 2), ("train", 1))}
    task = published("gsm8k/gsm8k.yaml")
    theirs = run(adapter, task, files, num_fewshot=3, gen_kwargs="max_gen_toks=9")
    ours = read_gsm8k(files["test"], num_shots=3)
    for name, strict in (("strict-match", True), ("flexible-extract", False)):
        samples = [each for each in by_document(theirs, "gsm8k") if each["filter"] == name]
        for prompt, problem, sample in zip(ours.prompts, ours.problems, samples, strict=True):
            assert prompt == sample["arguments"][0][0]
            assert tuple(sample["arguments"][0][1]["until"]) == STOPS
            assert extract(sample["resps"][0][0], strict=strict) == sample["filtered_resps"][0]
            assert is_right(sample["filtered_resps"][0], problem.answer) == bool(sample["exact_match"])


def instance(*arguments: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", doc={}, arguments=arguments, idx=0)


def test_rolling_likelihood_of_a_short_text_is_our_perplexity():
    from aquila.evaluate.lm_eval_adapter import EngineLM

    begins = Tokenizer(tiny_tokenizer().backend, bos_token_id=3, add_bos_token=True)
    model = Model("tiny", tiny_model().config, begins, tiny_engine(tiny_model(max_position_embeddings=1024)))
    text = CORPUS[:300]
    (found,) = EngineLM(model).loglikelihood_rolling([instance(text)])
    assert found == pytest.approx(-score_text(model.engine.runner, begins, text).nats, rel=1e-6)


def test_generation_is_the_engines_own(adapter: Any):
    prompt = "print(7, 'hello"
    (answer,) = adapter.generate_until([instance(prompt, {"until": ["\n"], "max_gen_toks": 12, "do_sample": False})])
    params = SamplingParams(temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=12, stop=("\n",))
    ids = tuple(adapter.model.prompt_ids(prompt))
    assert answer == adapter.model.engine.generate([Request(ids, params)])[0][0].text


def test_a_conversation_is_rendered_by_the_models_template(adapter: Any):
    history = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "wor"}]
    assert adapter.chat_template(True) == "aquila-chat"
    whole = adapter.apply_chat_template(history[:1])
    assert whole.endswith("Assistant:")
    assert adapter.apply_chat_template(history, add_generation_prompt=False) == whole + "wor"
    (score, _) = adapter.loglikelihood([instance(whole, " wor")])[0]
    assert score < 0
