"""What all states of one run of a program share: its name, backend and defaults, and the text and
generations that have been appended but not yet handed over.

Appending is cheap because it only takes a note. What is noted goes to the backend together, as few
and long segments, as soon as somebody could tell the difference: something is read, forked or
scored, another program is run, the body ends, or some hundredths of a second have passed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

from sgrt.core import Backend, Generate, GuessesAhead, SamplingParams, Session
from sgrt.lang.hub import in_thread, watch

if TYPE_CHECKING:
    from sgrt.lang.ir import Gen
    from sgrt.lang.trace import Trace

_MAX_KNOWN = 512


class Defaults:
    """What the gens of a run do unless they say otherwise.

    Requests are kept, since a gen that is repeated in a loop or a batch asks for the same again.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self._known: dict[int, tuple[Gen, Generate]] = {}  # by id of the gen, which is held

    def request(self, gen: Gen) -> Generate:
        """What the gen asks of the backend.

        Raises:
            InvalidSamplingParams: a value of the gen is out of range.
        """
        found = self._known.get(id(gen))
        if found is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            found = self._known[id(gen)] = (gen, self._made(gen))
        return found[1]

    def _made(self, gen: Gen) -> Generate:
        params = self.params.override(**gen.sampling) if gen.sampling else self.params
        return Generate(params=params, constraint=gen.constraint, stop_regex=gen.stop_regex)


class Run:
    """One run of a program.

    Attributes:
        lock: guards all traces and lanes of the run.
        num_ahead: tokens that a backend may guess ahead, where it does that.
        is_rendered: each answer begins with the conversation as its template renders it.
        noted: traces that keep generations back.
        is_eager: a reader follows while the body runs, so nothing is kept back.
        stopped_by: why its work was given up, or None.
    """

    __slots__ = (
        *("__weakref__", "_noted_at", "backend", "defaults", "is_eager", "lock"),
        *("is_rendered", "noted", "num_ahead", "program", "stopped_by"),
    )

    def __init__(
        self,
        program: str,
        backend: Backend,
        defaults: Defaults,
        num_ahead: int | None = None,
        *,
        is_rendered: bool = False,
    ) -> None:
        self.program = program
        self.backend = backend
        self.num_ahead = num_ahead
        self.is_rendered = is_rendered
        self.defaults = defaults
        self.lock = threading.RLock()
        self.is_eager = False
        self.stopped_by: BaseException | None = None
        self.noted: Sequence[Trace] = ()
        self._noted_at = 0

    def open(self, seed: int | None) -> Session:
        """A session of the backend."""
        if self.num_ahead is None or not isinstance(self.backend, GuessesAhead):
            return self.backend.open(seed=seed)
        return self.backend.open_ahead(self.num_ahead, seed=seed)

    def note(self, trace: Trace) -> None:
        """The trace keeps generations back; the caller holds the lock."""
        if self.is_eager:
            trace.hand_over()
            return
        if not self.noted:
            self._noted_at = watch.ticks
            _unsent.add(self)
            if not watch.is_awake:
                watch.wake()
        self.noted = (*self.noted, trace)

    def send(self) -> None:
        """Hand over what is kept back."""
        if not self.noted:
            return
        with self.lock:
            noted, self.noted = self.noted, ()
            _unsent.discard(self)
            for trace in noted:
                trace.hand_over()

    def send_all_from_now_on(self) -> None:
        """Keep nothing back any more."""
        self.is_eager = True
        self.send()

    def is_late(self) -> bool:
        """Whether what is kept back has been so for more than a tick."""
        return watch.ticks - self._noted_at > 1


_unsent: set[Run] = set()
current: ContextVar[Run | None] = ContextVar("sgrt_run", default=None)


def send_current() -> None:
    """Hand over what the program keeps back that runs here, if one does."""
    run = current.get()
    if run is not None:
        run.send()


def _send_late() -> bool:
    for run in list(_unsent):
        if run.is_late():
            _unsent.discard(run)
            in_thread(run.send)  # grammars may have to be compiled for it
    return bool(_unsent)


watch.unsent = _send_late
os.register_at_fork(after_in_child=_unsent.clear)
