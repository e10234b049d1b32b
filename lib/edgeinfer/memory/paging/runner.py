"""Runs one step of many sequences at once over one pool of blocks: products together, attention each for itself.

Linear layers see all tokens of the step as rows of one matrix, whoever they belong to; only attention asks for the
sequence. It gives out blocks and moves them; it does not decide whose turn it is. Sources: pagedattention; orca
(selective batching).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.kernels.memory import in_huge_pages
from edgeinfer.memory.paging.attention import paged_attention
from edgeinfer.memory.paging.blocks import BlockManager, OutOfBlocks, bring_back
from edgeinfer.models.decoder import Decoder

FEW = 16  # rows of one sequence from which on a dense product over gathered keys is quicker than row by row


class StepItem(Protocol):
    """Tokens of one sequence to compute: a part of its prompt, or its newest token."""

    @property
    def sequence_id(self) -> str: ...
    @property
    def tokens(self) -> Sequence[int]: ...


class Work(NamedTuple):
    """A `StepItem`, as plainly as possible."""

    sequence_id: str
    tokens: Sequence[int]


class _Moved(NamedTuple):
    """A sequence outside of the pool: its tokens where they are known, its length, its keys and values by block."""

    tokens: list[int] | None
    length: int
    keys: Tensor
    values: Tensor


class _Step:
    """The cache that the decoder sees during one step: new tokens go into the pool, old ones are read by `attend`."""

    padding: Tensor | None = None

    def __init__(self, runner: PagedRunner, items: Sequence[StepItem], starts: list[int]) -> None:
        self.runner = runner
        counts = [len(item.tokens) for item in items]
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        self.positions = torch.cat([torch.arange(a, b) for a, b in zip(starts, ends, strict=True)])
        self.length = 0
        tables = [runner.blocks.block_table(item.sequence_id) for item in items]
        size = runner.block_size
        places = self.positions % size
        holders = torch.cat(
            [torch.tensor(table)[torch.arange(a, b) // size] for table, a, b in zip(tables, starts, ends, strict=True)]
        )
        self.where = holders, places
        first = np.cumsum([0, *(len(t) for t in tables)], dtype=np.int64)[:-1]
        rows_of = np.repeat(np.arange(len(items)), counts)
        # Rows that go through the kernel one by one, and sequences whose many new tokens are multiplied at once.
        dense = np.array(counts) > FEW
        self.single = np.flatnonzero(~dense[rows_of])
        self.tables = np.concatenate([np.array(t, np.int64) for t in tables]), first[rows_of[self.single]]
        self.lengths = self.positions.numpy()[self.single] + 1
        edges = np.cumsum([0, *counts])
        self.many = [(edges[i], edges[i + 1], torch.tensor(tables[i]), ends[i]) for i in np.flatnonzero(dense)]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        holders, places = self.where
        self.runner.keys[layer][holders, :, :, places] = keys[0].transpose(0, 1).to(self.runner.dtype)
        self.runner.values[layer][holders, :, places] = values[0].transpose(0, 1).to(self.runner.dtype)
        return keys, values

    def advance(self, count: int) -> None:
        self.length += count

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int) -> Tensor:
        rows = query[0].transpose(0, 1)  # (T, heads, D)
        out = torch.empty_like(rows)
        if len(self.single):
            pool_keys, pool_values = self.runner.arrays[layer]
            one_by_one = rows[torch.from_numpy(self.single)].float().contiguous().numpy()
            got = paged_attention(
                one_by_one, pool_keys, pool_values, self.tables, self.lengths, threads=self.runner.threads
            )
            out[torch.from_numpy(self.single)] = torch.from_numpy(got).to(out.dtype)
        for first, last, table, end in self.many:
            old_keys = self.runner.keys[layer][table].permute(1, 0, 3, 2).flatten(1, 2)[:, :end]
            old_values = self.runner.values[layer][table].transpose(0, 1).flatten(1, 2)[:, :end]
            seen = torch.ones(last - first, end, dtype=torch.bool).tril(end - (last - first))
            asked = rows[first:last].transpose(0, 1)[None]
            mixed = functional.scaled_dot_product_attention(
                asked, old_keys[None].to(asked.dtype), old_values[None].to(asked.dtype), seen, enable_gqa=True
            )
            out[first:last] = mixed[0].transpose(0, 1)
        return out.transpose(0, 1)[None]


class PagedRunner:
    """A decoder over a pool of blocks.

    Args:
        model: the decoder; it is not changed.
        num_blocks: blocks of the pool, for all layers together.
        block_size: tokens of a block; a multiple of 16 lets the quick kernel run.
        dtype: of the pool, torch.float32 or torch.bfloat16; None: the model's.
        threads: of attention.

    Attributes:
        blocks: the `BlockManager`.
        keys: (layers, N, H, D, B), channel by channel; values: (layers, N, H, B, D).

    Raises:
        ValueError: "a pool is kept in float32 or bfloat16 ..."
        MemoryError: "a pool of ... MB does not fit into memory ..."

    Source: pagedattention.
    """

    def __init__(
        self,
        model: Decoder,
        num_blocks: int,
        block_size: int = 16,
        dtype: torch.dtype | None = None,
        threads: int = 1,
    ) -> None:
        self.blocks = BlockManager(num_blocks, block_size)
        self.dtype = model.dtype if dtype is None else dtype
        if self.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"a pool is kept in float32 or bfloat16, not in {self.dtype}; choose one of them")
        self.threads = threads
        config = model.config
        layers, heads, channels = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        self.keys = self._pool((layers, num_blocks, heads, channels, block_size))
        self.values = self._pool((layers, num_blocks, heads, block_size, channels))
        kind = np.float32 if self.dtype == torch.float32 else np.uint16
        whole = [
            x.view(torch.int16).numpy().view(kind) if kind == np.uint16 else x.numpy() for x in (self.keys, self.values)
        ]
        self.arrays = list(zip(*whole, strict=True))
        self.model = copy.copy(model)  # shares the weights; only its attention is ours
        self._outside: dict[str, _Moved] = {}

    def _pool(self, shape: tuple[int, ...]) -> Tensor:
        wanted = int(np.prod(shape)) * self.dtype.itemsize
        try:
            # Zeros: a block's unused places are multiplied by weights of zero, which NaN would survive.
            place = in_huge_pages(np.zeros(shape, np.float32 if self.dtype == torch.float32 else np.int16))
        except (MemoryError, OSError) as error:
            raise MemoryError(
                f"a pool of {2 * wanted / 1e6:.0f} MB does not fit into memory; take fewer blocks"
            ) from error
        tensor = torch.from_numpy(place)
        return tensor if self.dtype == torch.float32 else tensor.view(torch.bfloat16)

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool."""
        return self.blocks.num_blocks

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self.blocks.block_size

    @property
    def free_blocks(self) -> int:
        """Blocks that can be given out now."""
        return self.blocks.free_blocks

    @property
    def block_bytes(self) -> int:
        """Bytes that one block takes in all layers, keys and values."""
        return (self.keys[:, 0].numel() + self.values[:, 0].numel()) * self.dtype.itemsize

    def open(self, sequence_id: str, tokens: Sequence[int] | None = None) -> int:
        """Open a sequence; return how many tokens of its prompt are in the pool already (see `BlockManager.add`)."""
        return self.blocks.add(sequence_id, tokens)

    @torch.inference_mode()
    def step(self, items: Sequence[StepItem]) -> Tensor:
        """Compute the next tokens of several sequences, each sequence at most once; unknown names are opened.

        Args:
            items: for each sequence its next tokens, one or more.

        Returns:
            logits (len(items), vocab_size) after the last token of each.

        Raises:
            OutOfBlocks: before anything is computed or changed.
            ValueError: an item without tokens, a sequence that comes twice or was moved out, too many tokens.

        An error of the model itself closes new sequences; the others must be freed, for their newest keys are missing.
        """
        names = [item.sequence_id for item in items]
        if len(set(names)) != len(names) or not all(len(item.tokens) for item in items):
            raise ValueError("a step takes each sequence once, with at least one token; join or drop the others")
        for name in names:
            if name in self._outside:
                raise ValueError(f"sequence {name!r} was moved out of the pool; bring it back with swap_in first")
        if not items:
            return torch.empty(0, self.model.config.vocab_size, dtype=self.model.dtype)
        self._make_room(items)
        starts = []
        for item in items:
            if item.sequence_id not in self.blocks.sequences:
                self.blocks.add(item.sequence_id)
            starts.append(self.blocks.length(item.sequence_id))
            for source, target in self.blocks.append(item.sequence_id, len(item.tokens), list(item.tokens)):
                self.keys[:, target] = self.keys[:, source]
                self.values[:, target] = self.values[:, source]
        cache = _Step(self, items, starts)
        self.model.attention = cache.attend
        tokens = torch.tensor([[token for item in items for token in item.tokens]])
        last = torch.tensor([len(item.tokens) for item in items]).cumsum(0) - 1
        try:
            hidden = self.model.forward_layers(self.model.embed(tokens), cache)
            return self.model.head(hidden[:, last])[0]
        except BaseException:
            # The blocks have names already, and a later prompt must not find keys that were never written.
            for name, start in zip(names, starts, strict=True):
                self.blocks.forget(name, start)
                if not start:
                    self.blocks.free(name)
            raise

    def _make_room(self, items: Sequence[StepItem]) -> None:
        limit, size = self.model.config.max_position_embeddings, self.block_size
        needed = 0
        for item in items:
            known = item.sequence_id in self.blocks.sequences
            before = self.blocks.length(item.sequence_id) if known else 0
            if before + len(item.tokens) > limit:
                raise ValueError(
                    f"sequence {item.sequence_id!r} would have {before + len(item.tokens)} tokens, "
                    f"but the model reads at most {limit}"
                )
            count = len(item.tokens)
            needed += self.blocks.blocks_needed(item.sequence_id, count) if known else -(-count // size)
        if needed > self.free_blocks:
            raise OutOfBlocks(
                f"this step needs {needed} more blocks, but {self.free_blocks} of {self.num_blocks} are free: "
                "compute fewer sequences, free one, or move one out"
            )

    def fork(self, parent: str, child: str) -> None:
        """Let `child` go on from where `parent` is; blocks are copied when one of them writes."""
        self.blocks.fork(parent, child)

    def swap_out(self, sequence_id: str) -> int:
        """Move a sequence's keys and values out of the pool, shared ones as a copy; return the bytes moved.

        Raises:
            KeyError: "no sequence is called ..."
        """
        table = torch.tensor(self.blocks.block_table(sequence_id), dtype=torch.long)
        tokens, length = self.blocks.tokens(sequence_id), self.blocks.length(sequence_id)
        saved = _Moved(tokens, length, self.keys[:, table], self.values[:, table])  # an index by tensor copies
        self.blocks.free(sequence_id)
        self._outside[sequence_id] = saved
        return saved.keys.nbytes + saved.values.nbytes

    def swap_in(self, sequence_id: str) -> int:
        """Bring a sequence back into the pool, all of it or nothing; return the bytes moved.

        Full blocks whose tokens are still, or again, in the pool are shared instead of moved.

        Raises:
            KeyError: "... was not moved out".
            OutOfBlocks: when the pool has too few free blocks; the sequence stays outside.
        """
        if sequence_id not in self._outside:
            raise KeyError(
                f"sequence {sequence_id!r} was not moved out; outside are {', '.join(self._outside) or 'none'}"
            )
        tokens, length, keys, values = self._outside[sequence_id]
        known = bring_back(self.blocks, sequence_id, tokens, length) // self.block_size
        table = torch.tensor(self.blocks.block_table(sequence_id)[known:], dtype=torch.long)
        self.keys[:, table], self.values[:, table] = keys[:, known:], values[:, known:]
        del self._outside[sequence_id]
        return keys[:, known:].nbytes + values[:, known:].nbytes

    def free(self, sequence_id: str) -> None:
        """Forget a sequence, inside or outside of the pool.

        Raises:
            KeyError: "no sequence is called ..."
        """
        if self._outside.pop(sequence_id, None) is None:
            self.blocks.free(sequence_id)
