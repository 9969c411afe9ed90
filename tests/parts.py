"""Tiny real parts that tests share: no mocks, no network, no downloads."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aquila.generate.engine import Engine
    from aquila.model.config import ModelConfig
    from aquila.model.transformer import Transformer
    from aquila.tokenizer.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]


def shared_data(name: str) -> Path:
    """A folder of published reference data beside the checkout; the test is skipped where it is absent."""
    path = ROOT.parent / "shared" / "data" / name
    if not path.exists():
        pytest.skip(f"reference data {name!r} is not beside the checkout (expected {path})")
    return path


CORPUS = """def is_prime(n):
    if n < 2:
        return False
    return all(n % d for d in range(2, int(n ** 0.5) + 1))


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)
""" + "".join(f"print({i}, 'hello world')  # 第{i}行：打印一句问候\n" for i in range(40))


@cache
def tiny_tokenizer(vocab_size: int = 320) -> "Tokenizer":
    """A byte-level BPE tokenizer trained on a page of code, in a few milliseconds."""
    from aquila.tokenizer.train import train_tokenizer

    return train_tokenizer([CORPUS], vocab_size=vocab_size)


def tiny_config(**changes: Any) -> "ModelConfig":
    """A decoder of two layers with grouped queries, and weights wide enough that no two logits nearly tie."""
    from aquila.model.config import ModelConfig

    fields = {
        "vocab_size": tiny_tokenizer().vocab_size,
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
    }
    return ModelConfig(**{**fields, **changes})


def tiny_model(seed: int = 0, **changes: Any) -> "Transformer":
    """A real decoder with random weights, the same for the same seed."""
    import torch

    from aquila.model.transformer import Transformer

    model = Transformer(tiny_config(**changes))
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.eval().requires_grad_(False)


def tiny_checkpoint(path: Path, **changes: Any) -> Path:
    """A new folder `path` in the native format with the weights of `tiny_model(**changes)` and the tiny tokenizer."""
    from aquila.checkpoint.checkpoint import Export
    from aquila.checkpoint.native import write_native
    from aquila.checkpoint.tensors import from_array

    model = tiny_model(**changes)
    tensors = {name: from_array(weight.numpy()) for name, weight in model.named_parameters()}
    path.mkdir()
    write_native(Export(model.config, tensors, "fp32", tiny_tokenizer(), {"name": "tiny"}), path)
    return path


def tiny_engine(model: "Transformer | None" = None, *, num_pages: int | None = None, **options: Any) -> "Engine":
    """An engine over a tiny model; `num_pages` limits the pool, so that sequences are preempted."""
    from aquila.generate.engine import Engine
    from aquila.generate.torch_runner import TorchRunner

    runner = TorchRunner(model or tiny_model(), kv_bytes=1 << 20)
    if num_pages is not None:
        runner.num_pages = num_pages
    return Engine(runner, tiny_tokenizer(), **options)
