"""Paging step by step in NumPy, with the signatures of lab 8: what the lab falls back on.

Slow and clear; it trusts its arguments. The fast counterparts are `blocks.BlockManager` and `attention`. B tokens of a
block, D channels, n blocks of a table. Source: pagedattention, orca, sarathi-serve.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def grow_table(table: Ints, length: int, count: int, free: Ints, block_size: int) -> tuple[Ints, Ints]:
    """The table of a sequence after room for `count` more tokens was made, and the free blocks that are left.

    Args:
        table: (n,) the blocks of the sequence, n = ceil(length / block_size).
        length: tokens so far.
        count: tokens to come.
        free: free blocks; the first ones are taken first.
        block_size: tokens of a block.

    Returns:
        (table, free); both as they were when there are too few free blocks.
    """
    lacking = max(0, length + count - len(table) * block_size)
    new = (lacking + block_size - 1) // block_size
    if new > free.size:
        return table.copy(), free.copy()
    return np.r_[table, free[:new]], free[new:].copy()


def attend_blocks(
    query: NDArray[np.float32],
    key_pool: NDArray[np.float32],
    value_pool: NDArray[np.float32],
    table: Ints,
    length: int,
) -> NDArray[np.float32]:
    """Attention of one query (D,) over the first `length` tokens that a table finds in pools (N, B, D)."""
    keys, values = (pool[table].reshape(-1, query.size)[:length] for pool in (key_pool, value_pool))
    scores = keys @ query / np.sqrt(query.size)
    weights = np.exp(scores - scores.max())
    return np.asarray(weights @ values / weights.sum(), np.float32)


def prepare_write(
    table: Ints, length: int, holders: Ints, free: Ints, block_size: int
) -> tuple[Ints, Ints, tuple[int, int]]:
    """What must happen before token number `length` is written: a new block, a copy of a shared one, or nothing.

    Args:
        table: (n,) the blocks of the sequence that writes.
        length: its tokens so far.
        holders: (N,) how many tables hold each block.
        free: free blocks, at least one; the first is taken if one is needed.
        block_size: tokens of a block.

    Returns:
        (table, holders, (source, target) of the copy, or (-1, -1)).
    """
    table, holders, fresh = table.copy(), holders.copy(), int(free[0])
    if length == len(table) * block_size:
        holders[fresh] = 1
        return np.append(table, fresh), holders, (-1, -1)
    shared = int(table[-1])
    if holders[shared] < 2:
        return table, holders, (-1, -1)
    holders[[shared, fresh]] += (-1, 1)
    table[-1] = fresh
    return table, holders, (shared, fresh)


def find_prefix(prompt: Ints, contents: Ints, parent: Ints) -> Ints:
    """Blocks of a pool that hold the beginning of a prompt; its last token is never among them.

    Args:
        prompt: (T,) tokens.
        contents: (C, B) the tokens of each full block that is kept.
        parent: (C,) the block before it, -1 at the beginning of a text.

    Returns:
        The blocks, in order.
    """
    size, found, before = contents.shape[1], [], -1
    for part in prompt[: (len(prompt) - 1) // size * size].reshape(-1, size):
        here = np.flatnonzero((contents == part).all(1) & (parent == before))
        if not here.size:
            break
        before = int(here[0])
        found.append(before)
    return np.array(found, np.int64)


def plan_step(missing: Ints, decoding: NDArray[np.bool_], budget: int) -> Ints:
    """How many tokens of each request the next step computes: decoding ones first, then prompts in chunks.

    Args:
        missing: (R,) tokens not computed yet, in order of arrival; 1 for a decoding request.
        decoding: (R,) which requests are past their prompt.
        budget: most tokens of a step.

    Returns:
        (R,) tokens.
    """
    order = np.argsort(~decoding, kind="stable")
    reach = np.minimum(np.cumsum(missing[order]), budget)
    plan = np.empty_like(missing)
    plan[order] = np.diff(reach, prepend=0)
    return plan
