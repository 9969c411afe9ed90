"""`aquila complete`, `aquila lsp` and `aquila chat --base-url` as editors and scripts use them, over real pipes."""

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import aquila as package
from aquila.cli.complete import parse_place
from aquila.generate.infill import infill_request
from aquila.generate.load import Model
from aquila.generate.middle import clean_middle
from aquila.generate.sampling import SamplingParams
from parts import ROOT, tiny_checkpoint

pytestmark = pytest.mark.e2e

SOURCE = "def 你好(x):\n    s = '😀'\n    re\n\n\nprint(你好(1))\n"
BEFORE, LINE = SOURCE[: SOURCE.index("    re")], "    re"
AFTER = SOURCE[len(BEFORE) + len(LINE) :]
COMMAND = [sys.executable, "-m", "aquila"]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("complete") / "tiny", max_position_embeddings=512)


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    return package.load(model_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def expected(model: Model, max_new_tokens: int, min_indent: int = 0, line: str = LINE) -> str:
    params = SamplingParams(temperature=0, max_new_tokens=max_new_tokens)
    [[completion]] = model.engine.generate([infill_request(model, BEFORE, AFTER, params, line=line)])
    return clean_middle(completion.text, AFTER, ended=completion.finish_reason == "stop", min_indent=min_indent)


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[str]:
    with served(model_path) as url:
        yield url


@contextmanager
def served(model_path: Path, *options: str) -> Generator[str, None, None]:
    """A real `aquila serve` on a port of its own."""
    command = [*COMMAND, "serve", str(model_path), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stdout is not None
    url = ""
    for line in process.stderr:
        url = url or "http://" + line.partition("http://")[2].partition("/health")[0]
        if "/v1" in line:  # said when the model is there
            break
    try:
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | environment,
        timeout=120,
        check=False,
    )


def test_complete_prints_the_insertion_of_a_model_and_of_a_server(
    model: Model, model_path: Path, source: Path, server: str
) -> None:
    text = expected(model, 12)
    local = run("complete", f"{source}:3", "--model", model_path, "--max-new-tokens", "12", "-q")
    assert local.stdout == text + "\n"
    assert local.stderr == ""
    remote = run("complete", f"{source}:3:7", "--base-url", server, "--max-new-tokens", "12", "--json")
    assert remote.returncode == 0, remote.stderr
    found = json.loads(remote.stdout)
    assert found["text"] == text
    assert (found["line"], found["column"]) == (3, 7)
    assert found["num_prompt_tokens"] > 0


def test_a_diff_can_be_applied(model: Model, source: Path, server: str) -> None:
    done = run("complete", f"{source}:3", "--base-url", server, "--max-new-tokens", "12", "--diff")
    patch = ["patch", "-d", "/", "-p1"]
    subprocess.run(patch, input=done.stdout, text=True, encoding="utf-8", check=True, capture_output=True)
    assert source.read_text(encoding="utf-8") == BEFORE + LINE + expected(model, 12) + AFTER


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("{file}:9", "the file has 7 lines"),
        ("{file}:3:99", "the line has 6 characters"),
        ("{file}", "is no place in a file"),
        ("{file}:0", "counted from 1"),
        ("nowhere.py:1", "is not a file"),
    ],
)
def test_a_place_that_is_none_is_one_line_and_exit_code_2(source: Path, place: str, told: str) -> None:
    done = run("complete", place.format(file=source))
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_place_may_be_in_a_file_with_colons() -> None:
    assert parse_place("a:b.py:3:4") == (Path("a:b.py"), 3, 4)
    assert parse_place("C:/x.py:3") == (Path("C:/x.py"), 3, None)


