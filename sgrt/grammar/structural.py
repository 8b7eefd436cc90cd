"""Structural tags: free text in which a trigger begins something with a form, such as a tool call.

Text is free until it spells a trigger. Then one of the structures whose ``begin`` starts with
that trigger must follow: the rest of its begin, a value of its schema (compact JSON), its end;
then text is free again. Free text never spells a trigger, so a reader that looks for triggers
finds exactly the tags.
"""

from __future__ import annotations

from collections.abc import Sequence

from sgrt.core import JsonSchema, StructuralTag, Structure
from sgrt.errors import ConstraintError
from sgrt.grammar import limits, regular
from sgrt.grammar.compose import Composer
from sgrt.grammar.rules import ANY_CHAR, START, Alt, Lexeme, Node, Ref, Rep, RuleSet, Seq, literal

_ANYTHING = "(?s:.)*"


def rules_of(tag: StructuralTag) -> RuleSet:
    """The rules of free text with tags.

    Raises:
        ConstraintError: a trigger that is empty or holds another, a structure that begins with
            no trigger, a trigger without a structure, or structures that cannot be told apart;
            and whatever the schemas are refused for.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    groups = _groups(tag)
    rules: dict[str, Node] = {}
    options: dict[str, str] = {}
    for i, (trigger, structures) in enumerate(groups.items()):
        head = f"head{i}"
        rules[f"tag{i}"] = Seq((Ref(head), _body(trigger, structures)))
        # As little text as possible: up to the first trigger.
        rules[head] = Lexeme(f"/{_ANYTHING}{_pattern(trigger)}/", len(trigger))
        options[head] = "[lazy]"
    tags = Rep(Alt(tuple(Ref(f"tag{i}") for i in range(len(groups)))), 0, None)
    rules[START] = Seq((tags, Ref("FREE")))
    return RuleSet(rules, {"FREE": _free(list(groups))}, options=options)


def _pattern(text: str) -> str:
    return regular.to_pattern(literal(text))


def _free(triggers: Sequence[str]) -> Lexeme:
    """Text without a trigger, up to the end."""
    any_trigger = "(?:" + "|".join(map(_pattern, triggers)) + ")"
    source = f"/{_ANYTHING}/ & ~/{_ANYTHING}{any_trigger}{_ANYTHING}/"
    return Lexeme(source, sum(map(len, triggers)))


def _groups(tag: StructuralTag) -> dict[str, list[Structure]]:
    """Structures by their trigger."""
    limits.check_limit("structures", len(tag.structures), limits.MAX_STRUCTURES)
    limits.check_limit("triggers", len(tag.triggers), limits.MAX_TRIGGERS)
    groups: dict[str, list[Structure]] = {trigger: [] for trigger in _triggers(tag)}
    for structure in tag.structures:
        for name, text in (("begin", structure.begin), ("end", structure.end)):
            _check_text(f"{name} of a structure", text)
        if not isinstance(structure.schema, JsonSchema):
            raise ConstraintError(f"schema must be a JsonSchema, not {structure.schema!r:.80}")
        found = [trigger for trigger in groups if structure.begin.startswith(trigger)]
        if not found:
            raise ConstraintError(
                f"structure {structure.begin!r:.80} begins with none of the triggers"
            )
        groups[found[0]].append(structure)
    for trigger, structures in groups.items():
        if not structures:
            raise ConstraintError(f"no structure begins with the trigger {trigger!r:.80}")
    return groups


def _triggers(tag: StructuralTag) -> tuple[str, ...]:
    if not tag.triggers:
        raise ConstraintError("a structural tag needs at least one trigger")
    for trigger in tag.triggers:
        _check_text("a trigger", trigger)
        if not trigger:
            raise ConstraintError("a trigger must not be empty")
        for other in tag.triggers:
            if other != trigger and trigger in other:
                raise ConstraintError(
                    f"trigger {other!r:.80} holds trigger {trigger!r:.80}, which would end it"
                )
    if len(set(tag.triggers)) < len(tag.triggers):
        raise ConstraintError(f"triggers: given twice in {tag.triggers!r:.200}")
    return tag.triggers


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise ConstraintError(f"{what} must be a string, not {text!r:.80}")
    limits.check_limit(f"characters of {what}", len(text), limits.MAX_TAG_CHARS)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConstraintError(f"{what} holds half a surrogate pair: {text!r:.80}")


def _body(trigger: str, structures: Sequence[Structure]) -> Node:
    """What may follow a trigger, checked to be read as it is meant."""
    composer = Composer()
    options = [
        Seq(
            (
                literal(structure.begin[len(trigger) :]),
                composer.node(structure.schema),
                literal(structure.end),
            )
        )
        for structure in structures
    ]
    body = Alt(tuple(options))
    composer.check(Seq((body, Rep(ANY_CHAR, 0, None))))
    return body
