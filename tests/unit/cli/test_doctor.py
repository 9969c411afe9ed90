"""`aquila doctor`: the facts, what fits, and when it calls a machine broken."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aquila.checkpoint.names import expected_tensors
from aquila.cli.doctor import doctor, examine
from aquila.cli.doctor_devices import TorchError, find_accelerators
from aquila.cli.doctor_facts import check_hubs, hub_urls
from aquila.cli.doctor_fit import Engine, fit_presets
from aquila.cli.doctor_page import show
from aquila.errors import ConfigError
from aquila.generate.memory_plan import kv_token_bytes
from aquila.kernels.formats import FORMATS
from aquila.kernels.native import usable_kernels
from aquila.machine import may_have_accelerator
from aquila.model.presets import preset, preset_names

GIB = 1 << 30
app = typer.Typer()
app.command()(doctor)


def verdicts(available_bytes: int, engine: Engine = "native") -> dict[tuple[str, str], str]:
    return {(fit.preset, fit.precision): fit.verdict for fit in fit_presets(available_bytes, engine)}


def test_a_7b_model_fits_at_four_bits_where_it_does_not_at_sixteen() -> None:
    """7,295,537,152 parameters: 13.6 GiB in fp16, 4.2 GiB in w4 (a ninth in w8), and 0.5 MiB of KV cache a token."""
    assert verdicts(8 * GIB)["aquila-7b", "fp16"] == "no"
    assert verdicts(8 * GIB)["aquila-7b", "w4"] == "yes"
    assert verdicts(16 * GIB)["aquila-7b", "fp16"] == "yes"


def test_each_engine_is_asked_for_what_it_computes_with() -> None:
    assert {precision for _, precision in verdicts(GIB, "native")} == {"fp16", "w8", "w4"}
    assert {precision for _, precision in verdicts(GIB, "torch")} == {"fp32", "bf16"}
    assert {precision for _, precision in verdicts(GIB, "accelerator")} == {"bf16"}
    assert verdicts(29 * GIB, "torch")["aquila-7b", "fp32"] == "to 1280"


def test_weights_in_w4_take_what_the_kernels_allocate() -> None:
    config = preset("aquila2-34b")
    shapes = expected_tensors(config)
    total = sum(
        FORMATS["w4" if ".layers." in name else "w8"].matrix_bytes(*shape)
        for name, shape in shapes.items()
        if len(shape) == 2
    )
    kv_bytes = config.max_position_embeddings * kv_token_bytes(config, "f16")
    (fit,) = [fit for fit in fit_presets(0, "native") if (fit.preset, fit.precision) == ("aquila2-34b", "w4")]
    assert abs(fit.num_bytes - total - kv_bytes) < 0.001 * total  # the norms are counted as weights


def test_less_room_means_a_shorter_context() -> None:
    assert verdicts(int(14.3 * GIB))["aquila-7b", "fp16"] == "to 1024"


def test_every_preset_is_judged() -> None:
    assert {name for name, _ in verdicts(GIB)} == set(preset_names())
    assert set(verdicts(0).values()) == {"no"}
    assert set(verdicts(1 << 50).values()) == {"yes"}


@pytest.mark.parametrize("engine", ["native", "torch", "accelerator"])
def test_more_memory_never_fits_less(engine: Engine) -> None:
    steps = [list(fit_presets(size * GIB, engine)) for size in (0, 1, 4, 15, 16, 64, 140)]
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
    native = report["native"]
    assert (native["usable"] if native else []) == usable_kernels()
    assert native is None or native["used"] == usable_kernels()[0]
    expected = {"fp16", "w8", "w4"} if native else {"fp32", "bf16"}
    assert {fit["precision"] for fit in report["fits"]["memory"]} == expected


def page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: dict[str, Any], width: int
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    show(report)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 60])
def test_pages_fit_and_cut_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    report = examine(offline=True)
    report["accelerators"] = [
        {"device": "gpu:0", "name": "An Accelerator 80GB", "total_bytes": 80 * GIB, "free_bytes": GIB}
    ]
    report["fits"]["gpu:0"] = [{**vars(fit), "verdict": fit.verdict} for fit in fit_presets(20 * GIB, "accelerator")]
    report["warnings"] = [
        "the disk of /a/path/that/is/far/too/long/for/any/line/of/a/narrow/terminal/window is nearly full"
    ]
    text = page(monkeypatch, capsys, report, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    assert "…" not in text
    for name in preset_names():
        assert re.search(rf"^ *{re.escape(name)} .*(yes|no|to \d+)", text, re.MULTILINE), name
    words = set(page(monkeypatch, capsys, report, 300).split())
    paths = [word for word in words if "/" in word]  # the only words that may go on in the next line
    cut = {word for word in text.split() if word not in words and not any(word in path for path in paths)}
    assert cut <= {"─" * count for count in range(100)}


def test_no_torch_is_loaded_where_there_is_no_driver() -> None:
    """Importing it takes a second. A process of its own: this one may have it."""
    if may_have_accelerator() or not usable_kernels():
        pytest.skip("torch has to be asked here")
    code = "import sys; from aquila.cli.doctor import examine; examine(offline=True); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if kind else 0
    assert [each["device"] for each in find_accelerators()] == [f"{kind}:{index}" for index in range(count)]


def test_torch_that_cannot_be_imported_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: wrong ELF class')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TorchError, match=r"^ImportError: libtorch.so: wrong ELF class$"):
        find_accelerators()


@pytest.mark.parametrize("option", [["--memory-limit", "2GiB"], ["--quantize", "w4"], ["--max-context", "512"]])
def test_questions_about_a_model_need_one(option: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"{option[0]} is a question about a model; add --model NAME"):
        CliRunner().invoke(app, option, catch_exceptions=False)


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
