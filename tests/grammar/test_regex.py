"""The regex dialect against `re`, its refusals with their places, its budgets."""

from __future__ import annotations

import bisect
import itertools
import re
import time
import unicodedata

import pytest
from grammar_support import accepts, allowed_ids, byte_vocabulary, grammar
from hypothesis import given, settings
from hypothesis import strategies as st

from sgrt.core import JsonSchema, Regex
from sgrt.errors import GrammarBudgetExceeded, GrammarSyntaxError, UnsupportedSchema
from sgrt.grammar import automaton, charset, json_text, regex
from sgrt.grammar.engines import characters
from sgrt.grammar.schema import strings

_TEXTS = ["".join(t) for n in range(4) for t in itertools.product("ab1 ", repeat=n)]
_TEXTS += [
    "\n",
    "a\n",
    "é",
    "aé",
    "\u0661",
    "\u00a0",
    "_",
    "A",
    ".",
    "-",
    "]",
    "{",
    "a{2",
    "^",
    "😀",
]

_ATOMS = st.sampled_from(
    ["a", "b", "1", " ", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[ab]", "[^a]", "[a-c1]",
     r"[\d_]", r"[^\w]", r"\.", "é", r"\x61", r"\u00e9", "[]a]", "[a-]", "{", r"\n", "(?:)"]
)  # fmt: skip
_REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "*?", "{0}"])


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    sequence = st.lists(inner, min_size=1, max_size=3).map("".join)
    choice = st.lists(sequence, min_size=1, max_size=3).map("|".join)
    kinds = st.sampled_from(["({})", "(?:{})", "(?P<n>{})"])
    group = st.builds(lambda body, kind, tail: kind.format(body) + tail, choice, kinds, _REPEATS)
    return st.one_of(sequence, group)


_PATTERNS = st.recursive(st.builds(str.__add__, _ATOMS, _REPEATS), _grow, max_leaves=6)


@given(_PATTERNS, st.text("ab1 \né_.", max_size=6))
@settings(max_examples=80, deadline=None)
def test_regex_random_patterns_match_what_re_fullmatch_matches(pattern: str, extra: str) -> None:
    try:
        expected = re.compile(pattern, re.ASCII)
    except re.error:  # a group name used twice
        return
    compiled = grammar(Regex(pattern))
    for text in [*_TEXTS[::3], extra]:
        assert accepts(compiled, text) == bool(expected.fullmatch(text)), (pattern, text)


@pytest.mark.parametrize(
    "pattern",
    ["^a|b$", "^(a|b)$", "(^a|b)1", "(?:a$|b$)", r"\Aab\Z", "a{,2}", "a{,}", "a{2", "{", "x{,a}",
     "(?s).", "(?a)\\w", "[]a]+", "[^]a]", "[a-]", r"[\w-]", "()", "(|a)b", "a||b", r"\0", r"[\b]",
     "a+?b*?", r"\-", "a]", "}"],
)  # fmt: skip
def test_regex_corner_of_the_syntax_matches_what_re_fullmatch_matches(pattern: str) -> None:
    compiled, expected = grammar(Regex(pattern)), re.compile(pattern, re.ASCII)
    for text in _TEXTS:
        assert accepts(compiled, text) == bool(expected.fullmatch(text)), text


@pytest.mark.parametrize(
    "pattern",
    ["(?i)aB", "(?i)[^a]", "(?i)[A-b]+", r"(?i)\x41\u0062", r"(?is).\W", r"(?i)[^\Wb]", "(?i)k", "(?i)[É-ÿ]",
     "(?i)é", "(?i)[^k]", "(?ia)[\\[-`]|z"],
)  # fmt: skip
def test_regex_in_any_case_matches_what_re_fullmatch_matches(pattern: str) -> None:
    compiled, expected = grammar(Regex(pattern)), re.compile(pattern, re.ASCII)
    texts = [*"aAbBkK\u212aſéÉzZ[`_\n", *map("".join, itertools.product("aAbB\n_", repeat=2))]
    for text in texts:
        assert accepts(compiled, text) == bool(expected.fullmatch(text)), text


