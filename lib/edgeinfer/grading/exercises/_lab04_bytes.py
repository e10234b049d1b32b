"""Lab 4, exercise 3: what a format costs in bytes, and the density up to which it pays.

The oracles add up whole matrices or search by halving. Sources: flash-llm and spinfer (the sizes of CSR, of tiles with
16-bit places and of bitmaps), endor.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

LAYOUTS = ("dense", "csr32", "csr16", "blocked", "tiled", "bitmap")

# ---------------------------------------------------------------- 3a. format_bytes


def _byte_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = [(64, 256, 0.25, layout) for layout in LAYOUTS]
    cases += [(8, 100, 0.5, layout) for layout in LAYOUTS]
    cases += [(130 * 2, 68, 0.0625, layout) for layout in ("bitmap", "tiled", "blocked", "csr16")]
    side = 64 * int(rng.integers(2, 60))
    cases += [(side, 2 * side, 0.125, layout) for layout in LAYOUTS]
    return [*cases, (16, 64, 0.0, "csr32"), (16, 64, 0.0, "bitmap"), (12, 20, 1.0, "blocked"), (4, 64, 1.0, "bitmap")]


@dataclass(frozen=True)
class _Sizes:
    """Bytes of the parts; one of them changed makes a mistake."""

    value: float = 2
    index: bool = True
    starts: float = 4
    end: int = 1
    word: float = 8
    round_up: bool = True
    mask_for_all: bool = False
    power: int = 16
    block_values: float = 16
    block_starts_of_rows: bool = False
    fraction: str = "stored"
    extra_rows: bool = True


def _size(rows: int, columns: int, density: float, layout: str, sizes: _Sizes = _Sizes()) -> float:
    if sizes.fraction == "zeros":
        density = 1 - density
    numbers = density * rows * columns
    if layout == "dense":
        return sizes.value * rows * columns
    row_starts = sizes.starts * (rows + sizes.end) * sizes.extra_rows
    if layout.startswith("csr"):
        return numbers * (sizes.value + sizes.index * (4 if layout == "csr32" else 2)) + row_starts
    if layout == "tiled":
        tiles = -(-rows // 64) * -(-columns // 64) if sizes.round_up else rows // 64 * (columns // 64)
        return numbers * (sizes.value + sizes.index * 2) + sizes.starts * (tiles + sizes.end) * sizes.extra_rows
    if layout == "bitmap":
        words = -(-columns // 64) if sizes.round_up else columns / 64
        masks = sizes.word * (-(-rows * columns // 64) if sizes.mask_for_all else rows * words)
        return numbers * sizes.value + masks * sizes.index + row_starts
    kept = density if sizes.power == 1 else 1 - (1 - density) ** sizes.power
    blocks = rows // 4 * (columns // 4) * kept
    inside = sizes.value * sizes.block_values * (density if sizes.block_values == 1 else 1)
    inside = sizes.value * (numbers / blocks if blocks else 0) if sizes.block_values == 1 else inside
    height = rows if sizes.block_starts_of_rows else rows // 4
    return blocks * (inside + sizes.index * 4) + sizes.starts * (height + sizes.end) * sizes.extra_rows


def _counted(rows: int, columns: int, density: float, layout: str) -> float:
    """Array by array: how many entries it has and how wide one is."""
    chance_empty = float(np.prod(np.full(16, 1.0 - density)))
    stored = sum([density * columns] * rows)
    blocks = (1 - chance_empty) * len(range(0, rows, 4)) * len(range(0, columns, 4))
    tiles = len(range(0, rows, 64)) * len(range(0, columns, 64))
    arrays: dict[str, list[tuple[float, int]]] = {
        "dense": [(rows * columns, 16)],
        "csr32": [(stored, 16), (stored, 32), (rows + 1, 32)],
        "csr16": [(stored, 16), (stored, 16), (rows + 1, 32)],
        "blocked": [(16 * blocks, 16), (blocks, 32), (rows // 4 + 1, 32)],
        "tiled": [(stored, 16), (stored, 16), (tiles + 1, 32)],
        "bitmap": [(stored, 16), (rows * len(range(0, columns, 64)), 64), (rows + 1, 32)],
    }
    return sum(count * bits for count, bits in arrays[layout]) / 8


def _changed(**changes: Any) -> Any:
    return partial(_size, sizes=replace(_Sizes(), **changes))


BYTES = Exercise(
    name="format_bytes",
    contract="rows int, columns int (multiples of 4), density float 0 to 1, layout one of 'dense', 'csr32', 'csr16', "
    "'blocked', 'tiled', 'bitmap' -> bytes float, as in the table; the non-zeros lie at random, their expected number "
    "is density * rows * columns (not rounded)",
    make_cases=_byte_cases,
    oracle=_counted,
    returns=(Returns("bytes", rtol=1e-6, atol=1e-3),),
    misconceptions=[
        Misconception(
            "values-only",
            "The values alone: what says where they stand costs bytes, too (a column, a place, a mask), and that is "
            "the whole difference between the formats.",
            produces=_changed(index=False),
        ),
        Misconception(
            "density-is-sparsity",
            "Density is the share of weights that are NOT zero. At density 0.25 a quarter is stored.",
            produces=_changed(fraction="zeros"),
        ),
        Misconception(
            "float32-values",
            "The values are counted with 4 bytes; they are bfloat16 here, 2 bytes, in every format.",
            produces=_changed(value=4),
        ),
        Misconception(
            "forgets-starts",
            "The starts of rows, block rows or tiles are missing: 4 bytes each.",
            produces=_changed(extra_rows=False),
        ),
        Misconception(
            "starts-without-end",
            "There is one start more than there are rows (or block rows, or tiles): the last entry is the end.",
            produces=_changed(end=0),
        ),
        Misconception(
            "mask-in-bits",
            "The masks of the bitmap are too large by a factor of 8: a word of 64 bits is 8 bytes.",
            produces=_changed(word=64),
        ),
        Misconception(
            "mask-one-byte-a-column",
            "The masks of the bitmap are too small: 64 columns take 64 bits, which is 8 bytes, not one.",
            produces=_changed(word=1),
        ),
        Misconception(
            "rows-share-words",
            "The mask is counted for the matrix as one long row. Each row begins with a word of its own, so round up "
            "for each row.",
            produces=_changed(mask_for_all=True),
        ),
        Misconception(
            "not-rounded-up",
            "A width of 100 columns needs 2 words (and 2 tiles of 64), not 100 / 64: a row ends with a word, and an "
            "edge with a tile, that is only partly used. Round up.",
            recognises=lambda args, got, want: bool(
                args[3] in ("bitmap", "tiled") and args[1] % 64 != 0 and got[0] < want[0]
            ),
        ),
        Misconception(
            "blocks-as-full-as-weights",
            "A block is kept if ANY of its 16 weights is kept. So blocks are much less often empty than weights: the "
            "chance of an empty one is (1 - density)**16.",
            produces=_changed(power=1),
        ),
        Misconception(
            "block-has-four-weights",
            "A block of 4 x 4 has 16 weights, and it is empty only if all 16 are zero: (1 - density)**16.",
            produces=_changed(power=4),
        ),
        Misconception(
            "block-stores-non-zeros-only",
            "A block is stored whole: 16 values, zeros included. That is its price for one position per block.",
            produces=_changed(block_values=1),
        ),
        Misconception(
            "starts-for-every-row-of-a-block",
            "The blocked format has one start for each row OF BLOCKS: rows / 4 + 1.",
            produces=_changed(block_starts_of_rows=True),
        ),
        Misconception(
            "places-in-tiles-are-free",
            "A number in a tile needs 2 bytes for its place in the tile, besides its 2 bytes of value.",
            recognises=lambda args, got, want: (
                args[3] == "tiled" and bool(np.isclose(got[0], want[0] - 2 * args[0] * args[1] * args[2]))
            ),
        ),
        Misconception(
            "not-in-bytes",
            "The unit is wrong: bytes are wanted, not bits, KiB or MB.",
            recognises=lambda args, got, want: any(
                bool(np.isclose(got[0] * unit, want[0])) for unit in (1 / 8, 1e3, 1024, 1e6, 2**20)
            ),
        ),
    ],
    hint="For each format ask three things: how many numbers are stored, what does the place of one cost, and what "
    "is stored once per row or once per matrix? Try a matrix without any non-zero.",
    points=2,
)

# ---------------------------------------------------------------- 3b. crossover_density


def _crossover_cases(rng: np.random.Generator) -> list[Args]:
    grid = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9])
    slope, start = rng.uniform(2, 5), rng.uniform(0.1, 0.3)
    line = start + slope * grid
    curve = 1 - (1 - grid) ** 16
    fine = np.linspace(0.05, 0.6, 12)
    noisy = start + slope * fine
    noisy[4] = noisy[5] = noisy[7] + 0.05
    noisy[6] = noisy[3] + 0.01  # so the level is crossed upwards twice, and a search by halving meets the second
    level = float(noisy[3] + 0.3 * (noisy[7] - noisy[3]))
    return [
        (grid, line, float(start + slope * rng.uniform(0.38, 0.44))),
        (grid, curve, 0.75),
        (fine, noisy, level),
        (grid, line, float(line[4])),
        (grid, line, float(line[0] / 2)),
        (grid, line, float(line[0])),  # as costly as dense from the start
        (grid[:4], np.array([1.0, 2.0, 1.5, 3.0]), 2.0),  # reached by a point, and left again
        (grid, line, float(line[-1] + 1)),
        (np.array([0.1, 0.8]), np.array([1.0, 3.0]), float(rng.uniform(1.2, 1.6))),
    ]


def _halved(densities: np.ndarray, cost: np.ndarray, dense_cost: float) -> float:
    if cost[0] >= dense_cost:
        return 0.0
    for i in range(1, len(cost)):
        if cost[i] >= dense_cost:
            low, high = float(densities[i - 1]), float(densities[i])
            for _ in range(60):
                middle = (low + high) / 2
                below = np.interp(middle, densities[i - 1 : i + 1], cost[i - 1 : i + 1]) < dense_cost
                low, high = (middle, high) if below else (low, middle)
            return high
    return float(densities[-1])


def _only_above(densities: np.ndarray, cost: np.ndarray, dense_cost: float) -> float:
    """As the oracle, but a cost that equals dense_cost still counts as cheaper."""
    return _halved(densities, np.where(cost == dense_cost, dense_cost - 1e-9, cost), dense_cost)


def _first(cost: np.ndarray, dense_cost: float) -> int:
    """Index of the first point that is not cheaper; len(cost) if there is none."""
    return next((i for i, c in enumerate(cost) if c >= dense_cost), len(cost))


def _at_grid(densities: np.ndarray, cost: np.ndarray, dense_cost: float, kind: str) -> float:
    i = _first(cost, dense_cost)
    if i in (0, len(cost)):
        end = 0.0 if i == 0 else float(densities[-1])
        return {"index": float(min(i, len(cost) - 1)), "sparsity": 1 - end}.get(kind, end)
    low, high = float(densities[i - 1]), float(densities[i])
    right = _halved(densities, cost, dense_cost)
    return {
        "below": low, "above": high, "middle": (low + high) / 2, "swapped": low + high - right,
        "sparsity": 1 - right, "index": float(i),
    }[kind]  # fmt: skip


def _nearest_point(densities: np.ndarray, cost: np.ndarray, dense_cost: float) -> float:
    return float(densities[np.abs(cost - dense_cost).argmin()])


def _last_crossing(densities: np.ndarray, cost: np.ndarray, dense_cost: float) -> float:
    i = next((i for i in range(len(cost) - 1, 0, -1) if cost[i] >= dense_cost > cost[i - 1]), 0)
    return _halved(densities[i - 1 :], cost[i - 1 :], dense_cost) if i else _halved(densities, cost, dense_cost)


def _like_a_fit(args: Args, got: Arrays, want: Arrays) -> bool:
    """Where the points are no straight line, the answer is that of a straight line through them."""
    densities, cost, dense_cost = args
    slope, start = np.polyfit(densities, cost, 1)
    return bool(np.isclose(np.clip((dense_cost - start) / slope, 0, densities[-1]), got[0]))


def _only_where(condition: Any) -> Any:
    def recognises(args: Args, got: Arrays, want: Arrays) -> bool:
        return bool(condition(*args))

    return recognises


CROSSOVER = Exercise(
    name="crossover_density",
    contract="densities float64 (D,) rising, cost float64 (D,) of a sparse format at these densities (bytes or "
    "seconds), dense_cost float -> density float: where the line through neighbouring points first reaches dense_cost, "
    "coming from below; 0.0 if already cost[0] >= dense_cost, densities[-1] if no cost reaches it",
    make_cases=_crossover_cases,
    oracle=_halved,
    returns=(Returns("density", dtype="any", rtol=1e-6, atol=1e-9),),
    misconceptions=[
        Misconception(
            "index-instead-of-density",
            "That is the number of the point, not its density: densities[i].",
            produces=partial(_at_grid, kind="index"),
        ),
        Misconception(
            "last-point-that-pays",
            "That is the last measured point that is cheaper. The crossing lies between it and the next one: go along "
            "the straight line between the two.",
            produces=partial(_at_grid, kind="below"),
        ),
        Misconception(
            "first-point-that-loses",
            "That is the first measured point that is not cheaper. The crossing lies between it and the point before: "
            "go along the straight line between the two.",
            produces=partial(_at_grid, kind="above"),
        ),
        Misconception(
            "equal-counts-as-cheaper",
            "A format that costs exactly as much as dense no longer saves anything: what counts is where dense_cost is "
            "reached, not where it is passed. Compare with >=.",
            produces=_only_above,
        ),
        Misconception(
            "middle-of-the-step",
            "The crossing is rarely in the middle between two points. How far along is dense_cost between the two "
            "costs? So far along is the density.",
            produces=partial(_at_grid, kind="middle"),
        ),
        Misconception(
            "nearest-point",
            "That is the point whose cost is nearest to dense_cost. The crossing lies between two points, and noise "
            "can bring a point near that is not at the crossing.",
            produces=_nearest_point,
        ),
        Misconception(
            "weights-swapped",
            "The fraction is counted from the wrong end: if dense_cost is near the LOWER cost, the crossing is near "
            "the lower density.",
            produces=partial(_at_grid, kind="swapped"),
        ),
        Misconception(
            "density-is-sparsity",
            "That is the share of zeros. Density is the share that is kept.",
            produces=partial(_at_grid, kind="sparsity"),
        ),
        Misconception(
            "cost-at-a-density",
            "np.interp(x, xp, fp) looks up a height over a place. Here the height is known (dense_cost) and the place "
            "is wanted, so cost and densities change roles.",
            produces=lambda densities, cost, dense_cost: float(np.interp(dense_cost, densities, cost)),
        ),
        Misconception(
            "pays-nowhere-forgotten",
            "Wrong only where the format is dearer from the first point on: then it pays nowhere, 0.0.",
            recognises=_only_where(lambda densities, cost, dense_cost: cost[0] >= dense_cost),
        ),
        Misconception(
            "pays-everywhere-forgotten",
            "Wrong only where the format is cheaper at every point: then all that is known is that it pays up to the "
            "last one, densities[-1]. Beyond lies a guess.",
            recognises=_only_where(lambda densities, cost, dense_cost: max(cost) < dense_cost),
        ),
        Misconception(
            "last-crossing",
            "Measured costs go up and down, so the line can be crossed several times. Wanted is the FIRST crossing: up "
            "to there the format is cheaper at every point. (np.interp looks for any, by halving.)",
            produces=_last_crossing,
        ),
        Misconception(
            "plain-interp",
            "np.interp(dense_cost, cost, densities) has the right idea, but it needs rising costs (measured ones are "
            "not), and below the first cost it answers with the first density, where the format pays nowhere: 0.0.",
            produces=lambda densities, cost, dense_cost: float(np.interp(dense_cost, cost, densities)),
        ),
        Misconception(
            "one-line-through-all-points",
            "One straight line was fitted to all points. A format's cost need not be straight: go along the line "
            "between the two neighbours of the crossing.",
            recognises=_like_a_fit,
        ),
        Misconception(
            "believes-costs-rise",
            "Wrong only where the costs do not rise all the time (measured costs do not). np.interp and "
            "np.searchsorted need sorted numbers; look for the first point that is not cheaper instead.",
            recognises=_only_where(lambda densities, cost, dense_cost: bool((np.diff(cost) < 0).any())),
        ),
    ],
    hint="Between which two points does the sparse cost reach the dense one for the first time? What is the answer "
    "if it does so exactly at a point, at the first one already, or never?",
    points=1,
)
