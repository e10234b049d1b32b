"""A whole decoding step of a dense model in few bits as one compiled call: what is left when every dispatch is gone.

A step of a small model is some seventy small operations. Called one by one from Python, the calls cost more than the
work. Here norms, products, rotation, cache, attention and activation of all layers are one function; it computes what
`KernelLinear` computes in the decoder's layers, product for product. Knows a model by its configuration and tensors.
Source: deepspeed-inference (fusing the small operations of a layer); the products are those of `integer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import activations, integer, simd
from edgeinfer.kernels.activations import _quantize
from edgeinfer.kernels.adaptor import QuantizedModel
from edgeinfer.kernels.packing import BLOCK, pack
from edgeinfer.kernels.quantize import QuantizedWeight, from_codes, quantize_groupwise

if TYPE_CHECKING:
    from torch import Tensor

_SOURCES = (activations.__file__, integer.__file__)
_REASSOCIATE = {"reassoc", "contract", "nsz"}


class Stack(NamedTuple):
    """The same product of every layer, packed: arrays of `PackedWeight` with the layer as first axis."""

    data: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8]
    middle: int
    group_size: int
    rows: int


def _side_by_side(parts: list[QuantizedWeight]) -> QuantizedWeight:
    """Weights that share an input, one below the other: groups run along the input, so nothing is quantized again."""
    first = parts[0]
    return from_codes(
        np.concatenate([p.codes for p in parts]),
        np.concatenate([p.scale for p in parts]),
        np.concatenate([p.zero_point for p in parts]),
        first.bits,
        first.group_size,
        first.symmetric,
    )


def _stack(layers: list[list[QuantizedWeight]]) -> Stack:
    packed = [pack(_side_by_side(parts)) for parts in layers]
    return Stack(
        np.stack([p.data for p in packed]),
        np.stack([p.scale.reshape(-1) for p in packed]),
        np.stack([p.zero_point.reshape(-1) for p in packed]),
        packed[0].middle,
        packed[0].group_size,
        packed[0].shape[0],
    )


class FusedDecoder:
    """Decodes one sequence with the weights that `quantize_model` found, a step a call.

    The head is quantized to 8 bits. The cache of keys and values is float32.

    Example::

        found = quantize_model(model, bits=4, group_size=64, method="gptq", calibration_tokens=tokens, attach="none")
        fused = FusedDecoder(model, found)
        text = fused.generate(prompt, max_new_tokens=64)
    """

    def __init__(self, model: Any, quantized: QuantizedModel, max_tokens: int | None = None) -> None:
        """
        Args:
            model: a `Decoder` with dense layers; only its tensors are read.
            quantized: 4-bit weights of all its linear layers, round-to-nearest or gptq.
            max_tokens: room of the cache; None: what the model allows.

        Raises:
            ValueError: "a fused step takes dense models ..." and the like.
        """
        config = model.config
        if config.is_moe or config.hidden_act not in ("silu", "relu"):
            raise ValueError("a fused step takes dense models with silu or relu; use quantize_model for this one.")
        if quantized.input_scales or quantized.bits not in (3, 4):
            raise ValueError(
                f"a fused step takes weights of 4 bits without input scales, got method {quantized.method!r} at "
                f"{quantized.bits} bits; use 'rtn' or 'gptq'."
            )
        missing = [name for name in model.linears() if name not in quantized.weights]
        if missing:
            raise ValueError(f"layer {missing[0]!r} was not quantized; a fused step needs all of them.")
        if any(name.endswith(".bias") for name in model.state_dict()):
            raise ValueError("a fused step takes models without biases; use quantize_model for this one.")
        self.config, self.length = config, 0
        layers = range(config.num_hidden_layers)

        def stack(*parts: str) -> Stack:
            return _stack([[quantized.weights[f"layers.{n}.{part}"] for part in parts] for n in layers])

        attention = [f"attention.{part}_proj" for part in "qkv"]
        tensors = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
        self._embedding = tensors["model.embed_tokens.weight"]
        head = quantize_groupwise(tensors.get("lm_head.weight", self._embedding), 8, quantized.group_size)
        norms = [f"layers.{n}.{norm}_layernorm" for n in layers for norm in ("input", "post_attention")]
        self._weights = (
            stack(*attention),
            stack("attention.o_proj"),
            stack("mlp.gate_proj", "mlp.up_proj"),
            stack("mlp.down_proj"),
            _stack([[head]]),
            np.stack([tensors[f"model.{name}.weight"] for name in (*norms, "norm")]),
        )
        capacity = min(max_tokens or config.max_position_embeddings, config.max_position_embeddings)
        cos, sin = model.rotation()
        self._rotation = cos[:capacity].float().numpy(), sin[:capacity].float().numpy()
        shape = (config.num_hidden_layers, config.num_key_value_heads, capacity, config.head_dim)
        self._cache = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._step = _vector_step if simd.available() else _portable_step

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that one step reads, without the cache."""
        stacks, norms = self._weights[:5], self._weights[5]
        return sum(s.data.nbytes + s.scale.nbytes + s.zero_point.nbytes for s in stacks) + norms.nbytes

    def reset(self) -> None:
        """Forget all tokens."""
        self.length = 0

    def step(self, token: int) -> NDArray[np.float32]:
        """Append a token and return the logits (vocab_size,) of the next one.

        Raises:
            ValueError: "the cache holds 2048 tokens and is full; ..." or "token 9999 is none of the 1024 ...".
        """
        if self.length == self._cache[0].shape[2]:
            raise ValueError(f"the cache holds {self.length} tokens and is full; give max_tokens or call reset().")
        if not 0 <= token < self.config.vocab_size:
            raise ValueError(f"token {token} is none of the {self.config.vocab_size} of this model.")
        logits = np.empty(-(-self.config.vocab_size // BLOCK) * BLOCK, np.float32)
        relu = self.config.hidden_act == "relu"
        rest = (*self._rotation, *self._cache, self.length, np.float32(self.config.rms_norm_eps), relu, logits)
        if not self._step(self._embedding[token], *self._weights, *rest):
            raise ValueError("a hidden state became NaN or infinite; the weights hold values that are no numbers.")
        self.length += 1
        return logits[: self.config.vocab_size]

    def generate(self, prompt: Tensor, max_new_tokens: int) -> Tensor:
        """Continue a prompt (T,) int64 greedily from an empty cache; returns (T + max_new_tokens,) int64."""
        import torch

        self.reset()
        tokens = prompt.reshape(-1).tolist()
        for token in tokens[:-1]:
            self.step(token)
        for _ in range(max_new_tokens):
            tokens.append(int(self.step(tokens[-1]).argmax()))
        return torch.tensor(tokens)


# The two products differ, the step is the same; a function given as an argument is inlined when it is compiled.


@simd.compiled(sources=_SOURCES, forceinline=True)
def _vector_product(bits, w, scale, zero, middle, codes, steps, sums, group_size, y, blocks):
    if bits == 4:
        integer._vector_4(w, scale, zero, middle, codes, steps, sums, group_size, y, 0, blocks)
    else:
        integer._vector_8(w, scale, zero, middle, codes, steps, sums, group_size, y, 0, blocks)


@simd.compiled(sources=_SOURCES, forceinline=True)
def _portable_product(bits, w, scale, zero, middle, codes, steps, sums, group_size, y, blocks):
    integer._portable(w, scale, zero, middle, bits, codes, steps, sums, group_size, y, 0, blocks)


@simd.compiled(sources=_SOURCES, forceinline=True)
def _multiply(product, bits, stack, layer, x, y):
    """y <- W x for layer `layer` of a stack, activations in int8; returns whether x was finite."""
    groups = x.size // stack.group_size
    codes = np.empty((1, x.size), np.int8)
    steps, sums = np.empty((1, groups), np.float32), np.empty((1, groups), np.int32)
    finite = _quantize(x.reshape(1, -1), stack.group_size, codes, steps, sums)
    out = y.reshape(1, -1)
    weights = (stack.data[layer], stack.scale[layer], stack.zero_point[layer], stack.middle)
    product(bits, *weights, codes, steps, sums, stack.group_size, out, y.size // BLOCK)
    return finite


@simd.compiled(fastmath=_REASSOCIATE)
def _norm(x, weight, eps, out):
    total = np.float32(0)
    for i in range(x.size):
        total += x[i] * x[i]
    scale = np.float32(1) / np.sqrt(total / np.float32(x.size) + eps)
    for i in range(x.size):
        out[i] = x[i] * scale * weight[i]


@simd.compiled(fastmath=_REASSOCIATE)
def _exp(x):
    """exp(x) for x <= 0 within 2e-7: a polynomial without a call, so that loops around it become vector code."""
    x = max(x, np.float32(-87))
    power = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    x = (x - power * np.float32(0.693359375)) + power * np.float32(2.12194440e-4)
    y = np.float32(1 / 720) * x + np.float32(1 / 120)
    y = ((y * x + np.float32(1 / 24)) * x + np.float32(1 / 6)) * x + np.float32(0.5)
    y = (y * x + np.float32(1)) * x + np.float32(1)
    return y * np.int32((np.int32(power) + np.int32(127)) << np.int32(23)).view(np.float32)


@simd.compiled(fastmath=_REASSOCIATE)
def _activate(gate_up, inner, relu, out):
    """out <- act(gate) * up; gate and up lie one behind the other."""
    for i in range(inner):
        gate = gate_up[i]
        if relu:
            out[i] = max(gate, np.float32(0)) * gate_up[inner + i]
        else:
            e = _exp(-abs(gate))
            positive = np.float32(1) / (np.float32(1) + e)
            out[i] = gate * (positive if gate >= 0 else np.float32(1) - positive) * gate_up[inner + i]


@simd.compiled(fastmath=_REASSOCIATE)
def _rotate(x, cos, sin):
    """Rotate one head in place; sin carries the sign of the first half."""
    half = x.size // 2
    for d in range(half):
        low, high = x[d], x[half + d]
        x[d] = low * cos[d] + high * sin[d]
        x[half + d] = high * cos[half + d] + low * sin[half + d]


@simd.compiled(fastmath=_REASSOCIATE)
def _attend(query, keys, values, count, out):
    """One query head (D,) over the first `count` keys and values (capacity, D)."""
    size = query.size
    scores = np.empty(count, np.float32)
    largest, total, unit = np.float32(-np.inf), np.float32(0), np.float32(1 / np.sqrt(size))
    for t in range(count):
        key, score = keys[t], np.float32(0)
        for d in range(size):
            score += query[d] * key[d]
        scores[t] = score * unit
        largest = max(largest, scores[t])
    for t in range(count):
        scores[t] = _exp(scores[t] - largest)
        total += scores[t]
    out[:] = np.float32(0)
    for t in range(count):
        value, share = values[t], scores[t] / total
        for d in range(size):
            out[d] += share * value[d]


@simd.compiled(sources=_SOURCES, forceinline=True)
def _all_layers(
    product, x, qkv, output, gate_up, down, head, norms, cos, sin, keys, values, position, eps, relu, logits
):
    layers, kv_heads, _, size = keys.shape
    heads = qkv.rows // size - 2 * kv_heads
    inner, finite = gate_up.rows // 2, True
    hidden, normed = x.copy(), np.empty_like(x)
    first = np.empty(-(-qkv.rows // BLOCK) * BLOCK, np.float32)
    mixed = np.empty(heads * size, np.float32)
    back = np.empty(-(-x.size // BLOCK) * BLOCK, np.float32)
    wide = np.empty(-(-gate_up.rows // BLOCK) * BLOCK, np.float32)
    activated = np.empty(inner, np.float32)
    for layer in range(layers):
        _norm(hidden, norms[2 * layer], eps, normed)
        finite = _multiply(product, 4, qkv, layer, normed, first) and finite
        for h in range(heads + kv_heads):
            _rotate(first[h * size : (h + 1) * size], cos[position], sin[position])
        for h in range(kv_heads):
            at = (heads + h) * size
            keys[layer, h, position] = first[at : at + size]
            at += kv_heads * size
            values[layer, h, position] = first[at : at + size]
        for h in range(heads):
            kv, part = h // (heads // kv_heads), slice(h * size, (h + 1) * size)
            _attend(first[part], keys[layer, kv], values[layer, kv], position + 1, mixed[part])
        finite = _multiply(product, 4, output, layer, mixed, back) and finite
        hidden += back[: x.size]
        _norm(hidden, norms[2 * layer + 1], eps, normed)
        finite = _multiply(product, 4, gate_up, layer, normed, wide) and finite
        _activate(wide, inner, relu, activated)
        finite = _multiply(product, 4, down, layer, activated, back) and finite
        hidden += back[: x.size]
    _norm(hidden, norms[2 * layers], eps, normed)
    return _multiply(product, 8, head, 0, normed, logits) and finite


@simd.compiled(sources=_SOURCES)
def _vector_step(x, qkv, output, gate_up, down, head, norms, cos, sin, keys, values, position, eps, relu, logits):
    return _all_layers(
        _vector_product, x, qkv, output, gate_up, down, head, norms, cos, sin, keys, values, position, eps, relu, logits
    )


@simd.compiled(sources=_SOURCES)
def _portable_step(x, qkv, output, gate_up, down, head, norms, cos, sin, keys, values, position, eps, relu, logits):
    return _all_layers(
        _portable_product,
        x,
        qkv,
        output,
        gate_up,
        down,
        head,
        norms,
        cos,
        sin,
        keys,
        values,
        position,
        eps,
        relu,
        logits,
    )
