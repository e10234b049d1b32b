"""Lab 1, exercise 3: the product of codes, where the zero point meets the sum of the activations.

The oracle decodes everything and multiplies in float64. Source: nagel-whitepaper.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns

# ---------------------------------------------------------------- 3. integer_matvec


def _product_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for n, k, bits, groups, kind in (
        (5, 32, 4, 4, "signed"), (3, 64, 8, 1, "positive"), (4, 24, 2, 3, "positive"), (2, 512, 8, 2, "large"),
        (1, 8, 4, 2, "signed"), (6, 48, 3, 6, "positive"),
    ):  # fmt: skip
        codes = rng.integers(0, 2**bits, (n, k)).astype(np.uint8)
        scale = rng.uniform(0.01, 0.1, (n, groups)).astype(np.float32)
        zero = rng.integers(1, 2**bits, (n, groups)).astype(np.uint8)
        if kind == "large":  # sums beyond 16 bits
            codes, x = np.maximum(codes, 200).astype(np.uint8), rng.integers(90, 128, k)
            zero = np.maximum(zero, 30)
        else:
            x = rng.integers(-127 if kind == "signed" else 10, 128, k)
        cases.append((codes, scale, zero, x.astype(np.int8), float(np.float32(rng.uniform(0.01, 0.05)))))
    return cases


def _matvec(
    codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, x_codes: np.ndarray, x_scale: float
) -> np.ndarray:
    """Decode everything, then a plain product in float64."""
    size = codes.shape[1] // scale.shape[1]
    wide = codes.astype(np.float64) - np.repeat(zero_point.astype(np.float64), size, 1)
    return (wide * np.repeat(scale.astype(np.float64), size, 1)) @ (x_codes.astype(np.float64) * x_scale)


def _mistaken_matvec(
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    x_codes: np.ndarray,
    x_scale: float,
    correction: str = "sum",
    sign: float = -1.0,
    scaled: bool = True,
    x_power: int = 1,
) -> np.ndarray:
    """The integer product with one screw loose."""
    n, groups = scale.shape
    parts, x = codes.reshape(n, groups, -1).astype(np.float64), x_codes.reshape(groups, -1).astype(np.float64)
    dot = np.einsum("ngk,gk->ng", parts, x)
    per = x.shape[1]
    total = {"sum": x.sum(1), "none": 0.0, "count": per, "once": 1.0, "row": x.sum(), "all": per * groups}[correction]
    part = dot + sign * zero * total if scaled else dot
    y = (scale * part).sum(1)
    if not scaled:
        y = y + sign * (zero * total).sum(1)
    return np.asarray(y * x_scale**x_power)


def _in_bytes(
    codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, x_codes: np.ndarray, x_scale: float
) -> np.ndarray:
    size = codes.shape[1] // scale.shape[1]
    wrapped = codes - np.repeat(zero, size, 1)  # uint8: 3 - 5 is 254
    return _matvec(wrapped, scale, np.zeros_like(zero), x_codes, x_scale)


def _in_16_bits(
    codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, x_codes: np.ndarray, x_scale: float
) -> np.ndarray:
    n, groups = scale.shape
    parts, x = codes.reshape(n, groups, -1).astype(np.int64), x_codes.reshape(groups, -1).astype(np.int64)
    dot = np.einsum("ngk,gk->ng", parts, x).astype(np.int16).astype(np.float64)
    return np.asarray((scale * (dot - zero * x.sum(1).astype(np.float64))).sum(1) * x_scale)


def _in_8_bits(
    codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, x_codes: np.ndarray, x_scale: float
) -> np.ndarray:
    n, groups = scale.shape
    x = x_codes.reshape(groups, -1)
    products = (codes.reshape(n, groups, -1).astype(np.int8) * x).astype(np.int64)
    part = products.sum(-1) - zero.astype(np.int64) * x.astype(np.int64).sum(1)
    return np.asarray((scale * part).sum(1) * x_scale)


PRODUCT = Exercise(
    name="integer_matvec",
    contract="codes uint8 (N, K), scale float32 (N, G), zero_point uint8 (N, G), x_codes int8 (K,), x_scale float -> "
    "y floating (N,): W @ x with W = scale * (code - zero_point), a scale and a zero point for each of the G groups "
    "of K // G columns, and x = x_scale * x_codes",
    make_cases=_product_cases,
    oracle=_matvec,
    returns=(Returns("y", dtype="floating", rtol=1e-4, atol=1e-3),),
    misconceptions=[
        Misconception(
            "forgets-zero-point",
            "The zero points are missing. Sum of (code - zero) * x is Sum of code * x MINUS zero * Sum of x: the zero "
            "point meets the sum of the activations.",
            produces=partial(_mistaken_matvec, correction="none"),
        ),
        Misconception(
            "zero-point-times-count",
            "You subtract zero_point times the NUMBER of columns. Every column's zero point is multiplied by that "
            "column's activation, so the factor is the SUM of the activations.",
            produces=partial(_mistaken_matvec, correction="count"),
        ),
        Misconception(
            "zero-point-once",
            "You subtract the zero point itself from the dot product. It stands inside the sum: multiply it by the "
            "sum of the activations of the group.",
            produces=partial(_mistaken_matvec, correction="once"),
        ),
        Misconception(
            "sum-of-the-whole-row",
            "Each group has its own zero point, so it meets only the activations of its own group; you used the sum "
            "over all K columns.",
            produces=partial(_mistaken_matvec, correction="row"),
        ),
        Misconception(
            "zero-point-sign",
            "The correction is added; it is subtracted: W = scale * (code MINUS zero_point).",
            produces=partial(_mistaken_matvec, sign=1.0),
        ),
        Misconception(
            "zero-point-not-scaled",
            "The correction belongs inside the bracket: scale * (dot - zero * sum), before the scale, not after.",
            produces=partial(_mistaken_matvec, scaled=False),
        ),
        Misconception(
            "forgets-activation-scale",
            "x_scale is missing: the result is in steps of the activations, not in their unit.",
            produces=partial(_mistaken_matvec, x_power=0),
        ),
        Misconception(
            "activation-scale-twice",
            "x_scale is in the result twice. It is one common factor of the whole sum.",
            produces=partial(_mistaken_matvec, x_power=2),
        ),
        Misconception(
            "forgets-weight-scales",
            "The scales of the weights are missing: what comes out are sums of codes.",
            produces=lambda c, s, z, x, xs: _matvec(c, np.ones_like(s), z, x, xs),
        ),
        Misconception(
            "one-scale-per-row",
            "You used the first group's scale for the whole row. Sum per group, scale, then add the groups.",
            produces=lambda c, s, z, x, xs: _matvec(c, np.repeat(s[:, :1], s.shape[1], 1), z, x, xs),
        ),
        Misconception(
            "mean-scale-per-row",
            "The mean of a row's scales is not its scale. Sum the products per group, scale, then add the groups.",
            produces=lambda c, s, z, x, xs: _matvec(c, np.repeat(s.mean(1, keepdims=True), s.shape[1], 1), z, x, xs),
        ),
        Misconception(
            "subtracts-in-bytes",
            "code - zero_point in uint8 wraps round: 3 - 5 is 254. Widen first: codes.astype(np.int32).",
            produces=_in_bytes,
        ),
        Misconception(
            "codes-as-int8",
            "Codes reach 255, int8 ends at 127: as int8, 200 becomes -56. Widen the codes to int32, not to int8.",
            produces=lambda c, s, z, x, xs: _matvec(c.astype(np.int8), s, z, x, xs),
        ),
        Misconception(
            "accumulator-16-bits",
            "A sum of products of 8-bit codes leaves 16 bits after a few terms and wraps round. Accumulate in int32.",
            produces=_in_16_bits,
        ),
        Misconception(
            "accumulator-8-bits",
            "The products are computed in 8 bits, where they wrap round: numpy keeps the small type of its operands. "
            "Widen both to int32 before multiplying.",
            produces=_in_8_bits,
        ),
    ],
    hint="Write one group's sum out with (code - zero_point) in it and multiply the bracket: which two sums of "
    "whole numbers are left? Then ask where the group's scale belongs, where x_scale, and how large an int8 "
    "product may get.",
    points=3,
)
