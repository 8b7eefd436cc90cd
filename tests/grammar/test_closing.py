"""Completions: always valid, as short as promised, the same each time; and why a token is out."""

from __future__ import annotations

import json
import random

import pytest
from grammar_support import (
    allowed_ids,
    bpe_vocabulary,
    byte_vocabulary,
    compiler,
    grammar,
    walk,
)
from random_schemas import is_valid, load, schema
from test_matcher import CONSTRAINTS, RECORD

from sgrt.core import Choices, Constraint, JsonSchema, Lark, Regex
from sgrt.errors import ConstraintError, RequestError
from sgrt.grammar.closing import Closing
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.matcher import Matcher
from sgrt.grammar.vocabulary import Vocabulary

every_constraint = pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: repr(c)[:30])
every_vocabulary = pytest.mark.parametrize("name", ["bytes", "bpe"])


def check_completion(matcher: Matcher, ids: list[int] | None) -> None:
    assert ids is not None
    assert matcher.completes(ids)
    end = matcher.fork()
    end.accept(ids)
    assert end.is_complete


@every_constraint
@every_vocabulary
@pytest.mark.parametrize("thorough", [True, False])
def test_completion_of_any_place_completes_it(
    constraint: Constraint, name: str, thorough: bool
) -> None:
    vocabulary, rng = compiler(name).vocabulary, random.Random(3)
    for _ in range(2):
        matcher = grammar(constraint, name).matcher()
        for _ in range(12):
            check_completion(matcher, matcher.shortest_completion(thorough=thorough))
            allowed = allowed_ids(matcher, vocabulary)
            if not allowed:
                break
            matcher.accept([rng.choice(allowed)])


@every_constraint
@every_vocabulary
def test_completion_depends_on_the_text_alone(constraint: Constraint, name: str) -> None:
    """Not on the way there: other questions, tokens taken back, forks."""
    vocabulary, rng = compiler(name).vocabulary, random.Random(4)
    matcher, ids = grammar(constraint, name).matcher(), []
    for _ in range(10):
        allowed = allowed_ids(matcher, vocabulary)
        if not allowed:
            break
        matcher.accept([rng.choice(allowed)])  # a detour
        matcher.shortest_completion()
        matcher.rollback(1)
        ids.append(rng.choice(allowed))
        matcher.accept(ids[-1:])
        fresh = grammar(constraint, name).matcher()
        fresh.accept(ids)
        expected = fresh.shortest_completion()
        assert matcher.shortest_completion() == expected
        assert matcher.fork().shortest_completion() == expected


def brute_force(matcher: Matcher, vocabulary: Vocabulary, most: int) -> int | None:
    """Fewest tokens of a completion, up to ``most``."""
    places = [matcher.fork()]
    for num_tokens in range(most + 1):
        if any(place.is_complete for place in places):
            return num_tokens
        places = [_after(place, i) for place in places for i in allowed_ids(place, vocabulary)]
    return None


def _after(place: Matcher, token_id: int) -> Matcher:
    copy = place.fork()
    copy.accept([token_id])
    return copy


SHORT: list[Constraint] = [
    Regex("[a-f]+x"),
    Regex("(ab)+x|q"),
    Regex("(long way|a|bc)?d"),
    Regex("é|日"),
    JsonSchema('{"type":["null","object"],"required":["a"]}'),
    JsonSchema('{"enum":["catfish","dog",1234,[1]]}'),
    JsonSchema('{"type":"integer","minimum":15,"multipleOf":7}'),
]


@pytest.mark.parametrize("constraint", SHORT, ids=lambda c: repr(c)[:40])
def test_completion_of_a_small_constraint_is_the_shortest(constraint: Constraint) -> None:
    matcher = grammar(constraint).matcher()
    ids = matcher.shortest_completion()
    assert ids is not None and len(ids) <= 5
    assert brute_force(matcher, byte_vocabulary(), len(ids) - 1) is None


def test_completion_of_choices_is_exact_everywhere() -> None:
    rng = random.Random(6)
    for _ in range(20):
        options = {"".join(rng.choices("ab", k=rng.randint(1, 6))) for _ in range(4)}
        matcher = grammar(Choices(tuple(sorted(options))), "bpe").matcher()
        while True:
            ids = matcher.shortest_completion()
            check_completion(matcher, ids)
            assert ids is not None
            assert brute_force(matcher, bpe_vocabulary(), len(ids)) == len(ids)
            if not (allowed := matcher.allowed()):
                break
            matcher.accept([rng.choice(allowed)])


