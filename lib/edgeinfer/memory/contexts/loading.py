"""Brings missing chunks back by two ways at once: the first ones are computed again while the others are read.

A chunk can be computed as soon as all tokens before it are there, so the part that is computed comes first. Times come
from a cost model; nothing is read here. Source: llms (IO-recompute pipelined loading).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgeinfer.memory.storage import ColdFile, write_whole
from edgeinfer.models import Decoder


@dataclass(frozen=True)
class Costs:
    """What reading and computing cost on a machine.

    Attributes:
        seconds_per_read: of one request, whatever its size.
        bytes_per_second: of the disk.
        seconds_per_token: of computing one token of a chunk again.
    """

    seconds_per_read: float
    bytes_per_second: float
    seconds_per_token: float

    def read(self, size: int) -> float:
        """Seconds to read a chunk of `size` bytes."""
        return self.seconds_per_read + size / self.bytes_per_second

    def recompute(self, tokens: int) -> float:
        """Seconds to compute `tokens` again."""
        return self.seconds_per_token * tokens


def split_point(read: Sequence[float], recompute: Sequence[float]) -> int:
    """How many of the missing chunks, from the first on, to compute again while the others are read.

    Args:
        read: seconds to read each missing chunk, in their order.
        recompute: seconds to compute each again.

    Returns:
        The number with the least end, max(sum of recompute[:n], sum of read[n:]); of equals the smallest, which
        spares the processor.

    Raises:
        ValueError: "read and recompute need one time per chunk; came 3 and 4".
    """
    if len(read) != len(recompute):
        raise ValueError(f"read and recompute need one time per chunk; came {len(read)} and {len(recompute)}")
    ends = [max(sum(recompute[:n]), sum(read[n:])) for n in range(len(read) + 1)]
    return ends.index(min(ends))


def measure_costs(model: Decoder, folder: str | Path, chunk_tokens: int = 32, size: int = 1 << 20) -> Costs:
    """Measure the disk under `folder` with cold reads, and this model's prefill.

    Returns:
        Costs; the best of three tries each, so they are what the machine can do when nothing else runs.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_whole(Path(place) / "probe", [np.random.default_rng(0).bytes(size)])
        with ColdFile(Path(place) / "probe") as file:

            def best(length: int) -> float:
                times = []
                for _ in range(3):
                    start = time.perf_counter()
                    file.read(0, length)
                    times.append(time.perf_counter() - start)
                return min(times)

            short, long = best(4096), best(size)
    tokens = torch.arange(chunk_tokens).reshape(1, -1) % model.config.vocab_size
    times = []
    for _ in range(3):
        start = time.perf_counter()
        model.prefill(tokens, last_only=True)
        times.append(time.perf_counter() - start)
    return Costs(short, size / max(long - short, 1e-6), min(times) / chunk_tokens)
