"""Places in JSON texts: where two texts stand at one place, the same may follow.

Read off the schema that the engine is given, beside the engine: which object, behind which key,
how many items, how many characters. Parts of the schema that are not understood here (patterns,
alternatives, numbers, ...) are told apart by their whole text while they last; since JSON shows
where a value ends, what stood in it is forgotten then. So masks of one place can be shared by
rows and kept, though the rows' texts differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

_MAX_TEXT = 64
"""Bytes of a value not understood, beyond which its places are not told apart any more."""
_MAX_PLACES = 5_000
_WHITE = b" \t\n\r"
_OBJECT = frozenset(("type", "properties", "required", "additionalProperties"))
_ARRAY = frozenset(("type", "items", "prefixItems", "minItems", "maxItems"))
_STRING = frozenset(("type", "minLength", "maxLength"))
_ASIDE = frozenset(("$defs", "x-guidance"))
_OTHER_KEY = -2  # progress in an object once a key that it does not name was written


class _Mode(IntEnum):
    VALUE = 0  # a value begins
    OPAQUE = 1  # in a value that is not understood
    STRING = 2  # in a string of which characters count
    KEY = 3  # a key begins, or the object ends
    IN_KEY = 4
    COLON = 5
    AFTER = 6  # a value is complete


_Frames = tuple[tuple[int, int], ...]
_State = tuple[_Frames, _Mode, Any, Any]
"""(containers from the root on, each with its progress; mode; what the mode needs; white space
since the last mark, or text)"""


class Place:
    """Where texts stand that have the same future; compared by identity.

    Attributes:
        is_known: False where that is not known, and nothing is promised.
        forced, guess: what matchers answer here; None where nobody has asked yet.
    """

    __slots__ = ("after", "forced", "guess", "is_known", "state")

    def __init__(self, state: _State) -> None:
        self.state = state
        self.is_known = state[3] is not None
        self.after: dict[int, Place] = {}  # by token
        self.forced: tuple[int, ...] | None = None
        self.guess: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Node:
    """What is understood of a schema: a container or a string, or else nothing.

    Attributes:
        opening: byte that such a value begins with; -1 where nothing is understood.
        schema: as it is written.
        keys: of an object, with their order.
        limit: count beyond which items or characters are not counted.
    """

    opening: int = -1
    schema: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    limit: int = 0


class Places:
    """The places of one schema.

    Args:
        root: a schema as `json_schema.normalise` wrote it.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes: list[_Node] = []
        self._of_schema: dict[int, int] = {}
        self._start: _State = ((), _Mode.VALUE, self._node(self._root), b"")
        self._places: dict[_State, Place] = {}

    @staticmethod
    def of_source(source: str) -> Places | None:
        """The places of a grammar in the engine's text; None where it is no schema."""
        if not source.startswith("{"):
            return None
        schemas = [grammar.get("json_schema") for grammar in json.loads(source)["grammars"]]
        return Places(schemas[0]) if len(schemas) == 1 and schemas[0] is not None else None

    def start(self) -> Place:
        return self._place(self._start)

    def after(self, place: Place, token_id: int, token: bytes) -> Place:
        """The place after a token that the schema allows there.

        Cost: a look-up; where the token is new there some 0.5 µs a byte.
        """
        found = place.after.get(token_id)
        if found is None:
            found = place.after[token_id] = self._place(self._read_text(place.state, token))
        return found

    def _place(self, state: _State) -> Place:
        if len(self._places) > _MAX_PLACES:
            self._places.clear()  # those in use live on, and are no longer met again
        return self._places.setdefault(state, Place(state))

    def _read_text(self, state: _State, text: bytes) -> _State:
        frames, mode, held, begun = state
        if mode is _Mode.STRING and not begun and b'"' not in text and b"\\" not in text:
            try:
                num_chars = len(text.decode())
            except UnicodeDecodeError:
                pass
            else:
                node, count = held
                return frames, mode, (node, min(count + num_chars, self._nodes[node].limit)), b""
        for byte in text:
            state = self._step(state, byte)
        return state

    # the schema

    def _node(self, schema: Any) -> int:
        """The number of a schema's node, made where it is new; -1 for one not understood."""
        for _ in range(100):  # a chain of references
            if not isinstance(schema, dict):
                return -1
            if schema.keys() - _ASIDE != {"$ref"}:
                break
            ref = schema["$ref"]
            schema = self._root if ref == "#" else self._root["$defs"][ref[len("#/$defs/") :]]
        if id(schema) not in self._of_schema:
            node = _read(schema)
            self._of_schema[id(schema)] = len(self._nodes) if node.opening >= 0 else -1
            self._nodes.append(node)
        return self._of_schema[id(schema)]

    # one byte

    def _step(self, state: _State, byte: int) -> _State:
        frames, mode, held, text = state
        match mode:
            case _Mode.VALUE:
                if byte in _WHITE:
                    return frames, mode, held, text + bytes((byte,))
                if byte == ord("]"):  # of an array without items
                    return frames[:-1], _Mode.AFTER, None, b""
                return self._open(frames, held, byte)
            case _Mode.OPAQUE:
                return self._in_opaque(state, byte)
            case _Mode.STRING:
                return self._in_string(state, byte)
            case _Mode.KEY:
                if byte in _WHITE:
                    return frames, mode, None, text + bytes((byte,))
                if byte == ord("}"):
                    return frames[:-1], _Mode.AFTER, None, b""
                return frames, _Mode.IN_KEY, None, b'"'
            case _Mode.IN_KEY:
                text += bytes((byte,))
                if byte == ord('"') and not _is_escaped(text):
                    return self._behind_key(frames, json.loads(text))
                return frames, mode, None, text
            case _Mode.COLON:
                if byte == ord(":"):
                    return frames, _Mode.VALUE, held, b""
                return frames, mode, held, text + bytes((byte,))
        return self._behind_value(state, byte)

    def _open(self, frames: _Frames, held: int, byte: int) -> _State:
        """The first byte of a value of node ``held``."""
        node = self._nodes[held] if held >= 0 else None
        if node is None or byte != node.opening:
            is_open = byte in b'{["'
            lexer = (int(byte in b"{["), byte == ord('"'), False)
            return frames, _Mode.OPAQUE, lexer if is_open else (0, False, False), bytes((byte,))
        if byte == ord("{"):
            return (*frames, (held, -1)), _Mode.KEY, None, b""
        if byte == ord("["):
            return self._item((*frames, (held, 0)))
        return frames, _Mode.STRING, (held, 0), b""

    def _item(self, frames: _Frames) -> _State:
        """The next item of the last container begins."""
        number, count = frames[-1]
        schema = self._nodes[number].schema
        first = schema.get("prefixItems", ())
        held = self._node(first[count] if count < len(first) else schema.get("items", True))
        return frames, _Mode.VALUE, held, b""

    def _behind_key(self, frames: _Frames, key: str) -> _State:
        number, progress = frames[-1]
        node = self._nodes[number]
        if key in node.keys:
            progress = node.keys[key]
            schema = node.schema["properties"][key]
        else:
            progress, schema = _OTHER_KEY, node.schema.get("additionalProperties", True)
        return (*frames[:-1], (number, progress)), _Mode.COLON, self._node(schema), b""

    def _behind_value(self, state: _State, byte: int) -> _State:
        frames, mode, _, text = state
        if byte in b"}]":
            return frames[:-1], _Mode.AFTER, None, b""
        if byte != ord(",") or not frames:
            return frames, mode, None, text + bytes((byte,))
        number, progress = frames[-1]
        node = self._nodes[number]
        if node.opening == ord("{"):
            return frames, _Mode.KEY, None, b""
        return self._item((*frames[:-1], (number, min(progress + 1, node.limit))))

    def _in_string(self, state: _State, byte: int) -> _State:
        """``text`` is a character or escape not yet complete."""
        frames, mode, (held, count), text = state
        if byte == ord('"') and not text:
            return frames, _Mode.AFTER, None, b""
        text += bytes((byte,))
        if _is_character(text):
            return frames, mode, (held, min(count + 1, self._nodes[held].limit)), b""
        return frames, mode, (held, count), text

    def _in_opaque(self, state: _State, byte: int) -> _State:
        """``held`` is (containers open, whether in a string, whether behind a backslash)."""
        frames, mode, (depth, in_string, escaped), text = state
        if not (depth or in_string) and byte in b",]} \t\n\r":  # a number or word has ended
            return self._behind_value((frames, _Mode.AFTER, None, b""), byte)
        is_over = False
        if in_string:
            in_string = byte != ord('"') or escaped
            escaped = byte == ord("\\") and not escaped
            is_over = not in_string and not depth
        elif byte == ord('"'):
            in_string = True
        elif byte in b"{[":
            depth += 1
        elif byte in b"}]":
            depth -= 1
            is_over = depth == 0
        if is_over:
            return frames, _Mode.AFTER, None, b""
        if text is not None:
            text = text + bytes((byte,)) if len(text) < _MAX_TEXT else None
        return frames, mode, (depth, in_string, escaped), text


