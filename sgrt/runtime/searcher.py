"""A thread for what takes too long for the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

Found: TypeAlias = Callable[[], Any]
"""Returns what was found, or raises what went wrong."""


class Searcher:
    """Runs jobs one after the other, on a thread that starts with the first one."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Found, Callable[[Found], None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, run: Found, done: Callable[[Found], None]) -> None:
        """Run a job; ``done`` is called on the thread with a function that gives its result."""
        self._jobs.put((run, done))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sgrt-searches", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread after the jobs that were given to it."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            run, done = job
            done(_outcome(run))


def _outcome(run: Found) -> Found:
    try:
        value = run()
    except Exception as error:
        return _raiser(error)
    return lambda: value


def _raiser(error: Exception) -> Found:
    def found() -> Any:
        raise error

    return found
