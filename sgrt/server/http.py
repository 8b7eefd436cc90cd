"""HTTP around the handlers: keys, limits, request ids, errors, streams, clients that leave."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import unquote_plus

import msgspec

from sgrt.config import ServerConfig
from sgrt.server.body import decode, parse
from sgrt.server.failures import ApiError, bad_request, from_error
from sgrt.server.service import CALLER, Caller, Service

log = logging.getLogger("sgrt.server")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Access = Literal["open", "key", "admin"]
encode = msgspec.json.Encoder().encode

W = TypeVar("W")
T = TypeVar("T")

_LIGHT_BODY = 16_000
"""Bytes of a body that is understood on the event loop."""
_HEAVY_WORDS = (b'"tools"', b'"previous_response_id"', b'"item_reference"')
"""What takes long in any body: tools have grammars to compile, references may mean long texts."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


@dataclass
class Call:
    """One request, as handlers see it.

    Args:
        request_id: the client's ``x-request-id``, or one of ours.
        namespace: of its cached prefixes: one per key.
    """

    service: Service
    request_id: str
    raw: bytes = b""
    namespace: str = ""
    path: str = ""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        return parse(self.raw)

    async def understood(self, kind: type[W], read: Callable[[W], T]) -> T:
        """What ``read`` makes of the body, off the event loop where that may take long.

        Raises:
            ApiError: the body is no ``kind``, or ``read`` refuses it.
        """

        def work() -> T:
            return read(decode(self.json(), kind))

        if len(self.raw) <= _LIGHT_BODY and not any(word in self.raw for word in _HEAVY_WORDS):
            return work()
        return await self.service.aside(work)


@dataclass
class Answer:
    """A whole answer.

    Args:
        content: becomes JSON, unless it is bytes.
    """

    content: Any
    status: int = 200
    media: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else encode(self.content)


@dataclass
class EventStream:
    """Server-sent events.

    Args:
        events: whole frames. An error that it raises becomes the last event.
        done: what follows the last event.
        error_frame: how an error is told in the stream.
    """

    events: AsyncIterator[bytes]
    done: bytes = b"data: [DONE]\n\n"
    error_frame: Callable[[ApiError], bytes] = lambda error: sse(error.as_json())


Handler = Callable[[Call], Awaitable[Answer | EventStream]]


def sse(data: bytes) -> bytes:
    """One event."""
    return b"data: " + data + b"\n\n"


@dataclass(frozen=True)
class Route:
    """Where a handler answers, and who may call it.

    Args:
        path: may end in ``/*``: any one name.
        query: parameters that it takes in its URL.
        body: what it takes. media: what it answers with; both as `sgrt.server.openapi` tells them.
    """

    method: str
    path: str
    handler: Handler
    access: Access = "key"
    body: type[msgspec.Struct] | None = None
    media: tuple[str, ...] = ("application/json",)
    query: tuple[str, ...] = ()


class App:
    """The ASGI application."""

    def __init__(self, service: Service, routes: list[Route]) -> None:
        self.service = service
        self._routes: dict[str, dict[str, Route]] = {}
        has_admins = service.config.admin_api_key is not None or not service.config.api_keys
        for route in routes:
            if route.access != "admin" or has_admins:
                self._routes.setdefault(route.path, {})[route.method] = route
        self._guard = Guard(service.config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            raise RuntimeError(f"sgrt serves HTTP, not {scope['type']}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"))
        exchange = _Exchange(send, request_id, self._guard.cors_headers(headers))
        began = time.perf_counter()
        try:
            await self._answer(scope, headers, receive, exchange)
        except ClientLeft:
            exchange.status = 499
        except Exception as error:
            await exchange.fail(_told(error))
        finally:
            seconds = time.perf_counter() - began
            method, path = exchange.route
            self.service.metrics.answered(method, path, exchange.status, seconds)
            _log_request(scope, exchange, seconds)

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, exchange: _Exchange
    ) -> None:
        self._guard.check_host(headers)
        if scope["method"] == "OPTIONS" and exchange.cors:
            await exchange.answer(Answer(b"", 204))
            return
        self._guard.check_origin(headers)
        route = self._route(scope)
        exchange.route = route.method, route.path
        caller = self._guard.check_key(route.access, headers)
        CALLER.set(caller)
        query: Mapping[str, str] = {}
        if route.access != "open":  # probes may add what they like to theirs
            query = _query(scope.get("query_string", b""), route.query)
        call = Call(
            self.service,
            exchange.request_id,
            namespace="" if self.service.config.shared_prefix_cache else caller.name,
            path=scope["path"],
            headers=headers,
            query=query,
        )
        if scope["method"] == "POST":
            self._guard.check_content_type(headers)
            call.raw = await self._guard.read_body(headers, receive)
        await _while_connected(_respond(route, call, exchange), receive)

    def _route(self, scope: Scope) -> Route:
        path = scope["path"]
        methods = self._routes.get(path) or self._routes.get(path.rpartition("/")[0] + "/*")
        if methods is None:
            raise ApiError(404, f"there is no {scope['path']!r:.200} here", code="not_found")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method not in methods:
            allowed = ", ".join(methods)
            raise ApiError(
                405, f"use {allowed}", code="method_not_allowed", headers={"allow": allowed}
            )
        return methods[method]


