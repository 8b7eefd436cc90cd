"""Tokens that can complete an item of an array, or begin one like another: where items must differ
(`engines.different`), those are looked at."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from sgrt.grammar.vocabulary import Vocabulary

_WHITE = (b" ", b"\t", b"\n", b"\r", b"\v", b"\f")
"""What `lstrip` takes off."""


class ItemTokens:
    """Tokens of a vocabulary by what they can do to items.

    Attributes:
        opening: may open an array and complete several of its items.
        marked: may end a value, or be a number in another spelling.
        going_on: may end a string, and lead to another item.
        ending: may end a string and what it stands in.
        beginning: begin a string and nothing more.

    Cost: some 30 ms for 50,000 tokens; a compile pays it, no mask does.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = vocabulary.tokens
        text = np.frombuffer(b"".join(tokens), np.uint8)
        ends = np.fromiter(map(len, tokens), np.int64, len(tokens)).cumsum()

        def holding(characters: bytes) -> list[int]:
            at = np.flatnonzero(np.isin(text, list(characters)))
            found: list[int] = np.unique(ends.searchsorted(at, "right")).tolist()
            return found

        def matching(pattern: bytes, ids: Iterable[int]) -> frozenset[int]:
            search = re.compile(pattern, re.DOTALL).search
            return frozenset(i for i in ids if search(tokens[i]))

        quoted = holding(b'"')
        self.opening = matching(rb"\[.*(,|-0)", holding(b"["))
        self.marked = matching(rb"[,\]}]|-0", holding(b",]}-"))
        self.going_on = matching(rb'".*,', quoted)
        self.ending = matching(rb'".*[\]}]', quoted)
        self.beginning = matching(rb'^\s*"[^"]*$', quoted)
        self._by_head: defaultdict[bytes, list[int]] = defaultdict(list)
        for i in quoted:
            self._by_head[tokens[i][: tokens[i].index(b'"') + 1]].append(i)
        self._by_text = {t: i for i, t in enumerate(tokens)}
        self._others: defaultdict[bytes, list[int]] = defaultdict(list)
        """Of tokens that stand more than once, and of such without the white space in front."""
        if len(self._by_text) < len(tokens):
            for i, t in enumerate(tokens):
                if self._by_text[t] != i:
                    self._others[t].append(i)
        self._stripped: dict[bytes, int] = {}
        for i, t in enumerate(tokens):
            if t.startswith(_WHITE) and self._stripped.setdefault(t.lstrip(), i) != i:
                self._others[t.lstrip()].append(i)

    def of(self, texts: set[bytes]) -> set[int]:
        """Tokens that are one of these texts, white space in front or not, or one that ends a
        string and more."""
        ids: set[int] = set()
        for text in texts:
            ids.update(self._others.get(text, ()), self._by_head.get(text, ()))
            ids.update(d[text] for d in (self._by_text, self._stripped) if text in d)
        return ids
