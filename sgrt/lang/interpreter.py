"""From operations to a session: nothing here waits.

A `Lane` feeds one session with the operations of one program state, in order. Most operations
are handed over at once. Only a `select` holds the lane, because what follows depends on the
option: operations queue behind it, and go on when the scores are there, on one thread that is
shared by all programs. No thread is kept per program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sgrt.core import Generate, GenerateResult, Handle, ScoreResult, Session, Text
from sgrt.errors import Cancelled
from sgrt.lang.background import continuations
from sgrt.lang.variables import Generated, Selected, outcome


def when_done(handle: Handle[Any], work: Callable[[], None]) -> None:
    """Run ``work`` once on the shared thread, as soon as the handle has ended."""
    handle.on_end(partial(continuations.put, work))


def when_all_done(handles: Sequence[Handle[Any]], work: Callable[[], None]) -> None:
    """Run ``work`` on the shared thread, after all have ended; there is at least one."""
    left = iter(range(len(handles) - 1))  # only the shared thread counts, so no lock

    def count() -> None:
        if next(left, None) is None:
            work()

    for handle in handles:
        when_done(handle, count)


class Claim:
    """Whoever may still read what a lane produces holds its claim; work without one is cancelled.

    Args:
        parent: what a child of a fork was made from; it is needed as long as the child is.
    """

    __slots__ = ("_lane", "_parent")
    # All that `__del__` needs is its own: at the interpreter's end modules may be empty.
    _later = staticmethod(continuations.put_from_anywhere)

    def __init__(self, lane: Lane, parent: Claim | None = None) -> None:
        continuations.begin()  # it cannot be begun from a finalizer
        self._lane = lane
        self._parent = parent

    def __del__(self) -> None:
        if not self._lane.is_closed:
            self._later(self._lane.give_up)


class Operation:
    """One thing to do with a session."""

    __slots__ = ()

    def run(self, lane: Lane, session: Session) -> Handle[Any] | None:
        """Hand it over; a handle that is returned must end before `resume` and what follows."""
        raise NotImplementedError

    def resume(self, lane: Lane, session: Session) -> None:
        """Go on after the handle has ended."""

    def fail(self, lane: Lane, error: BaseException) -> None:
        """It cannot be done; tell the readers."""
        raise NotImplementedError


class Lane:
    """One session and the operations on their way to it.

    After an error nothing more reaches the session; every later operation fails with it.

    Args:
        lock: guards it; that of the run, which others take too. Who calls `start`, `submit` or
            `end` holds it.

    Attributes:
        is_closed: the session has been given back, or never will be needed.
    """

    __slots__ = (
        *("_beside", "_closed", "_error", "_held", "_lock", "_queue", "_session", "_working"),
        *("children", "is_closed"),
    )

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self._lock = lock
        self._queue: deque[Operation] | None = None  # of what is held back
        self._session: Session | None = None
        self._held = True  # until a session comes, and while a handle is waited for
        self._error: BaseException | None = None
        self._working: Sequence[Handle[Any]] = ()  # in order; ended ones may lead
        self._beside: Sequence[Handle[Any]] = ()
        self.children: Sequence[Lane] = ()
        self.is_closed = False
        self._closed: Handle[None] | None = None  # as soon as somebody waits for it

    def start(self, session: Session) -> None:
        """Work on this session from now on."""
        self._session = session
        if self._error is not None:
            session.close()
        if self._queue:
            self._go_on()
        else:
            self._held = False

    def move_to(self, session: Session) -> None:
        """Go on in another session; the work of this one has ended."""
        if self._session is not None:
            self._session.close()
        self._session = session

    def submit(self, operation: Operation) -> None:
        """Queue an operation; it runs at once where nothing holds the lane."""
        if self._held:
            self._queue = self._queue or deque()
            self._queue.append(operation)
        else:
            self._step(operation)

    def end(self) -> None:
        """Nothing more will be submitted."""
        if self._held:
            self.submit(_FINISH)
        else:
            self.finish()

    def stop(self, error: BaseException) -> None:
        """Cancel what the backend still works on, and fail all that waits here."""
        with self._lock:
            if self._error is None:
                self._error = error
            self.close()
            for handle in self._beside:
                handle.cancel()
            self._go_on()

    def give_up(self) -> None:
        """`stop`: nobody can read what it works on."""
        self.stop(Cancelled())

    def close(self) -> None:
        """Give the session back; safe at any time."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._working = ()
        self.is_closed = True
        if self._closed is not None:
            self._closed.finish(None)

    def closed(self) -> Handle[None]:
        """What ends when the session has been given back."""
        with self._lock:
            if self._closed is None:
                self._closed = Handle(lock=self._lock)
                if self.is_closed:
                    self._closed.finish(None)
            return self._closed

    def watch_beside(self, handles: Sequence[Handle[Any]]) -> None:
        """Remember work of other sessions, which ends by itself unless `stop` comes first."""
        self._beside = [*(handle for handle in self._beside if not handle.done()), *handles]

    def watch(self, handles: Sequence[Handle[Any]]) -> None:
        """Remember work of the session, so that `finish` waits for it."""
        if self._working:
            handles = [*(handle for handle in self._working if not handle.done()), *handles]
        self._working = handles

    def finish(self) -> None:
        """Close when the session's work and its children's has ended.

        All of it is waited for, not the newest alone: what is refused when it is handed over
        ends before what was taken earlier, which is still good.
        """
        waiting = [handle for handle in self._working if not handle.done()] if self._working else []
        if self.children:
            waiting += [child.closed() for child in self.children if not child.is_closed]
        if waiting:
            when_all_done(waiting, self.close)
        else:
            self._close()

    def join(self) -> None:
        """Wait until all is done that a finished lane has taken, beside the session too."""
        if not self.is_closed:
            outcome(self.closed())
        for handle in self._beside:
            outcome(handle)
        for child in self.children:
            child.join()

    def error(self) -> BaseException | None:
        """Why nothing more reaches the session."""
        return self._error

    def _go_on(self) -> None:
        self._held = False
        while self._queue and not self._held:
            self._step(self._queue.popleft())

    def _step(self, operation: Operation) -> None:
        if self._error is not None or self._session is None:
            operation.fail(self, self._error or RuntimeError("the lane has no session"))
            return
        try:
            handle = operation.run(self, self._session)
            if handle is None:
                return
            self.watch([handle])
            if handle.done():
                operation.resume(self, self._session)
                return
        except Exception as error:
            self._break(operation, error)
            return
        self._held = True
        when_done(handle, lambda: self._resume(operation))

    def _resume(self, operation: Operation) -> None:
        with self._lock:
            try:
                if self._error is not None:
                    operation.fail(self, self._error)
                elif self._session is not None:
                    operation.resume(self, self._session)
            except Exception as error:
                self._break(operation, error)
            self._go_on()

    def _break(self, operation: Operation, error: BaseException) -> None:
        self._error = error
        operation.fail(self, error)


