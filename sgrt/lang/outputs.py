"""From Python types to constraints, and from text back to objects of the type.

===========================================  ==========================================
type                                         its text
===========================================  ==========================================
str                                          any text
int, float, Decimal                          a number as JSON spells it, finite
bool                                         true, false, True or False
date, datetime, time                         ISO 8601: 2026-11-22, 2026-11-22T08:30:00Z, 08:30:00
Literal, Enum of texts or of integers        one of the values, without quotes
all else (models, dataclasses, TypedDict,    compact JSON of the schema that pydantic gives, objects
NamedTuple, list, dict, tuple, Union, None)  without undeclared keys; parsed and validated by pydantic
===========================================  ==========================================

``dtype=int``, and float, bool and str, are for running text instead (`lang.plain`).
Inside of JSON the same types are spelled as JSON wants them (texts and dates in quotes).
Dates and decimals keep to their bounds there, URLs to their schemes (`lang.type_schemas`).
pydantic is imported where a type needs it, so that importing the language stays light.
"""

from __future__ import annotations

import enum
import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from sgrt.core import Choices, Constraint, JsonSchema, Regex
from sgrt.errors import UnsupportedSchema
from sgrt.lang import type_checks
from sgrt.lang.decimals import FLOAT, INT, NUMBER
from sgrt.lang.moments import DATE, OFFSET, TIME
from sgrt.lang.plain import Plain
from sgrt.schemas import closed, schema_constraint

_WORDS = {"true": True, "false": False, "True": True, "False": False}


R = TypeVar("R")


@dataclass(frozen=True)
class Output:
    """A type as the target of a generation.

    Args:
        name: of the type, for messages.
        constraint: what its text satisfies; None for any text.
        parse: from text to an object of the type; raises ValueError.
        parse_part: the same for a text that was cut; None where the beginning of a text has no
            value.
    """

    name: str
    constraint: Constraint | None
    parse: Callable[[str], Any]
    parse_part: Callable[[str], Any] | None = None

    @property
    def is_json(self) -> bool:
        """Whether the text is JSON."""
        return isinstance(self.constraint, JsonSchema)


def _looked_up(table: Mapping[str, Any], text: str) -> Any:
    if text not in table:
        raise ValueError(f"{text[:40]!r} is not one of {', '.join(table)}")
    return table[text]


_PLAIN: dict[Any, Output] = {
    str: Output("str", None, str),
    int: Output("int", Regex(INT), int),
    float: Output("float", Regex(FLOAT), float),
    bool: Output("bool", Choices(tuple(_WORDS)), partial(_looked_up, _WORDS)),
    Decimal: Output("Decimal", Regex(NUMBER), Decimal),
    date: Output("date", Regex(DATE), date.fromisoformat),
    time: Output("time", Regex(TIME + OFFSET), time.fromisoformat),
    datetime: Output("datetime", Regex(f"{DATE}T{TIME}{OFFSET}"), datetime.fromisoformat),
}


def _once_per_type(func: Callable[[Any], R]) -> Callable[[Any], R]:
    """Remember what a function made of a type, where it can be remembered."""
    cached = functools.lru_cache(maxsize=256)(func)

    @functools.wraps(func)
    def call(kind: Any) -> R:
        try:
            hash(kind)
        except TypeError:  # an annotation that holds a list, say
            return func(kind)
        return cached(kind)

    return call


@_once_per_type
def output_of(kind: Any) -> Output:
    """What a type asks of its text.

    Raises:
        TypeError: not a type.
        UnsupportedSchema: JSON cannot hold the type, or pydantic knows no schema for it.
    """
    if isinstance(kind, (str, int, float, bytes, Mapping)) or kind is None:
        hint = "; a schema goes to json_schema=" if isinstance(kind, Mapping) else ""
        raise TypeError(f"output must be a type, not {kind!r:.80}{hint}")
    if isinstance(kind, Plain):
        return Output(kind.name, Regex(kind.pattern), kind.read, kind.read_part)
    plain = _PLAIN.get(kind) if isinstance(kind, type) else None
    return plain or _one_of(kind) or _json(kind)


def type_name(kind: Any) -> str:
    """How a person calls the type."""
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def _one_of(kind: Any) -> Output | None:
    """A Literal or Enum whose values can stand in the text as they are."""
    if get_origin(kind) is Literal:
        values = {
            value.value if isinstance(value, enum.Enum) else value: value
            for value in get_args(kind)
        }
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        values = {member.value: member for member in kind}
    else:
        return None
    is_text = all(type(value) is str and value for value in values)
    is_int = all(type(value) is int for value in values)
    if not values or not (is_text or is_int):
        return None
    texts = {str(value): found for value, found in values.items()}
    return Output(type_name(kind), Choices(tuple(texts)), partial(_looked_up, texts))


