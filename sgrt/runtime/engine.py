"""The loop: one thread that owns the scheduler, the pages and every live sequence.

Other threads post operations; the loop drains them between steps, sleeps while there is nothing
to do, and answers through handles. A failing operation fails its own sequence and no other.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from sgrt.config import EngineConfig
from sgrt.core import Handle, TokenLogprob
from sgrt.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
    GrammarBudgetExceeded,
    OutOfPages,
    PromptTooLong,
    SgrtError,
)
from sgrt.runtime.kv_manager import KVManager
from sgrt.runtime.masking import LateMask
from sgrt.runtime.model_runner import Batch, Runner
from sgrt.runtime.sampler import Row, Sampler, Token
from sgrt.runtime.scheduler import Scheduler, common_prefix_len
from sgrt.runtime.searcher import Found, Searcher
from sgrt.runtime.sequence import Sequence, Work
from sgrt.runtime.stats import Stats
from sgrt.runtime.tasks import BranchTask, Ending, GenerateTask, Search, Step, TextTask

log = logging.getLogger("sgrt.engine")

MASK_LIMIT_S = 2.0
"""A sequence whose mask has not come after so many seconds fails."""


class Operation(Protocol):
    """One queued call of a session."""

    def start(self, engine: Engine, live: Live) -> None:
        """Do it, or set ``live.task`` or ``live.pending`` and let the steps do it."""

    def fail(self, error: SgrtError) -> None:
        """Tell whoever waits for it that it will not happen. May be called more than once."""


class Live:
    """A session on the loop's side: a sequence and the calls queued for it."""

    def __init__(self, group: int, priority: int, namespace: str = "") -> None:
        self.seq = Sequence(group=group, priority=priority, namespace=namespace)
        self.queue: deque[Operation] = deque()
        self.task: GenerateTask | BranchTask | TextTask | None = None
        self.num_drafted = 0  # last tokens of the sequence that were not drawn
        self.pending: Operation | None = None  # what other sequences carry out for this one
        self.unborn = False  # a fork that has not happened yet
        self.error: SgrtError | None = None
        self.closed = False


