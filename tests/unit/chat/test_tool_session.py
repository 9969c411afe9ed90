"""A conversation in which a scripted model calls tools that really run."""

import pytest

from aquila.chat.session import ChatSession
from aquila.chat.tool_runner import ToolRunner
from aquila.chat.tool_session import MAX_TURNS, ToolConversation
from aquila.chat.tools.registry import ToolBox
from aquila.chat.toolspec import ToolSpec
from aquila.errors import ConfigError
from scripted_model import ScriptedModel


class Talk:
    """Sends a message and runs everything that is called for it."""

    def __init__(self, *replies: str, tool: ToolSpec | None = None) -> None:
        self.model = ScriptedModel(*replies)
        self.session = ChatSession(self.model, system="Be kind.")
        with ToolBox(["calculator"]) as box:
            tools = [tool] if tool is not None else box.tools
            self.conversation = ToolConversation(self.session, ToolRunner(tools))

    def say(self, text: str) -> list[str]:
        answers = ["".join(self.conversation.send(text))]
        while self.conversation.calls:
            results = [self.conversation.run(call) for call in self.conversation.calls]
            answers.append("".join(self.conversation.go_on(results)))
        return answers


def test_a_call_is_run_and_its_result_answered() -> None:
    talk = Talk("Let me see.\n#calculator#\n6 * 7", "It is 42.")
    assert talk.say("What is 6 * 7?") == ["Let me see.", "It is 42."]
    first, second = talk.model.prompts
    assert "Be kind." in first
    assert "#calculator#" in first
    assert "Human: #calculator#\n42###" in second
    assert "Assistant: Let me see.\n#calculator#\n6 * 7###" in second
    assert talk.session.system == "Be kind."


def test_an_error_is_a_result_and_results_are_no_calls() -> None:
    talk = Talk("#calculator#\nimport os", "Sorry.")
    assert talk.say("Go.") == ["", "Sorry."]
    assert "#calculator#\nerror: " in talk.model.prompts[1]
    talk = Talk("Ok.")
    talk.say("#calculator#\n1 + 1")
    assert "Human: \\#calculator#\n1 + 1" in talk.model.prompts[0]


def test_a_model_that_only_calls_comes_to_an_end() -> None:
    talk = Talk("#again#", tool=ToolSpec("again", run=lambda: "again"))
    with pytest.raises(ConfigError, match=f"called tools in {MAX_TURNS} turns"):
        talk.say("Go.")
    assert talk.conversation.calls == ()


def test_undo_and_retry_take_the_results_with_them() -> None:
    talk = Talk("Hello.", "#calculator#\n1 + 1", "Two.", "Still two.")
    talk.say("Hi.")
    talk.say("1 + 1?")
    assert len(talk.session.rounds) == 3
    assert "".join(talk.conversation.retry()) == "Still two."
    assert [each.user for each in talk.session.rounds] == ["Hi.", "1 + 1?"]
    assert talk.conversation.undo() == "1 + 1?"
    assert [each.user for each in talk.session.rounds] == ["Hi."]
