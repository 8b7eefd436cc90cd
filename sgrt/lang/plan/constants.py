"""Constants of a plan as JSON values and back.

A scalar is itself. All else is an object with one key: "list", "tuple", "set", "dict" (of pairs),
"float" (as text, where JSON has none), "constraint", "choices_method", or of a type "type" (a
built-in one, by name), "schema", "literal" (its values) or "pattern".
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, get_origin

from sgrt.constraint_json import KINDS, check_fields
from sgrt.core import Choices, JsonSchema, Regex
from sgrt.errors import ConstraintError, PlanError, SgrtError
from sgrt.lang import types
from sgrt.lang.choices import METHODS, ChoicesMethod
from sgrt.lang.outputs import output_of, type_name
from sgrt.lang.plain import Plain
from sgrt.lang.plan.values import read_json

_TYPES: Mapping[str, type] = {t.__name__: t for t in (str, int, float, bool)}
_MAX_DEPTH = 60


class Writer:
    """Turns constants into JSON values.

    Attributes:
        notes: what they lose by it.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def write(self, value: Any, depth: int = 0) -> Any:
        """Raises `PlanError` for what has no JSON."""
        if depth > _MAX_DEPTH:
            raise PlanError("a constant is nested too deeply to be written")
        if isinstance(value, enum.Enum):
            self._note(f"{value} became {value.value!r}")
            return self.write(value.value, depth)
        kind = type(value)
        if value is None or kind in (str, int, bool):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if kind in (list, tuple, set, frozenset):
            name = "set" if kind is frozenset else kind.__name__
            items = sorted(value, key=repr) if name == "set" else value
            return {name: [self.write(item, depth + 1) for item in items]}
        if isinstance(value, dict):
            return {"dict": [[self.write(x, depth + 1) for x in pair] for pair in value.items()]}
        if kind in KINDS.values():
            return {"constraint": self._constraint(value, depth)}
        if isinstance(value, ChoicesMethod) and METHODS.get(value.name) is value:
            return {"choices_method": value.name}
        if isinstance(value, type) and value in _TYPES.values():
            return {"type": value.__name__}
        return self._type(value)

    def _constraint(self, value: Any, depth: int) -> dict[str, Any]:
        given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {
            "is": type(value).__name__,
            **{k: self.write(v, depth + 1) for k, v in given.items()},
        }

    def _type(self, value: Any) -> dict[str, Any]:
        """A type, by the constraint of its text."""
        if isinstance(value, Plain) and (value.stop, value.read) == ((), str):  # read from a plan
            return {"pattern": {"name": value.name, "pattern": value.pattern}}
        is_type = isinstance(value, type) or get_origin(value) is not None
        try:
            output = output_of(value) if is_type else None
        except (SgrtError, TypeError) as error:
            raise PlanError(f"{value!r:.80} cannot be part of a plan's text: {error}") from error
        match None if output is None else output.constraint:
            case JsonSchema(schema):
                self._note(f"{type_name(value)} became its JSON schema: values of it are plain")
                return {"schema": {"name": type_name(value), "schema": schema}}
            case Choices(options):
                found = [output.parse(text) for text in options] if output else []
                plain = [each.value if isinstance(each, enum.Enum) else each for each in found]
                self._note(f"{type_name(value)} became the values {plain!r:.200}")
                return {"literal": [self.write(each) for each in plain]}
            case Regex(pattern):
                self._note(f"{type_name(value)} became its pattern: values of it are text")
                return {"pattern": {"name": type_name(value), "pattern": pattern}}
        raise PlanError(f"{value!r:.80} cannot be part of a plan's text")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def read(value: Any, depth: int = 0) -> Any:
    """A constant from its JSON value.

    Raises:
        PlanError: it is none.
    """
    if depth > _MAX_DEPTH:
        raise PlanError("a constant of the plan is nested too deeply")
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((kind, content),) = value.items()
        if kind in _READERS:
            try:
                return _READERS[kind](content, depth + 1)
            except (TypeError, ValueError, SgrtError) as error:
                raise PlanError(f"a {kind} of the plan cannot be read: {error}") from error
    raise PlanError(f"{value!r:.60} is no constant of a plan")


