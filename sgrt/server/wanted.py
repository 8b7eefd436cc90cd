"""What a request's text is held to: every spelling of OpenAI, SGLang and vLLM, one constraint.

A request may hold its text to one thing; it may say so twice (guidance does). Two different
constraints are refused by name, and so is a key that looks like a constraint and is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sgrt import constraint_json
from sgrt.core import Choices, Constraint, Ebnf, JsonSchema, Regex, StructuralTag
from sgrt.errors import ConstraintError, GrammarSyntaxError
from sgrt.grammar import ebnf, layout
from sgrt.grammar.detect import detect_grammar
from sgrt.schemas import closed, schema_constraint
from sgrt.server.body import did_you_mean, join
from sgrt.server.failures import bad_request, from_error
from sgrt.server.wire import Constrained

ANY_OBJECT = JsonSchema('{"type":"object"}')


@dataclass(frozen=True)
class Wanted:
    """A constraint, and the place in the body that asks for it."""

    constraint: Constraint
    at: str


def wanted(wire: Constrained, at: str = "") -> Wanted | None:
    """The one constraint of a request, or None.

    Args:
        at: where the fields stand in the body.

    Raises:
        ApiError: 400 for two of them, an unknown key, or a value that is none.
    """
    found: list[Wanted] = []
    for name, read in _FIELDS.items():
        value = getattr(wire, name)
        if value is not None:
            place = join(at, name)
            with _blaming(place):
                found += read(value, place)
    _check_backend(wire.guided_decoding_backend)
    if any(other.constraint != found[0].constraint for other in found):
        names = " and ".join(w.at for w in found)
        raise bad_request(f"a text can be held to one constraint, not to {names}", found[1].at)
    pattern, place = wire.guided_whitespace_pattern, join(at, "guided_whitespace_pattern")
    if pattern is not None and "disable-any-whitespace" in (wire.guided_decoding_backend or ""):
        raise bad_request(f"{place}: guided_decoding_backend allows no white space", place)
    return _spaced(found[0] if found else None, pattern, place)


def wanted_json(value: object, at: str, other: Wanted | None) -> Wanted:
    """A constraint that is spelled out (`sgrt.constraint_json`).

    Args:
        other: what the request's other fields ask for.

    Raises:
        ApiError: 400 for two of them, or what is no constraint.
    """
    if other is not None:
        raise bad_request(f"a text can be held to one constraint, not to {other.at} and {at}", at)
    with _blaming(at):
        return Wanted(constraint_json.read(value), at)


def wanted_format(value: Mapping[str, Any], at: str) -> Wanted | None:
    """The constraint of a format as responses have it: what a chat's `json_schema` holds stands
    beside the type.

    Raises:
        ApiError: 400 for what is no format.
    """
    with _blaming(at):
        if value.get("type") == "json_schema":
            return _named_schema({k: v for k, v in value.items() if k != "type"}, at)
        return next(iter(_response_format(value, at)), None)


@contextmanager
def _blaming(at: str) -> Iterator[None]:
    """Errors of constraints are the fault of this part of the body."""
    try:
        yield
    except ConstraintError as error:
        raise from_error(error, param=at) from error


_BACKENDS = ("auto", "guidance", "llguidance", "lm-format-enforcer", "outlines", "xgrammar")
_BACKEND_OPTIONS = ("no-fallback", "disable-any-whitespace", "no-additional-properties")
"""What holds here where nothing is said: one engine does all, JSON is compact, declared objects are
closed."""


def _check_backend(name: str | None) -> None:
    """Any engine's name passes: what a text is held to does not depend on it. Its options, as vLLM
    had them behind a colon, say what holds here anyway."""
    backend, colon, options = (name or "auto").partition(":")
    known = not colon or all(option in _BACKEND_OPTIONS for option in options.split(","))
    if backend not in _BACKENDS or not known:
        raise bad_request(
            f"guided_decoding_backend={name!r:.80} is not known", "guided_decoding_backend"
        )


def _spaced(found: Wanted | None, pattern: object, at: str) -> Wanted | None:
    """With white space between the values of JSON, as a pattern allows it; else it is compact."""
    if pattern is None:
        return found
    if found is None or not isinstance(found.constraint, JsonSchema):
        raise bad_request(f"{at} needs a JSON schema", at)
    if not isinstance(pattern, str):
        raise bad_request(f"{at} must be a string", at)
    spaced = JsonSchema(found.constraint.schema, "flexible", pattern)
    with _blaming(at):
        layout.of(spaced)
    return Wanted(spaced, found.at)


# ---------------------------------------------------------------- one reader per field


def _response_format(value: Any, at: str) -> list[Wanted]:
    kind = value.get("type")
    if kind == "text":
        _only(value, at, "type")
        return []
    if kind == "json_object":
        if "schema" in value:  # llama.cpp and others put one here
            _only(value, at, "type", "schema")
            return [Wanted(schema_of(value["schema"]), f"{at}.schema")]
        _only(value, at, "type")
        return [Wanted(ANY_OBJECT, at)]
    if kind == "json_schema":
        _only(value, at, "type", "json_schema")
        return [_named_schema(value.get("json_schema"), f"{at}.json_schema")]
    if kind == "structural_tag":
        return [Wanted(StructuralTag.from_dict(value), at)]
    known = "text, json_object, json_schema, structural_tag"
    raise bad_request(f"{at}.type={kind!r:.80} is not one of {known}", f"{at}.type")


def _named_schema(value: Any, at: str) -> Wanted:
    if not isinstance(value, Mapping):
        raise bad_request(f"{at} must be an object with a schema", at)
    _only(value, at, "name", "description", "schema", "strict")
    for key, kind, called in (("name", str, "a string"), ("strict", bool, "true or false")):
        if value.get(key) is not None and not isinstance(value[key], kind):
            raise bad_request(f"{at}.{key} must be {called}", f"{at}.{key}")
    if value.get("schema") is None:
        raise bad_request(f"the field '{at}.schema' is required", f"{at}.schema")
    with _blaming(f"{at}.schema"):
        return Wanted(schema_of(value["schema"]), f"{at}.schema")


def _structured_outputs(value: Any, at: str) -> list[Wanted]:
    known = [*_STRUCTURED, *_STRUCTURED_FLAGS, "whitespace_pattern"]
    for key in value:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise bad_request(
                f"unknown field '{at}.{key:.80}'{hint}", f"{at}.{key}", "unknown_field"
            )
    for key in _STRUCTURED_FLAGS:
        if value.get(key) is not None and not isinstance(value[key], bool):
            raise bad_request(f"{at}.{key} must be true or false", f"{at}.{key}")
    readers = dict(_STRUCTURED)
    if value.get("disable_additional_properties") is False:
        readers["json"] = _open_schema
    found: list[Wanted] = []
    for key, read in readers.items():
        if value.get(key) is not None:
            with _blaming(f"{at}.{key}"):
                found += read(value[key], f"{at}.{key}")
    if len(found) != 1:
        names = " and ".join(w.at for w in found) or "none"
        raise bad_request(f"{at} must hold exactly one constraint, it holds {names}", at)
    pattern, place = value.get("whitespace_pattern"), f"{at}.whitespace_pattern"
    if pattern is not None and value.get("disable_any_whitespace"):
        raise bad_request(f"{place} contradicts disable_any_whitespace", place)
    constraint = found[0].constraint
    if isinstance(constraint, JsonSchema) and value.get("disable_any_whitespace") is False:
        found = [Wanted(JsonSchema(constraint.schema, "flexible"), found[0].at)]
    spaced = _spaced(found[0], pattern, place)
    return [] if spaced is None else [spaced]


def _json_object(value: Any, at: str) -> list[Wanted]:
    if not isinstance(value, bool):
        raise bad_request(f"{at} must be true or false", at)
    return [Wanted(ANY_OBJECT, at)] if value else []


def _schema(value: Any, at: str) -> list[Wanted]:
    return [Wanted(schema_of(value), at)]


def _open_schema(value: Any, at: str) -> list[Wanted]:
    return [Wanted(schema_of(value, close=False), at)]


def _regex(value: Any, at: str) -> list[Wanted]:
    return [Wanted(Regex(_text(value, at)), at)]


def _choice(value: Any, at: str) -> list[Wanted]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise bad_request(f"{at} must be a list of strings", at)
    options = tuple(dict.fromkeys(value))
    if not options:
        raise bad_request(f"{at} is empty: nothing can be chosen", at)
    return [Wanted(Choices(options), at)]


def _grammar(value: Any, at: str) -> list[Wanted]:
    """vLLM's is Lark text or EBNF of either dialect; what it parses as tells which."""
    return [Wanted(detect_grammar(_text(value, at)), at)]


