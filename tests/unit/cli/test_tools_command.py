"""`aquila tools`, and tools in `aquila chat`."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import harmful_tools
from aquila.chat.session import ChatSession
from aquila.chat.tools.declare import spec_of
from aquila.chat.tools.registry import ToolBox
from aquila.cli.repl import Repl
from aquila.cli.tool_talk import ToolTalk
from aquila.cli.tools import app
from aquila.errors import ConfigError
from scripted_model import ScriptedModel


def aquila(*arguments: str, text: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_list_info_and_run() -> None:
    assert json.loads(aquila("list", "--json")[1])["calculator"] == "built in"
    assert "body: text" in aquila("info", "calculator")[1]
    assert json.loads(aquila("info", "calculator", "--json")[1])["function"]["name"] == "calculator"
    assert aquila("run", "calculator", "6 * 7")[:2] == (0, "42\n")
    assert aquila("run", "calculator", '{"expression": "6 * 7"}')[:2] == (0, "42\n")
    assert aquila("run", "calculator", text="6 * 7\n")[:2] == (0, "42\n")


def test_an_error_is_on_stderr_with_its_exit_code() -> None:
    code, out, err = aquila("run", "calculator", "6 *")
    assert (code, out) == (1, "")
    assert err == "error: '6 *' is not an arithmetic expression\n"
    with pytest.raises(ConfigError, match="did you mean 'calculator'"):
        aquila("run", "calculater", "1")


def talk(*replies: str, confirm: bool = False) -> tuple[Repl, io.StringIO, ScriptedModel]:
    output = io.StringIO()
    console = Console(file=output, width=100, color_system=None, highlight=False)
    model = ScriptedModel(*replies)
    session = ChatSession(model)
    with ToolBox(["calculator"]) as box:
        tools = [*box.tools, spec_of(harmful_tools.Counter, name="counter", source="harmful_tools:Counter")]
        with_tools = ToolTalk(session, tools, confirm=lambda tool, arguments: confirm, show=console.print)
    return Repl(session, console, tools=with_tools), output, model


def test_the_conversation_shows_calls_and_goes_on_with_their_results() -> None:
    repl, output, model = talk("Wait.\n#calculator#\n6 * 7", "It is 42.")
    repl.handle("What is 6 * 7?")
    shown = output.getvalue()
    assert shown.index("Wait.") < shown.index('→ calculator {"expression":"6 * 7"}') < shown.index("← 42")
    assert shown.index("← 42") < shown.index("It is 42.")
    assert len(model.prompts) == 2


@pytest.mark.parametrize(("confirm", "shown"), [(True, "← [1,2]"), (False, "← error: counter was not run: changing")])
def test_a_tool_that_writes_asks_first(confirm: bool, shown: str) -> None:
    repl, output, _ = talk('#counter#\n{"end": 2}', "Done.", confirm=confirm)
    repl.handle("Count.")
    assert shown in output.getvalue()


def test_ctrl_c_stops_the_tool_and_not_the_conversation() -> None:
    def press_ctrl_c(tool: object, arguments: object) -> bool:
        raise KeyboardInterrupt

    output = io.StringIO()
    session = ChatSession(ScriptedModel('#counter#\n{"end": 2}', "Hello again."))
    counter = spec_of(harmful_tools.Counter, name="counter", source="harmful_tools:Counter")
    console = Console(file=output, width=100, color_system=None)
    repl = Repl(session, console, tools=ToolTalk(session, [counter], confirm=press_ctrl_c, show=console.print))
    repl.handle("Count.")
    assert "(stopped)" in output.getvalue()
    repl.handle("Hi.")
    assert "Hello again." in output.getvalue()


def test_tools_are_listed_and_pictures_given(tmp_path: Path) -> None:
    repl, output, _ = talk("Hi.")
    repl.handle("/tools")
    assert "counter: Counts up to a number." in output.getvalue()
    assert "[write]" in output.getvalue()
    repl.handle(f"/image {tmp_path / 'none.png'}")
    assert "cannot be read: No such file" in " ".join(output.getvalue().split())


def test_control_characters_of_a_model_s_call_do_not_reach_the_terminal() -> None:
    repl, output, _ = talk("#calculator#\n\x1b[2J1+1", "Done.")
    repl.handle("Go.")
    assert "\x1b" not in output.getvalue()
