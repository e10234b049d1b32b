"""Caches of few bits for the decoder: `LowBitCache`, whose packed form the kernel reads, and `EncodedCache`.

Knows torch and the decoder's protocol; the numbers are made in `kv_quantize` and `kv_fp8`. Also the two yardsticks of
every cache of this book: perplexity and recall of a text read part by part, so that old tokens come from the cache.
B sequences, H key-value heads, T new tokens, S kept tokens, D channels. Source: kivi, mnn-llm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgeinfer.kernels.attention_layout import PackedKV
from edgeinfer.kernels.attention_low_bit import attend_low_bit
from edgeinfer.models.config import Config
from edgeinfer.models.decoder import Decoder, attend
from edgeinfer.models.tasks import Question


@dataclass(frozen=True)
class PackedView:
    """What `LowBitCache` hands to the attention in place of a tensor: packed rows, and the shape of what they hold."""

    rows: list[PackedKV]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, S, D)."""
        row = self.rows[0]
        return len(self.rows), row.heads, row.length, row.head_dim


class LowBitCache:
    """Keeps keys per channel and values per token in few bits, and the last tokens as they are.

    Set it as a decoder's `cache_factory`, by `LowBitCache.factory(...)`; `use_low_bit_cache` also sets the attention
    that reads the packed form. Without that, it returns decoded tensors, which any attention takes. In a step of
    several tokens those tokens see each other as they are, and older ones from the cache.

    Args:
        config, batch, dtype: as for every cache.
        bits: 2, 4 or 8, one number or (keys, values).
        group_size: tokens of a key scale (a multiple of 32) and channels of a value scale, one number or both.
        window: recent tokens that stay exact; up to a block of 64 more do until the block is full.
        packed: hand the packed form to the attention when a step has one token.

    Example::

        model.cache_factory = LowBitCache.factory(bits=4, window=32)
    """

    def __init__(
        self,
        config: Config,
        batch: int,
        dtype: torch.dtype,
        bits: int | tuple[int, int] = 4,
        group_size: int | tuple[int, int] = 32,
        window: int = 32,
        packed: bool = False,
    ) -> None:
        self.length = 0
        self.padding: Tensor | None = None
        self._packed = packed
        heads, channels = config.num_key_value_heads, config.head_dim
        self.layers = [
            [PackedKV(heads, channels, bits, group_size, window) for _ in range(batch)]
            for _ in range(config.num_hidden_layers)
        ]

    @classmethod
    def factory(cls, **options: Any) -> Callable[[Config, int, torch.dtype], LowBitCache]:
        """A `cache_factory` with these options."""
        return lambda config, batch, dtype: cls(config, batch, dtype, **options)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Any, Any]:
        """Take (B, H, T, D); return what to attend to: decoded tensors, or packed views."""
        rows = self.layers[layer]
        pairs = list(zip(keys.float().numpy(), values.float().numpy(), strict=True))
        if self._packed and keys.shape[2] == 1 and self.padding is None:
            for row, (k, v) in zip(rows, pairs, strict=True):
                row.append(k, v)
            view = PackedView(rows)
            return view, view
        older = [row.dequantize() for row in rows]
        for row, (k, v) in zip(rows, pairs, strict=True):
            row.append(k, v)
        old_keys, old_values = (torch.from_numpy(np.stack(part)).to(keys.dtype) for part in zip(*older, strict=True))
        return torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)

    def advance(self, count: int) -> None:
        """Note that `count` tokens have passed all layers."""
        self.length += count

    @property
    def nbytes(self) -> int:
        """Bytes of all codes, scales, offsets and exact tokens (float32)."""
        return sum(row.nbytes for rows in self.layers for row in rows)


def attend_packed(threads: int = 1, path: str = "auto") -> Callable[..., Tensor]:
    """An attention for the decoder that reads packed views by `attend_low_bit`, and tensors as usual."""

    def attention(query: Tensor, keys: Any, values: Any, mask: Tensor | None, layer: int) -> Tensor:
        if not isinstance(keys, PackedView):
            return attend(query, keys, values, mask, layer)
        rows = [
            attend_low_bit(q[:, 0], row, threads, path) for q, row in zip(query.float().numpy(), keys.rows, strict=True)
        ]
        return torch.from_numpy(np.stack(rows)).unsqueeze(2).to(query.dtype)

    return attention


def use_low_bit_cache(model: Decoder, threads: int = 1, path: str = "auto", **options: Any) -> None:
    """Let a decoder keep its cache in few bits and attend to the codes; `model.restore()` undoes it.

    Args:
        model: the decoder.
        threads, path: of `attend_low_bit`.
        options: of `LowBitCache`.
    """
    model.cache_factory = LowBitCache.factory(packed=True, **options)
    model.attention = attend_packed(threads, path)


