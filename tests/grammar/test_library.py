"""The shipped grammars against the parsers that read what they write."""

from __future__ import annotations

import ast
import calendar
import contextlib
import csv
import io
import json
import random
import re
import sqlite3
from collections.abc import Callable
from datetime import datetime, time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from grammar_support import accepts, byte_vocabulary, grammar, walk

from sgrt.core import Lark
from sgrt.errors import ConstraintError, GrammarSyntaxError
from sgrt.grammar import library

# Name, texts it takes, texts it does not take.
_TABLE: dict[str, tuple[list[str], list[str]]] = {
    "json": (
        ['{"a":[1,-2.5e3,"x\\n"],"b":{}}', "null", '"\\u00e9é"', "0", "[]"],
        ["{a:1}", "[1,]", "01", '"\n"', "{ }", "", "nul", '{"a"}', "+1", '"\\x"'],
    ),
    "json_lines": (['{"a":1}\n', "1\n[2]\n"], ["", "1", "1\n\n", "1 2\n", "\n"]),
    "csv_row": (
        ["", "a,b", 'a,"b,""c""\n",', ",,", "é, x "],
        ['a"b', '"a', '"a"b', "a\nb", "a,b\n"],
    ),
    "arithmetic": (
        ["1", "1 + 2 * 3", "-(1.5 - 2)^2^3 / 4", "((7))", "2 * -3"],
        ["", "1+2", "1 +", "()", "01", "1.", "--1", "1 2", "(1", "+1"],
    ),
    "sql_select": (
        [
            "SELECT * FROM t",
            "SELECT a, t.b AS c, COUNT(*) FROM t AS u LEFT JOIN v ON u.x = v.x WHERE a >= -1.5 AND NOT (b = 'it''s' OR c IS NOT NULL);",
            "SELECT DISTINCT COUNT(x), SUM(DISTINCT b) FROM t GROUP BY a, b HAVING COUNT(a) > 1 ORDER BY a DESC, LOWER(b) LIMIT 10 OFFSET 5",
            "SELECT a FROM t WHERE a BETWEEN 1 AND 2 AND b IN (1, 'x', NULL) OR c LIKE 'x%'",
        ],
        [
            "",
            "select * from t",
            "SELECT FROM t",
            "SELECT a b FROM t",
            "SELECT * FROM t WHERE",
            "SELECT * FROM t; DROP TABLE t",
            "SELECT * FROM t WHERE a",
            "DELETE FROM t",
            "SELECT LOWER(DISTINCT a) FROM t",
            "SELECT SUM(*) FROM t",
        ],
    ),
    "iso_date": (
        ["2024-02-29", "2000-02-29", "1999-12-31", "0400-02-29"],
        ["2023-02-29", "1900-02-29", "2024-13-01", "2024-04-31", "2024-00-10", "24-01-01", "2024-1-1", ""],
    ),
    "iso_datetime": (
        ["2024-02-29T23:59:59Z", "2024-01-01T00:00:00.123+05:30"],
        ["2024-02-30T00:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01 00:00:00Z", "2024-01-01T00:00:00", "2024-01-01T00:00Z", "2024-01-01T00:00:60Z"],
    ),
    "email": (
        ["a@b.co", "ada.love-lace+x@mail.example.org", "x" * 64 + "@example.com"],
        ["a@b", "@b.co", "a..b@c.de", ".a@b.co", "a@-b.co", "a@b-.co", "a b@c.de", "a@b.c", "x" * 65 + "@example.com", "a@b@c.de"],
    ),
    "url": (
        ["https://example.org", "http://localhost:8080/a/b%20c?x=1&y=/#z", "https://a.b-c.d/"],
        ["ftp://x.org", "https://", "https://-a.org", "http://x.org:0", "http://x.org/a b", "http://x.org/%zz", "http://u@x.org", "http://x.org/é"],
    ),
    "markdown_table": (
        ["| a |\n| --- |\n", "| a | b c |\n| :--- | ---: |\n| 1 | x\\|y |\n| é | - |\n"],
        ["| a |\n", "| a | b |\n| --- |\n", "| a |\n| --- |\n| 1 | 2 |\n", "| a |\n| -- |\n", "|a|\n| --- |\n", "| a |\n| --- |", "|  |\n| --- |\n", ""],
    ),
    "python_literal": (
        ["None", "[1, -2.5e3, 'it\\'s', (True,), ()]", "{'a': {\"b\": []}, 1: (1, 2)}"],
        ["none", "[1,2]", "(1)", "{[]: 1}", "'a", "01", "[1, ]", "'\\x41'", "", "f()"],
    ),
    "tool_call": (
        ['{"name":"get_weather","arguments":{"city":"Oslo","days":[1,2]}}', '{"name":"f","arguments":{}}'],
        ['{"name":"","arguments":{}}', '{"name":"f","arguments":[]}', '{"arguments":{},"name":"f"}', '{"name":"f"}', '{"name":"1f","arguments":{}}'],
    ),
}  # fmt: skip


