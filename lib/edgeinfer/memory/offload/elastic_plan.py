"""From a time budget to a schedule: which leading shards a preload buffer holds, and every shard's fidelity.

It knows sizes, losses and seconds; it reads nothing. Reading never pauses here, and a layer begins as soon as its
shards are there and the layer before it is done. Source: sti.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.memory.offload.elastic import Budget, plan
from edgeinfer.memory.offload.steps import streamed_finish

UNITS = 8192  # the planner counts bytes in at most so many units


@dataclass(frozen=True)
class Schedule:
    """What is read in which fidelity, and when everything should be done.

    Attributes:
        kinds: (shards,) index of the fidelity.
        held: leading shards that lie in the preload buffer before the request comes.
        held_bytes: of the buffer, as stored.
        read_bytes: what is read for each request.
        loss: predicted growth of the loss.
        done: (layers,) second in which each layer is computed.
        stalls: (layers,) seconds that the processor waits before each layer.
        finish: second in which the answer is there.
    """

    kinds: tuple[int, ...]
    held: int
    held_bytes: int
    read_bytes: int
    loss: float
    done: tuple[float, ...]
    stalls: tuple[float, ...]
    finish: float


@dataclass(frozen=True)
class Sizes:
    """What the planner knows of a model; rows are shards in the order of computation.

    Attributes:
        layer_of: (shards,) number of the layer, ascending from 0.
        sizes: (shards, fidelities) bytes that are read.
        losses: (shards, fidelities) growth of the loss.
        bits: (fidelities,) ascending.
    """

    layer_of: tuple[int, ...]
    sizes: NDArray
    losses: NDArray
    bits: tuple[int, ...]

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.layer_of[-1] + 1


def holds(sizes: NDArray, kinds: Sequence[int], room: float) -> int:
    """How many leading shards of a choice fit into a buffer of `room` bytes."""
    read = np.cumsum([sizes[i, k] for i, k in enumerate(kinds)])
    return int((read <= room).sum())


def predict(model: Sizes, kinds: Sequence[int], held: int, budget: Budget, overlap: bool = True) -> Schedule:
    """Say when each layer is done.

    Args:
        model: sizes and losses.
        kinds: (shards,) fidelity of each.
        held: leading shards that are there already.
        budget: rates and seconds; its latency plays no part.
        overlap: read while computing; False: compute when all is read.
    """
    chosen = np.array([model.sizes[i, k] for i, k in enumerate(kinds)])
    coming = np.where(np.arange(len(chosen)) < held, 0, chosen)
    loads = np.bincount(model.layer_of, coming, model.layers) / budget.disk_rate
    computes = np.full(model.layers, budget.layer_seconds)
    if not overlap:
        loads = np.concatenate(([loads.sum()], np.zeros(model.layers - 1)))
    done = streamed_finish(loads, computes, model.layers)  # as many buffers as layers: the reader never waits
    waits = done - computes - np.concatenate(([0.0], done[:-1]))
    return Schedule(
        tuple(int(k) for k in kinds),
        held,
        int(chosen[:held].sum()),
        int(coming.sum()),
        float(sum(model.losses[i, k] for i, k in enumerate(kinds))),
        tuple(float(d) for d in done),
        tuple(float(max(0.0, w)) for w in waits),
        float(done[-1]) + budget.head_seconds,
    )


def check_buffer(model: Sizes, room: float) -> None:
    """Raise unless a preload buffer is empty or holds the first shard.

    Raises:
        ValueError: "a preload buffer of 1000 bytes holds no shard: ...".
    """
    first = int(model.sizes[0].min())
    if room < 0 or 0 < room < first:
        raise ValueError(
            f"a preload buffer of {room:.0f} bytes holds no shard: the first one takes {first} bytes in "
            f"{model.bits[int(model.sizes[0].argmin())]} bits; give at least that many bytes, or 0 for no buffer"
        )


def schedule(model: Sizes, budget: Budget) -> Schedule:
    """Find the fidelities that lose least within a latency.

    For every number of leading shards that the buffer could hold, the held ones share its bytes and the others share
    what can be read before their layers begin. Both are planned exactly (up to the unit in which bytes are counted).

    Args:
        model: sizes and losses.
        budget: buffer, rate, seconds and latency.

    Returns:
        The schedule; its `finish` is at most the latency.

    Raises:
        ValueError: "a latency of 20 ms cannot be met: ...", or as `check_buffer`.

    Source: sti.
    """
    check_buffer(model, budget.ready_bytes)
    shards = len(model.sizes)
    lowest = [0] * shards
    quickest = predict(model, lowest, holds(model.sizes, lowest, budget.ready_bytes), budget)
    if quickest.finish > budget.latency * (1 + 1e-9):
        alone = model.layers * budget.layer_seconds + budget.head_seconds
        raise ValueError(
            f"a latency of {1e3 * budget.latency:.0f} ms cannot be met: with every shard in {model.bits[0]} bits and "
            f"{quickest.held} of {shards} held ready, the answer is there after {1e3 * quickest.finish:.0f} ms at the "
            f"earliest, and computing alone takes {1e3 * alone:.0f} ms; allow more time or a larger preload buffer"
        )
    unit = max(4096, -(-int(model.sizes.max(1).sum()) // UNITS))
    reading = Budget(0.0, budget.disk_rate, budget.layer_seconds, budget.latency, budget.head_seconds)
    limits = [reading.until(layer, model.layers) for layer in model.layer_of]
    best = quickest  # always in time, so it stands where rounding to units leaves no plan
    for held in range(quickest.held + 1):
        try:
            kinds = plan(model.sizes[:held], model.losses[:held], [budget.ready_bytes] * held, unit)
            kinds += plan(model.sizes[held:], model.losses[held:], limits[held:], unit)
        except ValueError:
            continue  # so many shards are too few for this latency
        found = predict(model, kinds, held, budget)
        if (found.loss, found.finish) < (best.loss, best.finish):
            best = found
    return best


def uniform(model: Sizes, budget: Budget, overlap: bool = True) -> Schedule | None:
    """The schedule with the most bits that are the same for all shards and in time; None when there is none.

    Args:
        model: sizes and losses.
        budget: as in `schedule`; the buffer holds as many leading shards as fit.
        overlap: read while computing; False: load everything, then compute.
    """
    for kind in reversed(range(len(model.bits))):
        kinds = [kind] * len(model.sizes)
        found = predict(model, kinds, holds(model.sizes, kinds, budget.ready_bytes), budget, overlap)
        if found.finish <= budget.latency:
            return found
    return None
