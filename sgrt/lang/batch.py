"""Many runs of one program, side by side."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Protocol

from sgrt.core import Handle
from sgrt.errors import Cancelled
from sgrt.lang import hub
from sgrt.lang.feed import Feed
from sgrt.lang.state import ProgramState

_AT_ONCE = 64
Item = tuple[int, ProgramState]
Begin = Callable[["Batch", int, Callable[[ProgramState], None]], ProgramState]
"""Begin item i of a batch, and say so with `Batch.runs`; the function given is called with its state
when all of it has ended. Who begins items must not hold the batch: a cycle would keep all states."""


class Batch:
    """Runs items 0 … num_items - 1, at most ``limit`` at a time, each exactly once.

    Nothing runs before `begin`. Items end in any order.

    Args:
        done: items that need not run, with their states.
        at_end: called when all have ended, or when they are stopped, before anybody hears of it.
    """

    def __init__(
        self,
        begin: Begin,
        num_items: int,
        limit: int,
        done: dict[int, ProgramState] | None = None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._at_end = at_end
        self._begin_item = begin
        self._done = done or {}
        self._left = deque(i for i in range(num_items) if i not in self._done)
        self.num_items = num_items
        self._limit = limit
        self._lock = threading.Lock()
        self._running: dict[int, ProgramState] = {}
        self._num_ended = 0
        self._stopped = False
        self.finished: Feed[Item] = Feed()
        self.all_finished: Handle[None] = Handle()

    def begin(self) -> None:
        """Start as many items as may run at a time."""
        for item in self._done.items():
            self.finished.append(item)
        self._num_ended = len(self._done)
        if self._num_ended == self.num_items:
            self._end()
        hub.in_turn(partial(self._begin_some, self._limit))

    def _begin_some(self, num_items: int) -> None:
        for _ in range(min(num_items, _AT_ONCE)):
            if not self._begin_next():
                return
        if num_items > _AT_ONCE:
            hub.in_turn(partial(self._begin_some, num_items - _AT_ONCE))

    def _begin_next(self) -> bool:
        if self._stopped:
            return False
        try:
            index = self._left.popleft()
        except IndexError:
            return False
        state = self._begin_item(self, index, partial(self._ended, index))
        if self._stopped:  # perhaps before it was known to run
            state.cancel()
        return True

    def runs(self, index: int, state: ProgramState) -> None:
        """Item i is about to run."""
        self._running[index] = state

    def _ended(self, index: int, state: ProgramState) -> None:
        self.finished.append((index, state))
        with self._lock:
            del self._running[index]
            self._num_ended += 1
            is_last = self._num_ended == self.num_items
        if is_last:
            self._end()
        else:
            self._begin_next()

    def _end(self) -> None:
        self._at_end()
        self.finished.close()
        self.all_finished.finish(None)

    def stop(self, error: BaseException | None = None) -> None:
        """Cancel what runs; what has not begun will not. Followers end, with the error if given."""
        with self._lock:
            self._stopped = True
            running = list(self._running.values())
        for state in running:
            state.cancel()
        self._at_end()
        self.all_finished.fail(error or Cancelled())
        self.finished.close()

    # ways to wait for it

    def results(self, report: Report | None = None) -> list[ProgramState]:
        """Run all; the states in order."""
        try:
            self.begin()
            if report is not None:
                for _, state in self.finished.follow():
                    report(state)
            self.all_finished.result()
        except BaseException as error:
            self.stop(error)
            raise
        states = dict(self.finished.now())
        return [states[index] for index in range(self.num_items)]

    def follow(self) -> Iterator[Item]:
        """Items as they end; leaving early cancels the others."""
        try:
            self.begin()
            yield from self.finished.follow()
            self.all_finished.result()
        finally:
            self.stop()

    async def afollow(self) -> AsyncIterator[Item]:
        """`follow` for coroutines."""
        try:
            self.begin()
            async for item in self.finished.afollow():
                yield item
            await self.all_finished.wait()
        finally:
            self.stop()

    def in_order(
        self, shown: AbstractContextManager[Report] | None = None
    ) -> Iterator[ProgramState]:
        """States in order, each as soon as it and all before it have ended."""
        early: dict[int, ProgramState] = {}
        num_given = 0
        with shown or nullcontext() as report:
            for index, state in self.follow():
                if report is not None:
                    report(state)
                early[index] = state
                while num_given in early:
                    yield early.pop(num_given)
                    num_given += 1


class Report(Protocol):
    """Told about each item that has ended."""

    def __call__(self, state: ProgramState) -> None: ...


@contextmanager
def progress(name: str, num_items: int) -> Iterator[Report]:
    """A bar on standard error: items, tokens per second, failures."""
    from rich.console import Console  # only who wants a bar pays for it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("[red]{task.fields[failed]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=num_items, rate="", failed="")
        begun, tokens, failed = time.perf_counter(), 0, 0

        def report(state: ProgramState) -> None:
            nonlocal tokens, failed
            usage = state.usage()
            tokens += usage.forced + usage.sampled
            failed += state.error() is not None
            rate = tokens / (time.perf_counter() - begun)
            bar.update(
                task,
                advance=1,
                rate=f"{rate:.0f} tok/s",
                failed=f"{failed} failed" if failed else "",
            )

        yield report
