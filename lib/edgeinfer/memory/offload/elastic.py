"""Shards of a model in several fidelities, and a plan that fills a time budget while reading and computing overlap.

A shard is read before its layer is computed. Reading goes on all the time, so what the first l layers read must fit
into what was held ready plus what the disk gave until layer l begins. The plan that loses least is found exactly, by
dynamic programming over the bytes read. What a bit costs in quality is measured by who calls. Source: sti.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Budget:
    """What may be read when.

    Attributes:
        ready_bytes: a buffer of shards that are in memory before the request comes.
        disk_rate: bytes/s.
        layer_seconds: computing one layer.
        latency: seconds until the answer must be there.
        head_seconds: what follows the last layer.
    """

    ready_bytes: float
    disk_rate: float
    layer_seconds: float
    latency: float
    head_seconds: float = 0.0

    def until(self, layer: int, layers: int) -> float:
        """Bytes that may have been read, at most, when layer `layer` (from 0) of `layers` begins at its latest time."""
        start = self.latency - self.head_seconds - (layers - layer) * self.layer_seconds
        return self.ready_bytes + max(0.0, start) * self.disk_rate

    def slower(self, margin: float) -> Budget:
        """The same budget on a machine that is slower by this part: to plan with, where a clock varies."""
        longer = 1 + margin
        return Budget(
            self.ready_bytes,
            self.disk_rate / longer,
            self.layer_seconds * longer,
            self.latency,
            self.head_seconds * longer,
        )


def plan(sizes: NDArray, losses: NDArray, limits: Sequence[float], unit: int = 1024) -> list[int]:
    """Choose a fidelity for every shard so that the sum of losses is least.

    Args:
        sizes: (shards, fidelities), bytes; shards in the order in which they are needed.
        losses: (shards, fidelities), what a shard in a fidelity costs in quality; they add up.
        limits: (shards,), bytes that may be read up to and with this shard.
        unit: bytes are counted in this unit, rounded up.

    Returns:
        (shards,) index of the fidelity.

    Raises:
        ValueError: "shard 3 cannot be there in time ...".

    Source: sti.
    """
    sizes = -(-np.asarray(sizes).astype(np.int64) // unit)
    caps = [int(limit // unit) for limit in limits]
    room = max(max(caps, default=0), 0)
    shards, kinds = sizes.shape
    best = np.full(room + 1, np.inf)
    best[0] = 0.0
    chosen = np.zeros((shards, room + 1), np.int8)
    for i in range(shards):
        following = np.full(room + 1, np.inf)
        for k in range(kinds):
            size = int(sizes[i, k])
            if size > room:
                continue
            moved = best[: room + 1 - size] + losses[i, k]
            better = moved < following[size:]
            following[size:][better] = moved[better]
            chosen[i, size:][better] = k
        following[max(caps[i], -1) + 1 :] = np.inf
        if not np.isfinite(following).any():
            raise ValueError(
                f"shard {i} cannot be there in time, even in its lowest fidelity: {max(0.0, limits[i]):.0f} bytes "
                "may be read until then; allow more time, or hold more shards ready"
            )
        best = following
    used = int(np.argmin(best))
    out = []
    for i in range(shards - 1, -1, -1):
        kind = int(chosen[i, used])
        out.append(kind)
        used -= int(sizes[i, kind])
    return out[::-1]


def exhaustive(sizes: NDArray, losses: NDArray, limits: Sequence[float], unit: int = 1024) -> float:
    """The least loss of any plan that is in time, by trying all: the oracle of `plan` (infinite when there is none)."""
    sizes = -(-np.asarray(sizes).astype(np.int64) // unit)
    best = np.inf
    for kinds in product(range(sizes.shape[1]), repeat=len(sizes)):
        read = np.cumsum([sizes[i, k] for i, k in enumerate(kinds)])
        if all(read[i] <= limits[i] // unit for i in range(len(sizes))):
            best = min(best, float(sum(losses[i, k] for i, k in enumerate(kinds))))
    return best