def _read(schema: dict[str, Any]) -> _Node:
    keywords = schema.keys() - _ASIDE
    match schema.get("type"):
        case "object" if keywords <= _OBJECT:
            properties = schema.get("properties", {})
            if set(schema.get("required", ())) <= properties.keys():
                return _Node(ord("{"), schema, {key: i for i, key in enumerate(properties)})
        case "array" if keywords <= _ARRAY:
            first = len(schema.get("prefixItems", ()))
            limit = max(schema.get("minItems", 0), schema.get("maxItems", 0), first) + 1
            return _Node(ord("["), schema, limit=limit)
        case "string" if keywords <= _STRING:
            limit = max(schema.get("minLength", 0), schema.get("maxLength", -1) + 1)
            return _Node(ord('"'), schema, limit=limit)
    return _Node()


def _is_escaped(text: bytes) -> bool:
    """Whether the last byte stands behind a backslash that means it."""
    rest = text[:-1]
    return (len(rest) - len(rest.rstrip(b"\\"))) % 2 == 1


def _is_character(text: bytes) -> bool:
    """Whether a character of a JSON string is complete."""
    if text[0] == ord("\\"):
        return len(text) == (6 if text[1:2] == b"u" else 2)
    lead = text[0]
    return len(text) >= (1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4)


