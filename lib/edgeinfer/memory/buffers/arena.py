"""Runs a recorded program out of one preallocated arena, at the places that a plan gives; and measures allocations.

Every operator that has an `out=` form writes straight into the arena; one that has none returns memory of its own,
which is copied and freed (its bytes are the workspace that the measurement shows). Knows programs, not models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgeinfer.memory.buffers.liveness import Plan, check_plan
from edgeinfer.memory.buffers.recording import Program, Ref, Step, mapped


@cache
def out_form(function: Any) -> Any:
    """The overload of the same operator that takes `out=`, or None."""
    wanted = [(a.name, str(a.type)) for a in function._schema.arguments]
    packet = getattr(torch.ops.aten, function._schema.name.split("::")[1], None)
    for name in packet.overloads() if packet else ():
        overload = getattr(packet, name)
        arguments = overload._schema.arguments
        plain = [(a.name, str(a.type)) for a in arguments if not a.is_out]
        if len(arguments) == len(wanted) + 1 and plain == wanted:
            return overload
    return None


def _roll(x: Tensor, shifts: list[int], dims: list[int], out: Tensor) -> None:
    """Two copies; torch's own `roll.out` makes a tensor first."""
    size, (dim,) = x.shape[dims[0]], dims
    shift = shifts[0] % size
    out.narrow(dim, shift, size - shift).copy_(x.narrow(dim, 0, size - shift))
    out.narrow(dim, 0, shift).copy_(x.narrow(dim, size - shift, shift))


def _embedding(weight: Tensor, index: Tensor, out: Tensor) -> None:
    """Rows by number; torch's own `embedding.out` makes a tensor first."""
    torch.index_select(weight, 0, index.reshape(-1), out=out.view(-1, weight.shape[1]))


def _fits_roll(args: Any) -> bool:
    return len(args) == 3 and len(args[2]) == 1


REPLACED: dict[str, tuple[Callable[..., None], Callable[..., bool]]] = {
    "aten.roll.default": (_roll, _fits_roll),
    "aten.embedding.default": (_embedding, lambda args: len(args) == 2),
}


class ArenaProgram:
    """A program bound to an arena.

    Attributes:
        arena: the only memory that its steps write to, besides what was there before (the cache).
        plan: where the buffers are.
    """

    def __init__(self, program: Program, plan: Plan, arena: Tensor | None = None) -> None:
        """Bind.

        Args:
            program: from `record`.
            plan: for `program.buffers()`.
            arena: uint8 with at least `plan.total` bytes; None: a new one.

        Raises:
            ValueError: what is wrong with the plan (`check_plan`), or "the arena has 64 bytes, the plan needs 128."
        """
        check_plan(program.buffers(alignment=1), plan)
        self.program, self.plan = program, plan
        self.arena = torch.empty(plan.total, dtype=torch.uint8) if arena is None else arena
        if self.arena.numel() < plan.total:
            raise ValueError(f"the arena has {self.arena.numel()} bytes, the plan needs {plan.total}.")
        offsets = dict(zip(program.storages(), plan.offsets, strict=True))
        self._tensors: dict[int, Tensor] = dict(program.constants)
        with torch.inference_mode():
            for number, shape in enumerate(program.tensors):
                if shape.storage in offsets:
                    self._tensors[number] = self._view(shape, offsets[shape.storage], program.nbytes[shape.storage])
        self._given = {program.tensors[n].storage for n in program.inputs}

    def _view(self, shape: Any, offset: int, nbytes: int) -> Tensor:
        room = self.arena[offset : offset + nbytes].view(shape.dtype)
        return room.as_strided(shape.size, shape.stride, room.storage_offset() + shape.offset)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run all steps.

        Args:
            inputs: of the recorded shapes.

        Returns:
            The result: a view of the arena, which the next run overwrites.

        Raises:
            ValueError: "input 0 has the shape (1, 3); the program was recorded with (1, 2)."
        """
        program, tensors = self.program, self._tensors
        if len(inputs) != len(program.inputs):
            raise ValueError(f"the program takes {len(program.inputs)} inputs; came {len(inputs)}.")
        for place, (number, tensor) in enumerate(zip(program.inputs, inputs, strict=True)):
            if tuple(tensor.shape) != program.tensors[number].size:
                raise ValueError(
                    f"input {place} has the shape {tuple(tensor.shape)}; the program was recorded with "
                    f"{program.tensors[number].size}."
                )
            tensors[number] = tensor
        with torch.inference_mode():
            for step in program.steps:
                self._run(step)
        return tensors[program.result]

    def _run(self, step: Step) -> None:
        tensors = self._tensors
        fixed = all(n in tensors for n in step.outputs)
        if not step.writes and fixed and self.program.tensors[step.outputs[0]].storage not in self._given:
            return  # a view of the arena or of a constant: it is there already

        def value(leaf: Any) -> Any:
            return tensors[leaf.number] if isinstance(leaf, Ref) else leaf

        args, kwargs = mapped(step.args, value), mapped(step.kwargs, value)
        if not step.writes:  # a view
            out = step.function(*args, **kwargs)
            for number, tensor in zip(step.outputs, out if isinstance(out, list | tuple) else (out,), strict=True):
                tensors[number] = tensor
        elif step.function._schema.is_mutable:
            step.function(*args, **kwargs)
        elif (own := REPLACED.get(str(step.function))) and own[1](step.args):
            own[0](*args, out=tensors[step.outputs[0]])
        elif (form := out_form(step.function)) is not None and len(step.outputs) == 1:
            form(*args, **kwargs, out=tensors[step.outputs[0]])
        else:
            out = step.function(*args, **kwargs)
            for number, tensor in zip(step.outputs, out if isinstance(out, list | tuple) else (out,), strict=True):
                tensors[number].copy_(tensor)


class _Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def operator_by_operator(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call function(*inputs) so that the decoder uses torch's operators only, as a recording sees them.

    Its compiled products of few rows add up in another order; with them, results agree to rounding, not to the bit.
    """
    with _Watching():
        return function(*inputs)


@contextmanager
def _quiet() -> Any:
    """The profiler reports its start on standard error; that is no output of the caller."""
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


def peak_allocated(function: Callable[..., Any], *args: Any) -> tuple[int, int]:
    """What torch's allocator gave out during one call: measured by its own records, not calculated.

    Args:
        function: called once with `args`; run it once before, so that nothing is made for the first time.

    Returns:
        The most bytes that were given out at one time, beyond what was there before; and the number of allocations.
    """
    from torch.profiler import ProfilerActivity, profile

    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        result = function(*args)
    events = [(e.start_ns(), e.nbytes()) for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    del result
    now = peak = count = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        now += change
        peak, count = max(peak, now), count + (change > 0)
    return peak, count


def relayout_bytes(program: Program, names: Sequence[str] = ("clone", "copy_", "cat", "roll", "repeat")) -> int:
    """Bytes that a program writes only to lay numbers out anew: copies, joins and rolls of what was already there."""
    total = 0
    for step in program.steps:
        if step.writes and step.name in names:
            shape = program.tensors[step.outputs[0]]
            total += torch.Size(shape.size).numel() * shape.dtype.itemsize
    return total
