"""The shipped decoder as recorded programs: a pass over a prompt and a step of decoding, each for any length.

Knows the decoder, its cache and `symbolic`; no plan in particular. Two attentions can be hung into the decoder so that
all is made of operators that write where they are told. Source: transformer-lite, edgellm.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.memory.buffers.arena import ArenaProgram
from edgeinfer.memory.buffers.recording import Program, record
from edgeinfer.memory.buffers.symbolic import SymbolicPlan, SymbolicProgram, generalise, plan_symbolic
from edgeinfer.memory.kv_in_place import InPlaceCache
from edgeinfer.models.decoder import Decoder


def plain_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int) -> Tensor:
    """Scores, softmax and mixture as three operators with buffers of their own; arguments as in `attend`."""
    B, H, T, D = query.shape
    kv_heads, S = keys.shape[1:3]
    rows = H // kv_heads * T
    scores = torch.bmm(query.reshape(B * kv_heads, rows, D) * D**-0.5, keys.reshape(B * kv_heads, S, D).transpose(1, 2))
    if mask is not None:
        scores = scores.view(B, H, T, S).masked_fill(~mask, -torch.inf).view(B * kv_heads, rows, S)
    return torch.bmm(scores.softmax(-1), values.reshape(B * kv_heads, S, D)).view(B, H, T, D)


def fused_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int) -> Tensor:
    """Attention of a whole prompt from an empty cache as one operator, which never holds all scores."""
    return functional.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)


def prompt_program(model: Decoder, n: int, cache: InPlaceCache, attention: object = fused_attention) -> Program:
    """Record a pass over a prompt of n tokens (batch 1) that returns the logits of its last token."""
    tokens = torch.arange(n)[None] % model.config.vocab_size
    before, model.attention = model.attention, attention  # type: ignore[assignment]

    def run(tokens: Tensor) -> Tensor:
        cache.crop(0)
        return model.prefill(tokens, cache, last_only=True)[0]

    try:
        return record(run, tokens)
    finally:
        model.attention = before
        cache.crop(0)


def decode_program(model: Decoder, n: int, cache: InPlaceCache) -> Program:
    """Record the step of the token at position n (batch 1): n tokens are in the cache already."""
    token = torch.zeros((1, 1), dtype=torch.int64)
    before, length, model.attention = model.attention, cache.length, plain_attention
    try:
        cache.length = n
        return record(lambda token: model.decode(token, cache), token)
    finally:
        model.attention, cache.length = before, length


def any_prompt(model: Decoder, cache: InPlaceCache) -> SymbolicProgram:
    """The pass over a prompt of any length from two tokens on."""
    return generalise(lambda n: prompt_program(model, n, cache), (8, 12, 20))


def any_step(model: Decoder, cache: InPlaceCache) -> SymbolicProgram:
    """The step of decoding at any position from 1 on."""
    return generalise(lambda n: decode_program(model, n, cache), (8, 12, 20))


class ArenaDecoder:
    """Decodes out of one arena: the stream of instructions is made once, its token fields are filled in per token.

    Attributes:
        cache: keys and values, in place; not part of the arena.
        program, plan: for any position.
        arena: uint8, large enough for the last position.
    """

    def __init__(self, model: Decoder, positions: int | None = None) -> None:
        """Record, plan and allocate.

        Args:
            model: a dense decoder in float32 or bfloat16.
            positions: the last position that will be decoded; None: the model's limit.
        """
        self.model = model
        self.cache = InPlaceCache(model.config, 1, model.dtype)
        self.program = any_step(model, self.cache)
        last = (positions or model.config.max_position_embeddings) - 1
        self.plan: SymbolicPlan = plan_symbolic(self.program.buffers(), 1, last)
        self.arena = torch.empty(self.plan.at(last).total, dtype=torch.uint8)

    def prefill(self, tokens: Tensor) -> Tensor:
        """Run a prompt (1, T) in the ordinary way; returns the logits of the last token, (1, 1, vocab_size)."""
        self.cache.crop(0)
        return self.model.prefill(tokens, self.cache, last_only=True)[0]

    def bind(self) -> ArenaProgram:
        """The program of the next position, bound to the arena."""
        n = self.cache.length
        return ArenaProgram(self.program.at(n), self.plan.at(n), self.arena)

    def decode(self, token: Tensor) -> Tensor:
        """Run token (1, 1); returns its logits (1, 1, vocab_size), a view of the arena."""
        logits = self.bind()(token)
        self.cache.advance(1)
        return logits
