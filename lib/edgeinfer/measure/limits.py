"""What this machine can do at most: measured read bandwidth of every memory level, measured peak of matrix products.

A limit is the best of several tries, because a disturbance only ever slows down. Reading is compiled by Numba and done
by threads that share nothing; peaks are torch's matrix products. What is missing is named with a reason.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeinfer.measure.machine import Machine, describe_machine, size_text
from edgeinfer.measure.tables import html_table

FORMAT = "edgeinfer.limits/1"
DTYPES = ("float32", "bfloat16", "int8")
MOST_BYTES = 512 << 20
TRY_SECONDS = 0.002


@dataclass(frozen=True)
class Limits:
    """Measured limits of a machine.

    Attributes:
        read: level -> threads -> GB/s; levels "L1", "L2", "L3" where the caches are known, and "DRAM".
        compute: number format -> threads -> GOP/s of a large matrix product.
        working_set: level -> bytes that each thread reads over and over.
        unknown: what is missing -> why.
        notes: what a reader must know (busy machine, fallbacks).
        processor: name for titles.
    """

    read: Mapping[str, Mapping[int, float]]
    compute: Mapping[str, Mapping[int, float]]
    working_set: Mapping[str, int]
    unknown: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    processor: str = "this machine"

    @property
    def name(self) -> str:
        """Name for titles."""
        return self.processor

    @property
    def threads(self) -> tuple[int, ...]:
        """The thread counts that were measured, fewest first."""
        return tuple(sorted({t for rates in [*self.read.values(), *self.compute.values()] for t in rates}))

    def bandwidth(self, level: str = "DRAM", threads: int | None = None) -> float | None:
        """Return the read bandwidth in GB/s, None when unknown. `threads` None: the most that were measured."""
        return _pick(self.read.get(level, {}), threads)

    def peak(self, dtype: str = "float32", threads: int | None = None) -> float | None:
        """Return the peak in GOP/s of a number format, None when unknown. `threads` None: the most measured."""
        return _pick(self.compute.get(dtype, {}), threads)

    def bandwidths(self, threads: int | None = None) -> dict[str, float]:
        """Return GB/s by level, fastest first."""
        found = {level: self.bandwidth(level, threads) for level in self.read}
        return {level: rate for level, rate in found.items() if rate is not None}

    def peaks(self, threads: int | None = None) -> dict[str, float]:
        """Return GOP/s by number format."""
        found = {dtype: self.peak(dtype, threads) for dtype in self.compute}
        return {dtype: rate for dtype, rate in found.items() if rate is not None}

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        head = ["limit", *(f"{t} thread{'s' if t > 1 else ''}" for t in self.threads)]
        body = []
        for rates, prefix, unit in ((self.read, "read from", "GB/s"), (self.compute, "matrix product in", "GOP/s")):
            for what, by_threads in rates.items():
                values = [f"{by_threads[t]:,.0f} {unit}" if t in by_threads else "not measured" for t in self.threads]
                size = f" ({size_text(self.working_set[what])} a thread)" if what in self.working_set else ""
                body.append([f"{prefix} {what}{size}", *values])
        return head, body

    def _footer(self) -> list[str]:
        return [*(f"{what}: {why}" for what, why in self.unknown.items()), *self.notes]

    def table(self) -> str:
        """Return the limits as plain text."""
        head, body = self._cells()
        widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *body]]
        return "\n".join([*lines, *self._footer()])

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        head, body = self._cells()
        return html_table(f"Measured limits of {self.processor}", body, head, self._footer())

    def to_json(self) -> str:
        """Return the limits as JSON text; `from_json` reads it back."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Limits:
        """Read what `to_json` wrote.

        Raises:
            ValueError: "not limits written by to_json: ...".
        """
        try:
            raw = json.loads(text)
            if raw.pop("format") != FORMAT:
                raise ValueError(f"expected format {FORMAT!r}")
            for name in ("read", "compute"):
                raw[name] = {key: {int(t): rate for t, rate in rates.items()} for key, rates in raw[name].items()}
            raw["notes"] = tuple(raw["notes"])
            return cls(**raw)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not limits written by to_json: {error}") from error


def _pick(rates: Mapping[int, float], threads: int | None) -> float | None:
    if not rates:
        return None
    if threads is None:
        return rates[max(rates)]
    return rates.get(threads)


def measure_limits(seconds: float = 3.0, threads: tuple[int, ...] | None = None) -> Limits:
    """Measure what this machine can do at most; the result is kept for the rest of the process.

    Args:
        seconds: about how long to measure (compiling the reader takes a second more, the first time).
        threads: thread counts (default: 1 and all usable).

    Returns:
        The limits; what could not be measured is missing and named in `.unknown`.

    Raises:
        ValueError: "threads must be whole numbers above 0, got (0,)".
    """
    machine = describe_machine()
    counts = tuple(sorted(set(threads))) if threads else tuple(sorted({1, machine.cores_usable or 1}))
    if any(not isinstance(t, int) or t < 1 for t in counts):
        raise ValueError(f"threads must be whole numbers above 0, got {counts}")
    return _measured(float(seconds), counts)


@functools.lru_cache(maxsize=8)
def _measured(seconds: float, threads: tuple[int, ...]) -> Limits:
    machine = describe_machine()
    sets = working_sets(machine, max(threads))
    unknown, notes = {}, []
    share = seconds / (len(sets) + len(DTYPES)) / len(threads)
    reader, note = _make_reader()
    notes += note
    read = {level: {t: _read_rate(reader, nbytes, t, share) for t in threads} for level, nbytes in sets.items()}
    compute: dict[str, dict[int, float]] = {}
    for dtype in DTYPES:
        rates, why = _compute_rates(dtype, threads, share)
        if rates:
            compute[dtype] = rates
        else:
            unknown[f"peak of {dtype}"] = why
    if machine.caches is None:
        unknown["bandwidth of the caches"] = machine.unknown.get("caches", "their sizes are unknown")
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.7 * (machine.cores_usable or 1):
        notes.append("other programs were running: the limits are what they left over")
    return Limits(read, compute, sets, unknown, tuple(notes), machine.processor or "this machine")