async def _respond(route: Route, call: Call, exchange: _Exchange) -> None:
    answer = await route.handler(call)
    if isinstance(answer, Answer):
        await exchange.answer(answer)
    else:
        await exchange.stream(answer)


# ---------------------------------------------------------------- one exchange


class ClientLeft(Exception):
    """Nobody reads the answer any more."""


async def _while_connected(work: Any, receive: Receive) -> None:
    """Run work until it ends or the client leaves; then it is cancelled."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        await task
    finally:
        left.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Exchange:
    """The sending side of one request."""

    def __init__(self, send: Send, request_id: str, cors: dict[str, str]) -> None:
        self.request_id = request_id
        self.cors = cors
        self.status = 0
        self.route = "other", "other"  # as the table has them: method, path
        self._send = send
        self._stream: EventStream | None = None

    async def answer(self, answer: Answer) -> None:
        body = answer.body()
        headers = {**answer.headers, "content-length": str(len(body))}
        if body:
            headers["content-type"] = answer.media
        await self._start(answer.status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, stream: EventStream) -> None:
        self._stream = stream
        events = aiter(stream.events)
        try:
            first = await anext(events, None)  # an error before the first event has a status
            await self._start(
                200, {"content-type": "text/event-stream", "cache-control": "no-cache"}
            )
            if first is not None:
                await self._body(first)
            send = self._send
            async for frame in events:  # once per token: a microsecond matters here
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await self._send({"type": "http.response.body", "body": stream.done})
        finally:
            close = getattr(stream.events, "aclose", None)
            if close is not None:
                await close()

    async def fail(self, error: ApiError) -> None:
        if self.status == 0:
            await self.answer(Answer(error.as_json(), error.status, headers=dict(error.headers)))
        elif self._stream is not None:
            await self._body(self._stream.error_frame(error))
            await self._send({"type": "http.response.body", "body": self._stream.done})

    async def _body(self, frame: bytes) -> None:
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        raw += [(k.encode("latin-1"), v.encode("latin-1")) for k, v in self.cors.items()]
        raw.append((b"x-request-id", self.request_id.encode("latin-1")))
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


def _told(error: Exception) -> ApiError:
    """The answer to an error; what nobody foresaw is logged and not shown."""
    told = from_error(error)
    if told.status >= 500 and told.code == "internal_error":
        log.error("a request failed", exc_info=error)
    return told


def _query(query: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """Parameters in the URL; most routes take none."""
    found: dict[str, str] = {}
    for pair in query.split(b"&") if query else ():
        name, _, value = (unquote_plus(part.decode("latin-1")) for part in pair.partition(b"="))
        if name not in known:
            message = f"unknown parameter {name!r:.80} in the URL"
            raise bad_request(message, name[:80], "unknown_field")
        if name in found:
            raise bad_request(f"the parameter {name!r:.80} in the URL is given twice", name)
        found[name] = value
    return found


def _log_request(scope: Scope, exchange: _Exchange, seconds: float) -> None:
    log.info(
        "%s %s %d %.1f ms",
        scope["method"],
        _printable(scope["path"]),
        exchange.status,
        seconds * 1e3,
        extra={
            "request_id": exchange.request_id,
            "method": scope["method"],
            "path": _printable(scope["path"]),
            "status": exchange.status,
            "seconds": round(seconds, 6),
        },
    )


def _printable(path: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in path[:200])


def _request_id(given: bytes | None) -> str:
    if given is not None:
        text = given.decode("latin-1")
        if _REQUEST_ID.fullmatch(text):
            return text
    return uuid.uuid4().hex


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


# ---------------------------------------------------------------- who may do what


class Guard:
    """Keys, hosts, origins and sizes."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._keys = [_digest(key.encode()) for key in config.api_keys]
        admin = config.admin_api_key
        self._admin = None if admin is None else _digest(admin.encode())
        on_loopback = config.host in (*_LOOPBACK, "")
        names = {*_LOOPBACK, *config.allowed_hosts}
        self._hosts = names if on_loopback and "*" not in names else None

    def check_host(self, headers: dict[bytes, bytes]) -> None:
        """On loopback, refuse names that a web page could have pointed here."""
        name = _host_name(headers.get(b"host", b"").decode("latin-1").lower())
        if self._hosts is not None and name and name not in self._hosts:
            raise ApiError(
                403, f"the host {name!r:.80} is not served here", code="host_not_allowed"
            )

    def check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Refuse pages of other sites: a browser sends what they post even if they cannot read
        the answer."""
        origin = headers.get(b"origin")
        if origin is None or self._allows(origin.decode("latin-1")):
            return
        if origin.partition(b"://")[2].lower() != headers.get(b"host", b"").lower():
            raise ApiError(
                403,
                f"pages of {origin.decode('latin-1')!r:.80} may not call; see --cors-origin",
                code="origin_not_allowed",
            )

    def check_key(self, access: Access, headers: dict[bytes, bytes]) -> Caller:
        """Who calls, by the key that they hold.

        Raises:
            ApiError: 401 where the route needs a key and this is none.
        """
        if access == "open":
            return Caller()
        given = _digest(_given_key(headers))
        is_admin = self._admin is not None and hmac.compare_digest(given, self._admin)
        known = [hmac.compare_digest(given, key) for key in self._keys]  # all: constant time
        if access == "admin" and self._admin is not None:
            allowed = is_admin
        else:
            allowed = is_admin or any(known) or not self._keys
        if not allowed:
            raise _unauthorized()
        if not self._keys and not is_admin:
            return Caller(is_admin=self._admin is None)
        return Caller(given.hex()[:32], is_admin)

    def check_content_type(self, headers: dict[bytes, bytes]) -> None:
        """A web page can send forms anywhere, JSON only where it is allowed."""
        media, _, options = headers.get(b"content-type", b"").lower().partition(b";")
        charset = _CHARSET.search(options)
        if media.strip() not in (b"", b"application/json"):
            raise _unsupported_media("send content-type: application/json")
        if charset is not None and charset[1] not in (b"utf-8", b"utf8"):
            raise _unsupported_media("send JSON in UTF-8")
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
            raise _unsupported_media("send the body as it is, without content-encoding")

    async def read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, within its limits of size and time."""
        limit = self._config.max_body_bytes
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._config.receive_timeout_s):
                return await _collect(receive, limit)
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", code="request_timeout") from None

    def cors_headers(self, headers: dict[bytes, bytes]) -> dict[str, str]:
        """Headers that let a page of an allowed origin read the answer."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or not self._allows(origin):
            return {}
        allowed = {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": "x-request-id, retry-after",
            "vary": "origin",
        }
        asked = headers.get(b"access-control-request-headers")
        if asked is not None and _HEADER_NAMES.fullmatch(asked):
            allowed["access-control-allow-headers"] = asked.decode("latin-1")
            allowed["access-control-allow-methods"] = "GET, POST, DELETE, OPTIONS"
            allowed["access-control-max-age"] = "600"
        return allowed

    def _allows(self, origin: str) -> bool:
        return "*" in self._config.cors_origins or origin in self._config.cors_origins


async def _collect(receive: Receive, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)


_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_, -]{1,2000}")


def _host_name(host: str) -> str:
    """Without the port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host


def _given_key(headers: dict[bytes, bytes]) -> bytes:
    authorization = headers.get(b"authorization", b"")
    scheme, _, key = authorization.partition(b" ")
    if scheme.lower() == b"bearer" and key.strip():
        return key.strip()
    return headers.get(b"x-api-key", b"").strip()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _unauthorized() -> ApiError:
    return ApiError(
        401,
        "a valid API key is required (Authorization: Bearer ... or x-api-key)",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


_CHARSET = re.compile(rb"charset\s*=\s*\"?([^\s;\"]*)")


def _unsupported_media(message: str) -> ApiError:
    headers = {"accept-encoding": "identity"}
    return ApiError(415, message, code="unsupported_media_type", headers=headers)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, f"the body is longer than the limit of {limit} bytes", code="body_too_large"
    )


__all__ = ["Answer", "App", "Call", "EventStream", "Route", "bad_request", "sse"]
