"""Merging as a path through a grid, cut by diagonals into parts of equal length; and sparse products divided that way.

A cut is found by binary search and needs no other part. It knows nothing of how fast a step is.
Source: gpu-merge-path for merging; the product takes "entries" and "ends of rows" as its two sorted lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import spmm
from edgeinfer.kernels.simd import compiled
from edgeinfer.kernels.spmm import CSR
from edgeinfer.kernels.threads import over_blocks


@compiled()
def _cut(a, b, diagonal):
    """How many of the first `diagonal` merged elements come from a; at equal keys a goes first."""
    low, high = max(0, diagonal - len(b)), min(diagonal, len(a))
    while low < high:
        middle = (low + high) // 2
        if a[middle] <= b[diagonal - middle - 1]:
            low = middle + 1
        else:
            high = middle
    return low


@compiled()
def _merge_parts(a, b, out, points, first, last):
    for part in range(first, last):
        i, j = points[part, 0], points[part, 1]
        for at in range(i + j, points[part + 1, 0] + points[part + 1, 1]):
            if j >= len(b) or (i < len(a) and a[i] <= b[j]):
                out[at] = a[i]
                i += 1
            else:
                out[at] = b[j]
                j += 1


def _sorted_list(values: Any, name: str) -> NDArray:
    array = np.ascontiguousarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be a list of numbers, got shape {array.shape}.")
    if array.size and array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold numbers, got dtype {array.dtype}.")
    if not bool((array[1:] >= array[:-1]).all()):  # also refuses NaN, which has no place in an order
        raise ValueError(f"{name} must be sorted in ascending order; sort it first.")
    return array


def _positive(parts: int) -> int:
    if isinstance(parts, bool) or not isinstance(parts, int | np.integer) or parts < 1:
        raise ValueError(f"parts must be a positive integer, got {parts!r}.")
    return int(parts)


def merge_points(a: Any, b: Any, parts: int) -> NDArray[np.int64]:
    """The points where diagonals cut the merge path of two sorted lists.

    Args:
        a, b: sorted lists; at equal keys `a` goes first.
        parts: how many.

    Returns:
        (parts + 1, 2) int64: elements of a and of b that stand before each cut; parts differ by at most one step.

    Raises:
        ValueError: "a must be sorted in ascending order; sort it first." or "parts must be a positive integer, ..."
    """
    first, second = _common(_sorted_list(a, "a"), _sorted_list(b, "b"))
    total, parts = len(first) + len(second), _positive(parts)
    points = np.empty((parts + 1, 2), np.int64)
    for part in range(parts + 1):
        diagonal = part * total // parts
        points[part, 0] = _cut(first, second, diagonal)
        points[part, 1] = diagonal - points[part, 0]
    return points


def _common(a: NDArray, b: NDArray) -> tuple[NDArray, NDArray]:
    # An empty Python list is float64 to NumPy; the other list then decides. Mixed integers would compare as floats.
    dtype = b.dtype if not a.size else a.dtype if not b.size else np.result_type(a, b)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


def merge_sorted(a: Any, b: Any, parts: int = 1, threads: int = 1) -> NDArray:
    """Merge two sorted lists, part by part; the parts need nothing of one another.

    Args:
        a, b: sorted lists of numbers; at equal keys those of `a` go first.
        parts: pieces of equal length.
        threads: at most so many work at once.

    Returns:
        (len(a) + len(b),) the merged list.

    Raises:
        ValueError: as `merge_points`.

    Source: gpu-merge-path.
    """
    points = merge_points(a, b, parts)
    first, second = _common(np.ascontiguousarray(a), np.ascontiguousarray(b))
    out = np.empty(len(first) + len(second), first.dtype)
    over_blocks(_merge_parts, (first, second, out, points), len(points) - 1, threads)
    return out


# ---------------------------------------------------------------- sparse products


def _offsets(row_offsets: Sequence[int] | NDArray) -> NDArray[np.int64]:
    offsets = np.asarray(row_offsets)
    if offsets.ndim != 1 or offsets.size == 0 or offsets.dtype.kind not in "iu":
        raise ValueError(f"row_offsets must be a list of rows + 1 integers, got shape {offsets.shape}.")
    if offsets[0] != 0 or bool((np.diff(offsets.astype(np.int64)) < 0).any()):
        raise ValueError("row_offsets must start at 0 and never fall.")
    return offsets.astype(np.int64)


def merge_path_split(row_offsets: Sequence[int] | NDArray, parts: int) -> list[tuple[int, int]]:
    """Divide a sparse matrix so that every part has the same number of entries and ends of rows together.

    Args:
        row_offsets: (rows + 1,) integers of CSR; rows may be empty.
        parts: how many.

    Returns:
        parts + 1 points (row, entry), from (0, 0) to (rows, entries). A part may begin and end inside a row.

    Raises:
        ValueError: "row_offsets must start at 0 and never fall." or "parts must be a positive integer, got 0."
    """
    offsets, parts = _offsets(row_offsets), _positive(parts)
    # A row ends after its entries and the ends of the rows before it: its end is step number offset + row.
    ends = offsets[1:] + np.arange(len(offsets) - 1)
    diagonals = np.arange(parts + 1) * (len(ends) + int(offsets[-1])) // parts
    rows = np.searchsorted(ends, diagonals, side="left")
    return list(zip(rows.tolist(), (diagonals - rows).tolist(), strict=True))


def row_split(row_offsets: Sequence[int] | NDArray, parts: int) -> list[tuple[int, int]]:
    """The usual division: every part the same number of rows, whatever they hold. As `merge_path_split`."""
    offsets, parts = _offsets(row_offsets), _positive(parts)
    rows = [part * (len(offsets) - 1) // parts for part in range(parts + 1)]
    return [(row, int(offsets[row])) for row in rows]


def steps(points: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """(parts,) the steps of each part: entries and ends of rows."""
    return np.diff(np.asarray(points, np.int64).sum(1))


def imbalance(points: Sequence[tuple[int, int]]) -> float:
    """Steps of the longest part over the mean: how many times longer all wait than they would have to (1 is even)."""
    work = steps(points)
    return float(work.max() / work.mean()) if work.sum() else 1.0


def merge_spmm(
    matrix: CSR, x: Any, parts: int = 2, threads: int = 1, path: str = "auto", points: Any = None
) -> NDArray[np.float32]:
    """Y = A X in parts of equal work; a row that is cut is put together afterwards from its pieces.

    Args:
        matrix: (N, K) sparse.
        x: (K,) or (K, width) float32, finite.
        parts: pieces; the result depends on them (order of sums) and not on `threads`.
        threads: at most so many work at once.
        path: "auto", "simd" or "portable".
        points: another division, such as `row_split`; default `merge_path_split`.

    Returns:
        (N,) or (N, width) float32.

    Raises:
        ValueError: "x must have 256 rows for this matrix, ..." or as `merge_path_split`.
    """
    operand = spmm.dense_operand(x, matrix.shape[1])
    cuts = merge_path_split(matrix.indptr, parts) if points is None else list(points)
    kernel = spmm.row_kernel(path)
    y = np.empty((matrix.shape[0], operand.shape[1]), np.float32)
    carried = np.zeros((len(cuts) - 1, operand.shape[1]), np.float32)

    def run(first: int, last: int) -> None:
        for part in range(first, last):
            _one_part(kernel, matrix, operand, y, carried[part : part + 1], cuts[part], cuts[part + 1])

    over_blocks(run, (), len(cuts) - 1, threads)
    for part, (row, _) in enumerate(cuts[1:]):  # one sum for each part, however large the matrix
        if row < matrix.shape[0]:
            y[row] += carried[part]
    return y[:, 0] if np.ndim(x) == 1 else y


def _one_part(kernel, matrix, x, y, carried, start, stop) -> None:
    """Rows that end in this part are stored; what it has of the row that is left open goes into `carried`."""
    (row, entry), (last_row, last_entry) = start, stop
    indptr = matrix.indptr
    if row < last_row and entry > indptr[row]:  # the rest of a row that an earlier part began
        rest = np.array([entry, indptr[row + 1]])
        kernel(rest, matrix.indices, matrix.data, x, y[row : row + 1], 0, 1)
        row, entry = row + 1, int(indptr[row + 1])
    if row < last_row:
        kernel(indptr, matrix.indices, matrix.data, x, y, row, last_row)
        entry = int(indptr[last_row])
    if last_entry > entry:
        kernel(np.array([entry, last_entry]), matrix.indices, matrix.data, x, carried, 0, 1)
