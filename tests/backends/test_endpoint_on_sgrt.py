"""Programs on `sgrt serve` are the programs of the embedded engine: same words, same draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import sgrt
from sgrt.backends.sglang import RuntimeEndpoint
from sgrt.core import (
    AnyText,
    Choices,
    Ebnf,
    Generate,
    JsonSchema,
    Lark,
    Regex,
    SamplingParams,
    Text,
    Usage,
)
from sgrt.errors import BackendError, ConstraintError, SgrtError
from tests.server.support import Server, error_of, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(engine={"context_len": 512}) as server:
        yield server


@pytest.fixture
def endpoint(server: Server) -> Iterator[RuntimeEndpoint]:
    with RuntimeEndpoint(server.url) as endpoint:
        yield endpoint


@sgrt.function
def program(s, n):  # type: ignore[no-untyped-def]
    s += sgrt.user("begin") + sgrt.assistant(sgrt.gen("a", max_tokens=n))
    s += sgrt.gen("b", max_tokens=n, seed=(1 << 64) - 1) + "x" + sgrt.gen("many", n=3, max_tokens=n)
    s += sgrt.select("c", ["one", "two", "three"], temperature=1)
    forks = s.fork(2)
    forks += lambda i: f"{i}" + sgrt.gen("d", max_tokens=n)
    forks.join()
    with s.copy() as copied:
        copied += sgrt.gen("e", max_tokens=n)
        inner = copied.fork(2)
        inner += sgrt.gen("f", max_tokens=n, top_k=9, min_p=0.01, repetition_penalty=1.2)
        inner.join()
    s += "end" + sgrt.gen("g", max_tokens=n)


def told(state: Any, name: str) -> Any:
    """What the backend says of a variable, but for what it had cached."""
    results = state.result(name)
    many = results if isinstance(results, list) else [results]
    return [replace(r, usage=replace(r.usage, cached=0), end_id=None) for r in many]


@pytest.mark.parametrize("seed", [7, (1 << 64) - 3])
def test_seeded_program_draws_the_same_on_server_and_engine(
    server: Server, endpoint: RuntimeEndpoint, seed: int
) -> None:
    here = program.run(4, backend=server.engine, seed=seed)
    there = program.run(4, backend=endpoint, seed=seed)
    assert here.text() == there.text()
    names = here.variables()
    assert names == there.variables()
    assert {name: here[name] for name in names} == {name: there[name] for name in names}
    assert [told(here, name) for name in "abg"] == [told(there, name) for name in "abg"]
    assert here["d"][0] != here["d"][1]


@sgrt.function(history="rendered")
def rendered(s):  # type: ignore[no-untyped-def]
    for i in range(3):
        s += sgrt.user(str(i)) + sgrt.assistant(sgrt.gen(f"a{i}", max_tokens=6))


def test_conversation_that_is_rendered_anew_is_the_same_on_server_and_engine(
    server: Server, endpoint: RuntimeEndpoint
) -> None:
    here = rendered.run(backend=server.engine, seed=4)
    assert here.messages() == rendered.run(backend=endpoint, seed=4).messages()


KEPT = [
    Regex("[a-f]{3}( [0-9]+)?"),
    Choices(("red", "green.", "(blue|")),
    JsonSchema('{"type":"array","items":{"type":"integer"},"minItems":2}', "fixed"),
    JsonSchema('{"type":"object","properties":{"a":{"enum":[1,2]}},"required":["a"]}', "flexible"),
    Lark('start: "a" WORD\nWORD: /[b-d]{1,3}/'),
    Ebnf('root ::= "x" [yz]{2,4}', "xgrammar"),
    Ebnf('root ::= "x" [yz]+ "!"'),
    "Answer: " + (Regex(r"\d{1,3}") | "none"),
    AnyText(until=".", max_chars=9),
    Regex("[ab]").repeat(2, 4, separator=", "),
]


@pytest.mark.parametrize("constraint", KEPT, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("finish", ["cut", "close"])
def test_every_constraint_and_ending_is_the_same_on_server_and_engine(
    server: Server, endpoint: RuntimeEndpoint, constraint: Any, finish: Any
) -> None:
    assert server.engine is not None
    params = SamplingParams(max_tokens=11, finish=finish, seed=3, logprobs=2)
    item = Generate(params=params, constraint=constraint)
    found = []
    for backend in (server.engine, endpoint):
        (handle,) = backend.open().generate([Text("go: "), item])
        result = handle.result(30)
        found.append(replace(result, usage=replace(result.usage, cached=0), end_id=None))
    assert found[0] == found[1]
    assert finish == "cut" or found[0].is_complete


def test_pattern_that_stops_and_unmasked_logprobs_are_those_of_the_engine(
    server: Server, endpoint: RuntimeEndpoint
) -> None:
    assert server.engine is not None
    params = SamplingParams(max_tokens=40, seed=5, logprobs=3, logprobs_mode="unmasked")
    items = [
        Generate(params=params, stop_regex=("[a-m]", "[0-9]")),
        Generate(params=params, constraint=Regex("[a-z]{4}")),
    ]
    found = []
    for backend in (server.engine, endpoint):
        results = [handle.result(30) for handle in backend.open().generate([Text("x"), *items])]
        found.append([replace(r, usage=Usage(), end_id=None) for r in results])
    assert found[0] == found[1]
    assert isinstance(found[0][0].stop_match, str)
    drawn, masked = found[0][1].logprobs, replace(params, logprobs_mode="masked")
    (handle,) = server.engine.open().generate(
        [Text("x" + found[0][0].text), Generate(params=masked, constraint=Regex("[a-z]{4}"))]
    )
    assert drawn != handle.result(30).logprobs


def test_what_the_server_refuses_is_an_error_of_the_reader(endpoint: RuntimeEndpoint) -> None:
    endpoint.compile(Lark("sql_select"))

    @sgrt.function
    def program(s):  # type: ignore[no-untyped-def]
        s += "x" + sgrt.gen("a", grammar="start: missing")

    state = program.run(backend=endpoint)
    with pytest.raises(SgrtError, match=r"missing") as caught:
        _ = state["a"]
    assert isinstance(caught.value.__cause__, (BackendError, ConstraintError))


@pytest.mark.parametrize(
    ("own", "at"),
    [
        ({"constraint": {"is": "Regex"}}, "sampling_params.sgrt.constraint"),
        ({"constraint": "abc"}, "sampling_params.sgrt.constraint"),
        ({"constraint": {"is": "Regex", "pattern": "("}}, "sampling_params.sgrt.constraint"),
        ({"finish": "soon"}, "sampling_params.sgrt.finish"),
        ({"logprobs_mode": 3}, "sampling_params.sgrt.logprobs_mode"),
        ({"constrain": None}, "sampling_params.sgrt.constrain"),
    ],
)
def test_own_words_that_say_nothing_are_refused_with_their_place(
    server: Server, own: Any, at: str
) -> None:
    body = {"text": "a", "sampling_params": {"max_new_tokens": 2, "sgrt": own}}
    assert error_of(server.post("/generate", body))["param"] == at


def test_own_constraint_beside_another_is_refused(server: Server) -> None:
    own = {"constraint": {"is": "Regex", "pattern": "a"}}
    body = {"text": "a", "sampling_params": {"regex": "a", "sgrt": own}}
    assert "one constraint" in error_of(server.post("/generate", body))["message"]
