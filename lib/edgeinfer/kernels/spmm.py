"""Compressed sparse rows (CSR) in float32 and their product with a dense matrix of some columns (SpMM).

Knows one format and one product; knows nothing of where the zeros came from. An entry costs one index of four bytes
beside its value, and the order of the entries decides which rows of the dense operand are still in cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import simd, validate
from edgeinfer.kernels.simd import add_f32, compiled, load_f32x16, mul_f32, splat_f32, store_f32x16
from edgeinfer.kernels.threads import over_blocks

LANES = 16


@dataclass(frozen=True)
class CSR:
    """A sparse matrix (N, K), row by row.

    Attributes:
        indptr: (N + 1,) int64; the entries of row i stand at indptr[i] : indptr[i + 1].
        indices: (entries,) int32, the column of each entry, ascending within a row.
        data: (entries,) float32.
        shape: (N, K).
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    data: NDArray[np.float32]
    shape: tuple[int, int]

    @property
    def entries(self) -> int:
        """Stored entries."""
        return len(self.data)

    @property
    def density(self) -> float:
        """Stored entries over all places."""
        return self.entries / (self.shape[0] * self.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads of this matrix."""
        return self.indptr.nbytes + self.indices.nbytes + self.data.nbytes

    @property
    def row_lengths(self) -> NDArray[np.int64]:
        """(N,) entries of each row."""
        return np.diff(self.indptr)

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """(entries,) the row of each entry."""
        return np.repeat(np.arange(self.shape[0]), self.row_lengths)

    def to_dense(self) -> NDArray[np.float32]:
        """(N, K) float32."""
        dense = np.zeros(self.shape, np.float32)
        dense[self.row_numbers, self.indices] = self.data
        return dense

    def permute_rows(self, order: NDArray[np.int64]) -> CSR:
        """The matrix whose row i is row order[i] of this one.

        Raises:
            ValueError: "order must name each of the 4 rows once."
        """
        order = np.asarray(order)
        if order.shape != (self.shape[0],) or not np.array_equal(np.sort(order), np.arange(self.shape[0])):
            raise ValueError(f"order must name each of the {self.shape[0]} rows once.")
        lengths = self.row_lengths[order]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        # the entry at place p of new row i was at place p of old row order[i]
        source = np.arange(self.entries) + np.repeat(self.indptr[order] - indptr[:-1], lengths)
        return CSR(indptr, self.indices[source], self.data[source], self.shape)

    def select(self, keep: NDArray[np.bool_]) -> CSR:
        """The matrix of the entries where `keep` (entries,) is true."""
        counts = np.bincount(self.row_numbers[keep], minlength=self.shape[0])
        return CSR(np.concatenate([[0], np.cumsum(counts)]), self.indices[keep], self.data[keep], self.shape)


def from_dense(matrix: Any) -> CSR:
    """The non-zeros of a dense matrix (N, K).

    Raises:
        ValueError: "matrix contains 1 NaN or infinite values; ..." and the like.
    """
    dense = validate.finite_matrix(matrix, "matrix", "a sparse product skips zeros and could not pass them on")
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=dense.shape[0]))])
    return CSR(indptr, columns.astype(np.int32), dense[rows, columns], (dense.shape[0], dense.shape[1]))


def from_coordinates(
    rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32], shape: tuple[int, int]
) -> CSR:
    """A matrix from entries in any order; of several entries at one place the first counts.

    Args:
        rows, columns: (entries,) integers.
        values: (entries,) float32, finite.
        shape: (N, K).

    Raises:
        ValueError: "an entry lies at (7, 2), outside of a matrix of shape (4, 4)." or "values contain NaN ..."
    """
    rows, columns = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    values = np.asarray(values, np.float32)
    if shape[0] < 1 or shape[1] < 1:
        raise ValueError(f"a matrix needs at least one row and one column, got shape {shape}.")
    if not rows.shape == columns.shape == values.shape or rows.ndim != 1:
        raise ValueError(f"rows, columns and values must be of one length, got {rows.shape}, {columns.shape}.")
    outside = (rows < 0) | (rows >= shape[0]) | (columns < 0) | (columns >= shape[1])
    if outside.any():
        first = int(np.argmax(outside))
        place = f"({rows[first]}, {columns[first]})"
        raise ValueError(f"an entry lies at {place}, outside of a matrix of shape {shape}.")
    if not np.isfinite(values).all():
        raise ValueError("values contain NaN or infinite numbers; a product with them means nothing.")
    place, first_of = np.unique(rows * shape[1] + columns, return_index=True)
    row, column = np.divmod(place, shape[1])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=shape[0]))])
    return CSR(indptr, column.astype(np.int32), values[first_of], shape)


@compiled()
def multiply_rows_vector(indptr, indices, data, x, y, first, last):
    """Rows first..last of y = A x: sums of 64 or 16 columns stay in registers while a row's entries pass by."""
    width = x.shape[1]
    for i in range(first, last):
        j = 0
        while j + 64 <= width:
            a = b = c = d = splat_f32(np.float32(0))
            for p in range(indptr[i], indptr[i + 1]):
                v = splat_f32(data[p])
                at = np.int64(indices[p]) * width + j
                a = add_f32(a, mul_f32(v, load_f32x16(x, at)))
                b = add_f32(b, mul_f32(v, load_f32x16(x, at + 16)))
                c = add_f32(c, mul_f32(v, load_f32x16(x, at + 32)))
                d = add_f32(d, mul_f32(v, load_f32x16(x, at + 48)))
            store_f32x16(y, i * width + j, a)
            store_f32x16(y, i * width + j + 16, b)
            store_f32x16(y, i * width + j + 32, c)
            store_f32x16(y, i * width + j + 48, d)
            j += 64
        while j + 16 <= width:
            a = splat_f32(np.float32(0))
            for p in range(indptr[i], indptr[i + 1]):
                at = np.int64(indices[p]) * width + j
                a = add_f32(a, mul_f32(splat_f32(data[p]), load_f32x16(x, at)))
            store_f32x16(y, i * width + j, a)
            j += 16
        while j < width:
            total = np.float32(0)
            for p in range(indptr[i], indptr[i + 1]):
                total += data[p] * x[indices[p], j]
            y[i, j] = total
            j += 1


@compiled()
def multiply_rows_portable(indptr, indices, data, x, y, first, last):
    """The same sums in the same order, without naming a vector."""
    for i in range(first, last):
        row = y[i]
        row[:] = 0
        for p in range(indptr[i], indptr[i + 1]):
            v, source = data[p], x[indices[p]]
            for j in range(x.shape[1]):
                row[j] += v * source[j]


def row_kernel(path: str = "auto") -> Any:
    """Return the compiled loop (indptr, indices, data, x, y, first, last) that computes some rows of y = A x.

    Args:
        path: "auto", "simd" or "portable"; both give the same bits.
    """
    return multiply_rows_vector if simd.choose(path) else multiply_rows_portable


def csr_matmul(
    matrix: CSR, x: NDArray[np.float32], threads: int = 1, path: str = "auto", out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Y = A X, with the entries of a row added in their order.

    Args:
        matrix: (N, K) sparse.
        x: (K,) or (K, width) float32.
        threads: rows are divided among so many threads.
        path: "auto", "simd" or "portable"; both return the same bits.
        out: (N, width) float32, contiguous, to write into.

    Returns:
        (N,) or (N, width) float32.

    Raises:
        ValueError: "x must have 256 rows for this matrix, got shape (128, 4)." or "x contains NaN ..."
    """
    y = multiply(matrix, dense_operand(x, matrix.shape[1]), threads, path, out)
    return y[:, 0] if np.ndim(x) == 1 else y


def multiply(
    matrix: CSR, x: NDArray[np.float32], threads: int = 1, path: str = "auto", out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """`csr_matmul` for an operand (K, width) that `dense_operand` has checked already."""
    y = np.empty((matrix.shape[0], x.shape[1]), np.float32) if out is None else out
    over_blocks(row_kernel(path), (matrix.indptr, matrix.indices, matrix.data, x, y), matrix.shape[0], threads)
    return y


def dense_operand(x: Any, rows: int) -> NDArray[np.float32]:
    """The dense operand (rows,) or (rows, width) as contiguous float32 (rows, width).

    Raises:
        TypeError, ValueError: one sentence on dtype, shape or NaN.
    """
    array = validate._array(x, "x") if not (isinstance(x, np.ndarray) and x.dtype == np.float32) else x
    if array.ndim not in (1, 2) or array.shape[0] != rows or array.size == 0:
        raise ValueError(f"x must have {rows} rows and at least one column for this matrix, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("x contains NaN or infinite values; a product with them means nothing.")
    return np.ascontiguousarray(array, dtype=np.float32).reshape(rows, -1)
