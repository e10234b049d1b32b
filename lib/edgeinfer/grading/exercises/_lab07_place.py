"""Lab 7, exercise 3: offsets in one arena. Any safe plan that is as small as best fit is right.

Source: transformer-lite.
"""

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns


def _cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for count, steps in ((8, 6), (5, 9), (20, 12), (30, 10)):
        first = rng.integers(0, steps, count)
        last = first + rng.integers(0, 4, count)
        cases.append((rng.integers(1, 40, count) * 16, first, last))
    # a chain: one reads what the other writes, in the same step
    cases.append((np.array([64, 256, 128, 320]), np.arange(4), np.arange(4) + 1))
    cases.append((np.array([48]), np.array([2]), np.array([2])))
    # equal sizes, and a gap that must be used again
    cases.append((np.full(6, 32), np.array([0, 0, 2, 2, 4, 4]), np.array([1, 5, 3, 3, 5, 5])))
    # best fit is smaller here than the first gap, or the largest gap, that holds a buffer
    size = np.array([416, 592, 224, 368, 576, 544, 496, 400])
    cases.append((size, np.array([3, 4, 2, 2, 2, 0, 4, 1]), np.array([4, 5, 3, 3, 4, 0, 5, 3])))
    # the large one dies early: what comes after it should use its room
    cases.append((np.array([512, 64, 256, 256]), np.array([0, 0, 2, 3]), np.array([1, 5, 4, 5])))
    return cases


def _meet(first: np.ndarray, last: np.ndarray, i: int, j: int) -> bool:
    return bool(first[i] <= last[j] and first[j] <= last[i])


def best_fit(size: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    offsets: dict[int, int] = {}
    for i in sorted(range(len(size)), key=lambda i: (-int(size[i]), int(first[i]), i)):
        near = sorted((offsets[j], offsets[j] + int(size[j])) for j in offsets if _meet(first, last, i, j))
        place, smallest, end = -1, -1, 0
        for begin, stop in near:
            if begin - end >= size[i] and (smallest < 0 or begin - end < smallest):
                place, smallest = end, begin - end
            end = max(end, stop)
        offsets[i] = place if place >= 0 else end
    return np.array([offsets[i] for i in range(len(size))], np.int64)


def _clash(args: Args, offsets: np.ndarray, touching: bool = True) -> tuple[int, int] | None:
    """The first two that live together and share a byte; `touching`: meeting in a single step counts as together."""
    size, first, last = args
    for i in range(len(size)):
        for j in range(i):
            together = _meet(first, last, i, j)
            if together and not touching:
                together = bool(min(last[i], last[j]) > max(first[i], first[j]))
            if together and offsets[i] < offsets[j] + size[j] and offsets[j] < offsets[i] + size[i]:
                return j, i
    return None


def _total(args: Args, offsets: np.ndarray) -> int:
    return int((offsets + args[0]).max())


def _accept(args: Args, got: Arrays) -> str:
    (offsets,) = got
    offsets = offsets.astype(np.int64)
    if (offsets < 0).any():
        return f"buffer {int(np.argmin(offsets))} begins at byte {int(offsets.min())}; an arena begins at 0."
    clash = _clash(args, offsets)
    if clash:
        i, j = clash
        step = int(max(args[1][i], args[1][j]))
        return (
            f"buffers {i} and {j} are both alive in step {step} and share bytes (offsets {offsets[i]}, {offsets[j]})."
        )
    least = _total(args, best_fit(*args))
    if _total(args, offsets) > least:
        return f"the plan is safe, but its arena has {_total(args, offsets)} bytes; best fit reaches {least}."
    return ""


def _stacked(size: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    out = np.zeros(len(size), np.int64)
    done: list[int] = []
    for i in sorted(range(len(size)), key=lambda i: -int(size[i])):
        out[i] = max((int(out[j] + size[j]) for j in done if _meet(first, last, i, j)), default=0)
        done.append(i)
    return out


def _too_large(args: Args, got: Arrays, want: Arrays) -> bool:
    return _clash(args, got[0].astype(np.int64)) is None and bool((got[0] >= 0).all())


PLACE = Exercise(
    name="place",
    contract="size integer (B,), first integer (B,), last integer (B,) -> offsets integer (B,), 0 or more: where each "
    "buffer begins; buffers with a step in common share no byte; the arena, max(offsets + size), is not larger than "
    "that of best fit with the largest first",
    make_cases=_cases,
    oracle=best_fit,
    returns=(Returns("offsets", dtype="integer"),),
    accept=_accept,
    misconceptions=[
        Misconception(
            "all-at-zero",
            "All buffers begin at 0. Those that live in the same step must lie side by side.",
            recognises=lambda args, got, want: not got[0].any() and len(args[0]) > 1,
        ),
        Misconception(
            "touching-lives",
            "Where one buffer is last read in the step that writes another, both are alive: the step still reads while "
            "it writes. Do the lives 0 to 2 and 2 to 4 have a step in common?",
            recognises=lambda args, got, want: (
                bool((got[0] >= 0).all())
                and _clash(args, got[0].astype(np.int64)) is not None
                and _clash(args, got[0].astype(np.int64), touching=False) is None
            ),
        ),
        Misconception(
            "never-shares",
            "Safe, but every buffer has bytes of its own. Two that never live together may have the same offset.",
            recognises=lambda args, got, want: (
                _total(args, got[0].astype(np.int64)) == int(args[0].sum())
                and _total(args, want[0]) < int(args[0].sum())
            ),
        ),
        Misconception(
            "only-on-top",
            "Safe, but a buffer is always put on top of those it meets. Look for a gap between them first.",
            recognises=lambda args, got, want: np.array_equal(got[0], _stacked(*args)),
        ),
        Misconception(
            "negative",
            "An offset is negative: the arena begins at byte 0.",
            recognises=lambda args, got, want: bool((got[0] < 0).any()),
        ),
        Misconception(
            "too-large",
            "Safe, but too large. The order matters (largest first), and so does the gap: take the smallest one that "
            "holds the buffer.",
            recognises=_too_large,
        ),
        Misconception(
            "shares-bytes",
            "Two buffers that live together share bytes. When you place one, look at ALL that are placed already and "
            "overlap with it in time, and use their ends, offset + size.",
            recognises=lambda args, got, want: _clash(args, got[0].astype(np.int64)) is not None,
        ),
    ],
    hint="In which order do you place them? When one is placed, which of the others can be in its way at all, and "
    "which stretches between them are free? Which of these should be kept for something larger?",
    points=3,
)
