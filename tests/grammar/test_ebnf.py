"""The GBNF dialect: plain context-free grammars, exact or refused where they stand."""

from __future__ import annotations

import itertools
import re

import pytest
from grammar_support import accepts, grammar
from hypothesis import given, settings
from hypothesis import strategies as st

from sgrt.core import Ebnf, JsonSchema, Regex, SequenceOf
from sgrt.errors import ConstraintError, GrammarBudgetExceeded, GrammarSyntaxError

_TEXTS = ["".join(t) for n in range(5) for t in itertools.product("ab-", repeat=n)]
_TEXTS += ["\n", "é", "]", '"', "\\", "a\n", "😀"]

_SAME = [
    ('root ::= "a" | "b" "a"', "a|ba"),
    ('root ::= x+ y?\nx ::= "a"\ny ::= [^a]', "a+[^a]?"),
    ('# c\nroot ::= ( # c\n "a"\n | "b" )* # c\n\n', "[ab]*"),
    ('root ::=\n "a" |\n "b"\n | "-"', "[ab-]"),
    ('root ::= "a"{2} "b"{0,1} [-]{1,}', "aab?-+"),
    ('root ::= "a"{0} "b"', "b"),
    (r'root ::= [\x61\u0062-] [^\n\]"\\]', r"[ab\-][^\n\]\"\\]"),
    (r'root ::= [a-b]* | "\n" | "\"" | "\\" | "\U0001F600"', '[ab]*|\n|"|\\\\|😀'),
    ("root ::= .", "(?s:.)"),
    ('root ::= -x 2y _z\n-x ::= "a"\n2y ::= "b"\n_z ::= "-"', "ab-"),
    ('root ::= | "a"', "a?"),
    ('root ::= ""', ""),
    ('root ::= "a"* "ab"', "a*ab"),
    ('root ::= ("a" "b-" | "ab" "a")', "ab-|aba"),
    ('root ::= ("a"* | "b")* "-"', "(a*|b)*-"),
    # recursive, so read character by character: greed would take too much
    ('root ::= start\nstart ::= "a" start | "a"* "ab" | "-"', "a*(ab|-)"),
    ('root ::= root "b" | "ab"* "a"', "(ab)*ab*"),
    ('root ::= "a" root | ("a" "b-" | "ab" "a")', "a*(ab-|aba)"),
    ('root ::= x | "a"\nx ::= y "b"\ny ::= x?', "a|b+"),
    ('root ::= "a" | "b" x\nx ::= "a" x', "a"),
    ('root ::= ("a"? "b"?)* | "-" root "-"', "(-*)[ab]*(-*)"),
]


@pytest.mark.parametrize(("text", "same"), _SAME, ids=lambda value: repr(value)[:30])
def test_ebnf_construct_accepts_what_its_regex_does(text: str, same: str) -> None:
    compiled = grammar(Ebnf(text))
    for sample in _TEXTS:
        found = re.fullmatch(same, sample)
        expected = bool(found)
        if found and found.re.groups == 2 and same.startswith("(-*)"):
            expected = len(found[1]) == len(found[2]) or _balanced(sample)
        assert accepts(compiled, sample) == expected, sample


def _balanced(text: str) -> bool:
    inner = text.strip("-")
    return not inner and len(text) % 2 == 0


_PARTS = st.sampled_from(
    ['"a"', '"ab"', "[ab]", '"a"*', '"b"?', '("a" | "ab")', "[^a]+", '"-"{1,2}']
)


