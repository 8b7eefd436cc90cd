"""Tokens that can complete an item of an array, or begin one like another: where items must differ
(`engines.different`), those are looked at."""

from __future__ import annotations

import re
from functools import cached_property

from sgrt.grammar.vocabulary import Vocabulary

_LEADING = (b" ", b"\t", b"\n", b"\r", b"\v", b"\f")
"""What `lstrip` takes off."""


class ItemTokens:
    """Tokens of a vocabulary by what they can do to items; each kind is found when it is asked
    for."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokens = vocabulary.tokens

    @cached_property
    def opening(self) -> frozenset[int]:
        """May open an array and complete several of its items."""
        return self._matching(rb"\[.*(,|-0)", b"[")

    @cached_property
    def marked(self) -> frozenset[int]:
        """May end a value, or be a number in another spelling."""
        return self._matching(rb"[,\]}]|-0")

    @cached_property
    def going_on(self) -> frozenset[int]:
        """May end a string, and lead to another item."""
        return self._matching(rb'".*,', b'"')

    @cached_property
    def ending(self) -> frozenset[int]:
        """May end a string and what it stands in."""
        return self._matching(rb'".*[\]}]', b'"')

    @cached_property
    def beginning(self) -> frozenset[int]:
        """Begin a string and nothing more."""
        return self._matching(rb'^\s*"[^"]*$', b'"')

    @cached_property
    def _by_text(self) -> dict[bytes, list[int]]:
        """Without the white space in front, too."""
        found: dict[bytes, list[int]] = {}
        for token_id, token in enumerate(self._tokens):
            found.setdefault(token, []).append(token_id)
            if token[:1] in _LEADING:
                text = token.lstrip()
                if text != token:
                    found.setdefault(text, []).append(token_id)
        return found

    @cached_property
    def _by_head(self) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for token_id, token in enumerate(self._tokens):
            if b'"' in token:
                found.setdefault(token[: token.index(b'"') + 1], []).append(token_id)
        return found

    def of(self, texts: set[bytes]) -> set[int]:
        """Tokens that are one of these texts, or one that ends a string and more."""
        ids: set[int] = set()
        for text in texts:
            ids.update(self._by_text.get(text, ()), self._by_head.get(text, ()))
        return ids

    def _matching(self, pattern: bytes, part: bytes = b"") -> frozenset[int]:
        """Tokens that match; all of them hold a part."""
        search = re.compile(pattern, re.DOTALL).search
        return frozenset(i for i, t in enumerate(self._tokens) if part in t and search(t))
