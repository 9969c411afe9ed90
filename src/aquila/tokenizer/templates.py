"""The seven chat templates of the Aquila family, byte for byte, and the choice of a template for a model.

Sources: the FlagAI inference and fine-tuning scripts (`aquila-chat`, `sft-v2`) and the conversation table of
Aquila2 (the others). Which model speaks which is data in the zoo's registry.

Where a system message goes:

    aquila-chat, sft-v2               into a slot after the constant sentence: `System: ...`
    aquila-legacy, aquila, aquila-v2  in place of the constant sentence, for want of a slot
    aquila-v1, bair_v1                before the first user message and a blank line, for want of both
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from aquila.config import suggest
from aquila.errors import ConfigError
from aquila.tokenizer.messages import Message, Piece, check_conversation, encode_pieces
from aquila.tokenizer.tokenizer import Tokenizer

__all__ = [
    "TEMPLATES",
    "ChatTemplate",
    "Message",
    "Piece",
    "Template",
    "named_template",
    "stop_token_ids",
    "template_for",
]

SENTENCE = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
CONTROL_TOKENS = frozenset({"[CLS]", "</s>", "<|startofpiece|>", "<|endofpiece|>"})


@runtime_checkable  # the type checks of the tests ask it
class ChatTemplate(Protocol):
    """What sessions and servers need of a template; named ones and Jinja ones provide it."""

    @property
    def name(self) -> str: ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end the assistant's turn."""
        ...

    @property
    def strip_leading_space(self) -> bool:
        """The prompt ends in `Role:`, so an answer starts with a space that is not part of it."""
        ...

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str: ...

    def encode(
        self, tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> list[int]: ...


@dataclass(frozen=True)
class Turn:
    """How one role's message is framed: label, gap, content, end; no gap before an empty content."""

    label: str
    gap: str
    end: str

    def pieces(self, content: str, *, train: bool) -> list[Piece]:
        text = self.gap + content if content else ""
        return [_fixed(self.label), Piece(text, train=train), _fixed(self.end, train=train)]

    def jinja(self, content: str) -> str:
        """A Jinja expression for this turn; `content` names the variable that holds the message."""
        text = f"({_quote(self.gap)} + {content} if {content} else '')"
        return f"{_quote(self.label)} + {text} + {_quote(self.end)}"


@dataclass(frozen=True)
class Template:
    """A named template; see the file's docstring for where a system message goes.

    Attributes:
        header: opens every conversation, followed by `header_end`.
        system: the slot of templates that have one.
        start: control token before everything.
        end: control token after a finished conversation.
    """

    name: str
    header: str
    header_end: str
    user: Turn
    assistant: Turn
    stop: tuple[str, ...]
    system: Turn | None = None
    start: str = ""
    end: str = ""

    @property
    def strip_leading_space(self) -> bool:
        return ":" in self.assistant.label

    def pieces(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[Piece]:
        """What the model reads; with `add_generation_prompt` it ends where the assistant starts.

        Raises:
            ConfigError: the messages do not take turns.
        """
        check_conversation(messages, add_generation_prompt=add_generation_prompt)
        has_system = messages[0].role == "system"
        turns = [*messages[1:]] if has_system else [*messages]
        pieces = [_fixed(self.start), *self._opening(messages[0].content if has_system else "")]
        if has_system and self.system is None and self.header != SENTENCE:
            turns[0] = Message("user", f"{messages[0].content}\n\n{turns[0].content}")
        for message in turns:
            if message.role == "user":
                pieces += self.user.pieces(message.content, train=False)
            else:
                pieces += self.assistant.pieces(message.content, train=True)
        pieces.append(_fixed(self.assistant.label) if add_generation_prompt else _fixed(self.end, train=True))
        return [piece for piece in pieces if piece.text]

    def jinja(self) -> str:
        """The same template in the dialect of Hugging Face checkpoints and GGUF files, for other programs to read."""
        replaces_header = self.system is None and self.header == SENTENCE
        before_user = self.system is None and self.header != SENTENCE
        header = f"(system or {_quote(self.header)})" if replaces_header else _quote(self.header)
        opening = f"{_quote(self.start)} + {header} + {_quote(self.header_end)}"
        if self.system is not None:
            opening += f" + ({self.system.jinja('system')} if system else '')"
        first = "(system + '\\n\\n' if system and loop.first else '') + " if before_user else ""
        answer = self.assistant.jinja("message['content']")
        return (
            "{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' -%}"
            f"{{{{- {opening} -}}}}"
            "{%- for message in messages if message['role'] != 'system' -%}"
            "{%- if message['role'] == 'user' -%}"
            f"{{%- set content = {first}message['content'] -%}}"
            f"{{{{- {self.user.jinja('content')} -}}}}"
            "{%- else -%}"
            f"{{{{- {answer} -}}}}"
            "{%- endif -%}"
            "{%- endfor -%}"
            f"{{{{- {_quote(self.assistant.label)} if add_generation_prompt else {_quote(self.end)} -}}}}"
        )

    def _opening(self, system: str) -> list[Piece]:
        if not system or self.system is not None or self.header != SENTENCE:
            opening = [Piece(self.header + self.header_end)]
        else:
            opening = [Piece(system + self.header_end)]
        if system and self.system is not None:
            opening += self.system.pieces(system, train=False)
        return opening

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The prompt as text, for people; models get `encode`, where contents stay plain text."""
        return "".join(piece.text for piece in self.pieces(messages, add_generation_prompt=add_generation_prompt))

    def encode(
        self, tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of the prompt. `TokenizerError` where the vocabulary lacks one of its control tokens."""
        return encode_pieces(tokenizer, self.pieces(messages, add_generation_prompt=add_generation_prompt))


def _quote(text: str) -> str:
    return json.dumps(text)  # Jinja reads the same escapes


def _fixed(text: str, *, train: bool = False) -> Piece:
    """A piece that the template itself writes, so it may be a control token."""
    return Piece(text, special=text in CONTROL_TOKENS, train=train)


_ALL = (
    Template(
        name="aquila-chat",
        header=SENTENCE,
        header_end="###",
        system=Turn("System:", " ", "###"),
        user=Turn("Human:", " ", "###"),
        assistant=Turn("Assistant:", " ", "###"),
        stop=("###", "</s>", "[UNK]"),
    ),
    Template(
        # A conversation has a single </s>, at its very end, so a model trained on it goes on as the human.
        # The original states no stop strings for it; without `### Human` an answer would never end.
        name="sft-v2",
        start="[CLS]",
        header=SENTENCE,
        header_end="\n\n",
        system=Turn("### System:", " ", "\n"),
        user=Turn("### Human:", " ", "\n"),
        assistant=Turn("### Assistant:", " ", "\n"),
        end="</s>",
        stop=("### Human", "</s>"),
    ),
    Template(
        name="aquila-legacy",
        header=SENTENCE,
        header_end="\n\n",
        user=Turn("### Human: ", "", "\n"),
        assistant=Turn("### Assistant: ", "", "</s>"),
        stop=("</s>", "[UNK]"),
    ),
    Template(
        name="aquila",
        header=SENTENCE,
        header_end="###",
        user=Turn("Human:", " ", "###"),
        assistant=Turn("Assistant:", " ", "</s>"),
        stop=("</s>", "[UNK]"),
    ),
    Template(
        name="aquila-v1",
        header="",
        header_end="",
        user=Turn("<|startofpiece|>", "", ""),
        assistant=Turn("<|endofpiece|>", "", "</s>"),
        stop=("</s>", "<|endoftext|>"),
    ),
    Template(
        name="aquila-v2",
        header=SENTENCE,
        header_end="\n\n",
        user=Turn("<|startofpiece|>", "", ""),
        assistant=Turn("<|endofpiece|>", "", "</s>"),
        stop=("</s>", "<|endoftext|>", "<|startofpiece|>", "<|endofpiece|>"),
    ),
    Template(
        name="bair_v1",
        header="BEGINNING OF CONVERSATION:",
        header_end=" ",
        user=Turn("USER:", " ", " "),
        assistant=Turn("GPT:", " ", "</s>"),
        stop=("</s>",),
    ),
)
TEMPLATES: dict[str, Template] = {template.name: template for template in _ALL}


def named_template(name: str) -> Template:
    """One of the seven. `ConfigError` with the nearest name when there is no such template."""
    if name not in TEMPLATES:
        raise ConfigError(f"chat template {name!r} is unknown{suggest(name, TEMPLATES)}")
    return TEMPLATES[name]


def template_for(name: str | None, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template called `name`, or the checkpoint's own without a name; None where there is neither."""
    if name is not None:
        return named_template(name)
    if tokenizer.chat_template is None:
        return None
    own = next((template for template in _ALL if template.jinja() == tokenizer.chat_template), None)
    if own is not None:  # a converted checkpoint of ours: its stop strings come back with the name
        return own
    from aquila.tokenizer.jinja_template import JinjaTemplate  # noqa: PLC0415  jinja2 is slow to import

    return JinjaTemplate.from_tokenizer(tokenizer)


def stop_token_ids(template: ChatTemplate, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Those stops that are control tokens: decoding leaves them out, so as strings they would never match."""
    token_ids = [tokenizer.token_id(text) for text in template.stop]
    return tuple(token_id for token_id in token_ids if token_id in tokenizer.special_ids)
