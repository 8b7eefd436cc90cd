"""Threads that all programs share: for short work, for late work, and for code that blocks."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger("sgrt.lang")

Work = Callable[[], None]


class Continuations:
    """One daemon thread that runs what a finished handle lets go on, or what a clock does.

    Callbacks of a handle run on the backend's own thread, which must not be made to wait for
    a lane's lock; so they only leave a note here.
    """

    def __init__(self) -> None:
        self._set_up()
        os.register_at_fork(after_in_child=self._set_up)  # a forked process has no such thread

    def _set_up(self) -> None:
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._timers: list[tuple[float, int, Work]] = []
        self._order = itertools.count()

    def put(self, work: Work) -> None:
        """Run it soon."""
        self._queue.put(work)
        self.begin()

    def put_from_anywhere(self, work: Work) -> None:
        """`put` for finalizers, which may interrupt any code: takes no lock, and so leaves the
        work until something else begins the thread."""
        self._queue.put(work)

    def after(self, seconds: float, work: Work) -> None:
        """Run it when the time has passed."""
        with self._lock:
            heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), work))
        self._queue.put(None)  # look at the clock again
        self.begin()

    def begin(self) -> None:
        """Have the thread."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._loop, name="sgrt-continuations", daemon=True
                    )
                    self._thread.start()

    def _loop(self) -> None:
        while True:
            try:
                work = self._queue.get(timeout=self._until_due())
            except queue.Empty:
                work = None
            for each in (work, *self._take_due()):
                if each is not None:
                    run_safely(each)

    def _until_due(self) -> float | None:
        with self._lock:
            return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _take_due(self) -> list[Work]:
        due = []
        with self._lock:
            while self._timers and self._timers[0][0] <= time.monotonic():
                due.append(heapq.heappop(self._timers)[2])
        return due


class Workers:
    """Daemon threads for code that may block: as many as there is work, up to a limit.

    Args:
        limit: most threads; more work waits for one of them.
        idle_s: seconds after which a thread with nothing to do ends.
    """

    def __init__(self, name: str, limit: int = 128, idle_s: float = 5.0) -> None:
        self._name = name
        self._limit = limit
        self._idle_s = idle_s
        self._set_up()
        os.register_at_fork(after_in_child=self._set_up)

    def _set_up(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Work] = deque()
        self._num_threads = 0
        self._num_idle = 0

    def put(self, job: Work) -> None:
        """Run it on one of the threads."""
        with self._changed:
            self._jobs.append(job)
            if len(self._jobs) <= self._num_idle or self._num_threads >= self._limit:
                self._changed.notify()
                return
            self._num_threads += 1
        threading.Thread(target=self._loop, name=self._name, daemon=True).start()

    def _loop(self) -> None:
        while (job := self._next()) is not None:
            run_safely(job)
            del job  # it may hold what nobody else does

    def _next(self) -> Work | None:
        with self._changed:
            self._num_idle += 1
            self._changed.wait_for(lambda: bool(self._jobs), self._idle_s)
            self._num_idle -= 1
            if self._jobs:
                return self._jobs.popleft()
            self._num_threads -= 1
            return None


def run_safely(work: Work) -> None:
    """Run work whose errors nobody can be told; the thread serves others too."""
    try:
        work()
    except BaseException:
        log.exception("work in the background failed")


continuations = Continuations()
