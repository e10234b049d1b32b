"""A decoder's layers in one file, each layer's weights together, and a reader that fetches the next layer in pieces.

The file is a safetensors file whose tensors are ordered by layer. It knows no arithmetic. Source: speedloader.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeinfer.kernels.memory import huge_empty
from edgeinfer.kernels.threads import beside
from edgeinfer.memory.storage import ColdFile, write_whole
from edgeinfer.memory.storage.cold_file import BLOCK
from edgeinfer.models.decoder import Decoder

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


def write_layers(model: Decoder, path: str | Path) -> LayerFile:
    """Write the weights of all linear layers, layer by layer, as a safetensors file.

    Args:
        model: the decoder; embedding, norms and head stay in memory.
        path: file to write; whole or absent.

    Returns:
        The file, opened for its table only.
    """
    return write_tensors(model.linears(), path)


def write_tensors(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> LayerFile:
    """Write tensors named "layers.N. ..." as a layer file, in the order given: those of a layer must be neighbours.

    Args:
        tensors: {name: tensor}, in any form that a layer is stored in.
        path: file to write; whole or absent.
        metadata: words that say what the form is, for the file's table.
    """
    header: dict[str, dict] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, weight in tensors.items():
        end = at + weight.numel() * weight.element_size()
        header[name] = {"dtype": _NAMES[weight.dtype], "shape": list(weight.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % BLOCK)  # the weights start at a block, so that a piece is whole blocks
    chunks = [struct.pack("<Q", len(text)), text]
    write_whole(path, [*chunks, *(w.contiguous().view(torch.uint8).numpy() for w in tensors.values())])
    return LayerFile(path)


@dataclass(frozen=True)
class _Place:
    start: int  # within its layer
    shape: tuple[int, ...]
    dtype: torch.dtype


class LayerFile:
    """The table of a layer file.

    Attributes:
        path: of the file.
        ranges: [(first byte, bytes)] of each layer.
        metadata: what its writer said about the form of the tensors.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the table.

        Raises:
            FileNotFoundError: "there is no file ..." from the system.
            ValueError: "... is not a layer file; write one with write_layers."
        """
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length) if length < 1 << 26 else b"")
            self.metadata: dict[str, str] = header.get("__metadata__") or {}
            numbers = {name: int(name.split(".")[1]) for name in header if name != "__metadata__"}
            self._places: list[dict[str, _Place]] = [{} for _ in range(1 + max(numbers.values()))]
            self.ranges: list[tuple[int, int]] = [(0, 0)] * len(self._places)
            for layer in range(len(self._places)):
                mine = [name for name, number in numbers.items() if number == layer]
                offsets = [header[name]["data_offsets"] for name in mine]
                first, last = min(o[0] for o in offsets), max(o[1] for o in offsets)
                self.ranges[layer] = (8 + length + first, last - first)
                for name, (start, _) in zip(mine, offsets, strict=True):
                    entry = header[name]
                    self._places[layer][name] = _Place(start - first, tuple(entry["shape"]), _TYPES[entry["dtype"]])
        except (struct.error, ValueError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"{self.path.name} is not a layer file; write one with write_layers.") from error

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(length for _, length in self.ranges)

    def tensors(self, layer: int, buffer: np.ndarray) -> dict[str, Tensor]:
        """The layer's weights as views of a buffer that holds its bytes."""
        whole = torch.from_numpy(buffer)
        views = {}
        for name, place in self._places[layer].items():
            size = int(np.prod(place.shape)) * place.dtype.itemsize
            views[name] = whole[place.start : place.start + size].view(place.dtype).view(place.shape)
        return views


class LayerStream:
    """Brings layer after layer into one of two buffers; while one is used, the next is read in pieces.

    Attributes:
        bytes_read, requests: what crossed from the disk.
        buffer_bytes: both buffers.
        how: "direct" or "dropped", as `ColdFile`.
    """

    def __init__(self, file: LayerFile, piece_bytes: int = 256 * 1024, ahead: bool = True) -> None:
        """Open the file for cold reads.

        Args:
            file: the table.
            piece_bytes: the largest single read. Small pieces let other readers of the disk in between.
            ahead: read the next layer while the present one is used; False: read it when it is asked for.

        Raises:
            ValueError: "piece_bytes must be at least 4096, got 1."
        """
        if piece_bytes < BLOCK:
            raise ValueError(f"piece_bytes must be at least {BLOCK}, got {piece_bytes}.")
        self._file, self._piece, self._ahead = file, piece_bytes - piece_bytes % BLOCK, ahead
        largest = max(length for _, length in file.ranges)
        self._buffers = [huge_empty((largest,), np.uint8) for _ in range(2 if ahead else 1)]
        self.buffer_bytes = sum(b.nbytes for b in self._buffers)
        self._cold = ColdFile(file.path)
        self.how = self._cold.how
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="layer-reader")
        self._next: tuple[int, Future | None] = (-1, None)
        self._turn = 0

    def __enter__(self) -> LayerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._cold.close()

    @property
    def bytes_read(self) -> int:
        return self._cold.bytes_read

    @property
    def requests(self) -> int:
        return self._cold.requests

    def _read(self, layer: int, buffer: np.ndarray) -> None:
        first, length = self._file.ranges[layer]
        for start in range(0, length, self._piece):
            stop = min(start + self._piece, length)
            self._cold.read_into(first + start, buffer[start:stop])

    def one_pass(self, again: bool = False) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yield (number, {name: weight}) of every layer; a layer's weights are gone when the next one is asked for.

        Args:
            again: another pass follows, so the first layer is fetched while the last is used.
        """
        count = len(self._file.ranges)
        for layer in range(count):
            expected, waiting = self._next
            if waiting is not None:
                waiting.result()  # also after a pass that was left halfway: its reader still fills this buffer
            if expected != layer:
                self._read(layer, self._buffers[self._turn])
            mine = self._buffers[self._turn]
            self._next = (-1, None)
            if self._ahead:
                self._turn = 1 - self._turn
                if layer + 1 < count or again:
                    following = (layer + 1) % count
                    job = self._pool.submit(beside(self._read, following, self._buffers[self._turn]))
                    self._next = (following, job)
            yield layer, self._file.tensors(layer, mine)
