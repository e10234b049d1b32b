"""Hybrid SpMM by row windows: condense a window's columns, then let a small learned rule choose its unit.

Knows windows of neighbouring rows, two units (BLAS on the condensed window, vector code on its entries) and a logistic
regression on density and width. A condensed column keeps its number in a list: whoever forgets to translate it reads a
wrong row of the dense operand. On the GPU of the paper the units are tensor cores and CUDA cores. Source: hc-spmm.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import spmm
from edgeinfer.kernels.spmm import CSR, dense_operand


@dataclass(frozen=True)
class Windows:
    """Row windows with their columns condensed.

    Attributes:
        height: rows of a window; the last may have fewer.
        starts: (windows + 1,) int64; columns[starts[w] : starts[w + 1]] belong to window w.
        columns: the columns in which a window has an entry, ascending, window after window.
        local: (entries,) int64, for each entry of the matrix its column's place among those of its window.
        entries: (windows,) int64.
        shape: (N, K).
    """

    height: int
    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    local: NDArray[np.int64]
    entries: NDArray[np.int64]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def widths(self) -> NDArray[np.int64]:
        """(windows,) condensed columns."""
        return np.diff(self.starts)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(windows,) rows."""
        return np.minimum(self.height, self.shape[0] - self.height * np.arange(len(self)))

    @property
    def density(self) -> NDArray[np.float64]:
        """(windows,) entries over places of the condensed window; 0 for an empty one."""
        return self.entries / np.maximum(self.rows * self.widths, 1)


