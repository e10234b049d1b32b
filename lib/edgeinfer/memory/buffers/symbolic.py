"""One plan and one list of instructions for every number of tokens: sizes, offsets and fields are linear functions.

Recordings of two lengths give each number in them as a + b n; a third one checks it. Lines that do not cross at the
ends of a range do not cross inside, so two comparisons show that a place is free for every n. Knows programs and
numbers, no model. Source: transformer-lite (symbolic shapes), edgellm (a fixed stream with a field for the tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgeinfer.memory.buffers.liveness import Plan, conflicts
from edgeinfer.memory.buffers.recording import Program, Shape, Step, mapped

ALIGNMENT = 16


@dataclass(frozen=True)
class Linear:
    """a + b n."""

    a: int
    b: int

    def at(self, n: int) -> int:
        """The value for n tokens."""
        return self.a + self.b * n

    def __add__(self, other: Linear) -> Linear:
        return Linear(self.a + other.a, self.b + other.b)

    def __str__(self) -> str:
        if not self.b:
            return str(self.a)
        return f"{self.b} n" + (f" + {self.a}" if self.a > 0 else f" - {-self.a}" if self.a < 0 else "")


def through(lengths: Sequence[int], values: Sequence[int], what: str) -> Linear:
    """The line through integers at three lengths.

    Raises:
        ValueError: "the bytes of softmax 31 are 256, 1024 and 4096 at n = 8, 16 and 32: not linear in n. (The scores of
            plain attention over a prompt grow with its square; use fused attention.)"
    """
    (n, m, k), (u, v, w) = lengths, values
    slope, rest = divmod(v - u, m - n)
    line = Linear(u - slope * n, slope)
    if rest or line.at(k) != w:
        raise ValueError(
            f"{what} are {u}, {v} and {w} at n = {n}, {m} and {k}: not linear in n. (The scores of plain attention "
            "over a prompt grow with its square; use fused attention.)"
        )
    return line


@dataclass(frozen=True)
class SymbolicBuffer:
    """As `Buffer`, its size a line in n."""

    name: str
    size: Linear
    first: int
    last: int

    def overlaps(self, other: SymbolicBuffer) -> bool:
        """Whether there is a step in which both are alive."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class SymbolicPlan:
    """Offsets as lines in n, safe for every n of the range.

    Attributes:
        offsets, sizes: in the order of the buffers.
        low, high: the range of n.
    """

    offsets: tuple[Linear, ...]
    sizes: tuple[Linear, ...]
    low: int
    high: int

    def at(self, n: int) -> Plan:
        """The plan for n tokens: no search, two operations for each buffer.

        Raises:
            ValueError: "n = 2000 is outside of the plan's range 1 to 1024."
        """
        if not self.low <= n <= self.high:
            raise ValueError(f"n = {n} is outside of the plan's range {self.low} to {self.high}.")
        offsets = tuple(offset.at(n) for offset in self.offsets)
        total = max((o + s.at(n) for o, s in zip(offsets, self.sizes, strict=True)), default=0)
        return Plan(offsets, total, "symbolic")


