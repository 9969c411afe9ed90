"""Declaring tools, the simple built-in ones, and running calls within limits."""

import base64
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import harmful_tools
from aquila.chat.tool_images import ImageStore
from aquila.chat.tool_result import ToolImage, ToolResult, result_from_json
from aquila.chat.tool_runner import Limits, ToolRunner, call_tool
from aquila.chat.tools.calculator import calculator
from aquila.chat.tools.clock import datetime
from aquila.chat.tools.declare import spec_of
from aquila.chat.tools.registry import ToolBox, tool_names
from aquila.chat.toolspec import ToolSpec
from aquila.errors import ConfigError


def harmful(name: str, **limits: int) -> ToolRunner:
    source = f"harmful_tools:{name}"
    return ToolRunner([spec_of(getattr(harmful_tools, name), source=source)], limits=Limits(**limits))


def png(width: int = 8, height: int = 8) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    file = io.BytesIO()
    image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(3 + 4) * 2", "14"),
        ("17 % 5 - 2**3", "-6"),
        ("7 / 2", "3.5"),
        ("6 / 3", "2"),
        ("２ × ３ ÷ 4".replace("２", "2").replace("３", "3"), "1.5"),
        ("2^10 =", "1024"),
        ("sqrt(2)", "1.4142135623731"),
        ("factorial(20)", "2432902008176640000"),
        ("round(pi, 2)", "3.14"),
        ("max(1, -2, 3)", "3"),
        ("10**5000", "1" + "0" * 5000),
    ],
)
def test_the_calculator_computes(expression: str, value: str) -> None:
    assert calculator(expression) == value


@given(st.integers(), st.integers(), st.sampled_from(["+", "-", "*"]))
def test_whole_numbers_are_exact(left: int, right: int, sign: str) -> None:
    expected = {"+": left + right, "-": left - right, "*": left * right}[sign]
    assert calculator(f"({left}) {sign} ({right})") == str(expected)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("__import__('os')", "is not arithmetic"),
        ("(1).real", "is not arithmetic"),
        ("[1][0]", "is not arithmetic"),
        ("'a' * 9", "is not arithmetic"),
        ("True + 1", "is not arithmetic"),
        ("lambda: 1", "is not arithmetic"),
        ("system(1)", "there is no function 'system'"),
        ("1 +", "is not an arithmetic expression"),
        ("1 / 0", "division by zero"),
        ("9**9**9**9", "too large"),
        ("factorial(10**9)", "whole number from 0 to 5000"),
        ("(-8)**0.5", "not a real number"),
        ("(" * 900 + "1" + ")" * 900, "expression|too large"),
        ("1" * 3000, "3000 characters; the limit is 2000"),
        ("sqrt(-1)", "."),
    ],
)
def test_the_calculator_refuses_what_is_no_sum(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calculator(expression)


def test_the_clock_knows_zones_and_days() -> None:
    today, tomorrow = datetime("UTC"), datetime("UTC", days=1)
    assert today[:10] < tomorrow[:10]
    assert "+08:00" in datetime("Asia/Shanghai")
    for wrong in ("Mars/Olympus", "../../etc/passwd"):
        with pytest.raises(ConfigError, match="is unknown; give one such as Asia/Shanghai"):
            datetime(wrong)
    with pytest.raises(ConfigError, match="out of the calendar"):
        datetime("UTC", days=10**8)


def test_a_signature_and_a_docstring_become_a_schema() -> None:
    spec = spec_of(harmful_tools.sleeper)
    assert spec.description == {"en": "Leaves a child behind and does not return."}
    assert spec.parameters["properties"] == {
        "mark": {"type": "string", "description": "file that the child writes its number to."}
    }
    assert (spec.required, spec.form, spec.timeout_seconds) == (("mark",), "text", 0.5)
    counter = spec_of(harmful_tools.Counter, name="counter")
    assert counter.description == {"en": "Counts up to a number.", "zh": "数到。"}
    assert counter.properties["end"] == {"type": "integer", "description": "the last number."}
    assert counter.permissions == {"write"}
    assert call_tool(counter, {"end": 3}).text == "[1,2,3]"
    assert call_tool(counter, {"end": "x"}).error


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (lambda x: x, "has no type hint"),
        (3, "must be a function, a class with `run`, or a ToolSpec"),
        (int, "must be a function"),
    ],
)
def test_what_cannot_be_a_tool_is_named(declared: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec_of(declared, name="odd")


def test_built_in_tools_run_in_a_process_of_their_own() -> None:
    with ToolBox(["calculator", "datetime"]) as box:
        assert all(tool.source for tool in box.tools)
        runner = ToolRunner(box.tools)
        assert runner.run("calculator", {"expression": "6 * 7"}) == ToolResult("42")
        assert runner.run("calculator", {"expression": "6 *"}).error
    assert {"calculator", "datetime", "text2image", "InstructFace"} <= set(tool_names())
    with pytest.raises(ConfigError, match="is called 'calculater'; did you mean 'calculator'"):
        ToolBox(["calculater"])


def test_a_tool_whose_time_is_over_is_killed_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    result = harmful("sleeper").run("sleeper", {"mark": str(mark)})
    assert result == ToolResult("sleeper was stopped after 0.5 seconds", error=True)
    if mark.exists() and Path("/proc").exists():
        state = Path(f"/proc/{mark.read_text(encoding='utf-8')}/stat")
        assert not state.exists() or state.read_text(encoding="utf-8").split()[2] == "Z"


def test_a_tool_that_dies_is_an_error() -> None:
    assert harmful("killer").run("killer", {}).text == "killer was ended by signal 9 without a result"
    assert "MemoryError" in harmful("hoarder").run("hoarder", {}).text


def test_output_is_capped_and_prints_are_no_result() -> None:
    assert harmful("talker", max_text_characters=10).run("talker", {"size": 50}).text == (
        "xxxxxxxxxx\n[cut: 40 more characters]"
    )
    assert "more than is read" in harmful("talker", max_output_bytes=1000).run("talker", {"size": 5000}).text


def test_what_a_tool_raises_or_returns_wrongly_is_an_error() -> None:
    runner = harmful("failing")
    assert runner.run("failing", {"kind": "raise"}).text == "failing failed: RuntimeError: out of order"
    assert "neither text nor JSON" in runner.run("failing", {"kind": "return"}).text


def test_a_tool_sees_an_empty_folder_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUILA_API_KEY", "secret")
    seen = harmful("surroundings").run("surroundings", {}).text
    assert "AQUILA_API_KEY" not in seen
    assert os.getcwd() not in seen.partition('"folder"')[2]


def test_permission_is_asked_for_and_refused_by_default() -> None:
    spec = spec_of(harmful_tools.Counter, name="counter", source="harmful_tools:Counter")
    asked: list[tuple[str, dict]] = []
    refused = ToolRunner([spec]).run("counter", {"end": 2})
    assert refused == ToolResult("counter was not run: changing files was not allowed", error=True)
    runner = ToolRunner([spec], confirm=lambda tool, arguments: not asked.append((tool.name, dict(arguments))))
    assert runner.run("counter", {"end": 2}) == ToolResult("[1,2]")
    assert asked == [("counter", {"end": 2})]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nothing", {}, "no tool is called 'nothing'"),
        ("city", {}, "city: the argument 'name' is missing"),
        ("city", {"name": 3}, "city: name must be a string, not 3"),
        ("city", {"name": "x", "days": True}, "city: days must be a integer, not true"),
        ("city", {"name": "x", "unit": "K"}, 'city: unit must be one of ["C","F"]'),
        ("city", {"name": "x", "naem": "y"}, "city: there is no argument 'naem'; did you mean 'name'?"),
    ],
)
def test_arguments_are_checked_before_anything_runs(name: str, arguments: dict, message: str) -> None:
    properties = {"name": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}}
    schema = {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}
    ran: list[dict] = []
    runner = ToolRunner([ToolSpec("city", parameters=schema, run=lambda **values: ran.append(values))])
    result = runner.run(name, arguments)
    assert result.error
    assert result.text.startswith(message)
    assert ran == []


