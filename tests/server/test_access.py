"""Who may call what, and how every route says no."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from sgrt.server import meta
from sgrt.server.app import ROUTES
from sgrt.server.http import Call
from tests.server.support import BODIES, Server, error_of, request_bytes, serving, wait_until

KEYED = [route for route in ROUTES if route.access == "key"]
ONE, TWO, ADMIN = "one-secret", "two-secret", "admin-secret"


@pytest.fixture(scope="module")
def keyed() -> Iterator[Server]:
    with serving(api_keys=(ONE, TWO), admin_api_key=ADMIN) as server:
        yield server


def call(server: Server, route: Any, **headers: str) -> httpx.Response:
    path = route.path.replace("*", server.service.names[0])
    body = BODIES.get(path)
    return server.http.request(route.method, path, json=body, headers=headers)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_route_without_a_key_is_refused(keyed: Server) -> None:
    wrong: list[dict[str, str]] = [
        {},
        bearer("wrong"),
        bearer(ONE + "x"),
        bearer(ONE[:-1]),
        {"authorization": ONE},
        {"authorization": f"Basic {ONE}"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"authorization": "Bearer wrong", "x-api-key": ONE},
    ]
    for route in KEYED:
        error = error_of(call(keyed, route), 401)
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    for headers in wrong:
        answer = keyed.http.get("/v1/models", headers=headers)
        error_of(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_route_with_any_key_in_either_header_is_open(keyed: Server) -> None:
    for key in (ONE, TWO, ADMIN):
        for headers in (bearer(key), {"authorization": f"bearer  {key}"}, {"x-api-key": key}):
            assert keyed.http.get("/v1/models", headers=headers).status_code == 200
    for path in ("/health", "/ready", "/ping"):
        assert keyed.http.get(path).status_code == 200


def test_admin_route_is_open_to_the_admin_alone(keyed: Server) -> None:
    error_of(keyed.http.post("/flush_cache", headers=bearer(ONE)), 401)
    assert keyed.http.post("/flush_cache", headers=bearer(ADMIN)).status_code == 200


def test_admin_route_without_an_admin_key_is_absent_where_others_have_keys() -> None:
    with serving(api_keys=(ONE,)) as server:
        error_of(server.http.post("/flush_cache", headers=bearer(ONE)), 404)


def test_admin_route_is_open_where_there_are_no_keys(server: Server) -> None:
    assert server.http.post("/flush_cache").status_code == 200


def test_cached_prefixes_of_one_key_are_not_seen_by_another(keyed: Server) -> None:
    def cached(key: str) -> int:
        body = {"prompt": "a prefix that is longer than a few pages", "max_tokens": 1}
        answer = keyed.http.post("/v1/completions", json=body, headers=bearer(key)).json()
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [cached(ONE), cached(TWO)] == [0, 0]
    assert cached(ONE) == cached(TWO) > 0


def test_request_is_aborted_by_its_own_key_or_the_admin_alone(keyed: Server) -> None:
    body = {"prompt": "long", "max_tokens": 200, "ignore_eos": True, "stream": True}
    headers = {**bearer(ONE), "x-request-id": "mine"}

    def abort(key: str, **body: Any) -> int:
        answer = keyed.http.post("/abort_request", json=body, headers=bearer(key))
        return int(answer.json()["aborted"])

    for key in (ONE, ADMIN):
        keyed.hold(20)
        with keyed.http.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert abort(TWO, rid="mine") == abort(TWO, abort_all=True) == 0
            assert abort(ONE, rid="min") == 0
            assert abort(key, rid="mine") == 1
            keyed.release()
            last = [line for line in lines if line][-2:]
        assert json.loads(last[0][6:])["error"]["code"] == "cancelled"
        assert last[1] == "data: [DONE]"
    keyed.quiet()


# ---------------------------------------------------------------- no such thing


def test_path_that_is_none_is_not_found(server: Server) -> None:
    for path in ("/", "/v1", "/v1/chat/completions/", "/../etc/passwd", "/%00", "/v1/models/x/y"):
        assert error_of(server.http.get(path), 404)["code"] in ("not_found", "model_not_found")


def test_method_that_a_path_lacks_is_not_allowed(server: Server) -> None:
    known = {(route.method, route.path) for route in ROUTES}
    for route in ROUTES:
        path = route.path.replace("*", "x")
        for method in {"DELETE", "PUT", "PATCH"} - {m for m, p in known if p == route.path}:
            answer = server.http.request(method, path)
            assert error_of(answer, 405)["code"] == "method_not_allowed"
            assert route.method in answer.headers["allow"]


def test_head_is_get_without_a_body(server: Server) -> None:
    answer = server.http.head("/v1/models")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


def test_content_type_that_forms_have_is_refused(server: Server) -> None:
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = server.http.post("/tokenize", content=b"{}", headers={"content-type": media})
        assert error_of(answer, 415)["code"] == "unsupported_media_type"
    for media in ("application/json; charset=utf-8", "Application/JSON"):
        answer = server.http.post(
            "/tokenize", content=b'{"prompt":"a"}', headers={"content-type": media}
        )
        assert answer.status_code == 200


# ---------------------------------------------------------------- hosts and pages


def test_host_is_a_name_of_this_machine(server: Server) -> None:
    def status(host: str) -> int:
        return server.http.get("/health", headers={"host": host}).status_code

    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]", "[::1]:80", "127.0.0.1"):
        assert status(host) == 200, host
    for host in (
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil:80",
        "localhost:x",
    ):
        assert status(host) == 403, host
    answer = server.http.post("/v1/completions", json={}, headers={"host": "evil.example"})
    assert error_of(answer, 403)["code"] == "host_not_allowed"


def test_page_of_another_site_is_refused_before_anything_runs(server: Server) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        answer = server.post("/v1/completions", headers={"origin": origin})
        assert error_of(answer, 403)["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answer.headers
    same = {"origin": f"http://127.0.0.1:{server.port}"}
    assert server.post("/v1/completions", headers=same).status_code == 200


def test_page_of_an_allowed_origin_may_ask_and_read() -> None:
    page = "https://app.example"
    with serving(api_keys=(ONE,), cors_origins=(page,)) as server:
        asked = {
            "origin": page,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-lang",
        }
        answer = server.http.options("/v1/completions", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == page
        assert "x-stainless-lang" in answer.headers["access-control-allow-headers"]
        assert "POST" in answer.headers["access-control-allow-methods"]
        for headers in (bearer(ONE), {}):  # errors are readable too
            answer = server.post("/v1/completions", headers={"origin": page, **headers})
            assert answer.headers["access-control-allow-origin"] == page
        other = {**asked, "origin": "https://evil.example"}
        answer = server.http.options("/v1/completions", headers=other)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


# ---------------------------------------------------------------- ids


def test_request_id_of_the_client_comes_back(server: Server) -> None:
    answer = server.post("/v1/completions", headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.json()["id"] == "cmpl-abc-1"
    for bad in ("", "a b", "x" * 129, "a\tb"):
        answer = server.http.get("/health", headers={"x-request-id": bad})
        assert answer.headers["x-request-id"] not in (bad, "")


def test_request_id_cannot_add_headers(server: Server) -> None:
    for extra in ("x-request-id: a\rset-cookie: b", "x-request-id: \xe9"):
        raw = request_bytes("/tokenize", {"prompt": "a"}, extra, "connection: close")
        answer = server.raw(raw)
        assert b"set-cookie" not in answer.partition(b"\r\n\r\n")[0]


def test_abort_of_a_batch_reaches_every_prompt(server: Server) -> None:
    server.hold(20)
    params = {"max_new_tokens": 200, "ignore_eos": True}
    body = {"text": ["a", "b"], "rid": "both", "stream": True, "sampling_params": params}
    with server.http.stream("POST", "/generate", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        wait_until(lambda: len(server.service.follow) == 2)
        assert server.http.post("/abort_request", json={"rid": "both"}).json()["aborted"] == 2
        server.release()
        ends = [json.loads(line[6:]) for line in lines if line.startswith("data: {")][-2:]
    assert [e["meta_info"]["finish_reason"]["type"] for e in ends] == ["abort", "abort"]


def test_cache_is_flushed_as_other_servers_clients_ask_for_it(server: Server) -> None:
    for path in ("/flush_cache", "/flush_cache?timeout=60.0", "/reset_prefix_cache"):
        assert server.http.post(path).json()["success"] is True
    for query in ("timeout=x", "timeout=-1", "timeout=nan", "timeout=1&timeout=1", "time=1", "="):
        error_of(server.http.post(f"/flush_cache?{query}"))
    error_of(server.http.post("/reset_prefix_cache?timeout=1"))


def test_flush_with_a_timeout_waits_until_nothing_runs_and_no_longer() -> None:
    class Busy:
        """A service that runs something for the first looks at it."""

        def __init__(self, num_looks: int) -> None:
            self.looks = iter([1] * num_looks)
            self.engine = SimpleNamespace(flush_cache=lambda: next(self.looks, 0))

        @property
        def num_running(self) -> int:
            return next(self.looks, 0)

        async def aside(self, work: Callable[[], int]) -> int:
            return work()

    def flushed_while_running(num_looks: int, timeout: str) -> int:
        call = Call(cast("Any", Busy(num_looks)), "name", query={"timeout": timeout})
        answer = asyncio.run(meta.flush_cache(call))
        return int(answer.content["flushed_tokens"])

    assert flushed_while_running(3, "60") == 0
    assert flushed_while_running(1_000_000, "0.05") == 1
    assert flushed_while_running(1_000_000, "0") == 1
