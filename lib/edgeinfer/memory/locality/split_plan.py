"""One product shared by two unlike devices, by predicted time: who takes which rows and outputs. SIMULATED devices.

The static device runs programs compiled for a few numbers of rows and pads to them; the flexible one takes any shape
and is slower. It knows no hardware: rates and start times are given. Source: heterollm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

KINDS = ("static alone", "flexible alone", "weight", "activation", "hybrid")


class Device(Protocol):
    """Anything that can predict the time of a product of some rows and outputs."""

    def seconds(self, rows: int, outputs: int, depth: int) -> float:
        """Time of (rows, depth) times (depth, outputs); 0 for an empty product."""


def _product_seconds(rows: int, outputs: int, depth: int, gops: float, bandwidth: float, start: float) -> float:
    work, moved = 2 * rows * outputs * depth, 2 * outputs * depth  # weights of two bytes
    return start + max(work / (gops * 1e9), moved / (bandwidth * 1e9))


@cache
def cover(rows: int, sizes: tuple[int, ...], start_rows: float = 0.0) -> tuple[int, ...]:
    """The sizes that together take at least `rows` rows with the least padding.

    Args:
        rows: to be covered.
        sizes: numbers of rows that programs exist for.
        start_rows: what starting one more program costs, counted in rows.
    """
    if rows <= 0:
        return ()
    # sums step by step; a set is small because sizes are few
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for covered in range(rows):
        if covered not in best:
            continue
        cost, pieces = best[covered]
        for size in sizes:
            at, new = min(covered + size, rows), cost + size + start_rows
            if at not in best or new < best[at][0]:
                best[at] = (new, (*pieces, size))
    return tuple(sorted(best[rows][1], reverse=True))


@dataclass(frozen=True)
class StaticDevice:
    """SIMULATED: a unit with programs for a few numbers of rows, such as an NPU.

    Attributes:
        sizes: rows that a program was compiled for.
        gops: 10^9 operations per second.
        bandwidth: GB/s of weights (two bytes each).
        start: seconds to start one program.
    """

    sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    gops: float = 8000.0
    bandwidth: float = 40.0
    start: float = 50e-6

    def pieces(self, rows: int) -> tuple[int, ...]:
        """The programs that are run for so many rows."""
        return cover(rows, tuple(sorted(self.sizes)))

    def seconds(self, rows: int, outputs: int, depth: int) -> float:
        """Time with padding; 0 for nothing."""
        if rows <= 0 or outputs <= 0:
            return 0.0
        each = (
            _product_seconds(size, outputs, depth, self.gops, self.bandwidth, self.start) for size in self.pieces(rows)
        )
        return sum(each)


@dataclass(frozen=True)
class FlexibleDevice:
    """SIMULATED: a unit that takes any shape, such as a GPU; attributes as `StaticDevice`."""

    gops: float = 1000.0
    bandwidth: float = 40.0
    start: float = 20e-6

    def seconds(self, rows: int, outputs: int, depth: int) -> float:
        """Time of the product; 0 for nothing."""
        if rows <= 0 or outputs <= 0:
            return 0.0
        return _product_seconds(rows, outputs, depth, self.gops, self.bandwidth, self.start)


@dataclass(frozen=True)
class Plan:
    """The static device takes the first `static_rows` rows and of these the first `static_outputs` outputs.

    Attributes:
        kind: one of `KINDS`.
        static_rows, static_outputs: its corner of the result; everything else is the flexible device's.
        seconds: predicted, meeting included.
        static_seconds, flexible_seconds: of the two parts.
    """

    kind: str
    static_rows: int
    static_outputs: int
    seconds: float
    static_seconds: float
    flexible_seconds: float


def plan_seconds(
    rows: int,
    outputs: int,
    depth: int,
    corner: tuple[int, int],
    static: Device,
    flexible: Device,
    meeting: float = 0.0,
    memory_bandwidth: float = math.inf,
) -> tuple[float, float, float]:
    """Predict a division: (all, static, flexible) seconds.

    Args:
        rows, outputs, depth: the product.
        corner: (rows, outputs) of the static device.
        static, flexible: devices or measured profiles.
        meeting: seconds that the two need to wait for each other; nothing when one works alone.
        memory_bandwidth: GB/s of the memory that both read their weights from.
    """
    r, n = corner
    first = static.seconds(r, n, depth)
    second = flexible.seconds(r, outputs - n, depth) + flexible.seconds(rows - r, outputs, depth)
    moved = 2 * depth * ((n if r else 0) + (outputs - n if r else 0) + (outputs if rows > r else 0))
    whole = max(first, second, moved / (memory_bandwidth * 1e9))
    return whole + (meeting if first and second else 0.0), first, second


def corners(kind: str, rows: int, outputs: int, sizes: Sequence[int], grain: int) -> list[tuple[int, int]]:
    """The divisions of a kind that are tried: rows that need no padding, outputs in steps of `grain`.

    Raises:
        ValueError: "kind 'depth' is unknown; choose one of static alone, flexible alone, ..."
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose one of {', '.join(KINDS)}.")
    unit = min(sizes)
    full_rows = list(range(unit, rows, unit))
    some_outputs = list(range(grain, outputs, grain))
    return {
        "static alone": [(rows, outputs)],
        "flexible alone": [(0, 0)],
        "weight": [(rows, n) for n in some_outputs],
        "activation": [(r, outputs) for r in full_rows],
        "hybrid": [(r, n) for r in full_rows for n in some_outputs],
    }[kind]


def best_plan(
    rows: int,
    outputs: int,
    depth: int,
    static: Device,
    flexible: Device,
    sizes: Sequence[int],
    *,
    grain: int = 128,
    meeting: float = 0.0,
    memory_bandwidth: float = math.inf,
    kinds: Sequence[str] = KINDS,
) -> Plan:
    """The division with the least predicted time.

    Args:
        rows, outputs, depth: of the product: tokens, N and K.
        static, flexible: devices, or profiles that were measured.
        sizes: rows that the static device has programs for.
        grain: outputs are divided in steps of so many.
        meeting, memory_bandwidth: as `plan_seconds`.
        kinds: which divisions may be used.

    Returns:
        The plan; of equal ones the simplest (the first in `KINDS`).

    Raises:
        ValueError: "a product needs positive sizes, got (0, 64, 64)." or "... is unknown; choose one of ...".
    """
    if min(rows, outputs, depth, grain) < 1:
        raise ValueError(f"a product needs positive sizes, got {(rows, outputs, depth)}.")
    best: Plan | None = None
    for kind in sorted(kinds, key=lambda k: KINDS.index(k) if k in KINDS else -1):
        for corner in corners(kind, rows, outputs, sizes, grain):
            whole, first, second = plan_seconds(
                rows, outputs, depth, corner, static, flexible, meeting, memory_bandwidth
            )
            if best is None or whole < best.seconds:
                best = Plan(kind, *corner, whole, first, second)
    if best is None:
        raise ValueError(f"no division of kind {', '.join(kinds)} fits {rows} rows and {outputs} outputs.")
    return best


def padding_share(rows: int, sizes: Sequence[int]) -> float:
    """Share of a static device's work that is spent on rows nobody asked for."""
    return 1 - rows / sum(cover(rows, tuple(sorted(sizes))))
