"""Rotary frequencies: radians per position of each pair, with the stretches of long-context models. numpy only.

Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2. In fp32 throughout, as every implementation of the family does.
"""

import math

import numpy as np
from jaxtyping import Float

from aquila.model.config import ModelConfig


def inverse_frequencies(config: ModelConfig, length: int) -> Float[np.ndarray, " pairs"]:
    """Radians per position of each pair. `length` (tokens) matters to dynamic scaling, whose base grows with it."""
    pairs = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    scaling = config.rope_scaling
    theta = config.rope_theta
    if scaling is not None and scaling.type == "dynamic" and length > config.max_position_embeddings:
        # NTK-aware: transformers' _compute_dynamic_ntk_parameters
        stretch = scaling.factor * length / config.max_position_embeddings - (scaling.factor - 1)
        theta = theta * stretch ** (config.head_dim / (config.head_dim - 2))
    frequencies = np.float32(1.0) / np.float32(theta) ** pairs
    if scaling is None or scaling.type == "dynamic":
        return frequencies
    if scaling.type == "linear":
        return frequencies / np.float32(scaling.factor)
    # llama3: waves longer than the trained context are stretched, short ones kept, those between blended
    wavelength = np.float32(2 * math.pi) / frequencies
    turns = np.float32(scaling.original_max_position_embeddings) / wavelength
    blend = (turns - np.float32(scaling.low_freq_factor)) / np.float32(
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blend = blend.clip(0, 1)
    return frequencies / np.float32(scaling.factor) * (1 - blend) + frequencies * blend
