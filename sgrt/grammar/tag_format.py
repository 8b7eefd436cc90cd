"""Structural tags as formats: what xgrammar defines, and SGLang and vLLM take.

| type | what is written |
|---|---|
| `const_string` | `value` |
| `json_schema` | compact JSON in the order of the schema (`any_order` and `max_whitespace_cnt` allow more, which is not written); arguments in the `style` of a model, see `tag_styles` |
| `qwen_xml_parameter` | the same with `style` "qwen_xml" |
| `regex`, `grammar` | a `Regex`; an `Ebnf` of dialect "xgrammar" |
| `any_text` | free text, up to the `end` of the tag around it |
| `sequence`, `or`, `optional`, `plus`, `star`, `repeat` | what they hold, put together |
| `tag` | `begin`, `content`, `end` (one of several) |
| `triggered_tags`, `dispatch` | free text in which triggers begin tags or formats |
| `tags_with_separator` | tags and nothing else |

Refused by name: formats over tokens, since a constraint writes text; `max_tokens`. Every key that is
not known is refused. What a `json_schema` excludes stands in none of its strings and keys.

Free text ends with the first end of the tag around it, or, in a sequence, with the first constant
after it that it excludes. It never spells what it excludes; what ends it may. Elsewhere nothing can follow free text that could be part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from sgrt.core import AnyText, Ebnf, JsonSchema, Regex, StructuralFormat
from sgrt.errors import ConstraintError, UnsupportedSchema
from sgrt.grammar import excluded, json_text, structural, tag_styles
from sgrt.grammar.audit import placed
from sgrt.grammar.rules import Alt, Node, Rep, Seq, literal

if TYPE_CHECKING:
    from sgrt.grammar.compose import Composer

Format = dict[str, Any]
_Keys = dict[str, tuple[type, ...]]

_LIST, _DICT, _TEXT, _BOOL, _INT = (list,), (dict,), (str,), (bool,), (int,)
_COUNT = (int, type(None))
_TRIGGERED: _Keys = {"at_least_one": _BOOL, "stop_after_first": _BOOL}
# Of each type: the keys that it must have, and those that it may have.
FORMATS: dict[str, tuple[_Keys, _Keys]] = {
    "const_string": ({"value": _TEXT}, {}),
    "json_schema": (
        {"json_schema": (dict, bool)},
        {"style": _TEXT, "any_order": _BOOL, "max_whitespace_cnt": _COUNT, "excludes": _LIST},
    ),
    "qwen_xml_parameter": ({"json_schema": (dict, bool)}, {}),
    "any_text": ({}, {"excludes": _LIST, "max_tokens": _COUNT, "max_chars": _COUNT}),
    "grammar": ({"grammar": _TEXT}, {}),
    "regex": ({"pattern": _TEXT}, {}),
    "sequence": ({"elements": _LIST}, {}),
    "or": ({"elements": _LIST}, {}),
    "optional": ({"content": _DICT}, {}),
    "plus": ({"content": _DICT}, {}),
    "star": ({"content": _DICT}, {}),
    "repeat": ({"min": _INT, "max": _INT, "content": _DICT}, {}),
    "tag": ({"begin": (str, dict), "content": _DICT, "end": (str, list, dict)}, {}),
    "triggered_tags": ({"triggers": _LIST, "tags": _LIST}, {**_TRIGGERED, "excludes": _LIST}),
    "tags_with_separator": ({"tags": _LIST, "separator": _TEXT}, _TRIGGERED),
    "dispatch": ({"rules": _LIST}, {"loop": _BOOL, "excludes": _LIST}),
}
REFUSED = {
    "token": "tokens cannot be written by a constraint, only text",
    "exclude_token": "tokens cannot be written by a constraint, only text",
    "any_tokens": "tokens cannot be written by a constraint, only text; any_text is free text",
    "token_triggered_tags": "tokens cannot be written by a constraint; use triggered_tags",
    "token_dispatch": "tokens cannot be written by a constraint; use dispatch",
}
_FREE = ("any_text", "triggered_tags", "dispatch")
_REPEATS: dict[str, tuple[int, int | None]] = {
    "optional": (0, 1),
    "plus": (1, None),
    "star": (0, None),
}


def node(constraint: StructuralFormat, composer: Composer) -> Node:
    """The node of a format.

    Raises:
        ConstraintError: an unknown type or key, a wrong value (by their paths), something that
            is refused, or a part that is.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    return _Reader(composer).node(parsed(constraint), "format", ())


