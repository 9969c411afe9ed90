"""From the body of a chat request to a request of the engine, and from deltas to the events of answers.

/v1/chat/completions, /v1/responses and /v1/messages all go through here:

    chat = prepare_chat(server, ChatRequest(...))
    async with aclosing(chat.events()) as events:
        async for index, event in events: ...       # Text, CallBegin, Arguments, CallEnd, Scores, Finish
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from aquila.chat.stream_parser import CallBegin, Event, Text
from aquila.chat.tool_calls import Dialect, Parser, dialect_for
from aquila.chat.toolspec import tool_from_openai
from aquila.errors import ConfigError
from aquila.generate.request import Delta, Request
from aquila.generate.sampling import TokenLogprob
from aquila.serve.prompts import check_length, check_room
from aquila.serve.protocol.chat import ChatRequest
from aquila.serve.server import Server
from aquila.serve.usage import Tally
from aquila.tokenizer.messages import Message
from aquila.tokenizer.templates import ChatTemplate, stop_token_ids
from aquila.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of the tokens of one step, whose text may come later."""

    entries: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Finish:
    """The last event of an answer. `reason` is "stop", "length" or "tool_calls"."""

    reason: str


ChatEvent = Event | Scores | Finish


@dataclass(frozen=True)
class Chat:
    """A conversation that waits for its answers."""

    server: Server
    body: ChatRequest
    request: Request
    dialect: Dialect
    tally: Tally
    reads_calls: bool
    strip_leading_space: bool

    @property
    def model_name(self) -> str:
        """As the client called it."""
        return self.body.model or self.server.model_name

    async def events(self) -> AsyncGenerator[tuple[int, ChatEvent]]:
        """(which of the `n` answers, what came). Closing the iterator cancels the request."""
        answers = [_Answer(self) for _ in range(self.request.params.n)]
        async with aclosing(self.server.worker.stream(self.request)) as deltas:
            async for delta in deltas:
                self.tally.hear(0, delta)
                for event in answers[delta.index].take(delta):
                    yield delta.index, event


def prepare_chat(server: Server, body: ChatRequest) -> Chat:
    """`AquilaError` where the conversation, the tools or the sampling cannot be used."""
    model, template = server.model, server.template
    adapter = server.adapter_for(body.model)
    tools = [tool_from_openai(entry, f"tools[{index}]") for index, entry in enumerate(body.tools or ())]
    calls_allowed = bool(tools) and body.tool_choice != "none"
    dialect = dialect_for(template.name, tools if calls_allowed else ())
    prompt_ids = _prompt_ids(server, body, dialect)
    check_room(model, prompt_ids, "messages")
    forced = dialect.grammar(body.tool_choice, parallel=body.parallel_tool_calls is not False) if tools else None
    if not tools and body.tool_choice not in (None, "auto", "none"):
        raise ConfigError("tool_choice: there are no tools to choose from; send some, or leave tool_choice out")
    asked = body.max_completion_tokens or body.max_tokens or model.max_context
    params = body.sampling_params(
        max_new_tokens=min(asked, model.max_context),
        stop=template.stop,
        stop_token_ids=stop_token_ids(template, model.tokenizer),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    if forced is not None:
        if params.grammar is not None:
            raise ConfigError("tool_choice: a call is forced, so the text cannot follow another grammar; leave one out")
        params = replace(params, grammar=forced)
    request = Request(tuple(prompt_ids), params, adapter)
    continues = body.messages[-1].role == "assistant"
    return Chat(
        server=server,
        body=body,
        request=request,
        dialect=dialect,
        tally=Tally([request]),
        reads_calls=calls_allowed,
        strip_leading_space=template.strip_leading_space and not continues,
    )


def _prompt_ids(server: Server, body: ChatRequest, dialect: Dialect) -> list[int]:
    """The conversation as the model reads it; what the assistant has begun stands at its end, to go on from."""
    messages = dialect.messages([message.model_dump() for message in body.messages])
    check_length(server.model, sum(len(message.content) for message in messages), "messages")
    template, tokenizer = server.template, server.model.tokenizer
    if not messages or messages[-1].role != "assistant":
        return template.encode(tokenizer, messages)
    begun = messages[-1].content
    return template.encode(tokenizer, messages[:-1]) + _begun_ids(template, tokenizer, begun)


def _begun_ids(template: ChatTemplate, tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode((" " if template.strip_leading_space else "") + text) if text else []


class _Answer:
    """One answer in the making: deltas in, events out."""

    def __init__(self, chat: Chat):
        self._parser: Parser | None = chat.dialect.parser() if chat.reads_calls else None
        self._surplus = " " if chat.strip_leading_space else ""
        self._num_calls = 0

    def take(self, delta: Delta) -> list[ChatEvent]:
        events: list[ChatEvent] = [Scores(delta.logprobs)] if delta.logprobs else []
        text = delta.text
        if text and self._surplus:
            text, self._surplus = text.removeprefix(self._surplus), ""
        found = self._read(text) if text else []
        if delta.finish_reason is not None and self._parser is not None:
            found += self._parser.finish()
        self._num_calls += sum(isinstance(each, CallBegin) for each in found)
        events += found
        if delta.finish_reason is not None:
            called = self._num_calls and delta.finish_reason == "stop"
            events.append(Finish("tool_calls" if called else delta.finish_reason))
        return events

    def _read(self, text: str) -> list[Event]:
        return [Text(text)] if self._parser is None else self._parser.feed(text)


def messages_of(body: ChatRequest, server: Server) -> list[Message]:
    """The conversation without tools, as templates take it."""
    return dialect_for(server.template.name, ()).messages([message.model_dump() for message in body.messages])


def stream_usage(chat: Chat) -> dict[str, Any] | None:
    """What the last chunk of a stream says of its usage, when the client asked for it."""
    options = chat.body.stream_options
    if options is None or not options.include_usage:
        return None
    return {"usage": chat.tally.usage(), "timings": chat.tally.timings()}