@given(_PATTERNS.filter(lambda p: "?P<" not in p and "{,2}" not in p and "[]" not in p))
@settings(max_examples=50, deadline=None)
def test_pattern_random_search_accepts_only_what_re_search_accepts(pattern: str) -> None:
    compiled = grammar(JsonSchema(json_text.dump({"type": "string", "pattern": pattern})))
    # \d, \w, \s, their complements and "." mean more to some readers than to others.
    ambiguous = re.search(r"\\[dwsDWS]|\.", pattern)
    for text in _TEXTS[::3]:
        accepted = accepts(compiled, json_text.dump(text))
        expected = bool(re.search(pattern, text))
        assert accepted <= expected if ambiguous else accepted == expected, (pattern, text)


@pytest.mark.parametrize(
    "pattern", ["^a", "a$", "^a$", "a", "^a|b$", "(^a|b)", "(a$|b)", "^$", "^(a|b)1$", "(^| )a"]
)
def test_pattern_anchors_mean_the_edges_of_the_text(pattern: str) -> None:
    compiled = grammar(JsonSchema(json_text.dump({"type": "string", "pattern": pattern})))
    for text in [t for t in _TEXTS if not t.endswith("\n")]:
        assert accepts(compiled, json_text.dump(text)) == bool(re.search(pattern, text)), text


@pytest.mark.parametrize(
    "pattern",
    ["^(a|b$)$", "^(^a|b)$", "^((^a|b)|1)$", "(1|(a|b$))$", "^(^a$|^[ab])$", "((^a|b)|1$)", "(^|a)1(a|$)",
     "^(?=(^a|b))", "^(?!(^a|b)|1)", "(?=(a|b$)$)", "^(?=.*b$)(?=.|1).(a|b$)$", "(?!a$|b)[^b]"],
)  # fmt: skip
def test_pattern_with_anchors_in_groups_matches_what_re_search_matches(pattern: str) -> None:
    compiled = grammar(JsonSchema(json_text.dump({"type": "string", "pattern": pattern})))
    for text in map("".join, itertools.product("ab1", repeat=3)):
        assert accepts(compiled, json_text.dump(text)) == bool(re.search(pattern, text)), text


@pytest.mark.parametrize(
    "pattern",
    ['^[^"]*$', '^[^"\\\\]{0,9}$', "^[^\\\\]+$", '^[^"\n]*$', '^([^"]|1")*$', '^[^\\\\\n]*$'],
)  # fmt: skip
def test_pattern_without_a_mark_that_json_escapes_never_matches_it(pattern: str) -> None:
    value = grammar(JsonSchema(json_text.dump({"type": "string", "pattern": pattern})))
    closed = {"patternProperties": {pattern: {"const": 1}}, "additionalProperties": False}
    key = grammar(JsonSchema(json_text.dump({"type": "object", **closed})))
    for text in ["ab", *map("".join, itertools.product('a1"\\', repeat=3))]:
        expected = bool(re.search(pattern, text))
        assert accepts(value, json_text.dump(text)) == expected, text
        assert accepts(key, json_text.dump({text: 1})) == expected, text


@pytest.mark.parametrize(
    ("pattern", "accepted"),
    [(r"^(a\x01b|q)$", ["q"]), (r"^a\x0b?b$", ["ab"]), (r"^a[\x01\t]b$", ["a\tb"]), (r"^\x7fa$|^b$", ["b"]),
     (r"^(?:ab\x00|[\x01-\x03]|a)$", ["a"])],
)  # fmt: skip
def test_pattern_with_characters_that_are_never_written_does_not_lose_them(
    pattern: str, accepted: list[str]
) -> None:
    node = {"type": "string", "pattern": pattern}
    compiled = grammar(JsonSchema(json_text.dump(node)))
    texts = ["", "a", "b", "q", "ab", "a\tb", "aab", "abab"]
    assert [t for t in texts if accepts(compiled, json_text.dump(t))] == accepted
    closed = {"patternProperties": {pattern: {}}, "additionalProperties": False}
    keys = grammar(JsonSchema(json_text.dump({"type": "object", **closed})))
    assert [t for t in texts if accepts(keys, json_text.dump({t: 1}))] == accepted


@pytest.mark.parametrize("pattern", [r"^a\x01b$", r"^\x01+$", r"a[\x01-\x03]b"])
def test_pattern_that_only_texts_match_that_are_never_written_leaves_no_way_in(
    pattern: str,
) -> None:
    node = {"type": "string", "pattern": pattern}
    with pytest.raises(UnsupportedSchema, match="satisfies this schema"):
        grammar(JsonSchema(json_text.dump(node)))
    inside = grammar(JsonSchema(json_text.dump({"type": "object", "properties": {"a": node}})))
    matcher = inside.matcher()
    matcher.accept(list(b'{"'))
    assert ord("a") in allowed_ids(matcher, byte_vocabulary())  # of other keys, as "ab"
    assert not accepts(inside, '{"a":"ab"}') and accepts(inside, '{"ab":1}')


