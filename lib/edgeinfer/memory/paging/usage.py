"""How much of the cache's memory holds tokens, and how many requests fit: reserving in advance against blocks.

Counts lengths of a trace and computes no key. The ways to reserve: the longest text, the next power of two, and an
oracle that knows the answer's length. Source: pagedattention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeinfer.memory.paging.blocks import BlockManager

WAYS = ("longest text", "power of two", "oracle", "blocks")


class Lengths(Protocol):
    """What is needed of a request: see `memory.serving.trace.Arrival`."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...


@dataclass(frozen=True)
class Usage:
    """What a pool was used for, over all steps of a run.

    Args:
        waste: share of the memory that was given out and held no token, 0 to 1.
        running: requests computed at once, on average.
        steps: how many steps the whole trace took.
        preempted: how often a request had to give its blocks back before its end.
        ended: numbers of the requests, in the order in which they ended.
    """

    waste: float
    running: float
    steps: int
    preempted: int
    ended: tuple[int, ...]


def reserved(request: Lengths, now: int, way: str, block_size: int, longest: int) -> int:
    """Places that a request holds when it has `now` tokens.

    Args:
        request: its lengths.
        now: tokens so far, prompt included.
        way: one of `WAYS`.
        block_size: tokens of a block.
        longest: prompt and answer together are never longer.

    Returns:
        Places for tokens, `now` or more.

    Raises:
        ValueError: "way 'pages' is unknown; choose one of ..."
    """
    if way == "longest text":
        return longest
    if way == "power of two":  # the answer so far, doubled when it is full
        answer = 1 << max(0, now - request.prompt_tokens - 1).bit_length()
        return min(longest, request.prompt_tokens + answer)
    if way == "oracle":
        return request.prompt_tokens + request.output_tokens
    if way == "blocks":
        return -(-now // block_size) * block_size
    raise ValueError(f"way {way!r} is unknown; choose one of {', '.join(WAYS)}")


def waste(trace: Sequence[Lengths], way: str, block_size: int = 16, longest: int = 2048) -> float:
    """Share of the given-out memory without a token, over all steps of all requests of a trace, 0 to 1."""
    used = held = 0
    for request in trace:
        for now in range(request.prompt_tokens + 1, request.prompt_tokens + request.output_tokens + 1):
            used += now
            held += reserved(request, now, way, block_size, longest)
    return 1 - used / held


def serve(trace: Sequence[Lengths], way: str, pool_tokens: int, block_size: int = 16, longest: int = 2048) -> Usage:
    """Serve a trace from one pool, in order: all wait from the start, and a step gives each running request a token.

    Reserved places are taken when a request begins, so it can never run out of them. Blocks are taken on demand by a
    `BlockManager`; when there is none, the latest request gives all of its own back and waits in front of those that
    have not begun, to be read again.

    Args:
        trace: requests.
        way: "longest text", "oracle" or "blocks".
        pool_tokens: places in the pool.
        block_size: tokens of a block.
        longest: prompt and answer together are never longer.

    Returns:
        The usage; a step of this model costs the same however many requests run.

    Raises:
        ValueError: "the pool has 100 places, but a request needs 200; give it more"
    """
    most = max(r.prompt_tokens + r.output_tokens for r in trace)
    if pool_tokens < max(most + block_size, longest if way == "longest text" else 0):
        raise ValueError(f"the pool has {pool_tokens} places, but a request needs {max(most, longest)}; give it more")
    manager = BlockManager(pool_tokens // block_size, block_size)
    waiting, running = list(range(len(trace))), list[int]()
    length = [r.prompt_tokens for r in trace]
    used = held = batch = steps = preempted = 0
    ended: list[int] = []

    def room(index: int) -> bool:
        if way == "blocks":
            return -(-(length[index] + 1) // block_size) <= manager.free_blocks
        taken = sum(reserved(trace[i], length[i], way, block_size, longest) for i in running)
        return taken + reserved(trace[index], length[index], way, block_size, longest) <= pool_tokens

    while waiting or running:
        while waiting and room(waiting[0]):
            index = waiting.pop(0)
            running.append(index)
            if way == "blocks":
                manager.add(str(index))
                manager.append(str(index), length[index])
        for index in list(running):
            if way == "blocks":
                if index not in running:
                    continue
                while not manager.can_append(str(index), 1):
                    last = running.pop()
                    manager.free(str(last))
                    waiting.insert(0, last)
                    preempted += 1
                    if last == index:
                        break
                if index not in running:
                    continue
                manager.append(str(index), 1)
            length[index] += 1
        steps += 1
        batch += len(running)
        used += sum(length[i] for i in running)
        held += sum(reserved(trace[i], length[i], way, block_size, longest) for i in running)
        for index in [i for i in running if length[i] == trace[i].prompt_tokens + trace[i].output_tokens]:
            running.remove(index)
            ended.append(index)
            if way == "blocks":
                manager.free(str(index))
    return Usage(1 - used / held, batch / steps, steps, preempted, tuple(ended))
