"""Plans as JSON: written from a whole plan, read from anybody.

::

    {"sgrt_plan": 1, "notes": [...], "procedures": [{"name", "file", "line", "parameters", "body"}]}

A node is an object with its kind under "is" and its fields by name; `plan.constants` says how
constants are written. Names from outside of the program are constants by then, as they stood when
the plan was written. A plan that needs Python has no JSON.

Reading builds nothing but nodes of `plan.code`, and every name in them is looked up in its lists.
"""

from __future__ import annotations

import inspect
import json
import keyword
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import PurePath
from typing import Any, NoReturn

from sgrt.errors import PlanError
from sgrt.lang.plan import code, constants, show
from sgrt.lang.plan.machine import AUGMENTED, BINARY, COMPARE, UNARY, Frame, Image, Machine

VERSION = 1
_MAX_CHARS = 4_000_000
_MAX_NODES = 50_000
_MAX_DEPTH = 80
_MAX_LINE = 10_000_000
_FOLDED = (code.Const, code.Global, code.Attr, code.Item, code.Items, code.Dict, code.Binary)
_METHODS = (
    code.STR_METHODS | code.LIST_READS | code.LIST_WRITES | code.DICT_READS | code.DICT_WRITES
    | code.STATE_READS | code.STATE_WRITES | code.GROUP_METHODS
)  # fmt: skip
_ALLOWED: Mapping[tuple[str, str], frozenset[str]] = {
    ("Binary", "op"): frozenset(BINARY) - {"**"},
    ("Augment", "op"): frozenset(AUGMENTED) - {"**"},
    ("Unary", "op"): frozenset(UNARY),
    ("Compare", "ops"): frozenset(COMPARE),
    ("Logic", "op"): frozenset({"and", "or"}),
    ("Items", "kind"): frozenset({"list", "tuple", "set"}),
    ("Each", "kind"): frozenset({"list", "set", "dict", "iter", "chain"}),
    ("Format", "conversion"): frozenset({"", "s", "r", "a"}),
    ("Jump", "kind"): frozenset({"break", "continue", "pass"}),
    ("Call", "function"): frozenset(code.FUNCTIONS),
    ("Except", "errors"): frozenset(code.CAUGHT),
    ("Method", "name"): _METHODS,
}


# ---------------------------------------------------------------- writing


