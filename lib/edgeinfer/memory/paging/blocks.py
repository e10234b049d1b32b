"""Gives out the blocks of a cache of keys and values: on demand, counted by reference, found through block tables.

It counts and never touches a key: the runner that owns the pool moves the numbers. Source: pagedattention (blocks,
tables, copy-on-write); prefixes are found by the chain of hashes of full blocks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Key = tuple[int, tuple[int, ...]]  # number of the chain before, tokens of the block


class OutOfBlocks(RuntimeError):
    """The pool has too few free blocks; nothing was changed."""


class Copy(NamedTuple):
    """A block that must be copied before it is written, because another sequence still reads it."""

    source: int
    target: int


class Found(NamedTuple):
    """How many full blocks of a text are in the pool, and how many of them a sequence holds: these cost nothing."""

    blocks: int
    held: int


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
    def kept_blocks(self) -> int:
        """Free blocks whose tokens are known, so that a prompt that begins with them may take them back."""
        return len(self._kept)

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

    def tokens(self, sequence_id: str) -> list[int] | None:
        """Return the tokens of a sequence; None when not all of them were told."""
        known = self._table(sequence_id).tokens
        return None if known is None else list(known)

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
        self._tables[sequence_id] = _Table()
        return self.adopt(sequence_id, tokens[:-1]) if tokens else 0

    def adopt(self, sequence_id: str, tokens: Sequence[int], spare: int | None = None) -> int:
        """Go on with blocks that hold the next tokens already, as far as there are such blocks.

        Args:
            sequence_id: a sequence that ends with a full block; nothing is found for another one.
            tokens: the tokens that come next.
            spare: how many blocks that nobody holds it may take; None: any number.

        Returns:
            How many of the tokens need not be computed: a multiple of the block size.

        Raises:
            KeyError: "no sequence is called ..."
        """
        table, size = self._table(sequence_id), self.block_size
        if table.tokens is None or table.length % size:
            return 0
        before = table.length
        for chain, block in self._walk(table.chain, tokens):
            if not self._holders[block]:
                if spare == 0:
                    break
                spare = None if spare is None else spare - 1
            self._take(block)
            table.blocks.append(block)
            table.chain, table.named, table.length = chain, table.named + 1, table.length + size
        table.tokens.extend(tokens[: table.length - before])
        return table.length - before

    def find(self, tokens: Sequence[int]) -> Found:
        """Look for the beginning of a text, block by block; nothing is taken."""
        blocks = [block for _, block in self._walk(0, tokens)]
        return Found(len(blocks), sum(self._holders[block] > 0 for block in blocks))

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

    def forget(self, sequence_id: str, length: int) -> None:
        """Let no later prompt find what a sequence has behind its first `length` tokens, as it was never computed.

        Raises:
            KeyError: "no sequence is called ..."
        """
        for block in self._table(sequence_id).blocks[length // self.block_size :]:
            if block in self._chain_of:
                self._forget(block)

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

    def _walk(self, chain: int, tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Full blocks that hold the next tokens behind a chain: (chain, block), until one is missing."""
        for start in range(0, len(tokens) // self.block_size * self.block_size, self.block_size):
            found = self._chains.get((chain, tuple(tokens[start : start + self.block_size])))
            if found is None:
                return
            chain = found
            yield chain, self._block_of[chain]

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


def bring_back(blocks: BlockManager, sequence_id: str, tokens: Sequence[int] | None, length: int) -> int:
    """Open a sequence that was moved out of the pool, with room for all its tokens, or not at all.

    Args:
        blocks: of the pool.
        sequence_id: its name.
        tokens: what it had, if known: full blocks of it that are in the pool are shared.
        length: how many tokens it had.

    Returns:
        Tokens at its beginning that are in the pool; the caller moves the others.

    Raises:
        OutOfBlocks: "... needs 3 more blocks ..."; nothing was changed.
    """
    blocks.add(sequence_id)
    try:
        known = blocks.adopt(sequence_id, tokens) if tokens is not None else 0
        blocks.append(sequence_id, length - known, None if tokens is None else tokens[known:])
    except OutOfBlocks:
        blocks.free(sequence_id)
        raise
    return known
