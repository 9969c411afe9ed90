"""The line editor of `aquila chat`: Enter sends, Alt-Enter breaks the line, Tab completes commands."""

from collections.abc import Callable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from aquila.cli.repl import COMMANDS


def terminal_reader(history: Path, *, toolbar: Callable[[], str]) -> Callable[[], str]:
    """A function that reads one message; `EOFError` on Ctrl-D, `KeyboardInterrupt` on Ctrl-C in an empty
    line.

    Args:
        history: file of earlier inputs, created readable for its owner only.
        toolbar: text of the line at the bottom, asked for again before each input.
    """
    history.parent.mkdir(parents=True, exist_ok=True)
    history.touch(mode=0o600)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(history),
        multiline=True,  # so that pasted and Alt-Enter lines show; Enter is rebound below
        key_bindings=_key_bindings(),
        completer=WordCompleter([f"/{name}" for name in COMMANDS], sentence=True),
        complete_while_typing=True,
        bottom_toolbar=toolbar,
        prompt_continuation="… ",
    )
    return lambda: session.prompt("> ")


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    def clear_or_interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return bindings