def to_json(
    image: Image,
    first: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
    *,
    notes: Sequence[str] = (),
) -> str:
    """A plan's text.

    Args:
        first: values of the program's first parameters (a method's ``self``), which are folded in.
        named: values of other parameters; they become defaults.
        notes: what it had lost before.

    Raises:
        PlanError: Python is needed, or a value from outside has no JSON.
    """
    writer = _Writer(image, first, named or {})
    procedures = [writer.procedure(i) for i in writer.reached]
    plan = {
        "sgrt_plan": VERSION,
        "notes": [*notes, *(n for n in writer.constants.notes if n not in notes)],
        "procedures": procedures,
    }
    return json.dumps(plan, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class _Writer:
    def __init__(self, image: Image, first: Sequence[Any], named: Mapping[str, Any]) -> None:
        self._image = image
        self._first = first
        self._named = named
        self.constants = constants.Writer()
        self.reached = list(_reached(image))

    def procedure(self, index: int) -> dict[str, Any]:
        procedure = self._image.procedures[index]
        parameters: Sequence[code.Parameter] = procedure.parameters
        scope: dict[str, Any] = {}
        if index == 0:
            count = len(self._first)
            scope = {p.name: v for p, v in zip(parameters, self._first, strict=False)}
            parameters = _with_defaults(parameters[count:], self._named)
        frame = Frame(procedure, self._image.functions[index], scope)
        return {
            "name": procedure.name,
            "file": _plain_name(procedure.file),
            "line": procedure.line,
            "parameters": [
                {
                    "name": p.name,
                    "kind": p.kind,
                    **(
                        {}
                        if p.default is None
                        else {"default": self._constant(p.default.value, frame, procedure.line)}
                    ),
                }
                for p in parameters
            ],
            "body": [self._node(node, frame) for node in procedure.body],
        }

    def _node(self, node: code.Node, frame: Frame) -> Any:
        if isinstance(node, code.Python):
            raise PlanError(f"the plan needs Python at {_place(frame, node.line)}: {node.reason}")
        if isinstance(node, (code.Outside, code.Import, code.Put)):
            what = show.written(node)
            raise PlanError(f"the plan needs Python at {_place(frame, node.line)}: {what}")
        if isinstance(node, code.Const):
            return {"is": "Const", "value": self._constant(node.value, frame, frame.line)}
        frame.line = getattr(node, "line", frame.line)
        if isinstance(node, code.Expr) and self._is_from_outside(node, frame):
            value = Machine(self._image).eval(node, frame)
            return {"is": "Const", "value": self._constant(value, frame, frame.line)}
        out: dict[str, Any] = {"is": type(node).__name__}
        for field in fields(node):  # type: ignore[arg-type]  # every node is a dataclass
            out[field.name] = self._field(getattr(node, field.name), frame)
        if isinstance(node, code.Inline):
            out["procedure"] = self.reached.index(node.procedure)
        return out

    def _field(self, value: Any, frame: Frame) -> Any:
        if isinstance(value, code.Node):
            return self._node(value, frame)
        if isinstance(value, tuple):
            return [self._field(item, frame) for item in value]
        return value

    def _is_from_outside(self, node: code.Node, frame: Frame) -> bool:
        """Whether a value is made of names from outside alone."""
        nodes = list(code.walk(node))
        bound = [isinstance(n, code.Local) and n.name in frame.locals for n in nodes]
        folded = all(isinstance(n, _FOLDED) or b for n, b in zip(nodes, bound, strict=True))
        return folded and (any(bound) or any(isinstance(n, code.Global) for n in nodes))

    def _constant(self, value: Any, frame: Frame, line: int) -> Any:
        try:
            return self.constants.write(value)
        except PlanError as error:
            raise PlanError(f"{_place(frame, line)}: {error.message}") from error


def _reached(image: Image) -> dict[int, None]:
    """Procedures that the program calls, itself first."""
    found, ahead = dict.fromkeys([0]), [0]
    while ahead:
        for node in code.walk(*image.procedures[ahead.pop()].body):
            if isinstance(node, code.Inline) and node.procedure not in found:
                found[node.procedure] = None
                ahead.append(node.procedure)
    return found


def _with_defaults(
    parameters: Sequence[code.Parameter], named: Mapping[str, Any]
) -> tuple[code.Parameter, ...]:
    """Parameters of which some are given, by name from then on."""
    by_name = int(inspect.Parameter.KEYWORD_ONLY)
    made = [
        code.Parameter(p.name, by_name, code.Const(named[p.name])) if p.name in named else p
        for p in parameters
    ]
    return tuple(sorted(made, key=lambda p: p.kind))


def _plain_name(file: str) -> str:
    """Without directories, and without what reading puts around it."""
    return PurePath(file).name.removeprefix("<plan ").removesuffix(">")


def _place(frame: Frame, line: int) -> str:
    return f"{frame.file}:{line}"


# ---------------------------------------------------------------- reading


def from_json(text: str | bytes) -> tuple[Image, list[str]]:
    """A plan and its notes.

    Raises:
        PlanError: it is no plan, of another version, or larger than plans are.
    """
    if len(text) > _MAX_CHARS:
        raise PlanError(f"a plan's text has at most {_MAX_CHARS} characters, not {len(text)}")
    try:
        plan = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"the text is not JSON: {error}") from error
    _check_keys(plan, ("sgrt_plan", "notes", "procedures"), "a plan")
    if plan["sgrt_plan"] != VERSION or isinstance(plan["sgrt_plan"], bool):
        raise PlanError(
            f"the plan is of version {plan['sgrt_plan']!r:.20}, this sgrt reads {VERSION}"
        )
    notes = plan["notes"]
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise PlanError("the notes of a plan are texts")
    procedures = plan["procedures"]
    if not isinstance(procedures, list) or not procedures:
        raise PlanError("a plan has procedures")
    reader = _Reader(len(procedures))
    image = Image(tuple(reader.procedure(p) for p in procedures), tuple(None for _ in procedures))
    _check_calls(image)
    _check_handlers(image)
    return image, notes


