"""Matrix product operators: a weight as a chain of three tensors, and chains of several layers with one centre.

`decompose` cuts one matrix by singular values; `share_central` fits all layers' outer tensors and their common centre
by alternating least squares. Knows weights only. Source: mpo-parameter-sharing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.validate import finite_matrix

Split = tuple[int, int, int]
Array = NDArray[np.float32]


def chain_order(weight: Array, rows: Split, columns: Split) -> Array:
    """View (N, K) as (n1 k1, n2 k2, n3 k3): the three legs of the chain, each with its rows and columns.

    Raises:
        ValueError: "the splits (4, 16, 4) and (4, 16, 5) multiply to 256 x 320; the weight is 256 x 256."
    """
    if (np.prod(rows), np.prod(columns)) != weight.shape:
        raise ValueError(
            f"the splits {rows} and {columns} multiply to {np.prod(rows)} x {np.prod(columns)}; "
            f"the weight is {weight.shape[0]} x {weight.shape[1]}."
        )
    legs = weight.reshape(*rows, *columns).transpose(0, 3, 1, 4, 2, 5)
    return legs.reshape([n * k for n, k in zip(rows, columns, strict=True)])


def matrix_order(chain: Array, rows: Split, columns: Split) -> Array:
    """Undo `chain_order`."""
    legs = chain.reshape([size for pair in zip(rows, columns, strict=True) for size in pair])
    return legs.transpose(0, 2, 4, 1, 3, 5).reshape(int(np.prod(rows)), int(np.prod(columns)))


@dataclass(frozen=True)
class MPO:
    """left (n1 k1, r), centre (r, n2 k2, s), right (s, n3 k3)."""

    left: Array
    centre: Array
    right: Array
    rows: Split
    columns: Split

    @property
    def nbytes(self) -> int:
        """Bytes at 16 bits a number."""
        return 2 * (self.left.size + self.centre.size + self.right.size)

    def dense(self) -> Array:
        """The matrix (N, K) of the chain."""
        middle = np.tensordot(self.left, self.centre, 1)
        return matrix_order(np.tensordot(middle, self.right, 1).astype(np.float32), self.rows, self.columns)


def decompose(weight: Array, rows: Split, columns: Split, ranks: tuple[int, int] | None = None) -> MPO:
    """Cut a matrix into a chain by two singular value decompositions; exact with full ranks.

    Args:
        weight: (N, K) float32.
        rows, columns: factors of N and of K.
        ranks: the two bonds; None keeps all that there is.

    Raises:
        ValueError: "ranks must be positive, got (0, 4)." and that of `chain_order`.
    """
    chain = chain_order(finite_matrix(weight, "weight"), rows, columns).astype(np.float64)
    a, b, c = chain.shape
    r, s = ranks or (min(a, b * c), min(c, a * b))
    if min(r, s) < 1:
        raise ValueError(f"ranks must be positive, got {(r, s)}.")
    u, values, v = np.linalg.svd(chain.reshape(a, b * c), full_matrices=False)
    r = min(r, len(values))
    rest = (values[:r, None] * v[:r]).reshape(r * b, c)
    u2, values2, v2 = np.linalg.svd(rest, full_matrices=False)
    s = min(s, len(values2))
    centre = (u2[:, :s] * values2[:s]).reshape(r, b, s)
    f = np.float32
    return MPO(u[:, :r].astype(f), centre.astype(f), v2[:s].astype(f), rows, columns)


@dataclass(frozen=True)
class SharedMPO:
    """Chains of several layers with one centre.

    Attributes:
        layers: one MPO a layer; all hold the same `centre` array.
        error: relative error of all layers together after each round of fitting, never rising.
    """

    layers: tuple[MPO, ...]
    error: tuple[float, ...]

    @property
    def nbytes(self) -> int:
        """Bytes at 16 bits: the centre once, the outer tensors of every layer."""
        return 2 * (self.layers[0].centre.size + sum(m.left.size + m.right.size for m in self.layers))


def share_central(
    weights: Sequence[Array], rows: Split, columns: Split, ranks: tuple[int, int], rounds: int = 6
) -> SharedMPO:
    """Fit one centre for all layers, and each layer's outer tensors, in the least squares sense.

    Args:
        weights: matrices (N, K) float32, one a layer, all of one shape.
        rows, columns, ranks: as for `decompose`.
        rounds: passes of alternating least squares; each solves lefts, rights and the centre in turn.

    Raises:
        ValueError: "give at least one weight." and those of `decompose`.
    """
    if not weights:
        raise ValueError("give at least one weight.")
    chains = [chain_order(finite_matrix(w, "weight"), rows, columns).astype(np.float64) for w in weights]
    norm = sum(float((t**2).sum()) for t in chains)
    a, b, c = chains[0].shape
    r, s = min(ranks[0], a), min(ranks[1], c)
    if min(r, s) < 1:
        raise ValueError(f"ranks must be positive, got {ranks}.")
    best = max(chains, key=lambda t: float((t**2).sum()))
    lefts = [np.linalg.svd(t.reshape(a, -1), full_matrices=False)[0][:, :r] for t in chains]
    rights = [np.linalg.svd(t.reshape(-1, c), full_matrices=False)[2][:s] for t in chains]
    centre = np.einsum("ai,abc,jc->ibj", np.linalg.svd(best.reshape(a, -1))[0][:, :r], best, rights[0], optimize=True)
    errors = []
    for _ in range(max(rounds, 1)):
        for i, t in enumerate(chains):
            basis = np.tensordot(centre, rights[i], 1).reshape(r, b * c)
            lefts[i] = _solve(basis @ basis.T, basis @ t.reshape(a, -1).T).T
            basis = np.tensordot(lefts[i], centre, 1).reshape(a * b, s)
            rights[i] = _solve(basis.T @ basis, basis.T @ t.reshape(-1, c))
        gram = sum(np.kron(x.T @ x, y @ y.T) for x, y in zip(lefts, rights, strict=True))
        seen = sum(
            np.einsum("ai,abc,jc->ijb", x, t, y, optimize=True) for x, t, y in zip(lefts, chains, rights, strict=True)
        )
        solved = _solve(np.asarray(gram), np.asarray(seen).reshape(r * s, b))
        centre = solved.reshape(r, s, b).transpose(0, 2, 1)
        left = sum(
            float(((np.tensordot(np.tensordot(x, centre, 1), y, 1) - t) ** 2).sum())
            for x, t, y in zip(lefts, chains, rights, strict=True)
        )
        errors.append(float(np.sqrt(left / norm)) if norm else 0.0)
    f = np.float32
    middle = centre.astype(f)
    layers = tuple(MPO(x.astype(f), middle, y.astype(f), rows, columns) for x, y in zip(lefts, rights, strict=True))
    return SharedMPO(layers, tuple(errors))


def _solve(gram: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    # A trace of ridge: bonds that carry nothing make the system singular.
    ridge = 1e-10 * max(float(np.trace(gram)) / len(gram), 1e-30)
    return np.asarray(np.linalg.solve(gram + ridge * np.eye(len(gram)), right))
