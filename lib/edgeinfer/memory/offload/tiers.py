"""A decoder's weights on three tiers: the layer that is computed is here, and threads bring the next one.

Fast is ordinary memory. Slow is memory that must be copied from before use: a mapped file that another process may own,
as a host's memory is to an accelerator. Disk is a file read past the page cache. The same layout for every layer; a
tensor lies on one tier, as floats or in four bits. It obeys shares and does not choose them. Source: flexgen.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeinfer.kernels.memory import huge_empty
from edgeinfer.memory.locality.layer_file import LayerFile
from edgeinfer.memory.offload import packed
from edgeinfer.memory.offload.roads import Road
from edgeinfer.memory.storage import ColdFile
from edgeinfer.memory.storage.cold_file import BLOCK
from edgeinfer.models.config import Config
from edgeinfer.models.decoder import Decoder
from edgeinfer.models.weights import Weights, file_name, linear_shapes

TIERS = ("fast", "slow", "disk")
PIECE = 4 << 20  # bytes of one read
CHUNK = 4 << 20  # bytes of one copy


def skeleton(config: Config, resident: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Decoder:
    """A decoder whose linear layers have shapes and no memory; a weight store must give them.

    Args:
        config: of the model.
        resident: embedding, norms and head under their checkpoint names.
        dtype: of the arithmetic.
    """
    shapes = {f"{file_name(name)}.weight": shape for name, shape in linear_shapes(config).items()}
    nothing = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    return Decoder(config, Weights(config, {**nothing, **resident}, dtype))


def place(sizes: dict[str, int], shares: tuple[float, float, float]) -> dict[str, str]:
    """Put the tensors of a layer on tiers so that no tier but the disk holds more than its share.

    Args:
        sizes: {tensor: bytes} of one layer.
        shares: of the fast tier, the slow tier and the disk.

    Returns:
        {tensor: "fast", "slow" or "disk"}; large tensors are placed first.
    """
    whole = sum(sizes.values())
    room = {tier: share * whole * (1 + 1e-9) for tier, share in zip(TIERS, shares, strict=True)}
    found = {}
    for name in sorted(sizes, key=lambda n: -sizes[n]):
        # Without a share on the disk, what does not fit above goes to the slow tier, and so on down.
        tier = next((t for t in TIERS if room[t] >= sizes[name]), None)
        if tier is None:
            tier = max(TIERS[1:], key=lambda t: room[t]) if max(room["slow"], room["disk"]) > 0 else "fast"
        room[tier] -= sizes[name]
        found[name] = tier
    return found


def achieved(sizes: dict[str, int], placed: dict[str, str]) -> tuple[float, float, float]:
    """The shares of a layer's bytes that a placement really puts on each tier."""
    whole = sum(sizes.values())
    fast, slow, disk = (sum(sizes[n] for n in sizes if placed[n] == tier) / whole for tier in TIERS)
    return fast, slow, disk


