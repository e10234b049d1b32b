"""One kernel call divided by row blocks among threads. Knows nothing of what the kernel computes.

The kernels release the interpreter lock, so Python's own threads do: no threading layer of Numba that must agree with
those of torch and onnxruntime, and none that a fork breaks.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

# Waking a thread takes some 70 microseconds (AMD EPYC, Linux guest): as long as one thread reads 2 MB from memory.
SHARE = 8 << 20


@lru_cache(maxsize=8)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="edgeinfer")


def over_blocks(
    kernel: Callable,
    arguments: tuple[Any, ...],
    blocks: int,
    threads: int,
    bytes_read: int | None = None,
    share: int | None = None,
) -> None:
    """Call kernel(*arguments, first, last) on `threads` runs that divide range(blocks); the caller takes the last.

    Args:
        kernel: a compiled function that releases the interpreter lock.
        arguments: its arguments but for the last two.
        blocks: how many there are.
        threads: at most so many run.
        bytes_read: for a kernel that is as fast as memory, what it reads: each thread gets at least a share of it.
        share: bytes; None: `SHARE`.

    Raises:
        ValueError: "threads must be a positive integer, got 0."
    """
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads must be a positive integer, got {threads!r}.")
    if bytes_read is not None:
        threads = min(threads, max(1, bytes_read // (share or SHARE)))
    if threads == 1 or blocks == 1:
        kernel(*arguments, 0, blocks)
        return
    parts = min(threads, blocks)
    edges = [blocks * i // parts for i in range(parts + 1)]
    pool = _pool(parts - 1)
    waiting = [pool.submit(kernel, *arguments, edges[i], edges[i + 1]) for i in range(parts - 1)]
    kernel(*arguments, edges[-2], edges[-1])
    for future in waiting:
        future.result()
