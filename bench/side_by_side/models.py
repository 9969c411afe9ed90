"""The files the benches run on: SmolLM2-135M as Q4_0, and random weights in the shapes of larger models."""

from pathlib import Path

from aquila.checkpoint.checkpoint import Checkpoint
from aquila.checkpoint.convert import convert
from aquila.checkpoint.packed_writer import quantise
from aquila.model.config import ModelConfig
from aquila.zoo.pull import pull
from make_model import default_path, make_model

REAL = "smollm2-135m"  # the one with trained weights


def bench_file(name: str) -> Path:
    """The GGUF file of a bench model, made on first use. A name that ends in .gguf is a file of one's own."""
    if name.endswith(".gguf"):
        return Path(name).resolve()
    path = default_path(name, "q4_0")
    if path.is_file():
        return path
    print(f"making {path}", flush=True)
    if name != REAL:
        return make_model(name, "q4_0", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return convert(pull(REAL), path, to="gguf", quantize="q4_0")


def packed_file(name: str) -> Path:
    """The same weights packed, bit for bit."""
    source = bench_file(name)
    target = source.with_suffix(".aqw")
    if not target.is_file():
        print(f"packing {target}", flush=True)
        quantise(source, target, to="w4")
    return target


def bytes_per_token(checkpoint: Checkpoint) -> int:
    """Bytes of weights that one decoded token reads: the whole file but an embedding that is not the head as well."""
    return sum(
        tensor.nbytes if tensor.quantised is None else tensor.quantised.rows.nbytes
        for name, tensor in checkpoint.tensors.items()
        if checkpoint.config.tie_word_embeddings or name != "model.embed_tokens.weight"
    )


def block_parameters(config: ModelConfig) -> int:
    """Weights of the blocks' matrices: a prompt's tokens are multiplied by these, by the head only the last one."""
    attention = config.hidden_size * (2 * config.q_size + 2 * config.kv_size)
    return config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)
