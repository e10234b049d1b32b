"""The smallest arena there is: by an exact solver, and for a handful of buffers by trying every order.

Knows sizes and lifetimes only. The two ways have nothing in common, so each checks the other. Placing buffers with
fixed lifetimes is NP-hard, so the solver has a time limit; then the plan says that it is not proved.
Source: the formulation with one binary variable for each pair is that of strip packing; solved by HiGHS in scipy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from edgeinfer.memory.buffers.liveness import Buffer, Plan, conflicts, lower_bound
from edgeinfer.memory.buffers.planners import plan_by_size, plan_by_time

MOST_TRIED = 8


def plan_optimal(buffers: Sequence[Buffer], seconds: float = 20.0, always_solve: bool = False) -> Plan:
    """The smallest arena, as a mixed-integer programme.

    Offsets o and the height P are continuous; for each pair that lives together a binary y says who is below:
    minimise P with o_i + s_i <= P, and o_i + s_i <= o_j + M y, o_j + s_j <= o_i + M (1 - y).

    Args:
        buffers: sizes in bytes, lifetimes in steps.
        seconds: the solver's time limit.
        always_solve: also where best fit already meets the lower bound (which proves it).

    Returns:
        The plan; `proved` is False where the time limit came first: then it is the best one known.
    """
    quick = min((plan_by_size(buffers), plan_by_time(buffers)), key=lambda plan: plan.total)
    bound = lower_bound(buffers)
    pairs = [(i, j) for i, others in enumerate(conflicts(buffers)) for j in others if i < j]
    if (quick.total == bound and not always_solve) or not pairs:
        return Plan(quick.offsets, quick.total, "optimal", True)
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import lil_matrix

    unit = math.gcd(*(b.size for b in buffers if b.size))
    sizes = [b.size // unit for b in buffers]
    big, count = quick.total // unit, len(buffers)
    columns = count + 1 + len(pairs)  # offsets, the height, one binary for each pair
    left = lil_matrix((count + 2 * len(pairs), columns))
    right = np.zeros(left.shape[0])
    for i, size in enumerate(sizes):
        left[i, i], left[i, count], right[i] = 1, -1, -size
    for k, (i, j) in enumerate(pairs):
        row, y = count + 2 * k, count + 1 + k
        left[row, i], left[row, j], left[row, y], right[row] = 1, -1, -big, -sizes[i]
        left[row + 1, j], left[row + 1, i], left[row + 1, y], right[row + 1] = 1, -1, big, big - sizes[j]
    low, high = np.zeros(columns), np.ones(columns)
    high[:count] = [big - size for size in sizes]
    low[count], high[count] = bound / unit, big
    goal, whole = np.zeros(columns), np.zeros(columns)
    goal[count], whole[count + 1 :] = 1, 1
    found = milp(
        goal,
        constraints=LinearConstraint(left.tocsr(), -np.inf, right),
        bounds=Bounds(low, high),
        integrality=whole,
        options={"time_limit": seconds},
    )
    if found.x is None:
        return Plan(quick.offsets, quick.total, "optimal", quick.total == bound)
    # Only who is below whom is taken from the solver: offsets are then exact integers.
    solved = _stacked(sizes, np.argsort(found.x[:count], kind="stable").tolist(), conflicts(buffers))
    total = max(o + s for o, s in zip(solved, sizes, strict=True)) * unit
    if total > quick.total:
        return Plan(quick.offsets, quick.total, "optimal", quick.total == bound)
    return Plan(tuple(o * unit for o in solved), total, "optimal", found.status == 0 or total == bound)


def _stacked(sizes: Sequence[int], order: Sequence[int], others: list[list[int]]) -> list[int]:
    """Each buffer, in this order, on top of all earlier ones that it lives with."""
    offsets, placed = [0] * len(sizes), [False] * len(sizes)
    for i in order:
        offsets[i] = max((offsets[j] + sizes[j] for j in others[i] if placed[j]), default=0)
        placed[i] = True
    return offsets


def plan_exhaustive(buffers: Sequence[Buffer]) -> Plan:
    """The smallest arena by trying every order of stacking, for up to eight buffers.

    Why this is exact: take a best plan and stack its buffers from the lowest to the highest. None ends up higher than
    it was, so one of the orders gives an arena as small.

    Raises:
        ValueError: "12 buffers have 479001600 orders; up to 8 are tried, use plan_optimal."
    """
    count = len(buffers)
    if count > MOST_TRIED:
        raise ValueError(
            f"{count} buffers have {math.factorial(count)} orders; up to {MOST_TRIED} are tried, use plan_optimal."
        )
    sizes, others = [b.size for b in buffers], conflicts(buffers)
    best: list[int] = []
    least = -1
    for order in itertools.permutations(range(count)):
        offsets = _stacked(sizes, order, others)
        total = max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0)
        if least < 0 or total < least:
            best, least = offsets, total
    return Plan(tuple(best), max(least, 0), "every order", True)
