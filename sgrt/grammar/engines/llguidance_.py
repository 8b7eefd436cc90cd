"""JSON Schema and regex by llguidance: lexer and Earley parser, lazy, with fuel per step.

Architecture invariant: only schemas that `json_schema.normalise` and patterns that
`regex.rewrite` wrote come here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from sgrt.errors import ConstraintError, GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar.vocabulary import Vocabulary

_FUEL = 1_000_000  # some 20 ms of building
_STEP_FUEL = 200_000  # some 15 ms of one mask
_LIMITS: Any = llguidance.LLParserLimits(
    initial_lexer_fuel=_FUEL,
    step_lexer_fuel=_STEP_FUEL,
    step_max_items=50_000,
    max_items_in_row=2_000,
    max_lexer_states=50_000,  # 1-2 kB each
    max_grammar_size=500_000,
    verbose_errors=False,
)
_OUT_OF_BUDGET = ("too large", "too complex", "fuel", "limit", "too many", "Unable to determine")
_COMPACT: Any = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    # Without "u" every string has one spelling, so no key can be written twice in two ways.
    "json_allowed_escapes": 'bfnrt\\"',
}


def json_schema_source(normal_schema: str) -> str:
    """The engine's grammar text of a normal schema; compact JSON."""
    return str(llguidance.LLMatcher.grammar_from_json_schema(normal_schema, overrides=_COMPACT))


def regex_source(pattern: str) -> str:
    """The engine's grammar text of a rewritten pattern."""
    return str(llguidance.LLMatcher.grammar_from_regex(pattern))


def json_part(normal_schema: str) -> str:
    """A normal schema as a symbol of a grammar text; compact JSON."""
    schema = json.loads(normal_schema)
    return "%json " + json.dumps({**schema, "x-guidance": _COMPACT}, ensure_ascii=False)


class LLGrammar:
    """A compiled grammar; hands out matchers as copies of one that stands at the start.

    Raises:
        UnsupportedSchema: nothing satisfies it, or the engine does not know how to enforce it.
        GrammarBudgetExceeded: it needs more than the engine's limits.
    """

    def __init__(self, vocabulary: Vocabulary, source: str) -> None:
        self.vocabulary = vocabulary
        self._start = llguidance.LLMatcher(vocabulary.engine, source, log_level=0, limits=_LIMITS)
        if self._start.is_error():
            raise _compile_error(self._start.get_error())
        mask = np.zeros(vocabulary.num_words, np.uint32)
        matcher = self.matcher()
        if not matcher.is_complete:
            matcher.fill(mask)
        if not (mask.any() or matcher.is_complete):
            raise UnsupportedSchema("no text satisfies this constraint")

    def matcher(self) -> LLMatcher:
        return LLMatcher(self, self._start.deep_copy())


