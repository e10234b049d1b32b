"""A decoder whose weights and caches lie on three tiers, run step by step while a thread brings what comes next.

Fast is ordinary memory. Slow is memory that must be copied from before use: a mapped file that another process may own,
as a host's memory is to an accelerator. Disk is a file read past the page cache. The same layout for every layer; a
tensor lies on one tier. It obeys a policy and does not choose one. Source: flexgen (zig-zag order over a block).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeinfer.memory.locality.layer_file import LayerFile
from edgeinfer.memory.offload.policy import Policy
from edgeinfer.memory.storage import ColdFile
from edgeinfer.models.cache import PlainCache
from edgeinfer.models.config import Config
from edgeinfer.models.decoder import Decoder
from edgeinfer.models.weights import Weights, file_name, linear_shapes

TIERS = ("fast", "slow", "disk")
PIECE = 1 << 20  # bytes of one read


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
        FileNotFoundError: when nobody has made it.
    """

    def __init__(self, path: str | Path) -> None:
        self._bytes = np.memmap(path, np.uint8, "r+")
        self._used = 0

    @staticmethod
    def make(path: str | Path, size: int) -> None:
        """Make the file and touch every page of it, so that its memory belongs to the process that makes it."""
        with open(path, "wb") as file:
            for start in range(0, size, 1 << 24):
                file.write(bytes(min(1 << 24, size - start)))

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
    """Bytes that crossed, and where the time of each step went."""

    disk: int = 0
    copied: int = 0
    steps: list[float] = field(default_factory=list)
    waited: float = 0.0
    timeline: list[tuple[str, int, float, float]] = field(default_factory=list)


class TieredWeights:
    """Weights on three tiers, as a decoder's weight store: the layer that is computed is whole, the next one is coming.

    Args:
        path: of a layer file (`edgeinfer.memory.locality.write_layers`).
        shares: of fast, slow and disk.
        slow: where the slow share lies; None where it is zero.
        ahead: bring the next layer while the present one is used.

    Attributes:
        shares: those that whole tensors make possible.
        staging_bytes: of both buffers.
        moved: bytes and times.
    """

    def __init__(
        self, path: str | Path, shares: tuple[float, float, float], slow: SlowTier | None = None, ahead: bool = True
    ) -> None:
        self._file = LayerFile(path)
        self.layers = len(self._file.ranges)
        views = self._file.tensors(0, np.empty(self._file.ranges[0][1], np.uint8))
        self._short = {name: name.split(".", 2)[2] for name in views}
        sizes = {self._short[name]: t.numel() * t.element_size() for name, t in views.items()}
        self._kind = {self._short[name]: (t.dtype, t.shape) for name, t in views.items()}
        self._placed = place(sizes, shares)
        self.shares = achieved(sizes, self._placed)
        self._cold = ColdFile(path)
        self.how = self._cold.how
        self.moved = Moved()
        self._fast: dict[str, Tensor] = {}
        self._slow: dict[str, np.ndarray] = {}
        offsets = {self._short[n]: t.storage_offset() * t.element_size() for n, t in views.items()}
        self._where = [{s: first + offsets[s] for s in sizes} for first, _ in self._file.ranges]
        for layer in range(self.layers):
            for short, tier in self._placed.items():
                if tier == "disk":
                    continue
                raw = np.empty(sizes[short], np.uint8) if tier == "fast" or slow is None else slow.take(sizes[short])
                self._cold.read_into(int(self._where[layer][short]), raw)
                if tier == "fast":
                    self._fast[f"layers.{layer}.{short}"] = self._as_tensor(short, raw)
                else:
                    self._slow[f"layers.{layer}.{short}"] = raw
        self._passing = [s for s, tier in self._placed.items() if tier != "fast"]
        self._buffers = [{s: np.empty(sizes[s], np.uint8) for s in self._passing} for _ in range(2 if ahead else 1)]
        self.staging_bytes = sum(a.nbytes for b in self._buffers for a in b.values())
        self._here: dict[str, Tensor] = {}
        # The disk and the slow tier are two roads, so each has its own thread.
        self._roads = (
            {tier: ThreadPoolExecutor(1, thread_name_prefix=tier) for tier in ("slow", "disk")} if ahead else {}
        )
        self._coming: tuple[int, list[Future]] = (-1, [])
        self._begun = time.perf_counter()

    def __enter__(self) -> TieredWeights:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._roads.values():
            pool.shutdown()
        self._cold.close()

    def _as_tensor(self, short: str, raw: np.ndarray) -> Tensor:
        dtype, shape = self._kind[short]
        return torch.from_numpy(raw).view(dtype).view(shape)

    def _bring(self, layer: int, buffer: dict[str, np.ndarray], tier: str) -> None:
        start = time.perf_counter()
        for short in self._passing:
            if self._placed[short] != tier:
                continue
            raw = buffer[short]
            if tier == "slow":
                raw[:] = self._slow[f"layers.{layer}.{short}"]
                self.moved.copied += raw.nbytes
            else:
                at = self._where[layer][short]
                for first in range(0, raw.nbytes, PIECE):
                    self._cold.read_into(int(at) + first, raw[first : first + PIECE])
                self.moved.disk += raw.nbytes
        self.moved.timeline.append((tier, layer, start - self._begun, time.perf_counter() - self._begun))

    def enter(self, layer: int, following: int | None) -> None:
        """Wait until `layer` is here, and send for `following` (None: nothing follows)."""
        start = time.perf_counter()
        expected, futures = self._coming
        for future in futures:
            future.result()
        mine = self._buffers[layer % len(self._buffers)]
        if expected != layer:
            for tier in ("slow", "disk"):
                self._bring(layer, mine, tier)
        self._here = {f"layers.{layer}.{s}": self._as_tensor(s, mine[s]) for s in self._passing}
        self._coming = (-1, [])
        self.moved.waited += time.perf_counter() - start
        if self._roads and following is not None and self._passing:
            # Layers alternate between the buffers; a pass over an odd number of layers ends in the first one's.
            if following % 2 == layer % 2 and following != layer:
                return
            into = self._buffers[following % 2]
            self._coming = following, [p.submit(self._bring, following, into, tier) for tier, p in self._roads.items()]

    def fetch(self, name: str) -> Tensor:
        """Return a weight of the layer that was entered.

        Raises:
            RuntimeError: "... is not here now ...".
        """
        weight = self._fast.get(name)
        if weight is None:
            weight = self._here.get(name)
        if weight is None:
            raise RuntimeError(f"{name} is not here now; enter its layer before it is computed")
        return weight