def test_listed_texts_leave_out_those_that_are_never_written() -> None:
    node = {
        "type": "string",
        "pattern": r"^\s{0,2}$",
        "allOf": [{"pattern": "^[^a]*$"}],
        "minLength": 2,
    }
    compiled = grammar(JsonSchema(json_text.dump(node)))
    assert [t for t in ("\t", " ", "\t ", "\n\n") if accepts(compiled, json_text.dump(t))] == [
        "\t ",
        "\n\n",
    ]


@pytest.mark.parametrize(
    "pattern",
    [r"^(?=.*[a-z])(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{3,}$", "^(?=.{3}$)(?=.*[@1])(?!B).*$", "^(?!a)(?!.*@@)[aB@]+$",
     "^(?=a|B)1|@", "^(?=a)(?=.1)", "^(?!(a|1$))(?!^B).", "^(?=[(|)a])a|1$", "^(?=a)?B", "^(?=a(?=1))a[^@]"],
)  # fmt: skip
def test_pattern_with_look_aheads_in_front_matches_what_re_search_matches(pattern: str) -> None:
    node = {"type": "string", "pattern": pattern}
    try:
        compiled = grammar(JsonSchema(json_text.dump(node)))
        others = grammar(JsonSchema(json_text.dump({"type": "string", "not": node})))
    except UnsupportedSchema as error:
        assert "nothing to repeat" in str(error)
        return
    for text in ["", "a", *map("".join, itertools.product("aB1@", repeat=3)), "aB1@"]:
        expected = bool(re.search(pattern, text))
        assert accepts(compiled, json_text.dump(text)) == expected, text
        if not expected:  # \d and . of some reader may match what those of another one do not
            assert accepts(others, json_text.dump(text)), text


@pytest.mark.parametrize(
    "pattern",
    [r"^(?=.*[a-z])(?=.*[A-Z])(?=.*\d)(?=.*[@$!%*?&])[A-Za-z\d@$!%*?&]{8,}$",
     r"^(?=.{8,64}$)(?=.*[A-Z])(?=.*[0-9])(?=.*[^a-zA-Z0-9]).*$"],
)  # fmt: skip
def test_pattern_of_a_password_is_accepted_and_can_be_completed(pattern: str) -> None:
    compiled = grammar(JsonSchema(json_text.dump({"type": "string", "pattern": pattern})))
    for text in ("Abcdef1@", "Abcdef1", "abcdefg1@", "Abcdefgh@", "Abcdefg12"):
        assert accepts(compiled, json_text.dump(text)) == bool(re.search(pattern, text)), text
    completion = compiled.matcher().shortest_completion()
    assert completion is not None and compiled.matcher().completes(completion)


@pytest.mark.parametrize(
    "pattern",
    [r"^$|(^(?:\S+\s+){0,99}\S+$)", r"^(\S+\s*){0,49}\S+$", r"^(?:[^\s,]+,\s*){0,49}[^\s,]+$"],
)
def test_pattern_of_many_words_held_to_a_length_stays_within_the_budget_of_masks(
    pattern: str,
) -> None:
    node = {"type": "string", "pattern": pattern, "minLength": 1, "maxLength": 5000}
    matcher = grammar(JsonSchema(json_text.dump(node))).matcher()
    for byte in b'"' + b"words,and, words," * 9 + b'x"':
        assert byte in allowed_ids(matcher, byte_vocabulary())
        matcher.accept([byte])
    assert matcher.is_complete


@pytest.mark.parametrize("repeat", ["*", "+", "{0,3}", "{2}", "{1,}"])
@pytest.mark.parametrize("parts", [("a", "b"), ("a+", "b*"), ("[ab]+", "b"), ("a{2}", "a?b")])
def test_pattern_rotated_matches_the_same_texts(parts: tuple[str, str], repeat: str) -> None:
    first, others = parts
    for end in (first, f"{first}b", "a+", "a{3}", ""):
        written = regex.rewrite(f"(?:{first}{others}){repeat}{end}", regex.PYTHON)
        rotated = strings.rotated(written)
        assert automaton.compile(rotated).is_same(automaton.compile(written)), (written, rotated)


