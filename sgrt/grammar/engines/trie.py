"""Choices over their canonical tokenizations.

Each option is generated as the tokenizer writes it, one path per option: the texts are exactly
the options, and the model sees tokens as it was trained on them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sgrt.errors import ConstraintError
from sgrt.grammar.vocabulary import Vocabulary

_Ids = tuple[int, ...]
_Place = tuple[int, int, int]
"""Options low to high (half-open) of the sorted ones, which begin with the same so many tokens."""


class TrieGrammar:
    """A compiled list of choices: the tokens of all options, sorted.

    A place in the trie is the range of options that begin with the same tokens; what may follow
    is looked up where a matcher asks for it.

    Raises:
        ConstraintError: an option that the tokenizer cannot write.

    Cost: one call of ``encode`` per option.
    """

    def __init__(self, vocabulary: Vocabulary, options: Sequence[str]) -> None:
        self.vocabulary = vocabulary
        self._options = sorted({_tokens_of(option, vocabulary) for option in options})
        self._lengths = np.fromiter(map(len, self._options), np.intp, len(self._options))
        self.start: _Place = (0, len(self._options), 0)
        self._known: dict[_Place, dict[int, _Place]] = {}

    def matcher(self) -> TrieMatcher:
        return TrieMatcher(self, [self.start])

    def is_option(self, place: _Place) -> bool:
        low, _, depth = place
        return len(self._options[low]) == depth  # it sorts before those it begins

    def children(self, place: _Place) -> dict[int, _Place]:
        """The tokens that may follow, ascending, and where each leads.

        Cost: a few microseconds for each, the first time.
        """
        if place not in self._known:
            self._known[place] = self._find_children(place)
        return self._known[place]

    def _find_children(self, place: _Place) -> dict[int, _Place]:
        low, high, depth = place
        low += self.is_option(place)
        found: dict[int, _Place] = {}
        while low < high:
            token_id = self._options[low][depth]
            end = bisect_right(self._options, token_id, low, high, key=lambda ids: ids[depth])
            found[token_id] = (low, end, depth + 1)
            low = end
        return found

    def forced(self, place: _Place) -> list[int]:
        """Tokens that all options of a place go on with, up to the end of the first that ends."""
        low, high, depth = place
        first, last = self._options[low], self._options[high - 1]
        end = depth
        while end < len(first) and first[end] == last[end]:
            end += 1
        return list(first[depth:end])

    def nearest(self, place: _Place) -> list[int]:
        """Tokens to the end of the shortest option."""
        low, high, depth = place
        option = self._options[low + int(self._lengths[low:high].argmin())]
        return list(option[depth:])


def _tokens_of(option: str, vocabulary: Vocabulary) -> _Ids:
    ids = vocabulary.try_encode(option.encode("utf-8"))
    if ids is None or not vocabulary.special_ids.isdisjoint(ids):
        raise ConstraintError(f"option {option!r:.80} cannot be written with this vocabulary")
    return tuple(ids)


class TrieMatcher:
    """`sgrt.grammar.matcher.Matcher` over choices; the path from the start is its state."""

    __slots__ = ("_grammar", "_path")

    def __init__(self, grammar: TrieGrammar, path: list[_Place]) -> None:
        self._grammar = grammar
        self._path = path

    @property
    def vocabulary(self) -> Vocabulary:
        return self._grammar.vocabulary

    def fill(self, row: NDArray[np.uint32]) -> None:
        row[:] = 0
        ids = np.array(self.allowed(), np.intp)
        np.bitwise_or.at(row, ids >> 5, np.uint32(1) << (ids & 31).astype(np.uint32))

    def allowed(self) -> Sequence[int]:
        return tuple(self._children)

    @property
    def _children(self) -> dict[int, _Place]:
        return self._grammar.children(self._path[-1])

    @property
    def place(self) -> None:
        return None  # what is allowed is known anyway

    def accept(self, token_ids: Sequence[int]) -> None:
        path = self._follow(token_ids)
        if len(path) < len(token_ids):
            raise ConstraintError(
                f"token {token_ids[len(path)]} is not allowed after {len(path)} of "
                f"{list(token_ids)!r:.80}"
            )
        self._path += path

    def _follow(self, token_ids: Sequence[int]) -> list[_Place]:
        """The places that these tokens lead to, as far as they are allowed."""
        path: list[_Place] = []
        place = self._path[-1]
        for token_id in token_ids:
            children = self._grammar.children(place)
            if token_id not in children:
                break
            place = children[token_id]
            path.append(place)
        return path

    def rollback(self, num_tokens: int) -> None:
        if not 0 <= num_tokens < len(self._path):
            raise ConstraintError(f"cannot undo {num_tokens} of {len(self._path) - 1} tokens")
        if num_tokens:
            del self._path[-num_tokens:]

    def forced(self) -> list[int]:
        return self._grammar.forced(self._path[-1])

    def guess(self) -> list[int]:
        return []

    @property
    def is_complete(self) -> bool:
        return self._grammar.is_option(self._path[-1])

    @property
    def is_final(self) -> bool:
        low, high, _ = self._path[-1]
        return self.is_complete and high - low == 1

    def fork(self) -> TrieMatcher:
        return TrieMatcher(self._grammar, self._path.copy())

    def completes(self, token_ids: Sequence[int]) -> bool:
        path = [self._path[-1], *self._follow(token_ids)]
        return len(path) > len(token_ids) and self._grammar.is_option(path[-1])

    def shortest_completion(self, *, thorough: bool = True) -> list[int] | None:
        return self._grammar.nearest(self._path[-1])

    def explain(self, token_id: int) -> str | None:
        children = self._children
        if token_id in children:
            return None
        vocabulary = self._grammar.vocabulary
        if not 0 <= token_id < len(vocabulary):
            return f"token {token_id} does not exist: the vocabulary has {len(vocabulary)}"
        if not children:
            return "the option is complete: nothing can follow"
        what = f"{vocabulary.tokens[token_id]!r:.80} begins no option that is left"
        shown = [repr(vocabulary.tokens[i])[:40] for i in list(children)[:8]]
        more = ", ..." if len(children) > len(shown) else ""
        end = "; the text may also end" if self.is_complete else ""
        return f"{what}; next is one of {', '.join(shown)}{more}{end}"
