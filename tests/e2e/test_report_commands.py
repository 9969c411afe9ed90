"""`aquila eval report`, `compare` and `contamination` as they are typed, and their pages in a real browser."""

import json
import os
import random
import select
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, Popen

import pytest

from data_parts import TEXTS, pack_texts, write_jsonl
from parts import tiny_tokenizer
from run_results_parts import tasks, write_run

pytestmark = pytest.mark.e2e
CHROMIUM = Path("/usr/bin/chromium")
Aquila = Callable[..., CompletedProcess[bytes]]


def test_a_report_of_a_folder_of_runs(aquila: Aquila, tmp_path: Path):
    for temperature in (0.2, 0.8):
        write_run(tmp_path / "runs" / f"python-t{temperature}", tasks(4), sampling={"temperature": temperature})
    said = aquila("eval", "report", tmp_path / "runs", "-k", "1,5").stdout.decode()
    assert said.startswith("tiny, humaneval python, T 0.2: pass@1 40.0 % (40.0 to 40.0); pass@5 100.0 %")
    assert said.endswith(f"written: {tmp_path / 'runs' / 'report.html'}, report.md, report.json\n")
    printed = aquila("eval", "report", tmp_path / "runs", "-k", "1,5", "--json").stdout
    assert json.loads(printed) == json.loads((tmp_path / "runs" / "report.json").read_bytes())


def test_a_report_without_a_score_is_written_and_is_an_error(aquila: Aquila, tmp_path: Path):
    run = write_run(tmp_path / "run", tasks(4), failure="harness_error", detail="disk full")
    done = aquila("eval", "report", run, exit_code=1)
    assert b"first HumanEval/0 sample 2: disk full" in done.stderr
    assert json.loads((run / "report.json").read_bytes())["runs"][0]["pass_at_k"] is None
    aquila("eval", "report", run, tmp_path, exit_code=2)  # where to?


def test_two_runs_compared(aquila: Aquila, tmp_path: Path):
    greedy = {"sampling": {"n": 1, "temperature": 0.0}}
    a = write_run(tmp_path / "a", tasks(30, 0), model={"name": "first"}, **greedy)
    b = write_run(tmp_path / "b", tasks(30, 1), model={"name": "second"}, **greedy)
    said = aquila("eval", "compare", a, b).stdout.decode()
    assert "difference +100.0 points (95 % interval +100.0 to +100.0)" in said
    assert "both solved 0, only A 0, only B 30, neither 0; McNemar's exact test: p = 1.86e-09" in said
    assert "and 10 more tasks; --json lists all" in said
    found = json.loads(aquila("eval", "compare", a, b, "--json").stdout)
    assert len(found["tasks"]) == 30
    other = write_run(tmp_path / "other", tasks(3), language="go")
    done = aquila("eval", "compare", a, other, exit_code=1)
    assert b"language is 'python' in one and 'go' in the other" in done.stderr


def test_contamination_of_shards_and_files_attached_to_a_run(aquila: Aquila, tmp_path: Path):
    answer = "return {name: sum(value for value in values if value % 3) for name, values in sorted(groups.items())}"
    bench = write_jsonl(tmp_path / "bench.jsonl", [{"task_id": "B/0", "prompt": "sum groups", "solution": answer}])
    (tmp_path / "corpus").mkdir()
    prefix = pack_texts(tmp_path / "corpus" / "shard", [*TEXTS, answer]).prefix
    tiny_tokenizer().save(tmp_path / "tokenizer")
    lines = write_jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in TEXTS])
    words = ["eval", "contamination", "--bench", bench, "--out", tmp_path / "found.json"]
    done = aquila(*words, "--corpus", prefix, lines, exit_code=2)
    assert b"give the tokenizer that made it" in done.stderr
    digest = json.loads(aquila(*words, "--corpus", lines, "--json").stdout)["bench"]["sha256"]
    run = write_run(tmp_path / "run", tasks(1, name="B"), data={"sha256": digest})
    said = aquila(
        *words, "--corpus", prefix, lines, "--tokenizer", tmp_path / "tokenizer", "--attach", run
    ).stdout.decode()
    longest = len("".join(answer.split()))
    assert "1 of 1 items share 13 words or 50 characters in a row" in said
    assert f"B/0 solution: 6 of 6 runs of words, longest {longest} characters; {prefix}, document 30" in said
    assert (run / "contamination.json").read_bytes() == (tmp_path / "found.json").read_bytes()
    aquila(*words, exit_code=2)
    other = write_run(tmp_path / "other", tasks(1))
    done = aquila(*words, "--corpus", lines, "--attach", other, exit_code=1)
    assert b"the search was for that with" in done.stderr


def test_an_interrupted_search_leaves_no_process_and_no_file(start: Callable[..., Popen[bytes]], tmp_path: Path):
    bench = write_jsonl(tmp_path / "bench.jsonl", [{"prompt": text} for text in TEXTS])
    corpus = tmp_path / "corpus.jsonl"
    row = json.dumps({"text": " ".join(random.Random(1).choices(TEXTS, k=400))}) + "\n"
    corpus.write_text(row * 4000)
    out = tmp_path / "found.json"
    process = start("eval", "contamination", "--bench", bench, "--corpus", corpus, "--out", out, "--workers", "2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(workers := children.read_text(encoding="ascii").split()) < 2:
        assert process.poll() is None
    ends = [os.pidfd_open(int(pid)) for pid in workers]
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.decode().endswith("error: interrupted\n")
    assert not out.exists()
    for end in ends:
        assert select.select([end], [], [], 60)[0], "a worker goes on"
        os.close(end)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from aquila.evaluate.leaderboard import write_leaderboard
    from aquila.evaluate.report import write_report

    out = tmp_path_factory.mktemp("pages")
    passed = {f"HumanEval/{number}": number % 6 for number in range(164)}
    run = write_run(out / "run", passed, model={"name": "<script>document.title = 'x'</script>"})
    write_report([run], out)
    write_leaderboard([run], out)
    return [out / "report.html", out / "leaderboard.html"]


def test_pages_in_a_browser_load_nothing_and_say_nothing_wrong(pages: list[Path]):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        colours = set()
        for scheme in ("light", "dark"):
            context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})
            for path in pages:
                page, messages, requests = context.new_page(), [], []
                page.on("console", lambda message, seen=messages: seen.append(message.text))
                page.on("pageerror", lambda error, seen=messages: seen.append(str(error)))
                page.on("request", lambda request, seen=requests: seen.append(request.url))
                page.goto(path.as_uri())
                assert (messages, requests) == ([], [path.as_uri()])
                assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
                assert page.title() != "x"
                assert page.locator("svg[role=img][aria-label]").count() == page.locator("svg").count() > 0
                colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2
        browser.close()
