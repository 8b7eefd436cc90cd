"""How large a constraint may be. Checked before any engine sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sgrt.errors import GrammarBudgetExceeded

MAX_SCHEMA_BYTES = 1024 * 1024
MAX_JSON_DEPTH = 64
MAX_PROPERTIES = 5_000
MAX_OPTIONAL_PROPERTIES = 1_000
"""Per object: the engine's cost grows with the square of the properties that may be left out."""
MAX_OPTIONAL_COUNTED = 8
"""Beside `minProperties` or `maxProperties` in an open object: each may be there or not."""
MAX_COUNTED_KEYS = 64
"""Keys that a pattern matches, where they are counted or searched one by one."""
MAX_ENUM_VALUES = 10_000
MAX_VALUE_CHARS = 100_000
"""Of one value of an `enum` or `const`, as JSON."""
MAX_VALUE_PARTS = 5_000
"""Items and members in one such value: each step costs the engine time for all of them."""
MAX_REF_CHAIN = 64
MAX_SCHEMA_DEPTH = 512
"""Schemas nested in one another with every `$ref` followed: engines recurse natively here."""
MAX_ALTERNATIVES = 256
"""Branches of one `oneOf`, which are compared pair by pair."""
MAX_PATTERNS = 8
"""`pattern` and `format` that meet on one string: the engine intersects them, exponentially."""
MAX_KEY_SETS = 32
"""Sets of keys of one object whose values have to satisfy different things."""
MAX_STRING_LEN = 100_000
MAX_ITEMS = 100_000
MAX_UPPER_BOUND = 10**9
"""Of `maxLength` and the like: the engine counts no further than 2**32."""
MAX_REGEX_BYTES = 16 * 1024
MAX_WRITTEN_REGEX_BYTES = 64 * 1024
"""Of a pattern made from an automaton."""
MAX_REGEX_DEPTH = 64
MAX_REGEX_SIZE = 100_000
"""Characters of a regex with its counted repeats written out."""
MAX_STOP_CHARS = 1_000
"""Of a pattern that ends a text."""
MAX_STOP_STATES = 256
"""Each may have to be followed for every character of the text."""
MAX_AUTOMATON_STATES = 4_000
"""Of a pattern that is complemented or compared; most are below 50. Four times as many before
it is deterministic."""
MAX_WRITTEN_STATES = 1_000
"""Of an automaton that is written back as a pattern."""
MAX_CLAUSES = 3_000
"""Alternatives that one place of a schema may have for values of one type."""
MAX_CLAUSES_TRIED = 20_000
"""Of which those that contradict themselves, or say no more than another one, are dropped."""
MAX_CLAUSES_COMPARED = 2_000
MAX_ASSERTIONS = 50_000
"""Of one value, with every schema that must hold for it written out."""
MAX_UNFOLDED = 20_000
"""Places (schemas that meet in one value) that one schema may become."""
MAX_CASES = 64
"""Ways in which the parts of a schema with `unevaluated...` may hold or not."""
MIN_SEARCHED = 6
MAX_SEARCHED = 24
"""Items among which what `contains` asks for is placed: the more, the fewer ways there are."""
MAX_ARRANGEMENTS = 256
"""Ways to place it, and arrays of different items, for one array; ways to count keys."""
MAX_LISTED_NUMBERS = 1_000
MAX_NUMBER_GAPS = 32
"""Gaps between integers in which numbers are generated that must be no integers."""
MAX_NUMBERS_TRIED = 20_000
"""Integers that are listed because they are multiples of no number; and tried."""
MAX_UNIQUE_ARRAYS = 720
"""Ways in which an array of different items may begin, its last item left open."""
MAX_GRAMMAR_BYTES = 256 * 1024
MAX_RULES = 2_000
MAX_RULE_DEPTH = 1_024
"""Rules, and groups in them, nested in one another as a walk meets them: engines recurse here."""
MAX_GROUP_DEPTH = 64
"""Groups in one another in one rule."""
MAX_SYMBOLS = 100_000
"""Symbols of all rules with their counted repeats written out."""
MAX_SUBSTRING_BYTES = 64 * 1024
MAX_STRUCTURES = 256
MAX_TRIGGERS = 64
MAX_TAG_CHARS = 1_000
"""Of a trigger, and of the begin and the end of a structure."""
MAX_COMPOSED_DEPTH = 32
MAX_COMPOSED_PLACES = 20_000
"""Of a composition with its repeats written out."""
MAX_COMPOSED_STATES = 5_000
MAX_WHITE = 256
"""Characters of white space in one place of a JSON text."""
MAX_CHOICES = 20_000
MAX_CHOICES_BYTES = 1024 * 1024


_local = threading.local()
_CALLS_PER_LOOK = 16
_num_calls = 0
"""Of all threads: which of them looks does not matter, as long as each does now and then."""


class OutOfPatience(Exception):
    """Work that `patience` gave up on; it says nothing about the constraint."""


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Give up on what takes this thread longer, at the next limit that is checked.

    Args:
        seconds: of this thread's CPU time.

    Raises:
        OutOfPatience: it took longer.
    """
    _local.end = time.thread_time() + seconds
    try:
        yield
    finally:
        _local.end = None


def check_limit(resource: str, used: int, limit: int, hint: str | None = None) -> None:
    """Raise `GrammarBudgetExceeded` where ``used`` exceeds ``limit``.

    Whatever multiplies calls this as it goes on, so this is also where `patience` ends.
    """
    if used > limit:
        raise GrammarBudgetExceeded(resource, used, limit, hint=hint)
    check_patience()


def check_patience() -> None:
    """Raise `OutOfPatience` where that of this thread has run out. Cost: 0.05 µs; every so many
    calls it looks at the clock, 1 µs."""
    global _num_calls
    _num_calls += 1
    if _num_calls % _CALLS_PER_LOOK == 0:
        end = getattr(_local, "end", None)
        if end is not None and time.thread_time() > end:
            raise OutOfPatience
