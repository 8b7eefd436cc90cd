"""Running a batch: rows through the server's own handlers, answers into the ledger."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sgrt.errors import EngineClosed, SgrtError
from sgrt.server.batch.ledger import Ledger
from sgrt.server.batch.rows import Row
from sgrt.server.failures import from_error
from sgrt.server.http import Answer, Call, Handler
from sgrt.server.openai_chat import chat_completions
from sgrt.server.openai_completions import completions
from sgrt.server.openai_responses import responses
from sgrt.server.service import Service

log = logging.getLogger("sgrt.batch")

HANDLERS: dict[str, Handler] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/v1/responses": responses,
}
_GROUP = 64
_GROUP_SECONDS = 1.0
_TRIES = 3
_PAUSE_SECONDS = 0.5


class JournalBroken(SgrtError):
    """The disk takes no more; what was committed is safe, and the same command goes on.

    Attributes:
        num_bytes: what is about needed for the rest.
    """

    def __init__(self, error: OSError, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        super().__init__(
            f"cannot write answers: {error.strerror or error}; about {num_bytes} bytes more are "
            "needed",
            hint="make room and run the same command again; no answer is lost",
        )


@dataclass(frozen=True)
class _Told:
    """The line of a row."""

    row: Row
    line: bytes
    ok: bool


class Batch:
    """One job, under way.

    Args:
        service: with an engine attached; it may be given more requests than ``concurrency``.
        rows: all of the job; those that the ledger has are skipped.
        seed: of rows that give none.
        concurrency: rows under way at a time; a kill wastes them and those of the last second.
        progress: called after each commit with how many rows were answered and how many failed.
    """

    def __init__(
        self,
        service: Service,
        rows: Sequence[Row],
        ledger: Ledger,
        *,
        seed: int,
        concurrency: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._service = service
        self._ledger = ledger
        self._seed = seed
        self._concurrency = concurrency
        self._progress = progress
        self._todo = [row for row in rows if row.id not in ledger.done]
        self._told: asyncio.Queue[_Told | None] = asyncio.Queue()
        self._num_bytes = 0

    async def run(self, stop: asyncio.Event) -> bool:
        """Answer what is left to answer, until ``stop`` is set.

        Returns:
            Whether all rows are done; the files then have their names.

        Raises:
            JournalBroken: an answer cannot be written.
            SgrtError: the engine has ended.
        """
        todo = iter(self._todo)
        writing = asyncio.create_task(self._write_all())
        workers = [asyncio.create_task(self._work(todo)) for _ in range(self._concurrency)]
        working = asyncio.gather(*workers, return_exceptions=True)
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((working, writing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, *workers):
                task.cancel()
            ended = await working
            self._told.put_nowait(None)
            await writing
        for error in ended:
            if isinstance(error, Exception):
                raise error
        whole = len(self._ledger.done & {row.id for row in self._todo}) == len(self._todo)
        if whole:
            self._ledger.finish()
        return whole

    async def _work(self, todo: Iterator[Row]) -> None:
        for row in todo:
            self._told.put_nowait(await self._answer(row))

    async def _answer(self, row: Row) -> _Told:
        for last in (*[False] * (_TRIES - 1), True):
            status, body = await self._call(row)
            if last or not (status == 429 or status == 503):
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        response = {"status_code": status, "request_id": row.id, "body": body}
        told = {"id": row.id, "custom_id": row.custom_id, "response": response, "error": None}
        return _Told(row, json.dumps(told).encode("ascii") + b"\n", status < 400)

    async def _call(self, row: Row) -> tuple[int, Any]:
        call = Call(self._service, row.id, raw=row.body_with_seed(self._seed), path=row.url)
        try:
            answer = await HANDLERS[row.url](call)
            assert isinstance(answer, Answer)  # rows that ask for a stream are refused
        except Exception as error:
            if self._service.has_died:
                raise EngineClosed from error
            told = from_error(error)
            if told.code == "internal_error":
                log.error("row %s failed", row.id, exc_info=error)
            return told.status, told.as_dict()
        return answer.status, settled(json.loads(answer.body()))

    async def _write_all(self) -> None:
        while (first := await self._told.get()) is not None:
            group, ended = await self._group(first)
            await asyncio.to_thread(self._commit, group)
            self._progress(len(self._ledger.answered.ids), len(self._ledger.failed.ids))
            if ended:
                return

    async def _group(self, first: _Told) -> tuple[list[_Told], bool]:
        """What is committed together: a second's answers, or 64; and whether they are the last."""
        group = [first]
        try:
            async with asyncio.timeout(_GROUP_SECONDS):
                while len(group) < _GROUP:
                    told = await self._told.get()
                    if told is None:
                        return group, True
                    group.append(told)
        except TimeoutError:
            pass
        return group, False

    def _commit(self, group: Sequence[_Told]) -> None:
        self._num_bytes += sum(len(told.line) for told in group)
        try:
            self._ledger.failed.commit({t.row.id: t.line for t in group if not t.ok})
            self._ledger.answered.commit({t.row.id: t.line for t in group if t.ok})
        except OSError as error:
            left = sum(row.id not in self._ledger.done for row in self._todo)
            done = len(self._todo) - left
            each = self._num_bytes / (done + len(group))
            raise JournalBroken(error, round(each * left)) from error


def settled(body: dict[str, Any]) -> dict[str, Any]:
    """An answer without what depends on when it was computed and beside what: a row that is
    computed again after a kill has to be the same row, byte for byte.

    ``created`` is 0; how many tokens of the prompt were cached is left out, or 0 where the form
    of the answer has a number there.
    """
    for key in ("created", "created_at"):
        if key in body:
            body[key] = 0
    usage = body.get("usage") or {}
    usage.pop("prompt_tokens_details", None)
    if "input_tokens_details" in usage:
        usage["input_tokens_details"]["cached_tokens"] = 0
    return body
