"""An order of rows for SpMM that is chosen, not searched at length: a learned predictor picks one of some cheap orders.

Knows how each order is made and what making it costs, never for nothing; the score is exact, the misses of an ideal
cache that holds some rows of the dense operand. The predictor looks at samples of rows only. Source:
spmm-row-permutation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.reuse import misses
from edgeinfer.kernels.simd import compiled
from edgeinfer.kernels.spmm import CSR

SHARES = (0.25, 0.5, 1.0, 2.0)  # of the cache: where a sampled run of rows is looked at


def _as_is(matrix: CSR) -> NDArray[np.int64]:
    return np.arange(matrix.shape[0])


def _by_length(matrix: CSR) -> NDArray[np.int64]:
    return np.argsort(-matrix.row_lengths, kind="stable")


def _per_row(matrix: CSR, values: NDArray, reduce: np.ufunc, empty: float) -> NDArray:
    """`reduce` over the entries of each row; `empty` for a row without any."""
    result = np.full(matrix.shape[0], empty, np.float64)
    filled = matrix.row_lengths > 0
    if filled.any():
        result[filled] = reduce.reduceat(values, matrix.indptr[:-1][filled])
    return result


def _by_first_column(matrix: CSR) -> NDArray[np.int64]:
    return np.argsort(_per_row(matrix, matrix.indices, np.minimum, np.inf), kind="stable")


def _by_mean_column(matrix: CSR) -> NDArray[np.int64]:
    total = _per_row(matrix, matrix.indices.astype(np.float64), np.add, np.inf)
    return np.argsort(total / np.maximum(matrix.row_lengths, 1), kind="stable")


def _by_pattern(matrix: CSR) -> NDArray[np.int64]:
    """Min-hash: two rows get the same number with the probability of their overlap, so like rows come together."""
    rng = np.random.default_rng(0)
    keys = [_per_row(matrix, rng.permutation(matrix.shape[1])[matrix.indices], np.minimum, np.inf) for _ in range(3)]
    return np.lexsort(keys[::-1])


@compiled()
def _breadth_first(indptr, indices, column_start, column_rows, starts, order):
    """Rows in the order in which a walk over shared columns meets them."""
    seen_row = np.zeros(indptr.size - 1, np.uint8)
    seen_column = np.zeros(column_start.size - 1, np.uint8)
    head = tail = 0
    for start in starts:
        if seen_row[start]:
            continue
        seen_row[start] = 1
        order[tail] = start
        tail += 1
        while head < tail:
            row = order[head]
            head += 1
            for p in range(indptr[row], indptr[row + 1]):
                column = indices[p]
                if seen_column[column]:
                    continue
                seen_column[column] = 1
                for q in range(column_start[column], column_start[column + 1]):
                    if not seen_row[column_rows[q]]:
                        seen_row[column_rows[q]] = 1
                        order[tail] = column_rows[q]
                        tail += 1


def _by_walk(matrix: CSR) -> NDArray[np.int64]:
    """Breadth first from the shortest row, as Cuthill and McKee do for bands."""
    by_column = np.argsort(matrix.indices, kind="stable")
    column_start = np.concatenate([[0], np.cumsum(np.bincount(matrix.indices, minlength=matrix.shape[1]))])
    lengths = matrix.row_lengths
    starts = np.argsort(np.where(lengths > 0, lengths, np.iinfo(np.int64).max), kind="stable")
    order = np.empty(matrix.shape[0], np.int64)
    rows = matrix.row_numbers[by_column]
    _breadth_first(matrix.indptr, matrix.indices, column_start, rows, starts, order)
    return order


# name -> the order, and how many bytes of an entry are read or written to make it (sorting rows comes on top)
ORDERS: dict[str, tuple[Callable[[CSR], NDArray[np.int64]], int]] = {
    "as is": (_as_is, 0),
    "by length": (_by_length, 0),
    "by first column": (_by_first_column, 4),
    "by mean column": (_by_mean_column, 4),
    "by pattern": (_by_pattern, 3 * 8),
    "by walk": (_by_walk, 4 * 8),
}


def order_rows(matrix: CSR, name: str) -> NDArray[np.int64]:
    """The order of a candidate: (N,) int64, order[i] is the row that comes at place i.

    Raises:
        ValueError: "order 'by magic' is unknown; choose one of as is, by length, ..."
    """
    if name not in ORDERS:
        raise ValueError(f"order {name!r} is unknown; choose one of {', '.join(ORDERS)}.")
    return ORDERS[name][0](matrix)


def cost_bytes(matrix: CSR, name: str) -> int:
    """Bytes that a permutation moves before the first product: keys, a sort of the rows, the matrix written anew."""
    if name == "as is":
        return 0
    rows = matrix.shape[0]
    sort = rows * 16 * max(1, int(rows - 1).bit_length())  # a key and a number, once for each level of a merge sort
    return ORDERS[name][1] * matrix.entries + sort + 2 * matrix.nbytes + 8 * rows


def sample_features(
    matrix: CSR, order: NDArray[np.int64], capacity: int, samples: int = 48, seed: int = 0
) -> NDArray[np.float64]:
    """What the predictor sees of an order: how fast runs of rows fill a part of the cache with columns.

    From some rows on, rows are read in the order until their columns would fill a share of the cache; the logarithm of
    columns over entries says how little is used again. Measured in caches, not in rows, it means the same for matrices
    and caches of any size.

    Args:
        matrix: sparse, in its own order.
        order: (N,) the order to look at.
        capacity: rows of the dense operand that fit into the cache.
        samples: runs that are read.
        seed: which runs.

    Returns:
        (1 + len(SHARES),) float64, the first one is 1.
    """
    rng = np.random.default_rng(seed)
    upto = np.cumsum(matrix.row_lengths[order])
    # drawn by entries, not by rows: a long row has as large a share of the sample as of the work
    starts = np.searchsorted(upto, rng.integers(0, max(1, matrix.entries), samples), side="right")
    fresh = np.zeros(len(SHARES))
    for start in starts:
        seen: set[int] = set()
        used = reached = 0
        for row in order[start:]:
            columns = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]].tolist()
            used += len(columns)
            seen.update(columns)
            while reached < len(SHARES) and len(seen) >= SHARES[reached] * capacity:
                fresh[reached] += len(seen) / max(1, used)
                reached += 1
            if reached == len(SHARES):
                break
        fresh[reached:] += len(seen) / max(1, used)  # the rows came to an end: all their columns fit
    return np.array([1.0, *np.log(np.maximum(fresh / samples, 1e-6))])


@dataclass(frozen=True)
class Chosen:
    """A permuted matrix and what it took.

    Attributes:
        name: of the order.
        order: (N,) int64; row i of `matrix` is row order[i] of the given one.
        matrix: permuted.
        cost_bytes: moved once, to choose and to permute.
    """

    name: str
    order: NDArray[np.int64]
    matrix: CSR
    cost_bytes: int

    def restore(self, y: NDArray) -> NDArray:
        """Put the rows of a product back into their own order."""
        back = np.empty_like(y)
        back[self.order] = y
        return back


@dataclass(frozen=True)
class Chooser:
    """A linear predictor of log misses per entry; `learn` makes it.

    Attributes:
        weights: (features,) float64.
        capacity: rows of the dense operand that fit into the cache.
    """

    weights: NDArray[np.float64]
    capacity: int

    def predict(self, matrix: CSR) -> dict[str, float]:
        """Predicted misses per entry of each order; only samples of rows are looked at."""
        return {
            name: float(np.exp(sample_features(matrix, order_rows(matrix, name), self.capacity) @ self.weights))
            for name in ORDERS
        }

    def choose(self, matrix: CSR, least_gain: float = 0.05) -> Chosen:
        """Permute by the order of fewest predicted misses; a gain below `least_gain` is not worth moving the matrix.

        All orders are made in order to be sampled, so the keys and sorts of all of them are counted.
        """
        predicted = self.predict(matrix)
        name = min(predicted, key=lambda n: predicted[n])
        if predicted[name] > (1 - least_gain) * predicted["as is"]:
            name = "as is"
        looking = sum(cost_bytes(matrix, n) - 2 * matrix.nbytes for n in ORDERS if n != "as is")
        order = order_rows(matrix, name)
        permuted = matrix if name == "as is" else matrix.permute_rows(order)
        moved = 0 if name == "as is" else 2 * matrix.nbytes
        return Chosen(name, order, permuted, looking + moved)


def learn(matrices: Sequence[CSR], capacity: int, ridge: float = 1e-2) -> Chooser:
    """Learn from matrices whose misses are counted exactly under every order.

    Args:
        matrices: examples of the patterns to come.
        capacity: rows of the dense operand that fit into the cache.
        ridge: penalty of the least-squares fit.

    Raises:
        ValueError: "learn needs at least one matrix with an entry."
    """
    inputs, targets = [], []
    for matrix in matrices:
        for name in ORDERS if matrix.entries else ():
            order = order_rows(matrix, name)
            count = misses(matrix.permute_rows(order).indices, capacity)
            inputs.append(sample_features(matrix, order, capacity))
            targets.append(np.log(max(count, 1) / matrix.entries))
    if not inputs:
        raise ValueError("learn needs at least one matrix with an entry.")
    a, b = np.array(inputs), np.array(targets)
    weights = np.linalg.solve(a.T @ a + ridge * np.eye(a.shape[1]), a.T @ b)
    return Chooser(weights, capacity)


def count_misses(matrix: CSR, capacity: int) -> dict[str, int]:
    """Exact misses of the dense operand's rows under every order: the oracle that the predictor is held against."""
    return {name: misses(matrix.permute_rows(order_rows(matrix, name)).indices, capacity) for name in ORDERS}


def products_to_repay(moved_bytes: float, misses_before: int, misses_after: int, width: int) -> float:
    """Products after which fewer misses have repaid the permutation's bytes; infinite where nothing is saved.

    Args:
        moved_bytes: `Chosen.cost_bytes`.
        misses_before, misses_after: rows of the dense operand fetched by one product.
        width: columns of the dense operand (float32).
    """
    saved = 4.0 * width * (misses_before - misses_after)
    return moved_bytes / saved if saved > 0 else float("inf")
