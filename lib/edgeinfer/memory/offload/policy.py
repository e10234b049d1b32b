"""The cost model of offloading: what a policy holds on each tier and how long a step of decoding takes.

A step writes one token for every row of a block. While a layer is computed, what the next one needs is brought, so each
layer takes the longest of its times, not their sum. The model knows rates and sizes, not files. Source: flexgen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A machine of three tiers, as measured.

    Attributes:
        fast_bytes: memory in which products run.
        slow_bytes: memory that must be copied from before use.
        copy_rate: bytes/s of weights from the slow tier.
        disk_rate: bytes/s from the disk.
        layer_seconds: time of one product-filled layer for one sub-batch whatever its rows (the weights are read).
        row_seconds: more of it for each row.
        single_seconds: time of one layer for a sub-batch of one row, whose products are of a matrix and a vector and
            run otherwise; None: as the two above say.
        cache_rate: bytes/s of keys and values from the slow tier, which come in shorter runs; None: as weights.
        cache_seconds: computing takes so much longer for a sub-batch whose caches do not lie where they are used.
        unpack_rate: bytes/s of weights that come out of four bits, on the processor that computes.
        cache_unpack_rate: bytes/s of keys and values that come out of four bits, on the road of the copies.
        packed_cache_seconds: as `cache_seconds`, for caches in four bits.
        copy_slows, disk_slows: seconds that computing takes longer for each second of copying, or of reading, beside
            it: they share a bus, and sometimes a processor.
    """

    fast_bytes: float
    slow_bytes: float
    copy_rate: float
    disk_rate: float
    layer_seconds: float
    row_seconds: float
    cache_rate: float | None = None
    cache_seconds: float = 0.0
    unpack_rate: float = math.inf
    cache_unpack_rate: float = math.inf
    packed_cache_seconds: float = 0.0
    copy_slows: float = 0.0
    disk_slows: float = 0.0
    single_seconds: float | None = None


@dataclass(frozen=True)
class Workload:
    """A model and what it is asked.

    Attributes:
        layers: how many.
        layer_bytes: weights of one, as products need them.
        kv_bytes: keys and values of one row in one layer, at the end of the answer.
        hidden_bytes: activations of one row between two layers.
        fixed_bytes: what is always in the fast tier (embedding, head, norms).
        packed_layer_bytes: weights of a layer in four bits; None: not offered.
        packed_kv_bytes: keys and values of a row in four bits; None: not offered.
        mean_kv_bytes: of `kv_bytes`, those that are there at the average step; None: all.
        working_bytes: activations of one row within a layer, for the sub-batch that is computed.
    """

    layers: int
    layer_bytes: float
    kv_bytes: float
    hidden_bytes: float = 0.0
    fixed_bytes: float = 0.0
    packed_layer_bytes: float | None = None
    packed_kv_bytes: float | None = None
    mean_kv_bytes: float | None = None
    working_bytes: float = 0.0


@dataclass(frozen=True)
class Policy:
    """Where things lie, and how much is done with a layer before the next comes.

    Attributes:
        batch: rows of a sub-batch.
        sub_batches: sub-batches of a block; a loaded layer serves all of them.
        weights: shares of every layer's weights in the fast tier, in the slow tier and on the disk; they sum to 1.
        kv: shares of the keys and values that lie in the fast tier and in the slow tier; they sum to 1.
        pack_weights: weights are stored in four bits on every tier, and a layer is unpacked when its turn comes.
        pack_kv: keys and values are stored in four bits on every tier, and unpacked while they are brought.
    """

    batch: int
    sub_batches: int
    weights: tuple[float, float, float]
    kv: tuple[float, float] = (1.0, 0.0)
    pack_weights: bool = False
    pack_kv: bool = False

    def __post_init__(self) -> None:
        for name, shares in (("weights", self.weights), ("kv", self.kv)):
            if min(shares) < -1e-9 or abs(sum(shares) - 1) > 1e-6:
                raise ValueError(f"the shares of {name} must not be negative and sum to 1; came {shares}")
        if self.batch < 1 or self.sub_batches < 1:
            raise ValueError(f"a block needs rows; came {self.sub_batches} sub-batches of {self.batch}")

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.batch * self.sub_batches


@dataclass(frozen=True)
class Cost:
    """What the model says.

    Attributes:
        fast_bytes, slow_bytes, disk_bytes: held on each tier.
        compute, copy, disk: seconds of one layer for the whole block, each alone.
        step_seconds: one token for every row.
        tokens_per_second: rows / step_seconds.
        bound: which of the three is longest: "compute" (with what the others slow it), "copy" or "disk".
    """

    fast_bytes: float
    slow_bytes: float
    disk_bytes: float
    compute: float
    copy: float
    disk: float
    step_seconds: float
    tokens_per_second: float
    bound: str


