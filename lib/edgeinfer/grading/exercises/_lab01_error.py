"""Lab 1, exercises 4 and 5: one column of second-order rounding, and scales that follow the activations.

The oracle of the first solves the constrained least-squares problem outright, for one row after the other, instead of
using the update formula. Source: optimal-brain-surgeon, gptq, awq.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns

# ---------------------------------------------------------------- 4. second_order_step


def _second_order_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for n, k, column, bits, clips in (
        (3, 6, 0, 4, 0),
        (4, 8, 3, 3, 0),
        (2, 5, 4, 4, 0),
        (5, 7, 1, 2, 1),
        (1, 3, 1, 8, 0),
    ):
        mixing = rng.normal(size=(k, k)) + 2 * np.eye(k)
        inputs = rng.normal(size=(4 * k, k)) @ mixing
        hessian = inputs.T @ inputs / len(inputs) + 0.1 * np.eye(k)
        inverse = np.zeros((k, k))
        inverse[column:, column:] = np.linalg.inv(hessian[column:, column:])
        weight = rng.normal(size=(n, k))
        scale = np.abs(weight).max(1) / (2 ** (bits - 1) - 1)
        if clips:  # earlier updates have pushed a weight out of the grid
            weight[:, column] = 1.7 * scale * (2 ** (bits - 1) - 1)
        cases.append((weight, column, scale, bits, inverse))
    return cases


def _nearest(weight: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    top = 2 ** (bits - 1) - 1
    return np.array([s * min(top, max(-top, round(float(w / s)))) for w, s in zip(weight, scale, strict=True)])


def _least_squares(
    weight: np.ndarray, column: int, scale: np.ndarray, bits: int, inverse_hessian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fix the column, then solve for the rest: minimise d' H d over the later columns with d[column] given."""
    k = weight.shape[1]
    hessian = np.linalg.inv(inverse_hessian[column:, column:])
    moved = weight.copy()
    moved[:, column] = _nearest(weight[:, column], scale, bits)
    rest = np.zeros((k, k))
    if column + 1 < k:
        inner, coupling = hessian[1:, 1:], hessian[1:, 0]
        moved[:, column + 1 :] -= np.outer(moved[:, column] - weight[:, column], np.linalg.solve(inner, coupling))
        rest[column + 1 :, column + 1 :] = np.linalg.inv(inner)
    return moved, rest


