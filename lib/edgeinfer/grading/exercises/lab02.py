"""Exercises of lab 2: bit-planes, tables of signed sums, the look-up product, ternary bytes, binary coding.

The oracles take another way than the lab (dense arithmetic, Python integers, exhaustive search). Sources: t-mac, lut-gemm.
"""

from itertools import product
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Lab, Misconception, Returns

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
            "Plane 0 holds the LEAST significant bits (it will weigh 1, the last plane 2**(bits-1)); yours starts with the "
            "most significant bit.",
            produces=lambda codes, bits, g: _indices(codes, bits, g)[::-1],
        ),
        Misconception(
            "group-bits-reversed",
            "Within an index the order is turned round: weight number i of the group belongs to bit i, so the first weight "
            "is the lowest bit. Otherwise the index points at another sum of the table.",
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
            "These are the planes themselves, one bit a byte. Pack g neighbouring bits into one index: the table has 2**g "
            "entries and one look-up answers for g weights.",
            produces=lambda codes, bits, g: _planes(codes, bits).astype(np.uint8),
        ),
    ],
    points=2,
)

# ---------------------------------------------------------------- 2. build_tables


def _table_cases(rng: np.random.Generator) -> list[Args]:
    return [(rng.normal(size=k).astype(np.float32), g) for k, g in ((8, 4), (4, 4), (12, 2), (6, 3), (16, 8), (3, 1), (64, 4))]


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
    contract="x float32 (K,), g int dividing K -> tables floating (K // g, 2**g): entry t of table j is the sum over i of "
    "+x[j*g + i] where bit i of t is 1 and of -x[j*g + i] where it is 0",
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
            "This is one half of each table. The mirror rule (entry ~t is minus entry t) saves you computing the other half; "
            "here the whole table is handed over, so write both halves.",
            produces=lambda x, g: _tables(x, g)[:, : 2 ** (g - 1)],
        ),
        Misconception(
            "other-half-table",
            "This is one half of each table. The mirror rule (entry ~t is minus entry t) saves you computing the other half; "
            "here the whole table is handed over, so write both halves.",
            produces=lambda x, g: _tables(x, g)[:, 2 ** (g - 1) :],
        ),
        Misconception(
            "mirror-flips-one-bit",
            "The mirror image of entry t is entry ~t with ALL g bits flipped (read the half backwards). Flipping the top bit "
            "alone changes the sign of one activation only.",
            produces=lambda x, g: np.concatenate([_tables(x, g)[:, : 2 ** (g - 1)], -_tables(x, g)[:, : 2 ** (g - 1)]], 1),
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
    plane_weights: Any = None,
    centre: float = 1.0,
    offset: float = 1.0,
    scaled_offset: bool = True,
) -> np.ndarray:
    """The look-up product with one screw loose."""
    bits, n, blocks = indices.shape
    groups = scales.shape[1]
    wide = tables.astype(np.float64)
    if plane_weights is None:
        plane_weights = 2.0 ** (np.arange(bits) - 1)
    sums = np.zeros((n, blocks))
    for b in range(bits):
        sums += plane_weights[b] * wide[np.arange(blocks), indices[b]]
    total = wide[:, -1].reshape(groups, -1).sum(1)
    shift = offset * (centre * (2**bits - 1) / 2 - zero_points.astype(np.float64)) * total
    grouped = sums.reshape(n, groups, -1).sum(-1)
    return np.asarray((scales * (grouped + shift) if scaled_offset else scales * grouped + shift).sum(1))


