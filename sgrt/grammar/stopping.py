"""Patterns that end a text where a match of one is complete, found character by character.

A text ends at the first character with which some part of it, beginning anywhere, matches a
pattern as a whole; of several such parts the longest counts. That depends on the text alone, not
on the tokens it is made of. Shown is only what no match can begin in any more.
"""

from __future__ import annotations

import bisect
import codecs
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sgrt.errors import ConstraintError, InvalidSamplingParams
from sgrt.grammar import automaton, limits, regex

_ANCHOR = re.compile(r"(?P<anchor>\^|\\A)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


@dataclass(frozen=True, eq=False)
class StopPattern:
    """A compiled pattern.

    Attributes:
        source: as it was written.
        live: states from which a match can still be completed.
    """

    source: str
    machine: automaton.Automaton
    live: frozenset[int]


@functools.lru_cache(maxsize=256)
def compile(source: str) -> StopPattern:
    """A pattern, in Python's syntax as `sgrt.grammar.regex` reads it.

    ``$`` at its end says nothing: a match is complete where the text has come to.

    Raises:
        InvalidSamplingParams: it does not parse, begins with ``^``, can be empty, or is too large.
    """
    if len(source) > limits.MAX_STOP_CHARS:
        raise _invalid(source, f"must have at most {limits.MAX_STOP_CHARS} characters")
    if any(found["anchor"] for found in _ANCHOR.finditer(source)):
        raise _invalid(source, "cannot hold '^': a match may begin anywhere")
    try:
        pattern = regex.rewrite(source, regex.TERMINAL)
        machine = automaton.compile(pattern, limits.MAX_STOP_STATES)
    except ConstraintError as error:
        raise _invalid(source, str(error)) from error
    if machine.is_empty() or machine.accepting[0]:
        raise _invalid(source, "must match something, and never the empty text")
    return StopPattern(source, machine, frozenset(automaton.live_states(machine)))


def _invalid(source: str, rule: str) -> InvalidSamplingParams:
    return InvalidSamplingParams("stop_regex", source[:200], rule)


class Watch:
    """Reads a text's bytes as they come.

    Attributes:
        match: where a match begins, and its pattern; None until one is complete.
    """

    def __init__(self, patterns: Sequence[StopPattern]) -> None:
        self._patterns = patterns
        self._begun: list[dict[int, int]] = [{} for _ in patterns]  # state: earliest beginning
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_read = 0
        self._char_at = 0  # offset of the character that is being read
        self.match: tuple[int, str] | None = None

    def read(self, data: bytes) -> None:
        """Go on to the end of ``data``, or to the first match."""
        for value in data:
            if self.match is not None:
                return
            chars = self._decoder.decode(bytes((value,)))
            self._num_read += 1
            for i, char in enumerate(chars):
                if i:  # behind bytes that were no character
                    self._char_at = self._num_read - 1
                self._step(ord(char))
            if chars:
                self._char_at = self._num_read - len(self._decoder.getstate()[0])

    @property
    def undecided_from(self) -> int:
        """Offset from which on the text may still belong to a match."""
        return min((at for begun in self._begun for at in begun.values()), default=self._char_at)

    def _step(self, code_point: int) -> None:
        found: list[tuple[int, str]] = []
        for i, pattern in enumerate(self._patterns):
            machine = pattern.machine
            name = machine.classes[bisect.bisect_right(machine.starts, code_point) - 1]
            begun = self._begun[i]
            begun.setdefault(0, self._char_at)
            after: dict[int, int] = {}
            for state, at in begun.items():
                target = machine.table[state][name]
                if target in pattern.live:
                    after[target] = min(at, after.get(target, at))
            self._begun[i] = after
            found += [(at, pattern.source) for s, at in after.items() if machine.accepting[s]]
        if found:
            self.match = min(found)
