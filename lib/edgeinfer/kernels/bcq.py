"""Binary-coding quantization and the product of LUT-GEMM: W = sum_i alpha_i B_i + bias, B_i of signs.

Each plane has its own float scale, so the levels need not be equally spaced; a uniform code is the special case
alpha_i = 2**i s / 2. The product looks up whole bytes of signs in tables of 256 float sums of 8 activations. It is the
same plain code on every machine: a float table does not fit into registers. Source: lut-gemm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.quantize import check_group_size
from edgeinfer.kernels.simd import compiled
from edgeinfer.kernels.threads import over_blocks

MU = 8  # activations of a table


@dataclass(frozen=True)
class BinaryCodedWeight:
    """W as sign planes: w = sum_i alpha[i] * (+1 or -1) + bias.

    Attributes:
        planes: (N, bits, K // 8) uint8; a set bit is +1, least significant bit first.
        alpha: (N, K // group_size, bits) float32.
        bias: (N, K // group_size) float32; zeros without the bias term.
        group_size: columns that share alpha and bias.
        shape: (N, K).
    """

    planes: NDArray[np.uint8]
    alpha: NDArray[np.float32]
    bias: NDArray[np.float32]
    group_size: int
    shape: tuple[int, int]

    @property
    def bits(self) -> int:
        return self.alpha.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""
        return self.planes.nbytes + self.alpha.nbytes + self.bias.nbytes

    def dequantize(self) -> NDArray[np.float32]:
        """(N, K) float32."""
        rows, columns = self.shape
        signs = np.unpackbits(self.planes, axis=2, bitorder="little").astype(np.float32) * 2 - 1
        signs = signs.reshape(rows, self.bits, -1, self.group_size)
        return (np.einsum("nigk,ngi->ngk", signs, self.alpha) + self.bias[..., None]).reshape(rows, columns)


def binary_coding(
    weight: NDArray[np.float32], bits: int, group_size: int, rounds: int = 10, bias: bool = True
) -> BinaryCodedWeight:
    """Fit sign planes and their scales: greedily, then alternating least squares for alpha and nearest levels for B.

    Args:
        weight: (N, K) float32.
        bits: number of planes, 1..4.
        group_size: a multiple of 8 that divides K.
        rounds: alternations after the greedy start; 0 is the greedy fit alone.
        bias: whether a constant per group is fitted too (needed to be as good as an asymmetric uniform code).

    Raises:
        ValueError: "binary coding takes 1..4 bits, got 8." and the like.
    """
    weight = validate.finite_matrix(weight, "weight")
    rows, columns = weight.shape
    if bits not in (1, 2, 3, 4):
        raise ValueError(f"binary coding takes 1..4 bits, got {bits!r}.")
    group_size = check_group_size(group_size, columns)
    if group_size % MU:
        raise ValueError(f"group_size {group_size} must be a multiple of {MU}, the activations of a table.")
    w = weight.reshape(-1, group_size).astype(np.float64)  # (groups of all rows, G)
    constant = w.mean(1) if bias else np.zeros(len(w))
    rest = w - constant[:, None]
    signs = np.empty((bits, *w.shape))
    alpha = np.empty((len(w), bits))
    for i in range(bits):  # greedy: the sign of what is left, and its mean magnitude
        signs[i] = np.where(rest >= 0, 1.0, -1.0)
        alpha[:, i] = np.abs(rest).mean(1)
        rest -= alpha[:, i, None] * signs[i]
    patterns = np.array([[1.0 if (j >> i) & 1 else -1.0 for i in range(bits)] for j in range(2**bits)])
    best = np.full(len(w), np.inf)
    kept = alpha.copy(), constant.copy(), signs.copy()
    for turn in range(rounds + 1):
        if turn:
            alpha, constant = _least_squares(w, signs, bias)
            levels = alpha @ patterns.T + constant[:, None]
            nearest = np.abs(w[:, :, None] - levels[:, None, :]).argmin(2)
            signs = np.moveaxis(patterns[nearest], 2, 0)
        error = ((w - np.einsum("igk,gi->gk", signs, alpha) - constant[:, None]) ** 2).sum(1)
        better = error < best
        best = np.where(better, error, best)
        kept[0][better], kept[1][better], kept[2][:, better] = alpha[better], constant[better], signs[:, better]
        if not better.any():
            break
    alpha, constant, signs = kept
    planes = np.packbits((signs > 0).reshape(bits, rows, columns), axis=2, bitorder="little")
    return BinaryCodedWeight(
        np.ascontiguousarray(planes.transpose(1, 0, 2)),
        alpha.reshape(rows, -1, bits).astype(np.float32),
        constant.reshape(rows, -1).astype(np.float32),
        group_size,
        (rows, columns),
    )


def _least_squares(w: NDArray, signs: NDArray, bias: bool) -> tuple[NDArray, NDArray]:
    """The scales (and constant) that fit best to given signs, for every group at once."""
    basis = np.moveaxis(signs, 0, 1)  # (groups, bits, G)
    if bias:
        basis = np.concatenate([basis, np.ones((len(w), 1, w.shape[1]))], 1)
    normal = basis @ basis.transpose(0, 2, 1)
    normal += 1e-6 * w.shape[1] * np.eye(normal.shape[1])  # two equal planes make it singular
    solution = np.linalg.solve(normal, (basis @ w[..., None]))[..., 0]
    bits = len(signs)
    return solution[:, :bits], solution[:, bits] if bias else np.zeros(len(w))


@compiled()
def _tables(x, tables, sums, group_size):
    """tables[b, k]: the 256 signed sums of activations 8 k .. 8 k + 7, each from one before it by one addition."""
    for b in range(x.shape[0]):
        for k in range(x.shape[1] // 8):
            total = np.float32(0)
            for t in range(8):
                total += x[b, 8 * k + t]
            tables[b, k, 0] = -total
            for t in range(8):
                twice = np.float32(2) * x[b, 8 * k + t]
                for j in range(1 << t):
                    tables[b, k, (1 << t) + j] = tables[b, k, j] + twice
        for g in range(sums.shape[1]):
            total = np.float32(0)
            for i in range(g * group_size, (g + 1) * group_size):
                total += x[b, i]
            sums[b, g] = total


@compiled()
def _product(planes, alpha, bias, tables, sums, group_size, y, first, last):
    per_group = group_size // 8
    for n in range(first, last):
        for b in range(y.shape[0]):
            result = np.float32(0)
            for g in range(sums.shape[1]):
                for i in range(planes.shape[1]):
                    part = np.float32(0)
                    for k in range(g * per_group, (g + 1) * per_group):
                        part += tables[b, k, planes[n, i, k]]
                    result += alpha[n, g, i] * part
                result += bias[n, g] * sums[b, g]
            y[b, n] = result


def binary_matmul(weight: BinaryCodedWeight, x: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
    """y = x W^T by tables of 256 float sums, without a multiplication inside a group.

    Args:
        weight: sign planes, (N, K).
        x: (K,) or (B, K) float32.
        threads: rows are divided among so many threads.

    Raises:
        ValueError: "x must have shape (256,) or ..." or "x contains NaN or infinite values ..."
    """
    rows, columns = weight.shape
    x_rows = validate.finite_activations(x, columns)
    tables = np.empty((len(x_rows), columns // MU, 256), np.float32)
    sums = np.empty((len(x_rows), columns // weight.group_size), np.float32)
    _tables(x_rows, tables, sums, weight.group_size)
    y = np.empty((len(x_rows), rows), np.float32)
    over_blocks(_product, (weight.planes, weight.alpha, weight.bias, tables, sums, weight.group_size, y), rows, threads)
    return y[0] if np.ndim(x) == 1 else y