def path_of(text: bytes) -> tuple[list[str | int], bool]:
    """Where the end of an unfinished JSON text stands: keys and indices from the root on, and
    whether a key of that place is next or being written.

    Args:
        text: JSON as far as it is written, nothing wrong in it.
    """
    path: list[str | int | None] = []  # of each open container: key, None before it, or index
    string: bytearray | None = None
    is_key = False
    for i in range(len(text)):
        byte = text[i : i + 1]
        if string is not None:
            string += byte
            if byte == b'"' and not _is_escaped(bytes(string)):
                if is_key:
                    path[-1] = json.loads(string)
                string = None
        elif byte == b'"':
            string = bytearray(byte)
            is_key = bool(path) and path[-1] is None
        elif byte in (b"{", b"["):
            path.append(None if byte == b"{" else 0)
        elif byte in (b"}", b"]"):
            path.pop()
        elif byte == b",":
            last = path[-1]
            path[-1] = last + 1 if isinstance(last, int) else None
    in_object = bool(path) and path[-1] is None
    return [part for part in path if part is not None], in_object


def where(text: bytes) -> str:
    """`path_of` for people: a JSON pointer."""
    path, in_object = path_of(text)
    pointer = "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in path)
    return f"{'in a key of' if in_object else 'in the value at'} {pointer or 'the root'}"