def parsed(constraint: StructuralFormat) -> Format:
    """The format object.

    Raises:
        ConstraintError: it is no JSON object.
        GrammarBudgetExceeded: too long or too deep.
    """
    try:
        value = json_text.parse(constraint.format)
    except UnsupportedSchema as error:
        raise ConstraintError(f"structural_tag: format {error.reason}") from error
    if not isinstance(value, dict):
        _fail("format", f"must be an object, not {value!r:.80}")
    return value


def parts(value: Format, path: str) -> Iterator[tuple[str, Any]]:
    """What stands in the places of formats directly inside of one, with their paths."""
    if "content" in value:
        yield f"{path}.content", value["content"]
    for key in ("elements", "tags", "rules"):
        items = value.get(key)
        for i, item in enumerate(items if isinstance(items, list) else ()):
            if key == "tags" and isinstance(item, dict):
                yield f"{path}.{key}[{i}]", {"type": "tag", **item}
            elif key != "rules":
                yield f"{path}.{key}[{i}]", item
            elif isinstance(item, list) and len(item) == 2:
                yield f"{path}.rules[{i}][1]", item[1]


def schema_of(value: Format) -> JsonSchema:
    """The constraint of a format that is a schema."""
    return JsonSchema(json_text.dump(value["json_schema"]))


def style_of(value: Format) -> str:
    """How a format that is a schema writes its values."""
    return str(value.get("style", "json")) if kind_of(value) == "json_schema" else "qwen_xml"


