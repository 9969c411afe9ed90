"""The conversation of `aquila chat`: commands, answers, keys."""

import io
import os
import pty
import select
import signal
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from aquila.chat.session import ChatSession, Round
from aquila.cli.live_markdown import LiveMarkdown
from aquila.cli.repl import COMMANDS, Repl
from aquila.cli.repl_prompt import terminal_reader
from aquila.cli.repl_text import TEXTS
from aquila.generate.sampling import SamplingParams
from parts import ROOT
from scripted_model import ScriptedModel


class Talk:
    """A REPL on a console that is a string."""

    def __init__(self, *replies: str, language: str = "en") -> None:
        self.session = ChatSession(ScriptedModel(*replies))
        self._output = io.StringIO()
        console = Console(file=self._output, width=100, color_system=None)
        self.repl = Repl(self.session, console, language=language)

    def say(self, line: str) -> str:
        """What the console shows for one line of input."""
        self._output.seek(0)
        self._output.truncate()
        self.repl.handle(line)
        return self._output.getvalue()

    def run(self, read: Callable[[], str]) -> str:
        self.repl.run(read)
        return self._output.getvalue()


def reader(*inputs: str | BaseException) -> Callable[[], str]:
    remaining = list(inputs)

    def read() -> str:
        step = remaining.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    return read


def test_an_answer_is_shown_as_markdown_once():
    talk = Talk(" # Title\n\nSome **bold** words\n\n```python\nx = 1\n```\n")
    shown = talk.say("Q")
    assert "**" not in shown
    assert "```" not in shown
    assert [shown.count(word) for word in ("Title", "bold", "x = 1")] == [1, 1, 1]


def test_control_characters_of_a_model_do_not_reach_the_terminal():
    shown = Talk(" a\x1b]0;title\x07b\x9b31mc").say("Q")
    assert not any(character in shown for character in "\x1b\x07\x9b")


def test_blank_input_is_no_message():
    talk = Talk(" a")
    assert talk.say("  ") == ""
    assert talk.session.rounds == []


def test_a_space_before_a_slash_makes_it_a_message():
    talk = Talk(" a")
    talk.say(" /etc/passwd is what?")
    assert talk.session.rounds == [Round("/etc/passwd is what?", "a")]


def test_help_lists_every_command():
    shown = Talk(" a").say("/help")
    assert all(f"/{name} " in shown for name in COMMANDS)


def test_an_unknown_command_suggests_the_nearest():
    assert "/rest is not a command; did you mean /reset?" in Talk(" a").say("/rest")


def test_system_is_set_shown_and_removed():
    talk = Talk(" a")
    talk.say("/system be brief [now]")
    assert talk.session.system == "be brief [now]"
    assert "be brief [now]" in talk.say("/system")
    talk.say("/system -")
    assert talk.session.system is None


def test_set_changes_sampling():
    talk = Talk(" a")
    assert "temperature = 0.3" in talk.say("/set temperature 0.3")
    talk.say("/set seed 7")
    assert (talk.session.params.temperature, talk.session.params.seed) == (0.3, 7)
    talk.say("/set seed none")
    assert talk.session.params.seed is None
    assert "top_k = 30" in talk.say("/set")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("/set temprature 1", "'temprature' cannot be set; did you mean 'temperature'?"),
        ("/set top_k 1.5", "top_k: '1.5' is not a whole number"),
        ("/set temperature -1", "temperature: must be between 0.0 and 100.0, got -1.0"),
        ("/set temperature", "usage: /set KEY VALUE"),
        ("/undo", "there is no earlier message"),
        ("/retry", "there is no earlier message"),
        ("/save", "usage: /save FILE"),
        ("/load nowhere.json", "nowhere.json: cannot be read"),
        ("/lang fr", "usage: /lang zh|en"),
        ("/stats", "no answer yet"),
    ],
)
def test_a_wrong_command_says_what_is_wrong_and_changes_nothing(line: str, shown: str):
    talk = Talk(" a")
    assert shown in talk.say(line)
    assert talk.session.params == SamplingParams()


def test_undo_retry_reset():
    talk = Talk(" first", " second")
    talk.say("Q1")
    assert "second" in talk.say("/retry")
    assert "taken back: Q1" in talk.say("/undo")
    assert talk.session.rounds == []
    talk.say("Q2")
    talk.say("/reset")
    assert talk.session.rounds == []


def test_save_and_load(tmp_path: Path):
    talk = Talk(" a")
    talk.say("Q")
    assert "saved to" in talk.say(f"/save {tmp_path}/talk.json")
    other = Talk(" b")
    assert "1 rounds from" in other.say(f"/load {tmp_path}/talk.json")
    assert other.session.rounds == talk.session.rounds


def test_stats_and_toolbar_count_tokens():
    talk = Talk(" some words")
    assert "context 0/2048" in talk.repl.toolbar()
    talk.say("Q")
    stats = talk.session.last_answer
    assert stats is not None
    assert f"answer {stats.new_tokens} tokens" in talk.say("/stats")
    assert f"context {stats.prompt_tokens + stats.new_tokens}/2048" in talk.repl.toolbar()


