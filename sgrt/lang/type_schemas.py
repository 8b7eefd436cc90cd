"""JSON schemas of types, such that pydantic takes every text they allow.

pydantic's own schemas say less than its validators check: bounds of dates, encodings, addresses,
what a set can hold. Here they say it; what no schema can say `type_checks` refuses. What a user's
own validators refuse is told where the value is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from sgrt.lang import decimals, moments
from sgrt.lang.type_checks import KEYS

Schema = dict[str, Any]

# ---------------------------------------------------------------- texts

_LABEL = "[A-Za-z0-9]+(-[A-Za-z0-9]+)*"  # never beginning "xn--", which may be no name
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_URL_CHARS = "[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]"
_HOST = rf"(({_LABEL}\.)*[A-Za-z]({_LABEL})?(-{_LABEL})?|{_IPV4})"
_V4, _V6 = {"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}
_V4_INTERFACE = {"type": "string", "pattern": f"^{_IPV4}(/([12]?[0-9]|3[0-2]))?$"}
_V4_NETWORK = {
    "type": "string",
    "pattern": rf"^({_IPV4}(/32)?|({_OCTET}\.){{3}}0/24|({_OCTET}\.){{2}}0\.0/16"
    rf"|{_OCTET}\.0\.0\.0/8)$",
}
_EMAIL = {
    "type": "string",
    "pattern": "^[A-Za-z0-9]{1,20}([._+-][A-Za-z0-9]{1,10}){0,3}"
    r"@([A-Za-z0-9]{1,20}(-[A-Za-z0-9]{1,20})?\.){1,3}[a-z]{2,9}$",
    "not": {"pattern": r"\.(arpa|invalid|local|localhost|onion|test)$"},
}
_OF_FORMATS: Mapping[str, Schema] = {
    "ipvanyaddress": {"anyOf": [_V4, _V6]},
    "ipvanyinterface": {"anyOf": [_V4_INTERFACE, _V6]},
    "ipvanynetwork": {"anyOf": [_V4_NETWORK, _V6]},
    "ipv4interface": _V4_INTERFACE,
    "ipv4network": _V4_NETWORK,
    "email": _EMAIL,
    "name-email": _EMAIL,
    "ipv6interface": _V6,
    "ipv6network": _V6,
}
"""What is written for formats of pydantic's own. Networks are those whose last octets are 0."""
_ASCII = r"^[\x00-\x7f]*$"
_SPACE = r"\s\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_TRIMMED = rf"^([^{_SPACE}]([\s\S]*[^{_SPACE}])?)?$"
_COMPLEX = rf"^{decimals.NUMBER}[-+](0|[1-9][0-9]*)(\.[0-9]+)?j$"
_BYTE_SIZE = r"^(0|[1-9][0-9]{0,9})(\.[0-9]{1,3})? ?([KMGT]i?)?B$"
_SCALARS = {"type": ["string", "number", "boolean", "null"]}


def _url(schemes: Sequence[str]) -> Schema:
    """URLs of some schemes, without user and password; a host is a name or an IPv4 address."""
    if {*schemes} == {"file"}:
        return {"pattern": f"^file:///{_URL_CHARS}*$"}
    names, port = "|".join(map(re.escape, schemes)), "(:[1-5]?[0-9]{1,4})?"
    return {"pattern": f"^({names})://{_HOST}{port}([/?#]{_URL_CHARS}*)?$"}


