"""Laws of every matcher, whatever stands behind it."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from grammar_support import (
    accepts,
    allowed_ids,
    bpe_vocabulary,
    byte_vocabulary,
    compiler,
    grammar,
    mask_of,
    walk,
)

from sgrt.core import (
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    Lark,
    OneOf,
    Regex,
    RepeatOf,
    SequenceOf,
    Substring,
)
from sgrt.errors import ConstraintError
from sgrt.grammar.matcher import Matcher
from sgrt.grammar.vocabulary import Vocabulary

RECORD = JsonSchema(
    json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 8},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "kind": {"enum": ["cat", "catfish", "dog"]},
                "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
            },
            "required": ["name", "age", "kind"],
            "additionalProperties": False,
        }
    )
)
CONSTRAINTS: list[Constraint] = [
    RECORD,
    Regex(r"(hello|help)( world)*[.!]?"),
    Regex("é{1,3}(日本)?"),
    Choices(("cat", "catfish", "dog", "the quick brown fox", "the quick")),
    JsonSchema('{"type":"number","multipleOf":3,"maximum":40}'),
    Lark("iso_date"),
    Lark('start: "<" KEY pair? ">"\nKEY: /[a-c]+/\npair: "," KEY pair?'),
    Ebnf('root ::= "(" root ")" | [0-9] "é"?'),
    SequenceOf(("n: ", RECORD, OneOf((";", RepeatOf("!", 1, 2))))),
    Substring("the quick brown fox"),
]
VOCABULARIES = [byte_vocabulary, bpe_vocabulary]
every_constraint = pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: repr(c)[:30])
every_vocabulary = pytest.mark.parametrize("name", ["bytes", "bpe"])


def vocabulary_of(name: str) -> Vocabulary:
    return compiler(name).vocabulary


def state(matcher: Matcher, vocabulary: Vocabulary) -> object:
    return (
        mask_of(matcher, vocabulary).tobytes(),
        matcher.is_complete,
        matcher.is_final,
        tuple(matcher.forced()),
    )


def try_accept(matcher: Matcher, token_id: int) -> bool:
    try:
        matcher.accept([token_id])
    except ConstraintError:
        return False
    return True


@every_constraint
@every_vocabulary
def test_mask_equals_trying_every_token(constraint: Constraint, name: str) -> None:
    """But where one text only can follow: there it may hold just the token that spells it best."""
    vocabulary, rng = vocabulary_of(name), random.Random(7)
    for _ in range(3):
        matcher = grammar(constraint, name).matcher()
        for _ in range(12):
            tried = [i for i in range(len(vocabulary)) if try_accept(matcher.fork(), i)]
            allowed = allowed_ids(matcher, vocabulary)
            if len(allowed) == 1:
                spelled = sorted((vocabulary.tokens[i] for i in tried), key=len)
                assert set(allowed) <= set(tried)
                assert all(spelled[-1].startswith(text) for text in spelled)
            else:
                assert allowed == tried
            if not tried:
                break
            matcher.accept([rng.choice(tried)])


@every_constraint
@every_vocabulary
def test_mask_never_holds_special_tokens_or_bits_beyond_the_vocabulary(
    constraint: Constraint, name: str
) -> None:
    vocabulary, rng = vocabulary_of(name), random.Random(8)
    matcher = grammar(constraint, name).matcher()
    for _ in range(30):
        allowed = allowed_ids(matcher, vocabulary)
        assert vocabulary.special_ids.isdisjoint(allowed)
        assert all(i < len(vocabulary) for i in allowed)
        if not allowed:
            break
        matcher.accept([rng.choice(allowed)])


@every_constraint
@every_vocabulary
def test_rollback_and_fork_equal_a_fresh_matcher_fed_the_same_tokens(
    constraint: Constraint, name: str
) -> None:
    vocabulary = vocabulary_of(name)
    compiled = grammar(constraint, name)
    for seed in range(6):
        rng = random.Random(seed)
        matcher, tokens = compiled.matcher(), []
        for _ in range(25):
            kind = rng.random()
            allowed = allowed_ids(matcher, vocabulary)
            if kind < 0.65 and allowed:
                token_id = rng.choice(allowed)
                matcher.accept([token_id])
                tokens.append(token_id)
            elif kind < 0.85:
                count = rng.randint(0, len(tokens))
                matcher.rollback(count)
                tokens = tokens[: len(tokens) - count]
            else:
                other, matcher = matcher, matcher.fork()
                if allowed:
                    other.accept([rng.choice(allowed)])  # must not be felt by the copy
            if rng.random() < 0.5:
                fresh = compiled.matcher()
                fresh.accept(tokens)
                assert state(matcher, vocabulary) == state(fresh, vocabulary)


@every_constraint
@every_vocabulary
def test_final_is_complete_and_allows_nothing(constraint: Constraint, name: str) -> None:
    vocabulary = vocabulary_of(name)
    num_final = 0
    for seed in range(20):
        rng = random.Random(seed)
        matcher = grammar(constraint, name).matcher()
        for _ in range(60):
            allowed = allowed_ids(matcher, vocabulary)
            assert matcher.is_final == (matcher.is_complete and not allowed)
            assert allowed or matcher.is_complete
            if not allowed:
                num_final += 1
                break
            matcher.accept([rng.choice(allowed)])
    assert num_final


@every_constraint
def test_language_is_the_same_under_both_vocabularies(constraint: Constraint) -> None:
    """What tokens spell is what bytes spell; choices are spelt canonically."""
    rng = random.Random(2)
    texts = []
    for _ in range(25):
        ids = walk(grammar(constraint, "bpe").matcher(), bpe_vocabulary(), rng, 60)
        if ids is not None:
            texts.append(bpe_vocabulary().bytes_of(ids))
    assert texts
    assert [t for t in texts if not accepts(grammar(constraint), t)] == []


@every_constraint
@every_vocabulary
def test_accept_of_a_wrong_token_changes_nothing(constraint: Constraint, name: str) -> None:
    vocabulary = vocabulary_of(name)
    matcher = grammar(constraint, name).matcher()
    rng = random.Random(4)
    for _ in range(10):
        allowed = allowed_ids(matcher, vocabulary)
        if not allowed:
            break
        before = state(matcher, vocabulary)
        good = rng.choice(allowed)
        after_good = matcher.fork()
        after_good.accept([good])
        wrong = [i for i in range(len(vocabulary)) if not try_accept(after_good.fork(), i)]
        for bad in [*rng.sample(wrong, 3), vocabulary.eos_id]:
            with pytest.raises(ConstraintError):
                matcher.accept([good, bad])
            assert state(matcher, vocabulary) == before
        matcher.accept([good])


@every_constraint
def test_rollback_of_more_than_was_accepted_is_refused(constraint: Constraint) -> None:
    matcher = grammar(constraint).matcher()
    matcher.accept(allowed_ids(matcher, byte_vocabulary())[:1])
    for count in (2, -1):
        with pytest.raises(ConstraintError, match="undo"):
            matcher.rollback(count)
    matcher.rollback(1)
    matcher.rollback(0)


def test_final_is_known_right_after_the_closing_brace() -> None:
    matcher = grammar(RECORD).matcher()
    matcher.accept(list(b'{"name":"a","age":1,"kind":"cat"'))
    assert not matcher.is_complete
    matcher.accept(list(b"}"))
    assert matcher.is_complete and matcher.is_final


def test_empty_text_is_complete_and_final_where_it_is_the_only_one() -> None:
    assert grammar(Regex("")).matcher().is_final
    assert grammar(Regex("a?")).matcher().is_complete
    assert not grammar(Regex("a?")).matcher().is_final


def test_fill_refuses_rows_of_another_kind() -> None:
    matcher = grammar(RECORD).matcher()
    for row in (np.zeros(3, np.uint32), np.zeros(9, np.int32), np.zeros(18, np.uint32)[::2]):
        with pytest.raises(ValueError, match="row"):
            matcher.fill(row)  # type: ignore[arg-type]