def test_pictures_come_from_uploads_data_uris_and_ids_only(tmp_path: Path) -> None:
    data = png()
    path = tmp_path / "secret.png"
    path.write_bytes(data)
    runner = harmful("size_of")
    kept = runner.images.add(ToolImage(data))
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    assert runner.run("size_of", {"image": kept.id}).text == str(len(data))
    assert runner.run("size_of", {"image": uri}).text == str(len(data))
    for wrong in (str(path), f"file://{path}", "http://169.254.169.254/latest", "//host/share", "../x.png", ""):
        assert "paths and addresses are not read" in runner.run("size_of", {"image": wrong}).text
    assert "no picture has the id 'image-1'" in runner.run("size_of", {"image": "image-1"}).text
    for wrong in ("data:image/png;base64,!!!", "data:text/html;base64,PGI+", uri[:-40]):
        assert runner.run("size_of", {"image": wrong}).error


def test_pictures_of_one_conversation_are_not_another_s() -> None:
    first, second = ImageStore(), ImageStore()
    kept = first.add(ToolImage(png()))
    with pytest.raises(ConfigError, match="no picture has the id"):
        second.resolve(kept.id)
    assert first.add(ToolImage(png())).id != kept.id


def test_the_store_is_bounded_and_refuses_bombs() -> None:
    data = png()
    store = ImageStore(max_bytes=2 * len(data))
    ids = [store.add(ToolImage(data)).id for _ in range(3)]
    with pytest.raises(ConfigError, match="may have been dropped"):
        store.resolve(ids[0])
    assert store.resolve(ids[2]).data == data
    with pytest.raises(ConfigError, match="pixels are too many"):
        store.add(ToolImage(png(5000, 5000)))


def test_a_result_survives_the_wire() -> None:
    result = ToolResult("一", (ToolImage(b"\x00\xff", "image/png", "c", "i"),), error=True)
    assert result_from_json(result.to_json()) == result
    assert result.for_model() == "error: 一\n[i: c]"
