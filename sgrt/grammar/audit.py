"""Constraints checked and rewritten before any engine sees them: exact, refused, or too large."""

from __future__ import annotations

from sgrt.core import Choices
from sgrt.errors import ConstraintError
from sgrt.grammar import limits


def audit_choices(choices: Choices) -> tuple[str, ...]:
    """The options, each once.

    Raises:
        ConstraintError: no options, an empty one, or half a surrogate pair in one.
        GrammarBudgetExceeded: too many, or too long together.
    """
    if not choices.options:
        raise ConstraintError("choices: at least one option is needed")
    limits.check_limit("choices", len(choices.options), limits.MAX_CHOICES)
    total = 0
    for option in choices.options:
        if not isinstance(option, str) or not option:
            raise ConstraintError(
                f"choices: option {option!r:.80} is not a text of at least one character"
            )
        try:
            total += len(option.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ConstraintError(
                f"choices: option {option!r:.80} holds half a surrogate pair"
            ) from error
    limits.check_limit("bytes of choices", total, limits.MAX_CHOICES_BYTES)
    return tuple(dict.fromkeys(choices.options))
