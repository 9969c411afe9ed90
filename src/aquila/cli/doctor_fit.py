"""Which models fit into a number of bytes: weights at a precision, and the KV cache of their context."""

from collections.abc import Iterator
from dataclasses import dataclass

BYTES_PER_WEIGHT = {
    "fp16": 2.0,
    "int8": 1.0625,
    "int4": 0.5625,
}  # blocks of 32 with a 16-bit scale: 8.5 and 4.5 bits
KV_ITEMSIZE = 2  # keys and values in 16 bits
RUNTIME_BYTES = 384 << 20  # interpreter and torch 2.13 hold 230 MiB, measured; the rest for activations
MIN_CONTEXT = 256  # below this a model is not of use


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


def fit_presets(available_bytes: int) -> Iterator[Fit]:
    """Every preset at every precision, the smallest model first."""
    from aquila.model.count import count_parameters, kv_bytes_per_token
    from aquila.model.presets import preset, preset_names

    configs = {name: preset(name) for name in preset_names()}
    for name in sorted(configs, key=lambda name: (count_parameters(configs[name]), name)):
        config = configs[name]
        num_parameters, full = count_parameters(config), config.max_position_embeddings
        kv_bytes = kv_bytes_per_token(config, KV_ITEMSIZE)
        for precision, bytes_per_weight in BYTES_PER_WEIGHT.items():
            weights = int(num_parameters * bytes_per_weight)
            context = _context_within(available_bytes - RUNTIME_BYTES - weights, kv_bytes, full)
            yield Fit(name, num_parameters, full, precision, weights + full * kv_bytes, context)


def _context_within(free_bytes: int, kv_bytes: int, full: int) -> int:
    """The context that fits, whole when it can be, else in steps of `MIN_CONTEXT`."""
    tokens = max(0, free_bytes) // kv_bytes
    return full if tokens >= full else tokens // MIN_CONTEXT * MIN_CONTEXT
