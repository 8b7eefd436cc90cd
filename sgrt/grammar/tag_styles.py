"""Arguments of a call as models write them that do not write JSON: XML and its like.

| style | an argument |
|---|---|
| `qwen_xml` | ``<parameter=name>value</parameter>`` |
| `minimax_xml` | ``<parameter name="name">value</parameter>`` |
| `deepseek_xml` | ``<｜DSML｜parameter name="name" string="true">value</｜DSML｜parameter>`` |
| `glm_xml` | ``<arg_key>name</arg_key><arg_value>value</arg_value>`` |
| `kimi_k3_xml` | ``<|open|>argument key="name" type="string"<|sep|>value<|close|>argument<|sep|>`` |

A schema of an object says which arguments there are. Strings are written as they are, without
quotes or escapes, up to the end of the argument; every other value is compact JSON. Where a style
does not say which of the two it is, a value that could be any string is one.

One line break may stand before and behind each argument and around a value in JSON. Arguments stand
in the order of the schema. Those that it does not name come last, and only where it has
`additionalProperties` or names none; their names are plain (``[A-Za-z_][A-Za-z0-9_]*``).
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sgrt.core import JsonSchema
from sgrt.errors import GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import (
    automaton,
    boxes,
    excluded,
    json_schema,
    json_text,
    limits,
    regular,
    unparse,
)
from sgrt.grammar.boxes import Box
from sgrt.grammar.rules import NOTHING, Alt, Lexeme, Node, Ref, Rep, Seq, literal, refs
from sgrt.grammar.schema.contract import ANNOTATIONS
from sgrt.grammar.schema.reader import REFERENCES
from sgrt.grammar.schema.writer import Unsatisfiable

if TYPE_CHECKING:
    from sgrt.grammar.compose import Composer

_JSON_TYPES = ("number", "boolean", "null", "object", "array")
_KEYS = {"$id", "type", "properties", "required", "additionalProperties", *ANNOTATIONS}
_DEFINED = "arguments"
_ANY_TEXT = json_text.dump({"type": "string"})
_BREAK: Node = Rep(literal("\n"), 0, 1)
_OTHER_NAME = r"[\x{41}-\x{5A}\x{61}-\x{7A}\x{5F}][\x{30}-\x{39}\x{41}-\x{5A}\x{61}-\x{7A}\x{5F}]*"
_ANYTHING = "(?s:.)*"


@dataclass(frozen=True)
class _Style:
    """How a style writes an argument.

    Args:
        begin: what stands before the value, in parts that a line break may divide; ``{name}`` is
            the argument's name, ``{kind}`` says what the value is.
        end: what stands behind it.
        text: kind of a string.
        others: kinds of other values, and their types in JSON Schema.
        escape: a name as it is written; "" for one that cannot be.
    """

    begin: tuple[str, ...]
    end: str
    text: str = ""
    others: tuple[tuple[str, tuple[str, ...]], ...] = (("", _JSON_TYPES),)
    escape: Callable[[str], str] = lambda name: "" if set(name) & set('<>"&\n') else name


STYLES = {
    "qwen_xml": _Style(("<parameter={name}>",), "</parameter>"),
    "minimax_xml": _Style(('<parameter name="{name}">',), "</parameter>"),
    "deepseek_xml": _Style(
        ('<｜DSML｜parameter name="{name}" string="{kind}">',),
        "</｜DSML｜parameter>",
        text="true",
        others=(("false", _JSON_TYPES),),
    ),
    "glm_xml": _Style(("<arg_key>{name}</arg_key>", "<arg_value>"), "</arg_value>"),
    "kimi_k3_xml": _Style(
        ('<|open|>argument key="{name}" type="{kind}"<|sep|>',),
        "<|close|>argument<|sep|>",
        text="string",
        others=tuple((kind, (kind,)) for kind in _JSON_TYPES),
        escape=lambda name: html.escape(name).replace("&#x27;", "'"),
    ),
}


def node(
    schema: dict[str, Any] | bool, style: str, composer: Composer, excludes: Sequence[str] = ()
) -> Node:
    """The arguments of one call.

    Args:
        schema: of an object whose keys are the arguments.
        style: one of `STYLES`.
        excludes: what no name, string or key spells; each `excluded.is_plain`.

    Raises:
        UnsupportedSchema: it is no schema of an object, says more of it than which arguments it
            has, or is refused for a value; a name that the style cannot write.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    value = {} if schema is True else schema
    if not isinstance(value, dict):
        raise UnsupportedSchema("no value satisfies this schema")
    _check(value)
    return _Arguments(value, STYLES[style], composer, excludes).node()