@pytest.mark.parametrize("pattern", ["(?=a)(^a|b)", "(?!b)(?:^a|1)"])
def test_pattern_whose_look_ahead_stands_before_a_tied_group_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedSchema, match="behind another"):
        grammar(JsonSchema(json_text.dump({"type": "string", "pattern": pattern})))


@pytest.mark.parametrize(
    "pattern",
    ["(?=a).*b", "(?!ab|b)[ab1]*", "a(?=b$)[b\n]*", "(?!.*aa)(?=.*1)[ab1]*",
     "(?s)(?=.b).*", "(?:a(?!b)|b){2,3}", "(?=(?:a|b$)).*", "(?!(?:a|b$)).*", "(?=a(?!b)).*"],
)  # fmt: skip
def test_regex_that_looks_ahead_matches_what_re_fullmatch_matches(pattern: str) -> None:
    compiled, expected = grammar(Regex(pattern)), re.compile(pattern, re.ASCII)
    for text in ["", *map("".join, itertools.product("ab1\n", repeat=3)), "ab", "a", "b", "b\n"]:
        assert accepts(compiled, text) == bool(expected.fullmatch(text)), text


@pytest.mark.parametrize(
    ("pattern", "valid", "invalid"),
    [(r"^\p{Letter}+$", ["aé", "π", "中"], ["1", "", "a b"]), (r"^\P{L}+$", ["12", " "], ["a", "π"]),
     (r"^[\p{Lu}\p{gc=Nd}_]+$", ["A_٣", "Ä"], ["a", "-"]), (r"^[^\p{L}\d]$", ["-"], ["1", "π"]),
     (r"^\p{Script=Greek}+$", ["αβ"], ["a", "д"]), (r"^\p{sc=Cyrillic}$", ["д"], ["α"]),
     (r"^[\p{Emoji_Presentation}]$", ["😀"], ["1", "a"]), (r"\p{White_Space}", ["a\u3000b"], ["ab"]),
     (r"^(?<first>\p{Lu})\p{Ll}*$", ["Ada"], ["ada"])],
)  # fmt: skip
def test_property_of_unicode_holds_for_the_characters_that_have_it(
    pattern: str, valid: list[str], invalid: list[str]
) -> None:
    schema = grammar(JsonSchema(json_text.dump({"type": "string", "pattern": pattern})))
    for text in (*valid, *invalid):
        assert accepts(schema, json_text.dump(text)) == (text in valid), text


def test_property_of_unicode_agrees_with_the_categories_python_knows() -> None:
    """Where Unicode 10, which every reader knows, has a character at all."""
    held: dict[str, set[int]] = {}
    for code in (*range(0x3000), *range(0xFE00, 0x10800), *range(0x1F000, 0x1F800)):
        held.setdefault(unicodedata.category(chr(code)), set()).add(code)
    everything = set().union(*held.values())
    for name in ("Lu", "Ll", "Nd", "Sc", "Po", "Zs", "Cf"):
        found = characters.with_property(name)
        assert found is not None
        sure, maybe = ({c for c in everything if _holds(chars, c)} for chars in found)
        assert sure and sure <= held[name] <= maybe, name


def _holds(chars: charset.Charset, code: int) -> bool:
    at = bisect.bisect_right(chars, (code, charset.MAX_CODE_POINT)) - 1
    return at >= 0 and chars[at][0] <= code <= chars[at][1]


@pytest.mark.parametrize(
    "pattern",
    ["a(?i:b|1a)", "(?i)a(?-i:b)b", "(?s:.)", "(?s).(?-s:.).", "(?i:a(?s:.))b", "(?i:[a-b])1(?=a).",
     "((?i:a)b)+", "(?ai-s:a.)", "(?i:a(?-i:b)(?i:b))"],
)  # fmt: skip
def test_regex_with_flags_in_groups_matches_what_re_fullmatch_matches(pattern: str) -> None:
    compiled = grammar(Regex(pattern))
    texts = ["".join(t) for n in range(5) for t in itertools.product("aAbB1\n", repeat=n)]
    for text in texts:
        assert accepts(compiled, text) == bool(re.fullmatch(pattern, text, re.ASCII)), text


