"""Lab 1, exercise quantize_symmetric: one symmetric grid for a matrix.

The oracle takes another way than the lab: Python numbers in loops, float64. Source: nagel-whitepaper.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

SLACK = 2e-3  # of a step: float32 division and multiplication by the inverse may land on different sides of a half


def both(name: str, says: str, produces: Any, recognises: Any) -> tuple[Misconception, Misconception]:
    """A mistake known by its answers, and by its scale or codes alone, whatever else the answer does."""
    return Misconception(name, says, produces), Misconception(f"{name}-like", says, recognises=recognises)


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


def no_guard(scale: Any) -> Any:
    return np.where(np.asarray(scale) > 0, scale, 1)


def _with_top(weight: np.ndarray, top: float, rounding: Any = np.rint) -> tuple[np.ndarray, float]:
    scale = float(no_guard(np.abs(weight).max() / top))
    return rounding(weight.astype(np.float64) / scale).astype(np.int8), scale


def _by_range(weight: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    scale = float(no_guard((weight.max() - weight.min()) / (2**bits - 1)))
    return np.rint(weight / scale).astype(np.int8), scale


def _by_largest(weight: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    scale = float(weight.max()) / (2 ** (bits - 1) - 1) or 1.0  # negative where all weights are
    return np.rint(weight / scale).astype(np.int8), scale


def _scale_like(of: Callable[[np.ndarray, int], float]) -> Callable[[Args, Arrays, Arrays], bool]:
    """Recognises a scale, whatever was done about rounding and clipping; where `of` is not positive, anything."""

    def recognises(args: Args, got: Arrays, want: Arrays) -> bool:
        scale = of(*args)
        return bool(scale <= 0 or np.isclose(float(got[1]), scale, rtol=1e-5))

    return recognises


def _steps(args: Args, got: Arrays, want: Arrays) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights in steps of the right scale, and how far the codes lie below them; None if the scale is another."""
    if not np.isclose(float(got[1]), float(want[1]), rtol=1e-5):
        return None
    exact = args[0].astype(np.float64) / float(want[1])
    return exact, exact - got[0].astype(np.float64)


def _cut_off(args: Args, got: Arrays, want: Arrays) -> bool:
    steps = _steps(args, got, want)
    if steps is None:
        return False
    lost = steps[1] * np.where(steps[0] < 0, -1, 1)  # towards zero
    return bool(lost.min() > -SLACK and lost.max() < 1 + SLACK)


def _rounded_down(args: Args, got: Arrays, want: Arrays) -> bool:
    steps = _steps(args, got, want)
    return steps is not None and bool(steps[1].min() > -SLACK and steps[1].max() < 1 + SLACK)


def _row_scales(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    scale = no_guard(np.abs(weight).max(1, keepdims=True) / (2 ** (bits - 1) - 1))
    return np.rint(weight / scale).astype(np.int8), scale


SYMMETRIC = Exercise(
    name="quantize_symmetric",
    contract="weight float32 (N, K), bits int 2..8 -> codes int8 (N, K) from -(2**(bits-1)-1) to 2**(bits-1)-1, "
    "scale float, largest |weight| / largest code (one for the whole matrix; 1.0 if it is all zeros): codes * scale is "
    "nearest to weight",
    make_cases=_symmetric_cases,
    oracle=_symmetric,
    returns=(Returns("codes", dtype="int8"), Returns("scale", dtype="floating", rtol=1e-5)),
    accept=_symmetric_ok,
    misconceptions=[
        Misconception(
            "zero-division",
            "Right until the matrix is all zeros: then the scale is 0 and 0 / 0 is NaN. Real checkpoints have such "
            "rows and matrices. Let the scale be 1.0 there.",
            recognises=lambda args, got, want: not args[0].any(),
        ),
        *both(
            "no-sign-bit",
            "One of the bits is the sign. With 4 bits the largest code is 7, not 15: it is 2**(bits-1) - 1.",
            produces=lambda w, bits: _with_top(w, 2**bits - 1),
            recognises=_scale_like(lambda w, bits: np.abs(w).max() / (2**bits - 1)),
        ),
        *both(
            "one-code-too-many",
            "The largest positive code is 2**(bits-1) - 1; 2**(bits-1) does not fit (at 8 bits, 128 becomes -128). "
            "A symmetric grid leaves the lowest code unused.",
            produces=lambda w, bits: _with_top(w, 2 ** (bits - 1)),
            recognises=_scale_like(lambda w, bits: np.abs(w).max() / 2 ** (bits - 1)),
        ),
        *both(
            "truncates",
            "The codes are cut off, not rounded: astype(int) drops the fraction, which moves every weight towards "
            "zero. Round first: np.round.",
            produces=lambda w, bits: _with_top(w, 2 ** (bits - 1) - 1, np.trunc),
            recognises=_cut_off,
        ),
        *both(
            "rounds-down",
            "The codes are rounded down, not to the nearest: np.floor moves every weight by half a step on average, "
            "all in the same direction. Use np.round.",
            produces=lambda w, bits: _with_top(w, 2 ** (bits - 1) - 1, np.floor),
            recognises=_rounded_down,
        ),
        *both(
            "forgets-negative-weights",
            "The scale comes from the largest weight, but the largest magnitude may be a negative one: use "
            "np.abs(weight).max().",
            produces=_by_largest,
            recognises=_scale_like(lambda w, bits: w.max() / (2 ** (bits - 1) - 1)),
        ),
        *both(
            "range-over-levels",
            "(max - min) / levels is the step of a grid that may be shifted. A symmetric grid reaches as far to the "
            "left as to the right, so its step is max|w| / (2**(bits-1) - 1).",
            produces=_by_range,
            recognises=_scale_like(lambda w, bits: (w.max() - w.min()) / (2**bits - 1)),
        ),
        Misconception(
            "ignores-bits",
            "The scale is that of 8 bits, whatever `bits` says: the largest code is 2**(bits-1) - 1, not always 127.",
            produces=lambda w, bits: _with_top(w, 127),
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
    ],
    points=2,
)
