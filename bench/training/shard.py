"""Token ids as a shard, and random weights as a checkpoint, that our trainer reads."""

from pathlib import Path

import numpy as np

from aquila.checkpoint.checkpoint import Export
from aquila.checkpoint.native import write_native
from aquila.checkpoint.tensors import from_array
from aquila.data.shards import token_dtype, write_shard
from aquila.model.config import ModelConfig
from aquila.model.transformer import Transformer
from aquila.tokenizer.tokenizer import Tokenizer

_DOCUMENT = 4096


def write_tokens(prefix: Path, tokens: np.ndarray, vocab_size: int) -> None:
    with write_shard(prefix, token_dtype(vocab_size)) as writer:
        for start in range(0, len(tokens), _DOCUMENT):
            writer.add(tokens[start : start + _DOCUMENT])


def write_checkpoint(path: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    model = Transformer(config)
    model.init_weights()
    tensors = {name: from_array(weight.detach().numpy()) for name, weight in model.named_parameters()}
    path.mkdir()
    write_native(Export(config, tensors, "fp32", tokenizer, {"name": "bench"}), path)
