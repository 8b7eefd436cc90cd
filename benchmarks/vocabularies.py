"""Vocabularies that grammars are measured with: the embedded model's, and one from a file."""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from sgrt.grammar.vocabulary import Vocabulary
from sgrt.models import hub
from sgrt.models.tokenizer import Tokenizer
from sgrt.runtime.assemble import grammar_vocabulary

_PIECES = re.compile(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\w]?[^\W\d_]+|\d| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+|."
)
"""Near enough to what the models split text by."""


def smollm2() -> Vocabulary:
    """49k tokens."""
    return grammar_vocabulary(Tokenizer.open(hub.resolve(None, fetch=False).path))


def from_ranks(path: Path) -> Vocabulary:
    """Byte-pair tokens of a ``.tiktoken`` file: per line a token in base64 and its rank."""
    pairs = [line.split() for line in path.read_bytes().splitlines() if line]
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    tokens = [b""] * (max(ranks.values()) + 2)  # the last one ends the text
    for token, rank in ranks.items():
        tokens[rank] = token

    @lru_cache(maxsize=100_000)
    def encode_piece(piece: bytes) -> list[int]:
        parts = [piece[i : i + 1] for i in range(len(piece))]
        while len(parts) > 1:
            merged = [ranks.get(a + b) for a, b in pairwise(parts)]
            best = min((r for r in merged if r is not None), default=None)
            if best is None:
                break
            at = merged.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [ranks[part] for part in parts]

    def encode(text: str) -> list[int]:
        found = _PIECES.findall(text)
        return [i for piece in found for i in encode_piece(piece.encode())]

    eos = len(tokens) - 1
    return Vocabulary(tokens, [eos], eos, encode, path.name)
