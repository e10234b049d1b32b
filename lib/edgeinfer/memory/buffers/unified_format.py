"""One layout for the inputs and outputs of every operator: (channel blocks, tokens, channels of a block).

In the usual layouts a product wants rows of channels, attention wants heads first, and copies stand between them. With
blocks of channels in front, a head is a range of blocks: every operator here takes and gives the same layout, and only
views are made. A whole forward pass in NumPy. C channels, T tokens. Source: edgellm.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # channels that are computed side by side
Unified = NDArray[np.float32]


def to_unified(x: NDArray[np.float32], block: int = BLOCK) -> Unified:
    """(T, C) -> (C / block, T, block), contiguous.

    Raises:
        ValueError: "16 does not divide 40 channels; pad them with zeros."
    """
    tokens, channels = x.shape
    if channels % block:
        raise ValueError(f"{block} does not divide {channels} channels; pad them with zeros.")
    return np.ascontiguousarray(x.reshape(tokens, -1, block).transpose(1, 0, 2))


def from_unified(x: Unified) -> NDArray[np.float32]:
    """(C / block, T, block) -> (T, C), contiguous."""
    return np.ascontiguousarray(x.transpose(1, 0, 2).reshape(x.shape[1], -1))


def blocked_weight(weight: NDArray[np.float32], block: int = BLOCK) -> NDArray[np.float32]:
    """(N, K) -> (N / block, K / block, block of k, block of n), once, before anything runs."""
    rows, columns = weight.shape
    if rows % block or columns % block:
        raise ValueError(f"{block} does not divide the weight {rows} x {columns}; pad it with zeros.")
    return np.ascontiguousarray(weight.reshape(rows // block, block, columns // block, block).transpose(0, 2, 3, 1))


def linear(x: Unified, weight: NDArray[np.float32]) -> Unified:
    """A product: each block of outputs adds up over the blocks of inputs; every operand is used as it lies."""
    out = np.zeros((len(weight), x.shape[1], weight.shape[3]), np.float32)
    for n in range(len(weight)):
        for k in range(len(x)):
            out[n] += x[k] @ weight[n, k]
    return out


def rms_norm(x: Unified, weight: NDArray[np.float32], eps: float) -> Unified:
    """x / sqrt(mean(x^2) + eps) * weight, the mean over blocks and channels of a token."""
    mean = np.square(x).sum((0, 2)) / (x.shape[0] * x.shape[2])
    return x / np.sqrt(mean + np.float32(eps))[None, :, None] * weight.reshape(-1, 1, x.shape[2])


def rotate(x: Unified, cos: NDArray[np.float32], sin: NDArray[np.float32], head_blocks: int) -> Unified:
    """Rotary embedding: the other half of a head is other blocks, so nothing moves.

    Args:
        x: (C / block, T, block), whole heads.
        cos, sin: (T, head_dim) as `Decoder.rotation` has them.
        head_blocks: blocks of a head, an even number.
    """
    if head_blocks % 2:
        raise ValueError(f"a head has {head_blocks} blocks; half a head must be whole blocks: choose a smaller block.")
    out, half = np.empty_like(x), head_blocks // 2
    width = x.shape[2]
    for b in range(len(x)):
        part = b % head_blocks
        other = b - part + (part + half) % head_blocks
        columns = slice(part * width, (part + 1) * width)
        out[b] = x[b] * cos[:, columns] + x[other] * sin[:, columns]
    return out


def attention(query: Unified, keys: Unified, values: Unified, head_blocks: int) -> Unified:
    """Causal attention over the tokens of a prompt: a head is `head_blocks` blocks of each operand, as they lie."""
    out = np.empty_like(query)
    tokens, width = query.shape[1:]
    heads, kv_heads = len(query) // head_blocks, len(keys) // head_blocks
    hidden = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
    for h in range(heads):
        mine = range(h * head_blocks, (h + 1) * head_blocks)
        shared = h // (heads // kv_heads) * head_blocks
        scores = sum(query[b] @ keys[shared + i].T for i, b in enumerate(mine))
        scores = scores * np.float32((head_blocks * width) ** -0.5) + hidden
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        for i, b in enumerate(mine):
            out[b] = weights @ values[shared + i]
    return out


class UnifiedDecoder:
    """The shipped decoder with every activation in the one layout, from the embedding to the logits.

    Attributes:
        layouts: the shape of every operator's output in the last run: (blocks, T, block), all of them.
    """

    def __init__(self, model: object, block: int = BLOCK) -> None:
        """Args: model: a dense `Decoder` with SiLU; block: divides half of a head."""
        self.config = model.config  # type: ignore[attr-defined]
        state: Mapping[str, object] = model.state_dict()  # type: ignore[attr-defined]
        arrays = {name: tensor.float().numpy() for name, tensor in state.items()}  # type: ignore[attr-defined]
        self._weights = {
            name.removeprefix("model.").removesuffix(".weight"): blocked_weight(array, block)
            if array.ndim == 2 and "embed" not in name
            else array
            for name, array in arrays.items()
        }
        self._head = blocked_weight(arrays.get("lm_head.weight", arrays["model.embed_tokens.weight"]), block)
        self._cos, self._sin = (t.float().numpy() for t in model.rotation())  # type: ignore[attr-defined]
        self._block, self._head_blocks = block, self.config.head_dim // block
        self.layouts: list[tuple[int, ...]] = []

    def __call__(self, tokens: NDArray[np.int64]) -> Unified:
        """Logits of a prompt tokens (T,), in the layout (vocab_size / block, T, block)."""
        weights, eps = self._weights, self.config.rms_norm_eps
        count, self.layouts = len(tokens), []

        def noted(x: Unified) -> Unified:
            self.layouts.append(x.shape)
            return x

        # the rows of the embedding are written block by block: the one place where rows of channels are read
        hidden = noted(to_unified(weights["embed_tokens"][tokens], self._block))
        cos, sin = self._cos[:count], self._sin[:count]
        for n in range(self.config.num_hidden_layers):
            at = f"layers.{n}."
            normed = noted(rms_norm(hidden, weights[at + "input_layernorm"], eps))
            query, keys, values = (noted(linear(normed, weights[f"{at}self_attn.{p}_proj"])) for p in "qkv")
            query, keys = (noted(rotate(x, cos, sin, self._head_blocks)) for x in (query, keys))
            mixed = noted(attention(query, keys, values, self._head_blocks))
            hidden = noted(hidden + linear(mixed, weights[at + "self_attn.o_proj"]))
            normed = noted(rms_norm(hidden, weights[at + "post_attention_layernorm"], eps))
            gate, up = (noted(linear(normed, weights[f"{at}mlp.{p}_proj"])) for p in ("gate", "up"))
            hidden = noted(hidden + linear(noted(gate / (1 + np.exp(-gate)) * up), weights[at + "mlp.down_proj"]))
        return noted(linear(noted(rms_norm(hidden, weights["norm"], eps)), self._head))
