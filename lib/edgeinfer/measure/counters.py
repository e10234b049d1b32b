"""Counters of bytes and operations: exact and the same on every machine, unlike a time.

Code that moves data calls `count_read`, `count_write` or `count_operations`; they do nothing unless a `Counter` is
listening. It knows no hardware: what a tier is called, the caller says.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any

from edgeinfer.measure.tables import html_table

_listening: ContextVar[tuple[Counter, ...]] = ContextVar("listening", default=())
Key = tuple[str, str, str]  # (what, tier or kind, label)


class Counter:
    """Bytes read and written by tier and label, operations by kind and label; a context manager.

    Counters nest: an inner one and all those around it count the same event. Example::

        with Counter() as counter:
            count_read(weight.nbytes, tier="DRAM", label="weights")
            count_operations(2 * N * K, kind="float", label="q_proj")
        counter.bytes_read("DRAM"), counter.operations(), counter.intensity
    """

    def __init__(self) -> None:
        self._counts: dict[Key, int] = defaultdict(int)
        self._tokens: list[Token[tuple[Counter, ...]]] = []

    def __enter__(self) -> Counter:
        if self in _listening.get():
            raise RuntimeError("this counter is already counting; use a second Counter() inside the first")
        self._tokens.append(_listening.set((*_listening.get(), self)))
        return self

    def __exit__(self, *exception: object) -> None:
        _listening.reset(self._tokens.pop())

    def add(self, what: str, amount: int, place: str, label: str) -> None:
        """Add `amount` to the count of `what` ("read", "write", "operations") at `place` (a tier, or a kind)."""
        self._counts[what, place, label] += amount

    def _sum(self, what: str, place: str | None, label: str | None) -> int:
        return sum(
            amount
            for (kind, where, name), amount in self._counts.items()
            if kind == what and place in (None, where) and label in (None, name)
        )

    def bytes_read(self, tier: str | None = None, label: str | None = None) -> int:
        """Return the bytes read, of one tier and one label or of all."""
        return self._sum("read", tier, label)

    def bytes_written(self, tier: str | None = None, label: str | None = None) -> int:
        """Return the bytes written, of one tier and one label or of all."""
        return self._sum("write", tier, label)

    def bytes_moved(self, tier: str | None = None, label: str | None = None) -> int:
        """Return the bytes read and written."""
        return self.bytes_read(tier, label) + self.bytes_written(tier, label)

    def operations(self, kind: str | None = None, label: str | None = None) -> int:
        """Return the operations, of one kind ("float", "int", ...) and one label or of all."""
        return self._sum("operations", kind, label)

    @property
    def intensity(self) -> float | None:
        """Operations per byte moved; None when no byte was counted."""
        moved = self.bytes_moved()
        return self.operations() / moved if moved else None

    def reset(self) -> None:
        """Set all counts to zero."""
        self._counts.clear()

    def as_dict(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return all counts as {what: {tier or kind: {label: amount}}}, sorted."""
        out: dict[str, dict[str, dict[str, int]]] = {}
        for (what, place, label), amount in sorted(self._counts.items()):
            out.setdefault(what, {}).setdefault(place, {})[label] = amount
        return out

    def to_json(self) -> str:
        """Return all counts as JSON text; `from_json` reads it back."""
        return json.dumps(self.as_dict())

    @classmethod
    def from_json(cls, text: str) -> Counter:
        """Read what `to_json` wrote."""
        counter = cls()
        for what, places in json.loads(text).items():
            for place, labels in places.items():
                for label, amount in labels.items():
                    counter.add(what, int(amount), place, label)
        return counter

    def table(self) -> str:
        """Return the counts as plain text, one line each."""
        return "\n".join(
            f"{what:10s} {place:12s} {label or '(no label)':24s} {amount:>18,d}"
            for (what, place, label), amount in sorted(self._counts.items())
        )

    def _repr_html_(self) -> str:
        rows = [(what, place, label, f"{amount:,d}") for (what, place, label), amount in sorted(self._counts.items())]
        return html_table("Counted bytes and operations", rows, ("what", "tier or kind", "label", "amount"))


def count_read(nbytes: int, tier: str = "DRAM", label: str = "") -> None:
    """Tell all listening counters that `nbytes` bytes were read from `tier`."""
    _tell("read", nbytes, tier, label)


def count_write(nbytes: int, tier: str = "DRAM", label: str = "") -> None:
    """Tell all listening counters that `nbytes` bytes were written to `tier`."""
    _tell("write", nbytes, tier, label)


def count_operations(count: int, kind: str = "float", label: str = "") -> None:
    """Tell all listening counters that `count` operations were done (a multiply and an add are two)."""
    _tell("operations", count, kind, label)


def _tell(what: str, amount: float, place: str, label: str) -> None:
    listening = _listening.get()
    if not listening:
        return
    if amount != int(amount):
        raise ValueError(f"cannot count {amount} ({what}); bytes and operations are whole numbers")
    if amount < 0:
        raise ValueError(f"cannot count {amount} ({what}); bytes and operations are not negative")
    for counter in listening:
        counter.add(what, int(amount), place, label)


def torch_flops(function: Callable[[], Any]) -> int:
    """Run `function` and return the floating-point operations of its torch matrix products.

    Counts what torch dispatches (mm, bmm, linear, scaled dot-product attention, convolution), a multiply and an add as
    two. Element-wise operations and Numba kernels are not seen. Source: torch.utils.flop_counter.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as mode:
        function()
    return int(mode.get_total_flops())
