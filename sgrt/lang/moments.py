"""Patterns of dates, times and durations, and of those within bounds.

Texts with bounds have one spelling that can be compared from left to right: dates and times in
their digits, times with an offset in UTC (``Z``), durations in whole seconds (``PT90S``).
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from sgrt.lang import decimals

_YEAR = r"(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DAY = (
    r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_FRACTION = r"(\.[0-9]{1,6})?"
DATE = rf"({_YEAR}-{_DAY}|{_LEAP}-02-29)"
TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]" + _FRACTION
OFFSET = r"(Z|[-+]([01][0-9]|2[0-3]):[0-5][0-9])?"
SHORT_NUMBERS = "^[^0-9]*([0-9]{1,6}[^0-9]+)+$"  # a timedelta has fewer than a billion days
_MAX_SECONDS = 2_147_483_647  # more are no number to pydantic
_TYPES = {"date": dt.date, "time": dt.time, "datetime": dt.datetime, "timedelta": dt.timedelta}
_SIDES = (("ge", True, True), ("gt", True, False), ("le", False, True), ("lt", False, False))


def bounded(schema: Mapping[str, Any]) -> bool:
    """Whether a core schema of pydantic has bounds."""
    return "now_op" in schema or any(schema.get(name) is not None for name, _, _ in _SIDES)


def patterns(schema: Mapping[str, Any]) -> list[str]:
    """What a date, time, datetime or timedelta must match, each pattern of its own.

    Args:
        schema: pydantic's core schema, with its bounds.

    Raises:
        ValueError: nothing can be promised about them; why.
    """
    kind = schema["type"]
    if schema.get("now_op") == "future":
        raise ValueError("what is in the future depends on when it is read; give it a bound, ge=")
    bounds = [(schema[n], up, same) for n, up, same in _SIDES if schema.get(n) is not None]
    for bound, _, _ in bounds:
        if type(bound) is not _TYPES[kind]:
            raise ValueError(f"a {kind} is not compared with {bound!r:.40}")
    if kind == "timedelta":
        return _durations(bounds)
    if kind == "date":
        if schema.get("now_op") == "past":
            bounds.append((dt.date.today(), False, False))
        return [DATE, *("|".join(_sided(b.isoformat(), up, same)) for b, up, same in bounds)]
    return _times(schema, bounds)


def _times(schema: Mapping[str, Any], bounds: list[tuple[Any, bool, bool]]) -> list[str]:
    zones = {bound.tzinfo is not None for bound, _, _ in bounds}
    zones |= {"naive": {False}, "aware": {True}}.get(schema.get("tz_constraint", ""), set())
    if len(zones) > 1:
        raise ValueError("a bound with an offset and a time without one cannot be compared")
    is_aware = zones != {False}
    if schema["type"] == "time":
        if is_aware:
            raise ValueError("times of day with offsets cannot be compared")
        whole = TIME
    else:
        whole = f"{DATE}T{TIME}"
        if schema.get("now_op") == "past":
            now = dt.datetime.now(dt.UTC)
            local = min(dt.datetime.now(), now.replace(tzinfo=None))
            bounds.append((now if is_aware else local, False, False))
    end = "Z" if is_aware and schema["type"] == "datetime" else ""
    found = [whole + end]
    for bound, is_up, takes_same in bounds:
        moment = bound.astimezone(dt.UTC) if end else bound
        seconds = moment.replace(microsecond=0, tzinfo=None).isoformat()
        beyond = [f"{text}{_FRACTION}{end}" for text in _sided(seconds, is_up, False)]
        same = [
            f"{seconds}{fraction}{end}"
            for fraction in _fractions(moment.microsecond, is_up, takes_same)
        ]
        found.append("|".join([*beyond, *same]))
    return found


def _sided(bound: str, is_up: bool, takes_same: bool) -> Iterator[str]:
    """Texts of digits in the same places that stand on one side of a bound."""
    for i, digit in enumerate(bound):
        if digit != ("9" if is_up else "0") and digit.isdigit():
            beyond = f"[{int(digit) + 1}-9]" if is_up else f"[0-{int(digit) - 1}]"
            rest = re.sub("[0-9]", "[0-9]", bound[i + 1 :])
            yield bound[:i] + beyond + rest
    if takes_same:
        yield bound


def _fractions(microseconds: int, is_up: bool, takes_same: bool) -> Iterator[str]:
    """Fractions of a second on one side of a bound, six digits long or none."""
    if (microseconds == 0 and takes_same) or (microseconds and not is_up):
        yield ""
    digits = "|".join(_sided(f"{microseconds:06d}", is_up, takes_same))
    if digits:
        yield rf"\.({digits})"


def _durations(bounds: list[tuple[dt.timedelta, bool, bool]]) -> list[str]:
    low, high = 0, _MAX_SECONDS
    for bound, is_up, takes_same in bounds:
        seconds = bound.total_seconds()
        if is_up:
            low = max(low, math.ceil(seconds) if takes_same else math.floor(seconds) + 1)
        else:
            high = min(high, math.floor(seconds) if takes_same else math.ceil(seconds) - 1)
    if low > high:
        raise ValueError("no whole number of seconds from 0 on lies within its bounds")
    within = {"ge": Decimal(low), "le": Decimal(high), "decimal_places": 0}
    return [f"PT({pattern})S" for pattern in decimals.patterns(within)]
