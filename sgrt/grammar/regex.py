r"""Regular expressions: parsed here, rewritten for the engine, refused where readers disagree.

Two dialects, one parser:

- `PYTHON`, for `core.Regex` (and `TERMINAL`, for what stands in a longer text): exactly what
  ``re.fullmatch(pattern, text, re.ASCII)`` accepts, so ``\d \w \s`` and the letters of ``(?i)`` are
  ASCII and ``.`` is any character but ``\n``.
- `JSON_PATTERN`, for the schema keywords ``pattern`` and ``patternProperties``: a search. JSON
  Schema means ECMA-262 and Python validators mean `re`; where the two disagree (``\d``, ``\w``,
  ``\s``, ``.``, ``$``) only what both accept is generated, a subset that every reader calls valid.

``\p{...}`` (ECMA-262; `re` has none) is what every version of Unicode since 10 agrees about.

What `re` refuses and other readers agree about is read as they do: ``(?<name>…)``, ``\x{…}``,
``\u{…}``, ``\cA`` (the last three not in a schema, where ECMA-262 without its flag ``u`` reads them
otherwise).

A look-ahead that is not repeated without end is worked out: what is left of the text has to match
(or not) what it asks for, which is a regular language again.

Refused, with the column: any other look-around (in a `TERMINAL` all of it), back-references, word
boundaries, atomic groups and possessive repeats, flags (but ``a``, ``s`` and ``i`` at the start of a
Python pattern or of a group, ``(?i:…)``), anchors that are not at the edge of an alternative. Lazy repeats are read
as plain ones, which describe the same texts.

The parser keeps its own stack, so no input can exhaust Python's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import NoReturn

from sgrt.errors import GrammarSyntaxError
from sgrt.grammar import automaton, charset, limits, unparse
from sgrt.grammar.charset import Charset
from sgrt.grammar.engines import characters

ANYTHING = "(?s:.)*"

_DIGITS: Charset = ((0x30, 0x39),)
_WORD = charset.union(_DIGITS, ((0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)))
_SPACE = charset.of(" \t\n\r\f\v")
_ECMA_SPACE = charset.union(
    _SPACE, charset.of("\u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"), ((0x2000, 0x200A),)
)
_CONTROL_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, eq=False)
class Dialect:
    """How one family of readers understands a pattern.

    Args:
        search: whether the pattern may match anywhere in the text.
        python: whether Python-only syntax is meant.
        dot: what ``.`` surely matches.
        wide: whether what some reader matches is meant, instead of what every reader does.
        is_whole: whether the text ends where the pattern does, so that a look-ahead sees no more.
    """

    name: str
    search: bool
    python: bool
    dot: Charset
    wide: bool = False
    is_whole: bool = True

    def escape_class(self, letter: str) -> tuple[Charset, Charset]:
        r"""What every reader, and what some reader, counts into ``\d``, ``\w`` or ``\s``."""
        sure = {"d": _DIGITS, "w": _WORD, "s": _SPACE}[letter]
        if self.python:
            return sure, sure
        maybe = charset.union(sure, charset.python_class("\\" + letter))
        if letter == "s":
            maybe = charset.union(maybe, _ECMA_SPACE)
        return (maybe, sure) if self.wide else (sure, maybe)


PYTHON = Dialect("Python", search=False, python=True, dot=charset.complement(charset.of("\n")))
JSON_PATTERN = Dialect(
    "JSON Schema", search=True, python=False, dot=charset.complement(charset.of("\n\r\u2028\u2029"))
)
JSON_PATTERN_WIDEST = Dialect("JSON Schema", search=True, python=False, dot=PYTHON.dot, wide=True)
TERMINAL = replace(PYTHON, is_whole=False)
"""Python's for a part of a longer text."""
_NEWLINE = r"(?:\x{A})?"  # Python's "$" also matches before a last one
_LOOK_AHEAD = ("(?=", "(?!")


