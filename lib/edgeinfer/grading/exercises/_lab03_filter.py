"""Lab 3, exercise 4: keys filtered in two rounds, by the high bits of their codes first.

The oracle works with Python integers and lists. T tokens, D channels. Source: energon.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns

Masks = tuple[np.ndarray, np.ndarray]
MARGIN = 1e-6  # between any score and its threshold, so that the order of additions decides nothing


def _filter_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    shapes = [
        (16, 8, 0.0, 8),
        (40, 16, 0.1, 8),
        (64, 32, 0.25, 8),
        (24, 4, 0.0, 4),
        (30, 32, 0.05, 8),
        (64, 64, 0.0, 8),
    ]
    while len(cases) < len(shapes):
        tokens, channels, alpha, reach = shapes[len(cases)]
        query = rng.integers(-8, 8, channels).astype(np.int8)
        keys = rng.integers(-reach, reach, (tokens, channels)).astype(np.int8)
        if tokens == channels:  # keys along the query: sums that leave eight bits
            keys = np.clip(keys + query * rng.integers(-1, 2, (tokens, 1)), -8, 7).astype(np.int8)
        if _clear(query, keys, alpha, returns=reach < 8):
            cases.append((query, keys, alpha))
    query = rng.choice([-7, -5, 5, 7], 8).astype(np.int8)
    alike = np.where(np.arange(9)[:, None] % 3 == 1, query, -query // 2).astype(np.int8)  # survivors are all alike
    return [*cases, (query, alike, 0.5)]


def _rounds(query: np.ndarray, keys: np.ndarray, alpha: float) -> tuple[list[int], list[int], float]:
    """Survivors of both rounds, and how near the nearest score came to its threshold."""
    alive, nearest, rounds = list(range(len(keys))), np.inf, []
    for unit in (4, 1):
        scores = {i: sum(int(q) * (int(k) // unit * unit) for q, k in zip(query, keys[i], strict=True)) for i in alive}
        mean, top = sum(scores.values()) / len(alive), max(scores.values())
        threshold = mean + alpha * (top - mean)
        nearest = min([nearest, *(abs(s - threshold) for s in scores.values())])
        alive = [i for i in alive if scores[i] >= threshold]
        rounds.append(alive)
    return rounds[0], rounds[1], nearest


def _clear(query: np.ndarray, keys: np.ndarray, alpha: float, returns: bool) -> bool:
    """Whether no score is a tie and both rounds drop keys; `returns`: also, round 2 alone would keep more."""
    first, second, nearest = _rounds(query, keys, alpha)
    if not (nearest > MARGIN and len(second) < len(first) < len(keys)):
        return False
    if not _mistaken_filter(query, keys, alpha, middle="share of the maximum")[1].any():
        return False  # that mistake would end in an error of NumPy before it can be named
    swapped, sharp = (_mistaken_filter(query, keys, alpha, **how)[0] for how in ({"middle": "swapped"}, {"softmax": 0}))
    if alpha > 0.2 and np.array_equal(swapped, sharp):
        return False  # two mistakes that could not be told apart
    back = _mistaken_filter(query, keys, alpha, only_alive=False)[1].sum() > len(second)
    return bool(back) or not returns


def _filtered(query: np.ndarray, keys: np.ndarray, alpha: float) -> Masks:
    first, second, _ = _rounds(query, keys, alpha)
    every = range(len(keys))
    return np.array([i in first for i in every]), np.array([i in second for i in every])


def _mistaken_filter(
    query: np.ndarray,
    keys: np.ndarray,
    alpha: float,
    high: str = "shift",
    middle: str = "mean",
    strict: bool = False,
    survivors: bool = True,
    only_alive: bool = True,
    second: str = "both",
    softmax: float | None = None,
    overflow: bool = False,
    query_too: bool = False,
    magnitude: bool = False,
) -> Masks:
    """The two rounds with one screw loose; `softmax`: the power of D that scores are divided by before it."""
    q, k = query.astype(np.int64), keys.astype(np.int64)
    parts = {
        "shift": k >> 2,
        "low": k & 3,
        "cut": np.trunc(k / 4).astype(np.int64),
        "round": np.rint(k / 4).astype(np.int64),
        "two": k >> 1,
    }[high]
    rough = parts @ ((q >> 2) * 4 if query_too else q)
    if second == "plain sum":
        exact = rough + (k & 3) @ q
    else:
        exact = (k & 3) @ q if second == "low only" else rough * 4 if second == "none" else k @ q
    if overflow:
        rough, exact = (keys >> 2) @ query, keys @ query
    alive = np.ones(len(k), bool)
    masks = []
    for scores in (rough, exact):
        if not alive.any():
            return alive, alive
        s = np.abs(scores.astype(np.float64)) if magnitude else scores.astype(np.float64)
        if softmax is not None:
            e = np.exp((s - s[alive].max()) / len(q) ** softmax)
            s = e / e[alive].sum()
        seen = s[alive] if survivors else s
        mean, top = (np.median(seen) if middle == "median" else seen.mean()), seen.max()
        threshold = {
            "share of the maximum": alpha * top,
            "swapped": alpha * mean + (1 - alpha) * top,
            "without alpha": mean,
            "of the range": seen.min() + alpha * (top - seen.min()),
        }.get(middle, mean + alpha * (top - mean))
        passed = s > threshold if strict else s >= threshold
        alive = passed & alive if only_alive else passed
        masks.append(alive)
    return masks[0], masks[1]


SOFTMAX = (
    "The threshold was put on the softmax. Its mean is always 1/T and a few keys hold nearly everything, so almost all "
    "others fall. (And an exponential for each key is what the filter should save.) Use the scores."
)


def _mask_of_survivors(query: np.ndarray, keys: np.ndarray, alpha: float) -> Masks:
    first, second = _filtered(query, keys, alpha)
    return first, second[first]


FILTER = Exercise(
    name="filter_keys",
    contract="query int8 (D,), keys int8 (T, D), both 4-bit codes from -8 to 7; alpha float 0..1 -> first bool (T,), "
    "second bool (T,): the keys alive after each round. Round 1 scores every key by its high two bits (k >> 2), round "
    "2 scores the survivors by all four; a key stays if its score >= mean + alpha * (max - mean), both over the keys "
    "that take part in the round",
    make_cases=_filter_cases,
    oracle=_filtered,
    returns=(Returns("first", dtype="bool"), Returns("second", dtype="bool")),
    misconceptions=[
        Misconception(
            "int8-accumulator",
            "The product of two int8 arrays is computed in int8, where a sum of products wraps round at 128. Widen "
            "one of them first: query.astype(np.int32).",
            produces=partial(_mistaken_filter, overflow=True),
        ),
        Misconception(
            "takes-the-low-bits",
            "`k & 3` are the LOW two bits, which say next to nothing about the size of k. The high two are `k >> 2`.",
            produces=partial(_mistaken_filter, high="low"),
        ),
        Misconception(
            "cuts-towards-zero",
            "Dividing by 4 and cutting off the fraction moves negative codes towards zero: -1 becomes 0. The high "
            "bits of a two's-complement code are its FLOOR: -1 >> 2 is -1. Only then k = 4 * (k >> 2) + (k & 3).",
            produces=partial(_mistaken_filter, high="cut"),
        ),
        Misconception(
            "rounds-to-two-bits",
            "You rounded the codes to two bits. The point is to READ only the two bits that are stored first, and to "
            "use them again in round 2: k >> 2.",
            produces=partial(_mistaken_filter, high="round"),
        ),
        Misconception(
            "shifts-by-one",
            "`k >> 1` still has three bits. A code of four bits loses its low two: k >> 2.",
            produces=partial(_mistaken_filter, high="two"),
        ),
        Misconception(
            "cuts-the-query-too",
            "The query was cut to two bits as well. It is read once and stays in registers; only the keys are many: "
            "the query keeps all its bits in both rounds.",
            produces=partial(_mistaken_filter, query_too=True),
        ),
        Misconception("threshold-on-probabilities", SOFTMAX, produces=partial(_mistaken_filter, softmax=0.5)),
        Misconception("threshold-on-plain-probabilities", SOFTMAX, produces=partial(_mistaken_filter, softmax=0)),
        Misconception(
            "brings-keys-back",
            "A key that was dropped in round 1 is back in round 2. Its low bits were never fetched: "
            "second = first & (...).",
            produces=partial(_mistaken_filter, only_alive=False),
        ),
        Misconception(
            "brings-keys-back-by-all",
            "A key that was dropped in round 1 is back in round 2. Its low bits were never fetched: "
            "second = first & (...).",
            produces=partial(_mistaken_filter, only_alive=False, survivors=False),
        ),
        Misconception(
            "mean-of-all-keys",
            "In round 2 the mean was taken over all keys. Those that were dropped pull it down, so the second round "
            "hardly filters: mean and maximum belong to the survivors.",
            produces=partial(_mistaken_filter, survivors=False),
        ),
        Misconception(
            "forgets-the-high-bits",
            "Round 2 scored the low bits alone. They refine round 1: score = 4 * (score of round 1) + query @ (k & 3).",
            produces=partial(_mistaken_filter, second="low only"),
        ),
        Misconception(
            "high-bits-weigh-one",
            "Round 2 adds the two parts with equal weight. k = 4 * (k >> 2) + (k & 3), so the score of round 1 counts "
            "four times.",
            produces=partial(_mistaken_filter, second="plain sum"),
        ),
        Misconception(
            "second-round-learns-nothing",
            "Round 2 used the scores of round 1 again. It fetches the low two bits of the survivors.",
            produces=partial(_mistaken_filter, second="none"),
        ),
        Misconception(
            "share-of-the-maximum",
            "The threshold is alpha * max. Scores may be negative, and a constant added to all of them would change "
            "who stays. Start from the mean: mean + alpha * (max - mean).",
            produces=partial(_mistaken_filter, middle="share of the maximum"),
        ),
        Misconception(
            "starts-at-the-minimum",
            "The threshold starts at the smallest score, so alpha = 0 keeps everything. Start at the mean.",
            produces=partial(_mistaken_filter, middle="of the range"),
        ),
        Misconception(
            "alpha-from-the-wrong-end",
            "alpha = 0 must give the mean, alpha = 1 the maximum; yours is the other way round.",
            produces=partial(_mistaken_filter, middle="swapped"),
        ),
        Misconception(
            "ignores-alpha",
            "The threshold is the mean whatever alpha says: mean + alpha * (max - mean).",
            produces=partial(_mistaken_filter, middle="without alpha"),
        ),
        Misconception(
            "median-instead-of-mean",
            "You took the median: it drops half of the keys each time, whatever the scores are. The mean follows them.",
            produces=partial(_mistaken_filter, middle="median"),
        ),
        Misconception(
            "by-magnitude",
            "You filter by the magnitude of the score. A very negative score means that the key does NOT matter: the "
            "softmax makes it nearly 0.",
            produces=partial(_mistaken_filter, magnitude=True),
        ),
        Misconception(
            "numbers-instead-of-masks",
            "These are the numbers of the living keys; return masks, one bool for each key.",
            produces=lambda q, k, a: tuple(np.flatnonzero(m) for m in _filtered(q, k, a)),
        ),
        Misconception(
            "mask-of-the-survivors",
            "The second mask has a place for each survivor only. Both masks are over all T keys: second[first] = ...",
            produces=_mask_of_survivors,
        ),
        Misconception(
            "second-round-only",
            "Only the result of round 2 is returned. The first mask is needed as well: it says how many low bits are "
            "read.",
            produces=lambda q, k, a: _filtered(q, k, a)[1],
        ),
        Misconception(
            "drops-equals",
            "Right until all scores of a round are equal: then none is ABOVE the threshold and attention has no key "
            "left. A score at the threshold stays: >=.",
            recognises=lambda args, got, want: len(np.unique(args[1][want[0]], axis=0)) == 1,
        ),
    ],
    hint="Which keys does the second round look at, and from which scores is its threshold made? Check the width "
    "of your integers: how large can a product of a key and a query get?",
    points=3,
)
