"""Which chunks leave memory first: those that tolerate the least compression, and of these the least recently used.

A chunk of eight bits frees four times as much as one of two. Source: llms (its LCTRU queue, as its name says it; the
details are ours).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Order = Literal["lctru", "lru"]


class Candidate(NamedTuple):
    """A chunk in memory: whose it is, its number, its bits, and when it was used last."""

    app: str
    number: int
    bits: int
    used: int


def eviction_order(chunks: Iterable[Candidate], order: Order = "lctru") -> list[Candidate]:
    """Sort chunks so that the first to go comes first.

    Args:
        chunks: in memory.
        order: "lctru", or "lru" to compare with, which ignores the bits.

    Returns:
        All of them; equals by app, the later chunk first, because earlier ones are needed to compute it again.

    Raises:
        ValueError: "order 'fifo' is unknown; choose 'lctru' or 'lru'".
    """
    if order not in ("lctru", "lru"):
        raise ValueError(f"order {order!r} is unknown; choose 'lctru' or 'lru'")
    return sorted(chunks, key=lambda c: (-c.bits if order == "lctru" else 0, c.used, c.app, -c.number))
