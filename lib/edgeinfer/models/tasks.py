"""Tasks whose answers are known: recall from the context, recall across a long text, copying, two-digit addition.

Each generator returns tokens with a weight per token (1 where the token is determined by what precedes it, small
elsewhere); training and scoring differ in their seeds. Nothing here knows a model's insides: `score` only runs it.
A note is `<|note|> key value`, a question `<|ask|> key`, its answer ` value`; a sum is `<|sum|>23+54=77<|end|>`.
Words are those entries of the vocabulary that are a blank and at least two small letters, so a word is one token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from edgeinfer.models.decoder import Decoder

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
    return {c: tokenizer.get_vocab()[c] for c in "0123456789+="}


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


def copying(rng: np.random.Generator, choices: np.ndarray, length: int, period: int) -> Sequence:
    """Repeat `period` tokens drawn from `choices` until `length` is full: all after the first period is determined."""
    block = choices[rng.integers(0, len(choices), period)]
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
    digits = _digits(tokenizer)
    rows: list[list[int]] = []
    marks: list[list[bool]] = []
    while len(rows) < count:
        a, b = (int(n) for n in rng.integers(10, 100, 2))
        if is_held_out_sum(a, b):
            left, right = _sum_tokens(digits, a, b)
            pad = 11 - len(left) - len(right)
            rows.append([BEGIN, *left, *right] + [PAD] * pad)
            marks.append([False] * (1 + len(left)) + [True] * len(right) + [False] * pad)
    return torch.tensor(rows), torch.tensor(marks)


def recall_questions(
    tokenizer: Tokenizer, count: int, pairs: int = 8, seed: int = 0, text: np.ndarray | None = None, length: int = 256
) -> list[Question]:
    """Ask for the value of one key out of `pairs` notes, in a bare list or strewn over a text.

    Args:
        tokenizer: the family's.
        count: questions.
        pairs: notes before each question.
        seed: of keys, values and places.
        text: (T,) int64, held-out text to strew the notes over; None: the notes alone.
        length: tokens of each prompt, where `text` is given.

    Returns:
        Questions whose answer is one token; chance is 1 / pairs, a guess among the values shown.
    """
    rng, vocabulary, questions = np.random.default_rng((seed, pairs, 1)), words(tokenizer), []
    for _ in range(count):
        if text is None:
            row = recall(rng, vocabulary, 1 + 6 * pairs, pairs).tokens
        else:
            start = int(rng.integers(0, len(text) - length))
            row = needle(rng, vocabulary, text[start : start + length], length + 3 * (pairs - 1), pairs).tokens
        notes, (_, key, value) = row[: len(row) - 3 * pairs], row[len(row) - 3 * pairs :][:3]
        questions.append(Question(np.concatenate([notes, [ASK, key]]), np.array([value]), 1 / pairs))
    return questions


def addition_questions(tokenizer: Tokenizer, count: int, seed: int = 0, trained: bool = False) -> list[Question]:
    """Ask for sums of two two-digit numbers, held out unless `trained`; the answer is its digits and <|end|>."""
    rng, digits = np.random.default_rng((seed, 2)), _digits(tokenizer)
    questions: list[Question] = []
    while len(questions) < count:
        a, b = (int(n) for n in rng.integers(10, 100, 2))
        if is_held_out_sum(a, b) != trained:
            left, right = _sum_tokens(digits, a, b)
            questions.append(Question(np.array([BEGIN, *left]), np.array(right), 1 / 179))
    return questions


def copying_questions(
    tokenizer: Tokenizer, count: int, period: int = 32, answer: int = 8, seed: int = 0
) -> list[Question]:
    """Ask to go on with the second repetition of `period` random tokens, `answer` tokens from its first quarter on."""
    rng, size, questions = np.random.default_rng((seed, period, 3)), tokenizer.get_vocab_size(), []
    choices = np.arange(len(SPECIAL_TOKENS), size)
    for _ in range(count):
        row, start = copying(rng, choices, 2 * period + 1, period).tokens, 1 + period + period // 4
        questions.append(Question(row[:start], row[start : start + answer], float(size) ** -answer))
    return questions


def score(model: Decoder, questions: list[Question], batch: int = 32) -> float:
    """Return the share of questions (0 to 1) that greedy decoding answers exactly, every token of the answer.

    Questions of equal lengths run up to `batch` rows at a time; use 1 for a cache that handles single rows only.
    """
    from edgeinfer.models.generation import generate

    groups: dict[tuple[int, int], list[Question]] = {}
    for question in questions:
        groups.setdefault((len(question.prompt), len(question.answer)), []).append(question)
    right = 0
    for (length, count), group in groups.items():
        for start in range(0, len(group), batch):
            some = group[start : start + batch]
            tokens = generate(model, torch.from_numpy(np.stack([q.prompt for q in some])), count)
            answers = torch.from_numpy(np.stack([q.answer for q in some]))
            right += int((tokens[:, length:] == answers).all(1).sum())
    return right / max(1, len(questions))
