"""Lab 3, exercise 3: two layers' keys (or values) share one direction per token, each layer keeps its lengths.

The oracle builds the point on the arc from an orthonormal basis of the plane, not from the formula of the lab. T
tokens, D channels. Source: minicache.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

Merged = tuple[np.ndarray, np.ndarray, np.ndarray]


def _cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    shapes = [(6, 8, 0.5, 2, 0), (5, 4, 0.6, 1, 0), (9, 16, 0.3, 3, 1), (4, 3, 0.8, 0, 0), (7, 8, 0.6, 2, 1)]
    for tokens, channels, t, keep, turn in shapes:
        lower = rng.normal(size=(tokens, channels))
        other = rng.normal(size=(tokens, channels))
        other -= lower * ((other * lower).sum(1) / (lower**2).sum(1))[:, None]
        unit, side = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (lower, other))
        angle = rng.permutation(np.linspace(0.2, 2.6, tokens))  # no two alike: the order is certain
        far = np.sort(np.argsort(-angle)[:keep])
        angle = np.where(np.isin(np.arange(tokens), far), 0, angle)[:, None]
        # by place they fall in one case, rise in another: neither order of the angle passes for that of the places
        angle[far, 0] = np.roll(np.linspace(2.6, 0.2, tokens)[:keep], turn)
        upper = unit * np.cos(angle) + side * np.sin(angle)
        lengths = np.exp(rng.normal(0, 0.7, (2, tokens, 1)))
        cases.append(((unit * lengths[0]).astype(np.float32), (upper * lengths[1]).astype(np.float32), t, keep))
    lower, upper, _, _ = cases[-1]
    lower[3] = _cosine_above_one(rng, lower.shape[1])
    upper[3] = 2 * lower[3]  # the same direction in both layers
    return cases


def _cosine_above_one(rng: np.random.Generator, channels: int) -> np.ndarray:
    """A row whose cosine with itself is a rounding above 1, however it is computed: an arccos without a clip fails."""
    rows = rng.normal(size=(4000, channels)).astype(np.float32)
    above = np.zeros(len(rows))
    for dtype in (np.float32, np.float64):
        x: np.ndarray = rows.astype(dtype)
        norm = np.linalg.norm(x, axis=1)
        u = x / norm[:, None]
        for cosine in ((u * u).sum(1), np.einsum("td,td->t", u, u), (2 * x * x).sum(1) / (2 * norm * norm)):
            above += cosine > 1
    return np.asarray(rows[np.argmax(above)])


def _on_the_arc(lower: np.ndarray, upper: np.ndarray, t: float, keep: int) -> Merged:
    direction, angles = [], []
    for a, b in zip(lower.astype(np.float64), upper.astype(np.float64), strict=True):
        a, b = a / np.sqrt(a @ a), b / np.sqrt(b @ b)
        side = b - (a @ b) * a
        away = float(np.sqrt(side @ side))
        angle = float(np.arctan2(away, a @ b))
        angles.append(angle)
        direction.append(a if away < 1e-6 else np.cos(t * angle) * a + np.sin(t * angle) * side / away)
    lengths = np.array([[float(np.sqrt(v @ v)) for v in layer.astype(np.float64)] for layer in (lower, upper)])
    far = sorted(sorted(range(len(angles)), key=lambda i: -angles[i])[:keep])
    return np.array(direction), lengths, np.array(far, np.int64)


def _unit(v: np.ndarray) -> np.ndarray:
    return np.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True))


def _mistaken_merge(
    lower: np.ndarray,
    upper: np.ndarray,
    t: float,
    keep: int,
    path: str = "arc",
    swapped: bool = False,
    one_angle: bool = False,
    guard: bool = True,
    lengths: str = "both",
    retain: str = "angle",
    order: str = "place",
) -> Merged:
    """The merge with one screw loose."""
    a, b = lower.astype(np.float64), upper.astype(np.float64)
    ua, ub = _unit(a), _unit(b)
    cosine = np.clip((ua * ub).sum(1, keepdims=True), -1, 1)
    if one_angle:
        cosine = np.clip((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()), -1, 1) + 0 * cosine
    angle = np.arccos(cosine)
    u = 1 - t if swapped else t
    with np.errstate(all="ignore"):
        first, second = np.sin((1 - u) * angle) / np.sin(angle), np.sin(u * angle) / np.sin(angle)
    if guard:
        close = np.sin(angle) < 1e-6
        first, second = np.where(close, 1 - u, first), np.where(close, u, second)
    direction = {
        "arc": lambda: first * ua + second * ub,
        "arc of vectors": lambda: first * a + second * b,
        "chord": lambda: (1 - t) * ua + t * ub,
        "chord, made unit": lambda: _unit((1 - t) * ua + t * ub),
        "vectors": lambda: (1 - t) * a + t * b,
        "vectors, made unit": lambda: _unit((1 - t) * a + t * b),
        "cosine": lambda: (np.sin((1 - t) * cosine) * ua + np.sin(t * cosine) * ub) / np.sin(cosine),
        "without sine": lambda: np.sin((1 - t) * angle) * ua + np.sin(t * angle) * ub,
    }[path]()
    norms = np.stack([np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)])
    norms = {
        "both": norms,
        "mean": norms.mean(0) + 0 * norms,
        "one": norms.mean(0),
        "squared": norms**2,
        "columns": norms.T,
        "merged": np.linalg.norm((1 - t) * a + t * b, axis=1) + 0 * norms,
    }[lengths]
    distance = {"angle": angle[:, 0], "nearest": -angle[:, 0], "gap": np.linalg.norm(a - b, axis=1)}[retain]
    ranked = np.argsort(distance, kind="stable")[-keep:] if order == "slice" else np.argsort(-distance)[:keep]
    return direction, norms, np.sort(ranked)


def _as_mask(*args: Any) -> Merged:
    direction, lengths, kept = _mistaken_merge(*args)
    return direction, lengths, np.isin(np.arange(len(direction)), kept)


def _along_columns(lower: np.ndarray, upper: np.ndarray, t: float, keep: int) -> Merged:
    _, lengths, kept = _mistaken_merge(lower, upper, t, keep)
    return _mistaken_merge(lower.T, upper.T, t, 0)[0].T, lengths, kept


def _only_the_order(args: Args, got: Arrays, want: Arrays) -> bool:
    same = all(np.allclose(g, w, rtol=1e-3, atol=1e-4) for g, w in zip(got[:2], want[:2], strict=True))
    return bool(same and np.array_equal(np.sort(got[2]), want[2]))


MERGE = Exercise(
    name="merge_layers",
    contract="lower float32 (T, D), upper float32 (T, D): the same tokens in two layers, no row zero and no two rows "
    "opposite; t float 0..1, keep int 0..T -> direction floating (T, D), unit rows on the arc from lower's direction "
    "(t = 0) to upper's (t = 1); lengths floating (2, T), norms of lower's and of upper's rows; kept integer (keep,), "
    "the tokens with the largest angle between the two, in ascending order",
    make_cases=_cases,
    oracle=_on_the_arc,
    returns=(
        Returns("direction", dtype="floating", rtol=1e-3, atol=1e-4),
        Returns("lengths", dtype="floating", rtol=1e-4),
        Returns("kept", dtype="integer"),
    ),
    misconceptions=[
        Misconception(
            "averages-the-vectors",
            "The vectors themselves were averaged, so the layer with the longer vector decides the direction. Divide "
            "each row by its length first; the lengths are kept apart.",
            produces=partial(_mistaken_merge, path="vectors"),
        ),
        Misconception(
            "averages-then-makes-unit",
            "The vectors themselves were averaged, so the layer with the longer vector decides the direction. Divide "
            "each row by its length first, then interpolate.",
            produces=partial(_mistaken_merge, path="vectors, made unit"),
        ),
        Misconception(
            "inside-the-sphere",
            "A straight line between two unit vectors runs INSIDE the sphere: your directions are shorter than 1, so "
            "every restored key would be too short and its score too small. Go along the arc.",
            produces=partial(_mistaken_merge, path="chord"),
        ),
        Misconception(
            "chord-instead-of-arc",
            "A point of the straight line, pushed out to the sphere, is on the right arc but not at the share t of the "
            "ANGLE (only t = 0.5 hides it). Use sin((1-t)*angle) / sin(angle) and sin(t*angle) / sin(angle).",
            produces=partial(_mistaken_merge, path="chord, made unit"),
        ),
        Misconception(
            "arc-of-raw-vectors",
            "The weights of the arc are right, but they belong to UNIT vectors. Here they multiply rows of any length.",
            produces=partial(_mistaken_merge, path="arc of vectors"),
        ),
        Misconception(
            "forgets-the-sine",
            "The division by sin(angle) is missing, so the result is not on the sphere.",
            produces=partial(_mistaken_merge, path="without sine"),
        ),
        Misconception(
            "cosine-taken-for-the-angle",
            "The dot product of two unit vectors is the COSINE of their angle; the angle is its arccos.",
            produces=partial(_mistaken_merge, path="cosine"),
        ),
        Misconception(
            "channels-instead-of-tokens",
            "You went along the wrong axis: each ROW is a token, with a direction of its own. Norms and dot products "
            "are sums over the channels, axis=1.",
            produces=_along_columns,
        ),
        Misconception(
            "t-from-the-wrong-end",
            "t runs from the wrong end: t = 0 must give the direction of `lower`, t = 1 that of `upper`.",
            produces=partial(_mistaken_merge, swapped=True),
        ),
        Misconception(
            "one-angle-for-all",
            "One angle was computed for the whole matrix. Each token has an angle of its own: sum over the channels "
            "only.",
            produces=partial(_mistaken_merge, one_angle=True),
        ),
        Misconception(
            "one-length-for-both",
            "The lengths of the two layers were averaged. The layers share a DIRECTION; each keeps its own length of "
            "each token, for it scales the scores.",
            produces=partial(_mistaken_merge, lengths="mean"),
        ),
        Misconception(
            "one-row-of-lengths",
            "The lengths of the two layers were averaged. The layers share a DIRECTION; each keeps its own length of "
            "each token: lengths has the shape (2, T).",
            produces=partial(_mistaken_merge, lengths="one"),
        ),
        Misconception(
            "length-of-the-average",
            "These are the lengths of the averaged vectors. Restoring needs the length of each layer's own row.",
            produces=partial(_mistaken_merge, lengths="merged"),
        ),
        Misconception(
            "lengths-in-columns",
            "lengths has a row for each layer, (2, T): it looks transposed.",
            produces=partial(_mistaken_merge, lengths="columns"),
        ),
        Misconception(
            "squared-lengths",
            "These are squared lengths; the square root is missing.",
            produces=partial(_mistaken_merge, lengths="squared"),
        ),
        Misconception(
            "keeps-the-most-similar",
            "You keep the tokens that are most alike in both layers. Those are the ones that merge without loss; keep "
            "those with the LARGEST angle.",
            produces=partial(_mistaken_merge, retain="nearest"),
        ),
        Misconception(
            "keeps-by-distance",
            "You keep the tokens whose vectors are far apart. A difference in length alone does no harm, for both "
            "lengths are stored: rank by the angle.",
            produces=partial(_mistaken_merge, retain="gap"),
        ),
        Misconception(
            "kept-in-order-of-angle",
            "The right tokens, but in order of their angle. Stored rows are looked up by place: np.sort.",
            recognises=_only_the_order,
        ),
        Misconception(
            "minus-zero-is-everything",
            "Right until keep is 0: x[-0:] is x[0:], all of it. Cut at x[len(x) - keep:], or sort by -angle and take "
            "[:keep].",
            produces=partial(_mistaken_merge, order="slice"),
        ),
        Misconception(
            "kept-as-mask",
            "A mask of all tokens; the contract asks for their numbers: np.flatnonzero(mask).",
            produces=_as_mask,
        ),
        Misconception(
            "parallel-rows",
            "Right until a token has the same direction in both layers: sin(angle) is 0 there, or the cosine is a "
            "rounding above 1. Clip the cosine to -1..1, and let the weights be 1-t and t where the sine vanishes.",
            recognises=lambda args, got, want: bool(
                ((_unit(args[0].astype(np.float64)) * _unit(args[1].astype(np.float64))).sum(1) > 1 - 1e-6).any()
            ),
        ),
    ],
    hint="Take two rows at a right angle and t = 0, 0.5, 1: where should the direction point, and how long should "
    "it be? What happens to your formula when both rows point the same way?",
    points=4,
)
