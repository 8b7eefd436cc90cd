"""JSON Schema and regex by llguidance: lexer and Earley parser, lazy, with fuel per step.

Architecture invariant: only schemas that `json_schema.normalise` and patterns that
`regex.rewrite` wrote come here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from functools import cache, cached_property
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from sgrt.errors import ConstraintError, GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import different
from sgrt.grammar.engines import bytewise, endings
from sgrt.grammar.engines.different import DifferentEngine
from sgrt.grammar.engines.places import Place, Places, where
from sgrt.grammar.layout import Layout
from sgrt.grammar.vocabulary import ANY_BYTE, Vocabulary, whole_characters

_FUEL = 1_000_000  # some 20 ms of building
_STEP_FUEL = 200_000  # some 15 ms of one mask
_LIMITS: Any = llguidance.LLParserLimits(
    initial_lexer_fuel=_FUEL,
    step_lexer_fuel=_STEP_FUEL,
    step_max_items=50_000,
    max_items_in_row=4_200,  # four for each property that may be left out
    max_lexer_states=50_000,  # 1-2 kB each
    max_grammar_size=500_000,
    verbose_errors=False,
)
_MAX_FORCED_BYTES = 4_096
_MAX_GUESSED_BYTES = 32
_OUT_OF_BUDGET = ("too large", "too complex", "fuel", "limit", "too many", "Unable to determine")


def _json_options(layout: Layout) -> dict[str, Any]:
    options: dict[str, Any] = {
        "whitespace_flexible": layout.white is not None,
        "item_separator": layout.item,
        "key_separator": layout.key,
        # Without "u" every string has one spelling, so no key can be written twice in two ways.
        "json_allowed_escapes": 'bfnrt\\"',
    }
    return options if layout.white is None else {**options, "whitespace_pattern": layout.white}


def json_schema_source(normal_schema: str, layout: Layout) -> str:
    """The engine's grammar text of a normal schema."""
    options: Any = _json_options(layout)
    return str(llguidance.LLMatcher.grammar_from_json_schema(normal_schema, overrides=options))


def regex_source(pattern: str) -> str:
    """The engine's grammar text of a rewritten pattern."""
    return str(llguidance.LLMatcher.grammar_from_regex(pattern))


def json_part(normal_schema: str, layout: Layout) -> str:
    """A normal schema as a symbol of a grammar text."""
    schema = json.loads(normal_schema)
    options = _json_options(layout)
    return "%json " + json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)


def _engine(vocabulary: Vocabulary, source: str) -> Any:
    """The library's matcher at the start of a text, held to different items where there are."""
    plain, schemas = different.split(source)

    def library(tokens: Vocabulary) -> Any:
        return llguidance.LLMatcher(tokens.engine, plain, log_level=0, limits=_LIMITS)

    engine = library(vocabulary)
    if schemas is None or engine.is_error():
        return engine

    @cache
    def byte_engine() -> Any:
        return library(bytewise.byte_vocabulary())

    return DifferentEngine(engine, schemas, vocabulary, lambda: byte_engine().deep_copy())


class LLGrammar:
    """A compiled grammar; hands out matchers as copies of one that stands at the start.

    Args:
        blame: says what forbids the last byte of a text.

    Raises:
        UnsupportedSchema: nothing satisfies it, or the engine does not know how to enforce it.
        GrammarBudgetExceeded: it needs more than the engine's limits.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        source: str,
        blame: Callable[[bytes], str | None] | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.blame = blame
        self._source = source
        self._start = _engine(vocabulary, source)
        if self._start.is_error():
            raise _compile_error(self._start.get_error())
        mask = np.zeros(vocabulary.num_words, np.uint32)
        matcher = self.matcher()
        if not matcher.is_complete:
            matcher.fill(mask)
        if not (mask.any() or matcher.is_complete):
            raise UnsupportedSchema("no text satisfies this constraint")

    @staticmethod
    def allows_bytes(source: str, text: bytes) -> bool:
        """Whether a text may begin like this."""
        engine = LLGrammar.reader(source)
        return not engine.is_error() and int(engine.validate_tokens(list(text))) == len(text)

    @staticmethod
    def reader(source: str) -> Any:
        """The engine's matcher over bytes, at the start of a text."""
        return _engine(bytewise.byte_vocabulary(), source)

    def matcher(self) -> LLMatcher:
        return LLMatcher(self, self._start.deep_copy())

    @cached_property
    def places(self) -> Places | None:
        """Tells which texts have the same future; None where nothing does."""
        return Places.of_source(self._source)

    @cached_property
    def bytewise(self) -> Any:
        """The same grammar over bytes, at the start of the text; copied, never moved."""
        return self.reader(self._source)

    @cached_property
    def endings(self) -> tuple[bytes, ...]:
        """Texts that the patterns of its strings accept."""
        return endings.of_source(self._source)

    @cached_property
    def start_completion(self) -> tuple[int, ...] | None:
        """A short text, in tokens."""
        return self.matcher().find_completion(thorough=True)


