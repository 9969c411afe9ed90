"""Which models fit into a number of bytes: weights at a precision, and the KV cache of their context."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from aquila.model.config import ModelConfig

Engine = Literal["native", "torch", "accelerator"]
MIN_CONTEXT = 256  # below this a model is not of use


@dataclass(frozen=True)
class Precision:
    """How weights and keys and values are held: bits of a weight in the layers, of one outside, of a key's number."""

    name: str
    layer_bits: float
    outside_bits: float
    kv_bits: int = 16


# What each engine computes with. Blocks of 32 have a 16-bit scale: 8.5 and 4.5 bits; w4 leaves the embedding in w8.
PRECISIONS: dict[Engine, tuple[Precision, ...]] = {
    "native": (Precision("fp16", 16, 16), Precision("w8", 8.5, 8.5), Precision("w4", 4.5, 8.5)),
    "torch": (Precision("fp32", 32, 32, kv_bits=32), Precision("bf16", 16, 16)),
    "accelerator": (Precision("bf16", 16, 16),),
}
# Beside weights and cache. The process without torch holds 92 MiB, with torch 2.13 230 MiB, both measured; the rest is
# for activations, and on an accelerator for its driver.
RUNTIME_BYTES: dict[Engine, int] = {"native": 160 << 20, "torch": 384 << 20, "accelerator": 640 << 20}


@dataclass(frozen=True)
class Fit:
    """One preset at one precision.

    Attributes:
        num_bytes: weights and the KV cache of the model's full context.
        context: tokens of context for which there is room; 0 when the model does not fit.
    """

    preset: str
    num_parameters: int
    max_context: int
    precision: str
    num_bytes: int
    context: int

    @property
    def verdict(self) -> str:
        if self.context == self.max_context:
            return "yes"
        return f"to {self.context}" if self.context else "no"


def fit_presets(available_bytes: int, engine: Engine) -> Iterator[Fit]:
    """Every preset at every precision of an engine, the smallest model first."""
    from aquila.model.count import count_parameters
    from aquila.model.presets import preset, preset_names

    configs = {name: preset(name) for name in preset_names()}
    for name in sorted(configs, key=lambda name: (count_parameters(configs[name]), name)):
        for precision in PRECISIONS[engine]:
            yield _fit(name, configs[name], precision, available_bytes - RUNTIME_BYTES[engine])


def _fit(name: str, config: ModelConfig, precision: Precision, room: int) -> Fit:
    from aquila.model.count import count_parameters, kv_bytes_per_token

    total, full = count_parameters(config), config.max_position_embeddings
    outside = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    weights = int((total - outside) * precision.layer_bits + outside * precision.outside_bits) // 8
    per_token = kv_bytes_per_token(config, precision.kv_bits // 8)
    tokens = max(0, room - weights) // per_token
    context = full if tokens >= full else tokens // MIN_CONTEXT * MIN_CONTEXT
    return Fit(name, total, full, precision.name, weights + full * per_token, context)
