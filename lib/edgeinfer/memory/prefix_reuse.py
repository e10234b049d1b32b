"""Keys and values of earlier prompts, kept in blocks of tokens and used again by every prompt that begins the same way.

A block is known by all tokens up to its end, compared token by token, never by a hash alone. The least recently used
block that no other block follows goes first. It knows one model and one process. Source: rtp-llm (its reuse is in whole
blocks too).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from edgeinfer.models.cache import PlainCache

if TYPE_CHECKING:
    from torch import Tensor

    from edgeinfer.models.decoder import Decoder


@dataclass
class _Block:
    """Keys and values of one block, layer by layer, and the blocks that follow it."""

    parent: _Block | None
    tokens: tuple[int, ...]
    layers: list[tuple[Tensor, Tensor]]
    used: int = 0
    children: dict[tuple[int, ...], _Block] = field(default_factory=dict)


@dataclass
class Turn:
    """What one prompt cost.

    Attributes:
        prompt: its tokens.
        reused: of these, taken from kept blocks.
        answer: generated tokens.
    """

    prompt: int
    reused: int
    answer: list[int] = field(default_factory=list)

    @property
    def prefilled(self) -> int:
        """Tokens that went through the model before the first one of the answer came out."""
        return self.prompt - self.reused


class PrefixCache:
    """Blocks of keys and values under a limit of tokens.

    Args:
        block_tokens: tokens of a block; only whole blocks are reused.
        max_tokens: at most so many tokens are kept; None: no limit.

    Raises:
        ValueError: "block_tokens must be at least 1, got 0".
    """

    def __init__(self, block_tokens: int = 16, max_tokens: int | None = None) -> None:
        if block_tokens < 1:
            raise ValueError(f"block_tokens must be at least 1, got {block_tokens}")
        if max_tokens is not None and max_tokens < 0:
            raise ValueError(f"max_tokens must be at least 0 or None, got {max_tokens}")
        self.block_tokens, self.max_tokens = block_tokens, max_tokens
        self._root = _Block(None, (), [])
        self._clock = count(1)

    def _chain(self, tokens: Sequence[int]) -> Iterator[tuple[_Block, tuple[int, ...]]]:
        """Kept blocks along the tokens, each with the key of the block after it."""
        block = self._root
        for start in range(0, len(tokens) - self.block_tokens + 1, self.block_tokens):
            key = tuple(tokens[start : start + self.block_tokens])
            yield block, key
            if key not in block.children:
                return
            block = block.children[key]

    def match(self, tokens: Sequence[int]) -> int:
        """How many tokens at the beginning of a prompt are kept, in whole blocks.

        The last token of a prompt is never among them: the model has to run it to say what follows.
        """
        return self.block_tokens * len(self._kept(tokens))

    def _kept(self, tokens: Sequence[int]) -> list[_Block]:
        most = (len(tokens) - 1) // self.block_tokens
        found = [block.children[key] for block, key in self._chain(tokens) if key in block.children]
        return found[:most]

    def prefill(self, model: Decoder, tokens: Tensor) -> tuple[Tensor, PlainCache, int]:
        """Run a prompt, but for what is kept of it.

        Args:
            model: the decoder whose blocks these are; always the same one.
            tokens: (T,) int64.

        Returns:
            logits (1, 1, vocab_size) of the last token, a cache of all tokens, and how many were reused.

        Raises:
            ValueError: "tokens must be one prompt (tokens,) with at least one token; came (2, 8)".
        """
        if tokens.dim() != 1 or not len(tokens):
            raise ValueError(f"tokens must be one prompt (tokens,) with at least one token; came {tuple(tokens.shape)}")
        blocks = self._kept(tokens.tolist())
        cache = PlainCache(model.config, 1, model.dtype, capacity=len(tokens) + self.block_tokens)
        now = next(self._clock)
        for block in blocks:
            for layer, (keys, values) in enumerate(block.layers):
                cache.update(layer, keys, values)
            cache.advance(self.block_tokens)
            block.used = now
        logits, _ = model.prefill(tokens[cache.length :][None], cache, last_only=True)
        return logits, cache, len(blocks) * self.block_tokens

    def keep(self, tokens: Sequence[int], cache: PlainCache) -> None:
        """Keep the whole blocks of what a cache holds.

        Args:
            tokens: those that the cache has seen, at least; further ones are ignored.
            cache: of one row, from `prefill` and the decoding after it.
        """
        seen = list(tokens[: cache.length])
        now, block = next(self._clock), self._root
        layers = [cache.layer(n) for n in range(len(cache._blocks))]
        for start in range(0, len(seen) - self.block_tokens + 1, self.block_tokens):
            key, end = tuple(seen[start : start + self.block_tokens]), start + self.block_tokens
            if key not in block.children:
                # Copies: a view would keep the whole cache of this prompt alive.
                parts = [(keys[:, :, start:end].clone(), values[:, :, start:end].clone()) for keys, values in layers]
                block.children[key] = _Block(block, key, parts)
            block = block.children[key]
            block.used = now
        self._forget()

    def _all(self) -> list[_Block]:
        found, stack = [], list(self._root.children.values())
        while stack:
            block = stack.pop()
            found.append(block)
            stack += block.children.values()
        return found

    def _forget(self) -> None:
        """Drop leaves, least recently used first: a block without the one before it could never be matched."""
        while self.max_tokens is not None and self.kept_tokens > self.max_tokens:
            leaf = min((block for block in self._all() if not block.children), key=lambda block: block.used)
            assert leaf.parent is not None
            del leaf.parent.children[leaf.tokens]

    @property
    def kept_tokens(self) -> int:
        """Tokens whose keys and values are kept."""
        return self.block_tokens * len(self._all())

    @property
    def nbytes(self) -> int:
        """Bytes of these keys and values."""
        return sum(2 * k.numel() * k.element_size() for block in self._all() for k, _ in block.layers)


def answer(model: Decoder, prompt: Tensor, max_new_tokens: int, prefixes: PrefixCache | None = None) -> Turn:
    """Answer one prompt greedily, with or without reuse.

    Args:
        model: the decoder.
        prompt: (T,) int64, the whole conversation so far.
        max_new_tokens: length of the answer.
        prefixes: kept blocks, used and filled; None: every prompt is run from its beginning.

    Returns:
        The turn, with the answer's tokens.
    """
    import torch

    if prefixes is None:
        logits, kv_cache = model.prefill(prompt[None], last_only=True)
        turn = Turn(len(prompt), 0)
    else:
        logits, kv_cache, reused = prefixes.prefill(model, prompt)
        turn = Turn(len(prompt), reused)
    for number in range(max_new_tokens):
        token = int(logits[0, -1].argmax())
        turn.answer.append(token)
        if number < max_new_tokens - 1:
            logits = model.decode(torch.tensor([[token]]), kv_cache)
    if prefixes is not None:
        assert isinstance(kv_cache, PlainCache)
        prefixes.keep([*prompt.tolist(), *turn.answer], kv_cache)
    return turn
