"""The conversation of `aquila chat`: reads lines, answers messages, obeys `/commands`.

The terminal stays outside: lines come from a function, everything shown goes to a rich console.
"""

import difflib
import locale
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from aquila.chat.conversation import Conversation
from aquila.cli.live_markdown import LiveMarkdown
from aquila.cli.repl_text import LANGUAGES, text
from aquila.cli.tool_talk import ToolTalk
from aquila.config import suggest
from aquila.errors import AquilaError

COMMANDS = {  # name -> its argument in /help
    "help": "",
    "system": "[TEXT]",
    "set": "[KEY VALUE]",
    "reset": "",
    "undo": "",
    "retry": "",
    "save": "FILE",
    "load": "FILE",
    "tools": "",
    "image": "FILE",
    "stats": "",
    "lang": "zh|en",
    "quit": "",
}
SETTINGS: dict[str, type[int] | type[float]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "max_new_tokens": int,
    "seed": int,
}


class Repl:
    """A conversation on a console.

    Args:
        session: answers.
        console: shows answers and notices.
        language: of the notices, "zh" or "en".
        tools: answers instead of the session alone, and runs what the model calls.
    """

    def __init__(
        self,
        session: Conversation[Any],
        console: Console,
        *,
        language: str = "en",
        tools: ToolTalk | None = None,
    ) -> None:
        self._session = session
        self._tools = tools
        self._console = console
        self._language = language
        self._done = False
        self._handlers: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "system": self._system,
            "set": self._set,
            "reset": self._reset,
            "undo": self._undo,
            "retry": self._retry,
            "save": self._save,
            "load": self._load,
            "tools": self._list_tools,
            "image": self._image,
            "stats": self._stats,
            "lang": self._lang,
            "quit": self._quit,
        }

    def run(self, read: Callable[[], str]) -> None:
        """Reads and answers until the end of input or /quit. `read` raises `KeyboardInterrupt` for Ctrl-C."""
        self._say("welcome", model=self._session.model_name, template=self._session.template_name)
        while not self._done:
            try:
                line = read()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._say("hint_leave")
                continue
            self.handle(line)

    def handle(self, line: str) -> None:
        """One line of input: a `/command`, or a message to answer. Errors that a user can mend are shown."""
        try:
            if line.startswith("/"):
                name, _, argument = line[1:].strip().partition(" ")
                self._command(name, argument.strip())
            elif line.strip():
                self._show_all(self._send(line.strip()))
        except AquilaError as error:
            self._console.print(f"[red]{escape(str(error))}[/red]")

    def toolbar(self) -> str:
        """Model, speed of the last answer, and how full the context is."""
        stats = self._session.last_answer
        return text(
            self._language,
            "toolbar",
            model=self._session.model_name,
            speed=text(self._language, "speed", value=stats.tokens_per_second) if stats else "",
            used=self._used(),
            limit=self._session.max_context,
        )

    def _send(self, message: str) -> Iterator[Generator[str, None, None]]:
        return self._tools.send(message) if self._tools is not None else iter((self._session.send(message),))

    def _show_all(self, answers: Iterator[Generator[str, None, None]]) -> None:
        """Streams answers, until one is stopped. Ctrl-C between them ends the tool that runs."""
        try:
            for answer in answers:
                if self._show(answer):
                    return
        except KeyboardInterrupt:
            self._say("stopped")

    def _show(self, answer: Generator[str, None, None]) -> bool:
        """Streams an answer; True if it was stopped.

        Ctrl-C stops it at the next token; a second Ctrl-C does not wait for that.
        """
        stopped = False
        try:
            with closing(answer), _interrupt_flag() as interrupted, _echo_off(), LiveMarkdown(self._console) as live:
                for part in answer:
                    live.push(part)
                    if stopped := interrupted.is_set():
                        break
        except KeyboardInterrupt:
            stopped = True
        stats = self._session.last_answer
        if stopped:
            self._say("stopped")
        elif stats is not None and stats.finish_reason == "length":
            self._say("cut")
        return stopped

    def _command(self, name: str, argument: str) -> None:
        if name in self._handlers:
            self._handlers[name](argument)
            return
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        suggestion = text(self._language, "did_you_mean", name=near[0]) if near else ""
        self._say("unknown_command", name=name, suggestion=suggestion)

    def _say(self, key: str, /, **values: object) -> None:
        self._console.print(f"[dim]{escape(text(self._language, key, **values))}[/dim]")

    def _used(self) -> int:
        stats = self._session.last_answer
        return stats.prompt_tokens + stats.new_tokens if stats else 0

    def _help(self, argument: str) -> None:
        width = max(len(f"{name} {usage}") for name, usage in COMMANDS.items())
        for name, usage in COMMANDS.items():
            about = text(self._language, f"help_{name}")
            usage = escape(usage.ljust(width - len(name) - 1))
            self._console.print(f"  [bold]/{name}[/bold] {usage}  [dim]{escape(about)}[/dim]")

    def _system(self, argument: str) -> None:
        if argument:
            self._session.system = None if argument == "-" else argument
            self._say("system_set")
        else:
            self._say("system_now", system=self._session.system or text(self._language, "none"))

    def _set(self, argument: str) -> None:
        if not argument:
            values = asdict(self._session.params)
            for key in SETTINGS:
                self._say("set_done", key=key, value=values[key])
            return
        key, _, word = argument.partition(" ")
        if key not in SETTINGS:
            self._say("set_unknown", key=key, suggestion=suggest(key, SETTINGS))
        elif not word.strip():
            self._say("set_usage")
        else:
            self._set_number(key, word.strip())

    def _set_number(self, key: str, word: str) -> None:
        kind = SETTINGS[key]
        try:
            value = None if key == "seed" and word == "none" else kind(word)
        except ValueError:
            self._say("set_not_a_number", key=key, value=word, kind=text(self._language, f"kind_{kind.__name__}"))
            return
        self._session.params = replace(self._session.params, **{key: value})
        self._say("set_done", key=key, value=value)

    def _reset(self, argument: str) -> None:
        self._session.reset()
        self._say("reset")

    def _undo(self, argument: str) -> None:
        self._say("undone", message=self._tools.undo() if self._tools is not None else self._session.undo().user)

    def _retry(self, argument: str) -> None:
        self._show_all(self._tools.retry() if self._tools is not None else iter((self._session.retry(),)))

    def _list_tools(self, argument: str) -> None:
        if self._tools is None:
            self._say("no_tools")
            return
        for tool in self._tools.tools:
            permissions = ", ".join(sorted(tool.permissions))
            note = f"  [{permissions}]" if permissions else ""
            self._say("tool", name=tool.name, about=tool.describe(self._language), permissions=note)

    def _image(self, argument: str) -> None:
        if self._tools is None:
            self._say("no_tools")
        elif not argument:
            self._say("path_usage", name="image")
        else:
            picture = self._tools.add_picture(Path(argument))
            self._say("image_added", id=picture.id, path=argument)

    def _save(self, argument: str) -> None:
        if not argument:
            self._say("path_usage", name="save")
            return
        path = Path(argument).expanduser()
        self._session.save(path)
        self._say("saved", path=path)

    def _load(self, argument: str) -> None:
        if not argument:
            self._say("path_usage", name="load")
            return
        path = Path(argument).expanduser()
        self._session.load(path)
        self._say("loaded", path=path, num_rounds=len(self._session.rounds))

    def _stats(self, argument: str) -> None:
        stats = self._session.last_answer
        if stats is None:
            self._say("no_stats")
            return
        self._say(
            "stats",
            prompt_tokens=stats.prompt_tokens,
            new_tokens=stats.new_tokens,
            speed=stats.tokens_per_second,
            first=stats.seconds_to_first_token,
            num_rounds=len(self._session.rounds),
            used=self._used(),
            limit=self._session.max_context,
        )

    def _lang(self, argument: str) -> None:
        if argument not in LANGUAGES:
            self._say("language_usage")
            return
        self._language = argument
        self._say("language_set")

    def _quit(self, argument: str) -> None:
        self._done = True


@contextmanager
def _interrupt_flag() -> Generator[Event, None, None]:
    """Turns the first Ctrl-C into a flag, so that no step of the engine is torn apart."""
    flag = Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _echo_off() -> Generator[None, None, None]:
    """Keeps what is typed meanwhile, `^C` too, off the screen: it would move the cursor that redraws count from."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def system_language() -> str:
    """The language for notices: zh where the locale is Chinese, else en."""
    name = locale.getlocale(locale.LC_CTYPE)[0] or ""
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"
