"""Gives out the blocks of a cache of keys and values: on demand, counted by reference, found through block tables.

It counts and never touches a key: the runner that owns the pool moves the numbers. Source: pagedattention (blocks,
tables, copy-on-write); prefixes are found by the chain of hashes of full blocks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Key = tuple[int, tuple[int, ...]]  # number of the chain before, tokens of the block


class OutOfBlocks(RuntimeError):
    """The pool has too few free blocks; nothing was changed."""


class Copy(NamedTuple):
    """A block that must be copied before it is written, because another sequence still reads it."""

    source: int
    target: int


@dataclass
class _Table:
    """What is known of one sequence; `chain` names the full blocks so far whose tokens are known."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    tokens: list[int] | None = field(default_factory=list)
    chain: int = 0
    named: int = 0


class BlockManager:
    """The blocks of one pool.

    A block is free, or held by one or more sequences, or kept without a holder because a later prompt may begin with
    its tokens. Blocks that are only kept count as free: the one that was used longest ago is taken when none is empty.

    Args:
        num_blocks: blocks in the pool.
        block_size: tokens in a block.

    Raises:
        ValueError: "a pool needs at least one block of at least one token ..."

    Source: pagedattention.
    """

    def __init__(self, num_blocks: int, block_size: int = 16) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(
                f"a pool needs at least one block of at least one token; came {num_blocks} of {block_size}"
            )
        self.num_blocks, self.block_size = num_blocks, block_size
        self._empty = deque(range(num_blocks))
        self._holders = [0] * num_blocks
        self._tables: dict[str, _Table] = {}
        # Chains get numbers, so that a long prefix is compared block by block and never by a hash that could collide.
        self._chains: dict[Key, int] = {}
        self._block_of: dict[int, int] = {}
        self._chain_of: dict[int, tuple[int, Key]] = {}
        self._next_chain = 1
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def free_blocks(self) -> int:
        """Blocks that can be given out now, those included that are kept for a prefix only."""
        return len(self._empty) + len(self._kept)

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the sequences that hold a table."""
        return tuple(self._tables)

    def length(self, sequence_id: str) -> int:
        """Return the number of tokens of a sequence."""
        return self._table(sequence_id).length

    def block_table(self, sequence_id: str) -> list[int]:
        """Return the blocks of a sequence, in the order of its tokens."""
        return list(self._table(sequence_id).blocks)

    def add(self, sequence_id: str, tokens: Sequence[int] | None = None) -> int:
        """Open an empty sequence, or one that begins with blocks that are still there from an earlier one.

        Args:
            sequence_id: a new name.
            tokens: its prompt, if prefixes may be shared; the last token is never taken from the pool, because its
                logits must be computed.

        Returns:
            How many of the tokens are in the pool already: a multiple of the block size. The caller appends the rest.

        Raises:
            ValueError: "sequence 'a' is already open ..."
        """
        if sequence_id in self._tables:
            raise ValueError(f"sequence {sequence_id!r} is already open; free it first, or choose another name")
        table = _Table()
        size = self.block_size
        for start in range(0, (len(tokens) - 1) // size * size if tokens else 0, size):
            chain = self._chains.get((table.chain, tuple(tokens[start : start + size])))  # type: ignore[index]
            if chain is None or chain not in self._block_of:
                break
            block = self._block_of[chain]
            self._take(block)
            table.blocks.append(block)
            table.chain, table.named = chain, table.named + 1
        table.length = len(table.blocks) * size
        table.tokens = list(tokens[: table.length]) if tokens else []
        self._tables[sequence_id] = table
        return table.length

    def blocks_needed(self, sequence_id: str, count: int) -> int:
        """Return how many free blocks the next `count` tokens of a sequence would take."""
        table = self._table(sequence_id)
        new = -(-(table.length + count) // self.block_size) - len(table.blocks)
        return new + (1 if count > 0 and self._is_shared_tail(table) else 0)

    def can_append(self, sequence_id: str, count: int) -> bool:
        """Return whether `append` would succeed."""
        return self.blocks_needed(sequence_id, count) <= self.free_blocks

    def append(self, sequence_id: str, count: int, tokens: Sequence[int] | None = None) -> list[Copy]:
        """Make room for the next tokens of a sequence: all of them, or none.

        Args:
            sequence_id: the sequence.
            count: how many tokens.
            tokens: which ones, so that full blocks can serve later prompts; None: they serve this sequence only.

        Returns:
            The copies that must be made before anything is written (none or one).

        Raises:
            OutOfBlocks: "3 more blocks are needed and 2 are free ..."; nothing was changed.
            ValueError: on a negative count, or one that does not fit the tokens.
        """
        table = self._table(sequence_id)
        if count < 0 or (tokens is not None and len(tokens) != count):
            raise ValueError(
                f"count must be the number of tokens; came {count} and {0 if tokens is None else len(tokens)}"
            )
        needed = self.blocks_needed(sequence_id, count)
        if needed > self.free_blocks:
            raise OutOfBlocks(
                f"{sequence_id!r} needs {needed} more blocks, but {self.free_blocks} of {self.num_blocks} are free: "
                "free a sequence, or move one out"
            )
        copies = []
        if count and self._is_shared_tail(table):
            fresh = self._new()
            copies.append(Copy(table.blocks[-1], fresh))
            self._release(table.blocks[-1])
            table.blocks[-1] = fresh
        while len(table.blocks) * self.block_size < table.length + count:
            table.blocks.append(self._new())
        table.length += count
        if tokens is None and count:
            table.tokens = None
        elif table.tokens is not None:
            table.tokens.extend(tokens or ())
            self._name_full_blocks(table)
        return copies

    def fork(self, parent: str, child: str) -> None:
        """Open `child` with the tokens of `parent`; all blocks are shared until one of them writes.

        Raises:
            ValueError: "sequence ... is already open ..."
            KeyError: "no sequence is called ..."
        """
        source = self._table(parent)
        if child in self._tables:
            raise ValueError(f"sequence {child!r} is already open; free it first, or choose another name")
        for block in source.blocks:
            self._holders[block] += 1
        tokens = None if source.tokens is None else list(source.tokens)
        self._tables[child] = _Table(list(source.blocks), source.length, tokens, source.chain, source.named)

    def free(self, sequence_id: str) -> None:
        """Forget a sequence and give back what only it held.

        Raises:
            KeyError: "no sequence is called ..."
        """
        table = self._table(sequence_id)
        del self._tables[sequence_id]
        # The last blocks first: a prefix is useful longer than what follows it.
        for block in reversed(table.blocks):
            self._release(block)

    def check(self) -> None:
        """Raise AssertionError when a block is lost, held twice, or free and held at once."""
        held = [0] * self.num_blocks
        for name, table in self._tables.items():
            assert len(set(table.blocks)) == len(table.blocks), f"{name} holds a block twice"
            assert len(table.blocks) == -(-table.length // self.block_size), f"{name} holds blocks it does not need"
            for block in table.blocks:
                held[block] += 1
        assert held == self._holders, "the counts of holders are wrong"
        empty, kept = set(self._empty), set(self._kept)
        assert len(empty) == len(self._empty) and not empty & kept, "a block is free twice"
        assert empty | kept == {b for b in range(self.num_blocks) if not held[b]}, "a block is lost, or free and held"
        assert kept <= set(self._chain_of), "a block is kept whose tokens are not known"
        assert {self._block_of[c]: c for c in self._block_of} == {b: c for b, (c, _) in self._chain_of.items()}

    # ---- blocks --------------------------------------------------------------------------------------------------

    def _table(self, sequence_id: str) -> _Table:
        if sequence_id not in self._tables:
            raise KeyError(f"no sequence is called {sequence_id!r}; open are {', '.join(self._tables) or 'none'}")
        return self._tables[sequence_id]

    def _is_shared_tail(self, table: _Table) -> bool:
        return bool(table.length % self.block_size) and self._holders[table.blocks[-1]] > 1

    def _take(self, block: int) -> None:
        self._kept.pop(block, None)
        self._holders[block] += 1

    def _new(self) -> int:
        if self._empty:
            block = self._empty.popleft()
        else:
            block, _ = self._kept.popitem(last=False)
            self._forget(block)
        self._holders[block] = 1
        return block

    def _release(self, block: int) -> None:
        self._holders[block] -= 1
        if self._holders[block]:
            return
        if block in self._chain_of:
            self._kept[block] = None
        else:
            self._empty.append(block)

    def _forget(self, block: int) -> None:
        chain, key = self._chain_of.pop(block)
        del self._block_of[chain], self._chains[key]

    def _name_full_blocks(self, table: _Table) -> None:
        assert table.tokens is not None
        size = self.block_size
        while (table.named + 1) * size <= table.length:
            start = table.named * size
            key = (table.chain, tuple(table.tokens[start : start + size]))
            block = table.blocks[table.named]
            chain = self._chains.get(key)
            if chain is None:
                chain, self._next_chain = self._next_chain, self._next_chain + 1
                self._chains[key], self._block_of[chain], self._chain_of[block] = chain, block, (chain, key)
            table.chain, table.named = chain, table.named + 1
