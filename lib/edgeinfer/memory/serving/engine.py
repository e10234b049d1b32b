"""Continuous batching: who is computed is decided anew before every iteration.

Finished requests leave at once and waiting ones join at once; long prompts are read in chunks beside the others' next
tokens; when blocks run out, the latest request gives its own back and continues later. Synchronous: one caller, one
thread. Knows neither text nor connections. Sources: orca (iterations), sarathi-serve (chunks), pagedattention
(preemption).
"""

from __future__ import annotations

from bisect import insort
from typing import Literal

from edgeinfer.memory.serving.requests import Event, Row, Runner, Sequence, StepRecord, as_rows
from edgeinfer.memory.serving.scheduler import Scheduler


class Engine(Scheduler):
    """Iteration-level scheduling over a pool of blocks.

    Args:
        runner: computes steps and owns the pool.
        max_batch: how many requests may be computed at once.
        token_budget: most tokens of one step; decoding rows come first, chunks of prompts fill what is left.
        preemption: what becomes of the cache of a request that must make room: "recompute" drops it and reads the
            tokens again later, "swap" moves it out of the pool and back.
        max_waiting: how many requests may wait; None: any number.
        context: the most tokens that the model can have in one sequence.

    Raises:
        ValueError: "token_budget 8 is smaller than max_batch 16 ..."

    Example::

        engine = Engine(PagedRunner(model, num_blocks=64, block_size=16, dtype=torch.float32))
        engine.add(Request("a", prompt=(1, 52, 83), max_tokens=5))
        while engine.busy:
            for event in engine.step():
                print(event.token)
    """

    def __init__(
        self,
        runner: Runner,
        max_batch: int = 16,
        token_budget: int = 64,
        preemption: Literal["recompute", "swap"] = "recompute",
        max_waiting: int | None = None,
        context: int | None = None,
    ) -> None:
        super().__init__(runner, max_batch, max_waiting, context)
        if token_budget < max_batch:
            raise ValueError(
                f"token_budget {token_budget} is smaller than max_batch {max_batch}, so not every request could get "
                "its next token; raise the budget or lower the batch"
            )
        if preemption not in ("recompute", "swap"):
            raise ValueError(f"preemption must be 'recompute' or 'swap'; came {preemption!r}")
        self.token_budget, self.preemption = token_budget, preemption
        self.preemptions = 0
        self._evicted: list[str] = []

    def pause(self, request_id: str) -> None:
        """Compute no more tokens of a request until `resume`; it keeps its blocks while nobody else needs them."""
        self._set_paused(request_id, True)

    def resume(self, request_id: str) -> None:
        """Let a paused request go on."""
        self._set_paused(request_id, False)

    def _set_paused(self, request_id: str, paused: bool) -> None:
        for sequence in self._all():
            if sequence.id == request_id:
                sequence.paused = paused

    @property
    def ready(self) -> bool:
        """Whether `step` has something to compute: paused requests alone are nothing to do."""
        return any(not s.paused for s in self._all())

    def step(self) -> list[Event]:
        """Compute one iteration: the next token of every decoding request and chunks of prompts.

        Returns:
            One event for each request that got a token; finished requests have given their blocks back.
        """
        self._evicted = []
        self._admit()
        plan = self._plan()
        if not plan:
            self.last_step = None
            return []
        phases = [s.phase for s, _ in plan]
        logits = as_rows(self._compute(plan))
        rows = [Row(s.id, n, s.computed, phase) for (s, n), phase in zip(plan, phases, strict=True)]
        self.last_step = StepRecord(tuple(rows), tuple(self._evicted))
        events = []
        for (sequence, _), row in zip(plan, logits, strict=True):
            if sequence.missing:  # the prompt has not been read to its end: these logits predict a known token
                continue
            events.append(sequence.take(row))
            if sequence.finish_reason:
                self.running.remove(sequence)
                self._release(sequence)
        return events

    # ---- who joins -----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Let waiting requests join in order of arrival, while places and blocks last."""
        for sequence in [s for s in self.waiting if not s.paused]:
            if sum(not s.paused for s in self.running) >= self.max_batch:
                return
            needed = self.blocks_for(len(sequence.tokens))
            while needed > self._unpromised() and self._evict_paused():
                pass
            if needed > self._unpromised():
                return  # later requests do not overtake: a long prompt would never get its turn
            self.waiting.remove(sequence)
            if sequence.swapped:
                self.runner.swap_in(sequence.id)
                sequence.swapped = False
            insort(self.running, sequence, key=lambda s: s.number)

    def _unpromised(self) -> int:
        """Free blocks, less those that admitted requests still need to read what they have."""
        promised = sum(self.blocks_for(len(s.tokens)) - self.blocks_for(s.computed) for s in self.running)
        return self.runner.free_blocks - promised

    # ---- who is computed -----------------------------------------------------------------------------------------

    def _plan(self) -> list[tuple[Sequence, int]]:
        while True:
            plan = self._fill()
            if plan or not any(not s.paused for s in self.running):
                return plan
            # Prompts half read hold all blocks, and none can go on: the latest starts again later.
            if not self._evict_paused():
                self._evict(self.running[-1])

    def _fill(self) -> list[tuple[Sequence, int]]:
        plan: list[tuple[Sequence, int]] = []
        budget, used = self.token_budget, 0
        for sequence in [s for s in self.running if s.phase == "decode" and not s.paused]:
            if budget == 0:
                break
            needed = self._new_blocks(sequence, 1)
            while needed > self.runner.free_blocks - used and sequence in self.running:
                if not self._evict_paused():
                    self._evict(self.running[-1])
            if sequence in self.running:
                plan.append((sequence, 1))
                budget, used = budget - 1, used + needed
        for sequence in [s for s in self.running if s.phase == "prefill" and not s.paused]:
            free = self.runner.free_blocks - used
            room = (free + self.blocks_for(sequence.computed)) * self.runner.block_size - sequence.computed
            count = min(sequence.missing, budget, room)
            if count > 0:
                plan.append((sequence, count))
                budget, used = budget - count, used + self._new_blocks(sequence, count)
        return plan

    def _new_blocks(self, sequence: Sequence, count: int) -> int:
        return self.blocks_for(sequence.computed + count) - self.blocks_for(sequence.computed)

    # ---- who makes room ------------------------------------------------------------------------------------------

    def _evict_paused(self) -> bool:
        """Take the blocks of the latest paused request that has any; False when there is none."""
        for sequence in reversed(self.running):
            if sequence.paused and sequence.computed:
                self._evict(sequence)
                return True
        return False

    def _evict(self, sequence: Sequence) -> None:
        """Send a running request back to the queue, at its old place, with its tokens but without blocks."""
        self.running.remove(sequence)
        if sequence.computed:
            if self.preemption == "swap":
                self.runner.swap_out(sequence.id)
                sequence.swapped = True
            else:
                self._release(sequence)
            self.preemptions += 1
            self._evicted.append(sequence.id)
        insort(self.waiting, sequence, key=lambda s: s.number)