@given(st.lists(st.lists(_PARTS, min_size=1, max_size=3), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_ebnf_recursive_and_plain_grammars_of_one_language_agree(
    alternatives: list[list[str]],
) -> None:
    """One as a pattern, the other character by character; both as `re` reads it."""
    body = " | ".join(" ".join(parts) for parts in alternatives)
    plain = grammar(Ebnf(f"root ::= ({body})*"))
    recursive = grammar(Ebnf(f"root ::= | root ({body})"))
    same = re.sub(r'[" ]', "", body)
    for text in _TEXTS[::2]:
        expected = bool(re.fullmatch(f"({same})*", text))
        assert accepts(plain, text) == expected == accepts(recursive, text), text


def test_ebnf_palindromes_are_exact() -> None:
    compiled = grammar(Ebnf('root ::= "a" root "a" | "b" root "b" | "a" | "b" | "-" | ""'))
    for text in ("".join(t) for n in range(6) for t in itertools.product("ab-", repeat=n)):
        middle = text[len(text) // 2] if len(text) % 2 else ""
        expected = (
            text == text[::-1]
            and text.replace(middle, "", 1 if middle == "-" else 0).count("-") == 0
        )
        assert accepts(compiled, text) == expected, text


_JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def test_ebnf_of_json_as_people_write_it() -> None:
    compiled = grammar(Ebnf(_JSON))
    for good in ("{}", '{"a": [1, -2.5e3, "x\\n\\u00e9"], "b":{"c": null}}', '{\n  "a": true}\n'):
        assert accepts(compiled, good), good
    for bad in ("[]", '{"a":}', '{"a":1,}', '{"a":01}', '{"a":"\n"}', "{  }"):
        assert not accepts(compiled, bad), bad


def test_ebnf_can_be_part_of_a_composition() -> None:
    number = Ebnf('root ::= d+ ("." d+)?\nd ::= [0-9]')
    compiled = grammar(SequenceOf(("x=", number, Regex(" (mm|cm)"), JsonSchema('{"const":[]}'))))
    assert accepts(compiled, "x=1.5 mm[]") and not accepts(compiled, "x=1. mm[]")
    compiled = grammar(SequenceOf((Ebnf('root ::= "a" root "b" | ""'), "b")))
    assert accepts(compiled, "aabbb") and not accepts(compiled, "aabb")


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ('root ::= "a" foo', 1, 14, "'foo' is not defined"),
        ('start ::= "a"', 1, None, "no rule 'root'"),
        ("", 1, None, "no rule 'root'"),
        ('root ::= "a"\nx ::= "b"\nroot ::= "c"', 3, 1, "already defined in line 1"),
        ('root := "a"', 1, 6, "unexpected character ':'"),
        ('root "a"', 1, 6, "'::=' expected"),
        ('root ::= "a', 1, 10, "never closed"),
        ("root ::= [a", 1, 10, "never closed"),
        ('root ::= ("a"', 1, 14, "')' expected, found the end"),
        ('root ::= "a")', 1, 13, "end of the line expected"),
        ('root ::= "a" x ::= "b"', 1, 14, "line of its own"),
        ('root ::= "a"**', 1, 14, "repeat of a repeat"),
        ('root ::= "a"{,2}', 1, 13, "a repeat is"),
        ('root ::= "a"{3,2}', 1, 13, "wrong way round"),
        ("root ::= *", 1, 10, "end of the line expected, found '*'"),
        (r'root ::= "a\q"', 1, 12, r"escape '\\q'"),
        (r'root ::= "a\x4"', 1, 12, "escape"),
        (r"root ::= [a\ud800]", 1, 12, "U+D800"),
        (r'root ::= "\U00110000"', 1, 11, "U+110000"),
        ("root ::= [b-a]", 1, 10, "wrong way round"),
        ("root ::= <think>", 1, 10, "tokens cannot be written"),
        ('root ::= "a" (= "b")', 1, 14, "look-ahead"),
        ("root ::= 'a'", 1, 10, "a string stands in double quotes"),
        ('root ::= "\ud800"', 1, 11, "surrogate"),
    ],
)
def test_ebnf_unsupported_is_refused_where_it_stands(
    text: str, line: int, column: int | None, reason: str
) -> None:
    with pytest.raises(GrammarSyntaxError) as caught:
        grammar(Ebnf(text))
    assert reason in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize(
    "text", ['root ::= "a" root', "root ::= []", 'root ::= "a" [^\\x00-\\U0010FFFF]']
)
def test_ebnf_without_a_finite_text_is_refused(text: str) -> None:
    with pytest.raises(ConstraintError, match="no text"):
        grammar(Ebnf(text))


def test_ebnf_of_another_dialect_is_refused() -> None:
    with pytest.raises(ConstraintError, match="dialect='iso'"):
        grammar(Ebnf('root = "a";', "iso"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(99)) + 'r99 ::= "a"',
        "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(1_900)) + 'r1900 ::= "a"',
        "root ::= " + "(" * 9_000 + '"a"' + ")" * 9_000,
        'root ::= "a" root | (("b"{1000}){1000}){1000}',
        'root ::= "a"{99999999999}',
        "root ::= " + '"aaaaaa" ' * 40_000,
    ],
)  # fmt: skip
def test_ebnf_too_large_is_refused(text: str) -> None:
    with pytest.raises(GrammarBudgetExceeded):
        grammar(Ebnf(text))


# the dialect of xgrammar: what its documentation shows, judged as it judges