def working_sets(machine: Machine, threads: int = 1) -> dict[str, int]:
    """Return the bytes that each thread reads to reach a level: well inside its cache, well outside the one below.

    Args:
        machine: its caches and free memory decide.
        threads: threads that share the last-level cache and the memory.
    """
    sets: dict[str, int] = {}
    below = 0
    for cache in machine.caches or ():
        sharing = min(threads, cache.shared_by or threads)
        wanted = cache.bytes // 2 // sharing
        if wanted > 2 * below and cache.level <= 3:
            sets[f"L{cache.level}"] = wanted
            below = cache.bytes
    last = machine.last_level_cache_bytes or 32 << 20
    spare = machine.memory_available or machine.memory_total or 1 << 30
    total = max(8 << 20, min(4 * last, MOST_BYTES, spare // 4))
    sets["DRAM"] = max(total, 64 << 20 if spare > 1 << 30 else 0) // threads
    return sets


Reader = Callable[[Any, int], Any]


@functools.cache
def _make_reader() -> tuple[Reader, list[str]]:
    """Return read(array, times), which reads a float32 array and lets go of the interpreter lock; and notes."""
    import numpy as np

    try:
        import numba
    except ImportError:

        def fallback(array: Any, times: int) -> Any:
            for _ in range(times):
                found = array.max()
            return found

        return fallback, ["Numba is missing, so NumPy read the memory: bandwidths of the caches are too low"]

    @numba.njit(nogil=True, fastmath=True)  # fastmath lets the sum run in vector registers
    def read_once(array):
        total = np.float32(0)
        for i in range(array.size):
            total += array[i]
        return total

    @numba.njit(nogil=True)
    def read(array, times):
        total = np.float32(0)
        for n in range(times):
            # Another slice each time, or the compiler would read once and multiply.
            total += read_once(array[16 * (n & 1) :])
        return total

    read(np.ones(64, np.float32), 2)
    return read, []


def _read_rate(reader: Reader, nbytes: int, threads: int, seconds: float) -> float:
    """Return GB/s of `threads` threads that each read their own `nbytes`: the best of many short tries.

    A try is short so that it can fall between two interruptions on a busy machine; the deadline bounds the whole.
    """
    import numpy as np

    arrays = [np.ones(nbytes // 4, np.float32) for _ in range(threads)]
    one = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        reader(arrays[0], 4)
        one = min(one, (time.perf_counter() - start) / 4)
    times = max(1, int(TRY_SECONDS / max(one, 1e-8)))
    deadline = time.perf_counter() + seconds
    gate = threading.Barrier(threads)
    starts, ends = [0.0] * threads, [0.0] * threads
    best, going = 0.0, True

    def work(number: int) -> None:
        nonlocal best, going
        while True:
            gate.wait()
            if not going:
                return
            starts[number] = time.perf_counter()
            reader(arrays[number], times)
            ends[number] = time.perf_counter()
            gate.wait()
            if number == 0:
                best = max(best, sum(a.nbytes for a in arrays) * times / (max(ends) - min(starts)) / 1e9)
                going = time.perf_counter() < deadline

    others = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(1, threads)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()
    return best


def _compute_rates(dtype: str, threads: tuple[int, ...], seconds: float) -> tuple[dict[int, float], str]:
    """Return GOP/s by threads, or {} and the reason."""
    try:
        import torch
    except ImportError:
        if dtype != "float32":
            return {}, "torch is not installed, and NumPy has no fast product in this format"
        import numpy as np

        a = np.ones((512, 512), np.float32)
        # NumPy's BLAS chooses its threads itself: the rate stands for all of them.
        return {max(threads): _best_rate(lambda: a @ a, 2 * 512**3, seconds)}, ""

    before, rates = torch.get_num_threads(), {}
    try:
        torch.set_num_threads(min(threads))
        product, operations = _product(torch, dtype, seconds)
        for count in threads:
            torch.set_num_threads(count)
            rates[count] = _best_rate(product, operations, seconds)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return {}, f"this torch cannot multiply {dtype} here ({str(error).splitlines()[0][:80]})"
    finally:
        torch.set_num_threads(before)
    return rates, ""


def _product(torch: Any, dtype: str, seconds: float) -> tuple[Callable[[], Any], int]:
    """Return a matrix product in `dtype`, large but no longer than a try may be, and its operations."""
    for size in (256, 512, 1024, 2048):
        if dtype == "int8":
            a = torch.randint(-127, 127, (size, size), dtype=torch.int8)

            def product(a: Any = a) -> Any:
                return torch._int_mm(a, a)
        else:
            a = torch.randn(size, size).to(getattr(torch, dtype))

            def product(a: Any = a) -> Any:
                return a @ a

        if _best_seconds(product, seconds / 8) > TRY_SECONDS / 4:  # the next size takes about eight times as long
            break
    return product, 2 * size**3


def _best_rate(function: Callable[[], Any], operations: int, seconds: float) -> float:
    return operations / _best_seconds(function, seconds) / 1e9


def _best_seconds(function: Callable[[], Any], seconds: float) -> float:
    """Return the shortest time of a call within about `seconds`."""
    function()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        function()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best
