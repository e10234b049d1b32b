"""Lab 11, exercises 1 and 2: hits of a cache of experts that drops the least recently used, and of the best possible.

The oracles keep moments of use in tables, or go through every decision. Source: mixtral-offloading.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns


def _uses(rng: np.random.Generator, count: int, experts: int) -> np.ndarray:
    """Uses with favourites that change along the way."""
    favourite = rng.integers(0, experts, count // 6 + 1).repeat(6)[:count]
    return np.where(rng.random(count) < 0.4, favourite, rng.integers(0, experts, count)).astype(np.int64)


def _cases(rng: np.random.Generator) -> list[Args]:
    turns = np.array([0, 0, 0, 1, 2, 0, 1, 2, 0, 3, 0, 1], np.int64)
    fixed = [(turns, 2), (turns, 3), (np.array([5, 1, 5, 2, 5, 3, 5, 1, 2], np.int64), 2)]
    drawn = [(_uses(rng, 40, 6), c) for c in (1, 2, 3, 5)] + [(_uses(rng, 60, 8), 4)]
    edges = [(np.array([], np.int64), 3), (_uses(rng, 9, 3), 0), (np.array([7], np.int64), 1), (_uses(rng, 20, 4), 9)]
    return [*fixed, *drawn, *edges]


def _lru(uses: np.ndarray, capacity: int) -> int:
    """A use is a hit if fewer than `capacity` other experts were used since the same expert's last use."""
    found, sequence = 0, uses.tolist()
    for now, expert in enumerate(sequence):
        before = [t for t in range(now) if sequence[t] == expert]
        found += (
            bool(before) and len(set(sequence[before[-1] :])) > 0 and len(set(sequence[before[-1] : now])) <= capacity
        )
    return found


def simulate(uses: np.ndarray, capacity: int, how: str = "lru") -> int:
    """A cache with one screw loose, named by `how`."""
    sequence, found = uses.tolist(), 0
    kept: list[int] = []
    size = {"too many": capacity + 1, "too few": capacity - 1, "at least one": max(1, capacity)}.get(how, capacity)
    for now, expert in enumerate(sequence):
        future = sequence[now + 1 :]
        if expert in kept:
            found += 1
            if how != "fifo":
                kept.remove(expert)
                kept.append(expert)
            continue
        if how == "never drops" or len(kept) < size:
            kept.append(expert)
            continue
        if how == "full" or not kept:
            continue
        never = -1 if how.startswith("never again first") else 10**9
        if how == "lfu":
            worst = min(kept, key=sequence[:now].count)
        elif how == "fewest uses":
            worst = min(kept, key=future.count)
        elif how == "from start":
            worst = max(kept, key=sequence.index)
        elif how in ("best", "never again first", "bypass", "nearest"):
            distance = {e: future.index(e) if e in future else never for e in kept}
            worst = (min if how == "nearest" else max)(kept, key=lambda e: distance[e])
            if how == "bypass" and (future.index(expert) if expert in future else never) >= distance[worst]:
                continue
        else:
            worst = kept[-1] if how == "mru" else kept[0]
        kept.remove(worst)
        kept.append(expert)
    return found


def _best(uses: np.ndarray, capacity: int) -> int:
    """Go through the sequence from behind: an interval between two uses of an expert is a hit if it finds room.

    Intervals are taken by their end; each needs one place at every moment strictly inside it, where the expert in use
    takes one place itself.
    """
    sequence = uses.tolist()
    room = [capacity - 1] * len(sequence)
    intervals: list[tuple[int, int]] = []
    last: dict[int, int] = {}
    for now, expert in enumerate(sequence):
        if expert in last:
            intervals.append((last[expert], now))
        last[expert] = now
    found = 0
    for start, end in intervals:  # in the order of their ends, shortest need first
        inside = range(start + 1, end)
        if capacity and all(room[t] > 0 for t in inside):
            for t in inside:
                room[t] -= 1
            found += 1
    return found


def _recent(uses: np.ndarray, capacity: int) -> int:
    """What was among the last `capacity` uses counts as held."""
    sequence = uses.tolist()
    return sum(expert in sequence[max(0, now - capacity) : now] for now, expert in enumerate(sequence))


def _short_sight(uses: np.ndarray, capacity: int) -> int:
    """Looks only `capacity` uses ahead."""
    sequence, found = uses.tolist(), 0
    kept: list[int] = []
    for now, expert in enumerate(sequence):
        if expert in kept:
            found += 1
            continue
        if capacity and len(kept) >= capacity:
            near = sequence[now + 1 : now + 1 + capacity]
            kept.remove(max(kept, key=lambda e: near.index(e) if e in near else 10**9))
        if capacity:
            kept.append(expert)
    return found


