"""Requests of clients that mean harm, or that speak HTTP in ways of their own."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sgrt.server.connection import MAX_HEAD_BYTES
from tests.server.support import BODIES, CHAT, RESPONSE, Server, error_of, read_all, request_bytes

PATH = "/v1/chat/completions"
BODY = json.dumps(CHAT).encode()
CLOSE = "connection: close"


def _chunked(body: bytes, *headers: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "host: localhost", "content-type: application/json", CLOSE]
    coding = [] if any(h.startswith("transfer-encoding") for h in headers) else ["chunked"]
    lines += [*headers, *(f"transfer-encoding: {c}" for c in coding)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _chunks(*pieces: bytes, trailers: bytes = b"") -> bytes:
    each = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return each + b"0\r\n" + trailers + b"\r\n"


def _answer(server: Server, data: bytes) -> tuple[int, Any]:
    """Status and JSON of the only answer before the connection is closed."""
    head, _, body = server.raw(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), head
    assert b"HTTP/1.1" not in body
    return int(head[9:12]), json.loads(body)


# ---------------------------------------------------------------- how a body travels


@pytest.mark.parametrize(
    ("framed", "status"),
    [
        (b"fffffffffffffffffff\r\n", 400),
        (b"-1\r\nx\r\n", 400),
        (b"2\r\n{}}\r\n0\r\n\r\n", 400),
        (_chunks(BODY, trailers=b"content-length: 5\r\n"), 400),
        (_chunks(*(BODY[i : i + 1] for i in range(len(BODY)))), 200),
        (_chunks(BODY, trailers=b"a: 1\r\n"), 200),
    ],
)
def test_chunks_are_read_or_refused_with_an_answer(
    server: Server, framed: bytes, status: int
) -> None:
    assert _answer(server, _chunked(framed))[0] == status


@pytest.mark.parametrize(
    ("begin", "more"), [(b"1;", b"a"), (b"0\r\n", b"a: 1\r\n"), (b"0\r\na: ", b"b")]
)
def test_what_goes_on_without_a_body_is_cut_off(server: Server, begin: bytes, more: bytes) -> None:
    with server.connect() as sock, pytest.raises(ConnectionError):
        sock.sendall(_chunked(begin))
        for _ in range(1000):
            sock.sendall(more * (MAX_HEAD_BYTES // len(more)))


def test_trailers_do_not_pass_for_headers(server: Server) -> None:
    trailers = b"x-request-id: from-a-trailer\r\nhost: elsewhere\r\ncontent-type: text/plain\r\n"
    answer = server.raw(_chunked(_chunks(BODY, trailers=trailers)))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"from-a-trailer" not in answer


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity", "xchunked"])
def test_transfer_coding_besides_chunks_is_refused(server: Server, coding: str) -> None:
    status, answer = _answer(server, _chunked(_chunks(BODY), f"transfer-encoding: {coding}"))
    assert (status, answer["error"]["code"]) == (400, "bad_header")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "gzip"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": 'application/json; charset="UTF-16"'},
        {"content-type": "multipart/form-data; boundary=x"},
    ],
)
def test_body_in_another_form_is_refused_by_it(server: Server, headers: dict[str, str]) -> None:
    body = gzip.compress(BODY) if "content-encoding" in headers else BODY
    given = {"content-type": "application/json", **headers}
    error = error_of(server.http.post(PATH, content=body, headers=given), 415)
    assert error["code"] == "unsupported_media_type"


def test_plain_json_may_say_so_in_any_words(server: Server) -> None:
    for headers in (
        {"content-type": "Application/JSON; Charset=UTF-8"},
        {"content-type": 'application/json;charset="utf-8"', "content-encoding": "identity"},
    ):
        assert server.http.post(PATH, content=BODY, headers=headers).status_code == 200


# ---------------------------------------------------------------- other protocols

H2C = ("connection: Upgrade, HTTP2-Settings, close", "upgrade: h2c", "http2-settings: AAEAAEAA")
"""What Java's HTTP client says before every body."""
SOCKET = ("connection: Upgrade, close", "upgrade: websocket", "sec-websocket-version: 13")


@pytest.mark.parametrize("headers", [H2C, SOCKET])
def test_request_that_asks_to_upgrade_is_answered_as_if_it_did_not(
    server: Server, headers: tuple[str, ...]
) -> None:
    data = request_bytes(PATH, CHAT, *headers)
    for size in (len(data), 100, 7):
        with server.connect() as sock:
            for at in range(0, len(data), size):
                sock.sendall(data[at : at + size])
            answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"chat.completion"' in answer


def test_connection_goes_on_behind_a_request_that_asks_to_upgrade(server: Server) -> None:
    asking = [h.replace(", close", "") for h in H2C]
    several = request_bytes("/tokenize", {"prompt": "a"}, *asking, "x-empty:") * 50
    last = request_bytes("/tokenize", {"prompt": "a"}, CLOSE)
    assert server.raw(several + last).count(b"HTTP/1.1 200 ") == 51


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
)
def test_other_protocols_are_refused(server: Server, data: bytes) -> None:
    assert _answer(server, data)[0] == 400


# ---------------------------------------------------------------- any value anywhere

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"]}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RICH: dict[str, dict[str, Any]] = {
    PATH: {
        **CHAT,
        "messages": [
            {"role": "system", "content": "s", "name": "n"},
            {"role": "user", "content": [{"type": "text", "text": "t"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        "logit_bias": {"97": 1},
        "stop": ["x"],
        "stream_options": None,
        "metadata": {"a": "b"},
    },
    f"{PATH} ": {
        **CHAT,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "chat_template_kwargs": {"enable_thinking": False},
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "/v1/responses": {
        **RESPONSE,
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
        ],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
        "include": ["message.output_text.logprobs"],
        "reasoning": {"effort": None},
    },
    "/v1/decisions": {
        **BODIES["/v1/decisions"],
        "questions": [
            {"type": "choice", "instructions": "i", "choices": [{"value": "a"}, {"value": "b"}]},
            {"type": "score", "instructions": "i", "levels": [{"label": "a"}, {"label": "b"}]},
        ],
    },
    "/generate": {
        "text": "once",
        "sampling_params": {"max_new_tokens": 2, "regex": "[ab]", "stop": ["x"], "temperature": 0},
        "return_logprob": True,
    },
}
WRONG: list[Any] = [None, -1, "x", [], {}, [None]]


def _with_one_wrong(body: Any, wrong: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a body, each with one of its values replaced, and where."""
    for key, value in list(body.items() if isinstance(body, dict) else enumerate(body)):
        changed = copy.copy(body)
        changed[key] = wrong
        yield str(key), changed
        if isinstance(value, (dict, list)):
            for at, inner in _with_one_wrong(value, wrong):
                changed = copy.copy(body)
                changed[key] = inner
                yield f"{key}.{at}", changed


@pytest.mark.parametrize("path", RICH)
def test_any_value_in_any_place_is_taken_or_refused_by_its_place(server: Server, path: str) -> None:
    num_refused = 0
    for wrong in WRONG:
        for place, body in _with_one_wrong(RICH[path], wrong):
            answer = server.http.post(path.strip(), json=body)
            if answer.status_code == 200:
                continue
            assert answer.status_code in (400, 404), (place, wrong, answer.text)
            error = error_of(answer, answer.status_code)
            assert error["param"] is not None, (place, wrong, error)
            num_refused += 1
    assert num_refused > 20
