"""Plays a trace to a scheduler, on the clock of this machine or on a modelled one, and says what the clients saw.

Waiting for the next arrival takes no real time: the clock jumps. So a replay measures computing, never sleeping.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgeinfer.memory.serving.requests import Event, Request, StepRecord
from edgeinfer.memory.serving.trace import Arrival


class Steps(Protocol):
    """A scheduler as a replay sees it."""

    last_step: StepRecord | None

    def add(self, request: Request) -> None: ...
    def step(self) -> list[Event]: ...


@dataclass
class Served:
    """One request as its client saw it: times in seconds from the start of the trace."""

    request: Request
    arrived: float
    token_times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def latency(self) -> float:
        """From arrival to the last token."""
        return self.token_times[-1] - self.arrived

    @property
    def longest_gap(self) -> float:
        """The longest wait for a next token after the first."""
        return float(np.diff(self.token_times).max()) if len(self.token_times) > 1 else 0.0


@dataclass(frozen=True)
class TimedStep:
    """One iteration: when it started, how long it took, what was computed."""

    start: float
    seconds: float
    record: StepRecord


@dataclass
class Replay:
    """What happened: by request and by step."""

    served: list[Served]
    steps: list[TimedStep]

    @property
    def tokens(self) -> int:
        return sum(len(s.tokens) for s in self.served)

    @property
    def span(self) -> float:
        """From the first arrival to the last token, seconds."""
        return max(s.token_times[-1] for s in self.served) - min(s.arrived for s in self.served)

    @property
    def throughput(self) -> float:
        """Tokens of answers per second."""
        return self.tokens / self.span

    @property
    def latency(self) -> float:
        """Median time from arrival to the last token, seconds."""
        return float(np.median([s.latency for s in self.served]))

    @property
    def latency_per_token(self) -> float:
        """Median over the requests of latency over answer length, seconds; what the field calls normalized latency."""
        return float(np.median([s.latency / len(s.tokens) for s in self.served]))

    @property
    def first_token(self) -> float:
        """Median time from arrival to the first token, seconds."""
        return float(np.median([s.token_times[0] - s.arrived for s in self.served]))

    @property
    def useful(self) -> float:
        """Share of the computed rows that were not idle."""
        rows = [row for step in self.steps for row in step.record.rows]
        return sum(row.phase != "idle" for row in rows) / len(rows)

    @property
    def preemptions(self) -> int:
        return sum(len(step.record.preempted) for step in self.steps)

    @property
    def read(self) -> int:
        """Tokens that were computed in prefill: prompts, and what had to be read again."""
        return sum(row.tokens for step in self.steps for row in step.record.rows if row.phase == "prefill")

    @property
    def reused(self) -> int:
        """Tokens that were taken from the pool instead of being computed."""
        return sum(step.record.reused for step in self.steps)

    @property
    def most_held(self) -> int:
        """Blocks held at the fullest moment."""
        return max(step.record.held for step in self.steps)

    @property
    def held(self) -> float:
        """Blocks held on average over the steps."""
        return float(np.mean([step.record.held for step in self.steps]))


def replay(
    scheduler: Steps,
    trace: Sequence[Arrival],
    prompts: Sequence[Sequence[int]] | None = None,
    cost: Callable[[StepRecord], float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Replay:
    """Play a trace to its end. Every answer gets the length that the trace says.

    Args:
        scheduler: empty.
        trace: arrivals in order.
        prompts: token ids of each prompt; None: no two begin alike, for runners that only pretend.
        cost: seconds of a step (modelled); None: the time that the step takes on this machine.
        clock: that measures it; `time.thread_time` counts processor time, which other programs disturb less.

    Returns:
        Times of every token and every step.
    """
    waiting = []
    for number, arrival in enumerate(trace):
        # Without prompts every request has a token of its own, so that no two begin alike.
        prompt = tuple(prompts[number]) if prompts is not None else (number,) * arrival.prompt_tokens
        waiting.append(Served(Request(str(number), prompt, arrival.output_tokens), arrival.at))
    served = {s.request.id: s for s in waiting}
    steps: list[TimedStep] = []
    now, arrived, ended = 0.0, 0, 0
    while ended < len(waiting):
        while arrived < len(waiting) and waiting[arrived].arrived <= now:
            scheduler.add(waiting[arrived].request)
            arrived += 1
        started = clock()
        events = scheduler.step()
        seconds = clock() - started
        record = scheduler.last_step
        if record is None:
            if arrived == len(waiting):
                raise RuntimeError("the scheduler has requests left and computes nothing; it is stuck")
            now = waiting[arrived].arrived
            continue
        seconds = seconds if cost is None else cost(record)
        steps.append(TimedStep(now, seconds, record))
        now += seconds
        for event in events:
            served[event.request_id].token_times.append(now)
            served[event.request_id].tokens.append(event.token)
            ended += event.finish_reason is not None
    return Replay(waiting, steps)
