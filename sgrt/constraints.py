"""What a text can be held to: constraints as plain, hashable values.

Everyone takes them from `sgrt.core`.

Architecture invariant: this module imports nothing of sgrt but `errors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

from sgrt.errors import ConstraintError


class Composable:
    """What `|`, `+` and `repeat` make of constraints and of strings that stand for themselves."""

    def __or__(self, other: object) -> OneOf:
        """One or the other."""
        return _together(OneOf, self, other)

    def __ror__(self, other: object) -> OneOf:
        return _together(OneOf, other, self)

    def __add__(self, other: object) -> SequenceOf:
        """One after the other."""
        return _together(SequenceOf, self, other)

    def __radd__(self, other: object) -> SequenceOf:
        return _together(SequenceOf, other, self)

    def repeat(
        self, at_least: int = 0, at_most: int | None = None, separator: str = ""
    ) -> RepeatOf:
        """Several times; arguments as of `RepeatOf`."""
        return RepeatOf(cast("Constraint", self), at_least, at_most, separator)


Separators = Literal["compact", "fixed", "flexible"]


@dataclass(frozen=True)
class JsonSchema(Composable):
    """Text is JSON that satisfies a schema.

    Args:
        schema: JSON text, draft 2020-12.
        separators: how the values are laid out, those of `enum` and `const` too. "compact": no
            white space. "fixed": ``", "`` and ``": "``, as `json.dumps` writes, no other white
            space; more tokens are forced. "flexible": white space as the model likes, beside any
            mark inside of the value, but bounded in each place and never before or after it.
        whitespace: for "flexible", a pattern of all that may stand in one place; it must match
            the empty text and nothing without end. None is nothing, one space, or one line break
            with an indent of up to 32 spaces or 8 tabs.

    Raises:
        ConstraintError: another policy, or white space without "flexible".
    """

    schema: str
    separators: Separators = "compact"
    whitespace: str | None = None

    def __post_init__(self) -> None:
        if self.separators not in get_args(Separators):
            known = ", ".join(map(repr, get_args(Separators)))
            raise ConstraintError(f"separators={self.separators!r:.80} must be one of {known}")
        if self.whitespace is not None and self.separators != "flexible":
            raise ConstraintError(f"whitespace={self.whitespace!r:.80} needs separators='flexible'")


@dataclass(frozen=True)
class Regex(Composable):
    """The whole text matches a pattern (anchored at both ends)."""

    pattern: str


@dataclass(frozen=True)
class Choices(Composable):
    """The whole text is one of these strings."""

    options: tuple[str, ...]


@dataclass(frozen=True)
class Lark(Composable):
    """The whole text is written by a grammar.

    Args:
        grammar: Lark text whose first rule is ``start``, or the name of a grammar that is
            shipped with sgrt (``"sql_select"``). `sgrt.grammar.lark_` says what is read how.
    """

    grammar: str


@dataclass(frozen=True)
class Ebnf(Composable):
    """The whole text is written by an EBNF grammar, a plain context-free one.

    Args:
        grammar: EBNF text; text begins with the rule ``root``. `sgrt.grammar.ebnf` says what is
            read.
        dialect: "gbnf", that of llama.cpp, or "xgrammar", that of xgrammar and SGLang.
    """

    grammar: str
    dialect: Literal["gbnf", "xgrammar"] = "gbnf"


@dataclass(frozen=True)
class Structure:
    """One form that a `StructuralTag` knows.

    Args:
        begin: starts with one of the triggers.
        schema: compact JSON of this schema follows.
        end: follows the JSON; may be empty.
    """

    begin: str
    schema: JsonSchema
    end: str = ""


@dataclass(frozen=True)
class StructuralTag(Composable):
    """Free text, in which each trigger begins one of the structures: tool calls inside of text.

    Args:
        structures: what may follow the triggers.
        triggers: texts that free text never spells; each is where some structure begins.
    """

    structures: tuple[Structure, ...]
    triggers: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "structures", tuple(self.structures))
        object.__setattr__(self, "triggers", tuple(self.triggers))

    @classmethod
    def from_dict(cls, value: object) -> StructuralTag | StructuralFormat:
        """The forms that servers take: ``{"type": "structural_tag", "format": {…}}``, or the old
        ``{"type": "structural_tag", "structures": [{"begin": …, "schema": …, "end": …}, …],
        "triggers": […]}``.

        Raises:
            ConstraintError: a key is missing, unknown or of the wrong type.
        """
        if isinstance(value, Mapping) and "format" in value:
            return StructuralFormat.from_dict(value)
        if isinstance(value, Mapping) and not value.keys() & {"structures", "triggers"}:
            raise ConstraintError("structural_tag lacks 'format', or 'structures' and 'triggers'")
        _check_keys("structural_tag", value, {"structures": list, "triggers": list}, {"type": str})
        assert isinstance(value, Mapping)
        _check_tag_type(value)
        structures = []
        for i, item in enumerate(value["structures"]):
            where = f"structural_tag: structures[{i}]"
            _check_keys(where, item, {"begin": str, "schema": (Mapping, bool), "end": str}, {})
            schema = _json_text(f"{where}: schema", item["schema"])
            structures.append(Structure(item["begin"], JsonSchema(schema), item["end"]))
        return cls(tuple(structures), tuple(value["triggers"]))


@dataclass(frozen=True)
class StructuralFormat(Composable):
    """Text put together from formats, as xgrammar, SGLang and vLLM take it: constants, schemas,
    patterns, free text, and tags around or between them.

    Args:
        format: JSON text of a format object, ``{"type": "sequence", "elements": […]}``;
            `sgrt.grammar.tag_format` says what is read and how.
    """

    format: str

    @classmethod
    def from_dict(cls, value: object) -> StructuralFormat:
        """``{"type": "structural_tag", "format": {…}}``.

        Raises:
            ConstraintError: a key is missing, unknown or of the wrong type.
        """
        _check_keys("structural_tag", value, {"format": Mapping}, {"type": str})
        assert isinstance(value, Mapping)
        _check_tag_type(value)
        return cls(_json_text("structural_tag: format", value["format"]))


@dataclass(frozen=True)
class AnyText(Composable):
    """Free text.

    Args:
        until: the text ends with the first of these that it spells, and only there. None given:
            it may end anywhere.
        excludes: what it never spells.
        max_chars: most characters, those of ``until`` not counted.

    Raises:
        ConstraintError: ``until`` or ``excludes`` that is neither a text nor several.
    """

    until: tuple[str, ...] | str = ()
    excludes: tuple[str, ...] | str = ()
    max_chars: int | None = None

    def __post_init__(self) -> None:
        for name in ("until", "excludes"):
            given = getattr(self, name)
            if not isinstance(given, (str, list, tuple)):
                raise ConstraintError(f"AnyText: {name}={given!r:.80} must be texts")
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))


def _check_tag_type(value: Mapping[str, Any]) -> None:
    if value.get("type", "structural_tag") != "structural_tag":
        raise ConstraintError(f"structural_tag: type={value['type']!r:.80} is another one")


def _json_text(where: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(f"{where} is not JSON: {error}") from error


_Kind = type | tuple[type, ...]


def _check_keys(
    where: str, value: object, needed: Mapping[str, _Kind], optional: Mapping[str, _Kind]
) -> None:
    """Refuse what is not an object of exactly these keys."""
    if not isinstance(value, Mapping):
        raise ConstraintError(f"{where} must be an object, not {value!r:.80}")
    for key, kind in {**needed, **optional}.items():
        if key not in value and key in needed:
            raise ConstraintError(f"{where} lacks {key!r}")
        if key in value and not isinstance(value[key], kind):
            raise ConstraintError(f"{where}: {key!r} cannot be {value[key]!r:.80}")
    for key in value:
        if key not in needed and key not in optional:
            known = ", ".join([*needed, *optional])
            raise ConstraintError(f"{where} has no key {key!r:.80}", hint=f"it has {known}")


@dataclass(frozen=True)
class Substring(Composable):
    """The text is a contiguous, non-empty part of another: a quotation.

    Args:
        text: what is quoted from.
        by: "characters" takes any part; "words" takes parts that begin and end at the edge of a
            word (letters, digits and ``_`` stay together).
    """

    text: str
    by: Literal["characters", "words"] = "characters"


@dataclass(frozen=True)
class SequenceOf(Composable):
    """One after the other, nothing between.

    Args:
        parts: constraints, and strings that stand for themselves.
    """

    parts: tuple[Constraint | str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))


@dataclass(frozen=True)
class OneOf(Composable):
    """One of these constraints, or of these strings."""

    options: tuple[Constraint | str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))


@dataclass(frozen=True)
class RepeatOf(Composable):
    """The same constraint several times.

    Args:
        at_least: how often, 0 or more.
        at_most: None for no limit.
        separator: stands between two of them.
    """

    part: Constraint | str
    at_least: int = 0
    at_most: int | None = None
    separator: str = ""


Constraint = (
    JsonSchema
    | Regex
    | Choices
    | Lark
    | Ebnf
    | StructuralTag
    | StructuralFormat
    | AnyText
    | Substring
    | SequenceOf
    | OneOf
    | RepeatOf
)
"""What a text can be held to. A composition is exact as a whole (the parts of ``SequenceOf``
divide the text in any way that fits); one that the engine would read otherwise is refused."""


_Composed = TypeVar("_Composed", OneOf, SequenceOf)


def _together(kind: type[_Composed], *parts: object) -> _Composed:
    """A composition, with the parts of compositions of the same kind taken out of them."""
    flat: list[Any] = []
    for part in parts:
        if not isinstance(part, (str, Composable)):
            return NotImplemented  # type: ignore[no-any-return]
        if isinstance(part, kind):
            flat += part.options if isinstance(part, OneOf) else part.parts
        else:
            flat.append(part)
    return kind(tuple(flat))