class LLMatcher:
    """`sgrt.grammar.matcher.Matcher` by llguidance."""

    __slots__ = ("_engine", "_grammar", "_mask", "_num_tokens")

    def __init__(self, grammar: LLGrammar, engine: Any, num_tokens: int = 0) -> None:
        self._grammar = grammar
        self._engine = engine
        self._num_tokens = num_tokens
        self._mask: NDArray[np.uint32] | None = None  # [W], of this place, where it is known

    @property
    def engine(self) -> Any:
        """The library's matcher, for `masks.fill_batch`."""
        return self._engine

    @property
    def vocabulary(self) -> Vocabulary:
        return self._grammar.vocabulary

    def fill(self, row: NDArray[np.uint32]) -> None:
        num_words = self._grammar.vocabulary.num_words
        if row.dtype != np.uint32 or len(row) < num_words or not row.flags.c_contiguous:
            raise ValueError(f"row is {row.dtype} {row.shape}, not contiguous [{num_words}] uint32")
        if self._mask is not None or self._engine.is_stopped():
            self._check()
            row[:] = 0
            if self._mask is not None:
                row[:num_words] = self._mask
            return
        row[num_words:] = 0
        self._engine.unsafe_compute_mask_ptr(row.ctypes.data, num_words * 4)
        self.finish_fill(row)

    def needs_engine(self, num_words: int) -> bool:
        """Whether the engine itself can write a row of so many words, and has to."""
        known = self._mask is not None or self._engine.is_stopped()
        return not known and num_words == self._grammar.vocabulary.num_words

    def finish_fill(self, row: NDArray[np.uint32]) -> None:
        """What is left to do after the engine wrote the row."""
        if self._engine.is_error() and self._engine.get_error().startswith("NoExtension"):
            row[:] = 0  # a dead end, not an overrun: no token leads on
            return
        self._check()
        self._grammar.vocabulary.clear_special_inplace(row)

    def _check(self) -> None:
        if self._engine.is_error():
            raise _step_error(self._engine.get_error())

    def allowed(self) -> Sequence[int] | None:
        return None

    def accept(self, token_ids: Sequence[int]) -> None:
        ids = list(token_ids)
        special = self._grammar.vocabulary.special_ids
        num_ok = next((i for i, t in enumerate(ids) if t in special), len(ids))
        num_taken = self._engine.try_consume_tokens(ids[:num_ok])
        if num_taken == len(ids):
            self._num_tokens += len(ids)
            self._mask = None
            return
        self._check()
        self._engine.rollback(num_taken)
        raise ConstraintError(
            f"token {ids[num_taken]} is not allowed after {num_taken} of {ids!r:.80}"
        )

    def rollback(self, num_tokens: int) -> None:
        if not 0 <= num_tokens <= self._num_tokens:
            raise ConstraintError(f"cannot undo {num_tokens} of {self._num_tokens} tokens")
        if num_tokens:
            self._engine.rollback(num_tokens)
            self._num_tokens -= num_tokens
            self._mask = None

    def forced(self) -> list[int]:
        text = self._engine.compute_ff_bytes()
        if not text:
            return []
        vocabulary = self._grammar.vocabulary
        return vocabulary.certain_tokens(text, is_end=self._ends_with(text))

    def _ends_with(self, text: bytes) -> bool:
        """Whether the constraint is final after this text."""
        ids = self._grammar.vocabulary.engine.greedy_tokenize(text.decode("utf-8", "replace"))
        num_taken = self._engine.try_consume_tokens(ids)
        is_end = num_taken == len(ids) and self._engine.is_stopped() and self._engine.is_accepting()
        self._engine.rollback(num_taken)
        return bool(is_end)

    @property
    def is_complete(self) -> bool:
        return bool(self._engine.is_accepting())

    @property
    def is_final(self) -> bool:
        if not self._engine.is_accepting():
            return False
        if self._engine.is_stopped():
            return True
        # The engine does not always notice that nothing can follow; the mask says.
        if self._mask is None:
            mask = np.empty(self._grammar.vocabulary.num_words, np.uint32)
            try:
                self.fill(mask)
            except GrammarBudgetExceeded:
                return False  # the next `fill` says it again
            self._mask = mask
        return not self._mask.any()

    def fork(self) -> LLMatcher:
        copy = LLMatcher(self._grammar, self._engine.deep_copy(), self._num_tokens)
        copy._mask = self._mask
        return copy


def _compile_error(message: str) -> ConstraintError:
    reason = message.split("\n", 1)[0][:200]
    if any(word in reason for word in _OUT_OF_BUDGET):
        return GrammarBudgetExceeded("engine steps to compile", _FUEL, _FUEL, hint=reason)
    if reason.startswith("Unsatisfiable schema"):
        return UnsupportedSchema(f"no value satisfies this schema: {reason[22:]}")
    return UnsupportedSchema(f"cannot be enforced: {reason}")


def _step_error(message: str) -> GrammarBudgetExceeded:
    reason = message.split("\n", 1)[0][:200]
    return GrammarBudgetExceeded("engine steps of one mask", _STEP_FUEL, _STEP_FUEL, hint=reason)
