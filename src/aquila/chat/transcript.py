"""A saved conversation: one JSON file that people can read and other programs can write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from aquila.errors import ConfigError
from aquila.files import atomic_write
from aquila.tokenizer.messages import Message, check_conversation


class SavedMessage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Transcript(BaseModel):
    """What is in the file. `model` and `template` say where the answers came from and choose nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    model: str
    template: str
    messages: tuple[SavedMessage, ...]

    @classmethod
    def of(cls, messages: Sequence[Message], *, model: str, template: str) -> "Transcript":
        saved = tuple(SavedMessage(role=each.role, content=each.content) for each in messages)
        return cls(model=model, template=template, messages=saved)

    def conversation(self) -> list[Message]:
        return [Message(each.role, each.content) for each in self.messages]


def save_transcript(path: Path, transcript: Transcript) -> None:
    """Writes the file whole or not at all. `ConfigError` where nothing can be written."""
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(transcript.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; choose another place") from None


def load_transcript(path: Path) -> Transcript:
    """Reads and checks a file: the fields, and that rounds are complete. `ConfigError` says what is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        transcript = Transcript.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {field or 'file'}: {first['msg']}; choose a file that /save wrote") from None
    turns = [each for each in transcript.messages if each.role != "system"]
    if not turns:
        return transcript
    try:
        check_conversation(transcript.conversation(), add_generation_prompt=False)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if turns[-1].role == "user":
        raise ConfigError(f"{path}: the last message has no answer; remove it or add one")
    return transcript
