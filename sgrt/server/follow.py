"""What the engine's thread produces, as the event loop reads it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from sgrt.core import GenerateResult, Generation, TokenEvent, Usage
from sgrt.errors import Cancelled, RequestError, SgrtError
from sgrt.server.failures import ApiError
from sgrt.server.metrics import Timer


class Waker:
    """Wakes readers on the event loop; one crossing of threads for all that a step produced."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed: deque[asyncio.Event] = deque()
        self._is_scheduled = False

    def wake(self, event: asyncio.Event) -> None:
        """Set an event; from any thread."""
        self._changed.append(event)
        if not self._is_scheduled:
            self._is_scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the server has ended; nobody reads any more
                self._changed.clear()

    def _drain(self) -> None:
        self._is_scheduled = False
        while self._changed:
            self._changed.popleft().set()


class Follower:
    """One generation, as the event loop sees it.

    Args:
        timer: told of each event and of the end.
        told: what an error becomes that says the request is wrong.

    Attributes:
        abort_message: what whoever has it cancelled has to say.
    """

    def __init__(
        self,
        handle: Generation,
        waker: Waker,
        timer: Timer,
        told: Callable[[RequestError], Exception],
    ) -> None:
        self.handle = handle
        self.abort_message: str | None = None
        self._told = told
        self._changed = asyncio.Event()
        changed = self._changed

        def change() -> None:
            timer.changed()
            waker.wake(changed)

        def end() -> None:
            timer.ended()
            self._has_ended = True  # only now, so that an answer comes after its times
            waker.wake(changed)

        self._has_ended = False
        self._detach = handle.on_change(change), handle.on_end(end)

    async def batches(self) -> AsyncIterator[Sequence[TokenEvent]]:
        """Events in the order they came, as many at once as are there. Raises its error."""
        taken = 0
        while True:
            self._changed.clear()  # first: what comes after the reading sets it again
            done = self._has_ended
            fresh = self.handle.events_from(taken)
            if fresh:
                taken += len(fresh)
                yield fresh
            if done:
                break
            await self._changed.wait()
        self._result()

    async def result(self) -> GenerateResult:
        """Wait for the end. Raises its error."""
        while not self._has_ended:
            self._changed.clear()
            if not self._has_ended:
                await self._changed.wait()
        return self._result()

    def usage_so_far(self) -> Usage:
        """Tokens by now; those of the prompt once there is an event."""
        count = self.handle.usage_so_far
        return Usage() if count is None else count()

    def token_ids(self) -> list[int]:
        """All tokens that were drawn or forced, that which ended the text included."""
        ids = [i for event in self.handle.events_from(0) for i in event.token_ids]
        end_id = self.handle.result(0).end_id
        return ids if end_id is None else [*ids, end_id]

    def _result(self) -> GenerateResult:
        try:
            return self.handle.result(0)
        except RequestError as error:
            raise self._told(error) from error
        except Cancelled as error:
            raise Cancelled(self.abort_message or str(error)) from error

    def close(self) -> None:
        """Cancel what has not ended."""
        for detach in self._detach:
            detach()
        self.handle.cancel()


async def merged(
    followers: Sequence[Follower],
) -> AsyncIterator[tuple[int, Sequence[TokenEvent]]]:
    """Events of several generations, as they come, until all have ended.

    One that fails just ends here; its error is raised by its `Follower.result`.
    """
    if len(followers) == 1:
        with suppress(SgrtError, ApiError):
            async for events in followers[0].batches():
                yield 0, events
        return
    queue: asyncio.Queue[tuple[int, Sequence[TokenEvent] | None]] = asyncio.Queue()

    async def pump(index: int) -> None:
        with suppress(SgrtError, ApiError):
            async for events in followers[index].batches():
                queue.put_nowait((index, events))
        queue.put_nowait((index, None))

    tasks = [asyncio.ensure_future(pump(i)) for i in range(len(followers))]
    try:
        left = len(tasks)
        while left:
            index, some = await queue.get()
            if some is None:
                left -= 1
            else:
                yield index, some
    finally:
        for task in tasks:
            task.cancel()
