"""The files that a run writes about itself, and the lines made from them."""

import json
from pathlib import Path

import pytest

from aquila.errors import ConfigError
from aquila.train.metrics import JsonLines, open_tracker, read_lines
from aquila.train.progress import format_duration, progress_line, short_count
from aquila.train.recipe import LogConfig
from train_parts import full_disk


def test_a_resumed_file_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    """Steps after it, and the half of a line that a kill left, are written anew."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.5}) + "\n" for step in range(1, 6)) + '{"step": 6, "lo')
    lines = JsonLines(path, last_step=3)
    lines.write({"step": 4, "loss": 1.25})
    lines.close()
    assert [(line["step"], line["loss"]) for line in read_lines(path)] == [(1, 1.5), (2, 1.5), (3, 1.5), (4, 1.25)]


def test_a_run_that_begins_anew_keeps_nothing(tmp_path: Path) -> None:
    """Step 0 is an evaluation, which a start without a checkpoint repeats."""
    path = tmp_path / "evaluations.jsonl"
    path.write_text('{"step": 0, "name": "zh"}\n')
    JsonLines(path, last_step=-1).close()
    assert read_lines(path) == []


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    """Other programs read the file: NaN is no JSON."""
    lines = JsonLines(tmp_path / "metrics.jsonl", last_step=0)
    lines.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "lr": 0.1})
    lines.close()
    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert record == {"step": 1, "loss": None, "grad_norm": None, "lr": 0.1}


@pytest.mark.parametrize("text", ["a\u2028b", "a\u2029b", "a\u0085b", "a\x0cb"], ids=ascii)
def test_what_a_model_writes_stays_in_its_line(tmp_path: Path, text: str) -> None:
    """Some characters that JSON leaves alone end a line elsewhere."""
    path = tmp_path / "samples.jsonl"
    lines = JsonLines(path, last_step=-1)
    lines.write({"step": 0, "continuation": text})
    lines.close()
    JsonLines(path, last_step=0).close()
    assert read_lines(path) == [{"step": 0, "continuation": text}]


def test_a_line_that_was_cut_inside_a_character_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    whole = '{"step": 0, "continuation": "汽车"}\n'.encode()
    path.write_bytes(whole + whole[:-5])
    assert read_lines(path) == [{"step": 0, "continuation": "汽车"}]
    JsonLines(path, last_step=0).close()
    assert path.read_bytes() == whole


def test_a_full_disk_loses_no_line_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path, last_step=0)
    with full_disk(100):  # in the middle of a line
        for step in range(1, 20):
            lines.write({"step": step, "loss": 1.5})
        assert path.stat().st_size == 100
    assert caplog.messages == [f"{path}: cannot be written: File too large; its lines wait in memory"]
    lines.write({"step": 20, "loss": 1.5})
    lines.close()
    assert [line["step"] for line in read_lines(path)] == list(range(1, 21))


def test_lines_that_the_disk_never_took_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path, last_step=0)
    with full_disk(100):
        for step in range(1, 20):
            lines.write({"step": step})
        lines.close()
    assert f"{path}: 11 lines could not be written" in caplog.messages
    assert [line["step"] for line in read_lines(path)] == list(range(1, 9))


def test_a_loss_survives_the_file_to_the_last_bit(tmp_path: Path) -> None:
    loss = 5.7 + 2**-50
    lines = JsonLines(tmp_path / "metrics.jsonl", last_step=0)
    lines.write({"step": 1, "loss": loss})
    lines.close()
    assert read_lines(tmp_path / "metrics.jsonl")[0]["loss"] == loss


def test_a_tracker_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log.tracker: swanlab is not installed; run `pip install swanlab`"):
        open_tracker(LogConfig(tracker="swanlab"), tmp_path, {})


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = open_tracker(LogConfig(tracker="tensorboard"), tmp_path, {})
    assert tracker is not None
    tracker.log({"train/loss": 2.5}, 7)
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(7, 2.5)]


def test_a_line_of_progress() -> None:
    record = {
        "step": 120,
        "loss": 3.21437,
        "lr": 3e-4,
        "grad_norm": 0.824,
        "tokens_per_second": 12_345.0,
        "mfu": 0.407,
        "peak_memory_bytes": 1_288_490_189,
        "seconds_left": 840,
    }
    expected = "step 120/1000  loss 3.2144  lr 3.00e-04  norm 0.82  12.3k tok/s  MFU 41%  1.2 GiB  14m left"
    assert progress_line(record, 1000) == expected
    skipped = progress_line({**record, "loss": None, "grad_norm": None, "skipped": "nan"}, 120)
    assert skipped.startswith("step 120/120  loss nan")
    assert skipped.endswith("skipped: nan")


def test_short_numbers() -> None:
    assert [short_count(value) for value in (7, 950, 12_345, 4_710_000, 7.3e9, 2e12)] == [
        "7",
        "950",
        "12.3k",
        "4.71M",
        "7.3B",
        "2T",
    ]
    assert [format_duration(value) for value in (42, 840, 12_000, 448_000)] == ["42s", "14m", "3h 20m", "5d 4h"]
