"""Bytes that are no request, requests that never arrive, and the end of the process."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from sgrt.server.connection import MAX_HEAD_BYTES, MAX_HEADERS
from tests.server.support import (
    BODIES,
    Server,
    error_of,
    read_all,
    request_bytes,
    serving,
    wait_until,
)

GOOD = request_bytes("/tokenize", {"prompt": "a"}, "connection: close")


def refused(server: Server, data: bytes, status: int) -> dict[str, object]:
    """The error that bytes are answered with, before the connection is closed."""
    head, _, body = server.raw(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"content-type: application/json" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9" + b"9" * 30 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nauthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request_are_refused(server: Server, data: bytes) -> None:
    refused(server, data, 400)


def test_headers_that_are_too_large_are_refused(server: Server) -> None:
    long = b"x" * MAX_HEAD_BYTES
    many = b"".join(b"x%d: 1\r\n" % i for i in range(MAX_HEADERS + 1))
    for head in (
        b"GET /" + long + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + long + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + many + b"\r\n",
    ):
        assert refused(server, head, 431)["code"] == "headers_too_large"


def test_header_without_an_end_is_cut_off(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nx: ")
        sent = 0
        try:
            while sent < 50 << 20:
                sent += sock.send(b"x" * 65536)
        except OSError:
            pass
    assert sent < 20 << 20


def test_request_in_any_pieces_is_the_same_request(server: Server) -> None:
    for size in (1, 7, 64):
        with server.connect() as sock:
            for at in range(0, len(GOOD), size):
                sock.sendall(GOOD[at : at + size])
            assert read_all(sock).startswith(b"HTTP/1.1 200 ")


def test_requests_sent_together_are_answered_in_order(server: Server) -> None:
    first = request_bytes("/tokenize", {"prompt": "a"})
    second = request_bytes("/v1/completions", BODIES["/v1/completions"])
    answer = server.raw(first + second + GOOD)
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert b"text_completion" in answer


def test_upgrade_is_ignored(server: Server) -> None:
    upgrade = "connection: close, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13"
    get = f"GET /health HTTP/1.1\r\nhost: localhost\r\n{upgrade}\r\n\r\n".encode()
    assert server.raw(get).startswith(b"HTTP/1.1 200 ")


def test_chunked_body_is_read_and_limited(server: Server) -> None:
    head = (
        b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    body = b'{"prompt":"a"}'
    whole = head + b"".join(b"1\r\n%c\r\n" % c for c in body) + b"0\r\n\r\n"
    assert server.raw(whole).startswith(b"HTTP/1.1 200 ")
    large = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    assert server.raw(head + large * 2 + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_mutated_requests_never_harm_the_server(server: Server) -> None:
    chance = random.Random(3)
    for _ in range(60):
        data = bytearray(request_bytes("/tokenize", {"prompt": "abc"}, "connection: close"))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        with server.connect() as sock:
            sock.sendall(data)
            sock.shutdown(1)
            answer = read_all(sock)
        assert not answer.startswith(b"HTTP/1.1 5"), bytes(data)
    assert server.http.get("/health").status_code == 200


def test_client_that_is_too_slow_is_told_and_dropped() -> None:
    with serving(receive_timeout_s=0.3) as server:
        began = time.monotonic()
        assert server.raw(b"") == b""
        assert server.raw(b"\r\n") == b""
        assert refused(server, b"GET / HTTP/1.1\r\nx:", 408)["code"] == "request_timeout"
        slow = request_bytes("/tokenize", {"prompt": "a"})[:-1]
        assert refused(server, slow, 408)["code"] == "request_timeout"
        early = request_bytes("/nowhere", {"prompt": "a"})[:-1]  # answered before it is whole
        assert server.raw(early).startswith(b"HTTP/1.1 404 ")
        with server.connect() as sock:  # a byte now and then does not help
            try:
                for byte in b"GET / HTTP/1.1\r\nx: " + b"x" * 200:
                    sock.sendall(bytes([byte]))
                    time.sleep(0.01)
                pytest.fail("a slow header was waited for")
            except OSError:
                pass
        assert time.monotonic() - began < 8
        server.quiet()


def test_late_loading_is_told() -> None:
    with serving(attached=False) as server:
        assert server.http.get("/health").status_code == 200
        for path in ("/ready", "/v1/models"):
            answer = server.http.get(path)
            assert error_of(answer, 503)["code"] == "loading"
            assert answer.headers["retry-after"]
        for path in BODIES:
            if path != "/abort_request":
                error_of(server.post(path), 503)


def test_draining_server_ends_what_runs_and_takes_nothing_new() -> None:
    with serving(drain_timeout_s=30) as server:
        server.hold(20)
        body = {"prompt": "a", "max_tokens": 60, "ignore_eos": True, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.uvicorn._draining = None
            loop = server.uvicorn.servers[0].get_loop()
            loop.call_soon_threadsafe(server.uvicorn._on_signal)
            wait_until(lambda: server.service.is_draining)
            assert error_of(server.http.get("/ready"), 503)["code"] == "draining"
            refusal = server.post("/v1/completions")
            assert error_of(refusal, 503)["code"] == "draining"
            assert refusal.headers["retry-after"]
            server.release()
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]


SERVE = """
    import sys
    sys.path[:0] = {path!r}
    from sgrt.config import EngineConfig, ServerConfig
    from sgrt.runtime import assemble
    from sgrt.server import run
    from tests.server.support import parts
    import time

    def load(config):
        made = parts()
        made.runner.on_forward = lambda _: time.sleep(0.01)
        return made

    assemble.load_parts = load
    sys.exit(run.serve(EngineConfig(), ServerConfig(port=0, drain_timeout_s={drain})))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("drain", "reason"), [(10, "length"), (0.2, "cancelled")])
def test_process_that_is_told_to_end_ends_its_streams(drain: float, reason: str) -> None:
    code = textwrap.dedent(SERVE).format(path=[p for p in sys.path if p], drain=drain)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert process.stderr is not None
        url = ""
        for line in process.stderr:
            if "listening on " in line:
                url = line.rpartition("listening on ")[2].split()[0]
            if "ready: " in line:
                break
        body = {"prompt": "a", "max_tokens": 100, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert reason in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