def test_an_answer_cut_by_the_length_limit_says_so():
    talk = Talk(" many words that go on and on")
    talk.say("/set max_new_tokens 2")
    assert "cut at max_new_tokens" in talk.say("Q")


def test_language():
    talk = Talk(" a", language="zh")
    assert "没有命令 /rest，是否想输入 /reset？" in talk.say("/rest")
    assert "language: English" in talk.say("/lang en")


def test_both_languages_have_every_text_with_the_same_fields():
    for key, texts in TEXTS.items():
        english, chinese = (
            {field for _, field, _, _ in string.Formatter().parse(texts[language])} for language in ("en", "zh")
        )
        assert english - {None} == chinese - {None}, key


def test_the_loop_ends_at_quit_and_at_the_end_of_input():
    assert "scripted (aquila-chat)" in Talk(" a").run(reader("/quit"))
    assert "scripted (aquila-chat)" in Talk(" a").run(reader(EOFError()))


def test_ctrl_c_in_an_empty_line_hints_and_goes_on():
    talk = Talk(" a")
    shown = talk.run(reader(KeyboardInterrupt(), "Q", EOFError()))
    assert "Ctrl-D or /quit leaves" in shown
    assert talk.session.rounds == [Round("Q", "a")]


def test_ctrl_c_stops_the_answer_and_keeps_its_beginning(monkeypatch: pytest.MonkeyPatch):
    talk = Talk(" one\n\ntwo\n\nthree")
    push = LiveMarkdown.push

    def press_ctrl_c(live: LiveMarkdown, text: str) -> None:
        push(live, text)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LiveMarkdown, "push", press_ctrl_c)
    before = signal.getsignal(signal.SIGINT)
    assert "(stopped)" in talk.say("Q")
    assert "one\n\ntwo\n\nthree".startswith(talk.session.rounds[0].assistant)
    assert len(talk.session.rounds[0].assistant) < 10
    assert signal.getsignal(signal.SIGINT) is before


def type_keys(history: Path, keys: str) -> str:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text(keys)
        return terminal_reader(history, toolbar=lambda: "bar")()


def test_enter_sends_and_alt_enter_breaks_the_line(tmp_path: Path):
    assert type_keys(tmp_path / "history", "第一行\x1b\rsecond\r") == "第一行\nsecond"


def test_ctrl_c_clears_a_line_and_interrupts_an_empty_one(tmp_path: Path):
    assert type_keys(tmp_path / "history", "wrong\x03right\r") == "right"
    with pytest.raises(KeyboardInterrupt):
        type_keys(tmp_path / "history", "\x03")


def test_ctrl_d_ends_the_input(tmp_path: Path):
    with pytest.raises(EOFError):
        type_keys(tmp_path / "history", "\x04")


def test_history_is_kept_in_a_private_file(tmp_path: Path):
    history = tmp_path / "folder" / "history"
    type_keys(history, "你好\r")
    assert "你好" in history.read_text(encoding="utf-8")
    assert history.stat().st_mode & 0o077 == 0
    assert type_keys(history, "\x1b[A\r") == "你好"  # arrow up


CHILD = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal is ours: Ctrl-C typed into it becomes a signal
from pathlib import Path
from rich.console import Console
from aquila.chat.session import ChatSession
from aquila.cli.repl import Repl
from aquila.cli.repl_prompt import terminal_reader
from aquila.generate.sampling import SamplingParams
from scripted_model import ScriptedModel

session = ChatSession(ScriptedModel(" word\\n\\n" * 30000), params=SamplingParams(max_new_tokens=1 << 30))
repl = Repl(session, Console(highlight=False))
repl.run(terminal_reader(Path(sys.argv[1]), toolbar=repl.toolbar))
print("left with", len(session.rounds), "round")
"""


class Terminal:
    """A child process on a pseudo-terminal; killed at the end if it is still there."""

    def __init__(self, code: str, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self._unread = ""
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])
        extra = {"PYTHONPATH": path, "TERM": "xterm", "NO_COLOR": "1", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **extra},
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, text: str, seconds: int = 60) -> str:
        """Reads until the text has been shown; gives what came before it."""
        while text not in self._unread:
            ready, _, _ = select.select([self._master], [], [], seconds)
            assert ready, f"{text!r} was not shown within {seconds} s after:\n{self._unread[-2000:]}"
            self._unread += os.read(self._master, 1 << 16).decode(errors="replace")
        before, _, self._unread = self._unread.partition(text)
        return before


def test_a_real_terminal(tmp_path: Path):
    """Ctrl-C stops the answer, not the program; the prompt comes back; Ctrl-D leaves."""
    with Terminal(CHILD, str(tmp_path / "history")) as terminal:
        terminal.wait_for("Enter sends")
        terminal.wait_for(">")
        terminal.press("go on\r")
        terminal.wait_for("word")
        terminal.press("\x03")
        shown = terminal.wait_for("(stopped)")
        assert "Traceback" not in shown
        assert "^C" not in shown, "an echo moves the cursor that redraws count from"
        terminal.wait_for(">")
        terminal.press("\x04")
        assert "Traceback" not in terminal.wait_for("left with 1 round")
        assert terminal.process.wait(timeout=60) == 0
