"""The parts of a mixture, opened and checked as a config says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aquila.data.config import DataConfig, MixSource, Packing
from aquila.data.fim import FillInTheMiddle
from aquila.data.packing import Bins, best_fit, one_a_bin
from aquila.data.sequences import ConcatSequences, PackedSequences, Piece, Sequences, cut_documents
from aquila.data.sft import ConversationCounts, ConversationSet, choose_template, load_conversations, template_digest
from aquila.data.shards import Shard, shard_prefix
from aquila.data.vocabulary import check_vocabulary, shard_fingerprint
from aquila.errors import ConfigError, DataError
from aquila.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Source:
    """One part of a mixture.

    Attributes:
        name: in reports and metrics.
        sequences: what is trained on; None for a source that is only measured on.
        held_out: what is measured on, if anything.
        weight: relative to the others.
        identity: what its sequences depend on, as JSON.
        counts: of conversations.
    """

    name: str
    sequences: Sequences | None
    held_out: Sequences | None
    weight: float
    identity: dict[str, Any]
    counts: ConversationCounts | None = None


def open_sources(config: DataConfig, *, stage: str, tokenizer: Tokenizer | None, vocab_size: int) -> list[Source]:
    """What to train on and, behind it, what only to measure on.

    Raises:
        ConfigError: the section does not say what to read, or asks for what this tokenizer cannot do.
        DataError: a file that cannot be read or does not fit the model.
    """
    _check_stage(config, stage)
    if stage == "sft":
        if tokenizer is None:
            raise ConfigError("stage sft: conversations are text, and the model has no tokenizer; set tokenizer")
        return _conversation_sources(config, tokenizer)
    weighted = [source.weight is not None for source in config.sources]
    sources = [_shard_source(config, each, tokenizer, vocab_size, by_size=not all(weighted)) for each in config.sources]
    for each in config.validation:
        shard = _open_shard(each.path, config, tokenizer, vocab_size)
        measured = _sequences(config, shard, range(shard.num_documents), fim=None)
        identity = {"validation": shard_fingerprint(shard)}
        sources.append(Source(each.name or shard.prefix.name, None, measured, 0.0, identity))
    _check_names(sources)
    return sources


def _check_stage(config: DataConfig, stage: str) -> None:
    if stage == "sft" and not config.sft:
        raise ConfigError("stage sft: data.sft is missing; name files or folders of conversations there")
    if stage != "sft" and config.sft:
        raise ConfigError(f"stage {stage}: data.sft is for stage sft; name token shards in data.path or data.mix")
    if stage != "sft" and not config.sources:
        raise ConfigError(f"stage {stage}: data.path is missing; name a token shard, or several in data.mix")


def _check_names(sources: list[Source]) -> None:
    """A name may stand for what is trained on and what it is measured on, but not for two of either."""
    for kind in ("sequences", "held_out"):
        names = [source.name for source in sources if getattr(source, kind) is not None]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ConfigError(f"data: two sources are called {name!r}; give one of them another name (name: ...)")


def _open_shard(path: Path, config: DataConfig, tokenizer: Tokenizer | None, vocab_size: int) -> Shard:
    shard = Shard(path)
    if shard.num_tokens < 2:
        raise DataError(f"{shard.prefix}: {shard.num_tokens} tokens, there is nothing to learn from; pack some text")
    check_vocabulary(shard, tokenizer, vocab_size, trust=not config.check_vocabulary)
    return shard


def _shard_source(
    config: DataConfig, source: MixSource, tokenizer: Tokenizer | None, vocab_size: int, *, by_size: bool
) -> Source:
    shard = _open_shard(source.path, config, tokenizer, vocab_size)
    fim = None
    if source.fim_rate > 0:
        if tokenizer is None:
            raise ConfigError("fim_rate: the model has no tokenizer to cut text with; set tokenizer, or fim_rate: 0")
        fim = FillInTheMiddle(tokenizer, source.fim_rate, config.fim)
    train, held_out = _split(shard.num_documents, config.validation_fraction, str(shard.prefix))
    sequences = _sequences(config, shard, train, fim=fim)
    if not sequences.num_sequences:
        raise DataError(f"{shard.prefix}: its {len(train)} documents have nothing to learn from; pack more text")
    return Source(
        name=source.name or shard_prefix(source.path).name,
        sequences=sequences,
        held_out=_sequences(config, shard, held_out, fim=None) if held_out else None,
        weight=sequences.num_tokens if by_size or source.weight is None else source.weight,
        identity={"shard": shard_fingerprint(shard), "documents": len(train), "fim_rate": source.fim_rate},
    )


def _split(count: int, fraction: float, where: str) -> tuple[range, range]:
    """The first things to train on, the last to measure on."""
    num_held_out = max(1, round(count * fraction)) if fraction else 0
    if num_held_out >= count:
        raise DataError(f"{where}: {count} documents cannot be split; set data.validation_fraction: 0, or give more")
    return range(count - num_held_out), range(count - num_held_out, count)


def _sequences(config: DataConfig, shard: Shard, documents: range, *, fim: FillInTheMiddle | None) -> Sequences:
    length, mask = config.sequence_length, config.document_mask
    packing: Packing = config.packing or "concat"
    if packing == "concat":
        return ConcatSequences(shard, documents, length, document_mask=mask, fim=fim)
    num_tokens = int(shard.starts[documents.stop] - shard.starts[documents.start])
    places = length - (fim.reserve(length, num_tokens / len(documents)) if fim else 0)
    cuts = cut_documents(shard.starts, documents, places)

    def read(index: int) -> Piece:
        return Piece(shard.tokens[cuts[index, 0] : cuts[index, 1]])

    bins = _bins(packing, cuts[:, 1] - cuts[:, 0], places, document_mask=mask)
    return PackedSequences(bins, read, length, num_tokens=num_tokens, document_mask=mask, fim=fim)


def _conversation_sources(config: DataConfig, tokenizer: Tokenizer) -> list[Source]:
    if config.packing == "concat":
        raise ConfigError("data.packing: concat cuts conversations in two; use best_fit or none with stage: sft")
    template = choose_template(config.template, tokenizer)
    length = config.sequence_length
    read = load_conversations(config.sft, template, tokenizer, length=length)
    train, held_out = _split(len(read), config.validation_fraction, ", ".join(map(str, config.sft)))
    name = config.sft[0].stem if len(config.sft) == 1 else "sft"
    identity = {"conversations": read.digest, "count": len(train), "template": template_digest(template, tokenizer)}
    measured = _packed(config, read, held_out) if held_out else None
    sources = [Source(name, _packed(config, read, train), measured, 1.0, identity, read.counts)]
    for each in config.validation:
        other = load_conversations([each.path], template, tokenizer, length=length)
        packed = _packed(config, other, range(len(other)))
        label = each.name or each.path.stem
        sources.append(Source(label, None, packed, 0.0, {"validation": other.digest}, other.counts))
    _check_names(sources)
    return sources


def _packed(config: DataConfig, read: ConversationSet, chosen: range) -> PackedSequences:
    lengths = read.lengths[chosen.start : chosen.stop]

    def piece(index: int) -> Piece:
        return read.piece(chosen.start + index)

    return PackedSequences(
        _bins(config.packing or "best_fit", lengths, config.sequence_length, document_mask=config.document_mask),
        piece,
        config.sequence_length,
        num_tokens=int(lengths.sum()),
        document_mask=config.document_mask,
    )


def _bins(packing: Packing, lengths: np.ndarray, places: int, *, document_mask: bool) -> Bins:
    """Pieces of `lengths` tokens in sequences of `places`. The last token of a document takes no place of its own."""
    if packing == "none":
        return one_a_bin(len(lengths))
    return best_fit(lengths - 1, places) if document_mask else best_fit(lengths, places + 1)