@dataclass(slots=True)
class _Branch:
    """One alternative: its parts so far, whether it is tied to the edges of the text.

    Attributes:
        tight: its last part where all of that ends with the text, if that is another one.
    """

    parts: list[str] = field(default_factory=list)
    tight: str | None = None
    size: int = 0
    last_size: int = 0
    repeatable: bool = False
    at_start: bool = False
    at_end: bool = False


@dataclass(slots=True)
class _Group:
    opened_at: int
    dialect: Dialect  # of what surrounds it
    flags: tuple[Charset, bool]  # of what surrounds it: what '.' is, whether letters have no case
    look: str = ""  # how it begins where it is a look-ahead
    branches: list[_Branch] = field(default_factory=lambda: [_Branch()])

    @property
    def branch(self) -> _Branch:
        return self.branches[-1]


def rewrite(pattern: str, dialect: Dialect) -> str:
    """The pattern in the engine's syntax, matching the whole text.

    Args:
        pattern: as the user wrote it.

    Raises:
        GrammarSyntaxError: it does not parse, or means different things to different readers.
        GrammarBudgetExceeded: too long, too deep, or too large with repeats written out.
    """
    size = len(pattern.encode("utf-8", "surrogatepass"))
    limits.check_limit("bytes of regex", size, limits.MAX_REGEX_BYTES)
    return _Parser(pattern, dialect).parse()


def symbols(pattern: str) -> list[tuple[int, int]]:
    """Start and end of each character, class and escape of a pattern that `rewrite` takes as one
    of Python's; in the order in which they stand in what it writes. None where it looks ahead: that
    is written anew."""
    parser = _Parser(pattern, PYTHON)
    parser.parse()
    return [] if parser.looks_ahead else parser.symbols


