"""Writes a GGUF file of random weights in a real model's shape: for speed and memory, it says nothing about quality.

    python bench/make_model.py 7b --quantize q4_0 [--out FILE] [--seed 0] [--quick]

SHAPE is 7b (Aquila-7B), 1.1b (TinyLlama), 34b (Aquila2-34B) or the name of any preset. Blocks are random bytes under
one scale, so that weights have sigma 0.5 / sqrt(columns); norms are 1; every matrix, embedding and head included, is of
the type asked for. Weights are made a few rows at a time: 34b takes no more memory than 1.1b.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np

from aquila.checkpoint.checkpoint import Export
from aquila.checkpoint.gguf_writer import Stored, write_gguf
from aquila.checkpoint.names import GGUF, expected_tensors
from aquila.checkpoint.tensors import DTYPES, LazyTensor, QuantisedRows, from_array
from aquila.errors import ConfigError
from aquila.files import atomic_write, cache_dir
from aquila.model.config import ModelConfig, parse_config
from aquila.model.count import count_parameters
from aquila.model.presets import preset
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.tokenizer.train import train_tokenizer

TINYLLAMA = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
PRESETS = {"7b": "aquila-7b", "34b": "aquila2-34b"}
TYPES = ("q4_0", "q8_0", "f16")
BLOCK = 32  # columns a block of either quantised type holds
CODE_BYTES = {"q4_0": 16, "q8_0": 32}  # a block, after its fp16 scale
CODE_SIGMA = {"q4_0": math.sqrt((16**2 - 1) / 12), "q8_0": math.sqrt((256**2 - 1) / 12)}  # of uniform codes
WORDS = ["def main(numbers):\n    return sorted(numbers)\n"]  # a vocabulary needs some merges to be one


def shape_config(shape: str) -> ModelConfig:
    """The config of a SHAPE. `ConfigError` when nothing is called so."""
    return parse_config(TINYLLAMA, shape) if shape == "1.1b" else preset(PRESETS.get(shape, shape))


def default_path(shape: str, quantize: str) -> Path:
    return cache_dir() / "bench" / f"{shape}-{quantize}.gguf"


def make_model(shape: str, quantize: str, path: Path | None = None, *, seed: int = 0) -> Path:
    """Writes the file, whole or not at all, and gives its path (`default_path` when None).

    Raises:
        ConfigError: the shape is unknown, or its rows are no whole blocks of the type.
    """
    config = shape_config(shape)
    path = path or default_path(shape, quantize)
    tokenizer = train_tokenizer(WORDS, vocab_size=min(280, config.vocab_size), min_frequency=1)
    named = with_ends(config, tokenizer)
    plan = {}
    for index, (name, size) in enumerate(expected_tensors(named).items()):
        if len(size) == 1:
            stored = Stored(from_array(np.full(size, not name.endswith(".bias"), np.float32)), "F32")
        elif quantize == "f16":
            stored = Stored(_random_halves(size, (seed, index)), "F16")
        elif size[1] % BLOCK:
            raise ConfigError(f"{shape}: {name} has {size[1]} columns, no whole blocks of {BLOCK}; take f16")
        else:
            stored = Stored(_random_blocks(size, quantize, (seed, index)), quantize.upper())
        plan[GGUF.from_canonical(name)] = stored
    record = {"name": f"{shape} with random weights"}
    with atomic_write(path) as temporary:
        write_gguf(Export(named, {}, "fp16", tokenizer, record), temporary, plan)
    return path


def with_ends(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The config with the special ids of the tokenizer that goes with it."""
    return config.model_copy(
        update={
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_ids": tokenizer.eos_token_ids,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )


def _random_blocks(size: tuple[int, ...], kind: str, seed: tuple[int, int]) -> LazyTensor:
    num_rows, num_columns = size
    block_bytes = 2 + CODE_BYTES[kind]
    row_bytes = num_columns // BLOCK * block_bytes
    scale = np.float16(0.5 / math.sqrt(num_columns) / CODE_SIGMA[kind])

    def read(start: int, stop: int) -> np.ndarray:
        generator = np.random.Generator(np.random.SFC64([*seed, start]))
        data = np.frombuffer(generator.bytes((stop - start) * row_bytes), np.uint8).reshape(-1, block_bytes).copy()
        if kind == "q8_0":
            codes = data[:, 2:].view(np.int8)
            np.maximum(codes, -127, out=codes)  # as quantisers do: -128 has no counterpart
        data[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
        return data.reshape(stop - start, row_bytes)

    rows = LazyTensor((num_rows, row_bytes), np.dtype(np.uint8), read)
    return LazyTensor(size, np.dtype(np.float32), _not_dequantised, quantised=QuantisedRows(kind, rows))


def _not_dequantised(start: int, stop: int) -> np.ndarray:
    raise AssertionError(f"rows {start} to {stop} are written as blocks")


def _random_halves(size: tuple[int, ...], seed: tuple[int, int]) -> LazyTensor:
    width = np.float32(0.5 / math.sqrt(size[1]) * math.sqrt(12))  # uniform: a normal deviate takes five times as long

    def read(start: int, stop: int) -> np.ndarray:
        generator = np.random.Generator(np.random.SFC64([*seed, start]))
        values = generator.random((stop - start, size[1]), dtype=np.float32)
        values -= np.float32(0.5)
        values *= width
        return values.astype(np.float16)

    return LazyTensor(size, DTYPES["fp16"], read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="?", default="1.1b", help="7b, 1.1b, 34b or a preset")
    parser.add_argument("--quantize", choices=TYPES, default="q4_0")
    parser.add_argument("--out", type=Path, help="file to write; $AQUILA_HOME/bench/SHAPE-TYPE.gguf when not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the preset smollm2-135m")
    options = parser.parse_args()
    shape = "smollm2-135m" if options.quick else options.shape
    out = options.out or default_path(f"random-{shape}" if options.quick else shape, options.quantize)
    started = time.perf_counter()
    try:
        path = make_model(shape, options.quantize, out, seed=options.seed)
    except ConfigError as error:
        parser.error(str(error))
    seconds = time.perf_counter() - started
    size = path.stat().st_size
    print(f"{path}: {count_parameters(shape_config(shape)):,} parameters, {size / 1e9:.2f} GB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
