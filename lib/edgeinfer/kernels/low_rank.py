"""Low-rank compensation: the largest singular directions of the quantization error are stored beside the codes.

Knows two matrices and nothing of how the second came about. Source: zeroquant-v2 (LoRC).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.validate import finite_matrix


@dataclass(frozen=True)
class LowRank:
    """W is approximated by W' + left @ right.

    Attributes:
        left: (N, rank) float32.
        right: (rank, K) float32.
        energy: share of the squared error that the rank takes away.
    """

    left: NDArray[np.float32]
    right: NDArray[np.float32]
    energy: float

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes at 16 bits a number, as the paper stores them."""
        return 2 * (self.left.size + self.right.size)

    def matmul(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """x (right^T left^T): what is added to the quantized product; x (K,) or (B, K)."""
        return np.asarray((x @ self.right.T) @ self.left.T, dtype=np.float32)


def low_rank_compensation(
    weight: NDArray[np.float32],
    approximation: NDArray[np.float32],
    rank: int | None = None,
    energy: float | None = None,
) -> LowRank:
    """Singular value decomposition of the error W - W', cut after `rank` values or when `energy` is reached.

    Args:
        weight: (N, K) float32, W.
        approximation: (N, K) float32, W' (`QuantizedWeight.dequantize()`).
        rank: number of directions; 0 is allowed.
        energy: instead of a rank, the share of the squared error to be taken away, 0..1.

    Raises:
        ValueError: "give either rank or energy." or "rank must lie in 0..256, got 300."
    """
    weight, approximation = finite_matrix(weight, "weight"), finite_matrix(approximation, "approximation")
    if weight.shape != approximation.shape:
        raise ValueError(f"approximation must have the weight's shape {weight.shape}, got {approximation.shape}.")
    if (rank is None) == (energy is None):
        raise ValueError("give either rank or energy.")
    u, s, v = np.linalg.svd(weight.astype(np.float64) - approximation, full_matrices=False)
    square = np.concatenate([[0.0], np.cumsum(s**2)])
    share = square / square[-1] if square[-1] else np.ones_like(square)
    if rank is None:
        assert energy is not None
        if not 0 <= energy <= 1:
            raise ValueError(f"energy must lie in 0..1, got {energy}.")
        rank = int(np.searchsorted(share, energy - 1e-12))
    if not 0 <= rank <= len(s):
        raise ValueError(f"rank must lie in 0..{len(s)}, got {rank}.")
    root = np.sqrt(s[:rank])  # half of each singular value to each side: both factors have the same range
    left, right = (u[:, :rank] * root).astype(np.float32), (root[:, None] * v[:rank]).astype(np.float32)
    return LowRank(left, right, float(share[rank]))