class _Parser:
    def __init__(self, pattern: str, dialect: Dialect) -> None:
        self.pattern = pattern
        self.dialect = dialect
        self.pos = 0
        self.dot = dialect.dot
        self.any_case = False
        self.stack = [_Group(-1, dialect, (dialect.dot, False))]
        self.start = 0  # of what is being read
        self.symbols: list[tuple[int, int]] = []
        self.names: set[str] = set()
        self.looks_ahead = False

    def parse(self) -> str:
        self._leading_flags()
        while self.pos < len(self.pattern):
            self.start = self.pos
            char = self._take()
            handler = _HANDLERS.get(char)
            if handler is None:
                self._add(self._literal(ord(char)))
            else:
                handler(self)
        if len(self.stack) > 1:
            self._fail("group is never closed", at=self.stack[-1].opened_at)
        text = self._join(
            self.stack.pop(), pad_start=self.dialect.search, pad_end=self.dialect.search
        )
        if self.dialect.wide and "$" in self.pattern:
            text += _NEWLINE
        if self.looks_ahead:
            return unparse.to_pattern(automaton.compile(text))
        return text

    # characters

    def _take(self) -> str:
        char = self.pattern[self.pos]
        self.pos += 1
        return char

    def _peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.pos)

    def _skip(self, text: str) -> bool:
        found = self._peek(text)
        if found:
            self.pos += len(text)
        return found

    def _fail(self, reason: str, *, at: int | None = None, hint: str | None = None) -> NoReturn:
        at = self.pos - 1 if at is None else at
        before = self.pattern[: max(at, 0)]
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        raise GrammarSyntaxError(f"regex: {reason}", line=line, column=column, hint=hint)

    def _literal(self, code_point: int) -> str:
        if charset.SURROGATES[0] <= code_point <= charset.SURROGATES[1]:
            self._fail(f"U+{code_point:04X} is half a surrogate pair, not a character")
        if self.any_case and code_point < 0x80:
            return charset.to_regex(charset.any_case(((code_point, code_point),)))
        return charset.literal(code_point)

    # sequence

    def _add(self, text: str) -> None:
        """One character, class or escape."""
        self.symbols.append((self.start, self.pos))
        self._add_part(text, 1)

    def _add_part(self, text: str, size: int, *, repeatable: bool = True) -> None:
        branch = self.stack[-1].branch
        if branch.at_end:
            self._fail("nothing can follow '$' here")
        branch.parts.append(text)
        branch.tight = None
        branch.repeatable = repeatable
        self._grow(branch, size)

    def _grow(self, branch: _Branch, size: int) -> None:
        branch.size += size
        branch.last_size = size
        limits.check_limit(
            "characters of regex with repeats written out", branch.size, limits.MAX_REGEX_SIZE
        )

    def _dot(self) -> None:
        self._add(charset.to_regex(self.dot))

    def _alternative(self) -> None:
        self.stack[-1].branches.append(_Branch())

    def _start_anchor(self) -> None:
        branch = self.stack[-1].branch
        if not all(part.startswith(_LOOK_AHEAD) for part in branch.parts):
            self._fail("'^' is only supported at the start of an alternative")
        branch.at_start = True

    def _end_anchor(self) -> None:
        branch = self.stack[-1].branch
        if branch.tight is not None:
            branch.parts[-1] = branch.tight
        branch.at_end = True
        branch.repeatable = False

    # groups

    def _open(self) -> None:
        group = _Group(self.pos - 1, self.dialect, (self.dot, self.any_case))
        if self.dialect.is_whole and (self._peek("?=") or self._peek("?!")):
            group.look = "(?" + self.pattern[self.pos + 1]
            self.pos += 2
            self.looks_ahead = True
            if group.look == "(?!" and self.dialect.search:
                self._turn_dialect(JSON_PATTERN if self.dialect.wide else JSON_PATTERN_WIDEST)
        elif self._peek("?"):
            self._group_kind()
        self.stack.append(group)
        limits.check_limit("nested regex groups", len(self.stack) - 1, limits.MAX_REGEX_DEPTH)

    def _turn_dialect(self, dialect: Dialect) -> None:
        self.dialect, self.dot = dialect, dialect.dot

    def _group_kind(self) -> None:
        if self._skip("?:"):
            return
        behind = self._peek("?<=") or self._peek("?<!")
        if not behind and (self._skip("?<") or (self.dialect.python and self._skip("?P<"))):
            self._group_name()
            return
        if self.dialect.python and (flags := _GROUP_FLAGS.match(self.pattern, self.pos)):
            self.pos = flags.end()
            self._turn_flags(flags[1], flags[2] or "")
            return
        rest = self.pattern[self.pos : self.pos + 3]
        for prefix, what in _REFUSED_GROUPS:
            if rest.startswith(prefix):
                self._fail(f"{what} not supported", at=self.pos - 1)
        what = "flags are" if rest[1:2] in _FLAGS else "such a group is"
        self._fail(f"{what} not supported here", at=self.pos - 1)

    def _group_name(self) -> None:
        end = self.pattern.find(">", self.pos)
        name = self.pattern[self.pos : end]
        if end < 0 or not name.isidentifier():
            self._fail("bad group name", at=self.pos)
        if name in self.names:
            self._fail(f"the group name {name!r} is given twice", at=self.pos)
        self.names.add(name)
        self.pos = end + 1

    def _leading_flags(self) -> None:
        """``(?a)``, ``(?i)`` and ``(?s)``, which Python allows at the very start only."""
        if not self.dialect.python or not self._peek("(?"):
            return
        end = self.pattern.find(")")
        flags = self.pattern[2:end]
        if end > 2 and set(flags) <= {"a", "i", "s"}:
            self.pos = end + 1
            self._turn_flags(flags)

    def _turn_flags(self, on: str, off: str = "") -> None:
        self.any_case = ("i" in on or self.any_case) and "i" not in off
        if "s" in on + off:
            self.dot = charset.complement(()) if "s" in on else self.dialect.dot

    def _close(self) -> None:
        if len(self.stack) == 1:
            self._fail("')' without '('")
        group = self.stack.pop()
        self.dot, self.any_case = group.flags
        at_start = any(b.at_start for b in group.branches)
        at_end = any(b.at_end for b in group.branches)
        parent = self.stack[-1].branch
        if group.look:
            self._look_ahead(group, at_start)
            return
        if at_start and not all(part.startswith(_LOOK_AHEAD) for part in parent.parts):
            self._fail("'^' in a group is only supported where the group starts an alternative")
        if at_start and parent.parts and not parent.at_start:
            self._fail("'^' in a group behind a look-ahead is only supported behind another '^'")
        is_ahead = any(outer.look for outer in self.stack)
        pad_start = at_start and self.dialect.search and not is_ahead and not self._is_at_start()
        pad_end = at_end and (self.dialect.search or is_ahead)
        size = sum(b.size for b in group.branches) + 1
        text = self._join(group, pad_start, pad_end)
        self._add_part(text, size, repeatable=not (at_start or at_end))
        if pad_end:
            parent.tight = self._join(group, pad_start, pad_end=False)
        parent.at_start |= at_start
        parent.at_end |= at_end

    def _look_ahead(self, group: _Group, at_start: bool) -> None:
        """What has to match, or must not, from here to the end of the text."""
        parent = self.stack[-1].branch
        stands_at_start = parent.at_start and all(p.startswith(_LOOK_AHEAD) for p in parent.parts)
        if at_start and not stands_at_start:  # where it does, '^' says nothing new
            self._fail(
                "'^' in a look-ahead is only supported behind another '^'", at=group.opened_at
            )
        newline = _NEWLINE if self.dialect.wide or self.dialect.python else ""
        ends = (newline if b.at_end else ANYTHING for b in group.branches)
        texts = ("".join(b.parts) + end for b, end in zip(group.branches, ends, strict=True))
        text = group.look + "|".join(texts) + ")"
        if self.dialect is not group.dialect:
            self._turn_dialect(group.dialect)
        self._add_part(text, sum(b.size for b in group.branches) + 1, repeatable=False)

    def _is_at_start(self) -> bool:
        """Whether what comes next is tied to the start of the text by a '^' before."""
        for group in reversed(self.stack):
            if group.branch.at_start:
                return True
            if group.branch.parts:
                return False
        return False

    @staticmethod
    def _join(group: _Group, pad_start: bool, pad_end: bool) -> str:
        """The group's alternatives as one part.

        In a search, an alternative that is not tied to an edge of the text may have anything
        there. That is written out for the whole pattern, and where a sibling is tied, so that the
        group as a whole can count as tied.
        """
        texts = []
        for b in group.branches:
            before = ANYTHING if pad_start and not b.at_start else ""
            after = ANYTHING if pad_end and not b.at_end else ""
            parts = b.parts if pad_end or b.tight is None else [*b.parts[:-1], b.tight]
            texts.append(before + "".join(parts) + after)
        return "(?:" + "|".join(texts) + ")"

    # repeats

    def _star(self) -> None:
        self._repeat("*", 1)

    def _plus(self) -> None:
        self._repeat("+", 1)

    def _optional(self) -> None:
        self._repeat("?", 1)

    def _brace(self) -> None:
        """``{m}``, ``{m,}``, ``{m,n}``; any other brace is a plain character."""
        end = self.pattern.find("}", self.pos)
        body = self.pattern[self.pos : end] if end >= 0 else ""
        low, comma, high = body.partition(",")
        if not (low or comma) or not all(_is_count(n) for n in (low, high) if n):
            self._add(charset.literal(ord("{")))
            return
        if not low and not self.dialect.python:
            self._fail("'{,n}' means different things to different readers", hint="write {0,n}")
        self.pos = end + 1
        self._counted(low or "0", comma, high)

    def _counted(self, low: str, comma: str, high: str) -> None:
        for digits in (low, high):
            if len(digits) > 9:
                limits.check_limit("repeats in a regex", 10**9, limits.MAX_REGEX_SIZE)
        minimum = int(low)
        maximum = (int(high) if high else None) if comma else minimum
        if maximum is not None and maximum < minimum:
            self._fail(f"repeat bounds {minimum} and {maximum} are the wrong way round")
        bounds = (
            f"{{{minimum}"
            + ("," + (str(maximum) if maximum is not None else "") if comma else "")
            + "}"
        )
        self._repeat(bounds, max(minimum + 1 if maximum is None else maximum, 1))

    def _repeat(self, suffix: str, times: int) -> None:
        branch = self.stack[-1].branch
        if not branch.repeatable:
            self._fail(f"nothing to repeat before {suffix!r}", at=self.start)
        is_endless = suffix in ("*", "+") or suffix.endswith(",}")
        if is_endless and any(begin in branch.parts[-1] for begin in _LOOK_AHEAD):
            self._fail("a look-ahead in an endless repeat is not supported")
        if self._skip("+"):
            self._fail("possessive repeats are not supported")
        self._skip("?")
        branch.parts[-1] += suffix
        branch.repeatable = False
        last = branch.last_size
        branch.size -= last
        self._grow(branch, last * times)

    # escapes and classes

    def _escape(self) -> None:
        if self.pos == len(self.pattern):
            self._fail("a backslash ends the pattern")
        char = self._take()
        if char in _SET_ESCAPES:
            self._add(charset.to_regex(self._escape_set(char, negated=False)))
        elif self.dialect.python and char in "AZ" and not any(g.look for g in self.stack):
            _HANDLERS["^" if char == "A" else "$"](self)
        elif char in "bBzAZG":
            self._fail(f"'\\{char}' is not supported")
        else:
            self._add(self._literal(self._escaped_char(char)))

    def _escape_set(self, letter: str, *, negated: bool) -> Charset:
        """The set to use for a class escape; ``negated`` where the result is complemented."""
        if letter in "pP":
            sure, maybe = self._property()
        else:
            sure, maybe = self.dialect.escape_class(letter.lower())
        if letter.islower():
            return maybe if negated else sure
        return charset.complement(sure if negated else maybe)

    def _property(self) -> tuple[Charset, Charset]:
        r"""What stands in ``\p{...}``, as `Dialect.escape_class` says it."""
        end = self.pattern.find("}", self.pos)
        if self.any_case:
            self._fail(r"'\p' under (?i) means different things to different readers")
        if end < 0 or not self._skip("{"):
            self._fail(r"'\p' is only supported with braces", hint=r"write \p{L}")
        written = self.pattern[self.pos : end]
        found = characters.with_property(written)
        if found is None:
            hint = r"a general category (\p{Lu}), a script (\p{Script=Greek}) or ECMA-262's others"
            self._fail(f"Unicode has no property {written!r:.40}", hint=hint)
        self.pos = end + 1
        return found[::-1] if self.dialect.wide else found

    def _escaped_char(self, char: str) -> int:
        if self.dialect.python and (found := _NO_PYTHON.match(self.pattern, self.pos - 1)):
            self.pos = found.end()
            return self._code_point(found[1]) if found[1] else ord(found[2]) & 0x1F
        if char in _CONTROL_ESCAPES:
            return ord(_CONTROL_ESCAPES[char])
        if char == "a" and self.dialect.python:
            return 7
        if char in _HEX_ESCAPES and (char != "U" or self.dialect.python):
            return self._hex(_HEX_ESCAPES[char])
        if char == "0" and not self.pattern[self.pos : self.pos + 1].isdigit():
            return 0
        if char.isdigit() and char.isascii():
            self._fail("back-references and octal escapes are not supported")
        if char.isascii() and char.isalpha():
            self._fail(f"escape '\\{char}' is not supported")
        return ord(char)

    def _hex(self, num_digits: int) -> int:
        digits = self.pattern[self.pos : self.pos + num_digits]
        if len(digits) < num_digits or not all(c in "0123456789abcdefABCDEF" for c in digits):
            self._fail(f"{num_digits} hexadecimal digits expected")
        self.pos += num_digits
        return self._code_point(digits)

    def _code_point(self, digits: str) -> int:
        value = int(digits, 16)
        if value > charset.MAX_CODE_POINT:
            self._fail(f"U+{value:X} is beyond Unicode")
        return value

    def _class(self) -> None:
        opened_at = self.pos - 1
        negated = self._skip("^")
        members: list[Charset] = []
        if self._peek("]") and not self.dialect.python:
            self._fail(
                "']' first in a class means different things to different readers", hint=r"write \]"
            )
        first = True
        while first or not self._peek("]"):
            if self.pos == len(self.pattern):
                self._fail("class is never closed", at=opened_at)
            members.append(self._class_member(negated))
            first = False
        self.pos += 1
        # The sets of escapes are long; the same class comes often.
        written = self.pattern[opened_at : self.pos], self.dialect, self.any_case
        known = _CLASSES.get(written)  # other threads may clear it
        if known is None:
            if len(_CLASSES) >= _MAX_CLASSES:
                _CLASSES.clear()
            chars = charset.union(*members)
            if self.any_case:
                chars = charset.any_case(chars)
            known = charset.to_regex(charset.complement(chars) if negated else chars)
            _CLASSES[written] = known
        self._add(known)

    def _class_member(self, negated: bool) -> Charset:
        low = self._class_atom(negated)
        is_range = self._peek("-") and not self._peek("-]") and self.pos + 1 < len(self.pattern)
        if not is_range:
            return low if isinstance(low, tuple) else ((low, low),)
        self.pos += 1
        high = self._class_atom(negated)
        if isinstance(low, tuple) or isinstance(high, tuple):
            self._fail("a class escape cannot bound a range")
        if high < low:
            self._fail("range is the wrong way round")
        return ((low, high),)

    def _class_atom(self, negated: bool) -> int | Charset:
        char = self._take()
        if char != "\\":
            self._literal(ord(char))
            return ord(char)
        if self.pos == len(self.pattern):
            self._fail("a backslash ends the pattern")
        char = self._take()
        if char in _SET_ESCAPES:
            return self._escape_set(char, negated=negated)
        code_point = 8 if char == "b" else self._escaped_char(char)
        self._literal(code_point)
        return code_point


