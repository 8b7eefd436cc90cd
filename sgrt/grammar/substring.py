"""Quotations: contiguous parts of a text, by characters or by words."""

from __future__ import annotations

import json
import re

from sgrt.core import Substring
from sgrt.errors import ConstraintError
from sgrt.grammar import limits
from sgrt.grammar.rules import Lexeme

_WORD = re.compile(r"\w+|\W", re.DOTALL)


def terminal(constraint: Substring) -> Lexeme:
    """The engine's terminal of all non-empty parts of a text.

    Raises:
        ConstraintError: an empty text, or one that is no text.
        GrammarBudgetExceeded: longer than `limits.MAX_SUBSTRING_BYTES`.
    """
    text = constraint.text
    if not isinstance(text, str) or not text:
        raise ConstraintError(f"Substring: {text!r:.80} has no part that could be written")
    if constraint.by not in ("characters", "words"):
        raise ConstraintError(
            f"Substring: by={constraint.by!r:.80} must be 'characters' or 'words'"
        )
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ConstraintError("Substring: the text holds half a surrogate pair") from error
    limits.check_limit("bytes of quoted text", size, limits.MAX_SUBSTRING_BYTES)
    chunks = _WORD.findall(text) if constraint.by == "words" else list(text)
    parts = json.dumps({"substring_chunks": chunks}, ensure_ascii=False)
    # The engine's construct takes the empty text too; a terminal's definition may intersect.
    return Lexeme(f"%regex {parts} & /(?s:.+)/", size)
