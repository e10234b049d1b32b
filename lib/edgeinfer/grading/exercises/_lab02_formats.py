"""Lab 2, exercises 4 and 5: five ternary weights a byte, and binary coding with refitted scales.

The oracles take another way than the lab: strings in base 3, exhaustive search. Sources: tellme, lut-gemm.
"""

from itertools import product
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

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
            "This is c itself, 0 to 242. Stretch it to the whole byte, ceil(256 * c / 243): then c is a fraction "
            "of 256, and multiplying by 3 brings the next digit out at the top, without a division.",
            produces=lambda w: _base_three(w).astype(np.uint8),
        ),
        Misconception(
            "rounds-down",
            "256 * c / 243 must be rounded UP. Rounded down, the fraction falls below c / 243 and the last digit "
            "comes out one too small.",
            produces=lambda w: (256 * _base_three(w) // 243).astype(np.uint8),
        ),
        Misconception(
            "rounds-to-nearest",
            "256 * c / 243 must be rounded UP, not to the nearest: half of the bytes would decode to one code less.",
            produces=lambda w: np.rint(256 * _base_three(w) / 243).astype(np.uint8),
        ),
        Misconception(
            "digits-reversed",
            "The first weight of five is the MOST significant digit (81), because decoding by multiplication "
            "brings out the top digit first.",
            produces=lambda w: _to_byte(_base_three(w, (1, 3, 9, 27, 81))),
        ),
        Misconception(
            "padded-with-minus-one",
            "Missing weights at the end of a row count as weight 0, which is digit 1. A digit of 0 would be the "
            "weight -1.",
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
            "The byte is not the base-3 number c but ceil(256 * c / 243), so dividing it by 81, 27, 9 gives other "
            "digits. Multiply by 3 instead: what passes 256 is the digit, the low byte is the rest.",
            produces=lambda p, k: _digits_of(p, k),
        ),
        Misconception(
            "digits-reversed",
            "The digits come out in the right values but in the wrong order: the first multiplication by 3 brings "
            "out weight 0.",
            produces=_reversed_digits,
        ),
        Misconception(
            "forgets-minus-one",
            "Digits are 0, 1, 2; weights are -1, 0, 1. Subtract 1.",
            produces=lambda p, k: _decoded(p, k) + np.int8(1),
        ),
        Misconception(
            "byte-overflow",
            "Every weight is -1: `packed * 3` stays a uint8, so nothing ever passes 256 and each digit is 0. "
            "Widen first: packed.astype(np.uint16).",
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
    return [
        (gauss, 2, 12),
        (skewed, 3, 12),
        (gauss, 1, 4),
        (flat, 2, 6),
        (rng.normal(size=(4, 128)).astype(np.float32), 4, 12),
        (skewed, 3, 0),  # the greedy start alone
        (flat, 2, 0),
    ]


def _greedy(w: np.ndarray, bits: int, size: Any = np.abs) -> tuple[np.ndarray, np.ndarray]:
    alphas, planes, rest = [], [], w.astype(np.float64)
    for _ in range(bits):
        plane = np.where(rest >= 0, 1.0, -1.0)
        alphas.append(size(rest).mean(1))
        planes.append(plane)
        rest = rest - alphas[-1][:, None] * plane
    return np.stack(alphas, 1), np.stack(planes, 1)


def _refit(w: np.ndarray, planes: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.linalg.pinv(p.T.astype(np.float64)) @ row for p, row in zip(planes, w.astype(np.float64), strict=True)]
    )


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
        return (
            f"`planes` holds {sorted(set(np.unique(planes).tolist()) - {-1, 1})[:3]}; every element must be -1 or +1."
        )
    error, best = _error(w, alphas, planes), _error(w, *_alternating(w, bits, rounds))
    if not error <= 1.04 * best + 1e-9 * float((w**2).sum()) + 1e-12:
        return f"the squared error is {error:.4g}; greedy and {rounds} rounds of refit and reassign reach {best:.4g}."
    return ""


def _error_like(other: Any) -> Any:
    """Recognises an answer whose error is that of `other(w, bits, rounds)`, whichever signs and order it has."""

    def recognises(args: Args, got: Arrays, want: Arrays) -> bool:
        error, wrong = _error(args[0], *got), _error(args[0], *other(*args))
        return bool(np.isclose(error, wrong, rtol=1e-3))

    return recognises


def _size_of_weights(w: np.ndarray, bits: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Every scale is the mean of |w|, not of what is left over."""
    planes, rest, size = [], w.astype(np.float64), np.abs(w.astype(np.float64)).mean(1)
    for _ in range(bits):
        planes.append(np.where(rest >= 0, 1.0, -1.0))
        rest = rest - size[:, None] * planes[-1]
    return np.repeat(size[:, None], bits, 1), np.stack(planes, 1)


def _one_by_one(w: np.ndarray, bits: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    alphas, planes = _greedy(w, bits)
    for _ in range(rounds):
        alphas = np.einsum("gbl,gl->gb", planes, w.astype(np.float64)) / w.shape[1]
        planes = _reassign(w, alphas)
    return alphas, planes


def _shared_scales(w: np.ndarray, bits: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    alphas, planes = _alternating(w.reshape(1, -1), bits, rounds)
    return np.repeat(alphas, len(w), 0), planes.reshape(bits, *w.shape).swapaxes(0, 1)


CODING = Exercise(
    name="binary_coding",
    contract="w float32 (G, L), bits int, rounds int -> (alphas floating (G, bits), planes int8 (G, bits, L) of "
    "-1 and +1): row by row, w is about the sum over b of alphas[b] * planes[b]; greedy start, then `rounds` "
    "times: refit all scales of the row together by least squares, then give each weight the nearest of the "
    "2**bits sums",
    make_cases=_coding_cases,
    oracle=_alternating,
    returns=(Returns("alphas", dtype="floating"), Returns("planes", dtype="int8")),
    accept=_accept_coding,
    misconceptions=[
        Misconception(
            "planes-of-zero-and-one",
            "The planes hold 0 and 1. Binary coding uses -1 and +1: a plane of 0 and 1 needs another scale and an "
            "offset.",
            recognises=lambda args, got, want: bool(np.isin(got[1], (0, 1)).all()),
        ),
        Misconception(
            "sign-of-zero",
            "np.sign(0) is 0, which is no plane entry. Decide for one side: np.where(r >= 0, 1, -1).",
            recognises=lambda args, got, want: bool((got[1] == 0).any()),
        ),
        Misconception(
            "greedy-only",
            "This is the greedy start alone: each scale was chosen as if no other would follow. Refit all scales "
            "of a row together, then choose the nearest sums again, `rounds` times.",
            recognises=_error_like(lambda w, bits, rounds: _greedy(w, bits)),
        ),
        Misconception(
            "refit-without-reassign",
            "The scales were refitted, but the planes are still the greedy ones. With new scales another sum may "
            "be nearer: give each weight the nearest of the 2**bits sums in every round.",
            recognises=_error_like(lambda w, bits, rounds: (_refit(w, _greedy(w, bits)[1]), _greedy(w, bits)[1])),
        ),
        Misconception(
            "reassign-without-refit",
            "The planes were chosen again, but with the greedy scales. Refit the scales by least squares in every "
            "round.",
            recognises=_error_like(lambda w, bits, rounds: (_greedy(w, bits)[0], _reassign(w, _greedy(w, bits)[0]))),
        ),
        Misconception(
            "refits-one-by-one",
            "Each scale was refitted as if it were the only one. Planes overlap: fit all scales of a row together, "
            "np.linalg.lstsq(planes.T, w).",
            recognises=_error_like(_one_by_one),
        ),
        Misconception(
            "scale-of-the-weights",
            "Every scale is the mean of |w|. Plane b stands for what the earlier planes left over: its scale is the "
            "mean of |r|.",
            recognises=_error_like(_size_of_weights),
        ),
        Misconception(
            "scales-shared-by-groups",
            "One set of scales was fitted for all rows together. Each row of w is a group with its own scales.",
            recognises=_error_like(_shared_scales),
        ),
        Misconception(
            "scales-off-by-two",
            "The scales are twice as large or half as large as they should be: going from -1 to +1 is a step of 2 "
            "* alpha.",
            recognises=lambda args, got, want: any(
                _error(args[0], factor * got[0], got[1]) <= 1.05 * _error(args[0], *want) + 1e-9
                for factor in (0.5, 2.0)
            ),
        ),
        Misconception(
            "mean-without-magnitude",
            "The scale of a plane is the mean of |r|, not of r: the mean of r itself is near zero.",
            recognises=_error_like(lambda w, bits, rounds: _greedy(w, bits, np.asarray)),
        ),
        Misconception(
            "planes-of-the-weight",
            "Every plane is the sign of w itself, so they are all equal. Plane b is the sign of what the earlier "
            "planes left over.",
            recognises=lambda args, got, want: bool((got[1] == got[1][:, :1]).all()) and args[1] > 1,
        ),
    ],
    hint="Test the refit alone: with exact planes np.linalg.lstsq(planes.T, w) must give back the scales you made "
    "w from.",
    points=4,
)
