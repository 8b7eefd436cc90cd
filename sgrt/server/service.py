"""Between the routes and the engine: admission, submission, and following what comes back.

Everything here runs on the server's event loop; what may block (tokenizing a long prompt,
compiling a grammar) runs in a few helper threads.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from sgrt.backends.local import Engine
from sgrt.config import ServerConfig
from sgrt.core import (
    Constraint,
    Generate,
    Generation,
    Handle,
    SamplingParams,
    Text,
    TokenLogprob,
)
from sgrt.errors import PromptTooLong, SgrtError
from sgrt.grammar import stopping
from sgrt.server.failures import ApiError, Spelling, bad_request, from_error, overloaded
from sgrt.server.follow import Follower, Waker
from sgrt.server.metrics import Metrics
from sgrt.server.stored import ResponseStore

T = TypeVar("T")
_NUM_THREADS = 16
"""Most of them wait for grammars; a few hostile ones must not hold up the rest."""
_LONG_TEXT = 20_000
"""Characters of a prompt above which tokenizing leaves the event loop."""


@dataclass(frozen=True)
class Caller:
    """Who a request comes from.

    Args:
        name: one per key, "" where none is needed.
        is_admin: may end the requests of others.
    """

    name: str = ""
    is_admin: bool = False


CALLER: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 (frozen)
"""Of the request that the running task answers."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One prompt to continue.

    Args:
        prompt: runs of text, or token ids.
        stop_regex: patterns that end the text (`core.Generate`).
        n: how many continuations.
        prompt_at, constraint_at: where in the body they came from.
        spelling: what the interface calls the sampling parameters.
        namespace: whose cached prefixes may be used.
        timeout_s: less than the server's own, where the client asked for it.
    """

    prompt: tuple[Text, ...] | Sequence[int]
    params: SamplingParams
    constraint: Constraint | None = None
    stop_regex: tuple[str, ...] = ()
    n: int = 1
    prompt_at: str = "prompt"
    constraint_at: str | None = None
    spelling: Spelling = field(default_factory=dict)
    namespace: str = ""
    priority: int = 0
    timeout_s: float | None = None


class Service:
    """An engine that requests can be given to, once it is attached.

    Args:
        config: limits and names.

    Attributes:
        failure: why the engine could not be loaded.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._engine: Engine | None = None
        self.config = config
        self.failure: SgrtError | None = None
        self.started_at = time.time()
        self.is_draining = False
        self.num_running = 0
        self.follow: dict[tuple[str, str], list[Follower]] = {}
        self.metrics = Metrics(self)
        self.stored = ResponseStore(config.max_stored_bytes)
        self._threads = ThreadPoolExecutor(
            _NUM_THREADS, thread_name_prefix="sgrt-serve", initializer=_stand_back
        )
        self._waker: Waker | None = None

    def attach(self, engine: Engine) -> None:
        """Begin to serve this engine; it is closed with the service."""
        self._engine = engine

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            ApiError: 503 while it is being loaded.
        """
        if self._engine is None:
            raise ApiError(
                503, "the model is loading", code="loading", headers={"retry-after": "2"}
            )
        return self._engine

    @property
    def has_died(self) -> bool:
        """Whether the engine has ended, which it never does by itself."""
        return self._engine is not None and self._engine.is_closed

    def stats(self) -> Mapping[str, float] | None:
        """The engine's counters, and ``page_size``; None while it is being loaded."""
        if self._engine is None:
            return None
        return {**self._engine.stats(), "page_size": self._engine.config.page_size}

    @property
    def names(self) -> tuple[str, ...]:
        """What the model may be called."""
        return self.config.served_model_names or (self.engine.name,)

    @property
    def capacity(self) -> int:
        """Requests that may be under way, those that wait included."""
        return self.engine.config.max_running + self.config.max_queued_requests

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """A place in the queue for one request.

        Raises:
            ApiError: 429 where the queue is full, 503 where the server is draining.
        """
        if self.is_draining:
            raise ApiError(
                503, "the server is shutting down", code="draining", headers={"retry-after": "5"}
            )
        if self.num_running >= self.capacity:
            self.metrics.num_rejected += 1
            raise overloaded(f"{self.num_running} requests are under way already; try again later")
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1

    @asynccontextmanager
    async def running(self, job: Job, request_id: str = "") -> AsyncIterator[list[Follower]]:
        """Submit a job; leaving the block cancels what has not ended.

        Raises:
            ApiError: the request is refused.
        """
        if self._waker is None:
            self._waker = Waker(asyncio.get_running_loop())
        began = time.perf_counter()
        heavy = job.constraint or job.stop_regex or _length(job.prompt) > _LONG_TEXT
        handles = await self._submit_aside(job) if heavy else self._submit(job)
        told = partial(from_error, param=job.prompt_at, spelling=job.spelling)
        followers = [Follower(h, self._waker, self.metrics.timer(h, began), told) for h in handles]
        key = CALLER.get().name, request_id
        self.follow.setdefault(key, []).extend(followers)
        try:
            yield followers
        finally:
            for follower in followers:
                follower.close()
            left = [f for f in self.follow.get(key, []) if f not in followers]
            if left:
                self.follow[key] = left
            else:
                self.follow.pop(key, None)

    async def _submit_aside(self, job: Job) -> list[Generation]:
        """`_submit` in a helper thread; a client that leaves meanwhile takes the work with it."""
        work = self._threads.submit(self._submit, job)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            work.add_done_callback(_cancel_all)
            raise

    def _submit(self, job: Job) -> list[Generation]:
        if job.constraint is not None:
            with refusing(job.constraint_at):
                self.engine.compile(job.constraint)
        self._check_ids(job)
        timeout_s = self.config.request_timeout_s
        if job.timeout_s is not None:
            timeout_s = min(timeout_s, job.timeout_s)
        with refusing(job.prompt_at, job.spelling):
            for pattern in job.stop_regex:  # before there is a session to give back
                stopping.compile(pattern)
            request = Generate(
                params=job.params,
                constraint=job.constraint,
                deadline_s=timeout_s,
                stop_regex=job.stop_regex,
            )
            session = self.engine.open(
                seed=job.params.seed, priority=job.priority, namespace=job.namespace
            )
            token_ids = self._prompt_ids(job)
            if len(token_ids) >= self.engine.context_len:  # before a stream has begun
                raise PromptTooLong(len(token_ids), self.engine.context_len - 1)
            session.extend_ids(token_ids)
            if job.n == 1:
                return list(session.generate([request]))
            # one seed for all would draw the same text n times: each fork derives its own
            request = replace(request, params=replace(job.params, seed=None))
            return [child.generate([request])[0] for child in session.fork(job.n)]

    def _check_ids(self, job: Job) -> None:
        size = self.engine.tokenizer.vocab_size
        named = {
            "logit_bias": job.params.logit_bias or {},
            "stop_token_ids": job.params.stop_token_ids,
        }
        for name, ids in named.items():
            for i in ids:
                if not 0 <= i < size:
                    at = job.spelling.get(name, name)
                    rule = f"token {i} does not exist: the vocabulary has {size}"
                    raise bad_request(f"{at}: {rule}", at, "invalid_value")

    async def token_ids(self, job: Job) -> list[int]:
        """A job's prompt as tokens, those that begin every text included."""
        return await self.aside(lambda: self._prompt_ids(job))

    def _prompt_ids(self, job: Job) -> list[int]:
        texts = [part for part in job.prompt if isinstance(part, Text)]
        if not texts:
            return [i for i in job.prompt if not isinstance(i, Text)]
        tokenizer = self.engine.tokenizer
        ids: list[int] = tokenizer.with_bos(tokenizer.encode_parts(texts))
        return ids

    async def prompt_logprobs(
        self, token_ids: Sequence[int], start: int, num_top: int, namespace: str
    ) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of a prompt's own tokens from ``start + 1`` on."""
        session = self.engine.open(namespace=namespace)
        with refusing("prompt"):
            session.extend_ids(token_ids[: start + 1])
            rest = token_ids[start + 1 :]
            if not rest:
                return ()
            timeout_s = self.config.request_timeout_s
            return await self.wait(
                session.extend_scored(rest, num_top=num_top, deadline_s=timeout_s)
            )

    async def aside(self, work: Callable[[], T]) -> T:
        """Run blocking work in a helper thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def wait(self, handle: Handle[T]) -> T:
        """Wait for any handle; cancels it where the waiting is cancelled."""
        try:
            return await handle.wait()
        finally:
            handle.cancel()

    def abort(self, request_id: str, message: str | None = None) -> int:
        """Cancel a request of the caller's by its id, "" all of them; an admin reaches all callers.

        The id of a request with several prompts stands for each of them, and that of an answer
        for its request.

        Args:
            message: what those who wait for it are told.

        Returns:
            How many generations.
        """
        caller = CALLER.get()
        own = request_id.removeprefix("chatcmpl-").removeprefix("cmpl-").removeprefix("resp_")
        return self._cancel(
            [
                follower
                for (owner, name), followers in self.follow.items()
                if (caller.is_admin or owner == caller.name)
                and (not request_id or name in (request_id, own) or _is_part(name, request_id))
                for follower in followers
            ],
            message,
        )

    def abort_all(self) -> int:
        """Cancel everything; returns how many generations."""
        return self._cancel([f for followers in self.follow.values() for f in followers])

    def _cancel(self, followers: Sequence[Follower], message: str | None = None) -> int:
        for follower in followers:
            follower.abort_message = message
            follower.handle.cancel()
        return len(followers)

    async def drain(self) -> None:
        """Take nothing new, wait for what runs, then cancel the rest."""
        self.is_draining = True
        end = time.monotonic() + self.config.drain_timeout_s
        while self.num_running and time.monotonic() < end:
            await asyncio.sleep(0.05)
        self.abort_all()

    def close(self) -> None:
        """Give the engine back. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._engine is not None:
            self._engine.close()

    def model_named(self, name: object) -> str:
        """The served name that a request means; None, "" and SGLang's "default" mean the first.

        Raises:
            ApiError: 404 for a model that is not served.
        """
        if name in self.names:
            return str(name)
        if name in (None, "", "default"):
            return self.names[0]
        raise ApiError(
            404,
            f"the model {name!r:.200} does not exist; served: {', '.join(self.names)}",
            "model",
            "model_not_found",
        )


def _stand_back() -> None:
    """Let the model's steps go before the work of this thread, where threads have priorities."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + 5)


def _is_part(name: str, request_id: str) -> bool:
    """Whether this is one of the prompts of a request with several."""
    return name.startswith(f"{request_id}_")


def _cancel_all(work: Future[list[Generation]]) -> None:
    if not work.cancelled() and work.exception() is None:
        for handle in work.result():
            handle.cancel()


class refusing:
    """Turns errors of sgrt into answers that name the part of the body."""

    def __init__(self, at: str | None, spelling: Spelling | None = None) -> None:
        self._at = at
        self._spelling = spelling

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, SgrtError):
            raise from_error(error, param=self._at, spelling=self._spelling) from error


def _length(prompt: Sequence[Any]) -> int:
    if prompt and isinstance(prompt[0], Text):
        return sum(len(part.text) for part in prompt)
    return 0
