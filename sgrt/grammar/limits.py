"""How large a constraint may be. Checked before any engine sees it."""

from __future__ import annotations

from sgrt.errors import GrammarBudgetExceeded

MAX_SCHEMA_BYTES = 256 * 1024
MAX_JSON_DEPTH = 64
MAX_PROPERTIES = 5_000
MAX_OPTIONAL_PROPERTIES = 1_000
"""Per object: the engine's cost grows with the square of the properties that may be left out."""
MAX_ENUM_VALUES = 10_000
MAX_REF_CHAIN = 64
MAX_SCHEMA_DEPTH = 512
"""Schemas nested in one another with every `$ref` followed: engines recurse natively here."""
MAX_ALTERNATIVES = 256
"""Branches of one `oneOf`, which are compared pair by pair."""
MAX_PATTERNS = 8
"""`pattern` and `format` that meet on one string: the engine intersects them, exponentially."""
MAX_STRING_LEN = 100_000
MAX_ITEMS = 100_000
MAX_REGEX_BYTES = 16 * 1024
MAX_REGEX_DEPTH = 64
MAX_REGEX_SIZE = 100_000
"""Characters of a regex with its counted repeats written out."""
MAX_CHOICES = 10_000
MAX_CHOICES_BYTES = 1024 * 1024


def check_limit(resource: str, used: int, limit: int, hint: str | None = None) -> None:
    """Raise `GrammarBudgetExceeded` where ``used`` exceeds ``limit``."""
    if used > limit:
        raise GrammarBudgetExceeded(resource, used, limit, hint=hint)
