"""Structured sparsity step by step in NumPy, with the signatures of lab 5: what the lab falls back on and compares to.

Slow and clear; it trusts its arguments. The fast counterparts are `n_m`, `n_m_permutation`, `hierarchical`, `hot_tiles`
and `hc_spmm`. N = output rows, K = input columns. Sources: hierarchical-nm, hottiles, hc-spmm.
"""

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import hot_tiles, n_m_permutation
from edgeinfer.kernels.n_m import prune_n_m

__all__ = [
    "assign_tiles",
    "choose_units",
    "condense_window",
    "hierarchical_n_m",
    "matvec_2_4",
    "pack_2_4",
    "permute_mlp",
    "prune_n_m",
    "search_permutation",
]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def pack_2_4(weight: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """Two of every four columns as values, and their places in two bits, four to a byte, first one lowest.

    Args:
        weight: (N, K) float32, at most two non-zeros in every four columns; 8 divides K.

    Returns:
        values (N, K // 2) float32 and positions (N, K // 8) uint8; the two places of a run ascend and differ.
    """
    runs = weight.reshape(len(weight), -1, 4)
    there = runs != 0
    rank = np.cumsum(there, axis=2) + np.cumsum(~there, axis=2) * 4 - 4 * there  # non-zeros before zeros, left to right
    places = np.sort(np.argsort(np.where(there, rank - 8, rank), axis=2, kind="stable")[:, :, :2], axis=2)
    values = np.take_along_axis(runs, places, axis=2).reshape(len(weight), -1)
    bits = np.unpackbits(places.astype(np.uint8)[..., None], axis=3, bitorder="little")[..., :2]
    return values, np.packbits(bits.reshape(len(weight), -1), axis=1, bitorder="little")


def matvec_2_4(values: Floats, positions: NDArray[np.uint8], x: Floats) -> Floats:
    """y (N,) = W x from `pack_2_4`'s values and positions; x (K,)."""
    bits = np.unpackbits(positions, axis=1, bitorder="little").reshape(*values.shape, 2)
    column = bits @ np.array([1, 2]) + np.repeat(np.arange(0, x.size, 4), 2)
    return np.einsum("nk,nk->n", values, x[column])


def search_permutation(weight: Floats) -> Integers:
    """An order of the columns in which 2:4 keeps much: (K,) int64, column j of the new order is permutation[j]."""
    return n_m_permutation.search_permutation(np.abs(weight), 2, 4).columns[0]


def permute_mlp(gate: Floats, up: Floats, down: Floats, permutation: Integers) -> tuple[Floats, Floats, Floats]:
    """The same MLP with its hidden neurons in another order: rows of gate and up (M, H), columns of down (H, M)."""
    return gate[permutation], up[permutation], down[:, permutation]


def hierarchical_n_m(weight: Floats, height: int, keep: int, n: int, m: int) -> tuple[Integers, Floats]:
    """In each band of rows the `keep` columns of largest magnitude, side by side, then n of every m in each row.

    Args:
        weight: (N, K) float32.
        height: rows of a band; divides N.
        keep: columns that stay in a band; m divides it.
        n, m: of every m weights n stay.

    Returns:
        columns (N // height, keep) int64, ascending, and values (N, keep) float32.
    """
    bands = weight.reshape(-1, height, weight.shape[1])
    columns = n_m_permutation.kept_columns(np.abs(bands).sum(axis=1, dtype=np.float64), keep)
    pieces = np.concatenate([band[:, chosen] for band, chosen in zip(bands, columns, strict=True)])
    return columns, prune_n_m(pieces, n, m)


def assign_tiles(
    times_hot: NDArray[np.float64],
    times_cold: NDArray[np.float64],
    bytes_hot: NDArray[np.float64],
    bytes_cold: NDArray[np.float64],
    bandwidth: float,
) -> NDArray[np.bool_]:
    """True for each tile that the hot worker takes; (T,) vectors, any one unit of time, bandwidth in bytes per unit."""
    return hot_tiles.assign(times_hot, times_cold, bytes_hot, bytes_cold, bandwidth).hot


def condense_window(
    row_starts: Integers, column_indices: Integers, values: Floats, width: int
) -> tuple[Integers, Floats]:
    """The columns of a window of sparse rows that hold something, side by side, filled up to a multiple of `width`.

    Args:
        row_starts: (R + 1,), row r owns the entries row_starts[r] to row_starts[r + 1] - 1.
        column_indices, values: (Z,).
        width: columns of a block.

    Returns:
        columns (P,), 0 where filled up, and block (R, P) float32: block @ X[columns] is the window times X.
    """
    used = np.flatnonzero(np.bincount(column_indices, minlength=1))
    columns = np.zeros(-(-used.size // width) * width, np.int64)
    columns[: used.size] = used
    block = np.zeros((row_starts.size - 1, columns.size), np.float32)
    rows = np.searchsorted(row_starts, np.arange(values.size), side="right") - 1
    block[rows, np.searchsorted(used, column_indices)] = values
    return columns, block


def choose_units(
    row_starts: Integers,
    column_indices: Integers,
    height: int,
    width: int,
    us_per_block: float,
    us_per_non_zero: float,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The cheaper unit of each window of `height` rows: dense flags (N // height,) and the predicted microseconds."""
    edges = row_starts[::height]
    window = np.repeat(np.arange(edges.size - 1), np.diff(edges))
    owners = np.unique(np.stack([window, column_indices], axis=1), axis=0)[:, 0]
    blocks = -(-np.bincount(owners, minlength=edges.size - 1) // width)
    costs = np.stack([np.diff(edges) * us_per_non_zero, blocks * us_per_block])
    return costs[1] < costs[0], costs.min(axis=0)