class LLMatcher:
    """`sgrt.grammar.matcher.Matcher` by llguidance."""

    __slots__ = (
        *("_byte_engine", "_engine", "_grammar", "_mask", "_num_fed", "_places", "_token_ids"),
    )

    def __init__(self, grammar: LLGrammar, engine: Any, token_ids: Sequence[int] = ()) -> None:
        self._grammar = grammar
        self._engine = engine
        self._token_ids = list(token_ids)
        self._byte_engine: Any = None  # has read the first `_num_fed` tokens
        self._num_fed = 0
        self._mask: NDArray[np.uint32] | None = None  # [W], of this place, where it is known
        self._places: list[Place] = []  # at the start and after each token, as far as asked

    @property
    def engine(self) -> Any:
        """The library's matcher, for `masks.fill_batch`."""
        return self._engine

    @property
    def place(self) -> Hashable | None:
        places, token_ids = self._places, self._token_ids
        if len(places) <= len(token_ids):
            known = self._grammar.places
            if known is None:
                return None
            tokens = self._grammar.vocabulary.tokens
            place = places[-1] if places else known.start()
            if not places:
                places.append(place)
            for token_id in token_ids[len(places) - 1 :]:
                place = place.after.get(token_id) or known.after(place, token_id, tokens[token_id])
                places.append(place)
        return places[-1] if places[-1].is_known else None

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

    def needs_engine(self) -> bool:
        """Whether the mask is the library's to write."""
        is_library = isinstance(self._engine, llguidance.LLMatcher)
        return is_library and self._mask is None and not self._engine.is_stopped()

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
            self._token_ids += ids
            self._mask = None
            return
        self._check()
        self._engine.rollback(num_taken)
        raise ConstraintError(
            f"token {ids[num_taken]} is not allowed after {num_taken} of {ids!r:.80}"
        )

    def rollback(self, num_tokens: int) -> None:
        if not 0 <= num_tokens <= len(self._token_ids):
            raise ConstraintError(f"cannot undo {num_tokens} of {len(self._token_ids)} tokens")
        if num_tokens:
            self._engine.rollback(num_tokens)
            del self._token_ids[-num_tokens:]
            del self._places[len(self._token_ids) + 1 :]
            if len(self._token_ids) < self._num_fed:
                self._byte_engine = None
            self._mask = None

    def forced(self) -> list[int]:
        text = self._engine.compute_ff_bytes()
        if not text:
            return []
        place = self.place
        if not isinstance(place, Place):
            return self._certain(text)
        if place.forced is None:
            place.forced = tuple(self._certain(text))
        return list(place.forced)

    def _certain(self, text: bytes) -> list[int]:
        vocabulary = self._grammar.vocabulary
        if len(text) > _MAX_FORCED_BYTES:  # the rest is forced when these are taken
            return vocabulary.certain_tokens(text[:_MAX_FORCED_BYTES])
        return vocabulary.certain_tokens(text, self._bytes_after(text))

    def guess(self) -> list[int]:
        text = self._engine.compute_ff_bytes()
        if not 0 < len(text) <= _MAX_GUESSED_BYTES:
            return []
        place = self.place
        if not isinstance(place, Place):
            return self._grammar.vocabulary.likely_tokens(text, self._bytes_after(text))
        if place.guess is None:
            likely = self._grammar.vocabulary.likely_tokens(text, self._bytes_after(text))
            place.guess = tuple(likely)
        return list(place.guess)

    def _bytes_after(self, text: bytes) -> bytes:
        """Bytes that may follow after this text, b"" where the constraint is final then."""
        vocabulary = self._grammar.vocabulary
        ids = vocabulary.engine.greedy_tokenize(whole_characters(text).decode())
        engine = self._engine.deep_copy()
        if engine.try_consume_tokens(ids) < len(ids):
            return ANY_BYTE
        if engine.is_stopped():
            return b"" if engine.is_accepting() else ANY_BYTE
        if engine.compute_ff_bytes():  # the mask is that of one text
            return ANY_BYTE
        mask = np.empty(vocabulary.num_words, np.uint32)
        engine.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        return (b"" if engine.is_error() else vocabulary.next_bytes(mask)) or ANY_BYTE

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
        copy = LLMatcher(self._grammar, self._engine.deep_copy(), self._token_ids)
        copy._mask = self._mask
        copy._places = self._places.copy()
        return copy

    def completes(self, token_ids: Sequence[int]) -> bool:
        if not token_ids or self._engine.is_stopped():
            return not token_ids and self.is_complete
        # The engine takes an end of text exactly where the text is complete.
        ids = [*token_ids, self._grammar.vocabulary.eos_id]
        if not self._grammar.vocabulary.special_ids.isdisjoint(token_ids):
            return False
        return int(self._engine.validate_tokens(ids)) == len(ids)

    def shortest_completion(self, *, thorough: bool = True) -> list[int] | None:
        if self.is_complete:
            return []
        if self._token_ids:
            found = self.find_completion(thorough=thorough)
        else:
            found = self._grammar.start_completion
        return None if found is None else list(found)

    def find_completion(self, *, thorough: bool) -> tuple[int, ...] | None:
        """The fewest tokens among the texts that a search over bytes finds."""
        engine = self._bytewise()
        best: list[int] | None = None
        texts = []
        if engine is not None:
            texts = bytewise.completions(
                engine, thorough=thorough, endings=lambda: self._grammar.endings
            )
        for text in texts:
            ids = bytewise.spell(self._grammar.vocabulary, text)
            if ids is not None and self.completes(ids) and not (best and len(best) <= len(ids)):
                best = ids
        return None if best is None else tuple(best)

    def _bytewise(self) -> Any | None:
        """The grammar over bytes, where this text stands; None where it has no such place."""
        if self._byte_engine is None:
            self._byte_engine, self._num_fed = self._grammar.bytewise.deep_copy(), 0
        text = list(self._grammar.vocabulary.bytes_of(self._token_ids[self._num_fed :]))
        self._num_fed = len(self._token_ids)
        engine = self._byte_engine
        if engine.is_error() or engine.try_consume_tokens(text) < len(text):
            self._byte_engine = None
        return self._byte_engine

    def explain(self, token_id: int) -> str | None:
        vocabulary = self._grammar.vocabulary
        no_text = bytewise.why_no_text(vocabulary, token_id, can_end=self.is_complete)
        if no_text:
            return no_text
        if not self._engine.is_stopped() and self._engine.validate_tokens([token_id]) == 1:
            return None
        engine = self._bytewise()
        if engine is None:
            return "the constraint does not allow it here"
        engine, token = engine.deep_copy(), vocabulary.tokens[token_id]
        num_ok = 0 if engine.is_stopped() else int(engine.validate_tokens(list(token)))
        engine.try_consume_tokens(list(token[:num_ok]))
        allowed = bytewise.allowed_bytes(engine)
        why = bytewise.why_not(token, num_ok, allowed, engine.is_accepting())
        text = vocabulary.bytes_of(self._token_ids) + token[:num_ok]
        blame = self._grammar.blame if allowed else None
        blamed = blame(text + token[num_ok : num_ok + 1]) if blame else None
        return f"{self._where(text)}: {why}" + (f"; {blamed}" if blamed else "")

    def _where(self, text: bytes) -> str:
        if self._grammar.places is not None:
            return where(text)
        last = text.decode("utf-8", "replace").splitlines(keepends=True)[-1:] or [""]
        line = text.count(b"\n") + 1
        return f"line {line}, column {len(last[0]) + 1 if not last[0].endswith(chr(10)) else 1}"


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
