"""What a name in a program stands for, and how its value is waited for.

==========  ==========================================================
Generated   `gen`: text, validated object, or a list of n of them
Selected    `select`: the chosen option
Assigned    ``s[name] = value``
Gathered    `join`: one value per child, over all rounds
==========  ==========================================================
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sgrt.core import (
    Constraint,
    GenerateResult,
    Generation,
    Handle,
    JsonSchema,
    SamplingParams,
    ScoreResult,
    TokenEvent,
    Usage,
)
from sgrt.errors import ProgramError
from sgrt.lang.ir import Gen, Select
from sgrt.lang.outputs import Output, output_of
from sgrt.lang.partials import PartialReader, reader_of
from sgrt.lang.where import Place, spelled

T = TypeVar("T")
Kind = Literal["text", "template", "sampled", "forced", "selected"]


@dataclass(frozen=True)
class StreamEvent:
    """Text that joined a program's text.

    Args:
        text: may be "" where a token completes no character.
        kind: "text" was given by the program, "template" by the chat template; "sampled" and
            "forced" were generated, "selected" is a chosen option.
        variable: name of what is being produced, or None.
        tokens: the backend's event, for generated text.
    """

    text: str
    kind: Kind
    variable: str | None = None
    tokens: TokenEvent | None = None


class Variable:
    """Something a program can read."""

    __slots__ = ("name",)
    name: str | None

    def failure(self) -> BaseException | None:
        """Wait for the end; the backend's error, or None."""
        return None

    def value(self) -> Any:
        """Wait for the value. Raises ProgramError where there is text but no value."""
        raise NotImplementedError

    def text(self) -> str:
        """Wait; what it added to the program's text."""
        return ""

    def usage(self) -> Usage:
        """Wait; tokens it took."""
        return Usage()

    async def settled(self) -> None:
        """Wait, in a coroutine, until nothing of it is left to wait for."""
        return


@dataclass
class Assigned(Variable):
    """A value the program set itself."""

    name: str | None
    _value: Any

    def value(self) -> Any:
        return self._value


@dataclass
class Gathered(Variable):
    """What the children of a fork made of one name.

    Args:
        readers: one per child and round; each waits for the child's value, or gives None where
            the child did not set the name.
        sources: what they read.
    """

    name: str | None
    readers: tuple[Callable[[], Any], ...]
    sources: tuple[Variable, ...]

    async def settled(self) -> None:
        for source in self.sources:
            await source.settled()

    def value(self) -> list[Any]:
        return [read() for read in self.readers]


@dataclass
class Derived(Variable):
    """Made of another variable's value; adds nothing to the text.

    Args:
        source: whoever reads this reads that first.
        made_of: from the source's value to this one.
    """

    name: str | None
    source: Variable
    made_of: Callable[[Any], Any]

    def failure(self) -> None:
        return None

    async def settled(self) -> None:
        await self.source.settled()

    def value(self) -> Any:
        return self.made_of(self.source.value())


@dataclass
class Captured(Variable):
    """The text that a scope holds.

    Args:
        texts: per part of it, its text or what produces it.
    """

    name: str | None
    texts: tuple[str | Variable, ...]

    def failure(self) -> None:
        return None

    async def settled(self) -> None:
        for text in self.texts:
            if isinstance(text, Variable):
                await text.settled()

    def value(self) -> str:
        return "".join(t if isinstance(t, str) else t.text() for t in self.texts)


class Produced(Variable):
    """Made by the backend; owns a place in the program's text.

    Args:
        program: name of the program, for errors.
        place: the statement.
    """

    __slots__ = ("_code", "_instruction", "handled", "program")

    def __init__(self, name: str | None, program: str, place: Place) -> None:
        self.name = name
        self.program = program
        self._code, self._instruction = place  # a tuple more for each would have to be looked after
        self.handled = False  # an error of it was raised inside the running program

    @property
    def location(self) -> str:
        """``file:line`` of the statement."""
        return spelled((self._code, self._instruction))

    def error(self, message: str, *, hint: str | None = None) -> ProgramError:
        """A ProgramError that points here."""
        return ProgramError(
            message, program=self.program, variable=self.name, location=self.location, hint=hint
        )

    def fail(self, error: BaseException) -> None:
        """It will not be produced."""
        raise NotImplementedError

    def events(self) -> Iterator[StreamEvent]:
        """Follow the text; raises the backend's error where it ends with one."""
        raise NotImplementedError

    def aevents(self) -> AsyncIterator[StreamEvent]:
        """`events` for coroutines."""
        raise NotImplementedError


