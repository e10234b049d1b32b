"""Lab 8, exercise 4: prompts that begin alike share their full blocks.

The oracle compares whole beginnings, not block by block. T tokens, C kept blocks of B tokens. Source: pagedattention.
"""

from functools import partial

import numpy as np

from edgeinfer.grading.exercise import Args, Exercise, Misconception, Returns


def _kept(rng: np.random.Generator, texts: list[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """The full blocks of some texts, every beginning once, in an order that says nothing."""
    names: dict[tuple, int] = {}
    for text in texts:
        for end in range(size, len(text) + 1, size):
            names.setdefault(tuple(text[:end].tolist()), len(names))
    place = rng.permutation(len(names))
    names = {begin: int(place[i]) for begin, i in names.items()}
    contents, parent = np.zeros((len(names), size), np.int64), np.full(len(names), -1)
    for begin, i in names.items():
        contents[i] = begin[-size:]
        parent[i] = names.get(begin[:-size], -1)
    return contents, parent, names


def _cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for size in (4, 3, 8):
        a = rng.integers(0, 50, 5 * size)
        b = np.concatenate([a[: 2 * size], rng.integers(50, 90, 2 * size)])
        other = np.concatenate(
            [rng.integers(90, 99, size), a[size : 3 * size]]
        )  # the same words after another beginning
        near = a[: 4 * size].copy()
        near[size - 1] += 100  # only the last token of its first block differs
        contents, parent, _ = _kept(rng, [other, near, a[: 4 * size], b], size)
        tail = rng.integers(100, 120, 2)
        cases += [
            (np.concatenate([a[: 3 * size], tail]), contents, parent),  # tail begins no block
            (a[: 3 * size].copy(), contents, parent),  # ends with a full block: its last token is computed
            (np.concatenate([b, tail]), contents, parent),
            (np.concatenate([other, tail]), contents, parent),
            (np.concatenate([a[size : 3 * size], tail]), contents, parent),  # middle of a text
            (np.concatenate([a[:size], tail, a[size + 2 : 4 * size]]), contents, parent),  # a hole in the second block
            (a[: size - 1].copy(), contents, parent),
            (a[:1].copy(), contents, parent),
            (a.copy(), contents, parent),
        ]
        miss = np.concatenate([a[:size], tail, rng.integers(60, 90, size - 2), a[2 * size : 4 * size]])
        cases.append((miss, contents, parent))
        turned = np.concatenate([a[:size], a[size : 2 * size][::-1], a[2 * size : 4 * size]])
        cases.append((turned, contents, parent))  # the second block's tokens in another order
    return [*cases, (np.arange(9), np.zeros((0, 4), np.int64), np.zeros(0, np.int64))]


def _begin(contents: np.ndarray, parent: np.ndarray, block: int) -> tuple:
    before = _begin(contents, parent, int(parent[block])) if parent[block] >= 0 else ()
    return (*before, *contents[block].tolist())


def _oracle(prompt: np.ndarray, contents: np.ndarray, parent: np.ndarray) -> np.ndarray:
    begins = {_begin(contents, parent, c): c for c in range(len(contents))}
    found, words = [], tuple(int(t) for t in prompt)
    for end in range(contents.shape[1], len(words), contents.shape[1]):
        if words[:end] not in begins:
            break
        found.append(begins[words[:end]])
    return np.array(found, np.int64)


def _mistaken(
    prompt: np.ndarray,
    contents: np.ndarray,
    parent: np.ndarray,
    chain: str = "right",
    end: str = "before the last",
    miss: str = "stop",
    compare: str = "block",
    give: str = "blocks",
) -> np.ndarray:
    """Looking for a prefix with one screw loose."""
    size, before, found = contents.shape[1], -1, []
    blocks = {
        "before the last": (len(prompt) - 1) // size,
        "all": len(prompt) // size,
        "one less": max(0, len(prompt) // size - 1),
        "first": min(1, (len(prompt) - 1) // size),
    }[end]
    for i in range(blocks):
        part = prompt[i * size : (i + 1) * size]
        same = {
            "block": lambda p: (contents == p).all(1),
            "any token": lambda p: (contents == p).any(1),
            "first token": lambda p: contents[:, 0] == p[0],
            "set": lambda p: np.array([set(row) == set(p) for row in contents.tolist()], bool),
        }[compare](part if compare != "set" else part.tolist())
        if chain == "right":
            same = same & (parent == before)
        elif chain == "place":
            depth = np.array([len(_begin(contents, parent, c)) // size for c in range(len(contents))], int)
            same = same & (depth == i + 1)
        here = np.flatnonzero(same)
        if not here.size:
            if miss == "stop":
                break
            continue
        before = int(here[0])
        found.append(before)
    if give == "tokens":
        return np.array(len(found) * size)
    if give == "last":
        return np.array(found[-1] if found else -1)
    if give == "backwards":
        found = found[::-1]
    return np.array(found, np.int64)


PREFIX = Exercise(
    name="find_prefix",
    contract="prompt int (T,), T >= 1; contents int (C, B): the tokens of each full block that is kept; parent int "
    "(C,): the block before it in its text, -1 at the beginning of a text -> blocks int (k,): the blocks that hold "
    "the longest "
    "beginning of the prompt, in order; the prompt's last token is never among them, because its logits are wanted; "
    "nothing found: shape (0,)",
    make_cases=_cases,
    oracle=_oracle,
    returns=(Returns("blocks"),),
    misconceptions=[
        Misconception(
            "same-words-other-beginning",
            "You compare the words of a block alone. A key depends on ALL tokens before it: the same words after "
            "another beginning have "
            "other keys. The block before must match as well: parent.",
            produces=partial(_mistaken, chain="none"),
        ),
        Misconception(
            "same-words-at-the-same-place",
            "The same words at the same place are not enough: the tokens before them must be the same. Compare "
            "`parent` with the block "
            "found before.",
            produces=partial(_mistaken, chain="place"),
        ),
        Misconception(
            "nothing-left-to-compute",
            "When the prompt ends with a full block that is kept, everything is taken from the pool and nothing is "
            "computed: where "
            "should the logits come from? The last token is never taken: at most (T - 1) // B blocks.",
            produces=partial(_mistaken, end="all"),
        ),
        Misconception(
            "one-block-too-few",
            "You always leave out the last full block. It may be taken if at least one token comes after it.",
            produces=partial(_mistaken, end="one less"),
        ),
        Misconception(
            "first-block-only",
            "You stop after the first block; a prefix may be many blocks long.",
            produces=partial(_mistaken, end="first"),
        ),
        Misconception(
            "jumps-over-a-miss",
            "After a block that is not kept you go on looking. A prefix ends with the first block that is missing.",
            produces=partial(_mistaken, chain="none", miss="go on"),
        ),
        Misconception(
            "jumps-over-a-miss-to-the-same-place",
            "After a block that is not kept you go on looking. A prefix ends with the first block that is missing.",
            produces=partial(_mistaken, chain="place", miss="go on"),
        ),
        Misconception(
            "one-token-is-enough",
            "One token that agrees was enough for you; all B must agree: .all(axis=1).",
            produces=partial(_mistaken, compare="any token"),
        ),
        Misconception(
            "compares-first-tokens",
            "Only the first token of each block is compared; all B must agree.",
            produces=partial(_mistaken, compare="first token"),
        ),
        Misconception(
            "order-of-tokens-ignored",
            "The same tokens in another order are another text: compare place by place, not sets or sums.",
            produces=partial(_mistaken, compare="set"),
        ),
        Misconception(
            "counts-tokens",
            "You return a number of tokens; the contract asks for the blocks, which go into the new table.",
            produces=partial(_mistaken, give="tokens"),
        ),
        Misconception(
            "last-block-only",
            "You return the last block only; the table needs all of them.",
            produces=partial(_mistaken, give="last"),
        ),
        Misconception(
            "blocks-backwards",
            "The right blocks from last to first; a table goes from first to last.",
            produces=partial(_mistaken, give="backwards"),
        ),
    ],
    hint="Remember the block found last (-1 at the start). The next one has the right tokens AND that block as its "
    "parent.",
    points=3,
)
