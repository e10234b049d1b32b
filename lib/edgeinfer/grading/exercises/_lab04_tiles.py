"""Lab 4, exercise 4: load a tile as sparse, multiply it as dense.

The oracle makes the whole matrix dense first. Source: flash-llm (tiles with 16-bit places, "load as sparse and compute
as dense").
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns
from edgeinfer.grading.exercises._lab04_csr import sparse


def to_tiles(weight: np.ndarray, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """values, places and tile_starts of a matrix."""
    values: list[float] = []
    places: list[int] = []
    starts = [0]
    for top in range(0, weight.shape[0], tile):
        for left in range(0, weight.shape[1], tile):
            for i, j in np.argwhere(weight[top : top + tile, left : left + tile] != 0):
                values.append(float(weight[top + i, left + j]))
                places.append(int(i) * tile + int(j))
            starts.append(len(values))
    return np.array(values, np.float32), np.array(places, np.uint16), np.array(starts, np.int32)


def _tile_cases(rng: np.random.Generator) -> list[Args]:
    shapes = (
        (8, 8, 4, 2, 0.5), (10, 7, 4, 3, 0.4), (3, 9, 4, 1, 0.6), (5, 5, 8, 2, 0.5), (16, 48, 16, 4, 0.05),
        (9, 8, 4, 3, 1.0), (300, 260, 64, 2, 0.05), (6, 11, 4, 2, 0.0),
    )  # fmt: skip
    cases: list[Args] = []
    for n, k, tile, batch, density in shapes:
        x = rng.normal(size=(batch, k)).astype(np.float32)
        cases.append((*to_tiles(sparse(rng, n, k, density), tile), n, tile, x))
    return cases


def _dense_again(
    values: np.ndarray, places: np.ndarray, tile_starts: np.ndarray, rows: int, tile: int, x: np.ndarray
) -> np.ndarray:
    across = -(-x.shape[1] // tile)
    weight = np.zeros((-(-rows // tile) * tile, across * tile))
    for t in range(len(tile_starts) - 1):
        for i in range(tile_starts[t], tile_starts[t + 1]):
            row, column = divmod(int(places[i]), tile)
            weight[t // across * tile + row, t % across * tile + column] = values[i]
    return x.astype(np.float64) @ weight[:rows, : x.shape[1]].T


def _mistaken(
    values: np.ndarray,
    places: np.ndarray,
    tile_starts: np.ndarray,
    rows: int,
    tile: int,
    x: np.ndarray,
    by_columns: bool = False,
    adds: bool = True,
    clears: bool = True,
    whole_tiles: bool = False,
    down_first: bool = False,
    first_only: bool = False,
    moves: bool = True,
    cut: bool = True,
) -> np.ndarray:
    """Tile by tile, with one screw loose."""
    down, across = -(-rows // tile), -(-x.shape[1] // tile)
    wide = np.zeros((len(x), across * tile))
    wide[:, : x.shape[1]] = x
    y = np.zeros((len(x), down * tile))
    buffer = np.zeros((tile, tile))
    used_down, used_across = (rows // tile, x.shape[1] // tile) if whole_tiles else (down, across)
    for i in range(used_down):
        for j in range(used_across):
            t = j * down + i if down_first else i * across + j
            part = slice(tile_starts[t], tile_starts[t + 1])
            if clears:
                buffer = np.zeros((tile, tile))
            first, second = places[part] // tile, places[part] % tile
            buffer[(second, first) if by_columns else (first, second)] = values[part]
            piece = wide[:, j * tile : (j + 1) * tile] if moves else wide[:, :tile]
            product = piece @ buffer.T * (not first_only or j == 0)
            here = slice(i * tile, (i + 1) * tile)
            y[:, here] = y[:, here] + product if adds else product
    return y[:, :rows] if cut else y


TILES = Exercise(
    name="tile_and_expand_matmul",
    contract="values float32 (nnz,), places uint16 (nnz,): row in the tile * tile + column in the tile, tile_starts "
    "int32 (T + 1,), rows int N, tile int, x float32 (B, K) -> y floating (B, N): x @ W.T; the T = ceil(N / tile) * "
    "ceil(K / tile) tiles come row by row, those at the right and lower edge reach beyond the matrix",
    make_cases=_tile_cases,
    oracle=_dense_again,
    returns=(Returns("y", dtype="floating", rtol=1e-4, atol=1e-4),),
    misconceptions=[
        Misconception(
            "tile-turned-round",
            "Every tile is used the wrong way round. A place is row * tile + column: the row is place // tile, the "
            "column place % tile. And y = x @ W.T: a part of x meets the COLUMNS of the tile, so it is "
            "x_part @ tile.T.",
            produces=partial(_mistaken, by_columns=True),
        ),
        Misconception(
            "overwrites-earlier-tiles",
            "Each output keeps the product of its last tile only. The tiles of one row of tiles are parts of the same "
            "sum: add.",
            produces=partial(_mistaken, adds=False),
        ),
        Misconception(
            "buffer-not-cleared",
            "Numbers of earlier tiles are still in the buffer. Sparse loading writes only the non-zeros: clear the "
            "buffer before each tile.",
            produces=partial(_mistaken, clears=False),
        ),
        Misconception(
            "edge-tiles-dropped",
            "The tiles at the edges are left out. Where the size is no multiple of the tile there is one more, partly "
            "empty tile: round up.",
            produces=partial(_mistaken, whole_tiles=True),
        ),
        Misconception(
            "tiles-down-first",
            "The tiles come row by row: first all tiles of the upper row of tiles, from left to right.",
            produces=partial(_mistaken, down_first=True),
        ),
        Misconception(
            "always-the-first-columns",
            "Every tile meets the first columns of x. A tile that starts at column c meets x[:, c : c + tile].",
            produces=partial(_mistaken, moves=False),
        ),
        Misconception(
            "later-tiles-ignored",
            "Of each row of tiles only the first is used: there are ceil(K / tile) of them, and their products add up.",
            produces=partial(_mistaken, first_only=True),
        ),
        Misconception(
            "overhang-not-cut",
            "The rows with which the last tiles reach beyond the matrix are still there: cut y to `rows` columns.",
            produces=partial(_mistaken, cut=False),
        ),
        Misconception(
            "places-run-over",
            "Wrong where the matrix has more than 65,536 places: `places` is uint16, and arithmetic with it stays in "
            "16 bits. A place is small only inside its tile; convert before you make it one of the whole matrix.",
            recognises=lambda args, got, want: args[3] * args[5].shape[1] > 2**16,
        ),
        Misconception(
            "first-token-for-all",
            "All rows of y are equal: the tile was multiplied by the first token only. The expanded tile serves the "
            "whole batch, that is its profit.",
            produces=lambda *args: np.repeat(_dense_again(*args)[:1], len(args[5]), axis=0),
        ),
    ],
    hint="Expand ONE tile and print it: is every number where `places` says? Then: which rows of x does that tile "
    "meet, and where does its product go?",
    points=3,
)
