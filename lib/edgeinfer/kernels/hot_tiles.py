"""Two unlike workers share a sparse matrix: predict each tile's time on either, split so that the later one ends early.

Knows tiles, workers described by a few rates, and the split. The workers here are SIMULATED; `hybrid` has a real pair.
A "hot" worker streams whole tiles and computes fast, a "cold" one fetches rows of the dense operand one by one. Both
draw on one memory, so bytes have a limit of their own. Source: hottiles.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.spmm import CSR

WORD = 4  # bytes of a value and of an index
Together = Literal["parallel", "one after the other"]


@dataclass(frozen=True)
class Tiles:
    """What a prediction needs to know of each tile that is not empty.

    Attributes:
        row, column: (tiles,) int64, first row and column of a tile.
        entries: (tiles,) int64.
        used_rows, used_columns: (tiles,) int64, rows and columns with an entry.
        of_entry: (entries,) int64, the tile of each entry of the matrix.
        height, width: rows and columns of a full tile.
        shape: (N, K) of the matrix.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    entries: NDArray[np.int64]
    used_rows: NDArray[np.int64]
    used_columns: NDArray[np.int64]
    of_entry: NDArray[np.int64]
    height: int
    width: int
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of each tile; those at the edge are lower."""
        return np.minimum(self.height, self.shape[0] - self.row)

    @property
    def columns(self) -> NDArray[np.int64]:
        """Columns of each tile."""
        return np.minimum(self.width, self.shape[1] - self.column)

    @property
    def density(self) -> NDArray[np.float64]:
        """Entries over places of each tile."""
        return self.entries / (self.rows * self.columns)


def cut(matrix: CSR, height: int, width: int) -> Tiles:
    """Cut a sparse matrix into tiles; empty ones are left out (a matrix of zeros has none).

    Raises:
        ValueError: "a tile needs at least one row and one column, got 0 x 64."
    """
    if height < 1 or width < 1:
        raise ValueError(f"a tile needs at least one row and one column, got {height} x {width}.")
    row, column = matrix.row_numbers, matrix.indices.astype(np.int64)
    across = -(-matrix.shape[1] // width)
    number = row // height * across + column // width
    names, of_entry, entries = np.unique(number, return_inverse=True, return_counts=True)

    def distinct(line: NDArray, length: int) -> NDArray[np.int64]:
        pairs = np.unique(of_entry * length + line % length)
        return np.bincount(pairs // length, minlength=len(names))

    down, right = np.divmod(names, across)
    shape = matrix.shape
    used = distinct(row, height), distinct(column, width)
    return Tiles(down * height, right * width, entries, *used, of_entry, height, width, shape)


@dataclass(frozen=True)
class Worker:
    """A kind of worker, by its rates.

    Attributes:
        name: for tables.
        operations_per_second: a multiply and an add are two.
        bytes_per_second: its own limit, whatever the memory can do.
        computes: "entries", or "places" of the tile when zeros are multiplied as well.
        reads: how the dense operand comes in: "tile" streams all its rows of the tile once, "columns" those that are
            used, once (a cache that holds them), "entries" one row for each entry (no reuse).
        tile_seconds: fixed time of a tile.
    """

    name: str
    operations_per_second: float
    bytes_per_second: float
    computes: Literal["entries", "places"] = "entries"
    reads: Literal["tile", "columns", "entries"] = "entries"
    tile_seconds: float = 0.0

    def operations(self, tiles: Tiles, width: int) -> NDArray[np.float64]:
        """Operations for each tile with a dense operand of `width` columns."""
        places = tiles.entries if self.computes == "entries" else tiles.rows * tiles.columns
        return np.asarray(2 * width * places, np.float64)

    def bytes(self, tiles: Tiles, width: int) -> NDArray[np.float64]:
        """Bytes for each tile: entries with index, rows of the dense operand, rows of the result read and written."""
        fetched = {"tile": tiles.columns, "columns": tiles.used_columns, "entries": tiles.entries}[self.reads]
        return np.asarray(2 * WORD * tiles.entries + WORD * width * (fetched + 2 * tiles.used_rows), np.float64)

    def seconds(self, tiles: Tiles, width: int) -> NDArray[np.float64]:
        """Time for each tile alone: computing and fetching overlap, so the longer of the two counts."""
        compute = self.operations(tiles, width) / self.operations_per_second
        return self.tile_seconds + np.maximum(compute, self.bytes(tiles, width) / self.bytes_per_second)


# Round numbers in the spirit of the paper's pairs: one streams and computes, many small ones fetch what they need.
HOT = Worker("hot", 800e9, 100e9, reads="tile")
COLD = Worker("cold", 60e9, 100e9, reads="entries")
BANDWIDTH = 120e9  # bytes per second of the memory that both share


@dataclass(frozen=True)
class Assignment:
    """Which tiles the hot worker takes, and when each is predicted to end.

    Attributes:
        hot: (tiles,) bool.
        hot_seconds, cold_seconds: busy time of either worker.
        memory_seconds: all bytes over the shared bandwidth.
        finish: predicted end of the whole product.
    """

    hot: NDArray[np.bool_]
    hot_seconds: float
    cold_seconds: float
    memory_seconds: float
    finish: float


class _Costs:
    """The four cost vectors with the rule that makes one time of them."""

    def __init__(self, hot_seconds, cold_seconds, hot_bytes, cold_bytes, bandwidth, together):
        vectors = [np.asarray(v, np.float64) for v in (hot_seconds, cold_seconds)]
        vectors += [
            np.zeros(len(vectors[0])) if v is None else np.asarray(v, np.float64) for v in (hot_bytes, cold_bytes)
        ]
        if any(v.shape != vectors[0].shape or v.ndim != 1 for v in vectors):
            raise ValueError(f"costs must be vectors of one length, got {', '.join(str(v.shape) for v in vectors)}.")
        if any(not np.isfinite(v).all() or (v < 0).any() for v in vectors):
            raise ValueError("costs must be finite and not negative; a NaN or a negative time came.")
        if not bandwidth > 0:
            raise ValueError(f"bandwidth must be above 0 bytes per second, got {bandwidth}.")
        if together not in ("parallel", "one after the other"):
            raise ValueError(f"together must be 'parallel' or 'one after the other', got {together!r}.")
        self.hot, self.cold, self.hot_bytes, self.cold_bytes = vectors
        self.bandwidth, self.together = float(bandwidth), together

    def finish(self, hot, cold, moved):
        """End of the product from sums of busy times and bytes (numbers or arrays)."""
        memory = moved / self.bandwidth
        return np.maximum(np.maximum(hot, cold) if self.together == "parallel" else hot + cold, memory)

    def of(self, mask: NDArray[np.bool_]) -> Assignment:
        hot, cold = float(self.hot[mask].sum()), float(self.cold[~mask].sum())
        moved = float(self.hot_bytes[mask].sum() + self.cold_bytes[~mask].sum())
        return Assignment(mask, hot, cold, moved / self.bandwidth, float(self.finish(hot, cold, moved)))

    def along(self, order: NDArray[np.int64]) -> NDArray[np.float64]:
        """Finish times when the first 0, 1, 2, ... tiles of an order are hot."""

        def first(v: NDArray) -> NDArray:
            return np.concatenate([[0.0], np.cumsum(v[order])])

        cold, moved = self.cold.sum() - first(self.cold), first(self.hot_bytes) - first(self.cold_bytes)
        return self.finish(first(self.hot), cold, moved + self.cold_bytes.sum())

    def orders(self) -> list[NDArray[np.int64]]:
        """Orders in which tiles become hot: by what the hot worker saves relatively, absolutely, and in bytes."""
        ratio = self.hot / np.maximum(self.cold, 1e-30)
        keys = [ratio, self.hot - self.cold, self.hot_bytes - self.cold_bytes]
        return [np.argsort(key, kind="stable") for key in keys]


def assign(
    hot_seconds: NDArray[np.float64],
    cold_seconds: NDArray[np.float64],
    hot_bytes: NDArray[np.float64] | None = None,
    cold_bytes: NDArray[np.float64] | None = None,
    bandwidth: float = float("inf"),
    together: Together = "parallel",
) -> Assignment:
    """Give each tile to a worker so that the predicted end is early.

    Tiles are sorted by what the hot worker saves (relatively, absolutely, in bytes), every cut of each order is tried,
    and from the best cut of each single tiles and pairs change sides while that helps; the best of the three is taken.

    Args:
        hot_seconds, cold_seconds: (tiles,) predicted time of each tile on either worker alone.
        hot_bytes, cold_bytes: (tiles,) bytes each tile moves on either; None: memory is no limit.
        bandwidth: bytes per second of the memory that both share.
        together: "parallel" (two workers at once: the later one counts) or "one after the other" (one core).

    Returns:
        The split; an empty matrix has an empty one that takes no time.

    Raises:
        ValueError: "costs must be vectors of one length, ...", or NaN and negative times.
    """
    costs = _Costs(hot_seconds, cold_seconds, hot_bytes, cold_bytes, bandwidth, together)
    starts = []
    for order in costs.orders():
        mask = np.zeros(len(costs.hot), bool)
        mask[order[: int(np.argmin(costs.along(order)))]] = True
        starts.append(mask)
    return min((costs.of(_improve(costs, mask)) for mask in starts), key=lambda split: split.finish)


def _improve(costs: _Costs, mask: NDArray[np.bool_], most: int = 200) -> NDArray[np.bool_]:
    """Let the tile, or the pair of tiles, change sides that helps most, until none does."""
    for _ in range(most if len(mask) else 0):
        hot = float(costs.hot[mask].sum())
        cold = float(costs.cold[~mask].sum())
        moved = float(costs.hot_bytes[mask].sum() + costs.cold_bytes[~mask].sum())
        sign = np.where(mask, -1.0, 1.0)  # what a change of sides does to each sum
        change = sign * costs.hot, -sign * costs.cold, sign * (costs.hot_bytes - costs.cold_bytes)
        single = costs.finish(hot + change[0], cold + change[1], moved + change[2])
        now = float(costs.finish(hot, cold, moved))
        few = np.argsort(single, kind="stable")[:256]  # pairs among the most promising only
        pairs = costs.finish(*(s + c[few][:, None] + c[few] for s, c in zip((hot, cold, moved), change, strict=True)))
        np.fill_diagonal(pairs, single[few])
        place = int(np.argmin(pairs))
        if pairs.flat[place] >= now * (1 - 1e-12):
            break
        one, other = divmod(place, len(few))
        mask = mask.copy()
        mask[few[one]] ^= True
        if other != one:
            mask[few[other]] ^= True
    return mask


def exhaustive(
    hot_seconds: NDArray[np.float64],
    cold_seconds: NDArray[np.float64],
    hot_bytes: NDArray[np.float64] | None = None,
    cold_bytes: NDArray[np.float64] | None = None,
    bandwidth: float = float("inf"),
    together: Together = "parallel",
) -> Assignment:
    """The best split of a few tiles by trying all of them; arguments as `assign`.

    Raises:
        ValueError: "30 tiles have more than a million splits; take at most 20."
    """
    costs = _Costs(hot_seconds, cold_seconds, hot_bytes, cold_bytes, bandwidth, together)
    count = len(costs.hot)
    if count > 20:
        raise ValueError(f"{count} tiles have more than a million splits; take at most 20.")
    masks = np.array(list(itertools.product((False, True), repeat=count)), bool).reshape(1 << count, count)
    cold = (~masks) @ costs.cold
    ends = costs.finish(masks @ costs.hot, cold, masks @ costs.hot_bytes + (~masks) @ costs.cold_bytes)
    return costs.of(masks[int(np.argmin(ends))])


def split(matrix: CSR, width: int, tile: int, hot: Worker, cold: Worker, bandwidth: float) -> tuple[Tiles, Assignment]:
    """Cut, predict and assign in one step, for two workers in parallel."""
    tiles = cut(matrix, tile, tile)
    seconds = hot.seconds(tiles, width), cold.seconds(tiles, width)
    return tiles, assign(*seconds, hot.bytes(tiles, width), cold.bytes(tiles, width), bandwidth)


def simulate(
    tiles: Tiles, hot: Worker, cold: Worker, mask: NDArray[np.bool_], width: int, bandwidth: float
) -> tuple[float, float]:
    """Run both SIMULATED workers through their tiles, sharing the memory moment by moment.

    A tile is done when it is computed and its bytes are there. While both fetch, the memory divides its bandwidth in
    proportion to what each could draw alone; between two events all rates are constant.

    Returns:
        The moments (seconds) at which the hot and the cold worker end.
    """
    queues, ends = [], [0.0, 0.0]
    for worker, mine in ((hot, mask), (cold, ~mask)):
        compute = worker.operations(tiles, width)[mine] / worker.operations_per_second + worker.tile_seconds
        queues.append(list(zip(compute, worker.bytes(tiles, width)[mine], strict=True))[::-1])
    limits = (hot.bytes_per_second, cold.bytes_per_second)
    now: list[list[float] | None] = [list(q.pop()) if q else None for q in queues]
    clock = 0.0
    while any(now):
        wants = [limits[i] if (task := now[i]) and task[1] > 0 else 0.0 for i in (0, 1)]
        share = min(1.0, bandwidth / sum(wants)) if sum(wants) else 1.0
        rates = [w * share for w in wants]
        step = min(
            left / rate
            for i in (0, 1)
            if (task := now[i])
            for left, rate in ((task[0], 1.0), (task[1], rates[i]))
            if left > 0 and rate > 0
        )
        clock += step
        for i in (0, 1):
            task = now[i]
            if task is None:
                continue
            task[0] = max(0.0, task[0] - step)
            left = task[1] - rates[i] * step
            task[1] = left if left > 1e-9 else 0.0  # less than a byte: done
            if task[0] < 1e-18 and task[1] == 0.0:
                ends[i] = clock
                now[i] = list(queues[i].pop()) if queues[i] else None
    return ends[0], ends[1]
