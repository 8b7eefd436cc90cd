"""Numbers as patterns of their digits: the engine's are 64-bit floats, read with an error."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sgrt.grammar import charset

KEY = "digits"
"""In a normal schema of numbers: a pattern in the engine's syntax that says all of them."""
MAX = 10**40
"""Of integers that are written so."""
_ANY = r"[\x{30}-\x{39}]"


def of(value: int | float) -> str:
    """One number."""
    return "".join(charset.literal(ord(char)) for char in json.dumps(value))


def of_range(low: int | None, high: int | None) -> str:
    """The integers from ``low`` to ``high``, both included; None is no bound."""
    parts = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        below = _naturals(least, None if low is None else -low)
        parts.append(rf"\x{{2D}}{below}")
    if high is None or high >= 0:
        parts.append(_naturals(max(low or 0, 0), high))
    return _either(parts)


def _naturals(low: int, high: int | None) -> str:
    """Natural numbers, without a leading 0."""
    most = len(str(low)) if high is None else len(str(high))
    parts = []
    for size in range(len(str(low)), most + 1):
        first = max(low, 10 ** (size - 1) if size > 1 else 0)
        last = 10**size - 1 if high is None else min(high, 10**size - 1)
        parts.append(_same_size(str(first), str(last)))
    if high is None:
        parts.append(rf"[\x{{31}}-\x{{39}}]{_ANY}{{{most},}}")
    return _either(parts)


def _same_size(low: str, high: str) -> str:
    """From one number to another one of as many digits."""
    num_same = next(
        (i for i, pair in enumerate(zip(low, high, strict=True)) if len({*pair}) > 1), None
    )
    if num_same is None:
        return low
    same, low, high = low[:num_same], low[num_same:], high[num_same:]
    size = len(low) - 1
    first, last = int(low[0]), int(high[0])
    parts = []
    if low[1:].strip("0"):
        parts.append(low[0] + _same_size(low[1:], "9" * size))
        first += 1
    if high[1:].strip("9"):
        parts.append(high[0] + _same_size("0" * size, high[1:]))
        last -= 1
    if first <= last:
        one = rf"[\x{{{0x30 + first:X}}}-\x{{{0x30 + last:X}}}]"
        parts.append(one + (f"{_ANY}{{{size}}}" if size else ""))
    return same + _either(parts)


def _either(parts: Iterable[str]) -> str:
    return f"(?:{'|'.join(parts)})"
