"""Request-level batching, the baseline: a batch is formed, computed to the end of its longest answer, and returned.

This is what a plain call of `generate` with several prompts does: rows whose answer has ended are still computed.
Kinder than many real baselines in two ways: prompts are not padded, and nobody waits for a batch to fill up.
Source: orca, which describes and measures it.
"""

from __future__ import annotations

from edgeinfer.memory.serving.requests import Event, Phase, Row, StepRecord, as_rows
from edgeinfer.memory.serving.scheduler import Scheduler


class StaticBatching(Scheduler):
    """Request-level scheduling with the same queue, pool and arithmetic as `Engine`."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._answers: dict[str, list[Event]] = {}

    def step(self) -> list[Event]:
        """Compute one iteration of the current batch; events come all at once, when its last answer has ended."""
        if not self.running:
            self._form()
        if not self.running:
            self.last_step = None
            return []
        plan = [(s, s.missing) for s in self.running]
        phases: list[Phase] = ["idle" if s.finish_reason else s.phase for s, _ in plan]
        logits = as_rows(self._compute(plan))
        rows = tuple(Row(s.id, n, s.computed, phase) for (s, n), phase in zip(plan, phases, strict=True))
        self.last_step = StepRecord(rows, held=self.runner.num_blocks - self.runner.free_blocks)
        for (sequence, _), row in zip(plan, logits, strict=True):
            if sequence.finish_reason:
                sequence.tokens.append(sequence.tokens[-1])  # padding: the row goes on, nobody reads it
            else:
                self._answers.setdefault(sequence.id, []).append(sequence.take(row))
        return self._ended()

    def cancel(self, request_id: str) -> bool:
        """Forget a request, and give its blocks back at once; see `Scheduler.cancel`."""
        self._answers.pop(request_id, None)
        return super().cancel(request_id)

    def _form(self) -> None:
        """Take the longest row of requests from the queue whose worst case fits into the pool."""
        while self.waiting and len(self.running) < self.max_batch:
            batch = [*self.running, self.waiting[0]]
            longest = max(s.request.max_tokens for s in batch)
            ends = [len(s.tokens) + longest for s in batch]
            blocks = sum(self.blocks_for(end - 1) for end in ends)
            alone = len(batch) == 1
            if not alone and (blocks > self.runner.num_blocks or (self.context and max(ends) > self.context)):
                return
            self.running.append(self.waiting.pop(0))

    def _ended(self) -> list[Event]:
        if not all(s.finish_reason for s in self.running):
            return []
        events = [event for s in self.running for event in self._answers.pop(s.id)]
        for sequence in self.running:
            self._release(sequence)
        self.running = []
        return events