def _byte_zero_points(indices: np.ndarray, tables: np.ndarray, scales: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
    levels = np.uint8(2 ** indices.shape[0] - 1)
    wrong = (levels - 2 * zero_points).astype(np.float64)  # wraps below zero
    return _mistaken(indices, tables, scales, (levels - wrong) / 2)


PRODUCT = Exercise(
    name="lut_matvec",
    contract="indices uint8 (bits, N, K // g), tables float32 or int8 (K // g, 2**g), scales float32 (N, G), "
    "zero_points uint8 (N, G) -> y floating (N,): W @ x with W = scale * (code - zero_point), a scale and a zero point for "
    "each of the G groups of K // G columns",
    make_cases=_product_cases,
    oracle=_dense,
    returns=(Returns("y", dtype="floating", rtol=1e-4, atol=2e-3),),
    misconceptions=[
        Misconception(
            "forgets-offset",
            "The offset term is missing. Signed planes add up to 2*code - (2**bits - 1), centred on zero; the code and its zero "
            "point are not. What is left over is the same for all weights of a group: a constant times the sum of x there.",
            produces=lambda *a: _mistaken(*a, offset=0.0),
        ),
        Misconception(
            "offset-without-centre",
            "The offset holds the zero point but not the middle of the codes. A plane bit is (sign + 1) / 2, so a code is half the "
            "weighted signs PLUS (2**bits - 1) / 2.",
            produces=lambda *a: _mistaken(*a, centre=0.0),
        ),
        Misconception(
            "offset-wrong-sign",
            "The offset has the wrong sign. The last entry of a table (all bits 1) is +sum(x) of its group; the first is -sum(x).",
            produces=lambda *a: _mistaken(*a, offset=-1.0),
        ),
        Misconception(
            "offset-not-scaled",
            "The offset belongs inside the bracket: scale * (planes + offset), since W = scale * (code - zero_point).",
            produces=lambda *a: _mistaken(*a, scaled_offset=False),
        ),
        Misconception(
            "planes-weigh-double",
            "Plane b weighs 2**b / 2 when its entries are +1 and -1: going from -1 to +1 is a step of two.",
            produces=lambda *a: _mistaken(*a, plane_weights=2.0 ** np.arange(a[0].shape[0])),
        ),
        Misconception(
            "planes-weigh-the-same",
            "All planes are added with one weight. Plane b holds the bits worth 2**b.",
            produces=lambda *a: _mistaken(*a, plane_weights=np.full(a[0].shape[0], 0.5)),
        ),
        Misconception(
            "planes-reversed",
            "The planes are weighted from the wrong end: plane 0 is the least significant one.",
            produces=lambda *a: _mistaken(*a, plane_weights=2.0 ** (np.arange(a[0].shape[0])[::-1] - 1)),
        ),
        Misconception(
            "one-scale-per-row",
            "Each of the G groups of a row has its own scale; you used the first one for the whole row. Sum the look-ups per "
            "group, scale, then add the groups.",
            produces=lambda i, t, s, z: _dense(i, t, np.repeat(s[:, :1], s.shape[1], 1), z),
        ),
        Misconception(
            "mean-scale-per-row",
            "Each of the G groups of a row has its own scale; the mean of the scales is not the scale. Sum the look-ups per "
            "group, scale, then add the groups.",
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
            "Wrong only where the tables are int8: sums of table entries, or 2**b times an entry, do not fit into 8 bits and wrap "
            "round. Widen first: tables.astype(np.int32), or accumulate in float32.",
            recognises=lambda args, got, want: bool(args[1].dtype == np.int8),
        ),
    ],
    hint="Check the three parts one by one: the look-ups of each plane with weight 2**b / 2; the offset "
    "((2**bits - 1) / 2 - zero_point) * sum(x of the group); then scale per group and add the groups.",
    points=4,
)

# ---------------------------------------------------------------- 4. pack_ternary, unpack_ternary


def _trits(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return rng.integers(-1, 2, (n, k)).astype(np.int8)


def _pack_cases(rng: np.random.Generator) -> list[Args]:
    every = np.array(list(product((-1, 0, 1), repeat=5)), np.int8)
    return [(_trits(rng, 3, 10),), (_trits(rng, 2, 7),), (_trits(rng, 1, 1),), (every,), (_trits(rng, 4, 24),)]


def _bytes(weights: np.ndarray) -> np.ndarray:
    out = []
    for row in weights.tolist():
        row = row + [0] * (-len(row) % 5)
        codes = [int("".join(str(v + 1) for v in row[i : i + 5]), 3) for i in range(0, len(row), 5)]
        out.append([-(-256 * c // 243) for c in codes])
    return np.array(out, np.uint8)


def _base_three(weights: np.ndarray, powers: Any = (81, 27, 9, 3, 1), shift: int = 1, fill: int = 0) -> np.ndarray:
    n, k = weights.shape
    full = np.full((n, -(-k // 5) * 5), fill, np.int64)
    full[:, :k] = weights
    return ((full + shift).reshape(n, -1, 5) * np.array(powers)).sum(-1)


def _to_byte(codes: np.ndarray) -> np.ndarray:
    return (-(-256 * codes // 243)).astype(np.uint8)


def _int8_codes(weights: np.ndarray) -> np.ndarray:
    n, k = weights.shape
    full = np.zeros((n, -(-k // 5) * 5), np.int8)
    full[:, :k] = weights
    digits = (full + np.int8(1)).reshape(n, -1, 5)
    return _to_byte((digits * np.array([81, 27, 9, 3, 1], np.int8)).sum(-1))


PACK = Exercise(
    name="pack_ternary",
    contract="weights int8 (N, K) of -1, 0, 1 -> packed uint8 (N, ceil(K / 5)): byte = ceil(256 * c / 243) with "
    "c = 81*(w0+1) + 27*(w1+1) + 9*(w2+1) + 3*(w3+1) + (w4+1); weights missing at the end of a row count as 0",
    make_cases=_pack_cases,
    oracle=_bytes,
    returns=(Returns("packed", dtype="uint8"),),
    misconceptions=[
        Misconception(
            "stores-base-three-number",
            "This is c itself, 0 to 242. Stretch it to the whole byte, ceil(256 * c / 243): then c is a fraction of 256, and "
            "multiplying by 3 brings the next digit out at the top, without a division.",
            produces=lambda w: _base_three(w).astype(np.uint8),
        ),
        Misconception(
            "rounds-down",
            "256 * c / 243 must be rounded UP. Rounded down, the fraction falls below c / 243 and the last digit comes out one "
            "too small.",
            produces=lambda w: (256 * _base_three(w) // 243).astype(np.uint8),
        ),
        Misconception(
            "rounds-to-nearest",
            "256 * c / 243 must be rounded UP, not to the nearest: half of the bytes would decode to one code less.",
            produces=lambda w: np.rint(256 * _base_three(w) / 243).astype(np.uint8),
        ),
        Misconception(
            "digits-reversed",
            "The first weight of five is the MOST significant digit (81), because decoding by multiplication brings out the top "
            "digit first.",
            produces=lambda w: _to_byte(_base_three(w, (1, 3, 9, 27, 81))),
        ),
        Misconception(
            "padded-with-minus-one",
            "Missing weights at the end of a row count as weight 0, which is digit 1. A digit of 0 would be the weight -1.",
            produces=lambda w: _to_byte(_base_three(w, fill=-1)),
        ),
        Misconception(
            "forgets-plus-one",
            "Digits are 0, 1, 2: add 1 to the weights before they become digits.",
            produces=lambda w: _to_byte(_base_three(w, shift=0)),
        ),
        Misconception(
            "int8-overflow",
            "2 * 81 does not fit into int8. Convert the weights before you multiply: weights.astype(np.int32).",
            produces=_int8_codes,
        ),
        Misconception(
            "two-bits-each",
            "That is four weights a byte (2 bits each). Five fit, because 3**5 = 243 is at most 256.",
            recognises=lambda args, got, want: got[0].shape[1] == -(-args[0].shape[1] // 4),
        ),
    ],
    points=2,
)


def _unpack_cases(rng: np.random.Generator) -> list[Args]:
    return [(_bytes(args[0]), args[0].shape[1]) for args in _pack_cases(rng)]


_WORDS = {int(b): w for b, w in zip(_bytes(np.array(list(product((-1, 0, 1), repeat=5)))).ravel(),
                                   product((-1, 0, 1), repeat=5), strict=True)}  # fmt: skip


def _decoded(packed: np.ndarray, columns: int) -> np.ndarray:
    return np.array([[t for b in row for t in _WORDS[b]][:columns] for row in packed.tolist()], np.int8)


def _digits_of(codes: np.ndarray, columns: int, shift: int = 1) -> np.ndarray:
    digits = codes.astype(np.int64)[..., None] // np.array([81, 27, 9, 3, 1]) % 3
    return (digits - shift).reshape(codes.shape[0], -1)[:, :columns].astype(np.int8)


def _reversed_digits(packed: np.ndarray, columns: int) -> np.ndarray:
    whole = _decoded(packed, packed.shape[1] * 5).reshape(packed.shape[0], -1, 5)
    return whole[..., ::-1].reshape(packed.shape[0], -1)[:, :columns]


def _bytewise(packed: np.ndarray, columns: int) -> np.ndarray:
    return np.full((packed.shape[0], columns), -1, np.int8)  # the high byte of a byte is always 0


def _late(packed: np.ndarray, columns: int) -> np.ndarray:
    out, value = [], packed.astype(np.int64)
    for _ in range(5):
        out.append((value >> 8) - 1)
        value = (value & 255) * 3
    return np.stack(out, -1).reshape(packed.shape[0], -1)[:, :columns].astype(np.int8)


UNPACK = Exercise(
    name="unpack_ternary",
    contract="packed uint8 (N, ceil(K / 5)) as pack_ternary makes it, columns int K -> weights int8 (N, K) of -1, 0, 1",
    make_cases=_unpack_cases,
    oracle=_decoded,
    returns=(Returns("weights", dtype="int8"),),
    misconceptions=[
        Misconception(
            "divides-the-byte",
            "The byte is not the base-3 number c but ceil(256 * c / 243), so dividing it by 81, 27, 9 gives other digits. "
            "Multiply by 3 instead: what passes 256 is the digit, the low byte is the rest.",
            produces=lambda p, k: _digits_of(p, k),
        ),
        Misconception(
            "digits-reversed",
            "The digits come out in the right values but in the wrong order: the first multiplication by 3 brings out weight 0.",
            produces=_reversed_digits,
        ),
        Misconception(
            "forgets-minus-one",
            "Digits are 0, 1, 2; weights are -1, 0, 1. Subtract 1.",
            produces=lambda p, k: _decoded(p, k) + np.int8(1),
        ),
        Misconception(
            "byte-overflow",
            "Every weight is -1: `packed * 3` stays a uint8, so nothing ever passes 256 and each digit is 0. Widen first: "
            "packed.astype(np.uint16).",
            produces=_bytewise,
        ),
        Misconception(
            "one-digit-late",
            "Everything is one digit late: multiply by 3 first, then take the digit from above the low byte.",
            produces=_late,
        ),
        Misconception(
            "keeps-the-digit",
            "After a digit is taken, only the low byte may go on (`& 255`). Otherwise the digit is multiplied again.",
            recognises=lambda args, got, want: bool(
                (got[0][:, ::5] == want[0][:, ::5]).all() and (got[0][:, 1::5] != want[0][:, 1::5]).any()
            ),
        ),
    ],
    points=2,
)

# ---------------------------------------------------------------- 5. binary_coding


def _coding_cases(rng: np.random.Generator) -> list[Args]:
    gauss = rng.normal(size=(8, 64)).astype(np.float32)
    skewed = (rng.gamma(2.0, 0.5, (8, 64)) - 0.6).astype(np.float32)
    flat = np.concatenate([np.zeros((1, 16)), np.full((1, 16), 0.25), rng.normal(size=(2, 16))]).astype(np.float32)
    return [(gauss, 2, 12), (skewed, 3, 12), (gauss, 1, 4), (flat, 2, 6), (rng.normal(size=(4, 128)).astype(np.float32), 4, 12)]


def _greedy(w: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    alphas, planes, rest = [], [], w.astype(np.float64)
    for _ in range(bits):
        plane = np.where(rest >= 0, 1.0, -1.0)
        alphas.append(np.abs(rest).mean(1))
        planes.append(plane)
        rest = rest - alphas[-1][:, None] * plane
    return np.stack(alphas, 1), np.stack(planes, 1)


def _refit(w: np.ndarray, planes: np.ndarray) -> np.ndarray:
    return np.stack([np.linalg.pinv(p.T.astype(np.float64)) @ row for p, row in zip(planes, w.astype(np.float64), strict=True)])


def _reassign(w: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    signs = np.array(list(product((-1.0, 1.0), repeat=alphas.shape[1])))
    nearest = np.abs(w.astype(np.float64)[:, :, None] - (alphas @ signs.T)[:, None, :]).argmin(-1)
    return signs[nearest].swapaxes(1, 2)


def _alternating(w: np.ndarray, bits: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    alphas, planes = _greedy(w, bits)
    for _ in range(rounds):
        alphas = _refit(w, planes)
        planes = _reassign(w, alphas)
    return alphas.astype(np.float32), planes.astype(np.int8)


def _error(w: np.ndarray, alphas: np.ndarray, planes: np.ndarray) -> float:
    return float(((w - np.einsum("gb,gbl->gl", alphas.astype(np.float64), planes.astype(np.float64))) ** 2).sum())


def _accept_coding(args: Args, got: Arrays) -> str:
    w, bits, rounds = args
    alphas, planes = got
    if not np.isin(planes, (-1, 1)).all():
        return f"`planes` holds {sorted(set(np.unique(planes).tolist()) - {-1, 1})[:3]}; every element must be -1 or +1."
    error, best = _error(w, alphas, planes), _error(w, *_alternating(w, bits, rounds))
    if not error <= 1.04 * best + 1e-9 * float((w**2).sum()) + 1e-12:
        return f"the squared error is {error:.4g}; greedy start and {rounds} rounds of refitting and reassigning reach {best:.4g}."
    return ""


def _error_like(other: Any) -> Any:
    """Recognises an answer whose error is that of `other(w, bits, rounds)`, whichever signs and order it has."""

    def recognises(args: Args, got: Arrays, want: Arrays) -> bool:
        error, wrong = _error(args[0], *got), _error(args[0], *other(*args))
        return bool(np.isclose(error, wrong, rtol=1e-3))

    return recognises


def _shared_scales(w: np.ndarray, bits: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    alphas, planes = _alternating(w.reshape(1, -1), bits, rounds)
    return np.repeat(alphas, len(w), 0), planes.reshape(bits, *w.shape).swapaxes(0, 1)


CODING = Exercise(
    name="binary_coding",
    contract="w float32 (G, L), bits int, rounds int -> (alphas floating (G, bits), planes int8 (G, bits, L) of -1 and +1): "
    "row by row, w is about the sum over b of alphas[b] * planes[b]; greedy start, then `rounds` times: refit all scales of "
    "the row together by least squares, then give each weight the nearest of the 2**bits sums",
    make_cases=_coding_cases,
    oracle=_alternating,
    returns=(Returns("alphas", dtype="floating"), Returns("planes", dtype="int8")),
    accept=_accept_coding,
    misconceptions=[
        Misconception(
            "planes-of-zero-and-one",
            "The planes hold 0 and 1. Binary coding uses -1 and +1: a plane of 0 and 1 needs another scale and an offset.",
            recognises=lambda args, got, want: bool(np.isin(got[1], (0, 1)).all()),
        ),
        Misconception(
            "sign-of-zero",
            "np.sign(0) is 0, which is no plane entry. Decide for one side: np.where(r >= 0, 1, -1).",
            recognises=lambda args, got, want: bool((got[1] == 0).any()),
        ),
        Misconception(
            "greedy-only",
            "This is the greedy start alone: each scale was chosen as if no other would follow. Refit all scales of a row "
            "together, then choose the nearest sums again, `rounds` times.",
            recognises=_error_like(lambda w, bits, rounds: _greedy(w, bits)),
        ),
        Misconception(
            "refit-without-reassign",
            "The scales were refitted, but the planes are still the greedy ones. With new scales another sum may be nearer: give "
            "each weight the nearest of the 2**bits sums in every round.",
            recognises=_error_like(lambda w, bits, rounds: (_refit(w, _greedy(w, bits)[1]), _greedy(w, bits)[1])),
        ),
        Misconception(
            "reassign-without-refit",
            "The planes were chosen again, but with the greedy scales. Refit the scales by least squares in every round.",
            recognises=_error_like(
                lambda w, bits, rounds: (_greedy(w, bits)[0], _reassign(w, _greedy(w, bits)[0]))
            ),
        ),
        Misconception(
            "scales-shared-by-groups",
            "One set of scales was fitted for all rows together. Each row of w is a group with its own scales.",
            recognises=_error_like(_shared_scales),
        ),
        Misconception(
            "scales-off-by-two",
            "The scales are twice as large or half as large as they should be: going from -1 to +1 is a step of 2 * alpha.",
            recognises=lambda args, got, want: any(
                _error(args[0], factor * got[0], got[1]) <= 1.05 * _error(args[0], *want) + 1e-9 for factor in (0.5, 2.0)
            ),
        ),
        Misconception(
            "mean-without-magnitude",
            "The scale of a plane is the mean of |r|, not of r: the mean of r itself is near zero.",
            recognises=lambda args, got, want: _error(args[0], *got) > 0.6 * float((args[0] ** 2).sum()),
        ),
        Misconception(
            "planes-of-the-weight",
            "Every plane is the sign of w itself, so they are all equal. Plane b is the sign of what the earlier planes left over.",
            recognises=lambda args, got, want: bool((got[1] == got[1][:, :1]).all()) and args[1] > 1,
        ),
    ],
    hint="Test the refit alone: with exact planes np.linalg.lstsq(planes.T, w) must give back the scales you made w from.",
    points=4,
)

LAB = Lab(
    name="lab02_lookup_tables",
    setup="import numpy as np",
    exercises=[SPLIT, TABLES, PRODUCT, PACK, UNPACK, CODING],
)
