"""Sparse formats step by step in NumPy, with the signatures of lab 4: what the lab falls back on and compares with.

Slow and clear; it trusts its arguments. The fast counterparts are `sparse_csr`, `sparse_bitmap` and `sparse_tiled`.
N = output rows, K = input columns, B = tokens. Sources: flash-llm, spinfer, endor, spmm-row-permutation.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BLOCK, TILE, WORD = 4, 64, 64  # side of a block, side of a tile, columns of a mask


def csr_from_dense(weight: Floats) -> tuple[Floats, NDArray[np.int32], NDArray[np.int32]]:
    """Values and columns of what is not zero, row by row, and the N + 1 starts of the rows."""
    rows, columns = (weight != 0).nonzero()
    starts = np.searchsorted(rows, np.arange(weight.shape[0] + 1))
    return weight[rows, columns], columns.astype(np.int32), starts.astype(np.int32)


def csr_matvec(values: Floats, columns: NDArray[np.int32], row_starts: NDArray[np.int32], x: Floats) -> Floats:
    """W x from compressed rows: (N,) float32; x (K,)."""
    rows = np.repeat(np.arange(row_starts.size - 1), np.diff(row_starts))
    return np.bincount(rows, values * x[columns], row_starts.size - 1).astype(np.float32)


def bitmap_pack(weight: Floats) -> tuple[NDArray[np.uint64], Floats]:
    """Masks (N, ceil(K / 64)) uint64, lowest bit first, and the non-zeros row by row."""
    there = np.pad(weight != 0, ((0, 0), (0, -weight.shape[1] % WORD)))
    packed = np.packbits(there, axis=1, bitorder="little")
    return packed.view("<u8").astype(np.uint64), weight[weight != 0]


def bitmap_unpack(masks: NDArray[np.uint64], values: Floats, columns: int) -> Floats:
    """The matrix (N, columns): the place of a number is the count of ones before it."""
    bits = np.unpackbits(masks.astype("<u8").view(np.uint8), axis=1, bitorder="little")[:, :columns]
    before = np.cumsum(bits, dtype=np.int64).reshape(bits.shape) - bits
    return np.where(bits == 1, np.append(values, np.float32(0))[before], np.float32(0))


def format_bytes(rows: int, columns: int, density: float, layout: str) -> float:
    """Expected bytes of a random pattern with bfloat16 values.

    Args:
        rows, columns: of the matrix, multiples of 4.
        density: share of non-zeros.
        layout: "dense", "csr32" or "csr16" (bits of a column number), "blocked" (4 x 4, 32-bit block column), "tiled"
            (64 x 64, 16-bit place), "bitmap" (64 columns a mask).

    Raises:
        ValueError: "layout 'coo' is unknown; choose one of dense, csr32, csr16, blocked, tiled, bitmap."
    """
    weights = rows * columns
    blocks = weights / BLOCK**2 * (1 - (1 - density) ** BLOCK**2)
    tiles = -(-rows // TILE) * -(-columns // TILE)
    parts = {  # bytes of values and places, number of starts
        "dense": (2 * weights, 0),
        "csr32": (6 * density * weights, rows + 1),
        "csr16": (4 * density * weights, rows + 1),
        "blocked": ((2 * BLOCK**2 + 4) * blocks, rows // BLOCK + 1),
        "tiled": (4 * density * weights, tiles + 1),
        "bitmap": (2 * density * weights + 8 * rows * -(-columns // WORD), rows + 1),
    }
    if layout not in parts:
        raise ValueError(f"layout {layout!r} is unknown; choose one of {', '.join(parts)}.")
    stored, starts = parts[layout]
    return float(stored + 4 * starts)


def crossover_density(densities: NDArray[np.float64], cost: NDArray[np.float64], dense_cost: float) -> float:
    """Density at which a sparse cost first reaches the dense one, on straight lines between the points.

    0.0 if it does so at the first point already, the last density if it never does.
    """
    above = np.flatnonzero(np.asarray(cost) >= dense_cost)
    if not above.size:
        return float(densities[-1])
    i = int(above[0])
    return float(np.interp(dense_cost, cost[i - 1 : i + 1], densities[i - 1 : i + 1])) if i else 0.0


def tiles_from_dense(weight: Floats, tile: int) -> tuple[Floats, NDArray[np.uint16], NDArray[np.int32]]:
    """Tiles row by row: values, 16-bit places (row in the tile * tile + column in the tile), T + 1 starts.

    Raises:
        ValueError: "a place in a tile of side 300 does not fit into 16 bits; choose a tile of at most 256."
    """
    if tile > 256:
        raise ValueError(f"a place in a tile of side {tile} does not fit into 16 bits; choose a tile of at most 256.")
    down, across = -(-weight.shape[0] // tile), -(-weight.shape[1] // tile)
    whole = np.zeros((down * tile, across * tile), weight.dtype)
    whole[: weight.shape[0], : weight.shape[1]] = weight
    cells = whole.reshape(down, tile, across, tile).swapaxes(1, 2).reshape(down * across, tile * tile)
    numbers, places = (cells != 0).nonzero()
    starts = np.searchsorted(numbers, np.arange(len(cells) + 1))
    return cells[numbers, places], places.astype(np.uint16), starts.astype(np.int32)


def tile_and_expand_matmul(
    values: Floats, places: NDArray[np.uint16], tile_starts: NDArray[np.int32], rows: int, tile: int, x: Floats
) -> Floats:
    """x W^T for x (B, K): each tile is made dense in a buffer and meets the whole batch; (B, rows) float32."""
    down, across = -(-rows // tile), -(-x.shape[1] // tile)
    parts = np.pad(x, ((0, 0), (0, across * tile - x.shape[1]))).reshape(len(x), across, tile)
    out = np.zeros((down, tile, len(x)), np.float32)
    buffer = np.empty(tile * tile, np.float32)
    for t in range(down * across):
        here = slice(tile_starts[t], tile_starts[t + 1])
        buffer.fill(0)
        buffer[places[here]] = values[here]
        out[t // across] += buffer.reshape(tile, tile) @ parts[:, t % across].T
    return np.ascontiguousarray(out.reshape(down * tile, len(x))[:rows].T)


def touched_blocks(pattern: NDArray[np.bool_], block_rows: int, block_columns: int) -> int:
    """How many blocks hold at least one non-zero; blocks at the edges may be cut."""
    rows = np.logical_or.reduceat(pattern, np.arange(0, pattern.shape[0], block_rows), axis=0)
    return int(np.logical_or.reduceat(rows, np.arange(0, pattern.shape[1], block_columns), axis=1).sum())


def permute_rows(
    pattern: NDArray[np.bool_], block_rows: int, block_columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows chained by similar column blocks, and the permutation that undoes it.

    Args:
        pattern: (N, K), where the non-zeros are.
        block_rows: height of a block; the chain does not depend on it.
        block_columns: width of a block.

    Returns:
        order (N,) and undo (N,): pattern[order] touches few blocks, order[undo] is 0, 1, 2, ...
    """
    blocks = np.logical_or.reduceat(pattern, np.arange(0, pattern.shape[1], block_columns), axis=1).astype(np.float32)
    size = blocks.sum(1)
    order = np.zeros(len(blocks), np.int64)
    free = np.ones(len(blocks), bool)
    free[0] = False
    for step in range(1, len(blocks)):
        last = order[step - 1]
        shared = blocks @ blocks[last]
        similarity = shared / np.maximum(size + size[last] - shared, 1)
        order[step] = np.where(free, similarity, -1).argmax()
        free[order[step]] = False
    return order, np.argsort(order)