def _mistaken_step(
    weight: np.ndarray,
    column: int,
    scale: np.ndarray,
    bits: int,
    inverse_hessian: np.ndarray,
    sign: float = -1.0,
    divide: str = "diagonal",
    clip: bool = True,
    in_codes: bool = False,
    update: bool = True,
    eliminate: str = "right",
    later_only: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The update with one screw loose."""
    top = 2 ** (bits - 1) - 1
    codes = np.rint(weight[:, column] / scale)
    if clip:
        codes = np.clip(codes, -top, top)
    rounded = codes * scale
    error = weight[:, column] - rounded
    if in_codes:
        error = error / scale
    pivot = inverse_hessian[column, column]
    by = {"diagonal": pivot, "nothing": 1.0, "root": np.sqrt(pivot)}[divide]
    moved = weight.copy()
    if update:
        moved = moved + sign * np.outer(error, inverse_hessian[column]) / by
    moved[:, column] = rounded
    outer = np.outer(inverse_hessian[:, column], inverse_hessian[column])
    rest = {
        "right": inverse_hessian - outer / pivot,
        "none": inverse_hessian,
        "undivided": inverse_hessian - outer,
        "added": inverse_hessian + outer / pivot,
    }[eliminate]
    return moved, rest


def _crossed_out(*args: Any) -> tuple[np.ndarray, np.ndarray]:
    moved, _ = _mistaken_step(*args)
    rest = args[4].copy()
    rest[args[1], :] = rest[:, args[1]] = 0
    return moved, rest


def _left_in_place(*args: Any) -> tuple[np.ndarray, np.ndarray]:
    moved, rest = _mistaken_step(*args)
    moved[:, args[1]] = args[0][:, args[1]]
    return moved, rest


def _as_codes(*args: Any) -> tuple[np.ndarray, np.ndarray]:
    moved, rest = _mistaken_step(*args)
    moved[:, args[1]] /= args[2]
    return moved, rest


def _all_rounded(*args: Any) -> tuple[np.ndarray, np.ndarray]:
    moved, rest = _mistaken_step(*args)
    top = 2 ** (args[3] - 1) - 1
    later = np.clip(np.rint(moved / args[2][:, None]), -top, top) * args[2][:, None]
    moved[:, args[1] :] = later[:, args[1] :]
    return moved, rest


SECOND_ORDER = Exercise(
    name="second_order_step",
    contract="weight float64 (N, K), column int, scale float64 (N,), bits int, inverse_hessian float64 (K, K), zero in "
    "all rows and columns before `column` -> weight floating (N, K) with that column rounded to its symmetric grid and "
    "the later columns moved to make up for it, inverse_hessian floating (K, K) with that column eliminated as well",
    make_cases=_second_order_cases,
    oracle=_least_squares,
    returns=(
        Returns("weight", dtype="floating", rtol=1e-4, atol=1e-6),
        Returns("inverse_hessian", dtype="floating", rtol=1e-4, atol=1e-6),
    ),
    misconceptions=[
        Misconception(
            "no-update",
            "The column is rounded, but nothing makes up for it: this is plain round-to-nearest. The later columns "
            "take over the error: weight -= outer(error, inverse_hessian[column]) / inverse_hessian[column, column].",
            produces=partial(_mistaken_step, update=False),
        ),
        Misconception(
            "update-sign",
            "The later columns move the wrong way, so the error doubles instead of shrinking. With "
            "error = old - rounded, the update is SUBTRACTED.",
            produces=partial(_mistaken_step, sign=1.0),
        ),
        Misconception(
            "forgets-the-diagonal",
            "The update lacks the division by inverse_hessian[column, column]. Check: the formula must carry the "
            "column itself exactly onto its rounded value.",
            produces=partial(_mistaken_step, divide="nothing"),
        ),
        Misconception(
            "root-of-the-diagonal",
            "You divide by the square root of the diagonal. That belongs to the Cholesky form, where the row is "
            "divided by it as well; with the inverse itself the divisor is inverse_hessian[column, column].",
            produces=partial(_mistaken_step, divide="root"),
        ),
        Misconception(
            "error-in-codes",
            "The error is counted in steps. The weights are in their own unit: error = weight - scale * code.",
            produces=partial(_mistaken_step, in_codes=True),
        ),
        Misconception(
            "returns-codes",
            "The finished column holds codes; the weights stay in their own unit: scale * code.",
            produces=_as_codes,
        ),
        Misconception(
            "rounds-all-columns",
            "One column at a time: the later columns stay unrounded, so that they can still take up errors.",
            produces=_all_rounded,
        ),
        Misconception(
            "column-not-rounded",
            "The later columns are right, but the column itself still holds its old value instead of scale * code.",
            produces=_left_in_place,
        ),
        Misconception(
            "no-elimination",
            "The weights are right. The inverse Hessian still contains the finished column, so the next step would "
            "hand errors back to it. Eliminate: H - outer(H[:, c], H[c]) / H[c, c].",
            produces=partial(_mistaken_step, eliminate="none"),
        ),
        Misconception(
            "crosses-out",
            "Setting a row and a column of an INVERSE to zero is not the inverse of the smaller matrix. Eliminate: "
            "H - outer(H[:, c], H[c]) / H[c, c].",
            produces=_crossed_out,
        ),
        Misconception(
            "elimination-without-pivot",
            "The elimination lacks the division by the pivot H[c, c].",
            produces=partial(_mistaken_step, eliminate="undivided"),
        ),
        Misconception(
            "elimination-sign",
            "The elimination is a subtraction: row and column c must come out as zero.",
            produces=partial(_mistaken_step, eliminate="added"),
        ),
        Misconception(
            "not-clipped",
            "Right until a weight has been pushed out of the grid by earlier updates: its code must be clipped to "
            "-(2**(bits-1)-1) ... 2**(bits-1)-1.",
            produces=partial(_mistaken_step, clip=False),
        ),
    ],
    hint="rounded = scale * clip(round(w[:, c] / scale)); error = w[:, c] - rounded; subtract "
    "outer(error, H[c]) / H[c, c] from all weights; then eliminate row and column c of H.",
    points=4,
)

# ---------------------------------------------------------------- 5. activation_scale


def _activation_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for n, k, tokens, alpha in ((4, 8, 32, 0.5), (3, 6, 10, 1.0), (2, 12, 20, 0.25), (5, 4, 7, 0.0), (3, 8, 16, 0.5)):
        magnitude = np.exp(rng.normal(0, 1.5, k))
        inputs = (rng.normal(0.2, 1, (tokens, k)) * magnitude).astype(np.float32)
        cases.append((rng.normal(size=(n, k)).astype(np.float32), inputs, alpha))
    silent = cases[-1][1]
    silent[:, 3] = 0  # a channel that never fires
    return cases


def _factors(inputs: np.ndarray, alpha: float) -> np.ndarray:
    raw = [max(sum(abs(float(v)) for v in column) / len(column), 1e-5) ** alpha for column in inputs.T]
    middle = (max(raw) * min(raw)) ** 0.5
    return np.array([v / middle for v in raw])


def _activation(weight: np.ndarray, inputs: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    factor = _factors(inputs, alpha)
    return np.stack([weight[:, k].astype(np.float64) * f for k, f in enumerate(factor)], 1), factor


def _mistaken_factor(
    weight: np.ndarray, magnitude: np.ndarray, alpha: float, normalise: str = "middle"
) -> tuple[np.ndarray, np.ndarray]:
    raw = np.maximum(np.asarray(magnitude, np.float64), 1e-5) ** alpha
    by = {
        "middle": np.sqrt(raw.max() * raw.min()),
        "no": 1.0,
        "max": raw.max(),
        "mean": raw.mean(),
        "sum": raw.max() * raw.min(),
    }[normalise]
    return weight * (raw / by), raw / by


def _size(inputs: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(inputs.astype(np.float64)).mean(0))


def _divides(weight: np.ndarray, inputs: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    factor = _factors(inputs, alpha)
    return weight / factor, factor


def _inverse(weight: np.ndarray, inputs: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    factor = 1 / _factors(inputs, alpha)
    return weight * factor, factor


ACTIVATION = Exercise(
    name="activation_scale",
    contract="weight float32 (N, K), inputs float32 (T, K) seen by the layer, alpha float 0..1 -> scaled floating "
    "(N, K) = weight with column k times factor[k], factor floating (K,) = m**alpha / sqrt(max(m**alpha) * "
    "min(m**alpha)) with m[k] the mean of |inputs[:, k]|, at least 1e-5",
    make_cases=_activation_cases,
    oracle=_activation,
    returns=(Returns("scaled", dtype="floating", rtol=1e-3, atol=1e-6), Returns("factor", dtype="floating", rtol=1e-3)),
    misconceptions=[
        Misconception(
            "scales-down-the-important",
            "The columns that matter are made SMALLER, so they lose more in rounding. Multiply the weights by the "
            "factor; it is the activations that are divided.",
            produces=_divides,
        ),
        Misconception(
            "inverse-factor",
            "The factor is upside down: a channel with large activations gets a large factor, so that its weights use "
            "more of the grid.",
            produces=_inverse,
        ),
        Misconception(
            "signed-mean",
            "The mean of signed activations is near zero however large they are. Take the mean of their magnitude.",
            produces=lambda w, x, a: _mistaken_factor(w, np.abs(x.astype(np.float64).mean(0)), a),
        ),
        Misconception(
            "signed-mean-floored",
            "The mean of signed activations is near zero however large they are. Take the mean of their magnitude.",
            produces=lambda w, x, a: _mistaken_factor(w, x.astype(np.float64).mean(0), a),
        ),
        Misconception(
            "largest-activation",
            "You use the largest activation. One rare token would decide alone; this method takes the mean magnitude.",
            produces=lambda w, x, a: _mistaken_factor(w, np.abs(x).max(0), a),
        ),
        Misconception(
            "root-mean-square",
            "You use the root mean square; the contract asks for the mean magnitude.",
            produces=lambda w, x, a: _mistaken_factor(w, np.sqrt((x.astype(np.float64) ** 2).mean(0)), a),
        ),
        Misconception(
            "weight-magnitude",
            "You measure the weights. What makes a channel important is the size of its ACTIVATIONS.",
            produces=lambda w, x, a: _mistaken_factor(w, np.abs(w).mean(0), a),
        ),
        Misconception(
            "not-normalised",
            "The factors are not normalised: divide by sqrt(max * min), so that the grid as a whole stays put.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), a, "no"),
        ),
        Misconception(
            "normalised-to-the-largest",
            "Normalised to the largest factor: every column shrinks. Divide by sqrt(max * min), so that factors lie on "
            "both sides of 1.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), a, "max"),
        ),
        Misconception(
            "normalised-to-the-mean",
            "Normalised to the mean; the contract asks for sqrt(max * min), the middle on a logarithmic scale.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), a, "mean"),
        ),
        Misconception(
            "forgets-the-root",
            "Divide by the SQUARE ROOT of max * min.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), a, "sum"),
        ),
        Misconception(
            "ignores-alpha",
            "alpha is an exponent that sets how much is done: 0 nothing, 1 everything. Here it is missing.",
            produces=lambda w, x, a: _mistaken_factor(w, _size(x), 1.0),
        ),
        Misconception(
            "alpha-as-factor",
            "alpha is an exponent, not a factor: m**alpha, not m * alpha. (A common factor cancels.)",
            produces=lambda w, x, a: _mistaken_factor(w, a * _size(x), 1.0),
        ),
        Misconception(
            "silent-channel",
            "Right until a channel never fires: its magnitude is 0, and so are its factor and the normalisation. Keep "
            "the magnitudes at 1e-5 or above.",
            recognises=lambda args, got, want: bool((np.abs(args[1]).max(0) == 0).any()),
        ),
    ],
    hint="m = np.abs(inputs).mean(axis=0), at least 1e-5; raw = m**alpha; factor = raw / sqrt(raw.max() * raw.min()); "
    "scaled = weight * factor.",
    points=3,
)
