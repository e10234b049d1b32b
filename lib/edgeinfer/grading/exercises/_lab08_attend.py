"""Lab 8, exercise 2: attention through a block table.

The oracle goes token by token in float64. N blocks of B tokens, D channels, n blocks of a
table. Source: pagedattention.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns


def _cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for blocks, size, channels, length, spare, loud in (
        (6, 4, 8, 9, 0, 1.0),
        (5, 4, 3, 8, 0, 1.0),  # the last block is full
        (9, 2, 16, 7, 0, 1.0),
        (4, 8, 4, 1, 0, 1.0),
        (7, 3, 5, 6, 1, 1.0),  # a block is reserved already
        (8, 4, 6, 15, 0, 2000.0),  # scores that overflow
    ):
        keys = rng.normal(size=(blocks, size, channels)).astype(np.float32)
        values = rng.normal(size=(blocks, size, channels)).astype(np.float32)
        query = rng.normal(size=channels).astype(np.float32)
        needed = -(-length // size) + spare
        table = rng.permutation(blocks)[:needed]
        if needed > 1 and (np.diff(table) > 0).all():  # neither in order nor the first ones
            table = table[::-1].copy()
        if loud > 1:
            keys[table[0], 0] = 5 * query / np.linalg.norm(query)
            query *= np.float32(loud / np.linalg.norm(query))
        cases.append((query, keys, values, table, length))
    return cases


def _oracle(
    query: np.ndarray, key_pool: np.ndarray, value_pool: np.ndarray, table: np.ndarray, length: int
) -> np.ndarray:
    size = key_pool.shape[1]
    q = [float(x) for x in query]
    scores = []
    for t in range(length):
        key = key_pool[table[t // size], t % size]
        scores.append(sum(a * float(b) for a, b in zip(q, key, strict=True)) / len(q) ** 0.5)
    top = max(scores)
    weights = [float(np.exp(s - top)) for s in scores]
    out = np.zeros(len(q))
    for t, weight in enumerate(weights):
        out += weight / sum(weights) * value_pool[table[t // size], t % size].astype(np.float64)
    return out.astype(np.float32)


def _softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max())
    return np.asarray(e / e.sum())


def _mistaken(
    query: np.ndarray,
    key_pool: np.ndarray,
    value_pool: np.ndarray,
    table: np.ndarray,
    length: int,
    find: str = "table",
    values_by: str = "same",
    stop: str = "length",
    scale: str = "root",
    weigh: str = "softmax",
) -> np.ndarray:
    """Attention through a table with one screw loose."""
    size, channels = key_pool.shape[1:]
    at = np.arange(length)
    tables = {
        "table": table,
        "pool order": np.arange(len(table)),
        "sorted": np.sort(table),
        "reversed": table[::-1],
    }
    if stop == "block":
        at = np.arange(-(-length // size) * size)
    elif stop == "one short":
        at = np.arange(max(1, length - 1))
    elif stop == "one more":
        at = np.arange(min(length + 1, len(table) * size))
    elif stop == "full blocks":
        at = np.arange(max(1, length // size * size))
    elif stop == "whole table":
        at = np.arange(len(table) * size)
    block, place = at // size, at % size
    if find == "interleaved":
        n = len(table)
        block, place = at % n, at // n % size
    found = tables.get(find, table)[block]
    keys = key_pool[found, place].astype(np.float64)
    found = np.arange(len(table))[block] if values_by == "pool order" else found
    values = value_pool[found, place].astype(np.float64)
    scores = keys @ query.astype(np.float64) / {"root": channels**0.5, "none": 1, "channels": channels}[scale]
    if weigh == "zeros":
        scores = np.concatenate([scores, np.zeros(len(table) * size - length)])
        weights = _softmax(scores)[:length]
    elif weigh == "per block":
        parts = [_softmax(scores[block == b]) for b in range(block.max() + 1)]
        weights = np.concatenate(parts) / len(parts)
    elif weigh == "sum":
        weights = scores / scores.sum()
    elif weigh == "unfinished":
        weights = np.exp(scores - scores.max())
    elif weigh == "mean":
        weights = np.full(len(scores), 1 / len(scores))
    else:
        weights = _softmax(scores)
    return np.asarray((weights @ values).astype(np.float32))


def _last_block(*args: np.ndarray) -> np.ndarray:
    query, key_pool, value_pool, table, length = args
    size = key_pool.shape[1]
    last = (int(length) - 1) // size
    return _mistaken(query, key_pool, value_pool, table[last : last + 1], int(length) - last * size)


def _overflows(args: Args, got: Arrays, want: Arrays) -> bool:
    return not bool(np.isfinite(got[0]).all())


ATTEND = Exercise(
    name="attend_blocks",
    contract="query floating (D,); key_pool, value_pool floating (N, B, D): N blocks of B tokens; table int (n,): the "
    "blocks of the sequence, in order, n >= ceil(length / B); length int >= 1: its tokens -> out floating (D,): the "
    "values of its tokens, weighted by the softmax of query . key / sqrt(D)",
    make_cases=_cases,
    oracle=_oracle,
    returns=(Returns("out", dtype="floating", rtol=2e-4, atol=2e-5),),
    misconceptions=[
        Misconception(
            "ignores-the-table",
            "You read the first blocks of the pool. A sequence's blocks lie anywhere: its block i is table[i].",
            produces=partial(_mistaken, find="pool order"),
        ),
        Misconception(
            "values-without-the-table",
            "Keys are found through the table, values are not. Both lie in the same blocks.",
            produces=partial(_mistaken, values_by="pool order"),
        ),
        Misconception(
            "sorts-the-table",
            "The table was put in order of the blocks' numbers. Its order is that of the tokens, and the last entry "
            "is the block that "
            "may be partly filled.",
            produces=partial(_mistaken, find="sorted"),
        ),
        Misconception(
            "table-backwards",
            "The table was read from its end. Its first entry holds the first tokens.",
            produces=partial(_mistaken, find="reversed"),
        ),
        Misconception(
            "deals-tokens-out",
            "Tokens were dealt out to the blocks in turn. Token t lies in block t // B of the table, at place t % B.",
            produces=partial(_mistaken, find="interleaved"),
        ),
        Misconception(
            "reads-the-whole-last-block",
            "The last block is read to its end. Behind `length` stands what an earlier sequence has left.",
            produces=partial(_mistaken, stop="block"),
        ),
        Misconception(
            "reads-the-whole-table",
            "All blocks of the table are read to their end. Only the first `length` tokens belong to the sequence.",
            produces=partial(_mistaken, stop="whole table"),
        ),
        Misconception(
            "full-blocks-only",
            "The tokens of the last block are left out when it is not full.",
            produces=partial(_mistaken, stop="full blocks"),
        ),
        Misconception(
            "one-token-short",
            "The last token is missing: places go from 0 to length - 1, that is range(length).",
            produces=partial(_mistaken, stop="one short"),
        ),
        Misconception(
            "one-token-too-many",
            "One token too many is read: places go from 0 to length - 1.",
            produces=partial(_mistaken, stop="one more"),
        ),
        Misconception(
            "only-the-last-block",
            "Only the last block is attended to; the query looks at every token of the sequence.",
            produces=_last_block,
        ),
        Misconception(
            "masks-with-zero",
            "Places behind the end got the score 0, and exp(0) is 1: they take part of the weight. Leave them out, "
            "or give them -inf.",
            produces=partial(_mistaken, weigh="zeros"),
        ),
        Misconception(
            "softmax-of-each-block",
            "Each block got a softmax of its own. The weights of ALL tokens sum to 1: one maximum, one sum.",
            produces=partial(_mistaken, weigh="per block"),
        ),
        Misconception(
            "no-sum",
            "The weights do not sum to 1: the division by their sum is missing.",
            produces=partial(_mistaken, weigh="unfinished"),
        ),
        Misconception(
            "scores-as-weights",
            "Scores were taken for weights; they must go through exp first.",
            produces=partial(_mistaken, weigh="sum"),
        ),
        Misconception(
            "plain-mean",
            "This is the plain mean of the values; the scores play no part.",
            produces=partial(_mistaken, weigh="mean"),
        ),
        Misconception(
            "no-scale",
            "Scores are divided by the square root of D, the number of channels.",
            produces=partial(_mistaken, scale="none"),
        ),
        Misconception(
            "divides-by-channels",
            "Scores are divided by the square ROOT of D, not by D.",
            produces=partial(_mistaken, scale="channels"),
        ),
        Misconception(
            "overflows",
            "Right until a score is large: then exp overflows. Subtract the largest score first; the weights stay "
            "the same.",
            recognises=_overflows,
        ),
    ],
    hint="pool[table] is an array (n, B, D). What shape has it when tokens stand one behind the other?",
    points=3,
)
