"""Where program bodies run when nobody lends them a thread: thousands on one thread, as greenlets.

A body that reads a value which is not there is parked, and its thread goes on with another. Code
that blocks in any other way (a request, a sleep) holds its thread; two things keep it from holding
everybody:

- a program whose code looks as if it might block begins in threads of its own (`conduct`);
- a watch sees a hub that does not come back, and lets another one begin what has not begun.

=============  ====================================  ======================
thread         runs                                  how many
=============  ====================================  ======================
sgrt-hub       bodies                                1, a few after stalls
sgrt-program   bodies that may block                 up to 128
sgrt-call      ``s.call(…)``                         up to 128
sgrt-watch     looks after hubs and unsent work      1
=============  ====================================  ======================
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from functools import partial
from typing import Any

from greenlet import getcurrent, greenlet

from sgrt.handles import Handle, check_may_wait, wait_with
from sgrt.lang.background import Workers, continuations, run_safely
from sgrt.lang.conduct import Conduct

TICK_S = 0.02
_STALL_TICKS = 3  # a hub that stands still for so many ticks is stuck in somebody's code
_IDLE_TICKS = 50
_MAX_HUBS = 8
_MAX_IDLE = 1024  # greenlets kept for later bodies: making one takes as long as a short body

Body = Callable[[], None]


class _Parked:
    """A waiter for bodies: the greenlet is set aside, the thread goes on."""

    __slots__ = ("conduct", "greenlet", "hub", "is_parked", "is_queued")

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.conduct = hub.conduct
        self.greenlet: greenlet = getcurrent()
        self.is_parked = False
        self.is_queued = False

    def sleep(self, timeout: float | None) -> bool:
        if timeout is not None:
            continuations.after(timeout, self.wake)
        self.is_parked = True
        self.hub.main.switch()
        return True  # who waits looks whether it is true

    def wake(self) -> None:
        if not self.is_queued:  # two notes do no harm
            self.is_queued = True
            self.hub.queue.put(self)


class Hub:
    """One thread that runs bodies."""

    main: greenlet

    def __init__(self, starts: deque[tuple[Body, Conduct, Context]]) -> None:
        self.queue: queue.SimpleQueue[_Parked | None] = queue.SimpleQueue()
        self.conduct: Conduct | None = None  # of what runs now
        self.num_switches = 0
        self.seen = -1  # num_switches, as the watch saw it last
        self.num_still = 0  # for how many ticks
        self._starts = starts
        self._idle: list[greenlet] = []  # workers that wait for a body
        self._next: _Parked | None = None  # taken from the queue by a worker
        threading.Thread(target=self._loop, name="sgrt-hub", daemon=True).start()

    def _loop(self) -> None:
        self.main = getcurrent()
        _local.hub = self
        wait_with(partial(_Parked, self))
        while True:
            item, self._next = self._next, None
            self._run(self.queue.get() if item is None else item)
            self.num_switches += 1
            self.conduct = None

    def _run(self, item: _Parked | None) -> None:
        if item is not None:
            item.is_queued = False
            if item.is_parked:
                item.is_parked = False
                self.conduct = item.conduct
                item.greenlet.switch()
        elif self._starts:  # else another hub was faster
            worker = self._idle.pop() if self._idle else greenlet(self._work, self.main)
            worker.switch()

    def _work(self) -> None:
        """What a worker does: bodies, one after the other; one that is parked keeps its worker."""
        me = getcurrent()
        while True:
            try:
                body, self.conduct, context = self._starts.popleft()
            except IndexError:
                pass
            else:
                context.run(run_safely, body)
                del body, context  # what they hold ends with them
            if self._is_next_a_start():
                continue
            if len(self._idle) >= _MAX_IDLE:
                return
            self._idle.append(me)
            self.main.switch()

    def _is_next_a_start(self) -> bool:
        """Whether a worker may go on with another body, as the loop would have one do now."""
        try:
            self._next = self.queue.get_nowait()
        except queue.Empty:
            return False
        if self._next is None:
            self.num_switches += 1
            self.conduct = None
            return True
        return False

    def is_stuck(self) -> bool:
        """Whether it has been in the same piece of code for some ticks; asked at every tick."""
        if self.conduct is None or self.num_switches != self.seen:
            self.seen, self.num_still = self.num_switches, 0
        else:
            self.num_still += 1
        return self.num_still >= _STALL_TICKS


class _Local(threading.local):
    hub: Hub | None = None


_local = _Local()
_below_thread: ContextVar[bool] = ContextVar("sgrt_below_thread", default=False)


class Hubs:
    """All hubs; new bodies go to one that is not stuck."""

    def __init__(self) -> None:
        self._set_up()
        os.register_at_fork(after_in_child=self._set_up)  # a forked process has no such threads

    def _set_up(self) -> None:
        self._lock = threading.Lock()
        self._starts: deque[tuple[Body, Conduct, Context]] = deque()
        self._hubs: list[Hub] = []
        self._first: Hub | None = None

    def spawn(self, body: Body, conduct: Conduct, context: Context) -> None:
        """Begin a body soon, on a hub."""
        self._starts.append((body, conduct, context))
        hub = self._first
        if hub is None:
            with self._lock:
                hub = self._first = self._first or self._new()
        hub.queue.put(None)
        if not watch.is_awake:
            watch.wake()

    def _new(self) -> Hub:
        hub = Hub(self._starts)
        self._hubs.append(hub)
        return hub

    def look(self, on_time: bool) -> bool:
        """Get past stuck hubs; returns whether any runs something."""
        for hub in list(self._hubs):
            if not on_time:
                hub.num_still = 0  # the whole machine is late, not the code that the hub runs
            elif hub.is_stuck():
                if (conduct := hub.conduct) is not None:
                    conduct.stalled()
                if hub is self._first:
                    self._elect(hub)
        return any(hub.conduct is not None for hub in self._hubs) or bool(self._starts)

    def _elect(self, stuck: Hub) -> None:
        free = next((hub for hub in self._hubs if hub.conduct is None), None)
        if free is None and len(self._hubs) >= _MAX_HUBS:
            return
        with self._lock:
            self._first = free or self._new()
        for _ in range(len(self._starts)):
            self._first.queue.put(None)


class Watch:
    """A thread that looks, some times a second, at what may be late; it sleeps while nothing is.

    Attributes:
        ticks: how often it has looked.
        is_awake: it looks, or is about to.
        unsent: called with each look; sends what programs keep back too long, and returns
            whether there is more.
    """

    def __init__(self) -> None:
        self.ticks = 0
        self.unsent: Callable[[], bool] = lambda: False
        self._set_up()
        os.register_at_fork(after_in_child=self._set_up)

    def _set_up(self) -> None:
        self.is_awake = False
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def wake(self) -> None:
        """There is something to look at."""
        if not self.is_awake:
            self.is_awake = True
            self._woken.set()
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._loop, name="sgrt-watch", daemon=True
                    )
                    self._thread.start()

    def _loop(self) -> None:
        num_idle = 0
        while True:
            self._woken.wait()
            begun = time.monotonic()
            time.sleep(TICK_S)
            self.ticks += 1
            is_busy = hubs.look(time.monotonic() - begun < 1.5 * TICK_S)
            is_busy = self.unsent() or is_busy
            num_idle = 0 if is_busy else num_idle + 1
            if num_idle > _IDLE_TICKS:
                num_idle = 0
                self._woken.clear()
                self.is_awake = False
                if hubs.look(False) or self.unsent():  # it came between the look and the nap
                    self.wake()


_OURS = Conduct(lambda: None)
watch = Watch()
hubs = Hubs()
_programs = Workers("sgrt-program")
_calls = Workers("sgrt-call")


def spawn(body: Body, conduct: Conduct, context: Context) -> None:
    """Begin a body soon, on a hub, or where it may block, in a thread.

    What bodies in threads begin themselves goes to a hub, as does all that these begin, so that
    no thread ever waits for a free one.
    """
    if conduct.may_block and not context.get(_below_thread):
        _programs.put(partial(_in_thread, body, conduct, context))
    else:
        hubs.spawn(body, conduct, context)


def in_turn(work: Callable[[], None]) -> None:
    """Run short work on a hub, behind what waits there already."""
    hubs.spawn(work, _OURS, Context())


def _in_thread(body: Body, conduct: Conduct, context: Context) -> None:
    if not conduct.may_block:  # by now others have shown that it does not
        hubs.spawn(body, conduct, context)
        return
    timer = _Stretches()
    wait_with(timer.waiter)
    context.run(_below_thread.set, True)
    context.run(body)
    conduct.finished(timer.longest())


class _Stretches:
    """How long a body in a thread goes without waiting for a handle."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._since = time.monotonic()

    def longest(self) -> float:
        return max(self._longest, time.monotonic() - self._since)

    def waiter(self) -> _Timed:
        return _Timed(self)

    def sleeps(self) -> None:
        self._longest = self.longest()

    def goes_on(self) -> None:
        self._since = time.monotonic()


class _Timed:
    """A waiter for threads that says when it sleeps."""

    __slots__ = ("_event", "_stretches")

    def __init__(self, stretches: _Stretches) -> None:
        self._event = threading.Event()
        self._stretches = stretches

    def sleep(self, timeout: float | None) -> bool:
        self._stretches.sleeps()
        woken = self._event.wait(timeout)
        self._event.clear()
        self._stretches.goes_on()
        return woken

    def wake(self) -> None:
        self._event.set()


def in_thread(work: Callable[[], None]) -> None:
    """Run work that may block, which nobody waits for."""
    _calls.put(work)


def call(work: Callable[[], Any], context: Context) -> Any:
    """Run code that may block: in a thread where a hub's would be held, else right here.

    Raises:
        WouldBlock: a coroutine called; the event loop's thread would be held.
    """
    check_may_wait()
    if _local.hub is None:
        return work()
    result: Handle[Any] = Handle()

    def job() -> None:
        context.run(_below_thread.set, True)
        try:
            result.finish(context.run(work))
        except BaseException as error:
            result.fail(error)

    _calls.put(job)
    return result.result()
