"""Tables of small patterns: the same language as `re` and as the engine that parses."""

from __future__ import annotations

import random
import re

import pytest
from grammar_support import allowed_ids, bpe_vocabulary, byte_vocabulary, ids_of, mask_of

from sgrt.errors import ConstraintError, UnsupportedSchema
from sgrt.grammar import regex
from sgrt.grammar.engines import llguidance_, tables
from sgrt.grammar.engines.llguidance_ import LLGrammar
from sgrt.grammar.engines.tables import TableGrammar
from sgrt.grammar.vocabulary import Vocabulary

PATTERNS = [
    r"[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]",
    r"(hello|help)( world)*[.!]?",
    r"-?(0|[1-9][0-9]*)(\.[0-9]+)?",
    r"[a-c]+|x{2,5}",
    r".*",
    r"(a|ab)(c|bcd)(d*)",
    r"é{1,3}(日本)?",
    r"[à-ÿ]*z",
    r"[^\u0000-\u007f]{1,2}",
    r"[\ud7ff-\uffff]",
    r"[\U00010000-\U0010ffff]|.?",
    r"[0-9a-f]{8}",
    "",
]
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


def rewritten(pattern: str) -> str:
    return regex.rewrite(pattern, regex.PYTHON)


def table_of(pattern: str, vocabulary: Vocabulary) -> TableGrammar:
    found = tables.try_build(vocabulary, rewritten(pattern))
    assert found is not None
    return found


def accepts(grammar: TableGrammar, data: bytes) -> bool:
    state = grammar.after(0, data)
    return state >= 0 and grammar.accepting[state]


@every_pattern
def test_table_accepts_what_re_accepts(pattern: str) -> None:
    grammar, rng = table_of(pattern, byte_vocabulary()), random.Random(pattern)
    alphabet = "helopw rd.!-0123456789abcdxz\n\x00~é日本ÿà\ud7ff\ue000\uffff\U00010000\U0010ffff"
    texts = [
        "",
        *alphabet,
        "hello world world!",
        "-10.25",
        "2024-12-31",
        "abbcd",
        "éé日本",
        "0a1b2c3d",
    ]
    for text in list(texts):
        for _ in range(40):
            cut = rng.randint(0, len(text))
            texts.append(text[:cut] + rng.choice(alphabet) + text[cut + rng.randint(0, 1) :])
    for text in texts:
        expected = re.fullmatch(pattern, text) is not None
        assert accepts(grammar, text.encode()) == expected, text


def test_every_character_is_read_as_utf8_and_nothing_else() -> None:
    grammar = table_of(r"[\s\S]", byte_vocabulary())
    edges = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
    for code in {e + d for e in edges for d in (-1, 0, 1)}:
        if 0 <= code <= 0x10FFFF and not 0xD800 <= code < 0xE000:
            assert accepts(grammar, chr(code).encode())
    for wrong in (b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf"):
        assert not accepts(grammar, wrong)
    for wrong in (b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80"):
        assert not accepts(grammar, wrong)
    for wrong in (b"\xc3", b"\xf8\x88\x80\x80\x80", b"\xff", b""):
        assert not accepts(grammar, wrong)


@every_pattern
@pytest.mark.parametrize("vocabulary", [byte_vocabulary, bpe_vocabulary], ids=["bytes", "bpe"])
def test_table_masks_are_those_of_the_parsing_engine(pattern: str, vocabulary) -> None:
    """But where one text only can follow: there the engine may allow just the best token."""
    table = table_of(pattern, vocabulary())
    other = LLGrammar(vocabulary(), llguidance_.regex_source(rewritten(pattern)))
    for seed in range(4):
        rng = random.Random(seed)
        a, b = table.matcher(), other.matcher()
        for _ in range(20):
            allowed, expected = allowed_ids(a, vocabulary()), allowed_ids(b, vocabulary())
            if len(expected) == 1:
                assert set(expected) <= set(allowed)
                spelled = sorted((vocabulary().tokens[i] for i in allowed), key=len)
                assert all(spelled[-1].startswith(text) for text in spelled)
            else:
                assert allowed == expected
            assert a.forced() == b.forced()
            assert (a.is_complete, a.is_final) == (b.is_complete, b.is_final)
            listed = a.allowed()
            assert listed is None or list(listed) == allowed
            if not allowed:
                break
            token_id = rng.choice(allowed)
            a.accept([token_id])
            b.accept([token_id])


@every_pattern
def test_completion_has_as_few_tokens_as_there_are(pattern: str) -> None:
    vocabulary = bpe_vocabulary()
    grammar, rng = table_of(pattern, vocabulary), random.Random(3)
    matcher = grammar.matcher()
    for _ in range(6):
        completion = matcher.shortest_completion()
        assert completion is not None and matcher.completes(completion)
        level = {grammar_state(matcher)}
        for _ in completion:  # no state after fewer tokens is an end
            assert not any(grammar.accepting[s] for s in level)
            level = {t for s in level for t in grammar.place(s).after}
        allowed = allowed_ids(matcher, vocabulary)
        if not allowed:
            break
        matcher.accept([rng.choice(allowed)])


def grammar_state(matcher: tables.TableMatcher) -> int:
    return matcher._path[-1]


@pytest.mark.parametrize(
    "pattern", [r"[a-z]{1,100}", r"(a|b)*a(a|b){12}", r"\w{1,30}", r"((a?){50}){50}a{2000}"]
)
def test_pattern_with_a_large_table_is_left_to_the_parsing_engine(pattern: str) -> None:
    assert tables.try_build(byte_vocabulary(), rewritten(pattern)) is None


def test_pattern_that_no_text_matches_is_refused() -> None:
    with pytest.raises(UnsupportedSchema, match="no text"):
        tables.try_build(byte_vocabulary(), r"[^\x{0}-\x{10FFFF}]")


def test_pattern_that_no_token_begins_is_refused() -> None:
    vocabulary = Vocabulary([b"a", b"b", b""], [2], 2, lambda text: [], "ab")
    with pytest.raises(UnsupportedSchema, match="no text"):
        tables.try_build(vocabulary, "c")


def test_rows_in_one_state_share_one_mask() -> None:
    grammar = table_of(r"[a-z]{3}[a-z]*x|[a-z]{9}", bpe_vocabulary())
    masks = {id(grammar.place(s).mask): grammar.place(s).mask for s in range(len(grammar.table))}
    assert len({m.tobytes() for m in masks.values()}) == len(masks) < len(grammar.table)


def test_duplicate_empty_and_special_tokens_keep_their_ids() -> None:
    tokens = [b"a", b"", b"ab", b"a", b"b", b"abc", b"b", b"\xff", b"a"]
    vocabulary = Vocabulary(tokens, [8], 1, lambda text: [], "twice")
    matcher = table_of("(ab?)+", vocabulary).matcher()
    assert ids_of(mask_of(matcher, vocabulary)) == [0, 2, 3]
    matcher.accept([3])
    assert ids_of(mask_of(matcher, vocabulary)) == [0, 2, 3, 4, 6]
    for bad in (1, 8, 9, -1, 5, 7):
        with pytest.raises(ConstraintError):
            matcher.accept([4, bad])
        assert matcher.explain(bad)
    assert matcher.is_complete and not matcher.is_final
