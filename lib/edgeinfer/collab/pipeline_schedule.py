"""When each stage of a pipeline works on each chunk of a prompt: the schedule, without running anything.

Knows times, not models; a time beyond what was measured is a modelled one. NumPy alone. S stages, C chunks.
Source: jupiter (intra-sequence pipeline); the recurrence is that of any pipeline.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def layer_split(layers: int, stages: int) -> list[tuple[int, int]]:
    """Deal layers out to stages as evenly as possible.

    Args:
        layers: of the model.
        stages: 1 .. layers.

    Returns:
        (first, last) for each stage, `last` not included; earlier stages get the extra layers.

    Raises:
        ValueError: "8 layers cannot be dealt to 9 stages; choose 1 to 8".
    """
    if not 1 <= stages <= layers:
        raise ValueError(f"{layers} layers cannot be dealt to {stages} stages; choose 1 to {layers}")
    edges = [-(-layers * stage // stages) for stage in range(stages + 1)]
    return list(pairwise(edges))


def chunk_lengths(tokens: int, chunk: int) -> list[int]:
    """Lengths of the chunks of a prompt; the last one may be shorter.

    Raises:
        ValueError: "chunk must be at least 1 token, got 0".
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 token, got {chunk}")
    return [min(chunk, tokens - start) for start in range(0, tokens, chunk)]


def finish_times(seconds: NDArray[np.float64], transfer: float = 0.0) -> NDArray[np.float64]:
    """When stage s is done with chunk c: it starts once the stage before has handed it over and it is free itself.

    Args:
        seconds: (S, C), how long each stage works on each chunk.
        transfer: seconds to hand a chunk to the next stage.

    Returns:
        (S, C) seconds since the start; the last entry is the time of the whole prefill.
    """
    seconds = np.asarray(seconds, np.float64)
    if seconds.ndim != 2 or not seconds.size:
        raise ValueError(f"seconds must be (stages, chunks) with at least one of each; came {seconds.shape}")
    done = np.zeros_like(seconds)
    for stage, row in enumerate(seconds):
        free = 0.0
        for chunk, time in enumerate(row):
            ready = done[stage - 1, chunk] + transfer if stage else 0.0
            free = done[stage, chunk] = max(free, ready) + time
    return done


def prefill_seconds(chunks: NDArray[np.float64], stages: int, transfer: float = 0.0) -> float:
    """Time of a prefill whose chunks are dealt evenly to stages.

    Args:
        chunks: (C,) seconds of each chunk on one device, all layers; later ones attend to more and take longer.
        stages: devices, each with an equal share of the layers.
        transfer: seconds to hand a chunk over.
    """
    shares = np.tile(np.asarray(chunks, np.float64) / stages, (stages, 1))
    return float(finish_times(shares, transfer)[-1, -1])


def decode_rounds(sequences: int, tokens: int, stages: int) -> int:
    """Stage times until every one of some independent sequences has its tokens, one token per sequence in flight.

    One sequence keeps one stage of all busy: a token enters when the one before has left. Independent sequences, such
    as the points of an outline, fill the rest.
    """
    if min(sequences, tokens, stages) < 1:
        raise ValueError(f"sequences, tokens and stages must be at least 1; came {sequences}, {tokens}, {stages}")
    return (tokens - 1) * max(stages, sequences) + sequences + stages - 1
