"""A cache that drops the least recently used line, exact, and the traffic of tiled products through it: SIMULATED.

Processors count their misses in registers that a guest or a student often may not read; this program imitates the
cache instead and counts every line. It knows nothing of prefetching and of time. Source: loop-tiling for the loops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeinfer.kernels.simd import compiled

LAYOUTS = ("row", "column", "blocked")


@compiled(forceinline=True)
def _touch(line, dirty, sets, ways, state, head, tail, count, before, after, moved):
    """One access. state: 0 absent, 1 clean, 2 dirty. Lists run from the most (head) to the least recent (tail)."""
    s = line % sets
    if state[line] == 0:
        moved[0] += 1
        if count[s] == ways:
            old = tail[s]
            if state[old] == 2:
                moved[1] += 1
            state[old] = 0
            tail[s] = before[old]
            if tail[s] >= 0:
                after[tail[s]] = -1
            else:
                head[s] = -1
        else:
            count[s] += 1
        state[line] = 1
    elif head[s] != line:
        b, a = before[line], after[line]
        after[b] = a
        if a >= 0:
            before[a] = b
        else:
            tail[s] = b
    if dirty:
        state[line] = 2
    if head[s] != line:
        before[line], after[line] = -1, head[s]
        if head[s] >= 0:
            before[head[s]] = line
        else:
            tail[s] = line
        head[s] = line


@compiled()
def _replay(lines, dirty, sets, ways, state, head, tail, count, before, after, moved):
    for t in range(len(lines)):
        _touch(lines[t], dirty[t], sets, ways, state, head, tail, count, before, after, moved)
    for line in range(len(state)):
        if state[line] == 2:
            moved[1] += 1


@compiled(forceinline=True)
def _address(r, c, rows, columns, layout, tile_rows, tile_columns):
    if layout == 0:
        return r * columns + c
    if layout == 1:
        return c * rows + r
    # block after block; blocks at the right edge are narrower, those at the bottom lower
    top, left = r // tile_rows * tile_rows, c // tile_columns * tile_columns
    height, width = min(tile_rows, rows - top), min(tile_columns, columns - left)
    return top * columns + height * left + (r - top) * width + (c - left)


@compiled()
def _matmul(M, N, K, m, n, k, la, lb, lc, line, sets, ways, state, head, tail, count, before, after, moved):
    base_b = -(-M * K // line) * line
    base_c = base_b + -(-K * N // line) * line
    for i0 in range(0, M, m):
        for j0 in range(0, N, n):
            for p0 in range(0, K, k):
                for i in range(i0, min(i0 + m, M)):
                    for p in range(p0, min(p0 + k, K)):
                        a = _address(i, p, M, K, la, m, k) // line
                        _touch(a, False, sets, ways, state, head, tail, count, before, after, moved)
                        # Within a tile's row the addresses of B and C rise by one, or by a column.
                        at_b = base_b + _address(p, j0, K, N, lb, k, n)
                        at_c = base_c + _address(i, j0, M, N, lc, m, n)
                        j = j0
                        while j < min(j0 + n, N):
                            b, c = at_b // line, at_c // line
                            _touch(b, False, sets, ways, state, head, tail, count, before, after, moved)
                            _touch(c, True, sets, ways, state, head, tail, count, before, after, moved)
                            step = 1
                            if lb != 1 and lc != 1 and ways > 1:
                                # The same pair of lines again: hits that leave the order as it is (given two ways).
                                step = min((b + 1) * line - at_b, (c + 1) * line - at_c)
                            j += step
                            at_b += step if lb != 1 else step * K
                            at_c += step if lc != 1 else step * M
    for at in range(len(state)):
        if state[at] == 2:
            moved[1] += 1


@dataclass(frozen=True)
class Traffic:
    """Lines that crossed: fetched on a miss, and written back because they had been changed."""

    fetched: int
    written: int
    line_bytes: int

    @property
    def bytes(self) -> int:
        """Both directions."""
        return (self.fetched + self.written) * self.line_bytes


def _cache(lines: int, capacity_lines: int, ways: int | None) -> tuple:
    if capacity_lines < 1 or (ways is not None and (ways < 1 or capacity_lines % ways)):
        raise ValueError(f"a cache of {capacity_lines} lines cannot be divided into sets of {ways} lines.")
    ways = capacity_lines if ways is None else ways
    sets = capacity_lines // ways
    ends = np.full((2, sets), -1, np.int64)
    links = np.full((2, max(lines, 1)), -1, np.int64)
    state = np.zeros(max(lines, 1), np.uint8)
    return sets, ways, state, ends[0], ends[1], np.zeros(sets, np.int64), links[0], links[1], np.zeros(2, np.int64)


def replay(
    lines: NDArray[np.int64], capacity_lines: int, writes: NDArray[np.bool_] | None = None, ways: int | None = None
) -> Traffic:
    """Send a list of line numbers through the cache.

    Args:
        lines: (accesses,) line numbers from 0.
        capacity_lines: lines of the cache.
        writes: (accesses,) whether the access changes the line; default none does.
        ways: lines of one set; None: a line may lie anywhere.

    Returns:
        The traffic, with lines of one byte; what is changed at the end is written back.
    """
    lines = np.asarray(lines, np.int64)
    changed = np.zeros(len(lines), np.bool_) if writes is None else np.asarray(writes, np.bool_)
    if len(lines) != len(changed) or (len(lines) and lines.min() < 0):
        raise ValueError("lines must be numbers from 0, and writes one flag for each.")
    cache = _cache(int(lines.max()) + 1 if len(lines) else 0, capacity_lines, ways)
    _replay(lines, changed, *cache)
    return Traffic(int(cache[-1][0]), int(cache[-1][1]), 1)


def simulate_matmul(
    M: int,
    N: int,
    K: int,
    tile: tuple[int, int, int],
    cache_bytes: int = 4096,
    line_bytes: int = 64,
    layouts: tuple[str, str, str] = ("row", "row", "row"),
    ways: int | None = None,
) -> Traffic:
    """Run the loops of `tiled_matmul` through the simulated cache; elements are float32.

    Args:
        M, N, K: the product; keep it small, every access is imitated.
        tile: (m, n, k).
        cache_bytes, line_bytes: of the cache.
        layouts: of A, B and C: "row", "column" or "blocked" (a tile's elements lie together).
        ways: lines of one set; None: fully associative.

    Returns:
        The exact traffic of that cache.

    Raises:
        ValueError: "layout 'diagonal' is unknown; choose 'row', 'column' or 'blocked'." and the like.
    """
    for layout in layouts:
        if layout not in LAYOUTS:
            raise ValueError(f"layout {layout!r} is unknown; choose 'row', 'column' or 'blocked'.")
    if min(M, N, K, *tile) < 1:
        raise ValueError(f"sizes and tiles must be positive, got {(M, N, K)} and {tuple(tile)}.")
    if line_bytes < 4 or line_bytes % 4:
        raise ValueError(f"line_bytes must be a multiple of 4, got {line_bytes}.")
    line = line_bytes // 4
    lines = -(-M * K // line) + -(-K * N // line) + -(-M * N // line)
    cache = _cache(lines, cache_bytes // line_bytes, ways)
    _matmul(M, N, K, *tile, *(LAYOUTS.index(layout) for layout in layouts), line, *cache)
    return Traffic(int(cache[-1][0]), int(cache[-1][1]), line_bytes)
