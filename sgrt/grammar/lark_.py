r"""Lark grammar text: parsed and audited here, enforced by the engine.

The dialect is what Lark and the engine's front end have in common:

- rules in lower case, terminals in upper case, ``|``, ``( )``, ``[ ]`` (optional), ``* + ?``,
  ``~n``, ``~n..m``, ``{n}``, ``{n,}``, ``{,m}``, ``{n,m}``; comments by ``//`` or ``#``;
- ``"text"`` with the escapes of JSON and ``\xHH``, ``"text"i`` (ASCII letters in either case), ``"a".."z"``;
- ``/pattern/`` in the dialect of `sgrt.grammar.regex`, flags ``s``, ``i`` (ASCII letters) and ``u``;
- in terminals ``A & B`` (both), ``~A`` (any text but these) and ``%regex {"substring_words": "…"}``
  (also ``_chars``, ``_chunks``): see `terminals`;
- ``%import`` from the grammars shipped with sgrt, ``%json {schema}`` in rules;
- ``%ignore``: what may stand between two terminals, and never before the first or after the last;
- ``name[lazy]: TERMINALS``: as little text as possible; ``name[suffix="…"]: TERMINALS``: up to a
  suffix, which ends it;
- as guidance writes them: names with ``-``, ``%llguidance {…}`` (where it changes no text), ``name[capture]: …``, and ``"x-guidance"`` in a
  schema, which says what stands between its values.

Names' prefixes ``?``, ``!`` and ``_``, aliases ``-> name`` and captures shape trees; there are no
trees here, so they are read and mean nothing. Everything else is refused where it stands.

A terminal takes the longest text that any terminal allowed at its place can take (Lark's
``dynamic`` lexer). So nothing is ever left for the second part of ``/a+/ "a"``, which is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import NoReturn

from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError, GrammarSyntaxError, UnsupportedSchema
from sgrt.grammar import (
    charset,
    endless,
    json_schema,
    json_text,
    layout,
    library,
    limits,
    regex,
    terminals,
)
from sgrt.grammar.engines import llguidance_
from sgrt.grammar.ignored import woven
from sgrt.grammar.lark_text import TOKENS, Place, Token, is_terminal, json_end, plain
from sgrt.grammar.rules import (
    EMPTY,
    Alt,
    Chars,
    Lexeme,
    Node,
    Origin,
    Ref,
    Rep,
    RuleSet,
    Seq,
    children,
    mapped,
    pattern,
    quoted,
    refs,
)

_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2})*"')
_ESCAPE = re.compile(r"\\(?:x(..)|.)")
_REFUSED = {
    "%declare": "terminals without a definition cannot be enforced",
    "%override": "importing and overriding is not supported; write the rule out",
    "%extend": "importing and extending is not supported; write the rule out",
    "%lark": "nested grammars are not supported; use rules",
}
# What is forced is the matcher's; nothing ignored stands before the text; tokens are text here.
_GRAMMAR_OPTIONS = {
    "no_forcing": (True, False),
    "allow_initial_skip": (False,),
    "allow_invalid_utf8": (False,),
}
_CLASS_ESCAPE = re.compile(r"(?:[^\\]|\\.)*?\\[dwsDWS]")
_NUMBER_NEXT = re.compile(r"[ \t]*[0-9]")
_BIGGEST_COUNT = 10**6


def parse(text: str) -> RuleSet:
    """A grammar's rules.

    Args:
        text: Lark text.

    Raises:
        GrammarSyntaxError: it does not parse, or holds something that is not enforced.
        UnsupportedSchema: a schema in it cannot be enforced.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        Place(text).fail("half a surrogate pair is not a character", error.start)
    limits.check_limit("bytes of grammar", size, limits.MAX_GRAMMAR_BYTES)
    parser = _Parser(text)
    rule_set = parser.parse()
    rule_set.check()
    parser.algebra.resolve(rule_set)
    terminals.end_lazy(rule_set)
    if parser.ignored:
        rule_set = woven(rule_set, parser.ignored, *parser.place.of(parser.ignored_at))
        rule_set.check()
    endless.check(rule_set)
    return rule_set