_SET_ESCAPES = "dwsDWSpP"
_CLASSES: dict[tuple[str, Dialect, bool], str] = {}
_MAX_CLASSES = 256


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit()


_HANDLERS = {
    "(": _Parser._open,
    ")": _Parser._close,
    "|": _Parser._alternative,
    "^": _Parser._start_anchor,
    "$": _Parser._end_anchor,
    ".": _Parser._dot,
    "[": _Parser._class,
    "\\": _Parser._escape,
    "*": _Parser._star,
    "+": _Parser._plus,
    "?": _Parser._optional,
    "{": _Parser._brace,
}

_GROUP_FLAGS = re.compile(r"\?([ais]*)(?:-([is]+))?:")
_NO_PYTHON = re.compile(r"[xu]\{([0-9a-fA-F]{1,8})\}|c([A-Za-z])")
_FLAGS = tuple("aiLmsux-")
_REFUSED_GROUPS = (
    ("?=", "look-ahead is"),
    ("?!", "look-ahead is"),
    ("?<=", "look-behind is"),
    ("?<!", "look-behind is"),
    ("?P=", "a back-reference is"),
    ("?P<", "a group name written '(?P<' is"),
    ("?>", "an atomic group is"),
    ("?#", "a comment is"),
    ("?(", "a conditional group is"),
)
