"""Many runs of one program, side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Protocol

from sgrt.errors import Cancelled
from sgrt.lang.state import ProgramState

Start = Callable[[int], tuple[ProgramState, Callable[[], Any]]]


class Report(Protocol):
    """Told about each item that has ended."""

    def __call__(self, state: ProgramState) -> None: ...


class _Runs:
    """The items under way, so that an interrupt can cancel them."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._running: set[ProgramState] = set()
        self._stopped = False

    def run(self, index: int) -> ProgramState:
        """Run one item to its end, good or bad."""
        state, body = self._start(index)
        with self._lock:
            self._running.add(state)
            stopped = self._stopped
        if stopped:
            state._fail(Cancelled())
        try:
            if not stopped:
                state._execute(body)
            state.error()  # waits for all that the program has asked for
        finally:
            with self._lock:
                self._running.discard(state)
        return state

    def stop(self) -> None:
        """Cancel what runs; what has not begun will not."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for state in running:
            state.cancel()


def run_all(
    start: Start, num_items: int, *, name: str, num_threads: int, progress_bar: bool
) -> list[ProgramState]:
    """Run item 0 … num_items - 1 in at most ``num_threads`` threads; states in order."""
    if num_items == 0:
        return []
    runs = _Runs(start)
    pool = ThreadPoolExecutor(min(num_threads, num_items), thread_name_prefix="sgrt-batch")
    try:
        futures = [pool.submit(runs.run, index) for index in range(num_items)]
        with _progress(name, num_items, progress_bar) as report:
            for future in as_completed(futures):
                report(future.result())
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        runs.stop()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _progress(name: str, num_items: int, shown: bool) -> Iterator[Report]:
    if not shown:
        yield lambda state: None
        return
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
