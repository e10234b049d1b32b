"""An order of the neurons in the file: those that fire together next to each other.

Co-activations are counted on training text; a greedy Hamiltonian path joins the strongest pairs first. It knows neither
files nor models. Source: ripple.
"""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.simd import compiled


def coactivation(active: np.ndarray) -> np.ndarray:
    """Count how many tokens use two neurons together.

    Args:
        active: bool (T, M).

    Returns:
        float32 (M, M), symmetric; the diagonal counts how often a neuron fires.

    Raises:
        ValueError: "active must be (tokens, neurons); came ...".
    """
    active = np.asarray(active)
    if active.ndim != 2:
        raise ValueError(f"active must be (tokens, neurons); came {active.shape}")
    fired = active.astype(np.float32)
    return fired.T @ fired


@compiled()
def _join(first, second, neurons):
    """Neighbours (M, 2) of a path, -1: none; pairs come strongest first. No cycle, at most two neighbours each."""
    parent = np.arange(neurons)
    beside = np.full((neurons, 2), -1, np.int64)
    degree = np.zeros(neurons, np.int64)
    joined = 0
    for pair in range(len(first)):
        a, b = first[pair], second[pair]
        if degree[a] == 2 or degree[b] == 2:
            continue
        root_a, root_b = a, b
        while parent[root_a] != root_a:
            parent[root_a] = parent[parent[root_a]]
            root_a = parent[root_a]
        while parent[root_b] != root_b:
            parent[root_b] = parent[parent[root_b]]
            root_b = parent[root_b]
        if root_a == root_b:
            continue
        parent[root_a] = root_b
        beside[a, degree[a]], beside[b, degree[b]] = b, a
        degree[a] += 1
        degree[b] += 1
        joined += 1
        if joined == neurons - 1:
            break
    return beside


def greedy_path(counts: np.ndarray) -> np.ndarray:
    """Order neurons so that strong pairs are neighbours: pairs by falling count, each joined if the path allows it.

    Args:
        counts: (M, M), symmetric, 0 or more; of equal pairs the one with the lower numbers comes first.

    Returns:
        int64 (M,): neuron at each place.

    Raises:
        ValueError: "counts must be a square matrix; came ...".
    """
    counts = np.asarray(counts, np.float32)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"counts must be a square matrix; came {counts.shape}")
    neurons = len(counts)
    if neurons < 2:
        return np.arange(neurons, dtype=np.int64)
    first, second = np.triu_indices(neurons, 1)
    falling = np.argsort(-counts[first, second], kind="stable")
    beside = _join(first[falling], second[falling], neurons)
    # Every pair was offered, so there is one path; walk it from its lower end.
    at = int(np.flatnonzero(beside[:, 1] == -1)[0])
    before, order = -1, np.empty(neurons, np.int64)
    for place in range(neurons):
        order[place] = at
        left, right = beside[at]
        before, at = at, int(right if left == before else left)
    return order


def path_weight(counts: np.ndarray, order: np.ndarray) -> float:
    """Sum of the counts of neighbours in an order: what the path maximises."""
    return float(np.asarray(counts)[order[:-1], order[1:]].sum())
