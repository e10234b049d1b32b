"""Finds the best policy: block sizes are tried one by one, the shares of each come from a linear programme.

For a given block everything that a policy costs is linear in the shares, but for the longest of three times; a variable
that is at least each of them takes its place. Source: flexgen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from edgeinfer.memory.offload.policy import Machine, Policy, Workload, cost, fits

BATCHES = (1, 2, 4, 8, 16, 32, 64)
SUB_BATCHES = (1, 2, 4, 8, 16)


def best_shares(machine: Machine, work: Workload, batch: int, sub_batches: int) -> Policy | None:
    """The policy with the shortest step for a given block, or None when no shares fit into memory."""
    from scipy.optimize import linprog

    best: tuple[float, Policy] | None = None
    # Two buffers for caches are needed as soon as any cache is below; that is a yes or no, so both are tried.
    for below in (False, True):
        rows = batch * sub_batches
        block_kv = rows * work.kv_bytes
        compute = sub_batches * (machine.layer_seconds + batch * machine.row_seconds)
        # Variables: weights fast, slow, disk; cache fast, slow; seconds of a layer.
        fixed = work.fixed_bytes + rows * work.hidden_bytes + (2 * batch * work.kv_bytes if below else 0.0)
        staging = 2 * work.layer_bytes
        upper = [
            [work.layers * work.layer_bytes - staging, 0, 0, work.layers * block_kv, 0, 0],
            [0, work.layers * work.layer_bytes, 0, 0, work.layers * block_kv, 0],
            [0, work.layer_bytes / machine.copy_rate, 0, 0, block_kv / machine.copy_rate, -1],
            [0, 0, work.layer_bytes / machine.disk_rate, 0, 0, -1],
        ]
        limits = [machine.fast_bytes - fixed - staging, machine.slow_bytes, 0, 0]
        # Bytes of a gigabyte and seconds of a millisecond in one table: each row is brought to its own size.
        sizes = [max(abs(x) for x in row) or 1.0 for row in upper]
        found = linprog(
            [0, 0, 0, 0, 0, 1],
            A_ub=[[x / size for x in row] for row, size in zip(upper, sizes, strict=True)],
            b_ub=[limit / size for limit, size in zip(limits, sizes, strict=True)],
            A_eq=[[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]],
            b_eq=[1, 1],
            bounds=[(0, 1)] * 3 + [(0, 1), (0, 1 if below else 0), (compute, None)],
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
        work: the model and its caches.
        batches, sub_batches: sizes that are tried.
        most_rows: requests that there are.

    Returns:
        The optimum of the cost model over the sizes given.

    Raises:
        MemoryError: "no policy fits: ..." with the least that is needed.

    Source: flexgen.
    """
    best: tuple[float, Policy] | None = None
    for batch in batches:
        for count in sub_batches:
            if most_rows is not None and batch * count > most_rows:
                continue
            policy = best_shares(machine, work, batch, count)
            if policy is not None:
                speed = cost(machine, work, policy).tokens_per_second
                if best is None or speed > best[0] * (1 + 1e-12):
                    best = speed, policy
    if best is None:
        least = work.fixed_bytes + 2 * work.layer_bytes
        raise MemoryError(
            f"no policy fits: {machine.fast_bytes / 1e6:.1f} MB of fast memory were given, and two buffers for "
            f"a layer, with what is always resident, take {least / 1e6:.1f} MB; give more, or shorten the answers"
        )
    return best[1]


def on_a_grid(
    machine: Machine, work: Workload, batches: Iterable[int], sub_batches: Iterable[int], steps: int
) -> Iterator[Policy]:
    """Every policy whose shares are multiples of 1 / steps and that fits: the oracle of `search`."""
    counts = list(sub_batches)
    for batch in batches:
        for count in counts:
            for fast in range(steps + 1):
                for slow in range(steps + 1 - fast):
                    weights = fast / steps, slow / steps, (steps - fast - slow) / steps
                    for kept in range(steps + 1):
                        policy = Policy(batch, count, weights, (kept / steps, 1 - kept / steps))
                        if fits(machine, work, policy):
                            yield policy