def _json(kind: Any) -> Output:
    from sgrt.lang.type_schemas import Schemas  # pydantic is loaded where it is used

    schema_of: Callable[..., Any]
    if isinstance(kind, type) and hasattr(kind, "model_json_schema"):
        schema_of, parse = kind.model_json_schema, kind.model_validate_json  # type: ignore[attr-defined]
        core = getattr(kind, "__pydantic_core_schema__", None)  # plans have classes of their own
    else:
        adapter = adapter_of(kind)
        schema_of, parse, core = adapter.json_schema, adapter.validate_json, adapter.core_schema
    name = type_name(kind)
    try:
        type_checks.check(core, name)
        schema = schema_of(schema_generator=Schemas)
    except UnsupportedSchema:
        raise
    except Exception as error:  # pydantic's own kinds, or the user's code that it calls
        raise UnsupportedSchema(
            f"the type {name!r} has none: {type(error).__name__}: {error}"
        ) from error
    return Output(name, schema_constraint(closed(schema)), parse)


@_once_per_type
def adapter_of(kind: Any) -> Any:
    """pydantic's validator of a type.

    Raises:
        TypeError: not a type.
        UnsupportedSchema: pydantic cannot validate it.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(_readable(kind))
    except Exception as error:
        is_type = isinstance(kind, type) or get_origin(kind) is not None
        if not is_type and isinstance(error, pydantic.errors.PydanticSchemaGenerationError):
            raise TypeError(f"output must be a type, not {kind!r:.80}") from None
        raise UnsupportedSchema(
            f"the type {type_name(kind)!r} has none: {type(error).__name__}: {error}"
        ) from error


def _readable(kind: Any) -> Any:
    """The type with each `typing.TypedDict` in it as pydantic reads one before Python 3.12."""
    if is_typeddict(kind):
        import typing_extensions

        hints = get_type_hints(kind, include_extras=True)
        fields = {
            key: typing_extensions.NotRequired[_readable(hint)]
            if key in kind.__optional_keys__ and get_origin(hint) is not NotRequired
            else _readable(hint)
            for key, hint in hints.items()
        }
        return typing_extensions.TypedDict(kind.__name__, fields)  # type: ignore[operator]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (None, Literal, Annotated):
        return kind
    readable = tuple(_readable(arg) for arg in inner)
    if readable == inner:
        return kind
    if origin in (Union, UnionType):
        return functools.reduce(operator.or_, readable)
    return origin[readable]


# ---------------------------------------------------------------- what programs return

_BUILTIN = (str, int, float, bool, bytes, list, dict, set, tuple, NoneType)


def return_check(annotations: Mapping[str, Any]) -> Callable[[Any], str | None] | None:
    """A check of what a function returns against its annotation; None where it has none.

    Args:
        annotations: of the function, evaluated.

    Returns:
        A function from a value to what is wrong with it, or None. A type that nothing can check
        passes everything.
    """
    kind = annotations.get("return", Any)
    if kind is Any:
        return None
    kind = NoneType if kind is None else kind
    return functools.partial(_wrong, kind)


def _wrong(kind: Any, value: Any) -> str | None:
    problem = None
    if kind in _BUILTIN:
        fits = isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool))
        fits = fits or (kind is float and type(value) is int)
        problem = None if fits else "it is not one"
    else:
        problem = _refusal(kind, value)
    if problem is None:
        return None
    kind_name = "None" if kind is NoneType else type_name(kind)
    return (
        f"it returned {value!r:.80}, a {type(value).__name__}, but says -> {kind_name}: {problem}"
    )


@functools.lru_cache(maxsize=256)
def _strict(kind: Any) -> Any:
    import pydantic

    try:
        return pydantic.TypeAdapter(kind, config={"arbitrary_types_allowed": True})
    except pydantic.errors.PydanticUserError:  # models and dataclasses have a config of their own
        try:
            return pydantic.TypeAdapter(kind)
        except Exception:
            return None
    except Exception:
        return None


def _refusal(kind: Any, value: Any) -> str | None:
    adapter = _strict(kind)
    if adapter is None:
        return None
    try:
        adapter.validate_python(value, strict=True)
    except ValueError as error:
        return str(error)
    return None
