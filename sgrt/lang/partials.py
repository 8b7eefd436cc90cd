"""A typed value while it is written: its fields, each validated as soon as it has ended."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from sgrt.core import JsonReader, ValueEvent
from sgrt.lang.outputs import adapter_of, output_of

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Partial:
    """A part of a value that has ended; nothing that follows can change it.

    Args:
        path: keys and indexes that lead to it; () is the whole value, and the last event.
        value: validated, an object of the type that the field has. Fields below a Union, and of
            models whose validators look at raw values, are as JSON gives them.
        so_far: all that has ended, in plain dicts and lists; at last, the value itself. A
            snapshot: what comes later does not change it.
    """

    path: Path
    value: Any
    so_far: Any


class PartialReader:
    """Reads the text of one value piece by piece.

    Args:
        kind: type of the value; Any for JSON as it is.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._reader = JsonReader()
        self._tree: Any = None
        self._types: dict[Path, Any] = {(): kind}

    def feed(self, text: str) -> list[Partial]:
        """What has ended in this piece. The whole value is left to `end`.

        Raises:
            ValueError: a field is not what its type says.
            ConstraintError: this is not JSON.
        """
        return [self._partial(event) for event in self._reader.feed(text) if event.path]

    @staticmethod
    def end(value: Any) -> Partial:
        """The last event: the value that the whole text gave."""
        return Partial((), value, value)

    def _partial(self, event: ValueEvent) -> Partial:
        value = self._validated(event)
        self._tree = _put(self._tree, event.path, value)
        return Partial(event.path, value, _snapshot(self._tree, event.path))

    def _validated(self, event: ValueEvent) -> Any:
        kind = self._type_at(event.path)
        if kind is Any:
            return event.value
        try:
            return adapter_of(kind).validate_json(json.dumps(event.value))
        except ValueError as error:
            raise ValueError(f"at {'/'.join(map(str, event.path))}: {error}") from error

    def _type_at(self, path: Path) -> Any:
        if path in self._types:
            return self._types[path]
        outer = self._type_at(path[:-1])
        found = Any if outer is Any else _inner(outer, path[-1])
        if not any(isinstance(key, int) for key in path):  # long lists would fill the table
            self._types[path] = found
        return found


def reader_of(output: Any, *, is_json: bool) -> PartialReader | None:
    """A reader for a gen of this output type; None where the text has no fields."""
    if output is None:
        return PartialReader(Any) if is_json else None
    return PartialReader(output) if output_of(output).is_json else None


def _put(tree: Any, path: Path, value: Any) -> Any:
    """The tree with a value at a path; what leads there is made where it is missing."""
    if not path:
        return value
    key = path[0]
    if tree is None:
        tree = [] if isinstance(key, int) else {}
    if isinstance(key, int):
        inner = _put(tree[key] if key < len(tree) else None, path[1:], value)
        tree[key:] = [inner]
    else:
        tree[key] = _put(tree.get(key), path[1:], value)
    return tree


def _snapshot(tree: Any, path: Path) -> Any:
    """A copy of what may still grow; what has ended is shared."""
    if not path:
        return tree
    copy = tree.copy()
    copy[path[0]] = _snapshot(tree[path[0]], path[1:])
    return copy


def _inner(kind: Any, key: str | int) -> Any:
    """The type of a field or item; Any where it cannot be told."""
    kind = _bare(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(key, int):
        return _item(kind, origin, inner, key)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(inner) == 2:
        return inner[1]
    if hasattr(kind, "model_fields"):
        return _model_field(kind, key)
    if _is_typed_dict(kind) or dataclasses.is_dataclass(kind):
        return get_type_hints(kind, include_extras=True).get(key, Any)
    return Any


def _item(kind: Any, origin: Any, inner: tuple[Any, ...], index: int) -> Any:
    if origin is tuple and inner:
        if inner[-1] is Ellipsis:
            return inner[0]
        return inner[index] if index < len(inner) else Any
    if isinstance(origin, type) and issubclass(origin, (Sequence, AbstractSet)) and inner:
        return inner[0]
    fields = getattr(kind, "_fields", ())  # of a named tuple
    return get_type_hints(kind).get(fields[index], Any) if index < len(fields) else Any


def _is_typed_dict(kind: Any) -> bool:
    """Of `typing` or of `typing_extensions`, which do not know each other's."""
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__total__")


def _bare(kind: Any) -> Any:
    """Without annotations, and without None."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in (Union, UnionType):
            others = [arg for arg in get_args(kind) if arg is not NoneType]
            if len(others) != 1:
                return Any
            kind = others[0]
        else:
            return kind


def _model_field(model: Any, key: str) -> Any:
    validators = getattr(model, "__pydantic_decorators__", None)
    if validators and (validators.field_validators or validators.model_validators):
        return Any
    for name, field in model.model_fields.items():
        if key in (field.validation_alias, field.alias) or (key == name and field.alias is None):
            metadata = tuple(field.metadata)
            return Annotated[field.annotation, *metadata] if metadata else field.annotation
    return Any