@dataclass(frozen=True)
class Terms:
    """What a block costs before the shares are known; bytes and seconds are linear in the shares.

    Attributes:
        weights, caches: stored bytes of one layer, and of the block's keys and values in it.
        fixed: bytes of fast memory whatever the shares: what is resident, activations, buffers for caches, one layer
            of floats where weights are packed.
        compute: seconds of one layer for the block, unpacking included.
        compute_caches: seconds more if all caches lie in the slow tier.
        copy_weights, copy_caches: seconds if all weights, or all caches, come from the slow tier.
        unpack_caches: seconds on the road of the copies that the shares do not change.
        disk: seconds if all weights come from the disk.
    """

    weights: float
    caches: float
    fixed: float
    compute: float
    compute_caches: float
    copy_weights: float
    copy_caches: float
    unpack_caches: float
    disk: float


def terms(machine: Machine, work: Workload, policy: Policy, below: bool | None = None) -> Terms:
    """The terms of a policy's block; its shares do not matter, but for whether any cache lies below.

    Args:
        machine, work, policy: see there.
        below: whether caches lie below; None: as the policy says.

    Raises:
        ValueError: "this workload has no packed form of ...; give its bytes".
    """
    below = policy.kv[1] > 0 if below is None else below
    layer = _stored(policy.pack_weights, work.packed_layer_bytes, work.layer_bytes, "weights")
    row = _stored(policy.pack_kv, work.packed_kv_bytes, work.kv_bytes, "keys and values")
    moving = policy.rows * (work.kv_bytes if work.mean_kv_bytes is None else work.mean_kv_bytes)
    buffers = 2 * policy.batch * work.kv_bytes if below or policy.pack_kv else 0.0
    activations = policy.rows * work.hidden_bytes + policy.batch * work.working_bytes
    batch_seconds = machine.layer_seconds + policy.batch * machine.row_seconds
    if policy.batch == 1 and machine.single_seconds is not None:
        batch_seconds = machine.single_seconds
    batch_seconds += policy.pack_kv * machine.packed_cache_seconds
    return Terms(
        layer,
        policy.rows * row,
        work.fixed_bytes + activations + buffers + policy.pack_weights * work.layer_bytes,
        policy.sub_batches * batch_seconds + policy.pack_weights * work.layer_bytes / machine.unpack_rate,
        0.0 if policy.pack_kv else policy.sub_batches * machine.cache_seconds,
        layer / machine.copy_rate,
        0.0 if policy.pack_kv else moving / (machine.cache_rate or machine.copy_rate),
        moving / machine.cache_unpack_rate if policy.pack_kv else 0.0,
        layer / machine.disk_rate,
    )


def _stored(packed: bool, small: float | None, whole: float, what: str) -> float:
    if packed and small is None:
        raise ValueError(f"this workload has no packed form of {what}; give its bytes")
    return whole if small is None or not packed else small


def cost(machine: Machine, work: Workload, policy: Policy, overlap: bool = True) -> Cost:
    """Bytes and seconds of a policy.

    Args:
        machine, work, policy: see there.
        overlap: False: nothing is brought in advance, so the times of a layer add up.
    """
    t = terms(machine, work, policy)
    fast, slow, disk = policy.weights
    # Two buffers for the part of a layer that is not resident.
    fast_bytes = t.fixed + work.layers * (fast * t.weights + policy.kv[0] * t.caches) + 2 * (1 - fast) * t.weights
    times = {
        "compute": t.compute + policy.kv[1] * t.compute_caches,
        "copy": slow * t.copy_weights + policy.kv[1] * t.copy_caches + t.unpack_caches,
        "disk": disk * t.disk,
    }
    layer, longest = sum(times.values()), times
    if overlap:
        slowed = times["compute"] + machine.copy_slows * times["copy"] + machine.disk_slows * times["disk"]
        longest = {**times, "compute": slowed}
        layer = max(longest.values())
    bound = max(longest, key=lambda name: longest[name])
    step = work.layers * layer
    return Cost(
        fast_bytes,
        work.layers * (slow * t.weights + policy.kv[1] * t.caches),
        work.layers * disk * t.weights,
        times["compute"],
        times["copy"],
        times["disk"],
        step,
        policy.rows / step,
        bound,
    )


def fits(machine: Machine, work: Workload, policy: Policy) -> bool:
    """Whether a policy stays within both memories."""
    found = cost(machine, work, policy)
    # A linear programme ends on the border, and a border in floating point is a hair wide.
    return found.fast_bytes <= machine.fast_bytes * (1 + 1e-9) and found.slow_bytes <= machine.slow_bytes * (1 + 1e-9)
