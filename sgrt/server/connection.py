"""One connection: uvicorn's protocol, with an end to everything that a client may leave undone."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sgrt.server.failures import ApiError

MAX_HEAD_BYTES = 64 << 10
"""Of a head, and of anything else in which no body moves on: extensions of chunks, trailers."""
MAX_HEADERS = 128
_UPGRADING = (b"upgrade", b"http2-settings")
_SINGLE = (b"host", b"content-length", b"content-type", b"authorization", b"x-api-key")
"""Headers whose meaning would depend on which of several is read."""


class Connection(HttpToolsProtocol):
    """Refuses long and ambiguous headers, and closes where a request does not arrive or an answer
    is not read.

    Attributes:
        receive_timeout_s: from the first byte of a request (or from connecting) to its last.
        send_timeout_s: how long a client may take nothing of an answer that waits for it.
    """

    receive_timeout_s = 15.0
    send_timeout_s = 60.0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.parser = _Parser(self)  # type: ignore[assignment]
        self._refusal: ApiError | None = None
        self._in_head = False
        self._asks_to_upgrade = False
        self._moves = False  # a message began, or its body went on
        self._num_still = 0  # bytes since anything moved
        self._arriving: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    # -- the request must arrive

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._moves = False
        super().data_received(data)
        self._num_still = 0 if self._moves else self._num_still + len(data)
        if self._num_still > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refusal = _headers_too_large()
            self.send_400_response("")
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            self._expect()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._moves = True
        self._asks_to_upgrade = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what trails a body must not pass for a header
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._moves = True
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._asks_to_upgrade = (
            self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        )
        if self._asks_to_upgrade:
            return  # the same comes once more, without the question
        names = [name for name, _ in self.headers]
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(names) > MAX_HEADERS:
            self._refuse(_headers_too_large())
        for name in _SINGLE:
            if names.count(name) > 1:
                twice = name.decode()
                self._refuse(ApiError(400, f"the header {twice} is given twice", code="bad_header"))
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                told = f"transfer-encoding {value.decode('latin-1')!r:.80}: only chunked is known"
                self._refuse(ApiError(400, told, code="bad_header"))
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._asks_to_upgrade:
            return
        self._arrived()
        super().on_message_complete()

    def head_without_upgrade(self) -> bytes:
        """The head of the request that came last, but for the question to go on in another
        protocol, which a server need not hear (Java's clients ask for HTTP/2 with every body)."""
        version = self.parser.get_http_version().encode("ascii")
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(t for t in tokens if t.lower() not in _UPGRADING)
            if name not in _UPGRADING:
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def _expect(self) -> None:
        if self._arriving is None:
            self._arriving = self.loop.call_later(self.receive_timeout_s, self._too_late)

    def _arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _too_late(self) -> None:
        self._arriving = None
        if self.transport.is_closing():
            return
        if self._is_answering and self.cycle.more_body:
            # the application's own limit on the body ends sooner; leave it a second to say so
            self._arriving = self.loop.call_later(1, self.transport.close)
        elif self._in_head:
            self._refusal = ApiError(
                408, "the request did not arrive in time", code="request_timeout"
            )
            self.send_400_response("")
        else:
            self.transport.close()

    # -- refused before there is a request

    def _refuse(self, error: ApiError) -> None:
        self._refusal = error
        raise ValueError(error.message)  # the parser stops and asks for `send_400_response`

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, in the form of all errors, and close."""
        error = self._refusal or ApiError(400, "this is not HTTP", code="invalid_request")
        self._arrived()
        if self._may_answer():
            body = error.as_json()
            head = b"content-type: application/json\r\nconnection: close\r\n"
            size = b"content-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + size + body)
        self.transport.close()

    def _may_answer(self) -> bool:
        """Whether the next answer is that of the request which is refused; takes it from whoever
        was reading the request."""
        if not self._is_answering:
            return True
        if self.pipeline or self.cycle.response_started or not self.cycle.more_body:
            return False
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return True

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # -- the answer must be read

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()


class _Parser:
    """httptools' parser, which would skip the body of a request that asks to upgrade."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._parser = _parser(connection)

    def feed_data(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                head = self._connection.head_without_upgrade()
                self._parser = _parser(self._connection)
                self._parser.feed_data(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


def _parser(connection: Connection) -> Any:
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
    return parser


def connection(receive_timeout_s: float, send_timeout_s: float) -> type[Connection]:
    """`Connection` with these limits."""
    limits = {"receive_timeout_s": receive_timeout_s, "send_timeout_s": send_timeout_s}
    return type("Connection", (Connection,), limits)


def _headers_too_large() -> ApiError:
    return ApiError(
        431,
        f"the headers are longer than {MAX_HEAD_BYTES} bytes or more than {MAX_HEADERS}",
        code="headers_too_large",
    )
