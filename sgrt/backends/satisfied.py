"""Whether a text keeps to its constraint, as far as that can be told without a grammar engine.

Backends that cannot hold the model to a constraint themselves, scripted or remote, check what
comes back.
"""

from __future__ import annotations

import json
import re

from sgrt.core import Choices, Constraint, JsonSchema, Regex, Substring


def satisfies(text: str, constraint: Constraint) -> bool | None:
    """Whether the text is one of the constraint's; None where that cannot be told here.

    Of a JSON schema only that the text is JSON is looked at.
    """
    match constraint:
        case Choices(options):
            return text in options
        case Regex(pattern):
            return _matches(pattern, text)
        case JsonSchema():
            return _is_json(text)
        case Substring(source, by="characters"):
            return text != "" and text in source
    return None


def _matches(pattern: str, text: str) -> bool | None:
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error:  # another dialect than Python's
        return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
