"""Tokens to text, as far as it can be shown."""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sgrt.grammar.stopping import StopPattern, Watch


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string or a match of a stop pattern that appeared.

    Args:
        stop: the string or pattern.
        num_tokens: tokens that end at or before its first byte.
        rest: text between those tokens and it.
    """

    stop: str
    num_tokens: int
    rest: str


class Detokenizer:
    """Text of one generation, released as soon as nothing later can change it.

    Held back are the bytes of an unfinished UTF-8 character and any tail that may be the
    beginning of a stop string, or of a match of a stop pattern. Bytes that are no UTF-8 become U+FFFD exactly as
    ``bytes.decode("utf-8", "replace")`` makes them, however the bytes are split into tokens.

    Args:
        token_bytes: bytes that a token adds to the text.
        stops: stop strings.
        patterns: stop patterns.
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        stops: Sequence[str] = (),
        patterns: Sequence[StopPattern] = (),
    ) -> None:
        self._token_bytes = token_bytes
        self._stops = [(s, s.encode()) for s in stops]
        self._longest = max((len(b) for _, b in self._stops), default=0)
        self._watch = Watch(patterns) if patterns else None
        self._bytes = bytearray()
        self._token_ends: list[int] = []
        self._num_shown = 0  # bytes given to the decoder
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._shown: list[str] = []
        self.match: StopMatch | None = None

    @property
    def text(self) -> str:
        """All text released so far."""
        return "".join(self._shown)

    def push(self, token_ids: Iterable[int]) -> str:
        """Add tokens; `match` is set where a stop string is complete.

        Returns:
            The text released by them.
        """
        start = len(self._bytes)
        for token_id in token_ids:
            self._bytes += self._token_bytes(token_id)
            self._token_ends.append(len(self._bytes))
        if not self._stops and self._watch is None:
            return self._release(len(self._bytes))
        at, stop = self._find_stop(max(0, start - self._longest + 1))
        if self._watch is not None:
            self._watch.read(bytes(self._bytes[start:]))
            if self._watch.match is not None and (stop is None or self._watch.match[0] < at):
                at, stop = self._watch.match
        if stop is None:
            return self._release(self._decided())
        delta = self._release(at, final=True)
        self.match = StopMatch(stop, *self._tokens_before(at))
        return delta

    def finish(self) -> str:
        """Release what was held back: nothing more will come."""
        return "" if self.match else self._release(len(self._bytes), final=True)

    def _release(self, end: int, *, final: bool = False) -> str:
        delta = self._decoder.decode(bytes(self._bytes[self._num_shown : end]), final)
        self._num_shown = max(end, self._num_shown)
        if delta:
            self._shown.append(delta)
        return delta

    def _find_stop(self, start: int) -> tuple[int, str | None]:
        """Earliest stop string at or after ``start``; the longest of those at one place."""
        found = [
            (at, -len(encoded), stop)
            for stop, encoded in self._stops
            if (at := self._bytes.find(encoded, start)) >= 0
        ]
        if not found:
            return -1, None
        at, _, stop = min(found)
        return at, stop

    def _decided(self) -> int:
        """Bytes that nothing later can make part of a stop."""
        decided = len(self._bytes) - self._num_undecided()
        return decided if self._watch is None else min(decided, self._watch.undecided_from)

    def _num_undecided(self) -> int:
        """Length of the longest tail that begins some stop string."""
        longest = min(self._longest - 1, len(self._bytes) - self._num_shown)
        tail = bytes(self._bytes[len(self._bytes) - longest :]) if longest > 0 else b""
        for offset in range(len(tail)):
            if any(encoded.startswith(tail[offset:]) for _, encoded in self._stops):
                return len(tail) - offset
        return 0

    def _tokens_before(self, at: int) -> tuple[int, str]:
        """Tokens that end by byte ``at``, on a character boundary, and the text after them."""
        num = bisect_right(self._token_ends, at)
        while True:
            begin = self._token_ends[num - 1] if num else 0
            try:
                return num, self._bytes[begin:at].decode()
            except UnicodeDecodeError:
                if num == 0:
                    return 0, self._bytes[:at].decode("utf-8", "replace")
                num -= 1
