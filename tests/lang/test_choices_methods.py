"""How `select` compares options."""

import math

import pytest

import sgrt
from sgrt.lang.choices import (
    METHODS,
    greedy_token_selection,
    sequence_probability,
    token_length_normalized,
    unconditional_likelihood_normalized,
)

PART = {"ab": [-1.0, -3.0], "a": [-1.0], "cde": [-2.0, 0.0, 0.0]}
ALONE = {"ab": [-1.0, -9.0], "a": [-0.5], "cde": [-1.0, 0.0, -0.5]}


def told(rows):
    """As SGLang's servers report tokens."""
    return [[[value, 7, None] for value in row] for row in rows.values()]


def decide(method, part=PART, alone=ALONE):
    return method(
        choices=list(part),
        normalized_prompt_logprobs=[],
        input_token_logprobs=told(part),
        output_token_logprobs=[],
        unconditional_token_logprobs=told(alone),
    )


@pytest.mark.parametrize(
    ("method", "best"),
    [
        (sequence_probability, "a"),
        (token_length_normalized, "cde"),  # -2 / 3: zeros count
        (greedy_token_selection, "a"),  # the first tokens tie, then "a" goes on with its mean
        (unconditional_likelihood_normalized, "ab"),
    ],
)
def test_method_decides_by_its_own_rule(method, best):
    assert decide(method).decision == best
    assert METHODS[method.name] is method
    assert repr(method) == method.name


def test_greedy_matrix_goes_on_with_means():
    matrix = decide(greedy_token_selection).meta_info["greedy_logprob_matrix"]
    assert matrix == [[-1, -3, -2], [-1, -1, -1], [-2, 0, 0]]


def test_first_token_without_text_before_it_counts_nothing():
    part, alone = {"x": [-1.0, -1.0], "y": [-2.0]}, {"x": [None, -3.0], "y": [None]}
    decision = decide(unconditional_likelihood_normalized, part, alone)
    told = decision.meta_info["normalized_unconditional_prompt_logprobs"]
    assert (decision.decision, told) == ("x", [0.5, -2.0])


def test_all_certain_options_are_no_error():
    part = {"x": [0.0, 0.0], "y": [0.0]}
    assert decide(token_length_normalized, part, part).decision == "x"


def test_method_that_needs_scores_without_text_says_so():
    with pytest.raises(ValueError, match="unconditional_token_logprobs"):
        unconditional_likelihood_normalized(
            choices=["a"],
            normalized_prompt_logprobs=[],
            input_token_logprobs=[[[-1.0, 1, None]]],
            output_token_logprobs=[],
        )


def pick(**arguments):
    scores = {"long option": -6.0, "x": -2.0, "yy": -2.5}

    @sgrt.function
    def program(s):
        s += "q" + sgrt.select("x", list(scores), **arguments)

    alone = {"long option": -30.0, "x": -2.0, "yy": -2.0}
    table = lambda text, option: scores[option] if text else alone[option]  # noqa: E731
    return program.run(backend=sgrt.ScriptedBackend([], scores=table), seed=3)


@pytest.mark.parametrize(
    ("method", "best"),
    [
        ("sequence_probability", "x"),
        ("token_length_normalized", "long option"),
        (token_length_normalized, "long option"),
        ("greedy_token_selection", "long option"),
        ("unconditional_likelihood_normalized", "long option"),
    ],
)
def test_select_compares_as_it_is_told(method, best):
    state = pick(choices_method=method)
    assert state["x"] == best
    assert math.isclose(sum(state.probabilities("x").values()), 1)
    assert max(state.probabilities("x"), key=state.probabilities("x").__getitem__) == best
    told = state.get_meta_info("x")
    assert len(told["input_token_logprobs"]) == len(told["normalized_prompt_logprobs"]) == 3
    assert ("unconditional_token_logprobs" in told) == ("unconditional" in str(method))


def test_select_draws_where_scores_are_probabilities_and_refuses_where_not():
    assert pick(temperature=1.0, choices_method="token_length_normalized")["x"]
    with pytest.raises(sgrt.RequestError, match="nothing to draw from"):
        sgrt.select("x", ["a"], temperature=1.0, choices_method="greedy_token_selection")


def test_gen_with_choices_method_is_a_select():
    @sgrt.function
    def program(s):
        s += "q" + sgrt.gen("x", choices=["a", "b"], choices_method="token_length_normalized")

    backend = sgrt.ScriptedBackend([], scores={"a": -1.0, "b": -2.0})
    assert program.run(backend=backend).probabilities("x")["a"] > 0.5
    with pytest.raises(sgrt.RequestError, match="max_tokens"):
        sgrt.gen("x", 5, choices=["a"], choices_method="token_length_normalized")
    with pytest.raises(sgrt.RequestError, match="needs choices"):
        sgrt.gen("x", choices_method="token_length_normalized")
