"""A plan for the eye: its code as lines, numbered, with the segments that reach the engine whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sgrt.lang.plan import code
from sgrt.lang.plan.machine import Image

_WIDTH = 100


@dataclass(frozen=True)
class Row:
    """One line of a plan.

    Args:
        segments: numbers of the segments that it adds to; empty where it adds to none.
        why: why a segment ends here; "" where none does.
    """

    line: int
    depth: int
    text: str
    segments: tuple[int, ...] = ()
    why: str = ""


def rows(image: Image) -> list[Row]:
    """The program's lines, then those of each procedure it calls."""
    painter = _Painter(image)
    found = list(painter.block(image.procedures[0].body, 0))
    for index, procedure in enumerate(image.procedures[1:], 1):
        if index in painter.called:
            names = ", ".join(p.name for p in procedure.parameters)
            found.append(Row(procedure.line, 0, f"def {procedure.name}({names}):"))
            found += _Painter(image).block(procedure.body, 1)
    return found


def effects(image: Image, node: code.Node) -> Iterator[str]:
    """What evaluating a node does to the text, in order.

    "say": adds to the segment that is open; anything else says why what was said before must be
    answered, so that what follows is another segment.
    """
    match node:
        case code.Append(target=target, value=value):
            yield from effects(image, target)
            yield from effects(image, value)
            yield "say"
            if any(isinstance(n, code.Call) and n.function == "select" for n in code.walk(value)):
                yield "an option is chosen"
            return
        case code.Assign(target=code.Item(), value=value):
            yield from effects(image, value)  # a name that is given a value is not read
            return
        case code.If(test=test, then=then, other=other):
            yield from effects(image, test)
            for body in (then, other):
                for statement in body:
                    yield from effects(image, statement)
            return
    for child in code.children(node):
        yield from effects(image, child)
    match node:
        case code.Inline(procedure=index):
            for statement in image.procedures[index].body:
                yield from effects(image, statement)
        case code.Method(name=name) if name in ("system", "user", "assistant"):
            yield "say"
        case code.Method(name="fork" | "copy" as name):
            yield f"{name}()"
        case code.Python(reason=reason):
            yield reason
        case code.Method(name=name) if name in code.STATE_READS:
            yield f"{name}() is read"
        case code.Item(index=code.Const(str(name))):
            yield f"{name!r} is read"


class _Painter:
    def __init__(self, image: Image) -> None:
        self._image = image
        self._number = 1
        self._is_open = False
        self.called: set[int] = set()

    def block(self, body: Sequence[code.Stmt], depth: int) -> Iterator[Row]:
        for statement in body:
            yield from self._statement(statement, depth)

    def _statement(self, node: code.Stmt, depth: int) -> Iterator[Row]:
        for each in code.walk(node):
            if isinstance(each, code.Inline):
                self.called.add(each.procedure)
        match node:
            case code.If(test=test, then=then, other=other):
                yield Row(node.line, depth, f"if {written(test)}:", *self._take(test))
                yield from self.block(then, depth + 1)
                if other:
                    yield Row(node.line, depth, "else:")
                    yield from self.block(other, depth + 1)
            case code.For(target=target, items=items, body=body, other=other):
                head = f"for {written(target)} in {written(items)}:"
                yield Row(node.line, depth, head, *self._take(items))
                yield from self._body(body, other, node.line, depth)
            case code.While(test=test, body=body, other=other):
                yield Row(node.line, depth, f"while {written(test)}:", *self._take(test))
                yield from self._body(body, other, node.line, depth)
            case code.With(value=value, target=target, body=body):
                name = "" if target is None else f" as {written(target)}"
                yield Row(node.line, depth, f"with {written(value)}{name}:", *self._take(value))
                yield from self.block(body, depth + 1)
            case code.Try(body=body, handlers=handlers, other=other, final=final):
                yield Row(node.line, depth, "try:")
                yield from self.block(body, depth + 1)
                yield from self.block(handlers, depth)
                for word, rest in (("else:", other), ("finally:", final)):
                    if rest:
                        yield Row(rest[0].line, depth, word)
                        yield from self.block(rest, depth + 1)
            case code.Except(errors=errors, names=names, body=body):
                name = "".join(f" as {name}" for name in names)
                yield Row(node.line, depth, f"except {' | '.join(errors)}{name}:")
                yield from self.block(body, depth + 1)
            case code.Python(last=last, reason=reason):
                until = f"–{last}" if last > node.line else ""
                self._take(node)
                yield Row(node.line, depth, f"Python, line {node.line}{until}: {reason}")
            case _:
                yield Row(node.line, depth, written(node), *self._take(node))

    def _body(
        self, body: Sequence[code.Stmt], other: Sequence[code.Stmt], line: int, depth: int
    ) -> Iterator[Row]:
        yield from self.block(body, depth + 1)
        if other:
            yield Row(line, depth, "else:")
            yield from self.block(other, depth + 1)

    def _take(self, node: code.Node) -> tuple[tuple[int, ...], str]:
        """Segments that a node adds to, and why the one that was open has ended."""
        touched: dict[int, None] = {}
        why = ""
        for effect in effects(self._image, node):
            if effect == "say":
                self._is_open = True
                touched[self._number] = None
            elif self._is_open:
                self._number, self._is_open = self._number + 1, False
                why = why or effect
        return tuple(touched), why


