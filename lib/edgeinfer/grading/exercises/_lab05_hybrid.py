"""Lab 5, exercise 4: tiles of one matrix given to two unlike workers that share a memory.

An answer is judged by its finish time, compared with the best cut of the sorted tiles; exhaustive search and any other
way that is at least as good passes. Source: hottiles.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

Finish = Callable[[float, float, float, float, float], float]  # hot time, cold time, hot bytes, cold bytes, bandwidth


def finish(
    hot: np.ndarray,
    times_hot: np.ndarray,
    times_cold: np.ndarray,
    bytes_hot: np.ndarray,
    bytes_cold: np.ndarray,
    bandwidth: float,
) -> float:
    """When both workers and the memory are done, in microseconds."""
    hot = np.asarray(hot, bool)
    moved = float(bytes_hot[hot].sum() + bytes_cold[~hot].sum())
    return max(float(times_hot[hot].sum()), float(times_cold[~hot].sum()), moved / bandwidth)


def _shared(hot: float, cold: float, bytes_hot: float, bytes_cold: float, bandwidth: float) -> float:
    return max(hot, cold, (bytes_hot + bytes_cold) / bandwidth)


def _best_cut(
    times_hot: np.ndarray,
    times_cold: np.ndarray,
    bytes_hot: np.ndarray,
    bytes_cold: np.ndarray,
    bandwidth: float,
    value: Finish = _shared,
    order: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda h, c: np.argsort(-c / h, kind="stable"),
    undo: bool = True,
) -> np.ndarray:
    """Try every cut of the tiles in this order; the tiles before the cut are hot."""
    ranked = order(times_hot, times_cold)
    best, best_value = np.zeros(len(ranked), bool), float("inf")
    for cut in range(len(ranked) + 1):
        h, c = ranked[:cut], ranked[cut:]
        now = value(
            float(sum(times_hot[h])), float(sum(times_cold[c])), float(sum(bytes_hot[h])), float(sum(bytes_cold[c])),
            bandwidth,
        )  # fmt: skip
        if now < best_value - 1e-9:
            best, best_value = np.zeros(len(ranked), bool), now
            best[h if undo else np.arange(cut)] = True
    return best


def _draw(rng: np.random.Generator, tiles: int) -> Args:
    """Tiles of 32 x 32 between dense and nearly empty, on two made-up workers."""
    non_zeros = np.clip(1024 * rng.beta(0.5, 0.9, tiles), 4, 1024).round()
    times_hot = rng.uniform(0.7, 1.3, tiles) * 10  # a dense unit takes the same time for any tile
    times_cold = rng.uniform(0.7, 1.3, tiles) * non_zeros / rng.choice([12, 25, 50])
    bytes_hot = np.full(tiles, 2048.0)
    bytes_cold = 6 * non_zeros
    bandwidth = float(rng.uniform(0.6, 2.5) * 2048 / 10)
    return times_hot, times_cold, bytes_hot, bytes_cold, bandwidth


def _tile_cases(rng: np.random.Generator) -> list[Args]:
    """For every mistake one input on which it costs at least 3 percent, so that none passes by luck.

    Where a wrong cost is minimised, the answer there differs from those of the other wrong costs: it can be named.
    """
    cases: list[Args] = []
    for i, (name, wrong) in enumerate(MISTAKES.items()):
        others = [MISTAKES[other] for other in COSTS if name in COSTS and other != name]
        case = _draw(rng, 6 + i % 6)
        while finish(wrong(*case), *case) < 1.03 * finish(_best_cut(*case), *case) or any(
            np.array_equal(wrong(*case), other(*case)) for other in others
        ):
            case = _draw(rng, 6 + i % 6)
        cases.append(case)
    return [*cases, _draw(rng, 40), _draw(rng, 1)]


def _tile_accept(args: Args, got: Arrays) -> str:
    (hot,) = got
    if not np.isin(hot, (0, 1)).all():
        return "the answer must be True (hot) or False (cold) for every tile."
    mine, best = finish(hot, *args), finish(_best_cut(*args), *args)
    if mine > best * (1 + 1e-6):
        t_hot, t_cold, b_hot, b_cold, bandwidth = args
        flags = hot.astype(bool)
        moved = (b_hot[flags].sum() + b_cold[~flags].sum()) / bandwidth
        return (
            f"finished after {mine:.2f} us (hot worker {t_hot[flags].sum():.2f}, cold worker "
            f"{t_cold[~flags].sum():.2f}, memory {moved:.2f}); the best cut is done after {best:.2f} us."
        )
    return ""


def _faster_each(times_hot: np.ndarray, times_cold: np.ndarray, *_: object) -> np.ndarray:
    return np.asarray(times_hot < times_cold)


def _one_worker(*args: np.ndarray) -> np.ndarray:
    tiles = len(args[0])
    both = np.ones(tiles, bool), np.zeros(tiles, bool)
    return min(both, key=lambda hot: finish(hot, *args))  # type: ignore[arg-type]


def _half(*args: np.ndarray) -> np.ndarray:
    return np.arange(len(args[0])) < len(args[0]) // 2


def _half_of_the_ranked(*args: np.ndarray) -> np.ndarray:
    ranked = np.argsort(-args[1] / args[0], kind="stable")
    hot = np.zeros(len(ranked), bool)
    hot[ranked[: len(ranked) // 2]] = True
    return hot


MISTAKES: dict[str, Callable[..., np.ndarray]] = {
    "one-worker": _one_worker,
    "faster-worker-for-each": _faster_each,
    "no-bandwidth": partial(_best_cut, value=lambda h, c, bh, bc, bw: max(h, c)),
    "own-bandwidth-each": partial(_best_cut, value=lambda h, c, bh, bc, bw: max(h, c, bh / bw, bc / bw)),
    "memory-added": partial(_best_cut, value=lambda h, c, bh, bc, bw: max(h, c) + (bh + bc) / bw),
    "adds-everything": partial(_best_cut, value=lambda h, c, bh, bc, bw: h + c + (bh + bc) / bw),
    "bytes-times-bandwidth": partial(_best_cut, value=lambda h, c, bh, bc, bw: max(h, c, (bh + bc) * bw)),
    "not-sorted": partial(_best_cut, order=lambda h, c: np.arange(len(h))),
    "sorted-the-wrong-way": partial(_best_cut, order=lambda h, c: np.argsort(c / h, kind="stable")),
    "sorted-by-difference": partial(_best_cut, order=lambda h, c: np.argsort(h - c, kind="stable")),
    "order-not-undone": partial(_best_cut, undo=False),
    "half-of-the-ranked": _half_of_the_ranked,
    "half-each": _half,
}


COSTS = ("no-bandwidth", "own-bandwidth-each", "memory-added", "adds-everything", "bytes-times-bandwidth")


def _says(name: str, says: str) -> Misconception:
    return Misconception(name, says, produces=MISTAKES[name])


TILES = Exercise(
    name="assign_tiles",
    contract="times_hot, times_cold float64 (T,) in us, all above 0, bytes_hot, bytes_cold float64 (T,), bandwidth "
    "float in bytes per us -> hot bool (T,), True where the hot worker takes the tile: finished, after max(sum of "
    "hot times, sum of cold times, all moved bytes / bandwidth), no later than the best cut of the tiles sorted by "
    "times_cold /  times_hot",
    make_cases=_tile_cases,
    oracle=_best_cut,
    returns=(Returns("hot"),),
    accept=_tile_accept,
    misconceptions=[
        Misconception(
            "hot-and-cold-swapped",
            "True must mean the HOT worker. Turned round, your answer would be right.",
            recognises=lambda args, got, want: _tile_accept(args, (1 - got[0].astype(int),)) == "",
        ),
        _says(
            "faster-worker-for-each",
            "Each tile goes to the worker that is faster on it. Then one worker may wait while the other has a queue. "
            "Both run at the same time: balance the two sums.",
        ),
        _says(
            "one-worker", "All tiles go to one worker, and the other one sleeps. Try all cuts between the two extremes."
        ),
        _says(
            "no-bandwidth",
            "Balanced, but the memory is forgotten: it serves both workers, and all bytes together take "
            "(sum of bytes) / bandwidth. A cut that balances the workers may move more than the memory can.",
        ),
        _says(
            "own-bandwidth-each",
            "Each worker is given the full bandwidth. There is one memory: the bytes of BOTH are added before they are "
            "divided by the bandwidth.",
        ),
        _says(
            "memory-added",
            "The memory's time is added to the work. Transfers go on while the workers calculate: the slowest of the "
            "three counts, max(hot, cold, memory).",
        ),
        _says(
            "adds-everything",
            "You minimise the sum of all times. Nobody waits for a sum: the workers run at the same time, so the "
            "slowest of the three counts.",
        ),
        _says("bytes-times-bandwidth", "Bytes divided by bytes per us are us. You multiply by the bandwidth."),
        _says(
            "not-sorted",
            "The cuts are taken in the order in which the tiles came. Sort first: tiles on which the hot worker gains "
            "most (times_cold / times_hot large) come first.",
        ),
        _says(
            "sorted-the-wrong-way",
            "Sorted the wrong way round: the hot worker gets the tiles on which it gains least.",
        ),
        _says(
            "sorted-by-difference",
            "Sorted by times_cold - times_hot. A microsecond saved is worth more on a tile that takes the hot worker "
            "less of its time: sort by the ratio times_cold / times_hot.",
        ),
        _says(
            "order-not-undone",
            "The cut is right, but the flags are in the sorted order. hot[order[:cut]] = True puts them back to their "
            "tiles.",
        ),
        _says(
            "half-of-the-ranked",
            "Each worker gets half of the NUMBER of tiles. Tiles take different times; compare the finish time of "
            "every cut.",
        ),
        _says(
            "half-each",
            "Each worker gets half of the NUMBER of tiles, in the order in which they came. Sort by gain and compare "
            "the finish time of every cut.",
        ),
    ],
    hint="Which tiles gain most from the hot device: the largest, or those with the best ratio? Try all cuts of "
    "that order; when is a division finished, and what if the memory is the slowest of the three?",
    points=4,
)
