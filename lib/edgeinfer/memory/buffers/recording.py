"""Records what a forward pass of a real model does: every operator, what it reads and writes, and for how long.

Torch shows each operator to a dispatch mode as it runs; composite ones are taken apart until nothing is hidden. The
result is a straight list without control flow. It knows operators, not models. Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgeinfer.memory.buffers.liveness import ALIGNMENT, Buffer, aligned

# What these return decides what a program does next: its list of steps would hold for the recorded values only.
BY_VALUE = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::unique_dim")


@dataclass(frozen=True)
class Ref:
    """Stands for a tensor in the arguments of a step."""

    number: int


@dataclass
class Step:
    """One operator.

    Attributes:
        function: the operator's overload.
        args, kwargs: as it was called, tensors replaced by `Ref`.
        outputs: numbers of the tensors it returned, in order.
        writes: True where it creates or changes memory; False for a view.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    writes: bool

    @property
    def name(self) -> str:
        """The operator's name without its namespace and overload."""
        return str(self.function).split(".")[1]


@dataclass
class Shape:
    """How a tensor lies in its storage: what `as_strided` takes."""

    storage: int
    dtype: torch.dtype
    size: tuple[Any, ...]
    stride: tuple[Any, ...]
    offset: Any


@dataclass
class Program:
    """A recorded forward pass.

    Attributes:
        steps: in order.
        tensors: shape of every tensor that was seen.
        nbytes: bytes of the storages that the steps create.
        constants: tensors that were there before (weights, tables, the cache), by number.
        inputs: numbers of the tensors that are given anew for each run.
        result: number of the tensor that is returned.
    """

    steps: list[Step] = field(default_factory=list)
    tensors: list[Shape] = field(default_factory=list)
    nbytes: dict[int, Any] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)
    inputs: tuple[int, ...] = ()
    result: int = -1

    def reads(self, step: Step) -> set[int]:
        """Storages of the tensors among the arguments of a step."""
        return {self.tensors[n].storage for n in refs_in((step.args, step.kwargs))}

    def buffers(self, alignment: int = ALIGNMENT) -> list[Buffer]:
        """The storages that the steps create, with the steps between which they live; the result lives to the end.

        Args:
            alignment: sizes are rounded up to a multiple of so many bytes.
        """
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        names: dict[int, str] = {}
        for number, step in enumerate(self.steps):
            for storage in {self.tensors[n].storage for n in step.outputs} | self.reads(step):
                if storage in self.nbytes:
                    first.setdefault(storage, number)
                    names.setdefault(storage, step.name)
                    last[storage] = number
        last[self.tensors[self.result].storage] = len(self.steps) - 1
        return [
            Buffer(f"{names[s]} {s}", aligned(int(self.nbytes[s]), alignment), first[s], last[s]) for s in sorted(first)
        ]

    def storages(self) -> list[int]:
        """The storage of each of `buffers()`."""
        used = {self.tensors[n].storage for step in self.steps for n in step.outputs}
        return sorted(used & set(self.nbytes))


def refs_in(value: Any) -> list[int]:
    """Numbers of the tensors in nested arguments."""
    if isinstance(value, Ref):
        return [value.number]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        return [number for item in value for number in refs_in(item)]
    return []


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested arguments with `change` applied to every leaf."""
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return change(value)


class _Recorder(TorchDispatchMode):
    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.program = Program()
        self._numbers: dict[int, int] = {}
        self._storages: dict[int, int] = {}
        self._kept: list[Tensor] = []  # alive until the end: so that no id and no storage is used twice
        self._mine: set[int] = set()
        self.program.inputs = tuple(self._number(tensor) for tensor in inputs)

    def _storage(self, tensor: Tensor) -> int:
        return self._storages.setdefault(tensor.untyped_storage()._cdata, len(self._storages))

    def _number(self, tensor: Tensor) -> int:
        if id(tensor) not in self._numbers:
            number = self._numbers[id(tensor)] = len(self._kept)
            self._kept.append(tensor)
            shape = Shape(
                self._storage(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
            )
            self.program.tensors.append(shape)
            if shape.storage not in self._mine:
                self.program.constants[number] = tensor
        return self._numbers[id(tensor)]

    def _leaf(self, value: Any) -> Any:
        return Ref(self._number(value)) if isinstance(value, Tensor) else value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if func._schema.name in BY_VALUE:
            raise ValueError(
                f"the function reads the values of a tensor ({func._schema.name}), so its steps depend on them; a "
                "straight list cannot: record a model without a choice of experts."
            )
        named_args, named_kwargs = mapped(args, self._leaf), mapped(kwargs, self._leaf)
        out = func(*args, **kwargs)
        returned = [o for o in (out if isinstance(out, list | tuple) else (out,)) if isinstance(o, Tensor)]
        new = False
        for tensor in returned:
            if tensor.untyped_storage()._cdata not in self._storages:
                storage, new = self._storage(tensor), True
                self._mine.add(storage)
                self.program.nbytes[storage] = tensor.untyped_storage().nbytes()
        outputs = tuple(self._number(tensor) for tensor in returned)
        self.program.steps.append(Step(func, named_args, named_kwargs, outputs, new or func._schema.is_mutable))
        return out


def record(function: Callable[..., Tensor], *inputs: Tensor) -> Program:
    """Run function(*inputs) once and return what it did.

    What nobody uses is left out: a step stays if the result, or memory that was there before, depends on it.

    Args:
        function: makes one tensor out of the inputs; branches are recorded as they went.
        inputs: tensors that a later run replaces; all other tensors are constants of the program.

    Returns:
        The program.

    Raises:
        ValueError: "the function returned list; it must return one tensor that it computed." or "the function reads
            the values of a tensor (aten::nonzero), so its steps depend on them; ..."
    """
    recorder = _Recorder(inputs)
    with torch.inference_mode(), recorder:
        result = function(*inputs)
    known = recorder._numbers.get(id(result))
    if not isinstance(result, Tensor) or known is None or known in recorder.program.constants:
        raise ValueError(f"the function returned {type(result).__name__}; it must return one tensor that it computed.")
    program = recorder.program
    program.result = known
    needed = {program.tensors[known].storage}
    outside = {program.tensors[n].storage for n in program.constants}
    kept: list[Step] = []
    alive = {known}
    for step in reversed(program.steps):
        changes = {program.tensors[n].storage for n in step.outputs} if step.writes else set()
        if changes & (needed | outside) or alive & set(step.outputs):
            kept.append(step)
            alive |= set(refs_in((step.args, step.kwargs)))
            needed |= program.reads(step)
    program.steps = kept[::-1]
    # A view of a weight or of the cache is made again by its step, maybe at another place; only what it views is kept.
    made = {n for step in program.steps if not step.writes for n in step.outputs}
    program.constants = {n: tensor for n, tensor in program.constants.items() if n not in made}
    return program
