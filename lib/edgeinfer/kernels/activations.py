"""Activations as int8: one scale per group and the sum of the codes, which a weight's zero point needs.

Quantized once, they serve every product with the same input (q, k and v; gate and up). B = batch, K = columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.simd import compiled


@dataclass(frozen=True)
class QuantizedActivations:
    """x = scale * code, code in -127..127.

    Attributes:
        codes: (B, K) int8.
        scale: (B, K // group_size) float32.
        sums: (B, K // group_size) int32, the sum of a group's codes.
        group_size: columns that share a scale.
        one: whether x was a vector, so that a product returns a vector.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    sums: NDArray[np.int32]
    group_size: int
    one: bool

    def dequantize(self) -> NDArray[np.float32]:
        """(B, K) float32."""
        batch, columns = self.codes.shape
        grouped = self.codes.reshape(batch, columns // self.group_size, self.group_size)
        return (grouped * self.scale[..., None]).reshape(batch, columns)


ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits of the float
ROUND_BITS = np.int32(0x4B400000)  # its pattern
INFINITY_BITS = np.int32(0x7F800000)


@compiled()
def _quantize(x, group_size, codes, scale, sums):
    """Fill codes, scale and sums; returns False when x is not finite. Every loop vectorises without fast-math."""
    finite = True
    shifted = np.empty(group_size, np.float32)
    pattern = shifted.view(np.int32)
    for b in range(x.shape[0]):
        for g in range(scale.shape[1]):
            row = x[b, g * group_size : (g + 1) * group_size]
            out = codes[b, g * group_size : (g + 1) * group_size]
            bits = row.view(np.int32)
            largest = np.int32(0)  # of the magnitudes, compared by their bits: NaN counts as largest of all
            for i in range(group_size):
                magnitude = np.int32(bits[i] & np.int32(0x7FFFFFFF))
                largest = magnitude if magnitude > largest else largest
            finite = finite and bool(largest < INFINITY_BITS)
            step = np.int32(largest).view(np.float32) / np.float32(127)
            inverse = np.float32(1) / step if step > np.float32(1e-38) else np.float32(0)
            for i in range(group_size):
                shifted[i] = row[i] * inverse + ROUND
            total = np.int32(0)
            for i in range(group_size):
                code = np.int32(pattern[i] - ROUND_BITS)
                out[i] = code
                total = np.int32(total + code)
            scale[b, g] = step
            sums[b, g] = total
    return finite


def quantize_activations(x: NDArray[np.float32], group_size: int) -> QuantizedActivations:
    """Quantize to int8 with one scale per group of columns (symmetric, nearest code).

    Args:
        x: (K,) or (B, K) float32.
        group_size: columns that share a scale; that of the weight.

    Raises:
        ValueError: "x contains NaN or infinite values." or a shape that does not fit.
    """
    x = np.asarray(x)
    columns = x.shape[-1] if x.ndim else 0
    rows = validate.activations(x, columns)
    if columns == 0 or columns % group_size:
        raise ValueError(f"group_size {group_size} does not divide the {columns} columns of x.")
    groups = columns // group_size
    codes = np.empty(rows.shape, np.int8)
    scale = np.empty((rows.shape[0], groups), np.float32)
    sums = np.empty((rows.shape[0], groups), np.int32)
    if not _quantize(rows, group_size, codes, scale, sums):
        raise ValueError("x contains NaN or infinite values; a product with them means nothing.")
    return QuantizedActivations(codes, scale, sums, group_size, x.ndim == 1)
