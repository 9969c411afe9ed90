"""Fields that requests of several routes share, and what they mean to the engine."""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from aquila.errors import ConfigError
from aquila.generate.grammar import Grammar
from aquila.generate.sampling import SamplingParams

MAX_STOPS = 64

Id = Annotated[int, Field(ge=0, lt=1 << 31)]
Count = Annotated[int, Field(ge=1, lt=1 << 31)]
T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]  # the first wrong entry is all that is told, and all that is looked at


class Fields(BaseModel):
    """A part of a request. What we do not know is taken and left aside: clients of other servers send all sorts."""

    model_config = ConfigDict(extra="allow")


class StreamOptions(Fields):
    include_usage: bool = False


class JsonSchemaFormat(Fields):
    name: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Fields):
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")  # llama.cpp's place for it

    def grammar(self) -> Grammar | None:
        """`ConfigError` when a schema is asked for and none is given."""
        if self.type == "text":
            return None
        schema = self.schema_ if self.json_schema is None else self.json_schema.schema_
        if schema is not None:
            return Grammar("json_schema", json.dumps(schema))
        if self.type == "json_schema":
            raise ConfigError("response_format: type json_schema needs json_schema.schema")
        return Grammar("json_object")


class SamplingFields(Fields):
    """How to draw. Without any of temperature, top_p, top_k and min_p the model's defaults hold; with one of them the
    others are as OpenAI has them: temperature 1, and nothing cut off.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | Many[str] | None = None
    stop_token_ids: Many[Id] | None = None
    ignore_eos: bool | None = None
    n: Count | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Many[str] | None = None
    guided_grammar: str | None = None
    grammar: str | None = None

    def sampling_params(
        self,
        *,
        max_new_tokens: int,
        stop: tuple[str, ...] = (),
        stop_token_ids: tuple[int, ...] = (),
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
    ) -> SamplingParams:
        """For the engine. `ConfigError` names the field that is out of its range.

        Args:
            max_new_tokens: of each completion.
            stop: texts that end it beside the request's.
            stop_token_ids: tokens that do.
            logprobs: see `SamplingParams`.
            prompt_logprobs: see `SamplingParams`.
        """
        own_stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(own_stop) > MAX_STOPS:
            raise ConfigError(f"stop: {len(own_stop)} texts are too many; give {MAX_STOPS} at most")
        return SamplingParams(
            **self._drawing(),
            repetition_penalty=_given(self.repetition_penalty, 1.0),
            presence_penalty=_given(self.presence_penalty, 0.0),
            frequency_penalty=_given(self.frequency_penalty, 0.0),
            max_new_tokens=max_new_tokens,
            seed=self.seed if self.seed is not None and self.seed >= 0 else None,  # -1: any, as llama.cpp has it
            stop=tuple(dict.fromkeys((*own_stop, *stop))),
            stop_token_ids=(*(self.stop_token_ids or ()), *stop_token_ids),
            ignore_eos=bool(self.ignore_eos),
            n=self.n or 1,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            logit_bias=self._biases(),
            grammar=self.asked_grammar(),
        )

    def asked_grammar(self) -> Grammar | None:
        """What the text has to be, None for anything. `ConfigError` when it is asked for in two ways."""
        asked: dict[str, Grammar] = {}
        if self.response_format is not None and (grammar := self.response_format.grammar()) is not None:
            asked["response_format"] = grammar
        if self.guided_json is not None:
            schema = self.guided_json if isinstance(self.guided_json, str) else json.dumps(self.guided_json)
            asked["guided_json"] = Grammar("json_schema", schema)
        if self.guided_regex:
            asked["guided_regex"] = Grammar("regex", self.guided_regex)
        if self.guided_choice is not None:
            asked["guided_choice"] = Grammar("choice", json.dumps(self.guided_choice))
        for name in ("guided_grammar", "grammar"):
            if getattr(self, name):
                asked[name] = Grammar("lark", getattr(self, name))
        if len(asked) > 1:
            raise ConfigError(f"{' and '.join(asked)}: a text can follow one grammar; leave all but one out")
        return next(iter(asked.values()), None)

    def _drawing(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "min_p")}
        given = {name: value for name, value in given.items() if value is not None}
        if given.get("top_k", 0) < 0:
            given["top_k"] = 0  # -1: all, as vLLM has it
        return {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, **given} if given else {}

    def _biases(self) -> tuple[tuple[int, float], ...]:
        biases = []
        for key, bias in (self.logit_bias or {}).items():
            if not (key.isdecimal() and key.isascii() and len(key) < 10):
                raise ConfigError(f"logit_bias: {key[:20]!r} is not a token id")
            biases.append((int(key), bias))
        return tuple(biases)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
