"""A list that readers follow while it grows."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from sgrt.core import Handle

T = TypeVar("T")


class Feed(Generic[T]):
    """Append-only; any number of writers and readers, threads or coroutines.

    A reader sees every item from the first on, and ends when the feed is closed.

    Args:
        lock: guards it; a lock of its own where None is given.
    """

    __slots__ = ("_closed", "_items", "_lock", "_more")

    def __init__(
        self, items: Iterable[T] = (), lock: AbstractContextManager[Any] | None = None
    ) -> None:
        self._items: list[Any] = list(items)
        self._lock = threading.Lock() if lock is None else lock
        self._more: Handle[None] | None = None
        self._closed = False

    def append(self, item: T) -> None:
        """Add an item; readers that wait go on."""
        with self._lock:
            self.append_held(item)

    def append_held(self, item: Any) -> None:
        """`append` for who holds the lock; takes an item, or what `_seen` makes one of."""
        self._items.append(item)
        if self._more is not None:
            self._tell()

    def close(self) -> None:
        """No item follows."""
        with self._lock:
            self.close_held()

    def close_held(self) -> None:
        """`close` for who holds the lock."""
        self._closed = True
        if self._more is not None:
            self._tell()

    def _tell(self) -> None:
        more, self._more = self._more, None
        if more is not None:
            more.finish(None)

    def now(self) -> list[T]:
        """The items so far."""
        return self._seen(self._items)

    def _seen(self, items: list[Any]) -> list[T]:
        """A copy, as readers see them; for feeds that keep them otherwise."""
        return items[:]

    def follow(self) -> Iterator[T]:
        """Every item, waiting for those to come."""
        index = 0
        while True:
            fresh, more = self._next(index)
            yield from fresh
            index += len(fresh)
            if more is None:
                return
            more.result()

    async def afollow(self) -> AsyncIterator[T]:
        """`follow` for coroutines."""
        index = 0
        while True:
            fresh, more = self._next(index)
            for item in fresh:
                yield item
            index += len(fresh)
            if more is None:
                return
            await more.wait()

    def _next(self, index: int) -> tuple[list[T], Handle[None] | None]:
        """Items from ``index`` on, and what to wait for then; None at the end."""
        with self._lock:
            fresh = self._seen(self._items[index:] if index else self._items)
            if self._closed:
                return fresh, None
            if self._more is None:
                self._more = Handle()
            return fresh, self._more
