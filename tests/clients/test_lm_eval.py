"""lm-eval's local-completions with this server's tokenizer: scores and generated answers."""

import json
from pathlib import Path

import pytest
from client_parts import MODEL, Server, program, python, run

QUESTIONS = [
    {"question": "The capital of France is", "choices": [" Paris", " potato"], "answer": 0},
    {"question": "The opposite of hot is", "choices": [" seven", " cold"], "answer": 1},
    {"question": "One, two, three,", "choices": [" four", " purple"], "answer": 0},
]
SCORED = """\
task: scored
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
WRITTEN = """\
task: written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 8, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""


def tasks(home: Path) -> Path:
    folder = home / "tasks"
    folder.mkdir()
    file = home / "questions.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS), encoding="utf-8")
    for name, text in (("scored", SCORED), ("written", WRITTEN)):
        (folder / f"{name}.yaml").write_text(text.format(file=file), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_scores_and_generates(server: Server, home):
    python("lm_eval", "tenacity")
    arguments = f"model={MODEL},base_url={server.v1}/completions,tokenizer_backend=remote,max_retries=1"
    run(
        program("lm_eval"), "--model", "local-completions", "--model_args", arguments, "--include_path", tasks(home),
        "--tasks", "scored,written", "--output_path", home / "out", "--log_samples", "--batch_size", "2", home=home,
        HF_DATASETS_OFFLINE="1", HF_HOME=str(home / "hf"),
    )  # fmt: skip
    results = json.loads(next((home / "out").rglob("results*.json")).read_text(encoding="utf-8"))["results"]
    assert results["scored"]["acc,none"] == 1.0, results
    samples = next((home / "out").rglob("samples_written*.jsonl")).read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["resps"][0][0] for line in samples]
    assert len(answers) == len(QUESTIONS)
    assert all(answer.strip() and "." not in answer for answer in answers), answers
