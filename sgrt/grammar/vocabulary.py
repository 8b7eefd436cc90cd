"""A model's tokens as grammars see them: bytes per id, and how text is tokenized."""

from __future__ import annotations

import string
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from sgrt.errors import ModelError

ANY_BYTE = bytes(range(256))

_KINDS = (
    *(string.ascii_lowercase, string.ascii_uppercase, string.digits, string.punctuation),
    *("\n", "\r", "\t\v\f", " "),
    *"\u0301é\xa0ا\u0661\u2014\u3000日\ufeff한😀",
)
"""Kinds of characters that tokenizers split text by. The end of a text may be split in view of
what comes next: the last of several spaces goes with the word behind it."""

_MAX_TRIED = 48
"""Tokens that might reach over the end of a text, of which it is tried whether they do."""

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
        self._growths = lru_cache(maxsize=4096)(self._find_growths)
        self._growing = lru_cache(maxsize=4096)(self._find_growing)
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

    def prepare(self) -> None:
        """Make now what the first constraints would wait for.

        Cost: some 0.3 s for 50,000 tokens.
        """
        _ = self.engine, self.max_token_len, self._special_words, self._sorted_tokens
        _ = self._byte_tokens

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

    @cached_property
    def max_token_len(self) -> int:
        return max(map(len, self.tokens), default=0)

    def certain_tokens(self, text: bytes, after: bytes = ANY_BYTE) -> list[int]:
        """Tokens of text that is certain to follow, as far as what comes after cannot change them.

        Args:
            text: bytes that follow; the token boundary in front of them stands. (Where the whole
                text has a boundary there, its tokens from there on are those of the rest, by how
                byte-pair merging works.)
            after: what comes after them begins with one of these bytes; b"" where nothing comes.

        Returns:
            Ids that begin the tokenization of ``text`` and whatever follows it.

        Cost: a few calls of ``encode``; short texts are remembered.
        """
        find = self._remembered if len(text) <= _MAX_REMEMBERED else self._certain_tokens
        return list(find(text, after))

    def _certain_tokens(self, text: bytes, after: bytes) -> list[int]:
        whole = whole_characters(text)
        text, after = whole, text[len(whole) : len(whole) + 1] or after
        ids = self.try_encode(text) or []
        others = [text[:cut] for cut in self._open_cuts(text, after)]
        if text.decode()[-1:].isspace():
            others += [text + probe for probe in _probes(after)]
        for other in others:
            ids = _common_prefix(ids, self.try_encode(other) or [])
        return ids

    def likely_tokens(self, text: bytes, after: bytes) -> list[int]:
        """The tokens of text that is certain to follow, if little of what comes after changes them.

        Args:
            text, after: as for `certain_tokens`.
        """
        if not after or len(text) > len(whole_characters(text)):
            return []
        starts = range(max(0, len(text) - self.max_token_len + 1), len(text))
        changing = {byte for start in starts for byte in self._growing(text[start:])}
        return (self.try_encode(text) or []) if 4 * len(changing & {*after}) <= len(after) else []

    def _find_growing(self, prefix: bytes) -> bytes:
        """Bytes that some token has behind this beginning."""
        at, size = self._range(prefix), len(prefix)
        return bytes(
            {self._sorted_tokens[i][size] for i in at if len(self._sorted_tokens[i]) > size}
        )

    def _range(self, prefix: bytes) -> range:
        """Which of the tokens in order begin with these bytes."""
        low = bisect_left(self._sorted_tokens, prefix)
        end = prefix + b"\xff" * self.max_token_len
        return range(low, bisect_left(self._sorted_tokens, end, low))

    def _open_cuts(self, text: bytes, after: bytes) -> list[int]:
        """Places in ``text`` where a token that reaches beyond its end might begin.

        A place inside a character stands for the one before the character in front of it, since
        the token boundary nearest to it could be anywhere in between.
        """
        cuts = set()
        for start in range(max(0, len(text) - self.max_token_len + 1), len(text)):
            if self._may_begin(text, start, after):
                cut = _character_start(text, start)
                cuts.add(cut if cut == start else _character_start(text, max(cut - 1, 0)))
        return sorted(cuts)

    def _may_begin(self, text: bytes, start: int, after: bytes) -> bool:
        """Whether a token might begin here and reach over the end, to one of these bytes.

        A token that is written there is so too where the text ends with it; where only a few can
        be, that is tried.
        """
        found = self._growths(text[start:], after)
        return len(found) > _MAX_TRIED or any(self._is_written(text[:start], t) for t in found)

    def _find_growths(self, suffix: bytes, after: bytes) -> list[bytes]:
        """Tokens that begin with ``suffix`` and one of these bytes, or the first of many."""
        size, begun = len(suffix), self._range(suffix)
        if len(begun) > 8 * len(after):
            parts = (self._range(suffix + after[i : i + 1]) for i in range(len(after)))
            begun_so = (self._sorted_tokens[i] for part in parts for i in part)
        else:
            begun_so = (t for t in map(self._sorted_tokens.__getitem__, begun) if len(t) > size)
            begun_so = (t for t in begun_so if t[size] in after)
        return list(islice(begun_so, _MAX_TRIED + 1))

    def _is_written(self, before: bytes, token: bytes) -> bool:
        """Whether the tokens of these bytes, put together, end with this token; True where that
        cannot be tried."""
        ids = self.try_encode(before + token)
        return ids is None or self.tokens[ids[-1]] == token

    @cached_property
    def _byte_tokens(self) -> tuple[NDArray[np.intp], NDArray[np.uint32], NDArray[np.bool_]]:
        """Of each byte: the word and bit of its token in masks, and whether it has none."""
        special = self.special_ids
        ids = {t[0]: i for i, t in enumerate(self.tokens) if len(t) == 1 and i not in special}
        found = np.array([ids.get(byte, 0) for byte in range(256)], np.intp)
        missing = np.array([byte not in ids for byte in range(256)])
        return found // 32, np.uint32(1) << (found % 32).astype(np.uint32), missing

    def next_bytes(self, mask: NDArray[np.uint32]) -> bytes:
        """Bytes that what a mask allows can begin with; [W] uint32. Those that are no token on
        their own count as allowed."""
        words, bits, missing = self._byte_tokens
        return bytes(((mask[words] & bits).astype(bool) | missing).nonzero()[0].tolist())


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


def _probes(after: bytes) -> Iterator[bytes]:
    """A character of each kind that begins with one of these bytes."""
    for kind in _KINDS:
        yield from islice((c for c in map(str.encode, kind) if c[0] in after), 1)


def _is_continuation(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _character_start(text: bytes, at: int) -> int:
    while at > 0 and _is_continuation(text[at]):
        at -= 1
    return at


def whole_characters(text: bytes) -> bytes:
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
