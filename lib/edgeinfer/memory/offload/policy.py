"""What an offloading policy costs: bytes on each of three tiers, and seconds for a step, by a model in closed form.

A step writes one token for every row of a block. Layers are computed one after the other; while one is computed, the
parts of the next that are not resident are brought, so that each layer takes the longest of its three times, not their
sum. It computes with numbers only (NumPy is not even needed). Source: flexgen.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A machine of three tiers, as measured.

    Attributes:
        fast_bytes: memory in which products run.
        slow_bytes: memory that must be copied from before use.
        copy_rate: bytes/s from the slow tier.
        disk_rate: bytes/s from the disk.
        layer_seconds: time of one product-filled layer for one sub-batch whatever its rows (the weights are read).
        row_seconds: more of it for each row.
    """

    fast_bytes: float
    slow_bytes: float
    copy_rate: float
    disk_rate: float
    layer_seconds: float
    row_seconds: float


@dataclass(frozen=True)
class Workload:
    """A model and what it is asked.

    Attributes:
        layers: how many.
        layer_bytes: weights of one.
        kv_bytes: keys and values of one row in one layer, at the end of the answer.
        hidden_bytes: activations of one row.
        fixed_bytes: what is always in the fast tier (embedding, head, norms).
    """

    layers: int
    layer_bytes: float
    kv_bytes: float
    hidden_bytes: float = 0.0
    fixed_bytes: float = 0.0


@dataclass(frozen=True)
class Policy:
    """Where things lie, and how much is done with a layer before the next comes.

    Attributes:
        batch: rows of a sub-batch.
        sub_batches: sub-batches of a block; a loaded layer serves all of them.
        weights: shares of every layer's weights in the fast tier, in the slow tier and on the disk; they sum to 1.
        kv: shares of the keys and values that lie in the fast tier and in the slow tier; they sum to 1.
    """

    batch: int
    sub_batches: int
    weights: tuple[float, float, float]
    kv: tuple[float, float] = (1.0, 0.0)

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
        bound: which of the three is longest: "compute", "copy" or "disk".
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


def staging_bytes(work: Workload, policy: Policy) -> float:
    """Room for what comes and goes: two buffers for a layer's part that is not resident, two for a batch's cache."""
    passing = 2 * (1 - policy.weights[0]) * work.layer_bytes
    return passing + (2 * policy.batch * work.kv_bytes if policy.kv[1] > 0 else 0.0)


def cost(machine: Machine, work: Workload, policy: Policy, overlap: bool = True) -> Cost:
    """Bytes and seconds of a policy.

    Args:
        machine, work, policy: see there.
        overlap: False: nothing is brought in advance, so the times of a layer add up.
    """
    fast, slow, disk = policy.weights
    block_kv = policy.rows * work.kv_bytes
    fast_bytes = (
        work.fixed_bytes
        + work.layers * (fast * work.layer_bytes + policy.kv[0] * block_kv)
        + policy.rows * work.hidden_bytes
        + staging_bytes(work, policy)
    )
    times = {
        "compute": policy.sub_batches * (machine.layer_seconds + policy.batch * machine.row_seconds),
        "copy": (slow * work.layer_bytes + policy.kv[1] * block_kv) / machine.copy_rate,
        "disk": disk * work.layer_bytes / machine.disk_rate,
    }
    layer = max(times.values()) if overlap else sum(times.values())
    step = work.layers * layer
    return Cost(
        fast_bytes,
        work.layers * (slow * work.layer_bytes + policy.kv[1] * block_kv),
        work.layers * disk * work.layer_bytes,
        times["compute"],
        times["copy"],
        times["disk"],
        step,
        policy.rows / step,
        max(times, key=lambda name: times[name]),
    )


def fits(machine: Machine, work: Workload, policy: Policy) -> bool:
    """Whether a policy stays within both memories."""
    found = cost(machine, work, policy)
    # A linear programme ends on the border, and a border in floating point is a hair wide.
    return found.fast_bytes <= machine.fast_bytes * (1 + 1e-9) and found.slow_bytes <= machine.slow_bytes * (1 + 1e-9)
