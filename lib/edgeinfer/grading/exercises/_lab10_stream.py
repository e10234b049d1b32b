"""Lab 10, exercise 1: when each layer of a stream is done. The oracle asks backwards, event by event.

Source: zero-inference.
"""

from functools import cache, partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns


def _cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = [
        (rng.uniform(0.5, 2.0, n), rng.uniform(0.5, 2.0, n), buffers)
        for n, buffers in ((8, 2), (9, 3), (7, 1), (10, 4), (1, 2), (12, 2))
    ]
    cases += [
        (np.full(6, 3.0), np.full(6, 1.0), 2),  # the disk is slower
        (np.full(6, 1.0), np.full(6, 3.0), 2),  # the processor is slower
        (np.array([1.0, 1.0, 1.0, 9.0, 1.0, 1.0]), np.array([5.0, 1.0, 1.0, 1.0, 1.0, 1.0]), 3),
        (np.array([0.0, 2.0, 0.0, 1.0]), np.array([1.0, 0.0, 4.0, 0.0]), 2),
        (np.array([1.0, 1.0, 1.0, 1.0, 1.0, 12.0, 1.0]), np.full(7, 4.0), 2),  # how far ahead decides
        (np.zeros(0), np.zeros(0), 2),
        (rng.uniform(0.5, 2.0, 3), rng.uniform(0.5, 2.0, 3), 8),  # more buffers than layers
    ]
    return cases


def _finish(
    loads: np.ndarray,
    computes: np.ndarray,
    buffers: int,
    one_reader: bool = True,
    in_order: bool = True,
    waits: bool = True,
) -> np.ndarray:
    """Ask for the end of each event; the switches take one of its reasons to wait away."""

    @cache
    def loaded(i: int) -> float:
        if i < 0:
            return 0.0
        reasons = [loaded(i - 1) if one_reader else 0.0, done(i - buffers) if i >= buffers else 0.0]
        return max(reasons) + float(loads[i])

    @cache
    def done(i: int) -> float:
        if i < 0:
            return 0.0
        reasons = [loaded(i) if waits else 0.0, done(i - 1) if in_order else 0.0]
        return max(reasons) + float(computes[i])

    return np.array([done(i) for i in range(len(loads))])


def _one_after_another(loads: np.ndarray, computes: np.ndarray, buffers: int) -> np.ndarray:
    return np.cumsum(np.asarray(loads) + computes)


def _longer_of_both(loads: np.ndarray, computes: np.ndarray, buffers: int) -> np.ndarray:
    return np.cumsum(np.maximum(loads, computes))


def _endless(loads: np.ndarray, computes: np.ndarray, buffers: int) -> np.ndarray:
    return _finish(loads, computes, len(loads) + 1)


def _one_fewer(loads: np.ndarray, computes: np.ndarray, buffers: int) -> np.ndarray:
    return _finish(loads, computes, max(buffers - 1, 1))


def _one_more(loads: np.ndarray, computes: np.ndarray, buffers: int) -> np.ndarray:
    return _finish(loads, computes, buffers + 1)


def _always_two(loads: np.ndarray, computes: np.ndarray, buffers: int) -> np.ndarray:
    return _finish(loads, computes, 2)


def _first_is_here(loads: np.ndarray, computes: np.ndarray, buffers: int) -> np.ndarray:
    return _finish(np.concatenate(([0.0], np.asarray(loads)[1:]))[: len(loads)], computes, buffers)


def _loads_end(loads: np.ndarray, computes: np.ndarray, buffers: int) -> np.ndarray:
    return _finish(loads, computes, buffers) - computes


STREAM = Exercise(
    name="streamed_finish",
    contract="loads floating (L,) and computes floating (L,) in seconds, buffers int >= 1 -> done floating (L,): the "
    "second in which each layer is computed",
    make_cases=_cases,
    oracle=_finish,
    returns=(Returns("done", dtype="floating", rtol=1e-9, atol=1e-9),),
    misconceptions=[
        Misconception(
            "nothing-overlaps",
            "Every load waits for the layer before it to be computed. With two buffers or more the reader goes on "
            "while the processor works.",
            produces=_one_after_another,
        ),
        Misconception(
            "longer-of-both",
            "You added the longer of load and compute for each layer. That is what a long stream comes close to; but "
            "the first load hides behind nothing, and a slow load hides behind the layer BEFORE it, not its own.",
            produces=_longer_of_both,
        ),
        Misconception(
            "endless-memory",
            "The reader never waits: it runs ahead as if all layers fitted. A load may only begin when there is a free "
            "buffer for it.",
            produces=_endless,
        ),
        Misconception(
            "one-buffer-too-few",
            "You use one buffer fewer than there are. Layer i takes the buffer that layer i - buffers leaves.",
            produces=_one_fewer,
        ),
        Misconception(
            "one-buffer-too-many",
            "You use one buffer more than there are: the layer that is being computed occupies one, too.",
            produces=_one_more,
        ),
        Misconception(
            "always-two-buffers", "The number of buffers is an argument, not always two.", produces=_always_two
        ),
        Misconception(
            "loads-at-once",
            "Two loads run at the same time. There is one reader: a load begins when the one before it has ended.",
            produces=partial(_finish, one_reader=False),
        ),
        Misconception(
            "computes-at-once",
            "Layers are computed before the layer under them is done. Each needs its predecessor's result.",
            produces=partial(_finish, in_order=False),
        ),
        Misconception(
            "computes-before-it-is-there",
            "A layer is computed before its weights have arrived.",
            produces=partial(_finish, waits=False),
        ),
        Misconception(
            "first-layer-for-nothing",
            "The first layer must be loaded, too; it is not there yet.",
            produces=_first_is_here,
        ),
        Misconception(
            "begins-not-ends",
            "These are the seconds in which layers begin. Asked for is when they end.",
            produces=_loads_end,
        ),
    ],
    hint="Keep two clocks. A load waits for the load before it and for a free buffer; a computation waits for its own "
    "load and for the computation before it.",
    points=3,
)
