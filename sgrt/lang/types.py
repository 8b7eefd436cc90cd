"""From Python types and schemas to constraints, and from text back to objects.

pydantic is imported only where a model was given, so that importing the language stays light.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sgrt.core import (
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    Lark,
    Regex,
    StructuralTag,
    Substring,
)
from sgrt.errors import ConstraintError, GrammarSyntaxError, RequestError
from sgrt.lang.outputs import output_of
from sgrt.schemas import schema_constraint


def is_model(value: object) -> bool:
    """Whether this is a pydantic model class."""
    return isinstance(value, type) and hasattr(value, "model_json_schema")


def json_schema(value: object) -> JsonSchema:
    """A schema given as dict, JSON text or pydantic model.

    Raises:
        GrammarSyntaxError: the text is not JSON.
        UnsupportedSchema: it is JSON, but not a schema.
        TypeError: none of the three kinds.
    """
    if is_model(value):
        return model_schema(value)
    if isinstance(value, Mapping):
        return schema_constraint(dict(value))
    if isinstance(value, str):
        return schema_constraint(_parse(value))
    raise TypeError(f"json_schema must be a dict, JSON text or pydantic model, not {value!r:.80}")


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise GrammarSyntaxError(
            f"json_schema is not JSON: {error.msg}", line=error.lineno, column=error.colno
        ) from error


def choices(values: object) -> Choices:
    """Options as a constraint.

    Raises:
        ConstraintError: no options, an empty one, or one given twice.
        TypeError: not a sequence of strings.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"choices must be a list or tuple of strings, not {values!r:.80}")
    for option in values:
        if not isinstance(option, str):
            raise TypeError(f"choices must be strings, not {option!r:.80}")
    if not values:
        raise ConstraintError("choices=[]: nothing can be chosen")
    if "" in values:
        raise ConstraintError("choices: an empty string cannot be chosen")
    twice = {option for option in values if list(values).count(option) > 1}
    if twice:
        raise ConstraintError(f"choices: given twice: {sorted(twice)!r:.200}")
    return Choices(tuple(values))


def constraint_of(
    *,
    regex: object = None,
    json_schema_: object = None,
    choices_: object = None,
    grammar: object = None,
    ebnf: object = None,
    substring_of: object = None,
    structural_tag: object = None,
    output: object = None,
    separators: object = None,
) -> Constraint | None:
    """The one constraint that was asked for, or None.

    Raises:
        RequestError: more than one (both are named), or separators without JSON.
    """
    found = _constraint_of(
        regex=regex,
        json_schema_=json_schema_,
        choices_=choices_,
        grammar=grammar,
        ebnf=ebnf,
        substring_of=substring_of,
        structural_tag=structural_tag,
        output=output,
    )
    if separators is None:
        return found
    if not isinstance(found, JsonSchema) or grammar is not None:
        raise RequestError("separators belongs to json_schema and output")
    return replace(found, separators=separators)  # type: ignore[arg-type]


def _constraint_of(
    *,
    regex: object,
    json_schema_: object,
    choices_: object,
    grammar: object,
    ebnf: object,
    substring_of: object,
    structural_tag: object,
    output: object,
) -> Constraint | None:
    given = {
        "regex": regex,
        "json_schema": json_schema_,
        "choices": choices_,
        "grammar": grammar,
        "ebnf": ebnf,
        "substring_of": substring_of,
        "structural_tag": structural_tag,
        "output": output,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise RequestError(f"gen takes one constraint, not {' and '.join(names)}")
    if regex is not None:
        return Regex(_text("regex", regex))
    if json_schema_ is not None:
        return json_schema(json_schema_)
    if choices_ is not None:
        return choices(choices_)
    if grammar is not None:
        return _grammar(grammar)
    if ebnf is not None:
        return Ebnf(_text("ebnf", ebnf))
    if substring_of is not None:
        return Substring(_text("substring_of", substring_of))
    if structural_tag is not None:
        return StructuralTag.from_dict(structural_tag)
    return None if output is None else output_of(output).constraint


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r:.80}")
    return value


def _grammar(grammar: object) -> Constraint:
    if isinstance(grammar, Constraint):
        return grammar
    if not isinstance(grammar, str):
        raise TypeError(f"grammar must be Lark text, a name or a constraint, not {grammar!r:.80}")
    return Lark(grammar)


def model_schema(model: Any) -> JsonSchema:
    """The constraint of a pydantic model: its validation schema, with objects closed.

    Raises:
        UnsupportedSchema: pydantic has no schema for it (a field that JSON cannot hold, a type
            that is not defined yet).
    """
    constraint = output_of(model).constraint
    assert isinstance(constraint, JsonSchema)
    return constraint
