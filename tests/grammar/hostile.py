"""What hostile users send: constraints that are deep, wide, recursive, exponential, empty, broken.

``python hostile.py sample`` (or ``fast``, ``slow``) compiles each, walks some steps, and prints a
line of JSON per case: what became of it, CPU seconds, peak memory. `test_hostile.py` runs that in a process of its own, so
that a crash ends that process, and is seen.
"""

from __future__ import annotations

import functools
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from grammar_support import bpe_vocabulary

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
    StructuralTag,
    Structure,
    Substring,
)
from sgrt.errors import ConstraintError
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.worker import Budget

NUM_STEPS = 12


SLOW = frozenset(
    (
        "choices 20000", "choices long", "choices prefixes", "doubling 12",
        "ebnf: optional", "lark: alternatives", "lark: long", "lark: priority",
        "json: list", "json: long enough", "schema: enum long", "schema: if then else 12",
        "schema: items 5000 by ref", "schema: patterns 30 meet",
        "lark: repeat", "regex: count", "regex: counts meet", "regex: dots",
        "regex: long", "regex: nested counts", "schema inside", "schema: allOf of anyOf objects",
        "schema: anyOf 256", "schema: anyOf pairs 14", "schema: dependentRequired 900", "schema: enum 10000",
        "schema: enum of objects", "schema: minItems 99999", "schema: minLength 90000", "schema: multipleOf many",
        "schema: multipleOf prime", "schema: noise const", "schema: oneOf 200 by const", "schema: oneOf 30 alike",
        "schema: pattern a{99}{99}", "schema: prefixItems 5000", "schema: properties 900", "schema: properties 900 required",
        "schema: refs doubling 60", "schema: required chain 400", "schema: required chain 600", "schema: required unknown 900",
        "schema: types in every property", "substring huge", "tag 256", "tag endless",
    )
)  # fmt: skip
"""Cases that take more than some 0.1 s, or a process of their own."""


def js(node: Any) -> JsonSchema:
    return JsonSchema(json.dumps(node))


def nested(keyword: str, depth: int, last: Any, wrap: Callable[[Any], Any] = lambda x: x) -> Any:
    for _ in range(depth):
        last = {keyword: wrap(last)}
    return last


def chain(count: int, link: Callable[[int], Any], last: Any) -> dict[str, Any]:
    return {
        "$ref": "#/$defs/a0",
        "$defs": {f"a{i}": link(i) for i in range(count)} | {f"a{count}": last},
    }


