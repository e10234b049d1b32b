"""Obeys a schedule of shards: a thread reads them from a file while the processor expands and computes layers.

The shards that are held ready stay in memory between requests; all others are read for each request and dropped as
soon as their layer is computed. It chooses nothing. Source: sti.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from edgeinfer.memory.offload.elastic_file import ShardFile
from edgeinfer.memory.offload.elastic_plan import Schedule
from edgeinfer.models.decoder import Decoder


@dataclass
class Request:
    """What happened during one request; seconds since it came.

    Attributes:
        seconds: until the logits were there.
        stalls: (layers,) seconds that the processor waited for the shards of each layer.
        timeline: ("read", shard, begin, end) and ("compute", layer, begin, end).
        read_bytes: from the file.
        peak_bytes: most bytes of stored shards in memory at once, those held ready included.
        how: "direct" or "dropped", see `ColdFile`.
    """

    seconds: float = 0.0
    stalls: list[float] = field(default_factory=list)
    timeline: list[tuple[str, int, float, float]] = field(default_factory=list)
    read_bytes: int = 0
    peak_bytes: int = 0
    how: str = ""

    @property
    def stalled(self) -> float:
        """Seconds that the processor waited in all."""
        return sum(self.stalls)


class _Arrivals:
    """Shards on their way from the reading thread to the processor."""

    def __init__(self, held: dict[int, np.ndarray]) -> None:
        self._here = dict(held)
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._stopped = False
        self._kept = set(held)
        self._bytes = self.peak = sum(block.nbytes for block in held.values())

    def put(self, shard: int, block: np.ndarray) -> None:
        with self._changed:
            self._here[shard] = block
            self._bytes += block.nbytes
            self.peak = max(self.peak, self._bytes)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """Tell a sleeping or reading thread that nobody waits for it any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait_until(self, moment: float) -> bool:
        """Sleep until a moment of the clock; False: stopped before."""
        with self._changed:
            while not self._stopped and (left := moment - time.perf_counter()) > 0:
                self._changed.wait(left)
            return not self._stopped

    def take(self, shards: list[int]) -> list[np.ndarray]:
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or all(s in self._here for s in shards))
            if self._error is not None:
                raise self._error
            return [self._here[s] for s in shards]

    def drop(self, shards: list[int]) -> None:
        with self._changed:
            for shard in shards:
                if shard not in self._kept:
                    self._bytes -= self._here.pop(shard).nbytes