def test_a_server_that_is_not_there_is_one_line(source: Path) -> None:
    done = run("complete", f"{source}:1", "--base-url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "start a server with `aquila serve MODEL`" in done.stderr


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        ("complete", ("--base-url", "127.0.0.1"), "'127.0.0.1' is no address"),
        ("complete", ("--base-url", "http://[::1"), "'http://[::1' is no address"),
        ("complete", ("--base-url", "http://127.0.0.1:9", "--api-key", "ké"), "characters that no key has"),
        ("complete", ("--base-url", "http://127.0.0.1:9", "--quantize", "w4"), "leave it out with --base-url"),
        ("complete", ("--base-url", "http://127.0.0.1:9", "--max-new-tokens", "0"), "max_new_tokens: must be between"),
        ("lsp", ("--base-url", "http://[::1"), "'http://[::1' is no address"),
        ("lsp", ("--base-url", "http://127.0.0.1:9", "--temperature", "-1"), "temperature: must be between"),
        ("chat", ("hello", "--base-url", "http://[::1"), "'http://[::1' is no address"),
        ("bench", ("serve", "127.0.0.1:9"), "give a server's address as http://127.0.0.1:9"),
        ("bench", ("serve", "http://127.0.0.1:9", "--prefix-tokens", "-1"), "must be 0 or more, got -1"),
    ],
)
def test_what_cannot_be_asked_of_a_server_is_one_line(
    source: Path, command: str, options: tuple[str, ...], told: str
) -> None:
    place = (f"{source}:1",) if command == "complete" else ()
    done = run(command, *place, *options)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_asks_for_a_key_and_one_that_is_none(model_path: Path, source: Path) -> None:
    with served(model_path, "--api-key", "sesame") as url:
        for command in (("complete", f"{source}:1"), ("chat", "hello"), ("bench", "serve")):
            where = (url,) if command[0] == "bench" else ("--base-url", url)
            assert "here: --api-key KEY, or the variable AQUILA_API_KEY" in run(*command, *where).stderr
        right = run("complete", f"{source}:3", "--base-url", url, "--max-new-tokens", "4", AQUILA_API_KEY="sesame")
        assert right.returncode == 0, right.stderr
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        done = run("complete", f"{source}:1", "--base-url", f"http://127.0.0.1:{pages.server_port}")
        pages.shutdown()
    assert "501 Unsupported method ('POST'); is it an OpenAI-compatible server?" in done.stderr
    assert done.stderr.count("\n") == 1