def _ebnf(value: Any, at: str) -> list[Wanted]:
    """SGLang's is xgrammar's dialect; what is not may still be llama.cpp's."""
    spelled = Ebnf(_text(value, at), "xgrammar")
    try:
        ebnf.rules_of(spelled).check()
    except GrammarSyntaxError:
        other = Ebnf(spelled.grammar, "gbnf")
        with suppress(GrammarSyntaxError):
            ebnf.rules_of(other).check()
            return [Wanted(other, at)]
        raise
    return [Wanted(spelled, at)]


def _structural_tag(value: Any, at: str) -> list[Wanted]:
    if isinstance(value, str):
        value = _parsed(value, at)
    return [Wanted(StructuralTag.from_dict(value), at)]


_FIELDS: dict[str, Callable[[Any, str], list[Wanted]]] = {
    "response_format": _response_format,
    "structured_outputs": _structured_outputs,
    "guided_json": _schema,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
    "regex": _regex,
    "ebnf": _ebnf,
    "json_schema": _schema,
    "structural_tag": _structural_tag,
}
_STRUCTURED: dict[str, Callable[[Any, str], list[Wanted]]] = {
    "json": _schema,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "json_object": _json_object,
    "structural_tag": _structural_tag,
}
_STRUCTURED_FLAGS = (
    "disable_any_whitespace",
    "disable_fallback",
    "disable_additional_properties",
)
"""True where nothing is said: JSON is compact, one engine does all, declared objects are closed.
False allows white space, and other keys than the declared ones; there is no engine to fall back on
either way."""


# ---------------------------------------------------------------- values


def schema_of(value: Any, *, close: bool = True) -> JsonSchema:
    """A schema as the interfaces give it: JSON, or JSON text.

    Where ``close``, objects with declared properties take no others where the schema does not say
    (`sgrt.schemas.closed`): that is what clients mean, and what OpenAI's strict mode demands.

    Raises:
        ConstraintError: it is no schema.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConstraintError(f"the schema is not JSON: {error}") from None
    try:
        return schema_constraint(closed(value) if close else value)
    except RecursionError:
        raise ConstraintError("the schema is nested too deeply") from None


def _parsed(text: str, at: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"{at} is not JSON: {error}", at) from None


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise bad_request(f"{at} must be a string", at)
    return value


def _only(value: Mapping[str, Any], at: str, *known: str) -> None:
    for key in value:
        if key not in known and value[key] is not None:
            place = join(at, str(key))
            raise bad_request(
                f"unknown field {place!r:.200}{did_you_mean(str(key), list(known))}",
                place,
                "unknown_field",
            )
