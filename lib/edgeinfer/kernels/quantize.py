"""Round-to-nearest quantization of a weight matrix to 2..8 bits: per tensor, channel or group, symmetric or not.

Knows codes, scales and zero points, and stores the codes bit-packed; knows nothing of activations, of second-order
methods (`gptq`) or of the order of bytes that a fast product wants (`packing`). N = output rows, K = input columns.
Source: Nagel et al., "A White Paper on Neural Network Quantization" (2021).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.bits import pack_bits, unpack_bits
from edgeinfer.kernels.validate import finite_matrix


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight matrix as integer codes with a scale and a zero point per group: w = scale * (code - zero_point).

    Attributes:
        packed: (N, ceil(K * bits / 8)) uint8, the codes of each row, bit-packed, least significant bit first.
        scale: (N, K // group_size) float32.
        zero_point: (N, K // group_size) uint8, the code that means 0.
        bits: width of a code, 2..8.
        group_size: columns that share a scale.
        shape: (N, K).
        symmetric: whether every zero point is the middle code 2**(bits - 1) (and is then not counted in `nbytes`).
    """

    packed: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8]
    bits: int
    group_size: int
    shape: tuple[int, int]
    symmetric: bool

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The codes, one a byte: (N, K) uint8."""
        return unpack_bits(self.packed, self.bits, self.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes that are stored: codes, scales, and zero points unless they are all the same."""
        return self.packed.nbytes + self.scale.nbytes + (0 if self.symmetric else self.zero_point.nbytes)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits divided by the number of weights: the width of a code plus its share of scale and zero point."""
        return 8 * self.nbytes / (self.shape[0] * self.shape[1])

    def dequantize(self) -> NDArray[np.float32]:
        """The matrix that the codes stand for: (N, K) float32."""
        rows, columns = self.shape
        grouped = self.codes.reshape(rows, columns // self.group_size, self.group_size).astype(np.float32)
        return ((grouped - self.zero_point[..., None]) * self.scale[..., None]).reshape(rows, columns)


def from_codes(
    codes: NDArray, scale: NDArray, zero_point: NDArray, bits: int, group_size: int, symmetric: bool
) -> QuantizedWeight:
    """Wrap codes that another method chose.

    Args:
        codes: (N, K) integers in 0 .. 2**bits - 1.
        scale: (N, K // group_size) float.
        zero_point: (N, K // group_size) integers in 0 .. 2**bits - 1.
        bits, group_size, symmetric: as in `QuantizedWeight`.
    """
    packed = pack_bits(np.ascontiguousarray(codes, dtype=np.uint8), bits)
    return QuantizedWeight(
        packed,
        np.ascontiguousarray(scale, dtype=np.float32),
        np.ascontiguousarray(zero_point, dtype=np.uint8),
        bits,
        group_size,
        (codes.shape[0], codes.shape[1]),
        symmetric,
    )


def check_bits(bits: int) -> int:
    """Raise unless bits is an integer of 2..8.

    Raises:
        ValueError: "bits must be an integer from 2 to 8, got 1; for one bit or ternary see `bcq` and `ternary`."
    """
    if not isinstance(bits, (int, np.integer)) or isinstance(bits, bool) or not 2 <= bits <= 8:
        raise ValueError(
            f"bits must be an integer from 2 to 8, got {bits!r}; for one bit or ternary see `bcq` and `ternary`."
        )
    return int(bits)


def check_group_size(group_size: int, columns: int) -> int:
    """Raise unless group_size divides the number of columns.

    Raises:
        ValueError: "group_size 48 does not divide in_features 256; choose one of 16, 32, ... or pad the weight."
    """
    if not isinstance(group_size, (int, np.integer)) or isinstance(group_size, bool) or group_size < 1:
        raise ValueError(f"group_size must be a positive integer, got {group_size!r}.")
    if columns % group_size:
        fitting = [str(g) for g in (16, 32, 64, 128, 256) if columns % g == 0] or [str(columns)]
        raise ValueError(
            f"group_size {group_size} does not divide in_features {columns}; "
            f"choose one of {', '.join(fitting)} or pad the weight."
        )
    return int(group_size)


def scale_and_zero_point(
    low: NDArray, high: NDArray, bits: int, symmetric: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Scale and zero point that cover the interval [low, high] with 2**bits codes.

    Symmetric: the scale is max(|low|, |high|) over 2**(bits-1) - 1, and code 0 stays unused, so that +x and -x are both
    exact. Asymmetric: the interval is widened to hold 0, because padding and ReLU make exact zeros. An interval of
    width 0 gets scale 1, so that nothing is divided by zero.

    Args:
        low, high: float32 arrays of one shape.
        bits: 2..8.
        symmetric: which of the two.

    Returns:
        scale (float32) and zero point (uint8), both of that shape.
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    levels = 2**bits - 1
    if symmetric:
        scale = np.maximum(np.abs(low), np.abs(high)) / np.float32(2 ** (bits - 1) - 1)
    else:
        # halves first: high - low overflows where both are near the largest float
        scale = (np.maximum(high, 0) / 2 - np.minimum(low, 0) / 2) / np.float32(levels) * np.float32(2)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    if symmetric:
        return scale, np.full(scale.shape, 2 ** (bits - 1), np.uint8)
    return scale, np.clip(np.rint(-np.minimum(low, 0) / scale), 0, levels).astype(np.uint8)


def nearest_codes(
    weight: NDArray[np.float32], bits: int, group_size: int, symmetric: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Codes (N, groups, group_size), scales and zero points of checked arguments, before they are packed."""
    grouped = weight.reshape(weight.shape[0], -1, group_size)
    scale, zero = scale_and_zero_point(grouped.min(-1), grouped.max(-1), bits, symmetric)
    codes = np.rint(grouped / scale[..., None]) + zero[..., None]
    return np.clip(codes, 1 if symmetric else 0, 2**bits - 1), scale, zero


def quantize_groupwise(
    weight: NDArray[np.float32], bits: int, group_size: int, symmetric: bool = True
) -> QuantizedWeight:
    """Quantize each run of `group_size` columns of a row with a scale (and zero point) of its own, to the nearest code.

    Args:
        weight: (N, K) float32 (float64 and float16 are converted).
        bits: 2..8.
        group_size: columns that share a scale; divides K.
        symmetric: zero point fixed to the middle code, or fitted to the group's smallest and largest weight.

    Returns:
        The codes, scales and zero points.

    Raises:
        ValueError: what is wrong with the weight, the bits or the group size, in one sentence.
    """
    weight, bits = finite_matrix(weight, "weight"), check_bits(bits)
    rows, columns = weight.shape
    codes, scale, zero = nearest_codes(weight, bits, check_group_size(group_size, columns), symmetric)
    return from_codes(codes.reshape(rows, columns), scale, zero, bits, group_size, symmetric)


def quantize_per_channel(weight: NDArray[np.float32], bits: int, symmetric: bool = True) -> QuantizedWeight:
    """One scale per output row: `quantize_groupwise` with the whole row as the group."""
    weight = finite_matrix(weight, "weight")
    return quantize_groupwise(weight, bits, weight.shape[1], symmetric)


def quantize_per_tensor(weight: NDArray[np.float32], bits: int, symmetric: bool = True) -> QuantizedWeight:
    """One scale for the whole matrix (stored once per row, so that every product can read it the same way)."""
    weight, bits = finite_matrix(weight, "weight"), check_bits(bits)
    rows = weight.shape[0]
    one = np.full((rows, 1), weight.min(), np.float32), np.full((rows, 1), weight.max(), np.float32)
    scale, zero = scale_and_zero_point(*one, bits, symmetric)
    codes = np.clip(np.rint(weight / scale) + zero, 1 if symmetric else 0, 2**bits - 1)
    return from_codes(codes, scale, zero, bits, weight.shape[1], symmetric)


def quantization_error(weight: NDArray[np.float32], approximation: NDArray[np.float32]) -> float:
    """Relative error of an approximation in the Frobenius norm: ||W - W'|| / ||W|| (0 for two zero matrices)."""
    weight = np.asarray(weight, np.float64)
    norm = float(np.linalg.norm(weight))
    error = float(np.linalg.norm(weight - approximation))
    return error / norm if norm else error
