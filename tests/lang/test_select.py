"""`select` compares whole options by the probability of their text."""

import math
from collections import Counter

import pytest

import sgrt
from sgrt.errors import InvalidSamplingParams

SCORES = {"a": -2.0, "bbbb": -2.5, "cc": -7.0}


def pick(scores=SCORES, seed=None, **options):
    @sgrt.function
    def program(s):
        s += "q" + sgrt.select("x", list(scores), **options) + "!"

    return program.run(backend=sgrt.ScriptedBackend([], scores=scores), seed=seed)


def test_select_takes_the_likeliest_text_and_appends_it():
    state = pick()
    assert state["x"] == "a"
    assert state.text() == "qa!"


def test_select_by_token_takes_the_best_mean():
    assert pick(choices_method="token_length_normalized")["x"] == "bbbb"  # -2.5 / 4 bytes


def test_probabilities_are_the_softmax_of_the_scores_and_sum_to_one():
    found = pick().probabilities("x")
    weights = {option: math.exp(score) for option, score in SCORES.items()}
    total = sum(weights.values())
    assert found == pytest.approx({option: w / total for option, w in weights.items()})
    assert sum(
        pick(choices_method="token_length_normalized").probabilities("x").values()
    ) == pytest.approx(1)


def test_logprob_zero_counts():
    scores = {"certain": 0.0, "x": -0.5}
    assert pick(scores)["x"] == "certain"
    assert pick(scores).probabilities("x")["certain"] == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_impossible_options_have_probability_zero_and_ties_go_to_the_first():
    state = pick({"no": -math.inf, "b": -1.0, "c": -1.0})
    assert state["x"] == "b"
    assert state.probabilities("x") == {"no": 0.0, "b": 0.5, "c": 0.5}
    assert pick({"a": -math.inf, "b": -math.inf}).probabilities("x") == {"a": 0.5, "b": 0.5}


def test_temperature_samples_by_the_runs_seed():
    scores = {"a": math.log(0.7), "b": math.log(0.2), "c": math.log(0.1)}
    drawn = [pick(scores, seed=i, temperature=1.0)["x"] for i in range(400)]
    again = [pick(scores, seed=i, temperature=1.0)["x"] for i in range(400)]
    assert drawn == again
    counts = Counter(drawn)
    expected = {"a": 280, "b": 80, "c": 40}
    # chi-square with 2 degrees of freedom; 13.8 is its 99.9th percentile
    assert sum((counts[k] - n) ** 2 / n for k, n in expected.items()) < 13.8


def test_own_seed_decides_and_successive_selects_differ():
    @sgrt.function
    def program(s, seed):
        for _ in range(12):
            s += sgrt.select("x", ["a", "b"], temperature=1.0, seed=seed)

    def run(seed):
        return program.run(seed, backend=sgrt.ScriptedBackend([], scores={"a": -1, "b": -1})).text()

    assert run(1) == run(1)
    assert len({run(seed) for seed in range(8)}) > 4
    assert set(run(1)) == {"a", "b"}


def test_forks_of_a_seeded_run_draw_differently_and_repeat():
    @sgrt.function
    def program(s):
        with s.fork(20) as forks:
            forks += sgrt.select("x", ["a", "b"], temperature=1.0)
        return s["x"]

    def run(seed):
        backend = sgrt.ScriptedBackend([], scores={"a": -1, "b": -1})
        return program.run(backend=backend, seed=seed).value

    assert run(1) == run(1)
    assert set(run(1)) == {"a", "b"}


def test_scores_are_given_with_the_record():
    result = pick().result("x")
    assert [sum(logprobs) for logprobs in result.token_logprobs] == pytest.approx([-2, -2.5, -7])


def test_select_does_not_wait_and_what_follows_sees_the_option():
    @sgrt.function
    def program(s):
        s += sgrt.select("x", ["l", "r"])
        s += sgrt.gen("y") + sgrt.select("z", ["m", "n"]) + sgrt.gen("w")

    def answer(prompt, constraint, params):
        return constraint.options[1] if constraint else f"[{prompt}]"

    state = program.run(backend=sgrt.ScriptedBackend(answer, latency=0.01))
    assert state.text() == "r[r]n[r[r]n]"


def test_probabilities_of_what_is_no_select_are_refused():
    @sgrt.function
    def program(s):
        s += sgrt.gen("x")

    state = program.run(backend=sgrt.ScriptedBackend(["1"]))
    with pytest.raises(sgrt.ProgramError, match="'x' is not a select"):
        state.probabilities("x")
    with pytest.raises(sgrt.ProgramError, match="no variable 'y'"):
        state.probabilities("y")


def test_options_of_select_out_of_range_are_refused():
    with pytest.raises(sgrt.RequestError, match="choices_method"):
        sgrt.select("x", ["a"], choices_method="mean")
    with pytest.raises(InvalidSamplingParams, match="temperature"):
        sgrt.select("x", ["a"], temperature=-0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", bad) for bad in ("1", None, True, float("nan"), 101)),
        *(("seed", bad) for bad in ("x", 1.5, True, -1)),
    ],
)
def test_value_that_is_no_parameter_is_refused_by_name(field, value):
    with pytest.raises(InvalidSamplingParams) as caught:
        sgrt.select("x", ["a"], **{field: value})
    assert caught.value.field == field
    assert caught.value.value is value