def plan_symbolic(buffers: Sequence[SymbolicBuffer], low: int, high: int) -> SymbolicPlan:
    """Each buffer at the lowest place that is free for every n from low to high; the best of three orders.

    Largest first at `high`, largest first at `low`, and fixed sizes before growing ones: where lines cross, it depends.

    Args:
        buffers: sizes as lines in n.
        low, high: range of n, 0 <= low <= high.

    Raises:
        ValueError: "the range of n must satisfy 0 <= low <= high, got 5 to 2."
    """
    if not 0 <= low <= high:
        raise ValueError(f"the range of n must satisfy 0 <= low <= high, got {low} to {high}.")

    others = conflicts(_as_plain(buffers))
    sizes = tuple(b.size for b in buffers)

    def total(plan: SymbolicPlan) -> float:
        return sum(plan.at(n).total for n in {low, (low + high) // 2, high})

    keys: list[Callable[[SymbolicBuffer], Any]] = [
        lambda b: (-b.size.at(high), b.first),
        lambda b: (-b.size.at(low), b.first),
        lambda b: (b.size.b > 0, -b.size.at(high), b.first),
    ]
    orders = [sorted(range(len(buffers)), key=lambda i, key=key: key(buffers[i])) for key in keys]  # type: ignore[misc]
    plans = [SymbolicPlan(_placed(buffers, order, others, low, high), sizes, low, high) for order in orders]
    return min(plans, key=total)


def _placed(
    buffers: Sequence[SymbolicBuffer], order: Sequence[int], others: list[list[int]], low: int, high: int
) -> tuple[Linear, ...]:
    """The buffers placed in this order."""

    def below(x: Linear, y: Linear) -> bool:
        return x.at(low) <= y.at(low) and x.at(high) <= y.at(high)

    offsets: list[Linear | None] = [None] * len(buffers)
    for i in order:
        size = buffers[i].size
        taken = [(o, o + buffers[j].size) for j in others[i] if (o := offsets[j]) is not None]
        places = sorted([Linear(0, 0), *(end for _, end in taken)], key=lambda place: place.at(high))
        free = (p for p in places if all(below(end, p) or below(p + size, begin) for begin, end in taken))
        # where lines cross, no end is above all others for every n; this line is
        above = Linear(max((e.a for _, e in taken), default=0), max((e.b for _, e in taken), default=0))
        offsets[i] = next(free, above)
    return tuple(o or Linear(0, 0) for o in offsets)


def _as_plain(buffers: Sequence[SymbolicBuffer]) -> list[Any]:
    from edgeinfer.memory.buffers.liveness import Buffer

    return [Buffer(b.name, int(b.size.a != 0 or b.size.b != 0), b.first, b.last) for b in buffers]


@dataclass
class SymbolicProgram:
    """A program in which integers may be lines in n.

    Attributes:
        template: the program, with `Linear` for the integers that change.
        fields: how many integers of its instructions change with n; all others are fixed.
    """

    template: Program
    fields: int

    def buffers(self) -> list[SymbolicBuffer]:
        """The program's buffers with their sizes as lines in n, each coefficient rounded up to the alignment."""
        plain = self.at(1).buffers()
        sizes = []
        for storage in self.template.storages():
            size = self.template.nbytes[storage]
            line = size if isinstance(size, Linear) else Linear(size, 0)
            sizes.append(Linear(*(-(-part // ALIGNMENT) * ALIGNMENT for part in (line.a, line.b))))
        return [SymbolicBuffer(b.name, s, b.first, b.last) for b, s in zip(plain, sizes, strict=True)]

    def at(self, n: int) -> Program:
        """The program for n tokens: every field is filled in, nothing is recorded or searched."""

        def fill(leaf: Any) -> Any:
            return leaf.at(n) if isinstance(leaf, Linear) else leaf

        old = self.template
        steps = [Step(s.function, mapped(s.args, fill), mapped(s.kwargs, fill), s.outputs, s.writes) for s in old.steps]
        tensors = [
            Shape(t.storage, t.dtype, mapped(t.size, fill), mapped(t.stride, fill), fill(t.offset)) for t in old.tensors
        ]
        nbytes = {storage: fill(size) for storage, size in old.nbytes.items()}
        return Program(steps, tensors, nbytes, old.constants, old.inputs, old.result)


def generalise(make: Callable[[int], Program], lengths: tuple[int, int, int]) -> SymbolicProgram:
    """Record at three lengths and keep what is common to them: the third one is the check.

    Args:
        make: returns the recording for n tokens; its constants must be the same tensors each time.
        lengths: three different n. Avoid n for which the function branches (one token, say).

    Raises:
        ValueError: "step 12 is mm at n = 8 and bmm at n = 16: the program depends on n." or what is not linear.
    """
    programs = [make(n) for n in lengths]
    first = programs[0]
    changing = 0

    def merge(values: Sequence[Any], what: str) -> Any:
        nonlocal changing
        one = values[0]
        if isinstance(one, torch.Size):
            values, one = [tuple(v) for v in values], tuple(one)
        if isinstance(one, tuple | list):
            if len({len(v) for v in values}) > 1:
                raise ValueError(f"{what} have different lengths: the program depends on n.")
            return type(one)(merge(items, what) for items in zip(*values, strict=True))
        if isinstance(one, dict):
            return {key: merge([v[key] for v in values], what) for key in one}
        if all(v == one for v in values):
            return one
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            raise ValueError(f"{what} are {', '.join(map(str, values))}: the program depends on n.")
        changing += 1
        return through(lengths, values, what)

    steps = []
    if len({len(p.steps) for p in programs}) > 1:
        counts = ", ".join(str(len(p.steps)) for p in programs)
        raise ValueError(f"the recordings have {counts} steps: the program depends on n.")
    for number, same in enumerate(zip(*(p.steps for p in programs), strict=True)):
        names = [s.name for s in same]
        if len(set(names)) > 1:
            raise ValueError(
                f"step {number} is {names[0]} at n = {lengths[0]} and {names[1]} at n = {lengths[1]}: the program "
                "depends on n."
            )
        what = f"the arguments of step {number}, {names[0]},"
        args = merge([s.args for s in same], what), merge([s.kwargs for s in same], what)
        steps.append(Step(same[0].function, *args, same[0].outputs, same[0].writes))
    fields = changing
    tensors = []
    for number, shapes in enumerate(zip(*(p.tensors for p in programs), strict=True)):
        what = f"the sizes of tensor {number}"
        size, stride, offset = (
            merge([getattr(s, part) for s in shapes], what) for part in ("size", "stride", "offset")
        )
        tensors.append(Shape(shapes[0].storage, shapes[0].dtype, size, stride, offset))
    nbytes = {s: merge([p.nbytes[s] for p in programs], f"the bytes of storage {s}") for s in first.storages()}
    return SymbolicProgram(Program(steps, tensors, nbytes, first.constants, first.inputs, first.result), fields)
