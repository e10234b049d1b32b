"""Any-Precision: one stored model, read at any width: a k-bit code is the first k bits of the longest code.

A row's weights are clustered at the fewest bits; each further bit splits every cluster in two at the best place
(incremental upscaling), so the codes are nested and every width has centroids of its own. Bits are stored plane by
plane, most significant first: k bits are read from k planes. Source: any-precision-llm; clusters weighted as in
squeezellm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels import validate
from edgeinfer.kernels.simd import compiled
from edgeinfer.kernels.threads import over_blocks


@dataclass(frozen=True)
class AnyPrecisionWeight:
    """Nested codes.

    Attributes:
        planes: (most bits, N, ceil(K / 8)) uint8; plane 0 is the most significant bit.
        centroids: bits -> (N, 2**bits) float32, the values of the codes at that width.
        shape: (N, K).
    """

    planes: NDArray[np.uint8]
    centroids: dict[int, NDArray[np.float32]]
    shape: tuple[int, int]

    def _known(self, bits: int) -> int:
        if bits not in self.centroids:
            known = ", ".join(map(str, sorted(self.centroids)))
            raise ValueError(f"this weight can be read at {known} bits, not at {bits!r}.")
        return bits

    def nbytes(self, bits: int) -> int:
        """Bytes that are read at a width: its planes and its centroids (16 bits each, as the paper stores them)."""
        return self.planes[: self._known(bits)].nbytes + 2 * self.centroids[bits].size

    def codes(self, bits: int) -> NDArray[np.uint8]:
        """(N, K) uint8: the first `bits` bits of every code."""
        single = np.unpackbits(self.planes[: self._known(bits)], axis=2, bitorder="little", count=self.shape[1])
        result = np.zeros(self.shape, np.uint8)
        for plane in single:
            result = (result << np.uint8(1)) | plane
        return result

    def dequantize(self, bits: int) -> NDArray[np.float32]:
        """(N, K) float32 at a width."""
        return np.take_along_axis(self.centroids[self._known(bits)], self.codes(bits).astype(np.intp), 1)


@compiled()
def _cost_cut(first, last, mass, moment):
    """The best place to split sorted weights first..last-1 in two: it maximises the variance between the halves."""
    best, place = -1.0, first
    whole_mass, whole_moment = mass[last] - mass[first], moment[last] - moment[first]
    for cut in range(first + 1, last):
        left = mass[cut] - mass[first]
        right = whole_mass - left
        if left > 0 and right > 0:
            part = moment[cut] - moment[first]
            gain = part * part / left + (whole_moment - part) * (whole_moment - part) / right
            if gain > best:
                best, place = gain, cut
    return place


@compiled()
def _mean(first, last, mass, moment, otherwise):
    inside = mass[last] - mass[first]
    return (moment[last] - moment[first]) / inside if inside > 0 else otherwise


@compiled()
def _lloyd(edges, values, mass, moment, rounds):
    """Refine a division of sorted values into clusters: an edge moves midway between the neighbouring means."""
    clusters = edges.size - 1
    means = np.empty(clusters)
    for _ in range(rounds):
        for c in range(clusters):
            here = values[min(edges[c], values.size - 1)]
            means[c] = _mean(edges[c], edges[c + 1], mass, moment, here)
        moved = False
        for c in range(1, clusters):
            edge = max(edges[c - 1], np.searchsorted(values, (means[c - 1] + means[c]) / 2))
            moved = moved or edge != edges[c]
            edges[c] = edge
        if not moved:
            break


@compiled()
def _cluster_rows(weight, importance, fewest, most, rounds, codes, tables):
    """Codes of `most` bits and the centroids of all widths; tables: (widths, N, 2**most)."""
    columns = weight.shape[1]
    mass, moment = np.zeros(columns + 1), np.zeros(columns + 1)
    for n in range(weight.shape[0]):
        order = np.argsort(weight[n])
        values = weight[n][order].astype(np.float64)
        for i in range(columns):
            mass[i + 1] = mass[i] + importance[order[i]]
            moment[i + 1] = moment[i] + importance[order[i]] * values[i]
        edges = np.array([0, columns])
        for bits in range(1, most + 1):
            finer = np.empty(2 * edges.size - 1, np.int64)
            for c in range(edges.size - 1):
                finer[2 * c] = edges[c]
                finer[2 * c + 1] = _cost_cut(edges[c], edges[c + 1], mass, moment)
            finer[-1] = columns
            edges = finer
            if bits == fewest:  # up to here the codes need not be nested: improve the clusters as a whole
                _lloyd(edges, values, mass, moment, rounds)
            if bits >= fewest:
                for c in range(edges.size - 1):
                    here = values[min(edges[c], columns - 1)]
                    tables[bits - fewest, n, c] = _mean(edges[c], edges[c + 1], mass, moment, here)
        for c in range(edges.size - 1):
            for i in range(edges[c], edges[c + 1]):
                codes[n, order[i]] = c


def any_precision_quantize(
    weight: NDArray[np.float32],
    fewest: int = 2,
    most: int = 8,
    importance: NDArray | None = None,
    rounds: int = 50,
) -> AnyPrecisionWeight:
    """Cluster each row at `fewest` bits and split the clusters up to `most` bits.

    Args:
        weight: (N, K) float32.
        fewest, most: the widths that can be read, 1 <= fewest <= most <= 8.
        importance: (K,) weights of the squared error, such as the diagonal of `second_moment`; None: all equal.
        rounds: at most so many refinements of the clusters at the fewest bits.

    Raises:
        ValueError: "bits must satisfy 1 <= fewest <= most <= 8, got 4 and 2." and the like.
    """
    weight = validate.finite_matrix(weight, "weight")
    rows, columns = weight.shape
    if not 1 <= fewest <= most <= 8:
        raise ValueError(f"bits must satisfy 1 <= fewest <= most <= 8, got {fewest} and {most}.")
    share = np.ones(columns) if importance is None else np.asarray(importance, np.float64)
    if share.shape != (columns,) or not np.isfinite(share).all() or (share < 0).any():
        raise ValueError(f"importance must be {columns} finite numbers, none negative, got shape {share.shape}.")
    codes = np.zeros((rows, columns), np.uint8)
    tables = np.zeros((most - fewest + 1, rows, 2**most), np.float32)
    _cluster_rows(weight, share + 1e-12, fewest, most, rounds, codes, tables)
    single = np.stack([(codes >> np.uint8(most - 1 - p)) & np.uint8(1) for p in range(most)])
    planes = np.packbits(single, axis=2, bitorder="little")
    centroids = {b: np.ascontiguousarray(tables[b - fewest, :, : 2**b]) for b in range(fewest, most + 1)}
    return AnyPrecisionWeight(planes, centroids, (rows, columns))


@compiled()
def _product(planes, bits, table, x, y, first, last):
    """Eight codes at a time are put together from one byte of each plane; then the row's centroids are looked up."""
    columns = x.shape[1]
    values = np.empty(columns, np.float32)
    for n in range(first, last):
        for k in range(planes.shape[2]):
            for j in range(min(8, columns - 8 * k)):
                code = 0
                for p in range(bits):
                    code = (code << 1) | ((planes[p, n, k] >> j) & 1)
                values[8 * k + j] = table[n, code]
        for b in range(x.shape[0]):
            total = np.float32(0)
            for k in range(columns):
                total += values[k] * x[b, k]
            y[b, n] = total


def any_precision_matmul(
    weight: AnyPrecisionWeight, x: NDArray[np.float32], bits: int, threads: int = 1
) -> NDArray[np.float32]:
    """y = x W_k^T, reading only the first k planes.

    Args:
        weight: nested codes of (N, K).
        x: (K,) or (B, K) float32.
        bits: k, one of `weight.centroids`.
        threads: rows are divided among so many threads.

    Raises:
        ValueError: "this weight can be read at 2, 3, 4 bits, not at 5."
    """
    table = weight.centroids[weight._known(bits)]
    rows, columns = weight.shape
    x_rows = validate.finite_activations(x, columns)
    y = np.empty((len(x_rows), rows), np.float32)
    over_blocks(_product, (weight.planes, bits, table, x_rows, y), rows, threads)
    return y[0] if np.ndim(x) == 1 else y
