"""Batches of training: rows of real text mixed with rows of generated tasks; a step depends on (seed, step) alone.

Because a step needs no state of earlier steps, resuming after an interruption gives the same batches. It knows nothing
of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from edgeinfer.models import corpus, tasks

MIXED = {"recall": 0.40, "copying": 0.15, "addition": 0.20, "needle": 0.25}
MATCHING = {"recall": 0.45, "copying": 0.45, "addition": 0.10, "needle": 0.0}
ANSWER_WEIGHT = 4.0  # answers from the context are few among the tokens of their row


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum: until `until` of the budget, rows of `length` tokens, lists of up to `pairs` notes.

    `text` is the share of the rows that are real text; the rest are tasks in the proportions of `shares`. Copied blocks
    have up to `period` tokens (None: half a row), taken from the words alone or from the whole vocabulary.
    """

    until: float
    length: int
    pairs: int
    text: float
    shares: Mapping[str, float] = field(default_factory=lambda: MIXED)
    period: int | None = None
    copy_words: bool = False


# Short rows are quicker. Looking things up in the context (induction) does not appear by itself in so few tokens: the
# third part therefore shows little else. Long rows come last.
CURRICULUM = (
    Phase(0.1095, 128, 6, 0.35),
    Phase(0.2024, 256, 12, 0.50),
    Phase(0.4189, 128, 8, 0.45),
    Phase(0.55, 128, 5, 0.25, MATCHING, 24, True),
    Phase(0.72, 256, 16, 0.45, {"recall": 0.40, "copying": 0.25, "addition": 0.10, "needle": 0.25}),
    Phase(0.86, 256, 32, 0.60),
    Phase(1.00, 512, 32, 0.60),
)


def text_tokens(tokenizer: Tokenizer, split: str) -> np.ndarray:
    """Return one split of the corpus as one run of token ids (T,) int64, each file between <|begin|> and <|end|>."""
    parts: list[int] = []
    for encoding in tokenizer.encode_batch(list(corpus.text(split))):
        parts += [tasks.BEGIN, *encoding.ids, tasks.END]
    return np.array(parts, dtype=np.int64)


class Mixture:
    """Draws batches; `batch(step, progress)` is the same for the same arguments whatever was drawn before."""

    def __init__(self, tokenizer: Tokenizer, seed: int, tokens_per_step: int, curriculum: tuple[Phase, ...]) -> None:
        self.tokenizer, self.seed, self.tokens_per_step = tokenizer, seed, tokens_per_step
        self.curriculum = curriculum
        self.text = text_tokens(tokenizer, "train")
        self.words = tasks.words(tokenizer)
        self.copied = np.concatenate([self.words.keys, self.words.values])
        self.everything = np.arange(len(tasks.SPECIAL_TOKENS), tokenizer.get_vocab_size())

    def phase(self, progress: float) -> Phase:
        """Return the part of the curriculum at `progress` (0 to 1) of the budget."""
        return next((p for p in self.curriculum if progress < p.until), self.curriculum[-1])

    def _row(self, rng: np.random.Generator, phase: Phase) -> tasks.Sequence:
        length = phase.length + 1
        start = int(rng.integers(0, len(self.text) - length))
        if rng.random() < phase.text:
            return tasks.Sequence(self.text[start : start + length], np.ones(length, np.float32))
        kind = rng.choice(list(phase.shares), p=list(phase.shares.values()))
        if kind == "copying":
            period = int(rng.integers(8, phase.period or phase.length // 2))
            return tasks.copying(rng, self.copied if phase.copy_words else self.everything, length, period)
        if kind == "addition":
            return tasks.addition(rng, self.tokenizer, length)
        if kind == "recall":
            row = tasks.recall(rng, self.words, length, int(rng.integers(2, phase.pairs + 1)))
        else:
            pairs = int(rng.integers(1, min(phase.pairs, phase.length // 16) + 1))
            row = tasks.needle(rng, self.words, self.text[start : start + length], length, pairs)
        return tasks.Sequence(row.tokens, row.weights * ANSWER_WEIGHT)

    def batch(self, step: int, progress: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs, labels (B, T) int64 and weights (B, T) float32 of one step."""
        rng = np.random.default_rng((self.seed, step))
        phase = self.phase(progress)
        rows = [self._row(rng, phase) for _ in range(self.tokens_per_step // phase.length)]
        tokens = torch.from_numpy(np.stack([r.tokens for r in rows]))
        weights = torch.from_numpy(np.stack([r.weights for r in rows]))
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), weights[:, 1:].contiguous()
