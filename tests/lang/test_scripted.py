"""The scripted backend is a backend: strict, ordered, and honest about what it was asked."""

import math
import time

import pytest

import sgrt
from sgrt.core import (
    Choices,
    Generate,
    JsonSchema,
    Regex,
    SamplingParams,
    Session,
    Text,
    wait_all,
)
from sgrt.errors import (
    BackendError,
    Cancelled,
    ConstraintError,
    DeadlineExceeded,
    EngineClosed,
    GrammarSyntaxError,
    RequestError,
)


def ask(session, constraint=None, deadline_s=None, **params):
    request = Generate(
        params=SamplingParams(**params), constraint=constraint, deadline_s=deadline_s
    )
    return session.generate([request])[0]


def opened(answers, seed=None, **options):
    return sgrt.ScriptedBackend(answers, **options).open(seed=seed)


def test_session_follows_the_protocol():
    session = opened(["b", "d"])
    assert isinstance(session, Session)
    session.extend(Text("a"))
    first, second = session.generate([Generate(), Text("c"), Generate()])
    assert (first.result().text, second.result().text) == ("b", "d")
    session.extend_ids(b"e")
    assert bytes(session.token_ids()) == b"abcde"
    assert session.usage().sampled == 2
    with pytest.raises(RequestError, match="256"):
        session.extend_ids([256])


@pytest.mark.parametrize("latency", [0, 0.005])
def test_work_is_done_in_order_and_forks_see_what_came_before(latency):
    session = opened(lambda p, c, q: f"<{p}>", latency=latency)
    session.extend(Text("a"))
    first = ask(session)
    left, right = session.fork(2)
    session.extend(Text("z"))
    left.extend(Text("l"))
    a, b, c = ask(left), ask(right), ask(session)
    wait_all([a, b, c], 5)
    assert first.result().text == "<a>"
    assert a.result().text == "<a<a>l>"
    assert b.result().text == "<a<a>>"
    assert c.result().text == "<a<a>z>"


def test_answers_by_key_take_the_one_that_stands_last():
    session = opened({"name": "Ada", "age": "36", "my name": "Bo"})
    for text, answer in (("name?", "Ada"), (" age?", "36"), (" my name?", "Bo")):
        session.extend(Text(text))
        assert ask(session).result().text == answer
    with pytest.raises(BackendError, match="no answer"):
        ask(opened({"x": "y"})).result()


def test_list_of_answers_that_is_used_up_is_an_error():
    session = opened(["a"])
    assert ask(session).result().text == "a"
    with pytest.raises(BackendError, match="1 answers, this is call 2"):
        ask(session).result()


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (Choices(("a", "b")), "a", "c"),
        (Regex("[0-9]+"), "12", "1x"),
        (JsonSchema("{}"), "[1]", "[1"),
    ],
)
def test_answer_must_satisfy_its_constraint(constraint, good, bad):
    assert ask(opened([good]), constraint).result().text == good
    with pytest.raises(ConstraintError):
        ask(opened([bad]), constraint).result()


def test_parameters_end_the_text_where_they_say():
    result = ask(opened(["abc.def!"]), stop=("!", ".")).result()
    assert (result.text, result.finish_reason, result.stop_match) == ("abc", "stop", ".")
    result = ask(opened(["abcdef"]), stop_token_ids=(ord("c"),)).result()
    assert (result.text, result.stop_match) == ("ab", ord("c"))
    result = ask(opened(["abcdef"]), max_tokens=4).result()
    assert (result.text, result.finish_reason, len(result.token_ids)) == ("abcd", "length", 4)
    with pytest.raises(BackendError, match="min_tokens is 9"):
        ask(opened(["abc"]), min_tokens=9).result()


def test_events_concatenate_to_the_result():
    handle = ask(opened(["grüße 🙂 " * 5]), max_tokens=1000, logprobs=0)
    events = list(handle.events())
    result = handle.result()
    assert "".join(event.text for event in events) == result.text
    assert tuple(i for event in events for i in event.token_ids) == result.token_ids
    assert len(result.logprobs) == len(result.token_ids)


@pytest.mark.parametrize("latency", [0, 0.005])
def test_error_fails_all_that_follows_forks_too(latency):
    session = opened([BackendError("broken"), "x"], latency=latency)
    first, second, scored = ask(session), ask(session), session.score(["a"])
    (child,) = session.fork(1)
    late = ask(child)
    for handle in (first, second, scored, late, ask(session)):
        with pytest.raises(BackendError, match="broken"):
            handle.result(5)
    with pytest.raises(BackendError):
        session.sync(5)