class Encoded(Protocol):
    """What a code must offer: `QuantizedKV` and `Fp8Array` do."""

    @property
    def nbytes(self) -> int:
        """Bytes kept."""

    def dequantize(self) -> NDArray[np.float32]:
        """The numbers."""


Codec = Callable[[NDArray[np.float32]], Encoded]


class EncodedCache:
    """Keeps each step's keys and values in any code, appended and never touched again.

    Args:
        config, batch, dtype: as for every cache.
        keys, values: functions from (B, H, T, D) float32 to an encoded array.
    """

    def __init__(self, config: Config, batch: int, dtype: torch.dtype, keys: Codec, values: Codec) -> None:
        self.length = 0
        self.padding: Tensor | None = None
        self._codecs = (keys, values)
        self._steps: list[tuple[list[Encoded], list[Encoded]]] = [([], []) for _ in range(config.num_hidden_layers)]

    @classmethod
    def factory(cls, keys: Codec, values: Codec) -> Callable[[Config, int, torch.dtype], EncodedCache]:
        """A `cache_factory` with these codes, say those of MNN-LLM::

        EncodedCache.factory(lambda k: quantize_keys(k, 4, k.shape[-1], along="channels"), quantize_fp8)
        """
        return lambda config, batch, dtype: cls(config, batch, dtype, keys, values)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the step's tokens; return older ones decoded and these as they are."""
        whole = []
        for steps, new, codec in zip(self._steps[layer], (keys, values), self._codecs, strict=True):
            old = [torch.from_numpy(step.dequantize()).to(new.dtype) for step in steps]
            whole.append(torch.cat([*old, new], 2))
            steps.append(codec(new.float().numpy()))
        return whole[0], whole[1]

    def advance(self, count: int) -> None:
        """Note that `count` tokens have passed all layers."""
        self.length += count

    @property
    def nbytes(self) -> int:
        """Bytes of all encoded keys and values."""
        return sum(step.nbytes for layer in self._steps for side in layer for step in side)


# ---------------------------------------------------------------- yardsticks


def read_in_parts(model: Decoder, tokens: Tensor, part: int) -> Iterator[tuple[Tensor, Any]]:
    """Run tokens (B, T) `part` at a time; yield the logits (B, part, vocab_size) of each part, and the cache."""
    kv_cache = None
    for some in tokens.split(part, 1):
        logits, kv_cache = model.prefill(some, kv_cache)
        yield logits, kv_cache


@torch.inference_mode()
def perplexity_in_parts(
    model: Decoder, tokens: Tensor, context: int = 256, max_tokens: int = 4096, part: int = 32
) -> tuple[float, float]:
    """Perplexity when older tokens come from the cache, and the cache's bytes per token at the end of a window.

    Args:
        model: the decoder, with the cache to be judged.
        tokens: (T,) int64.
        context: tokens predicted per window, a multiple of `part`.
        max_tokens: predict at most so many.
        part: tokens of a step; those of one step see each other exactly.

    Returns:
        (perplexity, bytes per token of all layers; 0 for a cache without `nbytes`).

    Raises:
        ValueError: "perplexity needs at least 257 tokens; came 10".
    """
    if len(tokens) < context + 1:
        raise ValueError(f"perplexity needs at least {context + 1} tokens; came {len(tokens)}")
    count = max(1, min(max_tokens // context, (len(tokens) - 1) // context))
    inputs = tokens[: count * context].view(count, context)
    labels = tokens[1 : count * context + 1].view(count, context)
    total, place, nbytes = 0.0, 0, 0
    for logits, kv_cache in read_in_parts(model, inputs, part):
        wanted = labels[:, place : place + logits.shape[1]]
        total += functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="sum").item()
        place += logits.shape[1]
        nbytes = getattr(kv_cache, "nbytes", 0)
    return math.exp(total / inputs.numel()), nbytes / inputs.numel()


@torch.inference_mode()
def recall_in_parts(model: Decoder, questions: list[Question], part: int = 32, batch: int = 32) -> float:
    """Share (0 to 1) of one-token questions answered when the notes come from the cache.

    Args:
        model: the decoder, with the cache to be judged.
        questions: from `tasks.recall_questions`; the last two tokens of a prompt are the question.
        part: tokens of a step of the notes; the question is a step of its own.
        batch: rows at a time.
    """
    right = 0
    groups: dict[int, list[Question]] = {}
    for question in questions:
        groups.setdefault(len(question.prompt), []).append(question)
    for group in groups.values():
        for start in range(0, len(group), batch):
            some = group[start : start + batch]
            prompts = torch.from_numpy(np.stack([q.prompt for q in some]))
            answers = torch.from_numpy(np.stack([q.answer for q in some]))[:, 0]
            *_, (_, kv_cache) = read_in_parts(model, prompts[:, :-2], part)
            logits, _ = model.prefill(prompts[:, -2:], kv_cache)
            right += int((logits[:, -1].argmax(-1) == answers).sum())
    return right / max(1, len(questions))
