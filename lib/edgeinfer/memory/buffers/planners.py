"""Places for buffers in one arena, quickly: none shared, whole buffers shared, two in turn, and offsets by best fit.

Knows sizes and lifetimes only. No planner here looks back; `optimal` does. Every plan passes `check_plan`.
Source: transformer-lite (buffers planned once and reused); the orders by size and by time are common to many engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from edgeinfer.memory.buffers.liveness import Buffer, Plan, conflicts


def plan_naive(buffers: Sequence[Buffer]) -> Plan:
    """Every buffer has bytes of its own, as if none ever died."""
    offsets, end = [], 0
    for buffer in buffers:
        offsets.append(end)
        end += buffer.size
    return Plan(tuple(offsets), end, "naive")


def plan_shared(buffers: Sequence[Buffer]) -> Plan:
    """Whole buffers are handed on: a new one takes the smallest free one that is large enough.

    If none is, the largest free one grows; if none is free, there is one more. A buffer in a larger one wastes the
    rest. This is what remains when memory comes in objects that cannot be cut (textures of a GPU, for instance).
    """
    sizes: list[int] = []
    until: list[int] = []  # last step of what is in each object
    place = [0] * len(buffers)
    for i in sorted(range(len(buffers)), key=lambda i: (buffers[i].first, -buffers[i].size)):
        buffer = buffers[i]
        free = [k for k in range(len(sizes)) if until[k] < buffer.first]
        fitting = [k for k in free if sizes[k] >= buffer.size]
        if fitting:
            k = min(fitting, key=lambda k: sizes[k])
        elif free:
            k = max(free, key=lambda k: sizes[k])
            sizes[k] = buffer.size
        else:
            k = len(sizes)
            sizes.append(buffer.size)
            until.append(-1)
        until[k], place[i] = buffer.last, k
    bases = [sum(sizes[:k]) for k in range(len(sizes))]
    return Plan(tuple(bases[k] for k in place), sum(sizes), "whole buffers")


def plan_ping_pong(buffers: Sequence[Buffer]) -> Plan:
    """Two halves in turn, for a chain in which each buffer meets only the one before and the one after it.

    Raises:
        ValueError: "buffers 'a' and 'c' live together, but are no neighbours in the chain; ping-pong has two places,
            use plan_by_size."
    """
    order = sorted(range(len(buffers)), key=lambda i: buffers[i].first)
    rank = {i: k for k, i in enumerate(order)}
    for i, others in enumerate(conflicts(buffers)):
        for j in others:
            if abs(rank[i] - rank[j]) > 1:
                raise ValueError(
                    f"buffers {buffers[min(i, j)].name!r} and {buffers[max(i, j)].name!r} live together, but are no "
                    "neighbours in the chain; ping-pong has two places, use plan_by_size."
                )
    halves = [max((buffers[i].size for i in order[k::2]), default=0) for k in (0, 1)]
    # the second place grows down from the end: a large and a small neighbour may then meet in the middle
    pairs = [buffers[i].size + buffers[j].size for i, j in pairwise(order)]
    total = max([*pairs, *halves], default=0)
    offsets = [0 if rank[i] % 2 == 0 else total - buffers[i].size for i in range(len(buffers))]
    return Plan(tuple(offsets), total, "ping-pong")


def best_gap(size: int, taken: Iterable[tuple[int, int]]) -> int:
    """The offset of the smallest gap between taken stretches (begin, end) that holds `size` bytes; else behind all."""
    best, best_room, end = -1, -1, 0
    for begin, stop in sorted(taken):
        room = begin - end
        if room >= size and (best < 0 or room < best_room):
            best, best_room = end, room
        end = max(end, stop)
    return end if best < 0 else best


def _placed(buffers: Sequence[Buffer], order: Iterable[int], method: str) -> Plan:
    offsets: list[int | None] = [None] * len(buffers)
    others = conflicts(buffers)
    for i in order:
        near = [(o, o + buffers[j].size) for j in others[i] if (o := offsets[j]) is not None]
        offsets[i] = best_gap(buffers[i].size, near)
    done = tuple(o or 0 for o in offsets)
    return Plan(done, max((o + b.size for o, b in zip(done, buffers, strict=True)), default=0), method)


def plan_by_size(buffers: Sequence[Buffer]) -> Plan:
    """Largest first; each goes into the smallest gap that holds it among those it lives with."""
    order = sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, buffers[i].first))
    return _placed(buffers, order, "best fit, largest first")


def plan_by_time(buffers: Sequence[Buffer]) -> Plan:
    """In the order in which they are written, as an allocator must do that does not know the future."""
    order = sorted(range(len(buffers)), key=lambda i: (buffers[i].first, i))
    return _placed(buffers, order, "best fit, first written first")


PLANNERS: dict[str, Callable[[Sequence[Buffer]], Plan]] = {
    "naive": plan_naive,
    "whole buffers": plan_shared,
    "best fit, first written first": plan_by_time,
    "best fit, largest first": plan_by_size,
}