_NONE_YET = object()
_taking = threading.Lock()  # of who makes what says that a backend has taken a generation


class Generated(Produced):
    """The value of a `gen`."""

    __slots__ = (
        *("_gen", "_handle", "_is_good", "_others", "_params", "_refused", "_taken", "_value"),
    )

    def __init__(self, gen: Gen, program: str, place: Place, params: SamplingParams) -> None:
        self.name = gen.name  # what `super().__init__` does, without the call
        self.program = program
        self._code, self._instruction = place
        self.handled = False
        self._gen = gen
        self._params = params
        self._handle: Generation | None = None  # as soon as the backend has taken it
        self._others: Sequence[Generation] = ()  # beside the first
        self._refused: BaseException | None = None  # or it has not
        self._taken: Handle[None] | None = None  # ends with either, if somebody waits
        self._value: Any = _NONE_YET
        self._is_good = False  # known to have ended without an error

    @property
    def is_explained_by_constraint(self) -> bool:
        """Whether only its constraint can keep the model's likeliest token out."""
        p = self._params
        others = p.temperature or p.logit_bias or p.presence_penalty or p.frequency_penalty
        is_plain = not others and p.repetition_penalty == 1 and not p.min_tokens
        return is_plain and self._gen.constraint is not None and p.logprobs_mode == "unmasked"

    @property
    def constraint(self) -> Constraint | None:
        """What holds its text."""
        return self._gen.constraint

    @property
    def is_constrained(self) -> bool:
        """Whether a constraint holds its text."""
        return self._gen.constraint is not None

    @property
    def is_typed(self) -> bool:
        """Whether its value has a type or a schema, and is one value."""
        has_schema = isinstance(self._gen.constraint, JsonSchema)
        return self._gen.n == 1 and (self._gen.output is not None or has_schema)

    def partial_reader(self) -> PartialReader | None:
        """What reads its fields while it is written; None where it has none."""
        return reader_of(self._gen.output, is_json=isinstance(self._gen.constraint, JsonSchema))

    def attach(self, handle: Generation, others: Sequence[Generation] = ()) -> None:
        """The backend took it; the text goes on with the first."""
        self._others = others
        self._handle = handle
        if self._taken is not None:  # looked at last, and made first: nobody waits in vain
            self._taken.finish(None)

    def fail(self, error: BaseException) -> None:
        if self._handle is None and self._refused is None:
            self._refused = error
            if self._taken is not None:
                self._taken.finish(None)

    def _taking(self) -> Handle[None]:
        """What ends when the backend has taken or refused it."""
        with _taking:
            taken = self._taken = self._taken or Handle()
        if self._handle is not None or self._refused is not None:
            taken.finish(None)
        return taken

    def handle(self) -> Generation:
        """Wait until the backend has taken it; the first of `handles`. Raises why it has not."""
        if self._handle is None:
            self._taking().result()
            if self._handle is None:
                assert self._refused is not None
                raise self._refused
        return self._handle

    def handles(self) -> tuple[Generation, ...]:
        """Wait until the backend has taken it; raises why it has not."""
        return (self.handle(), *self._others)

    def failure(self) -> BaseException | None:
        if self._is_good:
            return None
        if self._handle is None:
            self._taking().result()
        failure = self._refused
        if self._handle is not None:
            failure = outcome(self._handle)
            for other in self._others:
                failure = failure or outcome(other)
        self._is_good = failure is None
        return failure

    async def settled(self) -> None:
        await self._taking().wait()
        if self._handle is not None:
            for handle in self.handles():
                await ended(handle)

    def results(self) -> tuple[GenerateResult, ...]:
        """Wait; what the backend gave."""
        return tuple([handle.result() for handle in self.handles()])

    def text(self) -> str:
        return self.handle().result().text

    def usage(self) -> Usage:
        return sum((result.usage for result in self.results()), Usage())

    def value(self) -> Any:
        if self._value is _NONE_YET:
            if self._gen.n > 1:
                self._value = [self._value_of(result) for result in self.results()]
            else:
                self._value = self._value_of(self.handle().result())
        return self._value

    def _value_of(self, result: GenerateResult) -> Any:
        output = None if self._gen.output is None else output_of(self._gen.output)
        if not result.is_complete:
            if output is not None and output.parse_part is not None:
                return output.parse_part(result.text)
            ended_by = (
                f"max_tokens={self._params.max_tokens}"
                if result.finish_reason == "length"
                else f"stop={result.stop_match!r}"
            )
            raise self.error(
                f"{ended_by} ended the text before its constraint was "
                f"satisfied; it ends in {result.text[-60:]!r}",
                hint="allow more tokens or bound the constraint; result(name).text has the part",
            )
        return result.text if output is None else self._parsed(result.text, output)

    def _parsed(self, text: str, output: Output) -> Any:
        try:
            return output.parse(text)
        except ValueError as error:
            raise self.error(f"the text is not a valid {output.name}: {error}") from error
        except Exception as error:  # a validator is the user's code
            raise self.error(
                f"validating the text as {output.name} raised {type(error).__name__}: {error}"
            ) from error

    def events(self) -> Iterator[StreamEvent]:
        handle = self.handle()
        seen = 0
        for event in handle.events():
            seen += len(event.text)
            yield self._event(event)
        yield from self._rest(handle, seen)

    async def aevents(self) -> AsyncIterator[StreamEvent]:
        await self._taking().wait()
        handle = self.handle()
        seen = 0
        async for event in handle.aevents():
            seen += len(event.text)
            yield self._event(event)
        for rest in self._rest(handle, seen):
            yield rest

    def _event(self, event: TokenEvent) -> StreamEvent:
        return StreamEvent(event.text, "forced" if event.forced else "sampled", self.name, event)

    def _rest(self, handle: Generation, seen: int) -> Iterator[StreamEvent]:
        """Text that was held back for a stop string that did not come."""
        rest = handle.result().text[seen:]
        if rest:
            yield StreamEvent(rest, "sampled", self.name)


