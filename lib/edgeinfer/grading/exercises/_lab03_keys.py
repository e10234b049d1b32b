"""Lab 3, exercise 1: keys on a grid per channel, over groups of tokens.

The oracle goes through the groups in loops, with Python numbers. T tokens, D channels. Source: kivi.
"""

from functools import partial
from typing import Any

import numpy as np

from edgeinfer.grading.exercise import Args, Arrays, Exercise, Misconception, Returns

SLACK = 2e-3  # of a step: float32 division and multiplication by the inverse may land on different sides of a half
Grid = tuple[np.ndarray, np.ndarray, np.ndarray]


def key_like(rng: np.random.Generator, tokens: int, channels: int) -> np.ndarray:
    """Channels of very different middle and spread, as keys have them."""
    middle, spread = rng.normal(0, 2, channels), rng.uniform(0.1, 1.5, channels)
    return (middle + spread * rng.normal(size=(tokens, channels))).astype(np.float32)


def _key_cases(rng: np.random.Generator) -> list[Args]:
    cases: list[Args] = [
        (key_like(rng, t, d), bits, g)
        for t, d, bits, g in ((32, 16, 4, 8), (24, 24, 3, 24), (16, 4, 8, 4), (18, 6, 2, 6))
    ]
    silent = key_like(rng, 16, 8)
    silent[8:, 3] = 1.25  # a channel that does not move within a group
    return [*cases, (silent, 4, 8)]


