"""Forced runs: canonical, certain, and never a restriction of the language."""

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
    mask_of,
    walk,
)
from test_matcher import CONSTRAINTS, RECORD

from sgrt.core import Choices, Constraint, JsonSchema, Regex
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.matcher import Grammar
from sgrt.grammar.vocabulary import Vocabulary

_MORE = [
    Regex(r"Name: [A-Z][a-z]{1,5}\. Age: \d+ years"),
    Regex("  +x"),
    Regex('"name":"[a-z!?., ]{0,9}"'),
    Regex("\n\n- item(\n- item){0,2}"),
    Regex("(a|b)?   hello\n    world(x)?"),
    Regex("é(è|ê)x"),
    Regex("日本語(テ|ト)"),
]


def check_forced_is_canonical(compiled: Grammar, vocabulary: Vocabulary, text: bytes) -> int:
    """Along the canonical tokens of a text, what is forced is what comes next."""
    ids = vocabulary.try_encode(text)
    assert ids is not None
    matcher, num_forced = compiled.matcher(), 0
    for i in range(len(ids) + 1):
        run = matcher.forced()
        assert run == ids[i : i + len(run)], (text, i, vocabulary.bytes_of(run))
        num_forced += bool(run)
        matcher.accept(ids[i : i + 1])
    assert matcher.is_complete
    return num_forced


@pytest.mark.parametrize("constraint", [*CONSTRAINTS, *_MORE], ids=lambda c: repr(c)[:40])
def test_forced_run_is_the_canonical_tokenization_of_every_continuation(
    constraint: Constraint,
) -> None:
    vocabulary, compiled = bpe_vocabulary(), grammar(constraint, "bpe")
    rng, num_texts = random.Random(11), 0
    for _ in range(20):
        ids = walk(compiled.matcher(), vocabulary, rng, 60)
        if ids is not None:
            num_texts += 1
            check_forced_is_canonical(compiled, vocabulary, vocabulary.bytes_of(ids))
    assert num_texts


def test_forced_run_of_a_record_covers_its_keys() -> None:
    text = b'{"name":"Anna","age":31,"kind":"dog"}'
    for name in ("bytes", "bpe"):
        vocabulary = compiler(name).vocabulary
        assert check_forced_is_canonical(grammar(RECORD, name), vocabulary, text) >= 3


@pytest.mark.parametrize("constraint", [*CONSTRAINTS, *_MORE], ids=lambda c: repr(c)[:40])
def test_forced_run_is_allowed_and_leaves_no_other_text(constraint: Constraint) -> None:
    """Taking the run is possible, and any other way on spells the same bytes."""
    vocabulary, rng = bpe_vocabulary(), random.Random(5)
    for _ in range(12):
        matcher = grammar(constraint, "bpe").matcher()
        for _ in range(40):
            run = matcher.forced()
            allowed = allowed_ids(matcher, vocabulary)
            if run:
                text = vocabulary.bytes_of(run)
                if not isinstance(constraint, Choices):
                    spelled = [vocabulary.tokens[i] for i in allowed]
                    assert all(text.startswith(t) or t.startswith(text) for t in spelled)
                assert not matcher.is_complete
                matcher.accept(run)
            elif allowed:
                matcher.accept([rng.choice(allowed)])
            else:
                break


@pytest.mark.parametrize("constraint", [*CONSTRAINTS, *_MORE], ids=lambda c: repr(c)[:40])
def test_guess_is_allowed_and_spells_text_that_is_forced(constraint: Constraint) -> None:
    vocabulary, rng = bpe_vocabulary(), random.Random(6)
    for _ in range(12):
        matcher = grammar(constraint, "bpe").matcher()
        for _ in range(40):
            run = matcher.forced()
            allowed = allowed_ids(matcher, vocabulary)
            guess = [] if run else matcher.guess()
            if guess:
                text = vocabulary.bytes_of(guess)
                spelled = [vocabulary.tokens[i] for i in allowed]
                assert all(text.startswith(t) or t.startswith(text) for t in spelled)
                matcher.fork().accept(guess)
            if not run and not allowed:
                break
            matcher.accept(run or [rng.choice(allowed)])


def test_forced_run_to_the_end_is_taken_whole() -> None:
    for name in ("bytes", "bpe"):
        matcher = grammar(Regex("the quick brown fox"), name).matcher()
        vocabulary = compiler(name).vocabulary
        assert matcher.forced() == vocabulary.try_encode(b"the quick brown fox")
        matcher.accept(matcher.forced())
        assert matcher.is_final and matcher.forced() == []


def test_forced_stops_where_the_text_may_end() -> None:
    matcher = grammar(Regex("ab(cd)?")).matcher()
    assert bytes(matcher.forced()) == b"ab"
    matcher.accept(list(b"ab"))
    assert matcher.forced() == [] and matcher.is_complete and not matcher.is_final
    matcher.accept(list(b"c"))
    assert bytes(matcher.forced()) == b"d"


def test_forced_stops_before_a_token_that_might_grow() -> None:
    """The last token of "wor" is "world" in one of the two texts."""
    vocabulary = bpe_vocabulary()
    matcher = grammar(Regex("hello wor(ld|k)"), "bpe").matcher()
    run = vocabulary.bytes_of(matcher.forced())
    assert b"hello wor".startswith(run) and len(run) < len(b"hello wor")
    for text in ("hello world", "hello work"):
        ids = vocabulary.try_encode(text.encode())
        assert ids is not None and ids[: len(matcher.forced())] == matcher.forced()