def test_close_cancels_and_closed_backend_refuses():
    session = opened(["a"], latency=30)
    handle = ask(session)
    session.close()
    session.close()
    with pytest.raises(Cancelled):
        handle.result(5)
    backend = sgrt.ScriptedBackend(["a"])
    session = backend.open()
    backend.close()
    with pytest.raises(EngineClosed):
        backend.open()
    with pytest.raises(EngineClosed):
        ask(session).result(5)


def test_cancelled_handle_ends_the_session():
    session = opened(["a"], latency=30)
    handle = ask(session)
    handle.cancel()
    with pytest.raises(Cancelled):
        handle.result(5)
    with pytest.raises(Cancelled):
        session.sync(5)


def test_deadline_ends_what_takes_longer():
    started = time.perf_counter()
    with pytest.raises(DeadlineExceeded):
        ask(opened(["a"], latency=30), deadline_s=0.02).result(5)
    assert time.perf_counter() - started < 5


def test_sessions_wait_side_by_side():
    backend = sgrt.ScriptedBackend(lambda p, c, q: "x", latency=0.1)
    started = time.perf_counter()
    wait_all([ask(backend.open()) for _ in range(100)], 10)
    assert 0.1 <= time.perf_counter() - started < 5  # one after the other takes 10


def test_seeded_sessions_derive_seeds_and_forks_split_them():
    def seeds(seed):
        session = opened(lambda p, c, q: str(q.seed), seed=seed)
        children = session.fork(2)
        handles = [ask(s) for s in (session, session, *children)]
        return [h.result().text for h in handles]

    assert seeds(1) == seeds(1)
    assert len({*seeds(1), *seeds(2)}) == 8
    assert set(seeds(None)) == {"None"}


def test_bad_constraints_are_refused_when_compiled():
    backend = sgrt.ScriptedBackend([])
    with pytest.raises(GrammarSyntaxError, match="column 2"):
        backend.compile(Regex("a("))
    with pytest.raises(GrammarSyntaxError):
        backend.compile(JsonSchema("{"))
    with pytest.raises(ConstraintError):
        backend.compile(Choices(()))
    backend.compile(Regex("a+"))


def test_calls_and_stats_tell_what_happened():
    backend = sgrt.ScriptedBackend(["ab", "y"])
    session = backend.open()
    session.extend(Text("q"))
    ask(session)
    session.score(["x", "y"]).result()
    kinds = [(call.kind, call.prompt, call.answer) for call in backend.calls]
    assert kinds == [("generate", "q", "ab"), ("score", "qab", "y")]
    assert backend.stats()["sampled"] == 2
    assert backend.stats()["prompt"] == 4


def test_unconditional_scores_are_those_without_the_text():
    by_text = opened([], scores=lambda text, option: -len(text) - len(option))
    by_text.extend(Text("four"))
    scored = by_text.score(["a", "bc"], unconditional=True).result()
    assert [sum(x) for x in scored.token_logprobs] == [-5, -6]
    assert [sum(x) for x in scored.unconditional_logprobs] == [-1, -2]
    known = opened(["b"]).score(["a", "b"], unconditional=True).result()
    assert known.unconditional_logprobs == ((math.log(0.5),),) * 2
    assert opened(["b"]).score(["a", "b"]).result().unconditional_logprobs is None


def test_score_of_nothing_or_after_its_deadline_is_an_error():
    with pytest.raises(RequestError, match="non-empty"):
        opened(["a"]).score(["a", ""]).result()
    with pytest.raises(DeadlineExceeded):
        opened(["a"], latency=30).score(["a"], deadline_s=0.02).result(5)


def test_one_string_is_no_script():
    with pytest.raises(TypeError, match="list"):
        sgrt.ScriptedBackend("abc")


@pytest.mark.parametrize("answers", [None, 5, "one", b"one", iter(["one"])])
def test_what_is_no_script_is_refused_when_the_backend_is_made(answers):
    with pytest.raises(TypeError, match="answers must be a list, a mapping or a function, not"):
        sgrt.ScriptedBackend(answers)


@pytest.mark.parametrize(
    "answers, why", [([5], "the script's answer 5 is no text"), ({}, "no answer")]
)
def test_answer_that_is_no_text_is_told_from_one_that_is_missing(answers, why):
    program = sgrt.function(lambda s: s.__iadd__(sgrt.gen("x")))
    with pytest.raises(sgrt.ProgramError, match=why):
        program.run(backend=sgrt.ScriptedBackend(answers))["x"]
