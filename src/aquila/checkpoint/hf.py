"""Hugging Face folders: config.json, safetensors (one file or shards) or pytorch_model.bin, tokenizer files.

Reads the `llama`, `aquila`, `mistral` and `qwen2` model types; writes what transformers, vLLM and others load
without remote code: Llama, or Qwen2 when q, k and v have biases.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aquila.checkpoint.checkpoint import Checkpoint, Export, Format, require_complete
from aquila.checkpoint.folder import read_json, write_json
from aquila.checkpoint.safetensors_file import read_safetensors, write_safetensors
from aquila.checkpoint.tensors import DTYPES, TORCH_NAMES, LazyTensor
from aquila.checkpoint.torch_pickle import read_torch_file
from aquila.errors import CheckpointError, ConfigError
from aquila.model.config import ModelConfig, from_hugging_face, to_hugging_face
from aquila.tokenizer.load import has_tokenizer_files, load_tokenizer

MAX_SHARD_BYTES = 5_000_000_000
_IGNORED = ".self_attn.rotary_emb.inv_freq"  # a buffer of older transformers; follows from rope_theta


def read_hf(path: Path, *, kind: Format = "hf", manifest: Mapping[str, Any] | None = None) -> Checkpoint:
    """Opens a Hugging Face folder; `native.py` reads its folders through here too."""
    where = path / "config.json"
    raw = read_json(where)
    config = _read_config(raw, path)
    found = {name: tensor for name, tensor in _read_weights(path).items() if not name.endswith(_IGNORED)}
    if config.tie_word_embeddings and "lm_head.weight" in found:
        _require_equal(found, path)
        del found["lm_head.weight"]
    tensors = require_complete(found, config, path)
    has_files = has_tokenizer_files(path)
    if has_files and not config.eos_token_ids:
        config = with_tokenizer_ids(config, path)
    return Checkpoint(path, kind, config, tensors, dict(manifest or {}), has_files, lambda: load_tokenizer(path))


def with_tokenizer_ids(config: ModelConfig, path: Path) -> ModelConfig:
    """`config` with the special ids of the folder's tokenizer, for configs that do not state them."""
    tokenizer = load_tokenizer(path)
    return config.model_copy(
        update={
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_ids": tuple(tokenizer.eos_token_ids),
            "pad_token_id": tokenizer.pad_token_id,
        }
    )


def _read_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """The model's shape, after refusing what would load and then answer wrongly."""
    where = str(path / "config.json")
    if not isinstance(raw.get("model_type"), str):
        raise ConfigError(f"{where}: model_type {raw.get('model_type')!r:.40} is not text; the file is damaged")
    if raw.get("quantization_config"):
        raise ConfigError(f"{where}: the weights are quantised (quantization_config); use the unquantised checkpoint")
    config = from_hugging_face(raw, where)
    window = raw.get("sliding_window")
    slides = type(window) is int and raw.get("use_sliding_window", raw["model_type"] == "mistral")
    if slides and window < config.max_position_embeddings:
        raise ConfigError(f"{where}: sliding_window {window} is not supported; attention here is always full")
    if raw["model_type"] == "aquila" and (config.bos_token_id, config.eos_token_ids) == (1, (2,)):
        # Defaults of the class in transformers, which mean other tokens in Aquila's vocabulary (FlagAI #389).
        return config.model_copy(update={"bos_token_id": None, "eos_token_ids": (), "pad_token_id": None})
    return _with_generation_ends(config, path / "generation_config.json")


def _with_generation_ends(config: ModelConfig, path: Path) -> ModelConfig:
    """Chat models name their end-of-turn token in generation_config.json only."""
    if not path.is_file():
        return config
    ends = read_json(path).get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    more = tuple(end for end in ends if type(end) is int and end not in config.eos_token_ids)
    return config.model_copy(update={"eos_token_ids": config.eos_token_ids + more})


def _read_weights(path: Path) -> dict[str, LazyTensor]:
    """All tensors of a folder, from whichever form of weight files it holds."""
    for stem, suffix, read in (
        ("model", "safetensors", read_safetensors),
        ("pytorch_model", "bin", read_torch_file),
    ):
        index = path / f"{stem}.{suffix}.index.json"
        single = path / f"{stem}.{suffix}"
        if index.is_file():
            files = _files_of_index(index)
        elif single.is_file():
            files = [single]
        else:
            files = sorted(path.glob(f"*.{suffix}"))
        if files:
            return merge_files((file, read(file)) for file in files)
    raise CheckpointError(
        f"{path}: no weights found (model.safetensors, its index, or pytorch_model.bin); fetch the checkpoint again"
    )


def _files_of_index(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map; the file is damaged, fetch it again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if name != Path(name).name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: names the file {name!r}, which is not in the folder; fetch it as well")
    return [index.parent / name for name in names]


def merge_files(parts: Iterable[tuple[Path, dict[str, LazyTensor]]]) -> dict[str, LazyTensor]:
    """The union of shards; a tensor that two of them hold is an error."""
    merged: dict[str, LazyTensor] = {}
    for file, tensors in parts:
        twice = merged.keys() & tensors.keys()
        if twice:
            raise CheckpointError(f"{file}: {min(twice)!r} is in another file too; remove files that do not belong")
        merged |= tensors
    return merged


def _require_equal(found: Mapping[str, LazyTensor], path: Path) -> None:
    """A tied head may be stored a second time, but only as what it is."""
    head, embedding = found["lm_head.weight"], found.get("model.embed_tokens.weight")
    if embedding is None or head.shape != embedding.shape or head.dtype != embedding.dtype:
        same = False
    else:
        pairs = zip(head.chunks(), embedding.chunks(), strict=True)
        same = all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in pairs)
    if not same:
        raise CheckpointError(
            f"{path}: tie_word_embeddings is true but lm_head.weight differs from model.embed_tokens.weight; "
            "set it to false in config.json if the head was trained apart"
        )


def write_hf(export: Export, directory: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> dict[str, str]:
    """Writes a folder and returns the sha256 of each weight file."""
    config = export.config
    raw = to_hugging_face(config, TORCH_NAMES[export.dtype])
    write_json(directory / "config.json", raw)
    ids = {name: raw[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if raw[name] is not None}
    write_json(directory / "generation_config.json", {"_from_model_config": True, **ids})
    if export.tokenizer is not None:
        export.tokenizer.save(directory)
    dtype = DTYPES[export.dtype]
    shards = _split(export.tensors, dtype.itemsize, max_shard_bytes)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        total = sum(tensor.num_elements for tensor in export.tensors.values()) * dtype.itemsize
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(directory / "model.safetensors.index.json", index)
    return {
        name: write_safetensors(directory / name, shard, dtype, export.progress)
        for name, shard in zip(names, shards, strict=True)
    }


def _split(tensors: Mapping[str, LazyTensor], itemsize: int, max_shard_bytes: int) -> list[dict[str, LazyTensor]]:
    shards: list[dict[str, LazyTensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        num_bytes = tensor.num_elements * itemsize
        if shards[-1] and filled + num_bytes > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += num_bytes
    return shards
