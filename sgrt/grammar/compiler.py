"""From what a user asked for to a grammar: audit, route to an engine, build, remember."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from sgrt.core import Choices, Constraint, Regex
from sgrt.errors import ConstraintError, GrammarBudgetExceeded
from sgrt.grammar import blame, limits, regex
from sgrt.grammar.audit import audit_choices, audit_size
from sgrt.grammar.engines import tables
from sgrt.grammar.engines.llguidance_ import LLGrammar
from sgrt.grammar.engines.trie import TrieGrammar
from sgrt.grammar.matcher import Grammar
from sgrt.grammar.risk import risk
from sgrt.grammar.sources import source_of
from sgrt.grammar.store import Store
from sgrt.grammar.vocabulary import Vocabulary
from sgrt.grammar.worker import Budget, CompileProcess

log = logging.getLogger("sgrt.grammar")


_PATIENCE = 0.25
"""Seconds of CPU that this process spends on the audit of a constraint; more than nearly all take.
Where it takes longer, it starts again in a process that can be killed."""
_REFUSAL_SECONDS = 60.0
_GRAMMAR_BYTES = 64 * 1024
_BYTES_PER_BYTE = 64
"""Memory of a grammar nobody has used much, as measured: 75 kB for an object of 5 fields,
730 kB for one of 200 (11 kB of text), 340 kB for an enum of 1,000 values (10 kB of text)."""


@dataclass(slots=True)
class CompileStats:
    """What a compiler did: grammars built, answers from its cache, refusals (those of them that
    were too costly: ``num_over_budget``), constraints that went to a process of their own, those found in its directory instead, time building."""

    num_compiled: int = 0
    num_cached: int = 0
    num_refused: int = 0
    num_over_budget: int = 0
    num_proved: int = 0
    num_stored: int = 0
    seconds: float = 0.0
    longest_seconds: float = 0.0

    def count_refused(self, error: BaseException) -> None:
        """Count a constraint that was not compiled."""
        self.num_refused += 1
        self.num_over_budget += isinstance(error, GrammarBudgetExceeded)


@dataclass(slots=True)
class _Entry:
    """A grammar or a refusal, built or on its way."""

    future: Future[Grammar]
    num_bytes: int
    expires: float = math.inf  # on time.monotonic()
    is_ahead: bool = False  # built and not yet used


class GrammarCompiler:
    """Compiles constraints for one vocabulary; any number of threads may ask.

    What `risk.risk` calls risky, or takes the audit long, is built in a process that can be
    killed, so that no constraint can stop or end this process; what comes back is the engine's
    grammar text, whose cost is known then. Refusals are remembered for a minute.

    Args:
        max_cached: grammars kept, the least recently used go first.
        max_bytes: what they may take together, as estimated from the size of their text.
        budget: of one risky constraint.
        directory: where what risky constraints became is kept for the next process that asks
            (see `store`); None keeps nothing.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        max_cached: int = 256,
        max_bytes: int = 256 * 1024 * 1024,
        budget: Budget = Budget(),  # noqa: B008  (frozen)
        directory: Path | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.stats = CompileStats()
        self.process = CompileProcess(vocabulary, budget)
        self._store = None if directory is None else Store(directory, vocabulary.fingerprint)
        self._max_cached = max_cached
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._cache: OrderedDict[Constraint, _Entry] = OrderedDict()

    def compile(self, constraint: Constraint, *, ahead: bool = False) -> Grammar:
        """The grammar of a constraint, built once however many ask for it at the same time.

        Args:
            ahead: it is asked for so that it is there when it is used; that use then counts as
                the one that built it.

        Raises:
            UnsupportedSchema: a schema that cannot be enforced exactly, or allows nothing.
            GrammarSyntaxError: a regex that does not parse or has no single meaning.
            GrammarBudgetExceeded: larger than allowed, or too expensive to build.
            ConstraintError: choices that are empty or cannot be written; a constraint that
                crashes an engine; a risky one where no process can be started to try it.

        Cost: milliseconds; waits for another thread that is building the same one. The first
            risky constraint starts a process (some 0.5 s).
        """
        try:
            audit_size(constraint)
        except ConstraintError as error:
            with self._lock:
                self.stats.count_refused(error)
            raise
        future, is_mine = self._reserve(constraint, ahead)
        if is_mine:
            self._fulfil(constraint, future)
        return future.result()

    def close(self) -> None:
        """End the process that risky constraints are tried in. Another one starts if another
        such constraint comes. Idempotent."""
        self.process.close()

    def _reserve(self, constraint: Constraint, ahead: bool) -> tuple[Future[Grammar], bool]:
        with self._lock:
            entry = self._cache.get(constraint)
            if entry is not None and time.monotonic() < entry.expires:
                self._cache.move_to_end(constraint)
                if not ahead:
                    self.stats.num_cached += not entry.is_ahead
                    entry.is_ahead = False
                return entry.future, False
            self._forget(constraint)
            entry = _Entry(Future(), _estimated_bytes(constraint), is_ahead=ahead)
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
            grammar = self._build(constraint)
        except BaseException as error:
            self._refuse(constraint, future, error)
            return
        seconds = time.perf_counter() - start
        with self._lock:
            self.stats.num_compiled += 1
            self.stats.seconds += seconds
            self.stats.longest_seconds = max(self.stats.longest_seconds, seconds)
        future.set_result(grammar)

    def _build(self, constraint: Constraint) -> Grammar:
        if isinstance(constraint, (Choices, Regex)):
            return build(constraint, self.vocabulary)
        return LLGrammar(self.vocabulary, self._source(constraint), blame.of(constraint))

    def _source(self, constraint: Constraint) -> str:
        why = risk(constraint)
        if why is None:
            try:
                with limits.patience(_PATIENCE):
                    return source_of(constraint)
            except limits.OutOfPatience:
                why = f"more than {_PATIENCE} s"
        return self._proved_source(constraint, why)

    def _proved_source(self, constraint: Constraint, why: str) -> str:
        known = self._store.get(constraint) if self._store else None
        with self._lock:
            self.stats.num_proved += known is None
            self.stats.num_stored += known is not None
        if known is not None:
            return known
        log.debug("built in a process of its own: %s", why)
        source = self.process.prove(constraint)
        if self._store:
            self._store.put(constraint, source)
        return source

    def _refuse(
        self, constraint: Constraint, future: Future[Grammar], error: BaseException
    ) -> None:
        with self._lock:
            self.stats.count_refused(error)
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
    """Audit one constraint and build it here, whatever that costs."""
    if isinstance(constraint, Choices):
        return TrieGrammar(vocabulary, audit_choices(constraint))
    if isinstance(constraint, Regex):
        table = _try_table(constraint, vocabulary)
        if table is not None:
            return table
    return LLGrammar(vocabulary, source_of(constraint), blame.of(constraint))


def _try_table(constraint: Regex, vocabulary: Vocabulary) -> Grammar | None:
    pattern = regex.rewrite(constraint.pattern, regex.PYTHON)
    try:
        with limits.patience(_PATIENCE):
            return tables.try_build(vocabulary, pattern, blame.of(constraint))
    except limits.OutOfPatience:
        return None
