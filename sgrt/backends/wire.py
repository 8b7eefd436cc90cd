"""HTTP for remote backends: one thread with one event loop, whatever the number of programs.

Every request of every backend of a process runs on that loop over kept connections, so that
thousands may be in flight. Errors are ours: what the server said, its status, and whether it is
worth trying again.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sgrt.errors import BackendError, EngineClosed, MissingPackage, RequestError

log = logging.getLogger("sgrt.backends")
T = TypeVar("T")

MAX_EVENT_CHARS = 64 << 20
"""Longest event of a stream; more is no answer but an attack or a defect."""
_RETRYABLE = (408, 425, 429, 502, 503, 504)
_REFUSED = (429, 503)  # the server has done nothing yet, so the same request may be sent again
_POOL_LEN = 64
_LINE_END = re.compile("\r\n|\n|\r")


class Loop:
    """The event loop that all remote backends share, on a daemon thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        os.register_at_fork(after_in_child=self._forget)

    def get(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="sgrt-http", daemon=True
                ).start()
            return self._loop

    def soon(self, work: Callable[[], object]) -> None:
        """Call on the loop's thread."""
        self.get().call_soon_threadsafe(work)

    def wait(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run to the end from another thread.

        Raises:
            TimeoutError: it had not ended in time; it is cancelled.
        """
        if threading.current_thread().name == "sgrt-http":
            work.close()
            raise RuntimeError("the loop of remote backends cannot wait for itself")
        future = asyncio.run_coroutine_threadsafe(work, self.get())
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def _forget(self) -> None:
        """A forked process has no such thread."""
        self._lock = threading.Lock()
        self._loop = None


LOOP = Loop()


class Client:
    """One server.

    Args:
        url: begins every path.
        headers: sent with every request.
        timeout_s: longest silence of the server before a request fails.
        retries: how often a request that the server has not begun is sent again: no connection,
            429, or 503. What has been begun is never repeated.
        max_connections: requests on their way at once; more wait here.
        verify: as httpx2 takes it: False trusts any certificate.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        retries: int,
        max_connections: int,
        verify: Any = True,
    ) -> None:
        self.url = _checked_url(url)
        _check_number("timeout_s", timeout_s, (int, float), 0.001)
        _check_number("retries", retries, (int,), 0)
        _check_number("max_connections", max_connections, (int,), 1)
        self._httpx = _httpx()
        self._headers = {"User-Agent": "sgrt", **headers}
        self._timeout_s = timeout_s
        self._retries = retries
        self._max_connections = max_connections
        self._verify = verify
        self._pools: list[_Pool] = []
        self._closed = False

    def _pool(self) -> _Pool:
        """One with a connection to spare, as long as there may be more."""
        if self._closed:
            raise EngineClosed("the backend is closed")
        best = min(self._pools, key=lambda pool: pool.in_flight, default=None)
        num_more = self._max_connections - len(self._pools) * _POOL_LEN
        if best is None or (best.in_flight >= _POOL_LEN and num_more > 0):
            best = _Pool(self._new_client(min(_POOL_LEN, num_more)))
            self._pools.append(best)
        return best

    def _new_client(self, num_connections: int) -> Any:
        httpx = self._httpx
        if isinstance(self._verify, bool):  # one context for all pools: each costs 50 ms
            self._verify = httpx.create_ssl_context(
                verify=self._verify and self.url.startswith("https:")
            )
        return httpx.AsyncClient(
            headers=self._headers,
            verify=self._verify,
            timeout=httpx.Timeout(self._timeout_s, connect=10.0, pool=None),
            limits=httpx.Limits(
                max_connections=num_connections, max_keepalive_connections=num_connections
            ),
        )

    async def get(self, path: str) -> Any:
        """JSON of a page."""
        return await self._json("GET", path, None)

    async def post(self, path: str, body: object) -> Any:
        """JSON of the answer to JSON."""
        return await self._json("POST", path, body)

    async def _json(self, method: str, path: str, body: object) -> Any:
        async with self._answer(method, path, body) as answer:
            text = (await answer.aread()).decode("utf-8", "replace")
            try:
                return json.loads(text) if text.strip() else None
            except ValueError as error:
                raise BackendError(
                    f"{self.url}{path} answered with no JSON: {text[:200]!r}",
                    status=answer.status_code,
                ) from error

    async def stream(self, path: str, body: object) -> AsyncGenerator[Any, None]:
        """The JSON events of an answer, up to ``[DONE]``.

        Raises:
            BackendError: also for an event that is no JSON, for one that reports an error, and
                where the stream ends without ``[DONE]``.
        """
        async with self._answer("POST", path, body) as answer:
            kind = answer.headers.get("content-type", "")
            if "text/event-stream" not in kind:
                text = (await answer.aread()).decode("utf-8", "replace")
                raise BackendError(
                    f"{self.url}{path} answered with {kind or 'no content type'} instead of a"
                    f" stream: {text[:200]!r}",
                    status=answer.status_code,
                )
            async for data in events(answer.aiter_bytes()):
                if data.strip() == "[DONE]":
                    return
                yield self._event(path, data)
        raise BackendError(f"{self.url}{path}: the stream ended before its end", retryable=True)

    def _event(self, path: str, data: str) -> Any:
        try:
            event = json.loads(data)
        except ValueError as error:
            raise BackendError(
                f"{self.url}{path}: an event of the stream is not JSON: {data[:200]!r}"
            ) from error
        if isinstance(event, dict) and event.get("error"):
            raise BackendError(f"{self.url}{path}: {_message(event)}", status=_status(event))
        return event

    @contextlib.asynccontextmanager
    async def _answer(self, method: str, path: str, body: object) -> AsyncIterator[Any]:
        """A good answer, not yet read."""
        content = None if body is None else _encoded(body)
        async with contextlib.AsyncExitStack() as stack:
            answer = await self._send_again(stack, method, path, content)
            with self._our_errors(path):
                yield answer

    async def _send_again(
        self, stack: contextlib.AsyncExitStack, method: str, path: str, content: bytes | None
    ) -> Any:
        attempt = 0
        while True:
            try:
                return await self._send(stack, method, path, content)
            except _NotBegunError as refused:
                if attempt >= self._retries:
                    raise refused.error from refused.error.__cause__
                pause = _pause(attempt, refused.retry_after)
            await asyncio.sleep(pause)
            attempt += 1

    async def _send(
        self, stack: contextlib.AsyncExitStack, method: str, path: str, content: bytes | None
    ) -> Any:
        sent = {"Content-Type": "application/json"} if content is not None else {}
        pool = self._pool()
        asked = pool.client.stream(method, self.url + path, content=content, headers=sent)
        stack.enter_context(pool.one_more())
        with self._our_errors(path):
            answer = await asked.__aenter__()
            if answer.status_code < 400:
                stack.push_async_exit(asked)
                return answer
            try:
                said = (await answer.aread()).decode("utf-8", "replace")
            finally:
                await asked.__aexit__(None, None, None)
        error = _refusal(f"{self.url}{path}", answer, said)
        if answer.status_code in _REFUSED:
            raise _NotBegunError(error, _seconds(answer.headers.get("retry-after")))
        raise error

    @contextlib.contextmanager
    def _our_errors(self, path: str) -> Iterator[None]:
        httpx = self._httpx
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as cause:
            error = BackendError(
                f"{self.url} cannot be reached: {str(cause) or type(cause).__name__}",
                retryable=True,
                hint="is the server running, and is this its address?",
            )
            error.__cause__ = cause
            raise _NotBegunError(error) from cause
        except httpx.TimeoutException as cause:
            raise BackendError(
                f"{self.url}{path}: silent for {self._timeout_s:g} s", retryable=True
            ) from cause
        except httpx.HTTPError as cause:
            raise BackendError(
                f"{self.url}{path}: {type(cause).__name__}: {cause or 'the connection broke'}",
                retryable=True,
            ) from cause

    async def aclose(self) -> None:
        """Close the connections; what is under way fails."""
        self._closed = True
        pools, self._pools = self._pools, []
        for pool in pools:
            await pool.client.aclose()


