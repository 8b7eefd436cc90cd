"""Free text: up to a mark, without some texts, or with triggers in it that begin something with a
form, such as a tool call.

Text is free until it spells a trigger. Then one of the structures whose ``begin`` starts with
that trigger must follow: the rest of its begin, a value of its schema, its end; then text is free
again. Free text never spells a trigger, so a reader that looks for triggers finds exactly the
tags.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from sgrt.core import AnyText, JsonSchema, StructuralTag, Structure
from sgrt.errors import ConstraintError
from sgrt.grammar import automaton, boxes, charset, limits, regular
from sgrt.grammar.boxes import Box
from sgrt.grammar.rules import EMPTY, Alt, Lexeme, Node, Rep, Seq, literal

if TYPE_CHECKING:
    from sgrt.grammar.compose import Composer

_ANYTHING = "(?s:.)*"


def any_text(part: AnyText, composer: Composer) -> Node:
    """Free text up to a mark, or without one.

    Raises:
        ConstraintError: a text that is none or empty; one that holds another, and so could never
            be spelled; a bound below 0.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    most = part.max_chars
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 0):
        raise ConstraintError(f"AnyText: max_chars={most!r:.80} must be an integer >= 0")
    size = (most or 0) + sum(map(len, (*_distinct("until", part.until), *part.excludes)))
    limits.check_limit("characters of free text", size, limits.MAX_REGEX_SIZE)
    excludes = _excluded(part.excludes, part.until)
    body = _ANYTHING if most is None else f"(?s:.){{0,{most}}}"
    if part.until:
        first = charset.of("".join(text[0] for text in part.until)) if most == 0 else boxes.ANYTHING
        lexeme = _until(part.until, excludes, size, body)
        return composer.box(Box("free text", first, ()), lexeme, is_lazy=True)
    return composer.box(_free_box(excludes), _lexeme(body, excludes, size))


