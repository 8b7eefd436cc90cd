r"""EBNF grammar text in two dialects that begin alike and differ in their corners.

Both: ``name ::= …``; text begins with ``root``; ``|``, ``( )``, ``* + ?``, ``{n}``, ``{n,}``,
``{n,m}``; ``"text"`` and ``[classes]``; comments by ``#``.

- "gbnf", of llama.cpp: a rule goes on over lines inside parentheses, after ``::=`` and around
  ``|``; ``.`` is any character; escapes ``\n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH``.
- "xgrammar", of xgrammar, SGLang and vLLM: line breaks mean nothing, a rule's name stands first on
  its line; names may hold ``.``; ``[^]`` is any character; escapes of C and ``\e \/ \uHHHH
  \UHHHHHHHH``, ``\x`` with any number of digits, and in classes marks after a backslash;
  ``Regex("…")`` is a pattern of `sgrt.grammar.regex` in which ``.`` is any character, with
  ``flags="…"`` any but a line feed; ``Substring("…", "…")`` is some of these, in this order and
  nothing left out between; ``{n, -1}`` is ``{n,}``.

A plain context-free grammar over characters: a text belongs to it if there is any way to derive
it. Rules that are not recursive become one pattern, the others are read character by character.
Refused: tokens, look-ahead, rule options such as ``[max_tokens=9]``, macros but these two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from sgrt.core import Ebnf
from sgrt.errors import ConstraintError, GrammarSyntaxError
from sgrt.grammar import automaton, charset, limits, regex, regular, unparse
from sgrt.grammar.charset import Charset
from sgrt.grammar.lark_text import Place
from sgrt.grammar.rules import (
    ANY_CHAR,
    EMPTY,
    START,
    Alt,
    Chars,
    Node,
    Origin,
    Ref,
    Rep,
    RuleSet,
    Seq,
    inner_first,
    is_recursive,
    literal,
    located,
    mapped,
)

ROOT = "root"
_MARKS = r"""
    |(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<set>\[(?:[^\]\\\n]|\\.)*\])
    |(?P<count>\{\s*(?P<low>[0-9]+)\s*(?P<comma>,?)\s*(?P<high>-1|[0-9]*)\s*\})
    |(?P<op>::=|[|()*+?.,=])"""
_HEX = r"""u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})"""


@dataclass(frozen=True)
class _Dialect:
    """How a dialect spells things.

    Args:
        lines: whether a line break ends a rule.
        escapes, in_sets: what stands behind a backslash in texts, and in classes besides.
        any_char: how a class of everything is written.
    """

    tokens: re.Pattern[str]
    lines: bool
    hex_digits: re.Pattern[str]
    escapes: dict[str, str]
    in_sets: str
    any_char: str


_OWN = dict(zip('\\"', '\\"', strict=True))
_DIALECTS = {
    "gbnf": _Dialect(
        tokens=re.compile(
            r"(?P<newline>\r?\n)|(?P<space>[ \t]+|\#[^\n]*)|(?P<name>[a-zA-Z0-9_-]+)" + _MARKS,
            re.VERBOSE,
        ),
        lines=True,
        hex_digits=re.compile(r"x([0-9a-fA-F]{2})|" + _HEX),
        escapes=_OWN | {"n": "\n", "r": "\r", "t": "\t"} | dict(zip("[]-^", "[]-^", strict=True)),
        in_sets="",
        any_char=".",
    ),
    "xgrammar": _Dialect(
        tokens=re.compile(
            r"(?P<space>[ \t\r\n]+|\#[^\r\n]*)|(?P<name>[a-zA-Z_.-][a-zA-Z0-9_.-]*)" + _MARKS,
            re.VERBOSE,
        ),
        lines=False,
        hex_digits=re.compile(r"x([0-9a-fA-F]+)|" + _HEX),
        escapes=_OWN | dict(zip("nrtbfav0e/'?", "\n\r\t\b\f\a\v\0\x1b/'?", strict=True)),
        in_sets="^$.*+?()[]{}|/-",
        any_char="[^]",
    ),
}
DIALECTS = tuple(_DIALECTS)
_NO_TOKENS = "tokens cannot be written by a constraint"
_MACROS = {
    "TagDispatch": "a structural tag of format 'dispatch' or 'triggered_tags' does that",
    **dict.fromkeys(("Token", "ExcludeToken", "TokenTagDispatch"), _NO_TOKENS),
}
_MAX_CHUNKS = 64
_LEADING_FLAGS = re.compile(r"\(\?([ais]+)\)")
_OPS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    found: re.Match[str] | None
    pos: int

    @property
    def text(self) -> str:
        return self.found[0] if self.found else ""


def rules_of(constraint: Ebnf) -> RuleSet:
    """The rules of a grammar, as one terminal where they are not recursive.

    Raises:
        GrammarSyntaxError: it does not parse, or holds something that is not enforced.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
        ConstraintError: another dialect.
    """
    rules = parse(constraint)
    start: dict[str, Node] = {START: Ref(ROOT)}
    return RuleSet(start | rules) if is_recursive(rules) else RuleSet(start, rules)


def inlined(rules: dict[str, Node]) -> Node:
    """Rules that `parse` read, none of them recursive, as one node; raises as `rules_of`."""
    RuleSet({START: Ref(ROOT)}, rules).check()
    nodes: dict[str, Node] = {}

    def leaf(node: Node) -> Node:
        return nodes[node.name] if isinstance(node, Ref) else node

    for name in inner_first(rules):
        nodes[name] = mapped(rules[name], leaf)
    return nodes[ROOT]


def parse(constraint: Ebnf) -> dict[str, Node]:
    """Rules by name, as nodes over characters; raises as `rules_of`."""
    return _parser(constraint).parse()


def definitions(constraint: Ebnf) -> list[tuple[str, int, int]]:
    """Name, line and column of all rules, as written; raises as `rules_of`."""
    parser = _parser(constraint)
    RuleSet({START: Ref(ROOT), **parser.parse()}).check()
    return [(name, *parser.place.of(pos)) for name, pos in parser.places.items()]


def _parser(constraint: Ebnf) -> _Parser:
    dialect = _DIALECTS.get(constraint.dialect)
    if dialect is None:
        raise ConstraintError(
            f"Ebnf: dialect={constraint.dialect!r:.80} must be one of {', '.join(DIALECTS)}"
        )
    text = constraint.grammar
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        Place(text).fail("half a surrogate pair is not a character", error.start)
    limits.check_limit("bytes of grammar", size, limits.MAX_GRAMMAR_BYTES)
    return _Parser(text, dialect)


def _own(name: str) -> str:
    """A rule's name here, where ``start`` is another's."""
    return f"{START} of the user" if name == START else name


class _Parser:
    def __init__(self, text: str, dialect: _Dialect) -> None:
        self.text = text
        self.dialect = dialect
        self.place = Place(text)
        self.pos = 0
        self.depth = 0
        self.rules: dict[str, Node] = {}
        self.places: dict[str, int] = {}
        self.name = ""  # of the rule being read
        self.token = self._scan()

    def parse(self) -> dict[str, Node]:
        while self._skip_newlines().kind != "end":
            self._rule()
        if ROOT not in self.rules:
            raise GrammarSyntaxError(f"no rule {ROOT!r}", hint=f"text begins with {ROOT!r}")
        return self.rules

    # tokens

    def _scan(self) -> _Token:
        while self.pos < len(self.text):
            found = self.dialect.tokens.match(self.text, self.pos)
            if found is None:
                self._unknown()
            start, self.pos = self.pos, found.end()
            kind = next(k for k in _KINDS if found.groupdict().get(k) is not None)
            if kind != "space":
                return _Token(kind, found, start)
        return _Token("end", None, self.pos)

    def _unknown(self) -> NoReturn:
        char = self.text[self.pos]
        reasons = {
            "<": "tokens cannot be written by a constraint",
            "!": "tokens cannot be written by a constraint",
            '"': "string is never closed",
            "[": "class is never closed",
            "'": "a string stands in double quotes",
            "{": "a repeat is {n}, {n,} or {n,m}",
        }
        self.place.fail(reasons.get(char, f"unexpected character {char!r}"), self.pos)

    def _next(self) -> _Token:
        token, self.token = self.token, self._scan()
        return token

    def _take(self, *texts: str) -> _Token | None:
        return self._next() if self.token.kind == "op" and self.token.text in texts else None

    def _skip_newlines(self) -> _Token:
        while self.token.kind == "newline":
            self._next()
        return self.token

    def _fail(self, reason: str, at: _Token | None = None, hint: str | None = None) -> NoReturn:
        token = at or self.token
        if at is None:
            shown = {"end": "the end", "newline": "the end of the line"}.get(token.kind)
            reason += f", found {shown or repr(token.text[:40])}"
        self.place.fail(reason, token.pos, hint)

    # rules

    def _rule(self) -> None:
        name = self.token
        if name.kind != "name":
            self._fail("a rule expected")
        self._next()
        if self.token.kind == "set":
            self._fail("options of rules are not supported", self.token)
        if not self._take("::="):
            self._fail("'::=' expected")
        self._check_name(name)
        if name.text in self.places:
            line, _ = self.place.of(self.places[name.text])
            self._fail(f"{name.text!r} is already defined in line {line}", name)
        self.places[name.text] = name.pos
        self.name = name.text
        self._skip_newlines()
        self.rules[_own(name.text)] = self._alternatives(nested=False)
        if self.dialect.lines and self.token.kind not in ("newline", "end"):
            self._fail("the end of the line expected")

    def _check_name(self, name: _Token) -> None:
        line_start = self.text.rfind("\n", 0, name.pos) + 1
        if not self.dialect.lines and self.text[line_start : name.pos].strip():
            self._fail("a rule begins on a line of its own", name)
        if not self.dialect.lines and name.text in ("true", "false"):
            self._fail(f"{name.text!r} is no name", name)

    def _alternatives(self, *, nested: bool) -> Node:
        limits.check_limit("nested groups", self.depth, limits.MAX_GROUP_DEPTH)
        self.depth += 1
        options = [self._sequence(nested)]
        while self._bar():
            self._skip_newlines()
            options.append(self._sequence(nested))
        self.depth -= 1
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _bar(self) -> bool:
        """``|``, also at the start of a later line."""
        pos, token = self.pos, self.token
        self._skip_newlines()
        if self._take("|"):
            return True
        self.pos, self.token = pos, token
        return False

    def _sequence(self, nested: bool) -> Node:
        parts: list[Node] = []
        while True:
            if nested:
                self._skip_newlines()
            handler = _ATOMS.get(self.token.kind)
            if self.token.kind == "op" and self.token.text in "(.":
                handler = _Parser._group_or_any
            if handler is None or self._begins_rule():
                return parts[0] if len(parts) == 1 else Seq(tuple(parts))
            parts.append(self._repeated(handler(self, self._next())))

    def _begins_rule(self) -> bool:
        """Whether this is the name of the next rule, where line breaks do not tell."""
        if self.dialect.lines or self.token.kind != "name":
            return False
        pos, token = self.pos, self.token
        self._next()
        is_set = self.token.kind == "set"
        if is_set:
            self._next()
        found = self.token.text == "::="
        self.pos, self.token = pos, token
        return found

    def _repeated(self, node: Node) -> Node:
        at = self.token
        if op := self._take("*", "+", "?"):
            low, high = _OPS[op.text]
        elif at.kind == "count":
            low, high = self._count(self._next())
        else:
            return node
        if self.token.kind == "count" or self.token.text in ("*", "+", "?"):
            self._fail("a repeat of a repeat: put the inner one in parentheses", self.token)
        return EMPTY if high == 0 else Rep(node, low, high)

    def _count(self, token: _Token) -> tuple[int, int | None]:
        assert token.found is not None
        digits = token.found["low"], token.found["high"]
        for number in digits:
            limits.check_limit("digits of a repeat count", len(number), 7)
        if digits[1] == "-1" and self.dialect.lines:
            self._fail("a repeat without end is {n,}", token)
        digits = digits[0], digits[1].removeprefix("-1")  # xgrammar prints no end so
        low = int(digits[0])
        high = (int(digits[1]) if digits[1] else None) if token.found["comma"] else low
        if not token.found["comma"] and digits[1]:
            self._fail("a repeat is {n}, {n,} or {n,m}", token)
        if high is not None and high < low:
            self._fail(f"repeat bounds {low} and {high} are the wrong way round", token)
        return low, high

    # atoms

    def _group_or_any(self, token: _Token) -> Node:
        if token.text == ".":
            if self.dialect.any_char != ".":
                self._fail(f"any character is {self.dialect.any_char}", token)
            return Chars(ANY_CHAR.chars, self._origin(token))
        if self.token.kind == "op" and self.token.text in "?=":
            self._fail("look-ahead is not supported", token)
        body = self._alternatives(nested=True)
        self._skip_newlines()
        if not self._take(")"):
            self._fail("')' expected")
        return body

    def _origin(self, token: _Token) -> Origin:
        return Origin(self.name, *self.place.of(token.pos))

    def _name(self, token: _Token) -> Node:
        if self.token.kind == "op" and self.token.text == "::=":
            self._fail("a rule begins on a line of its own", token)
        if not self.dialect.lines and self.token.text == "(":
            if token.text == "Regex":
                return self._regex()
            if token.text == "Substring":
                return self._substring(token)
            if token.text in _MACROS:
                self._fail(f"{token.text} is not supported", token, _MACROS[token.text])
        return Ref(_own(token.text), *self.place.of(token.pos))

    def _regex(self) -> Node:
        self._next()
        text, found = self._text("a pattern in quotes expected")
        flags = "s"
        if self._take(","):
            flags = self._regex_flags()
        if not self._take(")"):
            self._fail("')' expected")
        if own := _LEADING_FLAGS.match(found):
            flags, found = flags + own[1], found[own.end() :]
        try:
            node = regular.parse(
                regex.rewrite(f"(?{flags}){found}" if flags else found, regex.TERMINAL)
            )
        except GrammarSyntaxError as error:
            self.place.fail(f"{error.reason} (in Regex)", text.pos, error.hint)
        return located(node, self._origin(text))

    def _substring(self, token: _Token) -> Node:
        """Some chunks, one behind the other as they stand there; or nothing."""
        self._next()
        chunks = [self._text("a chunk in quotes expected")[1]]
        while self._take(","):
            chunks.append(self._text("a chunk in quotes expected")[1])
        if not self._take(")"):
            self._fail("')' expected")
        limits.check_limit("chunks of a Substring", len(chunks), _MAX_CHUNKS)
        limits.check_limit("characters of a Substring", sum(map(len, chunks)), limits.MAX_TAG_CHARS)
        ends = range(len(chunks) + 1)
        texts = {"".join(chunks[i:j]) for j in ends for i in range(j)} | {""}
        found = unparse.to_pattern(automaton.of_texts(texts))
        return located(regular.parse(found), self._origin(token))

    def _text(self, expected: str) -> tuple[_Token, str]:
        token = self.token
        if token.kind != "string":
            self._fail(expected)
        self._next()
        return token, "".join(chr(code) for code, _ in self._codes(token, token.text[1:-1], 1))

    def _regex_flags(self) -> str:
        """Read what stands behind the pattern: ``flags="is"``, with which ``.`` is Python's."""
        option = self._next()
        if option.text != "flags" or not self._take("="):
            self._fail(f"Regex: option {option.text!r:.40} is not supported", option, "flags= is")
        token, flags = self._text("flags in quotes expected")
        if not set(flags) <= {"i", "s"}:
            self._fail(f"Regex: flags {flags!r:.40} are not supported", token, "only i and s are")
        return "".join(sorted(set(flags)))

    def _string(self, token: _Token) -> Node:
        text = "".join(chr(code) for code, _ in self._codes(token, token.text[1:-1], 1))
        return literal(text, self._origin(token))

    def _set(self, token: _Token) -> Node:
        body = token.text[1:-1]
        negated = body.startswith("^")
        codes = self._codes(token, body[negated:], 1 + negated)
        ranges: list[tuple[int, int]] = []
        i = 0
        while i < len(codes):
            low = codes[i][0]
            is_range = i + 2 < len(codes) and codes[i + 1] == (ord("-"), False)
            high = codes[i + 2][0] if is_range else low
            if high < low:
                self._fail("range is the wrong way round", token)
            ranges.append((low, high))
            i += 3 if is_range else 1
        chars: Charset = charset.charset(ranges)
        scalars = charset.complement(chars) if negated else charset.intersection(chars, chars)
        return Chars(scalars, self._origin(token))

    def _codes(self, token: _Token, body: str, offset: int) -> list[tuple[int, bool]]:
        """Code points of a string or class, each with whether it was escaped."""
        codes: list[tuple[int, bool]] = []
        pos = 0
        while pos < len(body):
            start = pos
            if body[pos] == "\\":
                code, pos = self._escape(token, body, pos + 1, offset)
            else:
                code, pos = ord(body[pos]), pos + 1
            if code > charset.MAX_CODE_POINT or 0xD800 <= code <= 0xDFFF:
                self.place.fail(f"U+{code:04X} is not a character", token.pos + offset + start)
            codes.append((code, body[start] == "\\"))
        return codes

    def _escape(self, token: _Token, body: str, pos: int, offset: int) -> tuple[int, int]:
        """The code point behind a backslash, and where it ends."""
        if found := self.dialect.hex_digits.match(body, pos):
            digits = found[1] or found[2] or found[3]
            return min(int(digits, 16), 0xFFFFFFFF), found.end()
        char = body[pos : pos + 1]
        in_set = token.kind == "set" and char in self.dialect.in_sets
        if not char or (char not in self.dialect.escapes and not in_set):
            at = token.pos + offset + pos - 1
            self.place.fail(f"escape {body[pos - 1 : pos + 1]!r} is not supported", at)
        return ord(self.dialect.escapes.get(char, char)), pos + 1


_KINDS = ("newline", "space", "name", "string", "set", "count", "op")
_ATOMS = {"name": _Parser._name, "string": _Parser._string, "set": _Parser._set}
