"""Lab 3, exercise 2: a cache of codes that grows token by token, without touching what it holds.

The oracle codes a full group with the oracle of exercise 1. C coded tokens, R recent ones, D channels. Source: kivi.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns
from edgeinfer.grading.exercises._lab03_keys import grid_problem, key_like, mistaken_grid, per_channel, per_token


def _append_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = []
    for groups, waiting, g, d, bits in (
        (2, 1, 4, 3, 4),
        (2, 3, 4, 3, 4),
        (0, 0, 8, 5, 2),
        (0, 7, 8, 2, 3),
        (3, 1, 2, 6, 8),
    ):
        codes = rng.integers(0, 2**bits - 1, (groups * g, d)).astype(np.uint8)  # the largest code need not occur
        scale = rng.uniform(0.2, 1.0, (groups, d)).astype(np.float32)
        low = rng.normal(0, 2, (groups, d)).astype(np.float32)
        recent = key_like(rng, waiting + 1, d)
        if waiting == g - 1 and g > 2:
            recent[:, 0] = -0.5  # does not move within the group
        cases.append((codes, scale, low, recent[:waiting], recent[waiting], bits, g))
    return cases


Cache = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _append(
    codes: np.ndarray,
    scale: np.ndarray,
    low: np.ndarray,
    recent: np.ndarray,
    key: np.ndarray,
    bits: int,
    group_size: int,
) -> Cache:
    waiting = np.array([*recent, key], np.float32)
    if len(waiting) < group_size:
        return codes, scale, low, waiting
    fresh = per_channel(waiting, bits, group_size)
    grown = (np.array([*old, *new], new.dtype) for old, new in zip((codes, scale, low), fresh, strict=True))
    return (*grown, np.zeros((0, len(key)), np.float32))  # type: ignore[return-value]


def _append_ok(args: Args, got: Arrays) -> str:
    codes, scale, low, recent, key, bits, group_size = args
    old = zip(("codes", "scale", "low"), got, (codes, scale, low), strict=False)
    for name, mine, theirs in old:
        if not np.allclose(mine[: len(theirs)], theirs, rtol=1e-6, atol=0):
            return f"`{name}` of the groups that were finished before has changed."
    waiting = np.concatenate([recent, key[None]])
    if len(waiting) < group_size:
        return "" if np.array_equal(got[3], waiting) else "`recent` is not the old `recent` with `key` as its last row."
    new = got[0][len(codes) :], got[1][len(scale) :], got[2][len(low) :]
    problem = grid_problem(waiting, bits, group_size, new)
    return problem and f"The new group: {problem}"


def _mistaken_append(
    codes: np.ndarray,
    scale: np.ndarray,
    low: np.ndarray,
    recent: np.ndarray,
    key: np.ndarray,
    bits: int,
    group_size: int,
    when: int = 0,
    first: bool = False,
    prepend: bool = False,
    empty: bool = True,
    grid: str = "own",
) -> Cache:
    """Growing by a token with one screw loose; `when` is added to the number of tokens that makes a group full."""
    waiting = np.concatenate([key[None], recent] if first else [recent, key[None]])
    full = group_size + when
    if len(waiting) < full:
        return codes, scale, low, waiting
    now, rest = waiting[:group_size], waiting[full:]
    if grid == "last" and len(scale):
        step, start = scale[-1:], low[-1:]
        fresh = np.clip(np.rint((now - start) / step), 0, 2**bits - 1).astype(np.uint8), step, start
    else:
        fresh = mistaken_grid(now, bits, len(now))
    pairs = zip((codes, scale, low), fresh, strict=True)
    grown = [np.concatenate([n, o] if prepend else [o, n]) for o, n in pairs]
    return grown[0], grown[1], grown[2], rest if empty else now


def _codes_alone(
    codes: np.ndarray,
    scale: np.ndarray,
    low: np.ndarray,
    recent: np.ndarray,
    key: np.ndarray,
    bits: int,
    group_size: int,
) -> Cache:
    """Each token becomes a group of its own, whatever waits."""
    fresh = mistaken_grid(key[None], bits, 1)
    grown = [np.concatenate(pair) for pair in zip((codes, scale, low), fresh, strict=True)]
    return grown[0], grown[1], grown[2], recent


def _one_too_early(*args: Any) -> Cache:
    """Looks at the old `recent` only: codes it when the new token would fill the group."""
    codes, scale, low, recent, key, bits, group_size = args
    if len(recent) < group_size - 1:
        return _mistaken_append(*args)
    fresh = mistaken_grid(recent, bits, len(recent))
    grown = [np.concatenate(pair) for pair in zip((codes, scale, low), fresh, strict=True)]
    return grown[0], grown[1], grown[2], key[None]


def _token_grids(*args: Any) -> Cache:
    codes, scale, low, recent, key, bits, group_size = args
    if len(recent) + 1 < group_size:
        return _mistaken_append(*args)
    group = np.concatenate([recent, key[None]])
    new, step, start = per_token(group, bits, group_size, keep=True)
    wide = np.ones((1, len(key)))
    return np.concatenate([codes, new]), np.vstack([scale, step * wide]), np.vstack([low, start * wide]), recent[:0]


def _loses(*args: Any) -> Cache:
    codes, scale, low, recent, key, _, group_size = args
    full = len(recent) + 1 == group_size
    return codes, scale, low, recent if full else np.concatenate([recent, key[None]])


def _flat(*args: Any) -> Cache:
    *grids, recent = _mistaken_append(*args)
    return grids[0], grids[1], grids[2], recent if len(recent) else np.zeros(0)


def _without_exercise_1(*args: Any) -> Cache:
    """Unpacks what a stub of quantize_keys returns."""
    if len(args[3]) + 1 < args[6]:
        return _mistaken_append(*args)
    nothing: Any = None
    codes, scale, low = nothing
    return codes, scale, low, args[3]


APPEND = Exercise(
    name="append_token",
    contract="codes uint8 (C, D), scale floating (C // group_size, D), low floating (C // group_size, D): the coded "
    "tokens; recent float32 (R, D) with R < group_size: tokens not coded yet; key float32 (D,): the new token; bits "
    "int, group_size int -> codes, scale, low, recent with the new token last; as soon as `recent` holds group_size "
    "tokens they become one more group of codes and `recent` is empty, shape (0, D)",
    make_cases=_append_cases,
    oracle=_append,
    returns=(
        Returns("codes", dtype="uint8", atol=1e-4),
        Returns("scale", dtype="floating", rtol=1e-4),
        Returns("low", dtype="floating", rtol=1e-4, atol=1e-5),
        Returns("recent", dtype="floating"),
    ),
    accept=_append_ok,
    needs=("quantize_keys",),
    misconceptions=[
        Misconception(
            "quantize-keys-gives-nothing",
            "Your quantize_keys returns None. Exercise 1 comes first: this one calls it. If you have corrected it, run "
            "its cell again.",
            produces=_without_exercise_1,
        ),
        Misconception(
            "codes-each-token",
            "The new token was coded at once, as a group of its own. A grid per channel needs the other tokens of the "
            "group: until it is full, tokens wait in `recent`, not rounded.",
            produces=_codes_alone,
        ),
        Misconception(
            "waits-one-too-long",
            "The group is full as soon as the new token is its last one. You wait for one token more, so `recent` "
            "grows to group_size: test AFTER the new token has been added.",
            produces=partial(_mistaken_append, when=1),
        ),
        Misconception(
            "codes-without-the-new-token",
            "The group was coded before the new token had joined it, so it is one token short. First add the token, "
            "then look whether the group is full.",
            produces=_one_too_early,
        ),
        Misconception(
            "new-token-first",
            "The new token was put in front. Tokens stand in the order in which they came: it is the last row.",
            produces=partial(_mistaken_append, first=True),
        ),
        Misconception(
            "new-group-first",
            "The new group was put in front of the old ones. Tokens stand in the order in which they came.",
            produces=partial(_mistaken_append, prepend=True),
        ),
        Misconception(
            "recent-not-emptied",
            "The group is coded, but its tokens also stay in `recent`: attention would see them twice. Return an empty "
            "`recent` of shape (0, D).",
            produces=partial(_mistaken_append, empty=False),
        ),
        Misconception(
            "old-grid-for-new-tokens",
            "The new group was put on the grid of the group before. Its keys may lie outside: each group has a grid of "
            "its own, from its own smallest and largest key.",
            produces=partial(_mistaken_append, grid="last"),
        ),
        Misconception(
            "touches-old-codes",
            "Codes, scales or offsets of finished groups have changed. Coding them again costs a pass over the whole "
            "cache and rounds what was rounded already. Finished groups are never touched: concatenate.",
            recognises=lambda args, got, want: any(
                not np.allclose(g[: len(a)], a, rtol=1e-6, atol=0) for g, a in zip(got[:3], args[:3], strict=True)
            ),
        ),
        Misconception(
            "loses-the-new-token",
            "The token that makes the group full is lost: it is neither coded nor in `recent`.",
            produces=_loses,
        ),
        Misconception(
            "flat-recent",
            "An empty `recent` still has D columns: shape (0, D), as recent[:0] gives it, not (0,).",
            produces=_flat,
        ),
        Misconception(
            "grid-per-token",
            "The new group got a grid for each token. Keys share a grid along the tokens of a group, one per channel: "
            "call your quantize_keys.",
            produces=_token_grids,
        ),
        Misconception(
            "zero-division",
            "Right until a channel does not move within the new group: its scale must be 1, not 0.",
            recognises=lambda args, got, want: (
                len(args[3]) + 1 == args[6] and bool((np.ptp(np.concatenate([args[3], args[4][None]]), 0) == 0).any())
            ),
        ),
    ],
    hint="Follow three calls with group_size 2 on paper: what lies in `recent` before and after each, and when "
    "does the quantized part grow? How many tokens are there in all after each call?",
    points=3,
)
