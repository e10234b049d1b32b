"""Lab 8, exercise 1: blocks on demand, all or nothing.

The oracle walks token by token. n blocks of a table, F free blocks. Source: pagedattention.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns

Pair = tuple[np.ndarray, np.ndarray]


def _cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for length, count, spare, size in (
        (5, 2, 4, 4),  # fits into the last block
        (5, 3, 4, 4),  # fills it to the brim
        (5, 4, 3, 4),  # one token beyond
        (0, 1, 2, 16),
        (0, 33, 3, 16),  # exactly enough
        (16, 1, 2, 16),  # the last block is full
        (7, 30, 2, 8),  # too few free blocks
        (10, 0, 3, 4),
        (3, 9, 0, 4),  # nothing is free
        (3, 1, 0, 4),  # nothing is free, and nothing is needed
        (2, 14, 4, 4),
        (0, 32, 5, 8),
        (6, 1, 3, 1),
    ):
        blocks = rng.permutation(64)
        own = -(-length // size)
        cases.append((np.sort(blocks[:own])[::-1].copy(), length, count, blocks[own : own + spare].copy(), size))
    return cases


def _oracle(table: np.ndarray, length: int, count: int, free: np.ndarray, block_size: int) -> Pair:
    mine, left = [int(b) for b in table], [int(b) for b in free]
    for token in range(length, length + count):
        if token // block_size == len(mine):
            if not left:
                return table, free
            mine.append(left.pop(0))
    return np.array(mine, np.int64), np.array(left, np.int64)


def _mistaken(
    table: np.ndarray,
    length: int,
    count: int,
    free: np.ndarray,
    block_size: int,
    need: str = "right",
    enough: str = "right",
    where: str = "front",
    put: str = "behind",
    shrink: bool = True,
) -> Pair:
    """Growing a table with one screw loose."""
    total = length + count
    new = {
        "right": -(-total // block_size) - len(table),
        "by call": -(-count // block_size),
        "by token": count,
        "floor": total // block_size - len(table),
        "one more": total // block_size + 1 - len(table),
        "one at most": min(1, -(-total // block_size) - len(table)),
        "total": -(-total // block_size),
    }[need]
    new = max(0, new)
    refuse = {
        "right": new > len(free),
        "strict": new > 0 and new >= len(free),
        "partial": False,
        "by tokens": count > len(free) * block_size,
    }[enough]
    if refuse:
        return table, free
    new = min(new, len(free))
    taken = free[:new] if where == "front" else free[len(free) - new :][::-1]
    left = free[new:] if where == "front" else free[: len(free) - new]
    grown = {"behind": [table, taken], "before": [taken, table], "alone": [taken]}[put]
    return np.concatenate(grown), left if shrink else free


def _numbers(table: np.ndarray, length: int, count: int, free: np.ndarray, block_size: int) -> Pair:
    """Takes places in the list of free blocks for blocks."""
    grown, left = _mistaken(table, length, count, free, block_size)
    new = len(grown) - len(table)
    return np.concatenate([table, np.arange(new)]), left


def _fails_when_full(table: np.ndarray, length: int, count: int, free: np.ndarray, block_size: int) -> Pair:
    """Loses the table when there is not enough."""
    grown, left = _mistaken(table, length, count, free, block_size)
    if -(-(length + count) // block_size) - len(table) > len(free):
        return table[:0], free
    return grown, left


GROW = Exercise(
    name="grow_table",
    contract="table int (n,): the blocks of a sequence, n = ceil(length / block_size); length int: its tokens so far; "
    "count int >= 0: tokens to come; free int (F,): free blocks, the first ones are taken first; block_size int -> "
    "table int: the new blocks behind the old ones; free int: what is left; with too few free blocks both as they were",
    make_cases=_cases,
    oracle=_oracle,
    returns=(Returns("table"), Returns("free")),
    misconceptions=[
        Misconception(
            "a-block-for-every-token",
            "You took a block for every token. A block holds block_size of them.",
            produces=partial(_mistaken, need="by token"),
        ),
        Misconception(
            "ignores-room-in-the-last-block",
            "The last block may still have room. You count blocks for the new tokens alone, so each call would start a "
            "block of its own, and the rest of the old one is lost.",
            produces=partial(_mistaken, need="by call"),
        ),
        Misconception(
            "takes-the-whole-table-again",
            "You took as many blocks as the whole sequence needs, although it already has some.",
            produces=partial(_mistaken, need="total"),
        ),
        Misconception(
            "rounds-down",
            "The tokens behind the last full block also need a place: round the number of blocks up.",
            produces=partial(_mistaken, need="floor"),
        ),
        Misconception(
            "a-block-too-many-at-the-brim",
            "Right until the tokens fill the last block exactly: then nothing more is needed, but you take one more.",
            produces=partial(_mistaken, need="one more"),
        ),
        Misconception(
            "one-block-at-most",
            "A long prompt may need several blocks at once; you take one at most.",
            produces=partial(_mistaken, need="one at most"),
        ),
        Misconception(
            "takes-what-is-left",
            "With too few free blocks you took those that were left. A sequence that has half of its room cannot go "
            "on, and keeps "
            "the others from going on: all or nothing.",
            produces=partial(_mistaken, enough="partial"),
        ),
        Misconception(
            "refuses-exactly-enough",
            "As many free blocks as are needed are enough. Compare with >, not with >=.",
            produces=partial(_mistaken, enough="strict"),
        ),
        Misconception(
            "compares-tokens-with-room",
            "You compare the new tokens with the room in free blocks. The room in the last block counts too.",
            produces=partial(_mistaken, enough="by tokens"),
        ),
        Misconception(
            "loses-the-table",
            "With too few free blocks the sequence keeps the blocks it has: return the old table.",
            produces=_fails_when_full,
        ),
        Misconception(
            "takes-from-the-end",
            "The first free blocks are taken first; you took the last ones.",
            produces=partial(_mistaken, where="end"),
        ),
        Misconception(
            "leaves-blocks-in-free",
            "The blocks you took still stand in `free`: the next sequence would get them too, and overwrite your keys.",
            produces=partial(_mistaken, shrink=False),
        ),
        Misconception(
            "new-blocks-in-front",
            "Block i of the table holds tokens i * block_size and following, so new blocks stand behind the old ones.",
            produces=partial(_mistaken, put="before"),
        ),
        Misconception(
            "new-blocks-only",
            "You return the new blocks only; the table is the old ones and then the new ones.",
            produces=partial(_mistaken, put="alone"),
        ),
        Misconception(
            "places-instead-of-blocks",
            "You put places in the list `free` into the table, not the numbers of the blocks that stand there.",
            produces=_numbers,
        ),
    ],
    hint="How many blocks do length + count tokens fill, the last one perhaps in part? How many of them are there?",
    points=2,
)
