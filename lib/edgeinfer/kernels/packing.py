"""The order of bytes that the integer product reads: blocks of 64 rows, so that a vector lane is a row.

Knows the layout only. A step of the product takes 4 * P columns (P = 8 // bits codes fit into a byte) of 64 rows, that
is 256 consecutive bytes: byte 64 v + 4 l + j belongs to row 16 v + l and holds the codes of columns j, 4 + j, ...,
lowest bits first. One block is one stream through memory. Widths other than 2, 4 and 8 are stored in the next of these.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.memory import in_huge_pages
from edgeinfer.kernels.quantize import QuantizedWeight

BLOCK = 64  # rows of a block: four vectors of sixteen 32-bit lanes


@dataclass(frozen=True)
class PackedWeight:
    """A quantized weight in the order in which the integer product reads it.

    Attributes:
        data: (blocks * K * bits * 8,) uint8, the layout above.
        scale: (blocks, K // group_size, 64) float32; 0 in rows that only fill the last block.
        zero_point: like scale, uint8; empty when every zero point is `middle`.
        middle: the zero point of a symmetric weight.
        bits: bits of storage for a code: 2, 4 or 8.
        group_size: columns that share a scale.
        shape: (N, K).
    """

    data: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8]
    middle: int
    bits: int
    group_size: int
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads from memory."""
        return self.data.nbytes + self.scale.nbytes + self.zero_point.nbytes


def blocked_rows(per_group: NDArray, fill: float) -> NDArray:
    """(N, groups) -> (blocks, groups, 64), rows beyond N filled."""
    rows, groups = per_group.shape
    blocks = -(-rows // BLOCK)
    full = np.full((blocks * BLOCK, groups), fill, per_group.dtype)
    full[:rows] = per_group
    return np.ascontiguousarray(full.reshape(blocks, BLOCK, groups).transpose(0, 2, 1))


def pack(weight: QuantizedWeight) -> PackedWeight:
    """Re-order a quantized weight for the integer product.

    Raises:
        ValueError: "group_size 8 cannot be multiplied: a step of the 2-bit product takes 16 columns; choose a multiple
            of 16."
    """
    rows, columns = weight.shape
    bits = 2 if weight.bits == 2 else 4 if weight.bits <= 4 else 8
    per_byte = 8 // bits
    step = 4 * per_byte
    if weight.group_size % step:
        raise ValueError(
            f"group_size {weight.group_size} cannot be multiplied: a step of the {bits}-bit product takes {step} "
            f"columns; choose a multiple of {step}."
        )
    blocks = -(-rows // BLOCK)
    codes = np.zeros((blocks * BLOCK, columns), np.uint8)
    codes[:rows] = weight.codes
    # block, vector v, lane l, step, code s of the byte, byte j
    parts = codes.reshape(blocks, 4, 16, columns // step, per_byte, 4)
    packed = parts[..., 0, :].copy()
    for s in range(1, per_byte):
        packed |= parts[..., s, :] << np.uint8(s * bits)
    data = in_huge_pages(packed.transpose(0, 3, 1, 2, 4)).reshape(-1)
    zero = np.empty((0, 0, BLOCK), np.uint8) if weight.symmetric else blocked_rows(weight.zero_point, 0)
    middle = 2 ** (weight.bits - 1)
    return PackedWeight(data, blocked_rows(weight.scale, 0), zero, middle, bits, weight.group_size, weight.shape)


def _pack_exactly(weight: QuantizedWeight, bits: int) -> PackedWeight:
    packed = pack(weight)
    if packed.bits != bits:
        raise ValueError(f"pack_int{bits} takes weights of {bits} bits, got {weight.bits}; use pack_int{packed.bits}.")
    return packed


def pack_int8(weight: QuantizedWeight) -> PackedWeight:
    """`pack` for codes of 5..8 bits."""
    return _pack_exactly(weight, 8)


def pack_int4(weight: QuantizedWeight) -> PackedWeight:
    """`pack` for codes of 3..4 bits."""
    return _pack_exactly(weight, 4)


def pack_int2(weight: QuantizedWeight) -> PackedWeight:
    """`pack` for codes of 2 bits."""
    return _pack_exactly(weight, 2)
