"""Prompts that begin alike, served with and without shared blocks: blocks, tokens read, time to the first token.

The same requests, pool and schedule both times. Counted without a model (simulated, on the clock that `vc2_serving`
fits), and run on the shipped model (measured). The findings stand in the evidence of PagedAttention.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from edgeinfer.evidence import vc2_serving

if TYPE_CHECKING:
    from edgeinfer.memory.serving import Arrival, Replay

KINDS, BEGINNING = 3, 112  # different instructions that requests begin with, and their length in tokens
BLOCKS, BLOCK_SIZE = 256, 16
LOAD = 0.1  # requests that arrive in the time of one full step
QUESTION, ANSWER = 24.0, 24.0  # mean tokens

Asked = tuple[list["Arrival"], list[list[int]]]


@dataclass(frozen=True)
class Sharing:
    """One trace, served with blocks shared and with blocks of its own for every request."""

    shared: Replay
    alone: Replay

    @property
    def read(self) -> float:
        """Tokens of prompts computed, over those without sharing."""
        return self.shared.read / self.alone.read

    @property
    def blocks(self) -> float:
        """Blocks held at the fullest moment, likewise."""
        return self.shared.most_held / self.alone.most_held

    @property
    def first_token(self) -> float:
        """Median time from arrival to the first token, likewise."""
        return self.shared.first_token / self.alone.first_token

    @property
    def different(self) -> int:
        """Answers that are not the same."""
        return sum(a.tokens != b.tokens for a, b in zip(self.shared.served, self.alone.served, strict=True))


@cache
def asked(requests: int, kinds: int = KINDS, beginning: int = BEGINNING, load: float = LOAD, seed: int = 3) -> Asked:
    """A synthetic trace whose prompts are one of a few beginnings and a question of their own, with the tokens.

    Args:
        requests: how many.
        kinds: different beginnings; the k-th is chosen in proportion to 1/k.
        beginning: tokens of each.
        load: requests that arrive in the time of one full step of this machine.
        seed: of lengths, arrivals and places in the held-out text.
    """
    from edgeinfer import models
    from edgeinfer.memory.serving import begin_alike, cut_prompts, make_trace

    text = models.held_out_tokens()[:20_000].tolist()
    rate = load / vc2_serving.full_step()
    trace = make_trace(seed, requests, rate, prompt_mean=QUESTION, output_mean=ANSWER, longest=128)
    beginnings = [text[1000 * k : 1000 * k + beginning] for k in range(kinds)]
    return begin_alike(trace, cut_prompts(trace, text, seed), beginnings, seed=seed)


def simulate(trace: Sequence[Arrival], prompts: Sequence[Sequence[int]], blocks: int = BLOCKS) -> Sharing:
    """Serve a trace twice without computing, on the clock fitted to measured steps."""
    from edgeinfer.memory.serving import DryRunner, Engine, replay

    def run(share: bool) -> Replay:
        engine = Engine(DryRunner(blocks, BLOCK_SIZE), vc2_serving.MAX_BATCH, share_prefixes=share)
        return replay(engine, trace, prompts, cost=vc2_serving.calibrated().seconds)

    return Sharing(run(True), run(False))


@cache
def measured(requests: int = 24) -> Sharing:
    """Serve a trace twice on the shipped model, in processor time of one thread."""
    import torch

    from edgeinfer import models
    from edgeinfer.memory.paging.runner import PagedRunner
    from edgeinfer.memory.serving import Engine, replay

    model = models.load("target")
    trace, prompts = asked(requests)

    def run(share: bool) -> Replay:
        engine = Engine(PagedRunner(model, BLOCKS, BLOCK_SIZE), vc2_serving.MAX_BATCH, share_prefixes=share)
        return replay(engine, trace, prompts, clock=time.thread_time)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Sharing(run(True), run(False))
    finally:
        torch.set_num_threads(threads)
