"""A recorded run, replayed without the model."""

import json

import pytest
from pydantic import BaseModel

import sgrt


class Fact(BaseModel):
    text: str


@sgrt.function
def program(s, topic, limit=40):
    s += sgrt.system("Be brief.")
    s += sgrt.user(f"About {topic}?")
    s += sgrt.assistant(sgrt.gen("a", max_tokens=limit, stop=".", logprobs=1))
    forks = s.fork(2)
    forks += sgrt.user("More.")
    forks += sgrt.assistant(sgrt.gen("b", output=Fact))
    forks.join()
    s += sgrt.user("Sure?") + sgrt.assistant(sgrt.select("c", ["yes", "no"]))
    return s["c"]


def backend():
    def answer(text, constraint, params):
        return '{"text":"x"}' if constraint else "First. Second."

    return sgrt.ScriptedBackend(answer, scores={"yes": -1.0, "no": -2.0})


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "run.json"
    with sgrt.record(path):
        for state in program.run_batch([{"topic": t} for t in "abc"], backend=backend()):
            assert state.error() is None
    return path


def test_replay_gives_the_same_run_without_the_backend(recording):
    expected = [program.run(topic=topic, backend=backend()) for topic in "abc"]
    with sgrt.replay(recording) as replayed:
        states = [program.run(topic=topic, backend=replayed) for topic in "cab"]
    for state, same in zip(states, [expected[2], *expected[:2]], strict=True):
        assert state.text() == same.text()
        assert state.messages() == same.messages()
        assert (state["a"], state["b"], state.value) == ("First", [Fact(text="x")] * 2, "yes")
        assert state.result("a") == same.result("a")
        assert state.probabilities("c") == same.probabilities("c")
        assert list(state.events("a")) == list(same.events("a"))
    assert replayed.name == "scripted"


def test_replay_shows_where_the_text_differs(recording):
    state = program.run(topic="d", backend=sgrt.replay(recording), stream=True)
    with pytest.raises(
        sgrt.ProgramError, match=r"at character \d+: recorded .*About a.*now .*About d"
    ):
        _ = state["a"]


def test_replay_shows_which_parameter_differs(recording):
    state = program.run(topic="a", limit=50, backend=sgrt.replay(recording), stream=True)
    with pytest.raises(sgrt.ProgramError, match=r"'max_tokens': 40.*asked .*'max_tokens': 50"):
        _ = state["a"]


def test_replay_answers_each_question_once_and_knows_what_is_left(recording):
    replayed = sgrt.replay(recording)
    with pytest.raises(sgrt.BackendError, match="recorded answers were not asked for"), replayed:
        program.run(topic="a", backend=replayed)
    state = program.run(topic="a", backend=replayed, stream=True)
    with pytest.raises(sgrt.ProgramError, match=r"differs|no answer left"):
        _ = state["a"]
    assert replayed.stats()["left"] == 8


def test_errors_are_recorded_and_replayed(tmp_path):
    @sgrt.function
    def failing(s):
        s += "q" + sgrt.gen("x")

    with sgrt.record(tmp_path / "run.json"):
        failing.run(backend=sgrt.ScriptedBackend([sgrt.BackendError("down")])).error()
    state = failing.run(backend=sgrt.replay(tmp_path / "run.json"))
    with pytest.raises(sgrt.ProgramError, match="recorded: BackendError: down"):
        _ = state["x"]


def test_recording_is_written_also_where_the_block_raises(tmp_path):
    path = tmp_path / "run.json"
    with pytest.raises(KeyError), sgrt.record(path):
        program.run(topic="a", backend=backend())
        raise KeyError
    assert len(json.loads(path.read_text())["calls"]) == 4
    assert list(tmp_path.iterdir()) == [path]


def test_recordings_do_not_nest_and_end_with_their_block(tmp_path, recording):
    with sgrt.record(tmp_path / "a.json"):
        second = sgrt.record(tmp_path / "b.json")
        with pytest.raises(sgrt.RequestError, match="another recording"), second:
            pass
    program.run(topic="a", backend=backend())
    assert json.loads((tmp_path / "a.json").read_text())["calls"] == []


def test_defective_recordings_are_refused(tmp_path):
    with pytest.raises(sgrt.RequestError, match="no folder"), sgrt.record(tmp_path / "no" / "a"):
        pass
    for text in ("{", "[]", '{"version": 2}', '{"version": 1}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(sgrt.RequestError, match="recording"):
            sgrt.replay(tmp_path / "bad.json")
