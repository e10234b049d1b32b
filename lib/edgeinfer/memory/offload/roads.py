"""A road between two tiers: one thread that does what it was sent, the urgent first.

It does not know what is moved.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import PriorityQueue
from typing import Any

from edgeinfer.kernels.threads import beside


class Road:
    """One thread with a queue. Copies of caches and of weights share it, since the bytes share one memory bus.

    Example::

        with Road("slow") as road:
            road.submit(copy, weights)
            road.submit(copy, cache, urgent=True)  # overtakes what has not begun
    """

    def __init__(self, name: str) -> None:
        self._jobs: PriorityQueue[tuple[int, int, Future | None, Callable[[], Any] | None]] = PriorityQueue()
        self._count = itertools.count()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> Road:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, job: Callable[..., Any], *arguments: Any, urgent: bool = False) -> Future:
        """Send a job; its future has the result, or what it raised. Who sends it goes on computing where it is."""
        future: Future = Future()
        self._jobs.put((0 if urgent else 1, next(self._count), future, beside(job, *arguments)))
        return future

    def close(self) -> None:
        """Finish what was sent, then end the thread; a second time does nothing."""
        if self._thread.is_alive():
            self._jobs.put((2, next(self._count), None, None))
            self._thread.join()

    def _work(self) -> None:
        while True:
            _, _, future, job = self._jobs.get()
            if future is None or job is None:
                return
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)
            # The next job may take long to come; what this one held must not live until then.
            del future, job
