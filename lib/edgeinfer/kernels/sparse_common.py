"""What all sparse formats share: the check of a weight, its rounding to bfloat16, and the order of the activations.

Knows numbers, no format. A value that rounds to zero is a zero: what is stored is what is multiplied.
"""

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.simd import compiled

WHY = "a sparse product skips zeros and could not pass them on"


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper 16 bits of float32 numbers, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 numbers as float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def checked(weight: NDArray[np.float32]) -> NDArray[np.uint16]:
    """A weight in bfloat16 with one kind of zero.

    Args:
        weight: (N, K) float, finite.

    Returns:
        (N, K) uint16.

    Raises:
        TypeError, ValueError: "weight contains 3 NaN or infinite values; a sparse product skips zeros and could not
            pass them on." and the like; or "weight holds 3.4e+38, which bfloat16 cannot; scale it down."
    """
    matrix = validate.finite_matrix(weight, "weight", WHY)
    bits = to_bfloat16(matrix)
    magnitude = bits & np.uint16(0x7FFF)
    if (magnitude == 0x7F80).any():
        raise ValueError(f"weight holds {np.abs(matrix).max():.3g}, which bfloat16 cannot; scale it down.")
    bits[magnitude == 0] = 0  # -0.0 too
    return bits


@compiled()
def all_finite(x):
    """Whether every number of x (B, K) is finite; without the array of answers that NumPy would make."""
    bits = x.view(np.int32)
    bad = False
    for b in range(x.shape[0]):
        for k in range(x.shape[1]):
            bad |= (bits[b, k] & 0x7F800000) == 0x7F800000
    return not bad


@compiled()
def spread_one(x, out):
    """x (B, K) into out (B, more), zeros behind; whether every number is finite."""
    columns = x.shape[1]
    bad = False
    for b in range(x.shape[0]):
        bits = x[b].view(np.int32)
        for k in range(columns):
            out[b, k] = x[b, k]
            bad |= (bits[k] & 0x7F800000) == 0x7F800000
        out[b, columns:] = np.float32(0)
    return not bad


@compiled()
def spread_many(x, out):
    """x (B, K) into out (chunks, more, 16), zeros where there is nothing; whether every number is finite."""
    columns = x.shape[1]
    for chunk in range(out.shape[0]):
        rows = x[16 * chunk : 16 * chunk + 16]
        to = out[chunk]
        if rows.shape[0] == 16:  # a loop of fixed length is unrolled
            for k in range(columns):
                for b in range(16):
                    to[k, b] = rows[b, k]
        else:
            for k in range(columns):
                for b in range(rows.shape[0]):
                    to[k, b] = rows[b, k]
                to[k, rows.shape[0] :] = np.float32(0)
        to[columns:] = np.float32(0)
    return all_finite(x)