def _items(content: Any, depth: int) -> list[Any]:
    if not isinstance(content, list):
        _refuse("items", content)
    return [read(item, depth) for item in content]


def _pairs(content: Any, depth: int) -> dict[Any, Any]:
    if not isinstance(content, list) or not all(
        isinstance(p, list) and len(p) == 2 for p in content
    ):
        _refuse("pairs", content)
    return {read(key, depth): read(item, depth) for key, item in content}


def _float(content: Any, depth: int) -> float:
    if content not in ("nan", "inf", "-inf"):
        _refuse("a float", content)
    return float(content)


def _named_type(content: Any, depth: int) -> type:
    if not isinstance(content, str) or content not in _TYPES:
        _refuse("a type", content)
    return _TYPES[content]


def _schema(content: Any, depth: int) -> type:
    if not isinstance(content, dict) or content.keys() != {"name", "schema"}:
        _refuse("a schema", content)
    name, schema = content["name"], content["schema"]
    if not isinstance(name, str) or not isinstance(schema, str) or not name:
        _refuse("a schema", content)
    parsed = read_json(types.json_schema(schema).schema)
    return plain_type(name[:100], parsed)


def _literal(content: Any, depth: int) -> Any:
    if not isinstance(content, list) or not all(type(c) in (str, int) for c in content):
        _refuse("a literal", content)
    return Literal[tuple(content)]


def _pattern(content: Any, depth: int) -> Plain:
    if not isinstance(content, dict) or content.keys() != {"name", "pattern"}:
        _refuse("a pattern", content)
    if not all(isinstance(text, str) for text in content.values()):
        _refuse("a pattern", content)
    return Plain(content["name"][:100], content["pattern"], (), str)


def _method(content: Any, depth: int) -> ChoicesMethod:
    if not isinstance(content, str) or content not in METHODS:
        _refuse("a method of choosing", content)
    return METHODS[content]


def is_constant(value: Any) -> bool:
    """Whether it is something that is no plain value, but known to be harmless."""
    if isinstance(value, (*KINDS.values(), type, Plain, ChoicesMethod)):
        return True
    return get_origin(value) is not None  # a type with parameters


def plain_type(name: str, schema: Any) -> type:
    """A class for ``gen(output=…)`` whose values are JSON's, objects as `values.Record`."""
    methods = {
        "model_json_schema": classmethod(lambda cls, *args, **kwargs: schema),
        "model_validate_json": classmethod(lambda cls, text, *args, **kwargs: read_json(text)),
    }
    return type(name, (), methods)


def _constraint(content: Any, depth: int) -> Any:
    if not isinstance(content, dict):
        _refuse("a constraint", content)
    kind = KINDS.get(str(content.get("is")))
    given = {key: value for key, value in content.items() if key != "is"}
    if kind is None or given.keys() != {f.name for f in dataclasses.fields(kind)}:
        _refuse("a constraint", content)
    return checked(kind(**{name: read(value, depth) for name, value in given.items()}))


def checked(constraint: Any) -> Any:
    """The same constraint; raises PlanError where its fields are not what they are declared as."""
    given = {f.name: getattr(constraint, f.name) for f in dataclasses.fields(constraint)}
    try:
        check_fields(type(constraint), given)
    except ConstraintError as error:
        raise PlanError(error.message) from None
    return constraint


def _refuse(what: str, content: Any) -> NoReturn:
    raise PlanError(f"{content!r:.60} is not {what}")


_READERS: Mapping[str, Callable[[Any, int], Any]] = {
    "list": _items,
    "tuple": lambda content, depth: tuple(_items(content, depth)),
    "set": lambda content, depth: set(_items(content, depth)),
    "dict": _pairs,
    "float": _float,
    "type": _named_type,
    "schema": _schema,
    "literal": _literal,
    "pattern": _pattern,
    "choices_method": _method,
    "constraint": _constraint,
}
