"""What fires in a model while it reads text: the inputs of each layer's networks and which neurons and heads are used.

It knows the decoder's hooks, no technique. What is fitted is fitted on training text and tested on held-out text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from edgeinfer.models import corpus, load_tokenizer, tasks
from edgeinfer.models.decoder import Decoder


@dataclass(frozen=True)
class Trace:
    """Layer by layer, token by token.

    Attributes:
        first: float32 (T, hidden), input of the first layer's attention.
        inputs: float32 (T, hidden) per layer, input of its feed-forward network.
        active: bool (T, M) per layer, neurons whose gate is above zero.
        heads: float32 (T, heads) per layer, norm of what each head adds to the hidden state.
    """

    first: np.ndarray
    inputs: list[np.ndarray]
    active: list[np.ndarray]
    heads: list[np.ndarray]

    def ahead(self, layer: int) -> np.ndarray:
        """Return what is known one layer before: the input of the network below, or of the first attention."""
        return self.inputs[layer - 1] if layer else self.first


@cache
def _training(count: int, skip: int) -> torch.Tensor:
    # The whole training text takes seconds to encode; a few of its files are enough.
    tokenizer, ids = load_tokenizer("target"), list[int]()
    for number, document in enumerate(corpus.text("train")):
        if number >= skip:
            ids += [tasks.BEGIN, *tokenizer.encode(document).ids, tasks.END]
        if len(ids) >= count:
            return torch.tensor(ids[:count])
    raise ValueError(f"the training text has only {len(ids)} tokens after file {skip}; {count} were asked for")


def training_tokens(count: int, skip: int = 0) -> torch.Tensor:
    """Return the first `count` tokens of the training text, from file number `skip` on, int64 (count,).

    Raises:
        ValueError: "the training text has only ... tokens ...".
    """
    return _training(count, skip).clone()


def record_trace(model: Decoder, tokens: torch.Tensor, context: int = 256, heads: bool = False) -> Trace:
    """Run windows of `context` tokens and write down what fired.

    Args:
        model: a dense decoder whose activation is ReLU.
        tokens: (T,) int64, at least one window.
        context: tokens of a window, each read from its own start.
        heads: also the norms of the heads.

    Raises:
        ValueError: "a trace needs a model with ReLU ..." or "a trace needs at least 256 tokens ...".
    """
    config = model.config
    if config.hidden_act != "relu":
        raise ValueError(f"a trace needs a model with ReLU, such as load('relu'); this one has {config.hidden_act!r}")
    if len(tokens) < context:
        raise ValueError(f"a trace needs at least {context} tokens; came {len(tokens)}")
    layers = range(config.num_hidden_layers)
    names = ["layers.0.attention.q_proj"]
    names += [f"layers.{n}.mlp.{part}_proj" for n in layers for part in ("gate", "down")]
    names += [f"layers.{n}.attention.o_proj" for n in layers] if heads else []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    weights = model.linears()
    for some in tokens[: len(tokens) // context * context].view(-1, context).split(16):
        for name, seen in model.capture_inputs(some, names).items():
            if name.endswith("down_proj"):
                kept = (seen != 0).numpy()
            elif name.endswith("o_proj"):
                kept = head_norms(seen.float(), weights[name].float(), config.num_attention_heads).numpy()
            else:
                kept = seen.float().numpy()
            parts[name].append(kept)
    joined = {name: np.concatenate(some) for name, some in parts.items()}
    return Trace(
        joined["layers.0.attention.q_proj"],
        [joined[f"layers.{n}.mlp.gate_proj"] for n in layers],
        [joined[f"layers.{n}.mlp.down_proj"] for n in layers],
        [joined[f"layers.{n}.attention.o_proj"] for n in layers] if heads else [],
    )


def head_norms(mixed: torch.Tensor, weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return (T, heads): norms of the heads' shares of o_proj; mixed (T, heads * D), weight (hidden, heads * D)."""
    shares = mixed.view(len(mixed), heads, -1)
    columns = weight.view(len(weight), heads, -1)
    grams = torch.einsum("nhd,nhe->hde", columns, columns)
    return torch.einsum("thd,hde,the->th", shares, grams, shares).clamp(min=0).sqrt()


def network_weights(model: Decoder) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (gate, up, down) of each layer as float32 arrays."""
    weights = model.linears()
    parts = [
        [weights[f"layers.{n}.mlp.{part}_proj"].float().numpy() for part in ("gate", "up", "down")]
        for n in range(model.config.num_hidden_layers)
    ]
    return [(gate, up, down) for gate, up, down in parts]
