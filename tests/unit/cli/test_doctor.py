"""`aquila doctor`: the facts, what fits, and when it calls a machine broken."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aquila.cli.doctor import doctor
from aquila.cli.doctor_facts import check_hubs, hub_urls
from aquila.cli.doctor_fit import fit_presets
from aquila.model.presets import preset_names

GIB = 1 << 30
app = typer.Typer()
app.command()(doctor)


def verdicts(available_bytes: int) -> dict[tuple[str, str], str]:
    return {(fit.preset, fit.precision): fit.verdict for fit in fit_presets(available_bytes)}


def test_a_7b_model_fits_at_four_bits_where_it_does_not_at_sixteen() -> None:
    """7,295,537,152 parameters: 13.6 GiB in fp16, 3.8 GiB in 4.5 bits, and 0.5 MiB of KV cache a token."""
    assert verdicts(8 * GIB)["aquila-7b", "fp16"] == "no"
    assert verdicts(8 * GIB)["aquila-7b", "int4"] == "yes"
    assert verdicts(16 * GIB)["aquila-7b", "fp16"] == "yes"


def test_less_room_means_a_shorter_context() -> None:
    assert verdicts(int(14.5 * GIB))["aquila-7b", "fp16"] == "to 1024"


def test_every_preset_is_judged() -> None:
    assert {name for name, _ in verdicts(GIB)} == set(preset_names())
    assert set(verdicts(0).values()) == {"no"}
    assert set(verdicts(1 << 50).values()) == {"yes"}


def test_more_memory_never_fits_less() -> None:
    steps = [list(fit_presets(size * GIB)) for size in (0, 1, 4, 15, 16, 64, 140)]
    for less, more in pairwise(steps):
        assert all(before.context <= after.context for before, after in zip(less, more, strict=True))


class _Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(503 if "broken" in self.path else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_hubs_that_answer_and_fail_are_told_apart(hub: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        closed_port = closed.getsockname()[1]
    urls = {
        "good": hub,
        "failing": f"{hub}/broken",
        "refusing": f"http://127.0.0.1:{closed_port}",
        "misspelt": "http://[nowhere",
    }
    found = {each["name"]: each for each in check_hubs(urls, timeout_seconds=30.0)}
    assert [name for name, each in found.items() if each["reachable"]] == ["good"]
    assert found["failing"]["detail"] == "HTTP 503"
    assert "refused" in found["refusing"]["detail"]
    assert found["good"]["seconds"] is not None


def test_a_hub_that_never_answers_is_left_behind(silent_hub: str) -> None:
    (found,) = check_hubs({"silent": silent_hub}, timeout_seconds=0.2)
    assert found["reachable"] is False
    assert found["detail"]


def test_a_mirror_takes_the_place_of_hugging_face() -> None:
    assert hub_urls({"HF_ENDPOINT": "http://mirror.local"})["Hugging Face"] == "http://mirror.local"
    assert hub_urls({})["Hugging Face"] == "https://huggingface.co"


def test_json_report_of_this_machine() -> None:
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"]
    assert report["problems"] == []
    assert report["packages"]["torch"]
    assert report["extras"]["dev"] == []
    assert [hub["detail"] for hub in report["hubs"]] == ["skipped"] * 3  # tests set HF_HUB_OFFLINE
    assert {fit["precision"] for fit in report["fits"]["memory"]} == {"fp16", "int8", "int4"}


def test_page_fits_80_columns_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["--offline"])
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert "\x1b" not in result.stdout
    for name in preset_names():
        assert re.search(rf"^ *{re.escape(name)} .*(yes|no|to \d+)", result.stdout, re.MULTILINE), name


def test_a_cache_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("AQUILA_HOME", str(tmp_path / "file" / "cache"))
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert not report["ok"]
    assert "is not writable" in report["problems"][0]
    assert "set AQUILA_HOME" in report["problems"][0]


def test_a_missing_dependency_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "aquila_lm-9.dist-info"
    folder.mkdir()
    metadata = "Metadata-Version: 2.4\nName: aquila-lm\nVersion: 9\nRequires-Dist: no-such-package>=1\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 1
    assert "not installed: no-such-package; run `pip install no-such-package`" in " ".join(result.stdout.split())
