"""Scores during training, from the training network in a few seconds: held-out loss, recall, held-out sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer

from edgeinfer.models import tasks
from edgeinfer.models.training.data import text_tokens
from edgeinfer.models.training.loop import cross_entropy
from edgeinfer.models.training.network import Network


def make_evaluation(tokenizer: Tokenizer, seed: int = 1) -> Callable[[Network], dict[str, float]]:
    """Return a function from a network to its scores on fixed material."""
    held_out = text_tokens(tokenizer, "held_out")
    text = torch.from_numpy(held_out[: 24 * 257].reshape(24, 257))
    vocabulary = tasks.words(tokenizer)
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tasks.Sequence]] = {
        f"recall_{n}": [tasks.recall(rng, vocabulary, 257, n) for _ in range(6)] for n in (4, 16, 32)
    }
    rows["copying"] = [tasks.copying(rng, np.arange(6, tokenizer.get_vocab_size()), 257, n) for n in (16, 32, 64, 100)]
    rows["needle_8"] = [tasks.needle(rng, vocabulary, held_out[i * 400 :], 257, 8) for i in range(12)]
    sums = tasks.held_out_sums(tokenizer, rng, 96)

    @torch.no_grad()
    def evaluate(network: Network) -> dict[str, float]:
        def predict(tokens: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return list(network(tokens)[0].values())[-1].float()

        scores = {}
        logits = predict(text[:, :-1])
        scores["held_out"] = round(cross_entropy(logits, text[:, 1:], torch.ones(24, 256)).item(), 4)
        for name, sequences in rows.items():
            tokens = torch.from_numpy(np.stack([s.tokens for s in sequences]))
            answers = torch.from_numpy(np.stack([s.weights for s in sequences])[:, 1:]) >= 1
            right = predict(tokens[:, :-1]).argmax(-1) == tokens[:, 1:]
            scores[name] = round(right[answers].float().mean().item(), 3)
        tokens, answers = sums
        right = (predict(tokens[:, :-1]).argmax(-1) == tokens[:, 1:]) | ~answers[:, 1:]
        scores["addition"] = round(right.all(1).float().mean().item(), 3)
        return scores

    return evaluate
