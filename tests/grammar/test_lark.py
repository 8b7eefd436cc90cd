"""The Lark dialect: what is read is enforced, all else refused where it stands."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from grammar_support import accepts, bpe_vocabulary, byte_vocabulary, compiler, grammar, walk

from sgrt.core import Lark
from sgrt.errors import (
    ConstraintError,
    GrammarBudgetExceeded,
    GrammarSyntaxError,
    UnsupportedSchema,
)

_TEXTS = ["".join(t) for n in range(5) for t in itertools.product("ab ", repeat=n)]

# Grammar and the regex that says the same.
_SAME = [
    ('start: "a" | "b" "a"', "a|ba"),
    ('start: "a"* "b"', "a*b"),
    ('start: ("a" "b")+', "(ab)+"),
    ('start: ["a"] "b"', "a?b"),
    ('start: "a"~2 "b"~0..1', "aab?"),
    ('start: "a"{2} "b"{,1}', "aab?"),
    ('start: "a"{1,2} "b"{2,}', "a{1,2}bb+"),
    ('start: "a"{0} "b"', "b"),
    ('start: ("a"{1,2})* ("b"?)+', "(a{1,2})*b*"),
    ("start: A? B\nA: /a+/\nB: \"b\"", "a*b"),
    ('start: "a".."b" X\nX: " " | Y Y\nY: "a"', "[ab]( |aa)"),
    ('start: "A"i "b"', "ab"),
    ("start:\n", ""),
    ('start: | "a"', "a?"),
    ("start: /a.b/s", "a[ab ]b"),
    ("start: /A[^B ]?/i", "aa?"),
    ('?start: x // one\n  | y -> two  # two\n\n\n!x: "a"\n_y: "b"\ny: _y', "a|b"),
    ('start: "a" start | ', "a*"),
    ('start: start "b" | "a"', "ab*"),
    ('start: x\nx: x | y | "a"\ny: x', "a"),
    ('start: "a" | "b" loop\nloop: "a" loop', "a"),
    ('start: "a" | "b" (loop | "b")\nloop: "a" loop', "a|bb"),
    ('start: "a" loop? loop*\nloop: "a" loop', "a"),
    ('start: "a" "b"\n%ignore " "', "a *b"),
    ('start: t "a"\nt[lazy]: /[ab ]*bb/', "(?:(?!bb)[ab ])*bba"),
    ('start: "\\u0061" /\\x62/', "ab"),
    ('start: "\\x61\\x62\\\\x61"', r"ab\\x61"),
    ('start: t "a"\nt[suffix="b"]: /[ab ]*/', "[a ]*ba"),
    ('start: t "b"?\nt[suffix=/b+/, capture="x"]: A*\nA: "a"', "a*bb?"),
    ('start: t "a"\nt[suffix=B]: "a"\nB: "b" | " "', "a[b ]a"),
    ('start: t "a"\nt[lazy]: A\nA: /[ab]*/ | "b"', "a"),
    ("start: a-b-2 A-B -> x\na-b-2: \"a\"\nA-B: \"b\"", "ab"),
    ("start: /A.b/ius", "a[ab ]b"),
    ('start: X " "\nX: /[ab]+/ & ~(/.*aa.*/ | "b") & /.../', "(?!aa|.aa)[ab]{3} "),
    ('start: X\nX: "a" | B & ~"b"{2} | ~Y+ & "ab"\nB: "b"+\nY: B', "a|bb+|ab"),
    ('start: X\nX: A & /[ab]/ "b"? "a"\nA: /[ab]{2}/', "[ab]a"),
    ('start: "a" %regex {"substring_chunks": ["b", "bb", " "]} "a"', "a(b|bb|bbb|bbb |bb | )?a"),
    ('start: S\nS: "a" %regex {"substring_words": "ab b"} "b"', "a(ab|ab |ab b| | b|b)?b"),
    ('start: %regex {"substring_chars": "abb"} " "', "(a|ab|abb|b|bb)? "),
    ('%llguidance {"no_forcing": true, "allow_initial_skip": false}\n%ignore " "\nstart: "a" "b"', "a *b"),
    ('%grammar_options {"allow_invalid_utf8": false}\nstart: "a"', "a"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "same"), _SAME, ids=lambda value: repr(value)[:30])
def test_lark_construct_accepts_what_its_regex_does(text: str, same: str) -> None:
    compiled = grammar(Lark(text))
    for sample in _TEXTS:
        assert accepts(compiled, sample) == bool(re.fullmatch(same, sample)), sample


def _random_terminal(rng: random.Random, depth: int) -> tuple[str, Callable[[str], bool]]:
    """A terminal's definition, and whether a text is one of its texts."""
    if depth == 0 or rng.random() < 0.2:
        body = rng.choice(["a", "[ab]+", "a*b?", ".*", ".?.", "(?:ab| )*", ""]) or "b"
        return f"/{body}/", lambda text: bool(re.fullmatch(body, text))
    one, is_one = _random_terminal(rng, depth - 1)
    other, is_other = _random_terminal(rng, depth - 1)
    return rng.choice(
        [
            (f"({one} & {other})", lambda text: is_one(text) and is_other(text)),
            (f"({one} | {other})", lambda text: is_one(text) or is_other(text)),
            (f"~({one})", lambda text: not is_one(text)),
        ]
    )


