"""The event loop on which async programs run that nobody awaits."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextvars import Context
from typing import Any


class _Loop:
    """One daemon thread with an event loop, made when it is first needed."""

    def __init__(self) -> None:
        self._set_up()
        os.register_at_fork(after_in_child=self._set_up)  # a forked process has no such thread

    def _set_up(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], context: Context) -> None:
        """Run a coroutine that raises nothing."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, name="sgrt-async", daemon=True).start()
        self._loop.call_soon_threadsafe(self._begin, work, context, context=context)

    def _run(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _begin(self, work: Coroutine[Any, Any, None], context: Context) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work, context=context)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)


spawn = _Loop().spawn
