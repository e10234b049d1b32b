"""Lab 6, exercises 1 and 4: how alike heads are, and tiles that are derived from others.

Both oracles go pair by pair. Sources: head-wise-sharing, mecla.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns

# ---------------------------------------------------------------- head_similarity


def _head_cases(rng: np.random.Generator) -> list[Args]:
    cases = [
        (rng.normal(size=(n, a, 6)).astype(np.float32), (5 * rng.normal(size=(n, b, 6))).astype(np.float32))
        for n, a, b in ((5, 4, 2), (7, 2, 2), (3, 1, 3), (2, 4, 4))
    ]
    q, k = rng.normal(size=(2, 4, 3, 5)).astype(np.float32)
    q[2], k[2] = 3 * q[0], 0.25 * k[0]  # a scaled twin
    q[3], k[3] = -q[1], -k[1]
    return [*cases, (q, k), (cases[0][0][:1], cases[0][1][:1])]


def _similarity(
    q: np.ndarray,
    k: np.ndarray,
    normal: bool = True,
    together: bool = False,
    use: str = "qk",
    absolute: bool = False,
    total: bool = False,
    centred: bool = False,
    rows: bool = False,
) -> np.ndarray:
    heights = [np.shape(q)[1], np.shape(k)[1]] if rows else [1, 1]
    q, k = (np.asarray(p, np.float64).reshape(len(p), -1) for p in (q, k))
    parts = [np.concatenate([q, k], 1)] if together else [p for p, name in ((q, "q"), (k, "k")) if name in use]
    out = np.zeros((len(q), len(q)))
    for part, weight in zip(parts, heights, strict=False):
        if centred:
            part = part - part.mean(1, keepdims=True)
        for i, a in enumerate(part):
            for j, b in enumerate(part):
                value = float(a @ b) / (float(np.linalg.norm(a) * np.linalg.norm(b)) if normal else 1.0)
                out[i, j] += weight * (abs(value) if absolute else value)
    return out if total else out / sum(heights[: len(parts)])


def _multiplied(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    return _similarity(q, k, use="q") * _similarity(q, k, use="k")


def _by_row(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    out = np.zeros((len(q), len(q)))
    for part in (q, k):
        rows = np.asarray(part, np.float64)
        rows = rows / np.linalg.norm(rows, axis=2, keepdims=True)
        out += np.einsum("iak,jak->ij", rows, rows) / part.shape[1] / 2
    return out


SIMILAR = Exercise(
    name="head_similarity",
    contract="q float32 (units, a, K), k float32 (units, b, K), no unit all zero -> similarity floating (units, "
    "units): mean of the cosine between the flattened q and the cosine between the flattened k of two units",
    make_cases=_head_cases,
    oracle=_similarity,
    returns=(Returns("similarity", dtype="floating", rtol=1e-4, atol=1e-4),),
    misconceptions=[
        Misconception(
            "not-normalised",
            "These are products, not cosines: a head with large numbers looks similar to everything.",
            produces=partial(_similarity, normal=False),
        ),
        Misconception(
            "one-norm-for-both",
            "q and k are normalised as one piece, so the part with the larger numbers decides alone.",
            produces=partial(_similarity, together=True),
        ),
        Misconception("queries-only", "The keys are left out.", produces=partial(_similarity, use="q")),
        Misconception("keys-only", "The queries are left out.", produces=partial(_similarity, use="k")),
        Misconception(
            "sign-lost",
            "A head and its negative are opposite, not alike: keep the sign.",
            produces=partial(_similarity, absolute=True),
        ),
        Misconception(
            "sum-not-mean",
            "The two cosines are added; a unit is 2 alike to itself.",
            produces=partial(_similarity, total=True),
        ),
        Misconception(
            "row-by-row",
            "Rows are compared one by one and their cosines averaged. All rows of a unit make one long vector.",
            produces=_by_row,
        ),
        Misconception(
            "weighted-by-rows",
            "The part with more rows counts more. Queries and keys have the same say, whatever their size.",
            produces=partial(_similarity, rows=True),
        ),
        Misconception(
            "multiplied",
            "The two cosines are multiplied: two opposite parts would look alike. Their mean is wanted.",
            produces=_multiplied,
        ),
        Misconception(
            "correlation",
            "The mean was taken off first. That is a correlation; a cosine starts from zero.",
            produces=partial(_similarity, centred=True),
        ),
    ],
    hint="Every unit has similarity 1 with itself and with a scaled copy of itself.",
    points=2,
)

# ---------------------------------------------------------------- derive_tiles


def _tile_cases(rng: np.random.Generator) -> list[Args]:
    cases = [
        (rng.normal(size=(n, d)).astype(np.float32), (rng.normal(size=(s, d)) * scale).astype(np.float32))
        for n, s, d, scale in ((12, 4, 4, 1), (20, 3, 6, 3), (5, 1, 2, 1), (9, 6, 8, 0.2))
    ]
    sources = rng.normal(size=(3, 4)).astype(np.float32)
    sources[1] *= 20  # long, but no better a direction
    tiles = np.concatenate([-2 * sources[:1], 0.5 * sources[2:], rng.normal(size=(8, 4)).astype(np.float32)])
    return [*cases, (tiles.astype(np.float32), sources), (np.zeros((2, 4), np.float32), sources[:1])]


def _derive(
    tiles: np.ndarray, sources: np.ndarray, rule: str = "error", fit: str = "least", sign: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    index, scale = [], []
    for tile in np.asarray(tiles, np.float64):
        options = []
        for s in np.asarray(sources, np.float64):
            a = float(tile @ s) / float(s @ s)
            if fit == "product":
                a = float(tile @ s)
            elif fit == "ratio":
                a = float(np.mean(tile / s))
            elif fit == "inverse":
                a = float(tile @ s) / max(float(tile @ tile), 1e-30)
            elif fit == "root":
                a = float(tile @ s) / float(np.linalg.norm(s))
            if not sign:
                a = max(a, 0.0)
            best = float(tile @ s) / float(s @ s)
            error = float(((tile - (best if sign else max(best, 0.0)) * s) ** 2).sum())
            score = {
                "error": error,
                "distance": float(((tile - s) ** 2).sum()),
                "product": -abs(float(tile @ s)),
                "cosine": -float(tile @ s) / float(np.linalg.norm(s)),
                "scale": -abs(best),
            }[rule]
            options.append((score, a))
        at = int(np.argmin([o[0] for o in options]))
        index.append(at)
        scale.append(options[at][1])
    return np.array(index), np.array(scale)


def _accept(args: Args, got: tuple[np.ndarray, ...]) -> str:
    tiles, sources = (np.asarray(a, np.float64) for a in args)
    index, scale = got
    want_index, want_scale = _derive(tiles, sources)
    if index.min(initial=0) < 0 or index.max(initial=0) >= len(sources):
        return f"An index lies outside 0..{len(sources) - 1}."
    mine = ((tiles - scale[:, None].astype(np.float64) * sources[index]) ** 2).sum(1)
    best = ((tiles - want_scale[:, None] * sources[want_index]) ** 2).sum(1)
    worse = mine > best + 1e-4 * ((tiles**2).sum(1) + 1e-6)
    return (
        f"{int(worse.sum())} of {len(tiles)} tiles could come closer with another source or scale."
        if worse.any()
        else ""
    )


DERIVE = Exercise(
    name="derive_tiles",
    contract="tiles float32 (n, d), sources float32 (S, d), no source all zero -> index integer (n,), scale floating "
    "(n,): for each tile the source and the number for which |tile - scale * source| is smallest; at a tie any of them",
    make_cases=_tile_cases,
    oracle=_derive,
    accept=_accept,
    returns=(Returns("index", dtype="integer"), Returns("scale", dtype="floating")),
    misconceptions=[
        Misconception(
            "nearest-unscaled",
            "The nearest source was chosen before scaling. A far source may point exactly the right way.",
            produces=partial(_derive, rule="distance"),
        ),
        Misconception(
            "longest-source",
            "The largest product was chosen; that prefers long sources. Divide by the source's length first.",
            produces=partial(_derive, rule="product"),
        ),
        Misconception(
            "negative-forgotten",
            "A source that points the other way serves as well: its scale is negative.",
            produces=partial(_derive, rule="cosine"),
        ),
        Misconception(
            "largest-scale",
            "The source with the largest scale was chosen. A large scale means a short source, not a good fit.",
            produces=partial(_derive, rule="scale"),
        ),
        Misconception("never-negative", "Scales may be negative.", produces=partial(_derive, sign=False)),
        Misconception(
            "length-ratio",
            "The scale is a ratio of lengths. That ignores the angle; least squares takes the projection.",
            recognises=lambda args, got, want: np.allclose(
                np.abs(got[1]) * np.linalg.norm(args[1][got[0]], axis=1), np.linalg.norm(args[0], axis=1), rtol=1e-3
            ),
        ),
        Misconception(
            "not-divided",
            "The product of tile and source was not divided by the source's squared length.",
            produces=partial(_derive, fit="product"),
        ),
        Misconception(
            "divided-by-length",
            "Divided by the length of the source instead of its square.",
            produces=partial(_derive, fit="root"),
        ),
        Misconception(
            "mean-ratio",
            "A mean of ratios lets a number near zero decide. Least squares weighs by size.",
            produces=partial(_derive, fit="ratio"),
        ),
        Misconception(
            "wrong-way-round", "This scales the tile to the source.", produces=partial(_derive, fit="inverse")
        ),
    ],
    hint="Draw one tile and one source as arrows. Where on the line of the source is the point nearest to the "
    "tile? Then compare what is left over for each source.",
    points=3,
)
