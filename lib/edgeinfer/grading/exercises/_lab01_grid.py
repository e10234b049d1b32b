"""Lab 1, exercises 1 and 2: a symmetric grid, and a grid with a zero point for each group.

The oracles take another way than the lab: Python numbers in loops, float64. Source: nagel-whitepaper.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

SLACK = 2e-3  # of a step: float32 division and multiplication by the inverse may land on different sides of a half

# ---------------------------------------------------------------- 1. quantize_symmetric


def _symmetric_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = [
        (rng.normal(0, spread, (n, k)).astype(np.float32), bits)
        for n, k, bits, spread in ((6, 16, 8, 0.05), (5, 7, 4, 1.0), (3, 33, 3, 2.0), (8, 8, 2, 0.3), (1, 1, 4, 1.0))
    ]
    one_sided = rng.uniform(0.1, 0.9, (4, 12)).astype(np.float32)
    negative_peak = rng.normal(0, 0.1, (4, 9)).astype(np.float32)
    negative_peak[2, 3] = -1.5
    return [*cases, (one_sided, 4), (negative_peak, 5), (np.zeros((3, 4), np.float32), 4)]


def _symmetric(weight: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    top = (1 << (bits - 1)) - 1
    scale = max(abs(float(v)) for v in weight.ravel()) / top or 1.0
    codes = [round(float(v) / scale) for v in weight.ravel()]
    return np.array(codes, np.int8).reshape(weight.shape), scale


def _symmetric_ok(args: Args, got: Arrays) -> str:
    weight, bits = args
    codes, scale = got
    want = _symmetric(weight, bits)[1]
    if not abs(float(scale) - want) <= 1e-5 * want:
        return f"`scale` is {float(scale):.6g}, expected {want:.6g}."
    off = np.abs(weight.astype(np.float64) / want - codes.astype(np.float64))
    if off.max() > 0.5 + SLACK:
        at = tuple(int(i) for i in np.unravel_index(off.argmax(), off.shape))
        return (
            f"`codes`{list(at)} is {int(codes[at])}, but weight / scale is {float(weight[at]) / want:.3f}: "
            "not the nearest code."
        )
    return ""


def _no_guard(scale: Any) -> Any:
    return np.where(np.asarray(scale) > 0, scale, 1)


def _with_top(weight: np.ndarray, top: float, rounding: Any = np.rint) -> tuple[np.ndarray, float]:
    scale = float(_no_guard(np.abs(weight).max() / top))
    return rounding(weight.astype(np.float64) / scale).astype(np.int8), scale


def _by_range(weight: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    scale = float(_no_guard((weight.max() - weight.min()) / (2**bits - 1)))
    return np.rint(weight / scale).astype(np.int8), scale


def _by_largest(weight: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    scale = float(weight.max()) / (2 ** (bits - 1) - 1) or 1.0  # negative where all weights are
    return np.rint(weight / scale).astype(np.int8), scale


def _row_scales(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    scale = _no_guard(np.abs(weight).max(1, keepdims=True) / (2 ** (bits - 1) - 1))
    return np.rint(weight / scale).astype(np.int8), scale


SYMMETRIC = Exercise(
    name="quantize_symmetric",
    contract="weight float32 (N, K), bits int 2..8 -> codes int8 (N, K) from -(2**(bits-1)-1) to 2**(bits-1)-1, "
    "scale float (one for the whole matrix; 1.0 if the matrix is all zeros): codes * scale is nearest to weight",
    make_cases=_symmetric_cases,
    oracle=_symmetric,
    returns=(Returns("codes", dtype="int8"), Returns("scale", dtype="floating", rtol=1e-5)),
    accept=_symmetric_ok,
    misconceptions=[
        Misconception(
            "no-sign-bit",
            "One of the bits is the sign. With 4 bits the largest code is 7, not 15: it is 2**(bits-1) - 1.",
            produces=lambda w, bits: _with_top(w, 2**bits - 1),
        ),
        Misconception(
            "one-code-too-many",
            "The largest positive code is 2**(bits-1) - 1; 2**(bits-1) does not fit (at 8 bits, 128 becomes -128). "
            "A symmetric grid leaves the lowest code unused.",
            produces=lambda w, bits: _with_top(w, 2 ** (bits - 1)),
        ),
        Misconception(
            "truncates",
            "The codes are cut off, not rounded: astype(int) drops the fraction, which moves every weight towards "
            "zero. Round first: np.round.",
            produces=lambda w, bits: _with_top(w, 2 ** (bits - 1) - 1, np.trunc),
        ),
        Misconception(
            "rounds-down",
            "The codes are rounded down, not to the nearest: np.floor moves every weight by half a step on average, "
            "all in the same direction. Use np.round.",
            produces=lambda w, bits: _with_top(w, 2 ** (bits - 1) - 1, np.floor),
        ),
        Misconception(
            "forgets-negative-weights",
            "The scale comes from the largest weight, but the largest magnitude may be a negative one: use "
            "np.abs(weight).max().",
            produces=_by_largest,
        ),
        Misconception(
            "range-over-levels",
            "(max - min) / levels is the step of a grid that may be shifted. A symmetric grid reaches as far to the "
            "left as to the right, so its step is max|w| / (2**(bits-1) - 1).",
            produces=_by_range,
        ),
        Misconception(
            "a-scale-per-row",
            "These are scales per row (per channel). Here one number serves the whole matrix.",
            produces=_row_scales,
        ),
        Misconception(
            "inverse-scale",
            "You return codes per weight instead of weights per code. Whoever decodes computes codes * scale, so the "
            "scale is max|w| / largest code.",
            produces=lambda w, bits: (_symmetric(w, bits)[0], 1 / _symmetric(w, bits)[1]),
        ),
        Misconception(
            "zero-division",
            "Right until the matrix is all zeros: then the scale is 0 and 0 / 0 is NaN. Real checkpoints have such "
            "rows and matrices. Let the scale be 1.0 there.",
            recognises=lambda args, got, want: not args[0].any(),
        ),
    ],
    points=2,
)

# ---------------------------------------------------------------- 2. quantize_groups


def _group_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = [
        ((rng.normal(shift, 1, (n, k)) * rng.uniform(0.1, 2, (n, 1))).astype(np.float32), bits, g)
        for n, k, bits, g, shift in ((4, 32, 4, 8, 0.4), (3, 24, 3, 24, 0.0), (5, 16, 8, 4, -0.3), (2, 12, 2, 6, 0.2))
    ]
    positive = rng.uniform(0.5, 1.0, (3, 16)).astype(np.float32)
    negative = -rng.uniform(0.5, 1.0, (2, 8)).astype(np.float32)
    with_zeros = rng.normal(0, 1, (3, 16)).astype(np.float32)
    with_zeros[1, 8:] = 0
    return [*cases, (positive, 4, 8), (negative, 3, 4), (with_zeros, 4, 8)]


def _groups(weight: np.ndarray, bits: int, group_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, k = weight.shape
    levels = (1 << bits) - 1
    codes = np.zeros((n, k), np.uint8)
    scale = np.zeros((n, k // group_size), np.float32)
    zero = np.zeros((n, k // group_size), np.uint8)
    for row in range(n):
        for j in range(k // group_size):
            group = [float(v) for v in weight[row, j * group_size : (j + 1) * group_size]]
            low, high = min(0.0, *group), max(0.0, *group)
            step = (high - low) / levels or 1.0
            z = round(-low / step)
            scale[row, j], zero[row, j] = step, z
            for i, v in enumerate(group):
                codes[row, j * group_size + i] = min(levels, max(0, round(v / step) + z))
    return codes, scale, zero


def _groups_ok(args: Args, got: Arrays) -> str:
    weight, bits, group_size = args
    codes, scale, zero = got
    want = _groups(weight, bits, group_size)[1]
    n, groups = want.shape
    bad = ~(np.abs(scale - want) <= 1e-5 * want)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        return f"`scale`{list(at)} is {float(scale[at]):.6g}, expected {float(want[at]):.6g} ({int(bad.sum())} differ)."
    step = want.astype(np.float64)
    grouped = weight.reshape(n, groups, group_size).astype(np.float64)
    exact = -np.minimum(grouped.min(-1), 0) / step
    bad = np.abs(zero - exact) > 0.5 + SLACK
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        return f"`zero_point`{list(at)} is {int(zero[at])}, but 0 lies {exact[at]:.3f} steps above the lowest code."
    ideal = np.clip(grouped / step[..., None] + zero[..., None], 0, 2**bits - 1)
    off = np.abs(ideal - codes.reshape(grouped.shape)).reshape(weight.shape)
    if off.max() > 0.5 + SLACK:
        at = tuple(int(i) for i in np.argwhere(off > 0.5 + SLACK)[0])
        return (
            f"`codes`{list(at)} is {int(codes[at])}, but weight / scale + zero_point is "
            f"{float(ideal.reshape(weight.shape)[at]):.3f} (within 0 and {2**bits - 1})."
        )
    return ""


def _mistaken_groups(
    weight: np.ndarray,
    bits: int,
    group_size: int,
    hold_zero: bool = True,
    levels: int | None = None,
    symmetric: bool = False,
    per_row: bool = False,
    rounding: Any = np.rint,
    strided: bool = False,
    clip: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The grid per group with one screw loose."""
    n, k = weight.shape
    top = 2**bits - 1
    parts = weight.reshape(n, -1, group_size) if not strided else weight.reshape(n, group_size, -1).swapaxes(1, 2)
    spread = weight.reshape(n, 1, k) if per_row else parts
    low, high = spread.min(-1), spread.max(-1)
    if hold_zero:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        scale, zero = np.abs(spread).max(-1) / (2 ** (bits - 1) - 1), np.full(low.shape, 2.0 ** (bits - 1))
    else:
        scale = (high - low) / (levels or top)
        zero = np.rint(-low / _no_guard(scale))
    scale = _no_guard(scale)
    groups = parts.shape[1]
    scale, zero = np.broadcast_to(scale, (n, groups)), np.broadcast_to(zero, (n, groups))
    codes = rounding(parts / scale[..., None]) + zero[..., None]
    if clip:
        codes = np.clip(codes, 0, top)
    if strided:
        codes = codes.swapaxes(1, 2)
    return codes.reshape(n, k).astype(np.uint8), scale.astype(np.float32), zero.astype(np.int64).astype(np.uint8)


