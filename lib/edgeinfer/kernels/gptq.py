"""GPTQ: quantize column by column, and let the columns that are still free make up for each column's rounding error.

Knows the weight and the second moment of its inputs (the Hessian of the layer's squared error); knows no model.
Columns are worked off in blocks, so that most of the correction is one matrix product a block. Source: gptq.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.quantize import (
    QuantizedWeight,
    check_bits,
    check_group_size,
    from_codes,
    scale_and_zero_point,
)
from edgeinfer.kernels.simd import compiled
from edgeinfer.kernels.validate import finite_matrix


def second_moment(inputs: NDArray) -> NDArray[np.float64]:
    """The mean of x x^T over calibration rows: half the Hessian of ||W x - W' x||^2.

    Args:
        inputs: (rows, K) float32, what the layer saw.

    Returns:
        (K, K) float64.

    Raises:
        ValueError: "inputs contains 3 NaN or infinite values; ..." and the like.
    """
    inputs = finite_matrix(inputs, "inputs").astype(np.float64)
    return inputs.T @ inputs / len(inputs)


def output_error(weight: NDArray, approximation: NDArray, hessian: NDArray) -> float:
    """Relative error of a layer's output over its calibration inputs: ||(W - W') X|| / ||W X||, from X X^T alone."""

    def energy(matrix: NDArray) -> float:
        matrix = np.asarray(matrix, np.float64)
        return max(0.0, float(np.einsum("nk,nk->", matrix @ hessian, matrix)))

    difference = np.asarray(weight, np.float64) - np.asarray(approximation, np.float64)
    whole = energy(weight)
    return float(np.sqrt(energy(difference) / whole)) if whole else float(energy(difference) > 0)


def _propagation(hessian: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """Upper triangular R with R^T R = H^-1: row i says how the error of column i is spread over the columns after it.

    Taken from the Cholesky factor of the matrix read backwards, H = U U^T, whose inverse is R: no explicit H^-1.
    """
    damped = hessian.copy()
    diagonal = np.einsum("ii->i", damped)
    diagonal += damping * max(float(diagonal.mean()), 1e-30)
    for _ in range(6):
        try:
            backwards = np.linalg.cholesky(damped[::-1, ::-1])
            return np.linalg.inv(backwards[::-1, ::-1])
        except np.linalg.LinAlgError:  # few calibration rows: the matrix is singular to rounding
            diagonal += 10 * damping * max(float(diagonal.mean()), 1e-30)
    raise ValueError("the second moment of the inputs is not positive definite even with damping; give more rows.")


@compiled()
def _quantize_columns(rest, codes, errors, spread, scale, zero, groups, start, first, last, end, lowest, highest):
    """Round columns first..last-1 one after the other, and correct the columns up to the block's end after each."""
    for n in range(rest.shape[0]):
        row = rest[n]
        for i in range(first, last):
            s = np.float64(scale[n, groups[i - first]])
            z = np.float64(zero[n, groups[i - first]])
            code = min(max(np.rint(row[i] / s) + z, np.float64(lowest)), np.float64(highest))
            codes[n, i] = np.uint8(code)
            error = (row[i] - (code - z) * s) / spread[i, i]
            errors[n, i - start] = error
            for j in range(i, end):
                row[j] -= error * spread[i, j]


def gptq_quantize(
    weight: NDArray[np.float32],
    hessian: NDArray,
    bits: int,
    group_size: int,
    symmetric: bool = True,
    damping: float = 0.01,
    block_size: int = 64,
    by_importance: bool = False,
    clip: NDArray | None = None,
) -> QuantizedWeight:
    """Quantize a weight with second-order error compensation.

    Args:
        weight: (N, K) float32.
        hessian: (K, K), the second moment of the inputs (`second_moment`); any positive factor is fine.
        bits, group_size, symmetric: as in `quantize_groupwise`.
        damping: share of the mean diagonal that is added to the diagonal.
        block_size: columns between two corrections of the whole rest; changes speed, not the result.
        by_importance: work off columns by falling diagonal, with the scales of the original groups (else left to
            right, with the scales of the corrected weights).
        clip: (N, K // group_size) in (0, 1], shrinks each group's range (`clip_search`); None is no clipping.

    Returns:
        Codes in the original order of columns; the format is that of round-to-nearest.

    Raises:
        ValueError: "hessian must have shape (256, 256) for this weight, got (128, 128)." and as `quantize_groupwise`.
    """
    weight, bits = finite_matrix(weight, "weight"), check_bits(bits)
    rows, columns = weight.shape
    group_size = check_group_size(group_size, columns)
    hessian = finite_matrix(hessian, "hessian").astype(np.float64)
    if hessian.shape != (columns, columns):
        raise ValueError(f"hessian must have shape ({columns}, {columns}) for this weight, got {hessian.shape}.")
    groups = columns // group_size
    shrink = np.ones((rows, groups)) if clip is None else np.asarray(clip, np.float64)

    rest = weight.astype(np.float64)  # the columns not yet quantized, corrected for the errors of those that are
    dead = np.diagonal(hessian) <= 0
    hessian[dead, dead] = 1  # an input that is always zero: its weights do not matter
    rest[:, dead] = 0
    order = np.argsort(-np.diagonal(hessian), kind="stable") if by_importance else np.arange(columns)
    spread = _propagation(hessian[np.ix_(order, order)], damping)

    def fit(group: int, values: NDArray) -> tuple[NDArray, NDArray]:
        low, high = values.min(1) * shrink[:, group], values.max(1) * shrink[:, group]
        return scale_and_zero_point(low, high, bits, symmetric)

    scale, zero = np.ones((rows, groups), np.float32), np.zeros((rows, groups), np.uint8)
    for group in range(groups) if by_importance else ():
        scale[:, group], zero[:, group] = fit(group, rest[:, group * group_size : (group + 1) * group_size])

    rest = np.ascontiguousarray(rest[:, order])
    codes = np.zeros((rows, columns), np.uint8)  # in the order of work
    lowest, highest = 1 if symmetric else 0, 2**bits - 1
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        errors = np.zeros((rows, end - start))
        edges = [start, *(i for i in range(start + 1, end) if not by_importance and i % group_size == 0), end]
        for first, last in pairwise(edges):
            if not by_importance and first % group_size == 0:
                # the group may reach beyond this block: bring its columns up to date before its scale is fitted
                ahead = rest[:, first : first + group_size].copy()
                beyond = first + group_size - end
                if beyond > 0:
                    ahead[:, -beyond:] -= errors @ spread[start:end, end : end + beyond]
                scale[:, first // group_size], zero[:, first // group_size] = fit(first // group_size, ahead)
            groups_of = order[first:last] // group_size
            _quantize_columns(
                rest, codes, errors, spread, scale, zero, groups_of, start, first, last, end, lowest, highest
            )
        rest[:, end:] -= errors @ spread[start:end, end:]
    back = np.empty_like(codes)
    back[:, order] = codes
    return from_codes(back, scale, zero, bits, group_size, symmetric)
