"""Fair comparison of times: contenders run interleaved in shuffled rounds; the result is a ratio with its spread.

A time alone says little on a shared machine; the ratio of two things timed side by side in one run says much. It knows
nothing of what is compared. Times are wall-clock, so they include everything a call does.
"""

from __future__ import annotations

import gc
import inspect
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeinfer.measure.comparison import Comparison, Work, quartiles
from edgeinfer.measure.machine import describe_machine
from edgeinfer.measure.roofline import attainable

if TYPE_CHECKING:
    from edgeinfer.measure.limits import Limits

FEWEST_ROUNDS = 3


def rotating(function: Callable[[Any], object], copies: Sequence[Any]) -> Callable[[], object]:
    """Return a contender that calls `function` with the next of `copies` each time, so that none is in the cache.

    Args:
        function: takes one copy.
        copies: equal arguments at different places in memory; together several times the last-level cache.

    Raises:
        ValueError: "rotating needs at least two copies, got 1".
    """
    if len(copies) < 2:
        raise ValueError(f"rotating needs at least two copies, got {len(copies)}; make more, or pass a plain lambda")
    kept, position = list(copies), 0

    def call() -> object:
        nonlocal position
        position = (position + 1) % len(kept)
        return function(kept[position])

    return call


def cold_copies(array: Any, most_bytes: int = 512 << 20) -> list[Any]:
    """Return copies of a numpy array or torch tensor, enough that going round them never finds one in the cache.

    Together they are three times as large as the last-level cache (32 MiB where its size is unknown), at least two,
    and at most `most_bytes` bytes. Use with `rotating`.
    """
    cache = describe_machine().last_level_cache_bytes or 32 << 20
    count = max(2, -(-min(3 * cache, most_bytes) // array.nbytes))
    return [array.clone() if hasattr(array, "clone") else array.copy() for _ in range(count)]


def compare(
    contenders: Mapping[str, Callable[[], object]],
    baseline: str,
    rounds: int = 11,
    *,
    warmup: int = 2,
    sample_seconds: float = 0.01,
    max_seconds: float = 60.0,
    work: Mapping[str, Work] | None = None,
    limits: Limits | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> Comparison:
    """Time all contenders side by side and return paired ratios.

    In every round each contender runs once, in shuffled order; short calls are repeated until a value takes about
    `sample_seconds`. A disturbance then hits all of them alike, and the median over the rounds ignores it. A library
    with several threads leaves them spinning for some milliseconds after a call; the next contender waits for that,
    and makes one call that is not timed.

    Args:
        contenders: name -> function without arguments that does the whole work when called.
        baseline: name of the contender that the ratios refer to.
        rounds: how many rounds, at least 3.
        warmup: calls of each contender before the first round (compilation, caches, lazy initialisation).
        sample_seconds: least time of one value; calls shorter than this are repeated.
        max_seconds: no new round starts after this time (at least 3 rounds are run).
        work: name -> bytes and operations of one call; adds GB/s and GOP/s.
        limits: measured limits of the machine; adds the fraction of the roofline that each contender reaches.
        tolerance: if given, every result must equal the baseline's within this relative error: a wrong answer is not
            worth timing.
        seed: seed of the order.

    Returns:
        A `Comparison`; show it, or print its `.table()`.

    Raises:
        ValueError, TypeError: one sentence, such as "contender 'mine' is a ndarray, not a function; pass lambda: ...".
    """
    work = dict(work or {})
    _refuse_wrong_use(contenders, baseline, rounds, warmup, work)
    repeats = {}
    results = {}
    for name, function in contenders.items():
        results[name] = _first_call(name, function)
        for _ in range(warmup - 1):
            function()
        repeats[name] = _repeats(function, sample_seconds)
    if tolerance is not None:
        _refuse_different_results(results, baseline, tolerance)
    del results

    threads, names, order = _threads(), list(contenders), random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in names}
    notes = []
    collecting = gc.isenabled()
    gc.disable()  # a collection in the middle of one contender would be charged to it
    start, rested = time.perf_counter(), 0.0
    try:
        for done in range(rounds):
            if done >= FEWEST_ROUNDS and time.perf_counter() - start - rested > max_seconds:
                notes.append(f"stopped after {done} of {rounds} rounds because max_seconds={max_seconds:g} had passed")
                break
            order.shuffle(names)
            for name in names:
                if any(count > 1 for count in threads.values()):
                    rested += _until_idle()
                    if repeats[name] > 1:
                        contenders[name]()  # wakes processors that have slept meanwhile
                times[name].append(_sample(contenders[name], repeats[name]))
    finally:
        if collecting:
            gc.enable()
    low, high = quartiles(times[baseline])
    if high > 1.3 * low:
        notes.append(
            "the baseline's own time varied by more than 30 percent: the machine was busy, trust the ratios only"
        )
    ceilings, after = (_ceilings(work, limits) if limits is not None else {}), _threads()
    for library, count in after.items():
        if threads.get(library, count) != count:
            notes.append(f"{library} had {threads[library]} threads before the rounds and {count} after them")
    kept = {name: tuple(times[name]) for name in contenders}
    return Comparison(baseline, kept, repeats, work, ceilings, tuple(notes), after)


def _refuse_wrong_use(
    contenders: Mapping[str, Callable[[], object]], baseline: str, rounds: int, warmup: int, work: Mapping[str, Work]
) -> None:
    if not isinstance(contenders, Mapping) or len(contenders) < 2:
        what = f"{len(contenders)} contender(s)" if isinstance(contenders, Mapping) else type(contenders).__name__
        raise ValueError(f"compare needs a dict of at least two contenders {{name: function}}, got {what}")
    for name, function in contenders.items():
        if not callable(function):
            raise TypeError(
                f"contender {name!r} is a {type(function).__name__}, not a function; "
                f"pass lambda: f(x), not the result f(x)"
            )
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            raise TypeError(
                f"contender {name!r} is a generator or coroutine: calling it does no work; wrap it in list()"
            )
    if baseline not in contenders:
        raise ValueError(f"baseline {baseline!r} is not one of the contenders {', '.join(map(repr, contenders))}")
    if rounds < FEWEST_ROUNDS:
        raise ValueError(f"rounds is {rounds}; a median and a spread need at least {FEWEST_ROUNDS} rounds")
    if warmup < 1:
        raise ValueError(f"warmup is {warmup}; the first call compiles and fills caches, so at least 1 is needed")
    unknown = [name for name in work if name not in contenders]
    if unknown:
        raise ValueError(f"work is given for {unknown[0]!r}, which is not one of {', '.join(map(repr, contenders))}")


def _first_call(name: str, function: Callable[[], object]) -> object:
    try:
        result = function()
    except TypeError as error:
        if "argument" in str(error) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise TypeError(f"contender {name!r} must take no arguments ({error}); pass lambda: f(x)") from error
        raise
    if inspect.isgenerator(result) or inspect.iscoroutine(result):
        raise TypeError(
            f"contender {name!r} returns a {type(result).__name__}: no work was done yet; wrap it in list()"
        )
    device = str(getattr(result, "device", "cpu"))
    if not device.startswith(("cpu", "meta")):
        raise ValueError(
            f"contender {name!r} returns a tensor on {device}, where work goes on after the call returned; "
            "synchronise inside the function"
        )
    return result


def _repeats(function: Callable[[], object], sample_seconds: float) -> int:
    count = 1
    while True:
        seconds = _sample(function, count) * count
        if seconds >= sample_seconds or count >= 1_000_000:
            return count
        count = min(1_000_000, max(2 * count, int(count * sample_seconds / max(seconds, 1e-9))))


def _sample(function: Callable[[], object], count: int) -> float:
    clock = time.perf_counter
    start = clock()
    for _ in range(count):
        function()
    return (clock() - start) / count


def _until_idle(windows: int = 8) -> float:
    """Wait until no thread of this process computes, `windows` of 8 ms at most; returns the seconds waited."""
    start = time.perf_counter()
    for _ in range(windows):
        used = time.process_time()
        time.sleep(0.008)  # two of the ticks by which the kernel counts what other threads have used
        if time.process_time() - used < 0.001:
            break
    return time.perf_counter() - start


def _refuse_different_results(results: Mapping[str, object], baseline: str, tolerance: float) -> None:
    import numpy as np

    def array(name: str) -> Any:
        value: Any = results[name]
        if hasattr(value, "detach"):
            value = value.detach().float().numpy() if value.is_floating_point() else value.numpy()
        return np.asarray(value, dtype=np.float64)

    expected = array(baseline)
    for name in results:
        got = array(name)
        if got.shape != expected.shape:
            raise ValueError(f"contender {name!r} returns shape {got.shape}, the baseline {expected.shape}")
        error = float(np.linalg.norm(got - expected) / max(float(np.linalg.norm(expected)), 1e-30))
        if not error <= tolerance:
            raise ValueError(
                f"contender {name!r} differs from {baseline!r} by {error:.3g} (relative), more than "
                f"tolerance={tolerance:g}; make the results agree before comparing their speed"
            )


def _ceilings(work: Mapping[str, Work], limits: Limits) -> dict[str, float]:
    found = {}
    for name, w in work.items():
        bandwidth, peak = limits.bandwidth(w.level, w.threads), limits.peak(w.dtype, w.threads)
        if w.operations and w.bytes and bandwidth and peak:
            found[name] = attainable(w.operations / w.bytes, peak, bandwidth)
        elif w.bytes and not w.operations and bandwidth:
            found[name] = bandwidth
        elif w.operations and not w.bytes and peak:
            found[name] = peak
    return found


def _threads() -> dict[str, int]:
    found = {}
    if (torch := sys.modules.get("torch")) is not None:
        found["torch"] = int(torch.get_num_threads())
    # Asking Numba starts its thread pool, and its OpenMP layer then changes torch's thread count: ask if it runs.
    if (pool := sys.modules.get("numba.np.ufunc.parallel")) is not None and getattr(pool, "_is_initialized", False):
        found["numba"] = int(sys.modules["numba"].get_num_threads())
    return found