def test_lark_operations_on_terminals_mean_what_sets_mean() -> None:
    rng = random.Random(11)
    num_read = 0
    for _ in range(60):
        text, expected = _random_terminal(rng, 3)
        try:
            compiled = grammar(Lark(f"start: X\nX: {text}"))
        except ConstraintError as error:
            assert "no text satisfies" in str(error)
            assert not any(map(expected, _TEXTS)), text
            continue
        num_read += 1
        for sample in _TEXTS:
            assert accepts(compiled, sample) == expected(sample), (text, sample)
    assert num_read > 30


def _random_node(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(['"a"', '"b"', "x", "y", "AB", ""])
    parts = [_random_node(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    inner = "(" + rng.choice([" ", " | "]).join(parts) + ")"
    return inner + rng.choice(["", "", "?", "*", "+", "{2}", "{0,2}", "{1,}"])


def test_lark_ignored_texts_stand_between_terminals_and_nowhere_else() -> None:
    """Every terminal is one character, so without what is ignored the same texts are left."""
    rng, num_accepted = random.Random(5), 0
    for _ in range(40):
        names = ("start", "x", "y")
        rules = "\n".join(f"{name}: {_random_node(rng, 2)}" for name in names) + '\nAB: "a" | "b"'
        try:
            plain = grammar(Lark(rules))
        except ConstraintError:
            continue
        ignoring = grammar(Lark(rules + '\n%ignore " "'))
        for sample in _TEXTS:
            is_inside = sample == sample.strip()
            expected = is_inside and accepts(plain, sample.replace(" ", ""))
            assert accepts(ignoring, sample) == expected, (rules, sample)
            num_accepted += expected and " " in sample
    assert num_accepted > 100


def test_lark_ignored_comments_and_spaces_stand_beside_schemas() -> None:
    text = """start: call+
    call: NAME "=" %json {"type": "integer"} ";"
    NAME: /[a-z]+/
    %import common (WS, CPP_COMMENT)
    %ignore WS
    %ignore CPP_COMMENT"""
    compiled = grammar(Lark(text))
    for good in ("a=1;", "a = 1 ;\nb // c=\n = -20;"):
        assert accepts(compiled, good)
    for bad in ("a=1; ", " a=1;", "a=1 2;", "a b=1;", "a=1;//"):
        assert not accepts(compiled, bad)
    both = grammar("<" + Lark(text) + ">")
    assert accepts(both, "<a = 1;>") and not accepts(both, "< a=1;>")


def test_lark_terminal_takes_the_longest_text() -> None:
    compiled = grammar(Lark('start: "a" "bc" | "ab" "d"'))
    assert accepts(compiled, "abd") and not accepts(compiled, "abc")


def test_lark_recursion_balances() -> None:
    compiled = grammar(Lark('start: "(" start ")" | /[0-9]/'))
    assert accepts(compiled, "((7))") and accepts(compiled, "(" * 60 + "1" + ")" * 60)
    assert not accepts(compiled, "((7)")


def test_lark_json_part_is_compact_and_enforced() -> None:
    schema = '{"type":"object","properties":{"s":{"type":"string"},"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}'
    compiled = grammar(Lark(f'start: "<" call ">"\ncall: %json {schema}\n  | "none"'))
    for good in ('<{"n":1}>', '<{"s":"}>\\"","n":-20}>', "<none>"):
        assert accepts(compiled, good)
    for bad in ("<{}>", '<{"n": 1}>', '<{"n":1.5}>', '<{"n":1}', '<{"s":"\\u0061","n":1}>'):
        assert not accepts(compiled, bad)


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_lark_random_walks_end_in_texts_of_the_grammar(name: str) -> None:
    text = 'start: pair ("," pair)*\npair: KEY ":" value\nKEY: /[a-c]+/\nvalue: KEY | "[" value "]"'
    vocabulary = compiler(name).vocabulary
    compiled, rng, ended = grammar(Lark(text), name), random.Random(3), 0
    assert vocabulary in (byte_vocabulary(), bpe_vocabulary())
    for _ in range(20):
        ids = walk(compiled.matcher(), vocabulary, rng, closers=(b"]", b","))
        if ids is not None:
            ended += 1
            found = vocabulary.bytes_of(ids).decode()
            while "[" in found:
                inner = re.sub(r"\[([a-c]+)\]", r"\1", found)
                assert inner != found
                found = inner
            assert re.fullmatch(r"[a-c]+:[a-c]+(,[a-c]+:[a-c]+)*", found)
    assert ended


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ('start: x\nx: "a" foo', 2, 8, "'foo' is not defined"),
        ('start: "a"\nunused: FOO', 2, 9, "'FOO' is not defined"),
        ('start: "a"\n\nstart: "b"', 3, 1, "already defined in line 1"),
        ('begin: "a"', 1, None, "no rule 'start'"),
        ("", 1, None, "no rule 'start'"),
        ('start: A\nA: "x" B\nB: A', 3, 4, "contains itself"),
        ('start: A\nA: "x" b\nb: "c"', 2, 8, "terminal and cannot hold the rule"),
        ("start: A\nA: %json {}", 2, 1, "cannot hold %json"),
        ('start: t\nt[lazy]: u\nu: "c"', 2, 10, "cannot hold the rule"),
        ('start: "a"\n%ignore b\nb: " "', 2, 9, "cannot hold the rule"),
        ('start: "a"\n%ignore WS', 2, 9, "'WS' is not defined"),
        ("start: %json [1]", 1, 8, "JSON in braces expected"),
        ('start: "a', 1, 8, "never closed"),
        ("start: /a", 1, 8, "never closed"),
        ('start: ("a" "b"', 1, 16, "')' expected, found the end"),
        ('start: "a")', 1, 11, "newline expected"),
        ('start "a"', 1, 7, "':' expected"),
        ('start: "a" | *', 1, 14, "expected, found '*'"),
        ('start: "a"**', 1, 12, "repeat of a repeat"),
        ('start: "a"~3..2', 1, 11, "wrong way round"),
        ('start: "a"{,}', 1, 11, "no bound"),
        (r'start: "\x4"', 1, 8, "escapes of JSON"),
        (r'start: "\q"', 1, 8, "escapes of JSON"),
        ('start[suffix=x]: /a/\nx: "b"', 1, 14, "string or regexp or terminal expected"),
        ('start[suffix="a", suffix="b"]: /a/', 1, 19, "given twice"),
        ('start[suffix="b"]: x\nx: "a"', 1, 20, "cannot hold the rule"),
        (r'start: "\ud800"', 1, 8, "surrogate"),
        ('start: "a\ud800"', 1, 10, "surrogate"),
        ('start: "é"i', 1, 8, "only ASCII letters"),
        ('start: "b".."a"', 1, 8, "in order"),
        ('start: "ab".."c"', 1, 8, "single characters"),
        ("start: /ab(?=c)/", 1, 11, "look-ahead"),
        ("start: /ab(?=c)/s", 1, 11, "look-ahead"),
        (r"start: /[^\d]/su", 1, 8, r"flag u with \d"),
        (r"start: /a\\\w/u", 1, 8, "flag u"),
        ("start: /a/m", 1, 8, "flags 'm'"),
        (r"start: /a[^\s\S]/", 1, 8, "matches nothing"),
        ("start: 'a'", 1, 8, "a string stands in double quotes"),
        ("start: <|end|>", 1, 8, "special tokens"),
        ("start: @other", 1, 8, "references to other grammars"),
        ("start: A & B", 1, 10, "'&' is only supported in terminals"),
        ("start: ~A", 1, 8, "'~' is only supported in terminals"),
        ("start: A\nA: ~B\nB: A", 3, 4, "contains itself"),
        ('start: A\nA: "a" & ~b\nb: "c"', 2, 11, "cannot hold the rule"),
        ('start: A\nA: "a" & ~B', 2, 11, "'B' is not defined"),
        ('start: A\nA: ~%regex {"substring_chars": "a"}', 2, 4, "inside of & and ~"),
        ('start.2: "a"', 1, 6, "priorities"),
        ('start: a{"x"}', 1, 9, "templates"),
        ('start{x}: "a"', 1, 6, "templates"),
        ('start[max_tokens=3]: "a"', 1, 7, "option 'max_tokens'"),
        ('start[capture, stop="a"]: "a"', 1, 16, "option 'stop'"),
        ('start: "a"\nA[lazy]: "a"', 2, 1, "belong to rules"),
        ("%declare A", 1, 1, "%declare"),
        ('%override start: "a"', 1, 1, "%override"),
        ("start: %regex {}", 1, 8, "%regex takes one of substring_words"),
        ('start: %regex {"substring_words": "a", "x": 1}', 1, 8, "%regex takes one of"),
        ('start: %regex {"substring_chunks": ["a", 1]}', 1, 8, "%regex takes one of"),
        ('start: %regex {"substring_chars": "\\ud800"}', 1, 8, "surrogate"),
        ('start: %regex {"substring_chars": nul}', 1, 8, "%regex "),
        ("start: %regex", 1, 8, "JSON in braces expected"),
        ('%llguidance {"a": 1}', 1, 1, "a=1 is not supported"),
        ('%llguidance {"no_forcing": 1}', 1, 1, "no_forcing=1 is not supported"),
        (
            '%llguidance {"allow_initial_skip": true}',
            1,
            1,
            "allow_initial_skip=True is not supported",
        ),
        ('start: %regex {"substring_chars": "a", "substring_chars": "b"}', 1, 8, "%regex "),
        ('%llguidance {"allow_invalid_utf8": true}', 1, 1, "allow_invalid_utf8=True is not supp"),
        ('%llguidance {"a" 1}', 1, 1, "%llguidance"),
        ("%llguidance", 1, 1, "JSON in braces expected"),
        ('start: %json {"x-guidance": {"lenient": true}}', 1, 8, "lenient=True"),
        ('start: %json {"x-guidance": {"item_separator": ";"}}', 1, 8, "without end"),
        ("%import nowhere.X\nstart: X", 1, 9, "no grammar 'nowhere'"),
        ("%import json\nstart: X", 1, 9, "'%import grammar.name'"),
    ],
)
def test_lark_unsupported_is_refused_where_it_stands(
    text: str, line: int, column: int | None, reason: str
) -> None:
    with pytest.raises(GrammarSyntaxError) as caught:
        grammar(Lark(text))
    assert reason in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_lark_schema_that_cannot_be_enforced_is_refused_with_both_places() -> None:
    with pytest.raises(UnsupportedSchema, match=r"line 2, column 6") as caught:
        grammar(Lark('start: "a" x\nx:   %json {"properties":{"a":{"pattern":"(?<=a)"}}}'))
    assert caught.value.pointer == "/properties/a" and caught.value.keyword == "pattern"


@pytest.mark.parametrize(
    "text",
    [
        'start: "a" start',
        'start: A\nA: "a" & "b"',
        'start: x\nx: "a" y\ny: x',
        'start: ("a" start){2}',
    ],
)
def test_lark_grammar_without_a_finite_text_is_refused(text: str) -> None:
    with pytest.raises(ConstraintError, match="no text"):
        grammar(Lark(text))


def test_lark_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConstraintError, match="no grammar 'sql_selec' is shipped"):
        grammar(Lark("sql_selec"))