_MORE: dict[str, tuple[list[str], list[str]]] = {
    "json": (["true", "-0.5", '{"":{"":[]}}'], []),
    "json_lines": (
        ["{}\n", '"a"\n', "[]\n[]\n[]\n", "null\nfalse\n", '{"a":{"b":[1,2]}}\n', "-1.5e3\n"],
        ["1\n2", "\n1\n", "{}\r\n"],
    ),
    "csv_row": (
        ['""', 'a,"b\nc"', ",a"],
        ["a\r", '"a" ,b', '"', 'a,"b""'],
    ),
    "arithmetic": (["0", "0.5", "2^3^4"], []),
    "sql_select": (
        [
            "SELECT a FROM t;",
            "SELECT COUNT(DISTINCT a) FROM t WHERE a IS NULL",
            "SELECT a FROM t WHERE a NOT IN (1, 2) ORDER BY a ASC",
            "SELECT u.a FROM t JOIN u ON t.a = u.a GROUP BY u.a",
        ],
        [],
    ),
    "iso_date": (["2023-01-31", "0000-02-29", "2024-11-30", "1970-01-01"], ["1900-02-30", "2024-06-31"]),
    "iso_time": (
        ["00:00:00", "23:59:59", "12:30:00Z", "12:30:00.5", "12:30:00.123456789Z", "01:02:03+05:30",
         "01:02:03-11:00", "09:08:07.06+00:00"],
        ["", "24:00:00", "12:60:00", "12:00:60", "12:00", "1:02:03", "12:00:00z", "12:00:00.",
         "12:00:00.1234567890", "12:00:00+24:00", "12:00:00 Z", "T12:00:00"],
    ),
    "iso_datetime": (
        ["1999-12-31T23:59:59Z", "2000-02-29T12:00:00-08:00", "2024-06-30T01:02:03.000000001Z",
         "0001-01-01T00:00:00Z", "2024-01-01T10:00:00+00:00", "9999-12-31T23:59:59.9Z"],
        ["2023-02-29T00:00:00Z", "2024-01-01t00:00:00Z", "2024-01-01T00:00:00+5:00"],
    ),
    "email": (
        ["a.b.c.d@x.io", "o'neil@sub.domain.museum", "x_y-z@a-b.com", "1@2.de", "!#$%@ok.org"],
        [],
    ),
    "url": (
        ["http://a", "https://a.b/?", "https://a.b/#", "http://127.0.0.1:65535", "https://x.y/a;b=c,d"],
        ["https://a..b", "//a.b"],
    ),
    "markdown_table": (
        ["| a |\n| :---: |\n| b |\n| c |\n", "| a | b | c | d | e | f |\n" + "| --- " * 6 + "|\n",
         "| é |\n| --- |\n", "| a b c |\n| ---: |\n", "| \\| |\n| --- |\n",
         "| 1 | 2 | 3 |\n| --- | --- | --- |\n| 4 | 5 | 6 |\n"],
        [],
    ),
    "python_literal": (
        ["'a'", '"b\\n"', "-0.5e-3", "{}", "(1, 2)"],
        ["True ", "1 + 1"],
    ),
    "tool_call": (
        ['{"name":"a.b-c_1","arguments":{}}', '{"name":"f","arguments":{"":null}}',
         '{"name":"_","arguments":{"a":{"b":{}}}}', '{"name":"F9","arguments":{"x":"y","z":true}}',
         '{"name":"f","arguments":{"s":"\\n"}}', '{"name":"' + "a" * 64 + '","arguments":{}}'],
        ['{"name": "f","arguments":{}}', '{"name":"f","parameters":{}}',
         '{"name":"' + "a" * 65 + '","arguments":{}}', '{"name":"f","arguments":{}} '],
    ),
}  # fmt: skip
for _name, (_good, _bad) in _MORE.items():
    _TABLE.setdefault(_name, ([], []))[0].extend(_good)
    _TABLE[_name][1].extend(_bad)
