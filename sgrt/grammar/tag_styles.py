"""Arguments of a call as models write them that do not write JSON: XML and its like.

| style | an argument |
|---|---|
| `qwen_xml` | ``<parameter=name>value</parameter>`` |
| `minimax_xml` | ``<parameter name="name">value</parameter>`` |
| `deepseek_xml` | ``<｜DSML｜parameter name="name" string="true">value</｜DSML｜parameter>`` |
| `glm_xml` | ``<arg_key>name</arg_key><arg_value>value</arg_value>`` |
| `cohere_xml` | ``<cofl:value name="name" type="raw">value</cofl:value>`` |
| `kimi_k3_xml` | ``<|open|>argument key="name" type="string"<|sep|>value<|close|>argument<|sep|>`` |

A schema of an object says which arguments there are. Strings are written as they are, without
quotes or escapes, up to the end of the argument; every other value is compact JSON. Where a style
does not say which of the two it is, a value that could be any string is one.

`cohere_xml` writes objects and arrays as such elements again, those of arrays without a name, and
neither of them where a value may be anything.

One line break may stand before and behind each argument and around a value in JSON. Arguments stand
in the order of the schema. Those that it does not name come last, and only where it has
`additionalProperties` or names none; their names are plain (``[A-Za-z_][A-Za-z0-9_]*``).
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, unquote

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
_ARRAY_KEYS = {"type", "items", "minItems", "maxItems", *ANNOTATIONS}
_MAX_DEPTH = 8
"""Of elements in one another: a schema that leads back to itself has no end of them."""
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
        item: what stands before an item of an array, where objects and arrays are no JSON.
        escape: a name as it is written; "" for one that cannot be.
    """

    begin: tuple[str, ...]
    end: str
    text: str = ""
    others: tuple[tuple[str, tuple[str, ...]], ...] = (("", _JSON_TYPES),)
    item: str = ""
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
    "cohere_xml": _Style(
        ('<cofl:value name="{name}" type="{kind}">',),
        "</cofl:value>",
        text="raw",
        others=(
            ("json", ("number", "boolean", "null")),
            ("dict", ("object",)),
            ("list", ("array",)),
        ),
        item='<cofl:value type="{kind}">',
    ),
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
    json_schema.normalise(json_text.dump(value))  # refused as any other schema would be
    whole = _Place("", value)
    arguments = _Arguments(value, whole, STYLES[style], composer, excludes)
    return arguments.referred(whole) if "$ref" in value else arguments.node()


@dataclass(frozen=True)
class _Place:
    """A schema, and where it stands."""

    pointer: str
    schema: Any

    def inner(self, *path: str) -> _Place:
        """A schema in it."""
        schema = self.schema
        for step in path:
            schema = schema[int(step)] if isinstance(schema, list) else schema[step]
        steps = (step.replace("~", "~0").replace("/", "~1") for step in path)
        return _Place("/".join((self.pointer, *steps)), schema)

    def alone(self) -> dict[str, Any]:
        """A schema in which nothing else stands, at the same pointer."""
        found = self.schema
        for step in reversed(self.pointer.split("/")[1:]):
            found = {step.replace("~1", "/").replace("~0", "~"): found}
        return dict(found)

    def check_keys(self, known: Set[str], what: str) -> None:
        for key in self.schema:
            if key not in known:
                raise UnsupportedSchema(
                    f"is not supported where {what} are not written as JSON",
                    pointer=self.pointer,
                    keyword=key,
                )


def _without(normal: dict[str, Any], end: str) -> dict[str, Any]:
    """A normal schema of strings without those listed ones that spell an end."""
    if "anyOf" in normal:
        return {"anyOf": [_without(option, end) for option in normal["anyOf"]]}
    if "enum" in normal:
        return {"enum": [text for text in normal["enum"] if end not in text]}
    return normal


def _is_free(schema: Any) -> bool:
    """Whether a schema says nothing."""
    return schema is True or (isinstance(schema, dict) and schema.keys() <= ANNOTATIONS)


def _refers(schema: Any) -> bool:
    text = json_text.dump(schema)
    return any(f'"{keyword}"' in text for keyword in REFERENCES)