class ElasticPipeline:
    """A model of which only a few shards are in memory.

    Args:
        model: its embedding, norms and head are used; its linear layers are not.
        file: the shards.
        schedule: what to hold and what to read in which fidelity.
        slow_flash: bytes/s of a **simulated** slow flash: each shard is really read by a thread from the file, and
            handed on no earlier than that rate allows; None: as fast as the disk is.

    Raises:
        ValueError: "... belongs to another model ...", "a schedule of 4 shards ...".
    """

    def __init__(self, model: Decoder, file: ShardFile, schedule: Schedule, slow_flash: float | None = None) -> None:
        self._model = file.hollow(model)
        if len(schedule.kinds) != len(file.names):
            raise ValueError(
                f"a schedule of {len(schedule.kinds)} shards was given for a file of {len(file.names)}; plan anew"
            )
        if slow_flash is not None and not slow_flash > 0:
            raise ValueError(f"a flash gives more than {slow_flash} bytes/s; give a positive rate, or None")
        self.schedule, self._file, self._rate = schedule, file, slow_flash
        self._model.weight_store = self
        self._layers = model.config.num_hidden_layers
        self._of_layer = [[i for i, n in enumerate(file.sizes.layer_of) if n == layer] for layer in range(self._layers)]
        self._weights: dict[str, Tensor] = {}
        # The preload buffer is filled before any request comes, so its reads are not on a request's clock.
        self._held = {i: self._read(i) for i in range(schedule.held)}

    @property
    def held_bytes(self) -> int:
        """Bytes of the preload buffer: all that stays of the layers between requests."""
        return sum(block.nbytes for block in self._held.values())

    def fetch(self, name: str) -> Tensor:
        """Return a weight of the layer that is computed now (the decoder asks)."""
        return self._weights[name]

    def _read(self, shard: int) -> np.ndarray:
        return self._file.read(self._file.names[shard], self._file.bits[self.schedule.kinds[shard]])

    def _reading(self, arrivals: _Arrivals, request: Request, begun: float) -> None:
        try:
            due = begun
            for shard in range(self.schedule.held, len(self._file.names)):
                start = max(due, begun) if self._rate else time.perf_counter()
                block = self._read(shard)
                if self._rate:
                    # The simulated flash works by the clock: a thread that wakes late does not make it slower.
                    due += block.nbytes / self._rate
                    if not arrivals.wait_until(due):
                        return
                request.read_bytes += block.nbytes
                request.timeline.append(("read", shard, start - begun, time.perf_counter() - begun))
                arrivals.put(shard, block)
        except BaseException as error:
            arrivals.fail(error)

    def run(self, tokens: Tensor, overlap: bool = True) -> tuple[Tensor, Request]:
        """Answer one request.

        Args:
            tokens: (B, T) int64, a prompt.
            overlap: compute while reading; False: read everything first.

        Returns:
            logits (B, T, vocab_size) and what happened.

        Raises:
            ValueError: what the file says when it was cut or changed meanwhile; the next request may be tried again.
        """
        model, request = self._model, Request(how=self._file.cold.how)
        cache = model.cache_factory(model.config, tokens.shape[0], model.dtype)
        arrivals = _Arrivals(self._held)
        begun = time.perf_counter()
        reader = threading.Thread(target=self._reading, args=(arrivals, request, begun), name="shards", daemon=True)
        reader.start()
        try:
            with torch.inference_mode():
                hidden = model.embed(tokens)
                free = time.perf_counter()
                if not overlap:
                    arrivals.take(list(range(len(self._file.names))))
                for layer, shards in enumerate(self._of_layer):
                    blocks = arrivals.take(shards)
                    start = time.perf_counter()
                    request.stalls.append(start - free)
                    for shard, block in zip(shards, blocks, strict=True):
                        bits = self._file.bits[self.schedule.kinds[shard]]
                        self._weights |= self._file.weights(self._file.names[shard], bits, block, model.dtype)
                    hidden = model.forward_layers(hidden, cache, layer, layer + 1)
                    self._weights.clear()
                    del blocks
                    arrivals.drop(shards)
                    free = time.perf_counter()
                    request.timeline.append(("compute", layer, start - begun, free - begun))
                logits = model.head(hidden)
            request.seconds = time.perf_counter() - begun
        finally:
            arrivals.stop()
            reader.join()
            self._weights.clear()
        request.peak_bytes = arrivals.peak
        return logits, request


def layer_seconds(model: Decoder, file: ShardFile, tokens: Tensor, repeats: int = 3) -> tuple[float, float]:
    """Measure, with every shard in memory, what a layer and the head take on this machine.

    Args:
        model, file: as for `ElasticPipeline`.
        tokens: (B, T) int64, a prompt like those that will come.
        repeats: runs in each fidelity.

    Returns:
        Seconds of a layer (expanding its shards included; the slowest fidelity counts), and of what follows the last.
    """
    layers, rest = [], []
    for kind in range(len(file.bits)):
        everything = Schedule((kind,) * len(file.names), len(file.names), 0, 0, 0.0, (), (), 0.0)
        pipeline = ElasticPipeline(model, file, everything)
        mine = []
        for _ in range(repeats):
            _, request = pipeline.run(tokens)
            mine.append([end - begin for lane, _, begin, end in request.timeline if lane == "compute"])
            rest.append(request.seconds - sum(mine[-1]))
        # The middle of the runs layer by layer, so that one interrupted run does not count.
        layers.append(float(np.median(mine, axis=0).mean()))
    return max(layers), float(np.median(rest))


def read_rate(file: ShardFile) -> float:
    """Measure bytes/s of cold reads, shard by shard, in the fidelity with the most bits."""
    start, size = time.perf_counter(), 0
    for shard in file.names:
        size += file.read(shard, file.bits[-1]).nbytes
    return size / (time.perf_counter() - start)
