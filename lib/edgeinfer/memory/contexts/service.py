"""One model for several apps: their contexts share a budget of memory, and what does not fit lies in files.

A context's whole chunks are kept in few bits and written ahead of time, so that dropping one costs nothing; tokens that
do not fill a chunk are simply run again. It knows no requests and no batches. Source: llms.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgeinfer.memory.contexts.chunk import Chunk, compress
from edgeinfer.memory.contexts.chunk_file import ContextFileError, read_chunk, write_chunk
from edgeinfer.memory.contexts.density import AttentionMass, allot_bits, chunk_density
from edgeinfer.memory.contexts.eviction import Candidate, Order, eviction_order
from edgeinfer.memory.contexts.loading import Costs, split_point
from edgeinfer.memory.storage import remove_parts
from edgeinfer.models import Decoder, PlainCache

APP = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass
class _Place:
    """Where a chunk is: in memory (`chunk`) or only in its file; `size` is what it takes in memory."""

    bits: int
    size: int
    chunk: Chunk | None
    file: bool = True


@dataclass
class _Context:
    tokens: list[int] = field(default_factory=list)
    places: list[_Place] = field(default_factory=list)
    used: int = 0


@dataclass
class Switch:
    """What bringing a context back took: chunks found in memory, read and computed again, and the bytes read."""

    in_memory: int = 0
    read: int = 0
    recomputed: int = 0
    bytes_read: int = 0


class ContextService:
    """Contexts of several apps.

    Attributes:
        memory_bytes: bytes of all chunks in memory; never above `budget_bytes`.
        bytes_written: to files, in all.
        last: the `Switch` of the last call.
        loading: "split" as the cost model says, "read" always, or "recompute" always, to compare.
    """

    loading: Literal["split", "read", "recompute"] = "split"

    def __init__(
        self,
        model: Decoder,
        folder: str | Path,
        budget_bytes: int,
        costs: Costs,
        chunk_tokens: int = 32,
        average_bits: float = 4.0,
        order: Order = "lctru",
    ) -> None:
        """Open a folder of contexts; what an earlier process left there whole is found again.

        Args:
            model: a decoder.
            folder: for the files; made if it is not there, and used by one service at a time.
            budget_bytes: for chunks of all apps together.
            costs: of reading and computing; see `measure_costs`.
            chunk_tokens: tokens of a chunk.
            average_bits: mean width of the chunks made in one call; 8 for all: no choice is made.
            order: who leaves first.

        Raises:
            ValueError: "a budget of 100 bytes holds no chunk: ...".
        """
        self.model, self.folder, self.budget_bytes, self.costs = model, Path(folder), budget_bytes, costs
        self.chunk_tokens, self.average_bits, self.order = chunk_tokens, average_bits, order
        config = model.config
        shape = (config.num_hidden_layers, config.num_key_value_heads, chunk_tokens, config.head_dim)
        nothing = np.zeros(shape, np.float32)
        largest = compress(0, np.zeros(chunk_tokens, np.int64), nothing, nothing, 8).nbytes
        if budget_bytes < largest:
            raise ValueError(
                f"a budget of {budget_bytes} bytes holds no chunk: {chunk_tokens} tokens of 8 bits take {largest}; "
                "give more, or take shorter chunks"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_parts(self.folder)
        self.memory_bytes = self.bytes_written = self._clock = 0
        self.last = Switch()
        self._contexts: dict[str, _Context] = {}
        self._one_at_a_time = threading.Lock()
        self._find_contexts()

    # ---- what apps call ------------------------------------------------------------------------------------------

    def apps(self) -> list[str]:
        """Names of the apps that have a context."""
        return sorted(self._contexts)

    def tokens(self, app: str) -> list[int]:
        """Tokens of an app's context; empty for an unknown app."""
        return list(self._contexts[app].tokens) if app in self._contexts else []

    def chunks(self, app: str) -> list[tuple[int, bool]]:
        """(bits, whether in memory) of each chunk of an app."""
        return [(p.bits, p.chunk is not None) for p in self._contexts[app].places] if app in self._contexts else []

    @torch.inference_mode()
    def run(self, app: str, tokens: Tensor, last_only: bool = True) -> Tensor:
        """Go on with an app's context (a new one if it has none).

        Args:
            app: letters, digits, `-` and `_`.
            tokens: (T,) int64, at least one.
            last_only: return the logits of the last token only.

        Returns:
            logits (1, vocab_size), or (T, vocab_size).

        Raises:
            ContextFileError: a chunk's file is damaged; the chunk will be computed again in the next call.
            OSError: "could not write ...: No space left on device; ...".
            ValueError: for a bad name, no tokens, or more tokens than the model's positions.

        After an error the context is what it was before, and the other contexts are untouched.
        """
        if not APP.fullmatch(app):
            raise ValueError(f"an app's name has 1 to 40 letters, digits, - and _; came {app!r}")
        if tokens.dim() != 1 or not len(tokens):
            raise ValueError(f"tokens must be (T,) int64 with at least one token; came {tuple(tokens.shape)}")
        with self._one_at_a_time:
            context = self._contexts.get(app, _Context())
            cache = PlainCache(self.model.config, 1, torch.float32, max(1, len(context.tokens) + len(tokens)))
            back = self._restore(app, context, cache)
            known = [*context.tokens, *tokens.tolist()]
            before, mass = self.model.attention, AttentionMass()
            self.model.attention = mass
            try:
                logits, _ = self.model.prefill(torch.tensor([known[cache.length :]]), cache)
            finally:
                self.model.attention = before
            fresh = self._write_new(app, len(context.places), known, cache, mass)
            self._contexts[app] = context
            context.tokens, context.used, self._clock = known, self._clock, self._clock + 1
            for number, chunk in back.items():
                self._admit(context.places[number], chunk)
            for chunk in fresh:
                context.places.append(_Place(chunk.bits, chunk.nbytes, None))
                self._admit(context.places[-1], chunk)
            return logits[0, -1:] if last_only else logits[0, -len(tokens) :]

    def forget(self, app: str) -> None:
        """Drop an app's context and its files; an unknown app is no error."""
        with self._one_at_a_time:
            context = self._contexts.pop(app, _Context())
            for place in context.places:
                self._drop(place)
            # From the last to the first: a process that is killed in between leaves a shorter context, not a torn one.
            for path in sorted(self.folder.glob(f"{app}.*.kv"), reverse=True):
                path.unlink(missing_ok=True)

    # ---- chunks --------------------------------------------------------------------------------------------------

    def _path(self, app: str, number: int) -> Path:
        return self.folder / f"{app}.{number:05d}.kv"

    def _find_contexts(self) -> None:
        for path in sorted(self.folder.glob("*.*.kv")):
            app, number = path.name.split(".")[:2]
            context = self._contexts.setdefault(app, _Context())
            try:
                chunk = read_chunk(path)
                if int(number) != len(context.places) or chunk.start != len(context.tokens):
                    raise ContextFileError(f"{path.name} follows a gap")
            except ContextFileError:
                path.unlink(missing_ok=True)  # what comes after a gap cannot be used: its tokens are not known
                continue
            context.tokens += chunk.tokens.tolist()
            context.places.append(_Place(chunk.bits, chunk.nbytes, None))
        self._contexts = {app: context for app, context in self._contexts.items() if context.places}

    def _restore(self, app: str, context: _Context, cache: PlainCache) -> dict[int, Chunk]:
        """Fill the cache with all whole chunks; return those that were not in memory."""
        missing = [n for n, place in enumerate(context.places) if place.chunk is None]
        reads = [self.costs.read(context.places[n].size) for n in missing]
        again = [self.costs.recompute(self.chunk_tokens)] * len(missing)
        count = {"read": 0, "recompute": len(missing)}.get(self.loading, -1)
        count = split_point(reads, again) if count < 0 else count
        computed = set(missing[:count]) | {n for n in missing if not context.places[n].file}
        back: dict[int, Chunk] = {}
        self.last = Switch(len(context.places) - len(missing))
        with ThreadPoolExecutor(1) as thread:
            coming = {n: thread.submit(read_chunk, self._path(app, n)) for n in missing if n not in computed}
            try:
                for number, place in enumerate(context.places):
                    chunk = place.chunk
                    if number in computed:
                        back[number] = self._compute(context, number, cache)
                        continue
                    if chunk is None:
                        chunk = back[number] = self._arrived(app, number, context, coming[number].result)
                    for layer, (keys, values) in enumerate(
                        zip(chunk.keys.dequantize(), chunk.values.dequantize(), strict=True)
                    ):
                        cache.update(layer, torch.from_numpy(keys[None]), torch.from_numpy(values[None]))
                    cache.advance(self.chunk_tokens)
            finally:
                for future in coming.values():
                    future.cancel()
        return back

    def _arrived(self, app: str, number: int, context: _Context, wait: object) -> Chunk:
        try:
            chunk: Chunk = wait()  # type: ignore[operator]
            start = number * self.chunk_tokens
            if chunk.start != start or chunk.tokens.tolist() != context.tokens[start : start + self.chunk_tokens]:
                raise ContextFileError(
                    f"{self._path(app, number).name} belongs to another context; it is computed again"
                )
        except ContextFileError:
            context.places[number].file = False
            raise
        self.last.read += 1
        self.last.bytes_read += chunk.nbytes
        return chunk

    def _compute(self, context: _Context, number: int, cache: PlainCache) -> Chunk:
        start = number * self.chunk_tokens
        self.model.prefill(torch.tensor([context.tokens[start : start + self.chunk_tokens]]), cache, last_only=True)
        self.last.recomputed += 1
        return self._cut(start, context.tokens, cache, context.places[number].bits)

    def _cut(self, start: int, tokens: list[int], cache: PlainCache, bits: int) -> Chunk:
        end = start + self.chunk_tokens
        both = [cache.layer(n) for n in range(self.model.config.num_hidden_layers)]
        keys, values = (torch.cat([pair[i][:, :, start:end] for pair in both]).float().numpy() for i in (0, 1))
        return compress(start, np.array(tokens[start:end], np.int64), keys, values, bits)

    def _write_new(
        self, app: str, first: int, tokens: list[int], cache: PlainCache, mass: AttentionMass
    ) -> list[Chunk]:
        density = chunk_density(mass.per_token(len(tokens)), self.chunk_tokens)[first:]
        fresh = [
            self._cut((first + n) * self.chunk_tokens, tokens, cache, bits)
            for n, bits in enumerate(allot_bits(density, self.average_bits))
        ]
        written: list[Path] = []
        try:
            for number, chunk in enumerate(fresh, first):
                self.bytes_written += write_chunk(self._path(app, number), chunk)
                written.append(self._path(app, number))
        except BaseException:
            for path in reversed(written):
                path.unlink(missing_ok=True)
            raise
        return fresh

    def _admit(self, place: _Place, chunk: Chunk) -> None:
        if place.chunk is not None:
            return
        if self.memory_bytes + chunk.nbytes > self.budget_bytes:
            present = {
                (app, n): p
                for app, context in self._contexts.items()
                for n, p in enumerate(context.places)
                if p.chunk is not None
            }
            known = [Candidate(app, n, p.bits, self._contexts[app].used) for (app, n), p in present.items()]
            for victim in eviction_order(known, self.order):
                self._drop(present[victim.app, victim.number])
                if self.memory_bytes + chunk.nbytes <= self.budget_bytes:
                    break
        place.chunk = chunk
        self.memory_bytes += chunk.nbytes

    def _drop(self, place: _Place) -> None:
        if place.chunk is not None:
            self.memory_bytes -= place.chunk.nbytes
            place.chunk = None
