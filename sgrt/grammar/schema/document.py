"""One schema document: where its resources and anchors are, and what each reference means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote, urljoin, urlsplit

from sgrt.errors import UnsupportedSchema
from sgrt.grammar.schema import standard
from sgrt.grammar.schema.contract import ANNOTATIONS

_BASE = "https://schema.invalid/root"  # of a document without `$id`

Bindings = tuple[tuple[str, "Location"], ...]


class Location(NamedTuple):
    """A schema in the text: its JSON pointer and the URI of the resource it belongs to."""

    pointer: str
    resource: str


@dataclass(eq=False, slots=True)
class Schema:
    """A schema and the dynamic scope it is reached in; one object for each such pair.

    Attributes:
        bindings: what each dynamic anchor means here: its first place on the way.
    """

    node: Any
    at: Location
    bindings: Bindings

    @property
    def pointer(self) -> str:
        return self.at.pointer

    def refuse(self, reason: str, keyword: str | None, hint: str | None = None) -> NoReturn:
        raise UnsupportedSchema(reason, pointer=self.pointer, keyword=keyword, hint=hint)


class Document:
    """The schemas of one JSON text.

    Args:
        share: schemas of one resource that say the same are one, at the place that is asked for
            first; see `repeated`. Real schemas repeat themselves a lot.

    Attributes:
        draft: what the root's `$schema` says, "" where there is none.

    """

    def __init__(self, root: Any, *, share: bool = False) -> None:
        self._nodes: dict[Location, Any] = {}
        self._resources: dict[str, Location] = {}
        self._anchors: dict[tuple[str, str], Location] = {}
        self._dynamic: dict[str, dict[str, Location]] = {}
        self._schemas: dict[tuple[Location, Bindings], Schema] = {}
        self._contents: dict[Location, int] = {}
        self._first: dict[int, Location] = {}
        self._twice: dict[Location, Location] = {}
        """Schemas that have a name, and others that have it too."""
        self._repeated: dict[Location, Location] = {}
        self.draft = str(root.get("$schema", "")) if isinstance(root, dict) else ""
        self._id_key = "id" if self.is_up_to_draft(4) else "$id"
        self._ref_is_alone = self.is_up_to_draft(7)
        start = Location("", self._resource_of(root, _BASE))
        self._resources[""] = start
        schemas = self._index(root, start)
        if share:
            self._compare(schemas)
        self.root = self._enter(self._resources[""], ())

    # names

    def is_up_to_draft(self, number: int) -> bool:
        """Whether the document says that it is of an old draft."""
        found = re.search(r"draft-0(\d)", self.draft)
        return found is not None and int(found[1]) <= number

    def is_after_draft_4(self) -> bool:
        """Whether it says that it is of a later one."""
        return bool(re.search(r"draft(-0[67]|/20)", self.draft))

    def _index(self, root: Any, start: Location) -> list[_Indexed]:
        """Find all schemas, those that hold others before them."""
        self._resources[start.resource] = start
        found: list[_Indexed] = []
        todo = [(root, start)]
        while todo:
            node, at = todo.pop()
            self._nodes[at] = node
            below = {}
            if isinstance(node, dict):
                self._register(node, at)
                for path, child in _children(node):
                    pointer = at.pointer + "".join("/" + escape(part) for part in path)
                    below[path] = Location(pointer, self._resource_of(child, at.resource))
                    todo.append((child, below[path]))
            found.append((node, at, below))
        return found

    def _resource_of(self, node: Any, base: str) -> str:
        name = self._id_of(node)
        if not isinstance(name, str) or name.startswith("#"):
            return base
        return _join(base, name).rstrip("#")

    def _id_of(self, node: Any) -> Any:
        """Its `$id`, in draft 4 `id`; up to draft 7 one beside a `$ref` means nothing."""
        if not isinstance(node, dict) or (self._ref_is_alone and "$ref" in node):
            return None
        return node.get(self._id_key)

    def _register(self, node: dict[str, Any], at: Location) -> None:
        name = self._id_of(node)
        if isinstance(name, str) and name.startswith("#"):  # draft 7's anchors
            self._name(self._anchors, (at.resource, name[1:]), at)
        elif isinstance(name, str):
            self._name(self._resources, at.resource, at)
        anchor = node.get("$anchor")
        if isinstance(anchor, str):
            self._name(self._anchors, (at.resource, anchor), at)
        anchor = node.get("$dynamicAnchor")
        if isinstance(anchor, str):
            self._name(self._dynamic.setdefault(at.resource, {}), anchor, at)
        if node.get("$recursiveAnchor") is True and self._resources.get(at.resource) == at:
            self._dynamic.setdefault(at.resource, {})[_RECURSIVE] = at

    def _name(self, table: dict[Any, Location], key: Any, at: Location) -> None:
        """Two schemas of one name are an error where it is used."""
        first = table.setdefault(key, at)
        if first != at:
            self._twice[first] = at

    # schemas that say the same

    def _compare(self, schemas: list[_Indexed]) -> None:
        """Number what schemas say, annotations left out; those that say the same alike."""
        numbers: dict[Any, int] = {}
        for node, at, below in reversed(schemas):
            inside: dict[str, list[Any]] = {}
            for path, child in below.items():
                inside.setdefault(path[0], []).append((path, self._contents[child]))
            said = node
            if isinstance(node, dict):
                kept = (pair for pair in node.items() if pair[0] not in ANNOTATIONS)
                said = tuple((k, tuple(inside[k]) if k in inside else repr(v)) for k, v in kept)
            key = at.resource, said if isinstance(node, dict) else repr(node)
            self._contents[at] = numbers.setdefault(key, len(numbers))

    def _shared(self, at: Location) -> Location:
        """The place where what stands here is read."""
        content = self._contents.get(at)
        if content is None:
            return at
        first = self._first.setdefault(content, at)
        if first != at:
            self._repeated[at] = first
        return first

    def repeated(self) -> Iterator[tuple[str, str, Any]]:
        """Places that were asked for and are read elsewhere: pointer, the pointer there, node."""
        todo = list(self._repeated.items())
        for at, first in todo:
            node = self._nodes[at]
            yield at.pointer, first.pointer, node
            for path, child in _children(node) if isinstance(node, dict) else ():
                if path[0] not in ANNOTATIONS:
                    below = "".join("/" + escape(part) for part in path)
                    resource = self._resource_of(child, at.resource)
                    there = self._shared(Location(first.pointer + below, resource))
                    todo.append((Location(at.pointer + below, resource), there))

    # schemas

    def _enter(self, at: Location, bindings: Bindings) -> Schema:
        at = self._shared(at)
        known = {name for name, _ in bindings}
        own = self._dynamic.get(at.resource, {})
        bindings += tuple((name, to) for name, to in own.items() if name not in known)
        key = (at, bindings)
        if key not in self._schemas:
            self._schemas[key] = Schema(self._nodes[at], at, bindings)
        return self._schemas[key]

    def child(self, schema: Schema, value: Any, *path: str) -> Schema:
        """The sub-schema at a path below a schema.

        Raises:
            UnsupportedSchema: it is no schema.
        """
        pointer = schema.pointer + "".join("/" + escape(part) for part in path)
        if not isinstance(value, (dict, bool)):
            raise UnsupportedSchema("must be a schema (object, true or false)", pointer=pointer)
        at = Location(pointer, self._resource_of(value, schema.at.resource))
        self._nodes.setdefault(at, value)
        return self._enter(at, schema.bindings)

    def refer(self, schema: Schema, keyword: str, ref: Any) -> Schema:
        """What a `$ref` or `$dynamicRef` leads to.

        Raises:
            UnsupportedSchema: nowhere in this document.
        """
        if not isinstance(ref, str):
            schema.refuse("must be a string", keyword)
        uri, _, fragment = _join(schema.at.resource, ref).partition("#")
        start = self._resources.get(uri) or self._standard(schema, keyword, uri)
        if start is None:
            schema.refuse(f"{ref!r:.80} does not point into this schema", keyword)
        self._check_once(schema, keyword, ref, start)
        if keyword == "$recursiveRef":
            return self._recurse(schema, ref, start)
        if not fragment or fragment.startswith("/"):
            return self._enter(self._walk(schema, keyword, ref, start, fragment), schema.bindings)
        name = unquote(fragment)
        dynamic = self._dynamic.get(start.resource, {}).get(name)
        target = dynamic or self._anchors.get((start.resource, name))
        if target is None:
            schema.refuse(f"{ref!r:.80} leads nowhere", keyword)
        self._check_once(schema, keyword, ref, target)
        if dynamic and keyword == "$dynamicRef":
            target = dict(schema.bindings).get(name, dynamic)
        return self._enter(target, schema.bindings)

    def _check_once(self, schema: Schema, keyword: str, ref: str, target: Location) -> None:
        if target in self._twice:
            both = f"{target.pointer or '/'} and {self._twice[target].pointer or '/'}"
            schema.refuse(f"{ref!r:.80} may mean two schemas of that name: {both}", keyword)

    def _recurse(self, schema: Schema, ref: str, start: Location) -> Schema:
        """Draft 2019-09: the resource at hand, or where it allows it the outermost one on the way."""
        if ref != "#":
            schema.refuse("must be '#'", "$recursiveRef")
        own = self._dynamic.get(start.resource, {}).get(_RECURSIVE)
        target = start if own is None else dict(schema.bindings).get(_RECURSIVE, own)
        return self._enter(target, schema.bindings)

    def _standard(self, schema: Schema, keyword: str, uri: str) -> Location | None:
        """One of the standard's own schemas, taken in."""
        if not standard.is_one(uri):
            return None
        if self._ref_is_alone and "/draft/20" in uri:
            schema.refuse("leads to a schema of a later draft, where $ref means more", keyword)
        node = standard.schema(uri)
        if node is None:
            schema.refuse(f"{uri!r} is not at hand", keyword, standard.HINT)
        self._index(node, Location(f"{uri}#", uri))
        return self._resources[uri]

    def _walk(
        self, schema: Schema, keyword: str, ref: str, start: Location, fragment: str
    ) -> Location:
        """Follow a JSON pointer, also through names that no draft knows; but not into values."""
        path = [unquote(p).replace("~1", "/").replace("~0", "~") for p in fragment.split("/")[1:]]
        node, at = self._nodes[start], start
        is_schema = True
        while path:
            keys = [path.pop(0)]
            if is_schema and keys[0] in _VALUE_PLACES:
                schema.refuse(f"{ref!r:.80} does not lead to a schema", keyword)
            is_schema = is_schema and isinstance(node, dict) and keys[0] in SCHEMA_PLACES
            node = _step(node, keys[0])
            if is_schema and (keys[0] in SCHEMA_MAPS or isinstance(node, list)):
                keys.append(path.pop(0) if path else "")
                node = _step(node, keys[1]) if keys[1] or keys[0] in SCHEMA_MAPS else None
            pointer = at.pointer + "".join("/" + escape(key) for key in keys)
            resource = self._resource_of(node, at.resource)
            if resource != at.resource and not is_schema:
                schema.refuse(f"{ref!r:.80} leads through an $id that is no keyword", keyword)
            at = Location(pointer, resource)
        if not isinstance(node, (dict, bool)):
            schema.refuse(f"{ref!r:.80} leads nowhere", keyword)
        self._nodes.setdefault(at, node)
        return at


