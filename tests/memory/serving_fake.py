"""A runner whose next token depends on every token before it, so that any mistake of a scheduler changes the answer."""

import hashlib
import threading

import numpy as np
from edgeinfer.memory.serving.dry import DryRunner

VOCABULARY = 97


def next_token(tokens):
    digest = hashlib.blake2b(np.array(tokens, np.int64).tobytes(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % VOCABULARY


def answer(prompt, count):
    """What a request gets when nobody else is there."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class HashRunner(DryRunner):
    """Keeps the tokens that it was given, as a cache keeps keys and values."""

    def __init__(self, num_blocks, block_size=4):
        super().__init__(num_blocks, block_size)
        self.kept = {}

    def step(self, items):
        super().step(items)
        assert len({item.sequence_id for item in items}) == len(items)
        logits = np.zeros((len(items), VOCABULARY), np.float32)
        for row, item in zip(logits, items, strict=True):
            assert item.sequence_id not in self.swapped
            kept = self.kept.setdefault(item.sequence_id, [])
            kept.extend(item.tokens)
            row[next_token(kept)] = 1
        return logits

    def free(self, sequence_id):
        super().free(sequence_id)
        self.kept.pop(sequence_id)


class Gated(HashRunner):
    """Steps only when the gate is open."""

    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.gate = threading.Event()
        self.gate.set()

    def step(self, items):
        assert self.gate.wait(30)
        return super().step(items)


class Broken(HashRunner):
    """Fails on one prompt."""

    def step(self, items):
        if any(13 in item.tokens for item in items):
            raise ArithmeticError("a product failed")
        return super().step(items)
