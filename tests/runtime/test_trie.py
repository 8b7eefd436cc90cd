"""A trie of options holds each of them once, and asks the model for what something follows."""

from __future__ import annotations

import random

import pytest

from sgrt.runtime.trie import Branch, Trie

Options = list[tuple[int, ...]]


def some_options(rng: random.Random) -> Options:
    """Few tokens, so that much is shared; some begin others, some are given twice."""
    options = [tuple(rng.choices(range(3), k=rng.randint(1, 6))) for _ in range(rng.randint(1, 30))]
    return options + options[: rng.randint(0, 3)]


def branches(trie: Trie) -> list[tuple[tuple[int, ...], Branch]]:
    """Every branch with the tokens before it."""
    found = [((), trie.root)]
    for before, branch in found:
        found += [((*before, *branch.token_ids), child) for child in branch.children]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_branches_of_any_options_are_the_proper_beginnings_once_each(seed: int) -> None:
    options = some_options(random.Random(seed))
    expected = {option[:n] for option in options for n in range(len(option))}
    found = []
    for before, branch in branches(Trie(options)):
        start = len(before) + len(branch.token_ids) - len(branch.nodes)
        whole = before + branch.token_ids
        for i, node in enumerate(branch.nodes):
            beginning = whole[: start + i + 1]
            found.append(beginning)
            assert node.targets == tuple(
                sorted(
                    {
                        o[len(beginning)]
                        for o in options
                        if o[: len(beginning)] == beginning and len(o) > len(beginning)
                    }
                )
            )
    assert len(found) == len(set(found)) and set(found) == expected


@pytest.mark.parametrize("seed", range(20))
def test_branch_ends_only_where_more_than_one_way_or_none_goes_on(seed: int) -> None:
    for _, branch in branches(Trie(some_options(random.Random(seed))))[1:]:
        assert len(branch.children) != 1


def test_logprobs_of_an_option_are_those_of_its_path() -> None:
    options = [(1, 2, 3), (1, 2), (1, 4), (2,)]
    trie = Trie(options)
    for before, branch in branches(trie):
        for i, node in enumerate(branch.nodes):
            depth = len(before) + i + bool(branch.token_ids)
            node.fill([-10.0 * depth - token for token in node.targets])
    assert trie.logprobs((1, 2, 3)) == (-1, -12, -23)
    assert trie.logprobs((1, 4)) == (-1, -14)
    assert trie.logprobs((2,)) == (-2,)


def test_trie_of_one_very_long_option_is_one_branch() -> None:
    trie = Trie([tuple(range(50_000))])
    assert [len(branch.nodes) for _, branch in branches(trie)] == [1, 49_999]
