"""Lab 6, exercises 2 and 3: one factor for all layers, and the loads of blocks that run twice.

The oracle of the factor takes eigenvectors, that of the loads keeps a list by age. Sources: lightformer, mobilellm.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

# ---------------------------------------------------------------- common_factor


def _factor_cases(rng: np.random.Generator) -> list[Args]:
    cases = []
    for layers, n, k, rank in ((3, 6, 5, 2), (4, 4, 8, 3), (2, 7, 4, 4), (1, 5, 6, 1), (3, 8, 6, 1)):
        weights = rng.normal(size=(layers, n, k)) * np.linspace(1, 3, k)  # well apart, so the answer is unique
        weights *= np.linspace(0.5, 2, layers)[:, None, None]
        cases.append((weights.astype(np.float32), rank))
    return cases


def _factor(
    weights: np.ndarray, rank: int, how: str = "all", smallest: bool = False, unit: bool = False, extra: int = 0
) -> np.ndarray:
    w = np.asarray(weights, np.float64)
    if how == "each":
        return np.stack([_factor(one[None], rank)[0] for one in w])
    grams = {
        "all": sum(x.T @ x for x in w),
        "first": w[0].T @ w[0],
        "mean": w.mean(0).T @ w.mean(0),
        "last": w[-1].T @ w[-1],
    }
    if unit:
        grams["all"] = sum(x.T @ x / float((x**2).sum()) for x in w)
    vectors = np.linalg.eigh(grams[how])[1]
    rank = max(rank + extra, 0)
    basis = vectors[:, :rank] if smallest else vectors[:, vectors.shape[1] - min(rank, vectors.shape[1]) :]
    return w @ basis @ basis.T


def _centred(weights: np.ndarray, rank: int) -> np.ndarray:
    """Principal components: the mean row is taken off first and added at the end."""
    w = np.asarray(weights, np.float64)
    mean = w.mean((0, 1))
    return np.asarray(_factor(w - mean, rank) + mean)


def _without_size(weights: np.ndarray, rank: int) -> np.ndarray:
    """The singular values are left out."""
    w = np.asarray(weights, np.float64)
    left, _, right = np.linalg.svd(w.reshape(-1, w.shape[2]), full_matrices=False)
    return np.asarray((left[:, :rank] @ right[:rank]).reshape(w.shape))


def _side(weights: np.ndarray, rank: int) -> np.ndarray:
    """Common output directions instead of input directions."""
    return _factor(np.swapaxes(weights, 1, 2), rank).swapaxes(1, 2)


FACTOR = Exercise(
    name="common_factor",
    contract="weights float32 (layers, N, K), rank int 1..min(layers * N, K) -> close floating (layers, N, K): "
    "the matrices left[l] @ right with one right (rank, K) for all layers for which the sum of all squared errors "
    "is smallest",
    make_cases=_factor_cases,
    oracle=_factor,
    returns=(Returns("close", dtype="floating", rtol=1e-3, atol=1e-3),),
    misconceptions=[
        Misconception(
            "own-factors",
            "Each layer has factors of its own here. That is closer, but nothing is shared.",
            produces=partial(_factor, how="each"),
        ),
        Misconception(
            "first-layer-decides",
            "The directions of the first layer are used for all.",
            produces=partial(_factor, how="first"),
        ),
        Misconception(
            "mean-decides",
            "The mean of the layers was decomposed. What differs in sign between layers vanishes there; stack them.",
            produces=partial(_factor, how="mean"),
        ),
        Misconception(
            "output-side",
            "The common factor stands on the output side; the contract wants it at the input.",
            produces=_side,
        ),
        Misconception(
            "smallest-kept",
            "The smallest singular values were kept; eigh gives them in rising order.",
            produces=partial(_factor, smallest=True),
        ),
        Misconception(
            "layers-normalised",
            "Layers were scaled to one size first; the contract adds the errors as they are.",
            produces=partial(_factor, unit=True),
        ),
        Misconception(
            "centred",
            "The mean was taken off first, as for principal components. left @ right has no place for a mean.",
            produces=_centred,
        ),
        Misconception(
            "size-lost",
            "The directions are right, the sizes are not: the singular values are left out.",
            produces=_without_size,
        ),
        Misconception("one-too-many", "One direction too many is kept.", produces=partial(_factor, extra=1)),
        Misconception("one-too-few", "One direction too few is kept.", produces=partial(_factor, extra=-1)),
    ],
    hint="Stack the layers so that they share their columns. Whose singular vectors are then the rows of `right`?",
    points=3,
)

# ---------------------------------------------------------------- count_loads


def _load_cases(rng: np.random.Generator) -> list[Args]:
    fixed = [
        ([0, 0, 1, 1, 2, 2], 1),
        ([0, 1, 2, 0, 1, 2], 2),
        ([0, 1, 2, 0, 1, 2], 3),
        ([0, 1, 2, 2, 1, 0], 2),
        ([0, 1, 0, 2, 0, 1, 3, 0], 2),
        ([], 2),
        ([4], 1),
        ([0, 1, 0, 2, 1], 2),
    ]
    drawn = [([int(b) for b in rng.integers(0, 5, 24)], room) for room in (1, 2, 3, 4)]
    return [(np.array(order, np.int64), room) for order, room in [*fixed, *drawn]]


def _loads(order: np.ndarray, room: int, rule: str = "lru", plus: int = 0) -> int:
    held: list[int] = []
    loads = 0
    for b in (int(b) for b in order):
        if b in held:
            if rule in ("lru", "mru, used"):
                held.remove(b)
                held.append(b)
            continue
        loads += 1
        if room + plus <= 0:
            continue
        if len(held) >= room + plus:
            held.pop(-1 if rule.startswith("mru") else 0)
        held.append(b)
    return loads


def _distinct(order: np.ndarray, room: int) -> int:
    return len({int(b) for b in order})


def _always(order: np.ndarray, room: int) -> int:
    return len(order)


def _changes(order: np.ndarray, room: int) -> int:
    return int(len(order) > 0) + int(np.count_nonzero(np.diff(order)))


def _recent(order: np.ndarray, room: int) -> int:
    """What was used in the last `room` runs counts as held."""
    runs = [int(b) for b in order]
    return sum(b not in runs[max(0, i - room) : i] for i, b in enumerate(runs))


def _rarest(order: np.ndarray, room: int) -> int:
    held: list[int] = []
    uses: dict[int, int] = {}
    loads = 0
    for b in (int(b) for b in order):
        uses[b] = uses.get(b, 0) + 1
        if b in held:
            continue
        loads += 1
        if len(held) >= room:
            held.remove(min(held, key=lambda x: uses[x]))
        held.append(b)
    return loads


def _hits(order: np.ndarray, room: int) -> int:
    return len(order) - _loads(order, room)


def _after_first(order: np.ndarray, room: int) -> int:
    return _loads(order, room) - _distinct(order, room)


def _newest_dropped(args: Args, got: Arrays, want: Arrays) -> bool:
    order, room = args
    return int(got[0]) in {_loads(order, room, rule) for rule in ("mru", "mru, used")}


LOADS = Exercise(
    name="count_loads",
    contract="order integer (T,), the blocks in the order they run, room int >= 1, blocks that fit in the cache -> "
    "loads int: how often a block must be fetched; the cache starts empty and drops the block whose last use is "
    "longest ago",
    make_cases=_load_cases,
    oracle=_loads,
    returns=(Returns("loads", dtype="integer"),),
    misconceptions=[
        Misconception("each-once", "A block is loaded again when it was dropped in between.", produces=_distinct),
        Misconception("no-cache", "Every run loads its block, even one that lies in the cache.", produces=_always),
        Misconception("one-block-room", "Only the block just used is kept; `room` blocks fit.", produces=_changes),
        Misconception("hits-counted", "These are the runs that need no load.", produces=_hits),
        Misconception(
            "first-in-first-out",
            "The block that came first is dropped. A use makes a block young again.",
            produces=partial(_loads, rule="fifo"),
        ),
        Misconception(
            "runs-for-blocks",
            "What ran in the last `room` runs counts as held. `room` counts blocks: a second run takes no place.",
            produces=_recent,
        ),
        Misconception(
            "rarest-dropped",
            "The block with the fewest runs is dropped. Wanted is the one whose last run is longest ago.",
            produces=_rarest,
        ),
        Misconception(
            "most-recent-dropped",
            "The most recent block is dropped, not the oldest.",
            recognises=_newest_dropped,
        ),
        Misconception("room-plus-one", "One block too many fits.", produces=partial(_loads, plus=1)),
        Misconception("room-minus-one", "One block too few fits.", produces=partial(_loads, plus=-1)),
        Misconception("first-loads-free", "The first load of a block counts, too.", produces=_after_first),
    ],
    hint="At every run ask: is the block there? What does a use change, even one that needs no load? And which "
    "block goes when one must?",
    points=2,
)