@dataclass(slots=True)
class Write(Operation):
    """Text and generations with no decision between them, handed over as one segment.

    Args:
        variables: that the generations of the segment are for, in order.
    """

    segment: list[Text | Generate]
    variables: list[Generated]

    def run(self, lane: Lane, session: Session) -> None:
        rest = self._text_at_end() if isinstance(self.segment[-1], Text) else None
        if self.variables:
            handles = session.generate(self.segment)
            for handle, variable in zip(handles, self.variables, strict=True):
                variable.attach(handle)
            lane.watch(handles)
        if rest:
            session.extend(*rest)

    def _text_at_end(self) -> list[Text]:
        """Take it off: no generation follows it."""
        rest: list[Text] = []
        while self.segment and isinstance(text := self.segment[-1], Text):
            rest.insert(0, text)
            self.segment.pop()
        return rest

    def fail(self, lane: Lane, error: BaseException) -> None:
        for variable in self.variables:
            variable.fail(error)


@dataclass(slots=True)
class Sample(Operation):
    """n continuations: the first in the session, the others in forks of it that end with them."""

    requests: Sequence[Generate]
    variable: Generated

    def run(self, lane: Lane, session: Session) -> None:
        others = session.fork(len(self.requests) - 1)
        try:
            where = [session, *others]
            pairs = zip(where, self.requests, strict=True)
            handles = [handle for s, request in pairs for handle in s.generate([request])]
        except BaseException:
            for other in others:
                other.close()
            raise
        self.variable.attach(handles[0], handles[1:])
        lane.watch(handles[:1])
        lane.watch_beside(handles[1:])
        for handle, other in zip(handles[1:], others, strict=True):
            when_done(handle, other.close)

    def fail(self, lane: Lane, error: BaseException) -> None:
        self.variable.fail(error)


@dataclass(slots=True)
class Peek(Operation):
    """How likely each token would come next; the text stays as it is.

    Args:
        num: how many continuations of no text are asked for.
    """

    request: Generate
    variable: Generated
    num: int

    def run(self, lane: Lane, session: Session) -> None:
        params = replace(self.request.params, max_tokens=1, ignore_eos=True, stop=())
        (twin,) = session.fork(1)
        (handle,) = twin.generate([replace(self.request, params=params)])
        told: Handle[GenerateResult] = Handle(handle.cancel)

        def tell() -> None:
            twin.close()
            if (error := handle.error()) is not None:
                told.fail(error)
                return
            is_complete = self.request.constraint is None
            seen = replace(handle.result(), text="", token_ids=(), is_complete=is_complete)
            told.finish(replace(seen, finish_reason="length", stop_match=None))

        self.variable.attach(told, [told] * (self.num - 1))
        lane.watch_beside([told])
        when_done(handle, tell)

    def fail(self, lane: Lane, error: BaseException) -> None:
        self.variable.fail(error)


@dataclass(slots=True)
class Decide(Operation):
    """Score options, then append the one that was picked."""

    variable: Selected
    _scores: Handle[ScoreResult] | None = None

    def run(self, lane: Lane, session: Session) -> Handle[Any]:
        self._scores = session.score(
            self.variable.options, unconditional=self.variable.needs_unconditional
        )
        return self._scores

    def resume(self, lane: Lane, session: Session) -> None:
        assert self._scores is not None
        choice = self.variable.decide(self._scores.result())
        session.extend(Text(choice.text))

    def fail(self, lane: Lane, error: BaseException) -> None:
        self.variable.fail(error)


@dataclass(slots=True)
class Split(Operation):
    """Sessions for the children of a fork."""

    children: Sequence[Lane]

    def run(self, lane: Lane, session: Session) -> None:
        lane.children = (*lane.children, *self.children)
        for child, twin in zip(self.children, session.fork(len(self.children)), strict=True):
            child.start(twin)

    def fail(self, lane: Lane, error: BaseException) -> None:
        for child in self.children:
            child.stop(error)


class Finish(Operation):
    """Give the session back when its work and its children's has ended; text after the last
    handle is never computed."""

    def run(self, lane: Lane, session: Session) -> None:
        lane.finish()

    def fail(self, lane: Lane, error: BaseException) -> None:
        lane.finish()


_FINISH = Finish()
