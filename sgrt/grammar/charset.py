"""Sets of Unicode scalar values as sorted, disjoint, closed ranges."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Iterable, Iterator

import numpy as np

Charset = tuple[tuple[int, int], ...]

MAX_CODE_POINT = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)


def charset(ranges: Iterable[tuple[int, int]]) -> Charset:
    """Sorted and merged ranges."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def of(text: str) -> Charset:
    """The characters of a string."""
    return charset((ord(c), ord(c)) for c in text)


def union(*sets: Charset) -> Charset:
    return charset(r for s in sets for r in s)


@functools.lru_cache(maxsize=256)
def complement(chars: Charset) -> Charset:
    """Every other scalar value (surrogates are in no set)."""
    gaps = []
    start = 0
    for low, high in union(chars, (SURROGATES,)):
        if start < low:
            gaps.append((start, low - 1))
        start = high + 1
    if start <= MAX_CODE_POINT:
        gaps.append((start, MAX_CODE_POINT))
    return tuple(gaps)


def intersection(one: Charset, other: Charset) -> Charset:
    return complement(union(complement(one), complement(other)))


def any_case(chars: Charset) -> Charset:
    """The characters, of ASCII letters both cases."""
    upper = intersection(chars, ((0x41, 0x5A),))
    lower = intersection(chars, ((0x61, 0x7A),))
    shifted = ((low + 32, high + 32) for low, high in upper)
    return union(chars, tuple(shifted), tuple((low - 32, high - 32) for low, high in lower))


@functools.lru_cache(maxsize=256)
def to_regex(chars: Charset) -> str:
    """A character class in the engine's syntax; surrogates drop out."""
    scalars = complement(complement(chars))
    if not scalars:
        return r"[^\x{0}-\x{10FFFF}]"
    if len(scalars) == 1 and scalars[0][0] == scalars[0][1]:
        return literal(scalars[0][0])
    return "[" + "".join(_range(low, high) for low, high in scalars) + "]"


def _range(low: int, high: int) -> str:
    return rf"\x{{{low:X}}}" if low == high else rf"\x{{{low:X}}}-\x{{{high:X}}}"


def literal(code_point: int) -> str:
    """One character in the engine's syntax."""
    char = chr(code_point)
    return char if char.isascii() and char.isalnum() else rf"\x{{{code_point:X}}}"


@functools.cache
def python_class(escape: str) -> Charset:
    r"""What Python's Unicode ``\d``, ``\w`` or ``\s`` matches.

    Cost: a scan of all of Unicode, some 20 ms, once per class.
    """
    # What is not in the class is skipped in one step, not tried character by character.
    runs = re.finditer(f"{escape.upper()}*({escape}*)", _everything())
    return tuple((m.start(1), m.end() - 1) for m in runs if m[1])


@functools.cache
def _everything() -> str:
    """Every character at the index of its code point; NUL where there is none."""
    code_points = np.arange(MAX_CODE_POINT + 1, dtype="<u4")
    code_points[SURROGATES[0] : SURROGATES[1] + 1] = 0
    return code_points.tobytes().decode("utf-32-le")


def runs(sets_of_chars: Iterable[Charset]) -> tuple[list[int], list[int]]:
    """Runs of characters that no set tells apart: their first ones, and the class of each."""
    sets_of_chars = list(sets_of_chars)
    edges = {0, *(e for chars in sets_of_chars for low, high in chars for e in (low, high + 1))}
    starts = sorted(e for e in edges if e <= MAX_CODE_POINT)
    holding: list[list[int]] = [[] for _ in starts]
    for name, chars in enumerate(sets_of_chars):
        for run in runs_in(chars, starts):
            holding[run].append(name)
    names: dict[tuple[int, ...], int] = {}
    return starts, [names.setdefault(tuple(h), len(names)) for h in holding]


def runs_in(chars: Charset, starts: list[int]) -> Iterator[int]:
    """Which of these runs, by number, make up a set."""
    for low, high in chars:
        yield from range(bisect.bisect_left(starts, low), bisect.bisect_right(starts, high))