@pytest.mark.parametrize(
    ("pattern", "same"),
    [("(?<n>a|b)1", "(?P<n>a|b)1"), (r"\x{61}\u{0031}", "a1"), (r"[\x{61}-\u{62}]", "[a-b]"),
     (r"\cJ", r"\n"), (r"[^\cj]", r"[^\n]"), (r"\u{1F600}", "😀")],
)  # fmt: skip
def test_regex_that_python_cannot_read_means_what_others_mean_by_it(
    pattern: str, same: str
) -> None:
    with pytest.raises(re.error):
        re.compile(pattern)
    compiled = grammar(Regex(pattern))
    for text in _TEXTS:
        assert accepts(compiled, text) == bool(re.fullmatch(same, text, re.ASCII)), text


@pytest.mark.parametrize(
    ("pattern", "column"),
    [("(?:(?=a)a)*", 11), (r"a(?=b\Z)", 7), ("a(?=^b)b", 2), ("(?<=a)b", 1), ("(?<!a)b", 1), (r"(a)\1", 5), (r"\bword", 2), ("(?m)a", 1), ("(?ix)a", 1),
     ("a(?i)b", 2), ("a(?m:b)", 2), ("(?i-a:b)", 1), (r"\x{110000}", 10), (r"\x{}", 2), (r"\c1", 2), ("(?<1>a)", 4), ("(?>a)", 1), ("a++", 3), ("a^b", 2), ("a$b", 3), ("(a$)?", 5), ("(a", 1),
     ("a)", 2), ("[a", 1), ("[z-a]", 4), (r"[\w-.]", 5), ("*a", 1), ("a**", 3), ("a{3,2}", 6),
     ("a\\", 2), (r"\x4", 2), (r"\pL", 2), (r"\p{Greek}", 3), (r"\p{letter}", 3), (r"[\p{L}-z]", 8), (r"(?i)\p{Lu}", 6), (r"\q", 2), ("(?P=n)", 1), ("(?#c)", 1), ("\ud800", 1),
     ("a|{2}", 3), ("(?P<n>a)(?P<n>b)", 13), ("(?|a)", 1)],
)  # fmt: skip
def test_regex_unsupported_is_refused_with_its_column(pattern: str, column: int) -> None:
    with pytest.raises(GrammarSyntaxError) as caught:
        grammar(Regex(pattern))
    assert (caught.value.line, caught.value.column) == (1, column)


def test_regex_error_on_a_later_line_names_that_line() -> None:
    with pytest.raises(GrammarSyntaxError) as caught:
        grammar(Regex("ab\ncd(?<=d)"))
    assert (caught.value.line, caught.value.column) == (2, 3)


@pytest.mark.parametrize(
    "pattern",
    ["a{1000000000}", "((a{100}){100}){100}", "(" * 65 + ")" * 65, "a" * 20_000, "(?:a?){99999}{2}",
     "((((a{99}){99}){99}){99}){99}", "a{99999999999999999999}"],
)  # fmt: skip
def test_regex_over_budget_is_refused_at_once(pattern: str) -> None:
    start = time.process_time()
    with pytest.raises((GrammarBudgetExceeded, GrammarSyntaxError)):
        grammar(Regex(pattern))
    assert time.process_time() - start < 10


@pytest.mark.parametrize("pattern", ["[^\\d\\D]", "a[^\\s\\S]", "(?:[^\\w\\W]|[^\\d\\D])x"])
def test_regex_that_matches_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedSchema, match="no text"):
        grammar(Regex(pattern))


def test_regex_mask_out_of_fuel_ends_its_matcher_with_our_error() -> None:
    with pytest.raises(GrammarBudgetExceeded):
        matcher = grammar(Regex("((a?){50}){50}a{2000}")).matcher()
        for _ in range(100):
            assert ord("a") in allowed_ids(matcher, byte_vocabulary())
            matcher.accept([ord("a")])


def test_rewritten_pattern_reads_the_same_in_python() -> None:
    """What the engine gets is plain enough that `re` reads it too."""
    pattern = regex.rewrite(r"[a-c]+\d?|x", regex.PYTHON)
    plain = re.sub(r"\\x\{([0-9A-F]+)\}", lambda m: re.escape(chr(int(m[1], 16))), pattern)
    for text in ("abc1", "x", "", "1"):
        assert bool(re.fullmatch(plain, text)) == bool(re.fullmatch(r"[a-c]+\d?|x", text))
