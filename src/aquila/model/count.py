"""How large a model is, from its config alone. Imports no torch."""

from aquila.model.config import ModelConfig


def count_parameters(config: ModelConfig) -> int:
    """Parameters of the decoder; a tied head counts once."""
    attention = config.hidden_size * (2 * config.q_size + 2 * config.kv_size)
    if config.qkv_bias:
        attention += config.q_size + 2 * config.kv_size
    block = attention + 3 * config.hidden_size * config.intermediate_size + 2 * config.hidden_size
    embedding = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    return embedding + config.num_hidden_layers * block + config.hidden_size


def kv_bytes_per_token(config: ModelConfig, itemsize: int) -> int:
    """Bytes of keys and values that one token of context holds, at `itemsize` bytes a value."""
    return 2 * config.num_hidden_layers * config.kv_size * itemsize