class _Reader:
    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.place = composer.place

    def node(self, value: object, path: str, ends: Sequence[str]) -> Node:
        """A format followed by one of ``ends``, where there are any."""
        around = self.composer.place
        self.composer.place = f"{self.place}.{path}".strip(".")
        try:
            return self.composer.at(self._node(value, path, ends))
        finally:
            self.composer.place = around  # errors have their paths already

    def _node(self, value: object, path: str, ends: Sequence[str]) -> Node:
        kind = _checked(value, path)
        assert isinstance(value, dict)
        if kind in _FREE:
            return self._free(kind, value, path, ends)
        if kind == "sequence":
            return self._sequence(value["elements"], f"{path}.elements", ends)
        if kind == "or":
            options = _filled(value["elements"], f"{path}.elements")
            return Alt(tuple(self.node(v, f"{path}.elements[{i}]", ends) for i, v in options))
        if kind == "tag" and _ends_of(value, path) == ("",):
            content = self.node(value["content"], f"{path}.content", ends)
            return Seq((literal(_begin(value, path)), content))
        return Seq((_PLAIN[kind](self, value, path), Alt(tuple(map(literal, ends or ("",))))))

    def _sequence(self, elements: list[Any], path: str, ends: Sequence[str]) -> Node:
        nodes: list[Node] = []
        values = _filled(elements, path)
        for i, value in values:
            after = ends if i == len(elements) - 1 else ()
            if i and _stop(elements[i - 1], value):
                _checked(value, f"{path}[{i}]")
                nodes.append(Alt(tuple(map(literal, after or ("",)))))  # it was read with the last
                continue
            if i < len(elements) - 1 and (stop := _stop(value, elements[i + 1])):
                after = (stop,)
            nodes.append(self.node(value, f"{path}[{i}]", after))
        return Seq(tuple(nodes))

    # free text

    def _free(self, kind: str, value: Format, path: str, ends: Sequence[str]) -> Node:
        excludes = _texts(value.get("excludes", []), f"{path}.excludes")
        if kind == "any_text":
            if value.get("max_tokens") is not None:
                _fail(f"{path}.max_tokens", "tokens are not counted; max_chars is")
            text = AnyText(tuple(ends), excludes, value.get("max_chars"))
            return self._part(text, path)
        try:
            if kind == "dispatch":
                bodies = self._rules(value["rules"], f"{path}.rules")
                loop = value.get("loop", True)
                return self._dispatch(bodies, ends, excludes, loop)
            return self._triggered(value, path, ends, excludes)
        except ConstraintError as error:
            raise _placed(error, path) from error

    def _dispatch(
        self, bodies: dict[str, Node], ends: Sequence[str], excludes: Sequence[str], loop: bool
    ) -> Node:
        return structural.dispatch(bodies, self.composer, ends=ends, excludes=excludes, loop=loop)

    def _rules(self, rules: list[Any], path: str) -> dict[str, Node]:
        bodies: dict[str, Node] = {}
        for i, rule in _filled(rules, path):
            if not isinstance(rule, list) or len(rule) != 2 or not isinstance(rule[0], str):
                _fail(f"{path}[{i}]", "must be a list of a string and a format")
            if rule[0] in bodies:
                _fail(f"{path}[{i}]", f"{rule[0]!r:.80} is given twice")
            bodies[rule[0]] = self.node(rule[1], f"{path}[{i}][1]", ())
        return bodies

    def _triggered(
        self, value: Format, path: str, ends: Sequence[str], excludes: Sequence[str]
    ) -> Node:
        triggers = _texts(value["triggers"], f"{path}.triggers")
        tags = [(_begin(v, p), self._after_begin(v, p)) for v, p in _tags(value, path)]
        bodies = structural.grouped(triggers, tags, self.composer, "tags")
        once = value.get("stop_after_first", False)
        if not value.get("at_least_one", False):
            return self._dispatch(bodies, ends, excludes, loop=not once)
        first = Alt(tuple(Seq((literal(begin), rest)) for begin, rest in tags))
        if once:
            return Seq((first, Alt(tuple(map(literal, ends or ("",))))))
        return Seq((first, self._dispatch(bodies, ends, excludes, loop=True)))

    # the others

    def _const(self, value: Format, path: str) -> Node:
        structural.check_text(f"{path}.value", value["value"])
        return literal(value["value"])

    def _schema(self, value: Format, path: str) -> Node:
        style = style_of(value)
        if style != "json" and style not in tag_styles.STYLES:
            known = ", ".join(("json", *tag_styles.STYLES))
            _fail(f"{path}.style", f"{style!r:.80} is not written", f"these are: {known}")
        most = value.get("max_whitespace_cnt")
        if most is not None and most < 0:
            _fail(f"{path}.max_whitespace_cnt", f"{most} is below 0")
        excludes = _excluded_in_json(value, path)
        if style == "json" and not excludes:
            return self._part(schema_of(value), path)
        try:
            if style == "json":
                return self._schema_without(value["json_schema"], excludes)
            return tag_styles.node(value["json_schema"], style, self.composer, excludes)
        except ConstraintError as error:
            raise _placed(error, path) from error

    def _schema_without(self, schema: Any, excludes: Sequence[str]) -> Node:
        if schema is False:
            return self.composer.node(JsonSchema("false"))
        whole = excluded.whole({} if schema is True else schema, excludes)
        try:
            return self.composer.node(JsonSchema(whole))
        except UnsupportedSchema as error:
            raise excluded.placed(error) from error

    def _grammar(self, value: Format, path: str) -> Node:
        return self._part(Ebnf(value["grammar"], "xgrammar"), path)

    def _regex(self, value: Format, path: str) -> Node:
        return self._part(Regex(value["pattern"]), path)

    def _repeat(self, value: Format, path: str) -> Node:
        low, high = _REPEATS.get(value["type"], (value.get("min", 0), value.get("max")))
        if low < 0 or (high is not None and high < max(low, 0) and high != -1):
            _fail(path, f"min={low} and max={high} are no bounds")
        body = self.node(value["content"], f"{path}.content", ())
        return Rep(body, low, None if high == -1 else high)

    def _tag(self, value: Format, path: str) -> Node:
        return Seq((literal(_begin(value, path)), self._after_begin(value, path)))

    def _after_begin(self, value: Format, path: str) -> Node:
        ends = _ends_of(value, path)
        return self.node(value["content"], f"{path}.content", () if ends == ("",) else ends)

    def _separated(self, value: Format, path: str) -> Node:
        tags = Alt(tuple(self._tag(v, p) for v, p in _tags(value, path)))
        structural.check_text(f"{path}.separator", value["separator"])
        more = Rep(Seq((literal(value["separator"]), tags)), 0, None)
        one = tags if value.get("stop_after_first", False) else Seq((tags, more))
        return one if value.get("at_least_one", False) else Rep(one, 0, 1)

    def _part(self, part: Any, path: str) -> Node:
        try:
            return self.composer.node(part)
        except ConstraintError as error:
            raise _placed(error, path) from error


