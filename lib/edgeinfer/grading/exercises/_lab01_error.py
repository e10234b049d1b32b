"""Lab 1, exercise second_order_step: one column of second-order rounding.

The oracle solves the constrained least-squares problem outright, for one row after the other, instead of using the
update formula. Source: optimal-brain-surgeon, gptq.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns


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
            side = np.where(np.arange(n) % 2, -1.7, 1.7)
            weight[:, column] = side * scale * (2 ** (bits - 1) - 1)
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
    keep: bool = True,
    lowest: int = 0,
    bare: bool = False,
    rounding: Any = np.rint,
) -> tuple[np.ndarray, np.ndarray]:
    """The update with one screw loose."""
    top = 2 ** (bits - 1) - 1
    codes = rounding(weight[:, column] / scale)
    if clip:
        codes = np.clip(codes, lowest - top, top)
    rounded = codes if bare else codes * scale
    error = weight[:, column] - rounded
    if in_codes:
        error = error / scale
    pivot = inverse_hessian[column, column]
    by = {"diagonal": pivot, "nothing": 1.0, "root": np.sqrt(pivot)}[divide]
    moved = weight.copy()
    if update:
        moved = moved + sign * np.outer(error, inverse_hessian[column]) / by
    if keep:
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
            "update-sign-of-all",
            "All columns move the wrong way: column c must land exactly on its rounded value. With "
            "error = old - rounded, the update is SUBTRACTED.",
            produces=partial(_mistaken_step, sign=1.0, keep=False),
        ),
        Misconception(
            "forgets-the-diagonal",
            "The update lacks the division by inverse_hessian[column, column]. Check: the formula must carry the "
            "column itself exactly onto its rounded value.",
            produces=partial(_mistaken_step, divide="nothing"),
        ),
        Misconception(
            "forgets-the-diagonal-of-all",
            "The update lacks the division by inverse_hessian[column, column]. Check: the formula must carry the "
            "column itself exactly onto its rounded value.",
            produces=partial(_mistaken_step, divide="nothing", keep=False),
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
            "rounded-without-scale",
            "The rounded value of a weight is scale * code; here the bare code stands in its place, so the error is "
            "far too large.",
            produces=partial(_mistaken_step, bare=True),
        ),
        Misconception(
            "truncates",
            "The codes are cut off, not rounded: astype(int) drops the fraction. Round first: np.round.",
            produces=partial(_mistaken_step, rounding=np.trunc),
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
        Misconception(
            "one-code-too-many",
            "A symmetric grid leaves the lowest code unused: it ends at -(2**(bits-1) - 1), not at -2**(bits-1).",
            produces=partial(_mistaken_step, lowest=-1),
        ),
    ],
    hint="Round column c alone: what is its error? How much of it does each later column take over, and why is "
    "that nothing for a diagonal H? Which of the two results must no longer know column c?",
    points=4,
)