def obj(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def ref(i: int) -> dict[str, str]:
    return {"$ref": f"#/$defs/a{i}"}


_RANDOM = random.Random(7)
_NOISE = "".join(_RANDOM.choice('{}[]()|*+?\\":,.^$-0aé\n\x00') for _ in range(3_000))
_LONG = "x" * 300_000
_STRING = {"type": "string"}
_PATTERNS = ["a.*b", "^[^x]*$", "(ab|cd)+", r"\w+\d", "[a-z]{2,30}", ".*q.*q.*q"]
_MANY_NAMES = {f"name_{i}_{i * i}": {"type": "integer"} for i in range(900)}
_SURROGATE, _NUL = "\ud800", "\x00"


def schemas() -> dict[str, Any]:
    """JSON schemas as values."""
    return {
        # deep
        "items 60": nested("items", 60, {"const": 1}),
        "items 63": nested("items", 63, {"type": "array", "minItems": 1}),
        "items 5000 by ref": chain(5_000, lambda i: {"type": "array", "items": ref(i + 1)}, {}),
        "required chain 400": chain(400, lambda i: obj(a=ref(i + 1)), {"type": "null"}),
        "required chain 600": chain(600, lambda i: obj(a=ref(i + 1)), {"type": "null"}),
        "ref chain 60": chain(60, lambda i: ref(i + 1), {"const": 1}),
        "ref chain 600": chain(600, lambda i: ref(i + 1), {"const": 1}),
        "not 31": nested("not", 31, {"type": "string"}),
        "not 60": nested("not", 60, {"type": "string"}),
        "allOf 30": nested("allOf", 30, {"type": "null"}, lambda x: [x]),
        "anyOf pairs 14": nested("anyOf", 14, {"type": "null"}, lambda x: [x, {"type": "array", "items": x}]),
        "if 20": nested("if", 20, {"minimum": 1}),
        "if then else 12": chain(12, lambda i: {"if": {"required": [f"k{i}"]}, "then": ref(i + 1), "else": ref(i + 1)}, {"type": "object"}),
        "propertyNames 30": nested("propertyNames", 30, {"maxLength": 3}),
        "contains 30": nested("contains", 30, {"const": 1}),
        # wide
        "properties 900": {"type": "object", "properties": _MANY_NAMES},
        "properties 900 required": {"type": "object", "properties": _MANY_NAMES, "required": list(_MANY_NAMES)},
        "properties 5001": {"properties": {f"p{i}": {} for i in range(5_001)}},
        "enum 10000": {"enum": [f"v{i}" for i in range(10_000)]},
        "enum 10001": {"enum": list(range(10_001))},
        "enum of objects": {"enum": [{"a": i, "b": [i] * 5} for i in range(800)]},
        "enum long": {"enum": ["é" * 9_000 + str(i) for i in range(5)]},
        "anyOf 256": {"anyOf": [obj(**{f"k{i}": {"const": i}}) for i in range(256)]},
        "anyOf 257": {"anyOf": [{"const": i} for i in range(257)]},
        "oneOf 200 by const": {"oneOf": [obj(kind={"const": f"k{i}"}, v=_STRING) for i in range(200)]},
        "oneOf 30 alike": {"oneOf": [{"properties": {"a": {"minimum": i}}} for i in range(30)]},
        "allOf 200": {"allOf": [{"maxLength": 500 - i} for i in range(200)], "type": "string"},
        "required unknown 900": {"type": "object", "required": [f"r{i}" for i in range(900)]},
        "types in every property": {"type": "object", "properties": {f"p{i}": {"type": ["string", "null", "integer", "array"]} for i in range(300)}},
        "definitions unused 900": {"type": "null", "$defs": {f"d{i}": {"multipleOf": 99999989} for i in range(900)}},
        "patternProperties 8": {"patternProperties": {f"^{c}": {"type": "integer"} for c in "abcdefgh"}, "additionalProperties": False},
        "patternProperties 60": {"patternProperties": {f"{c}{d}": {} for c in "abcdefgh" for d in "ijklmno"}},
        "dependentRequired 900": {"dependentRequired": {f"a{i}": [f"b{i}"] for i in range(900)}},
        "prefixItems 5000": {"prefixItems": [{"type": "integer"}] * 5_000},
        # recursive
        "list": {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [{"type": "null"}, obj(next={"$ref": "#/$defs/n"})]}}},
        "tree": {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 2}}},
        "requires itself": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        "ref itself": {"$ref": "#"},
        "ref in a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "allOf itself": {"allOf": [{"$ref": "#"}]},
        "not itself": {"not": {"$ref": "#"}},
        "if itself": {"if": {"$ref": "#"}, "then": False},
        "mutual 60": {"$ref": "#/$defs/a0", "$defs": {f"a{i}": {"type": "array", "items": {"anyOf": [ref((i * 7 + 1) % 60), ref((i * 11 + 3) % 60), {"type": "null"}]}} for i in range(60)}},
        "dynamic": {"$dynamicAnchor": "n", "type": "object", "properties": {"c": {"$dynamicRef": "#n"}}, "additionalProperties": False},
        # exponential
        "allOf of anyOf": {"type": "integer", "allOf": [{"anyOf": [{"minimum": i * 9 + j} for j in range(6)]} for i in range(8)]},
        "allOf of anyOf objects": {"allOf": [{"anyOf": [{"required": [f"x{i}"]}, {"required": [f"y{i}"]}]} for i in range(9)], "type": "object"},
        "refs doubling 60": chain(60, lambda i: {"anyOf": [obj(a=ref(i + 1)), obj(b=ref(i + 1))]}, {"type": "null"}),
        "allOf doubling 25": chain(25, lambda i: {"allOf": [ref(i + 1), ref(i + 1)]}, {"type": "null"}),
        "anyOf doubling 25": chain(25, lambda i: {"anyOf": [ref(i + 1), {"allOf": [ref(i + 1)]}]}, {"type": "null"}),
        "patterns meet": {"type": "string", "allOf": [{"pattern": p} for p in _PATTERNS]},
        "patterns 30 meet": {"type": "string", "allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(30)]},
        "pattern not": {"type": "string", "not": {"pattern": "a.{12}b"}},
        "pattern not short": {"type": "string", "not": {"pattern": "a.{3}b"}},
        "keys 7": {"patternProperties": {f"a.*{c}.*{c}{c}": {"minimum": i} for i, c in enumerate("bcdefgh")}, "additionalProperties": False},
        "keys of many objects": {"anyOf": [{"type": "object", "patternProperties": {p: {"const": i} for p in _PATTERNS[:4]}, "additionalProperties": False} for i in range(40)]},
        "keys not": {"propertyNames": {"not": {"pattern": "(a|b)*a(a|b){9}"}}},
        "unique 100": {"items": {"enum": list(range(100))}, "uniqueItems": True},
        "unique 6": {"type": "array", "items": {"enum": list(range(6))}, "uniqueItems": True, "maxItems": 3},
        "contains 10": {"allOf": [{"contains": {"const": i}} for i in range(10)]},
        "contains min max": {"contains": {"const": 1}, "minContains": 900, "maxContains": 10**9},
        "unevaluated 20": {"anyOf": [{"properties": {f"a{i}": {}}} for i in range(20)], "unevaluatedProperties": False},
        "maxProperties 9 of 100": {"properties": {f"a{i}": {} for i in range(100)}, "maxProperties": 9},
        "dependentSchemas 12": {"dependentSchemas": {f"a{i}": {"required": [f"b{i}"]} for i in range(12)}},
        "not enum 5000": {"type": "integer", "not": {"enum": list(range(5_000))}},
        "not strings 900": {"type": "string", "not": {"enum": [f"name {i}" for i in range(900)]}},
        # counts
        "maxLength 1000": {"type": "string", "maxLength": 1_000},
        "maxLength 10**12": {"type": "string", "maxLength": 10**12},
        "minLength 10**12": {"type": "string", "minLength": 10**12},
        "minLength 90000": {"type": "string", "minLength": 90_000, "maxLength": 90_001},
        "maxItems 10**9": {"type": "array", "items": {"type": "null"}, "maxItems": 10**9},
        "minItems 99999": {"type": "array", "items": {"type": "null"}, "minItems": 99_999},
        "minItems 10**9": {"type": "array", "minItems": 10**9},
        "minProperties 10**9": {"type": "object", "minProperties": 10**9},
        "pattern a{10**9}": {"type": "string", "pattern": "a{1000000000}"},
        "pattern a{99}{99}": {"type": "string", "pattern": "^(a{99}){99}$"},
        "multipleOf prime": {"type": "integer", "multipleOf": 99999989},
        "multipleOf tiny": {"type": "number", "multipleOf": 1e-300},
        "multipleOf many": {"allOf": [{"multipleOf": p} for p in (101, 103, 107, 109, 113)], "type": "integer"},
        "multipleOf 0": {"multipleOf": 0},
        "maximum 1e308": {"type": "number", "maximum": 1e308},
        "integer of 300 digits": {"const": 10**300},
        # empty
        "false": False, "true": True, "nothing": {}, "enum none": {"enum": []}, "type none": {"type": []},
        "no integer between": {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        "string too short": {"type": "string", "minLength": 5, "maxLength": 4},
        "types that exclude": {"allOf": [{"type": "string"}, {"type": "null"}]},
        "empty pattern": {"type": "string", "pattern": "^(?!)$"},
        "required forbidden": {"properties": {"a": False}, "required": ["a"], "type": "object"},
        "not anything": {"not": {}},
        # characters
        "NUL key": {"type": "object", "properties": {_NUL: {}}, "required": [_NUL]},
        "NUL const": {"const": _NUL},
        "surrogate key": {"properties": {_SURROGATE: {}}},
        "surrogate const": {"const": _SURROGATE},
        "surrogate pattern": {"pattern": _SURROGATE},
        "empty key": obj(**{"": {"const": ""}}),
        "key of quotes": obj(**{'"\\/\n': {"const": '"\\\u2028'}}),
        "astral": {"const": "😀" * 200},
        "noise const": {"const": _NOISE.replace("\x00", "")},
        # not schemas
        "array": [1], "number": 3, "null": None, "text": "x",
        "type 3": {"type": 3}, "type object": {"type": {}}, "enum 3": {"enum": 3}, "allOf {}": {"allOf": {}},
        "items 3": {"items": 3}, "required 3": {"required": 3}, "properties []": {"properties": []},
        "ref 3": {"$ref": 3}, "ref remote": {"$ref": "http://example.com/x"}, "ref nowhere": {"$ref": "#/a/b"},
        "ref file": {"$ref": "file:///etc/passwd"}, "minLength -1": {"minLength": -1}, "minLength 1.5": {"minLength": 1.5},
        "pattern (": {"pattern": "("}, "pattern 3": {"pattern": 3}, "pattern back": {"pattern": r"(a)\1"},
        "pattern x500(": {"pattern": "(" * 500}, "format slip": {"format": "dat-time", "type": "string"},
    }  # fmt: skip


def texts_of_schemas() -> dict[str, str]:
    """Texts that should be JSON."""
    return {
        "no text": "", "blank": " \n", "NUL": "\x00", "half": '{"type":', "braces": "{" * 100_000,
        "brackets": "[" * 100_000 + "]" * 100_000, "two": "{} {}", "NaN": '{"minimum":NaN}', "key twice": '{"type":"null","type":"string"}',
        "BOM": "\ufeff{}", "surrogate": '{"const":"\ud800"}', "escaped surrogate": '{"const":"\\ud800"}', "noise": _NOISE,
        "digits": '{"minimum":' + "9" * 5_000 + "}", "exponent": '{"minimum":1e999999}', "huge": '{"const":"' + _LONG * 5 + '"}',
        "long": '{"const":"' + _LONG + '"}', "long enough": '{"const":"' + _LONG[:100_000] + '"}', "long list": json.dumps({"const": [1] * 48_000}), "list": json.dumps({"const": list(range(4_990))}),
        "comment": '{"type":"null"} // x', "python": "{'type': 'null'}",
    }  # fmt: skip


def regexes() -> dict[str, str]:
    return {
        "none": "", "a*": "a*", "(a*)*": "(a*)*b", "(a+)+$": "^(a+)+$", "(a|a)*": "(a|a)*c", "(a|b)*a(a|b){14}": "(a|b)*a(a|b){14}",
        ".*x{9}": ".*a.*b.*c.*d.*e.*f.*g", "a?{30}a{30}": "a?" * 30 + "a" * 30, "nested counts": "((((a{9}){9}){9}){9}){9}",
        "count": "a{100000}", "count 10**12": "a{1000000000000}", "counts meet": "(a{300}){300}", "count order": "a{9,3}",
        "groups 500": "(" * 500 + "a" + ")" * 500, "groups 60": "(" * 60 + "a" + ")" * 60, "alternatives 5000": "|".join(f"w{i}" for i in range(2_500)),
        "long": "a" * 16_000, "too long": "a" * 17_000, "dots": "." * 5_000, "class": "[" + "".join(f"\\x{i:02x}" for i in range(256)) + "]+",
        "classes": r"[\w\d\s]{1,400}", "words": r"(\w+\s?){1,300}", "unclosed": "(a", "unopened": "a)", "class unclosed": "[a", "range": "[z-a]",
        "star": "*", "back": r"(a)\1", "look": "(?=a)b", "behind": "(?<=a)b", "atomic": "(?>a)", "recursion": "(?R)", "condition": "(a)?(?(1)b|c)",
        "flags": "(?i)a", "surrogate": "\ud800", "NUL": "a\x00b", "noise": _NOISE[:300], "\\p": r"\p{L}", "named": "(?P<n>a)(?P=n)", "anchors": "^^^$$$",
        "never": "a^b", "empty class": "[^\\x00-\\U0010ffff]", "astral": "[😀-🙏]{1,50}", "backslash": "\\",
    }  # fmt: skip


def grammars() -> dict[str, str]:
    """Lark texts."""

    def double(n: int, last: str) -> str:
        return (
            "start: r0\n"
            + "".join(f"r{i}: r{i + 1} r{i + 1}\n" for i in range(n))
            + f"r{n}: {last}"
        )

    return {
        "none": "", "blank": "\n\n", "no start": 'a: "a"', "left": 'start: start "a" | "a"', "right": 'start: "a" start | "a"',
        "endless": 'start: "a" start', "ambiguous": 'start: start start | "a"', "empty rule": "start:", "nullable": "start: a*\na: b*\nb: ", "doubling": double(40, '"a"'),
        "doubling to nothing": double(40, ""), "terminals doubling": "start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(40)) + 'A40: "a"',
        "terminal itself": 'start: A\nA: "a" A', "unknown": "start: b", "twice": 'start: "a"\nstart: "b"', "repeat": 'start: ("a"~1..1000)~1..1000',
        "repeat huge": 'start: "a"~99999999', "json": "start: %json {", "json deep": "start: %json " + '{"items":' * 900 + "{}" + "}" * 900, "regex": "start: /(/", "regex look": "start: /a(?=b)/",
        "regex big": "start: /(a|b)*a(a|b){12}/", "import": "%import common.WORD\nstart: WORD", "import file": "%import .passwd.A\nstart: A", "ignore all": 'start: "a"\n%ignore /.*/',
        "long": "start: " + '"a" ' * 20_000, "noise": _NOISE, "NUL": 'start: "\x00"', "surrogate": 'start: "\ud800"', "open": 'start: "a', "priority": 'start: A\nA.99999999999: "a"',
        "template": 'start: x{"a"}\nx{y}: y x{y}', "groups": "start: " + "(" * 900 + '"a"' + ")" * 900, "alternatives": "start: " + " | ".join(f'"w{i}"' for i in range(3_000)),
    }  # fmt: skip


def ebnfs() -> dict[str, str]:
    return {
        "none": "", "no root": 'a ::= "a"', "endless": 'root ::= "a" root', "left": 'root ::= root "a" | "a"', "ambiguous": 'root ::= root root | "a"',
        "repeat": 'root ::= ("a"{1,1000}){1,1000}', "repeat huge": 'root ::= "a"{999999999}', "class": "root ::= [^]", "class open": "root ::= [a", "groups": "root ::= " + "(" * 2_000 + '"a"' + ")" * 2_000,
        "noise": _NOISE, "NUL": 'root ::= "\x00"', "surrogate": 'root ::= "\ud800"', "chain": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(1_500)) + 'r1500 ::= "a"',
        "doubling": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(40)) + 'r40 ::= "a"', "optional": "root ::= " + '"a"? ' * 3_000 + '"b"',
    }  # fmt: skip


