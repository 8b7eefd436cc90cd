"""Python values as JSON and back, with their types: what a journal keeps.

=====================  =============================================
value                  JSON
=====================  =============================================
None, bool, int, str   themselves; so are finite floats and lists
other floats           ``{"float": "nan"}``
dict                   ``{"dict": [[key, value], …]}``
tuple, set, frozenset  ``{"tuple": […]}``, ``{"set": […]}`` (sorted), …
bytes                  ``{"bytes": "…"}`` in hexadecimal
objects                ``{"object": "module:Class", "value": …}``, as pydantic writes and reads them
=====================  =============================================

Reading never imports anything: a class is one that the process has loaded already.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

_ITSELF = (type(None), bool, int, str)
_COLLECTIONS: dict[str, type[Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: Any, *, by_name: bool = False) -> Any:
    """A value as JSON.

    Args:
        by_name: classes need not be found again; their names do.

    Raises:
        TypeError: JSON cannot hold it, or it could not be read back.
    """
    kind = type(value)
    if kind in _ITSELF:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [encode(item, by_name=by_name) for item in value]
    if kind is dict:
        pairs = [[encode(k, by_name=by_name), encode(v, by_name=by_name)] for k, v in value.items()]
        return {"dict": pairs}
    if kind is bytes:
        return {"bytes": value.hex()}
    for name, collection in _COLLECTIONS.items():
        if kind is collection:
            items = [encode(item, by_name=by_name) for item in value]
            return {name: items if kind is tuple else sorted(items, key=json.dumps)}
    return _encode_object(value, by_name=by_name)


def _encode_object(value: Any, *, by_name: bool) -> dict[str, Any]:
    kind = type(value)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not by_name and _class_of(name) is not kind:
        raise TypeError(f"the class {kind.__qualname__!r} is not found by its name")
    from pydantic import TypeAdapter

    try:
        found = TypeAdapter(kind).dump_python(value, mode="json")
        text = json.dumps(found, allow_nan=False)
    except Exception as error:  # pydantic's own kinds, or the user's code that it calls
        raise TypeError(f"JSON cannot hold a {kind.__qualname__}: {error!s:.200}") from error
    return {"object": name, "value": json.loads(text)}


def decode(value: Any) -> Any:
    """What `encode` was given.

    Raises:
        ValueError: this was not written by `encode`, or a class of it is not loaded.
    """
    if not isinstance(value, dict):
        return [decode(item) for item in value] if isinstance(value, list) else value
    match value:
        case {"float": "nan" | "inf" | "-inf" as text, **rest} if not rest:
            return float(text)
        case {"dict": list(pairs), **rest} if not rest:
            return {decode(key): decode(item) for key, item in pairs}
        case {"bytes": str(text), **rest} if not rest:
            return bytes.fromhex(text)
        case {"object": str(name), "value": found, **rest} if not rest:
            return _decode_object(name, found)
    (name, items), *others = value.items()
    if others or name not in _COLLECTIONS or not isinstance(items, list):
        raise ValueError(f"{value!r:.80} is not a value that was kept")
    return _COLLECTIONS[name](map(decode, items))


def _decode_object(name: str, found: Any) -> Any:
    kind = _class_of(name)
    if kind is None:
        raise ValueError(f"the class {name!r} is not loaded here")
    from pydantic import TypeAdapter

    try:
        return TypeAdapter(kind).validate_json(json.dumps(found))
    except Exception as error:  # pydantic's own kinds, or the user's code that it calls
        raise ValueError(f"{found!r:.80} is not a {name}: {error!s:.200}") from error


def _class_of(name: str) -> type[Any] | None:
    """The class of this name, if its module is loaded."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
