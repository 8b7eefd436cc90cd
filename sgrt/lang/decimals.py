"""Patterns of decimals within bounds, as pydantic reads the bounds of a `Decimal`.

A decimal is spelled with digits only, without leading zeros: ``-?(0|[1-9][0-9]*)(\\.[0-9]+)?``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

INTEGER = "(0|[1-9][0-9]*)"
FRACTION = r"(\.[0-9]+)?"
INT = r"-?(0|[1-9][0-9]*)"
NUMBER = INT + FRACTION
FLOAT = rf"-?(0|[1-9][0-9]{{0,99}}){FRACTION}([eE][-+]?[0-9]{{1,2}})?"  # always finite


def patterns(bounds: Mapping[str, Any]) -> list[str]:
    """What a decimal must match, each pattern of its own.

    Args:
        bounds: ``max_digits``, ``decimal_places``, ``ge``, ``gt``, ``le``, ``lt``; others are
            left to whoever validates the value.
    """
    found = [f"-?({_digits(bounds.get('max_digits'), bounds.get('decimal_places'))})"]
    for name, is_up, is_strict in (
        ("ge", True, False),
        ("gt", True, True),
        ("le", False, False),
        ("lt", False, True),
    ):
        bound = Decimal("NaN") if bounds.get(name) is None else Decimal(bounds[name])
        if bound.is_finite():
            found.append(_side(bound, is_up, is_strict))
    return found


def _digits(num_digits: int | None, num_places: int | None) -> str:
    if num_digits is None:
        return INTEGER + _places(num_places)
    if num_places is not None and num_digits > num_places:
        return f"(0|[1-9][0-9]{{0,{num_digits - num_places - 1}}})" + _places(num_places)
    if num_places is not None:  # pydantic takes the 0 in front for a digit where it is all there is
        return rf"0\.[0-9]{{1,{num_digits}}}"
    longer = (f"[1-9][0-9]{{{k - 1}}}{_places(num_digits - k)}" for k in range(1, num_digits + 1))
    return "|".join(("0" + _places(num_digits), *longer))


def _places(most: int | None) -> str:
    if most is None:
        return FRACTION
    return rf"(\.[0-9]{{1,{most}}})?" if most else ""


def _side(bound: Decimal, is_up: bool, is_strict: bool) -> str:
    """All decimals on one side of a bound."""
    same, other = ("", "-") if is_up else ("-", "")  # the sign of what lies far on this side
    if bound == 0:
        zero = "" if is_strict else "|0(\\.0+)?"
        return f"{same}({'|'.join(_beyond(abs(bound), True, True))}){zero}"
    away = (bound > 0) == is_up
    magnitude = "|".join(_beyond(abs(bound), away, is_strict))
    if away:
        return f"{same}({magnitude})"
    zero = "" if same == "" else "|0(\\.0+)?"
    return f"{same}({INTEGER}{FRACTION})|{other}({magnitude}){zero}"


def _beyond(bound: Decimal, is_up: bool, is_strict: bool) -> Iterator[str]:
    """Decimals without a sign that are larger, or smaller, than one."""
    whole, _, fraction = f"{bound:f}".partition(".")
    fraction = fraction.rstrip("0")
    for part in _wholes(whole, is_up):
        yield part + FRACTION
    for part in _fractions(fraction, is_up):
        yield whole + part
    if not is_strict:
        yield whole + (rf"\.{fraction}0*" if fraction else r"(\.0+)?")


def _wholes(whole: str, is_up: bool) -> Iterator[str]:
    for i, digit in enumerate(whole):
        least = 1 if i == 0 and len(whole) > 1 else 0
        choice = _class(int(digit) + 1, 9) if is_up else _class(least, int(digit) - 1)
        if choice:
            yield f"{whole[:i]}{choice}[0-9]{{{len(whole) - i - 1}}}"
    if is_up:
        yield f"[1-9][0-9]{{{len(whole)},}}"
    elif len(whole) > 1:
        yield f"(0|[1-9][0-9]{{0,{len(whole) - 2}}})"


def _fractions(fraction: str, is_up: bool) -> Iterator[str]:
    """With their point; a fraction has no zeros at its end."""
    for i, digit in enumerate(fraction):
        choice = _class(int(digit) + 1, 9) if is_up else _class(0, int(digit) - 1)
        if choice:
            yield rf"\.{fraction[:i]}{choice}[0-9]*"
        if not is_up:
            yield rf"\.{fraction[:i]}" if i else ""
    if is_up:
        yield rf"\.{fraction}0*[1-9][0-9]*"


def _class(low: int, high: int) -> str:
    return "" if low > high else f"[{low}-{high}]"
