"""From the source of one function to the code of a procedure.

What is called must be a function of sgrt, a harmless built-in, or a function whose own source can
be read the same way (`plan.compiler` looks that up). All else that may act on the outside, or is
not understood, becomes a `code.Python` node.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

from sgrt.lang.bodies import value_check
from sgrt.lang.plan import code, operators
from sgrt.lang.plan.kinds import Kind, hands_over, kind_of, kinds_of
from sgrt.lang.plan.source import Definition, NoSource, Unsupported
from sgrt.lang.plan.templates import Template
from sgrt.lang.program import Program

if TYPE_CHECKING:
    from sgrt.lang.plan.compiler import Builder

MISSING: Any = object()
_CALLED = {id(function): name for name, function in code.FUNCTIONS.items()}
_PLAIN = (str, int, float, bool, type(None), list, tuple, dict, set, frozenset)


class Reader:
    """Reads one function."""

    def __init__(
        self,
        builder: Builder,
        function: FunctionType,
        definition: Definition,
        parameters: dict[str, Kind],
    ) -> None:
        self._builder = builder
        self._function = function
        self._definition = definition
        self._kinds = kinds_of(definition, parameters)
        names = function.__code__
        self._locals = {*names.co_varnames, *names.co_cellvars}
        self._read: dict[ast.Call, code.Expr | Unsupported] = {}
        self._inner: list[set[str]] = []  # names of the comprehensions and lambdas around

    def body(self) -> tuple[code.Stmt, ...]:
        definition = self._definition
        if isinstance(definition, ast.AsyncFunctionDef):
            return tuple(self._block(definition.body, "an async program runs as it is written"))
        return self.block(definition.body)

    def block(self, statements: Sequence[ast.stmt]) -> tuple[code.Stmt, ...]:
        return tuple(self._block(statements))

    def _block(
        self, statements: Sequence[ast.stmt], reason: str | None = None
    ) -> Iterator[code.Stmt]:
        for statement in statements:
            try:
                yield from self._statement(statement)
            except Unsupported as error:
                yield self._python(statement, error.reason)
        if reason is not None:
            last = self._definition.end_lineno or self._definition.lineno
            yield code.Python(last, last, reason)

    def _python(self, statement: ast.stmt, reason: str) -> code.Python:
        line = min(
            [statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))]
        )
        return code.Python(
            line, statement.end_lineno or line, reason, tuple(self._calls(statement))
        )

    def _calls(self, statement: ast.stmt) -> Iterator[code.Expr]:
        """Gens inside of what is not understood, as far as they are."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                try:
                    call = self._call(node)
                except (Unsupported, NoSource):
                    continue
                if isinstance(call, code.Call) and call.function in code.GENERATIONS:
                    yield call

    # ------------------------------------------------------------ statements

    def _statement(self, node: ast.stmt) -> Iterator[code.Stmt]:
        line = node.lineno
        match node:
            case ast.Expr(value=ast.Constant()):  # a docstring, or `...`
                return
            case ast.Expr(value=value):
                yield code.Do(self.expr(value), line)
            case ast.AugAssign(target=target, op=op, value=value):
                yield self._augmented(target, op, value, line)
            case ast.Assign(targets=targets, value=value):
                if len(targets) == 1 and self._is_outside(targets[0]):
                    yield self._put(targets[0], value, line)
                    return
                yield from self._assigned([*map(self._target, targets)], self.expr(value), line)
            case ast.AnnAssign(target=target, value=ast.expr() as value, simple=1):
                yield code.Assign(self._target(target), self.expr(value), line)
            case ast.AnnAssign(target=ast.Name(), value=None):
                return
            case ast.Assert(test=test, msg=message):
                args = () if message is None else (self.expr(message),)
                error = code.Raise(code.Call("AssertionError", args, (), (), line), line)
                failed = code.Unary("not", self.expr(test), line)
                if __debug__:
                    yield code.If(failed, (error,), (), line)
            case ast.Try(body=body, handlers=handlers, orelse=other, finalbody=final):
                caught = tuple(map(self._except, handlers))
                yield code.Try(self.block(body), caught, self.block(other), self.block(final), line)
            case ast.Match(subject=subject, cases=cases):
                it, chosen_by = self._fresh(line), self.expr(subject)
                chosen = self._chosen(cases, it)
                yield code.Assign(it, chosen_by, line)
                yield from chosen
            case ast.If(test=test, body=then, orelse=other):
                yield code.If(self.expr(test), self.block(then), self.block(other), line)
            case ast.For(target=target, iter=items, body=body, orelse=other):
                yield code.For(
                    self._target(target),
                    self.expr(items),
                    self.block(body),
                    self.block(other),
                    line,
                )
            case ast.While(test=test, body=body, orelse=other):
                yield code.While(self.expr(test), self.block(body), self.block(other), line)
            case ast.With(items=items, body=body):
                yield self._with(items, body, line)
            case ast.Return(value=value):
                yield code.Return(None if value is None else self.expr(value), line)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                if any(alias.name == "*" for alias in names):
                    raise Unsupported("an import of all")
                bound = [alias.asname or alias.name.partition(".")[0] for alias in names]
                yield code.Import(ast.unparse(node), tuple(bound), line)
            case ast.Raise(exc=ast.Call() as value, cause=None):
                yield code.Raise(self._raised(value), line)
            case ast.Pass():
                yield code.Jump("pass", line)
            case ast.Break():
                yield code.Jump("break", line)
            case ast.Continue():
                yield code.Jump("continue", line)
            case _:
                raise Unsupported(f"{operators.described(node)} is Python's own")

    def _is_outside(self, target: ast.expr) -> bool:
        """Whether it is a place in an object of the user's."""
        if isinstance(target, (ast.Attribute, ast.Subscript)):
            return kind_of(target.value, self._kinds) == "value"
        return False

    def _put(self, target: ast.expr, value: ast.expr, line: int) -> code.Put:
        if hands_over(value, self._kinds):
            raise Unsupported(f"{ast.unparse(target):.60} is given a state")
        if isinstance(target, ast.Attribute):
            return code.Put(self._attribute(target), self.expr(value), line)
        assert isinstance(target, ast.Subscript)
        return code.Put(self._item(target), self.expr(value), line)

    def _assigned(
        self, targets: Sequence[code.Expr], value: code.Expr, line: int
    ) -> Iterator[code.Stmt]:
        """``target = target = value``: the value is computed once, targets are bound in order."""
        if len(targets) > 1 and not isinstance(value, (code.Const, code.Local)):
            it = self._fresh(line)
            yield code.Assign(it, value, line)
            value = it
        for target in targets:
            yield code.Assign(target, value, line)

    def _fresh(self, line: int) -> code.Local:
        """A variable that the function does not have."""
        name = f"_it{line}"
        while name in self._locals:
            name += "_"
        return code.Local(name)

    def _chosen(self, cases: Sequence[ast.match_case], it: code.Local) -> tuple[code.Stmt, ...]:
        """The cases of a ``match``, as tests of its subject one after the other."""
        if not cases:
            return ()
        first, *rest = cases
        others = self._chosen(rest, it)
        pattern, line = first.pattern, first.pattern.lineno
        body = self.block(first.body)
        if isinstance(pattern, ast.MatchAs) and pattern.pattern is None:
            if pattern.name is not None and first.guard is not None:
                raise Unsupported("a pattern with a name and a guard")
            if pattern.name is not None:
                body = (code.Assign(self._target(ast.Name(pattern.name)), it, line), *body)
            tests = []
        else:
            tests = [self._fits(pattern, it)]
        if first.guard is not None:
            tests.append(self.expr(first.guard))
        return (code.If(code.Logic("and", tuple(tests)), body, others, line),) if tests else body

    def _fits(self, node: ast.pattern, it: code.Local) -> code.Expr:
        """Whether a pattern that gives no names fits."""
        match node:
            case ast.MatchValue(value=value):
                return code.Compare(it, ("==",), (self.expr(value),), node.lineno)
            case ast.MatchSingleton(value=value):
                return code.Compare(it, ("is",), (code.Const(value),), node.lineno)
            case ast.MatchOr(patterns=patterns):
                return code.Logic("or", tuple(self._fits(each, it) for each in patterns))
        raise Unsupported(f"a pattern of the kind {operators.described(node)}")

    def _except(self, node: ast.ExceptHandler) -> code.Except:
        match node.type:
            case None:
                raise Unsupported("`except:` without saying what")
            case ast.Tuple(elts=kinds):
                pass
            case kind:
                kinds = [kind]
        names = () if node.name is None else (node.name,)
        if any(self._kinds.get(name, "value") != "value" for name in names):
            raise Unsupported(f"{node.name!r} is not always an error")
        errors = tuple(map(self._caught, kinds))
        return code.Except(errors, names, self.block(node.body), node.lineno)

    def _caught(self, node: ast.expr) -> str:
        path = self._path(node)
        found = MISSING if path is None else self._builder.guard(self._function, path)
        for name, kind in code.CAUGHT.items():
            if found is kind:
                return name
        raise Unsupported(f"catching {ast.unparse(node):.60}")

    def _raised(self, node: ast.Call) -> code.Expr:
        call = self.expr(node)
        is_known = isinstance(call, code.Call) and call.function in code.ERRORS
        if not is_known and not isinstance(call, code.Outside):
            raise Unsupported(f"raising {ast.unparse(node.func)}")
        return call

    def _augmented(
        self, target: ast.expr, op: ast.operator, value: ast.expr, line: int
    ) -> code.Stmt:
        kind = kind_of(target, self._kinds)
        if kind in ("state", "group"):
            if not isinstance(op, ast.Add):
                raise Unsupported("a state is extended with += only")
            if isinstance(target, ast.Name):
                return code.Append(self.expr(target), self._appended(value, kind), line)
            if isinstance(target, ast.Subscript):
                return code.Append(self._item(target), self._appended(value, kind), line)
        if isinstance(target, ast.Name) and kind in ("own", "value"):
            self._target(target)
            return code.Augment(target.id, self._operator(op), self.expr(value), line)
        raise Unsupported(f"{ast.unparse(target)} may be changed outside of the program")

    def _appended(self, value: ast.expr, kind: Kind) -> code.Expr:
        if kind == "group" and isinstance(value, ast.Lambda):
            return self._lambda(value)
        return self.expr(value)

    def _lambda(self, node: ast.Lambda) -> code.Lambda:
        arguments = node.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults:
            raise Unsupported("a lambda with more than plain parameters")
        with _Scope(self._inner, set(names)):
            return code.Lambda(tuple(names), self.expr(node.body), node.lineno)

    def _with(
        self, items: Sequence[ast.withitem], body: Sequence[ast.stmt], line: int
    ) -> code.Stmt:
        first, *rest = items
        target = None if first.optional_vars is None else self._target(first.optional_vars)
        value = self.expr(first.context_expr)
        inner = (self._with(rest, body, line),) if rest else self.block(body)
        return code.With(value, target, inner, line)

    def _target(self, node: ast.expr) -> code.Expr:
        match node:
            case ast.Name(id=name):
                if not self._is_local(name):
                    raise Unsupported(f"{name!r} belongs to the outside")
                if self._kinds.get(name) == "mixed":
                    raise Unsupported(f"{name!r} is not always a state")
                return code.Local(name)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return code.Items("tuple", tuple(self._target(part) for part in parts))
            case ast.Subscript(value=base) if kind_of(base, self._kinds) in ("state", "own"):
                return self._item(node)
        raise Unsupported(f"{ast.unparse(node)} may be changed outside of the program")

    # ------------------------------------------------------------ expressions

    def expr(self, node: ast.expr) -> code.Expr:
        """An expression; raises `Unsupported`."""
        line = node.lineno
        match node:
            case ast.Constant(value=value):
                if value is not None and not isinstance(value, (str, int, float)):
                    raise Unsupported(f"{type(value).__name__} constants have no place in a text")
                return code.Const(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.JoinedStr(values=parts):
                return code.Joined(tuple(self.expr(part) for part in parts))
            case ast.FormattedValue(value=value, conversion=conversion, format_spec=spec):
                return code.Format(
                    self.expr(value),
                    "" if conversion < 0 else chr(conversion),
                    None if spec is None else self.expr(spec),
                    line,
                )
            case ast.BinOp(left=left, op=op, right=right):
                return code.Binary(self._operator(op), self.expr(left), self.expr(right), line)
            case ast.UnaryOp(op=unary, operand=value):
                if type(unary) not in operators.UNARY:
                    raise Unsupported(f"the operator {operators.described(unary)}")
                return code.Unary(operators.UNARY[type(unary)], self.expr(value), line)
            case ast.BoolOp(op=logic, values=values):
                name = "or" if isinstance(logic, ast.Or) else "and"
                return code.Logic(name, tuple(self.expr(value) for value in values))
            case ast.Compare(left=left, ops=ops, comparators=rights):
                names = tuple(operators.COMPARE[type(o)] for o in ops)
                return code.Compare(
                    self.expr(left), names, tuple(self.expr(r) for r in rights), line
                )
            case ast.IfExp(test=test, body=then, orelse=other):
                return code.IfElse(self.expr(test), self.expr(then), self.expr(other))
            case _:
                return self._compound(node)

    def _compound(self, node: ast.expr) -> code.Expr:
        line = node.lineno
        match node:
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return self._display(type(node).__name__.lower(), items, line)
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                if self._inner or not isinstance(self._target(node.target), code.Local):
                    raise Unsupported("a name that a comprehension gives to its function")
                return code.Named(name, self.expr(value))
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return code.Dict(
                    tuple(self.expr(key) for key in keys if key is not None),
                    tuple(self.expr(value) for value in values),
                )
            case ast.Subscript():
                return self._item(node)
            case ast.Slice(lower=lower, upper=upper, step=step):
                bounds = (None if b is None else self.expr(b) for b in (lower, upper, step))
                return code.Slice(*bounds)
            case ast.Attribute(value=base, attr=name):
                if name.startswith("_"):
                    raise Unsupported(f"{name!r} is private")
                if kind_of(base, self._kinds) in ("state", "group", "mixed"):
                    raise Unsupported(f".{name} of a state")
                return code.Attr(self.expr(base), name, line)
            case ast.Call():
                return self._call(node)
            case ast.ListComp(elt=element) | ast.SetComp(elt=element):
                kind = "list" if isinstance(node, ast.ListComp) else "set"
                return self._each(kind, [element], node.generators, line)
            case ast.GeneratorExp(elt=element):
                return self._each("iter", [element], node.generators, line)
            case ast.DictComp(key=key, value=value):
                return self._each("dict", [key, value], node.generators, line)
        raise Unsupported(f"{operators.described(node)} is Python's own")

    def _name(self, name: str) -> code.Expr:
        if self._kinds.get(name) == "mixed":
            raise Unsupported(f"{name!r} is not always a state")
        return code.Local(name) if self._is_local(name) else code.Global(name)

    def _is_local(self, name: str) -> bool:
        if name.startswith("__") and not name.endswith("__"):
            raise Unsupported(f"{name!r} is private to a class")
        return name in self._locals or any(name in scope for scope in self._inner)

    def _operator(self, op: ast.operator) -> str:
        if type(op) not in operators.BINARY:
            raise Unsupported(f"the operator {operators.described(op)}")
        return operators.BINARY[type(op)]

    def _item(self, node: ast.Subscript) -> code.Item:
        return code.Item(self.expr(node.value), self.expr(node.slice), node.lineno)

    def _display(self, kind: str, items: Sequence[ast.expr], line: int) -> code.Expr:
        if not any(isinstance(item, ast.Starred) for item in items):
            return code.Items(kind, tuple(self.expr(item) for item in items))
        parts: list[code.Expr] = [
            code.Call("list", (self.expr(item.value),), (), (), line)
            if isinstance(item, ast.Starred)
            else code.Items("list", (self.expr(item),))
            for item in items
        ]
        whole = functools.reduce(lambda a, b: code.Binary("+", a, b, line), parts)
        return whole if kind == "list" else code.Call(kind, (whole,), (), (), line)

    def _each(
        self,
        kind: str,
        element: Sequence[ast.expr],
        generators: Sequence[ast.comprehension],
        line: int,
    ) -> code.Each:
        loop, *inner = generators
        if loop.is_async:
            raise Unsupported("an `async for`")
        items = self.expr(loop.iter)
        bound = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
        with _Scope(self._inner, bound):
            if inner:
                values: tuple[code.Expr, ...] = (self._each("iter", element, inner, line),)
            else:
                values = tuple(self.expr(e) for e in element)
            each = code.Each(
                "chain" if inner else kind,
                values[0] if len(values) == 1 else code.Items("tuple", values),
                self._target(loop.target),
                items,
                tuple(self.expr(test) for test in loop.ifs),
                line,
            )
        it = self._fresh(line)
        return code.Each(kind, it, it, each, (), line) if inner and kind != "iter" else each

    # ------------------------------------------------------------ calls

    def _call(self, node: ast.Call) -> code.Expr:
        if node not in self._read:
            self._read[node] = self._found(node)
        found = self._read[node]
        if isinstance(found, Unsupported):
            raise found
        return found

    def _found(self, node: ast.Call) -> code.Expr | Unsupported:
        """What a call is; kept, or calls inside of calls would be read twice at each depth."""
        try:
            return self._understood(node)
        except Unsupported as why:
            try:
                return self._outside(node, why)
            except Unsupported as error:
                return error

    def _outside(self, node: ast.Call, why: Unsupported) -> code.Expr:
        """A call that may do anything is made as it stands, unless it is handed a state."""
        path = self._path(node.func)
        found = MISSING if path is None else self._builder.guard(self._function, path)
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if operators.is_of_sgrt(found) or any(hands_over(each, self._kinds) for each in given):
            raise why
        if any(found is each for each in operators.LOOKING_AT_THEIR_CALLER):
            raise Unsupported(f"{ast.unparse(node.func)} looks at its caller")
        match node.func:
            case ast.Attribute(value=base, attr=name) as func:
                kind = kind_of(base, self._kinds)
                if kind in ("state", "group", "mixed") and (kind, name) != ("state", "call"):
                    raise why
                function: code.Expr = self._attribute(func)
            case other:
                function = self.expr(other)
        rest = None
        if any(isinstance(arg, ast.Starred) for arg in node.args):
            rest = self._display("tuple", node.args, node.lineno)
            node = ast.Call(node.func, [], node.keywords, lineno=node.lineno)
        return code.Outside(function, *self._arguments(node, lambdas=True), node.lineno, rest)

    def _attribute(self, node: ast.Attribute) -> code.Attr:
        if node.attr.startswith("__") and not node.attr.endswith("__"):
            raise Unsupported(f"{node.attr!r} is private to a class")
        return code.Attr(self.expr(node.value), node.attr, node.lineno)

    def _understood(self, node: ast.Call) -> code.Expr:
        path = self._path(node.func)
        if path is not None:
            found = self._builder.guard(self._function, path)
            if found is not MISSING:
                return self._resolved(node, ".".join(path), found)
        if not isinstance(node.func, ast.Attribute):
            raise Unsupported(f"{ast.unparse(node.func):.60} may do anything")
        return self._method(node, node.func)

    def _path(self, node: ast.expr) -> tuple[str, ...] | None:
        """A dotted name from outside of the function."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and not self._is_local(node.id):
            return (node.id, *reversed(names))
        return None

    def _resolved(self, node: ast.Call, written: str, found: Any) -> code.Expr:
        name = _CALLED.get(id(found))
        if name is not None:
            return code.Call(name, *self._arguments(node), node.lineno)
        function = found._func if isinstance(found, Program) else found
        if not isinstance(function, FunctionType):
            raise Unsupported(f"{written} may do anything")
        kinds = [kind_of(arg, self._kinds) for arg in node.args]
        if function is not found and (not kinds or kinds[0] != "state"):
            raise Unsupported(f"{written} is run as a program of its own")
        try:
            index = self._builder.procedure(function, kinds)
        except NoSource as error:
            raise Unsupported(f"{written} may do anything: {error}") from None
        if not code.is_whole(self._builder.procedures[index]):
            raise Unsupported(f"{written} may do anything")
        if isinstance(found, Program) and (check := value_check(function, found._name)):
            self._builder.checks[index] = check
        if any(kind_of(k.value, self._kinds) in ("state", "group") for k in node.keywords):
            raise Unsupported(f"{written} is given a state by name")
        return code.Inline(index, *self._arguments(node), node.lineno)

    def _arguments(
        self, node: ast.Call, *, lambdas: bool = False
    ) -> tuple[tuple[code.Expr, ...], tuple[str, ...], tuple[code.Expr, ...]]:
        read = self._argument if lambdas else self.expr
        return (
            tuple(read(arg) for arg in node.args),
            tuple(keyword.arg or "**" for keyword in node.keywords),
            tuple(read(keyword.value) for keyword in node.keywords),
        )

    def _argument(self, node: ast.expr) -> code.Expr:
        return self._lambda(node) if isinstance(node, ast.Lambda) else self.expr(node)

    def _method(self, node: ast.Call, func: ast.Attribute) -> code.Expr:
        name, kind = func.attr, kind_of(func.value, self._kinds)
        if kind == "state":
            known = code.STATE_READS | code.STATE_WRITES
        elif kind == "group":
            known = code.GROUP_METHODS
        elif kind == "mixed":
            known = frozenset()
        else:
            if name == "format":
                return self._format_call(node, func)
            self._check_base(func)
            known = code.STR_METHODS | code.LIST_READS | code.DICT_READS
            if kind == "own":
                known = known | code.LIST_WRITES | code.DICT_WRITES
        if name not in known:
            raise Unsupported(f"{ast.unparse(func):.60} may do anything")
        return code.Method(self.expr(func.value), name, *self._arguments(node), node.lineno)

    def _check_base(self, func: ast.Attribute) -> None:
        """An object from outside may do anything in its methods; plain values do not."""
        path = self._path(func.value)
        if path is None:
            return
        found = self._builder.guard(self._function, path)
        if found is not MISSING and type(found) not in _PLAIN:
            raise Unsupported(f"{ast.unparse(func):.60} may do anything")

    def _format_call(self, node: ast.Call, func: ast.Attribute) -> code.Expr:
        """``"…{name}…".format(name=…)``, as an f-string."""
        template: Any = MISSING
        path = self._path(func.value)
        if isinstance(func.value, ast.Constant):
            template = func.value.value
        elif path is not None:
            template = self._builder.guard(self._function, path)
        if type(template) is not str:
            raise Unsupported(f"{ast.unparse(func):.60}: only a constant text is formatted")
        args, names, values = self._arguments(node)
        if "**" in names:
            raise Unsupported("format() with ** arguments")
        given = {
            **{str(i): arg for i, arg in enumerate(args)},
            **dict(zip(names, values, strict=True)),
        }
        return code.Joined(tuple(Template(given, node.lineno).parts(template)))


class _Scope:
    """Names bound by a comprehension or lambda, while it is read."""

    def __init__(self, scopes: list[set[str]], names: set[str]) -> None:
        self._scopes = scopes
        self._names = names

    def __enter__(self) -> None:
        self._scopes.append(self._names)

    def __exit__(self, *exc: object) -> None:
        self._scopes.pop()
