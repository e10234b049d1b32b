"""A synthetic trace of requests: bursts of arrivals, and prompts and answers of very different lengths.

It imitates the shape of the load of real services (many short requests, a long tail; arrivals that come in bursts), not
any service's log: nothing here was recorded. Lengths are scaled to the small models of this book.
Knows neither model nor scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Arrival:
    """One request of a trace.

    Args:
        at: time of arrival in seconds from the start of the trace.
        prompt_tokens: length of the prompt.
        output_tokens: length of the answer; schedulers do not know it before the answer ends.
    """

    at: float
    prompt_tokens: int
    output_tokens: int


def _lengths(
    rng: np.random.Generator, count: int, mean: float, spread: float, shortest: int, longest: int
) -> NDArray[np.int64]:
    """Log-normal lengths with the given mean before they are cut to the limits."""
    drawn = rng.lognormal(np.log(mean) - spread**2 / 2, spread, count)
    return np.clip(np.rint(drawn), shortest, longest).astype(np.int64)


def make_trace(
    seed: int,
    requests: int,
    rate: float = 20.0,
    burstiness: float = 2.0,
    prompt_mean: float = 48.0,
    prompt_spread: float = 0.8,
    output_mean: float = 32.0,
    output_spread: float = 1.0,
    longest: int = 256,
) -> list[Arrival]:
    """Draw a synthetic trace; the same arguments give the same trace.

    The gaps between arrivals are drawn from a gamma distribution with the coefficient of variation `burstiness`: at 1
    arrivals are a Poisson process, above 1 they come in bursts with pauses between them, at 0 in equal steps. Lengths
    are log-normal: most are short, a few very long. They do not depend on `rate` and `burstiness`, so that the same
    work can be offered faster or slower.

    Args:
        seed: of the random numbers.
        requests: how many.
        rate: mean number of arrivals per second; infinity: all arrive at once.
        burstiness: standard deviation of the gaps over their mean, 0 or more.
        prompt_mean: mean length of prompts, tokens (before they are cut to `longest`).
        prompt_spread: standard deviation of the logarithm of the length; 0: all equal.
        output_mean: mean length of answers, tokens.
        output_spread: likewise for answers.
        longest: no prompt and no answer is longer.

    Returns:
        The arrivals, earliest first.

    Raises:
        ValueError: "requests must be 1 or more; came 0", and likewise for the other arguments.
    """
    for name, value, least in (("requests", requests, 1), ("longest", longest, 1), ("burstiness", burstiness, 0)):
        if not value >= least:
            raise ValueError(f"{name} must be {least} or more; came {value}")
    for name, value in (("prompt_spread", prompt_spread), ("output_spread", output_spread)):
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more; came {value}")
    for name, value in (("rate", rate), ("prompt_mean", prompt_mean), ("output_mean", output_mean)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0; came {value}")
    # One generator for each column: changing one distribution leaves the other draws as they were.
    gaps_rng, prompt_rng, output_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    gaps = np.ones(requests)
    if burstiness > 1e-3:  # below, the gamma distribution is a point for all purposes
        shape = 1 / burstiness**2
        gaps = gaps_rng.gamma(shape, 1 / shape, requests)
    at = np.cumsum(gaps) / rate
    at -= at[0]
    prompts = _lengths(prompt_rng, requests, prompt_mean, prompt_spread, 1, longest)
    outputs = _lengths(output_rng, requests, output_mean, output_spread, 1, longest)
    return [Arrival(float(t), int(p), int(o)) for t, p, o in zip(at, prompts, outputs, strict=True)]


def cut_prompts(trace: Sequence[Arrival], tokens: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Give each request of a trace a prompt: a piece of `tokens` of the wanted length, from a place drawn by `seed`.

    Args:
        trace: from `make_trace`.
        tokens: token ids of real text, at least as long as the longest prompt.
        seed: of the places.

    Returns:
        One list of token ids for each request.

    Raises:
        ValueError: "the text has 10 tokens, but the trace asks for a prompt of 48; give a longer text".
    """
    needed = max((arrival.prompt_tokens for arrival in trace), default=0)
    if len(tokens) < needed:
        raise ValueError(
            f"the text has {len(tokens)} tokens, but the trace asks for a prompt of {needed}; give a longer text"
        )
    rng = np.random.default_rng(seed)
    starts = [int(rng.integers(0, len(tokens) - arrival.prompt_tokens + 1)) for arrival in trace]
    return [list(tokens[s : s + a.prompt_tokens]) for s, a in zip(starts, trace, strict=True)]


def begin_alike(
    trace: Sequence[Arrival],
    prompts: Sequence[Sequence[int]],
    beginnings: Sequence[Sequence[int]],
    skew: float = 1.0,
    seed: int = 0,
) -> tuple[list[Arrival], list[list[int]]]:
    """Put one of a few beginnings before each prompt, as services do whose requests carry instructions.

    Args:
        trace: arrivals.
        prompts: what each asks, see `cut_prompts`.
        beginnings: token ids of each.
        skew: the k-th beginning is chosen in proportion to k to the power of -skew; 0: all equally often.
        seed: of the choices.

    Returns:
        The arrivals with their new prompt lengths, and the prompts.

    Raises:
        ValueError: "beginnings must hold one or more; came none".
    """
    if not beginnings:
        raise ValueError("beginnings must hold one or more; came none")
    chances = np.arange(1, len(beginnings) + 1, dtype=float) ** -skew
    chosen = np.random.default_rng(seed).choice(len(beginnings), len(trace), p=chances / chances.sum())
    whole = [[*beginnings[k], *prompt] for k, prompt in zip(chosen, prompts, strict=True)]
    return [replace(a, prompt_tokens=len(p)) for a, p in zip(trace, whole, strict=True)], whole