class _Reader:
    def __init__(self, num_procedures: int) -> None:
        self._num_procedures = num_procedures
        self._nodes = 0

    def procedure(self, value: Any) -> code.Procedure:
        _check_keys(value, ("name", "file", "line", "parameters", "body"), "a procedure")
        if not isinstance(value["parameters"], list):
            raise PlanError("the parameters of a procedure are a list")
        made = code.Procedure(
            _name(value["name"]) if value["name"] != "<lambda>" else "lambda",
            f"<plan {_text(value['file'])[:200]}>",
            self._line(value["line"]),
            tuple(self._parameter(p) for p in value["parameters"]),
            self._many(value["body"], "Stmt", 0),
        )
        try:
            Image((made,), (None,)).signature(0)
        except (ValueError, TypeError) as error:
            raise PlanError(f"the parameters of {made.name} do not go together: {error}") from error
        return made

    def _parameter(self, value: Any) -> code.Parameter:
        if isinstance(value, dict) and "default" in value:
            _check_keys(value, ("name", "kind", "default"), "a parameter")
            default = code.Const(constants.read(value["default"]))
        else:
            _check_keys(value, ("name", "kind"), "a parameter")
            default = None
        kind = value["kind"]
        if type(kind) is not int or kind not in list(inspect._ParameterKind):
            raise PlanError(f"{kind!r:.40} is no kind of parameter")
        return code.Parameter(_name(value["name"]), kind, default)

    def _many(self, value: Any, kind: str, depth: int) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise PlanError(f"{value!r:.40} is no list of nodes")
        return tuple(self._node(item, kind, depth) for item in value)

    def _node(self, value: Any, kind: str, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES or depth > _MAX_DEPTH:
            raise PlanError(f"a plan has at most {_MAX_NODES} nodes, {_MAX_DEPTH} deep")
        known = code.EXPRESSIONS if kind == "Expr" else code.STATEMENTS
        name = value.get("is") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in known or name in ("Python", "Global"):
            raise PlanError(f"{name!r:.40} is no {'expression' if kind == 'Expr' else 'statement'}")
        cls = known[name]
        declared = fields(cls)  # type: ignore[arg-type]  # every node is a dataclass
        _check_keys(value, ("is", *(f.name for f in declared)), name)
        given = {
            f.name: self._field(name, f.name, str(f.type), value[f.name], depth) for f in declared
        }
        made = cls(**given)
        _check_node(made)
        return made

    def _field(self, node: str, name: str, kind: str, value: Any, depth: int) -> Any:
        match kind:
            case "Expr":
                return self._node(value, "Expr", depth + 1)
            case "Expr | None":
                return None if value is None else self._node(value, "Expr", depth + 1)
            case "tuple[Expr, ...]":
                return self._many(value, "Expr", depth + 1)
            case "tuple[Stmt, ...]":
                return self._many(value, "Stmt", depth + 1)
            case "int":
                return self._procedure(value) if name == "procedure" else self._line(value)
            case "str":
                return _listed(node, name, value)
            case "tuple[str, ...]":
                if not isinstance(value, list):
                    raise PlanError(f"{name} of {node} is a list")
                return tuple(_listed(node, name, item) for item in value)
        return constants.read(value)

    def _procedure(self, value: Any) -> int:
        if type(value) is not int or not 0 <= value < self._num_procedures:
            raise PlanError(f"there is no procedure {value!r:.40}")
        return value

    def _line(self, value: Any) -> int:
        if type(value) is not int or not 0 <= value <= _MAX_LINE:
            raise PlanError(f"{value!r:.40} is no line")
        return value


def _listed(node: str, field: str, value: Any) -> str:
    allowed = _ALLOWED.get((node, field))
    if allowed is None:
        if field == "names" and value == "**":
            return "**"
        return _name(value)
    if not isinstance(value, str) or value not in allowed:
        raise PlanError(f"{node} knows no {field} {value!r:.40}")
    return value


def _check_node(node: code.Node) -> None:
    """What the fields of a node must have to do with each other."""
    match node:
        case code.Call() | code.Method() | code.Inline():
            fits = len(node.names) == len(node.values)
        case code.Raise(value=value):
            fits = isinstance(value, code.Call) and value.function in code.ERRORS
        case code.Try(handlers=handlers, final=final):
            are_handlers = [isinstance(each, code.Except) for each in handlers]
            fits = all(are_handlers) and bool(are_handlers or final)
        case code.Except(errors=errors, names=names):
            fits = len(errors) > 0 and len(names) < 2
        case code.Compare(ops=ops, rights=rights):
            fits = len(ops) == len(rights) > 0
        case code.Dict(keys=keys, values=values):
            fits = len(keys) == len(values)
        case code.Logic(values=values):
            fits = len(values) > 0
        case code.Append(target=target):
            fits = isinstance(target, (code.Local, code.Item))
        case code.Assign(target=target) | code.For(target=target) | code.Each(target=target):
            fits = _is_target(target)
        case code.With(target=code.Expr() as target):
            fits = _is_target(target)
        case _:
            fits = True
    if not fits:
        raise PlanError(f"the parts of a {type(node).__name__} do not fit together")


def _is_target(node: code.Expr) -> bool:
    if isinstance(node, code.Items):
        return node.kind == "tuple" and all(map(_is_target, node.items))
    return isinstance(node, (code.Local, code.Item))


def _check_calls(image: Image) -> None:
    """No procedure calls itself, over others either; and the program has a state."""
    first = image.procedures[0].parameters[:1]
    if not first or first[0].kind not in (0, 1):
        raise PlanError("the first procedure of a plan takes the state")
    calls = [
        {n.procedure for n in code.walk(*p.body) if isinstance(n, code.Inline)}
        for p in image.procedures
    ]
    done: set[int] = set()
    for _ in image.procedures:
        done |= {i for i, called in enumerate(calls) if called <= done}
    if len(done) < len(calls):
        raise PlanError("a procedure of the plan calls itself")


def _check_handlers(image: Image) -> None:
    """Handlers stand where they handle something."""
    for procedure in image.procedures:
        nodes = list(code.walk(*procedure.body))
        placed = {id(each) for n in nodes if isinstance(n, code.Try) for each in n.handlers}
        if any(isinstance(n, code.Except) and id(n) not in placed for n in nodes):
            raise PlanError("a plan has an Except outside of the handlers of a Try")


def _check_keys(value: Any, keys: Sequence[str], what: str) -> None:
    if not isinstance(value, dict) or value.keys() != set(keys):
        found = sorted(map(str, value)) if isinstance(value, dict) else value
        raise PlanError(f"{what} has the keys {', '.join(keys)}, not {found!r:.200}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _refuse(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or not value.isidentifier():
        _refuse(value)
    if keyword.iskeyword(value) or value.startswith("__"):
        _refuse(value)
    return value


def _refuse(value: Any) -> NoReturn:
    raise PlanError(f"{value!r:.60} is not a name")
