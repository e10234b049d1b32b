"""Compressed sparse rows (CSR): the column of every non-zero, row by row. The baseline that every library offers.

Knows the format and a plain product, portable and honest: 16-bit column indices where 65,536 columns suffice, where
common libraries store 32 or 64 bits. Source: the format is common property; what it costs is what spinfer and endor
set out to avoid.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.memory import in_huge_pages
from edgeinfer.kernels.simd import compiled
from edgeinfer.kernels.sparse_common import checked, from_bfloat16

MOST_16_BIT = 65536  # columns whose numbers fit into 16 bits


@dataclass(frozen=True)
class CSRWeight:
    """A sparse weight by rows.

    Attributes:
        values: (nnz + 1,) uint16, the bfloat16 non-zeros row by row, and room for four bytes to be read at the last.
        columns: (nnz,) uint16 or uint32, their columns, rising within a row.
        starts: (N + 1,) uint32, where each row begins (uint64 beyond 4 billion non-zeros).
        shape: (N, K).
    """

    values: NDArray[np.uint16]
    columns: NDArray
    starts: NDArray
    shape: tuple[int, int]

    @property
    def nnz(self) -> int:
        """Stored non-zeros."""
        return self.columns.size

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads from memory."""
        return self.values.nbytes + self.columns.nbytes + self.starts.nbytes

    def unpack(self) -> NDArray[np.float32]:
        """The matrix: (N, K) float32, exactly what was stored."""
        dense = np.zeros(self.shape, np.uint16)
        rows = np.repeat(np.arange(self.shape[0]), (self.starts[1:] - self.starts[:-1]).astype(np.int64))
        dense[rows, self.columns] = self.values[:-1]
        return from_bfloat16(dense)


def pack_csr(weight: NDArray[np.float32], index_bits: int | None = None) -> CSRWeight:
    """Store the non-zeros of a weight by rows.

    Args:
        weight: (N, K) float32; values are rounded to bfloat16.
        index_bits: 16 or 32; None takes 16 where K <= 65536.

    Raises:
        ValueError: "70000 columns need 32-bit indices, index_bits is 16." and as `checked`.
    """
    bits = checked(weight)
    rows, columns = bits.shape
    if index_bits not in (None, 16, 32):
        raise ValueError(f"index_bits must be 16 or 32, got {index_bits!r}.")
    if index_bits == 16 and columns > MOST_16_BIT:
        raise ValueError(f"{columns} columns need 32-bit indices, index_bits is 16.")
    index = np.uint16 if index_bits == 16 or (index_bits is None and columns <= MOST_16_BIT) else np.uint32
    there = bits != 0
    starts = np.zeros(rows + 1, np.int64)
    np.cumsum(there.sum(1), out=starts[1:])
    kind = np.uint32 if starts[-1] < 2**32 else np.uint64
    return CSRWeight(
        in_huge_pages(np.append(bits[there], np.uint16(0))),
        in_huge_pages(np.nonzero(there)[1].astype(index)),
        starts.astype(kind),
        bits.shape,
    )


@compiled(fastmath={"reassoc", "contract", "nsz"})
def csr_one(values, columns, starts, x, y, first, last):
    """y[rows first..last] = W x for one column; x (K,), y (N,)."""
    j = np.int64(starts[first])
    for r in range(first, last):
        a = b = c = d = np.float32(0)  # four chains of additions: one waits for the other's result otherwise
        stop = np.int64(starts[r + 1])
        while j + 4 <= stop:
            a += np.uint32(np.uint32(values[j]) << np.uint32(16)).view(np.float32) * x[columns[j]]
            b += np.uint32(np.uint32(values[j + 1]) << np.uint32(16)).view(np.float32) * x[columns[j + 1]]
            c += np.uint32(np.uint32(values[j + 2]) << np.uint32(16)).view(np.float32) * x[columns[j + 2]]
            d += np.uint32(np.uint32(values[j + 3]) << np.uint32(16)).view(np.float32) * x[columns[j + 3]]
            j += 4
        while j < stop:
            a += np.uint32(np.uint32(values[j]) << np.uint32(16)).view(np.float32) * x[columns[j]]
            j += 1
        y[r] = (a + b) + (c + d)


@compiled()
def csr_many(values, columns, starts, x, y, first, last):
    """y[rows first..last] = W x for several columns at a time; x (K, B), y (N, B)."""
    for r in range(first, last):
        out = y[r]
        out[:] = np.float32(0)
        for j in range(np.int64(starts[r]), np.int64(starts[r + 1])):
            w = np.uint32(np.uint32(values[j]) << np.uint32(16)).view(np.float32)
            row = x[columns[j]]
            for b in range(out.size):
                out[b] += w * row[b]