_CALLS = _TABLE["tool_call"]
_TABLE["tool_call_parameters"] = tuple(  # type: ignore[assignment]
    [t.replace("parameters", "x").replace("arguments", "parameters") for t in texts]
    for texts in _CALLS
)
_TABLE["tool_call_list"] = (
    [f"[{text}]" for text in _CALLS[0]] + [f"[{','.join(_CALLS[0])}]"],
    [f"[{text}]" for text in _CALLS[1]] + ["", "[]", _CALLS[0][0], f"[{_CALLS[0][0]},]"],
)
_TABLE["tool_call_tags"] = (
    [f"<tool_call>\n{text}\n</tool_call>" for text in _CALLS[0]]
    + ["\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in _CALLS[0])],
    [f"<tool_call>\n{text}\n</tool_call>" for text in _CALLS[1]]
    + [
        "",
        _CALLS[0][0],
        f"<tool_call>{_CALLS[0][0]}</tool_call>",
        f"<tool_call>\n{_CALLS[0][0]}\n",
    ],
)


@pytest.mark.parametrize("name", _TABLE)
def test_library_table_has_texts_of_both_kinds(name: str) -> None:
    good, bad = _TABLE[name]
    assert len(set(good)) >= 8 and len(set(bad)) >= 8 and set(good).isdisjoint(bad)


def test_library_every_grammar_has_a_table_and_a_line_of_provenance() -> None:
    assert {*_TABLE, "common"} == set(library.names())
    for name in library.names():
        assert re.match(r"// .*Written for sgrt", library.text(name))


def test_library_is_what_the_folder_holds() -> None:
    folder = Path(__file__).resolve().parents[2] / "grammars"
    assert [path.stem for path in sorted(folder.glob("*.lark"))] == list(library.names())


@pytest.mark.parametrize("name", _TABLE)
def test_library_grammar_keeps_its_table(name: str) -> None:
    compiled = grammar(Lark(name))
    for text in _TABLE[name][0]:
        assert accepts(compiled, text), text
    for text in _TABLE[name][1]:
        assert not accepts(compiled, text), text


def _check_sql(text: str) -> None:
    """SQLite reads it: what it complains about are names and types, not syntax."""
    try:
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.execute(text)
    except sqlite3.OperationalError as error:
        assert re.match("no such table|no such column|ambiguous|misuse", str(error)), text


def _check_csv(text: str) -> None:
    assert len(list(csv.reader(io.StringIO(text, newline=""), strict=True))) <= 1


def _check_url(text: str) -> None:
    parts = urlsplit(text)
    assert parts.scheme in ("http", "https") and parts.hostname and parts.geturl()


def _check_markdown(text: str) -> None:
    lines = text.removesuffix("\n").split("\n")
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}) == 1


_READERS: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "tool_call": json.loads,
    "tool_call_list": json.loads,
    "tool_call_parameters": json.loads,
    "tool_call_tags": lambda text: [json.loads(line) for line in text.split("\n")[1::3]],
    "iso_time": time.fromisoformat,
    "json_lines": lambda text: [json.loads(line) for line in text.split("\n")[:-1]],
    "csv_row": _check_csv,
    "arithmetic": lambda text: ast.parse(text.replace("^", "**"), mode="eval"),
    "sql_select": _check_sql,
    "iso_datetime": lambda text: datetime.fromisoformat(text) if text[:4] != "0000" else None,
    "url": _check_url,
    "markdown_table": _check_markdown,
    "python_literal": ast.literal_eval,
}
_CLOSERS = [bytes([b]) for b in b"\"]})'\n|; "]


@pytest.mark.parametrize("name", _READERS)
def test_library_random_texts_are_read_by_another_parser(name: str) -> None:
    compiled, rng, ended = grammar(Lark(name)), random.Random(11), 0
    for _ in range(12):
        ids = walk(compiled.matcher(), byte_vocabulary(), rng, 120, _CLOSERS)
        if ids is not None:
            ended += 1
            _READERS[name](bytes(ids).decode())
    assert ended


def test_library_dates_are_those_of_the_calendar() -> None:
    compiled = grammar(Lark("iso_date"))
    for year in (1, 4, 100, 400, 1900, 1996, 2000, 2023, 2024, 2100, 9996, 9999):
        for month in range(14):
            for day in (0, 1, 28, 29, 30, 31, 32):
                last = calendar.monthrange(year, month)[1] if 1 <= month <= 12 else 0
                text = f"{year:04}-{month:02}-{day:02}"
                assert accepts(compiled, text) == (1 <= day <= last), text


def test_library_grammar_can_be_imported_in_part_and_renamed() -> None:
    text = """
    %import common (INT, CNAME)
    %import json.value -> any
    %import iso_date.DATE
    start: CNAME "=" (INT | any | "on " DATE)
    """
    compiled = grammar(Lark(text))
    for good in ("x=007", 'y1={"a":[1]}', "_z=on 2024-02-29"):
        assert accepts(compiled, good), good
    for bad in ("x=", "1=1", "x=on 2023-02-29", 'y={"a":}'):
        assert not accepts(compiled, bad), bad


def test_library_import_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(GrammarSyntaxError, match="grammar 'json' has no 'frob'"):
        grammar(Lark("%import json.frob\nstart: frob"))
    with pytest.raises(GrammarSyntaxError, match="rule and terminal differ"):
        grammar(Lark("%import json.value -> VALUE\nstart: VALUE"))
    with pytest.raises(ConstraintError, match="sql_select"):
        grammar(Lark("sql"))
