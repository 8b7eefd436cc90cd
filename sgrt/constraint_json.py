"""Constraints as plain JSON values and back, whole: what backends and servers of ours send.

A constraint is an object with its class's name under ``is`` and all its fields; strings stand for
themselves, tuples are lists.

Architecture invariant: this module imports nothing of sgrt but `constraints` and `errors`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sgrt import constraints
from sgrt.constraints import Constraint
from sgrt.errors import ConstraintError

KINDS: Mapping[str, Any] = {
    name: kind for name, kind in vars(constraints).items() if dataclasses.is_dataclass(kind)
}
"""Constraints, and what they are made of, by name."""
_MAX_DEPTH = 60


def write(constraint: Constraint) -> dict[str, Any]:
    """A constraint as JSON.

    Raises:
        ConstraintError: it is nested too deeply.
    """
    written: dict[str, Any] = _write(constraint, 0)
    return written


def _write(value: Any, depth: int) -> Any:
    _check_depth(depth)
    if isinstance(value, tuple):
        return [_write(item, depth + 1) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    told = {f.name: _write(getattr(value, f.name), depth + 1) for f in dataclasses.fields(value)}
    return {"is": type(value).__name__, **told}


def read(value: object) -> Constraint:
    """A constraint from its JSON.

    Raises:
        ConstraintError: it is none; what is wrong is named.
    """
    constraint = _read(value, 0)
    if not isinstance(constraint, get_args(Constraint)):
        raise ConstraintError(f"{value!r:.80} is no constraint")
    return constraint  # type: ignore[no-any-return]


def _read(value: object, depth: int) -> Any:
    _check_depth(depth)
    if isinstance(value, list):
        return tuple([_read(item, depth + 1) for item in value])
    if not isinstance(value, Mapping):
        return value
    name = value.get("is")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConstraintError(f"there is no constraint {name!r:.80}", hint=", ".join(KINDS))
    fields = {f.name for f in dataclasses.fields(kind)}
    if wrong := value.keys() ^ {"is", *fields}:
        raise ConstraintError(f"{name} has the fields {sorted(fields)}: not {sorted(wrong)!r:.80}")
    given = {key: _read(item, depth + 1) for key, item in value.items() if key != "is"}
    check_fields(kind, given)
    return kind(**given)


def check_fields(kind: Any, given: Mapping[str, Any]) -> None:
    """Raises ConstraintError where a field of a constraint is not what it is declared as."""
    for name, value in given.items():
        if not _fits(value, _hints(kind)[name]):
            raise ConstraintError(f"the {name} of {kind.__name__} cannot be {value!r:.80}")


_hints = functools.cache(get_type_hints)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a field is annotated with."""
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in args)
    if kind is Literal:
        return any(type(value) is type(each) and value == each for each in args)
    if kind is tuple:
        return type(value) is tuple and all(_fits(item, args[0]) for item in value)
    return type(value) is (type(None) if hint is None else hint)


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ConstraintError("the constraint is nested too deeply")