HARD: list[Constraint] = [
    Regex("[^x]{50}x"),
    Regex("([ab]z)+x"),
    JsonSchema('{"type":"string","minLength":120,"maxLength":120}'),
    JsonSchema('{"type":"array","minItems":40,"items":{"type":"string"}}'),
    JsonSchema(
        '{"$ref":"#/$defs/t","$defs":{"t":{"type":"object","required":["k"],'
        '"properties":{"k":{"anyOf":[{"$ref":"#/$defs/t"},{"type":"boolean"}]}}}}}'
    ),
    JsonSchema(
        '{"type":"array","minItems":1,"items":{"type":"object","required":["id","text"],'
        '"additionalProperties":false,"properties":{"headers":{"$ref":"#"},"id":{"type":"string"},'
        '"text":{"type":"string","pattern":"[0-9]{4}-[0-9]{2}"}}}}'
    ),
]


@pytest.mark.parametrize("constraint", HARD, ids=lambda c: repr(c)[:40])
def test_completion_of_a_long_or_looping_constraint_is_found(constraint: Constraint) -> None:
    matcher = grammar(constraint, "bpe").matcher()
    check_completion(matcher, matcher.shortest_completion())


@pytest.mark.parametrize("pattern", [r"\d{3}-\d{4}", '[aé]"[^a-z]{3}b', "^.*(x[1-9]y){2}$"])
def test_completion_where_a_pattern_may_begin_anywhere_is_found_at_any_place(pattern: str) -> None:
    schema = {"type": "object", "properties": {"p": {"pattern": pattern, "type": "string"}}}
    constraint = JsonSchema(json.dumps({**schema, "required": ["p"]}))
    vocabulary, rng = bpe_vocabulary(), random.Random(pattern)
    matcher = grammar(constraint, "bpe").matcher()
    for _ in range(5):
        check_completion(matcher, matcher.shortest_completion(thorough=False))
        allowed = allowed_ids(matcher, vocabulary)
        if not allowed:
            break
        matcher.accept([rng.choice(allowed)])


@pytest.mark.parametrize(
    "name", ["sql_select", "markdown_table", "email", "python_literal", "tool_call", "json_lines"]
)
def test_closing_of_a_shipped_grammar_is_valid_within_any_room(name: str) -> None:
    vocabulary, compiled = bpe_vocabulary(), grammar(Lark(name), "bpe")
    shortest = compiled.matcher().shortest_completion()
    check_completion(compiled.matcher(), shortest)
    assert shortest is not None and len(shortest) < 100
    rng = random.Random(2)
    for extra in (0, 5, 20):
        matcher = compiled.matcher()
        ids = draw(matcher, vocabulary, len(shortest) + extra, rng)
        assert matcher.is_complete and len(ids) <= len(shortest) + extra
        assert compiled.matcher().completes(ids)


def test_completion_inside_a_character_finishes_the_character() -> None:
    matcher = grammar(Regex("日本+z")).matcher()
    for at in range(1, 6):
        matcher = grammar(Regex("日本+z")).matcher()
        matcher.accept(list("日本".encode())[:at])
        assert bytes(matcher.shortest_completion() or []) == "日本z".encode()[at:]


@every_constraint
def test_completes_is_false_for_what_is_unfinished_wrong_or_special(constraint: Constraint) -> None:
    rng, seen = random.Random(8), 0
    for _ in range(10):
        ids = walk(grammar(constraint).matcher(), byte_vocabulary(), rng, 60)
        if not ids:
            continue
        for cut in range(len(ids) + 1):
            matcher = grammar(constraint).matcher()
            matcher.accept(ids[:cut])
            assert matcher.completes(ids[cut:])
            assert matcher.completes([]) == matcher.is_complete
            assert not matcher.completes([*ids[cut:], 256])
            assert not matcher.completes([*ids[cut:], 1])
            seen += 1
    assert seen


# -- closing


def draw(matcher: Matcher, vocabulary: Vocabulary, room: int, rng: random.Random) -> list[int]:
    """Random tokens under a closing, as a task draws them."""
    closing, ids = Closing(matcher), []
    closing.check_room(room)
    while len(ids) < room:
        allowed = allowed_ids(matcher, vocabulary)
        if not allowed:
            return ids
        token_id = rng.choice(allowed)
        matcher.accept([token_id])
        left = room - len(ids) - 1
        if not (closing.try_follow([token_id], left) or closing.search(left)):
            matcher.rollback(1)
            matcher.accept(closing.completion)
            return ids + closing.completion
        ids.append(token_id)
        assert matcher.completes(closing.completion)
    return ids


