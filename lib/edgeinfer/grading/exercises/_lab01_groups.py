"""Lab 1, exercise quantize_groups: a grid with a zero point for each group of weights.

The oracle takes another way than the lab: Python numbers in loops, float64. Source: nagel-whitepaper.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns
from edgeinfer.grading.exercises._lab01_grid import SLACK, both, no_guard


def _group_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = [
        ((rng.normal(shift, 1, (n, k)) * rng.uniform(0.1, 2, (n, 1))).astype(np.float32), bits, g)
        for n, k, bits, g, shift in ((4, 32, 4, 8, 0.4), (3, 24, 3, 24, 0.0), (5, 16, 8, 4, -0.3), (2, 12, 2, 6, 0.2))
    ]
    positive = rng.uniform(0.5, 1.0, (3, 16)).astype(np.float32)
    negative = -rng.uniform(0.5, 1.0, (2, 8)).astype(np.float32)
    with_zeros = rng.normal(0, 1, (3, 16)).astype(np.float32)
    with_zeros[1, 8:] = 0
    halves = np.array([[-5.5, 9.5, 0, 3, -2, 1, 7, -1]], np.float32) / 8  # both ends lie between two codes
    return [*cases, (positive, 4, 8), (negative, 3, 4), (with_zeros, 4, 8), (halves, 4, 8)]


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
    over: str = "group",
    rounding: Any = np.rint,
    strided: bool = False,
    clip: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The grid per group with one screw loose."""
    n, k = weight.shape
    top = 2**bits - 1
    parts = weight.reshape(n, -1, group_size) if not strided else weight.reshape(n, group_size, -1).swapaxes(1, 2)
    spread = {"group": parts, "row": weight.reshape(n, 1, k), "matrix": weight.reshape(1, 1, -1)}[over]
    low, high = spread.min(-1), spread.max(-1)
    if hold_zero:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        scale, zero = np.abs(spread).max(-1) / (2 ** (bits - 1) - 1), np.full(low.shape, 2.0 ** (bits - 1))
    else:
        scale = (high - low) / (levels or top)
        zero = np.rint(-low / no_guard(scale))
    scale = no_guard(scale)
    groups = parts.shape[1]
    scale, zero = np.broadcast_to(scale, (n, groups)), np.broadcast_to(zero, (n, groups))
    codes = rounding(parts / scale[..., None]) + zero[..., None]
    if clip:
        codes = np.clip(codes, 0, top)
    if strided:
        codes = codes.swapaxes(1, 2)
    return codes.reshape(n, k).astype(np.uint8), scale.astype(np.float32), zero.astype(np.int64).astype(np.uint8)


def _spread(args: Args) -> tuple[np.ndarray, np.ndarray, int]:
    """Smallest and largest weight of each group, and the number of steps between the codes."""
    weight, bits, group_size = args
    parts = weight.reshape(len(weight), -1, group_size).astype(np.float64)
    return parts.min(-1), parts.max(-1), 2**bits - 1


def _zero_left_out(args: Args, got: Arrays, want: Arrays) -> bool:
    low, high, steps = _spread(args)
    right = np.isclose(got[1], want[1], rtol=1e-5)
    return bool(not right.all() and (right | np.isclose(got[1], (high - low) / steps, rtol=1e-5)).all())


def _symmetric_scale(args: Args, got: Arrays, want: Arrays) -> bool:
    low, high, steps = _spread(args)
    largest = np.maximum(high, -low)
    return any(
        bool((np.isclose(got[1], scale, rtol=1e-5) | (largest == 0)).all())
        for scale in (largest / (steps // 2), 2 * largest / steps)
    )


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
            "zero-division",
            "Right until a group is all zeros: its scale is 0, and 0 / 0 is NaN. Let the scale be 1 there.",
            recognises=lambda args, got, want: bool(
                (np.abs(args[0]).reshape(len(args[0]), -1, args[2]).max(-1) == 0).any()
            ),
        ),
        *both(
            "zero-outside-the-range",
            "Where all weights of a group have one sign, 0 lies outside [min, max] and the zero point does not fit "
            "into the codes (a uint8 wraps round). Widen the range first: low = min(0, min), high = max(0, max).",
            produces=partial(_mistaken_groups, hold_zero=False),
            recognises=_zero_left_out,
        ),
        Misconception(
            "divides-by-number-of-codes",
            "2**bits codes have 2**bits - 1 steps between them (fence posts and fences). Dividing by 2**bits makes "
            "the steps too small, and the largest weight falls off the end.",
            produces=lambda w, bits, g: _mistaken_groups(w, bits, g, levels=2**bits),
        ),
        *both(
            "symmetric-grid",
            "This is the symmetric grid with its zero in the middle. Fit the range instead: scale = (high - low) / "
            "(2**bits - 1), zero_point = round(-low / scale).",
            produces=partial(_mistaken_groups, symmetric=True),
            recognises=_symmetric_scale,
        ),
        Misconception(
            "one-grid-per-row",
            "All groups of a row got the grid of the whole row. Take the minimum and the maximum inside each group: "
            "reshape to (N, K // group_size, group_size) and reduce the last axis.",
            produces=partial(_mistaken_groups, over="row"),
        ),
        Misconception(
            "groups-interleaved",
            "A group is a run of NEIGHBOURING columns: reshape to (N, K // group_size, group_size), not to "
            "(N, group_size, K // group_size).",
            produces=partial(_mistaken_groups, strided=True),
        ),
        Misconception(
            "one-grid-per-matrix",
            "All groups got the grid of the whole matrix. Take the minimum and the maximum inside each group: reshape "
            "to (N, K // group_size, group_size) and reduce the last axis.",
            produces=partial(_mistaken_groups, over="matrix"),
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
        *both(
            "zero-point-sign",
            "The zero point has the wrong sign: it is the code that MEANS 0, so it is -low / scale (and low is "
            "negative or 0). A negative number stored as uint8 wraps round.",
            produces=lambda w, bits, g: (
                *_mistaken_groups(w, bits, g)[:2],
                (256 - _mistaken_groups(w, bits, g)[2].astype(int)).astype(np.uint8),
            ),
            recognises=lambda args, got, want: bool(
                np.allclose(got[1], want[1], rtol=1e-5) and ((got[2].astype(int) + want[2]) % 256 == 0).all()
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
    ],
    hint="Do one group by hand first: 0, 1, 2, 3 in 2 bits. Which number must code 0 mean, which the largest code, "
    "and which code means 0? Then the same with all numbers above 0, all below, and all equal.",
    points=3,
)
