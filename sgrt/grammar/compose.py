"""Constraints put together: sequences, alternatives, repeats, with literal text between.

A composition of regular constraints is one pattern. With recursive EBNF it is written character by
character, which is exact whatever the parts are. Schemas, quotations, Lark grammars and free text
are *boxes*: the engine reads them greedily, so what may follow one must not be readable as its
continuation, and nothing else may begin as it does at the same place. Every situation that a text
can be in is looked at; a composition that breaks this is refused, it would be enforced wrongly.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from typing import get_args

from sgrt.core import (
    AnyText,
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    Lark,
    OneOf,
    Regex,
    RepeatOf,
    SequenceOf,
    StructuralFormat,
    StructuralTag,
    Substring,
)
from sgrt.errors import ConstraintError
from sgrt.grammar import (
    boxes,
    charset,
    ebnf,
    json_schema,
    lark_,
    layout,
    limits,
    regex,
    regular,
    scalars,
    structural,
    substring,
    tag_format,
)
from sgrt.grammar.audit import audit_choices, placed
from sgrt.grammar.boxes import Box
from sgrt.grammar.charset import Charset
from sgrt.grammar.engines import llguidance_
from sgrt.grammar.lark_text import Place
from sgrt.grammar.rules import (
    EMPTY,
    NOTHING,
    START,
    Alt,
    Lexeme,
    Node,
    Origin,
    Ref,
    Rep,
    RuleSet,
    Seq,
    is_recursive,
    literal,
    located,
    mapped,
    pattern,
    prune,
    refs,
)

Composed = SequenceOf | OneOf | RepeatOf | Substring | AnyText | StructuralTag | StructuralFormat
COMPOSED = get_args(Composed)


def source(constraint: Composed) -> str:
    """The engine's grammar text of a composition.

    Raises:
        ConstraintError: a part cannot be composed, the composition would be read wrongly, or no
            text satisfies it; and whatever its parts are refused for.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    composer = Composer()
    try:
        node = prune(composer.node(constraint), lambda name: True)
    except ConstraintError as error:
        raise placed(error, composer.place) from error
    if node == NOTHING:
        raise ConstraintError("no text satisfies this constraint")
    if not composer.is_regular:
        return composer.rule_set(node).source()
    size = RuleSet({START: node}).size()
    limits.check_limit("characters of a composed pattern", size, limits.MAX_REGEX_SIZE)
    return llguidance_.regex_source(regular.to_pattern(node))


