"""Lab 8, exercise 3: copy on write.

The oracle keeps the tables as dictionaries. n blocks of a table, N blocks in the pool. Source: pagedattention.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns

Answer = tuple[np.ndarray, np.ndarray, np.ndarray]
NONE = (-1, -1)


def _cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for length, size, last_holders, first_holders in (
        (6, 4, 2, 2),  # the last block is shared by two
        (6, 4, 3, 1),  # by three
        (6, 4, 1, 2),  # only earlier blocks are shared
        (8, 4, 2, 2),  # the last block is full and shared
        (8, 4, 1, 1),
        (0, 4, 1, 1),
        (31, 16, 1, 1),
        (31, 16, 2, 3),
        (32, 16, 2, 1),
        (1, 8, 2, 2),
    ):
        own = -(-length // size)
        order = rng.permutation(12)
        table, free = order[:own], order[own : own + 3]
        holders = rng.integers(1, 4, 12)
        holders[free] = 0
        if own:
            holders[table] = first_holders
            holders[table[-1]] = last_holders
        cases.append((table.copy(), length, holders, free.copy(), size))
    return cases


def _oracle(table: np.ndarray, length: int, holders: np.ndarray, free: np.ndarray, block_size: int) -> Answer:
    mine, counts, copy = list(table), dict(enumerate(holders)), NONE
    place, fresh = length // block_size, free[0]
    if place == len(mine):
        mine.append(fresh)
        counts[fresh] += 1
    elif counts[mine[place]] > 1:
        copy = (mine[place], fresh)
        counts[mine[place]] -= 1
        counts[fresh] += 1
        mine[place] = fresh
    return np.array(mine, np.int64), np.array([counts[b] for b in range(len(counts))], np.int64), np.array(copy)


def _mistaken(
    table: np.ndarray,
    length: int,
    holders: np.ndarray,
    free: np.ndarray,
    block_size: int,
    when: str = "shared",
    give_back: str = "one",
    count_new: bool = True,
    copy: str = "right",
    full: str = "new",
    swap: bool = True,
) -> Answer:
    """Copy on write with one screw loose."""
    table, holders, fresh = table.copy(), holders.copy(), free[0]
    if length % block_size == 0:
        if full == "copies" and len(table) and holders[table[-1]] > 1:
            old = table[-1]
            holders[old] -= 1
            holders[fresh] += 1
            table[-1] = fresh
            return table, holders, np.array([old, fresh])
        if full == "nothing":
            return table, holders, np.array(NONE)
        said = (table[-1], fresh) if copy == "for new ones" and len(table) else NONE
        holders[fresh] += int(count_new)
        return np.append(table, fresh), holders, np.array(said)
    last = table[-1]
    looked_at = {
        "shared": holders[last] > 1,
        "never": False,
        "always": True,
        "first": holders[table[0]] > 1,
        "any": (holders[table] > 1).any(),
        "three": holders[last] > 2,
    }[when]
    if not looked_at:
        return table, holders, np.array(NONE)
    holders[last] = {"one": holders[last] - 1, "none": holders[last], "all": 0}[give_back]
    holders[fresh] += int(count_new)
    pair = {"right": (last, fresh), "swapped": (fresh, last), "missing": NONE}.get(copy, (last, fresh))
    if swap:
        table[-1] = fresh
    else:
        table = np.append(table, fresh)
    return table, holders, np.array(pair)


WRITE = Exercise(
    name="prepare_write",
    contract="table int (n,): the blocks of the sequence that will write one token; length int: its tokens so far, n = "
    "ceil(length / block_size); holders int (N,): how many tables hold each block; free int (F,), F >= 1: free "
    "blocks, the first "
    "is taken if one is needed; block_size int -> table int, holders int (N,), copy int (2,): source and target of "
    "the block that must be copied, or (-1, -1)",
    make_cases=_cases,
    oracle=_oracle,
    returns=(Returns("table"), Returns("holders", dtype="integer"), Returns("copy", dtype="integer")),
    misconceptions=[
        Misconception(
            "no-copy-on-write",
            "A shared block is written without a copy: the other sequence would read your token. Copy it when more "
            "than one table "
            "holds it.",
            produces=partial(_mistaken, when="never"),
        ),
        Misconception(
            "copies-always",
            "Blocks that nobody else holds are copied too. Copy only what is shared.",
            produces=partial(_mistaken, when="always"),
        ),
        Misconception(
            "looks-at-the-first-block",
            "You look at the first block. The token goes into the LAST one; the others are only read, and may stay "
            "shared.",
            produces=partial(_mistaken, when="first"),
        ),
        Misconception(
            "copies-if-anything-is-shared",
            "You copy when any block of the table is shared. Reading shared blocks does no harm; only the block that "
            "is written "
            "must be your own.",
            produces=partial(_mistaken, when="any"),
        ),
        Misconception(
            "two-are-not-enough",
            "Two holders are already one too many: copy when holders > 1.",
            produces=partial(_mistaken, when="three"),
        ),
        Misconception(
            "copies-a-full-block",
            "When the last block is full, the token goes into a new one. The full block is not written, so it can "
            "stay shared.",
            produces=partial(_mistaken, full="copies"),
        ),
        Misconception(
            "no-new-block",
            "When the last block is full, or there is none, the token needs a new block.",
            produces=partial(_mistaken, full="nothing"),
        ),
        Misconception(
            "keeps-holding-the-old-block",
            "After the copy this table no longer holds the old block: its count must fall by one, or the block is "
            "never free again.",
            produces=partial(_mistaken, give_back="none"),
        ),
        Misconception(
            "frees-the-others-block",
            "After the copy the old block still has its other holders. Take away one of them, not all.",
            produces=partial(_mistaken, give_back="all"),
        ),
        Misconception(
            "does-not-count-itself",
            "The block that was taken has a holder now: this table. With a count of 0 it would be given out again.",
            produces=partial(_mistaken, count_new=False),
        ),
        Misconception(
            "copies-backwards",
            "The copy goes the wrong way: source is the shared block, target the new one.",
            produces=partial(_mistaken, copy="swapped"),
        ),
        Misconception(
            "forgets-the-tokens-before",
            "The new block is empty. The tokens that the shared block already held must be copied: say so in `copy`.",
            produces=partial(_mistaken, copy="missing"),
        ),
        Misconception(
            "copies-into-new-blocks",
            "A block that is taken because the last one is full begins empty; nothing is copied into it.",
            produces=partial(_mistaken, copy="for new ones"),
        ),
        Misconception(
            "appends-the-copy",
            "The copy takes the place of the shared block; it is not one more block behind it.",
            produces=partial(_mistaken, swap=False),
        ),
    ],
    hint="Three cases: the last block is full (or there is none); it has room and is yours alone; it has room and is "
    "shared.",
    points=3,
)
