"""Finds the best policy: blocks and forms are tried one by one, the shares of each come from a linear programme.

For a given block everything that a policy costs is linear in the shares, but for the longest of several times; a
variable that is at least each of them takes its place. Source: flexgen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from edgeinfer.memory.offload.policy import Machine, Policy, Workload, cost, fits, terms

BATCHES = (1, 2, 4, 8, 16, 32, 64)
SUB_BATCHES = (1, 2, 4, 8, 16)
ON_DISK = (0.0, 0.0, 1.0)


def forms(work: Workload) -> list[tuple[bool, bool]]:
    """Whether weights, and keys and values, are packed: every pair that a workload offers, exact ones first."""
    weights = (False,) if work.packed_layer_bytes is None else (False, True)
    caches = (False,) if work.packed_kv_bytes is None else (False, True)
    return list(product(weights, caches))


def best_shares(
    machine: Machine, work: Workload, batch: int, sub_batches: int, form: tuple[bool, bool] = (False, False)
) -> Policy | None:
    """The policy with the shortest step for a given block and form, or None when no shares fit into memory.

    Args:
        machine, work: see there.
        batch, sub_batches: of the block.
        form: whether weights, and keys and values, are packed.
    """
    from scipy.optimize import linprog

    best: tuple[float, Policy] | None = None
    block = Policy(batch, sub_batches, ON_DISK, (1.0, 0.0), *form)
    layers, slows = work.layers, machine.copy_slows
    # Two buffers for caches are needed as soon as any cache is below; that is a yes or no, so both are tried. Packed
    # caches need them anyway.
    for below in (True,) if form[1] else (False, True):
        t = terms(machine, work, block, below)
        staging = 2 * t.weights
        # Variables: weights fast, slow, disk; cache fast, slow; seconds of a layer.
        upper = [
            [layers * t.weights - staging, 0, 0, layers * t.caches, 0, 0],
            [0, layers * t.weights, 0, 0, layers * t.caches, 0],
            [0, t.copy_weights, 0, 0, t.copy_caches, -1],
            [0, 0, t.disk, 0, 0, -1],
            [0, slows * t.copy_weights, machine.disk_slows * t.disk, 0, t.compute_caches + slows * t.copy_caches, -1],
        ]
        limits = [
            machine.fast_bytes - t.fixed - staging,
            machine.slow_bytes,
            -t.unpack_caches,
            0,
            -t.compute - slows * t.unpack_caches,
        ]
        # Bytes of a gigabyte and seconds of a millisecond in one table: each row is brought to its own size.
        sizes = [max(abs(x) for x in row) or 1.0 for row in upper]
        found = linprog(
            [0, 0, 0, 0, 0, 1],
            A_ub=[[x / size for x in row] for row, size in zip(upper, sizes, strict=True)],
            b_ub=[limit / size for limit, size in zip(limits, sizes, strict=True)],
            A_eq=[[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]],
            b_eq=[1, 1],
            bounds=[(0, 1)] * 3 + [(0, 1), (0, 1 if below else 0), (t.compute, None)],
        )
        if not found.success:
            continue
        shares = [min(1.0, max(0.0, float(x))) for x in found.x]
        weights, kv = shares[:3], shares[3:5]
        policy = Policy(
            batch,
            sub_batches,
            (weights[0] / sum(weights), weights[1] / sum(weights), weights[2] / sum(weights)),
            (kv[0] / sum(kv), kv[1] / sum(kv)),
            *form,
        )
        seconds = cost(machine, work, policy).step_seconds
        if best is None or seconds < best[0]:
            best = seconds, policy
    return None if best is None else best[1]


def search(
    machine: Machine,
    work: Workload,
    batches: Sequence[int] = BATCHES,
    sub_batches: Sequence[int] = SUB_BATCHES,
    most_rows: int | None = None,
) -> Policy:
    """The policy with the most tokens a second.

    Args:
        machine: as measured.
        work: the model and its caches; where it has packed forms, they are tried as well.
        batches, sub_batches: sizes that are tried.
        most_rows: requests that there are.

    Returns:
        The optimum of the cost model over the sizes given. Of equal policies an exact one is taken before a packed one:
        the model knows seconds, not quality.

    Raises:
        MemoryError: "no policy fits: ..." with the least that is needed.

    Source: flexgen.
    """
    best: tuple[float, Policy] | None = None
    blocks = [(b, n) for b, n in product(batches, sub_batches) if most_rows is None or b * n <= most_rows]
    options = []
    for order, (form, (batch, count)) in enumerate(product(forms(work), blocks)):
        # No policy of a block is faster than its computing; the most promising come first, most others are skipped.
        least = work.layers * terms(machine, work, Policy(batch, count, ON_DISK, (1.0, 0.0), *form)).compute
        options.append((-batch * count / least if least > 0 else -math.inf, order, batch, count, form))
    for bound, _, batch, count, form in sorted(options):
        if best is not None and -bound <= best[0] * (1 + 1e-12):
            break
        policy = best_shares(machine, work, batch, count, form)
        if policy is not None:
            speed = cost(machine, work, policy).tokens_per_second
            if best is None or speed > best[0] * (1 + 1e-12):
                best = speed, policy
    if best is None:
        raise MemoryError(
            f"no policy fits: {machine.fast_bytes / 1e6:.1f} MB of fast memory were given, and buffers for a layer "
            f"and for one row, with what is always resident, take {least_bytes(machine, work) / 1e6:.1f} MB; "
            "give more, or shorten the answers"
        )
    return best[1]


def least_bytes(machine: Machine, work: Workload) -> float:
    """Bytes of fast memory below which nothing runs: one row, all weights on the disk, in the smallest form."""
    found = []
    for form in forms(work):
        for kv in ((1.0, 0.0), (0.0, 1.0)):
            said = cost(machine, work, Policy(1, 1, ON_DISK, kv, *form))
            if said.slow_bytes <= machine.slow_bytes:
                found.append(said.fast_bytes)
    return min(found)


def on_a_grid(
    machine: Machine, work: Workload, batches: Iterable[int], sub_batches: Iterable[int], steps: int
) -> Iterator[Policy]:
    """Every policy whose shares are multiples of 1 / steps and that fits: the oracle of `search`."""
    for form, batch, count in product(forms(work), list(batches), list(sub_batches)):
        for fast in range(steps + 1):
            for slow in range(steps + 1 - fast):
                weights = fast / steps, slow / steps, (steps - fast - slow) / steps
                for kept in range(steps + 1):
                    policy = Policy(batch, count, weights, (kept / steps, 1 - kept / steps), *form)
                    if fits(machine, work, policy):
                        yield policy