def others() -> dict[str, Constraint]:
    tag = Structure("<f>", js(obj(a=_STRING)), "</f>")

    def deep(depth: int) -> Constraint:
        part: Constraint = Regex("a")
        for _ in range(depth):
            part = SequenceOf((part, "b"))
        return part

    def doubled(depth: int) -> Constraint:
        part: Constraint = Regex("a")
        for _ in range(depth):
            part = OneOf((SequenceOf((part, "b")), part))
        return part

    return {
        "choices none": Choices(()), "choices empty": Choices(("",)), "choices NUL": Choices(("\x00", "a")), "choices surrogate": Choices(("\udfff",)),
        "choices 20000": Choices(tuple(f"option {i}" for i in range(20_000))), "choices 20001": Choices(tuple(map(str, range(20_001)))),
        "choices long": Choices((_LONG, _LONG + "y")), "choices prefixes": Choices(tuple("a" * i for i in range(1, 900))), "choices huge": Choices((_LONG * 5,)),
        "substring": Substring("abc " * 5_000), "substring none": Substring(""), "substring words": Substring(_NOISE, by="words"), "substring huge": Substring(_LONG), "substring surrogate": Substring("a\ud800"),
        "sequence none": SequenceOf(()), "oneOf none": OneOf(()), "repeat 0": RepeatOf("a", 0, 0), "repeat order": RepeatOf("a", 3, 2), "repeat -1": RepeatOf("a", -1, 2),
        "repeat huge": RepeatOf("a", 0, 10**9), "repeat product": RepeatOf(RepeatOf(Regex("a{50}"), 50, 50), 50, 50), "repeat nothing": RepeatOf("", 0, None),
        "sequence 30": deep(30), "sequence 5000": deep(5_000), "doubling 6": doubled(6), "doubling 12": doubled(12), "doubling 60": doubled(60), "ambiguous": SequenceOf((Regex("a*"), Regex("a*"), Regex("a*b"))),
        "schemas meet": SequenceOf((js({"type": "integer"}), js({"type": "integer"}))), "schema inside": RepeatOf(js({"type": "integer", "multipleOf": 99999989}), 1, None, ","),
        "tag": StructuralTag((tag,), ("<f",)), "tag none": StructuralTag((), ("<",)), "tag no trigger": StructuralTag((tag,), ()), "tag empty trigger": StructuralTag((tag,), ("",)),
        "tag 256": StructuralTag(tuple(Structure(f"<f{i}>", js(obj(a=_STRING)), "</f>") for i in range(256)), ("<f",)), "tag triggers": StructuralTag(tuple(Structure(f"{c}x", js({}), "") for c in "abcdefghij"), tuple("abcdefghij")),
        "tag inside": StructuralTag((tag, Structure("<f><f>", js({}), "")), ("<f>", "<f")), "tag long": StructuralTag((Structure("<" * 5_000, js({}), ""),), ("<" * 5_000,)), "tag bad schema": StructuralTag((Structure("<f>", JsonSchema("{"), ""),), ("<f>",)),
        "tag endless": StructuralTag((Structure("<f>", js({"type": "integer", "multipleOf": 99999989}), ""),), ("<f>",)), "tag surrogate": StructuralTag((Structure("\ud800", js({}), ""),), ("\ud800",)),
    }  # fmt: skip