class Pages(http.server.BaseHTTPRequestHandler):
    """A server of something else, whose errors are pages."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_chat_talks_to_a_server(server: str) -> None:
    done = run("chat", "hello", "--base-url", server, "--max-new-tokens", "5", "--temperature", "0", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert "5 tokens" in done.stderr
    again = run("chat", "hello", "-q", "--max-new-tokens", "5", "--temperature", "0", AQUILA_BASE_URL=server + "/v1")
    assert again.stdout == done.stdout
    wrong = run("chat", "hello", "--base-url", server, "--model", "nobody")
    assert "not 'nobody'" in wrong.stderr


def test_bench_serve_sweeps_and_plots(server: str, tmp_path: Path) -> None:
    sizes = ("--requests", "2", "--prompt-tokens", "8", "--new-tokens", "4", "--prefix-tokens", "40")
    done = run("bench", "serve", server, "--concurrency", "1,3", *sizes, "--json", "--plot", tmp_path / "plot.png")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(level["concurrency"], level["num_requests"]) for level in report["levels"]] == [(1, 2), (3, 6)]
    for level in report["levels"]:
        assert level["num_failed"] == 0
        assert level["tokens_per_second"] == pytest.approx(level["num_requests"] * 4 / level["seconds"], rel=0.01)
        assert 0 < level["first_token_p50"] <= level["first_token_p95"]
    assert report["shared_prefix"]["first_token_p50"] > 0
    long = run("bench", "serve", server, "--concurrency", "1", *sizes[:-2], "--json", "--prefix-tokens", "2000")
    assert json.loads(long.stdout)["levels"], "what was measured is not lost where the context is too short"
    assert json.loads(long.stdout)["shared_prefix"] is None
    assert "not measured with a shared prefix (--prefix-tokens 2000)" in long.stderr
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_extension_for_vs_code(model: Model, server: str) -> None:
    """Its own tests, and its client against a real server."""
    asked = {"text": SOURCE, "offset": len((BEFORE + LINE).encode("utf-16-le")) // 2, "content": expected(model, 12, 4)}
    done = subprocess.run(
        ["node", "--test"],
        cwd=ROOT / "editors" / "vscode",
        env=os.environ | {"AQUILA_TEST_URL": server, "AQUILA_TEST_CURSOR": json.dumps(asked)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "# skipped 0" in done.stdout


class Editor:
    """A client of `aquila lsp` that says what a test tells it to."""

    def __init__(self, *options: str | Path):
        command = [*COMMAND, "lsp", "--max-new-tokens", "12", *map(str, options)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> "Editor":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait()

    def send(self, method: str, params: Any = None, request_id: int | None = None) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        self.send_raw(json.dumps(message | ({} if request_id is None else {"id": request_id})).encode())

    def send_raw(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        length = int(self.process.stdout.readline().partition(b":")[2])
        assert self.process.stdout.readline() == b"\r\n"
        return json.loads(self.process.stdout.read(length))

    def ask(self, request_id: int, line: int, character: int, uri: str = "file:///a.py") -> None:
        params = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}, "context": {}}
        self.send("textDocument/inlineCompletion", params, request_id)

    def leave(self) -> int:
        self.send("shutdown", None, 99)
        while self.hear().get("id") != 99:
            pass
        self.send("exit")
        return self.process.wait(timeout=60)


def test_an_editor_gets_inline_completions(model: Model, model_path: Path) -> None:
    with Editor("--model", model_path, "--stdio") as editor:
        editor.ask(1, 0, 0)
        assert editor.hear()["error"]["code"] == -32002
        editor.send("initialize", {"capabilities": {}}, 2)
        capabilities = editor.hear()["result"]["capabilities"]
        assert capabilities["inlineCompletionProvider"] is True
        assert capabilities["positionEncoding"] == "utf-16"
        editor.send("initialized", {})
        begun = SOURCE.replace("re", "😀😀", 1)
        document = {"uri": "file:///a.py", "languageId": "python", "version": 1, "text": begun}
        editor.send("textDocument/didOpen", {"textDocument": document})
        span = {"start": {"line": 2, "character": 4}, "end": {"line": 2, "character": 8}}  # four UTF-16 units
        changes = [{"range": span, "text": "re"}]
        editor.send(
            "textDocument/didChange", {"textDocument": {"uri": "file:///a.py", "version": 2}, "contentChanges": changes}
        )
        editor.ask(3, 2, 6)
        answer = editor.hear()
        assert answer["id"] == 3
        [item] = answer["result"]["items"]
        assert item["insertText"] == expected(model, 12)
        assert item["range"]["start"] == {"line": 2, "character": 6}

        whole = {"start": {"line": 2, "character": 4}, "end": {"line": 2, "character": 6}}
        chosen = {"triggerKind": 2, "selectedCompletionInfo": {"range": whole, "text": "repeat"}}
        place = {"textDocument": {"uri": "file:///a.py"}, "position": {"line": 2, "character": 6}, "context": chosen}
        editor.send("textDocument/inlineCompletion", place, 7)
        [beside] = editor.hear()["result"]["items"]
        assert beside == {"insertText": "repeat" + expected(model, 12, line="    repeat"), "range": whole}

        editor.send("textDocument/hover", {}, 4)
        assert editor.hear()["error"]["code"] == -32601
        editor.ask(5, 0, 0, uri="file:///closed.py")
        assert "is not open" in editor.hear()["error"]["message"]
        editor.send("textDocument/inlineCompletion", {"wrong": 1}, 6)
        assert editor.hear()["error"]["code"] == -32602
        editor.send_raw(b"{not json")
        assert editor.hear()["error"]["code"] == -32700
        assert editor.leave() == 0


def test_of_requests_for_one_document_the_last_is_answered(server: str) -> None:
    with Editor("--base-url", server, "--max-new-tokens", "200") as editor:
        editor.send("initialize", {}, 0)
        editor.hear()
        editor.send("textDocument/didOpen", {"textDocument": {"uri": "file:///a.py", "text": SOURCE}})
        for request_id in range(1, 5):
            editor.ask(request_id, 2, 6)
        editor.send("$/cancelRequest", {"id": 4})
        answers = {answer["id"]: answer for answer in (editor.hear() for _ in range(4))}
        assert set(answers) == {1, 2, 3, 4}
        assert all(answers[request_id]["error"]["code"] == -32800 for request_id in (1, 2, 3))
        editor.ask(5, 2, 6)
        assert "result" in editor.hear(), "it goes on"
        assert editor.leave() == 0


def test_an_editor_that_is_killed_takes_the_server_along(model_path: Path) -> None:
    with Editor("--model", model_path) as editor:
        assert editor.process.stdin is not None
        editor.process.stdin.close()
        assert editor.process.wait(timeout=60) == 1


def test_the_language_server_over_a_server(model: Model, server: str) -> None:
    with Editor("--base-url", server) as editor:
        editor.send("initialize", {}, 0)
        editor.hear()
        editor.send("textDocument/didOpen", {"textDocument": {"uri": "file:///a.py", "text": SOURCE}})
        editor.ask(1, 2, 6)
        assert editor.hear()["result"]["items"][0]["insertText"] == expected(model, 12)
        assert editor.leave() == 0
