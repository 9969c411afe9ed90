"""What the native kernels compute, in numpy: the measure of their tests, and the definition where comments fall short.

Products with weights in blocks round their inputs to int8, a scale for every 32 columns of a token, and add up whole
numbers inside a block. Plain formats multiply float32. Sums over blocks are exact here; the kernels' are float32.
"""

import numpy as np
from jaxtyping import Float, Int8

from aquila.kernels.formats import FORMATS, dequantise, num_blocks, unpack_blocks
from aquila.kernels.rounding import BLOCK

LARGEST = np.float32(3.4e38)  # a block with a larger input gives NaN, as one with an infinite one does
_SMALLEST = np.float32(1e-30)  # inputs of a block that has none above are taken for zeros


def round_activations(
    inputs: Float[np.ndarray, "tokens columns"],
) -> tuple[Int8[np.ndarray, "tokens blocks 32"], Float[np.ndarray, "tokens blocks"]]:
    """Codes and scales: value = code * scale. Half steps go to the even code. Blocks with no number have scale NaN."""
    tokens, columns = inputs.shape
    wide = np.zeros((tokens, num_blocks(columns), BLOCK), np.float32)
    wide.reshape(tokens, -1)[:, :columns] = inputs
    peaks = np.abs(wide).max(axis=-1)
    broken = ~(peaks <= LARGEST)
    counted = (peaks > _SMALLEST) & ~broken
    inverse = np.zeros_like(peaks)
    np.divide(np.float32(127), peaks, out=inverse, where=counted)
    wide[broken] = 0
    codes = np.rint(wide * inverse[..., None]).astype(np.int8)
    return codes, np.where(broken, np.float32(np.nan), peaks / np.float32(127))


def rounded(inputs: Float[np.ndarray, "tokens columns"]) -> Float[np.ndarray, "tokens columns"]:
    """The values that a product with weights in blocks sees."""
    codes, scales = round_activations(inputs)
    values = codes.astype(np.float32) * scales[..., None]
    return values.reshape(len(inputs), -1)[:, : inputs.shape[1]]


def product(
    format_name: str, packed: np.ndarray, rows: int, inputs: Float[np.ndarray, "tokens columns"]
) -> tuple[Float[np.ndarray, "tokens rows"], Float[np.ndarray, "tokens rows"]]:
    """Inputs times a packed matrix (uint8, see formats.py), and the sum of the sizes of all terms, which bounds errors.

    Both are float64.
    """
    layout, columns = FORMATS[format_name], inputs.shape[1]
    weights = dequantise(format_name, packed, rows, columns).astype(np.float64)
    seen = (rounded(inputs) if layout.block_bytes else inputs).astype(np.float64)
    sizes = np.abs(weights)
    if format_name == "w4m":  # code * scale and the minimum are added up apart
        blocks = unpack_blocks(format_name, packed, rows, columns).reshape(rows, -1, layout.block_bytes)
        halves = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16).astype(np.float64)
        minima = np.repeat(halves[..., 0], BLOCK, axis=1)[:, :columns]
        sizes = np.abs(weights - minima) + np.abs(minima)
    return seen @ weights.T, np.abs(seen) @ sizes.T
