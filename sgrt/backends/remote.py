"""Sessions on a server: a queue per session, worked off on the loop that all of them share.

What is particular to a kind of server, how a text is continued and scored there, is in
`sgrt.backends.sglang` and `sgrt.backends.openai`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from sgrt.backends.satisfied import satisfies
from sgrt.backends.wire import LOOP, Client
from sgrt.core import (
    Constraint,
    FinishReason,
    Generate,
    GenerateResult,
    Generation,
    Handle,
    ScoreResult,
    Scoring,
    Seeds,
    Segment,
    Text,
    TokenEvent,
    TokenLogprob,
    Usage,
    check_deadline,
    check_options,
)
from sgrt.errors import (
    BackendError,
    Cancelled,
    ConstraintError,
    DeadlineExceeded,
    EngineClosed,
    InvalidSamplingParams,
    RequestError,
)

T = TypeVar("T")
Push = Callable[[TokenEvent], None]


class RemoteBackend:
    """What every backend on a server has.

    Attributes:
        client: the server.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._usage = Usage()
        self._calls = 0
        self._closed = False

    def check_open(self) -> None:
        """Raises EngineClosed after `close`."""
        if self._closed:
            raise EngineClosed("the backend is closed")

    def count(self, usage: Usage) -> None:
        """Remember a call."""
        with self._lock:
            self._usage += usage
            self._calls += 1

    def stats(self) -> Mapping[str, float]:
        """Tokens by kind, and calls, of this process since the start."""
        with self._lock:
            usage, calls = self._usage, self._calls
        return {
            "prompt": usage.prompt,
            "cached": usage.cached,
            "forced": usage.forced,
            "sampled": usage.sampled,
            "steps": calls,
        }

    def close(self) -> None:
        """Close the connections; what is under way fails."""
        if not self._closed:
            self._closed = True
            LOOP.wait(self.client.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(eq=False)
class _Job:
    work: Callable[[], Awaitable[None]]
    fail: Callable[[BaseException], None]


class RemoteSession(ABC):
    """One text on a server, and what is still to be done with it.

    Text is only remembered; requests go out one after the other, each when the one before has
    ended. Subclasses hold the text and speak to the server; what they hold is touched on the loop
    alone.
    """

    def __init__(self, backend: RemoteBackend, seed: int | None) -> None:
        self._seeds = Seeds(seed)
        self._backend = backend
        self._usage = Usage()
        self._lock = threading.RLock()
        self._jobs: deque[_Job] = deque()
        self._held = False  # a child whose parent has not come to the fork
        self._working = False
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None

    # what a kind of server defines

    @abstractmethod
    async def append(self, parts: Sequence[Text]) -> None:
        """Text joins the state."""

    @abstractmethod
    async def append_ids(self, ids: Sequence[int]) -> None:
        """Tokens join the state. Raises RequestError where the server takes none."""

    async def check(self, item: Generate) -> None:
        """Raises for what the server would ignore."""
        if item.stop_regex:
            rule = "only the embedded engine and `sgrt serve` know these"
            raise InvalidSamplingParams("stop_regex", item.stop_regex, rule)

    @abstractmethod
    async def continue_text(self, item: Generate, push: Push) -> GenerateResult:
        """One request; its text joins the state."""

    @abstractmethod
    async def score_options(self, options: tuple[str, ...], unconditional: bool) -> ScoreResult:
        """Log-probabilities of each option after the state, and after nothing where asked for."""

    @abstractmethod
    async def ids(self) -> list[int]:
        """Tokens of the state. Raises RequestError where the server does not tell them."""

    @abstractmethod
    def twin(self, seed: int | None) -> RemoteSession:
        """A session without state."""

    @abstractmethod
    def take_state(self, parent: Any) -> None:
        """Begin with what another session holds."""

    # the protocol

    def extend(self, *parts: Text) -> None:
        self._submit(lambda: self.append(parts), _ignore, begin=False)

    def extend_ids(self, token_ids: Sequence[int]) -> None:
        ids = list(token_ids)
        self._submit(lambda: self.append_ids(ids), _ignore, begin=False)

    def generate(self, segment: Segment) -> tuple[Generation, ...]:
        handles: list[Generation] = []
        for item in segment:
            if isinstance(item, Text):
                self.extend(item)
            else:
                handles.append(self._queue_generation(item))
        return tuple(handles)

    def score(
        self,
        options: Sequence[str],
        *,
        unconditional: bool = False,
        deadline_s: float | None = None,
    ) -> Scoring:
        check_deadline(deadline_s)
        handle: Scoring = Handle(lambda: self._cancel(handle))
        chosen, begun = tuple(options), time.monotonic()

        async def work() -> None:
            check_options(chosen)
            asked = self.score_options(chosen, unconditional)
            result = await self._in_time(asked, begun, deadline_s)
            self._count(result.usage)
            handle.finish(result)

        self._submit(work, handle.fail)
        return handle

    def fork(self, num: int) -> list[RemoteSession]:
        if not isinstance(num, int) or num < 1:
            raise RequestError(f"fork({num!r}): must be an integer >= 1")
        children = [self._child(seed) for seed in self._seeds.of_fork(num)]

        async def work() -> None:
            for child in children:
                child.take_state(self)
                child._release()

        def fail(error: BaseException) -> None:
            for child in children:
                child._break(error)

        self._submit(work, fail)
        return children

    def token_ids(self) -> list[int]:
        handle: Handle[list[int]] = Handle()

        async def work() -> None:
            handle.finish(await self.ids())

        self._submit(work, handle.fail)
        return handle.result()

    def usage(self) -> Usage:
        return self._usage

    def sync(self, timeout: float | None = None) -> None:
        handle: Handle[None] = Handle()

        async def work() -> None:
            handle.finish(None)

        self._submit(work, handle.fail)
        handle.result(timeout)

    def close(self) -> None:
        self._break(Cancelled("the session is closed"))

    # the queue

    def _submit(
        self,
        work: Callable[[], Awaitable[None]],
        fail: Callable[[BaseException], None],
        *,
        begin: bool = True,
    ) -> None:
        with self._lock:
            error = self._error
            if error is None:
                self._jobs.append(_Job(work, fail))
                if begin:
                    self._begin()
        if error is not None:
            fail(error)

    def _begin(self) -> None:
        if not (self._working or self._held):
            self._working = True
            LOOP.soon(self._start)

    def _start(self) -> None:
        with self._lock:
            if self._error is None:
                self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs or self._error is not None:
                    self._working, self._task = False, None
                    return
                job = self._jobs[0]
            try:
                await job.work()
            except asyncio.CancelledError:
                self._break(Cancelled())
                raise
            except Exception as error:
                self._break(error)
                return
            with self._lock:
                if self._jobs and self._jobs[0] is job:
                    self._jobs.popleft()

    def _release(self) -> None:
        with self._lock:
            self._held = False
            if self._jobs and self._error is None:
                self._begin()

    def _break(self, error: BaseException) -> None:
        """Fail all that is queued and all that will be; end the request under way."""
        with self._lock:
            if self._error is None:
                self._error = error
            jobs, self._jobs = list(self._jobs), deque()
            task, self._task, self._working = self._task, None, False
        for job in jobs:
            job.fail(error)
        if task is not None:
            LOOP.soon(task.cancel)

    def _cancel(self, handle: Handle[Any]) -> None:
        self._break(Cancelled())
        handle.fail(Cancelled())

    def _child(self, seed: int | None) -> RemoteSession:
        child = self.twin(seed)
        child._held = True
        return child

    def _queue_generation(self, item: Generate) -> Generation:
        handle: Generation = Handle(lambda: self._cancel(handle))
        begun = time.monotonic()
        seeded = self._seeds.applied(item)

        async def work() -> None:
            handle.finish(await self._generate(seeded, handle.push, begun))

        self._submit(work, handle.fail)
        return handle

    async def _generate(self, item: Generate, push: Push, begun: float) -> GenerateResult:
        await self.check(item)
        if item.params.max_tokens == 0:
            return finished("", (), "length", Usage(), item.constraint)
        result = await self._in_time(self.continue_text(item, push), begun, item.deadline_s)
        self._count(result.usage)
        return result

    async def _in_time(
        self, asked: Coroutine[Any, Any, T], begun: float, deadline_s: float | None
    ) -> T:
        left = None if deadline_s is None else begun + deadline_s - time.monotonic()
        limit = asyncio.timeout(left)
        try:
            async with limit:
                self._backend.check_open()
                return await asked
        except TimeoutError as error:
            if deadline_s is None or not limit.expired():
                raise
            raise DeadlineExceeded(deadline_s) from error
        finally:
            asked.close()

    def _count(self, usage: Usage) -> None:
        self._usage += usage
        self._backend.count(usage)


def finished(
    text: str,
    token_ids: Sequence[int],
    reason: FinishReason,
    usage: Usage,
    constraint: Constraint | None,
    *,
    stop_match: str | int | None = None,
    logprobs: tuple[TokenLogprob, ...] | None = None,
) -> GenerateResult:
    """A server's answer, checked against the constraint it was given.

    Raises:
        ConstraintError: the server let the model break the constraint.
    """
    complete = True if constraint is None else satisfies(text, constraint)
    was_cut = reason == "length" or stop_match is not None
    if complete is False and not was_cut:
        raise ConstraintError(
            f"the server's answer {text[:200]!r} breaks {constraint!r:.200}",
            hint="the server did not hold the model to the constraint",
        )
    if complete is None:
        complete = not was_cut
    return GenerateResult(
        text, tuple(token_ids), reason, usage, stop_match, logprobs, is_complete=complete
    )


def refuse(kind: str, field: str, why: str = "") -> RequestError:
    """The error for an option that a server would ignore."""
    return RequestError(f"{kind} cannot honour {field}" + (f": {why}" if why else ""))


def malformed(where: str, what: object) -> BackendError:
    """The error for an answer that is not shaped as it should be."""
    return BackendError(f"{where}: the answer has another shape than expected: {what!r:.200}")


def _ignore(error: BaseException) -> None:
    """Nobody waits for text."""
