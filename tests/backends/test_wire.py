"""HTTP: events, retries, and what is said about failures."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgrt.backends import wire
from sgrt.backends.wire import LOOP, Client, events
from sgrt.errors import BackendError, RequestError
from tests.backends.http_server import Asked, HttpServer, Reply, reply, sse

Make = Callable[..., tuple[HttpServer, Client]]


async def _read(chunks: list[bytes]) -> list[str]:
    async def source() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [data async for data in events(source())]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 200)),
)
def test_events_are_the_same_however_their_bytes_are_cut(
    values: list[str], end: str, cuts: list[int]
) -> None:
    data = "".join(f": hm{end}id: 3{end}data: {value}{end}{end}" for value in values).encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunks = [data[a:b] for a, b in itertools.pairwise(places)]
    assert asyncio.run(_read(chunks)) == values


def test_event_of_several_data_lines_is_one_and_a_cut_event_is_none() -> None:
    assert asyncio.run(_read([b"data: a\ndata:b\n\ndata: never"])) == ["a\nb"]
    assert asyncio.run(_read([b"\n\n\n", b"data\n\n"])) == []


def test_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_EVENT_CHARS", 100)
    with pytest.raises(BackendError, match="over 100 characters"):
        asyncio.run(_read([b"data: " + b"x" * 60, b"x" * 60]))


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[tuple[HttpServer, Client]] = []

    def run(handler: Any, **options: Any) -> tuple[HttpServer, Client]:
        server = HttpServer(handler)
        given = {"headers": {}, "timeout_s": 5.0, "retries": 3, "max_connections": 4, **options}
        client = Client(server.url, **given)
        made.append((server, client))
        return server, client

    yield run
    for server, client in made:
        LOOP.wait(client.aclose())
        server.close()


def first(*replies: Reply) -> Callable[[Asked], Reply]:
    """Each in its turn; the last one from then on."""
    left = list(replies)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize("status", [429, 503])
def test_refused_request_is_sent_again_after_the_time_asked_for(make: Make, status: int) -> None:
    server, client = make(first(reply({}, status, retry_after="0.2"), reply({"ok": 1})))
    begin = time.monotonic()
    assert LOOP.wait(client.post("/x", {"a": 1})) == {"ok": 1}
    assert time.monotonic() - begin >= 0.2
    assert [asked.body for asked in server.asked] == [{"a": 1}] * 2


def test_refusals_without_end_are_an_error_with_status_and_words(make: Make) -> None:
    busy = lambda asked: reply({"error": {"message": "busy"}}, 429, retry_after="0")  # noqa: E731
    server, client = make(busy)
    with pytest.raises(BackendError, match="429: busy") as caught:
        LOOP.wait(client.post("/x", {}))
    assert (caught.value.status, caught.value.retryable) == (429, True)
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [400, 401, 404, 500, 502])
def test_request_that_may_have_had_an_effect_is_sent_once(make: Make, status: int) -> None:
    server, client = make(lambda asked: reply({"detail": "why"}, status))
    with pytest.raises(BackendError, match=f"{status}: why") as caught:
        LOOP.wait(client.post("/x", {}))
    assert caught.value.retryable is (status == 502)
    assert len(server.asked) == 1


def test_silent_server_is_given_up(make: Make) -> None:
    async def never(asked: Asked) -> Reply:
        await asyncio.sleep(30)
        return reply({})

    server, client = make(never, timeout_s=0.2)
    with pytest.raises(BackendError, match=r"silent for 0\.2 s"):
        LOOP.wait(client.get("/x"))
    assert len(server.asked) == 1


def test_connection_is_kept_and_bounded(make: Make) -> None:
    server, client = make(lambda asked: reply({}))

    async def many() -> None:
        await asyncio.gather(*(client.get("/x") for _ in range(40)))
        for _ in range(5):
            await client.get("/x")

    LOOP.wait(many())
    assert len(server.asked) == 45
    assert server.connections <= 4


def test_answer_that_is_no_json_is_shown(make: Make) -> None:
    _, client = make(lambda asked: sse("<html>"))
    with pytest.raises(BackendError, match=r"no JSON.*<html>"):
        LOOP.wait(client.get("/x"))


def test_text_that_is_not_unicode_is_refused_before_it_is_sent(make: Make) -> None:
    server, client = make(lambda asked: reply({}))
    with pytest.raises(RequestError, match="not Unicode"):
        LOOP.wait(client.post("/x", {"prompt": "\ud800"}))
    assert server.asked == []


def test_retry_after_may_be_a_date() -> None:
    assert wire._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert wire._seconds("soon") is None
    assert wire._seconds(None) is None


@pytest.mark.parametrize(
    ("url", "options"),
    [
        *[(url, {}) for url in (None, 5, "", "h:80", "http://h:99999", "http://h:p", "http://h:0")],
        *[("http://h", {name: "1"}) for name in ("timeout_s", "retries", "max_connections")],
        *[("http://h", {"timeout_s": 0}), ("http://h", {"retries": -1})],
        ("http://h", {"max_connections": 0}),
    ],
)
def test_client_of_what_is_no_server_is_refused_at_once_by_name(
    url: Any, options: dict[str, Any]
) -> None:
    given = {"headers": {}, "timeout_s": 5.0, "retries": 3, "max_connections": 4, **options}
    with pytest.raises(RequestError, match=f"{next(iter(options), 'url')}="):
        Client(url, **given)