def _base64(last: str, *, of_ascii: bool = False) -> str:
    """Base64 with its padding; ``last`` are characters 62 and 63 of the alphabet."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789" + last

    def chars(holds: Callable[[int], bool]) -> str:
        return "[" + "".join(re.escape(c) for i, c in enumerate(alphabet) if holds(i)) + "]"

    every = chars(lambda i: True)
    if not of_ascii:
        return f"({every}{{4}})*({every}[AQgw]==|{every}{{2}}[AEIMQUYcgkosw048]=)?"
    first, second = chars(lambda i: i < 32), chars(lambda i: i & 8 == 0)
    third, end = chars(lambda i: i & 2 == 0), chars(lambda i: i & 3 == 0)
    return f"({first}{second}{third}{every})*({first}[AQgw]==|{first}{second}{end}=)?"


def _all_of(found: Schema, patterns: Sequence[str]) -> Schema:
    """With patterns that all must match."""
    together = [*([found["pattern"]] if "pattern" in found else []), *patterns]
    plain = {key: value for key, value in found.items() if key != "pattern"}
    if len(together) == 1:
        return {**plain, "pattern": together[0]}
    return {**plain, "allOf": [{"pattern": pattern} for pattern in together]}


# ---------------------------------------------------------------- what pydantic's generator adds


class Schemas(GenerateJsonSchema):
    """pydantic's schemas, but where they allow texts that its validators refuse, or have a
    pattern that no automaton reads."""

    def generate(self, schema: Any, mode: Any = "validation") -> Any:
        return _with_formats(super().generate(schema, mode))

    def str_schema(self, schema: Any) -> Any:
        found = super().str_schema(schema)
        is_trimmed = schema.get("strip_whitespace", self._config.str_strip_whitespace)
        is_held = {"minLength", "maxLength", "pattern"} & {*found}
        patterns = [_ASCII] if schema.get("ascii_only") else []
        patterns += [_TRIMMED] if is_trimmed and is_held else []
        return _all_of(found, patterns) if patterns else found

    def bytes_schema(self, schema: Any) -> Any:
        found = super().bytes_schema(schema)
        spelled = getattr(self._config, "val_json_bytes", "utf8")
        if spelled != "utf8" and {"min_length", "max_length"} & {*schema}:
            raise ValueError(f"the length of bytes that are spelled in {spelled} is not counted")
        if spelled == "hex":
            return {"type": "string", "pattern": "^([0-9a-fA-F]{2})*$"}
        if spelled == "base64":
            return {"type": "string", "pattern": f"^{_base64('-_')}$"}
        is_held = {"minLength", "maxLength"} & {*found}
        return _all_of(found, [_ASCII]) if is_held else found

    def complex_schema(self, schema: Any) -> Any:
        return {"type": "string", "pattern": _COMPLEX}

    def fraction_schema(self, schema: Any) -> Any:
        return {"type": "string", "pattern": f"^{decimals.INT}(/[1-9][0-9]*)?$"}

    def float_schema(self, schema: Any) -> Any:
        found = super().float_schema(schema)
        finite = schema.get("allow_inf_nan", self._config.allow_inf_nan) is False
        if finite and not {"minimum", "exclusiveMinimum"} & {*found}:
            found["minimum"] = -1e300
        if finite and not {"maximum", "exclusiveMaximum"} & {*found}:
            found["maximum"] = 1e300
        return found

    def decimal_schema(self, schema: Any) -> Any:
        if schema.get("multiple_of") is not None:
            return _multiples(schema)
        found = [{"pattern": f"^({pattern})$"} for pattern in decimals.patterns(schema)]
        return {"type": "string", **(found[0] if len(found) == 1 else {"allOf": found})}

    def _moment(self, schema: Any, otherwise: Any) -> Any:
        if not moments.bounded(schema):
            return otherwise(schema)
        patterns = [f"^({pattern})$" for pattern in moments.patterns(schema)]
        return _all_of({"type": "string"}, patterns)

    def date_schema(self, schema: Any) -> Any:
        return self._moment(schema, super().date_schema)

    def time_schema(self, schema: Any) -> Any:
        return self._moment(schema, super().time_schema)

    def datetime_schema(self, schema: Any) -> Any:
        if schema.get("tz_constraint") == "naive" and not moments.bounded(schema):
            return {"type": "string", "pattern": f"^{moments.DATE}T{moments.TIME}$"}
        return self._moment(schema, super().datetime_schema)

    def timedelta_schema(self, schema: Any) -> Any:
        found = self._moment(schema, super().timedelta_schema)
        return {**found, "pattern": moments.SHORT_NUMBERS} if "format" in found else found

    def dict_schema(self, schema: Any) -> Any:
        found, keys = super().dict_schema(schema), schema.get("keys_schema", {})
        spelled = KEYS.get(keys.get("type"))
        if spelled is None or "propertyNames" in found:
            return found
        return {**found, "propertyNames": spelled}

    def _set(self, schema: Any, found: Any) -> Any:
        is_any = schema.get("items_schema", {"type": "any"})["type"] == "any"
        return {**found, "items": _SCALARS} if is_any else found

    def set_schema(self, schema: Any) -> Any:
        return self._set(schema, super().set_schema(schema))

    def frozenset_schema(self, schema: Any) -> Any:
        return self._set(schema, super().frozenset_schema(schema))

    def url_schema(self, schema: Any) -> Any:
        found, schemes = super().url_schema(schema), schema.get("allowed_schemes")
        found = found if schemes is None else {**found, "format": None, **_url(schemes)}
        return {key: value for key, value in found.items() if value is not None}

    def multi_host_url_schema(self, schema: Any) -> Any:
        return self.url_schema({**schema, "type": "url"})

    def function_after_schema(self, schema: Any) -> Any:
        function = schema["function"]["function"]
        name = getattr(function, "__qualname__", "")
        if name == "ByteSize._validate":
            return {"anyOf": [{"type": "string", "pattern": _BYTE_SIZE},
                              {"type": "integer", "minimum": 0}]}  # fmt: skip
        if name in ("EncodedBytes.decode", "EncodedStr.decode_str"):
            return _encoded(function.__self__.encoder, is_text=name.endswith("str"))
        return super().function_after_schema(schema)


def _multiples(schema: Any) -> Schema:
    """Decimals that are multiples of a number, as JSON numbers of fewer digits than would be lost."""
    bounds = {"ge": -1_000_000_000, "le": 1_000_000_000, **schema}
    names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    found = {word: _json_number(bounds[name]) for name, word in names.items() if name in bounds}
    step = _json_number(schema["multiple_of"])
    kind = "integer" if isinstance(step, int) else "number"
    return {"type": kind, "multipleOf": step, **found}


def _json_number(value: Any) -> int | float:
    """A decimal as JSON has it.

    Raises:
        ValueError: a float would round it.
    """
    exact = Decimal(value)
    number = int(exact) if exact % 1 == 0 else float(exact)
    if Decimal(str(number)) != exact:
        raise ValueError(f"{value} has more digits than a float")
    return number


def _encoded(encoder: Any, *, is_text: bool) -> Schema:
    """Texts that pydantic's own encoders decode.

    Raises:
        ValueError: it is another.
    """
    last = {"Base64Encoder": "+/", "Base64UrlEncoder": "-_"}.get(getattr(encoder, "__name__", ""))
    if last is None:
        raise ValueError(f"what {encoder!r:.80} decodes is not known")
    return {"type": "string", "pattern": f"^{_base64(last, of_ascii=is_text)}$"}


_DATA = ("default", "examples", "const", "enum")


def _with_formats(schema: Any) -> Any:
    """A schema in which formats of pydantic's own are spelled out."""
    if isinstance(schema, list):
        return [_with_formats(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {k: v if k in _DATA else _with_formats(v) for k, v in schema.items()}
    name = found.get("format")
    if isinstance(name, str) and name in _OF_FORMATS and found.get("type") == "string":
        others = {k: v for k, v in found.items() if k not in ("type", "format")}
        return {**others, **_OF_FORMATS[name]}
    return found
