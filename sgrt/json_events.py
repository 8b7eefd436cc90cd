"""JSON read while it is written: an event for each value that has ended, and all there is so far.

Everyone takes these names from `sgrt.core`.

Architecture invariant: this module imports nothing of sgrt but `errors`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from sgrt.errors import ConstraintError

Path = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\]*')
_NUMBER = re.compile(r"[-+.0-9eE]*")
_WORD = re.compile(r"[a-z]*")
_WORDS = ("true", "false", "null")
_LONGEST_NUMBER = 4_000  # characters; Python reads integers of up to 4,300 digits


@dataclass(frozen=True, slots=True)
class ValueEvent:
    """A value of a JSON text that has ended; nothing that follows can change it.

    Attributes:
        path: keys and indexes that lead to it from the root; () is the root itself.
        value: as `json.loads` gives it. Shared with later events and snapshots: read, not changed.
    """

    path: Path
    value: Any


class JsonReader:
    """Reads one JSON text piece by piece.

    ::

        reader = JsonReader()
        for piece in pieces:
            for event in reader.feed(piece):
                print(event.path, event.value)  # ("items", 0, "name") Ada
            show(reader.partial())

    Items and fields are told before the array or object that holds them. A string ends at its
    quote, a word at its last letter, a number where something else follows it, or at `close`.
    The text may be cut anywhere, inside of escapes too. What is read is what `json.loads` reads,
    but for NaN and infinities; of a key that is given twice the last value stays.

    Cost: linear in the text, however it is cut; events cost the length of their paths.
    """

    def __init__(self) -> None:
        self._open: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str] = []  # of the open objects
        self._state = "a value"
        self._token: list[str] = []  # of a string, number or word that has begun
        self._kind = ""
        self._is_escaped = False
        self._num_read = 0
        self._root: Any = None
        self._events: list[ValueEvent] = []

    @property
    def is_complete(self) -> bool:
        """Whether the root has ended."""
        return self._state == "the end"

    def feed(self, text: str) -> list[ValueEvent]:
        """Read on.

        Returns:
            What has ended in this piece, in the order of the text.

        Raises:
            ConstraintError: this is not JSON; says at which character of the whole text.
        """
        pos = 0
        while pos < len(text):
            pos = self._token_at(text, pos) if self._kind else self._mark_at(text, pos)
        self._num_read += len(text)
        events, self._events = self._events, []
        return events

    def close(self) -> list[ValueEvent]:
        """The text ended here, by itself: a number that stands alone is complete now.

        Not to be called for a text that was cut off: its last digits may be missing.

        Raises:
            ConstraintError: the text is not complete.
        """
        if self._kind == "number":
            self._end_token(0)
        if not self.is_complete:
            self._fail("the text ends too early", 0)
        events, self._events = self._events, []
        return events

    def partial(self, default: Any = None) -> Any:
        """All that has ended so far, in the objects and arrays that hold it; a snapshot.

        Args:
            default: what to return where nothing has begun that could hold anything.

        Cost: a copy of the objects and arrays that are still open; closed ones are shared.
        """
        if not self._open:
            return self._root if self.is_complete else default
        inner: Any = None
        keys = list(self._keys)
        for i, container in enumerate(reversed(self._open)):
            if isinstance(container, dict):
                key = keys.pop()
                copy: Any = {**container, key: inner} if i else dict(container)
            else:
                copy = [*container, inner] if i else list(container)
            inner = copy
        return inner

    # marks

    def _mark_at(self, text: str, pos: int) -> int:
        """Take the character after white space; the position behind it, or its own (a token)."""
        found = _SPACE.match(text, pos)
        pos = found.end() if found else pos
        if pos == len(text):
            return pos
        char = text[pos]
        action = _ACTIONS[self._state].get(char)
        if action is None and self._state in _VALUE_STATES:
            action = _TOKENS.get(char)
        if action is None:
            self._fail(f"expected {self._state}, found {char!r}", pos)
        if action in _KINDS:
            self._kind = action
            return pos + (action in ("string", "key"))
        if action == "open":
            self._begin(char)
        elif action == "close":
            self._end_container()
        else:
            self._state = action
        return pos + 1

    def _begin(self, char: str) -> None:
        if char == "{":
            self._open.append({})
            self._keys.append("")
            self._state = "a key or }"
        else:
            self._open.append([])
            self._state = "a value or ]"

    def _end_container(self) -> None:
        container = self._open.pop()
        if isinstance(container, dict):
            self._keys.pop()
        self._end_value(container)

    def _end_value(self, value: Any) -> None:
        """Put a value where it belongs and tell of it."""
        self._events.append(ValueEvent(self._path(), value))
        if not self._open:
            self._root, self._state = value, "the end"
            return
        container = self._open[-1]
        if isinstance(container, dict):
            container[self._keys[-1]] = value
            self._state = ", or }"
        else:
            container.append(value)
            self._state = ", or ]"

    def _path(self) -> Path:
        keys = iter(self._keys)
        return tuple(next(keys) if isinstance(c, dict) else len(c) for c in self._open)

    # tokens

    def _token_at(self, text: str, pos: int) -> int:
        if self._kind in ("string", "key"):
            return self._string_at(text, pos)
        pattern = _NUMBER if self._kind == "number" else _WORD
        found = pattern.match(text, pos)
        end = found.end() if found else pos
        self._token.append(text[pos:end])
        if self._kind == "word":
            self._check_word(end)
        elif end < len(text):
            self._end_token(end)
        return end

    def _check_word(self, end: int) -> None:
        word = "".join(self._token)
        if word in _WORDS:
            self._end_token(end)
        elif not any(known.startswith(word) for known in _WORDS):
            self._fail(f"{word!r:.40} is not JSON", end)

    def _string_at(self, text: str, pos: int) -> int:
        start = pos
        while pos < len(text):
            if self._is_escaped:
                self._is_escaped = False
                pos += 1
                continue
            found = _PLAIN.match(text, pos)
            pos = found.end() if found else pos
            if pos == len(text):
                break
            if text[pos] == '"':
                self._token.append(text[start:pos])
                self._end_token(pos)
                return pos + 1
            self._is_escaped = True
            pos += 1
        self._token.append(text[start:])
        return pos

    def _end_token(self, pos: int) -> None:
        kind, raw = self._kind, "".join(self._token)
        self._kind, self._token = "", []
        if kind == "number" and len(raw) > _LONGEST_NUMBER:
            self._fail(f"a number of {len(raw)} characters", pos)
        try:
            value = json.loads(f'"{raw}"' if kind in ("string", "key") else raw)
        except ValueError as error:
            self._fail(f"{raw!r:.40} is no JSON {kind}: {error}", pos)
        if kind == "key":
            self._keys[-1] = value
            self._state = ":"
        else:
            self._end_value(value)

    def _fail(self, reason: str, pos: int) -> NoReturn:
        raise ConstraintError(f"not JSON: {reason}, at character {self._num_read + pos}")


# What each state takes: a next state, a kind of token that begins, or the end of a container.
_ACTIONS: dict[str, dict[str, str]] = {
    "a value": {},
    "a value or ]": {"]": "close"},
    "a key or }": {'"': "key", "}": "close"},
    "a key": {'"': "key"},
    ":": {":": "a value"},
    ", or }": {",": "a key", "}": "close"},
    ", or ]": {",": "a value", "]": "close"},
    "the end": {},
}
_VALUE_STATES = ("a value", "a value or ]")
_TOKENS = {
    **dict.fromkeys("{[", "open"),
    **dict.fromkeys("-0123456789", "number"),
    **dict.fromkeys("tfn", "word"),
    '"': "string",
}
_KINDS = ("string", "key", "number", "word")
