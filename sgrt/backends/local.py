"""The embedded engine as a backend: sessions whose tokens and pages live in this process."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from collections.abc import Sequence as Seq
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, TypeVar

from sgrt import core
from sgrt.backends.prompt import Prompt, append_prompt, check_names
from sgrt.backends.prompt import token_ids as checked_ids
from sgrt.config import EngineConfig
from sgrt.core import (
    Constraint,
    GenerateResult,
    Generation,
    Handle,
    SamplingParams,
    ScoreResult,
    Scoring,
    Segment,
    Text,
    TokenEvent,
    Usage,
)
from sgrt.errors import Cancelled, ConstraintError, EngineClosed, RequestError, SgrtError
from sgrt.runtime import operations
from sgrt.runtime.assemble import Parts, load_parts
from sgrt.runtime.engine import Engine as Loop
from sgrt.runtime.engine import Live
from sgrt.runtime.tasks import GenerateTask

log = logging.getLogger("sgrt.engine")
T = TypeVar("T")
_ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)


class Engine:
    """A model in this process; implements `core.Backend`.

    >>> with sgrt.Engine() as engine:  # the embedded default model
    ...     engine.generate("The capital of France is", max_tokens=5, temperature=0).text

    Args:
        model: name, directory or GGUF file; None is the embedded default.
        options: fields of `config.EngineConfig`.

    Raises:
        ModelError: the model cannot be found, read or run.
        RequestError: an option has a value that means nothing.
    """

    def __init__(self, model: str | None = None, **options: Any) -> None:
        check_names("an engine option", options, [f.name for f in fields(EngineConfig)])
        self._set_up(load_parts(EngineConfig(model=model, **options)))

    @classmethod
    def from_parts(cls, parts: Parts) -> Engine:
        """An engine over a model that is loaded already."""
        engine = cls.__new__(cls)
        engine._set_up(parts)
        return engine

    def _set_up(self, parts: Parts) -> None:
        self._parts = parts
        self.config = parts.config
        self._loop = Loop(parts.runner, parts.config, limit=parts.context_len)
        self._seeds = random.Random(parts.config.seed)

    # -- core.Backend

    @property
    def name(self) -> str:
        return self._parts.name

    @property
    def chat_template(self) -> core.ChatTemplate | None:
        return self._parts.chat_template

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer (`models.tokenizer.Tokenizer`)."""
        return self._parts.tokenizer

    @property
    def context_len(self) -> int:
        """Most tokens that a sequence can have."""
        return self._loop.limit

    @property
    def is_closed(self) -> bool:
        """Whether it can serve nothing any more."""
        return self._loop.is_closed

    def open(self, *, seed: int | None = None, priority: int = 0, namespace: str = "") -> Session:
        """A new session; see `core.Backend.open`.

        Args:
            namespace: whose cached prefixes it shares; those of other namespaces are never
                used, nor seen to exist.
        """
        if not isinstance(priority, int):
            raise RequestError(f"priority={priority!r}: must be an integer")
        if seed is not None:
            SamplingParams(seed=seed)  # checks it
        chosen = self._seeds.getrandbits(64) if seed is None else seed
        return Session(self, self._loop.new_live(priority=priority, namespace=namespace), chosen)

    def compile(self, constraint: Constraint) -> None:
        """See `core.Backend.compile`."""
        self._parts.grammars.compile(constraint, ahead=True)

    def pin(self, prefix: Seq[Text]) -> Pinned:
        """See `core.PrefixCache.pin`. Cost: the prefix, once, and one step of decoding."""
        session = self.open(seed=0)  # not from the seeds of sessions that draw
        session.extend(*prefix)
        (handle,) = session.generate([core.Generate(params=_ONE_TOKEN)])
        return Pinned(session, handle)

    def token_texts(self, token_ids: Seq[int]) -> list[str]:
        """Each token's own text, special tokens as they are spelled."""
        tokenizer = self._parts.tokenizer
        return [tokenizer.piece(i) for i in token_ids]

    def why_not(self, constraint: Constraint, token_ids: Seq[int], token_id: int) -> str | None:
        """See `core.Explains.why_not`."""
        with suppress(ConstraintError):
            matcher = self._parts.grammars.compile(constraint).matcher()
            matcher.accept(token_ids)
            return matcher.explain(token_id)
        return None

    def stats(self) -> Mapping[str, float]:
        """Counters of `runtime.stats.Stats`, the scheduler's and the grammars', and the pages as
        they are now."""
        loop = self._loop
        pool, tree, counters = loop.kv.pool, loop.kv.tree, loop.scheduler.counters
        grammars = self._parts.grammars.stats
        return loop.stats.as_dict() | {
            "retracted": counters.num_retracted,
            "recomputed": counters.num_recomputed_tokens,
            "pages": pool.num_pages,
            "pages_free": pool.num_free,
            "pages_cached": tree.num_cached,
            "running": len(loop.scheduler.running),
            "waiting": len(loop.scheduler.waiting),
            "grammars_compiled": grammars.num_compiled,
            "grammars_cached": grammars.num_cached,
            "grammars_refused": grammars.num_refused,
            "grammars_over_budget": grammars.num_over_budget,
            "grammar_s": grammars.seconds,
        }

    def flush_cache(self) -> int:
        """Forget every computed prefix that nobody uses; returns the tokens forgotten."""
        handle: Handle[int] = Handle()
        loop = self._loop
        loop.post(lambda: handle.finish(loop.kv.tree.clear() * loop.kv.page_size))
        return handle.result()

    def close(self) -> None:
        """Stop the loop; unfinished work fails with `EngineClosed`. Idempotent."""
        self._loop.close()
        self._parts.grammars.close()

    def __del__(self) -> None:
        if hasattr(self, "_loop"):
            self._loop.stop()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- without a program

    def generate(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        constraint: Constraint | None = None,
        deadline_s: float | None = None,
        **sampling: Any,
    ) -> GenerateResult | list[GenerateResult]:
        """Continue a prompt and wait.

        Args:
            prompt: text, token ids, or chat messages.
            n: how many continuations; more than one returns a list.
            constraint: what the text must satisfy.
            deadline_s: seconds after which it fails with `DeadlineExceeded`.
            sampling: fields of `SamplingParams`.

        Raises:
            SgrtError: the request is refused, or failed.
        """
        handles = self._start(prompt, n, constraint, deadline_s, sampling)
        try:
            results = [handle.result() for handle in handles]
        finally:
            for handle in handles:
                handle.cancel()  # what an interrupt or the failure of another left running
        return results if n > 1 else results[0]

    async def agenerate(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        constraint: Constraint | None = None,
        deadline_s: float | None = None,
        **sampling: Any,
    ) -> GenerateResult | list[GenerateResult]:
        """`generate` for coroutines; cancelling the coroutine cancels the work."""
        handles = self._start(prompt, n, constraint, deadline_s, sampling)
        try:
            results = [await handle.wait() for handle in handles]
        finally:
            for handle in handles:
                handle.cancel()
        return results if n > 1 else results[0]

    def stream(
        self,
        prompt: Prompt,
        *,
        constraint: Constraint | None = None,
        deadline_s: float | None = None,
        **sampling: Any,
    ) -> Iterator[TokenEvent]:
        """Continue a prompt and yield tokens as they come; leaving the loop cancels the work."""
        (handle,) = self._start(prompt, 1, constraint, deadline_s, sampling)
        return _Stream(handle)

    async def astream(
        self,
        prompt: Prompt,
        *,
        constraint: Constraint | None = None,
        deadline_s: float | None = None,
        **sampling: Any,
    ) -> AsyncIterator[TokenEvent]:
        """`stream` for coroutines."""
        (handle,) = self._start(prompt, 1, constraint, deadline_s, sampling)
        try:
            async for event in handle.aevents():
                yield event
        finally:
            handle.cancel()

    def _start(
        self,
        prompt: Prompt,
        n: int,
        constraint: Constraint | None,
        deadline_s: float | None,
        sampling: dict[str, Any],
    ) -> list[Generation]:
        if not isinstance(n, int) or n < 1:
            raise RequestError(f"n={n!r}: must be an integer >= 1")
        check_names("a sampling parameter", sampling, [f.name for f in fields(SamplingParams)])
        params = SamplingParams(**sampling)
        request = core.Generate(params=params, constraint=constraint, deadline_s=deadline_s)
        session = self.open(seed=params.seed)
        append_prompt(session, prompt, self.chat_template, self.name)
        if n == 1:
            return list(session.generate([request]))
        # the same seed for all would draw n times the same text: each fork derives its own
        request = replace(request, params=replace(params, seed=None))
        return [child.generate([request])[0] for child in session.fork(n)]


