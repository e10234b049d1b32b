"""Lab 3, exercise 5: tokens pruned from layer to layer by the attention they have gathered.

The oracle works with Python numbers in loops. T tokens, A of them alive, H heads, Q queries. Source: spatten.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

Alive = tuple[np.ndarray, np.ndarray]


def _cascade_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    shapes = [(12, 9, 2, 3, 5), (8, 8, 4, 1, 3), (20, 11, 3, 2, 10), (6, 4, 2, 5, 2), (10, 7, 2, 2, 1)]
    while len(cases) < len(shapes):
        tokens, living, heads, queries, keep = shapes[len(cases)]
        importance = rng.uniform(0, 3, tokens)
        alive = np.sort(rng.choice(tokens, living, replace=False)).astype(np.int64)
        importance[np.setdiff1d(np.arange(tokens), alive)] += 4  # once important, pruned all the same: must not return
        scores = np.exp(rng.normal(0, 1.5, (heads, queries, living)))
        args = importance, alive, (scores / scores.sum(-1, keepdims=True)).astype(np.float32), keep
        others = (_mistaken_cascade(*args, rank=rank)[1] for rank in ("before", "this layer"))
        if len(cases) > 1 or not any(np.array_equal(_cascade(*args)[1], other) for other in others):
            cases.append(args)
    return cases


def _cascade(importance: np.ndarray, alive: np.ndarray, probabilities: np.ndarray, keep: int) -> Alive:
    total = {int(t): float(importance[t]) for t in range(len(importance))}
    for head in probabilities:
        for query in head:
            for token, p in zip(alive, query, strict=True):
                total[int(token)] += float(p)
    living = sorted((int(t) for t in alive), key=lambda t: (-total[t], t))[:keep]
    return np.array([total[t] for t in range(len(importance))]), np.array(sorted(living), np.int64)


def _mistaken_cascade(
    importance: np.ndarray,
    alive: np.ndarray,
    probabilities: np.ndarray,
    keep: int,
    measure: Any = np.sum,
    places: str = "tokens",
    rank: str = "cumulative",
    among: str = "alive",
    order: str = "place",
    returns: str = "tokens",
    pruned: str = "stay",
) -> Alive:
    """One layer of the cascade with one screw loose."""
    here = measure(probabilities.astype(np.float64), axis=(0, 1))
    total = importance.copy()
    if places == "tokens":
        total[alive] += here
    elif places == "front":
        total[: len(alive)] += here
    else:
        total[alive] = here
    if pruned == "forget":
        total[np.setdiff1d(np.arange(len(total)), alive)] = 0
    by = {"cumulative": total[alive], "this layer": here, "before": importance[alive]}[rank]
    if among == "all":
        best = np.argsort(-total, kind="stable")[:keep]
        return total, np.sort(best)
    best = np.argsort(by if order == "worst" else -by, kind="stable")[:keep]
    if order == "drops":
        best = np.argsort(by, kind="stable")[keep:]
    if returns == "places":
        return total, np.sort(best)
    return total, np.sort(alive[best])


def _one_head(*args: Any) -> Alive:
    return _mistaken_cascade(args[0], args[1], args[2][:1], args[3])


def _last_query(*args: Any) -> Alive:
    return _mistaken_cascade(args[0], args[1], args[2][:, -1:], args[3])


def _living_only(*args: Any) -> Alive:
    total, alive = _mistaken_cascade(*args)
    return total[args[1]], alive


def _only_the_order(args: Args, got: Arrays, want: Arrays) -> bool:
    same = np.allclose(got[0], want[0], rtol=1e-5, atol=1e-12)
    return bool(same and np.array_equal(np.sort(got[1]), want[1]))


def _as_mask(*args: Any) -> Alive:
    total, alive = _mistaken_cascade(*args)
    return total, np.isin(np.arange(len(total)), alive)


CASCADE = Exercise(
    name="cascade_prune",
    contract="importance float64 (T,): what each token has gathered in earlier layers; alive int64 (A,): the tokens "
    "not pruned so far, ascending; probabilities float32 (H, Q, A): this layer's attention of H heads and Q queries "
    "to the alive tokens; keep int 1..A -> importance floating (T,) with this layer's probabilities added (summed "
    "over heads and queries), alive integer (keep,): the alive tokens of largest importance, ascending",
    make_cases=_cascade_cases,
    oracle=_cascade,
    returns=(Returns("importance", dtype="floating", rtol=1e-5), Returns("alive", dtype="integer")),
    misconceptions=[
        Misconception(
            "this-layer-only",
            "You rank by this layer alone. One layer looks at few tokens; what an earlier layer needed would be "
            "dropped here and is gone for all later ones. Rank by the importance gathered so far.",
            produces=partial(_mistaken_cascade, rank="this layer"),
        ),
        Misconception(
            "this-layer-replaces",
            "This layer's sums replace what earlier layers have gathered. Add them.",
            produces=partial(_mistaken_cascade, places="replace"),
        ),
        Misconception(
            "earlier-layers-only",
            "You rank before this layer's probabilities are added. Add first, then rank.",
            produces=partial(_mistaken_cascade, rank="before"),
        ),
        Misconception(
            "brings-tokens-back",
            "A token that was pruned is alive again: its importance is still large, but its key and value are not "
            "read in this layer, nor in any later one. Choose among `alive` only.",
            produces=partial(_mistaken_cascade, among="all"),
        ),
        Misconception(
            "wrong-places",
            "Column j of `probabilities` belongs to token alive[j], not to token j: importance[alive] += ...",
            produces=partial(_mistaken_cascade, places="front"),
        ),
        Misconception(
            "places-instead-of-tokens",
            "You return places within `alive`. The next layer needs the tokens themselves: alive[places].",
            produces=partial(_mistaken_cascade, returns="places"),
        ),
        Misconception(
            "keeps-the-worst",
            "You keep the tokens of SMALLEST importance (argsort sorts ascending).",
            produces=partial(_mistaken_cascade, order="worst"),
        ),
        Misconception(
            "keep-is-not-drop",
            "`keep` is how many tokens stay, not how many go.",
            produces=partial(_mistaken_cascade, order="drops"),
        ),
        Misconception(
            "alive-in-order-of-importance",
            "The right tokens, but in order of importance. Tokens stand in the order in which they came: np.sort.",
            recognises=_only_the_order,
        ),
        Misconception(
            "alive-as-mask",
            "A mask of all tokens; the contract asks for their numbers: np.flatnonzero(mask).",
            produces=_as_mask,
        ),
        Misconception(
            "mean-instead-of-sum",
            "You took the mean over heads and queries. Importance is what all of them together have looked at, in all "
            "layers: sum.",
            produces=partial(_mistaken_cascade, measure=np.mean),
        ),
        Misconception(
            "maximum-instead-of-sum",
            "You took the largest probability. Importance is what all heads and queries together looked at: sum.",
            produces=partial(_mistaken_cascade, measure=np.max),
        ),
        Misconception(
            "one-head-only",
            "Only the first head was counted. Another head may need another token: sum over all heads.",
            produces=_one_head,
        ),
        Misconception(
            "last-query-only",
            "Only the last query was counted: sum over all queries.",
            produces=_last_query,
        ),
        Misconception(
            "importance-of-the-living-only",
            "The importance of the living alone comes back. The next layer needs a place for each of the T tokens.",
            produces=_living_only,
        ),
        Misconception(
            "forgets-the-pruned",
            "The importance of pruned tokens was set to 0. It does no harm here, but it belongs to the record: leave "
            "the entries of tokens that are not alive as they are.",
            produces=partial(_mistaken_cascade, pruned="forget"),
        ),
    ],
    hint="Which tokens may still be chosen, and how do the columns of `probabilities` belong to them? After two "
    "rounds, does a token that fell out come back?",
    points=3,
)