def per_channel(keys: np.ndarray, bits: int, group_size: int) -> Grid:
    tokens, channels = keys.shape
    codes = np.zeros((tokens, channels), np.uint8)
    scale = np.zeros((tokens // group_size, channels), np.float32)
    low = np.zeros((tokens // group_size, channels), np.float32)
    for group in range(tokens // group_size):
        rows = range(group * group_size, (group + 1) * group_size)
        for c in range(channels):
            column = [float(keys[t, c]) for t in rows]
            step = (max(column) - min(column)) / ((1 << bits) - 1) or 1.0
            scale[group, c], low[group, c] = step, min(column)
            for t, v in zip(rows, column, strict=True):
                codes[t, c] = round((v - min(column)) / step)
    return codes, scale, low


def _off(name: str, got: np.ndarray, want: np.ndarray, size: np.ndarray) -> str:
    """A sentence about the first value that is further away than float32 explains; `size`: what it is measured by."""
    bad = ~(np.abs(got.astype(np.float64) - want) <= 1e-5 * size)
    if not bad.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"`{name}`{list(at)} is {float(got[at]):.6g}, expected {float(want[at]):.6g} ({int(bad.sum())} differ)."


def grid_problem(keys: np.ndarray, bits: int, group_size: int, got: Arrays) -> str:
    """Empty if codes, scale and low put these keys on their grid; else what is wrong, in one sentence."""
    codes, scale, low = got
    _, step, start = (a.astype(np.float64) for a in per_channel(keys, bits, group_size))
    size = np.maximum(np.abs(start), step * 2**bits)
    problem = _off("scale", scale, step, size) or _off("low", low, start, size)
    if problem:
        return problem
    each = np.repeat(np.arange(len(step)), group_size)
    ideal = (keys.astype(np.float64) - start[each]) / step[each]
    far = np.abs(ideal - codes) > 0.5 + SLACK
    if far.any():
        at = tuple(int(i) for i in np.argwhere(far)[0])
        return f"`codes`{list(at)} is {int(codes[at])}, but (key - low) / scale is {ideal[at]:.3f}."
    return ""


def _keys_ok(args: Args, got: Arrays) -> str:
    keys, bits, group_size = args
    return grid_problem(keys, bits, group_size, got)


def _guard(scale: Any) -> Any:
    return np.where(np.asarray(scale) > 0, scale, 1)


def mistaken_grid(
    keys: np.ndarray,
    bits: int,
    group_size: int,
    layout: str = "groups",
    hold_zero: bool = False,
    symmetric: bool = False,
    tile: bool = False,
    whole: bool = False,
) -> Grid:
    """The grid per channel with one screw loose."""
    tokens, channels = keys.shape
    wide = keys.astype(np.float64)
    if layout == "interleaved":
        parts = wide.reshape(group_size, -1, channels).swapaxes(0, 1)
    elif layout == "channels":  # groups along the channels of one token: (T, D // g)
        parts = wide.reshape(tokens, -1, group_size).swapaxes(1, 2)
    else:
        parts = wide.reshape(-1, group_size, channels)
    spread = wide[None] if whole else parts
    low, high = spread.min(1), spread.max(1)
    if tile:
        low, high = low.min(-1, keepdims=True) + 0 * low, high.max(-1, keepdims=True) + 0 * high
    if hold_zero:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        high = np.maximum(np.abs(low), np.abs(high))
        low = -high
    scale = _guard((high - low) / (2**bits - 1))
    scale, low = (np.broadcast_to(a, (len(parts), a.shape[1])) for a in (scale, low))
    codes = np.clip(np.rint((parts - low[:, None]) / scale[:, None]), 0, 2**bits - 1)
    codes = codes.swapaxes(0, 1) if layout == "interleaved" else codes.swapaxes(1, 2) if layout == "channels" else codes
    return codes.reshape(keys.shape).astype(np.uint8), scale.astype(np.float32), low.astype(np.float32)


def per_token(keys: np.ndarray, bits: int, group_size: int, keep: bool = False) -> Grid:
    low, high = keys.min(1, keepdims=True), keys.max(1, keepdims=True)
    scale = _guard((high - low) / (2**bits - 1))
    codes = np.rint((keys - low) / scale).astype(np.uint8)
    return (codes, scale, low) if keep else (codes, scale[:, 0], low[:, 0])


def _tile_pairs(keys: np.ndarray, bits: int, group_size: int) -> Grid:
    codes, scale, low = mistaken_grid(keys, bits, group_size, tile=True)
    return codes, scale[:, 0], low[:, 0]


def _integer_zero(keys: np.ndarray, bits: int, group_size: int) -> Grid:
    codes, scale, low = per_channel(keys, bits, group_size)
    return codes, scale, np.rint(-low / scale).astype(np.float32)


def _grid_told_otherwise(keys: np.ndarray, bits: int, group_size: int, tells: str) -> Grid:
    """The right grid, of which something else is returned."""
    codes, scale, low = per_channel(keys, bits, group_size)
    if tells == "decoded":
        each = np.arange(len(keys)) // group_size
        return low[each] + scale[each] * codes, scale, low
    return (
        codes,
        {"inverse": 1 / scale, "swapped": low}.get(tells, scale),
        {"middle": low + scale * (2**bits - 1) / 2, "swapped": scale}.get(tells, low),
    )


def _one_row(keys: np.ndarray, bits: int, group_size: int, flat: bool) -> Grid:
    codes, scale, low = per_channel(keys, bits, len(keys))
    return (codes, scale[0], low[0]) if flat else (codes, scale, low)


def _steps_too_small(args: Args, got: Arrays, want: Arrays) -> bool:
    """Whether ranges were divided by 2**bits, whatever became of the largest keys."""
    return bool(np.isclose(np.median(got[1] / want[1]), 1 - 0.5 ** args[1], rtol=1e-4))


def _rounded_down(args: Args, got: Arrays, want: Arrays) -> bool:
    below = want[0].astype(int) - got[0]
    same_grid = all(np.allclose(g, w, rtol=1e-5, atol=1e-6) for g, w in zip(got[1:], want[1:], strict=True))
    return bool(same_grid and below.min() >= 0 and below.max() == 1)


PER_TOKEN = (
    "These grids belong to tokens: minimum and maximum were taken over the channels. Keys have channels that lie far "
    "from zero in every token, and such a channel would stretch the grid of all others. Take them over the tokens of "
    "a group, one channel at a time: reshape to (T // group_size, group_size, D) and reduce axis 1."
)

WHOLE_CONTEXT = (
    "All groups of a channel got the range of the whole context. Then a new token could change every old code. Take "
    "the range inside each group of tokens."
)

KEYS = Exercise(
    name="quantize_keys",
    contract="keys float32 (T, D), bits int 2..8, group_size int dividing T -> codes uint8 (T, D) from 0 to 2**bits-1, "
    "scale floating (T // group_size, D), low floating (T // group_size, D): key is about low + scale * code; low is "
    "the smallest key of its group and channel; scale is 1 where all keys of a group and channel are equal",
    make_cases=_key_cases,
    oracle=per_channel,
    returns=(
        Returns("codes", dtype="uint8", atol=1e-4),
        Returns("scale", dtype="floating", rtol=1e-4),
        Returns("low", dtype="floating", rtol=1e-4, atol=1e-5),
    ),
    accept=_keys_ok,
    misconceptions=[
        Misconception("per-token", PER_TOKEN, produces=per_token),
        Misconception("per-token-column", PER_TOKEN, produces=partial(per_token, keep=True)),
        Misconception("groups-of-channels", PER_TOKEN, produces=partial(mistaken_grid, layout="channels")),
        Misconception(
            "one-grid-per-group",
            "One grid serves all channels of a group. Channels differ in middle and spread, so each has its own: "
            "reduce over the tokens of the group only.",
            produces=partial(mistaken_grid, tile=True),
        ),
        Misconception(
            "one-number-per-group",
            "One grid serves all channels of a group. Channels differ in middle and spread, so each has its own: "
            "reduce over the tokens of the group only.",
            produces=_tile_pairs,
        ),
        Misconception("one-grid-per-channel", WHOLE_CONTEXT, produces=partial(mistaken_grid, whole=True)),
        Misconception("one-row-of-grids", WHOLE_CONTEXT, produces=partial(_one_row, flat=False)),
        Misconception("one-flat-row-of-grids", WHOLE_CONTEXT, produces=partial(_one_row, flat=True)),
        Misconception(
            "groups-interleaved",
            "A group is a run of NEIGHBOURING tokens: reshape to (T // group_size, group_size, D), not to "
            "(group_size, T // group_size, D).",
            produces=partial(mistaken_grid, layout="interleaved"),
        ),
        Misconception(
            "divides-by-number-of-codes",
            "2**bits codes have 2**bits - 1 steps between them (fence posts and fences). Dividing by 2**bits leaves "
            "the largest key without a code.",
            recognises=_steps_too_small,
        ),
        Misconception(
            "range-holds-zero",
            "The range was widened to hold 0, as in lab 1. A key's grid need not hold 0: its `low` is a value, not a "
            "code. A channel around 5 would waste most of its codes below 4.",
            produces=partial(mistaken_grid, hold_zero=True),
        ),
        Misconception(
            "symmetric-grid",
            "This grid lies around 0. Most channels of keys do not: let it start at the smallest key of the group.",
            produces=partial(mistaken_grid, symmetric=True),
        ),
        Misconception(
            "truncates",
            "The codes are rounded down, so every key moves down by half a step on average: round to nearest, "
            "np.round.",
            recognises=_rounded_down,
        ),
        Misconception(
            "integer-zero-point",
            "Codes and scales are right. `low` is the smallest key itself, in the unit of the keys, not the code of 0 "
            "as in lab 1.",
            produces=_integer_zero,
        ),
        Misconception(
            "middle-instead-of-low",
            "Codes and scales are right. `low` is the value of code 0, the smallest key, not the middle of the range.",
            produces=partial(_grid_told_otherwise, tells="middle"),
        ),
        Misconception(
            "inverse-scale",
            "You return codes per key instead of keys per code. Whoever decodes computes low + scale * code.",
            produces=partial(_grid_told_otherwise, tells="inverse"),
        ),
        Misconception(
            "scale-and-low-swapped",
            "The values are right, but scale and low are swapped: the order is codes, scale, low.",
            produces=partial(_grid_told_otherwise, tells="swapped"),
        ),
        Misconception(
            "decoded-keys",
            "These are the rounded keys, not their codes. The codes are whole numbers from 0 to 2**bits - 1.",
            produces=partial(_grid_told_otherwise, tells="decoded"),
        ),
        Misconception(
            "zero-division",
            "Right until a channel does not move within a group: then max - min is 0, and 0 / 0 is NaN. Let the scale "
            "be 1 there.",
            recognises=lambda args, got, want: bool(
                (np.ptp(args[0].reshape(-1, args[2], args[0].shape[1]), 1) == 0).any()
            ),
        ),
    ],
    hint="Over which tokens and over which channels is one scale shared? Print the shape of your scales for 8 "
    "tokens, 3 channels and groups of 4. What if all keys of a group are equal?",
    points=3,
)
