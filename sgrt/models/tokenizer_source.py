"""What a tokenizer is made of, whatever file it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tokenizers

SPACE = "\u2581"
"""How SentencePiece spells a space."""

Place = Literal["start", "special", "text"]
"""What stands before a stretch of text: nothing, a special token, or other text."""


@dataclass(frozen=True)
class AddedToken:
    """A token that is found by its spelling before text is cut into pieces.

    Args:
        lstrip: it takes the white space before it along.
        rstrip: the same, after it.
        single_word: it counts only where no word character touches it.
    """

    id: int
    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenizerSource:
    """A tokenizer, taken apart.

    Args:
        encoders: by place; they treat the spelling of special tokens as text.
        texts: how each id is spelled; "" for ids that mean nothing.
        table: bytes each id adds to a text; b"" for special ones.
        added: tokens found by spelling.
        special_ids: tokens that are not text: control, unknown, unused.
        eos_id: the one that the files call the end of text.
        eos_ids: all tokens that end a text, as the files declare.
        add_bos: whether a text begins with ``bos_id``.
        chat_template: jinja source, or None.
    """

    path: Path
    encoders: dict[Place, tokenizers.Tokenizer]
    texts: list[str]
    table: list[bytes]
    added: tuple[AddedToken, ...]
    special_ids: frozenset[int]
    bos_id: int | None
    eos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool
    chat_template: str | None = field(repr=False)
