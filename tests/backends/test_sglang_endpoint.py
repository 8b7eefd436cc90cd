"""Programs on a server that speaks SGLang's protocol."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sgrt
from sgrt.backends.sglang import RuntimeEndpoint
from sgrt.backends.sglang_words import Answer, constraint_fields
from sgrt.core import (
    Choices,
    Ebnf,
    Generate,
    Lark,
    Regex,
    SamplingParams,
    StructuralTag,
    Substring,
    Text,
)
from sgrt.errors import (
    BackendError,
    Cancelled,
    ConstraintError,
    DeadlineExceeded,
    EngineClosed,
    RequestError,
)
from tests.backends.http_server import Asked, HttpServer, Reply, reply, sse
from tests.backends.sglang_server import BOS, Sglang, encode

Start = Callable[..., tuple[HttpServer, RuntimeEndpoint]]
SHORT = SamplingParams(max_tokens=20, temperature=0)


@pytest.fixture
def start() -> Iterator[Start]:
    """Servers and endpoints, closed in the end."""
    made: list[tuple[HttpServer, RuntimeEndpoint]] = []

    def run(handler: object, **options: object) -> tuple[HttpServer, RuntimeEndpoint]:
        server = HttpServer(handler)  # type: ignore[arg-type]
        endpoint = RuntimeEndpoint(server.url, **options)  # type: ignore[arg-type]
        made.append((server, endpoint))
        return server, endpoint

    yield run
    for server, endpoint in made:
        endpoint.close()
        server.close()


@sgrt.function
def two_gens(s, name):
    s += f"{name}: " + sgrt.gen("a", max_tokens=20, stop=".") + " then " + sgrt.gen("b")


@pytest.mark.parametrize("says", [False, True])
@pytest.mark.parametrize("incremental", [False, True])
def test_program_on_server_sends_back_the_tokens_that_were_generated(
    start: Start, incremental: bool, says: bool
) -> None:
    model = lambda text: "one. two" if "then" not in text else "héllo"  # noqa: E731
    server, endpoint = start(Sglang(model, incremental=incremental, says=says))
    state = two_gens.run(name="x", backend=endpoint)
    assert (state["a"], state["b"]) == ("one", "héllo")
    assert state.text() == "x: one then héllo"
    first, second = (body["input_ids"] for body in server.bodies("/generate"))
    assert first == [BOS, *encode("x: ")]
    assert second == [BOS, *encode("x: one then ")]
    assert "".join(state.text_iter("b")) == "héllo"
    assert state.usage().sampled == 4 + 7  # tokens of the stop string and of the end count


def test_generated_tokens_stay_where_text_alone_would_be_tokenized_otherwise(start: Start) -> None:
    server, endpoint = start(Sglang(lambda text: "ab"))
    session = endpoint.open()
    (handle,) = session.generate([Text("x"), Generate(params=SHORT)])
    assert handle.result(10).token_ids == tuple(encode("ab"))
    session.extend(Text("cd"))
    assert session.token_ids() == [BOS, *encode("xabcd")]
    asked = [b["prompt"] for b in server.bodies("/tokenize") if not b["add_special_tokens"]]
    assert "ab" not in "".join(asked).replace("cd", "")


@pytest.mark.parametrize("kept", [[], [97], [97, 97], [97, 98, 97]])
def test_stop_whose_tokens_are_counted_but_not_told_repeats_nothing(kept: list[int]) -> None:
    answer = Answer(with_logprobs=False)
    told: list[dict[str, Any]] = [{"ids": kept[:end]} for end in range(1, len(kept) + 1)]
    for end, event in enumerate([*told, {"ids": kept, "finish": {"type": "stop", "matched": "."}}]):
        ids = event["ids"]
        meta = {"completion_tokens": end + 1, "finish_reason": event.get("finish")}
        answer.take({"text": bytes(ids).decode(), "output_ids": ids, "meta_info": meta})
    assert (answer.text, answer.ids) == (bytes(kept).decode(), kept)
    assert answer.ending() == ("stop", ".")


def test_end_that_is_counted_but_not_told_after_a_first_token_repeats_nothing() -> None:
    answer = Answer(with_logprobs=False)
    stop = {"type": "stop", "matched": None}
    for ids, num, finish in (([53], 1, None), ([53, 97], 3, stop)):
        meta = {"completion_tokens": num, "finish_reason": finish}
        answer.take({"text": bytes(ids).decode(), "output_ids": ids, "meta_info": meta})
    assert (answer.text, answer.ids) == ("5a", [53, 97])


def test_server_without_tokenize_is_sent_text_and_refuses_select(start: Start) -> None:
    server, endpoint = start(Sglang(lambda text: "one. two", tokenizes=False))
    state = two_gens.run(name="x", backend=endpoint, max_tokens=3)
    assert state.text() == "x: one then one"
    assert [b["text"] for b in server.bodies("/generate")] == ["x: ", "x: one then "]
    assert endpoint.token_exact is False
    handle = endpoint.open().score(["a"])
    with pytest.raises(RequestError, match="cannot honour select"):
        handle.result(10)


def test_select_reads_the_exact_sum_of_the_servers_logprobs(start: Start) -> None:
    _, endpoint = start(Sglang())
    session = endpoint.open()
    session.extend(Text("q"))
    options = [f"o{i}" for i in range(70)]
    scores = session.score(options, unconditional=True).result(10)
    assert scores.token_ids == tuple(tuple(encode(o)) for o in options)
    assert scores.token_logprobs[3] == tuple(-i / 100 for i in encode("o3"))
    assert scores.unconditional_logprobs == scores.token_logprobs
    assert scores.usage.prompt == 2

    @sgrt.function
    def pick(s):
        s += "q" + sgrt.select("x", ["b", "a", "aa"])

    assert pick.run(backend=endpoint)["x"] == "a"


def test_fork_on_server_shares_what_was_written_and_separates_what_follows(start: Start) -> None:
    server, endpoint = start(Sglang(lambda text: text[-1]))

    @sgrt.function
    def program(s):
        s += "base" + sgrt.gen("first", max_tokens=5)
        forks = s.fork(3)
        forks += lambda i: f" {i}" + sgrt.gen("x", max_tokens=1)
        forks.join()

    state = program.run(backend=endpoint)
    assert state["x"] == ["0", "1", "2"]
    prompts = sorted(bytes(b["input_ids"][1:]) for b in server.bodies("/generate")[1:])
    assert prompts == [b"basee 0", b"basee 1", b"basee 2"]


def test_roles_are_spelled_by_the_servers_own_template_with_one_bos(start: Start) -> None:
    server, endpoint = start(Sglang(lambda text: "fine"))

    @sgrt.function
    def chat(s):
        s += sgrt.user("Hi") + sgrt.assistant(sgrt.gen("a"))

    state = chat.run(backend=endpoint)
    assert state.text() == "<s><user>Hi</user><assistant>fine</assistant>"
    (body,) = server.bodies("/generate")
    assert body["input_ids"] == [BOS, *encode("<s><user>Hi</user><assistant>")]
    assert endpoint.name == "org/model"


def test_sampling_parameters_arrive_under_the_servers_names(start: Start) -> None:
    server, endpoint = start(Sglang(deterministic=True))
    params = SamplingParams(
        max_tokens=9, min_tokens=2, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, seed=7,
        stop=("x",), stop_token_ids=(5,), logit_bias={3: 1.5}, ignore_eos=True,
        repetition_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.3, logprobs=2,
    )  # fmt: skip
    (handle,) = endpoint.open(priority=4).generate([Text("q"), Generate(params=params)])
    result = handle.result(10)
    (body,) = server.bodies("/generate")
    assert body["sampling_params"] == {
        "max_new_tokens": 9, "min_new_tokens": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.9,
        "min_p": 0.1, "sampling_seed": 7, "stop": ["x"], "stop_token_ids": [5],
        "logit_bias": {"3": 1.5}, "ignore_eos": True, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.3,
    }  # fmt: skip
    assert body["priority"] == 4
    assert result.logprobs is not None
    assert [(p.token_id, p.logprob) for p in result.logprobs] == [(i, -0.5) for i in b"yes"]
    assert result.logprobs[0].top == ((ord("y"), -0.5), (65, -1.0))


def test_forks_and_their_gens_have_seeds_of_their_own_and_the_same_in_every_run(
    start: Start,
) -> None:
    server, endpoint = start(Sglang(deterministic=True))
    runs = []
    for _ in range(2):
        session = endpoint.open(seed=5)
        sessions = [*session.fork(2), *session.fork(1), session]
        for at in sessions:
            for handle in at.generate([Text("q"), Generate(), Text("r"), Generate()]):
                handle.result(10)
        bodies = server.bodies("/generate")[len(sessions) * 2 * len(runs) :]
        runs.append([body["sampling_params"]["sampling_seed"] for body in bodies])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 8


def test_seed_is_refused_where_the_server_would_ignore_it(start: Start) -> None:
    _, endpoint = start(Sglang())
    params = SamplingParams(seed=1)
    (handle,) = endpoint.open().generate([Text("q"), Generate(params=params)])
    with pytest.raises(RequestError, match="cannot honour seeds"):
        handle.result(10)


@pytest.mark.parametrize(
    ("constraint", "fields"),
    [
        (Regex("a+"), {"regex": "a+"}),
        (Choices(("a.b", "c|d\n")), {"regex": r"(?:a\.b)|(?:c\|d\n)"}),
        (Ebnf("root ::= [a]"), {"ebnf": "root ::= [a]"}),
    ],
)
def test_constraints_arrive_in_the_servers_words(
    start: Start, constraint: Regex | Choices | Ebnf, fields: dict[str, str]
) -> None:
    server, endpoint = start(Sglang(lambda text: "a" if "a+" in str(constraint) else "a.b"))
    (handle,) = endpoint.open().generate([Text("q"), Generate(params=SHORT, constraint=constraint)])
    assert handle.result(10).is_complete
    params = server.bodies("/generate")[0]["sampling_params"]
    assert fields.items() <= params.items()


def test_structural_tag_arrives_as_servers_take_it() -> None:
    told = {"structures": [{"begin": "<f>", "schema": {"type": "object"}, "end": "</f>"}]}
    tag = StructuralTag.from_dict({**told, "triggers": ["<f"]})
    assert '"triggers": ["<f"]' in constraint_fields(tag)["structural_tag"]


@pytest.mark.parametrize("constraint", [Lark('start: "a"'), Substring("abc")])
def test_constraint_without_a_word_in_the_protocol_is_refused_before_it_is_sent(
    start: Start, constraint: Lark | Substring
) -> None:
    server, endpoint = start(Sglang())
    with pytest.raises(ConstraintError, match=f"no word for {type(constraint).__name__}"):
        endpoint.compile(constraint)
    (handle,) = endpoint.open().generate([Generate(params=SHORT, constraint=constraint)])
    with pytest.raises(ConstraintError):
        handle.result(10)
    assert "/generate" not in server.paths()


def test_answer_that_breaks_its_constraint_is_an_error_not_a_value(start: Start) -> None:
    _, endpoint = start(Sglang(lambda text: "maybe"))

    @sgrt.function
    def program(s):
        s += "q" + sgrt.gen("x", grammar=Choices(("yes", "no")))

    with pytest.raises(sgrt.ProgramError, match="breaks Choices"):
        _ = program.run(backend=endpoint)["x"]


def test_text_cut_by_max_tokens_is_incomplete(start: Start) -> None:
    _, endpoint = start(Sglang(lambda text: "123456"))
    params = SamplingParams(max_tokens=2)
    cut = Generate(params=params, constraint=Regex("[0-9]{6}"))
    (handle,) = endpoint.open().generate([Text("q"), cut])
    result = handle.result(10)
    assert (result.text, result.finish_reason, result.is_complete) == ("12", "length", False)


def test_deadline_ends_the_request_and_tells_the_server(start: Start) -> None:
    handler = Sglang(lambda text: "a" * 50, pause_s=0.05)
    server, endpoint = start(handler)
    (handle,) = endpoint.open().generate([Text("q"), Generate(params=SHORT, deadline_s=0.2)])
    with pytest.raises(DeadlineExceeded):
        handle.result(10)
    wait_for(lambda: server.gone == 1 and len(handler.aborted) == 1)
    assert handler.aborted == [server.bodies("/generate")[0]["rid"]]


def test_cancel_closes_the_connection_and_fails_the_reader(start: Start) -> None:
    handler = Sglang(lambda text: "a" * 50, pause_s=0.05)
    server, endpoint = start(handler)
    (handle,) = endpoint.open().generate([Text("q"), Generate(params=SHORT)])
    assert next(handle.events()).text == "a"
    handle.cancel()
    with pytest.raises(Cancelled):
        handle.result(10)
    wait_for(lambda: server.gone == 1 and len(handler.aborted) == 1)


def test_abort_by_the_server_is_an_error_with_its_words(start: Start) -> None:
    finish = {"type": "abort", "message": "out of memory", "status_code": 503}
    gone = sse({"text": "", "output_ids": [], "meta_info": {"finish_reason": finish}})
    _, endpoint = start(answering(gone))
    (handle,) = endpoint.open().generate([Text("q"), Generate(params=SHORT)])
    with pytest.raises(BackendError, match="out of memory") as caught:
        handle.result(10)
    assert caught.value.status == 503


def answering(made: Reply) -> Callable[[Asked], Reply]:
    """A server whose ``/generate`` gives this."""
    usual = Sglang()
    return lambda asked: made if asked.path == "/generate" else usual(asked)


@pytest.mark.parametrize(
    "made",
    [
        sse("{no json"),
        sse([1]),
        sse({"text": 3, "meta_info": {}}),
        sse({"text": "a"}),
        sse({"text": "a", "output_ids": ["x"], "meta_info": {}}),
        sse({"text": "a", "output_ids": [1], "meta_info": {"finish_reason": {"type": "what"}}}),
        sse(),
        sse({"text": "a", "output_ids": [97], "meta_info": {"finish_reason": None}}, done=False),
        sse({"text": "a", "output_ids": [97], "meta_info": {}}, done=False, cut=True),
        sse({"error": {"message": "boom"}}),
        reply({"text": "no stream"}),
        reply({"error": {"message": "bad request"}}, 400),
        Reply(500),
    ],
)
def test_defective_answer_is_a_backend_error_and_ends_the_session(
    start: Start, made: Reply
) -> None:
    _, endpoint = start(answering(made))
    session = endpoint.open()
    (handle,) = session.generate([Text("q"), Generate(params=SHORT)])
    with pytest.raises(BackendError) as caught:
        handle.result(10)
    assert endpoint.client.url in str(caught.value) or "/generate" in str(caught.value)
    with pytest.raises(BackendError):
        session.token_ids()


@pytest.mark.parametrize("num", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_programs_in_flight_need_no_thread_each(start: Start, num: int) -> None:
    server, endpoint = start(Sglang(lambda text: "k", pause_s=0.3))
    before = threading.active_count()
    sessions = [endpoint.open() for _ in range(num)]
    handles = [s.generate([Text("q"), Generate(params=SHORT)])[0] for s in sessions]
    assert threading.active_count() <= before + 2
    assert {handle.result(30).text for handle in handles} == {"k"}
    assert server.most_in_flight > num / 2
    assert server.connections <= 1024


def test_model_of_the_server_is_told_by_both_names(start: Start) -> None:
    _, endpoint = start(Sglang())
    assert endpoint.model_info == endpoint.get_model_info()
    assert endpoint.model_info["model_path"] == endpoint.get_model_name() == "org/model"


def test_closed_endpoint_refuses_and_ends_what_runs(start: Start) -> None:
    _, endpoint = start(Sglang(lambda text: "a" * 50, pause_s=0.05))
    (handle,) = endpoint.open().generate([Text("q"), Generate(params=SHORT)])
    next(handle.events())
    endpoint.close()
    with pytest.raises(sgrt.SgrtError):
        handle.result(10)
    with pytest.raises(EngineClosed):
        endpoint.open()
    endpoint.close()


def test_server_that_is_not_there_is_named() -> None:
    endpoint = RuntimeEndpoint("http://127.0.0.1:9", retries=0)
    with pytest.raises(BackendError, match=r"127\.0\.0\.1:9 cannot be reached"):
        endpoint.get_server_info()
    endpoint.close()


def test_endpoint_refuses_what_it_would_ignore() -> None:
    with pytest.raises(RequestError, match="chat_template_name"):
        RuntimeEndpoint("http://x", chat_template_name="chatml")
    with pytest.raises(RequestError, match="url"):
        RuntimeEndpoint("localhost:30000")
    with pytest.raises(TypeError):
        RuntimeEndpoint("http://x", nonsense=1)  # type: ignore[call-arg]


async def test_program_on_server_streams_to_coroutines(start: Start) -> None:
    _, endpoint = start(Sglang(lambda text: "hello"))

    @sgrt.function
    def program(s):
        s += "q" + sgrt.gen("x")

    state = await asyncio.to_thread(program.run, backend=endpoint, stream=True)
    assert "".join([piece async for piece in state.text_async_iter("x")]) == "hello"


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)
