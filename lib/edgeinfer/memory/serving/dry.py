"""A runner that computes nothing: it gives out blocks, so that schedules can be compared in no time.

Its logits are zeros, so every token is token 0. What is found with it is simulated. Source: none.
"""

from __future__ import annotations

import numpy as np

from edgeinfer.memory.paging.blocks import BlockManager, bring_back
from edgeinfer.memory.serving.requests import Work


class DryRunner:
    """Keeps the books of a pool, and no keys or values.

    Args:
        num_blocks: size of the pool.
        block_size: tokens in a block.
    """

    def __init__(self, num_blocks: int, block_size: int = 16) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.blocks = BlockManager(num_blocks, block_size)
        self.swapped: dict[str, list[int]] = {}  # tokens of the sequences outside of the pool

    @property
    def free_blocks(self) -> int:
        return self.blocks.free_blocks

    def step(self, items: list[Work]) -> np.ndarray:
        """Take the blocks for the new tokens; return zeros (len(items), 1).

        Raises:
            OutOfBlocks: a scheduler must not let that happen.
        """
        for item in items:
            if item.sequence_id not in self.blocks.sequences:
                self.blocks.add(item.sequence_id)
            self.blocks.append(item.sequence_id, len(item.tokens), item.tokens)
        return np.zeros((len(items), 1), np.float32)

    def swap_out(self, sequence_id: str) -> None:
        """Give the blocks of a sequence back and remember its tokens."""
        self.swapped[sequence_id] = self.blocks.tokens(sequence_id) or []
        self.blocks.free(sequence_id)

    def swap_in(self, sequence_id: str) -> int:
        """Take blocks for it again; return how many of its tokens were in the pool."""
        tokens = self.swapped[sequence_id]
        known = bring_back(self.blocks, sequence_id, tokens, len(tokens))
        del self.swapped[sequence_id]
        return known

    def free(self, sequence_id: str) -> None:
        """Forget a sequence, inside or outside of the pool."""
        if self.swapped.pop(sequence_id, None) is None:
            self.blocks.free(sequence_id)
