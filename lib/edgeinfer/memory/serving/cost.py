"""How long a step takes, as a formula: for schedules that are compared without computing anything.

Fitted to measured steps by least squares without negative terms. Whatever uses it is modelled, not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeinfer.memory.serving.requests import StepRecord


@dataclass(frozen=True)
class CostModel:
    """Seconds of a step = fixed + per_token · tokens + per_row · requests + per_pair · (new tokens × tokens kept).

    Args:
        fixed: what every step costs: reading the weights, calling the layers.
        per_token: arithmetic of the linear layers.
        per_row: what each request costs besides, above all the call of its own attention.
        per_pair: attention: each new token looks at each token that is kept.
    """

    fixed: float
    per_token: float
    per_row: float
    per_pair: float

    def seconds(self, step: StepRecord) -> float:
        """Modelled time of one step."""
        return float(features(step) @ np.array([self.fixed, self.per_token, self.per_row, self.per_pair]))


def features(step: StepRecord) -> np.ndarray:
    """What the cost of a step depends on: (1, tokens, requests, new tokens x tokens kept)."""
    pairs = sum(row.tokens * row.context for row in step.rows)
    return np.array([1.0, step.tokens, len(step.rows), pairs])


def fit(steps: Sequence[StepRecord], seconds: Sequence[float]) -> CostModel:
    """Fit the formula to measured steps.

    Args:
        steps: what was computed; at least four, of different sizes.
        seconds: how long each took.

    Raises:
        ValueError: "a cost model needs at least 4 measured steps; came 2".
    """
    from scipy.optimize import nnls

    if len(steps) < 4 or len(steps) != len(seconds):
        raise ValueError(f"a cost model needs at least 4 measured steps; came {len(steps)} with {len(seconds)} times")
    matrix, times = np.array([features(step) for step in steps]), np.array(seconds)
    # Each row over its time: an error of ten percent counts the same in a short and in a long step.
    matrix = matrix / times[:, None]
    scale = matrix.max(0)
    found, _ = nnls(matrix / scale, np.ones(len(times)))
    return CostModel(*(float(x) for x in found / scale))
