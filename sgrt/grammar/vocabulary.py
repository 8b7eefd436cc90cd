"""A model's tokens as grammars see them: bytes per id, and how text is tokenized."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, lru_cache
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from sgrt.errors import ModelError

_MAX_REMEMBERED = 256
"""Bytes of forced text whose tokens are remembered: keys of objects come again and again."""


class Vocabulary:
    """What the grammar layer knows of a tokenizer.

    Args:
        tokens: the bytes of each id, V of them. Ids that stand for no text have b"".
        special_ids: tokens that no grammar ever allows (end of text, chat marks).
        eos_id: the end-of-text token.
        encode: ids of a text as they stand in the middle of a longer one: no special tokens
            are added or recognised, no space is put in front.
        fingerprint: differs where any of the others differ; keys caches.

    Raises:
        ModelError: an id out of range.

    Cost: nothing until used; the engine's token trie takes some 50 ms at V = 49k.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        special_ids: Collection[int],
        eos_id: int,
        encode: Callable[[str], list[int]],
        fingerprint: str,
    ) -> None:
        self.tokens = list(tokens)
        self.special_ids = frozenset(special_ids) | {eos_id}
        self.eos_id = eos_id
        self.encode = encode
        self.fingerprint = fingerprint
        self._remembered = lru_cache(maxsize=4096)(self._certain_tokens)
        outside = [i for i in self.special_ids if not 0 <= i < len(self.tokens)]
        if outside:
            raise ModelError(f"special token {outside[0]} is outside a vocabulary of {len(self)}")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_words(self) -> int:
        """Mask words W of 32 bits that hold a bit per token."""
        return (len(self.tokens) + 31) // 32

    @cached_property
    def engine(self) -> llguidance.LLTokenizer:
        """The engine's own view, with its token trie."""
        tokenizer: Any = _EngineTokenizer(self)
        return llguidance.LLTokenizer(tokenizer, n_vocab=len(self))

    @cached_property
    def _special_words(self) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
        """Words that hold bits of special tokens, and what to keep of them."""
        bits: dict[int, int] = {}
        for token_id in self.special_ids:
            bits[token_id // 32] = bits.get(token_id // 32, 0) | 1 << token_id % 32
        words = np.fromiter(bits, np.intp, len(bits))
        keep = np.fromiter((~b & 0xFFFFFFFF for b in bits.values()), np.uint32, len(bits))
        return words, keep

    def clear_special_inplace(
        self, mask: NDArray[np.uint32], rows: Sequence[int] | None = None
    ) -> None:
        """Clear the bits of special tokens.

        Args:
            mask: [W] or [R, W] uint32.
            rows: only these of R.
        """
        words, keep = self._special_words
        if rows is None:
            mask[..., words] &= keep
        else:
            mask[np.ix_(np.asarray(rows, np.intp), words)] &= keep

    # canonical tokenization

    def bytes_of(self, token_ids: Sequence[int]) -> bytes:
        return b"".join([self.tokens[i] for i in token_ids])

    def try_encode(self, text: bytes) -> list[int] | None:
        """Ids whose bytes are exactly these, as the tokenizer gives them; None where it does not
        keep the text as it is, or the bytes are no text."""
        try:
            ids = self.encode(text.decode("utf-8"))
        except UnicodeDecodeError:
            return None
        return ids if self.bytes_of(ids) == text else None

    @cached_property
    def _sorted_tokens(self) -> list[bytes]:
        return sorted({t for i, t in enumerate(self.tokens) if i not in self.special_ids})

    def can_grow(self, suffix: bytes) -> bool:
        """Whether some token starts with these bytes and goes on."""
        at = bisect_right(self._sorted_tokens, suffix)
        return at < len(self._sorted_tokens) and self._sorted_tokens[at].startswith(suffix)

    @cached_property
    def max_token_len(self) -> int:
        return max(map(len, self.tokens), default=0)

    def certain_tokens(self, text: bytes, *, is_end: bool) -> list[int]:
        """Tokens of text that is certain to follow, as far as what comes after cannot change them.

        Args:
            text: bytes that follow; the token boundary in front of them stands. (Where the whole
                text has a boundary there, its tokens from there on are those of the rest, by how
                byte-pair merging works.)
            is_end: whether nothing comes after them.

        Returns:
            Ids that begin the tokenization of ``text`` and whatever follows it.

        Cost: a few calls of ``encode``; short texts are remembered.
        """
        find = self._remembered if len(text) <= _MAX_REMEMBERED else self._certain_tokens
        return list(find(text, is_end))

    def _certain_tokens(self, text: bytes, is_end: bool) -> list[int]:
        text = _whole_characters(text)
        ids = self.try_encode(text) or []
        if is_end:
            return ids
        for cut in self._open_cuts(text):
            ids = _common_prefix(ids, self.try_encode(text[:cut]) or [])
        return ids

    def _open_cuts(self, text: bytes) -> list[int]:
        """Places in ``text`` where a token that reaches beyond its end might begin.

        A place inside a character stands for the one before the character in front of it, since
        the token boundary nearest to it could be anywhere in between.
        """
        cuts = set()
        for start in range(max(0, len(text) - self.max_token_len + 1), len(text)):
            if self.can_grow(text[start:]):
                cut = _character_start(text, start)
                cuts.add(cut if cut == start else _character_start(text, max(cut - 1, 0)))
        return sorted(cuts)


class _EngineTokenizer:
    """The attributes that llguidance reads from a tokenizer given as a Python object."""

    is_tokenizer_wrapper = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.eos_id
        self.bos_token_id = None
        self.tokens = vocabulary.tokens
        self.special_token_ids = sorted(vocabulary.special_ids)
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _is_continuation(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _character_start(text: bytes, at: int) -> int:
    while at > 0 and _is_continuation(text[at]):
        at -= 1
    return at


def _whole_characters(text: bytes) -> bytes:
    """Without an unfinished character at the end."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return text[: error.start]
    return text


def _common_prefix(a: list[int], b: list[int]) -> list[int]:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return a[:i]
    return a[: len(b)]
