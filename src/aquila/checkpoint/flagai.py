"""FlagAI folders: config.json with Meta's names (dim, n_layers, ...), torch pickles, vocab.json, merges.txt.

The weights come as one file, as shards `pytorch_model-0*.bin`, or as tensor-parallel slices
`pytorch_model_NN.bin`; with the names of Meta's Llama or, from training with flash attention, with fused
matrices. Rotary rows are interleaved.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aquila.checkpoint.checkpoint import Checkpoint, Export, require_complete
from aquila.checkpoint.folder import read_json, write_json
from aquila.checkpoint.hf import merge_files, with_tokenizer_ids
from aquila.checkpoint.names import (
    FLAGAI,
    expected_tensors,
    half_split_rows,
    interleaved_rows,
    reorder_rotary,
)
from aquila.checkpoint.tensors import LazyTensor, concatenate, take_rows
from aquila.checkpoint.torch_pickle import read_torch_file, write_torch_file
from aquila.errors import CheckpointError, ConfigError
from aquila.model.config import ModelConfig, ffn_size, parse_config
from aquila.tokenizer.load import has_tokenizer_files, load_tokenizer

_REQUIRED = ("dim", "n_layers", "n_heads", "vocab_size", "multiple_of", "norm_eps", "max_seq_len")
_ROPE_THETA = 10000.0  # fixed in FlagAI's code
_SLICE = re.compile(r"pytorch_model_(\d\d)\.bin")
_SPLIT_AXIS = {  # how tensor parallelism cuts a matrix; tensors that are not here are copied to every rank
    "tok_embeddings.weight": 1,
    "output.weight": 0,
    "attention.wq.weight": 0,
    "attention.wk.weight": 0,
    "attention.wv.weight": 0,
    "attention.wo.weight": 1,
    "feed_forward.w1.weight": 0,
    "feed_forward.w3.weight": 0,
    "feed_forward.w2.weight": 1,
}
_FUSED_MARK = "transformer.embeddings.word_embeddings.weight"
_FUSED_OUTSIDE = {
    _FUSED_MARK: "tok_embeddings.weight",
    "transformer.ln_f.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
_FUSED_LAYER = {
    "mixer.out_proj.weight": "attention.wo.weight",
    "mlp.fc2.weight": "feed_forward.w2.weight",
    "norm1.weight": "attention_norm.weight",
    "norm2.weight": "ffn_norm.weight",
}


def read_flagai(path: Path) -> Checkpoint:
    """Opens a FlagAI folder."""
    raw = read_json(path / "config.json")
    config = _read_config(raw, str(path / "config.json"))
    found = _read_weights(path)
    if _FUSED_MARK in found:
        found = _unfuse(found, config, path)
    canonical = {FLAGAI.to_canonical(name): tensor for name, tensor in found.items()}
    if config.tie_word_embeddings:
        canonical.pop("lm_head.weight", None)  # `write_flagai` stored the embedding twice
    tensors = require_complete(canonical, config, path, FLAGAI.from_canonical)
    tensors = reorder_rotary(tensors, config, half_split_rows)
    has_files = has_tokenizer_files(path)
    if has_files:
        config = with_tokenizer_ids(config, path)
    return Checkpoint(path, "flagai", config, tensors, {}, has_files, lambda: load_tokenizer(path))


def _read_config(raw: Mapping[str, Any], where: str) -> ModelConfig:
    missing = [name for name in _REQUIRED if name not in raw]
    if missing:
        raise ConfigError(
            f"{where}: lacks {', '.join(missing)}; FlagAI's defaults for these describe no released model, add them"
        )
    dim, multiple_of, multiplier = raw["dim"], raw["multiple_of"], raw.get("hidden_dim_multiplier") or 1.0
    integers = type(dim) is int and type(multiple_of) is int and isinstance(multiplier, int | float)
    if not integers or not 0 < dim < 1 << 20 or not 0 < multiple_of < 1 << 20 or not 0 < multiplier < 1000:
        raise ConfigError(
            f"{where}: dim {dim!r:.40}, multiple_of {multiple_of!r:.40} and hidden_dim_multiplier "
            f"{multiplier!r:.40} do not give a feed-forward width; the file is damaged"
        )
    fields = {
        "vocab_size": raw["vocab_size"],
        "hidden_size": dim,
        "intermediate_size": ffn_size(dim, multiple_of, multiplier),
        "num_hidden_layers": raw["n_layers"],
        "num_attention_heads": raw["n_heads"],
        "num_key_value_heads": raw.get("n_kv_heads") or raw["n_heads"],
        "max_position_embeddings": raw["max_seq_len"],
        "rms_norm_eps": raw["norm_eps"],
        "rope_theta": _ROPE_THETA,
        "initializer_range": raw.get("initializer_range", 0.02),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
    }
    return parse_config(fields, where)


def _read_weights(path: Path) -> dict[str, LazyTensor]:
    single = path / "pytorch_model.bin"
    if single.is_file():
        return read_torch_file(single)
    shards = sorted(path.glob("pytorch_model-*.bin"))
    if shards:
        return merge_files((shard, read_torch_file(shard)) for shard in shards)
    slices = sorted(file for file in path.glob("pytorch_model_*.bin") if _SLICE.fullmatch(file.name))
    if not slices:
        raise CheckpointError(f"{path}: no pytorch_model*.bin found; fetch the weights again")
    ranks = [int(file.stem[-2:]) for file in slices]
    if ranks != list(range(len(ranks))):
        raise CheckpointError(f"{path}: slices of ranks {ranks} found; fetch those between 0 and {ranks[-1]} that lack")
    return _join_slices([read_torch_file(file) for file in slices], path)


def _join_slices(slices: list[dict[str, LazyTensor]], path: Path) -> dict[str, LazyTensor]:
    if any(part.keys() != slices[0].keys() for part in slices):
        raise CheckpointError(f"{path}: the tensor-parallel slices hold different tensors; fetch all of one checkpoint")
    joined = {}
    for name in slices[0]:
        parts = [part[name] for part in slices]
        axis = _SPLIT_AXIS.get(re.sub(r"^layers\.\d+\.", "", name))
        if axis is None:
            joined[name] = parts[0]
        elif any(len(part.shape) != 2 or part.shape[1 - axis] != parts[0].shape[1 - axis] for part in parts):
            raise CheckpointError(
                f"{path}: the slices of {name} have shapes {[list(part.shape) for part in parts]}, "
                f"which do not join along dimension {axis}; fetch all slices of one checkpoint"
            )
        else:
            joined[name] = concatenate(parts, axis)
    return joined


def _unfuse(found: Mapping[str, LazyTensor], config: ModelConfig, path: Path) -> dict[str, LazyTensor]:
    """The plain names for those of the flash-attention variant; unknown names stay for the strict check."""
    q, kv, ffn = config.q_size, config.kv_size, config.intermediate_size
    parts = {  # rows of the fused matrices
        "mixer.Wqkv.weight": {"wq": slice(0, q), "wk": slice(q, q + kv), "wv": slice(q + kv, q + 2 * kv)},
        "mlp.fc1.weight": {"w3": slice(0, ffn), "w1": slice(ffn, 2 * ffn)},  # up first, then gate
    }
    plain = {}
    for name, tensor in found.items():
        match = re.fullmatch(r"transformer\.layers\.(\d+)\.(.+)", name)
        index, rest = match.groups() if match else ("", name)
        if rest in parts:
            rows = max(part.stop for part in parts[rest].values())
            if tensor.shape != (rows, config.hidden_size):
                raise CheckpointError(
                    f"{path}: {name} is {list(tensor.shape)}, expected {[rows, config.hidden_size]}; "
                    "config.json belongs to another model"
                )
            block = "attention" if rest.startswith("mixer") else "feed_forward"
            for key, part in parts[rest].items():
                plain[f"layers.{index}.{block}.{key}.weight"] = take_rows(tensor, part)
        elif match and rest in _FUSED_LAYER:
            plain[f"layers.{index}.{_FUSED_LAYER[rest]}"] = tensor
        else:
            plain[_FUSED_OUTSIDE.get(name, name)] = tensor
    return plain


def write_flagai(export: Export, directory: Path) -> None:
    """Writes a folder that FlagAI's AutoLoader reads.

    Raises:
        ConfigError: the model has something that FlagAI's code cannot express.
    """
    config = export.config
    write_json(directory / "config.json", _to_flagai(config))
    tensors = reorder_rotary(export.tensors, config, interleaved_rows)
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    names = expected_tensors(config.model_copy(update={"tie_word_embeddings": False}))
    renamed = {FLAGAI.from_canonical(name): tensors[name] for name in names}
    write_torch_file(directory / "pytorch_model.bin", renamed, export.dtype, export.progress)
    if export.tokenizer is not None:
        export.tokenizer.save(directory)
        if not export.tokenizer.is_sentencepiece:
            export.tokenizer.save_vocabulary(directory)


def _to_flagai(config: ModelConfig) -> dict[str, Any]:
    """FlagAI's config.json."""
    obstacles = {
        "biases on q, k and v": config.qkv_bias,
        f"rope_theta {config.rope_theta:g} (fixed at {_ROPE_THETA:g})": config.rope_theta != _ROPE_THETA,
        "rope_scaling": config.rope_scaling is not None,
        f"head_dim {config.head_dim}": config.q_size != config.hidden_size,
    }
    found = [text for text, present in obstacles.items() if present]
    if found:
        raise ConfigError(
            f"FlagAI's model code does not know {', '.join(found)}; convert to native, hf or gguf instead"
        )
    plain_width = ffn_size(config.hidden_size, 1)
    raw: dict[str, Any] = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": config.intermediate_size,
        "norm_eps": config.rms_norm_eps,
        "max_seq_len": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "flash_atten": False,
        "flash_atten_llama_style": False,
    }
    if config.num_key_value_heads != config.num_attention_heads:
        raw["n_kv_heads"] = config.num_key_value_heads
    if ffn_size(config.hidden_size, 256) == config.intermediate_size:
        raw["multiple_of"] = 256  # as the released models say it
    elif config.intermediate_size < plain_width:
        raw["hidden_dim_multiplier"] = config.intermediate_size / plain_width
    if config.tie_word_embeddings:
        raw["tie_word_embeddings"] = True  # FlagAI passes over it and reads the copy
    return raw
