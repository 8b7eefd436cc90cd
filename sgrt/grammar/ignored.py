"""What a grammar ignores, written into its rules: it may stand between two terminals.

Never before the first and after the last one: a model that may go on with white space does.
"""

from __future__ import annotations

from dataclasses import replace

from sgrt.grammar.rules import EMPTY, START, Alt, Node, Ref, Rep, RuleSet, Seq, mapped

_FIRST, _BEHIND = " first", " behind"
"""Behind the name of a rule: its texts that are not empty, at the start of the text; and those
that follow a terminal."""
ADDED = (_FIRST, _BEHIND)
_IGNORED = "%ignore"


def woven(rule_set: RuleSet, ignored: list[Node], line: int, column: int) -> RuleSet:
    """The grammar with ignored terminals between its own.

    Args:
        rule_set: rules with options are read as terminals.
        ignored: terminals.
        line, column: where that is said.
    """
    weaver = _Weaver(rule_set, Rep(Ref(_IGNORED, line, column), 0, 1))
    rules = {name: rule_set.rules[name] for name in rule_set.options}
    for name, node in weaver.rules.items():
        rules[name + _FIRST] = weaver.first(node)
        rules[name + _BEHIND] = weaver.behind(node)
    if START in weaver.rules:
        whole = Ref(START + _FIRST)
        rules[START] = Alt((EMPTY, whole)) if START in weaver.nullable else whole
    terminals = rule_set.terminals | {_IGNORED: Rep(Alt(tuple(ignored)), 1, None)}
    return RuleSet(rules, terminals, rule_set.options)


class _Weaver:
    def __init__(self, rule_set: RuleSet, ignored: Node) -> None:
        self._ignored = ignored
        self.rules = {n: r for n, r in rule_set.rules.items() if n not in rule_set.options}
        self.nullable = _nullable(self.rules)

    def behind(self, node: Node) -> Node:
        """With what is ignored before each terminal."""

        def leaf(node: Node) -> Node:
            if isinstance(node, Ref) and node.name in self.rules:
                return replace(node, name=node.name + _BEHIND)
            return Seq((self._ignored, node))

        return mapped(node, leaf)

    def first(self, node: Node) -> Node:
        """Texts of at least one terminal, with what is ignored before each but the first."""
        match node:
            case Seq(parts):
                return Alt(tuple(self._from(parts)))
            case Alt(options):
                return Alt(tuple(map(self.first, options)))
            case Rep(body, low, high):
                fewest = 0 if _is_empty(body, self.nullable) else max(low - 1, 0)
                rest = Rep(self.behind(body), fewest, None if high is None else high - 1)
                return Seq((self.first(body), rest))
            case Ref(name) if name in self.rules:
                return replace(node, name=name + _FIRST)
        return node

    def _from(self, parts: tuple[Node, ...]) -> list[Node]:
        """One option for each part that may be the first that is not empty."""
        options: list[Node] = []
        for i, part in enumerate(parts):
            rest = tuple(self.behind(after) for after in parts[i + 1 :])
            options.append(Seq((self.first(part), *rest)))
            if not _is_empty(part, self.nullable):
                break
        return options


def _nullable(rules: dict[str, Node]) -> set[str]:
    """Rules that some text without terminals satisfies."""
    found: set[str] = set()
    size = -1
    while len(found) > size:
        size = len(found)
        found |= {name for name, node in rules.items() if _is_empty(node, found)}
    return found


def _is_empty(node: Node, nullable: set[str]) -> bool:
    """Whether no terminal at all may satisfy the node; a terminal counts, whatever its text."""
    match node:
        case Seq(parts):
            return all(_is_empty(part, nullable) for part in parts)
        case Alt(options):
            return any(_is_empty(option, nullable) for option in options)
        case Rep(body, low, _):
            return low == 0 or _is_empty(body, nullable)
        case Ref(name):
            return name in nullable
    return False
