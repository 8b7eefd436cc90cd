"""Compositions and quotations: exact as a whole, or refused."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from grammar_support import accepts, grammar
from hypothesis import given, settings
from hypothesis import strategies as st

from sgrt.core import (
    AnyText,
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    Lark,
    OneOf,
    Regex,
    RepeatOf,
    SequenceOf,
    StructuralTag,
    Structure,
    Substring,
)
from sgrt.errors import ConstraintError, GrammarBudgetExceeded, GrammarSyntaxError
from sgrt.grammar import regex, regular

_TEXTS = ["".join(t) for n in range(6) for t in itertools.product("ab1", repeat=n)][::2]

# A composition and the regex that says the same.
_PATTERNS = st.sampled_from(["a*", "a|ab", "[ab]?", "b{1,2}", "1", "(?:ab)+", "[^b]"])
_LEAVES = st.one_of(
    st.builds(lambda p: (Regex(p), f"(?:{p})"), _PATTERNS),
    st.builds(lambda t: (t, t), st.sampled_from(["a", "ab", "", "b1"])),
    st.just((Choices(("a", "ab", "b")), "(?:a|ab|b)")),
)


def _repeat(part: Any, low: int, more: int | None, separator: str) -> Any:
    high = None if more is None else low + more
    same = f"{{{low},{'' if high is None else high}}}"
    if separator:
        rest = f"(?:{separator}{part[1]}){{{max(low - 1, 0)},{'' if high is None else max(high - 1, 0)}}}"
        same_ = f"(?:{part[1]}{rest})" + ("" if low else "?")
        return RepeatOf(part[0], low, high, separator), "(?:)" if high == 0 else same_
    return RepeatOf(part[0], low, high), f"(?:{part[1]}){same}"


def _grow(inner: Any) -> Any:
    parts = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        parts.map(lambda ps: (SequenceOf([p for p, _ in ps]), "".join(s for _, s in ps))),
        parts.map(lambda ps: (OneOf([p for p, _ in ps]), f"(?:{'|'.join(s for _, s in ps)})")),
        st.builds(_repeat, inner, st.integers(0, 2), st.sampled_from([None, 0, 1, 2]),
                  st.sampled_from(["", "1"])),
    )  # fmt: skip


@given(st.recursive(_LEAVES, _grow, max_leaves=6).filter(lambda pair: not isinstance(pair[0], str)))
@settings(max_examples=60, deadline=None)
def test_composition_of_regular_constraints_accepts_what_its_regex_does(pair: Any) -> None:
    constraint, same = pair
    compiled = grammar(constraint)
    for text in _TEXTS:
        assert accepts(compiled, text) == bool(re.fullmatch(same, text)), (constraint, text)


@pytest.mark.parametrize(
    "pattern", ["a{2}b{1,}c{,3}", r"[^\d]+\.x", "(a|)b?", "é|日本", "[a-c_/]*", r"\n|\]|-", "(?s)."]
)
def test_regular_parse_gives_back_the_pattern(pattern: str) -> None:
    rewritten = regex.rewrite(pattern, regex.PYTHON)
    again = regular.to_pattern(regular.parse(rewritten))
    assert regular.to_pattern(regular.parse(again)) == again
    one, other = grammar(Regex(pattern)), grammar(SequenceOf((Regex(pattern),)))
    for text in ("", "aab", "aabccc", "x.x", ".x", "b", "ab", "é", "日本", "a/c_", "\n", "]", "-"):
        assert accepts(one, text) == accepts(other, text), text


NUMBER = JsonSchema('{"type":"integer","minimum":0}')
RECORD = JsonSchema(
    '{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}'
)
STRING = JsonSchema('{"type":"string"}')

TAG = StructuralTag((Structure("<f>", NUMBER, "</f>"),), ("<f",))
CALL = Lark('start: NAME "(" (arg ("," arg)*)? ")"\narg: NAME | start | /[0-9]+/\nNAME: /[a-z]+/')
PARENS = Ebnf('root ::= "(" root* ")"')

_MIXED: list[tuple[Constraint, list[str], list[str]]] = [
    (
        SequenceOf(("Answer: ", RECORD, "\n", Regex("(yes|no)!*"))),
        ['Answer: {"a":"x"}\nyes', 'Answer: {"a":"}\\n"}\nno!!'],
        ['Answer: {"a":"x"}', '{"a":"x"}\nyes', 'Answer: {"a":1}\nyes', 'Answer: {"a":"x"}\nmaybe'],
    ),
    (
        RepeatOf(RECORD, 1, 3, "\n"),
        ['{"a":""}', '{"a":"1"}\n{"a":"2"}', '{"a":""}\n{"a":""}\n{"a":""}'],
        ["", '{"a":""}\n', '{"a":""}{"a":""}', "\n".join(['{"a":""}'] * 4)],
    ),
    (RepeatOf(RECORD, 2, 2), ['{"a":""}{"a":"b"}'], ['{"a":""}', '{"a":""}\n{"a":""}']),
    (
        OneOf((NUMBER, "none", Regex("[a-z]+ [0-9]+"))),
        ["0", "12", "none", "x 3"],
        ["-1", "01", "1.5", "non", "3 x", '"x"'],
    ),
    (
        SequenceOf((Regex("[^{]{0,9}"), "", RECORD, Regex("a*"), Regex("a|ab"), RECORD, "a")),
        ['I say {"a":""}aaa{"a":""}a', '{"a":""}aab{"a":""}a'],
        ['0123456789{"a":""}a{"a":""}a', '{"a":""}{"a":""}a', '{"a":""}b{"a":""}a'],
    ),
    (SequenceOf((NUMBER, " of ", NUMBER)), ["3 of 14"], ["3 of", "3of 14", "3 of 14 "]),
    (RepeatOf(NUMBER, separator=", "), ["", "1", "1, 2, 3"], ["1,2", "1, ", ", 1"]),
    (
        SequenceOf((Regex("[a-z]*"), RECORD)),
        ['{"a":""}', 'abc{"a":""}'],
        ["abc", 'A{"a":""}'],
    ),
    (
        SequenceOf(("He said: ", '"', Substring("to be or not"), '"')),
        ['He said: "be or"', 'He said: "t"'],
        ['He said: ""', 'He said: "be not"', 'He said: "to'],
    ),
    (SequenceOf((RECORD, OneOf(("", Regex(" .*"))))), ['{"a":""}', '{"a":""} x'], ['{"a":""}x']),
    (OneOf((STRING, NUMBER, "no")), ['"no"', "12", "no"], ["no2", '12"', "-1", ""]),
    (
        SequenceOf(("= ", CALL, RepeatOf(SequenceOf((" + ", CALL))))),
        ["= f()", "= f(a,g(1)) + h(x,y)", "= f() + g() + h()"],
        ["f()", "= f", "= f(A)", "= f()+ g()", "= f() + ", "= f(,)"],
    ),
    (RepeatOf(CALL, 2, 3, ","), ["f(),g(a,b)", "f(a,b),g(),h()"], ["f()", "f(),", "f()g()"]),
    (
        SequenceOf((Lark("json"), ",\n", Lark("iso_date"), OneOf(("", Lark("iso_date"))))),
        ['{"a":[1]},\n2024-02-29', '"x",\n2024-02-292024-01-01', "1,\n2023-01-01"],
        ['{"a":[1]}2024-02-29', '"x",\n2023-02-29', "1.,\n2023-01-01"],
    ),
    (SequenceOf(("row: ", Lark("csv_row"), "\n")), ["row: \n", 'row: a,"b\n"\n'], ["row: a", "a\n"]),
    (
        SequenceOf((Lark('start: head\nhead[lazy]: /(.|\\n)*:/'), "x ", PARENS)),
        ["ab:x ()", ":x (()())", "\n:x ((()))"],
        ["ab: ()", "ab:x (", "ab:y ()", "a:b:x ()"],
    ),
    (
        SequenceOf((PARENS, RepeatOf(PARENS, 0, 1), "(", Regex("[(]?"))),
        ["()(", "()((", "(())()((", "()()("],
        ["()", "((", "()()()("],
    ),
    (
        SequenceOf((PARENS, RECORD, PARENS)),
        ['(){"a":"()"}(())', '((())){"a":""}()'],
        ['{"a":""}()', '(){"a":""}', '((){"a":""}()'],
    ),
    (
        OneOf((PARENS, Lark('start: "a"+'), RECORD, Regex("b*"))),
        ["()", "aa", '{"a":""}', "", "bb"],
        ["ab", "(a)", "()a"],
    ),
    (
        SequenceOf(("<think>", AnyText(until="</think>"), "\n", RECORD)),
        ['<think></think>\n{"a":""}', '<think>a<b</th\n</think>\n{"a":"</think>"}'],
        ['<think>\n{"a":""}', '<think></think></think>\n{"a":""}', '</think>\n{"a":""}'],
    ),
    (
        AnyText(until=("\n", "."), max_chars=3),
        ["abc.", "\n", "a\n", "."],
        ["abcd.", "abc", "a.b.", "\n\n", ""],
    ),
    (AnyText(max_chars=2), ["", "é\n", "ab"], ["abc"]),
    (AnyText(excludes=("ab", "c")), ["", "ba", "a", "xax"], ["ab", "xaby", "c"]),
    (
        SequenceOf((AnyText(excludes="\n"), "\n", AnyText(excludes="\n", max_chars=1))),
        ["\n", "abc\nd", "abc\n"],
        ["", "abc", "a\nbc", "a\n\n"],
    ),
    (
        SequenceOf((Regex("a*"), Lark('start: "b"*'), "ac")),  # the a of the end, and those before
        ["ac", "aaac", "abac", "aabbac"],
        ["c", "abc", "aabb"],
    ),
    (SequenceOf(("Say: ", TAG)), ["Say: ", "Say: a <f>12</f> b"], ["Say: <f>x", "a"]),
    (OneOf((SequenceOf(("a", TAG)), "b")), ["a", "b", "a<f>1</f>"], ["", "c", "a<f"]),
]  # fmt: skip


@pytest.mark.parametrize(("constraint", "good", "bad"), _MIXED)
def test_composition_with_schemas_is_exact(
    constraint: Constraint, good: list[str], bad: list[str]
) -> None:
    compiled = grammar(constraint)
    for text in good:
        assert accepts(compiled, text), text
    for text in bad:
        assert not accepts(compiled, text), text


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (SequenceOf((NUMBER, Regex("[0-9]"))), "read as part of it: with '0'"),
        (SequenceOf((NUMBER, Regex("x?"), "5")), "read as part of it: with '5'"),
        (SequenceOf((NUMBER, NUMBER)), "read as part of it"),
        (RepeatOf(NUMBER), "read as part of it"),
        (SequenceOf((JsonSchema("{}"), "e")), "read as part of it: with 'e'"),
        (SequenceOf((Regex('a("x")?'), STRING)), "can both begin: with '\"'"),
        (OneOf((STRING, Regex('"x" y'))), "can both begin: with '\"'"),
        (OneOf((RECORD, JsonSchema('{"type":"object"}'))), "can both begin: with '{'"),
        (SequenceOf((Substring("to be"), "e")), "read as part of it: with 'e'"),
        (SequenceOf((Regex("[a-z]*"), Substring("to be"))), "can both begin"),
        (SequenceOf((Lark("start: /a+/"), "a")), "what follows a Lark grammar"),
        (SequenceOf((Lark('start: "a" | "ab" "c"'), "b")), "read as part of it: with 'b'"),
        (SequenceOf((Lark('start: "a" ("," "a")*'), ",")), "read as part of it: with ','"),
        (SequenceOf((Lark('start: "a" "b"?'), "b")), "read as part of it: with 'b'"),
        (RepeatOf(Lark("start: /a+/ | /b+/")), "what follows a Lark grammar"),
        (OneOf((Lark('start: "ab"'), Regex("a"))), "can both begin: with 'a'"),
        (
            SequenceOf((Lark('start: "a"+\n%ignore " "'), " ")),
            "could be read as part of it: with ' '",
        ),
        (SequenceOf((Lark('start: "\\"" /x/\nstart2: start'), AnyText(), "y")), "free text"),
        (SequenceOf((AnyText(excludes=("ab",)), "a")), "can both begin: with 'a'"),
        (SequenceOf((AnyText(until=("x",), excludes=("x1", "")),)), "must not be empty"),
        (SequenceOf((AnyText(until=("x", "ax")),)), "holds until 'x'"),
        (SequenceOf((AnyText(until=("x",), excludes=("x",), max_chars=-1),)), "max_chars=-1"),
        (SequenceOf((TAG, "x")), "free text (parts[0]) and other text can both begin: with 'x'"),
        (SequenceOf((RepeatOf("a", -1),)), "at_least=-1"),
        (RepeatOf("a", 2, 1), "at_least=2 exceeds at_most=1"),
        (SequenceOf((3,)), "int cannot be part"),  # type: ignore[arg-type]
        (OneOf(()), "no text"),
        (SequenceOf((OneOf(()), "a")), "no text"),
        (SequenceOf(("\udc00",)), "surrogate"),
        (SequenceOf((Choices(()),)), "at least one option"),
    ],
)
def test_composition_that_would_be_read_wrongly_is_refused(
    constraint: Constraint, reason: str
) -> None:
    with pytest.raises(ConstraintError, match=re.escape(reason)):
        grammar(constraint)


def test_composition_refuses_what_its_parts_are_refused_for() -> None:
    with pytest.raises(GrammarSyntaxError, match="look-behind"):
        grammar(OneOf(("a", Regex("(?<=b)"))))


def _nested(depth: int) -> Constraint:
    constraint: Constraint = Regex("a")
    for _ in range(depth):
        constraint = SequenceOf((constraint, "b"))
    return constraint


@pytest.mark.parametrize(
    "constraint",
    [
        _nested(40),
        RepeatOf(RepeatOf(RepeatOf("a", 1000, 1000), 1000, 1000), 1000, 1000),
        SequenceOf((RepeatOf(RepeatOf("a", 1000, 1000), 1000, 1000), RECORD)),
        SequenceOf((Regex("(a|b)*a(a|b){12}"), RECORD)),
        Substring("x" * 70_000),
    ],
)
def test_composition_too_large_is_refused(constraint: Constraint) -> None:
    with pytest.raises(GrammarBudgetExceeded):
        grammar(constraint)


# quotations

_QUOTED = "a b. ab\nc_1 é"


@pytest.mark.parametrize("by", ["characters", "words"])
def test_substring_accepts_exactly_the_parts(by: Any) -> None:
    compiled = grammar(Substring(_QUOTED, by))
    chunks = list(_QUOTED) if by == "characters" else ["a", " ", "b", ".", " ", "ab", "\n", "c_1", " ", "é"]  # fmt: skip
    size = len(chunks)
    parts = {"".join(chunks[i:j]) for i in range(size) for j in range(i + 1, size + 1)}
    for text in parts:
        assert accepts(compiled, text), text
    for i, j in itertools.combinations(range(len(_QUOTED) + 1), 2):
        assert accepts(compiled, _QUOTED[i:j]) == (_QUOTED[i:j] in parts)
    for text in ("", "ba", "a  b", "ab c", "x", "A"):
        assert not accepts(compiled, text), text


def test_substring_of_a_text_with_repeats_finds_every_place() -> None:
    text = "abracadabra abra"
    compiled = grammar(Substring(text))
    for sample in map("".join, itertools.product("abrcd ", repeat=4)):
        assert accepts(compiled, sample) == (sample in text)


@pytest.mark.parametrize("text", ["", "a\ud800"])
def test_substring_of_no_text_is_refused(text: str) -> None:
    with pytest.raises(ConstraintError, match="Substring"):
        grammar(Substring(text))


def test_substring_by_something_else_is_refused() -> None:
    with pytest.raises(ConstraintError, match="by='lines'"):
        grammar(Substring("a", "lines"))  # type: ignore[arg-type]


_SCALARS = [
    {"type": "number"},
    {"type": "integer"},
    {"type": ["null", "boolean", "integer"]},
    {"enum": [1, -20, None, True, 'é"\\/', "a b", ""]},
    {"const": "x"},
]


@pytest.mark.parametrize("schema", _SCALARS)
def test_composition_reads_a_scalar_as_its_schema_does(schema: Any) -> None:
    alone = grammar(JsonSchema(json.dumps(schema)))
    composed = grammar(SequenceOf((JsonSchema(json.dumps(schema)), "E1")))
    pieces = ["", "-", "0", "1", "20", ".", "5", "e", "E", "+", "null", "true", "false", '"', "a b", "x", 'é\\"\\\\/', "/"]  # fmt: skip
    for parts in itertools.product(pieces, repeat=3):
        text = "".join(parts)
        assert accepts(composed, text + "E1") == accepts(alone, text), text
