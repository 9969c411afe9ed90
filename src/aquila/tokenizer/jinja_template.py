"""Chat templates that come with a checkpoint, in Hugging Face's Jinja dialect, run in a sandbox.

The text around the messages may hold control tokens; the messages may not. A template can do anything with a
content (trim it, slice it, put it in JSON), so contents cannot be cut out of the result afterwards. Instead,
where a content spells a control token, a mark is put inside that word: a Unicode noncharacter that occurs
nowhere else. What then still reads as a control token was written by the template; the marks are taken out
again from the plain text between. A template that looks for a control token inside a content does not find it
there: the price of safety.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aquila.errors import ConfigError, TokenizerError
from aquila.tokenizer.messages import Message, control_token_id
from aquila.tokenizer.specials import FIM_NAMES, is_control_text
from aquila.tokenizer.tokenizer import Tokenizer

NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # set aside by Unicode for internal use such as this


class JinjaTemplate:
    """A chat template given as Jinja source.

    Args:
        source: text of the template.
        control_tokens: texts of the special tokens that it may write and messages may not.
        variables: more names that it reads, such as `bos_token`.
        now: clock behind `strftime_now`.

    Raises:
        TokenizerError: the source is not a template.
    """

    name = "jinja"
    strip_leading_space = False

    def __init__(
        self,
        source: str,
        *,
        control_tokens: Collection[str] = (),
        variables: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._source = source
        self._variables = dict(variables or {})
        longest_first = sorted((token for token in control_tokens if len(token) > 1), key=len, reverse=True)
        # (?!) matches nowhere: a tokenizer without control tokens has nothing to guard against
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._template = _compile(source, now)
        self.stop = self._find_stop()

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> "JinjaTemplate":
        """The template that came with a tokenizer, with the tokenizer's special tokens."""
        if tokenizer.chat_template is None:
            raise TokenizerError("the tokenizer has no chat template; choose one by name")
        ids = {"bos_token": tokenizer.bos_token_id, "pad_token": tokenizer.pad_token_id}
        ids["eos_token"] = tokenizer.eos_token_ids[0] if tokenizer.eos_token_ids else None
        added = tokenizer.backend.get_added_tokens_decoder().items()
        control = {
            token.content
            for token_id, token in added
            if token_id in tokenizer.special_ids or is_control_text(token.content)
        }
        aliases = {text for text in FIM_NAMES.values() if tokenizer.token_id(text) is not None}
        return cls(
            tokenizer.chat_template,
            control_tokens=control | aliases,
            variables={name: tokenizer.token_text(token) for name, token in ids.items() if token is not None},
        )

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The prompt as text. `ConfigError` in the template's own words when it refuses the conversation."""
        if not any(message.role == "user" for message in messages):
            raise ConfigError("the conversation has no user message; add one")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=turns,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )
        except TemplateError as error:
            raise ConfigError(f"the model's chat template refuses the conversation: {error}") from None

    def encode(
        self, tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of the prompt. Control tokens spelled in a message are encoded as plain text."""
        if not any(self._control.search(message.content) for message in messages):
            rendered = self.render(messages, add_generation_prompt=add_generation_prompt)
            return tokenizer.encode(rendered, allow_special=True)
        mark = self._unused_mark(messages)
        guarded = [Message(each.role, self._guard(each.content, mark)) for each in messages]
        rendered = self.render(guarded, add_generation_prompt=add_generation_prompt)
        token_ids: list[int] = []
        position = 0
        for match in self._control.finditer(rendered):
            token_ids += tokenizer.encode(rendered[position : match.start()].replace(mark, ""))
            token_ids.append(control_token_id(tokenizer, match[0]))
            position = match.end()
        return token_ids + tokenizer.encode(rendered[position:].replace(mark, ""))

    def _guard(self, content: str, mark: str) -> str:
        while self._control.search(content):  # again, for a token that overlaps one just broken
            content = self._control.sub(lambda match: match[0][0] + mark + match[0][1:], content)
        return content

    def _unused_mark(self, messages: Sequence[Message]) -> str:
        used = self._source + "".join(message.content for message in messages)
        unused = [mark for mark in NONCHARACTERS if mark not in used]
        if not unused:
            raise ConfigError("the messages use every Unicode noncharacter U+FDD0..U+FDEF; remove one of them")
        return unused[0]

    def _find_stop(self) -> tuple[str, ...]:
        """The control token that follows an answer; not every checkpoint lists it as its eos."""
        answer = "an answer"
        conversation = [Message("user", "a question"), Message("assistant", answer)]
        after = self.render(conversation, add_generation_prompt=False).rpartition(answer)[2]
        end = self._control.match(after.lstrip())
        return (end[0],) if end else ()


class _GenerationTag(Extension):
    """`{% generation %} ... {% endgeneration %}` marks what the assistant writes; here it is its body."""

    tags = {"generation"}  # noqa: RUF012  the name and type that jinja2 asks for

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str, now: Callable[[], datetime]) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    functions: dict[str, Any] = {
        "raise_exception": _raise_exception,
        "strftime_now": lambda layout: now().strftime(layout),
    }
    try:
        return environment.from_string(source, globals=functions)
    except TemplateSyntaxError as error:
        raise TokenizerError(
            f"the checkpoint's chat template, line {error.lineno}: {error.message}; choose a template by name"
        ) from None


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON for models, not for HTML: unlike Jinja's own filter it leaves `<`, `&` and Chinese as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