def written(node: code.Node | None) -> str:
    """A node, about as it was written."""
    return _shortened(_written(node))


def _shortened(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _written(node: code.Node | None) -> str:
    match node:
        case None:
            return ""
        case code.Const(value):
            return _shortened(repr(value))
        case code.Local(name) | code.Global(name):
            return name
        case code.Joined(parts):
            return "f" + repr("".join(map(_in_text, parts)))
        case code.Format():
            return "f" + repr(_in_text(node))
        case code.Binary(op=op, left=left, right=right):
            return f"{_written(left)} {op} {_written(right)}"
        case code.Unary(op=op, value=value):
            return f"{op}{' ' if op == 'not' else ''}{_written(value)}"
        case code.Compare(left=left, ops=ops, rights=rights):
            rest = (f" {op} {_written(right)}" for op, right in zip(ops, rights, strict=True))
            return _written(left) + "".join(rest)
        case code.Logic(op=op, values=values):
            return f" {op} ".join(map(_written, values))
        case code.IfElse(test=test, then=then, other=other):
            return f"{_written(then)} if {_written(test)} else {_written(other)}"
        case code.Items(kind=kind, items=items):
            brackets = {"list": "[]", "tuple": "()", "set": "{}"}[kind]
            return brackets[0] + ", ".join(map(_written, items)) + brackets[1]
        case code.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return "{" + ", ".join(f"{_written(k)}: {_written(v)}" for k, v in pairs) + "}"
        case code.Item(value=value, index=index):
            return f"{_written(value)}[{_written(index)}]"
        case code.Slice(lower=lower, upper=upper, step=step):
            return ":".join(map(_written, (lower, upper) if step is None else (lower, upper, step)))
        case code.Attr(value=value, name=name):
            return f"{_written(value)}.{name}"
    return _calling(node)


def _calling(node: code.Node) -> str:
    match node:
        case code.Call(function=name):
            return f"{name}({_arguments(node)})"
        case code.Method(value=value, name=name):
            return f"{_written(value)}.{name}({_arguments(node)})"
        case code.Outside(function=function):
            rest = "" if node.rest is None else f"*{_written(node.rest)}, "
            return f"{_written(function)}({rest}{_arguments(node)})"
        case code.Import(source=source):
            return source
        case code.Put(target=target, value=value):
            return f"{_written(target)} = {_written(value)}"
        case code.Inline():
            return f"procedure {node.procedure}({_arguments(node)})"
        case code.Each(kind=kind, element=element, target=target, items=items, tests=tests):
            ifs = "".join(f" if {_written(test)}" for test in tests)
            inner = f"{_written(element)} for {_written(target)} in {_written(items)}{ifs}"
            shown = {"list": f"[{inner}]", "iter": f"({inner})", "chain": f"chain({inner})"}
            return shown.get(kind, "{" + inner + "}")
        case code.Named(name=name, value=value):
            return f"({name} := {_written(value)})"
        case code.Lambda(parameters=names, body=body):
            return f"lambda {', '.join(names)}: {_written(body)}"
        case code.Append(target=target, value=value):
            return f"{_written(target)} += {_written(value)}"
        case code.Do(value=value):
            return _written(value)
        case code.Assign(target=target, value=value):
            return f"{_written(target)} = {_written(value)}"
        case code.Augment(name=name, op=op, value=value):
            return f"{name} {op}= {_written(value)}"
        case code.Return(value=value):
            return f"return {_written(value)}".rstrip()
        case code.Raise(value=value):
            return f"raise {_written(value)}"
        case code.Jump(kind=kind):
            return kind
    return type(node).__name__


def _arguments(node: code.Call | code.Method | code.Inline | code.Outside) -> str:
    named = (
        f"{k}{'' if k == '**' else '='}{_written(v)}"
        for k, v in zip(node.names, node.values, strict=True)
    )
    return ", ".join([*map(_written, node.args), *named])


def _in_text(node: code.Expr) -> str:
    """A part of an f-string."""
    match node:
        case code.Const(str(text)):
            return text.replace("{", "{{").replace("}", "}}")
        case code.Format(value=value, conversion=conversion, spec=spec):
            inner = _written(value) + (f"!{conversion}" if conversion else "")
            return "{" + inner + (":" + _in_text(spec) if spec is not None else "") + "}"
        case code.Joined(parts):
            return "".join(map(_in_text, parts))
    return "{" + _written(node) + "}"
