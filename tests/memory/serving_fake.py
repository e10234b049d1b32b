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
    """Keeps the tokens that it was given in blocks, as a pool keeps keys and values, and reads them there."""

    def __init__(self, num_blocks, block_size=4):
        super().__init__(num_blocks, block_size)
        self.pool = [[None] * block_size for _ in range(num_blocks)]
        self.outside = {}
        self.computed = 0

    @property
    def here(self):
        return {*self.blocks.sequences, *self.swapped}

    def write(self, name, start, tokens):
        table = self.blocks.block_table(name)
        for place, token in enumerate(tokens, start):
            self.pool[table[place // self.block_size]][place % self.block_size] = token

    def read(self, name):
        table, size = self.blocks.block_table(name), self.block_size
        return [self.pool[table[i // size]][i % size] for i in range(self.blocks.length(name))]

    def step(self, items):
        assert len({item.sequence_id for item in items}) == len(items)
        for item in items:
            name = item.sequence_id
            assert name not in self.swapped
            if name not in self.blocks.sequences:
                self.blocks.add(name)
            start = self.blocks.length(name)
            for source, target in self.blocks.append(name, len(item.tokens), item.tokens):
                self.pool[target] = list(self.pool[source])
            self.write(name, start, item.tokens)
            self.computed += len(item.tokens)
        logits = np.zeros((len(items), VOCABULARY), np.float32)
        for row, item in zip(logits, items, strict=True):
            row[next_token(self.read(item.sequence_id))] = 1
        return logits

    def swap_out(self, sequence_id):
        self.outside[sequence_id] = self.read(sequence_id)
        super().swap_out(sequence_id)

    def swap_in(self, sequence_id):
        known = super().swap_in(sequence_id)
        self.write(sequence_id, known, self.outside.pop(sequence_id)[known:])
        return known

    def free(self, sequence_id):
        super().free(sequence_id)
        self.outside.pop(sequence_id, None)


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