def _code_of_low(weight: np.ndarray, bits: int, group_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes measured from the lowest weight, without rounding the zero point first."""
    n = weight.shape[0]
    _, scale, zero = _mistaken_groups(weight, bits, group_size)
    parts = weight.reshape(n, -1, group_size)
    low = np.minimum(parts.min(-1), 0)
    codes = np.rint((parts - low[..., None]) / scale[..., None])
    return np.clip(codes, 0, 2**bits - 1).reshape(weight.shape).astype(np.uint8), scale, zero


def _one_below(args: Args, got: Arrays, want: Arrays) -> bool:
    below = want[0].astype(int) - got[0]
    same_grid = np.allclose(got[1], want[1], rtol=1e-5) and bool((got[2] == want[2]).all())
    return bool(same_grid and below.min() >= 0 and below.max() == 1 and below.mean() > 0.2)


GROUPS = Exercise(
    name="quantize_groups",
    contract="weight float32 (N, K), bits int 2..8, group_size int dividing K -> codes uint8 (N, K) from 0 to "
    "2**bits-1, scale floating (N, K // group_size), zero_point uint8 (N, K // group_size): weight is about "
    "scale * (code - zero_point); the range of a group is widened to hold 0; a group of zeros has scale 1",
    make_cases=_group_cases,
    oracle=_groups,
    returns=(
        Returns("codes", dtype="uint8"),
        Returns("scale", dtype="floating", rtol=1e-5),
        Returns("zero_point", dtype="uint8"),
    ),
    accept=_groups_ok,
    misconceptions=[
        Misconception(
            "zero-outside-the-range",
            "Where all weights of a group have one sign, 0 lies outside [min, max] and the zero point does not fit "
            "into the codes (a uint8 wraps round). Widen the range first: low = min(0, min), high = max(0, max).",
            produces=partial(_mistaken_groups, hold_zero=False),
        ),
        Misconception(
            "divides-by-number-of-codes",
            "2**bits codes have 2**bits - 1 steps between them (fence posts and fences). Dividing by 2**bits makes "
            "the steps too small, and the largest weight falls off the end.",
            produces=lambda w, bits, g: _mistaken_groups(w, bits, g, levels=2**bits),
        ),
        Misconception(
            "symmetric-grid",
            "This is the symmetric grid with its zero in the middle. Fit the range instead: scale = (high - low) / "
            "(2**bits - 1), zero_point = round(-low / scale).",
            produces=partial(_mistaken_groups, symmetric=True),
        ),
        Misconception(
            "one-grid-per-row",
            "All groups of a row got the grid of the whole row. Take the minimum and the maximum inside each group: "
            "reshape to (N, K // group_size, group_size) and reduce the last axis.",
            produces=partial(_mistaken_groups, per_row=True),
        ),
        Misconception(
            "groups-interleaved",
            "A group is a run of NEIGHBOURING columns: reshape to (N, K // group_size, group_size), not to "
            "(N, group_size, K // group_size).",
            produces=partial(_mistaken_groups, strided=True),
        ),
        Misconception(
            "truncates",
            "The codes are cut off, not rounded: astype drops the fraction. Round first: np.round.",
            produces=partial(_mistaken_groups, rounding=np.trunc),
        ),
        Misconception(
            "rounds-down",
            "The codes are rounded down. Use np.round, or every weight moves down by half a step on average.",
            recognises=_one_below,
        ),
        Misconception(
            "zero-has-no-code",
            "Codes are counted from the lowest weight, while the zero point is rounded by itself: then 0 is not "
            "exactly on the grid and code - zero_point is off by up to half a step. Round w / scale, then ADD the "
            "integer zero point.",
            produces=_code_of_low,
        ),
        Misconception(
            "zero-point-sign",
            "The zero point has the wrong sign: it is the code that MEANS 0, so it is -low / scale (and low is "
            "negative or 0). A negative number stored as uint8 wraps round.",
            produces=lambda w, bits, g: (
                *_mistaken_groups(w, bits, g)[:2],
                (256 - _mistaken_groups(w, bits, g)[2].astype(int)).astype(np.uint8),
            ),
        ),
        Misconception(
            "not-clipped",
            "Two roundings can add up to a code of -1 or 2**bits: clip the codes to 0 ... 2**bits - 1 before the "
            "conversion to uint8, which wraps round.",
            produces=partial(_mistaken_groups, clip=False),
        ),
        Misconception(
            "stores-low-not-zero-point",
            "The codes and scales are right; the zero point is not the code of 0. It is round(-low / scale).",
            recognises=lambda args, got, want: bool(
                np.allclose(got[1], want[1], rtol=1e-5) and (got[0] == want[0]).mean() > 0.99
            ),
        ),
        Misconception(
            "zero-division",
            "Right until a group is all zeros: its scale is 0, and 0 / 0 is NaN. Let the scale be 1 there.",
            recognises=lambda args, got, want: bool(
                (np.abs(args[0]).reshape(len(args[0]), -1, args[2]).max(-1) == 0).any()
            ),
        ),
    ],
    hint="Step by step: low = min(0, smallest), high = max(0, largest) of each group; scale = (high - low) / "
    "(2**bits - 1), or 1 where that is 0; zero_point = round(-low / scale); code = round(w / scale) + zero_point, "
    "clipped.",
    points=3,
)