def tag(part: StructuralTag, composer: Composer) -> Node:
    """Free text with tags.

    Raises:
        ConstraintError: a trigger that is empty or holds another, a structure that begins with
            no trigger, a trigger without a structure, or structures that cannot be told apart;
            and whatever the schemas are refused for.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    limits.check_limit("structures", len(part.structures), limits.MAX_STRUCTURES)
    begins: list[tuple[str, Node]] = []
    for i, structure in enumerate(part.structures):
        _check_structure(structure)
        value = composer.node(structure.schema, f"structures[{i}].schema")
        rest = composer.at(Seq((value, literal(structure.end))), f"structures[{i}]")
        begins.append((structure.begin, rest))
    return dispatch(grouped(part.triggers, begins, composer, "structures"), composer)


def grouped(
    triggers: Sequence[str], begins: Iterable[tuple[str, Node]], composer: Composer, key: str
) -> dict[str, Node]:
    """What may follow each trigger.

    Args:
        begins: texts that begin with a trigger, each with what follows it.
        key: what the list of those is called.
    """
    if not triggers:
        raise ConstraintError("a structural tag needs at least one trigger")
    groups: dict[str, list[Node]] = {trigger: [] for trigger in _distinct("trigger", triggers)}
    for i, (begin, rest) in enumerate(begins):
        check_text("begin of a structure", begin)
        found = next((trigger for trigger in groups if begin.startswith(trigger)), None)
        if found is None:
            raise ConstraintError(f"structure {begin!r:.80} begins with none of the triggers")
        head = composer.at(literal(begin[len(found) :]), f"{key}[{i}]")
        groups[found].append(Seq((head, rest)))
    for trigger, options in groups.items():
        if not options:
            raise ConstraintError(f"no structure begins with the trigger {trigger!r:.80}")
    return {trigger: Alt(tuple(options)) for trigger, options in groups.items()}


def dispatch(
    bodies: Mapping[str, Node],
    composer: Composer,
    *,
    ends: Sequence[str] = (),
    excludes: Sequence[str] = (),
    loop: bool = True,
) -> Node:
    """Free text in which each trigger is followed by its body.

    Args:
        ends: the text ends with the first of these that free text spells; none: anywhere.
        excludes: what free text never spells.
        loop: whether text is free again after a body; otherwise ``ends`` follow there.

    Raises:
        ConstraintError: marks that hold one another, triggers that hold what is excluded, or
            bodies whose end cannot be told.
    """
    limits.check_limit("triggers", len(bodies), limits.MAX_TRIGGERS)
    marks = _distinct("trigger", (*bodies, *ends))
    excludes = _excluded(excludes, marks)
    for trigger, text in itertools.product(bodies, excludes):
        if text in trigger:
            raise ConstraintError(f"trigger {trigger!r:.80} holds {text!r:.80}, which is excluded")
    size = sum(map(len, (*marks, *excludes)))
    after: Node = Alt(tuple(map(literal, ends))) if ends else EMPTY
    if loop:
        free = composer.box(Box("free text", boxes.ANYTHING, (), nullable=True), EMPTY)
        composer.check(Seq((Alt(tuple(bodies.values())), free)))
        composer.drop(free)
    else:
        composer.check(Seq((Alt(tuple(bodies.values())), after)))
    name = f"{len(composer.rules)}.dispatch"
    tags: list[Node] = []
    for i, (trigger, body) in enumerate(bodies.items()):
        # As little text as possible: up to the first trigger.
        head = _lexeme(_ANYTHING + _pattern(trigger), excludes, size)
        tags.append(Seq((composer.rule(f"{name}.{i}", head, is_lazy=True), body)))
    if ends:
        end = _until(ends, excludes, size)
        last = composer.rule(f"{name}.end", end, is_lazy=True)
    else:
        free_text = _lexeme(_ANYTHING, (*excludes, *bodies), size)
        last = composer.rule(f"{name}.free", free_text)
    options = Alt(tuple(tags))
    whole: Node = Seq((Rep(options, 0, None), last))
    if not loop:
        whole = Alt((last, Seq((options, after))))
    extends = () if ends else boxes.ANYTHING
    return composer.box(Box("free text", boxes.ANYTHING, extends, not ends), whole)


def check_text(what: str, text: object) -> None:
    """Refuse what is no text, or too long."""
    if not isinstance(text, str):
        raise ConstraintError(f"{what} must be a string, not {text!r:.80}")
    limits.check_limit(f"characters of {what}", len(text), limits.MAX_TAG_CHARS)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConstraintError(f"{what} holds half a surrogate pair: {text!r:.80}")


def _check_structure(structure: Structure) -> None:
    check_text("end of a structure", structure.end)
    if not isinstance(structure.schema, JsonSchema):
        raise ConstraintError(f"schema must be a JsonSchema, not {structure.schema!r:.80}")


def _distinct(what: str, texts: Sequence[str]) -> Sequence[str]:
    """Texts each of which can be met before any other one is."""
    limits.check_limit(f"texts of {what}", len(texts), limits.MAX_TRIGGERS)
    for text in texts:
        _check_mark(what, text)
    for text in texts:
        for other in texts:
            if other != text and text in other:
                raise ConstraintError(
                    f"{what} {other!r:.80} holds {what} {text!r:.80}, which would end it"
                )
    if len(set(texts)) < len(texts):
        raise ConstraintError(f"{what}: given twice in {tuple(texts)!r:.200}")
    return texts


def _check_mark(what: str, text: object) -> None:
    check_text(f"a {what}", text)
    if not text:
        raise ConstraintError(f"a {what} must not be empty")


def _pattern(text: str) -> str:
    return regular.to_pattern(literal(text))


def _one_of(texts: Iterable[str]) -> str:
    return "(?:" + "|".join(map(_pattern, texts)) + ")"


def _until(
    marks: Sequence[str], excludes: Sequence[str], size: int, body: str = _ANYTHING
) -> Lexeme:
    """Texts of a pattern with one of some marks behind, which alone may hold what is excluded."""
    inner = {mark: [text for text in excludes if text in mark] for mark in marks}
    plain = [mark for mark in marks if not inner[mark]]
    sources = [_lexeme(body + _one_of(plain), excludes, size).source] if plain else []
    for mark in marks:
        if inner[mark]:
            outer = [text for text in excludes if text not in mark]
            before = (
                f" & ~/{_ANYTHING}{_pattern(text)}(?s:.){{{len(mark) - len(text) + 1},}}/"
                for text in inner[mark]
            )
            sources.append(_lexeme(body + _pattern(mark), outer, size).source + "".join(before))
    return Lexeme(" | ".join(sources), size)


def _lexeme(body: str, excludes: Sequence[str], size: int) -> Lexeme:
    """Texts of a pattern that spell none of some."""
    without = f" & ~/{_ANYTHING}{_one_of(excludes)}{_ANYTHING}/" if excludes else ""
    return Lexeme(f"/{body}/{without}", size)


def _excluded(excludes: Sequence[str], marks: Sequence[str]) -> Sequence[str]:
    """What free text never spells in front of its marks: those may be named there too. A text that
    holds another one is excluded with it."""
    rest = list(dict.fromkeys(text for text in excludes if text not in marks))
    for text in rest:
        _check_mark("excluded text", text)
    limits.check_limit("excluded texts", len(rest), limits.MAX_TRIGGERS)
    return [text for text in rest if not any(o in text for o in rest if o != text)]


def _free_box(excludes: Sequence[str]) -> Box:
    """Free text that may end anywhere."""
    if not excludes:
        return Box("free text", boxes.ANYTHING, boxes.ANYTHING, nullable=True)
    spelled = automaton.compile(f"{_ANYTHING}{_one_of(excludes)}{_ANYTHING}")
    return boxes.of_automaton("free text", ~spelled)