class Engine:
    """Runs sequences on a model.

    Args:
        runner: the model and its pages.
        config: resolved; its page size is the runner's.
        limit: most tokens a sequence may have, as far as the model goes.

    Threads: `post` and `close` may be called from any thread; all else runs on the loop.
    """

    def __init__(self, runner: Runner, config: EngineConfig, *, limit: int) -> None:
        self.runner = runner
        self.config = config
        self.kv = KVManager(
            runner.num_pages, runner.page_size, runner.copy_page, prefix_cache=config.prefix_cache
        )
        self.scheduler = Scheduler(
            self.kv,
            max_running=config.max_running,
            max_step_tokens=config.max_step_tokens,
            policy=config.policy,
        )
        self.limit = min(limit, runner.num_pages * runner.page_size)
        self.stats = Stats()
        self._sampler = Sampler(runner)
        self._lives: dict[Sequence, Live] = {}
        self._groups = itertools.count(1)
        self._deadlines: list[tuple[float, int, SgrtError, Live, Handle[Any] | LateMask]] = []
        self._prune_at = 64
        self._tie = itertools.count()
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._searcher = Searcher()
        self._stalled = False  # nothing can be computed before something is posted
        self._closing = False
        self._why_closed = "the engine is closed"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sgrt-engine", daemon=True)
        _ENGINES.add(self)
        self._thread.start()

    # ------------------------------------------------------------ from other threads

    def post(self, action: Callable[[], None]) -> None:
        """Run an action on the loop, before its next step.

        Raises:
            EngineClosed: the engine is closed.
        """
        if self._closing:
            raise EngineClosed(self._why_closed)
        self._inbox.put(action)
        if self._closed.is_set():  # it closed in between: nobody would run the action
            self._fail_all(EngineClosed())

    @property
    def is_closed(self) -> bool:
        """Whether the loop has ended, or is about to."""
        return self._closing

    def new_live(
        self, parent: Live | None = None, *, priority: int = 0, namespace: str = ""
    ) -> Live:
        """A session's state; joins the loop with its first operation.

        Args:
            parent: whose group, priority and namespace it has.
        """
        if parent is not None:
            return Live(parent.seq.group, parent.seq.priority, parent.seq.namespace)
        return Live(next(self._groups), priority, namespace)

    def submit(self, live: Live, *operations: Operation) -> None:
        """Queue operations of one session, in order."""

        def action() -> None:
            self.stats.submissions += 1
            try:
                for operation in operations:
                    self._enqueue(live, operation)
                self._advance(live)
            except Exception as error:
                log.exception("an operation broke")
                self.fail(live, _wrap(error))

        self.post(action)

    def cancel(self, live: Live, handle: Handle[Any]) -> None:
        """End a session's work on this handle; the session ends with it."""
        if not self._closing:
            self.post(lambda: None if handle.done() else self.fail(live, Cancelled()))

    def watch(self, live: Live, handle: Handle[Any], deadline_s: float) -> None:
        """Fail the session if this handle, at work or still queued, has not ended in time.

        Raises:
            EngineClosed: the engine is closed.
        """
        due, error = time.monotonic() + deadline_s, DeadlineExceeded(deadline_s)
        self.post(lambda: self._watch(due, error, live, handle))

    def discard(self, live: Live) -> None:
        """Drop a session: cancel what is queued, give the pages back."""
        if not self._closing:
            self.post(lambda: self._discard(live))

    def stop(self) -> None:
        """End the loop after its current step; everything unfinished fails. Idempotent."""
        if not self._closing:
            self._closing = True
            self._inbox.put(lambda: None)

    def close(self) -> None:
        """`stop`, and wait for the loop to end."""
        self.stop()
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            self._thread.join()

    # ------------------------------------------------------------ the loop

    def _run(self) -> None:
        try:
            while not self._closing:
                self._drain_inbox()
                if self._can_step():
                    self._try_step()
        except BaseException as error:  # a broken loop must not leave readers waiting
            log.exception("the engine loop died")
            self._closing = True
            self._fail_all(EngineClosed(f"the engine loop died: {error!r}"))
        finally:
            self._closing = True
            self._closed.set()
            self._fail_all(EngineClosed())
            self._sampler.close()
            self._searcher.close()

    def _drain_inbox(self) -> None:
        """Run what was posted; sleep for it, or for the next deadline, only while there is no
        work."""
        while True:
            try:
                action = self._inbox.get_nowait()
            except Empty:
                if self._can_step() or self._closing:
                    return
                with self.stats.timed("idle_s"):
                    action = self._next_action()
            self._stalled = False
            action()

    def _can_step(self) -> bool:
        return self.scheduler.has_work and not self._stalled

    def _next_action(self) -> Callable[[], None]:
        due = self._deadlines[0][0] - time.monotonic() if self._deadlines else None
        try:
            return self._inbox.get(timeout=None if due is None else max(0.0, due))
        except Empty:
            return self._expire_deadlines

    def _try_step(self) -> None:
        """A step; what breaks one outside the model ends the sequences that were in it."""
        try:
            self._step()
        except Exception as error:
            log.exception("a step broke")
            for seq in (*self.scheduler.running, *self.scheduler.waiting):
                self._fail_computing(seq, error)

    def _step(self) -> None:
        with self.stats.timed("schedule_s"):
            self._expire_deadlines()
            works = self.scheduler.schedule()
        if not works:
            self._fail_unservable()
            return
        rows = [self._row(w.seq, p) for w in works for p in w.output_positions]
        try:
            drawn = self._compute(works, rows)
        except Exception as error:
            log.warning("a step failed: %r", error)
            for work in works:
                self._fail_computing(work.seq, error)
            return
        with self.stats.timed("schedule_s"):
            self._settle(works, rows, drawn)

    def _compute(self, works: Seq[Work], rows: Seq[Row]) -> list[Token | Exception]:
        """The forward pass, with the masks filled beside it, then the draws."""
        batch = Batch.build(works, self.kv.page_size)
        wait_for_masks = self._sampler.start_masks(rows)
        try:
            with self.stats.timed("forward_s"):
                hidden = self.runner.forward(batch)
        finally:
            with self.stats.timed("mask_wait_s"):
                masks = wait_for_masks()
        with self.stats.timed("sample_s"):
            drawn, head_rows = self._sampler.draw(hidden, rows, masks)
        self.stats.count_step(batch, self._sampler.mask_s, head_rows)
        return drawn

    def _settle(self, works: Seq[Work], rows: Seq[Row], drawn: Seq[Token | Exception]) -> None:
        """Move on by what was computed and drawn."""
        for work in works:
            self._count_cached(work)
            self.scheduler.computed(work)
        over: set[Sequence] = set()  # those whose other rows are of no use any more
        for row, token in zip(rows, drawn, strict=True):
            live = self._lives.get(row.seq)
            if live is None or row.seq in over:
                continue
            try:
                is_over = self._settle_row(live, row, token)
            except Exception as error:
                is_over = True
                self.fail(live, error if isinstance(error, SgrtError) else _wrap(error))
            if is_over:
                over.add(row.seq)

    def _settle_row(self, live: Live, row: Row, token: Token | Exception) -> bool:
        """Move one sequence on; returns whether its later rows of this step are of no use."""
        task = live.task
        if isinstance(task, GenerateTask):
            if row.position != task.next_position:
                return False
            num_drawn = len(live.seq.token_ids) - live.num_drafted
            if isinstance(token, Exception) and row.position > num_drawn:
                self._go_on(live, task, None)  # behind the draft: it is drawn again, on its own
                return True
        if isinstance(token, LateMask):
            self._await_mask(live, token)
            return True
        if isinstance(token, Exception):
            raise token
        return self._take(live, row, token)

    # ------------------------------------------------------------ tasks

    def _row(self, seq: Sequence, position: int) -> Row:
        """What is wanted after the token at ``position``."""
        task = self._lives[seq].task
        assert task is not None
        return task.row(seq, position + 1)

    def _take(self, live: Live, row: Row, token: Token) -> bool:
        """Give a token to the task; returns whether it wants no more of this step."""
        task = live.task
        if isinstance(task, (BranchTask, TextTask)):
            is_over = task.take(row.position, token)
            if is_over:
                live.task = None
                self.scheduler.park(live.seq)
                task.done(None)
            return is_over
        assert task is not None
        logprob = None
        if task.params.logprobs is not None:
            logprob = TokenLogprob(token.token_id, token.logprob, token.top)
        step = task.take(token.token_id, logprob)
        if step is None and self._is_ahead(live, task):
            return False
        self._go_on(live, task, step)
        return True

    def _is_ahead(self, live: Live, task: GenerateTask) -> bool:
        """Whether the draft went as the task did, so that this step has its next row too."""
        seq, end = live.seq, task.next_position
        if not live.num_drafted or end > seq.num_computed:
            return False
        num_drawn = len(seq.token_ids) - live.num_drafted
        return seq.token_ids[num_drawn:end] == task.output[num_drawn - task.counts.prompt :]

    def _go_on(self, live: Live, task: GenerateTask, step: Step) -> None:
        """Append what the task has produced and ask for more, or end it."""
        self._append(live, task)
        if isinstance(step, Ending):
            self._finish(live, task, step)
        elif step is None:
            num_drawn = len(live.seq.token_ids)
            draft = task.draft()
            live.seq.token_ids += draft
            live.num_drafted = len(draft)
            live.seq.want_states(num_drawn - 1)
            self.scheduler.add(live.seq)
        else:
            self.scheduler.suspend(live.seq)
            self._searcher.submit(step.run, partial(self._on_found, live, task, step))

    def _append(self, live: Live, task: GenerateTask) -> None:
        """Make the sequence end with what the task has produced, in place of its draft."""
        seq = live.seq
        at = len(seq.token_ids) - live.num_drafted
        new = task.output[at - task.counts.prompt :]
        at += common_prefix_len(new, seq.token_ids[at:], live.num_drafted)
        if at < len(seq.token_ids):
            self.kv.truncate(seq, at)
        seq.token_ids += task.output[at - task.counts.prompt :]
        live.num_drafted = 0

    def _await_mask(self, live: Live, mask: LateMask) -> None:
        """Let a sequence go on once its mask is there, without the others' waiting for it."""
        task = live.task
        assert isinstance(task, GenerateTask)
        self.stats.late_masks += 1
        self.scheduler.suspend(live.seq)
        error = GrammarBudgetExceeded("seconds to fill one mask", MASK_LIMIT_S, MASK_LIMIT_S)
        self._watch(time.monotonic() + MASK_LIMIT_S, error, live, mask)
        search = task.await_mask(mask)
        mask.when_done(partial(self._on_found, live, task, search, search.run))

    def _on_found(self, live: Live, task: GenerateTask, search: Search, found: Found) -> None:
        """A search has ended, on its own thread."""

        def go_on() -> None:
            if live.task is not task:
                return  # it failed meanwhile
            try:
                self._go_on(live, task, search.then(found()))
            except Exception as error:
                self.fail(live, error if isinstance(error, SgrtError) else _wrap(error))

        with suppress(EngineClosed):
            self.post(go_on)

    def begin(self, live: Live, task: GenerateTask) -> None:
        """Start a generation on a sequence that has no task."""
        num_tokens = len(live.seq.token_ids)
        if num_tokens >= self.limit:
            raise PromptTooLong(num_tokens, self.limit - 1)
        task.begin(live.seq.token_ids)
        live.task = task
        self._go_on(live, task, task.opening())

    def compute(self, live: Live, task: BranchTask) -> None:
        """Start to compute a branch at the end of a sequence that has no task."""
        live.task = task
        self._lives[live.seq] = live
        live.seq.want_states(task.start)
        self.scheduler.add(live.seq)

    def look_back(self, live: Live, task: TextTask) -> None:
        """Start to compute how likely the last tokens of a sequence were."""
        if task.end > self.limit:
            raise PromptTooLong(task.end, self.limit)
        live.task = task
        self._lives[live.seq] = live
        live.seq.want_states(task.start - 1)
        live.seq.target_len -= 1  # nothing is asked of the last token's own state
        self.scheduler.add(live.seq)

    def fork(self, live: Live, children: Seq[Live]) -> None:
        """Children go on from where this sequence is."""
        children = [c for c in children if not c.closed]
        for child in children:
            child.seq.token_ids = list(live.seq.token_ids)
            self._lives[child.seq] = child
            self.kv.fork(live.seq, child.seq)
            self.scheduler.park(child.seq)
            child.unborn = False
        for child in children:
            self._advance(child)

    def _finish(self, live: Live, task: GenerateTask, ending: Ending) -> None:
        num_kept, tail = task.kept_tokens()
        prompt_len = task.counts.prompt
        if num_kept < len(task.output):
            self.kv.truncate(live.seq, prompt_len + num_kept)
            live.seq.token_ids += tail
        result = task.result(ending, tuple(live.seq.token_ids[prompt_len:]))
        self.stats.count(result.usage)
        self._end_task(live)
        task.handle.finish(result)

    def _end_task(self, live: Live) -> None:
        """The sequence is free for its next operation."""
        live.task = None
        if live.seq in self._lives:
            self._advance(live)
            if live.task is None:
                self.scheduler.park(live.seq)

    def drop(self, live: Live) -> None:
        """Take back a sequence that another one's operation has made; nobody is told."""
        if self._lives.pop(live.seq, None) is not None:
            self.scheduler.remove(live.seq)

    def _count_cached(self, work: Work) -> None:
        live = self._lives.get(work.seq)
        counts = live.task.counts if live is not None and live.task is not None else None
        if counts is not None and counts.cached < 0:
            counts.cached = min(work.start, counts.prompt)

    # ------------------------------------------------------------ queues

    def _enqueue(self, live: Live, operation: Operation) -> None:
        if live.error is not None:
            operation.fail(live.error)
        elif live.closed:
            operation.fail(Cancelled("the session is closed"))
        else:
            self._lives.setdefault(live.seq, live)
            live.queue.append(operation)

    def _advance(self, live: Live) -> None:
        """Start queued operations until one needs the model."""
        while live.queue and live.task is None and live.pending is None and not live.unborn:
            operation = live.queue.popleft()
            try:
                operation.start(self, live)
            except Exception as error:
                failure = error if isinstance(error, SgrtError) else _wrap(error)
                operation.fail(failure)
                self.fail(live, failure)

    def resume(self, live: Live) -> None:
        """Another sequence has carried out what this one waited for."""
        live.pending = None
        self._advance(live)

    # ------------------------------------------------------------ failures

    def fail(self, live: Live, error: SgrtError) -> None:
        """End a session with an error: its task, its queue, and every later call."""
        if live.error is not None or live.closed:
            return
        live.error = error
        self._leave(live, error)

    def _discard(self, live: Live) -> None:
        if not live.closed:
            live.closed = True
            self._leave(live, Cancelled("the session was closed"))

    def _leave(self, live: Live, error: SgrtError) -> None:
        task, live.task = live.task, None
        self.scheduler.remove(live.seq)
        self._lives.pop(live.seq, None)
        if isinstance(task, GenerateTask):
            task.handle.fail(error)
        elif task is not None:
            task.done(error)
        pending, live.pending = live.pending, None
        if pending is not None:
            pending.fail(error)
        while live.queue:
            live.queue.popleft().fail(error)

    def _fail_computing(self, seq: Sequence, error: Exception) -> None:
        """A step broke: what this sequence computed is not to be trusted."""
        live = self._lives.get(seq)
        if live is not None:
            self.kv.drop(seq)
            self.fail(live, _wrap(error))

    def _fail_unservable(self) -> None:
        """The one running sequence does not fit into the whole pool; suspended ones may."""
        running = [seq for seq in self.scheduler.running if not seq.suspended]
        self._stalled = len(running) < len(self.scheduler.running)
        for seq in running:
            needed = self.kv.pages_for(seq.num_computed + 1)
            free = self.kv.pool.num_free
            self.fail(self._lives[seq], OutOfPages(needed, free, self.kv.tree.num_evictable))

    def _fail_all(self, error: SgrtError) -> None:
        for live in list(self._lives.values()):
            self.fail(live, error)
        while True:
            try:
                action = self._inbox.get_nowait()
            except Empty:
                break
            action()
        for live in list(self._lives.values()):
            self.fail(live, error)

    def _watch(
        self, due: float, error: SgrtError, live: Live, awaited: Handle[Any] | LateMask
    ) -> None:
        if len(self._deadlines) >= self._prune_at:
            self._deadlines = [entry for entry in self._deadlines if not entry[-1].done()]
            heapq.heapify(self._deadlines)
            self._prune_at = 2 * len(self._deadlines) + 64
        heapq.heappush(self._deadlines, (due, next(self._tie), error, live, awaited))

    def _expire_deadlines(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, error, live, awaited = heapq.heappop(self._deadlines)
            if not awaited.done():
                self.fail(live, error)


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register  # after torch's own hooks, so that it runs before them
def _close_engines() -> None:
    """End all loops before the interpreter takes the libraries from under them."""
    for engine in list(_ENGINES):
        engine.close()


def _abandon_engines() -> None:
    """In a forked child no loop runs: refuse instead of waiting for one."""
    for engine in list(_ENGINES):
        engine._closing = True
        engine._why_closed = "the engine belongs to the process that this one was forked from"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_engines)


def _wrap(error: Exception) -> EngineError:
    """An error of ours around one that is not."""
    wrapped = EngineError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