_RECURSIVE = "$recursiveAnchor"
"""Among the dynamic anchors of a resource; no `$dynamicAnchor` can be named like that."""

_Indexed = tuple[Any, Location, dict[tuple[str, ...], Location]]
"""A schema, where it is, and where those in it are."""


def _join(base: str, ref: str) -> str:
    if ref.startswith("#") or not ref:
        return base + ref
    return ref if urlsplit(ref).scheme else urljoin(base, ref)


def _children(node: dict[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """Sub-schemas with their paths; what is malformed is left to the reader."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for keyword in SCHEMA_PLACES & node.keys():
        value = node[keyword]
        if keyword in SCHEMA_MAPS:
            pairs = value.items() if isinstance(value, dict) else ()
            found += [((keyword, name), child) for name, child in pairs]
        elif isinstance(value, list):
            found += [((keyword, str(i)), child) for i, child in enumerate(value)]
        else:
            found.append(((keyword,), value))
    return found


def _step(node: Any, key: str) -> Any:
    if isinstance(node, dict):
        return node.get(key)
    if isinstance(node, list) and key.isascii() and key.isdigit() and len(key) < 9:
        return node[int(key)] if int(key) < len(node) else None
    return None


def escape(part: str) -> str:
    """One part of a JSON pointer."""
    return part.replace("~", "~0").replace("/", "~1")


SCHEMA_MAPS = frozenset(
    (
        "$defs", "definitions", "properties", "patternProperties", "dependentSchemas",
        "dependencies",
    )
)  # fmt: skip
"""Keywords that hold schemas by name."""
SCHEMA_PLACES = SCHEMA_MAPS | {
    "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "prefixItems", "items", "contains",
    "additionalItems", "additionalProperties", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties",
}  # fmt: skip
"""Keywords that hold schemas: by name (maps), by index (lists), or one."""
_VALUE_PLACES = frozenset(("enum", "const", "default", "examples"))
