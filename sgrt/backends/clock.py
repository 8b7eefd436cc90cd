"""Doing things later."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Clock:
    """One thread for everything that happens later; it ends when nothing is due."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._running = False

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        """Do it when the time has passed."""
        with self._changed:
            mine = (time.monotonic() + seconds, next(self._count), work)
            heapq.heappush(self._due, mine)
            if self._due[0] is mine:  # else it wakes in time
                self._changed.notify()
            if not self._running:
                self._running = True
                threading.Thread(target=self._loop, name="sgrt-script", daemon=True).start()

    def _loop(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while self._due:
                wait = self._due[0][0] - time.monotonic()
                if wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)
            self._running = False
            return None
