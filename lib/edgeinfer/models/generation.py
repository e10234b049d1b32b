"""Loading a decoder, generating with it, and its perplexity on the held-out text. It knows no technique."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.models import corpus, tasks
from edgeinfer.models.checkpoint import find_folder, load_tokenizer, read_tensors, torch_dtype
from edgeinfer.models.config import read_config
from edgeinfer.models.decoder import Decoder
from edgeinfer.models.weights import Weights


def load(folder_or_name: str | Path = "target", dtype: torch.dtype | str = torch.float32) -> Decoder:
    """Open a Llama-style checkpoint in Hugging Face format.

    Args:
        folder_or_name: a folder, a shipped model ("target", "draft", ...), or `org/name` of the hub.
        dtype: type of the weights and of the arithmetic, torch.float32, torch.bfloat16 or torch.float16.

    Returns:
        The decoder, ready to run.

    Raises:
        CheckpointError: one sentence that says what is wrong with the folder.
    """
    folder = find_folder(folder_or_name)
    config = read_config(folder)
    return Decoder(config, Weights(config, read_tensors(folder), torch_dtype(dtype)))


def generate_stream(
    model: Decoder, prompt_tokens: Tensor, max_new_tokens: int, stop: int | None = None
) -> Iterator[int]:
    """Yield the greedy continuation of one prompt (T,) token by token, up to and including `stop`."""
    tokens = prompt_tokens.reshape(1, -1)
    logits, kv_cache = model.prefill(tokens, last_only=True)
    for number in range(max_new_tokens):
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        yield int(tokens)
        if int(tokens) == stop or number == max_new_tokens - 1:
            return
        logits = model.decode(tokens, kv_cache)


@torch.inference_mode()
def generate(model: Decoder, prompt_tokens: Tensor, max_new_tokens: int, stop: int | None = None) -> Tensor:
    """Continue prompts greedily.

    Args:
        model: the decoder.
        prompt_tokens: (T,) or (B, T) int64.
        max_new_tokens: how many tokens to add.
        stop: token that ends a row; later tokens of that row repeat it, and generation ends when all rows have it.

    Returns:
        (T + new,) or (B, T + new) int64: the prompt and its continuation, as `transformers` returns it.
    """
    tokens = prompt_tokens.reshape(1, -1) if prompt_tokens.dim() == 1 else prompt_tokens
    out = [tokens]
    logits, kv_cache = model.prefill(tokens, last_only=True)
    ended = torch.zeros(tokens.shape[0], 1, dtype=torch.bool)
    for number in range(max_new_tokens):
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        if stop is not None:
            tokens = tokens.masked_fill(ended, stop)
            ended |= tokens == stop
        out.append(tokens)
        if number == max_new_tokens - 1 or (stop is not None and bool(ended.all())):
            break
        logits = model.decode(tokens, kv_cache)
    joined = torch.cat(out, 1)
    return joined[0] if prompt_tokens.dim() == 1 else joined


@cache
def _encoded(split: str) -> Tensor:
    tokenizer = load_tokenizer("target")
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(corpus.text(split))):
        ids += [tasks.BEGIN, *encoding.ids, tasks.END]
    return torch.tensor(ids)


def held_out_tokens(split: str = "text") -> Tensor:
    """Return real text that no model of the family was trained on, or the training text to compare with.

    Args:
        split: "text", the held-out files; "train", the training files.

    Returns:
        (T,) int64 token ids of the family's tokenizer, files one after the other.

    Raises:
        ValueError: "split 'x' is unknown; choose 'text' or 'train'".
    """
    if split not in ("text", "train"):
        raise ValueError(f"split {split!r} is unknown; choose 'text' or 'train'")
    return _encoded("held_out" if split == "text" else "train").clone()


@torch.inference_mode()
def perplexity(model: Decoder, tokens: Tensor, context: int = 256, max_tokens: int = 16_384, batch: int = 8) -> float:
    """Return exp of the mean -log p(token), each window of `context` tokens predicted from its own start only.

    Args:
        model: the decoder.
        tokens: (T,) int64.
        context: tokens predicted per window.
        max_tokens: predict at most so many.
        batch: windows at a time.

    Returns:
        Perplexity per token (1 would be certainty, vocab_size a blind guess).

    Raises:
        ValueError: "perplexity needs at least 257 tokens; came 10".
    """
    if len(tokens) < context + 1:
        raise ValueError(f"perplexity needs at least {context + 1} tokens; came {len(tokens)}")
    count = max(1, min(max_tokens // context, (len(tokens) - 1) // context))
    inputs = tokens[: count * context].view(count, context)
    labels = tokens[1 : count * context + 1].view(count, context)
    total = 0.0
    for some, wanted in zip(inputs.split(batch), labels.split(batch), strict=True):
        logits, _ = model.prefill(some)
        total += functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="sum").item()
    return math.exp(total / (count * context))
