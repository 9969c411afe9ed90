"""The `data:` section of a recipe."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Packing = Literal["concat", "best_fit", "none"]
Stage = Literal["pretrain", "continue", "sft"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _as_list(value: Any) -> Any:
    """One path where a list of them is meant."""
    return [value] if isinstance(value, (str, Path)) else value


def _as_tree(value: Any) -> Any:
    """A plain path where `{path: ...}` is meant."""
    return {"path": value} if isinstance(value, (str, Path)) else value


class MixSource(_Settings):
    """One part of a mixture."""

    path: Path = Field(description="Token shard: its prefix, or its .bin or .idx file.")
    weight: float | None = Field(
        None, gt=0, description="Share of the tokens, relative to the other weights. Default: the share of its size."
    )
    fim_rate: float = Field(0.0, ge=0, le=1, description="Share of the documents rearranged to fill in the middle.")
    name: str = Field("", description="Name in reports. Default: the file's name.")


class ValidationSource(_Settings):
    """Text that is only measured on, never trained on."""

    path: Path = Field(description="Token shard; with stage: sft a file of conversations.")
    name: str = Field("", description="Name of its loss in the metrics, such as a language. Default: the file's name.")


class FimConfig(_Settings):
    """How documents are rearranged to fill in the middle."""

    spm_rate: float = Field(0.5, ge=0, le=1, description="Share with the suffix before the prefix (SPM, else PSM).")
    character: float = Field(0.5, ge=0, description="Weight of cuts between any two characters.")
    line: float = Field(0.25, ge=0, description="Weight of middles that are whole lines.")
    block: float = Field(0.25, ge=0, description="Weight of middles that are indented blocks.")

    @model_validator(mode="after")
    def _has_a_cut(self) -> "FimConfig":
        if self.character + self.line + self.block <= 0:
            raise ValueError("character, line and block are all 0; give one of them a weight")
        return self


class DataConfig(_Settings):
    """What a run trains on: one of `path`, `mix` or `sft`."""

    path: Path | None = Field(None, description="One token shard: its prefix, or its .bin or .idx file.")
    mix: tuple[MixSource, ...] = Field((), description="Several token shards with weights.")
    sft: tuple[Path, ...] = Field((), description="Files or folders of conversations, for stage: sft.")
    validation: tuple[ValidationSource, ...] = Field(
        (), description="What the loss is measured on: shards, or conversations with stage: sft."
    )
    validation_fraction: float = Field(
        0.0, ge=0, le=0.5, description="Share of each source, taken from its end, that is measured on, not trained on."
    )
    sequence_length: int = Field(2048, ge=2, le=1 << 24, description="Tokens in a sequence.")
    document_mask: bool = Field(True, description="Keep attention and positions within a document.")
    packing: Packing | None = Field(
        None,
        description="concat: cut the stream of documents into sequences. best_fit: put whole documents together. none: "
        "one document a sequence. Default: concat for shards, best_fit for conversations.",
    )
    template: str | None = Field(None, description="Chat template of conversations. Default: the tokenizer's own.")
    fim: FimConfig = FimConfig()
    max_repeat: float = Field(4.0, gt=0, description="Warn where a source is read more often than this.")
    check_vocabulary: bool = Field(
        True, description="Refuse shards that another tokenizer made. false: take their ids as they are."
    )

    @field_validator("sft", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return _as_list(value)

    @field_validator("mix", "validation", mode="before")
    @classmethod
    def _plain_paths(cls, value: Any) -> Any:
        values = _as_list(value)
        return [_as_tree(each) for each in values] if isinstance(values, (list, tuple)) else values

    @model_validator(mode="after")
    def _consistent(self) -> "DataConfig":
        given = [name for name in ("path", "mix", "sft") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; a run trains on one of path, mix and sft")
        weights = [source.weight is not None for source in self.mix]
        if any(weights) and not all(weights):
            raise ValueError(f"mix.{weights.index(False)}.weight is missing; give every source a weight, or none")
        return self

    @property
    def sources(self) -> tuple[MixSource, ...]:
        """The shards to train on: `mix`, or `path` alone."""
        return (MixSource(path=self.path),) if self.path else self.mix
