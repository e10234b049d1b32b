"""What a scheduler is asked and what it answers: requests, events, refusals, and how a token is drawn.

Knows nothing of models, blocks or connections. Source: orca.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeinfer.memory.paging.blocks import BlockManager

FinishReason = Literal["stop", "length"]
Phase = Literal["prefill", "decode", "idle"]


class RequestRefused(ValueError):
    """A request that can never be served as it is. The message says what would have to change."""


class QueueFull(RequestRefused):
    """A request that would be served later: the queue is full now."""


@dataclass(frozen=True)
class Request:
    """One prompt to be continued.

    Args:
        id: unique name; chosen by the caller.
        prompt: token ids, at least one.
        max_tokens: the answer ends after so many tokens ("length").
        temperature: 0 takes the likeliest token; larger values draw more freely.
        top_p: draw among the likeliest tokens that together have this probability.
        seed: of this request's draws; they do not depend on the other requests.
        stop_tokens: the answer ends with any of these ("stop").
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_tokens: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Event:
    """One new token of a request; with the last one comes the reason why it ended.

    Args:
        request_id: whose.
        token: which.
        finish_reason: None while more are to come.
        reused: tokens of the prompt that were not computed for it, because an earlier request had left them.
    """

    request_id: str
    token: int
    finish_reason: FinishReason | None = None
    reused: int = 0


@dataclass(frozen=True)
class Row:
    """What one request did in a step: `tokens` computed, `context` tokens kept afterwards, and in which phase.

    An "idle" row was computed for nothing: its request had ended, but its batch had not.
    """

    request_id: str
    tokens: int
    context: int
    phase: Phase


@dataclass(frozen=True)
class StepRecord:
    """What was computed together in one iteration.

    Args:
        rows: what each request did.
        preempted: who lost its place before it.
        reused: tokens that requests took from the pool instead of computing them, since the step before.
        held: blocks that somebody held when the step was computed.
    """

    rows: tuple[Row, ...]
    preempted: tuple[str, ...] = ()
    reused: int = 0
    held: int = 0

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)


class Work(NamedTuple):
    """The next tokens of one sequence, to be computed in a step; the fields of `paging.StepItem`."""

    sequence_id: str
    tokens: list[int]


class Runner(Protocol):
    """What a scheduler needs to compute: `edgeinfer.memory.paging.PagedRunner`, or one that only pretends (`dry`).

    `blocks` keeps the books of its pool; a step opens sequences that are not open and appends to the others.
    """

    blocks: BlockManager

    @property
    def num_blocks(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def free_blocks(self) -> int: ...

    def step(self, items: list[Any]) -> Any:
        """Compute the tokens of all items at once; return the logits (len(items), vocab) after the last of each."""

    def swap_out(self, sequence_id: str) -> object:
        """Move a sequence's keys and values out of the pool."""

    def swap_in(self, sequence_id: str) -> object:
        """Bring them back."""

    def free(self, sequence_id: str) -> None:
        """Forget a sequence, wherever it is."""


@dataclass
class Sequence:
    """A request on its way: `tokens` are the prompt and the answer so far, the first `computed` are in the cache.

    `reused` of the prompt's tokens were taken from the pool when it was read for the first time.
    """

    request: Request
    number: int  # order of arrival
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    reused: int = 0
    swapped: bool = False
    paused: bool = False
    finish_reason: FinishReason | None = None
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        self.rng = np.random.default_rng(self.request.seed)

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def missing(self) -> int:
        """Tokens whose keys and values are not in the cache: 1 while decoding, more during prefill."""
        return len(self.tokens) - self.computed

    @property
    def phase(self) -> Phase:
        return "decode" if self.missing == 1 and self.generated else "prefill"

    def take(self, logits: NDArray[np.float32]) -> Event:
        """Draw the next token from logits (vocab,) and note whether it is the last."""
        token = draw(logits, self.request, self.rng)
        self.tokens.append(token)
        if token in self.request.stop_tokens:
            self.finish_reason = "stop"
        elif self.generated == self.request.max_tokens:
            self.finish_reason = "length"
        return Event(self.id, token, self.finish_reason, self.reused)


def draw(logits: NDArray[np.float32], request: Request, rng: np.random.Generator) -> int:
    """Choose a token from logits (vocab,): the likeliest at temperature 0, else a draw by temperature and `top_p`."""
    if request.temperature == 0:
        return int(logits.argmax())
    scaled = (logits.astype(np.float64) - logits.max()) / request.temperature
    chances = np.exp(scaled)
    chances /= chances.sum()
    order = np.argsort(-logits, kind="stable")
    reach = np.cumsum(chances[order])
    # The token that crosses top_p still belongs to the choice; so there is always at least one.
    kept = int(np.searchsorted(reach, request.top_p * reach[-1])) + 1
    reach = reach[:kept]
    return int(order[min(int(np.searchsorted(reach, rng.random() * reach[-1], side="right")), kept - 1)])


def as_rows(logits: Any) -> NDArray[np.float32]:
    """Logits of a runner, a torch tensor of any floating type or an array, as float32 (rows, vocab)."""
    return np.asarray(logits.float().numpy() if hasattr(logits, "float") else logits, np.float32)
