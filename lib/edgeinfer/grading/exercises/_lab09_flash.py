"""Lab 9, exercises 1 to 3: bundles, the window and the order of the neurons.

The order may be any that is nearly as heavy as the greedy path; it is judged by its neighbours' co-activations.
Sources: llm-in-a-flash, ripple.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

# ---------------------------------------------------------------- bundles


def _bundle_cases(rng: np.random.Generator) -> list[Args]:
    sizes = ((3, 5), (6, 6), (1, 4), (7, 1), (20, 9))
    return [tuple(rng.normal(size=s).astype(np.float32) for s in ((m, h), (m, h), (h, m))) for m, h in sizes]


def _bundles(gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    return np.array([[*gate[i], *up[i], *(row[i] for row in down)] for i in range(len(gate))], gate.dtype)


BUNDLE = Exercise(
    name="bundle_neurons",
    contract="gate, up float32 (M, H), down float32 (H, M) -> bundles float32 (M, 3 H): row i holds row i of gate, "
    "row i "
    "of up and column i of down, one after the other",
    make_cases=_bundle_cases,
    oracle=_bundles,
    returns=(Returns("bundles", dtype="floating"),),
    misconceptions=[
        Misconception(
            "down-by-rows",
            "down is cut into rows, but neuron i owns COLUMN i of down: what it adds to each of the H outputs.",
            produces=lambda gate, up, down: np.concatenate((gate, up, down.reshape(gate.shape)), 1),
        ),
        Misconception(
            "matrices-not-neurons",
            "The three matrices lie one after the other. Then a neuron's numbers are in three places of the file: put "
            "them side by side, along axis 1.",
            produces=lambda gate, up, down: np.concatenate((gate, up, down.T)).reshape(len(gate), -1),
        ),
        Misconception(
            "interleaved",
            "The numbers of the three are shuffled like cards. A bundle is three whole pieces, one after the other.",
            produces=lambda gate, up, down: np.stack((gate, up, down.T), 2).reshape(len(gate), -1),
        ),
        Misconception(
            "other-order",
            "All there, in another order of the three pieces. The reader of the file relies on gate, up, down.",
            recognises=lambda args, got, want: np.array_equal(np.sort(got[0], 1), np.sort(want[0], 1)),
        ),
        Misconception(
            "rows-moved",
            "Row i of the result must belong to neuron i; here the rows are in another order.",
            recognises=lambda args, got, want: np.array_equal(np.sort(got[0], 0), np.sort(want[0], 0)),
        ),
    ],
    hint="Which axis counts the neurons in gate, and which in down? Every neuron gets one row, in float32.",
    points=1,
)

# ---------------------------------------------------------------- window


def _window_cases(rng: np.random.Generator) -> list[Args]:
    shapes = ((9, 7, 2), (14, 5, 1), (12, 6, 3), (6, 4, 0), (5, 3, 9), (20, 8, 4), (1, 4, 2))
    return [(rng.random((t, m)) < rng.uniform(0.25, 0.5), k) for t, m, k in shapes]


def _loads(active: np.ndarray, window: int, first: int = 1, extra: int = 0) -> np.ndarray:
    out = np.zeros(active.shape, bool)
    for t in range(len(active)):
        for i in range(active.shape[1]):
            held = any(active[s, i] for s in range(max(0, t - window - extra), t + 1 - first))
            out[t, i] = active[t, i] and not held
    return out


def _since_loaded(active: np.ndarray, window: int) -> np.ndarray:
    """The window counts from the load, not from the last use."""
    out, until = np.zeros(active.shape, bool), np.full(active.shape[1], -1)
    for t, used in enumerate(active):
        out[t] = used & (until < t)
        until[out[t]] = t + window
    return out


def _around(active: np.ndarray, window: int) -> np.ndarray:
    held = np.zeros(active.shape, bool)
    for back in range(1, window + 1):
        held |= np.roll(active, back, 0)
    return active & ~held


def _in_blocks(active: np.ndarray, window: int) -> np.ndarray:
    """Memory is emptied every `window` tokens."""
    out, held = np.zeros(active.shape, bool), np.zeros(active.shape[1], bool)
    for t, used in enumerate(active):
        held &= bool(window) and t % window != 0
        out[t] = used & ~held
        held |= used
    return out


def _all_of_them(active: np.ndarray, window: int) -> np.ndarray:
    out = active.copy()
    for t in range(1, len(active) if window else 0):
        out[t] &= ~active[max(0, t - window) : t].all(0)
    return out


def _that_one(active: np.ndarray, window: int) -> np.ndarray:
    out = active.copy()
    out[window:] &= ~active[: len(active) - window]
    return out


def _dropped(active: np.ndarray, window: int) -> np.ndarray:
    return np.array([active[max(0, t - window) : t].any(0) & ~active[t] for t in range(len(active))])


def _negative(active: np.ndarray, window: int) -> np.ndarray:
    return np.array([active[t] & ~active[t - window : t].any(0) for t in range(len(active))])


WINDOW = Exercise(
    name="neurons_to_load",
    contract="active bool (T, M), window int >= 0 -> load bool (T, M): True where token t uses neuron i and none of "
    "the "
    "`window` tokens before it did",
    make_cases=_window_cases,
    oracle=_loads,
    returns=(Returns("load"),),
    misconceptions=[
        Misconception(
            "counted-from-the-load",
            "A neuron is dropped a fixed time after it was LOADED, although it was used since. Each use keeps it for "
            "another `window` tokens.",
            produces=_since_loaded,
        ),
        Misconception(
            "one-token-too-many",
            "Neurons are held for one token too long: the window is the `window` tokens before this one.",
            produces=partial(_loads, extra=1),
        ),
        Misconception(
            "one-token-too-few",
            "Neurons are dropped one token too early: the window is the `window` tokens before this one, and this "
            "token "
            "is not among them.",
            produces=partial(_loads, extra=-1),
        ),
        Misconception(
            "only-the-token-before",
            "Compared with the previous token only; what an older token of the window used is still in memory.",
            produces=lambda active, window: _loads(active, min(window, 1)),
        ),
        Misconception(
            "all-instead-of-any",
            "A neuron counts as held only if ALL tokens of the window used it. One of them is enough.",
            produces=_all_of_them,
        ),
        Misconception(
            "only-the-oldest",
            "Compared with the one token `window` steps back. Every token of the window keeps what it used.",
            produces=_that_one,
        ),
        Misconception(
            "emptied-at-intervals",
            "Memory is emptied every `window` tokens. The window slides: it reaches back from EVERY token.",
            produces=_in_blocks,
        ),
        Misconception(
            "never-dropped",
            "Nothing is ever dropped: after a while the whole layer would be in memory.",
            produces=lambda active, window: _loads(active, len(active)),
        ),
        Misconception(
            "wraps-around",
            "The first tokens see the last ones as their past: np.roll wraps around. Before the first token memory is "
            "empty.",
            produces=_around,
        ),
        Misconception(
            "window-before-the-first-token",
            "The first `window` tokens read all they use. There t - window is below zero, and a negative place counts "
            "from the END of the array, so the slice is empty or wrong. The window begins at token 0 at the earliest.",
            produces=_negative,
        ),
        Misconception(
            "counts-itself",
            "Nothing is ever read: the token itself is in your window. Only the tokens BEFORE it have left something.",
            produces=lambda active, window: np.zeros_like(active),
        ),
        Misconception(
            "drops-instead",
            "This marks neurons that are held but not used. Asked is what must be read: used and not held.",
            produces=_dropped,
        ),
        Misconception(
            "loads-everything-used",
            "Every neuron that is used is read again. What the window holds need not be.",
            produces=lambda active, window: active.copy(),
        ),
    ],
    hint="For token t: which rows of `active` are its window, and how many of them are there for the first tokens? A "
    "neuron is read if it is used in row t and in none of those rows.",
    points=2,
)

# ---------------------------------------------------------------- order

SHARE = 0.95


def _order_cases(rng: np.random.Generator) -> list[Args]:
    """Groups that fire together, neurons in random order; frequency says nothing about the group."""
    cases = []
    for tokens, groups, size, noise in ((120, 6, 5, 0.03), (200, 5, 8, 0.05), (90, 9, 4, 0.02), (150, 4, 7, 0.0)):
        kind = rng.permutation(np.repeat(np.arange(groups), size))
        on = rng.random((tokens, groups)) < 0.25
        fired = on[:, kind] & (rng.random((tokens, len(kind))) < rng.uniform(0.75, 1.0, len(kind)))
        cases.append((fired | (rng.random(fired.shape) < noise),))
    # A neuron that never fires, and very small layers.
    cases[0][0][:, 3] = False
    small = [(rng.random((30, 1)) < 0.5,), (np.ones((4, 2), bool),)]
    # A long text: pairs fire together more often than an 8-bit number can count.
    kind = rng.permutation(np.repeat(np.arange(5), 6))
    fired = (rng.random((1500, 5)) < 0.25)[:, kind] & (rng.random((1500, 30)) < rng.uniform(0.75, 1.0, 30))
    return [*cases, *small, (fired | (rng.random(fired.shape) < 0.03),)]


def _counts(active: np.ndarray) -> np.ndarray:
    fired = np.asarray(active).astype(np.int64)
    return fired.T @ fired


def _path(active: np.ndarray) -> np.ndarray:
    """Pieces of path as lists; the strongest pair of ends of two pieces joins them."""
    counts = _counts(active)
    pieces = [[n] for n in range(len(counts))]
    pairs = sorted((-counts[a, b], a, b) for a in range(len(counts)) for b in range(a + 1, len(counts)))
    of = {n: piece for n, piece in enumerate(pieces)}
    for _, a, b in pairs:
        left, right = of[a], of[b]
        if left is right or a not in (left[0], left[-1]) or b not in (right[0], right[-1]):
            continue
        joined = (left if left[-1] == a else left[::-1]) + (right if right[0] == b else right[::-1])
        of.update(dict.fromkeys(joined, joined))
    return np.array(of[0])


def _heavy(active: np.ndarray, order: np.ndarray) -> int:
    counts = _counts(active)
    return int(counts[order[:-1], order[1:]].sum())


def _is_order(numbers: np.ndarray) -> bool:
    return sorted(numbers.tolist()) == list(range(len(numbers)))


def _order_accept(args: Args, got: Arrays) -> str:
    (order,) = got
    if not _is_order(order):
        return f"`order` must hold every neuron from 0 to {args[0].shape[1] - 1} exactly once; it does not."
    mine, best = _heavy(args[0], order), _heavy(args[0], _path(args[0]))
    if mine < SHARE * best:
        return (
            f"neighbours in your order fire together {mine} times; in the greedy path {best} times, and at least "
            f"{SHARE:.0%} of that are wanted."
        )
    return ""


def _inverse_is_right(args: Args, got: Arrays, want: Arrays) -> bool:
    return _is_order(got[0]) and _order_accept(args, (np.argsort(got[0]),)) == ""


def _sorted_by(key: Any) -> Any:
    def recognises(args: Args, got: Arrays, want: Arrays) -> bool:
        if not _is_order(got[0]):
            return False
        steps = np.diff(key(args[0])[got[0]])
        return bool((steps >= 0).all() or (steps <= 0).all())

    return recognises


def _weaker_than_chance(args: Args, got: Arrays, want: Arrays) -> bool:
    counts = _counts(args[0])
    return _heavy(args[0], got[0]) < 0.7 * (counts.sum() - counts.trace()) / len(counts)


ORDER = Exercise(
    name="path_of_neurons",
    contract="active bool (T, M), training text -> order integer (M,): the neuron at each place of the file, every "
    "neuron "
    "once; neighbours fire together (in the same token) at least 95 % as often as in the greedy path",
    make_cases=_order_cases,
    oracle=_path,
    returns=(Returns("order", dtype="integer"),),
    accept=_order_accept,
    misconceptions=[
        Misconception(
            "neurons-lost-or-doubled",
            "`order` does not hold every neuron exactly once. A joined neuron has at most two neighbours, and pieces "
            "that "
            "are left over at the end (such as neurons that never fire) must be joined too.",
            recognises=lambda args, got, want: not _is_order(got[0]),
        ),
        Misconception(
            "nothing-moved",
            "The neurons stay where they are, or are only turned round.",
            recognises=lambda args, got, want: bool(
                (got[0] == np.arange(len(got[0]))).all() or (got[0][::-1] == np.arange(len(got[0]))).all()
            ),
        ),
        Misconception(
            "place-instead-of-neuron",
            "This is the place of each neuron. Asked is the neuron at each place: the inverse permutation.",
            recognises=_inverse_is_right,
        ),
        Misconception(
            "sorted-by-frequency",
            "Sorted by how often a neuron fires. Two neurons may fire equally often and never together: count pairs.",
            recognises=_sorted_by(lambda active: active.sum(0)),
        ),
        Misconception(
            "compared-with-one-neuron",
            "All neurons are sorted by how often they fire together with ONE of them. Compare with the neighbour.",
            recognises=lambda args, got, want: (
                any(
                    _sorted_by(lambda active, n=n: np.delete(_counts(active)[n], n))(
                        args, (np.array([x - (x > n) for x in got[0] if x != n]),), want
                    )
                    for n in (int(got[0][0]), int(got[0][-1]))
                )
                and len(got[0]) > 2
            ),
        ),
        Misconception(
            "weakest-first",
            "Pairs that fire together rarely have become neighbours. Sort the pairs by FALLING count.",
            recognises=_weaker_than_chance,
        ),
    ],
    hint="In how many tokens do both neurons of a pair fire? Look at a few of your counts: a product of bool arrays "
    "says only whether there is one, and 8 bits count to 255. Which pair is offered first, and when is it turned down?",
    points=3,
)
