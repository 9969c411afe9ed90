"""The files of the page, their headers, and its modules under node."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from parts import ROOT
from serve_parts import Running, running

WEB = Path(str(files("aquila.serve").joinpath("web")))
MODULES = ROOT / "tests" / "web" / "modules"


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(api_keys=("k",)) as made:
        del made.client.headers["authorization"]
        yield made


def test_the_page_needs_no_key_and_brings_its_policy(served: Running) -> None:
    answer = served.client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert served.client.get("/v1/models").status_code == 401


def test_everything_that_the_page_names_is_there(served: Running) -> None:
    named = set(re.findall(r'"(/ui/[^"]+)"', (WEB / "index.html").read_text(encoding="utf-8")))
    for module in WEB.glob("*.js"):
        named |= {f"/ui/{name}" for name in re.findall(r'from "\./([^"]+)"', module.read_text(encoding="utf-8"))}
    assert len(named) > 20
    for path in sorted(named):
        answer = served.client.get(path)
        assert answer.status_code == 200, path
        assert answer.content == (WEB / path.rsplit("/", 1)[1]).read_bytes()


def test_a_file_that_did_not_change_is_not_sent_again(served: Running) -> None:
    tag = served.client.get("/ui/app.js").headers["etag"]
    again = served.client.get("/ui/app.js", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["..%2fapp.py", "%2e%2e%2fapp.py", "nothing.js", "__init__.py", "app.js%00"])
def test_nothing_else_is_served(served: Running, name: str) -> None:
    answer = served.client.get(f"/ui/{name}")
    assert answer.status_code == 404
    assert "error" in answer.json()


def test_nothing_comes_from_elsewhere_and_nothing_becomes_html() -> None:
    for path in WEB.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://[\w]", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path.name
        )


def test_every_text_is_there_in_both_languages() -> None:
    entries = re.findall(r"^  (\w+): \[(.*)\],$", (WEB / "i18n.js").read_text(encoding="utf-8"), re.MULTILINE)
    texts = {key: re.findall(r'"((?:[^"\\]|\\.)*)"', pair) for key, pair in entries}
    assert len(texts) > 100
    used = set()
    for path in WEB.iterdir():
        source = path.read_text(encoding="utf-8")
        used |= set(re.findall(r'\bt\("(\w+)"', source)) | set(re.findall(r'data-t(?:-\w+)?="(\w+)"', source))
    assert used <= texts.keys()
    for key, pair in texts.items():
        assert len(pair) == 2, key
        places = [set(re.findall(r"\{(\w+)\}", text)) for text in pair]
        assert places[0] == places[1], key


def test_the_modules_under_node(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    shutil.copytree(WEB, tmp_path / "web")
    shutil.copytree(MODULES, tmp_path / "modules")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    names = sorted(str(path) for path in (tmp_path / "modules").iterdir())
    done = subprocess.run([node, "--test", *names], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE), done.stdout