class SlowTier:
    """Memory to copy from: one mapped file, given out in pieces.

    Args:
        path: of the file; made by `make`.

    Raises:
        FileNotFoundError: "there is no slow tier ...; make it with SlowTier.make".
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file() or not path.stat().st_size:
            raise FileNotFoundError(f"there is no slow tier {path.name}, or it is empty; make it with SlowTier.make")
        self._bytes = np.memmap(path, np.uint8, "r+")
        self._used = 0

    @staticmethod
    def make(path: str | Path, size: int) -> None:
        """Make the file and touch every page of it, so that its memory belongs to the process that makes it.

        Raises:
            OSError: "could not make a slow tier of 400 MB: No space left on device; ...".
        """
        try:
            with open(path, "wb") as file:
                for start in range(0, size, 1 << 24):
                    file.write(bytes(min(1 << 24, size - start)))
        except OSError as error:
            if Path(path).is_file():  # a device is nobody's to remove
                Path(path).unlink()
            raise OSError(
                error.errno,
                f"could not make a slow tier of {size / 1e6:.0f} MB: {error.strerror}; free some space, "
                "or make it smaller",
            ) from error

    def take(self, size: int) -> np.ndarray:
        """Give out `size` bytes.

        Raises:
            MemoryError: "the slow tier has ... left ...".
        """
        if self._used + size > self._bytes.size:
            raise MemoryError(
                f"the slow tier has {self._bytes.size - self._used} bytes left and {size} are needed; make it larger"
            )
        piece = self._bytes[self._used : self._used + size]
        self._used += -(-size // 64) * 64
        return piece


@dataclass
class Moved:
    """What crossed, and where the time went.

    Attributes:
        disk, copied: bytes from the disk, and from the slow tier.
        steps: seconds of each step, prefill first.
        waited: seconds in which computing waited for weights or caches.
        timeline: (lane, layer, begin, end) in seconds since the weights were opened; lanes are "disk", "slow",
            "caches", "unpack" and "compute".
        busy: seconds in which a lane used a processor, not only its road.
    """

    disk: int = 0
    copied: int = 0
    steps: list[float] = field(default_factory=list)
    waited: float = 0.0
    timeline: list[tuple[str, int, float, float]] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)
    _origin: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def lane(self, name: str, layer: int) -> Iterator[None]:
        """Note when something began and ended."""
        start, worked = time.perf_counter(), time.thread_time()
        yield
        self.busy[name] = self.busy.get(name, 0.0) + time.thread_time() - worked
        self.timeline.append((name, layer, start - self._origin, time.perf_counter() - self._origin))

    def seconds(self, name: str) -> float:
        """Seconds that a lane took in all."""
        return sum(end - start for lane, _, start, end in self.timeline if lane == name)


def _staging(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Room for a layer's tensors, side by side in huge pages; each begins at a block, so that a disk can fill it."""
    ends = np.cumsum([-(-size // BLOCK) * BLOCK for size in sizes.values()], dtype=np.int64)
    room = huge_empty((int(ends[-1]) if sizes else 0,), np.uint8)
    starts = [0, *ends[:-1].tolist()]
    return {name: room[start : start + size] for (name, size), start in zip(sizes.items(), starts, strict=False)}


class TieredWeights:
    """Weights on three tiers, as a decoder's weight store: the layer that is computed is whole, the next one is coming.

    Args:
        path: of a layer file: floats (`edgeinfer.memory.locality.write_layers`), or four bits
            (`edgeinfer.memory.offload.packed.write_packed_layers`), which stay packed on every tier and on the roads;
            a layer is unpacked when it is entered.
        shares: of fast, slow and disk.
        slow: where the slow share lies; None: in this process's own memory.
        ahead: bring the next layer while the present one is used.
        layers: use the first so many only, as when a machine is measured; None: all.

    Attributes:
        layers: how many.
        file: the table of the layer file.
        packed: whether it holds four bits.
        shares: those that whole tensors make possible.
        buffers: one or two, {tensor: bytes} of what is not resident; see `bring`.
        staging_bytes: of the buffers, and of one layer of floats where weights are packed.
        roads: "slow" and "disk", one thread each; none without `ahead`.
        how: "direct" or "dropped", as `ColdFile`.
        moved: bytes and times.

    Raises:
        ValueError: "... has 5000 bytes, and its table speaks of 9000: it is cut short ...".
        MemoryError: "the slow tier has ... bytes left ...".
    """

    def __init__(
        self,
        path: str | Path,
        shares: tuple[float, float, float],
        slow: SlowTier | None = None,
        ahead: bool = True,
        layers: int | None = None,
    ) -> None:
        self.file = LayerFile(path)
        self.layers = min(layers or len(self.file.ranges), len(self.file.ranges))
        views = self.file.tensors(0, np.empty(self.file.ranges[0][1], np.uint8))
        short_of = {name: name.split(".", 2)[2] for name in views}
        sizes = {short_of[name]: t.numel() * t.element_size() for name, t in views.items()}
        self._kind = {short_of[name]: (t.dtype, tuple(t.shape)) for name, t in views.items()}
        found = packed.packed_shapes(self.file)
        self.packed = found is not None
        self._floats: dict[str, np.ndarray] = {}
        if found is not None:
            self._kind = {short_of[name]: (found[1], shape) for name, shape in found[0].items() if name in short_of}
            self._floats = {short: np.empty(shape, np.float32) for short, (_, shape) in self._kind.items()}
        self._placed = place(sizes, shares)
        self.shares = achieved(sizes, self._placed)
        self._cold = ColdFile(path)
        end = max(first + length for first, length in self.file.ranges)
        if self._cold.size < end:
            self._cold.close()
            raise ValueError(
                f"{self.file.path.name} has {self._cold.size} bytes, and its table speaks of {end}: it is cut short, "
                "so write it again"
            )
        self.how = self._cold.how
        self.moved = Moved()
        offsets = {short_of[n]: t.storage_offset() * t.element_size() for n, t in views.items()}
        self._where = [{s: first + offsets[s] for s in sizes} for first, _ in self.file.ranges]
        self._fast, self._slow = self._load_upper(sizes, slow)
        self._passing = [s for s, tier in self._placed.items() if tier != "fast"]
        self._below = {t: [s for s in self._passing if self._placed[s] == t] for t in ("slow", "disk")}
        self.buffers = [_staging({s: sizes[s] for s in self._passing}) for _ in range(2 if ahead else 1)]
        self.staging_bytes = sum(a.nbytes for b in (*self.buffers, self._floats) for a in b.values())
        self._here: dict[str, Tensor] = {}
        # The disk and the slow tier are two roads, so each has its own thread.
        self.roads = {tier: Road(tier) for tier in ("slow", "disk")} if ahead else {}
        self._coming: tuple[int, list[Future]] = (-1, [])
        self._turn = 0

    def __enter__(self) -> TieredWeights:
        return self

    def __exit__(self, *_: object) -> None:
        for road in self.roads.values():
            road.close()
        self._cold.close()

    def _load_upper(
        self, sizes: dict[str, int], slow: SlowTier | None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Read what does not stay on the disk."""
        fast: dict[str, np.ndarray] = {}
        below: dict[str, np.ndarray] = {}
        for layer in range(self.layers):
            for short, tier in self._placed.items():
                if tier == "disk":
                    continue
                raw = np.empty(sizes[short], np.uint8) if tier == "fast" or slow is None else slow.take(sizes[short])
                self._read(layer, short, raw)
                (fast if tier == "fast" else below)[f"layers.{layer}.{short}"] = raw
        return fast, below

    def _read(self, layer: int, short: str, raw: np.ndarray) -> None:
        # In pieces: where a tensor does not begin at a block, each passes through a buffer of its own size.
        at = int(self._where[layer][short])
        for first in range(0, raw.nbytes, PIECE):
            self._cold.read_into(at + first, raw[first : first + PIECE])

    def _as_tensor(self, short: str, raw: np.ndarray) -> Tensor:
        dtype, shape = self._kind[short]
        if not self.packed:
            return torch.from_numpy(raw).view(dtype).view(shape)
        packed.view(raw, shape).unpack(self._floats[short])
        return torch.from_numpy(self._floats[short]).to(dtype)

    def bring(self, layer: int, tier: str, into: dict[str, np.ndarray]) -> None:
        """Bring the part of a layer that lies on one tier, "slow" or "disk", into one of `buffers`.

        Raises:
            ValueError: as `ColdFile.read_into`.
        """
        if tier == "slow":
            for short in self._below[tier]:
                self._copy(layer, short, slice(None), into)
        elif self._below[tier]:
            with self.moved.lane(tier, layer):
                for short in self._below[tier]:
                    self._read(layer, short, into[short])
                    self.moved.disk += into[short].nbytes

    def _copy(self, layer: int, short: str, part: slice, into: dict[str, np.ndarray]) -> None:
        with self.moved.lane("slow", layer):
            source = self._slow[f"layers.{layer}.{short}"][part]
            into[short][part] = source
            self.moved.copied += source.nbytes

    def _send(self, layer: int, into: dict[str, np.ndarray]) -> list[Future]:
        futures = []
        if self._below["disk"]:
            futures.append(self.roads["disk"].submit(self.bring, layer, "disk", into))
        # Copies are many small jobs, so that a cache, which is needed sooner, can get in between.
        for short in self._below["slow"]:
            for first in range(0, into[short].nbytes, CHUNK):
                part = slice(first, first + CHUNK)
                futures.append(self.roads["slow"].submit(self._copy, layer, short, part, into))
        return futures

    def enter(self, layer: int, following: int | None) -> None:
        """Wait until `layer` is here, and send for `following` (None: nothing follows)."""
        start = time.perf_counter()
        expected, futures = self._coming
        self._coming = (-1, [])
        for future in futures:
            future.result()
        if expected == layer:
            self._turn = 1 - self._turn
        mine = self.buffers[self._turn]
        if expected != layer:
            for tier in ("slow", "disk"):
                self.bring(layer, tier, mine)
        self.moved.waited += time.perf_counter() - start
        if self.roads and following is not None and self._passing:
            into = self.buffers[1 - self._turn]
            self._coming = following, self._send(following, into)
        stored = {s: mine[s] if s in mine else self._fast[f"layers.{layer}.{s}"] for s in self._placed}
        with self.moved.lane("unpack", layer) if self.packed else contextlib.nullcontext():
            self._here = {f"layers.{layer}.{s}": self._as_tensor(s, raw) for s, raw in stored.items()}

    def fetch(self, name: str) -> Tensor:
        """Return a weight of the layer that was entered.

        Raises:
            RuntimeError: "... is not here now ...".
        """
        weight = self._here.get(name)
        if weight is None:
            raise RuntimeError(f"{name} is not here now; enter its layer before it is computed")
        return weight