class Pinned:
    """A prefix that an open session keeps in the cache, as long as pages are not short."""

    def __init__(self, session: Session, handle: Generation) -> None:
        self._session = session
        self._handle = handle

    @property
    def num_tokens(self) -> int:
        """Wait; tokens of the prefix, 0 where it could not be computed."""
        with suppress(SgrtError):
            return self._handle.result().usage.prompt
        return 0

    def close(self) -> None:
        """Let it go. Idempotent."""
        self._session.close()


class _Stream:
    """The events of a generation; the work ends with the iterator, begun or not."""

    def __init__(self, handle: Generation) -> None:
        self._handle = handle
        self._events = handle.events()

    def __iter__(self) -> Iterator[TokenEvent]:
        return self

    def __next__(self) -> TokenEvent:
        return next(self._events)

    def close(self) -> None:
        """Cancel what is left."""
        self._handle.cancel()

    def __del__(self) -> None:
        self.close()


class Session:
    """A sequence on the embedded engine; implements `core.Session`.

    Tokenizing and compiling happen in the caller's thread, so the loop never waits for them.
    A session belongs to one thread at a time; its handles may be read from anywhere.

    The seam: text is tokenized where a generation, a score or a fork follows it. What was
    generated keeps its tokens, and text behind it is tokenized on its own, so a token never
    spans the border between the two (a plain tokenization of the whole text might merge there).
    An option of a score stands where a generation would, and is tokenized as one would write it.
    """

    def __init__(self, engine: Engine, live: Live, seed: int | None) -> None:
        self._engine = engine  # stays open while a session of it is in use
        self._loop = engine._loop
        self._parts = engine._parts
        self._live = live
        self._seeds = core.Seeds(seed)
        self._pending: list[Text] = []
        self._error: SgrtError | None = None
        self._handles: list[Handle[Any]] = []
        self._after_id: int | None = None  # stands before what is appended next
        self._is_new = True
        self._is_closed = False

    # -- core.Session

    def extend(self, *parts: Text) -> None:
        for part in parts:
            if not (isinstance(part, Text) and isinstance(part.text, str)):
                raise RequestError(f"{part!r} is not a core.Text with text in it")
        self._pending += parts

    def extend_ids(self, token_ids: Seq[int]) -> None:
        ids = self._checked_ids(token_ids)
        # text in front begins as any text does; ids alone are taken as they are
        self._queue(*self._flush_or_fail(bos=bool(self._pending)), operations.Extend(ids))
        self._is_new = False
        self._after_id = ids[-1] if ids else self._after_id

    def _checked_ids(self, token_ids: Seq[int]) -> list[int]:
        ids = checked_ids(token_ids)
        size = self._parts.tokenizer.vocab_size
        bad = [i for i in ids if not 0 <= i < size]
        if bad:
            raise RequestError(f"token {bad[0]} does not exist: the vocabulary has {size}")
        return ids

    def generate(self, segment: Segment) -> tuple[Generation, ...]:
        queued: list[Any] = []
        handles: list[Generation] = []
        for item in segment:
            if not isinstance(item, core.Generate):
                self.extend(item)
                continue
            handle = self._handle()
            handles.append(handle)
            with _Failing(self, handle):
                queued += self._flush()
                task = self._task(item, handle)
                self._after_id = self._parts.text_id
                queued.append(operations.Generate(task))
                if item.deadline_s is not None:
                    self._loop.watch(self._live, handle, item.deadline_s)
        self._queue(*queued)
        return tuple(handles)

    def _task(self, item: core.Generate, handle: Generation) -> GenerateTask:
        grammar = None
        if item.constraint is not None:
            grammar = self._parts.grammars.compile(item.constraint)
        seed = item.params.seed
        if seed is None:
            seed = self._seeds.of_generation()
        assert seed is not None  # the session has one
        task = GenerateTask(
            item,
            handle,
            self._parts.tokenizer,
            seed=seed,
            grammar=grammar,
            limit=self._loop.limit,
            forced_runs=self._parts.config.forced_runs,
        )
        handle.usage_so_far = task.counts.usage
        return task

    def score(
        self,
        options: Seq[str],
        *,
        unconditional: bool = False,
        deadline_s: float | None = None,
    ) -> Scoring:
        core.check_deadline(deadline_s)
        handle: Scoring = self._handle()
        with _Failing(self, handle):
            core.check_options(options)
            flushed = self._flush()
            encoded = [self._encode_option(option) for option in options]
            alone = [self._parts.first_id] if unconditional else None
            operation = operations.Score(self._loop, encoded, handle, alone=alone)
            if deadline_s is not None:
                self._loop.watch(self._live, handle, deadline_s)
            self._queue(*flushed, operation)
        return handle

    def extend_scored(
        self, token_ids: Seq[int], *, num_top: int = 0, deadline_s: float | None = None
    ) -> Handle[tuple[core.TokenLogprob, ...]]:
        """Append tokens, and tell how likely the model found each.

        Args:
            num_top: how many of the likeliest tokens to tell beside each.

        Returns:
            Per token its log-probability over the whole vocabulary.

        Raises:
            RequestError: an id outside the vocabulary.
        """
        core.check_deadline(deadline_s)
        ids = self._checked_ids(token_ids)
        handle: Handle[tuple[core.TokenLogprob, ...]] = self._handle()
        with _Failing(self, handle):
            if not ids:
                raise RequestError("no tokens to score")
            flushed = self._flush(bos=False)
            if deadline_s is not None:
                self._loop.watch(self._live, handle, deadline_s)
            self._queue(*flushed, operations.ScoreText(ids, num_top, handle))
            self._is_new = False
            self._after_id = ids[-1]
        return handle

    def _encode_option(self, option: str) -> list[int]:
        ids = self._parts.tokenizer.encode(option, after_id=self._after_id)
        if not ids:
            raise RequestError(f"option {option!r}: the vocabulary has no token for it")
        return ids

    def fork(self, num: int) -> list[core.Session]:
        if not isinstance(num, int) or num < 1:
            raise RequestError(f"fork({num!r}): must be an integer >= 1")
        children: list[core.Session] = []
        lives = []
        flushed = self._flush_or_fail()
        for seed in self._seeds.of_fork(num):
            live = self._loop.new_live(self._live)
            live.unborn = True
            child = Session(self._engine, live, seed)
            child._is_new = self._is_new
            child._after_id = self._after_id
            child._error = self._error
            lives.append(live)
            children.append(child)
        self._queue(*flushed, operations.Fork(self._loop, lives))
        return children

    def token_ids(self) -> list[int]:
        return self._call(lambda live: list(live.seq.token_ids)).result()

    def usage(self) -> Usage:
        total = Usage()
        for handle in self._handles:
            if handle.done() and handle.error() is None:
                value: GenerateResult | ScoreResult = handle.result()
                total = total + value.usage
        return total

    def sync(self, timeout: float | None = None) -> None:
        self._call(lambda live: None).result(timeout)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._error = self._error or Cancelled("the session is closed")
            self._loop.discard(self._live)

    def __del__(self) -> None:
        if hasattr(self, "_is_closed"):
            self.close()

    # -- inside

    def _handle(self) -> Handle[Any]:
        handle: Handle[Any] = Handle(on_cancel=lambda: self._loop.cancel(self._live, handle))
        self._handles.append(handle)
        return handle

    def _call(self, read: Callable[[Live], T]) -> Handle[T]:
        handle: Handle[T] = Handle()
        with _Failing(self, handle):
            self._queue(*self._flush(), operations.Call(read, handle))
        return handle

    def _flush(self, *, bos: bool = True) -> list[operations.Extend]:
        """The text appended so far, as tokens; a new session begins with the model's BOS."""
        if self._error is not None:
            raise self._error
        parts, self._pending = self._pending, []
        tokenizer = self._parts.tokenizer
        token_ids = tokenizer.encode_parts(parts, after_id=self._after_id)
        if self._is_new and bos:
            token_ids = tokenizer.with_bos(token_ids)
        if not token_ids:
            return []
        self._is_new = False
        self._after_id = token_ids[-1]
        return [operations.Extend(token_ids)]

    def _flush_or_fail(self, *, bos: bool = True) -> list[operations.Extend]:
        try:
            return self._flush(bos=bos)
        except SgrtError as error:
            self._error = error
            return []

    def _queue(self, *queued: Any) -> None:
        if queued:
            self._post_or_fail(queued)

    def _post_or_fail(self, queued: Seq[Any]) -> None:
        try:
            self._loop.submit(self._live, *queued)
        except EngineClosed as error:
            self._error = error
            for operation in queued:
                operation.fail(error)


class _Failing:
    """Turns an error of ours inside the block into the failure of a handle and its session."""

    def __init__(self, session: Session, handle: Handle[Any]) -> None:
        self._session = session
        self._handle = handle

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, SgrtError):
            return False
        self._session._error = error
        self._handle.fail(error)
        return True
