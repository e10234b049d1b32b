"""One kernel call divided by row blocks among threads. Knows nothing of what the kernel computes.

The kernels release the interpreter lock, so Python's own threads do: no threading layer of Numba that must agree with
those of torch and onnxruntime, and none that a fork breaks. A product of a few megabytes takes a tenth of a
millisecond: a helper is woken by one lock, and the caller watches one number instead of falling asleep.
"""

import contextlib
import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from edgeinfer.kernels.simd import compiled

# A helper begins some 20 microseconds after the call (AMD EPYC, Linux guest): as long as one thread reads 0.5 MB.
SHARE = 1 << 20
PATIENCE = 200_000  # looks at the number, some 0.2 ms: shares are alike, and the caller has done its own

T = TypeVar("T")
_processor = getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None
_idle: list["_Helper"] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # a child has none of its parent's threads


@intrinsic
def _load_now(typing, number):
    """number[0] from memory: no compiler may keep the value that it has seen before."""

    def generate(context, builder, signature, args):
        return builder.load_atomic(make_array(signature.args[0])(context, builder, args[0]).data, "acquire", 8)

    return types.int64(number), generate


@compiled()
def _watch(number, wanted, looks):
    """Return when number[0] is `wanted`, or after so many looks."""
    for _ in range(looks):
        if _load_now(number) == wanted:
            return


class _Helper:
    """A thread that runs one call at a time for whoever has taken it out of `_idle`."""

    def __init__(self) -> None:
        self.asked, self.done = threading.Lock(), threading.Lock()  # released by one side, acquired by the other
        self.asked.acquire()
        self.done.acquire()
        self.finished, self.begun = np.zeros(1, np.int64), 0
        self.call: Callable[[], None] = _nothing
        self.error: BaseException | None = None
        threading.Thread(target=self._serve, name="edgeinfer", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self.asked.acquire()
            try:
                self.call()
            except BaseException as error:  # it is the caller's
                self.error = error
            self.finished[0] += 1
            self.done.release()

    def begin(self, call: Callable[[], None]) -> None:
        self.call = call
        self.begun += 1
        self.asked.release()

    def end(self) -> BaseException | None:
        """Wait until the call is done; returns what it raised. The helper may then be asked again, by anyone."""
        _watch(self.finished, self.begun, PATIENCE)
        self.done.acquire()
        error, self.error, self.call = self.error, None, _nothing
        _idle.append(self)
        return error


def _nothing() -> None:
    """What a helper holds between two calls, so that it keeps nobody's arrays."""


def _helper() -> _Helper:
    try:
        return _idle.pop()
    except IndexError:
        return _Helper()


def processor() -> int:
    """The number of the processor that this thread runs on; -1 where the system does not say."""
    return -1 if _processor is None else int(_processor())


def keep_off(busy: int) -> None:
    """Move this thread to another processor, and keep it there, if it runs on that of a thread that computes.

    Linux likes to wake a thread where its waker runs, though another processor idles: then both take turns, and since
    each turn is shorter than the time after which loads are balanced, they do so call after call.

    Args:
        busy: `processor()` of the thread that computes; -1 does nothing.
    """
    if busy >= 0 and processor() == busy:
        others = os.sched_getaffinity(os.getpid()) - {busy}  # those of the main thread: as `taskset` left them
        if others:
            with contextlib.suppress(OSError):  # a sandbox that forbids it: slower, not wrong
                os.sched_setaffinity(0, others)


def beside(job: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """A call for another thread, which will run it off the processor that the thread of now computes on."""
    here = processor()

    def run() -> T:
        keep_off(here)
        return job(*arguments)

    return run


def over_blocks(
    kernel: Callable,
    arguments: tuple[Any, ...],
    blocks: int,
    threads: int,
    bytes_read: int | None = None,
) -> None:
    """Call kernel(*arguments, first, last) on `threads` runs that divide range(blocks); the caller takes the last.

    Args:
        kernel: a compiled function that releases the interpreter lock.
        arguments: its arguments but for the last two.
        blocks: how many there are.
        threads: at most so many run.
        bytes_read: for a kernel that is as fast as memory, what it reads: each thread gets at least `SHARE` of it.

    Raises:
        ValueError: "threads must be a positive integer, got 0."
    """
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads must be a positive integer, got {threads!r}.")
    if bytes_read is not None:
        threads = min(threads, max(1, bytes_read // SHARE))
    parts = min(threads, blocks)
    if parts <= 1:
        kernel(*arguments, 0, blocks)
        return
    edges = [blocks * i // parts for i in range(parts + 1)]
    helpers: list[_Helper] = []
    errors: list[BaseException | None] = []
    try:
        for first, last in itertools.pairwise(edges[:-1]):
            helper = _helper()
            helper.begin(beside(kernel, *arguments, first, last))
            helpers.append(helper)
        kernel(*arguments, edges[-2], edges[-1])
    finally:  # nothing is returned while a helper still writes
        errors.extend(helper.end() for helper in helpers)
    for error in errors:
        if error is not None:
            raise error