def condense(matrix: CSR, height: int = 16) -> Windows:
    """Cut a matrix into row windows and number the columns of each anew, without those that are empty there.

    Raises:
        ValueError: "height must be at least one row, got 0."
    """
    if height < 1:
        raise ValueError(f"height must be at least one row, got {height}.")
    count = -(-matrix.shape[0] // height)
    window = matrix.row_numbers // height
    pairs, local = np.unique(window * matrix.shape[1] + matrix.indices, return_inverse=True)
    owner, column = np.divmod(pairs, matrix.shape[1])
    starts = np.searchsorted(owner, np.arange(count + 1))
    return Windows(
        height,
        starts,
        column.astype(np.int32),
        local.reshape(-1) - starts[window],
        np.bincount(window, minlength=count),
        matrix.shape,
    )


def features(windows: Windows) -> NDArray[np.float64]:
    """(windows, 2): density of the condensed window, and the logarithm of its condensed columns."""
    return np.stack([windows.density, np.log2(np.maximum(windows.widths, 1))], axis=1)


@dataclass(frozen=True)
class Rule:
    """Logistic regression: the dense unit where weights * (features - mean) / scale + bias is above 0."""

    weights: NDArray[np.float64]
    bias: float
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def score(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-odds that the dense unit is the faster one."""
        return (values - self.mean) / self.scale @ self.weights + self.bias


def fit_rule(
    values: NDArray[np.float64],
    dense_is_faster: NDArray[np.bool_],
    importance: NDArray[np.float64] | None = None,
    ridge: float = 1e-2,
    steps: int = 50,
) -> Rule:
    """Fit the rule by Newton's method.

    Args:
        values: (windows, features).
        dense_is_faster: (windows,) bool.
        importance: (windows,) what a wrong choice costs; None: all windows count alike.
        ridge: keeps the weights finite where one line separates the windows.
        steps: of Newton's method, at most.

    Raises:
        ValueError: "fit_rule needs at least one window." or "values and labels must belong together, got ..."
    """
    values, label = np.asarray(values, np.float64), np.asarray(dense_is_faster, np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError("fit_rule needs at least one window.")
    if label.shape != values.shape[:1]:
        raise ValueError(f"values and labels must belong together, got {values.shape} and {label.shape}.")
    counted = np.ones(len(label)) if importance is None else np.asarray(importance, np.float64)
    counted = counted / max(counted.mean(), 1e-30)
    mean, scale = values.mean(0), np.maximum(values.std(0), 1e-9)
    inputs = np.column_stack([(values - mean) / scale, np.ones(len(values))])
    weights = np.zeros(inputs.shape[1])
    penalty = ridge * np.eye(inputs.shape[1]) * len(label) / 10
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        slope = inputs.T @ (counted * (chance - label)) + penalty @ weights
        curve = (inputs * (counted * chance * (1 - chance))[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curve, slope)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return Rule(weights[:-1], float(weights[-1]), mean, scale)


def choose_units(windows: Windows, rule: Rule) -> NDArray[np.bool_]:
    """For each window whether the dense unit takes it; an empty window is left to the other, which skips it."""
    return (rule.score(features(windows)) > 0) & (windows.entries > 0)


@dataclass(frozen=True)
class HybridWindows:
    """A matrix prepared for both units.

    Attributes:
        blocks: (first row, condensed columns, dense block) of each window of the dense unit.
        rest: the entries of all other windows.
        shape: (N, K).
    """

    blocks: list[tuple[int, NDArray[np.int32], NDArray[np.float32]]]
    rest: CSR
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads of this matrix."""
        return self.rest.nbytes + sum(block.nbytes + columns.nbytes for _, columns, block in self.blocks)


def prepare(matrix: CSR, windows: Windows, dense: NDArray[np.bool_]) -> HybridWindows:
    """Store the windows of the dense unit as condensed blocks, the others as CSR.

    Args:
        matrix: that was condensed.
        windows: of `condense`.
        dense: (windows,) bool, as `choose_units` returns it.
    """
    rows = matrix.row_numbers
    blocks = []
    for w in np.flatnonzero(dense):
        first = int(w) * windows.height
        block = np.zeros((windows.rows[w], windows.widths[w]), np.float32)
        here = slice(matrix.indptr[first], matrix.indptr[first + len(block)])
        block[rows[here] - first, windows.local[here]] = matrix.data[here]
        blocks.append((first, windows.columns[windows.starts[w] : windows.starts[w + 1]], block))
    return HybridWindows(blocks, matrix.select(~dense[rows // windows.height]), matrix.shape)


def hc_matmul(matrix: HybridWindows, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Y = A X: entries by vector code, condensed windows by BLAS on the gathered rows of x.

    Args:
        matrix: of `prepare`.
        x: (K,) or (K, width) float32.

    Returns:
        (N,) or (N, width) float32.
    """
    x2 = dense_operand(x, matrix.shape[1])
    y = spmm.multiply(matrix.rest, x2)
    for first, columns, block in matrix.blocks:
        np.matmul(block, x2.take(columns, axis=0), out=y[first : first + len(block)])
    return y[:, 0] if np.ndim(x) == 1 else y


def time_units(
    matrix: CSR, windows: Windows, x: NDArray[np.float32], repeats: int = 5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measured seconds of every window on the dense unit and on vector code, the shortest of some interleaved runs.

    Args:
        matrix, windows: as of `condense`.
        x: (K, width) float32.
        repeats: runs of each.
    """
    x2 = dense_operand(x, matrix.shape[1])
    y = np.empty((matrix.shape[0], x2.shape[1]), np.float32)
    kernel = spmm.row_kernel()
    blocks = prepare(matrix, windows, np.ones(len(windows), bool)).blocks
    kernel(matrix.indptr, matrix.indices, matrix.data, x2, y, 0, 1)
    best = np.full((2, len(windows)), np.inf)
    for _ in range(repeats):
        for w, (first, columns, block) in enumerate(blocks):
            start = time.perf_counter()
            np.matmul(block, x2.take(columns, axis=0), out=y[first : first + len(block)])
            middle = time.perf_counter()
            kernel(matrix.indptr, matrix.indices, matrix.data, x2, y, first, first + len(block))
            end = time.perf_counter()
            best[:, w] = np.minimum(best[:, w], (middle - start, end - middle))
    return best[0], best[1]


def training_windows(count: int = 96, height: int = 32, nodes: int = 2048, seed: int = 0) -> CSR:
    """A matrix of `count` windows whose density and width cover what graphs bring: what a rule is fitted on."""
    rng = np.random.default_rng(seed)
    rows, columns = [], []
    for w in range(count):
        width = int(2 ** rng.uniform(3, np.log2(min(nodes, 512))))
        density = 2 ** rng.uniform(-6, 0) if w % 2 else rng.uniform(0.2, 1)
        chosen = rng.choice(nodes, width, replace=False)
        row, place = np.nonzero(rng.random((height, width)) < density)
        rows.append(row + w * height)
        columns.append(chosen[place])
    row, column = np.concatenate(rows), np.concatenate(columns)
    values = rng.standard_normal(len(row)).astype(np.float32)
    return spmm.from_coordinates(row, column, values, (count * height, nodes))
