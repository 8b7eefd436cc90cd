"""Formats against the standard library's own parsers."""

from __future__ import annotations

import datetime
import ipaddress
import random
import re
import uuid

import pytest
from grammar_support import accepts, byte_vocabulary, grammar, walk

from sgrt.core import JsonSchema
from sgrt.grammar import formats


def _matches(name: str, text: str) -> bool:
    return re.fullmatch(formats.REGULAR_FORMATS[name], text) is not None


def _is(parse: object, text: str) -> bool:
    try:
        parse(text)  # type: ignore[operator]
    except ValueError:
        return False
    return True


def test_date_of_every_kind_of_year_is_what_datetime_accepts() -> None:
    years = [0, 1, 4, 100, 400, 1582, 1700, 1899, 1900, 1996, 2000, 2023, 2024, 2100, 2400, 9999]
    for year in years:
        for month in range(14):
            for day in (0, 1, 9, 10, 27, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}"
                assert _matches("date", text) == _is(datetime.date.fromisoformat, text), text


@pytest.mark.parametrize(
    "text", ["2024-1-01", "20240101", "2024-01-01 ", "02024-01-01", "２024-01-01"]
)
def test_date_in_another_spelling_is_not_generated(text: str) -> None:
    assert not _matches("date", text)


def test_ipv4_near_the_limits_is_what_ipaddress_accepts() -> None:
    for octet in [
        0,
        1,
        9,
        10,
        99,
        100,
        199,
        200,
        249,
        250,
        255,
        256,
        260,
        300,
        999,
        "01",
        "00",
        "",
    ]:
        for text in (f"{octet}.0.0.1", f"1.2.3.{octet}", f"1.{octet}.3"):
            assert _matches("ipv4", text) == _is(ipaddress.IPv4Address, text), text


def test_ipv6_of_random_shapes_is_what_ipaddress_accepts() -> None:
    rng = random.Random(3)
    num_valid = 0
    for _ in range(4000):
        groups = [
            rng.choice(["0", "1", "ab", "FFFF", "", "12345", "1.2.3.4"][: rng.choice([4, 5, 7])])
            for _ in range(rng.randint(1, 9))
        ]
        text = ":".join(groups)
        expected = _is(ipaddress.IPv6Address, text)
        num_valid += expected
        assert _matches("ipv6", text) == expected, text
    assert num_valid > 100


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("time", ["23:59:59Z", "00:00:00.5+01:30"], ["24:00:00Z", "12:00:00", "12:60:00Z", "23:59:60Z", "1:00:00Z"]),
        ("date-time", ["2024-02-29T12:00:00Z"], ["2023-02-29T12:00:00Z", "2024-02-29 12:00:00Z", "2024-02-29"]),
        ("duration", ["P1Y2M3DT4H5M6S", "PT1H", "P2W"], ["P", "PT", "P1Y2W", "1Y", "P1H", "PT1D", "P1S"]),
        ("uuid", [str(uuid.UUID(int=5)), str(uuid.UUID(int=5)).upper()], ["0" * 32, "{" + str(uuid.UUID(int=5)) + "}"]),
        ("uuid4", [str(uuid.UUID(int=5, version=4))], [str(uuid.UUID(int=5)), str(uuid.UUID(int=5, version=1))]),
        ("uri-reference", ["/", "/a//b", "a/b:c", "../x?y", "#/$defs/a", "?q#f", "http://a/b"], ["", "//a", ":a", "a b", "a#b#c", "/%2"]),
        ("hostname", ["a", "example.com", "a-b.c", "a" * 63, "ab-c"], ["-a", "a-", "a" * 64, "a..b", "a_b", "xn--x", "", "a."]),
        ("email", ["a.b+c@example.org", "long.email-address-with-hyphens@and.subdomains.example.com"], ["a@b", "@example.org", "a..b@example.org", "a@-x.org", "a b@example.org"]),
        ("json-pointer", ["", "/", "/a/0/~0~1", "/é//"], ["a", "/~", "/~2", "#/a"]),
        ("relative-json-pointer", ["0", "1/a", "12#", "0/~1"], ["", "01", "-1", "/a", "1#/a", "#"]),
        ("regex", ["", "^a+$", "[a-z]{1,3}", "a{3,16}b{9,9}", "(?:a|[^b-]*){2,}?", "\\d\\.(a(b(c)))"], ["a(", "a**", "[b-a]", "a{3,1}", "\\Z", "(?<a>)"]),
        ("uri-template", ["http://a/{b,c*}{?d:3}#%20", "x"], ["{", "{}", "{a", "a b", "%2", "{a*:3}"]),
        ("uri", ["https://example.org/a%20b?q=1#f", "ftp://a:21", "http://192.168.1.1:50051/x", "file:///a/b.js", "urn:isbn:0451450523", "mailto:a@b.org", "did:example:1/x"], ["file://", "a:", "1a:b", "a:/ b", "http://1.2.3", "http://1.2.3.256", "http://a:99999", "example.org", "http://", "http://a b", "http://a/%2", "//a"]),
    ],
)  # fmt: skip
def test_format_accepts_good_and_rejects_bad(name: str, good: list[str], bad: list[str]) -> None:
    assert [t for t in good if not _matches(name, t)] == []
    assert [t for t in bad if _matches(name, t)] == []


@pytest.mark.parametrize("name", sorted(formats.REGULAR_FORMATS))
def test_format_in_the_engine_is_the_same_regex(name: str) -> None:
    compiled = grammar(JsonSchema(f'{{"type":"string","format":"{name}"}}'))
    rng = random.Random(name)
    num_texts = 0
    for _ in range(20):
        ids = walk(compiled.matcher(), byte_vocabulary(), rng, 300)
        if ids is None:
            continue
        num_texts += 1
        text = bytes(ids).decode()[1:-1]
        assert _matches(name, text), text
        changed = text[:-1] + rng.choice("0Zz-:.9") + text[-1:]
        assert accepts(compiled, f'"{changed}"') == _matches(name, changed), changed
    assert num_texts


def test_format_regex_drawn_at_random_is_a_regex_of_the_standard_library() -> None:
    rng = random.Random(0)
    num_matched = 0
    for _ in range(3_000):
        text = "".join(rng.choices("ab0(){}[]|*+?^$\\\\.d-,:/", k=rng.randint(1, 7)))
        if _matches("regex", text):
            num_matched += 1
            re.compile(text)
    assert num_matched > 300
