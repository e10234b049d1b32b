"""GPTQ: quantize column by column, and let the columns that are still free make up for each column's rounding error.

Knows the weight and the second moment of its inputs (the Hessian of the layer's squared error); knows no model.
Columns are worked off in blocks, so that most of the correction is one matrix product a block. Source: gptq.
"""

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.quantize import (
    QuantizedWeight,
    check_bits,
    check_group_size,
    from_codes,
    scale_and_zero_point,
)
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

    rest = np.asfortranarray(rest[:, order])  # columns are read and written one at a time
    codes = np.zeros((rows, columns), np.uint8)
    lowest = 1 if symmetric else 0
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        errors = np.empty((rows, end - start), order="F")
        for i in range(start, end):
            column = order[i]
            group = column // group_size
            if not by_importance and column % group_size == 0:
                # the group may reach beyond this block: bring its columns up to date before the scale is fitted
                last = column + group_size
                ahead = rest[:, i:last].copy()
                if last > end and i > start:
                    ahead[:, end - i :] -= errors[:, : i - start] @ spread[start:i, end:last]
                scale[:, group], zero[:, group] = fit(group, ahead)
            s, z = scale[:, group], zero[:, group].astype(np.float64)
            code = np.clip(np.rint(rest[:, i] / s) + z, lowest, 2**bits - 1)
            codes[:, column] = code
            error = (rest[:, i] - (code - z) * s) / spread[i, i]
            errors[:, i - start] = error
            rest[:, i:end] -= np.multiply.outer(error, spread[i, i:end])
        rest[:, end:] -= errors @ spread[start:end, end:]
    return from_codes(codes, scale, zero, bits, group_size, symmetric)
