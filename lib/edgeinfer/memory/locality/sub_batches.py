"""A layer that has been loaded serves several sub-batches before the next one comes: fewer bytes for each token.

It knows the decoder and a stream of layers; not where they are read from. Source: speedloader (its inference side; how
it shards training is the subject of V.D.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeinfer.memory.locality.layer_file import LayerStream
from edgeinfer.models.cache import PlainCache
from edgeinfer.models.decoder import Decoder


class _Current:
    """A weight store that has one layer at a time."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def fetch(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise RuntimeError(f"{name} is not loaded now; run the decoder through SubBatchRunner while it streams.")
        return self.tensors[name]


class SubBatchRunner:
    """Greedy generation for several sub-batches with weights that are streamed layer by layer.

    Attributes:
        passes: how often all layers have been loaded.
        tokens: new tokens so far, over all rows.
    """

    def __init__(self, model: Decoder, stream: LayerStream) -> None:
        """Take the decoder over: its linear layers come from the stream until `close`.

        Args:
            model: gives embedding, norms, head and attention.
            stream: gives the linear layers.
        """
        self._model, self._stream, self._store = model, stream, _Current()
        self._before = model.weight_store
        model.weight_store = self._store
        self.passes = self.tokens = 0

    def __enter__(self) -> SubBatchRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the decoder its own weights back."""
        self._model.weight_store = self._before

    @torch.inference_mode()
    def step(self, batches: Sequence[Tensor], caches: Sequence[PlainCache], again: bool = False) -> list[Tensor]:
        """Run tokens (B, T) of every sub-batch through all layers, each layer loaded once.

        Returns:
            The logits (B, vocab_size) of the last token of each sub-batch.
        """
        model = self._model
        hidden = [model.embed(tokens) for tokens in batches]
        for layer, tensors in self._stream.one_pass(again):
            self._store.tensors = tensors
            for number, cache in enumerate(caches):
                hidden[number] = model.forward_layers(hidden[number], cache, layer, layer + 1)
        self._store.tensors = {}
        self.passes += 1
        for cache, tokens in zip(caches, batches, strict=True):
            cache.advance(tokens.shape[1])
        return [model.head(state[:, -1:])[:, 0] for state in hidden]

    def generate(self, prompts: Sequence[Tensor], max_new_tokens: int, together: int | None = None) -> list[Tensor]:
        """Greedy tokens for every sub-batch.

        Args:
            prompts: sub-batches (B, T) int64; their sizes may differ.
            max_new_tokens: for each row.
            together: so many sub-batches share a loaded layer; None: all of them.

        Returns:
            (B, max_new_tokens) int64 for each sub-batch.

        Raises:
            ValueError: "give at least one sub-batch, one new token, and together of at least 1."
        """
        together = len(prompts) if together is None else together
        if not prompts or max_new_tokens < 1 or together < 1:
            raise ValueError("give at least one sub-batch, one new token, and together of at least 1.")
        results: list[Tensor] = []
        for first in range(0, len(prompts), together):
            group = list(prompts[first : first + together])
            caches = [PlainCache(self._model.config, len(p), self._model.dtype) for p in group]
            made: list[list[Tensor]] = [[] for _ in group]
            for step in range(max_new_tokens):
                more = step + 1 < max_new_tokens or first + together < len(prompts)
                logits = self.step(group, caches, more)
                group = [row.argmax(-1, keepdim=True) for row in logits]
                for tokens, new in zip(made, group, strict=True):
                    tokens.append(new)
                    self.tokens += len(new)
            results += [torch.cat(tokens, 1) for tokens in made]
        return results


def pipeline_seconds(load: float, compute: float, layers: int, sub_batches: int, ahead: bool = True) -> float:
    """Time of one pass: each layer is loaded in `load` seconds and used for `compute` seconds by each sub-batch.

    Args:
        load, compute: seconds.
        layers, sub_batches: how many.
        ahead: the next layer is read meanwhile.
    """
    if min(layers, sub_batches) < 1 or min(load, compute) < 0:
        raise ValueError("a pipeline needs at least one layer, one sub-batch, and times that are not negative.")
    work = sub_batches * compute
    return load + (layers - 1) * max(load, work) + work if ahead else layers * (load + work)