def _check(schema: dict[str, Any]) -> None:
    for key in schema:
        if key not in _KEYS:
            raise UnsupportedSchema(
                "is not supported where arguments are not written as JSON",
                keyword=key,
                hint="name the arguments in 'properties'",
            )
    if schema.get("type", "object") != "object":
        raise UnsupportedSchema("must be 'object' here: arguments have names", keyword="type")
    json_schema.normalise(json_text.dump(schema))  # refused as any other schema would be


@dataclass(frozen=True)
class _Place:
    """The schema of an argument: where it stands, and a schema where nothing else stands."""

    pointer: str
    schema: Any
    alone: dict[str, Any]


def _without(normal: dict[str, Any], end: str) -> dict[str, Any]:
    """A normal schema of strings without those listed ones that spell an end."""
    if "anyOf" in normal:
        return {"anyOf": [_without(option, end) for option in normal["anyOf"]]}
    if "enum" in normal:
        return {"enum": [text for text in normal["enum"] if end not in text]}
    return normal


def _refers(schema: Any) -> bool:
    text = json_text.dump(schema)
    return any(f'"{keyword}"' in text for keyword in REFERENCES)


class _Arguments:
    def __init__(
        self, schema: dict[str, Any], style: _Style, composer: Composer, excludes: Sequence[str]
    ) -> None:
        self.style = style
        self.excludes = excludes
        self.end = regular.to_pattern(literal(style.end))
        self.composer = composer
        self.properties: dict[str, Any] = schema.get("properties", {})
        self.required = set(schema.get("required", ()))
        self.others = schema.get("additionalProperties", True)
        self.has_named = "properties" in schema
        self.is_open = "additionalProperties" in schema
        self.schema = schema

    def node(self) -> Node:
        for name in sorted(self.required - self.properties.keys()):
            why = f"names {name!r}, which 'properties' does not"
            raise UnsupportedSchema(why, keyword="required")
        parts = [self._property(name) for name in self.properties if self._is_written(name)]
        if self.others is not False and (self.is_open or not self.has_named):
            place = _Place(
                "/additionalProperties", self.others, {"additionalProperties": self.others}
            )
            parts.append(Rep(self._argument(self._other_name(), place), 0, None))
        return Seq((*parts, _BREAK))

    def _is_written(self, name: str) -> bool:
        is_excluded = any(text in name for text in self.excludes)
        if is_excluded and name in self.required:
            raise UnsupportedSchema(f"names {name!r:.80}, which is excluded", keyword="required")
        return not is_excluded

    def _other_name(self) -> Node:
        names = automaton.compile(_OTHER_NAME) & ~automaton.of_texts(self.properties)
        for text in self.excludes:
            spelled = f"{_ANYTHING}{regular.to_pattern(literal(text))}{_ANYTHING}"
            names &= ~automaton.compile(spelled)
        return regular.parse(unparse.to_pattern(names))

    def _property(self, name: str) -> Node:
        pointer = f"/properties/{name.replace('~', '~0').replace('/', '~1')}"
        value = self.properties[name]
        place = _Place(pointer, value, {"properties": {name: value}})
        written = self.style.escape(name)
        if not written:
            raise UnsupportedSchema(f"{name!r:.80} cannot be a name in this style", pointer=pointer)
        found = self._argument(literal(written), place)
        if name in self.required and found == NOTHING:
            raise UnsupportedSchema("no value satisfies this schema", pointer=pointer)
        return found if name in self.required else Rep(found, 0, 1)

    def _argument(self, name: Node, place: _Place) -> Node:
        try:
            values = self._values(place)
        except UnsupportedSchema as error:
            raise excluded.placed(error, _DEFINED) from error
        return Alt(tuple(Seq((self._begin(name, kind), value)) for kind, value in values.items()))

    def _begin(self, name: Node, kind: str) -> Node:
        parts: list[Node] = []
        for part in self.style.begin:
            before, is_named, after = part.replace("{kind}", kind).partition("{name}")
            parts += [_BREAK, literal(before), *((name, literal(after)) if is_named else ())]
        return Seq(tuple(parts))

    def _values(self, place: _Place) -> dict[str, Node]:
        """What may stand behind the beginning of each kind, its end included."""
        values: dict[str, list[Node]] = {}
        strings = self._of_types(place, ("string",))
        texts = [] if strings is None else self._texts(_without(strings, self.style.end))
        is_any = strings is not None and self._is_any_text(place)
        for kind, types in self.style.others:
            if is_any and kind == self.style.text:
                continue  # whatever it is, it is a string
            if self._of_types(place, types) is None:
                continue
            value = self.composer.node(JsonSchema(self._typed(place, types)))
            value = Seq((_BREAK, value, _BREAK))
            if texts and kind == self.style.text and not any(refs(value)):
                texts.append(self._ended(regular.to_pattern(value)))  # one look at both
            else:
                values.setdefault(kind, []).append(Seq((value, literal(self.style.end))))
        if texts:
            values.setdefault(self.style.text, []).append(self._until_end(texts))
        return {kind: Alt(tuple(nodes)) for kind, nodes in values.items()}

    def _is_any_text(self, place: _Place) -> bool:
        """Whether every string satisfies the place's schema, but for what is excluded."""
        return json_schema.normalise(self._typed(place, ("string",), ())) == _ANY_TEXT

    def _typed(
        self, place: _Place, types: tuple[str, ...], excludes: Sequence[str] | None = None
    ) -> str:
        """The schema of a place, for values of some types: what it refers to stays where it is."""
        root = self.schema if _refers(place.schema) else place.alone
        root = {"$id": "urn:sgrt:arguments", **root}
        ref = f"{root['$id']}#{quote(place.pointer)}"
        excludes = self.excludes if excludes is None else excludes
        return json_text.dump(
            excluded.head(self.schema)
            | {
                "allOf": [{"$ref": ref}, {"type": list(types)}, *excluded.refs(excludes)],
                "$defs": {_DEFINED: root, **excluded.definitions(excludes)},
            }
        )

    def _of_types(self, place: _Place, types: tuple[str, ...]) -> dict[str, Any] | None:
        """The normal schema of a place's values of some types; None where there are none."""
        named = place.schema.get("type") if isinstance(place.schema, dict) else None
        if isinstance(named, str) and named.replace("integer", "number") not in types:
            return None
        try:
            return dict(json.loads(json_schema.normalise(self._typed(place, types))))
        except Unsatisfiable:
            return None

    # strings

    def _texts(self, normal: dict[str, Any]) -> list[str]:
        """The strings of a normal schema, each with the end behind it, as lexemes."""
        if "anyOf" in normal:
            return [text for option in normal["anyOf"] for text in self._texts(option)]
        if "enum" in normal:
            return [self._ended(regular.to_pattern(literal(text))) for text in normal["enum"]]
        patterns = [p["pattern"] for p in (normal, *normal.get("allOf", ())) if "pattern" in p]
        bodies = [pattern.removeprefix("^").removesuffix("$") for pattern in patterns]
        low, high = normal.get("minLength", 0), normal.get("maxLength")
        if low or high is not None:
            bodies.append(f"(?s:.){{{low},{'' if high is None else high}}}")
        lexeme = " & ".join(self._ended(body) for body in bodies or [_ANYTHING])
        # What ends with its first end needs no more; what might be read on is told not to be.
        if patterns:
            guard = f" & ~/{_ANYTHING}{self.end}(?s:.)+/"
            return [lexeme + (guard if all(map(self._may_spell_end, patterns)) else "")]
        return [f"{lexeme} & ~/(?s:.){{0,{low - 1}}}{self.end}{_ANYTHING}/" if low else lexeme]

    def _may_spell_end(self, pattern: str) -> bool:
        try:
            spelled = automaton.compile(pattern.removeprefix("^").removesuffix("$"))
        except GrammarBudgetExceeded:
            return True
        return spelled.meets(automaton.compile(_ANYTHING + self.end + _ANYTHING))

    def _ended(self, body: str) -> str:
        return f"/{body}{self.end}/"

    def _until_end(self, texts: list[str]) -> Ref:
        """One of these lexemes, as little of it as possible."""
        source = " | ".join(f"({text})" for text in texts)
        limits.check_limit("characters of an argument", len(source), limits.MAX_REGEX_SIZE)
        box = Box("text of an argument", boxes.ANYTHING, ())
        return self.composer.box(box, Lexeme(source, len(source)), is_lazy=True)