def _checked_url(url: object) -> str:
    """Without slashes at the end. Raises RequestError: it is no address of a server."""
    found = url.rstrip("/") if isinstance(url, str) else ""
    try:
        fits = re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", found) and urlsplit(found).port != 0
    except ValueError:  # the port is no number, or too large for one
        fits = False
    if not fits:
        raise RequestError(f"url={url!r:.200}: must be http://host:port or https://…")
    return found


def _check_number(name: str, value: Any, kinds: tuple[type, ...], least: float) -> None:
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not (is_number and value >= least):
        kind = "an integer" if float not in kinds else "a number"
        raise RequestError(f"{name}={value!r:.80}: must be {kind} >= {least}")


class _Pool:
    """Some of a client's connections: httpx2 looks through all of a pool's for each request."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.in_flight = 0

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of server-sent events, whatever way their bytes are cut.

    Lines end in CR, LF or both; several ``data`` lines are one event; comments and other fields
    say nothing here. An event that the stream's end cuts is not one.

    Source: WHATWG HTML, server-sent events.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest, size = "", 0
    data: list[str] = []
    async for chunk in chunks:
        rest += decoder.decode(chunk)
        # A CR at the end may be half of a CR LF.
        held = rest[-1:] if rest.endswith("\r") else ""
        lines = _LINE_END.split(rest.removesuffix(held) if held else rest)
        rest = lines.pop() + held
        for line in lines:
            if not line and data:
                yield "\n".join(data)
                data, size = [], 0
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
                size += len(line)
        if size + len(rest) > MAX_EVENT_CHARS:
            raise BackendError(f"an event of the stream has over {MAX_EVENT_CHARS} characters")
    if rest == "\r" and data:
        yield "\n".join(data)


class _NotBegunError(Exception):
    """The server has done nothing for this request."""

    def __init__(self, error: BackendError, retry_after: float | None = None) -> None:
        self.error = error
        self.retry_after = retry_after
        super().__init__(error.message)


def _encoded(body: object) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"text that is not Unicode cannot be sent: {error}") from error


def _refusal(where: str, answer: Any, body: str) -> BackendError:
    status = answer.status_code
    try:
        said = _message(json.loads(body))
    except ValueError:
        said = body.strip()[:500] or answer.reason_phrase or "no reason given"
    return BackendError(f"{where}: {status}: {said}", status=status, retryable=status in _RETRYABLE)


def _message(body: object) -> str:
    """The server's own words, in the shapes that servers have."""
    found: object = body
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return (found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))[:500]


def _status(event: Mapping[str, Any]) -> int | None:
    error = event["error"]
    code = error.get("code", error.get("status_code")) if isinstance(error, dict) else None
    return code if isinstance(code, int) else None


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _pause(attempt: int, asked: float | None) -> float:
    """Seconds before the next attempt: what the server asks for, else longer each time."""
    if asked is not None:
        return min(asked, 60.0)
    return float(min(8.0, 0.25 * 2**attempt) * random.uniform(0.5, 1.0))


def _httpx() -> ModuleType:
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise MissingPackage(error, extra="http") from error
    return httpx2