@dataclass(frozen=True)
class Choice:
    """An option that was picked, and how likely each one was.

    Args:
        meta_info: what the method compared.
    """

    text: str
    probabilities: Mapping[str, float]
    scores: ScoreResult
    meta_info: Mapping[str, Any]


class Selected(Produced):
    """The value of a `select`."""

    __slots__ = ("_choice", "_random", "_select")

    def __init__(self, select: Select, program: str, place: Place, *, key: str | None) -> None:
        super().__init__(select.name, program, place)
        self._select = select
        self._random = random.Random(key)  # None: unseeded
        self._choice: Handle[Choice] = Handle()

    @property
    def options(self) -> tuple[str, ...]:
        return self._select.options

    @property
    def needs_unconditional(self) -> bool:
        """Whether the options are to be scored without the text, too."""
        return self._select.method.needs_unconditional

    def decide(self, scores: ScoreResult) -> Choice:
        """Pick an option, and make it the value."""
        method = self._select.method
        values = method.scores(scores.token_logprobs, scores.unconditional_logprobs)
        probabilities = dict(zip(self.options, softmax(values), strict=True))
        told = method.meta_info(scores.token_logprobs, values)
        choice = Choice(self.options[self._pick(values)], probabilities, scores, told)
        self._choice.finish(choice)
        return choice

    def _pick(self, values: Sequence[float]) -> int:
        if self._select.temperature == 0:
            return max(range(len(values)), key=values.__getitem__)
        weights = softmax([value / self._select.temperature for value in values])
        return self._random.choices(range(len(values)), weights)[0]

    def fail(self, error: BaseException) -> None:
        self._choice.fail(error)

    def failure(self) -> BaseException | None:
        return outcome(self._choice)

    async def settled(self) -> None:
        await ended(self._choice)

    def choice(self) -> Choice:
        """Wait for the decision."""
        return self._choice.result()

    def value(self) -> str:
        return self.choice().text

    def text(self) -> str:
        return self.choice().text

    def usage(self) -> Usage:
        return self.choice().scores.usage

    def events(self) -> Iterator[StreamEvent]:
        yield StreamEvent(self.choice().text, "selected", self.name)

    async def aevents(self) -> AsyncIterator[StreamEvent]:
        yield StreamEvent((await self._choice.wait()).text, "selected", self.name)


def softmax(values: Sequence[float]) -> list[float]:
    """Probabilities in proportion to exp(value); a lone or all -inf list is uniform."""
    best = max(values)
    if best == -math.inf:
        return [1 / len(values)] * len(values)
    weights = [math.exp(value - best) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def outcome(handle: Handle[Any]) -> BaseException | None:
    """Wait for the end; the error it ended with, or None."""
    if handle.done():
        return handle.error()
    try:
        handle.result()
    except BaseException as error:
        if error is not handle.error():  # an interrupt of this wait, not the handle's own
            raise
    return handle.error()


async def ended(handle: Handle[Any]) -> None:
    """`outcome` for coroutines, which look at the error themselves."""
    try:
        await handle.wait()
    except BaseException as error:
        if error is not handle.error():  # this coroutine was cancelled
            raise