@functools.cache  # writing the large ones takes seconds
def cases() -> dict[str, Constraint]:
    """All of them, by name."""
    found: dict[str, Constraint] = {}
    for family, make, texts in (
        ("json", JsonSchema, texts_of_schemas()), ("regex", Regex, regexes()),
        ("lark", Lark, grammars()), ("ebnf", Ebnf, ebnfs()),
    ):  # fmt: skip
        found |= {f"{family}: {name}": make(text) for name, text in texts.items()}
    found |= {f"schema: {name}": js(node) for name, node in schemas().items()}
    return found | others()


def outcome(constraint: Constraint, compiler: GrammarCompiler) -> str:
    """ "built", or the error it is refused with; some steps are taken, each on the first token."""
    vocabulary = compiler.vocabulary
    row = np.zeros(vocabulary.num_words, np.uint32)
    try:
        matcher = compiler.compile(constraint).matcher()
        for _ in range(NUM_STEPS):
            matcher.forced()
            matcher.fill(row)
            words = row.nonzero()[0]
            if not len(words):
                break
            word = int(row[words[-1]])
            matcher.accept([int(words[-1]) * 32 + word.bit_length() - 1])
        matcher.shortest_completion(thorough=False)
        matcher.explain(0)
    except ConstraintError as error:
        return f"{type(error).__name__}: {error.message:.200}"
    return "built"


def peak_kb() -> int:
    """Most memory of this program; `getrusage` would count that of the process it was forked from."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def names(which: str) -> set[str]:
    """The cases that are "fast", the "slow" ones, or a "sample" of the fast."""
    if which == "slow":
        return set(SLOW)
    fast = [name for name in cases() if name not in SLOW]
    return set(fast[::6] if which == "sample" else fast)


def main(which: str) -> None:
    """Run the cases that `names` gives."""
    chosen = names(which)
    compiler = GrammarCompiler(bpe_vocabulary(), budget=Budget(seconds=2))
    outcome(Regex("a"), compiler)
    for name, constraint in cases().items():
        if name not in chosen:
            continue
        print(json.dumps({"begins": name}), flush=True)
        start, wall = time.process_time(), time.monotonic()
        row: dict[str, Any] = {"name": name, "outcome": outcome(constraint, compiler)}
        row |= {"cpu_s": time.process_time() - start, "wall_s": time.monotonic() - wall}
        row["peak_kb"] = peak_kb()
        print(json.dumps(row), flush=True)
    compiler.close()


if __name__ == "__main__":
    main(sys.argv[1])