_XGRAMMAR: list[tuple[str, list[str], list[str]]] = [
    (
        'root ::= expr ("=" expr)*\nexpr ::= term ([-+*/] term)*\n'
        'term ::= num | "(" expr ")"\nnum  ::= [0-9]+\n',
        ["1+2", "(3*4)-5=7", "2=2=2"],
        ["", "1+", "(1", "=1"],
    ),
    ('root ::= "a" |\n         "b"\n\n  "c"', ["a", "bc"], ["b", "ac"]),
    ('root ::= root "a" | "a"', ["a", "aaa"], ["", "b"]),
    ("root ::= [^]", ["a", "\n", "é"], ["", "ab"]),
    ("root ::= ( )", [""], ["a"]),
    ('root ::= ("a"+)+ "b"{0} "c"{ 1 , 2 }', ["ac", "aacc"], ["a", "abc", "accc"]),
    (r'root ::= "\"" ([^"\\\x00-\x1f] | "\\" ["\\/bfnrt])* "\""', ['"a"', '"\\n"'], ['"\n"', '"']),
    (r'root ::= "\x41\u0042\e\0\/\'\?" [\^\$\.\*\-\]]', ["AB\x1b\0/'?-", "AB\x1b\0/'?]"], ["AB"]),
    (r'root ::= "\x1F600"', ["😀"], ["\x1f600"]),
    ('root ::= x.y -z\nx.y ::= "d"\n-z ::= "e"', ["de"], ["d"]),
    ('root ::= a (b) # c\n # d\na ::= "x"\nb ::= "y"', ["xy"], ["x"]),
    ('root ::= "ID-" Regex("[0-9]{2}.")', ["ID-12x", "ID-12\n"], ["ID-1", "ID-123x"]),
    (
        'root ::= "(" Substring("ab", "c", "ab", "") ")"',
        ["()", "(ab)", "(cab)", "(abcab)"],
        ["(a)", "(abab)", "(ca)"],
    ),
    ('root ::= "(" root ")" | Substring("a", "b")', ["", "a", "((ab))", "(b)"], ["(ba)", "(a"]),
    ('root ::= Regex("a.", flags="") "b"', ["aab"], ["Aab", "a\nb"]),
    ('root ::= Regex("a.", flags = "is") "b"', ["aab", "A\nb"], ["aAB"]),
    ('root ::= Regex("(?i)a.") "b"', ["aab", "A\nb"], ["aAB"]),
    ('root ::= ("a"){2, -1} "b"{1,-1}', ["aab", "aaaabb"], ["ab", "aa"]),
]


@pytest.mark.parametrize(("text", "good", "bad"), _XGRAMMAR)
def test_xgrammar_dialect_keeps_its_table(text: str, good: list[str], bad: list[str]) -> None:
    compiled = grammar(Ebnf(text, "xgrammar"))
    for sample in good:
        assert accepts(compiled, sample), sample
    for sample in bad:
        assert not accepts(compiled, sample), sample


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ('root ::= "a"\na ::= "x" (="b")', 2, 11, "look-ahead is not supported"),
        ('root ::= "a" (?="b")', 1, 14, "look-ahead is not supported"),
        ('root[max_tokens=3] ::= "a"', 1, 5, "options of rules are not supported"),
        ('root ::= "a"\nb[capture] ::= "a"', 2, 2, "options of rules"),
        ("root ::= Token(3)", 1, 10, "Token is not supported"),
        ('root ::= "x"\na ::= TagDispatch(("a", root))', 2, 7, "TagDispatch is not supported"),
        ('root ::= Regex("a", flags="m")', 1, 27, "flags 'm' are not supported"),
        ('root ::= Regex("a", json_string=true)', 1, 21, "option 'json_string' is not supported"),
        ('root ::= Regex("a", flags="i",)', 1, 30, "')' expected"),
        ('root ::= Regex("a",', 1, 20, "option '' is not supported"),
        ("root ::= Substring()", 1, 20, "a chunk in quotes expected"),
        ('root ::= Substring("ab",)', 1, 25, "a chunk in quotes expected"),
        ('root ::= Substring("ab" "c")', 1, 25, "')' expected"),
        ('root ::= "a" , "b"', 1, 14, "a rule expected, found ','"),
        ('root ::= "a"{2,-2}', 1, 13, "a repeat is"),
        ('root ::= Regex("(?=a)")', 1, 16, "look-ahead is not supported (in Regex)"),
        ("root ::= .", 1, 10, "'.' is not defined"),
        (r"root ::= [\d]", 1, 11, "escape"),
        (r'root ::= "\uD800"', 1, 11, "not a character"),
        ('root ::= "a" b ::= "c"', 1, 14, "on a line of its own"),
        ('true ::= "a"', 1, 1, "'true' is no name"),
        ('root ::= "a"{,4}', 1, 13, "a repeat is"),
    ],
)
def test_xgrammar_dialect_refuses_where_it_stands(
    text: str, line: int, column: int, reason: str
) -> None:
    with pytest.raises(GrammarSyntaxError) as caught:
        grammar(Ebnf(text, "xgrammar"))
    assert (caught.value.line, caught.value.column) == (line, column)
    assert reason in str(caught.value)


def test_ebnf_of_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(ConstraintError, match="'w3c' must be one of gbnf, xgrammar"):
        grammar(Ebnf('root ::= "a"', "w3c"))  # type: ignore[arg-type]
