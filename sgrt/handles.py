"""Values that come later: what a backend fills in while readers wait, follow or are called back.

Everyone takes `Handle` and its events from `sgrt.core`; the language alone says how a thread of
its own waits (`wait_with`, `no_waiting`).

Architecture invariant: this module imports nothing of sgrt but `errors`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from sgrt.errors import WouldBlock

log = logging.getLogger("sgrt.handles")
T = TypeVar("T")


@dataclass(frozen=True)
class TokenLogprob:
    """One token with its log-probability (natural) and the likeliest alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """Tokens that joined the text together.

    Args:
        token_ids: one sampled token, or a forced run.
        text: what can be shown now; bytes of an unfinished character and the start of a
            possible stop string are held back, so this may be "".
        forced: the constraint left no other text, or none that fits (``finish="close"``), so
            the model was not asked.
    """

    token_ids: tuple[int, ...]
    text: str
    forced: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()


class Waiter(Protocol):
    """How the code that runs now waits for a handle: a thread sleeps, a coroutine is parked."""

    def sleep(self, timeout: float | None) -> bool:
        """Wait for `wake`; whether it came in time."""

    def wake(self) -> None:
        """From any thread, any number of times."""


class _Sleeper:
    """A thread that sleeps."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def sleep(self, timeout: float | None) -> bool:
        woken = self._event.wait(timeout)
        self._event.clear()
        return woken

    def wake(self) -> None:
        self._event.set()


class _Here(threading.local):
    waiter: Callable[[], Waiter] = _Sleeper


_here = _Here()
_may_wait: ContextVar[bool] = ContextVar("sgrt_may_wait", default=True)


def wait_with(waiter: Callable[[], Waiter]) -> None:
    """From now on this thread waits for handles with waiters of this kind."""
    _here.waiter = waiter


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside the block, in this context, waiting for a handle raises `WouldBlock`."""
    token = _may_wait.set(False)
    try:
        yield
    finally:
        with suppress(ValueError):  # an async generator may be closed in another context
            _may_wait.reset(token)


def check_may_wait() -> None:
    """Raises WouldBlock where the code that runs must not wait."""
    if not _may_wait.get():
        raise WouldBlock()


def waiting_context() -> Context:
    """A copy of this context for other threads, where waiting is nobody's harm."""
    context = copy_context()
    context.run(_may_wait.set, True)
    return context


