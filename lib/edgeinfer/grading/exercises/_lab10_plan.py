"""Lab 10, exercises 4 and 5: two roads that end together, and fidelities of shards that are in time.

The first oracle searches, the second tries every plan. Sources: zero-inference, sti.
"""

from itertools import product

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns


def _road_cases(rng: np.random.Generator) -> list[Args]:
    return [
        (100.0, 3.0, 1.0, 1000.0),
        (100.0, 3.0, 1.0, 40.0),  # slow memory is full first
        (100.0, 1.0, 4.0, 1000.0),  # the disk is quicker
        (100.0, 1.0, 4.0, 50.0),
        (100.0, 2.0, 2.0, 0.0),  # no slow memory
        (0.0, 2.0, 1.0, 10.0),  # nothing passes
        (80.0, 3.0, 1.0, 60.0),  # just full
        (float(rng.uniform(50, 90)), float(rng.uniform(2, 5)), float(rng.uniform(0.5, 1.5)), 500.0),
        (float(rng.uniform(50, 90)), float(rng.uniform(2, 5)), float(rng.uniform(0.5, 1.5)), 12.5),
    ]


def _roads(passing: float, copy_rate: float, disk_rate: float, slow_room: float) -> tuple[float, float]:
    low, high = 0.0, min(passing, slow_room)
    for _ in range(200):  # more from slow memory as long as the disk would end later
        middle = (low + high) / 2
        if middle / copy_rate < (passing - middle) / disk_rate:
            low = middle
        else:
            high = middle
    return high, passing - high


def _slow_first(passing: float, copy_rate: float, disk_rate: float, slow_room: float) -> tuple[float, float]:
    return min(passing, slow_room), passing - min(passing, slow_room)


def _halves(passing: float, copy_rate: float, disk_rate: float, slow_room: float) -> tuple[float, float]:
    part = min(passing / 2, slow_room)
    return part, passing - part


def _inverse(passing: float, copy_rate: float, disk_rate: float, slow_room: float) -> tuple[float, float]:
    part = min(passing * disk_rate / (copy_rate + disk_rate), slow_room)
    return part, passing - part


def _no_limit(passing: float, copy_rate: float, disk_rate: float, slow_room: float) -> tuple[float, float]:
    part = passing * copy_rate / (copy_rate + disk_rate)
    return part, passing - part


def _lost(passing: float, copy_rate: float, disk_rate: float, slow_room: float) -> tuple[float, float]:
    part = passing * copy_rate / (copy_rate + disk_rate)
    return min(part, slow_room), passing - part


def _share_of_room(passing: float, copy_rate: float, disk_rate: float, slow_room: float) -> tuple[float, float]:
    part = min(passing, slow_room) * copy_rate / (copy_rate + disk_rate)
    return part, passing - part


def _faster_only(passing: float, copy_rate: float, disk_rate: float, slow_room: float) -> tuple[float, float]:
    return _slow_first(passing, copy_rate, disk_rate, slow_room) if copy_rate >= disk_rate else (0.0, passing)


ROADS = Exercise(
    name="balance_roads",
    contract="passing float bytes, copy_rate and disk_rate float bytes/s > 0, slow_room float bytes -> from_slow, "
    "from_disk floating scalars: bytes that add up to passing, at most slow_room from slow memory",
    make_cases=_road_cases,
    oracle=_roads,
    returns=tuple(Returns(name, dtype="any", rtol=1e-7, atol=1e-7) for name in ("from_slow", "from_disk")),
    misconceptions=[
        Misconception(
            "slow-memory-first",
            "You filled slow memory before using the disk. Then one road waits for the other: a quick road gets more, "
            "not all.",
            produces=_slow_first,
        ),
        Misconception(
            "only-the-faster",
            "One road stands still. Both may be used at once, even if one is slower.",
            produces=_faster_only,
        ),
        Misconception(
            "halves",
            "Both roads carry the same bytes, so the slower one ends later. They should end together.",
            produces=_halves,
        ),
        Misconception("inverse-rates", "The slower road carries more. It should carry less.", produces=_inverse),
        Misconception("no-limit", "More lies in slow memory than fits there.", produces=_no_limit),
        Misconception(
            "bytes-lost",
            "When slow memory is full, the rest must come from the disk; some bytes never arrive.",
            produces=_lost,
        ),
        Misconception(
            "share-of-the-room",
            "The division is of all that passes; the room is a limit on the result, not the thing divided.",
            produces=_share_of_room,
        ),
    ],
    hint="Both roads end together when the bytes are in the ratio of the rates.",
    points=2,
)


