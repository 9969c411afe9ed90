"""Settings: sizes, YAML files, overrides, and what is said when one of them is wrong."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from aquila.config import format_size, load_config, parse_size, read_yaml, suggest
from aquila.errors import ConfigError


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimizer(Strict):
    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)


class Source(Strict):
    path: str
    weight: float = 1.0


class Run(Strict):
    steps: int = Field(10, gt=0, le=1000)
    dtype: Literal["bf16", "fp32"] = "fp32"
    resume: bool = False
    optimizer: Optimizer = Optimizer()
    sources: list[Source] = []
    memory_limit: int | None = None

    @field_validator("memory_limit", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str) else value


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("2GiB", 2 << 30),
        ("2<<30", 2 << 30),
        (" 500 MB ", 500_000_000),
        ("1.5g", 3 << 29),
        ("64k", 65536),
        ("7b", 7),
        ("123", 123),
        (4096, 4096),
    ],
)
def test_sizes_in_all_their_spellings(text: str | int, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "two", "2 XB", "-1", "1e9", "GiB", "2<<", "1<<999999", "9" * 5000, "٣MB5"])
def test_what_is_not_a_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match="write bytes as 2GiB, 500MB"):
        parse_size(text)


def test_a_size_beyond_any_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="beyond any machine"):
        parse_size("1<<63")


@given(st.integers(0, 1 << 50))
def test_formatted_sizes_read_back_within_their_three_figures(num_bytes: int) -> None:
    assert parse_size(format_size(num_bytes)) == pytest.approx(num_bytes, rel=0.006, abs=1)


def test_yaml_is_version_1_2(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "lr: 3e-4\nanswer: no\nname: 快速排序\n")
    assert read_yaml(path) == {"lr": 3e-4, "answer": "no", "name": "快速排序"}


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path / "a.yaml", "# only a comment\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\nlr: 2\nsteps: 3\n", r"a\.yaml:3: 'steps' is given twice"),
        ("a: [1,\nb: 2", r"a\.yaml:2: not valid YAML"),
        ("a: !!python/object:os.system x", r"a\.yaml:1: not valid YAML"),
        ("- a\n- b\n", "expected `key: value` lines at the top, got a list"),
        ("1: x", "key 1 is not text; put it in quotes"),
        ("a: \x01", r"a\.yaml: not valid YAML: unacceptable character"),
        ("[" * 4000, "nested too deeply"),
    ],
)
def test_a_broken_file_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read_yaml(write(tmp_path / "a.yaml", text))
    assert "\n" not in str(error.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="byte 9 is not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_later_files_and_then_overrides_win(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "steps: 5\noptimizer: {lr: 0.1, betas: [0.5, 0.6]}\nmemory_limit: 2GiB\n")
    second = write(tmp_path / "b.yaml", "optimizer:\n  lr: 0.2\n")
    run = load_config(Run, [first, second], ["steps=7", "optimizer.betas=[0.1, 0.2]", "memory_limit=2<<10"])
    assert run == Run(steps=7, optimizer=Optimizer(lr=0.2, betas=(0.1, 0.2)), memory_limit=2048)


def test_nothing_given_means_the_defaults() -> None:
    assert load_config(Run) == Run()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=3", "optimizer.lrr: unknown key; did you mean 'lr'?"),
        ("optimiser.lr=3", "optimiser: unknown key; did you mean 'optimizer'?"),
        ("optimizer.zzz=3", "optimizer.zzz: unknown key; known: betas, lr"),
        ("sources=[{pth: a, path: a}]", "sources.0.pth: unknown key; did you mean 'path'?"),
        (
            "sources=[{weight: 1}]",
            "sources.0.path: is required; add it to the file or pass sources.0.path=VALUE",
        ),
        ("dtype=fp8", "dtype: expected 'bf16' | 'fp32', got 'fp8'"),
        ("steps=0", "steps: must be positive, got 0"),
        ("steps=2000", "steps: must be at most 1000, got 2000"),
        ("steps=1.5", "steps: expected a whole number, got 1.5"),
        ("steps=", "steps: expected a whole number, got None"),
        ("optimizer.lr=fast", "optimizer.lr: expected a number, got 'fast'"),
        ("optimizer=3", "optimizer: expected `key: value` lines, got 3"),
        ("resume=perhaps", "resume: expected true or false, got 'perhaps'"),
        (
            "memory_limit=lots",
            "memory_limit: 'lots' is not a size; write bytes as 2GiB, 500MB, 1.5g, 2<<30 or a plain number",
        ),
        ("steps", "'steps' is not an override; write key.sub=value, such as optimizer.lr=3e-4"),
        (".steps=1", "'.steps=1' is not an override; write key.sub=value, such as optimizer.lr=3e-4"),
    ],
)
def test_what_is_said_about_a_wrong_setting(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(Run, overrides=[override])
    assert str(error.value) == message


def test_every_wrong_setting_is_reported_with_the_file_it_came_from(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "steps: 0\noptimizer: {lrr: 1}\n")
    second = write(tmp_path / "b.yaml", "dtype: fp8\n")
    with pytest.raises(ConfigError) as error:
        load_config(Run, [first, second], ["optimizer.lr=-1"])
    assert sorted(str(error.value).splitlines()) == [
        f"{first}: optimizer.lrr: unknown key; did you mean 'lr'?",
        f"{first}: steps: must be positive, got 0",
        f"{second}: dtype: expected 'bf16' | 'fp32', got 'fp8'",
        "optimizer.lr: must be positive, got -1",
    ]


def test_suggestions_fall_back_to_the_whole_list() -> None:
    assert suggest("aquilla-7b", ["aquila-7b", "tiny"]) == "; did you mean 'aquila-7b'?"
    assert suggest("zzz", ["b", "a"]) == "; known: a, b"


def test_importing_config_is_light() -> None:
    code = "import sys, aquila.config; sys.exit(bool({'pydantic', 'ruamel.yaml'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
