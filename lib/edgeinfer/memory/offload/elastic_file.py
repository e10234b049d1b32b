"""A file of shards: every shard in several fidelities, each at a multiple of 4096, so that one read brings one.

What each shard is worth stands in the file's head, so a planner needs nothing else. It does not choose. Source: sti.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeinfer.kernels.quantize import QuantizedWeight
from edgeinfer.memory.offload.elastic_plan import Sizes
from edgeinfer.memory.offload.shards import ShardedModel, Shards
from edgeinfer.memory.offload.tiers import skeleton
from edgeinfer.memory.storage import ColdFile, write_whole
from edgeinfer.models.decoder import Decoder
from edgeinfer.models.weights import file_name, linear_shapes

BLOCK = 4096
MAGIC = b"SHARDS01"


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _parts(shape: Sequence[int], bits: int, group_size: int) -> list[tuple[np.dtype, tuple[int, int]]]:
    """The arrays of a tensor in the order in which they are stored: scales, zero points, codes."""
    rows, columns = shape
    groups = (rows, columns // group_size)
    return [
        (np.dtype("<f4"), groups),
        (np.dtype("u1"), groups),
        (np.dtype("u1"), (rows, -(-columns * bits // 8))),
    ]


def _places(
    shapes: Mapping[str, Sequence[int]], bits: int, group_size: int
) -> Iterator[tuple[str, int, int, np.dtype, Any]]:
    """(tensor, number of the array, first byte, dtype, shape) of everything in one version of a shard."""
    at = 0
    for name, shape in shapes.items():
        for number, (kind, size) in enumerate(_parts(shape, bits, group_size)):
            yield name, number, at, kind, size
            at = _up(at + kind.itemsize * size[0] * size[1], 64)


def _layer(shard: str) -> int:
    return int(shard.split(".")[1])


def write_shards(path: str | Path, model: ShardedModel, worth: Shards, bits: Sequence[int] | None = None) -> int:
    """Write shards and what they are worth into one file, whole or not at all.

    Args:
        path: name of the file.
        model: the shards.
        worth: from `ShardedModel.profile`.
        bits: fidelities to write; None: all that the model has.

    Returns:
        Bytes of the file.

    Raises:
        ValueError: "this model has no shards in 5 bits; ...".
        OSError: as `write_whole`.
    """
    wanted = tuple(sorted(model.bits if bits is None else bits))
    for b in wanted:
        if b not in model.bits:
            raise ValueError(f"this model has no shards in {b} bits; it has {', '.join(map(str, model.bits))}")
    entries, blocks, at = [], [], 0
    for row, shard in enumerate(model.names):
        shapes = {name: model.stored[name, wanted[0]].shape for name in model.inside(shard)}
        versions = {}
        for b in wanted:
            stored = {name: model.stored[name, b] for name in shapes}
            arrays = {n: (w.scale, w.zero_point, w.packed) for n, w in stored.items()}
            places = list(_places(shapes, b, model.group_size))
            name, number, start, _, _ = places[-1]
            block = np.zeros(_up(start + arrays[name][number].nbytes, BLOCK), np.uint8)
            for name, number, start, kind, _ in places:
                raw = arrays[name][number].astype(kind, copy=False).reshape(-1).view(np.uint8)
                block[start : start + raw.nbytes] = raw
            versions[str(b)] = [at, block.nbytes]
            blocks.append(block)
            at += block.nbytes
        losses = {str(b): float(worth.losses[row, worth.bits.index(b)]) for b in wanted}
        entries.append({"name": shard, "shapes": shapes, "versions": versions, "losses": losses})
    text = json.dumps({"bits": wanted, "group_size": model.group_size, "bytes": at, "shards": entries}).encode()
    head = MAGIC + len(text).to_bytes(8, "little") + text
    return write_whole(path, [head.ljust(_up(len(head), BLOCK), b"\0"), *blocks])


class ShardFile:
    """Shards read cold from the file that `write_shards` made.

    Attributes:
        names: of the shards, in the order of computation.
        bits: the fidelities.
        sizes: what a planner needs; bytes are those that are read.
        cold: the `ColdFile`, which counts bytes and requests.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file.

        Raises:
            FileNotFoundError: when there is none.
            ValueError: "... is no file of shards; ..." or "... is cut short: ...".
        """
        self.path = Path(path)
        self.cold = ColdFile(path)
        try:
            self._read_head()
        except BaseException:
            self.cold.close()
            raise

    def _read_head(self) -> None:
        name = self.path.name
        first = bytes(self.cold.read(0, min(16, self.cold.size)))
        if len(first) < 16 or not first.startswith(MAGIC):
            raise ValueError(f"{name} is no file of shards; write one with write_shards")
        length = int.from_bytes(first[8:], "little")
        self._start = _up(16 + length, BLOCK)
        if self._start > self.cold.size:
            raise ValueError(f"{name} is cut short: it ends inside its head, at byte {self.cold.size}; write it again")
        try:
            head = json.loads(bytes(self.cold.read(16, length)))
            self.bits = tuple(int(b) for b in head["bits"])
            self._group_size = int(head["group_size"])
            self._shards = {entry["name"]: entry for entry in head["shards"]}
            rows = self._shards.values()
            self.names = tuple(self._shards)
            self.sizes = Sizes(
                tuple(_layer(shard) for shard in self.names),
                np.array([[entry["versions"][str(b)][1] for b in self.bits] for entry in rows]),
                np.array([[entry["losses"][str(b)] for b in self.bits] for entry in rows]),
                self.bits,
            )
            wanted = self._start + int(head["bytes"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"the head of {name} is damaged; write the file again") from error
        if self.cold.size != wanted:
            raise ValueError(f"{name} is cut short: {self.cold.size} bytes instead of {wanted}; write it again")

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.cold.close()

    def check(self, model: Decoder) -> None:
        """Raise unless the shards are those of this model.

        Raises:
            ValueError: "... belongs to another model: ...".
        """
        mine = {name: tuple(shape) for entry in self._shards.values() for name, shape in entry["shapes"].items()}
        theirs = linear_shapes(model.config)
        for name in {**theirs, **mine}:
            if mine.get(name) != theirs.get(name):
                raise ValueError(
                    f"{self.path.name} belongs to another model: {name} is {mine.get(name, 'missing')} there "
                    f"and {theirs.get(name, 'missing')} here; write a file of this model's shards"
                )

    def version(self, shard: str, bits: int) -> tuple[int, int]:
        """Where a shard in a fidelity lies: (first byte, bytes).

        Raises:
            KeyError: "no shard is called 'x'; ...".
            ValueError: "... holds ... in 2, 4 bits, not in 3; ...".
        """
        if shard not in self._shards:
            raise KeyError(f"no shard is called {shard!r}; names look like {self.names[0]!r}")
        versions = self._shards[shard]["versions"]
        if str(bits) not in versions:
            raise ValueError(
                f"{self.path.name} holds {shard} in {', '.join(versions)} bits, not in {bits}; "
                "choose one of these, or write the file again with that fidelity"
            )
        at, size = versions[str(bits)]
        return self._start + at, size

    def read(self, shard: str, bits: int) -> np.ndarray:
        """Read a shard as stored, uint8; raises as `version` and `ColdFile.read_into`."""
        at, size = self.version(shard, bits)
        block = np.empty(size, np.uint8)
        self.cold.read_into(at, block)
        return block

    def weights(
        self, shard: str, bits: int, block: np.ndarray, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Expand a shard that was read: {linear layer: (N, K)}."""
        shapes = self._shards[shard]["shapes"]
        arrays: dict[str, list[np.ndarray]] = {name: [] for name in shapes}
        for name, _, at, kind, shape in _places(shapes, bits, self._group_size):
            raw = block[at : at + kind.itemsize * shape[0] * shape[1]]
            arrays[name].append(raw.view(kind).reshape(shape))
        found = {}
        for name, (scale, zero_point, packed) in arrays.items():
            rows, columns = shapes[name]
            stored = QuantizedWeight(packed, scale, zero_point, bits, self._group_size, (rows, columns), False)
            found[name] = torch.from_numpy(stored.dequantize()).to(dtype)
        return found

    def load(self, model: Decoder, kinds: Sequence[int]) -> Decoder:
        """The model with all shards loaded at once, shard i in fidelity number kinds[i]; raises as `check`."""
        whole = self.hollow(model)
        weights: dict[str, Tensor] = {}
        for shard, kind in zip(self.names, kinds, strict=True):
            bits = self.bits[kind]
            weights |= self.weights(shard, bits, self.read(shard, bits), model.dtype)
        whole.weight_store = _AtOnce(weights)
        return whole

    def hollow(self, model: Decoder) -> Decoder:
        """A model without its linear layers, which these shards replace; raises as `check`."""
        self.check(model)
        linear = {f"{file_name(name)}.weight" for name in linear_shapes(model.config)}
        resident = {name: tensor for name, tensor in model.state_dict().items() if name not in linear}
        return skeleton(model.config, resident, model.dtype)


class _AtOnce:
    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._weights = weights

    def fetch(self, name: str) -> Tensor:
        return self._weights[name]