def _counted(uses: np.ndarray, capacity: int, base: str, as_: str) -> float:
    found = simulate(uses, capacity, base)
    return len(uses) - found if as_ == "misses" else found / max(1, len(uses))


def _general(base: str) -> list[Misconception]:
    return [
        Misconception(
            "counts-misses",
            "That is how often an expert had to be fetched. The hits are wanted: the uses that found it there.",
            produces=partial(_counted, base=base, as_="misses"),
        ),
        Misconception(
            "share-instead-of-count",
            "That is a share. The number of hits is wanted, not divided by the uses.",
            produces=partial(_counted, base=base, as_="share"),
        ),
        Misconception(
            "never-drops",
            "Nothing is ever dropped, so every second use is a hit. The cache holds `capacity` experts at most.",
            produces=partial(simulate, how="never drops"),
        ),
        Misconception(
            "full-means-closed",
            "Once full, the cache takes nothing new. An expert that was fetched must come in, and another one must go.",
            produces=partial(simulate, how="full"),
        ),
    ]


LRU = Exercise(
    name="lru_hits",
    contract="uses int64 (U,) expert numbers in the order of use, capacity int >= 0 -> hits int: uses that found their "
    "expert in a cache, empty at the start, that drops the least recently used one",
    make_cases=_cases,
    oracle=_lru,
    returns=(Returns("hits", dtype="any"),),
    misconceptions=[
        Misconception(
            "first-in-first-out",
            "The one that came in first is dropped, however recently it was used. A hit is a use, too: it makes the "
            "expert the most recent one.",
            produces=partial(simulate, how="fifo"),
        ),
        Misconception(
            "drops-the-newest",
            "The most recently used expert is dropped. The one whose last use lies farthest back must go.",
            produces=partial(simulate, how="mru"),
        ),
        Misconception(
            "uses-for-experts",
            "The last `capacity` USES are kept. An expert that is used twice takes one place, not two.",
            produces=_recent,
        ),
        Misconception(
            "least-often",
            "The expert used least often is dropped. Wanted is the one whose last use is longest ago.",
            produces=partial(simulate, how="lfu"),
        ),
        *_general("lru"),
        Misconception(
            "one-too-many",
            "The cache holds one expert more than `capacity`. Make room BEFORE the new one comes in, when it is full.",
            produces=partial(simulate, how="too many"),
        ),
        Misconception(
            "one-too-few",
            "The cache holds one expert less than `capacity`: it may be full; drop only when no place is left.",
            produces=partial(simulate, how="too few"),
        ),
        Misconception(
            "nothing-is-something",
            "With capacity 0 nothing can be kept, so nothing can be found.",
            produces=partial(simulate, how="at least one"),
        ),
    ],
    hint="Keep the experts in the order of their last use. Which end goes, and what does a hit change?",
    points=2,
)

BELADY = Exercise(
    name="belady_hits",
    contract="uses int64 (U,), capacity int >= 0 -> hits int of a cache, empty at the start, that knows all uses: "
    "every expert fetched comes in (if capacity > 0), and if the cache is full, the one needed again last goes",
    make_cases=_cases,
    oracle=_best,
    returns=(Returns("hits", dtype="any"),),
    misconceptions=[
        Misconception(
            "looks-back",
            "That is the least recently used rule. Look ahead: when is each expert needed NEXT?",
            produces=simulate,
        ),
        Misconception(
            "drops-the-nearest",
            "The expert needed soonest is dropped. The farthest one must go.",
            produces=partial(simulate, how="nearest"),
        ),
        Misconception(
            "never-again-is-kept",
            "An expert that is never used again is kept, as if it were needed at once. It is the first that should go: "
            "its next use is infinitely far ahead.",
            produces=partial(simulate, how="never again first"),
        ),
        Misconception(
            "fewest-future-uses",
            "The expert with the fewest uses to come is dropped. How soon the next one is counts, not how many.",
            produces=partial(simulate, how="fewest uses"),
        ),
        Misconception(
            "short-sight",
            "You look only a few uses ahead. Whoever comes later than that is not yet `never`.",
            produces=_short_sight,
        ),
        Misconception(
            "next-use-from-the-start",
            "The next use is searched from the start, and one in the past is found. Search after now.",
            produces=partial(simulate, how="from start"),
        ),
        Misconception(
            "does-not-come-in",
            "Some experts are used without coming into the cache. Here an expert that is fetched always comes in.",
            produces=partial(simulate, how="bypass"),
        ),
        *_general("best"),
    ],
    hint="For each expert in the cache: at which later moment is it used next? Never counts as infinity.",
    points=2,
)
