"""Every error a user of sgrt can meet.

::

    SgrtError
    ├── ProgramError                  a program failed: variable, source line, cause
    ├── ConstraintError               what the user asked for cannot be enforced
    │   ├── UnsupportedSchema         JSON pointer and keyword that no engine enforces
    │   ├── GrammarSyntaxError        line and column where a grammar or regex stops parsing
    │   └── GrammarBudgetExceeded     compiling or masking took more than its share
    ├── RequestError                  the request itself is wrong
    │   ├── PromptTooLong             more tokens than the context holds
    │   ├── InvalidSamplingParams     field, value and the rule it breaks
    │   ├── WouldBlock                a coroutine's code waits where it must await
    │   └── PlanError                 a plan that cannot be written, read or run
    ├── ModelError                    a model cannot be found, read or run
    │   ├── ModelNotFound             nothing by that name, and what to do about it
    │   └── CorruptModel              a file that is not what it claims to be
    ├── EngineError                   the engine cannot go on with this sequence
    │   ├── OutOfPages                the KV pool is too small
    │   ├── Cancelled                 the caller gave up
    │   ├── DeadlineExceeded          the time allowed has passed
    │   ├── EngineClosed              the engine was shut down first
    │   └── MissingPackage            the engine needs a package that is not installed
    └── BackendError                  a remote backend answered with an error

Attributes come first and the message is built from them, so that a program can read what a
person reads. ``hint`` says what to do next, where that is known.
"""

from __future__ import annotations


class SgrtError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        hint: one sentence on what to do about it, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message}\n  hint: {hint}")


class ProgramError(SgrtError):
    """A program could not produce a value; raised where the value is read.

    Attributes:
        program: name of the program.
        variable: name of the variable that was being produced, or None.
        location: ``file:line`` of the statement in the program, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        program: str | None = None,
        variable: str | None = None,
        location: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.program = program
        self.variable = variable
        self.location = location
        subject = f"program {program!r}" if program else "program"
        if variable is not None:
            subject += f", variable {variable!r}"
        if location is not None:
            subject += f" ({location})"
        super().__init__(f"{subject}: {message}", hint=hint)


class ConstraintError(SgrtError):
    """A constraint that cannot be enforced exactly is refused with this."""


class UnsupportedSchema(ConstraintError):
    """A JSON schema holds something that no engine here enforces, or that nothing satisfies.

    Attributes:
        pointer: JSON pointer to the offending place ("" is the root).
        keyword: the keyword, or None where the place itself is wrong.
    """

    def __init__(
        self, reason: str, *, pointer: str = "", keyword: str | None = None, hint: str | None = None
    ) -> None:
        self.reason = reason
        self.pointer = pointer
        self.keyword = keyword
        what = f"keyword {keyword!r} " if keyword else ""
        super().__init__(f"schema at {pointer or '/'}: {what}{reason}", hint=hint)


class GrammarSyntaxError(ConstraintError):
    """A regex or grammar text does not parse.

    Attributes:
        line: 1-based line.
        column: 1-based column.
    """

    def __init__(
        self, reason: str, *, line: int = 1, column: int | None = None, hint: str | None = None
    ) -> None:
        self.reason = reason
        self.line = line
        self.column = column
        where = f"line {line}" + (f", column {column}" if column is not None else "")
        super().__init__(f"{where}: {reason}", hint=hint)


class GrammarBudgetExceeded(ConstraintError):
    """A grammar needs more than the budget allows.

    Attributes:
        resource: what ran out ("bytes", "depth", "seconds", ...).
        used: how much was needed or used when it stopped.
        limit: the budget.
    """

    def __init__(
        self, resource: str, used: float, limit: float, *, hint: str | None = None
    ) -> None:
        self.resource = resource
        self.used = used
        self.limit = limit
        super().__init__(
            f"grammar exceeds its budget: {used:g} {resource}, limit {limit:g}", hint=hint
        )


class RequestError(SgrtError):
    """The request is wrong in itself; the same request will always fail."""


class PromptTooLong(RequestError):
    """A sequence holds, or would hold, more tokens than can be served.

    Attributes:
        num_tokens: tokens in the sequence.
        limit: most tokens a sequence can have here.
    """

    def __init__(self, num_tokens: int, limit: int, *, hint: str | None = None) -> None:
        self.num_tokens = num_tokens
        self.limit = limit
        super().__init__(f"the prompt has {num_tokens} tokens, the limit is {limit}", hint=hint)


class InvalidSamplingParams(RequestError):
    """A sampling parameter has a value that means nothing.

    Attributes:
        field: name of the parameter.
        value: what was given.
        rule: what is allowed.
    """

    def __init__(self, field: str, value: object, rule: str) -> None:
        self.field = field
        self.value = value
        self.rule = rule
        super().__init__(f"{field}={value!r}: {rule}")


class WouldBlock(RequestError):
    """Code of an async program waits for a value instead of awaiting it."""

    def __init__(self) -> None:
        super().__init__(
            "the value is not there yet, and waiting here would stop the event loop",
            hint="await s.get(name), or await s.settled() before reading all else",
        )


class PlanError(RequestError):
    """A plan of a program cannot be written as text, or text is no plan, or one does too much."""


class ModelError(SgrtError):
    """A model cannot be used."""


class ModelNotFound(ModelError):
    """No model by this name, or it cannot be fetched.

    Attributes:
        name: what was asked for.
    """

    def __init__(self, name: str, reason: str, *, hint: str | None = None) -> None:
        self.name = name
        super().__init__(f"model {name!r}: {reason}", hint=hint)


class CorruptModel(ModelError):
    """A model file is damaged, or is not what it claims to be.

    Attributes:
        path: the file.
    """

    def __init__(self, path: object, reason: str, *, hint: str | None = None) -> None:
        self.path = str(path)
        super().__init__(f"{path}: {reason}", hint=hint)


class EngineError(SgrtError):
    """The engine could not serve a sequence."""


class OutOfPages(EngineError):
    """The KV pool has too few pages.

    Attributes:
        needed: pages asked for.
        free: pages free now.
        evictable: pages that eviction could free.
    """

    def __init__(
        self, needed: int, free: int, evictable: int = 0, *, hint: str | None = None
    ) -> None:
        self.needed = needed
        self.free = free
        self.evictable = evictable
        super().__init__(
            f"{needed} KV pages needed, {free} free and {evictable} evictable", hint=hint
        )


class Cancelled(EngineError):
    """The work was cancelled by its owner before it ended."""

    def __init__(self, message: str = "cancelled") -> None:
        super().__init__(message)


class DeadlineExceeded(EngineError):
    """The deadline passed before the work ended.

    Attributes:
        seconds: the time that was allowed.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"not finished within {seconds:g} s")


class EngineClosed(EngineError):
    """The engine was shut down, or its loop died, before the work ended."""

    def __init__(self, message: str = "the engine is closed") -> None:
        super().__init__(message)


class MissingPackage(EngineError):
    """A part of sgrt needs a package that a light installation does not have.

    Attributes:
        package: its import name.
    """

    def __init__(self, error: ModuleNotFoundError, *, extra: str) -> None:
        self.package = error.name
        super().__init__(
            f"the package {error.name!r} is not installed", hint=f"pip install 'sgrt[{extra}]'"
        )


class BackendError(SgrtError):
    """A backend answered with an error of its own.

    Attributes:
        status: HTTP status, or None where there is none.
        retryable: whether the same request may work later.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retryable: bool = False,
        hint: str | None = None,
    ) -> None:
        self.status = status
        self.retryable = retryable
        super().__init__(message, hint=hint)
