"""A conversation with a model: rounds so far, the prompt that still fits, the answer as it comes.

    session = ChatSession(aquila.load("smollm2-135m"))
    for text in session.send("What is a prime number?"):
        ...

When the context is full the oldest rounds are left out of the prompt (they stay in the history); the message
just sent never is. Closing the iterator that `send` returns stops the model; what it said so far stays in the
history.
"""

import bisect
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol, runtime_checkable

from aquila.chat.conversation import AnswerClock, AnswerStats, Conversation, Round
from aquila.errors import GenerationError
from aquila.generate.request import Delta
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.templates import TEMPLATES, ChatTemplate, Message, stop_token_ids, template_for
from aquila.tokenizer.tokenizer import Tokenizer

__all__ = ["BASE_MODEL_TEMPLATE", "AnswerStats", "ChatModel", "ChatSession", "Round"]

log = logging.getLogger(__name__)

BASE_MODEL_TEMPLATE = "aquila-chat"  # plain words only, so every vocabulary can spell it


@runtime_checkable  # the type checks of the tests ask it
class ChatModel(Protocol):
    """What a conversation needs of a model; `aquila.load` returns one."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def template_name(self) -> str | None: ...
    @property
    def max_context(self) -> int: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, adapter: str | None = None
    ) -> Generator[Delta, None, None]: ...


class ChatSession(Conversation[list[int]]):
    """A conversation with a model of this process.

    Args:
        model: answers.
        template: name of a chat template, instead of the model's own.
        system: instruction that stands before the conversation.
        params: how answers are drawn; the template's stops are added to its stops.
        adapter: name of an adapter of the model that answers are given with.

    Raises:
        ConfigError: no such template.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        template: str | None = None,
        system: str | None = None,
        params: SamplingParams | None = None,
        adapter: str | None = None,
    ) -> None:
        super().__init__(system=system, params=params)
        self.model = model
        self.adapter = adapter
        self.template = _choose_template(model, template)
        self._num_left_out = 0  # oldest rounds that the last prompt had no room for

    @property
    def model_name(self) -> str:
        return self.model.name

    @property
    def template_name(self) -> str:
        return self.template.name

    @property
    def max_context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.model.max_context

    def reset(self) -> None:
        """Forgets the rounds; the system message stays."""
        super().reset()
        self._num_left_out = 0

    def _prompt(self, text: str, rounds: Sequence[Round]) -> list[int]:
        """Token ids of the newest rounds that fit, and of the message, which always is there."""

        def prompt_from(first: int) -> list[int]:
            messages = [*self._messages(rounds[first:]), Message("user", text)]
            return self.template.encode(self.model.tokenizer, messages)

        # An answer may take what it asks for up to a quarter of the context; the rest is for the history.
        limit = self.max_context - min(self.params.max_new_tokens, max(1, self.max_context // 4))
        first = bisect.bisect_left(range(len(rounds)), True, key=lambda first: len(prompt_from(first)) <= limit)
        prompt_ids = prompt_from(first)
        if len(prompt_ids) >= self.max_context:
            raise GenerationError(
                f"the message takes {len(prompt_ids)} tokens with its template, and {self.model.name} has "
                f"a context of {self.max_context}, answer included; send a shorter one"
            )
        if first > self._num_left_out:
            log.info(
                "the context of %d tokens is full: the oldest %d of %d rounds are left out of the prompt",
                self.max_context,
                first,
                len(rounds),
            )
        self._num_left_out = first
        return prompt_ids

    def _answer(self, text: str, prompt: list[int], params: SamplingParams) -> Generator[str, None, None]:
        params = replace(
            params,
            n=1,
            stop=tuple(dict.fromkeys((*params.stop, *self.template.stop))),
            stop_token_ids=(*params.stop_token_ids, *stop_token_ids(self.template, self.model.tokenizer)),
        )
        clock = AnswerClock(len(prompt))
        parts: list[str] = []
        surplus = " " if self.template.strip_leading_space else ""
        try:
            with closing(self.model.stream(prompt, params, adapter=self.adapter)) as deltas:
                for delta in deltas:
                    clock.hear(len(delta.token_ids), delta.finish_reason)
                    if not delta.text:
                        continue
                    part, surplus = delta.text.removeprefix(surplus), ""
                    if part:
                        parts.append(part)
                        yield part
        finally:
            self.last_answer = clock.stats()
            if parts:
                self.rounds.append(Round(text, "".join(parts)))


def _choose_template(model: ChatModel, name: str | None) -> ChatTemplate:
    template = template_for(name or model.template_name, model.tokenizer)
    if name is None and (template is None or model.kind == "base"):
        log.warning(
            "%s is not a chat model: it continues text, so answers may wander; `aquila models` lists chat models",
            model.name,
        )
    return template or TEMPLATES[BASE_MODEL_TEMPLATE]
