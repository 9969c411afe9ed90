"""Log lines: where they go and how they read."""

import json
import logging
from collections.abc import Iterator

import pytest

from aquila.log import setup_logging

ours = logging.getLogger("aquila.zoo.pull")
theirs = logging.getLogger("httpx")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, package = logging.getLogger(), logging.getLogger("aquila")
    before = root.handlers[:], root.level, package.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    package.setLevel(before[2])


def test_plain_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info")
    ours.info("pulled %s", "tiny")
    ours.warning("slow disk")
    ours.debug("not asked for")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "pulled tiny\nwarning: slow disk\n")


def test_debug_lines_name_their_logger_and_other_libraries_stay_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup_logging("debug")
    ours.debug("range 0-99")
    theirs.info("HTTP Request: GET ...")
    assert capsys.readouterr().err == "debug aquila.zoo.pull: range 0-99\n"


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", json=True)
    ours.error("md5 differs:\n%s", "完")
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "error", "logger": "aquila.zoo.pull", "message": "md5 differs:\n完"}


def test_a_second_setup_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info")
    setup_logging("warning")
    ours.info("once")
    ours.warning("twice")
    assert capsys.readouterr().err == "warning: twice\n"
