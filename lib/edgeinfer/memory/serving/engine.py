"""Continuous batching: who is computed is decided anew before every iteration.

Finished requests leave at once and waiting ones join at once; long prompts are read in chunks beside the others' next
tokens; prompts that begin alike share blocks; when blocks run out, the latest request gives its own back and continues
later. Synchronous: one caller, one thread. Knows neither text nor connections. Sources: orca (iterations),
sarathi-serve (chunks), pagedattention (preemption, sharing).
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
        share_prefixes: whether full blocks with the same beginning are computed once and shared, also with requests
            that come after the first one has ended, and equal prompts are read once; the answers do not change.

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
        share_prefixes: bool = True,
    ) -> None:
        super().__init__(runner, max_batch, max_waiting, context)
        if token_budget < max_batch:
            raise ValueError(
                f"token_budget {token_budget} is smaller than max_batch {max_batch}, so not every request could get "
                "its next token; raise the budget or lower the batch"
            )
        if preemption not in ("recompute", "swap"):
            raise ValueError(f"preemption must be 'recompute' or 'swap'; came {preemption!r}")
        self.token_budget, self.preemption, self.share_prefixes = token_budget, preemption, share_prefixes
        self.preemptions = self.reused = 0  # requests that had to step back; tokens that were not computed again
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
        self._evicted, before = [], self.reused
        self._admit()
        plan = self._plan()
        if not plan:
            self.last_step = None
            return []
        phases = [s.phase for s, _ in plan]
        logits = as_rows(self._compute(plan))
        rows = [Row(s.id, n, s.computed, phase) for (s, n), phase in zip(plan, phases, strict=True)]
        held = self.runner.num_blocks - self.runner.free_blocks
        events = []
        for (sequence, _), phase, row in zip(plan, phases, logits, strict=True):
            if sequence.missing:  # the prompt has not been read to its end: these logits predict a known token
                continue
            twins = self._fork(sequence) if phase == "prefill" else []
            for one in (sequence, *twins):
                events.append(one.take(row))
                if one.finish_reason:
                    self.running.remove(one)
                    self._release(one)
        self.last_step = StepRecord(tuple(rows), tuple(self._evicted), self.reused - before, held)
        return events

    # ---- who joins -----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Let waiting requests join in order of arrival, while places and blocks last."""
        for sequence in [s for s in self.waiting if not s.paused]:
            if sum(not s.paused for s in self.running) >= self.max_batch:
                return
            while (needed := self._to_come(sequence)) > self._unpromised() and self._evict_paused():
                pass
            if needed > self._unpromised():
                return  # later requests do not overtake: a long prompt would never get its turn
            self.waiting.remove(sequence)
            if sequence.swapped:
                self.runner.swap_in(sequence.id)
                sequence.swapped = False
            elif self._twin(sequence) is None:
                self._adopt(sequence)
            insort(self.running, sequence, key=lambda s: s.number)

    def _unpromised(self) -> int:
        """Free blocks, less those that admitted requests still need to read what they have."""
        return self.runner.free_blocks - sum(self._to_come(s) for s in self.running)

    def _to_come(self, sequence: Sequence) -> int:
        """Free blocks that a request takes to read what it has; blocks that others hold are not counted."""
        if sequence.computed and not sequence.swapped:
            return self.runner.blocks.blocks_needed(sequence.id, sequence.missing)
        if self._twin(sequence):
            return 1  # all blocks are those of the twin; the last one is copied when it writes
        found = self.runner.blocks.find(sequence.tokens[:-1]).held if self.share_prefixes else 0
        return self.blocks_for(len(sequence.tokens)) - found

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
        budget, used, blocks = self.token_budget, 0, self.runner.blocks
        for sequence in [s for s in self.running if s.phase == "decode" and not s.paused]:
            if budget == 0:
                break
            while sequence in self.running:
                needed = blocks.blocks_needed(sequence.id, 1)
                if needed <= self.runner.free_blocks - used:
                    plan.append((sequence, 1))
                    budget, used = budget - 1, used + needed
                    break
                if not self._evict_paused():
                    self._evict(self.running[-1])
        for sequence in [s for s in self.running if s.phase == "prefill" and not s.paused]:
            self._adopt(sequence, self.runner.free_blocks - used)
            if self._is_coming(sequence, plan):
                continue
            free = self.runner.free_blocks - used
            room = (free + self.blocks_for(sequence.computed)) * self.runner.block_size - sequence.computed
            count = min(sequence.missing, budget, room)
            if count > 0:
                plan.append((sequence, count))
                budget -= count
                used += self.blocks_for(sequence.computed + count) - self.blocks_for(sequence.computed)
        return plan

    # ---- who shares ----------------------------------------------------------------------------------------------

    def _adopt(self, sequence: Sequence, spare: int | None = None) -> None:
        """Take blocks with the next tokens of a request from the pool, at most `spare` that nobody holds."""
        if not self.share_prefixes or self._twin(sequence):
            return
        blocks, opens = self.runner.blocks, not sequence.computed
        if opens:
            blocks.add(sequence.id)
        # The last token is always computed, for its logits are wanted.
        count = blocks.adopt(sequence.id, sequence.tokens[sequence.computed : -1], spare)
        if opens and not count:
            blocks.free(sequence.id)
        self._note(sequence, count)

    def _note(self, sequence: Sequence, count: int) -> None:
        sequence.computed += count
        self.reused += count
        if not sequence.generated:
            sequence.reused += count

    def _is_coming(self, sequence: Sequence, plan: list[tuple[Sequence, int]]) -> bool:
        """Whether an earlier request is about to read what this one would read next, and leave it in the pool."""
        if not self.share_prefixes:
            return False
        if self._twin(sequence):
            return True
        end = sequence.computed + self.runner.block_size
        if sequence.computed % self.runner.block_size or end >= len(sequence.tokens):
            return False
        return any(other.computed < end and other.tokens[:end] == sequence.tokens[:end] for other, _ in plan)

    def _twin(self, sequence: Sequence) -> Sequence | None:
        """An earlier request that reads the same tokens to their end: its cache can be forked then."""
        if not self.share_prefixes or sequence.computed:
            return None
        for other in self.running:
            if other.number >= sequence.number:
                return None
            if other.phase == "prefill" and not other.paused and other.tokens == sequence.tokens:
                return other
        return None

    def _fork(self, sequence: Sequence) -> list[Sequence]:
        """Let requests go on from a prompt that was read to its end, if theirs is the same."""
        if not self.share_prefixes:
            return []
        tokens = sequence.tokens
        twins = [s for s in self.running if not s.computed and not s.paused and s.tokens == tokens]
        for twin in twins:
            self.runner.blocks.fork(sequence.id, twin.id)
            self._note(twin, sequence.computed)
        return twins

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
            if not sequence.generated:
                sequence.reused = 0  # read again from the beginning
            self.preemptions += 1
            self._evicted.append(sequence.id)
        insort(self.waiting, sequence, key=lambda s: s.number)
