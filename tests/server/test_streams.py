"""Streams: what they say in all, how they end, and clients that leave."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from sgrt.errors import EngineError
from tests.runtime.accounting import on_loop
from tests.runtime.integer_model import oracle
from tests.server.support import (
    BODIES,
    STREAMS,
    Server,
    error_of,
    events_of,
    longer,
    num_ends,
    read_all,
    request_bytes,
    reset,
    serving,
    text_of,
    wait_until,
    whole_text,
)


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_stream_says_what_the_whole_answer_says(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    # letters only: a byte that is no text by itself would be shown late
    if path == "/generate":
        asked = {
            **body,
            "sampling_params": {
                **body["sampling_params"],
                "max_new_tokens": 24,
                "regex": "[a-z]{24}",
            },
        }
    elif path == "/v1/responses":
        asked = longer(path, body, 24)
    else:
        asked = {**body, "max_tokens": 24, "regex": "[a-z]{24}"}
    whole = server.http.post(path, json=asked)
    assert whole.status_code == 200, whole.text
    streamed = server.http.post(path, json={**asked, "stream": True})
    assert streamed.headers["content-type"] == "text/event-stream"
    events = events_of(streamed.text)
    assert text_of(path, events) == whole_text(path, whole.json())
    assert num_ends(path, events) == 1
    assert (events[-1] == "[DONE]") == (path != "/v1/responses")


def test_text_is_that_of_the_model(server: Server) -> None:
    params = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    answer = server.http.post("/generate", json={"text": "Once", "sampling_params": params})
    assert answer.json()["output_ids"] == oracle(list(b"Once"), 12, ignore_eos=True)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_comes_last_and_only_where_it_is_wanted(server: Server, path: str) -> None:
    body = longer(path, BODIES[path], 5, stream=True)
    without = events_of(server.http.post(path, json=body).text)
    assert all("usage" not in e or e["usage"] is None for e in without[:-1])
    options = {"stream_options": {"include_usage": True}}
    events = events_of(server.http.post(path, json={**body, **options}).text)
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_each_of_several_choices_ends_once(server: Server, path: str) -> None:
    body = longer(path, BODIES[path], 6, n=3, temperature=1, seed=5)
    whole = server.http.post(path, json=body).json()
    assert [c["index"] for c in whole["choices"]] == [0, 1, 2]
    events = events_of(server.http.post(path, json={**body, "stream": True}).text)
    ends = [c["index"] for e in events[:-1] for c in e["choices"] if c["finish_reason"]]
    assert sorted(ends) == [0, 1, 2]


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_failure_in_mid_stream_is_the_last_event(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    server.hold(20)
    asked = longer(path, body, 200, stream=True)
    with server.http.stream("POST", path, json=asked) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        first = next(lines)
        server.runner.fail_next = EngineError("the device is on fire")
        server.release()
        text = "\n".join([first, *lines]) + "\n"
    events = events_of(text if text.endswith("\n\n") else text + "\n")
    assert num_ends(path, events) == 1
    assert (events[-1] == "[DONE]") == (path != "/v1/responses")
    assert "fire" in text


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_failure_before_the_stream_has_a_status(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    name = "text" if path == "/generate" else "prompt" if path == "/v1/completions" else None
    value: Any = "x" * 500
    asked = {**body, "stream": True}
    if name:
        asked[name] = value
    elif path == "/v1/responses":
        asked["input"] = value
    else:
        asked["messages"] = [{"role": "user", "content": value}]
    error = error_of(server.http.post(path, json=asked))
    assert error["code"] == "context_length_exceeded"
    assert error["param"] is not None


def test_deadline_ends_the_request() -> None:
    with serving(request_timeout_s=0.4) as server:
        server.step_s = 0.01
        for path, body in STREAMS:
            asked = longer(path, body, 200)
            error = error_of(server.http.post(path, json=asked), 504)
            assert error["code"] == "deadline_exceeded"
            events = events_of(server.http.post(path, json={**asked, "stream": True}).text)
            assert num_ends(path, events) == 1
            assert "deadline" in json.dumps(events[-2:])
        server.quiet()


# ---------------------------------------------------------------- clients that leave


def close(sock: socket.socket) -> None:
    """Close with FIN."""
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def steps_until_free(server: Server) -> int:
    """Steps that the model makes before nothing runs any more."""
    before = server.runner.num_forwards
    assert server.engine is not None
    engine = server.engine
    wait_until(lambda: on_loop(engine, lambda loop: not loop._lives))
    return server.runner.num_forwards - before


@pytest.mark.parametrize("leave", [close, reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_frees_its_pages_within_two_steps(
    server: Server, leave: Callable[[socket.socket], None], stream: bool
) -> None:
    for path, body in STREAMS:
        last = server.runner.num_forwards + 3
        server.hold(2)
        sock = server.connect()
        sock.sendall(request_bytes(path, longer(path, body, 200, stream=stream)))
        wait_until(lambda last=last: server.runner.num_forwards == last)
        leave(sock)
        wait_until(lambda: server.service.num_running == 0)
        server.release()
        assert steps_until_free(server) <= 2, path


def test_client_that_leaves_at_any_byte_leaves_nothing_behind(server: Server) -> None:
    body = request_bytes(
        "/v1/completions", longer("/v1/completions", BODIES["/v1/completions"], 50)
    )
    for at in range(0, len(body) + 1, 9):
        sock = server.connect()
        sock.sendall(body[:at])
        (reset if at % 2 else close)(sock)
    stream = longer("/v1/chat/completions", BODIES["/v1/chat/completions"], 50, stream=True)
    for at in range(1, 2000, 200):
        sock = server.connect()
        sock.sendall(request_bytes("/v1/chat/completions", stream))
        received = 0
        while received < at and (piece := sock.recv(at - received)):
            received += len(piece)
        (reset if at % 400 == 1 else close)(sock)
    server.quiet()


def test_client_that_never_reads_is_dropped() -> None:
    with serving(send_timeout_s=0.3) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", server.port))
        megabyte = request_bytes("/tokenize", {"prompt": "a" * 300_000})
        connections = server.uvicorn.server_state.connections
        with suppress(ConnectionError):
            for _ in range(20):
                sock.sendall(megabyte)
        wait_until(lambda: not connections)
        server.quiet()


def test_queue_that_is_full_says_when_to_come_back() -> None:
    with serving(max_queued_requests=1, engine={"max_running": 1}) as server:
        server.hold()
        body = longer("/v1/completions", BODIES["/v1/completions"], 200)
        socks = [server.connect() for _ in range(2)]
        for sock in socks:
            sock.sendall(request_bytes("/v1/completions", body))
        wait_until(lambda: server.service.num_running == 2)
        for path in ("/v1/completions", "/v1/chat/completions", "/generate"):
            for stream in (False, True):
                answer = server.post(path, _stream=stream)
                assert error_of(answer, 429)["type"] == "rate_limit_error"
                assert int(answer.headers["retry-after"]) >= 1
        assert server.http.get("/health").status_code == 200
        for sock in socks:
            close(sock)
        server.release()
        server.quiet()
        assert server.post("/v1/completions").status_code == 200


def test_idle_server_uses_no_cpu(server: Server) -> None:
    server.post("/v1/completions")
    before = time.process_time()
    time.sleep(0.4)
    assert time.process_time() - before < 0.2


def test_tokens_of_other_streams_go_on_beside_a_hostile_grammar(server: Server) -> None:
    server.step_s = 0.005
    body = longer("/v1/completions", BODIES["/v1/completions"], 150, stream=True)
    hostile = {"regex": "(((a{1,90}b?){1,90}c?){1,90}d?){1,90}"}
    with server.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        with server.connect() as sock:
            sock.sendall(
                request_bytes(
                    "/v1/completions", {**BODIES["/v1/completions"], **hostile}, "connection: close"
                )
            )
            times = [time.monotonic() for line in lines if line]
            refused = read_all(sock)
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    assert gaps[-1] < 2, "a stream stood still while a grammar was compiled"
    assert refused.startswith(b"HTTP/1.1 ")
    assert not refused.startswith(b"HTTP/1.1 5")


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_helpers_stand_back_behind_the_model(server: Server) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    helpers = server.service._threads.submit(priority).result()
    assert priority() < helpers or helpers == 19