class Composer:
    """Builds nodes of constraints.

    Attributes:
        rules, terminals, options: of the grammar, as in `RuleSet`; nodes refer to them.
        boxes: what is known of those that the engine reads greedily, by name.
        place: path of the part that is being read, the one that was refused where one was.

    Args:
        is_located: make a node for each place of a part, its leaves with their origin.
    """

    def __init__(self, *, is_located: bool = False) -> None:
        self.rules: dict[str, Node] = {}
        self.terminals: dict[str, Node] = {}
        self.options: dict[str, str] = {}
        self.boxes: dict[str, Box] = {}
        self.depth = 0
        self.place = ""
        self._is_located = is_located
        self._known: dict[object, Node] = {}

    @property
    def is_regular(self) -> bool:
        """Whether all nodes so far are patterns."""
        return not (self.rules or self.terminals)

    def rule_set(self, node: Node) -> RuleSet:
        """The grammar whose texts are those of a node.

        Raises:
            ConstraintError: the engine would read it otherwise than it is meant.
        """
        if self.boxes:
            self.check(node)
        start = {START: self._joined(node)}
        return RuleSet(start | self.rules, self.terminals, options=self.options)

    # parts

    def node(self, part: Constraint | str, place: str = "") -> Node:
        """The node of a constraint, made once however often it stands somewhere.

        Args:
            place: where it stands in what holds it.
        """
        limits.check_limit("nested compositions", self.depth, limits.MAX_COMPOSED_DEPTH)
        if part in self._known:
            return self._known[part]
        self.depth += 1
        around, self.place = self.place, self.path(place)
        node = self.at(self._node(part))
        if not self._is_located:
            self._known[part] = node
        self.place = around  # where it is refused, the place stays
        self.depth -= 1
        return node

    def at(self, node: Node, place: str = "") -> Node:
        """The node as that of a place in what is being read."""
        return located(node, Origin(part=self.path(place))) if self._is_located else node

    def path(self, place: str) -> str:
        """Path of a place in what is being read."""
        return f"{self.place}.{place}".strip(".")

    def _node(self, part: Constraint | str) -> Node:
        match part:
            case str():
                return _literal(part)
            case Regex():
                return self._regex(part)
            case Choices():
                return Alt(tuple(literal(option) for option in audit_choices(part)))
            case Ebnf():
                return self._ebnf(part)
            case Lark():
                return self._lark(part)
            case JsonSchema():
                return self._schema(part)
            case Substring(text):
                chars = charset.of(text)
                return self.box(Box("a quotation", chars, chars), substring.terminal(part))
            case AnyText():
                return structural.any_text(part, self)
            case StructuralTag():
                return structural.tag(part, self)
            case StructuralFormat():
                return tag_format.node(part, self)
            case SequenceOf(parts):
                return Seq(tuple(self.node(p, f"parts[{i}]") for i, p in enumerate(parts)))
            case OneOf(options):
                return Alt(tuple(self.node(o, f"options[{i}]") for i, o in enumerate(options)))
            case RepeatOf():
                return self._repeat(part)
        raise ConstraintError(f"{type(part).__name__} cannot be part of a composition")

    def box(self, box: Box, node: Node, *, is_lazy: bool = False) -> Ref:
        """A part that the engine reads by itself, as a name that nodes refer to."""
        name = f"box {len(self.boxes)}"
        self.boxes[name] = replace(box, what=f"{box.what} ({self.place})") if self.place else box
        return self.rule(name, node, is_lazy=is_lazy)

    def drop(self, box: Ref) -> None:
        """Forget a box that was only looked at."""
        del self.boxes[box.name], self.rules[box.name]

    def rule(self, name: str, node: Node, *, is_lazy: bool = False) -> Ref:
        """A rule of its own; what only a terminal's definition can say becomes a terminal.

        Args:
            is_lazy: read as little text as possible; the node is one lexeme.
        """
        is_rule = is_lazy or not isinstance(node, Lexeme) or node.source.startswith("%json")
        (self.rules if is_rule else self.terminals)[name] = self.at(node)
        if is_lazy:
            self.options[name] = "[lazy]"
        return Ref(name)

    def embed(self, rule_set: RuleSet) -> Ref:
        """Take over the rules of another grammar; its first rule."""
        prefix = f"{len(self.rules)}."

        def leaf(node: Node) -> Node:
            return replace(node, name=prefix + node.name) if isinstance(node, Ref) else node

        for own, others in ((self.rules, rule_set.rules), (self.terminals, rule_set.terminals)):
            own.update({prefix + n: self.at(mapped(node, leaf)) for n, node in others.items()})
        self.options |= {prefix + name: option for name, option in rule_set.options.items()}
        return Ref(prefix + START)

    def _regex(self, constraint: Regex) -> Node:
        rewritten = regex.rewrite(constraint.pattern, regex.PYTHON)
        return regular.parse(rewritten, origins_of(constraint) if self._is_located else ())

    def _ebnf(self, constraint: Ebnf) -> Node:
        rules = ebnf.parse(constraint)
        if not is_recursive(rules):
            return ebnf.inlined(rules)
        rule_set = RuleSet({START: Ref(ebnf.ROOT), **rules})
        rule_set.check()
        return self.embed(rule_set)

    def _lark(self, constraint: Lark) -> Node:
        rule_set = lark_.rules_of(constraint.grammar)
        rule_set.check()
        return self.box(boxes.of_lark(rule_set), self.embed(rule_set))

    def _schema(self, constraint: JsonSchema) -> Node:
        normal = json_schema.normalise(constraint.schema)
        spaced = layout.of(constraint)
        plain = scalars.node_of(json.loads(normal))
        if plain is not None:
            return plain
        source = llguidance_.json_part(normal, spaced)
        node = Lexeme(source, len(normal), Origin(schema=constraint))
        return self.box(boxes.of_schema(json.loads(normal)), node)

    def _repeat(self, repeat: RepeatOf) -> Node:
        low, high = repeat.at_least, repeat.at_most
        for name, value in (("at_least", low), ("at_most", high)):
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            if not is_count and not (name == "at_most" and value is None):
                raise ConstraintError(f"RepeatOf: {name}={value!r:.80} must be an integer >= 0")
        if high is not None and high < low:
            raise ConstraintError(f"RepeatOf: at_least={low} exceeds at_most={high}")
        body = self.node(repeat.part, "part")
        if not repeat.separator:
            return Rep(body, low, high)
        if high == 0:
            return EMPTY
        rest = Rep(
            Seq((self.at(_literal(repeat.separator), "separator"), body)),
            max(low - 1, 0),
            None if high is None else high - 1,
        )
        return Seq((body, rest)) if low else Rep(Seq((body, rest)), 0, 1)

    # the whole

    def check(self, node: Node) -> None:
        """Refuse a composition that the engine would read otherwise than it is meant."""
        rules = {name: rule for name, rule in self.rules.items() if name not in self.boxes}
        nullable = {name: box.nullable for name, box in self.boxes.items()}
        for situation in regular.situations(node, rules, nullable):
            for name, (chars, names) in situation.boxes.items():
                box = self.boxes[name]
                others = [self.boxes[n].first for n in situation.boxes if n != name]
                begins = charset.union(situation.chars, *others)
                what = f"{box.what} and other text can both begin"
                _check_apart(what, box.first, begins, "begin them with different text")
                after = charset.union(chars, *(self.boxes[n].first for n in names))
                what = f"what follows {box.what} could be read as part of it"
                _check_apart(what, box.extends, after, "put other text between them")

    def _joined(self, node: Node) -> Node:
        """A plain sequence with all that stands between two boxes as one terminal.

        It is read as written: `check` found that no text which may end there can go on with
        what comes next. Anywhere else greed could take too much, so characters stay single.
        """
        if not isinstance(node, Seq) or not all(map(self._is_whole, node.parts)):
            return node
        parts: list[Node] = []
        for is_box, run in groupby(node.parts, lambda part: isinstance(part, Ref)):
            same = tuple(run)
            parts += same if is_box else [pattern(regular.to_pattern(Seq(same)))]
        return Seq(tuple(parts))

    def _is_whole(self, node: Node) -> bool:
        """Whether this is a box that is never empty, or a pattern."""
        if isinstance(node, Ref) and node.name in self.boxes:
            return not self.boxes[node.name].nullable
        return not any(refs(node))


def origins_of(constraint: Regex) -> list[Origin]:
    """Where each character, class and escape of a pattern stands, in order."""
    text, place = constraint.pattern, Place(constraint.pattern)
    symbols = regex.symbols(text)
    return [Origin(repr(text[start:end]), *place.of(start)) for start, end in symbols]


def _check_apart(reason: str, one: Charset, other: Charset, hint: str) -> None:
    common = charset.intersection(one, other)
    if common:
        raise ConstraintError(f"{reason}: with {chr(common[0][0])!r}", hint=hint)


def _literal(text: str) -> Node:
    if not isinstance(text, str):
        raise ConstraintError(f"{text!r:.80} is not a text")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConstraintError(f"{text!r:.80} holds half a surrogate pair")
    return literal(text)
