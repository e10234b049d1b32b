"""Experts fetched from a file when a decoder asks: a least-recently-used cache per layer, and fetching on suspicion.

A `WeightStore`: all other weights come from the store it is put in front of. Source: mixtral-offloading, pre-gated-moe.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.kernels.threads import beside
from edgeinfer.memory.experts.expert_file import ExpertFile
from edgeinfer.memory.experts.routing import gate_weights
from edgeinfer.models import Decoder, WeightStore


class Event(NamedTuple):
    """What happened from `start` to `end` (seconds): a "wait" of the decoder, or a "read" of the other thread."""

    kind: str
    layer: int
    start: float
    end: float


class ExpertStore:
    """A weight store whose experts live in a file.

    Attributes:
        capacity: experts kept per layer.
        hits, misses, foreseen, unused: uses found in the cache, read while the decoder waited, met a fetch under way
            or done, and fetches that nobody used.
        peak_bytes: most bytes of experts held at once, those on their way included.
        events: what was waited for and read, with times.
    """

    def __init__(self, inner: WeightStore, file: ExpertFile, budget_bytes: int | None) -> None:
        """Make a store.

        Args:
            inner: gives every weight that is no expert.
            file: the experts.
            budget_bytes: for kept experts, shared equally by the layers; None: keep no expert after its layer.

        Raises:
            ValueError: "a budget of 100 bytes keeps no expert per layer; ...".
        """
        self.capacity = 0 if budget_bytes is None else budget_bytes // (file.expert_bytes * file.layers)
        if budget_bytes is not None and self.capacity < 1:
            raise ValueError(
                f"a budget of {budget_bytes} bytes keeps no expert per layer; "
                f"give at least {file.expert_bytes * file.layers}: {file.layers} layers, {file.expert_bytes} bytes each"
            )
        self._inner, self._file = inner, file
        self._kept: list[OrderedDict[int, np.ndarray]] = [OrderedDict() for _ in range(file.layers)]
        self._coming: dict[tuple[int, int], Future[np.ndarray]] = {}
        self._now: tuple[int, int] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="experts")
        self.hits = self.misses = self.foreseen = self.unused = self.peak_bytes = 0
        self.events: list[Event] = []

    def close(self) -> None:
        """Stop the reading thread and drop all experts; the file stays open."""
        self._thread.shutdown(cancel_futures=True)
        self._coming.clear()
        for kept in self._kept:
            kept.clear()

    def fetch(self, name: str) -> Tensor:
        """Return the weight (N, K) of `name`, from the cache or the file if it belongs to an expert."""
        if ".moe.experts." not in name:
            return self._inner.fetch(name)
        _, layer, _, _, expert, part = name.split(".")
        return self._file.weight(self._block(int(layer), int(expert)), part)

    def prefetch(self, layer: int, experts: Iterable[int]) -> None:
        """Start reading experts of a layer in the other thread; those that are there already are left alone."""
        self._drop_stale(layer - 1)
        for expert in experts:
            if expert not in self._kept[layer] and (layer, expert) not in self._coming:
                self._coming[layer, expert] = self._thread.submit(beside(self._read, layer, expert))
        self._note_peak()

    def _read(self, layer: int, expert: int) -> np.ndarray:
        start = time.perf_counter()
        block = self._file.read(layer, expert)
        self.events.append(Event("read", layer, start, time.perf_counter()))
        return block

    def _block(self, layer: int, expert: int) -> np.ndarray:
        kept = self._kept[layer]
        if self._now == (layer, expert):  # the second and third matrix of the same expert
            return kept[expert]
        if self._now is None or self._now[0] != layer:
            self._leave_behind(layer)
        self._now = (layer, expert)
        if expert in kept:
            self.hits += 1
            kept.move_to_end(expert)
            return kept[expert]
        start = time.perf_counter()
        coming = self._coming.pop((layer, expert), None)
        if coming is None:
            self.misses += 1
            block = self._file.read(layer, expert)
        else:
            self.foreseen += 1
            block = coming.result()
        self.events.append(Event("wait", layer, start, time.perf_counter()))
        if self.capacity and len(kept) >= self.capacity:
            kept.popitem(last=False)
        kept[expert] = block
        self._note_peak()
        return block

    def _leave_behind(self, layer: int) -> None:
        self._drop_stale(layer)
        if not self.capacity:
            for number, kept in enumerate(self._kept):
                if number != layer:
                    kept.clear()

    def _drop_stale(self, layer: int) -> None:
        # A guess serves the layer that comes next; what was not used by then is dropped.
        for key in [k for k in self._coming if k[0] not in (layer, layer + 1)]:
            self._coming.pop(key).cancel()
            self.unused += 1

    def _note_peak(self) -> None:
        held = sum(map(len, self._kept)) + len(self._coming)
        self.peak_bytes = max(self.peak_bytes, held * self._file.expert_bytes)


def install_speculation(model: Decoder, store: ExpertStore, guesses: int) -> None:
    """Let each gate's input pass through the next layer's gate, too, and fetch the experts which that one names.

    Args:
        model: its `weight_store` should be `store`; the gates are replaced, `model.restore()` undoes it.
        store: fetches.
        guesses: experts per token and layer.
    """
    gates = gate_weights(model)

    def product(layer: int) -> None:
        def run(x: Tensor) -> Tensor:
            if layer + 1 < len(gates):
                guess = functional.linear(x, gates[layer + 1]).topk(guesses, -1).indices
                store.prefetch(layer + 1, guess.unique().tolist())
            return functional.linear(x, gates[layer])

        model.replace_linear(f"layers.{layer}.moe.router", run)

    for layer in range(len(gates)):
        product(layer)


@torch.inference_mode()
def decode_with(model: Decoder, tokens: Tensor) -> tuple[Tensor, float]:
    """Feed tokens (T,) one at a time, as decoding does; return logits (T, vocab_size) and the seconds it took."""
    start, rows = time.perf_counter(), []
    logits, cache = model.prefill(tokens[None, :1])
    rows.append(logits[0])
    for token in tokens[1:]:
        rows.append(model.decode(token.reshape(1, 1), cache)[0])
    return torch.cat(rows), time.perf_counter() - start