def _chain(num_rules: int, last: str) -> str:
    rules = [f"r{i}: r{i + 1}" for i in range(num_rules)]
    return "\n".join(["start: r0", *rules, f"r{num_rules}: {last}"])


_HOSTILE = {
    "long chain": _chain(1_500, '"a"'),
    "chain of groups": _chain(200, "(" * 40 + '"a"' + ")" * 40).replace(": r", ": (((((r").replace(
        "\n", ")))))\n"
    ),
    "many rules": 'start: "a"\n' + "".join(f'r{i}: "a"\n' for i in range(2_001)),
    "many groups": "start: " + "(" * 5_000 + '"a"' + ")" * 5_000,
    "deep JSON": "start: %json " + '{"items":' * 5_000 + "{}" + "}" * 5_000,
    "too long": "start: " + '"aaaaaaaa" ' * 30_000,
    "big repeat": 'start: (("a"{1000}){1000}){1000}',
    "big count": 'start: "a"{99999999999999999999}',
    "big terminal": "start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(60)) + 'A60: "a"',
    "long terminal chain": "start: A0\n" + "".join(f"A{i}: A{i + 1}\n" for i in range(1_500)) + 'A1500: "a"',
    "exponential": 'start: x x\nx: x x | x x x | "a" | ',
    "wave": "start: " + " ".join(f"w{i}" for i in range(1_900)) + "\n"
    + "".join(f"w{i}: w{i + 1}?\n" for i in range(1_900)) + 'w1900: "a"',
    "open quotes": 'start: ' + '"' * 9_999,
    "braces": "start: %json " + "{" * 100_000,
    "newlines": "start: " + "\n" * 200_000 + "|",
}  # fmt: skip