@pytest.mark.parametrize("seed", range(6))
def test_closing_of_random_schemas_is_valid_within_any_room(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(5):
        node = schema(rng)
        name = rng.choice(["bytes", "bpe"])
        try:
            compiled = grammar(JsonSchema(json.dumps(node)), name)
        except ConstraintError:
            continue
        shortest = compiled.matcher().shortest_completion()
        assert shortest is not None, node
        vocabulary = compiler(name).vocabulary
        for extra in (0, 1, 4, 20):
            room = len(shortest) + extra
            ids = draw(compiled.matcher(), vocabulary, room, rng)
            assert len(ids) <= room
            text = vocabulary.bytes_of(ids)
            assert is_valid(load(text), node), (node, text)


def test_closing_without_room_is_refused_with_both_numbers() -> None:
    closing = Closing(grammar(RECORD).matcher())
    size = len(closing.completion)
    closing.check_room(size)
    with pytest.raises(RequestError, match=rf"has {size} tokens, and there is room for {size - 1}"):
        closing.check_room(size - 1)


def test_closing_of_a_language_too_hard_to_search_is_refused() -> None:
    matcher = grammar(Regex("[a-z]{9000}")).matcher()
    with pytest.raises(RequestError, match="finish='close'"):
        Closing(matcher)


# -- why not


@every_constraint
@every_vocabulary
def test_explain_is_none_exactly_where_a_token_is_taken(constraint: Constraint, name: str) -> None:
    vocabulary, rng = compiler(name).vocabulary, random.Random(5)
    matcher = grammar(constraint, name).matcher()
    for _ in range(8):
        for token_id in rng.sample(range(len(vocabulary)), 6):
            taken = matcher.fork()
            try:
                taken.accept([token_id])
                assert matcher.explain(token_id) is None
            except ConstraintError:
                assert matcher.explain(token_id)
        allowed = allowed_ids(matcher, vocabulary)
        if not allowed:
            break
        matcher.accept([rng.choice(allowed)])


def test_explain_names_the_byte_that_breaks_and_what_may_follow() -> None:
    vocabulary = bpe_vocabulary()
    matcher = grammar(RECORD, "bpe").matcher()

    def why(text: str) -> str | None:
        ids = vocabulary.try_encode(text.encode())
        assert ids is not None and len(ids) == 1
        return matcher.explain(ids[0])

    matcher.accept(vocabulary.encode('{"name":"An'))
    assert why('"') is None
    assert why("\n") == (
        r"in the value at /name: b'\n' cannot follow; "
        "allowed: ' ' to '~', characters beyond ASCII"
    )
    matcher.accept(vocabulary.encode('","age":'))
    assert why("x") == "in the value at /age: b'x' cannot follow; allowed: '0' to '9'"
    assert "cannot end here" in str(matcher.explain(vocabulary.eos_id))
    assert f"has {len(vocabulary)}" in str(matcher.explain(len(vocabulary)))
    matcher.accept(vocabulary.encode('3,"kind":"dog"}'))
    assert why("x") == "in the value at the root: b'x' cannot follow: the text is complete"


def test_explain_in_a_grammar_names_line_and_column() -> None:
    matcher = grammar(Lark('start: "a\\n" "bc"')).matcher()
    matcher.accept(list(b"a\nb"))
    why = "line 2, column 2: b'x' cannot follow; allowed: 'c'; expected here: start at 1:14"
    assert matcher.explain(ord("x")) == why


def test_explain_of_choices_lists_what_is_left() -> None:
    matcher = grammar(Choices(("ab", "ac", "a"))).matcher()
    assert matcher.explain(ord("x")) == "b'x' begins no option that is left; next is one of b'a'"
    matcher.accept([ord("a")])
    assert "b'b', b'c'; the text may also end" in str(matcher.explain(ord("x")))
    matcher.accept([ord("b")])
    assert matcher.explain(ord("x")) == "the option is complete: nothing can follow"


def test_completion_needs_no_encoder_for_half_characters() -> None:
    """Tokens that the tokenizer would never write still spell the rest of a character."""
    matcher = GrammarCompiler(bpe_vocabulary()).compile(Regex("é+")).matcher()
    first = next(i for i, t in enumerate(bpe_vocabulary().tokens) if t == "é".encode()[:1])
    matcher.accept([first])
    check_completion(matcher, matcher.shortest_completion())
