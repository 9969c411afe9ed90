"""Work of a training step, and what a device can do at most: the two halves of MFU. Imports no torch at module level.

Work: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B: 6 N + 12 L H Q T operations a token. N counts what is
multiplied (the head, not the embedding table). Recomputation is not counted, and causal attention counts in full, as
there."""

import re
import time
from typing import TYPE_CHECKING

from aquila.model.config import ModelConfig
from aquila.model.count import count_parameters

if TYPE_CHECKING:
    import torch

# Dense bf16 (fp16 where there is no bf16) operations a second, from the makers' data sheets, without sparsity.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    (r"GB200|B200", 2250e12),
    (r"B300", 2250e12),
    (r"H200", 989e12),
    (r"H100.*PCIe", 756e12),
    (r"H100.*NVL", 835e12),
    (r"H100|H800", 989e12),
    (r"\bH20\b", 148e12),
    (r"A100|A800", 312e12),
    (r"\bA40\b", 149.7e12),
    (r"\bA10G\b", 70e12),
    (r"\bA10\b", 125e12),
    (r"L40S", 362e12),
    (r"\bL4\b", 121e12),
    (r"V100", 125e12),
    (r"\bT4\b", 65e12),
    (r"RTX 5090", 209.5e12),
    (r"RTX 4090", 165.2e12),
    (r"RTX 3090", 71e12),
    (r"MI355X", 2300e12),
    (r"MI325X|MI300X", 1307e12),
    (r"MI250X", 383e12),
)


def flops_per_token(config: ModelConfig, sequence_length: int, *, frozen: bool = False) -> float:
    """Operations of forward and backward pass for a token. `frozen`: no gradients of the weights (LoRA), 4 N."""
    embedding = config.vocab_size * config.hidden_size
    multiplied = count_parameters(config) - (0 if config.tie_word_embeddings else embedding)
    attention = 12 * config.num_hidden_layers * config.q_size * sequence_length
    return (4 if frozen else 6) * multiplied + attention


def device_peak(name: str) -> float | None:
    """Peak of an accelerator by the name its driver gives; None for one that is not in the table."""
    return next((peak for pattern, peak in PEAK_FLOPS if re.search(pattern, name)), None)


def peak_flops(device: "torch.device", precision: str) -> float | None:
    """What `device` can do at most: from the table, or on a CPU what a square fp32 product achieves (0.2 s)."""
    import torch  # noqa: PLC0415  the rest of this module runs without it

    if device.type == "cpu":
        return measure_gemm(1024)
    if precision == "fp32":  # tensor cores are not used
        return None
    return device_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def measure_gemm(size: int, repeats: int = 5) -> float:
    """Operations a second of the fastest of some fp32 products of square matrices on this CPU."""
    import torch  # noqa: PLC0415

    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats + 1):
        started = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
