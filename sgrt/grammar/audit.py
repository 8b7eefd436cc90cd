"""Constraints checked and rewritten before any engine sees them: exact, refused, or too large."""

from __future__ import annotations

from typing import Any

from sgrt.core import Choices, Constraint, OneOf, RepeatOf, SequenceOf
from sgrt.errors import (
    ConstraintError,
    GrammarBudgetExceeded,
    GrammarSyntaxError,
    UnsupportedSchema,
)
from sgrt.grammar import limits


def audit_choices(choices: Choices) -> tuple[str, ...]:
    """The options, each once.

    Raises:
        ConstraintError: no options, an empty one, or half a surrogate pair in one.
        GrammarBudgetExceeded: too many, or too long together.
    """
    if not choices.options:
        raise ConstraintError("choices: at least one option is needed")
    limits.check_limit("choices", len(choices.options), limits.MAX_CHOICES)
    total = 0
    for option in choices.options:
        if not isinstance(option, str) or not option:
            raise ConstraintError(
                f"choices: option {option!r:.80} is not a text of at least one character"
            )
        try:
            total += len(option.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ConstraintError(
                f"choices: option {option!r:.80} holds half a surrogate pair"
            ) from error
    limits.check_limit("bytes of choices", total, limits.MAX_CHOICES_BYTES)
    return tuple(dict.fromkeys(choices.options))


def placed(error: ConstraintError, place: str) -> ConstraintError:
    """The error with the path of the part that it is about; the same one without a path."""
    if not place:
        return error
    if isinstance(error, UnsupportedSchema):
        return UnsupportedSchema(
            f"{error.reason} (in {place.removeprefix('structural_tag: ')})",
            pointer=error.pointer,
            keyword=error.keyword,
            hint=error.hint,
        )
    if isinstance(error, GrammarSyntaxError):
        reason = f"{place}: {error.reason}"
        return GrammarSyntaxError(reason, line=error.line, column=error.column, hint=error.hint)
    if isinstance(error, GrammarBudgetExceeded):
        resource = f"{error.resource} (in {place})"
        return GrammarBudgetExceeded(resource, error.used, error.limit, hint=error.hint)
    return ConstraintError(f"{place}: {error.message}", hint=error.hint)


def audit_size(constraint: Constraint) -> None:
    """Bound a composition before anything walks it, be it only to compare it with another one.

    Raises:
        GrammarBudgetExceeded: too deep, or too many parts where those used twice count twice.
    """
    _size(constraint, 0, {})


def _size(value: Any, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many parts a constraint has, and how deep they nest."""
    limits.check_limit("nested compositions", depth, limits.MAX_COMPOSED_DEPTH)
    if id(value) in known:
        size, height = known[id(value)]
        limits.check_limit("nested compositions", depth + height, limits.MAX_COMPOSED_DEPTH)
        return size, height
    size, height = 1, 0
    for part in _parts(value):
        part_size, part_height = _size(part, depth + 1, known)
        size, height = size + part_size, max(height, part_height + 1)
        limits.check_limit("parts of a composition", size, limits.MAX_COMPOSED_PLACES)
    known[id(value)] = size, height
    return size, height


def _parts(value: Any) -> tuple[Any, ...]:
    match value:
        case SequenceOf(parts) | OneOf(parts):
            return parts
        case RepeatOf(part):
            return (part,)
    return ()
