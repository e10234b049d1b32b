"""Lab 2, exercises 1 to 3: bit-planes as table indices, tables of signed sums, the look-up product.

The oracles take another way than the lab: dense arithmetic, Python integers. Source: t-mac.
"""

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns

# ---------------------------------------------------------------- 1. split_bit_planes


def _codes_cases(rng: np.random.Generator) -> list[Args]:
    shapes = ((3, 8, 2, 4), (1, 4, 4, 4), (5, 12, 3, 4), (2, 6, 1, 2), (4, 8, 4, 1), (2, 16, 8, 8), (1, 1, 1, 1))
    return [(rng.integers(0, 2**bits, (n, k)).astype(np.uint8), bits, g) for n, k, bits, g in shapes]


def _indices(codes: np.ndarray, bits: int, g: int) -> np.ndarray:
    n, k = codes.shape
    out = np.zeros((bits, n, k // g), np.uint8)
    for b, row, column in product(range(bits), range(n), range(k)):
        if int(codes[row, column]) >> b & 1:
            out[b, row, column // g] |= 1 << (column % g)
    return out


def _pack(planes: np.ndarray, g: int) -> np.ndarray:
    """Planes (bits, N, K) of any integers -> (bits, N, K // g), wrapping as a byte does."""
    bits, n, k = planes.shape
    weights = 2 ** np.arange(g)
    return (planes.reshape(bits, n, k // g, g).astype(np.int64) * weights).sum(-1).astype(np.uint8)


def _planes(codes: np.ndarray, bits: int) -> np.ndarray:
    return np.array([codes >> b & 1 for b in range(bits)])


def _group_reversed(codes: np.ndarray, bits: int, g: int) -> np.ndarray:
    n, k = codes.shape
    return _pack(_planes(codes, bits).reshape(bits, n, k // g, g)[..., ::-1].reshape(bits, n, k), g)


def _interleaved(codes: np.ndarray, bits: int, g: int) -> np.ndarray:
    n, k = codes.shape
    return _pack(_planes(codes, bits).reshape(bits, n, g, k // g).swapaxes(2, 3).reshape(bits, n, k), g)


SPLIT = Exercise(
    name="split_bit_planes",
    contract="codes uint8 (N, K) below 2**bits, bits int, g int dividing K -> indices uint8 (bits, N, K // g): "
    "bit i of indices[b, n, j] is bit b of codes[n, j * g + i]",
    make_cases=_codes_cases,
    oracle=_indices,
    returns=(Returns("indices", dtype="uint8"),),
    misconceptions=[
        Misconception(
            "planes-reversed",
            "Plane 0 holds the LEAST significant bits (it will weigh 1, the last plane 2**(bits-1)); yours starts "
            "with the most significant bit.",
            produces=lambda codes, bits, g: _indices(codes, bits, g)[::-1],
        ),
        Misconception(
            "group-bits-reversed",
            "Within an index the order is turned round: weight number i of the group belongs to bit i, so the "
            "first weight is the lowest bit. Otherwise the index points at another sum of the table.",
            produces=_group_reversed,
        ),
        Misconception(
            "groups-interleaved",
            "A group is g NEIGHBOURING columns (j*g ... j*g+g-1). You took columns that lie K//g apart: "
            "reshape to (N, K // g, g), not (N, g, K // g).",
            produces=_interleaved,
        ),
        Misconception(
            "mask-without-shift",
            "`codes & (1 << b)` is 0 or 2**b, not 0 or 1. Shift first, then mask: `(codes >> b) & 1`.",
            produces=lambda codes, bits, g: _pack(np.array([codes & (1 << b) for b in range(bits)]), g),
        ),
        Misconception(
            "shift-without-mask",
            "`codes >> b` still carries the higher bits of the code. A plane holds one bit: `(codes >> b) & 1`.",
            produces=lambda codes, bits, g: _pack(np.array([codes >> b for b in range(bits)]), g),
        ),
        Misconception(
            "not-packed",
            "These are the planes themselves, one bit a byte. Pack g neighbouring bits into one index: the table "
            "has 2**g entries and one look-up answers for g weights.",
            produces=lambda codes, bits, g: _planes(codes, bits).astype(np.uint8),
        ),
    ],
    points=2,
)

# ---------------------------------------------------------------- 2. build_tables


def _table_cases(rng: np.random.Generator) -> list[Args]:
    return [
        (rng.normal(size=k).astype(np.float32), g)
        for k, g in ((8, 4), (4, 4), (12, 2), (6, 3), (16, 8), (3, 1), (64, 4))
    ]


def _tables(x: np.ndarray, g: int) -> np.ndarray:
    rows = []
    for j in range(0, len(x), g):
        group = [float(v) for v in x[j : j + g]]
        rows.append([sum(v if t >> i & 1 else -v for i, v in enumerate(group)) for t in range(2**g)])
    return np.array(rows, np.float32)


def _subset_sums(x: np.ndarray, g: int) -> np.ndarray:
    return (_tables(x, g) + _tables(x, g)[:, -1:]) / 2


def _order_in_table(x: np.ndarray, g: int) -> np.ndarray:
    return _tables(x.reshape(-1, g)[:, ::-1].ravel(), g)


TABLES = Exercise(
    name="build_tables",
    contract="x float32 (K,), g int dividing K -> tables floating (K // g, 2**g): entry t of table j is the sum "
    "over i of +x[j*g + i] where bit i of t is 1 and of -x[j*g + i] where it is 0",
    make_cases=_table_cases,
    oracle=_tables,
    returns=(Returns("tables", dtype="floating", rtol=1e-4, atol=1e-5),),
    misconceptions=[
        Misconception(
            "subset-sums",
            "A bit of 0 means MINUS x, not 'leave x out': these tables hold signed sums (planes of +1 and -1).",
            produces=_subset_sums,
        ),
        Misconception(
            "signs-swapped",
            "The signs are swapped: bit 1 means +x, bit 0 means -x. Entry 0 is minus the sum of the group.",
            produces=lambda x, g: -_tables(x, g),
        ),
        Misconception(
            "table-bits-reversed",
            "The bits of t are read from the wrong end: bit i (value 2**i) belongs to activation i of the group. "
            "Entry 1 is +x[0] - x[1] - ...",
            produces=_order_in_table,
        ),
        Misconception(
            "groups-interleaved",
            "A group is g NEIGHBOURING activations: reshape to (K // g, g), not (g, K // g).",
            produces=lambda x, g: _tables(x.reshape(g, -1).T.ravel(), g),
        ),
        Misconception(
            "half-table",
            "This is one half of each table. The mirror rule (entry ~t is minus entry t) saves you computing the "
            "other half; here the whole table is handed over, so write both halves.",
            produces=lambda x, g: _tables(x, g)[:, : 2 ** (g - 1)],
        ),
        Misconception(
            "other-half-table",
            "This is one half of each table. The mirror rule (entry ~t is minus entry t) saves you computing the "
            "other half; here the whole table is handed over, so write both halves.",
            produces=lambda x, g: _tables(x, g)[:, 2 ** (g - 1) :],
        ),
        Misconception(
            "mirror-flips-one-bit",
            "The mirror image of entry t is entry ~t with ALL g bits flipped (read the half backwards). Flipping "
            "the top bit alone changes the sign of one activation only.",
            produces=lambda x, g: np.concatenate(
                [_tables(x, g)[:, : 2 ** (g - 1)], -_tables(x, g)[:, : 2 ** (g - 1)]], 1
            ),
        ),
        Misconception(
            "tables-run-on",
            "Each table answers for its own g activations. Yours also contains the sums of the groups before it.",
            produces=lambda x, g: np.cumsum(_tables(x, g), axis=0),
        ),
    ],
    points=2,
)

# ---------------------------------------------------------------- 3. lut_matvec


def _product_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for n, k, bits, g, groups, kind in (
        (6, 32, 2, 4, 2, "f"), (5, 64, 4, 4, 4, "f"), (7, 24, 3, 2, 3, "f"), (4, 16, 2, 4, 1, "f"),
        (3, 128, 2, 4, 2, "i"), (4, 64, 4, 4, 2, "i"), (1, 8, 1, 4, 2, "f"),
    ):  # fmt: skip
        codes = rng.integers(0, 2**bits, (n, k)).astype(np.uint8)
        scales = rng.uniform(0.5, 1.5, (n, groups)).astype(np.float32)
        zeros = rng.integers(0, 2**bits, (n, groups)).astype(np.uint8)
        x = rng.normal(size=k).astype(np.float32) if kind == "f" else rng.integers(8, 25, k).astype(np.float32)
        tables = _tables(x, g) if kind == "f" else _tables(x, g).astype(np.int8)
        cases.append((_indices(codes, bits, g), tables, scales, zeros))
    return cases


def _dense(indices: np.ndarray, tables: np.ndarray, scales: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
    """Undo everything: activations from the tables, codes from the planes, then a plain product in float64."""
    bits, n, blocks = indices.shape
    entries = tables.shape[1]
    g = entries.bit_length() - 1
    wide = tables.astype(np.float64)
    x = np.stack([(wide[:, -1] - wide[:, (entries - 1) ^ (1 << i)]) / 2 for i in range(g)], -1).ravel()
    codes = np.zeros((n, blocks * g))
    for b in range(bits):
        for i in range(g):
            codes[:, i::g] += 2.0**b * (indices[b] >> i & 1)
    per_group = blocks * g // scales.shape[1]
    weight = np.repeat(scales, per_group, 1).astype(np.float64) * (codes - np.repeat(zero_points, per_group, 1))
    return weight @ x


def _mistaken(
    indices: np.ndarray,
    tables: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    plane_weights: Callable[[int], np.ndarray] = lambda bits: 2.0 ** (np.arange(bits) - 1),
    centre: float = 1.0,
    offset: float = 1.0,
    scaled_offset: bool = True,
    zero: float = 1.0,
    whole_row: bool = False,
) -> np.ndarray:
    """The look-up product with one screw loose."""
    bits, n, blocks = indices.shape
    groups = scales.shape[1]
    wide = tables.astype(np.float64)
    weights = plane_weights(bits)
    sums = np.zeros((n, blocks))
    for b in range(bits):
        sums += weights[b] * wide[np.arange(blocks), indices[b]]
    total = wide[:, -1].reshape(groups, -1).sum(1)
    if whole_row:
        total = np.full(groups, total.sum())
    shift = offset * (centre * (2**bits - 1) / 2 - zero * zero_points.astype(np.float64)) * total
    grouped = sums.reshape(n, groups, -1).sum(-1)
    return np.asarray((scales * (grouped + shift) if scaled_offset else scales * grouped + shift).sum(1))


def _byte_zero_points(
    indices: np.ndarray, tables: np.ndarray, scales: np.ndarray, zero_points: np.ndarray
) -> np.ndarray:
    levels = np.uint8(2 ** indices.shape[0] - 1)
    wrong = (levels - 2 * zero_points).astype(np.float64)  # wraps below zero
    return _mistaken(indices, tables, scales, (levels - wrong) / 2)


PRODUCT = Exercise(
    name="lut_matvec",
    contract="indices uint8 (bits, N, K // g), tables float32 or int8 (K // g, 2**g), scales float32 (N, G), "
    "zero_points uint8 (N, G) -> y floating (N,): W @ x with W = scale * (code - zero_point), a scale and a zero "
    "point for each of the G groups of K // G columns",
    make_cases=_product_cases,
    oracle=_dense,
    returns=(Returns("y", dtype="floating", rtol=1e-4, atol=2e-3),),
    misconceptions=[
        Misconception(
            "forgets-offset",
            "The offset term is missing. Signed planes add up to 2*code - (2**bits - 1), centred on zero; the "
            "code and its zero point are not. What is left over is the same for all weights of a group: a "
            "constant times the sum of x there. (A whole table adds up to 0; its last entry is the sum.)",
            produces=partial(_mistaken, offset=0.0),
        ),
        Misconception(
            "offset-without-centre",
            "The offset holds the zero point but not the middle of the codes. A plane bit is (sign + 1) / 2, so a "
            "code is half the weighted signs PLUS (2**bits - 1) / 2.",
            produces=partial(_mistaken, centre=0.0),
        ),
        Misconception(
            "forgets-zero-point",
            "The zero points are missing: the offset is (2**bits - 1) / 2 MINUS zero_point, times the sum of x.",
            produces=partial(_mistaken, zero=0.0),
        ),
        Misconception(
            "zero-point-sign",
            "The zero point is added; it is subtracted: W = scale * (code MINUS zero_point).",
            produces=partial(_mistaken, zero=-1.0),
        ),
        Misconception(
            "sum-of-the-whole-row",
            "Each group has its own scale and zero point, so they meet only the activations of their own group; you "
            "used the sum over all K columns.",
            produces=partial(_mistaken, whole_row=True),
        ),
        Misconception(
            "offset-wrong-sign",
            "The offset has the wrong sign. The last entry of a table (all bits 1) is +sum(x) of its group; the "
            "first is -sum(x).",
            produces=partial(_mistaken, offset=-1.0),
        ),
        Misconception(
            "offset-not-scaled",
            "The offset belongs inside the bracket: scale * (planes + offset), since W = scale * (code - zero_point).",
            produces=partial(_mistaken, scaled_offset=False),
        ),
        Misconception(
            "planes-weigh-double",
            "Plane b weighs 2**b / 2 when its entries are +1 and -1: going from -1 to +1 is a step of two.",
            produces=partial(_mistaken, plane_weights=lambda bits: 2.0 ** np.arange(bits)),
        ),
        Misconception(
            "planes-weigh-the-same",
            "All planes are added with one weight. Plane b holds the bits worth 2**b.",
            produces=partial(_mistaken, plane_weights=lambda bits: np.full(bits, 0.5)),
        ),
        Misconception(
            "planes-reversed",
            "The planes are weighted from the wrong end: plane 0 is the least significant one.",
            produces=partial(_mistaken, plane_weights=lambda bits: 2.0 ** (np.arange(bits)[::-1] - 1)),
        ),
        Misconception(
            "one-scale-per-row",
            "Each of the G groups of a row has its own scale; you used the first one for the whole row. Sum the "
            "look-ups per group, scale, then add the groups.",
            produces=lambda i, t, s, z: _dense(i, t, np.repeat(s[:, :1], s.shape[1], 1), z),
        ),
        Misconception(
            "mean-scale-per-row",
            "Each of the G groups of a row has its own scale; the mean of the scales is not the scale. Sum the "
            "look-ups per group, scale, then add the groups.",
            produces=lambda i, t, s, z: _dense(i, t, np.repeat(s.mean(1, keepdims=True), s.shape[1], 1), z),
        ),
        Misconception(
            "forgets-scales",
            "The scales are missing: what comes out are sums of codes, not of weights.",
            produces=lambda i, t, s, z: _dense(i, t, np.ones_like(s), z),
        ),
        Misconception(
            "one-zero-point-per-row",
            "Each group has its own zero point; you used the first one for the whole row.",
            produces=lambda i, t, s, z: _dense(i, t, s, np.repeat(z[:, :1], z.shape[1], 1)),
        ),
        Misconception(
            "byte-zero-points",
            "The zero points are uint8, where 3 - 2*2 is 255, not -1. Convert before you calculate: "
            "zero_points.astype(np.float32).",
            produces=_byte_zero_points,
        ),
        Misconception(
            "int8-accumulator",
            "Wrong only where the tables are int8: sums of table entries, or 2**b times an entry, do not fit into "
            "8 bits and wrap round. Widen first: tables.astype(np.int32), or accumulate in float32.",
            recognises=lambda args, got, want: bool(args[1].dtype == np.int8),
        ),
    ],
    hint="Test the parts one by one, each with the others at zero: planes of one bit, then a weight for each "
    "plane, then a zero point off the middle. What does the sum of the group's x have to do with the offset?",
    points=4,
)
