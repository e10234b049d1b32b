"""Lab 9, exercise 4: reads that are merged over small gaps. Source: ripple."""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns


def _read_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for n, top, gap in ((12, 30, 0), (10, 60, 1), (14, 90, 3), (9, 40, 2), (1, 5, 0), (25, 60, 1), (6, 6, 0)):
        cases.append((rng.choice(top, n, replace=False), gap))
    # Gaps just at and just above the limit, in falling order; nothing wanted.
    return [*cases, (np.array([20, 17, 13, 12, 5, 2, 1]), 2), (np.array([9, 6, 3, 0]), 2), (np.zeros(0, np.int64), 1)]


def _merged(
    places: np.ndarray, gap: int, more: int = 0, ends: bool = False, short: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    starts: list[int] = []
    counts: list[int] = []
    for place in sorted(int(p) for p in places):
        if starts and place - (starts[-1] + counts[-1]) <= gap + more:
            counts[-1] = place - starts[-1] + 1
        else:
            starts.append(place)
            counts.append(1)
    out = np.array(counts, np.int64) - short
    if ends:
        out = np.array(starts, np.int64) + out - 1
    return np.array(starts, np.int64), out


def _wanted_only(places: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    starts, counts = _merged(places, gap)
    inside = [int(((places >= s) & (places < s + c)).sum()) for s, c in zip(starts, counts, strict=True)]
    return starts, np.array(inside, np.int64)


def _wider(places: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    starts, counts = _merged(places, gap)
    return starts, counts + gap


def _unsorted(places: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    if not len(places):
        return places, places
    pieces = np.split(places, np.flatnonzero(np.diff(places) > gap + 1) + 1)
    return np.array([p[0] for p in pieces]), np.array([p[-1] - p[0] + 1 for p in pieces])


def _from_the_start(places: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances are measured from the first place of the read."""
    starts: list[int] = []
    counts: list[int] = []
    for place in sorted(int(p) for p in places):
        if starts and place - starts[-1] <= gap + 1:
            counts[-1] = place - starts[-1] + 1
        else:
            starts.append(place)
            counts.append(1)
    return np.array(starts, np.int64), np.array(counts, np.int64)


def _gap_in_all(places: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """All unwanted places of a read together are at most `gap`."""
    starts: list[int] = []
    counts: list[int] = []
    left = gap
    for place in sorted(int(p) for p in places):
        hole = place - starts[-1] - counts[-1] if starts else 0
        if starts and hole <= left:
            counts[-1], left = place - starts[-1] + 1, left - hole
        else:
            starts.append(place)
            counts.append(1)
            left = gap
    return np.array(starts, np.int64), np.array(counts, np.int64)


def _without_last(places: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    starts, counts = _merged(places, gap)
    return starts[:-1], counts[:-1]


def _one_read(places: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    return _merged(places, 1 << 40)


READS = Exercise(
    name="merge_reads",
    contract="places integer (n,), distinct, in any order, n may be 0, gap int >= 0 -> starts integer (R,), ascending, "
    "counts integer (R,): reads that cover every wanted place; two wanted places share a read exactly if every two "
    "wanted neighbours between them have at most `gap` unwanted places between them; no read begins or ends with an "
    "unwanted place",
    make_cases=_read_cases,
    oracle=_merged,
    returns=(Returns("starts", dtype="integer"), Returns("counts", dtype="integer")),
    misconceptions=[
        Misconception(
            "gap-too-wide",
            "Places are joined over gap + 1 unwanted ones. Between places 3 and 6 there are two unwanted ones, not "
            "three.",
            produces=partial(_merged, more=1),
        ),
        Misconception(
            "gap-too-narrow",
            "Places with exactly `gap` unwanted ones between them must share a read. Between 3 and 6 there are two.",
            produces=partial(_merged, more=-1),
        ),
        Misconception(
            "gap-ignored",
            "Only direct neighbours are joined; small gaps are to be read along.",
            produces=lambda places, gap: _merged(places, 0),
        ),
        Misconception(
            "measured-from-the-start",
            "The distance is measured from the first place of the read. What counts is the place just before.",
            produces=_from_the_start,
        ),
        Misconception(
            "gap-in-all",
            "All unwanted places of a read together are held to `gap`. The limit is for each hole by itself.",
            produces=_gap_in_all,
        ),
        Misconception(
            "last-read-lost",
            "The last read is missing: it is still open when the places end.",
            produces=_without_last,
        ),
        Misconception(
            "last-place-instead-of-count",
            "The second result is the last place of each read. Asked is how many places it holds.",
            produces=partial(_merged, ends=True),
        ),
        Misconception(
            "wanted-only",
            "The counts leave out the unwanted places in the gaps; but they are read as well, so the read would end "
            "too "
            "early.",
            produces=_wanted_only,
        ),
        Misconception(
            "one-too-short",
            "Every read ends one place too early: from place 3 to place 6 there are four.",
            produces=partial(_merged, short=1),
        ),
        Misconception(
            "places-not-sorted",
            "The places come in any order. Neighbours in the list need not be neighbours in the file.",
            produces=_unsorted,
        ),
        Misconception(
            "reads-past-the-end",
            "The reads go on past the last wanted place. A gap is read along only if something wanted lies behind it.",
            produces=_wider,
        ),
        Misconception(
            "one-big-read",
            "Everything is one read. Wide gaps cost more bytes than a new request.",
            produces=_one_read,
        ),
    ],
    hint="Places 3, 5 and 9: how many unwanted ones lie between 3 and 5, and between 5 and 9? With which `gap` is "
    "each a new read? What if there is nothing to read?",
    points=3,
)