class _Arguments:
    """The values of one object, each with its name.

    Args:
        root: the schema that references point into.
        place: the object's.
        depth: how many objects and arrays it stands in.
    """

    def __init__(
        self,
        root: dict[str, Any],
        place: _Place,
        style: _Style,
        composer: Composer,
        excludes: Sequence[str],
        depth: int = 0,
    ) -> None:
        limits.check_limit("arguments in arguments", depth, _MAX_DEPTH)
        self.root = root
        self.place = place
        self.style = style
        self.composer = composer
        self.excludes = excludes
        self.depth = depth
        self.end = regular.to_pattern(literal(style.end))

    def node(self) -> Node:
        place, schema = self.place, self.place.schema
        place.check_keys(_KEYS, "arguments")
        if not place.pointer and schema.get("type", "object") != "object":
            raise UnsupportedSchema("must be 'object' here: arguments have names", keyword="type")
        properties: dict[str, Any] = schema.get("properties", {})
        required = set(schema.get("required", ()))
        for name in sorted(required - properties.keys()):
            self._fail_required(f"names {name!r:.80}, which 'properties' does not")
        parts = [
            self._property(name, is_required=name in required)
            for name in properties
            if self._is_written(name, is_required=name in required)
        ]
        others = schema.get("additionalProperties", "properties" not in schema)
        if others is not False:
            is_told = "additionalProperties" in schema
            other = (
                place.inner("additionalProperties")
                if is_told
                else _Place("/additionalProperties", True)
            )
            parts.append(Rep(self._argument(self._other_name(properties), other), 0, None))
        return Seq((*parts, _BREAK))

    def _fail_required(self, why: str) -> NoReturn:
        raise UnsupportedSchema(why, pointer=self.place.pointer, keyword="required")

    def _is_written(self, name: str, *, is_required: bool) -> bool:
        is_excluded = any(text in name for text in self.excludes)
        if is_excluded and is_required:
            self._fail_required(f"names {name!r:.80}, which is excluded")
        return not is_excluded

    def _other_name(self, named: Iterable[str]) -> Node:
        names = automaton.compile(_OTHER_NAME) & ~automaton.of_texts(named)
        for text in self.excludes:
            spelled = f"{_ANYTHING}{regular.to_pattern(literal(text))}{_ANYTHING}"
            names &= ~automaton.compile(spelled)
        return regular.parse(unparse.to_pattern(names))

    def _property(self, name: str, *, is_required: bool) -> Node:
        place = self.place.inner("properties", name)
        written = self.style.escape(name)
        if not written:
            why = f"{name!r:.80} cannot be a name in this style"
            raise UnsupportedSchema(why, pointer=place.pointer)
        found = self._argument(literal(written), place)
        if is_required and found == NOTHING:
            raise UnsupportedSchema("no value satisfies this schema", pointer=place.pointer)
        return found if is_required else Rep(found, 0, 1)

    def _argument(self, name: Node, place: _Place) -> Node:
        values = self._values(place)
        return Alt(tuple(Seq((self._begin(name, kind), value)) for kind, value in values.items()))

    def _begin(self, name: Node, kind: str) -> Node:
        parts: list[Node] = []
        for part in self.style.begin:
            before, is_named, after = part.replace("{kind}", kind).partition("{name}")
            parts += [_BREAK, literal(before), *((name, literal(after)) if is_named else ())]
        return Seq(tuple(parts))

    def _values(self, place: _Place) -> dict[str, Node]:
        """What may stand behind the beginning of each kind, its end included."""
        try:
            return self._values_of(place)
        except UnsupportedSchema as error:
            raise excluded.placed(error) from error

    def _values_of(self, place: _Place) -> dict[str, Node]:
        values: dict[str, list[Node]] = {}
        strings = self._of_types(place, ("string",))
        texts = [] if strings is None else self._texts(_without(strings, self.style.end))
        is_any = strings is not None and self._is_any_text(place)
        for kind, types in self.style.others:
            if is_any and kind == self.style.text:
                continue  # whatever it is, it is a string
            is_nested = bool(self.style.item) and kind in _NESTED
            if (is_nested and _is_free(place.schema)) or self._of_types(place, types) is None:
                continue
            value = _NESTED[kind](self, place) if is_nested else self._json(place, types)
            if texts and kind == self.style.text and not any(refs(value)):
                texts.append(self._ended(regular.to_pattern(value)))  # one look at both
            else:
                values.setdefault(kind, []).append(Seq((value, literal(self.style.end))))
        if texts:
            values.setdefault(self.style.text, []).append(self._until_end(texts))
        return {kind: Alt(tuple(nodes)) for kind, nodes in values.items()}

    def _json(self, place: _Place, types: tuple[str, ...]) -> Node:
        value = self.composer.node(JsonSchema(self._typed(place, types)))
        return Seq((_BREAK, value, _BREAK))

    # objects and arrays that are no JSON

    def referred(self, place: _Place) -> Node:
        """The arguments that a place says elsewhere; raises as `node`."""
        try:
            return self._object(place)
        except UnsupportedSchema as error:
            raise excluded.placed(error) from error

    def _object(self, place: _Place) -> Node:
        return Alt(tuple(self._at(found).node() for found in self._alternatives(place, "object")))

    def _array(self, place: _Place) -> Node:
        return Alt(tuple(self._items(found) for found in self._alternatives(place, "array")))

    def _items(self, place: _Place) -> Node:
        place.check_keys(_ARRAY_KEYS, "arrays")
        low, high = int(place.schema.get("minItems", 0)), place.schema.get("maxItems")
        high = None if high is None else int(high)  # 2.0 is an integer to JSON Schema
        items = place.inner("items") if "items" in place.schema else _Place("/items", True)
        values = self._at(place)._values(items)
        begins = {kind: literal(self.style.item.replace("{kind}", kind)) for kind in values}
        item = Alt(tuple(Seq((begins[kind], value)) for kind, value in values.items()))
        return Seq((_BREAK, Rep(item, low, high), _BREAK))  # and none between them, as in xgrammar

    def _at(self, place: _Place) -> _Arguments:
        return _Arguments(
            self.root, place, self.style, self.composer, self.excludes, self.depth + 1
        )

    def _alternatives(self, place: _Place, kind: str, depth: int = 0) -> Iterator[_Place]:
        """Schemas that say of a kind of values what they hold, and together all that a place does.

        What stands beside a reference or a list of alternatives is refused.
        """
        limits.check_limit("references in one another", depth, _MAX_DEPTH)
        schema = place.schema if isinstance(place.schema, dict) else {"type": kind}
        said = schema.keys() - ANNOTATIONS
        if self._of_types(place, (kind,)) is None:
            return
        if said == {"$ref"} and schema["$ref"][:2] in ("#", "#/") and self._has_one_base():
            steps = unquote(schema["$ref"]).split("/")[1:]
            path = (step.replace("~1", "/").replace("~0", "~") for step in steps)
            yield from self._alternatives(_Place("", self.root).inner(*path), kind, depth + 1)
        elif said in ({"anyOf"}, {"oneOf"}):
            (key,) = said
            options = [place.inner(key, str(i)) for i in range(len(schema[key]))]
            options = [o for o in options if self._of_types(o, (kind,)) is not None]
            if key == "oneOf" and len(options) > 1:
                why = f"is only supported with one {kind}, which is not written as JSON"
                raise UnsupportedSchema(why, pointer=place.pointer, keyword=key)
            for option in options:
                yield from self._alternatives(option, kind, depth + 1)
        elif "type" in said:
            yield _Place(place.pointer, schema)
        else:
            why = f"has to say by 'type' that it is an {kind}, which is not written as JSON"
            raise UnsupportedSchema(why, pointer=place.pointer)

    def _has_one_base(self) -> bool:
        """Whether a ``#`` means the whole schema wherever it stands."""
        return json_text.dump(self.root).count('"$id"') == ("$id" in self.root)

    def _is_any_text(self, place: _Place) -> bool:
        """Whether every string satisfies the place's schema, but for what is excluded."""
        return json_schema.normalise(self._typed(place, ("string",), ())) == _ANY_TEXT

    def _typed(
        self, place: _Place, types: tuple[str, ...], excludes: Sequence[str] | None = None
    ) -> str:
        """The schema of a place, for values of some types: what it refers to stays where it is."""
        root = self.root if _refers(place.schema) else place.alone()
        root = {"$id": "urn:sgrt:arguments", **root}
        ref = f"{root['$id']}#{quote(place.pointer)}"
        excludes = self.excludes if excludes is None else excludes
        return json_text.dump(
            excluded.head(self.root)
            | {
                "allOf": [{"$ref": ref}, {"type": list(types)}, *excluded.refs(excludes)],
                "$defs": {excluded.WRAPPED: root, **excluded.definitions(excludes)},
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


_NESTED = {"dict": _Arguments._object, "list": _Arguments._array}
