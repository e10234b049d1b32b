"""Lab 4, exercise 2: one bit says where a number stands, and counting bits says which number it is.

The oracles use Python's whole numbers of any size and read the bits as text. Sources: spinfer, endor.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns
from edgeinfer.grading.exercises._lab04_csr import sparse

# ---------------------------------------------------------------- 2a. bitmap_pack


def _matrices(rng: np.random.Generator) -> list[np.ndarray]:
    shapes = ((3, 64, 0.5), (4, 100, 0.3), (2, 65, 0.6), (1, 7, 0.5), (5, 128, 0.2), (2, 63, 1.0), (2, 192, 0.9))
    full = sparse(rng, 2, 128, 1.0)
    return [*(sparse(rng, *shape) for shape in shapes), np.zeros((3, 70), np.float32), full]


def _pack_cases(rng: np.random.Generator) -> list[Args]:
    lost = sparse(rng, 3, 66, 0.4)
    lost[1, 3] = lost[2, 65] = np.nan
    return [(w,) for w in [*_matrices(rng), lost]]


def _packed(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    masks, values = [], []
    for row in weight.tolist():
        values += [v for v in row if v != 0]
        words = [row[i : i + 64] for i in range(0, len(row), 64)]
        masks.append([sum(1 << i for i, v in enumerate(word) if v != 0) for word in words])
    return np.array(masks, np.uint64), np.array(values, np.float32)


def _bits(weight: np.ndarray) -> np.ndarray:
    """(N, W, 64) of 0 and 1, padded with 0."""
    n, k = weight.shape
    out = np.zeros((n, -(-k // 64) * 64), np.uint8)
    out[:, :k] = weight != 0
    return out.reshape(n, -1, 64)


def _words(bits: np.ndarray, first_bit_lowest: bool = True) -> np.ndarray:
    """The 64-bit numbers of (N, W, 64) bits."""
    order = np.packbits(bits, axis=-1, bitorder="little" if first_bit_lowest else "big")
    return np.ascontiguousarray(order).view("<u8").reshape(bits.shape[:-1])


def _other_masks(weight: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    bits, values = _bits(weight), weight[weight != 0]
    if kind == "reversed":
        return _words(bits[..., ::-1]), values
    if kind == "bytewise":
        return _words(bits, first_bit_lowest=False), values
    if kind == "low half":
        return _words(bits) & np.uint64(2**32 - 1), values
    if kind == "folded":
        folded = bits.reshape(*bits.shape[:-1], 2, 32).max(-2)
        return _words(np.concatenate([folded, np.zeros_like(folded)], -1)), values
    if kind == "floor":
        return _words(bits)[:, : weight.shape[1] // 64], values
    padded = np.zeros(-(-weight.size // 64) * 64, np.uint8)
    padded[: weight.size] = (weight != 0).ravel()
    return _words(padded.reshape(1, -1, 64))[0], values  # kind == "flat"


def _inverted(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _packed(np.where(weight == 0, 1, 0).astype(np.float32))[0], weight[weight != 0]


def _through_floats(args: Args, got: Arrays, want: Arrays) -> bool:
    """Masks that went through float64: right in their 53 highest bits, or run over at 2**64."""
    wrong = got[0] != want[0]
    if not wrong.any() or not np.array_equal(got[1], want[1], equal_nan=True):
        return False
    pairs = [(int(a), int(b)) for a, b in zip(got[0][wrong], want[0][wrong], strict=True)]
    return all(abs(a - b) <= 2 ** max(0, b.bit_length() - 53) or b > 2**64 - 2**11 for a, b in pairs)


PACK = Exercise(
    name="bitmap_pack",
    contract="weight float32 (N, K) -> (masks uint64 (N, ceil(K / 64)), values float32 (nnz,)): bit i of masks[n, w] "
    "is 1 if weight[n, 64 * w + i] is not 0; bits beyond column K - 1 are 0; values row by row, from left to right",
    make_cases=_pack_cases,
    oracle=_packed,
    returns=(Returns("masks", dtype="uint64"), Returns("values", dtype="float32", nan_ok=True)),
    misconceptions=[
        Misconception(
            "mask-reversed",
            "The bits stand the other way round: column 0 of a word is its LOWEST bit (worth 1), column 63 its "
            "highest.",
            produces=partial(_other_masks, kind="reversed"),
        ),
        Misconception(
            "bytes-reversed",
            "Within each byte the bits stand the other way round. np.packbits puts the first bit on top unless you "
            'say bitorder="little".',
            produces=partial(_other_masks, kind="bytewise"),
        ),
        Misconception(
            "rows-run-together",
            "The flattened matrix was packed, so a word holds the end of one row and the start of the next. Every row "
            "begins with a word of its own; its last word is filled up with zeros.",
            produces=partial(_other_masks, kind="flat"),
        ),
        Misconception(
            "last-columns-dropped",
            "The columns after the last full word are missing. A width of 100 needs 2 words: round up, "
            "-(-columns // 64).",
            produces=partial(_other_masks, kind="floor"),
        ),
        Misconception(
            "upper-half-lost",
            "Columns 32 to 63 of each word are missing: the shift was done in 32 bits. Make the 1 that you shift a "
            "np.uint64.",
            produces=partial(_other_masks, kind="low half"),
        ),
        Misconception(
            "two-columns-one-bit",
            "Columns 32 to 63 share the bits of columns 0 to 31. A mask has 64 bits, one for each column: bit "
            "column % 64 of word column // 64.",
            produces=partial(_other_masks, kind="folded"),
        ),
        Misconception(
            "mask-of-zeros",
            "The masks mark the zeros. A 1 stands for a number that is stored.",
            produces=_inverted,
        ),
        Misconception(
            "values-by-columns",
            "The masks are right, but the values stand column by column. They must stand in the order in which the "
            "bits are read: row by row, from left to right.",
            produces=lambda weight: (_packed(weight)[0], weight.T[weight.T != 0]),
        ),
        Misconception(
            "zeros-stored",
            "`values` still holds the zeros: only what has a 1 in its mask is stored.",
            produces=lambda weight: (_packed(weight)[0], weight.ravel()),
        ),
        Misconception(
            "loses-nan",
            "A NaN got lost: NaN > 0 is false. It is no zero. Ask `weight != 0`.",
            produces=lambda weight: _packed(np.nan_to_num(weight)),
        ),
        Misconception(
            "masks-through-floats",
            "The lowest bits of full masks are wrong: a float64 carries 53 bits, a mask has 64. Stay with whole "
            "numbers: np.uint64(1) << np.uint64(i), or np.packbits.",
            recognises=_through_floats,
        ),
    ],
    hint="Try one row [0, 5, 0, 0, 7]: masks [[2 + 16]], values [5, 7].",
    points=2,
)

# ---------------------------------------------------------------- 2b. bitmap_unpack


def _unpack_cases(rng: np.random.Generator) -> list[Args]:
    return [(*_packed(w), w.shape[1]) for w in _matrices(rng)]


def _unpacked(masks: np.ndarray, values: np.ndarray, columns: int) -> np.ndarray:
    numbers = iter(values.tolist())
    rows = ["".join(format(int(word), "064b")[::-1] for word in row)[:columns] for row in masks]
    return np.array([[next(numbers) if bit == "1" else 0.0 for bit in row] for row in rows], np.float32)


def _positions(masks: np.ndarray) -> np.ndarray:
    """(N, W, 64) bits of the masks, lowest first."""
    data = np.ascontiguousarray(masks.astype("<u8")).view(np.uint8)
    return np.unpackbits(data, bitorder="little").reshape(*masks.shape, 64)


def _placed(
    masks: np.ndarray, values: np.ndarray, columns: int, restart: str = "", order: str = "", cut: bool = True
) -> np.ndarray:
    """Unpack by counting bits, with one screw loose."""
    bits = _positions(masks)
    n = len(bits)
    if order == "reversed":
        bits = bits[..., ::-1]
    elif order == "bytewise":
        bits = bits.reshape(*masks.shape, 8, 8)[..., ::-1].reshape(*masks.shape, 64)
    elif order == "words first":
        bits = np.ascontiguousarray(bits).reshape(-1, n, 64).swapaxes(0, 1)
    elif order == "words reversed":
        bits = bits[:, ::-1]
    flat = {"": (1, -1), "row": (n, -1), "word": (n * masks.shape[1], -1)}[restart]
    counted = np.ascontiguousarray(bits).reshape(flat).astype(np.int64)
    before = (np.cumsum(counted, axis=1) - counted).reshape(n, -1)
    padded = np.append(values, np.float32(0))
    out = np.where(bits.reshape(n, -1) == 1, padded[np.minimum(before, len(values))], 0).astype(np.float32)
    return out[:, :columns] if cut else out


def _one_late(masks: np.ndarray, values: np.ndarray, columns: int) -> np.ndarray:
    if not len(values):
        return _unpacked(masks, values, columns)
    return _unpacked(masks, np.append(values[1:], values[-1]), columns)


def _one_beyond(masks: np.ndarray, values: np.ndarray, columns: int) -> np.ndarray:
    bits = _positions(masks).reshape(len(masks), -1).astype(np.int64)
    count = np.cumsum(bits).reshape(bits.shape)
    return np.where(bits, values[count], 0)


def _pushed_left(masks: np.ndarray, values: np.ndarray, columns: int) -> np.ndarray:
    weight = _unpacked(masks, values, columns)
    for row in weight:
        row[:] = np.concatenate([row[row != 0], row[row == 0]])
    return weight


def _by_columns(masks: np.ndarray, values: np.ndarray, columns: int) -> np.ndarray:
    bits = _positions(masks).reshape(len(masks), -1)[:, :columns].astype(bool)
    out = np.zeros((columns, len(masks)), np.float32)
    out[bits.T] = values
    return np.ascontiguousarray(out.T)


UNPACK = Exercise(
    name="bitmap_unpack",
    contract="masks uint64 (N, ceil(K / 64)), values float32 (nnz,) as bitmap_pack makes them, columns int K -> "
    "weight float32 (N, K)",
    make_cases=_unpack_cases,
    oracle=_unpacked,
    returns=(Returns("weight", dtype="float32"),),
    misconceptions=[
        Misconception(
            "count-restarts-in-each-word",
            "Every word starts again at values[0]. The place of a number is the count of ALL ones before it, in the "
            "earlier words and rows as well.",
            produces=partial(_placed, restart="word"),
        ),
        Misconception(
            "count-restarts-in-each-row",
            "Every row starts again at values[0]. The place of a number is the count of all ones before it, those of "
            "the earlier rows included.",
            produces=partial(_placed, restart="row"),
        ),
        Misconception(
            "counts-itself",
            "Every number is one place too far: count the ones BEFORE the position, not including its own.",
            produces=_one_late,
        ),
        Misconception(
            "counts-itself-beyond-the-end",
            "Every number is one place too far, and for the last one there is none left: count the ones BEFORE the "
            "position, not including its own.",
            produces=_one_beyond,
        ),
        Misconception(
            "mask-reversed",
            "The bits are read from the wrong end: column 0 of a word is its lowest bit.",
            produces=partial(_placed, order="reversed"),
        ),
        Misconception(
            "bytes-reversed",
            'Within each byte the bits are read from the wrong end: np.unpackbits needs bitorder="little" here.',
            produces=partial(_placed, order="bytewise"),
        ),
        Misconception(
            "words-in-wrong-order",
            "The words of a row come in the wrong order, or are mixed with those of other rows: word w of row n holds "
            "columns 64 * w to 64 * w + 63 of this row.",
            recognises=lambda args, got, want: any(
                np.array_equal(got[0], _placed(args[0], args[1], args[2], order=order))
                for order in ("words first", "words reversed")
            ),
        ),
        Misconception(
            "padding-not-cut",
            "The columns that only fill up the last word are still there: cut every row to `columns`.",
            produces=partial(_placed, cut=False),
        ),
        Misconception(
            "values-by-columns",
            "The numbers are taken column by column. They are stored row by row, from left to right.",
            produces=_by_columns,
        ),
        Misconception(
            "pushed-to-the-left",
            "The numbers of each row stand side by side at its left end. Each belongs to the column whose bit is 1.",
            produces=_pushed_left,
        ),
        Misconception(
            "later-words-ignored",
            "Only the first word of each row is used: column k is bit k % 64 of word k // 64.",
            produces=lambda masks, values, columns: _placed(
                np.where(np.arange(masks.shape[1]) > 0, np.uint64(0), masks), values, columns
            ),
        ),
        Misconception(
            "bits-instead-of-values",
            "That is the pattern, 0 and 1. Each 1 stands for the next number of `values`.",
            produces=lambda masks, values, columns: _unpacked(masks, np.ones_like(values), columns),
        ),
    ],
    hint="With bits as 0 and 1, `np.cumsum(bits) - bits` counts the ones before each position.",
    points=2,
)
