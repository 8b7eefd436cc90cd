"""From what a user asked for to a grammar: audit, route to an engine, build, remember."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass

from sgrt.core import (
    Choices,
    Constraint,
    JsonSchema,
    Lark,
    OneOf,
    Regex,
    RepeatOf,
    SequenceOf,
    Substring,
)
from sgrt.errors import ConstraintError
from sgrt.grammar import compose, json_schema, lark_, regex
from sgrt.grammar.audit import audit_choices
from sgrt.grammar.engines import llguidance_
from sgrt.grammar.engines.llguidance_ import LLGrammar
from sgrt.grammar.engines.trie import TrieGrammar
from sgrt.grammar.matcher import Grammar
from sgrt.grammar.vocabulary import Vocabulary


@dataclass(slots=True)
class CompileStats:
    """What a compiler did: grammars built, answers from its cache, refusals, time building."""

    num_compiled: int = 0
    num_cached: int = 0
    num_refused: int = 0
    seconds: float = 0.0
    longest_seconds: float = 0.0


class GrammarCompiler:
    """Compiles constraints for one vocabulary; any number of threads may ask.

    Args:
        max_cached: grammars kept, the least recently used go first.
    """

    def __init__(self, vocabulary: Vocabulary, *, max_cached: int = 256) -> None:
        self.vocabulary = vocabulary
        self.stats = CompileStats()
        self._max_cached = max_cached
        self._lock = threading.Lock()
        self._cache: OrderedDict[Constraint, Future[Grammar]] = OrderedDict()

    def compile(self, constraint: Constraint) -> Grammar:
        """The grammar of a constraint, built once however many ask for it at the same time.

        Raises:
            UnsupportedSchema: a schema that cannot be enforced exactly, or allows nothing.
            GrammarSyntaxError: a regex or grammar that does not parse or has no single meaning.
            GrammarBudgetExceeded: larger than allowed.
            ConstraintError: choices that are empty or cannot be written.

        Cost: milliseconds; waits for another thread that is building the same one.
        """
        future, is_mine = self._reserve(constraint)
        if is_mine:
            self._fulfil(constraint, future)
        return future.result()

    def _reserve(self, constraint: Constraint) -> tuple[Future[Grammar], bool]:
        with self._lock:
            future = self._cache.get(constraint)
            if future is not None:
                self._cache.move_to_end(constraint)
                self.stats.num_cached += 1
                return future, False
            future = self._cache[constraint] = Future()
            while len(self._cache) > self._max_cached:
                self._cache.popitem(last=False)
            return future, True

    def _fulfil(self, constraint: Constraint, future: Future[Grammar]) -> None:
        start = time.perf_counter()
        try:
            grammar = build(constraint, self.vocabulary)
        except BaseException as error:
            with self._lock:
                self._cache.pop(constraint, None)
                self.stats.num_refused += 1
            future.set_exception(error)
            return
        seconds = time.perf_counter() - start
        with self._lock:
            self.stats.num_compiled += 1
            self.stats.seconds += seconds
            self.stats.longest_seconds = max(self.stats.longest_seconds, seconds)
        future.set_result(grammar)


def build(constraint: Constraint, vocabulary: Vocabulary) -> Grammar:
    """Audit one constraint and build it with the engine that enforces it exactly."""
    if isinstance(constraint, JsonSchema):
        normal = json_schema.normalise(constraint.schema)
        return LLGrammar(vocabulary, llguidance_.json_schema_source(normal))
    if isinstance(constraint, Regex):
        pattern = regex.rewrite(constraint.pattern, regex.PYTHON)
        return LLGrammar(vocabulary, llguidance_.regex_source(pattern))
    if isinstance(constraint, Choices):
        return TrieGrammar(vocabulary, audit_choices(constraint))
    if isinstance(constraint, Lark):
        return LLGrammar(vocabulary, lark_.rules_of(constraint.grammar).source())
    if isinstance(constraint, (SequenceOf, OneOf, RepeatOf, Substring)):
        return LLGrammar(vocabulary, compose.source(constraint))
    raise ConstraintError(f"{type(constraint).__name__} is not a constraint")
