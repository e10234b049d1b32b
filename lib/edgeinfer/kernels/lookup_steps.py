"""The look-up product step by step in NumPy, and how many additions, look-ups and bytes each step takes.

Slow and clear: the lab falls back on it, the chapter draws from it, and evidence counts with it. It knows nothing of
vector registers (`lut` does) and trusts its arguments. N = output rows, K = input columns, g = activations per table.
Sources: t-mac (bit-planes, tables), lut-gemm (signed planes with an offset), tellme (ternary tables).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DIGITS = np.arange(243)[:, None] // 3 ** np.arange(4, -1, -1) % 3 - 1  # (243, 5): the five weights of each code
_BYTE_OF_CODE = -(-256 * np.arange(243) // 243)


def plane_indices(codes: NDArray[np.uint8], bits: int, g: int) -> NDArray[np.uint8]:
    """Table indices of every bit-plane.

    Args:
        codes: (N, K) uint8 below 2**bits.
        bits: 1..8.
        g: activations per table, divides K, at most 8.

    Returns:
        (bits, N, K // g) uint8; bit i of [b, n, j] is bit b of codes[n, j * g + i].
    """
    rows, columns = codes.shape
    single = np.unpackbits(codes[None], axis=0, bitorder="little").reshape(8, rows, columns // g, g)[:bits]
    return np.packbits(single, axis=-1, bitorder="little")[..., 0]


def signed_sums(x: NDArray[np.float32], g: int) -> NDArray[np.float32]:
    """Tables of all sums of g activations with signs: (K // g, 2**g); bit i of an entry's number is the sign of x[i].

    Built by doubling: switching activation i from minus to plus adds 2 x[i] to half a table that is there already, so
    an entry costs one addition.
    """
    groups = x.reshape(-1, g)
    table = -groups.sum(axis=1, keepdims=True)
    for i in range(g):
        table = np.hstack([table, table + 2 * groups[:, i, None]])
    return table


def lookup_matvec(
    indices: NDArray[np.uint8], tables: NDArray, scales: NDArray[np.float32], zero_points: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """y = W x for W = scale * (code - zero_point), from table look-ups.

    Args:
        indices: (bits, N, K // g) as `plane_indices` gives them.
        tables: (K // g, 2**g) as `signed_sums` gives them; also integers, for quantized tables.
        scales: (N, G) float32, one for each of G groups of columns.
        zero_points: (N, G) uint8.

    Returns:
        (N,) float32.
    """
    bits, rows, blocks = indices.shape
    groups = scales.shape[1]
    flat = tables.astype(np.float64).ravel()
    first = np.arange(blocks, dtype=np.int64) * tables.shape[1]
    planes = np.stack([flat[first + plane].reshape(rows, groups, -1).sum(-1) for plane in indices], axis=-1)
    centre = 2.0**bits - 1 - 2.0 * zero_points
    group_sums = flat[first + tables.shape[1] - 1].reshape(groups, -1).sum(-1)
    return ((planes @ 2.0 ** np.arange(bits) + centre * group_sums) * scales / 2).sum(-1).astype(np.float32)


def ternary_bytes(weights: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Five weights of -1, 0, 1 a byte, their base-3 number stretched to 256: (N, K) int8 -> (N, ceil(K / 5)) uint8."""
    rows, columns = weights.shape
    padded = np.pad(weights, ((0, 0), (0, -columns % 5))).reshape(rows, -1, 5)
    return _BYTE_OF_CODE[(padded + 1) @ 3 ** np.arange(4, -1, -1)].astype(np.uint8)


def ternary_weights(packed: NDArray[np.uint8], columns: int) -> NDArray[np.int8]:
    """The inverse of `ternary_bytes`, by a table of 256 rows: (N, columns) int8."""
    table = np.zeros((256, 5), np.int8)
    table[_BYTE_OF_CODE] = _DIGITS
    return table[packed].reshape(len(packed), -1)[:, :columns]


def ternary_tables(x: NDArray[np.int32], g: int) -> NDArray[np.int32]:
    """Sums of g integer activations with weights -1, 0, 1: (K // g, 3**g), exact; first weight, top digit."""
    weights = np.arange(3**g)[:, None] // 3 ** np.arange(g - 1, -1, -1) % 3 - 1
    return x.reshape(-1, g).astype(np.int32) @ weights.T.astype(np.int32)


def ternary_lookup_matvec(weights: NDArray[np.int8], x: NDArray[np.integer], g: int) -> NDArray[np.int64]:
    """W x for ternary W by one look-up for g weights, exact in integers: (N, K) int8, (K,) integers -> (N,) int64."""
    tables = ternary_tables(np.asarray(x, np.int32), g)
    numbers = (weights.reshape(len(weights), -1, g) + 1) @ 3 ** np.arange(g - 1, -1, -1)
    return tables[np.arange(tables.shape[0]), numbers].sum(axis=1, dtype=np.int64)


@dataclass(frozen=True)
class LookupWork:
    """Operations and bytes of one product W x by look-up, W (N, K).

    Attributes:
        table_additions: to build all tables, once for all rows.
        lookups: table entries read (each replaces g multiplications and additions).
        additions: to sum them up.
        multiplications: by plane weights and group scales, and for the offset.
        weight_bytes: planes, scales and zero points (float32 scale and one byte of zero point per group).
        table_bytes: all tables together.
    """

    table_additions: int
    lookups: int
    additions: int
    multiplications: int
    weight_bytes: int
    table_bytes: int

    @property
    def operations(self) -> int:
        """Additions and multiplications."""
        return self.table_additions + self.additions + self.multiplications


def lookup_work(
    rows: int, columns: int, bits: int, g: int = 4, group_size: int = 128, mirror: bool = True, entry_bytes: int = 1
) -> LookupWork:
    """Count the work of one look-up product.

    Args:
        rows, columns: N and K; g divides group_size, which divides K.
        bits: planes.
        g: activations per table.
        group_size: columns that share a scale.
        mirror: store and compute half of each table, since the other half is its negative.
        entry_bytes: 1 for int8 tables, 4 for float32.
    """
    if columns % group_size or group_size % g:
        raise ValueError(f"g={g} must divide group_size={group_size}, which must divide columns={columns}")
    tables, groups = columns // g, columns // group_size
    entries = 2 ** (g - 1) if mirror else 2**g
    lookups = rows * tables * bits
    return LookupWork(
        # the first entry takes g - 1 additions, each further one a single addition
        table_additions=tables * (entries - 1 + g - 1),
        lookups=lookups,
        additions=lookups + rows * groups,
        multiplications=rows * groups * (bits + 2),
        weight_bytes=rows * columns * bits // 8 + rows * groups * 5,
        table_bytes=tables * entries * entry_bytes,
    )


def dense_operations(rows: int, columns: int) -> int:
    """Multiplications and additions of the ordinary product."""
    return 2 * rows * columns
