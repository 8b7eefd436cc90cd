"""From what a user asked for to a grammar: audit, route to an engine, build, remember."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass

from sgrt.core import (
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    Lark,
    OneOf,
    Regex,
    RepeatOf,
    SequenceOf,
    StructuralTag,
    Substring,
)
from sgrt.errors import ConstraintError
from sgrt.grammar import compose, ebnf, json_schema, lark_, layout, regex, structural
from sgrt.grammar.audit import audit_choices
from sgrt.grammar.engines import llguidance_, tables
from sgrt.grammar.engines.llguidance_ import LLGrammar
from sgrt.grammar.engines.trie import TrieGrammar
from sgrt.grammar.matcher import Grammar
from sgrt.grammar.risk import risk
from sgrt.grammar.vocabulary import Vocabulary
from sgrt.grammar.worker import Budget, CompileProcess

log = logging.getLogger("sgrt.grammar")


_REFUSAL_SECONDS = 60.0
_GRAMMAR_BYTES = 64 * 1024
_BYTES_PER_BYTE = 64
"""Memory of a grammar nobody has used much, as measured: 75 kB for an object of 5 fields,
730 kB for one of 200 (11 kB of text), 340 kB for an enum of 1,000 values (10 kB of text)."""


@dataclass(slots=True)
class CompileStats:
    """What a compiler did: grammars built, answers from its cache, refusals, constraints tried
    in a process of their own first, time building."""

    num_compiled: int = 0
    num_cached: int = 0
    num_refused: int = 0
    num_proved: int = 0
    seconds: float = 0.0
    longest_seconds: float = 0.0


@dataclass(slots=True)
class _Entry:
    """A grammar or a refusal, built or on its way."""

    future: Future[Grammar]
    num_bytes: int
    expires: float = math.inf  # on time.monotonic()


class GrammarCompiler:
    """Compiles constraints for one vocabulary; any number of threads may ask.

    What `risk.risk` calls risky is built in a process that can be killed before it is built here,
    so that no constraint can stop or end this process. Refusals are remembered for a minute.

    Args:
        max_cached: grammars kept, the least recently used go first.
        max_bytes: what they may take together, as estimated from the size of their text.
        budget: of one risky constraint.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        max_cached: int = 256,
        max_bytes: int = 256 * 1024 * 1024,
        budget: Budget = Budget(),  # noqa: B008  (frozen)
    ) -> None:
        self.vocabulary = vocabulary
        self.stats = CompileStats()
        self.process = CompileProcess(vocabulary, budget)
        self._max_cached = max_cached
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._cache: OrderedDict[Constraint, _Entry] = OrderedDict()

    def compile(self, constraint: Constraint) -> Grammar:
        """The grammar of a constraint, built once however many ask for it at the same time.

        Raises:
            UnsupportedSchema: a schema that cannot be enforced exactly, or allows nothing.
            GrammarSyntaxError: a regex that does not parse or has no single meaning.
            GrammarBudgetExceeded: larger than allowed, or too expensive to build.
            ConstraintError: choices that are empty or cannot be written; a constraint that
                crashes an engine; a risky one where no process can be started to try it.

        Cost: milliseconds; waits for another thread that is building the same one. A risky
            constraint is built twice, and the first one starts a process (some 0.5 s).
        """
        future, is_mine = self._reserve(constraint)
        if is_mine:
            self._fulfil(constraint, future)
        return future.result()

    def close(self) -> None:
        """End the process that risky constraints are tried in. Another one starts if another
        such constraint comes. Idempotent."""
        self.process.close()

    def _reserve(self, constraint: Constraint) -> tuple[Future[Grammar], bool]:
        with self._lock:
            entry = self._cache.get(constraint)
            if entry is not None and time.monotonic() < entry.expires:
                self._cache.move_to_end(constraint)
                self.stats.num_cached += 1
                return entry.future, False
            self._forget(constraint)
            entry = _Entry(Future(), _estimated_bytes(constraint))
            self._cache[constraint] = entry
            self._num_bytes += entry.num_bytes
            while len(self._cache) > 1 and self._is_full():
                self._forget(next(iter(self._cache)))
            return entry.future, True

    def _is_full(self) -> bool:
        return len(self._cache) > self._max_cached or self._num_bytes > self._max_bytes

    def _forget(self, constraint: Constraint) -> None:
        entry = self._cache.pop(constraint, None)
        self._num_bytes -= 0 if entry is None else entry.num_bytes

    def _fulfil(self, constraint: Constraint, future: Future[Grammar]) -> None:
        start = time.perf_counter()
        try:
            self._prove(constraint)
            grammar = build(constraint, self.vocabulary)
        except BaseException as error:
            self._refuse(constraint, future, error)
            return
        seconds = time.perf_counter() - start
        with self._lock:
            self.stats.num_compiled += 1
            self.stats.seconds += seconds
            self.stats.longest_seconds = max(self.stats.longest_seconds, seconds)
        future.set_result(grammar)

    def _prove(self, constraint: Constraint) -> None:
        why = risk(constraint)
        if why is not None:
            log.debug("tried in a process of its own first: %s", why)
            with self._lock:
                self.stats.num_proved += 1
            self.process.prove(constraint)

    def _refuse(
        self, constraint: Constraint, future: Future[Grammar], error: BaseException
    ) -> None:
        with self._lock:
            self.stats.num_refused += 1
            entry = self._cache.get(constraint)
            if entry is not None and entry.future is future:
                if isinstance(error, ConstraintError):
                    entry.expires = time.monotonic() + _REFUSAL_SECONDS
                else:
                    self._forget(constraint)
        future.set_exception(error)


def _estimated_bytes(constraint: Constraint) -> int:
    return _GRAMMAR_BYTES + _BYTES_PER_BYTE * len(repr(constraint))


def build(constraint: Constraint, vocabulary: Vocabulary) -> Grammar:
    """Audit one constraint and build it with the engine that enforces it exactly."""
    if isinstance(constraint, JsonSchema):
        normal = json_schema.normalise(constraint.schema)
        return LLGrammar(vocabulary, llguidance_.json_schema_source(normal, layout.of(constraint)))
    if isinstance(constraint, Regex):
        pattern = regex.rewrite(constraint.pattern, regex.PYTHON)
        table = tables.try_build(vocabulary, pattern)
        return table or LLGrammar(vocabulary, llguidance_.regex_source(pattern))
    if isinstance(constraint, Choices):
        return TrieGrammar(vocabulary, audit_choices(constraint))
    if isinstance(constraint, Lark):
        return LLGrammar(vocabulary, lark_.rules_of(constraint.grammar).source())
    if isinstance(constraint, Ebnf):
        return LLGrammar(vocabulary, ebnf.rules_of(constraint).source())
    if isinstance(constraint, StructuralTag):
        return LLGrammar(vocabulary, structural.rules_of(constraint).source())
    if isinstance(constraint, (SequenceOf, OneOf, RepeatOf, Substring)):
        return LLGrammar(vocabulary, compose.source(constraint))
    raise ConstraintError(f"{type(constraint).__name__} is not a constraint")