class SlowCache(PlainCache):
    """Keys and values in the slow tier; a layer's are copied into one of two buffers before they are used.

    Args:
        config, batch, dtype: as `PlainCache`.
        capacity: tokens of a row, at most.
        slow: where they lie.
        buffers: two arrays of (2, B, H, capacity, D), shared by the caches of a block.
        moved: counts the copies.
    """

    def __init__(
        self,
        config: Config,
        batch: int,
        dtype: torch.dtype,
        capacity: int,
        slow: SlowTier,
        buffers: list[Tensor],
        moved: Moved,
    ) -> None:
        self.length, self.padding = 0, None
        self._capacity, self._moved, self._buffers = capacity, moved, buffers
        shape = (2, batch, config.num_key_value_heads, capacity, config.head_dim)
        size = int(np.prod(shape)) * dtype.itemsize
        self._lower = [
            torch.from_numpy(slow.take(size)).view(dtype).view(shape) for _ in range(config.num_hidden_layers)
        ]
        self._coming: dict[int, int] = {}

    def bring(self, layer: int, turn: int) -> None:
        """Copy a layer's keys and values into buffer `turn`."""
        kept = self._lower[layer][:, :, :, : self.length]
        self._buffers[turn][:, :, :, : self.length] = kept
        self._moved.copied += kept.numel() * kept.element_size()
        self._coming[layer] = turn

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the step's keys and values, here and below; return all of them."""
        if layer not in self._coming:
            self.bring(layer, 0)
        here = self._buffers[self._coming.pop(layer)]
        new = slice(self.length, self.length + keys.shape[2])
        for place_, part in ((0, keys), (1, values)):
            here[place_][:, :, new] = part
            self._lower[layer][place_][:, :, new] = part
        return here[0][:, :, : new.stop], here[1][:, :, : new.stop]


def run_block(
    model: Decoder,
    weights: TieredWeights,
    prompts: Sequence[Tensor],
    max_new_tokens: int,
    policy: Policy,
    slow: SlowTier | None = None,
) -> tuple[list[Tensor], Moved]:
    """Greedy answers for a block of sub-batches, each layer brought once per step for all of them.

    Args:
        model: from `skeleton`, or any decoder of the same weights.
        weights: where its linear layers come from.
        prompts: sub-batches (B, T) int64 of one length.
        max_new_tokens: for each row.
        policy: decides where the caches lie: the last sub-batches' in the slow tier, as many as its share says.
        slow: the slow tier; needed when that share is not zero.

    Returns:
        (B, max_new_tokens) for each sub-batch, and what was moved; `steps` are the seconds of each step, prefill first.
    """
    before, model.weight_store = model.weight_store, weights
    config, length = model.config, prompts[0].shape[1] + max_new_tokens
    below = round(policy.kv[1] * len(prompts))
    moved = weights.moved
    shape = (2, prompts[0].shape[0], config.num_key_value_heads, length, config.head_dim)
    buffers = [torch.empty(shape, dtype=model.dtype) for _ in range(2 if below else 0)]
    caches: list[PlainCache] = []
    for number, prompt in enumerate(prompts):
        if number < len(prompts) - below:
            caches.append(PlainCache(config, len(prompt), model.dtype, length))
        else:
            if slow is None:
                raise ValueError("the policy keeps caches in the slow tier; give one")
            caches.append(SlowCache(config, len(prompt), model.dtype, length, slow, buffers, moved))
    tokens, answers = list(prompts), [[] for _ in prompts]  # type: ignore[var-annotated]
    mover = ThreadPoolExecutor(1, thread_name_prefix="caches")
    try:
        with torch.inference_mode():
            for step in range(max_new_tokens):
                start = time.perf_counter()
                hidden = [model.embed(t) for t in tokens]
                coming: Future | None = None
                for layer in range(weights.layers):
                    last = layer + 1 == weights.layers
                    weights.enter(layer, None if last and step + 1 == max_new_tokens else (layer + 1) % weights.layers)
                    begun = time.perf_counter() - weights._begun
                    for number, cache in enumerate(caches):
                        if coming is not None:
                            coming.result()
                            coming = None
                        following = caches[number + 1] if number + 1 < len(caches) else None
                        if isinstance(following, SlowCache):
                            coming = mover.submit(following.bring, layer, (number + 1) % 2)
                        hidden[number] = model.forward_layers(hidden[number], cache, layer, layer + 1)
                    moved.timeline.append(("compute", layer, begun, time.perf_counter() - weights._begun))
                for number, cache in enumerate(caches):
                    cache.advance(tokens[number].shape[1])
                    tokens[number] = model.head(hidden[number][:, -1:])[:, 0].argmax(-1, keepdim=True)
                    answers[number].append(tokens[number])
                moved.steps.append(time.perf_counter() - start)
    finally:
        mover.shutdown()
        model.weight_store = before
    return [torch.cat(parts, 1) for parts in answers], moved
