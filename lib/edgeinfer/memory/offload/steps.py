"""The steps of lab 10 as plain functions of numbers and arrays: what an unsolved lab falls back on.

Sources: zero-inference, flexgen, sti.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeinfer.memory.offload import elastic
from edgeinfer.memory.offload.policy import Machine, Policy, Workload, cost


def streamed_finish(loads: Sequence[float] | np.ndarray, computes: np.ndarray, buffers: int) -> np.ndarray:
    """Return the second in which each layer is done, (layers,) float, when `buffers` layers fit into memory.

    Args:
        loads, computes: seconds of each layer, (layers,).
        buffers: layers that fit, the one being computed included.
    """
    loaded, done = 0.0, np.zeros(len(loads))
    for i, (load, compute) in enumerate(zip(loads, computes, strict=True)):
        loaded = max(loaded, done[i - buffers] if i >= buffers else 0.0) + load
        done[i] = max(loaded, done[i - 1] if i else 0.0) + compute
    return done


def tier_bytes(
    layers: int,
    layer_bytes: float,
    kv_bytes: float,
    batch: int,
    sub_batches: int,
    weights: Sequence[float] | np.ndarray,
    kv: Sequence[float] | np.ndarray,
) -> tuple[float, float, float]:
    """Return the bytes held in fast memory, in slow memory and on the disk; see `policy.cost`."""
    found = cost(
        Machine(0, 0, 1, 1, 1, 0), Workload(layers, layer_bytes, kv_bytes), _policy(batch, sub_batches, weights, kv)
    )
    return found.fast_bytes, found.slow_bytes, found.disk_bytes


def step_seconds(
    layers: int,
    layer_bytes: float,
    kv_bytes: float,
    batch: int,
    sub_batches: int,
    weights: Sequence[float] | np.ndarray,
    kv: Sequence[float] | np.ndarray,
    rates: Sequence[float] | np.ndarray,
) -> tuple[float, float]:
    """Return seconds of a step and tokens a second; rates: bytes/s copied, bytes/s read, s per sub-batch, s per row."""
    machine = Machine(0, 0, *(float(r) for r in rates))
    found = cost(machine, Workload(layers, layer_bytes, kv_bytes), _policy(batch, sub_batches, weights, kv))
    return found.step_seconds, found.tokens_per_second


def balance_roads(passing: float, copy_rate: float, disk_rate: float, slow_room: float) -> tuple[float, float]:
    """Return (bytes from slow memory, bytes from the disk) of a layer's passing bytes so that both end as early as can.

    Args:
        passing: bytes that must come for every layer.
        copy_rate, disk_rate: bytes/s of the two roads, used at once.
        slow_room: bytes of a layer that slow memory can hold.
    """
    from_slow = min(slow_room, passing * copy_rate / (copy_rate + disk_rate))
    return from_slow, passing - from_slow


def plan_shards(sizes: np.ndarray, losses: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the fidelity of each shard, int (shards,); see `elastic.plan`."""
    return np.array(elastic.plan(sizes, losses, [float(limit) for limit in limits], unit=1), int)


def _policy(
    batch: int, sub_batches: int, weights: Sequence[float] | np.ndarray, kv: Sequence[float] | np.ndarray
) -> Policy:
    fast, slow, disk = (float(w) for w in weights)
    return Policy(batch, sub_batches, (fast, slow, disk), (float(kv[0]), float(kv[1])))
