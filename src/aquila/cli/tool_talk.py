"""Tools in `aquila chat`: runs the calls of an answer, shows them, and lets the model go on."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from aquila.chat.conversation import Conversation
from aquila.chat.instructions import Call
from aquila.chat.tool_images import ImageStore
from aquila.chat.tool_result import ToolImage, ToolResult
from aquila.chat.tool_runner import Confirm, ToolRunner
from aquila.chat.tool_session import ToolConversation
from aquila.chat.toolspec import ToolSpec, compact_json
from aquila.cli.tools import add_picture, save_pictures, visible

MAX_SHOWN = 400  # characters of arguments and of a result


class ToolTalk:
    """A conversation with tools.

    Args:
        session: answers.
        tools: that may be called.
        confirm: asked before a tool with permissions runs.
        show: gets each call and result as lines for people.
        pictures: folder for pictures that tools make.
        language: of the tools' descriptions.
    """

    def __init__(
        self,
        session: Conversation[Any],
        tools: list[ToolSpec],
        *,
        confirm: Confirm,
        show: Callable[[str], None],
        pictures: Path | None = None,
        language: str = "en",
    ) -> None:
        numbers = iter(range(1, 1 << 30))
        images = ImageStore(new_id=lambda: f"image-{next(numbers)}")  # short: the model has to write them
        self._runner = ToolRunner(tools, confirm=confirm, images=images, fill_image=True)
        self._conversation = ToolConversation(session, self._runner, language=language)
        self._show = show
        self._pictures = pictures

    @property
    def tools(self) -> list[ToolSpec]:
        return list(self._runner.tools.values())

    def send(self, text: str) -> Iterator[Generator[str, None, None]]:
        """Answers to a message, one after the other: behind each but the last, calls have been run."""
        return self._turns(self._conversation.send(text))

    def retry(self) -> Iterator[Generator[str, None, None]]:
        """Answers to the last message, anew."""
        return self._turns(self._conversation.retry())

    def undo(self) -> str:
        """Takes back the last message with all that came of it; returns it."""
        return self._conversation.undo()

    def add_picture(self, path: Path) -> ToolImage:
        """A picture of the user's, for tools that take one. `ConfigError` if the file is none."""
        return add_picture(self._runner.images, path)

    def _turns(self, answer: Generator[str, None, None]) -> Iterator[Generator[str, None, None]]:
        yield answer
        while self._conversation.calls:
            results = [self._run(call) for call in self._conversation.calls]
            yield self._conversation.go_on(results)

    def _run(self, call: Call) -> ToolResult:
        self._show(f"→ {call.name} {_short(compact_json(dict(call.arguments)))}")
        result = self._conversation.run(call)
        self._show(f"← {_short(result.for_model())}")
        for path in save_pictures(result, self._pictures):
            self._show(f"← {path}")
        return result


def _short(text: str) -> str:
    shown = visible(" ".join(text.split()))
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]} ..."
