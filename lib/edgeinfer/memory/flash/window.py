"""Neurons kept in memory because a recent token used them: a sliding window, and a table without holes.

The window says what to load and what to drop; the memory is made once, and a dropped row is filled with the last one.
It knows neither files nor models. Source: llm-in-a-flash.
"""

from __future__ import annotations

from collections import deque

import numpy as np


class SlidingWindow:
    """The neurons of the last `tokens` tokens of one layer.

    Args:
        neurons: M, neurons of the layer.
        tokens: window; 0 keeps nothing.
        capacity: most neurons that may be kept; None: no limit. If the window needs more, its oldest tokens go first.

    Raises:
        ValueError: "window must be 0 or more tokens; came -1".
    """

    def __init__(self, neurons: int, tokens: int, capacity: int | None = None) -> None:
        if tokens < 0:
            raise ValueError(f"window must be 0 or more tokens; came {tokens}")
        self.tokens = tokens
        self.capacity = neurons if capacity is None else min(capacity, neurons)
        self.uses = np.zeros(neurons, np.int64)
        self._recent: deque[np.ndarray] = deque()

    @property
    def held(self) -> np.ndarray:
        """Neurons kept now, ascending."""
        return np.flatnonzero(self.uses)

    def advance(self, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take the next token.

        Args:
            active: int (n,), neurons that it needs, each once.

        Returns:
            (load, keep, drop), int, ascending: what must be read now; what of it is kept; what was kept and is no more.
        """
        active = np.sort(np.asarray(active, np.int64))
        before = self.uses > 0
        load = active[~before[active]]
        wanted = active if self.tokens else active[:0]
        if len(wanted) > self.capacity:
            # More than fits: what is here already stays, the rest in order while there is room.
            wanted = np.sort(np.concatenate((active[before[active]], load))[: self.capacity])
        self.uses[wanted] += 1
        self._recent.append(wanted)
        while len(self._recent) > max(self.tokens, 1) or np.count_nonzero(self.uses) > self.capacity:
            self.uses[self._recent.popleft()] -= 1
        after = self.uses > 0
        return load, load[after[load]], np.flatnonzero(before & ~after)


class NeuronMemory:
    """Rows of kept neurons, in one array made once; the first `count` rows are in use, in no order.

    Args:
        neurons: M.
        capacity: rows.
        width: numbers of a row.

    Attributes:
        rows: uint16 (capacity, width), bits of bfloat16.
        slot_of: int64 (M,), row of a neuron, -1: not here.
        moved: rows copied by deletions so far.
    """

    def __init__(self, neurons: int, capacity: int, width: int) -> None:
        self.rows = np.zeros((capacity, width), np.uint16)
        self.slot_of = np.full(neurons, -1, np.int64)
        self.neuron_at = np.full(capacity, -1, np.int64)
        self.count = self.moved = 0

    def remove(self, neurons: np.ndarray) -> None:
        """Take neurons out; the last row in use moves into each hole, so that no gap is left.

        Raises:
            KeyError: "neuron 7 is not in memory".
        """
        for neuron in np.asarray(neurons).tolist():
            slot = int(self.slot_of[neuron])
            if slot < 0:
                raise KeyError(f"neuron {neuron} is not in memory")
            last = self.count - 1
            if slot != last:
                self.rows[slot] = self.rows[last]
                self.neuron_at[slot] = self.neuron_at[last]
                self.slot_of[self.neuron_at[slot]] = slot
                self.moved += 1
            self.slot_of[neuron], self.neuron_at[last] = -1, -1
            self.count = last

    def append(self, neurons: np.ndarray, rows: np.ndarray) -> None:
        """Put neurons behind the last row in use.

        Raises:
            ValueError: "memory holds 8 neurons and 7 are in use: 2 more do not fit; drop some first".
        """
        end = self.count + len(neurons)
        if end > len(self.rows):
            raise ValueError(
                f"memory holds {len(self.rows)} neurons and {self.count} are in use: {len(neurons)} more do not fit; "
                "drop some first"
            )
        self.rows[self.count : end] = rows
        self.neuron_at[self.count : end] = neurons
        self.slot_of[neurons] = np.arange(self.count, end)
        self.count = end
