"""Counts the hits of a cache of experts on a recorded sequence of uses: LRU, LFU, and Belady's optimum as the bound.

One layer at a time; it moves no bytes and knows no model. Source: mixtral-offloading (LRU).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Policy = Literal["lru", "lfu", "belady"]


def _check(capacity: int) -> None:
    if capacity < 0:
        raise ValueError(f"capacity must be 0 or more experts, got {capacity}")


def lru_hits(uses: Sequence[int], capacity: int) -> int:
    """Hits of a cache that drops the expert whose last use lies farthest back.

    Args:
        uses: expert numbers in the order of use.
        capacity: experts that fit.

    Returns:
        How many uses found their expert in the cache, which is empty at the start.

    Raises:
        ValueError: "capacity must be 0 or more experts, got -1".
    """
    _check(capacity)
    kept: dict[int, None] = {}  # in order of their last use
    found = 0
    for expert in uses:
        if expert in kept:
            found += 1
            del kept[expert]
        elif len(kept) >= capacity:
            if not kept:
                continue
            del kept[next(iter(kept))]
        kept[expert] = None
    return found


def lfu_hits(uses: Sequence[int], capacity: int) -> int:
    """Hits of a cache that drops the expert used least often so far (of equals, the one least recently used).

    Args, Returns, Raises: as `lru_hits`. Uses count from the start, those of dropped experts included.
    """
    _check(capacity)
    times: Counter[int] = Counter()
    last: dict[int, int] = {}
    kept: set[int] = set()
    found = 0
    for moment, expert in enumerate(uses):
        times[expert] += 1
        last[expert] = moment
        if expert in kept:
            found += 1
        elif capacity:
            if len(kept) >= capacity:
                kept.remove(min(kept, key=lambda e: (times[e], last[e])))
            kept.add(expert)
    return found


def belady_hits(uses: Sequence[int], capacity: int) -> int:
    """Hits of a cache that knows the future and drops the expert whose next use lies farthest ahead.

    No policy that loads an expert when it is used can hit more often. Args, Returns, Raises: as `lru_hits`.
    """
    _check(capacity)
    if not capacity:
        return 0
    following: list[float] = [float("inf")] * len(uses)
    seen: dict[int, int] = {}
    for moment in range(len(uses) - 1, -1, -1):
        following[moment] = seen.get(uses[moment], float("inf"))
        seen[uses[moment]] = moment
    kept: dict[int, float] = {}
    found = 0
    for moment, expert in enumerate(uses):
        if expert in kept:
            found += 1
        elif len(kept) >= capacity:
            del kept[max(kept, key=lambda e: kept[e])]
        kept[expert] = following[moment]
    return found


def hits(uses: Sequence[int], capacity: int, policy: Policy) -> int:
    """Hits by the name of the policy.

    Raises:
        ValueError: "policy 'fifo' is unknown; choose lru, lfu or belady".
    """
    known = {"lru": lru_hits, "lfu": lfu_hits, "belady": belady_hits}
    if policy not in known:
        raise ValueError(f"policy {policy!r} is unknown; choose lru, lfu or belady")
    return known[policy](uses, capacity)
