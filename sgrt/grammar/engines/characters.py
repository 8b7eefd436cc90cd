r"""What ``\p{...}`` matches: Unicode's properties, read out of the engine's tables.

A property is asked for as a pattern of one character, over a vocabulary whose tokens are the bytes
and the pairs of bytes that end a character: a few masks tell all of its characters.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import product
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from sgrt.grammar import charset
from sgrt.grammar.charset import Charset
from sgrt.grammar.vocabulary import Vocabulary


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMES = {
    "gc": _words(
        "L LC Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp "
        "C Cc Cf Co Cn Letter Cased_Letter Uppercase_Letter Lowercase_Letter Titlecase_Letter "
        "Modifier_Letter Other_Letter Mark Combining_Mark Nonspacing_Mark Spacing_Mark "
        "Enclosing_Mark Number Decimal_Number digit Letter_Number Other_Number Punctuation punct "
        "Connector_Punctuation Dash_Punctuation Open_Punctuation Close_Punctuation "
        "Initial_Punctuation Final_Punctuation Other_Punctuation Symbol Math_Symbol "
        "Currency_Symbol Modifier_Symbol Other_Symbol Separator Space_Separator Line_Separator "
        "Paragraph_Separator Other Control Format Private_Use Unassigned"
    ),
    "": _words(
        "ASCII ASCII_Hex_Digit AHex Alphabetic Alpha Any Assigned Bidi_Control Bidi_C Case_Ignorable "
        "CI Cased Dash Default_Ignorable_Code_Point DI Deprecated Dep Diacritic Dia Emoji "
        "Emoji_Component Emoji_Modifier Emoji_Modifier_Base Emoji_Presentation "
        "Extended_Pictographic Extender Ext Grapheme_Base Gr_Base Grapheme_Extend Gr_Ext Hex_Digit "
        "Hex ID_Continue IDC ID_Start IDS Ideographic Ideo Join_Control Join_C Lowercase Lower Math "
        "Noncharacter_Code_Point NChar Pattern_Syntax Pat_Syn Pattern_White_Space Pat_WS "
        "Quotation_Mark QMark Radical Regional_Indicator RI Sentence_Terminal STerm Soft_Dotted SD "
        "Terminal_Punctuation Term Unified_Ideograph UIdeo Uppercase Upper Variation_Selector VS "
        "White_Space space XID_Continue XIDC XID_Start XIDS"
    ),
}
"""Values of General_Category, and properties without one, as ECMA-262 spells them."""
_KINDS = {"General_Category": "gc", "gc": "gc", "Script": "sc", "sc": "sc"} | {
    "Script_Extensions": "scx",
    "scx": "scx",
}
_FIXED = frozenset(("ASCII", "ASCII_Hex_Digit", "AHex", "Any", "Hex_Digit", "Hex"))
"""Properties that no version of Unicode changes."""
_SCRIPT = re.compile(r"[A-Z][a-z]+(?:_[A-Z][a-z]+)*")
_AGE = "age=10.0"
"""Of the Unicode that came before readers knew properties: all of them agree about it."""
_PAIRS = [bytes(pair) for pair in product(range(0x80, 0xC0), repeat=2)]


@cache
def with_property(written: str) -> tuple[Charset, Charset] | None:
    r"""What every version of Unicode since 10, and what some version, counts into ``\p{...}``.

    Args:
        written: what stands between the braces: a general category or a property of ECMA-262, or
            ``gc=``, ``sc=`` or ``scx=`` (long names too) and a value.

    Returns:
        None where there is no such property.

    Cost: some 10 ms, once for each.
    """
    name, sign, value = written.rpartition("=")
    if sign:
        kind = _KINDS.get(name, "?")
        is_known = (
            bool(_SCRIPT.fullmatch(value)) if kind[0] == "s" else value in _NAMES.get(kind, ())
        )
    else:
        kind = "gc" if value in _NAMES["gc"] else ""
        is_known = bool(kind) or value in _NAMES[""]
    if not is_known:
        return None
    found = _characters(f"{kind}={value}" if kind else value)
    if found is None or value in _FIXED:
        return None if found is None else (found, found)
    old, none = _characters(_AGE), _characters("gc=Cn")
    assert old is not None and none is not None
    sure = charset.intersection(found, charset.union(old, none))
    return sure, charset.union(found, charset.complement(old))


@cache
def _characters(name: str) -> Charset | None:
    """Those that the engine counts into a property; None where it knows no such one."""
    vocabulary = _vocabulary()
    source = llguidance.LLMatcher.grammar_from_regex(rf"\p{{{name}}}")
    start = llguidance.LLMatcher(vocabulary.engine, source, log_level=0)
    if start.is_error():
        return None
    held = np.zeros(charset.MAX_CODE_POINT + 2, np.int8)
    for lead in _bytes_after(start, b""):
        num_left = (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
        prefixes = [bytes([lead])]
        if num_left == 3:
            prefixes = [bytes([lead, second]) for second in _bytes_after(start, prefixes[0])]
        for prefix in prefixes:
            _hold(held, start, prefix, min(num_left, 2))
    edges = np.flatnonzero(np.diff(held, prepend=0)).tolist()
    return tuple((low, end - 1) for low, end in zip(edges[::2], edges[1::2], strict=True))


def _hold(held: NDArray[np.int8], start: Any, prefix: bytes, num_left: int) -> None:
    """Note the characters that have so many bytes more than a prefix."""
    high = prefix[0] & (0x3F >> len(prefix) + num_left - 1 if num_left else 0x7F)
    for byte in prefix[1:]:
        high = high << 6 | byte & 0x3F
    ends = np.ones(1, np.uint8)
    if num_left:
        bits = _following(start, prefix)
        ends = bits[0x80:0xC0] if num_left == 1 else bits[256 : 256 + len(_PAIRS)]
    if ends.any():
        held[high << 6 * num_left :][: len(ends)] |= ends.view(np.int8)
        return
    for byte in _bytes_after(start, prefix):  # one way on: it is told byte by byte
        _hold(held, start, prefix + bytes([byte]), num_left - 1)


def _bytes_after(start: Any, prefix: bytes) -> list[int]:
    found: list[int] = _following(start, prefix)[:256].nonzero()[0].tolist()
    return found


def _following(start: Any, prefix: bytes) -> NDArray[np.uint8]:
    """Which tokens may follow a prefix, as bits."""
    vocabulary = _vocabulary()
    engine = start.deep_copy()
    engine.try_consume_tokens(list(prefix))
    row = np.zeros(vocabulary.num_words, np.uint32)
    engine.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
    return np.unpackbits(row.astype("<u4", copy=False).view(np.uint8), bitorder="little")


@cache
def _vocabulary() -> Vocabulary:
    tokens = [*(bytes([i]) for i in range(256)), *_PAIRS, b""]
    end = len(tokens) - 1
    return Vocabulary(tokens, [end], end, lambda text: list(text.encode()), "ends of characters")
