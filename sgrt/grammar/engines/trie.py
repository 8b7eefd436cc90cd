"""Choices as a trie over their canonical tokenizations.

Each option is generated as the tokenizer writes it, one path per option: the texts are exactly
the options, and the model sees tokens as it was trained on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sgrt.errors import ConstraintError
from sgrt.grammar.vocabulary import Vocabulary


@dataclass(slots=True)
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    is_option: bool = False
    allowed: tuple[int, ...] = ()
    to_end: int = 0  # tokens to the nearest option


class TrieGrammar:
    """A compiled list of choices.

    Raises:
        ConstraintError: an option that the tokenizer cannot write.

    Cost: one call of ``encode`` per option.
    """

    def __init__(self, vocabulary: Vocabulary, options: Sequence[str]) -> None:
        self.vocabulary = vocabulary
        self.root = _Node()
        nodes = [self.root]
        for option in options:
            ids = vocabulary.try_encode(option.encode("utf-8"))
            if ids is None or not vocabulary.special_ids.isdisjoint(ids):
                raise ConstraintError(
                    f"option {option!r:.80} cannot be written with this vocabulary"
                )
            node = self.root
            for token_id in ids:
                if token_id not in node.children:
                    node.children[token_id] = _Node()
                    nodes.append(node.children[token_id])
                node = node.children[token_id]
            node.is_option = True
        for node in reversed(nodes):  # children before their parents
            node.allowed = tuple(sorted(node.children))
            if not node.is_option:
                node.to_end = 1 + min(child.to_end for child in node.children.values())

    def matcher(self) -> TrieMatcher:
        return TrieMatcher(self, [self.root])


class TrieMatcher:
    """`sgrt.grammar.matcher.Matcher` over a trie; the path from the root is its state."""

    __slots__ = ("_grammar", "_path")

    def __init__(self, grammar: TrieGrammar, path: list[_Node]) -> None:
        self._grammar = grammar
        self._path = path

    @property
    def vocabulary(self) -> Vocabulary:
        return self._grammar.vocabulary

    def fill(self, row: NDArray[np.uint32]) -> None:
        row[:] = 0
        ids = np.array(self._path[-1].allowed, np.intp)
        np.bitwise_or.at(row, ids >> 5, np.uint32(1) << (ids & 31).astype(np.uint32))

    def allowed(self) -> Sequence[int]:
        return self._path[-1].allowed

    def accept(self, token_ids: Sequence[int]) -> None:
        path: list[_Node] = []
        node = self._path[-1]
        for token_id in token_ids:
            if token_id not in node.children:
                raise ConstraintError(
                    f"token {token_id} is not allowed after {len(path)} of {list(token_ids)!r:.80}"
                )
            node = node.children[token_id]
            path.append(node)
        self._path += path

    def rollback(self, num_tokens: int) -> None:
        if not 0 <= num_tokens < len(self._path):
            raise ConstraintError(f"cannot undo {num_tokens} of {len(self._path) - 1} tokens")
        if num_tokens:
            del self._path[-num_tokens:]

    def forced(self) -> list[int]:
        ids = []
        node = self._path[-1]
        while len(node.allowed) == 1 and not node.is_option:
            ids.append(node.allowed[0])
            node = node.children[node.allowed[0]]
        return ids

    @property
    def is_complete(self) -> bool:
        return self._path[-1].is_option

    @property
    def is_final(self) -> bool:
        node = self._path[-1]
        return node.is_option and not node.children

    def fork(self) -> TrieMatcher:
        return TrieMatcher(self._grammar, self._path.copy())

    def completes(self, token_ids: Sequence[int]) -> bool:
        node: _Node | None = self._path[-1]
        for token_id in token_ids:
            node = None if node is None else node.children.get(token_id)
        return node is not None and node.is_option

    def shortest_completion(self, *, thorough: bool = True) -> list[int] | None:
        ids: list[int] = []
        node = self._path[-1]
        while node.to_end:
            ids.append(_nearest(node))
            node = node.children[ids[-1]]
        return ids

    def explain(self, token_id: int) -> str | None:
        node = self._path[-1]
        if token_id in node.children:
            return None
        vocabulary = self._grammar.vocabulary
        if not 0 <= token_id < len(vocabulary):
            return f"token {token_id} does not exist: the vocabulary has {len(vocabulary)}"
        if not node.children:
            return "the option is complete: nothing can follow"
        what = f"{vocabulary.tokens[token_id]!r:.80} begins no option that is left"
        shown = [repr(vocabulary.tokens[i])[:40] for i in node.allowed[:8]]
        more = ", ..." if len(node.allowed) > len(shown) else ""
        end = "; the text may also end" if node.is_option else ""
        return f"{what}; next is one of {', '.join(shown)}{more}{end}"


def _nearest(node: _Node) -> int:
    return min(node.allowed, key=lambda token_id: node.children[token_id].to_end)
