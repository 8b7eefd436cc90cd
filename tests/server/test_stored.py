"""Responses that later requests refer to: kept for whoever asked, up to so many bytes."""

from __future__ import annotations

from typing import Any

import pytest

from sgrt.server.failures import ApiError
from sgrt.server.stored import ResponseStore
from tests.server.support import RESPONSE, Server, error_of, events_of, serving

PATH = "/v1/responses"
TOOL = {
    "type": "function",
    "name": "look_up",
    "parameters": {"type": "object", "properties": {"up": {"enum": ["a"]}}, "required": ["up"]},
}


def _created(server: Server, **fields: Any) -> dict[str, Any]:
    answer = server.http.post(PATH, json={**RESPONSE, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _next(server: Server, **fields: Any) -> tuple[int, str]:
    """Length of a prompt and the answer to it."""
    answer = _created(server, **fields)
    return answer["usage"]["input_tokens"], answer["output"][0]["content"][0]["text"]


def _assistant(response: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": response["output"][0]["content"][0]["text"]}


@pytest.mark.parametrize("stream", [False, True])
def test_previous_response_goes_before_the_input_with_what_went_before_it(
    server: Server, stream: bool
) -> None:
    body = {**RESPONSE, "input": "a", "instructions": "not carried on", "stream": stream}
    answer = server.http.post(PATH, json=body)
    first = events_of(answer.text)[-1]["response"] if stream else answer.json()
    assert first["store"] is True
    second = _created(
        server, input=[{"role": "user", "content": "b"}], previous_response_id=first["id"]
    )
    assert second["previous_response_id"] == first["id"]
    written = [
        {"role": "user", "content": "a"},
        _assistant(first),
        {"role": "user", "content": "b"},
        _assistant(second),
        {"role": "user", "content": "c"},
    ]
    chained = _next(server, input="c", previous_response_id=second["id"])
    assert chained == _next(server, input=written)


def test_items_are_known_by_their_ids(server: Server) -> None:
    first = _created(server)
    [message] = first["output"]
    user = {"role": "user", "content": "and?"}
    whole = _next(server, input=[message, user])
    for reference in ({"type": "item_reference", "id": message["id"]}, {"id": message["id"]}):
        assert _next(server, input=[reference, user]) == whole


def test_a_call_that_was_kept_takes_its_result() -> None:
    asked = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    with serving(engine={"context_len": 1024}) as server:
        first = _created(server, **asked, max_output_tokens=80)
        [call] = first["output"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "x"}
        referred = _next(server, input=[{"type": "item_reference", "id": call["id"]}, result])
        assert referred == _next(server, input=[call, result])
        user = {"role": "user", "content": RESPONSE["input"]}
        continued = _next(server, input=[result], previous_response_id=first["id"])
        assert continued == _next(server, input=[user, call, result])


def test_kept_response_is_shown_and_forgotten_on_demand(server: Server) -> None:
    first = _created(server)
    place = f"{PATH}/{first['id']}"
    assert server.http.get(place).json() == first
    told = server.http.delete(place).json()
    assert told == {"id": first["id"], "object": "response", "deleted": True}
    for method in ("GET", "DELETE"):
        assert error_of(server.http.request(method, place), 404)["code"] == "response_not_found"
    error = error_of(server.post(PATH, _previous_response_id=first["id"]))
    assert error["param"] == "previous_response_id"
    error = error_of(server.post(PATH, _input=[{"id": first["output"][0]["id"]}]), 404)
    assert error["param"] == "input[0].id"


def test_what_is_not_to_be_kept_is_not(server: Server) -> None:
    first = _created(server, store=False)
    assert first["store"] is False
    error_of(server.http.get(f"{PATH}/{first['id']}"), 404)


def test_failed_request_keeps_nothing(server: Server) -> None:
    name = {"x-request-id": "fails"}
    error_of(server.post(PATH, _temperature=-1, headers=name))
    error_of(server.http.get(f"{PATH}/resp_fails"), 404)


def test_nobody_sees_what_belongs_to_another_key() -> None:
    with serving(api_keys=("one", "two")) as server:
        one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
        first = server.post(PATH, headers=one).json()
        place, item = f"{PATH}/{first['id']}", first["output"][0]["id"]
        assert server.http.get(place, headers=one).status_code == 200
        error_of(server.http.get(place, headers=two), 404)
        error_of(server.http.delete(place, headers=two), 404)
        error_of(server.post(PATH, _previous_response_id=first["id"], headers=two))
        error_of(server.post(PATH, _input=[{"id": item}], headers=two), 404)
        assert server.http.get(place, headers=one).json() == first


def test_server_that_keeps_none_says_so() -> None:
    with serving(max_stored_bytes=0) as server:
        assert error_of(server.post(PATH, _store=True))["param"] == "store"
        first = _created(server)
        assert first["store"] is False
        error_of(server.http.get(f"{PATH}/{first['id']}"), 404)


# ---------------------------------------------------------------- the store itself


def _response(name: str, size: int) -> dict[str, Any]:
    return {"id": f"resp_{name}", "output": [{"id": f"msg_{name}_0", "text": "x" * size}]}


def _holds(store: ResponseStore, owner: str, name: str) -> bool:
    try:
        store.answer(owner, f"resp_{name}")
    except ApiError as error:
        assert error.status == 404
        return False
    return True


def test_store_that_is_full_gives_up_what_was_used_least_recently() -> None:
    store = ResponseStore(3_000)
    for name in "abc":
        store.keep("me", _response(name, 400), [])
    assert _holds(store, "me", "a")  # and is used by that
    store.keep("me", _response("d", 400), [])
    assert [name for name in "abcd" if _holds(store, "me", name)] == ["a", "c", "d"]


def test_store_that_is_full_takes_from_whoever_holds_most() -> None:
    store = ResponseStore(10_000)
    store.keep("small", _response("a", 400), [])
    for i in range(50):
        store.keep("large", _response(f"b{i}", 400), [])
    assert _holds(store, "small", "a")
    assert _holds(store, "large", "b49")
    assert not _holds(store, "large", "b0")


def test_response_larger_than_the_store_is_not_kept_and_its_name_may_come_again() -> None:
    store = ResponseStore(2_000)
    store.keep("me", _response("a", 100), [])
    store.keep("me", _response("b", 5_000), [])
    assert not _holds(store, "me", "b")
    for _ in range(100):
        store.keep("me", _response("c", 100), [])
    assert _holds(store, "me", "c")
    store.delete("me", "resp_c")
    assert not _holds(store, "me", "c")
