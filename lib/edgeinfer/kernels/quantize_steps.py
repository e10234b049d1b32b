"""Quantization step by step in NumPy, with the signatures of lab 1: what the lab falls back on and compares with.

Slow and clear; it trusts its arguments. The fast counterparts are `quantize`, `integer`, `gptq` and `awq`.
N = output rows, K = input columns, G = groups of a row. Source: nagel-whitepaper, optimal-brain-surgeon, gptq, awq.
"""

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.quantize import quantize_groupwise, quantize_per_tensor


def symmetric_codes(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int8], float]:
    """Codes around 0 and the one scale of a matrix.

    Args:
        weight: (N, K) float32.
        bits: 2..8.

    Returns:
        (N, K) int8 from -(2**(bits-1) - 1) to 2**(bits-1) - 1, and the scale.
    """
    quantized = quantize_per_tensor(weight, bits)
    return (quantized.codes.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8), float(quantized.scale[0, 0])


def group_codes(
    weight: NDArray[np.float32], bits: int, group_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Codes (N, K) uint8, scales (N, K // group_size) and zero points (the same) of an asymmetric grid per group."""
    quantized = quantize_groupwise(weight, bits, group_size, symmetric=False)
    return quantized.codes, quantized.scale, quantized.zero_point


def code_matvec(
    codes: NDArray[np.uint8],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.uint8],
    x_codes: NDArray[np.int8],
    x_scale: float,
) -> NDArray[np.float32]:
    """y (N,) = W x with W = scale * (code - zero_point) per group and x = x_scale * x_codes; the sums are integers."""
    rows, groups = scale.shape
    centred = codes.reshape(rows, groups, -1).astype(np.int32) - zero_point[..., None]
    dots = np.matmul(centred.swapaxes(0, 1), x_codes.reshape(groups, -1, 1).astype(np.int32))[..., 0].T
    return np.asarray((scale * dots).sum(1) * np.float32(x_scale), np.float32)


def compensated_column(
    weight: NDArray[np.float64],
    column: int,
    scale: NDArray[np.float64],
    bits: int,
    inverse_hessian: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Round one column and let the later ones make up for it as well as they can.

    Args:
        weight: (N, K) float64; columns before `column` are finished.
        column: which one.
        scale: (N,) float64, the symmetric grid of each row.
        bits: 2..8.
        inverse_hessian: (K, K) float64, the inverse over the columns from `column` on, zero before.

    Returns:
        The weight after the step and the inverse over the columns after `column`.
    """
    top = 2 ** (bits - 1) - 1
    pivot = inverse_hessian[column] / inverse_hessian[column, column]
    rounded = np.clip(np.rint(weight[:, column] / scale), -top, top) * scale
    moved = weight - np.multiply.outer(weight[:, column] - rounded, pivot)
    moved[:, column] = rounded
    return moved, inverse_hessian - np.multiply.outer(inverse_hessian[column], pivot)


def scale_columns(
    weight: NDArray[np.float32], inputs: NDArray[np.float32], alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Column k times the mean magnitude of its input to the power alpha, normalised; returns weight and factor."""
    powers = np.maximum(np.abs(inputs).mean(0, dtype=np.float64), 1e-5) ** alpha
    factor = powers / np.sqrt(powers.max() * powers.min())
    return weight * factor, factor