def test_certain_tokens_never_differ_from_the_tokens_of_the_whole() -> None:
    """For any cut of any text and anything after it."""
    vocabulary, rng = bpe_vocabulary(), random.Random(9)
    num_tokens = 0
    for _ in range(300):
        text = "".join(
            rng.choice(["hello", "wor", "ld", " ", '"', ":", ",", "é", "日", "12", "\n"])
            for _ in range(8)
        )
        data = text.encode()
        cut = rng.randint(0, len(data))
        whole = vocabulary.try_encode(data)
        assert whole is not None
        at = rng.randint(0, len(whole))
        follows = data[len(vocabulary.bytes_of(whole[:at])) : cut]
        certain = vocabulary.certain_tokens(follows)
        assert certain == whole[at : at + len(certain)], (text, at, cut)
        num_tokens += len(certain)
    assert num_tokens > 300


_PIECES = [
    *('"', ":", '": "', '","', " ", "  ", "\n", "\t", "name", "hello", "wor", "ld", "'", "re", "s"),
    *("12", "3", "-", "é", "日本", "😀", "\u0301", "{", "}", "]", ", ", ".", "/", "\r\n"),
    *("\u00a0", "\u3000", "한", "I", "٣"),
]


def check_certain_under(
    vocabulary: Vocabulary, rng: random.Random, num_texts: int
) -> tuple[int, int]:
    """Tokens certain in view of the next byte, and in view of none, of random texts."""

    def some(most: int) -> bytes:
        return "".join(rng.choice(_PIECES) for _ in range(rng.randint(1, most))).encode()

    num_certain = num_anyway = 0
    for _ in range(num_texts):
        text, follows = some(5), [some(4) for _ in range(rng.randint(1, 6))]
        certain = vocabulary.certain_tokens(text, bytes(sorted({f[0] for f in follows})))
        for rest in follows:
            whole = vocabulary.try_encode(text + rest)
            assert whole is not None and certain == whole[: len(certain)], (text, rest)
        num_certain += len(certain)
        num_anyway += len(vocabulary.certain_tokens(text))
    return num_certain, num_anyway


def test_certain_tokens_hold_for_all_that_goes_on_with_one_of_the_bytes_and_are_more() -> None:
    num_certain, num_anyway = check_certain_under(bpe_vocabulary(), random.Random(4), 600)
    assert num_certain > num_anyway > 100


def test_last_of_several_spaces_is_certain_only_where_no_word_may_take_it() -> None:
    vocabulary = bpe_vocabulary()
    alone, before_a_word = vocabulary.encode("  "), vocabulary.encode("  日")
    assert alone != before_a_word[: len(alone)]
    assert vocabulary.certain_tokens(b"  ", b"") == alone
    certain = vocabulary.certain_tokens(b"  ", "日".encode()[:1])
    assert certain == before_a_word[: len(certain)]


def test_next_bytes_are_those_that_allowed_tokens_begin_with() -> None:
    vocabulary, rng = bpe_vocabulary(), random.Random(8)
    for constraint in [*CONSTRAINTS, *_MORE]:
        matcher = grammar(constraint, "bpe").matcher()
        if isinstance(constraint, Choices):
            continue
        for _ in range(15):
            allowed = allowed_ids(matcher, vocabulary)
            if len(allowed) < 2:  # where one text can follow, it may be the tokenizer's one token
                break
            first = {vocabulary.tokens[i][0] for i in allowed}
            assert vocabulary.next_bytes(mask_of(matcher, vocabulary)) == bytes(sorted(first))
            matcher.accept([rng.choice(allowed)])


def test_forced_with_a_tokenizer_that_rewrites_text_is_empty() -> None:
    def spaced(text: str) -> list[int]:
        return list((" " + text).encode())

    base = byte_vocabulary()
    vocabulary = Vocabulary(base.tokens, [256], 256, spaced, "spaced")
    matcher = GrammarCompiler(vocabulary).compile(Regex("abc")).matcher()
    assert matcher.forced() == []


@pytest.mark.model
def test_forced_run_on_the_real_tokenizer_is_canonical(smollm2: object) -> None:
    from sgrt.models.tokenizer import Tokenizer

    tokenizer = Tokenizer.open(smollm2)  # type: ignore[arg-type]
    vocabulary = Vocabulary(
        tokenizer.token_table(),
        tokenizer.special_ids,
        min(tokenizer.eos_ids),
        tokenizer.encode,
        tokenizer.fingerprint,
    )
    real = GrammarCompiler(vocabulary)
    num_forced = 0
    for constraint in [*CONSTRAINTS, *_MORE]:
        compiled, rng = real.compile(constraint), random.Random(1)
        for _ in range(4):
            ids = walk(compiled.matcher(), vocabulary, rng, 60)
            if ids is not None:
                text = vocabulary.bytes_of(ids)
                num_forced += check_forced_is_canonical(compiled, vocabulary, text)
    text = json.dumps({"name": "Ada", "age": 36, "kind": "catfish"}, separators=(",", ":"))
    num_forced += check_forced_is_canonical(real.compile(RECORD), vocabulary, text.encode())
    assert num_forced > 10
    check_certain_under(vocabulary, random.Random(1), 200)
    number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    run = real.compile(JsonSchema(json.dumps(number))).matcher().forced()
    assert vocabulary.bytes_of(run) == b'{"n":'  # though '":"' is a token
    matcher = real.compile(RECORD).matcher()
    matcher.accept(matcher.forced())
    assert vocabulary.bytes_of(matcher.guess()) == b'":"'  # unless the name begins with "." or such
