"""A small HTTP server on a real socket, whose answers are functions; for tests of clients."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    connection: int


@dataclass
class Reply:
    """One answer.

    Args:
        chunks: of the body; an iterator may stop or wait in the middle.
        cut: break the connection off behind the chunks instead of ending the answer.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: AsyncIterator[bytes] | None = None
    cut: bool = False


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    """JSON."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"content-type": "application/json", **told}, _once(json.dumps(body)))


def sse(*events: Any, done: bool = True, cut: bool = False) -> Reply:
    """Server-sent events; strings as they are, all else as JSON."""
    data = [e if isinstance(e, str) else json.dumps(e) for e in events]
    text = "".join(f"data: {d}\n\n" for d in [*data, *(["[DONE]"] if done else [])])
    return Reply(200, {"content-type": "text/event-stream"}, _once(text), cut)


async def _once(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


Handler = Callable[[Asked], "Reply | Awaitable[Reply]"]


class HttpServer:
    """Answers with a handler until it is closed.

    Attributes:
        asked: every request, in order.
        gone: how many clients went away before their answer had ended.
        url: where it listens.
    """

    def __init__(self, handler: Handler) -> None:
        self.asked: list[Asked] = []
        self.gone = 0
        self.connections = 0
        self.in_flight = self.most_in_flight = 0
        self._handler = handler
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        start = asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=4096)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(10)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def bodies(self, path: str) -> list[Any]:
        return [asked.body for asked in self.asked if asked.path == path]

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        this = asyncio.current_task()
        while others := asyncio.all_tasks() - {this}:  # connections, also those just coming in
            for task in others & self._open.keys():
                self._open[task].transport.abort()
                task.cancel()
            await asyncio.wait(others)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = self._loop.create_task(self._serve(reader, writer, self.connections))
        self._open[task] = writer
        task.add_done_callback(lambda ended: self._open.pop(ended).close())

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        try:
            while await self._one(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone += 1

    async def _one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        line = await reader.readline()
        if not line:
            return False
        method, path, _ = line.decode().split(" ")
        headers = {}
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = Asked(method, path, headers, json.loads(body) if body else None, number)
        self.asked.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(asked, reader, writer)
        finally:
            self.in_flight -= 1

    async def _answer(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        made = self._handler(asked)
        answer = made if isinstance(made, Reply) else await made
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        writer.write(
            f"HTTP/1.1 {answer.status} X\r\n{head}transfer-encoding: chunked\r\n\r\n".encode()
        )
        if answer.chunks is not None:
            async for chunk in answer.chunks:
                if reader.at_eof():
                    raise ConnectionError
                writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await writer.drain()
        if answer.cut:
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True
