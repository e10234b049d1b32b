"""Lab 11, exercises 3 and 4: a timeline of blocks and transfers, and how many chunks to compute while others are read.

The oracles go step by step in small units of time, or try all splits. Sources: pre-gated-moe, llms.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns


def _quarters(rng: np.random.Generator, count: int, low: int = 1, high: int = 17) -> np.ndarray:
    """Times that are multiples of 1/4: sums are exact in any order."""
    return rng.integers(low, high, count) / 4


# ---------------------------------------------------------------- end_of_blocks


def _block_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for count in (2, 5, 8):
        compute, load = _quarters(rng, count), _quarters(rng, count)
        cases += [(compute, load, True), (compute, load, False)]
    slow, quick = _quarters(rng, 6, 20, 30), _quarters(rng, 6, 1, 5)
    nothing = np.zeros(0)
    cases += [(slow, quick, True), (quick, slow, True), (slow, quick, False), (nothing, nothing, True)]
    return [*cases, (nothing, nothing, False), (np.array([2.0]), np.array([3.0]), True), (quick, np.zeros(6), True)]


def _end(compute: np.ndarray, load: np.ndarray, ahead: bool) -> float:
    """Move a clock by quarters."""
    todo, travel = (np.round(4 * np.asarray(a)).astype(int).tolist() for a in (compute, load))
    clock = done = arrived = started = 0
    running = left = 0
    moving = travel[0] if travel else 0
    while done < len(todo):
        if arrived < len(travel) and moving == 0 and (arrived == 0 or (started if ahead else done) >= arrived):
            arrived += 1
            moving = travel[arrived] if arrived < len(travel) else 0
            continue
        if not running and started == done and started < arrived:
            started, running, left = started + 1, 1, todo[started]
            continue
        if running and left == 0:
            running, done = 0, done + 1
            continue
        if arrived < len(travel) and (arrived == 0 or (started if ahead else done) >= arrived):
            moving -= 1
        left -= running
        clock += 1
    return clock / 4


def end_with(compute: np.ndarray, load: np.ndarray, ahead: bool, how: str = "") -> float:
    """The end by formula, with a mistake named by `how`."""
    c, t = np.asarray(compute, float), np.asarray(load, float)
    if not len(c):
        return 0.0
    late = float(c.sum() + t.sum())
    middle = float(np.maximum(c[:-1], t[1:]).sum())
    early = float(t[0] + middle + c[-1])
    if how == "swapped":
        ahead = not ahead
    if how == "always early":
        ahead = True
    changed = {
        "always late": late,
        "only longer": float(t[0] + c.sum() + np.maximum(0, t[1:] - c[1:]).sum()),
        "waiting": float(t[0] + np.maximum(0, t[1:] - c[:-1]).sum()),
        "same block": float(np.maximum(c, t).sum()), "no first": middle + float(c[-1]),
        "no last": float(t[0]) + middle, "max of sums": float(max(c.sum(), t.sum())),
        "after the next": float(c[0] + np.maximum(c[1:], t[:-1]).sum() + t[-1]),
        "all known": float(max(np.cumsum(t)[n] + c[n:].sum() for n in range(len(c)))),
    }  # fmt: skip
    if how == "only compute":
        return float(c.sum())
    return changed.get(how, early) if ahead else late


END = Exercise(
    name="end_of_blocks",
    contract="compute float64 (N,) and load float64 (N,) seconds per block, ahead bool -> end float, seconds; one "
    "transfer at a time; a block computes when its experts are there and the block before is done; its transfer may "
    "start when the block before STARTS to compute (ahead) or is DONE (not ahead), the first one at 0; no blocks: 0.0",
    make_cases=_block_cases,
    oracle=_end,
    returns=(Returns("end", dtype="any", rtol=1e-9, atol=1e-9),),
    misconceptions=[
        Misconception(
            "swapped",
            "The two ways are swapped: with ahead=True transfers run beside the computation.",
            produces=partial(end_with, how="swapped"),
        ),
        Misconception(
            "nothing-overlaps",
            "With ahead=True a transfer and the computation of the block before run at the same time; you add them.",
            produces=partial(end_with, how="always late"),
        ),
        Misconception(
            "always-overlaps",
            "With ahead=False a transfer starts only when the block before is done: nothing overlaps.",
            produces=partial(end_with, how="always early"),
        ),
        Misconception(
            "waiting-only",
            "That is the time in which nobody computes. The computation itself belongs to the end, too.",
            produces=partial(end_with, how="waiting"),
        ),
        Misconception(
            "wrong-neighbour",
            "Each transfer is compared with the computation of its OWN block. It hides behind the block before.",
            produces=partial(end_with, how="only longer"),
        ),
        Misconception(
            "own-block",
            "A block's transfer runs beside its own computation. It cannot: the experts must be there first. It runs "
            "beside the block BEFORE.",
            produces=partial(end_with, how="same block"),
        ),
        Misconception(
            "first-is-free",
            "The first block's transfer has nothing to hide behind, and it is missing.",
            produces=partial(end_with, how="no first"),
        ),
        Misconception(
            "last-is-forgotten",
            "The last block must still be computed after its experts have come.",
            produces=partial(end_with, how="no last"),
        ),
        Misconception(
            "perfect-overlap",
            "The larger of the two sums would be perfect overlap. A gate speaks one block early, not all at once.",
            produces=partial(end_with, how="max of sums"),
        ),
        Misconception(
            "all-known-at-once",
            "Here all transfers follow one another from the start. But who needs what is known one block ahead only.",
            produces=partial(end_with, how="all known"),
        ),
        Misconception(
            "transfers-are-free",
            "That is the computation alone; transfers take time wherever the computation is too short to hide them.",
            produces=partial(end_with, how="only compute"),
        ),
        Misconception(
            "behind-the-next-block",
            "A transfer is hidden behind the block AFTER its own, which comes too late.",
            produces=partial(end_with, how="after the next"),
        ),
    ],
    hint="Draw two bars per block. At which moment is transfer n + 1 allowed, and for what must block n + 1 wait?",
    points=2,
)

# ---------------------------------------------------------------- split_point


def _split_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = [(_quarters(rng, n), _quarters(rng, n)) for n in (3, 6, 9, 12)]
    cases += [
        (_quarters(rng, 8, 30, 40), _quarters(rng, 8, 1, 3)),
        (_quarters(rng, 8, 1, 3), _quarters(rng, 8, 60, 80)),
    ]
    rising = np.arange(1, 9) / 2
    cases += [(rising, rising[::-1].copy()), (rising[::-1].copy(), rising), (np.full(4, 1.0), np.full(4, 1.0))]
    tie = np.array([1.0, 1.0, 1.0]), np.array([0.0, 0.0, 3.0])  # equal ends by computing none, one or two? see below
    plateau = np.array([0.0, 0.0, 2.0]), np.array([1.0, 0.5, 8.0])  # reading nothing changes nothing: take the smallest
    even = np.array([1.0, 0.0, 1.0, 2.0]), np.array([1.0, 0.0, 2.0, 5.0])
    late = np.array([0.0, 0.0, 2.0]), np.array([0.5, 0.5, 0.5])  # the first steps gain nothing, the last one does
    uneven = np.array([3.0, 5.0, 4.0]), np.array([2.0, 8.0, 9.0])  # the most even split is not the best
    return [*cases, tie, plateau, even, late, uneven, (np.zeros(0), np.zeros(0)), (np.array([5.0]), np.array([1.0]))]


def split_with(read: np.ndarray, compute: np.ndarray, how: str = "") -> float:
    """Try all splits, with a mistake named by `how`."""
    r, c = list(map(float, read)), list(map(float, compute))
    count = len(r)
    ends = [max(sum(c[:n]), sum(r[n:])) for n in range(count + 1)]
    if how == "reads first":
        ends = [max(sum(r[: count - n]), sum(c[count - n :])) for n in range(count + 1)]
    if how == "one after the other":
        ends = [sum(c[:n]) + sum(r[n:]) for n in range(count + 1)]
    if how == "balanced":
        ends = [abs(sum(c[:n]) - sum(r[n:])) for n in range(count + 1)]
    if how == "swapped":
        ends = [max(sum(r[:n]), sum(c[n:])) for n in range(count + 1)]
    if how == "first crossing":
        return next((n for n in range(count + 1) if sum(c[:n]) >= sum(r[n:])), count)
    if how == "gives up":
        return next((n for n in range(count) if ends[n + 1] >= ends[n]), count)
    if how == "never all":
        ends = ends[:-1] or ends
    if how == "never none":
        return 1 + ends[1:].index(min(ends[1:])) if count else 0
    best = ends.index(min(ends))
    if how == "largest":
        best = count - ends[::-1].index(min(ends))
    if how == "cheaper ones":
        best = sum(a < b for a, b in zip(c, r, strict=True))
    if how == "worst":
        best = ends.index(max(ends))
    return {"time": min(ends), "how many read": count - best}.get(how, best)


def _split_oracle(read: np.ndarray, compute: np.ndarray) -> int:
    """Two running sums: the first number from which computing one more chunk no longer ends earlier."""
    left = float(np.sum(read))
    used, best, end = 0.0, 0, left
    for n, (r, c) in enumerate(zip(np.asarray(read).tolist(), np.asarray(compute).tolist(), strict=True), 1):
        left, used = left - r, used + c
        if max(left, used) < end:
            best, end = n, max(left, used)
    return best


SPLIT = Exercise(
    name="split_point",
    contract="read float64 (C,) and compute float64 (C,) seconds per missing chunk -> n int: so many chunks, from the "
    "first on, are computed while the others are read, at once; the n with the least end, of equals the smallest",
    make_cases=_split_cases,
    oracle=_split_oracle,
    returns=(Returns("n", dtype="any"),),
    misconceptions=[
        Misconception(
            "computes-the-last",
            "The last chunks are computed. A chunk needs all tokens before it, so it is the FIRST ones that can be.",
            produces=partial(split_with, how="reads first"),
        ),
        Misconception(
            "one-after-the-other",
            "The two times are added. Reading and computing happen at once: the later of the two is the end.",
            produces=partial(split_with, how="one after the other"),
        ),
        Misconception(
            "times-swapped",
            "Reading and computing are swapped: the first n are computed, the others are read.",
            produces=partial(split_with, how="swapped"),
        ),
        Misconception(
            "never-all",
            "Computing all chunks is never tried. With C chunks there are C + 1 splits.",
            produces=partial(split_with, how="never all"),
        ),
        Misconception(
            "never-none",
            "Reading all chunks is never tried. With C chunks there are C + 1 splits.",
            produces=partial(split_with, how="never none"),
        ),
        Misconception(
            "largest-of-equals",
            "Of equally good splits the smallest n is wanted: it spares the processor.",
            produces=partial(split_with, how="largest"),
        ),
        Misconception(
            "time-instead-of-number",
            "That is the time of the best split. Its number of chunks is wanted.",
            produces=partial(split_with, how="time"),
        ),
        Misconception(
            "number-of-reads",
            "That is how many chunks are read. How many are computed?",
            produces=partial(split_with, how="how many read"),
        ),
        Misconception(
            "each-for-itself",
            "You count the chunks that are quicker to compute than to read. But both ways work at once: even the "
            "slower one should get a share.",
            produces=partial(split_with, how="cheaper ones"),
        ),
        Misconception(
            "first-crossing",
            "You stop at the first n for which computing takes longer than reading. The n before may end earlier.",
            produces=partial(split_with, how="first crossing"),
        ),
        Misconception(
            "gives-up",
            "The search stops as soon as one more chunk gains nothing. A later one may gain again: try all n.",
            produces=partial(split_with, how="gives up"),
        ),
        Misconception(
            "most-even",
            "The most even split is not always the one that ends first. Compare ends.",
            produces=partial(split_with, how="balanced"),
        ),
    ],
    hint="For each n there are two times. Which of them is the end? Try all n.",
    points=2,
)
