"""What both schedulers share: the queue, refusals, counting of blocks. It does not decide who is computed when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeinfer.memory.serving.requests import (
    Event,
    QueueFull,
    Request,
    RequestRefused,
    Runner,
    Sequence,
    StepRecord,
    Work,
)


class Scheduler:
    """Requests that wait and requests that run, over a pool of blocks.

    Args:
        runner: computes steps and owns the pool.
        max_batch: how many requests may be computed at once.
        max_waiting: how many may wait; one more is refused with `QueueFull`.
        context: the most tokens that the model can have in one sequence; None: only the pool limits.
    """

    def __init__(
        self, runner: Runner, max_batch: int = 16, max_waiting: int | None = None, context: int | None = None
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be 1 or more; came {max_batch}")
        self.runner, self.max_batch, self.max_waiting, self.context = runner, max_batch, max_waiting, context
        self.waiting: list[Sequence] = []  # earliest arrival first
        self.running: list[Sequence] = []
        self.last_step: StepRecord | None = None
        self._arrived = 0

    def add(self, request: Request) -> None:
        """Put a request into the queue.

        Raises:
            RequestRefused: "request 'a' needs 70 blocks ... but the pool has 64 ..."; it could never be served.
            QueueFull: "64 requests are waiting already ...".
        """
        self.check(request)
        if any(s.id == request.id for s in self._all()):
            raise RequestRefused(f"request {request.id!r} is here already; give each request an id of its own")
        if self.max_waiting is not None and len(self.waiting) >= self.max_waiting:
            raise QueueFull(f"{len(self.waiting)} requests are waiting already, as many as may; try again later")
        self.waiting.append(Sequence(request, self._arrived))
        self._arrived += 1

    def check(self, request: Request) -> None:
        """Refuse a request that could not be served even alone.

        Raises:
            RequestRefused: one sentence about the prompt, `max_tokens`, the model's context or the pool.
        """
        prompt = len(request.prompt)
        if prompt == 0 or request.max_tokens < 1:
            raise RequestRefused(
                f"a request needs a prompt of at least one token and max_tokens of 1 or more; "
                f"came {prompt} tokens and max_tokens {request.max_tokens}"
            )
        total = prompt + request.max_tokens
        if self.context is not None and total > self.context:
            raise RequestRefused(
                f"the prompt has {prompt} tokens and max_tokens is {request.max_tokens}, together {total}, but the "
                f"model has a context of {self.context}; shorten the prompt or ask for fewer tokens"
            )
        # The last token of an answer is returned and never computed, so it needs no place.
        needed = self.blocks_for(total - 1)
        if needed > self.runner.num_blocks:
            raise RequestRefused(
                f"the prompt has {prompt} tokens and max_tokens is {request.max_tokens}, which needs {needed} blocks "
                f"of {self.runner.block_size} tokens, but the whole cache has {self.runner.num_blocks}; "
                "shorten the prompt or ask for fewer tokens"
            )

    def cancel(self, request_id: str) -> bool:
        """Forget a request wherever it is, and give its blocks back at once; False when it is not here (any more)."""
        for place in (self.waiting, self.running):
            for sequence in place:
                if sequence.id == request_id:
                    place.remove(sequence)
                    self._release(sequence)
                    return True
        return False

    def step(self) -> list[Event]:
        """Compute one iteration; return the new tokens. Nothing to do: no events, and `last_step` is None."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self.waiting or self.running)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens of one sequence fill."""
        return -(-tokens // self.runner.block_size)

    def _all(self) -> Iterator[Sequence]:
        yield from self.waiting
        yield from self.running

    def _release(self, sequence: Sequence) -> None:
        if sequence.computed or sequence.swapped:
            self.runner.free(sequence.id)
        sequence.computed, sequence.swapped = 0, False

    def _compute(self, plan: list[tuple[Sequence, int]]) -> Any:
        """Run the next `count` tokens of each sequence as one step."""
        items = [Work(s.id, s.tokens[s.computed : s.computed + count]) for s, count in plan]
        logits = self.runner.step(items)
        for sequence, count in plan:
            sequence.computed += count
        return logits
