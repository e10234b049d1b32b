"""Guesses which neurons (or heads) the next layer will use: a product of low rank, fitted by least squares.

The best map of a given rank from inputs to labels has a closed form (reduced-rank regression), so fitting takes a
moment. It knows arrays, not models. Source: deja-vu (there: a network of two layers, trained by descent).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Predictor:
    """scores = (x - mean) @ down @ up + bias; a neuron is chosen when its score passes the threshold.

    Attributes:
        mean: float32 (H,).
        down: float32 (H, rank); up: float32 (rank, M).
        bias: float32 (M,).
        threshold: float.
    """

    mean: np.ndarray
    down: np.ndarray
    up: np.ndarray
    bias: np.ndarray
    threshold: float

    @property
    def rank(self) -> int:
        return self.down.shape[1]

    @property
    def operations(self) -> int:
        """Multiplications for one token."""
        return self.down.size + self.up.size

    @property
    def nbytes(self) -> int:
        """Bytes read for one token."""
        return self.mean.nbytes + self.down.nbytes + self.up.nbytes + self.bias.nbytes

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return float32 (..., M) for inputs (..., H)."""
        return (x - self.mean) @ self.down @ self.up + self.bias

    def choose(self, x: np.ndarray) -> np.ndarray:
        """Return bool (..., M), True where a neuron is expected to fire."""
        return self.scores(x) > self.threshold


def fit_predictor(
    inputs: np.ndarray, active: np.ndarray, rank: int, recall: float = 0.95, ridge: float = 1e-3
) -> Predictor:
    """Fit a predictor of a given rank, and the threshold at which it finds a share of what fired in the training text.

    Args:
        inputs: float (T, H), what is known early: the input of the layer before.
        active: bool (T, M), what fired later.
        rank: of the map; at most min(H, M).
        recall: share of firings that the threshold must catch, on the data it is fitted on.
        ridge: share of the inputs' variance added to the diagonal.

    Raises:
        ValueError: "rank must be from 1 to ...", "recall must lie in (0, 1]" or "inputs and active must have equally
            many rows".
    """
    inputs, active = np.asarray(inputs, np.float32), np.asarray(active, bool)
    if len(inputs) != len(active) or not len(inputs):
        raise ValueError(
            f"inputs and active must have equally many rows, at least one; came {len(inputs)} and {len(active)}"
        )
    most = min(inputs.shape[1], active.shape[1])
    if not 1 <= rank <= most:
        raise ValueError(f"rank must be from 1 to {most}, the smaller side of the map; came {rank}")
    if not 0 < recall <= 1:
        raise ValueError(f"recall must lie in (0, 1]; came {recall}")
    mean, bias = inputs.mean(0), active.mean(0, dtype=np.float32)
    centred = inputs - mean
    gram = (centred.T @ centred).astype(np.float64)
    gram[np.diag_indices(len(gram))] += ridge * max(np.trace(gram) / len(gram), 1e-12)
    full = np.linalg.solve(gram, centred.T @ (active - bias))
    # Of all maps of this rank the nearest in fitted values: project on the leading directions of the fit.
    _, directions = np.linalg.eigh(full.T @ gram @ full)
    leading = directions[:, -rank:]
    down, up = (full @ leading).astype(np.float32), np.ascontiguousarray(leading.T, np.float32)
    scores = centred @ down @ up + bias
    fired = scores[active]
    threshold = -np.inf
    if recall < 1 and fired.size:
        cut = int((1 - recall) * fired.size)
        threshold = float(np.partition(fired, cut)[cut]) - 1e-6
    elif fired.size:
        threshold = float(fired.min()) - 1e-6
    return Predictor(mean, down, up, bias, threshold)


def quality(chosen: np.ndarray, active: np.ndarray) -> tuple[float, float]:
    """Return (recall, density): the share of firings that were chosen, and the share of neurons chosen."""
    hits, fired = int(np.count_nonzero(chosen & active)), int(np.count_nonzero(active))
    return hits / max(1, fired), float(np.mean(chosen))
