"""Tasks whose answers are known: recall from the context, recall across a long text, copying, two-digit addition.

Each generator returns token sequences with a weight per token (1 where the next token is determined, small elsewhere);
training and scoring use the same generators with different seeds. Nothing here knows a model's insides: `score` calls it.
A note is `<|note|> key value`, a question `<|ask|> key`, its answer ` value`; a sum is `<|sum|>23+54=77<|end|>`.
Words are those entries of the vocabulary that are a blank and at least two small letters, so a word is one token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

SPECIAL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>", "<|note|>", "<|ask|>", "<|sum|>")
PAD, BEGIN, END, NOTE, ASK, SUM = range(len(SPECIAL_TOKENS))
FREE = 0.02  # weight of a token that cannot be foreseen: enough to learn the form, too little to drown the answers
HELD_OUT_SUMS = 10  # one sum in ten is never trained on


@dataclass(frozen=True)
class Sequence:
    """One example: `tokens` (T,) int64 and `weights` (T,) float32, the weight of predicting that token."""

    tokens: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Question:
    """One scored question: `prompt` (T,) int64, `answer` (A,) int64, and `chance`, the score of a guess."""

    prompt: np.ndarray
    answer: np.ndarray
    chance: float


@dataclass(frozen=True)
class Words:
    """Token ids of the words that serve as keys, (96,) int64, and as values, (64,) int64: no word is both."""

    keys: np.ndarray
    values: np.ndarray


def words(tokenizer: Tokenizer) -> Words:
    """Deal the words of the vocabulary into keys and values, frequent and rare ones alike.

    Raises:
        ValueError: "the vocabulary has 12 words; recall needs at least 5".
    """
    found = sorted(i for token, i in tokenizer.get_vocab().items() if re.fullmatch("Ġ[a-z]{2,}", token))[:160]
    if len(found) < 5:
        raise ValueError(f"the vocabulary has {len(found)} words; recall needs at least 5")
    ids, place = np.array(found, np.int64), np.arange(len(found)) % 5
    is_value = (place == 1) | (place == 3)
    return Words(ids[~is_value], ids[is_value])


def _digits(tokenizer: Tokenizer) -> dict[str, int]:
    return {c: tokenizer.token_to_id(c) for c in "0123456789+="}


def recall(rng: np.random.Generator, vocabulary: Words, length: int, pairs: int) -> Sequence:
    """Fill `length` tokens with lists of `pairs` notes, each list followed by questions about it.

    A key occurs in one note of a row only (up to 576 tokens), so one place in the context determines each answer.
    """
    tokens, weights = [BEGIN], [0.0]
    keys = rng.permutation(vocabulary.keys)
    used = 0
    while len(tokens) < length:
        if used + pairs > len(keys):
            keys, used = rng.permutation(vocabulary.keys), 0
        ours, used = keys[used : used + pairs], used + pairs
        values = rng.choice(vocabulary.values, pairs)
        for key, value in zip(ours, values, strict=True):
            tokens += [NOTE, key, value]
            weights += [FREE, FREE, FREE]
        for i in rng.permutation(pairs):
            tokens += [ASK, ours[i], values[i]]
            weights += [FREE, FREE, 1.0]
    return Sequence(np.array(tokens[:length], np.int64), np.array(weights[:length], np.float32))


def copying(rng: np.random.Generator, vocabulary_size: int, length: int, period: int) -> Sequence:
    """Repeat `period` random tokens until `length` is full: every token after the first period is determined."""
    block = rng.integers(len(SPECIAL_TOKENS), vocabulary_size, period)
    tokens = np.concatenate([[BEGIN], np.tile(block, length // period + 1)])[:length]
    weights = np.ones(length, np.float32)
    weights[: period + 1] = FREE
    weights[0] = 0.0
    return Sequence(tokens.astype(np.int64), weights)


def is_held_out_sum(a: int, b: int) -> bool:
    """Say whether a + b belongs to the sums that are never trained on."""
    return (a * 7919 + b * 104729) % 97 % HELD_OUT_SUMS == 0


def _sum_tokens(digits: dict[str, int], a: int, b: int) -> tuple[list[int], list[int]]:
    return [SUM, *(digits[c] for c in f"{a}+{b}=")], [*(digits[c] for c in str(a + b)), END]


def addition(rng: np.random.Generator, tokenizer: Tokenizer, length: int) -> Sequence:
    """Fill `length` tokens with sums of two two-digit numbers, none of them held out."""
    digits = _digits(tokenizer)
    tokens, weights = [BEGIN], [0.0]
    while len(tokens) < length:
        a, b = (int(n) for n in rng.integers(10, 100, 2))
        if is_held_out_sum(a, b):
            continue
        left, right = _sum_tokens(digits, a, b)
        tokens += left + right
        weights += [FREE] * len(left) + [1.0] * len(right)
    return Sequence(np.array(tokens[:length], np.int64), np.array(weights[:length], np.float32))


def needle(rng: np.random.Generator, vocabulary: Words, text: np.ndarray, length: int, pairs: int) -> Sequence:
    """Strew `pairs` notes over a real text and ask for all of them at the end.

    Args:
        rng: source of keys, values and places.
        vocabulary: the words to use.
        text: (>= length,) int64, tokens of a real text; they carry weight, too.
        length: tokens of the example.
        pairs: notes in it.
    """
    filler = text[: length - 1 - 6 * pairs]
    places = np.sort(rng.integers(0, len(filler) + 1, pairs))
    keys, values = rng.choice(vocabulary.keys, pairs, replace=False), rng.choice(vocabulary.values, pairs)
    tokens: list[int] = [BEGIN]
    weights: list[float] = [0.0]
    start = 0
    for place, key, value in zip(places, keys, values, strict=True):
        tokens += [*filler[start:place], NOTE, key, value]
        weights += [0.3] * (place - start) + [FREE] * 3
        start = int(place)
    tokens += list(filler[start:])
    weights += [0.3] * (len(filler) - start)
    for i in rng.permutation(pairs):
        tokens += [ASK, keys[i], values[i]]
        weights += [FREE, FREE, 1.0]
    return Sequence(np.array(tokens, np.int64), np.array(weights, np.float32))


def held_out_sums(tokenizer: Tokenizer, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `count` sums that are never trained on.

    Returns:
        tokens: (count, 12) int64, from <|begin|>, padded after <|end|>.
        answers: (count, 12) bool, True at the digits of the result and at <|end|>.
    """
    digits, rows, marks = _digits(tokenizer), [], []
    while len(rows) < count:
        a, b = (int(n) for n in rng.integers(10, 100, 2))
        if is_held_out_sum(a, b):
            left, right = _sum_tokens(digits, a, b)
            pad = 11 - len(left) - len(right)
            rows.append([BEGIN, *left, *right] + [PAD] * pad)
            marks.append([False] * (1 + len(left)) + [True] * len(right) + [False] * pad)
    return torch.tensor(rows), torch.tensor(marks)
