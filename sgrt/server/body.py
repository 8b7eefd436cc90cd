"""From the bytes of a request to a typed value, or an error that names the place."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from sgrt.server.failures import ApiError, bad_request

T = TypeVar("T")


MAX_DEPTH = 200
"""Most levels of a body; a schema takes two per level of its own."""


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Refused: what is not JSON of RFC 8259 in UTF-8 (NaN, Infinity, half a surrogate pair), keys
    given twice, numbers beyond what a double holds, more than `MAX_DEPTH` levels, and every value
    but an object.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError as error:
        raise bad_request(
            f"the body is not UTF-8: byte {error.start}", code="invalid_json"
        ) from None
    except ValueError as error:
        raise bad_request(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object", code="invalid_json")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(value)
    if _SURROGATE.search(body):
        _check_texts(value)
    return value


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [c for item in level for c in _inside(item) if isinstance(c, (dict, list))]
        if not level:
            return
    raise _too_deep()


def _inside(item: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item


def _check_texts(value: Any) -> None:
    """Refuse what UTF-8 cannot spell; names the first place."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        at = next(_no_texts(value, ""))
        raise bad_request(f"{at or 'a key'}: half a surrogate pair is no text", at) from None


def _no_texts(item: Any, at: str) -> Iterator[str]:
    if isinstance(item, str) and any("\ud800" <= c <= "\udfff" for c in item):
        yield at
    elif isinstance(item, dict):
        for key, child in item.items():
            yield from _no_texts(key, at)
            yield from _no_texts(child, join(at, key))
    elif isinstance(item, list):
        for i, child in enumerate(item):
            yield from _no_texts(child, f"{at}[{i}]")


def _too_deep() -> ApiError:
    return bad_request(
        f"the body is nested too deeply: more than {MAX_DEPTH} levels", code="invalid_json"
    )


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits:.40} is beyond the range of numbers")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.80} is given twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_INTEGER_WANTED = re.compile(r"^Expected `int\b.*`, got `float` - at `\$\.(?P<name>\w+)`$")
"""JSON knows numbers only, and some clients write 1.0 for 1."""
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$?\.?(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)


def decode(value: object, kind: type[T], *, at: str = "") -> T:
    """A parsed body (or the part of one at ``at``) as a `msgspec.Struct`.

    A null says that a field is not given, be it a known one or not.

    Raises:
        ApiError: 400 naming the field that is unknown, missing or of another type.
    """
    if isinstance(value, dict) and None in value.values():
        known = _known_fields(kind)
        value = {name: v for name, v in value.items() if v is not None or name in known}
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        whole = _INTEGER_WANTED.match(str(error))
        if whole is not None and isinstance(value, dict):
            given = value.get(whole["name"])
            if isinstance(given, float) and given.is_integer():
                return decode({**value, whole["name"]: int(given)}, kind, at=at)
        raise _explained(str(error), kind, value, at) from None


def _explained(message: str, kind: Any, value: object, at: str) -> Exception:
    match = _PLACE.match(message)
    assert match is not None
    path, what = match["path"] or "", match["what"]
    unknown, missing = _UNKNOWN.match(what), _MISSING.match(what)
    if unknown:
        name = unknown["name"][:80]
        param = join(at, path, name)
        known = _known_fields(kind) if not path else []
        return bad_request(
            f"unknown field {param!r}{did_you_mean(name, known)}", param, "unknown_field"
        )
    if missing:
        param = join(at, path, missing["name"])
        return bad_request(f"the field {param!r} is required", param, "missing_field")
    param = join(at, path)
    return bad_request(f"{param or 'body'}: {what[:1].lower()}{what[1:]}", param, "invalid_type")


def _known_fields(kind: Any) -> list[str]:
    try:
        return [f.encode_name for f in msgspec.structs.fields(kind)]
    except TypeError:
        return []


def join(*parts: str) -> str:
    """Places below each other: ``join("messages[0]", "", "role")`` is ``messages[0].role``."""
    whole = ""
    for part in parts:
        if part:
            whole += part if not whole or part.startswith("[") else f".{part}"
    return whole


_NOW = {"functions": "tools", "function_call": "tool_choice"}
"""What OpenAI's interface has instead of its older fields."""


def did_you_mean(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name; "" where none is close."""
    if (now := _NOW.get(name)) in known:
        return f"; use {now!r}"
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
