"""Why T-MAC permutes its weights: the look-up product on bit-planes in the order in which a matrix is usually stored.

A shuffle takes the indices of sixteen rows in one register. Row by row, these bytes lie far apart and must be gathered
for every product; permuted once, ahead of time, they are one load. Knows the two orders and nothing of tables, which
are those of `edgeinfer.kernels.lookup`. N rows, K columns, P planes. Source: t-mac.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import lookup
from edgeinfer.kernels.lookup import STEP, LookupTables, LookupWeight, look_up_block, look_up_block_portable
from edgeinfer.kernels.packing import BLOCK
from edgeinfer.kernels.simd import choose, compiled

VECTOR = 64  # bytes of a load


@dataclass(frozen=True)
class RowOrderedWeight:
    """Bit-planes row by row.

    Attributes:
        data: (P, blocks * 64, K // 32) uint32: the 32 bits of a row, of a plane, of a step of 32 columns.
        permuted: the same weight in the order of the kernel; its scales and offsets serve both.
    """

    data: NDArray[np.uint32]
    permuted: LookupWeight


def row_order(weight: LookupWeight) -> RowOrderedWeight:
    """Undo the permutation of the bit-planes."""
    blocks, steps = weight.scale.shape[0], weight.shape[1] // STEP
    words = weight.data.view(np.uint32).reshape(blocks, steps, weight.bits, BLOCK)
    data = words.transpose(2, 0, 3, 1).reshape(weight.bits, blocks * BLOCK, steps)
    return RowOrderedWeight(np.ascontiguousarray(data), weight)


def load_addresses(shape: tuple[int, int], bits: int, permuted: bool) -> NDArray[np.int64]:
    """Where the loads of the first block of 64 rows go, in the order of the product.

    Args:
        shape: (N, K); K a multiple of 32.
        bits: planes.
        permuted: one load of 64 bytes for sixteen rows; else one of 4 bytes for each row.

    Returns:
        (registers, loads of one register) int64 bytes from the start of the weights.
    """
    rows, columns = shape
    steps, parts = columns // STEP, BLOCK // 16
    registers = np.arange(steps * bits * parts)
    if permuted:
        return (registers * VECTOR)[:, None]
    step, plane, part = registers // (bits * parts), registers // parts % bits, registers % parts
    row = 16 * part[:, None] + np.arange(16)
    padded = -(-rows // BLOCK) * BLOCK
    return ((plane[:, None] * padded + row) * steps + step[:, None]) * 4


@compiled(forceinline=True)
def _gather(planes, block, words):
    """Bring a block of 64 rows into the order of the kernel."""
    bits, _, steps = planes.shape
    for c in range(steps):
        for p in range(bits):
            to = (c * bits + p) * BLOCK
            for r in range(BLOCK):
                words[to + r] = planes[p, block * BLOCK + r, c]


@compiled([lookup.__file__])
def _vector(planes, scale, offset, middle, table, unit, sums, group_size, y):
    bits, rows, steps = planes.shape
    near = np.empty(steps * bits * BLOCK, np.uint32)  # one block: it stays in the first cache
    w, side = near.view(np.uint8), unit.shape[1] * BLOCK
    for block in range(rows // BLOCK):
        _gather(planes, block, near)
        s, o = scale[block * side :], offset[block * side :]
        for b in range(unit.shape[0]):
            out = y[b, block * BLOCK :]
            if bits == 2:  # a constant, so that the loop over the planes unrolls as it does in `lookup`
                look_up_block(2, w, s, o, middle, table[b], unit[b], sums[b], group_size, out, 0)
            else:
                look_up_block(bits, w, s, o, middle, table[b], unit[b], sums[b], group_size, out, 0)


@compiled([lookup.__file__])
def _portable(planes, scale, offset, middle, table, unit, sums, group_size, y):
    bits, rows, steps = planes.shape
    near = np.empty(steps * bits * BLOCK, np.uint32)
    w, side = near.view(np.uint8), unit.shape[1] * BLOCK
    for block in range(rows // BLOCK):
        _gather(planes, block, near)
        s, o = scale[block * side :], offset[block * side :]
        for b in range(unit.shape[0]):
            out = y[b, block * BLOCK :]
            look_up_block_portable(bits, w, s, o, middle, table[b], unit[b], sums[b], group_size, out, 0)


def row_order_matmul(
    weight: RowOrderedWeight, x: NDArray[np.float32] | LookupTables, path: str = "auto"
) -> NDArray[np.float32]:
    """What `lookup_matmul` returns, bit for bit, with the indices gathered from row-ordered planes in every call.

    Args:
        weight: from `row_order`.
        x: (K,) or (B, K) float32, or its tables.
        path: "auto", "simd" or "portable".

    Returns:
        (N,) or (B, N) float32.

    Raises:
        ValueError: as `lookup_matmul`.

    Source: t-mac.
    """
    permuted = weight.permuted
    if not isinstance(x, LookupTables):
        x = lookup.build_tables(x, permuted.group_size)
    if x.group_size != permuted.group_size or x.entries.shape[1] != 4 * permuted.shape[1]:
        raise ValueError(
            f"the tables were built for {x.entries.shape[1] // 4} columns in groups of {x.group_size}; this weight has "
            f"{permuted.shape[1]} columns in groups of {permuted.group_size}."
        )
    y = np.empty((x.entries.shape[0], weight.data.shape[1]), np.float32)
    kernel = _vector if choose(path) else _portable
    scale, offset = permuted.scale.reshape(-1), permuted.offset.reshape(-1)
    kernel(weight.data, scale, offset, np.float32(permuted.middle), x.entries, x.scale, x.sums, x.group_size, y)
    y = y[:, : permuted.shape[0]]
    return y[0] if x.one else y
