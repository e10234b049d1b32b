"""A file of neurons: each one's row of gate, row of up and column of down, side by side or in three separate matrices.

Rows are read cold and come back as bundles, whichever way they lie. It knows no model and keeps nothing in memory.
Source: llm-in-a-flash (row-column bundling).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from edgeinfer.memory.flash.reads import BLOCK, Reads, merge_reads
from edgeinfer.memory.storage import ColdFile, write_whole

FORMAT = "edgeinfer.neurons/1"
Layer = tuple[np.ndarray, np.ndarray, np.ndarray]


def to_bits(values: np.ndarray) -> np.ndarray:
    """Return the bits of the nearest bfloat16 (ties to even) as uint16, same shape; values are finite floats."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def bundle_layer(gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Put what belongs to one neuron side by side.

    Args:
        gate, up: (M, H). down: (H, M). Any float type; rounded to bfloat16.

    Returns:
        uint16 (M, 3 H): row of gate, row of up, column of down.

    Raises:
        ValueError: "gate and up must be (M, H) and down (H, M); came ...".
    """
    if not (gate.ndim == 2 and gate.shape == up.shape and down.shape == gate.shape[::-1]):
        raise ValueError(f"gate and up must be (M, H) and down (H, M); came {gate.shape}, {up.shape}, {down.shape}")
    return np.concatenate((to_bits(gate), to_bits(up), to_bits(np.asarray(down).T)), 1)


def write_neurons(
    path: str | Path,
    layers: Sequence[Layer],
    orders: Sequence[np.ndarray] | None = None,
    bundled: bool = True,
    bundle_bytes: int | None = None,
) -> int:
    """Write the feed-forward weights of a model, whole or not at all.

    Args:
        path: the file.
        layers: (gate, up, down) of each layer, all of one shape.
        orders: of each layer the neuron at each place, int (M,); None: 0, 1, 2, ...
        bundled: False: the three matrices one after the other, down by column (so each neuron takes three reads).
        bundle_bytes: bytes of a bundle, filled up with zeros: a stand-in for a wider model. None: 6 H.

    Returns:
        Bytes written.

    Raises:
        ValueError: "order of layer 2 must hold each of 640 neurons once", or a bundle_bytes that is too small or odd.
        OSError: "could not write ...: No space left on device; ...".
    """
    neurons, hidden = layers[0][0].shape
    size = 6 * hidden if bundle_bytes is None else bundle_bytes
    if size < 6 * hidden or size % 2 or (size != 6 * hidden and not bundled):
        raise ValueError(
            f"bundle_bytes must be an even number of at least {6 * hidden}, and exactly that when nothing is bundled; "
            f"came {size}"
        )
    orders = [np.arange(neurons)] * len(layers) if orders is None else [np.asarray(order) for order in orders]
    for number, order in enumerate(orders):
        if not np.array_equal(np.sort(order), np.arange(neurons)):
            raise ValueError(
                f"order of layer {number} must hold each of {neurons} neurons once; make it with greedy_path"
            )
    header = {
        "format": FORMAT,
        "layers": len(layers),
        "neurons": neurons,
        "hidden": hidden,
        "bundled": bundled,
        "bundle_bytes": size,
        "orders": [order.tolist() for order in orders],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    # The first 16 bytes say how long the header is; what follows starts on a block.
    text = f"{len(text):15d}\n".encode() + text

    def chunks() -> Iterator[np.ndarray | bytes]:
        yield text + bytes(-len(text) % BLOCK)
        for (gate, up, down), order in zip(layers, orders, strict=True):
            rows = bundle_layer(gate, up, down)[order]
            if bundled:
                wide = np.zeros((neurons, size // 2), np.uint16)
                wide[:, : 3 * hidden] = rows
                parts = [wide]
            else:
                parts = [np.ascontiguousarray(rows[:, k * hidden : (k + 1) * hidden]) for k in range(3)]
            yield from parts
            yield bytes(-neurons * size % BLOCK)

    return write_whole(path, chunks())


class NeuronFile:
    """A file of `write_neurons`, opened for cold reads.

    Attributes:
        layers, neurons, hidden, bundled, bundle_bytes: what was written.
        order, place_of: int64 (layers, M), neuron at each place and place of each neuron.
        cold: the `ColdFile`, with `bytes_read` and `requests`.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        """Open and check a file.

        Args:
            path: the file.
            threads: requests that may be under way at once; a drive serves many small ones faster side by side.

        Raises:
            FileNotFoundError: "there is no file ...".
            ValueError: "... is not a file of neurons ..." or "... has 9 bytes where its header asks for 99 ...".
        """
        self.cold = ColdFile(path)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        name = Path(path).name
        try:
            length = int(bytes(self.cold.read(0, 16)))
            header = json.loads(bytes(self.cold.read(16, length)))
            if header["format"] != FORMAT:
                raise KeyError("format")
        except (ValueError, KeyError, TypeError) as error:
            self.close()
            raise ValueError(
                f"{name} is not a file of neurons, or its first block is damaged; write it with write_neurons"
            ) from error
        self.layers, self.neurons, self.hidden = header["layers"], header["neurons"], header["hidden"]
        self.bundled, self.bundle_bytes = header["bundled"], header["bundle_bytes"]
        self.order = np.array(header["orders"], np.int64).reshape(self.layers, self.neurons)
        self.place_of = np.argsort(self.order, 1)
        self._first = -(-(16 + length) // BLOCK) * BLOCK
        self.layer_bytes = -(-self.neurons * self.bundle_bytes // BLOCK) * BLOCK
        needed = self._first + self.layers * self.layer_bytes
        if self.cold.size < needed:
            self.close()
            raise ValueError(
                f"{name} has {self.cold.size} bytes where its header asks for {needed}: it is cut short, "
                "so write it again"
            )
        # What opening the file cost is no part of a token.
        self.cold.bytes_read = self.cold.requests = 0

    def __enter__(self) -> NeuronFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and end its threads."""
        if self._pool:
            self._pool.shutdown()
        self.cold.close()

    def start(self, layer: int) -> int:
        """Return the byte at which a layer begins."""
        return self._first + layer * self.layer_bytes

    def read_layer(self, layer: int) -> np.ndarray:
        """Read all of a layer in one request; returns uint16 (M, 3 H) by neuron."""
        return self.fetch(layer, np.arange(self.neurons), gap=self.neurons)

    def fetch(self, layer: int, neurons: np.ndarray, gap: int = 0) -> np.ndarray:
        """Read neurons.

        Args:
            layer: number of the layer.
            neurons: int (n,), each once.
            gap: see `merge_reads`.

        Returns:
            uint16 (n, 3 H), row by row as the neurons were given.
        """
        places = self.place_of[layer][np.asarray(neurons, np.int64)]
        reads = merge_reads(places, gap)
        out = np.empty((len(places), 3 * self.hidden), np.uint16)
        if self.bundled:
            self._gather(self.start(layer), self.bundle_bytes, 3 * self.hidden, reads, places, out)
        else:
            part = 2 * self.hidden
            for k in range(3):
                into = out[:, k * self.hidden : (k + 1) * self.hidden]
                self._gather(self.start(layer) + k * self.neurons * part, part, self.hidden, reads, places, into)
        return out

    def _gather(self, start: int, size: int, used: int, reads: Reads, places: np.ndarray, out: np.ndarray) -> None:
        of_read = np.searchsorted(reads.starts, places, side="right") - 1
        by_read = np.argsort(of_read, kind="stable")
        groups = np.split(by_read, np.cumsum(np.bincount(of_read, minlength=len(reads)))[:-1])

        def read(first: int, count: int, wanted: np.ndarray) -> None:
            got = np.frombuffer(self.cold.read(start + first * size, count * size), np.uint16).reshape(count, -1)
            out[wanted] = got[places[wanted] - first, :used]

        jobs = reads.starts.tolist(), reads.counts.tolist(), groups
        # Reading them all out raises what went wrong in a thread.
        list(self._pool.map(read, *jobs) if self._pool else map(read, *jobs))