@pytest.mark.parametrize("name", _HOSTILE)
def test_lark_hostile_text_costs_little(name: str) -> None:
    start = time.process_time()
    try:
        matcher = grammar(Lark(_HOSTILE[name])).matcher()
        for _ in range(5):
            matcher.accept([ord("a")])
    except ConstraintError as error:
        assert str(error)
    assert time.process_time() - start < 10


def test_lark_limits_name_what_ran_out() -> None:
    for name, resource in (("long chain", "nested rules"), ("many rules", "rules"),
                           ("big terminal", "terminal"), ("too long", "bytes")):  # fmt: skip
        with pytest.raises(GrammarBudgetExceeded, match=resource):
            grammar(Lark(_HOSTILE[name]))


@pytest.mark.parametrize("text", [_chain(1_000, '"a"'), _chain(20, "(" * 45 + '"a"' + ")" * 45)])
def test_lark_as_deep_as_allowed_is_enforced_in_any_thread(text: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(grammar, Lark(text)).result(10)
    assert accepts(compiled, "a") and not accepts(compiled, "")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('start: /a+/ "a"', 1, 8),
        ("start: A A\nA: /a+/", 1, 8),
        ("start: A B? A\nA: /a+/\nB: /a/", 1, 8),
        ('start: "q" | "b" x "ab"\nx: /(ab)+/', 2, 4),
        ("start: A{2}\nA: / +/", 1, 8),
        ('start: "b" x | x "a"\nx: A\nA: "a"+', 2, 4),
        ("start: A A\nA: /a+/\n%ignore /a/", 1, 8),
        ('start: "b" " a"\n%ignore " "', 2, 1),
        ('start: ("a"{2,})+ y\ny: B\nB: /b*/ "c"? | "b"\nz: B "b"', 0, 0),
        ('start: x y\nx: /a+/ | "b"\ny: "c"? z\nz: "a" | "d"', 0, 0),
        ('start: "a"+\n%ignore / +/', 0, 0),
        ('start: (A | "x")*\nA: /a+/', 0, 0),
        ('start: t "a"\nt[lazy]: /a+/', 0, 0),
    ],
)
def test_lark_terminal_that_leaves_nothing_to_what_follows_is_refused(
    text: str, line: int, column: int
) -> None:
    """The engine would follow a forced text without end; what is accepted is followed here."""
    if line:
        with pytest.raises(GrammarSyntaxError, match="can never be read") as caught:
            grammar(Lark(text))
        assert (caught.value.line, caught.value.column) == (line, column)
        return
    matcher = grammar(Lark(text)).matcher()
    for _ in range(4):
        matcher.forced()
        if matcher.is_final:
            break
        matcher.accept([next(i for i in range(256) if matcher.explain(i) is None)])