def rules_of(grammar: str) -> RuleSet:
    """The rules of a grammar text, or of the shipped grammar of this name.

    Raises:
        ConstraintError: no grammar of this name is shipped; otherwise as `parse`.
    """
    if not library.is_name(grammar):
        return parse(grammar)
    try:
        return parse(library.text(grammar))
    except KeyError as error:
        raise ConstraintError(
            f"no grammar {grammar!r:.80} is shipped with sgrt",
            hint="one of " + ", ".join(library.names()),
        ) from error


def definitions(grammar: str) -> list[tuple[str, int, int]]:
    """Name, line and column of all that a grammar defines, as written; raises as `rules_of`."""
    is_shipped = library.is_name(grammar)
    rules_of(grammar).check()
    parser = _Parser(library.text(grammar) if is_shipped else grammar)
    parser.parse()
    return [(name, *parser.place.of(pos)) for name, pos in parser.places.items()]


def _qualified(grammar: str, node: Node) -> Node:
    """The node with the names that it has outside of its own grammar."""

    def leaf(node: Node) -> Node:
        return replace(node, name=f"{grammar}.{node.name}") if isinstance(node, Ref) else node

    return mapped(node, leaf)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.place = Place(text)
        self.pos = 0
        self.token = self._scan()
        self.depth = 0
        self.out = RuleSet({})
        self.places: dict[str, int] = {}
        self.name = ""  # of what is being defined
        self.ignored: list[Node] = []
        self.ignored_at = 0
        self.algebra = terminals.Algebra()

    def parse(self) -> RuleSet:
        while self._skip_newlines().kind != "end":
            self._item()
        self.out.terminals |= self.algebra.terminals
        for name, node in self.out.terminals.items():
            self._check_terminal(name, node)
        for name in self.out.options:
            self._check_terminal(name, self.out.rules[name])
        for node in self.ignored:
            self._check_terminal("%ignore", node)
        return self.out

    # tokens

    def _scan(self) -> Token:
        while True:
            if self.pos == len(self.text):
                return Token("end", "", self.pos)
            found = TOKENS.match(self.text, self.pos)
            if found is None:
                self._unknown()
            start, self.pos = self.pos, found.end()
            if found.lastgroup != "space":
                return Token(found.lastgroup or "", found[0], start)

    def _unknown(self) -> NoReturn:
        char = self.text[self.pos]
        reasons = {
            "<": "special tokens cannot be written by a constraint",
            "@": "references to other grammars are not supported",
            '"': "string is never closed",
            "/": "pattern is never closed",
            "'": "a string stands in double quotes",
        }
        self.place.fail(reasons.get(char, f"unexpected character {char!r}"), self.pos)

    def _next(self) -> Token:
        token, self.token = self.token, self._scan()
        return token

    def _is(self, *texts: str) -> bool:
        return self.token.kind in ("op", "keyword") and self.token.text in texts

    def _take(self, text: str) -> bool:
        found = self._is(text)
        if found:
            self._next()
        return found

    def _expect(self, text: str) -> Token:
        if not self._is(text):
            self._fail(f"{text!r} expected")
        return self._next()

    def _expect_kind(self, *kinds: str) -> Token:
        self._peek(*kinds)
        return self._next()

    def _peek(self, *kinds: str) -> str:
        """The kind of the next token, which has to be one of these."""
        if self.token.kind not in kinds:
            self._fail(f"{' or '.join(kinds)} expected")
        return self.token.kind

    def _fail(self, reason: str, at: Token | None = None, hint: str | None = None) -> NoReturn:
        token = at or self.token
        if at is None:
            shown = {"end": "the end", "newline": "the end of the line"}.get(token.kind)
            reason += f", found {shown or repr(token.text[:40])}"
        self.place.fail(reason, token.pos, hint)

    def _skip_newlines(self) -> Token:
        while self.token.kind == "newline":
            self._next()
        return self.token

    def _end_of_line(self) -> None:
        if self.token.kind != "end":
            self._expect_kind("newline")

    # definitions

    def _item(self) -> None:
        token = self.token
        if token.kind in ("rule", "terminal"):
            self._definition(self._next())
        elif self._take("%ignore"):
            self.ignored_at = token.pos
            self.name = "%ignore"
            self.ignored.append(self._expansions())
        elif self._take("%import"):
            self._import()
        elif self._is("%llguidance", "%grammar_options"):
            self._grammar_options(self._next())
        elif token.kind == "keyword" and token.text in _REFUSED:
            self._fail(f"{token.text}: {_REFUSED[token.text]}", token)
        else:
            self._fail("a rule, a terminal, %ignore or %import expected")
        self._end_of_line()

    def _grammar_options(self, token: Token) -> None:
        try:
            options = json_text.parse(self._json(token))
        except UnsupportedSchema as error:
            self._fail(f"{token.text} {error.reason}", token)
        for name, value in options.items():
            known = _GRAMMAR_OPTIONS.get(name, ())
            if not isinstance(value, bool) or value not in known:
                self._fail(f"{token.text}: {name}={value!r:.40} is not supported", token)

    def _definition(self, token: Token) -> None:
        name = plain(token.text)
        if self._is("{"):
            self._fail("templates are not supported", self.token)
        if self._is("."):
            self._fail("priorities are not supported", self.token)
        self.name = name
        suffix = self._options(token, name) if self._is("[") else None
        self._expect(":")
        node = self._expansions()
        self._define(name, token, node if suffix is None else Seq((node, suffix)))

    def _define(self, name: str, token: Token, node: Node) -> None:
        if name in self.places:
            line, _ = self.place.of(self.places[name])
            self._fail(f"{name!r} is already defined in line {line}", token)
        self.places[name] = token.pos
        (self.out.terminals if is_terminal(name) else self.out.rules)[name] = node

    def _options(self, token: Token, name: str) -> Node | None:
        """Read a rule's options; the terminal that ends it, where they name one."""
        suffix: Node | None = None
        self._expect("[")
        if is_terminal(name):
            self._fail("options belong to rules", token)
        while True:
            option = self._expect_kind("rule")
            if option.text == "lazy":
                self.out.options[name] = "[lazy]"
            elif option.text == "suffix":
                if suffix is not None:
                    self._fail("'suffix' is given twice", option)
                self._expect("=")
                suffix = _ATOMS[self._peek("string", "regexp", "terminal")](self, self._next())
                self.out.options[name] = "[lazy]"
            elif option.text != "capture":
                hint = "[lazy], [suffix=...] and [capture] are"
                self._fail(f"option {option.text!r} is not supported", option, hint)
            elif self._take("="):
                self._expect_kind("string")
            if not self._take(","):
                break
        self._expect("]")
        return suffix

    def _import(self) -> None:
        at = self.token
        path = [plain(self._expect_kind("rule").text)]
        while self._take("."):
            path.append(plain(self._expect_kind("rule", "terminal").text))
        if self._is("("):
            names = self._import_list()
        elif len(path) < 2:
            self._fail("'%import grammar.name' expected", at)
        else:
            names = [(path.pop(), None)]
            if self._take("->"):
                names = [(names[0][0], plain(self._expect_kind("rule", "terminal").text))]
        if len(path) != 1:
            self._fail("'%import grammar.name' expected", at)
        self._import_names(path[0], names, at)

    def _import_list(self) -> list[tuple[str, str | None]]:
        self._expect("(")
        names: list[tuple[str, str | None]] = []
        while not names or self._take(","):
            names.append((plain(self._expect_kind("rule", "terminal").text), None))
        self._expect(")")
        return names

    def _import_names(self, grammar: str, names: list[tuple[str, str | None]], at: Token) -> None:
        try:
            text = library.text(grammar)
        except KeyError:
            hint = "one of " + ", ".join(library.names())
            self._fail(f"no grammar {grammar!r} is shipped with sgrt", at, hint)
        # A shipped grammar imports from shipped grammars, never in a circle.
        other = _Parser(text).parse()
        for name, alias in names:
            if name not in other.definitions():
                self._fail(f"grammar {grammar!r} has no {name!r}", at)
            local = alias or name
            if is_terminal(local) != is_terminal(name):
                self._fail(f"{name!r} cannot become {local!r}: rule and terminal differ", at)
            self._define(local, at, Ref(self._adopt(grammar, name, other)))

    def _adopt(self, grammar: str, name: str, other: RuleSet) -> str:
        """Take over a definition and all it needs, under names that users cannot write."""
        todo = [name]
        while todo:
            name_ = todo.pop()
            own = f"{grammar}.{name_}"
            target = self.out.rules if name_ in other.rules else self.out.terminals
            if own not in target:
                node = other.definitions()[name_]
                target[own] = _qualified(grammar, node)
                if name_ in other.options:
                    self.out.options[own] = other.options[name_]
                todo += [ref.name for ref in refs(node)]
        return f"{grammar}.{name}"

    # expressions

    def _expansions(self) -> Node:
        limits.check_limit("nested groups", self.depth, limits.MAX_GROUP_DEPTH)
        self.depth += 1
        options = [self._conjunction()]
        while self._bar():
            options.append(self._conjunction())
        self.depth -= 1
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _conjunction(self) -> Node:
        parts = [self._sequence()]
        token = self.token
        while self._take("&"):
            parts.append(self._sequence())
        return (
            parts[0] if len(parts) == 1 else self.algebra.both(tuple(parts), self._operator(token))
        )

    def _operator(self, token: Token) -> Origin:
        if self.name != "%ignore" and not is_terminal(self.name):
            hint = "define a terminal (upper case) and refer to it"
            self._fail(f"{token.text!r} is only supported in terminals", token, hint)
        return self._origin(token)

    def _bar(self) -> bool:
        """``|``, also at the start of the next line."""
        if self.token.kind == "newline":
            pos, token = self.pos, self.token
            self._next()
            while self.token.kind == "newline":
                self._next()
            if not self._is("|"):
                self.pos, self.token = pos, token
        return self._take("|")

    def _sequence(self) -> Node:
        parts = []
        while self.token.kind not in ("newline", "end") and not self._is("|", ")", "]", "->", "&"):
            parts.append(self._repeated())
        if self._take("->"):
            self._expect_kind("rule")
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def _repeated(self) -> Node:
        node = self._atom()
        at = self.token
        if self._is("*", "+", "?"):
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self._next().text]
        elif self._is("~") and _NUMBER_NEXT.match(self.text, self.pos):
            self._next()
            low = self._count()
            high = self._count() if self._take("..") else low
        elif self._is("{"):
            low, high = self._braces()
        else:
            return node
        if high is not None and high < low:
            self._fail(f"repeat bounds {low} and {high} are the wrong way round", at)
        is_again = self._is("~") and _NUMBER_NEXT.match(self.text, self.pos)
        if is_again or self._is("*", "+", "?", "{"):
            self._fail("a repeat of a repeat", self.token, "put the inner one in parentheses")
        return EMPTY if high == 0 else Rep(node, low, high)

    def _braces(self) -> tuple[int, int | None]:
        at = self._expect("{")
        if self.token.kind in ("rule", "terminal", "string"):
            self._fail("templates are not supported", at)
        low = None if self._is(",") else self._count()
        high = low
        if self._take(","):
            high = None if self._is("}") else self._count()
        if low is None and high is None:
            self._fail("'{,}' has no bound", at)
        self._expect("}")
        return low or 0, high

    def _count(self) -> int:
        token = self._expect_kind("number")
        limits.check_limit("digits of a repeat count", len(token.text), 7)
        limits.check_limit("repeats", int(token.text), _BIGGEST_COUNT)
        return int(token.text)

    def _atom(self) -> Node:
        token = self.token
        if self._is("(", "["):
            return self._group()
        if self._is("%json"):
            return self._schema(self._next())
        if self._take("%regex"):
            return self.algebra.substring(self._json(token), self._origin(token))
        if token.text in _REFUSED:
            self._fail(f"{token.text}: {_REFUSED[token.text]}", token)
        if self._take("~"):
            return self._other(token)
        handler = _ATOMS.get(token.kind)
        if handler is None:
            self._fail("a name, a string, a pattern or a group expected")
        return handler(self, self._next())

    def _other(self, token: Token) -> Node:
        limits.check_limit("nested groups", self.depth, limits.MAX_GROUP_DEPTH)
        self.depth += 1
        node = self.algebra.other(self._atom(), self._operator(token))
        self.depth -= 1
        return node

    def _group(self) -> Node:
        opening = self._next()
        body = self._expansions()
        self._expect(")" if opening.text == "(" else "]")
        return body if opening.text == "(" else Rep(body, 0, 1)

    def _origin(self, token: Token) -> Origin:
        return Origin(self.name, *self.place.of(token.pos))

    def _name(self, token: Token) -> Node:
        return Ref(plain(token.text), *self.place.of(token.pos))

    def _string(self, token: Token) -> Node:
        if self._take(".."):
            low, high = self._value(token), self._value(self._expect_kind("string"))
            if len(low) != 1 or len(high) != 1 or high < low or token.text.endswith("i"):
                self._fail("a range is two single characters in order", token)
            return Chars(charset.charset([(ord(low), ord(high))]), self._origin(token))
        text = self._value(token)
        if token.text.endswith("i"):
            return self._any_case(text, token)
        return quoted(text, self._origin(token)) if text else EMPTY

    def _any_case(self, text: str, token: Token) -> Node:
        for char in text:
            if not char.isascii() and char.lower() != char.upper():
                self._fail(f"{char!r} in a string with flag i: only ASCII letters may", token)
        sets = (charset.to_regex(charset.of(char.lower() + char.upper())) for char in text)
        rewritten = "(?:" + "".join(sets) + ")"
        return pattern(rewritten, self._origin(token)) if text else EMPTY

    def _value(self, token: Token) -> str:
        body = token.text.removesuffix("i")
        if not _STRING.fullmatch(body):
            self._fail(r"strings have the escapes of JSON and \xHH, and no others", token)
        value = str(json.loads(_ESCAPE.sub(lambda m: f"\\u00{m[1]}" if m[1] else m[0], body)))
        if any("\ud800" <= char <= "\udfff" for char in value):
            self._fail("half a surrogate pair is not a character", token)
        return value

    def _regexp(self, token: Token) -> Node:
        body, _, flags = token.text[1:].rpartition("/")
        if not set(flags) <= {"i", "s", "u"}:
            self._fail(f"flags {flags!r} are not supported", token, "only i, s and u are")
        if "u" in flags and _CLASS_ESCAPE.match(body):
            hint = r"write the characters, or \p{L}, \p{Nd} and the like"
            self._fail(r"flag u with \d, \w or \s is not supported", token, hint)
        flags = flags.replace("u", "")
        prefix = f"(?{flags})" if flags else ""
        try:
            rewritten = regex.rewrite(prefix + body, regex.TERMINAL)
        except GrammarSyntaxError as error:
            inside = (error.column or 1) - 1 - len(prefix)
            self.place.fail(error.reason, token.pos + 1 + max(inside, 0), error.hint)
        if charset.to_regex(()) in rewritten:
            self._fail("the pattern holds a class that matches nothing", token)
        return pattern(rewritten, self._origin(token))

    def _json(self, token: Token) -> str:
        """Read the JSON object behind a keyword."""
        start = token.pos + len(token.text)
        end = start + json_end(self.text[start:])
        if end == start:
            self._fail(f"JSON in braces expected after {token.text}", token)
        self.pos = end
        self.token = self._scan()
        return self.text[start:end]

    def _schema(self, token: Token) -> Node:
        written = self._json(token)
        try:
            normal = json_schema.normalise(written)
        except UnsupportedSchema as error:
            line, column = self.place.of(token.pos)
            raise UnsupportedSchema(
                f"{error.reason} (in %json at line {line}, column {column})",
                pointer=error.pointer,
                keyword=error.keyword,
            ) from error
        try:
            spaced = layout.of_guidance(json.loads(written).get("x-guidance"))
        except ConstraintError as error:
            self._fail(str(error), token)
        # What the engine is told stands between values is not a policy of JsonSchema.
        as_written = JsonSchema(written) if spaced == layout.COMPACT else None
        origin = replace(self._origin(token), schema=as_written)
        return Lexeme(llguidance_.json_part(normal, spaced), len(normal), origin)

    def _check_terminal(self, name: str, node: Node) -> None:
        pos = self.places.get(name, 0)
        todo = [node]
        while todo:
            node = todo.pop()
            todo += children(node)
            if isinstance(node, Ref) and not is_terminal(node.name):
                raise GrammarSyntaxError(
                    f"{name!r} is a terminal and cannot hold the rule {node.name!r}",
                    line=node.line,
                    column=node.column,
                )
            if isinstance(node, Lexeme) and node.source.startswith("%json"):
                self.place.fail(f"{name!r} is a terminal and cannot hold %json", pos)


_ATOMS = {
    "rule": _Parser._name,
    "terminal": _Parser._name,
    "string": _Parser._string,
    "regexp": _Parser._regexp,
}
