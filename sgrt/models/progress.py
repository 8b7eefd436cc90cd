"""A terminal's view of `hub.resolve` at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sgrt.models.fetchers import Progress


@contextmanager
def progress_bar(*, enabled: bool = True) -> Iterator[Progress]:
    """A bar on stderr for as long as the context lasts; one line per stage.

    Args:
        enabled: False reports nothing.
    """
    if not enabled:
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    bars = Bars(*columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int | None) -> None:
        if stage not in tasks:
            settle()
            bars.start()  # not before there is something to show
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    def settle() -> None:
        # A stage of unknown length is over when the next one begins.
        for task in bars.tasks:
            if task.total is None:
                bars.update(task.id, total=task.completed or 1, completed=task.completed or 1)

    try:
        yield report
        settle()
    finally:
        if tasks:
            bars.stop()
