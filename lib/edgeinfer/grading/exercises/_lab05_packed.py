"""Lab 5, exercises 1b and 1c: the packed 2:4 form and the product from it.

Packed weights are judged by what comes back when they are read as the contract says, since a run with fewer than two
non-zeros can be packed in several ways. Source: hierarchical-nm.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns
from edgeinfer.grading.exercises._lab05_prune import numbers, pruned, runs_of

# ---------------------------------------------------------------- 1b. pack_2_4


def _pack_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for rows, columns in ((4, 16), (3, 8), (1, 32), (5, 24)):
        cases.append((pruned(rng.normal(size=(rows, columns)).astype(np.float32), 2, 4),))
    few = pruned(rng.normal(size=(4, 16)).astype(np.float32), 2, 4)
    few[0] = 0  # nothing stays
    few[1, ::2] = 0  # sometimes only one stays
    few[2] = 0
    few[2, 3::4] = 1.5  # only the last of each four
    return [*cases, (few,)]


def _positions(weight: np.ndarray) -> np.ndarray:
    """(N, K // 4, 2): ascending; free places are filled from the left."""
    out = np.zeros((len(weight), weight.shape[1] // 4, 2), np.int64)
    for row, run in np.ndindex(out.shape[:2]):
        four = weight[row, 4 * run : 4 * run + 4]
        used = [k for k in range(4) if four[k] != 0][:2]
        free = [k for k in range(4) if k not in used]
        out[row, run] = sorted((used + free)[:2])
    return out


def _packed_bytes(positions: np.ndarray, shifts: tuple[int, ...] = (0, 2, 4, 6)) -> np.ndarray:
    four = positions.reshape(len(positions), -1, 4)
    return np.asarray((four << np.array(shifts)).sum(axis=2), np.uint8)


def pack(weight: np.ndarray, shifts: tuple[int, ...] = (0, 2, 4, 6)) -> tuple[np.ndarray, np.ndarray]:
    positions = _positions(weight)
    values = np.take_along_axis(runs_of(weight, 4), positions, axis=2).reshape(len(weight), -1)
    return values, _packed_bytes(positions, shifts)


def positions_in(packed: np.ndarray, shifts: tuple[int, ...] = (0, 2, 4, 6), strided: bool = False) -> np.ndarray:
    """Bytes (N, K // 8) -> positions (N, K // 2)."""
    parts = [(packed.astype(np.int64) >> s) & 3 for s in shifts]
    return np.concatenate(parts, axis=1) if strided else np.stack(parts, axis=2).reshape(len(packed), -1)


def spread(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values (N, K // 2) at their positions in each four: (N, K)."""
    dense = np.zeros((len(values), values.shape[1] // 2, 4), np.float64)
    for row, j in np.ndindex(values.shape):
        dense[row, j // 2, positions[row, j]] += values[row, j]
    return dense.reshape(len(values), -1)


def _pack_accept(args: Args, got: Arrays) -> str:
    (weight,), (values, packed) = args, got
    positions = positions_in(packed)
    dense = spread(values, positions)
    wrong = np.argwhere(~np.isclose(dense, weight, rtol=1e-6, atol=0))
    if len(wrong):
        row, start = int(wrong[0][0]), int(wrong[0][1]) // 4 * 4
        return (
            f"row {row}, columns {start} to {start + 3}: {numbers(weight[row, start : start + 4])} was packed, "
            f"{numbers(dense[row, start : start + 4])} comes back."
        )
    pairs = positions.reshape(len(weight), -1, 2)
    bad = np.argwhere(pairs[..., 0] >= pairs[..., 1])
    if len(bad):
        row, run = (int(i) for i in bad[0])
        return f"row {row}, run {run}: the positions are {pairs[row, run].tolist()}; they must be different and ascend."
    return ""


def _decodes(reread: Callable[[np.ndarray], np.ndarray]) -> Callable[[Args, Arrays, Arrays], bool]:
    """The weights come back when the bytes are read in this other way."""

    def recognises(args: Args, got: Arrays, want: Arrays) -> bool:
        values, packed = got
        return bool(np.allclose(spread(values, reread(packed)), args[0], rtol=1e-6, atol=0))

    return recognises


def _bitmap(args: Args, got: Arrays, want: Arrays) -> bool:
    bits = np.unpackbits(got[1], axis=1, bitorder="little")
    return bool(np.array_equal(bits, args[0] != 0) or np.array_equal(np.packbits(args[0] != 0, axis=1), got[1]))


def _one_a_byte(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positions = _positions(weight)
    return pack(weight)[0], positions.reshape(len(weight), -1).astype(np.uint8)


PACK = Exercise(
    name="pack_2_4",
    contract="weight float32 (N, K), at most two of every four columns of a row non-zero, 8 divides K -> values "
    "float32  (N, K // 2), positions uint8 (N, K // 8): value j of a row belongs to run j // 2 of four columns, its "
    "place there (0 to 3) is in bits 2*(j % 4) and 2*(j % 4) + 1 of byte j // 4; the two places of a run ascend and "
    "differ, also where a value is 0",
    make_cases=_pack_cases,
    oracle=pack,
    returns=(Returns("values", dtype="float32"), Returns("positions", dtype="uint8")),
    accept=_pack_accept,
    misconceptions=[
        Misconception(
            "one-position-a-byte",
            "A place among four needs two bits, so four of them fit into one byte. One byte each would make the "
            "positions as large as half of the values.",
            produces=_one_a_byte,
        ),
        Misconception(
            "bitmap",
            "This is a bitmap, one bit for each of the four columns. As large, and it holds the same, but the contract "
            "asks for two positions of two bits: a unit can use them as they are.",
            recognises=_bitmap,
        ),
        Misconception(
            "high-bits-first",
            "The four positions of a byte are in the wrong order: the first one belongs in the LOWEST two bits.",
            recognises=_decodes(partial(positions_in, shifts=(6, 4, 2, 0))),
        ),
        Misconception(
            "bytes-interleaved",
            "A byte holds the positions of four NEIGHBOURING values (j = 4b to 4b + 3). Yours takes values that lie "
            "K // 8 apart.",
            recognises=_decodes(partial(positions_in, strided=True)),
        ),
        Misconception(
            "counts-from-one",
            "Positions count from 0 to 3. Counting from 1 makes a 4, which does not fit into two bits.",
            recognises=_decodes(lambda packed: (positions_in(packed) - 1) & 3),
        ),
        Misconception(
            "same-position-twice",
            "Where fewer than two of four stay, both positions are the same. Take a free place for the value 0, so "
            "that the positions differ and ascend.",
            recognises=lambda args, got, want: bool(
                (np.diff(positions_in(got[1]).reshape(-1, 2), axis=1) == 0).any()
                and np.allclose(spread(got[0], positions_in(got[1])), args[0])
            ),
        ),
        Misconception(
            "not-ascending",
            "The weights come back, but the two positions of a run do not ascend (sorted by size, or a filled-up place "
            "came last). A unit walks over the four columns once, so sort the two by position.",
            recognises=_decodes(positions_in),
        ),
        Misconception(
            "values-and-positions-apart",
            "The positions are right, but the values stand in another order. Sort the positions first, then pick the "
            "values by them.",
            recognises=lambda args, got, want: bool(
                np.array_equal(np.sort(got[0].reshape(-1, 2), 1), np.sort(want[0].reshape(-1, 2), 1))
                and np.all(np.diff(positions_in(got[1]).reshape(-1, 2), axis=1) > 0)
            ),
        ),
        Misconception(
            "few-non-zeros",
            "Right where exactly two of four stay. Where fewer stay, the picked place must be a free one and its "
            "value 0.",
            recognises=lambda args, got, want: bool((np.count_nonzero(runs_of(args[0], 4), axis=2) < 2).any()),
        ),
    ],
    hint="Pack one run by hand: [0, 7, 0, 9]. Which two values, which two positions, in which order? What if a run "
    "has only one non-zero? Then: which of four positions lies in the lowest two bits of a byte?",
    points=3,
)

# ---------------------------------------------------------------- 1c. matvec_2_4


def _matvec_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for rows, columns in ((4, 16), (3, 8), (1, 32), (2, 1032), (6, 24)):  # 1032: columns beyond a byte
        weight = pruned(rng.normal(size=(rows, columns)).astype(np.float32), 2, 4)
        cases.append((*pack(weight), rng.normal(size=columns).astype(np.float32)))
    return cases


def _dense_product(values: np.ndarray, positions: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(spread(values, positions_in(positions)) @ x.astype(np.float64))


def _gather(
    values: np.ndarray,
    positions: np.ndarray,
    x: np.ndarray,
    places: Callable[[np.ndarray], np.ndarray] = positions_in,
    column: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda p, j: 4 * (j // 2) + p,
    weighted: bool = True,
) -> np.ndarray:
    """The product with one screw loose."""
    columns = column(places(positions), np.arange(values.shape[1]))
    picked = x.astype(np.float64)[np.broadcast_to(columns, values.shape)]
    return np.asarray((values * picked if weighted else picked).sum(1))


def _fits(args: Args) -> bool:
    return args[2].size > 256


MATVEC = Exercise(
    name="matvec_2_4",
    contract="values float32 (N, K // 2), positions uint8 (N, K // 8) as pack_2_4 returns them, x float32 (K,) -> y "
    "floating (N,): W @ x",
    make_cases=_matvec_cases,
    oracle=_dense_product,
    returns=(Returns("y", dtype="floating", rtol=1e-4, atol=1e-4),),
    misconceptions=[
        Misconception(
            "forgets-the-run",
            "A position counts inside its run of four. The column is 4 * run + position, and the run is j // 2.",
            produces=partial(_gather, column=lambda p, j: p),
        ),
        Misconception(
            "run-of-two",
            "Two values stay in each run, but the run is FOUR columns wide: column = 4 * (j // 2) + position.",
            produces=partial(_gather, column=lambda p, j: 2 * (j // 2) + p),
        ),
        Misconception(
            "ignores-positions",
            "You multiply by the first two activations of each four. Which two it is, the positions say.",
            produces=partial(_gather, column=lambda p, j: np.broadcast_to(4 * (j // 2) + j % 2, p.shape)),
        ),
        Misconception(
            "high-bits-first",
            "The four positions of a byte are read in the wrong order: the first value has the LOWEST two bits.",
            produces=partial(_gather, places=partial(positions_in, shifts=(6, 4, 2, 0))),
        ),
        Misconception(
            "bytes-interleaved",
            "A byte holds the positions of four NEIGHBOURING values: stack the four parts on a new last axis, then "
            "reshape. np.concatenate puts all first ones before all second ones.",
            produces=partial(_gather, places=partial(positions_in, strided=True)),
        ),
        Misconception(
            "positions-of-one-row",
            "Every row has its own positions; you used those of the first row for all. (Sharing them is a pattern of "
            "its own, and cheaper. Here it is not given.)",
            produces=partial(_gather, places=lambda b: positions_in(np.broadcast_to(b[:1], b.shape))),
        ),
        Misconception(
            "first-position-only",
            "Four positions are in each byte, two bits each. You read the lowest one and used it four times.",
            produces=partial(_gather, places=lambda b: np.repeat(b.astype(np.int64) & 3, 4, axis=1)),
        ),
        Misconception(
            "without-the-values",
            "The right activations are added up, but not multiplied by the values.",
            produces=partial(_gather, weighted=False),
        ),
        Misconception(
            "byte-columns",
            "Wrong only where there are more than 256 columns: 4 * run + position was calculated in uint8 and wrapped "
            "round. Convert the positions to a wider integer first.",
            recognises=lambda args, got, want: _fits(args),
        ),
    ],
    hint="Print the positions that you unpack from one byte. Value j of a row comes from which run, and which "
    "column of x is that?",
    points=2,
)
