"""`@sgrt.function`: a Python function that writes a text together with a model."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import fields, replace
from functools import partial
from os import PathLike
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, overload

from sgrt.core import Backend, Handle, PrefixCache, SamplingParams, check_deadline
from sgrt.handles import waiting_context
from sgrt.lang import bodies, coroutines, given, hub, peer
from sgrt.lang.api import did_you_mean, sequence_of
from sgrt.lang.background import continuations
from sgrt.lang.batch import Batch, progress
from sgrt.lang.bodies import Start
from sgrt.lang.conduct import Conduct
from sgrt.lang.defaults import backend_of_run, global_config
from sgrt.lang.given import OPTIONS, Arguments
from sgrt.lang.run import Defaults, Run, send_current
from sgrt.lang.state import ProgramState
from sgrt.lang.trace import Trace, split_seed
from sgrt.lang.variables import StreamEvent, ended

log = logging.getLogger("sgrt.lang")

if TYPE_CHECKING:
    from sgrt.lang.plan.plan import Plan
    from sgrt.lang.plan.warm import Warm
    from sgrt.lang.preview import Preview

SAMPLING = tuple(f.name for f in fields(SamplingParams))

History = Literal["kept", "rendered"]
Batchable = Iterable[Mapping[str, Any] | tuple[Any, ...] | list[Any]]


class Program:
    """A function whose first argument is a `ProgramState`; made by `function`.

    Keeps the function's name, doc and signature. Called with a state first, it runs as part of
    that state's program and returns what the function returns; called without, it is `run`.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        *,
        bound_of: tuple[Program, Mapping[str, Any]] | None = None,
        num_api_spec_tokens: int | None = None,
        history: History = "kept",
    ) -> None:
        functools.update_wrapper(self, func)
        self._bound_of = bound_of
        self._num_ahead = num_api_spec_tokens
        self._history: History = history
        self._func = func
        self._name = func.__qualname__.rpartition("<locals>.")[2]
        self._signature = inspect.signature(func)
        self._is_async = inspect.iscoroutinefunction(func)
        self._conduct = Conduct(func)
        parameters = list(self._signature.parameters.values())[1:]
        self._named = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
        self._has_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._is_plain = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        self._names = tuple(p.name for p in parameters)
        self._needed = {p.name for p in parameters if p.default is p.empty}
        self._plain = Defaults(SamplingParams())
        self._plans: dict[bool, Plan] = {}  # by whether unused ones are dropped

    @functools.cached_property
    def _call(self) -> Callable[..., Any]:
        """The function, its value checked against its annotation."""
        return bodies.with_checked_value(self._func, self._name)

    def __get__(self, instance: object, owner: type | None = None) -> Program:
        if instance is None:
            return self
        method = MethodType(self._func, instance)
        return Program(method, num_api_spec_tokens=self._num_ahead, history=self._history)

    @property
    def func(self) -> Callable[..., Any]:
        """The function."""
        return self._func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], ProgramState):
            return self._call(*args, **kwargs)
        return self.run(*args, **kwargs)

    # one run

    def run(
        self,
        *args: Any,
        backend: Backend | None = None,
        stream: bool = False,
        sampling: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> ProgramState:
        """Run the program; returns when the function has, whether or not the model has.

        The function runs in the thread that calls; an async one, or with ``stream``, elsewhere.

        Args:
            args: the function's arguments after the state; so are keywords of its parameters.
            backend: where to run; None takes the default backend.
            stream: return at once, while the function runs.
            sampling: defaults for every gen of the run. The fields of `core.SamplingParams` may
                also be given as keywords, where the program has no parameter of that name.
                ``seed`` is the seed of the run: every gen and fork has one derived from it.
            deadline_s: seconds after which the run's work is given up: what has not been
                produced fails with `DeadlineExceeded`.

        Raises:
            TypeError: arguments that the program or the run does not take.
            InvalidSamplingParams: a default outside its range.
            Exception: whatever the function raises, as it is (unless streaming: then readers
                get it).
        """
        state, start = self._prepare(args, kwargs, backend, sampling, deadline_s)
        if stream:
            self._launch(state, start, waiting_context())
            return state._outside_view()
        send_current()
        if self._is_async:
            self._launch(state, start, waiting_context())
            bodies.wait(state)
        else:
            state._execute(start)
        if (error := state._raised()) is not None:
            raise error
        return state

    async def arun(
        self,
        *args: Any,
        backend: Backend | None = None,
        sampling: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> ProgramState:
        """`run` for coroutines; returns when all has been produced, so that no read waits.

        An async program runs in the task that awaits; a plain one runs beside the event loop.
        Cancelling the task cancels the model's work.
        """
        state, start = self._prepare(args, kwargs, backend, sampling, deadline_s)
        try:
            if self._is_async:
                await state._aexecute(start)
            else:
                self._launch(state, start, waiting_context())
                await ended(state._body)
            await state.settled()
        except asyncio.CancelledError:
            state.cancel()
            raise
        if (error := state._raised()) is not None:
            raise error
        return state

    async def astream(
        self,
        *args: Any,
        backend: Backend | None = None,
        sampling: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[StreamEvent]:
        """Run the program, plain or async, and follow its text; leaving early cancels the run.

        Raises:
            ProgramError: an error is raised where it ends the text.
        """
        state, start = self._prepare(args, kwargs, backend, sampling, deadline_s)
        self._launch(state, start, waiting_context())
        try:
            async for event in state._outside_view().aevents():
                yield event
        finally:
            state.cancel()

    # many runs

    @overload
    def run_batch(
        self,
        batch: Batchable,
        *,
        backend: Backend | None = ...,
        num_threads: int | str = ...,
        progress_bar: bool = ...,
        generator_style: Literal[False] = ...,
        sampling: Mapping[str, Any] | None = ...,
        deadline_s: float | None = ...,
        resume: str | PathLike[str] | None = ...,
        **defaults: Any,
    ) -> list[ProgramState]: ...
    @overload
    def run_batch(
        self,
        batch: Batchable,
        *,
        backend: Backend | None = ...,
        num_threads: int | str = ...,
        progress_bar: bool = ...,
        generator_style: Literal[True],
        sampling: Mapping[str, Any] | None = ...,
        deadline_s: float | None = ...,
        resume: str | PathLike[str] | None = ...,
        **defaults: Any,
    ) -> Iterator[ProgramState]: ...
    def run_batch(
        self,
        batch: Batchable,
        *,
        backend: Backend | None = None,
        num_threads: int | str = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        sampling: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        resume: str | PathLike[str] | None = None,
        **defaults: Any,
    ) -> list[ProgramState] | Iterator[ProgramState]:
        """Run the program once per item, side by side.

        Each item runs exactly once. One that fails does not touch the others: its state has an
        `error()`, and its reads raise it. An interrupt cancels what is under way.

        Args:
            batch: arguments per item: a mapping of keywords, or a tuple.
            num_threads: most items under way at once; "auto" is 4,096. No thread is kept per
                item, except for programs whose own code blocks (`sgrt.lang.hub`).
            progress_bar: items, tokens/s and failures on standard error.
            generator_style: give an iterator, in order, whose states come as soon as they and
                all before them have ended. Leaving it early cancels the rest.
            sampling, defaults: as for `run`. With a seed, item i runs with a seed split from it.
            deadline_s: as for `run`, for each item from when it begins.
            resume: a file to keep what succeeds in, so that a killed batch can go on where it
                was; see `lang.journal`. What comes from the file has its text, messages and
                values, but no tokens.

        Returns:
            One finished state per item, in order.
        """
        made = self._batch(batch, backend, num_threads, sampling, deadline_s, resume, defaults)
        if generator_style:
            return made.in_order(progress(self._name, made.num_items) if progress_bar else None)
        if not progress_bar:
            return made.results()
        with progress(self._name, made.num_items) as report:
            return made.results(report)

    def stream_batch(
        self,
        batch: Batchable,
        *,
        backend: Backend | None = None,
        num_threads: int | str = "auto",
        sampling: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        resume: str | PathLike[str] | None = None,
        **defaults: Any,
    ) -> Iterator[tuple[int, ProgramState]]:
        """`run_batch` as an iterator of (index, state) as they end. Leaving it early cancels the
        rest."""
        return self._batch(
            batch, backend, num_threads, sampling, deadline_s, resume, defaults
        ).follow()

    async def arun_batch(
        self,
        batch: Batchable,
        *,
        backend: Backend | None = None,
        num_threads: int | str = "auto",
        sampling: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        resume: str | PathLike[str] | None = None,
        **defaults: Any,
    ) -> list[ProgramState]:
        """`run_batch` for coroutines; cancelling the task cancels the rest."""
        made = self._batch(batch, backend, num_threads, sampling, deadline_s, resume, defaults)
        states = {index: state async for index, state in made.afollow()}
        return [states[index] for index in range(made.num_items)]

    def astream_batch(
        self,
        batch: Batchable,
        *,
        backend: Backend | None = None,
        num_threads: int | str = "auto",
        sampling: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        resume: str | PathLike[str] | None = None,
        **defaults: Any,
    ) -> AsyncIterator[tuple[int, ProgramState]]:
        """`stream_batch` for coroutines."""
        return self._batch(
            batch, backend, num_threads, sampling, deadline_s, resume, defaults
        ).afollow()

    def preview(self, *args: Any, backend: Backend | None = None, **kwargs: Any) -> Preview:
        """The prompt as the model will see it; nothing is generated.

        The function runs here, with these arguments, up to its first read of a generated value:
        what it does until then, it does.

        Args:
            backend: whose chat template is used; None takes the default backend.

        Raises:
            Exception: whatever the function raises before that.
        """
        from sgrt.lang.preview import NotProduced, PreviewBackend, preview_of

        where = PreviewBackend(backend_of_run(backend))
        state, start = self._prepare(args, kwargs, where, None, None)
        if self._is_async:
            self._launch(state, start, waiting_context())
            bodies.wait(state)
        else:
            state._execute(start)
        raised = state._raised()
        if raised is not None and not isinstance(raised.__cause__, NotProduced):
            raise raised
        parts = state._trace.parts.now()
        return preview_of(parts, state._trace.roles(), is_whole=raised is None)

    def trace(self, *, backend: Backend | None = None, **values: Any) -> peer.Traced:
        """SGLang's way to look at a program: what `compile` reads from its source, with some
        arguments given. Nothing of it runs, so that no backend is needed."""
        return peer.Traced((self.bind(**values) if values else self).compile())

    def cache(self, backend: Backend | None = None) -> Warm:
        """Have a backend compute what all calls of the program begin with.

        Returns:
            What holds it in the backend's cache until it is closed; a context manager.
        """
        return self.compile().warm(backend_of_run(backend))

    def bind(self, **values: Any) -> Program:
        """The program with some of its arguments given; keeps name and doc.

        Raises:
            TypeError: an argument that the program does not take.
        """
        for name in values:
            if not self._takes(name):
                raise TypeError(self._unexpected(name))
        return Program(
            given.bound(self._func, values),
            bound_of=(self, values),
            num_api_spec_tokens=self._num_ahead,
            history=self._history,
        )

    # how it runs

    def _batch(
        self,
        batch: Batchable,
        backend: Backend | None,
        num_threads: int | str,
        sampling: Mapping[str, Any] | None,
        deadline_s: float | None,
        resume: str | PathLike[str] | None,
        options: Mapping[str, Any],
    ) -> Batch:
        _, defaults, seed = self._divide(options, sampling, batch=True)
        check_deadline(deadline_s)
        where = backend_of_run(backend)
        items = given.batch(batch)
        send_current()
        context = waiting_context()
        is_warm = not (
            len(items) > 1
            and isinstance(where, PrefixCache)
            and global_config.enable_precache_with_tracing
        )

        def begin(batch: Batch, index: int, then: Callable[[ProgramState], None]) -> ProgramState:
            nonlocal is_warm
            if not is_warm:
                is_warm = True
                self._warm(where, items, batch)
            args, kwargs = items[index]
            own_seed = None if seed is None else split_seed(seed, index)
            state = self._new_state(where, defaults, own_seed, deadline_s)
            self._conduct.sees((*args, *kwargs.values()))
            batch.runs(index, state)
            self._launch(state, partial(self._call, state, *args, **kwargs), context.copy(), then)
            return state

        limit = given.num_in_flight(num_threads)
        if resume is None:
            return Batch(begin, len(items), limit)
        from sgrt.lang.journal import Journal  # only who resumes pays for it

        def blank(index: int) -> ProgramState:
            own_seed = None if seed is None else split_seed(seed, index)
            return self._new_state(where, defaults, own_seed, None)

        journal = Journal(resume, self._name, defaults.params, seed, items, blank)

        def begin_and_keep(
            batch: Batch, index: int, then: Callable[[ProgramState], None]
        ) -> ProgramState:
            def keep(state: ProgramState) -> None:
                journal.put(index, state, partial(then, state), batch.stop)

            return begin(batch, index, keep)

        return Batch(begin_and_keep, len(items), limit, journal.done, journal.close)

    def _warm(self, backend: Backend, items: Sequence[Arguments], batch: Batch) -> None:
        """Let the backend begin with what the items share, and keep it till the batch has ended."""
        try:
            plan = getattr(self._func, "__plan__", None) or self.compile()
            warm = plan.warm(backend, items, wait=False)
        except Exception:  # it would only have saved time; the items tell what is wrong
            log.debug("%s: nothing is made ready for the batch", self._name, exc_info=True)
        else:
            batch.all_finished.on_change(warm.close)

    def compile(self, *, drop_unused: bool = False) -> Plan:
        """Read the program's source as a plan; see `lang.plan.plan.Plan`. Nothing of it runs.

        The plan is kept, and read again only where a function that it calls was replaced.

        Args:
            drop_unused: leave out generations that nothing in the program reads, nor any later
                generation continues. Their names then cannot be read from the finished state.

        Raises:
            PlanError: ``drop_unused`` where a part of the program is not understood.
        """
        from sgrt.lang.plan.plan import Plan  # only who compiles pays for it

        plan = self._plans.get(drop_unused)
        if plan is None or not plan.holds():
            plan = self._plans[drop_unused] = Plan.of(self, drop_unused=drop_unused)
        return plan

    def _prepare(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        backend: Backend | None,
        sampling: Mapping[str, Any] | None,
        deadline_s: float | None,
    ) -> tuple[ProgramState, Start]:
        """Check everything, then make a state."""
        arguments, defaults, seed = self._divide(kwargs, sampling)
        self._check_arguments(args, arguments)
        check_deadline(deadline_s)
        where = backend_of_run(backend)
        self._conduct.sees((*args, *arguments.values()))
        state = self._new_state(where, defaults, seed, deadline_s)
        return state, partial(self._call, state, *args, **arguments)

    def _new_state(
        self, backend: Backend, defaults: Defaults, seed: int | None, deadline_s: float | None
    ) -> ProgramState:
        is_rendered = self._history == "rendered"
        run = Run(self._name, backend, defaults, self._num_ahead, is_rendered=is_rendered)
        trace = Trace(run, seed)
        if deadline_s is not None:
            continuations.after(deadline_s, partial(bodies.expire, weakref.ref(trace), deadline_s))
        return ProgramState(trace, Handle(lock=run.lock), inside=True)

    def _launch(
        self,
        state: ProgramState,
        start: Start,
        context: Context,
        then: Callable[[ProgramState], None] | None = None,
    ) -> None:
        """Run it elsewhere; ``then`` is called when all that it asked for has ended too."""
        if self._is_async:
            coroutines.spawn(bodies.acomplete(state, start, then), context)
        else:
            hub.spawn(partial(bodies.complete, state, start, then), self._conduct, context)

    def _divide(
        self, options: Mapping[str, Any], sampling: Mapping[str, Any] | None, *, batch: bool = False
    ) -> tuple[dict[str, Any], Defaults, int | None]:
        """Keywords for the program, what its gens do unless they say otherwise, and the seed."""
        mine = {} if batch else {k: v for k, v in options.items() if self._takes(k)}
        defaults = {k: v for k, v in options.items() if k not in mine}
        defaults.update(sampling or {})
        if not defaults:
            return mine, self._plain, None
        for name in defaults:
            if name not in SAMPLING and name not in peer.DEFAULTS:
                raise TypeError(self._unexpected(name))
        chosen = peer.defaults(defaults)
        params = SamplingParams().override(**{k: sequence_of(v) for k, v in chosen.items()})
        return mine, Defaults(replace(params, seed=None)), params.seed

    def _takes(self, name: str) -> bool:
        return name in self._named or (
            self._has_any and name not in SAMPLING and name not in peer.DEFAULTS
        )

    def _unexpected(self, name: str) -> str:
        known = [*list(self._signature.parameters)[1:], *SAMPLING, *OPTIONS]
        return (
            f"program {self._name!r} takes no argument {name!r}, nor is it a default of gens"
            + did_you_mean(name, known)
        )

    def _check_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        left = self._names[len(args) :]  # by keyword, where all is well and plain
        is_plain = self._is_plain and len(args) <= len(self._names)
        if (
            is_plain
            and all(k in left for k in kwargs)
            and not self._needed.intersection(name for name in left if name not in kwargs)
        ):
            return
        try:
            self._signature.bind(None, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"program {self._name!r}: {error}") from None

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name, as functions are pickled."""
        if self._bound_of is not None:
            return _bind, self._bound_of
        if isinstance(self._func, MethodType):
            return getattr, (self._func.__self__, self._func.__name__)
        return self._func.__qualname__

    def __repr__(self) -> str:
        return f"<sgrt program {self._name}{self._signature}>"


def _bind(program: Program, values: Mapping[str, Any]) -> Program:
    return program.bind(**values)


@overload
def function(
    func: Callable[..., Any], num_api_spec_tokens: int | None = None, *, history: History = ...
) -> Program: ...
@overload
def function(
    func: None = None, num_api_spec_tokens: int | None = None, *, history: History = ...
) -> Callable[[Callable[..., Any]], Program]: ...
def function(
    func: Callable[..., Any] | None = None,
    num_api_spec_tokens: int | None = None,
    *,
    history: History = "kept",
) -> Program | Callable[[Callable[..., Any]], Program]:
    """Make a program of a function whose first argument is a `ProgramState`.

    Works with and without parentheses, and for methods (the state comes after ``self``).

    Args:
        num_api_spec_tokens: on a backend that charges each request for its whole prompt (`OpenAI`),
            ask for so many tokens at least, and read later generations from what comes, where the
            program goes on as the model did; see `backends.openai.ahead`. Other backends keep a
            text between its generations, so that nothing would be saved.
        history: what the model sees of its earlier answers. "kept": every token, as it was written;
            a chat template that shows them otherwise is refused. "rendered": what the template
            shows of them when the next answer begins; those of reasoning models drop the thoughts.
            Then generations stand in the assistant's messages, and `ProgramState.text` is the
            transcript of what was said, not the text that the model saw last.

    Raises:
        TypeError: not a plain function, no parameter for the state, or a parameter whose name
            `Program.run` needs for itself.
        RequestError: num_api_spec_tokens below 1, or another history.
    """
    given.check_num_ahead(num_api_spec_tokens)
    given.check_history(history)
    if func is None:
        return functools.partial(function, num_api_spec_tokens=num_api_spec_tokens, history=history)
    given.check_function(func)
    return Program(func, num_api_spec_tokens=num_api_spec_tokens, history=history)