def kind_of(value: Format) -> str:
    """The type of a format; "" where that is no text."""
    kind = value.get("type")
    return kind if isinstance(kind, str) else ""


def _checked(value: object, path: str, default: str = "") -> str:
    """The type of a format whose keys are right.

    Args:
        default: its type where it names none.
    """
    if not isinstance(value, dict):
        _fail(path, f"must be a format object, not {value!r:.80}")
    kind = kind_of(value) if "type" in value else default
    if kind in REFUSED:
        _fail(path, f"type={kind!r}: {REFUSED[kind]}")
    if kind not in FORMATS:
        known = "it is one of " + ", ".join(FORMATS)
        _fail(path, f"type={value.get('type')!r:.80} is no format", known)
    needed, optional = FORMATS[kind]
    for key in needed:
        if key not in value:
            _fail(path, f"lacks {key!r}")
    for key, item in value.items():
        kinds = {"type": _TEXT, **needed, **optional}.get(key)
        if kinds is None:
            known = ", ".join(["type", *needed, *optional])
            _fail(path, f"{kind} has no key {key!r:.80}", f"it has {known}")
        if not isinstance(item, kinds) or (isinstance(item, bool) and bool not in kinds):
            _fail(f"{path}.{key}", f"cannot be {item!r:.80}")
    return kind


def _stop(value: object, after: object) -> str:
    """The constant behind free text that free text excludes, or ""."""
    if not isinstance(value, dict) or not isinstance(after, dict):
        return ""
    excludes, text = value.get("excludes"), after.get("value")
    is_stopped = kind_of(value) in _FREE and kind_of(after) == "const_string"
    is_excluded = isinstance(excludes, list) and isinstance(text, str) and text in excludes
    return str(text) if is_stopped and is_excluded else ""


def _filled(values: list[Any], path: str) -> list[tuple[int, Any]]:
    if not values:
        _fail(path, "must not be empty")
    return list(enumerate(values))


def _texts(values: list[Any], path: str) -> tuple[str, ...]:
    for i, text in enumerate(values):
        if not isinstance(text, str) or not text:
            _fail(f"{path}[{i}]", f"must be a string that is not empty, not {text!r:.80}")
    return tuple(values)


def _excluded_in_json(value: Format, path: str) -> tuple[str, ...]:
    texts = _texts(value.get("excludes", []), f"{path}.excludes")
    for i, text in enumerate(texts):
        if not excluded.is_plain(text):
            _fail(f"{path}.excludes[{i}]", f"{text!r:.80} is not told from an escape of JSON")
    return texts


def _tags(value: Format, path: str) -> list[tuple[Format, str]]:
    found = [(tag, f"{path}.tags[{i}]") for i, tag in _filled(value["tags"], f"{path}.tags")]
    for tag, place in found:
        if _checked(tag, place, "tag") != "tag":
            _fail(place, "must be a tag")
    return found


def _begin(value: Format, path: str) -> str:
    begin = value["begin"]
    if not isinstance(begin, str):
        _fail(f"{path}.begin", "tokens cannot be written by a constraint, only text")
    structural.check_text(f"{path}.begin", begin)
    return str(begin)


def _ends_of(value: Format, path: str) -> tuple[str, ...]:
    end = value["end"]
    if isinstance(end, dict):
        _fail(f"{path}.end", "tokens cannot be written by a constraint, only text")
    ends = (
        (end,) if isinstance(end, str) else tuple(text for _, text in _filled(end, f"{path}.end"))
    )
    for text in ends:
        structural.check_text(f"{path}.end", text)
    return ends


def _fail(path: str, reason: str, hint: str | None = None) -> NoReturn:
    raise ConstraintError(f"structural_tag: {path}: {reason}", hint=hint)


def _placed(error: ConstraintError, path: str) -> ConstraintError:
    """The error with its path, where it has none."""
    is_placed = error.message.startswith("structural_tag: ")
    return error if is_placed else placed(error, f"structural_tag: {path}")


_PLAIN: dict[str, Callable[[_Reader, Format, str], Node]] = {
    "const_string": _Reader._const,
    "json_schema": _Reader._schema,
    "qwen_xml_parameter": _Reader._schema,
    "grammar": _Reader._grammar,
    "regex": _Reader._regex,
    "tag": _Reader._tag,
    "tags_with_separator": _Reader._separated,
    **dict.fromkeys(("optional", "plus", "star", "repeat"), _Reader._repeat),
}