def _shard_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for shards, room in ((5, 0.5), (6, 0.7), (4, 0.35), (6, 0.45), (5, 0.9)):
        bits = np.array([2, 3, 4, 8])
        sizes = bits[None, :] * rng.integers(2, 7, (shards, 1))
        losses = (
            rng.uniform(0.2, 4.0, (shards, 1)) * np.array([1.0, 0.45, 0.2, 0.0]) * rng.uniform(0.7, 1.3, (shards, 4))
        )
        floor = np.cumsum(sizes[:, 0])
        limits = np.maximum(floor, (room * np.cumsum(sizes[:, -1])).astype(int) + rng.integers(0, 3, shards))
        cases.append((sizes.astype(np.int64), losses, np.maximum.accumulate(limits).astype(np.int64)))
    early = np.array([[2, 8], [2, 8], [2, 8], [2, 8]], np.int64)
    cases += [
        # Plenty in the end, little in the beginning.
        (early, np.array([[9.0, 0.0], [8.0, 0.0], [3.0, 0.0], [1.0, 0.0]]), np.array([2, 10, 20, 40], np.int64)),
        # The best gain per byte blocks two smaller gains.
        (
            np.array([[1, 6], [1, 5], [1, 5]], np.int64),
            np.array([[6.5, 0.0], [5.0, 0.0], [5.0, 0.0]]),
            np.array([11, 11, 11]),
        ),
        # Exactly full.
        (np.array([[1, 2, 4]], np.int64), np.array([[3.0, 2.0, 1.0]]), np.array([4], np.int64)),
        (np.array([[1, 2], [1, 2]], np.int64), np.array([[1.0, 0.5], [1.0, 0.5]]), np.array([1, 2], np.int64)),
        # More bits that do not help must not be preferred for their own sake.
        (np.array([[1, 2], [1, 2]], np.int64), np.array([[0.1, 0.3], [1.0, 0.0]]), np.array([4, 4], np.int64)),
        (np.zeros((0, 3), np.int64), np.zeros((0, 3)), np.zeros(0, np.int64)),
    ]
    return cases


def _in_time(sizes: np.ndarray, limits: np.ndarray, choice: np.ndarray) -> np.ndarray:
    read = np.cumsum(sizes[np.arange(len(sizes)), choice])
    return read <= limits


def _all_plans(sizes: np.ndarray, losses: np.ndarray, limits: np.ndarray) -> np.ndarray:
    best, found = np.inf, np.zeros(len(sizes), np.int64)
    for plan in product(range(sizes.shape[1]), repeat=len(sizes)):
        choice = np.array(plan, np.int64)
        loss = losses[np.arange(len(sizes)), choice].sum()
        if loss < best and _in_time(sizes, limits, choice).all():
            best, found = loss, choice
    return found


def _accept(args: Args, got: Arrays) -> str:
    sizes, losses, limits = (np.asarray(a) for a in args)
    choice = np.asarray(got[0])
    if choice.shape != (len(sizes),):
        return f"a fidelity for each of {len(sizes)} shards is wanted; came shape {choice.shape}"
    if len(choice) == 0:
        return ""
    if choice.min() < 0 or choice.max() >= sizes.shape[1]:
        return "a choice is a column of sizes, from 0 on"
    late = np.flatnonzero(~_in_time(sizes, limits, choice))
    if len(late):
        return f"shard {late[0]} is late: more is read up to it than its limit allows"
    rows = np.arange(len(sizes))
    if losses[rows, choice].sum() > losses[rows, _all_plans(sizes, losses, limits)].sum() + 1e-9:
        return "this plan is in time, but another one loses less"
    return ""


def _valid(args: Args, got: Arrays) -> bool:
    return got[0].shape == (len(args[0]),) and bool(np.all((got[0] >= 0) & (got[0] < args[0].shape[1])))


def _late_in_the_middle(args: Args, got: Arrays, want: Arrays) -> bool:
    if not _valid(args, got) or not len(got[0]):
        return False
    times = _in_time(args[0], args[2], got[0])
    return bool(times[-1] and not times.all())


def _late(args: Args, got: Arrays, want: Arrays) -> bool:
    return _valid(args, got) and not _in_time(args[0], args[2], got[0]).all()


def _all_lowest(args: Args, got: Arrays, want: Arrays) -> bool:
    return _valid(args, got) and bool(np.all(got[0] == 0))


def _uniform(args: Args, got: Arrays, want: Arrays) -> bool:
    return _valid(args, got) and len(np.unique(got[0])) <= 1


def _not_best(args: Args, got: Arrays, want: Arrays) -> bool:
    return _valid(args, got) and bool(_in_time(args[0], args[2], got[0]).all())


SHARDS = Exercise(
    name="plan_shards",
    contract="sizes int64 (S, F) bytes, losses float64 (S, F), limits int64 (S,) bytes that may be read up to and with "
    "each shard -> choice integer (S,): the fidelity of each shard with the least sum of losses; some plan always fits",
    make_cases=_shard_cases,
    oracle=_all_plans,
    returns=(Returns("choice", dtype="integer"),),
    accept=_accept,
    misconceptions=[
        Misconception(
            "all-lowest", "Every shard has its lowest fidelity, and bytes are left. Spend them.", recognises=_all_lowest
        ),
        Misconception(
            "uniform",
            "All shards have the same fidelity. Those that matter most should have more bits.",
            recognises=_uniform,
        ),
        Misconception(
            "only-the-last-limit",
            "In the end it fits, but a shard in the middle is late. Every shard has a limit of its own: what was read "
            "up to it, itself included.",
            recognises=_late_in_the_middle,
        ),
        Misconception(
            "over-the-limit",
            "More is read than may be read: compare the running sum with the limits.",
            recognises=_late,
        ),
        Misconception(
            "greedy",
            "The plan is in time, but another one loses less. A limit may be reached exactly, and the least SUM of "
            "losses counts: improving one shard after the other can spend bytes that a pair of others would use "
            "better.",
            recognises=_not_best,
        ),
    ],
    hint="Keep the best loss for every number of bytes read so far, shard by shard; drop what is over "
    "the shard's limit.",
    points=4,
)
