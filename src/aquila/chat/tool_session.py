"""A conversation in which the model may call tools: its answer, the calls in it, their results, its next answer.

    conversation = ToolConversation(session, runner)
    for text in conversation.send("What is 6 * 7?"): ...
    while conversation.calls:
        results = [conversation.run(call) for call in conversation.calls]
        for text in conversation.go_on(results): ...

The rounds of the session hold what the model wrote, tags included, and results as user's turns, so that the next prompt
begins as the last one did.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Any

from aquila.chat.conversation import Conversation
from aquila.chat.instructions import Call, turn_of
from aquila.chat.stream_parser import Event, Text
from aquila.chat.tool_calls import dialect_for
from aquila.chat.tool_result import ToolResult
from aquila.chat.tool_runner import Confirm, ToolRunner
from aquila.errors import ConfigError

MAX_TURNS = 8  # of the model for one message: a model that only ever calls tools comes to an end


class ToolConversation:
    """Adds tools to a session.

    Args:
        session: answers. Its system message is extended by the tools.
        runner: runs the calls.
        language: of the tools' descriptions, "en" or "zh".
    """

    def __init__(self, session: Conversation[Any], runner: ToolRunner, *, language: str = "en") -> None:
        self.session = session
        self.runner = runner
        self.calls: tuple[Call, ...] = ()
        self._dialect = dialect_for(session.template_name, runner.tools.values())
        self._language = language
        self._start = 0  # rounds before the last message
        self._message = ""
        self._num_turns = 0

    def send(self, text: str) -> Generator[str, None, None]:
        """Answers a message; what is not a call comes piece by piece, the calls are in `calls` at the end."""
        if not text.strip():
            raise ConfigError("the message is empty; write something")
        self._start, self._message, self._num_turns = len(self.session.rounds), text, 0
        return self._turn(self._dialect.user_text(text))

    def run(self, call: Call, *, confirm: Confirm | None = None) -> ToolResult:
        """Runs a call of the last turn."""
        return self.runner.run(call.name, call.arguments, confirm=confirm)

    def go_on(self, results: Sequence[ToolResult]) -> Generator[str, None, None]:
        """Gives the model the results of its calls and lets it go on.

        Raises:
            ConfigError: it has called tools too often for one message.
        """
        if self._num_turns >= MAX_TURNS:
            self.calls = ()
            raise ConfigError(f"the model called tools in {MAX_TURNS} turns without an answer; ask again, differently")
        pairs = zip(self.calls, results, strict=True)
        texts = [self._dialect.render_result(call.name, result.for_model()) for call, result in pairs]
        return self._turn("\n\n".join(texts))

    def retry(self) -> Generator[str, None, None]:
        """Answers the last message anew."""
        self.undo()
        return self.send(self._message)

    def undo(self) -> str:
        """Takes back the last message with all that came of it; returns it. `ConfigError` when there is none."""
        if len(self.session.rounds) <= self._start:
            return self.session.undo().user
        while len(self.session.rounds) > self._start:
            self.session.undo()
        return self._message

    def _turn(self, text: str) -> Generator[str, None, None]:
        """One turn of the model, the tools in the system message while it lasts."""
        self.calls = ()
        self._num_turns += 1
        parser = self._dialect.parser()
        events: list[Event] = []
        own, tools = self.session.system, self._dialect.system_text(self._language)
        self.session.system = "\n\n".join(part for part in (own, tools) if part)
        try:
            for piece in self.session.send(text):
                yield from _texts(events, parser.feed(piece))
        finally:
            self.session.system = own
        yield from _texts(events, parser.finish())
        self.calls = turn_of(events).calls


def _texts(events: list[Event], new: Iterable[Event]) -> Generator[str, None, None]:
    for event in new:
        events.append(event)
        if isinstance(event, Text):
            yield event.text