class Handle(Generic[T]):
    """A value that a backend will fill in, with the events on the way to it.

    One producer calls `push`, then `finish` or `fail` once. Any number of readers, threads or
    coroutines, may wait, iterate or attach a callback, before or after.

    Args:
        on_cancel: asks the producer to stop.
        lock: guards it, one of its own where None is given; callbacks are called outside of it.

    Attributes:
        usage_so_far: gives the `core.Usage` of what has been produced, at any time; None where
            the producer does not count before the end.
    """

    __slots__ = (
        *("_at_change", "_at_end", "_done", "_error", "_events", "_lock", "_on_cancel", "_value"),
        "usage_so_far",
        "__weakref__",
    )

    def __init__(
        self,
        on_cancel: Callable[[], None] | None = None,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._lock = threading.Lock() if lock is None else lock
        self._events: Sequence[TokenEvent] = ()  # a list as soon as there is one
        self._value: T | None = None
        self._error: BaseException | None = None
        self._done = False
        self._at_change: list[Callable[[], None]] | None = None
        self._at_end: list[Callable[[], None]] | None = None
        self._on_cancel = on_cancel
        self.usage_so_far: Callable[[], Any] | None = None

    # producer

    def push(self, event: TokenEvent) -> None:
        with self._lock:
            if self._done:
                return
            if isinstance(self._events, list):
                self._events.append(event)
            else:
                self._events = [event]
            callbacks = tuple(self._at_change) if self._at_change else ()
        if callbacks:
            _call_back(callbacks)

    def finish(self, value: T) -> None:
        self._settle(value, None)

    def fail(self, error: BaseException) -> None:
        self._settle(None, error)

    def _settle(self, value: T | None, error: BaseException | None) -> None:
        with self._lock:
            if self._done:
                return
            self._value, self._error = value, error
            self._done = True  # last: readers look at it without the lock
            self._on_cancel = None  # it may hold the session, which nobody needs any more
            at_change, at_end = self._at_change, self._at_end
            self._at_change = self._at_end = None
        if at_change:
            _call_back(at_change)
        if at_end:
            _call_back(at_end)

    # reader

    def done(self) -> bool:
        return self._done

    def error(self) -> BaseException | None:
        """The error it ended with, or None; does not wait."""
        return self._error

    def cancel(self) -> None:
        """Ask the backend to stop; the handle then ends with `Cancelled`."""
        on_cancel = self._on_cancel
        if on_cancel is not None:
            on_cancel()

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each event and at the end, from the producer's thread.

        Returns:
            A function that detaches the callback.
        """
        with self._lock:
            if not self._done:
                if self._at_change is None:
                    self._at_change = []
                self._at_change.append(callback)
        return lambda: self._detach("_at_change", callback)

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back once at the end, from the producer's thread; at once where it has ended.

        Returns:
            A function that detaches the callback.
        """
        with self._lock:
            ended = self._done
            if not ended:
                if self._at_end is None:
                    self._at_end = []
                self._at_end.append(callback)
        if ended:
            callback()
        return lambda: self._detach("_at_end", callback)

    def _detach(self, where: str, callback: Callable[[], None]) -> None:
        with self._lock:
            callbacks = getattr(self, where)
            if callbacks and callback in callbacks:
                callbacks.remove(callback)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the value.

        Args:
            timeout: seconds, or None to wait for ever.

        Raises:
            TimeoutError: not finished in time (the work goes on).
            WouldBlock: not finished, and the code that runs must not wait.
            SgrtError: what the backend failed with.
        """
        if not self._done and not self._wait(self.on_end, self.done, timeout):
            raise TimeoutError(f"no result within {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def _wait(
        self,
        attach: Callable[[Callable[[], None]], Callable[[], None]],
        ready: Callable[[], bool],
        timeout: float | None,
    ) -> bool:
        check_may_wait()
        end = None if timeout is None else time.monotonic() + timeout
        waiter = _here.waiter()
        detach = attach(waiter.wake)
        try:
            while not ready():
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                waiter.sleep(left)
            return True
        finally:
            detach()

    def events_from(self, index: int) -> Sequence[TokenEvent]:
        """The events that are there from this one on; does not wait."""
        return self._events[index:]

    def events(self) -> Iterator[TokenEvent]:
        """All events from the first on; raises the error where one ends the stream."""
        index = 0
        while True:
            done = self._done  # before the events: none follow
            fresh = self._events[index:]
            yield from fresh
            index += len(fresh)
            if done:
                self.result()
                return
            if not self._has_more(index):
                self._wait(self.on_change, partial(self._has_more, index), None)

    def _has_more(self, index: int) -> bool:
        return self._done or len(self._events) > index

    async def wait(self) -> T:
        """`result` for coroutines; cancelling the coroutine does not cancel the work."""
        if not self._done:
            wake, woken = _alarm()
            detach = self.on_end(wake)
            try:
                while not self._done:
                    await woken()
            finally:
                detach()
        return self.result()

    async def aevents(self) -> AsyncIterator[TokenEvent]:
        """`events` for coroutines."""
        wake, woken = _alarm()
        detach = self.on_change(wake)
        index = 0
        try:
            while True:
                done = self._done
                fresh = self._events[index:]
                for event in fresh:
                    yield event
                index += len(fresh)
                if done:
                    break
                if not self._done and len(self._events) == index:
                    await woken()
        finally:
            detach()
        self.result()


def _alarm() -> tuple[Callable[[], None], Callable[[], Coroutine[Any, Any, None]]]:
    """What wakes a coroutine from any thread, and what it awaits, any number of times."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the reader's event loop may be closed by now
            loop.call_soon_threadsafe(changed.set)

    async def woken() -> None:
        await changed.wait()
        changed.clear()

    return wake, woken


def _call_back(callbacks: Sequence[Callable[[], None]]) -> None:
    """Readers' callbacks; what one of them raises is not the producer's failure."""
    for callback in callbacks:
        try:
            callback()
        except BaseException:
            log.exception("a callback of a handle failed")
