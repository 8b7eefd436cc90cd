"""The calls of a session, as the loop carries them out."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from sgrt.core import Handle, ScoreResult, Scoring, TokenLogprob
from sgrt.errors import PromptTooLong, RequestError, SgrtError
from sgrt.runtime.engine import Engine, Live
from sgrt.runtime.tasks import BranchTask, GenerateTask, TextTask
from sgrt.runtime.trie import Branch, Trie

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Extend:
    """Append tokens; they are computed when a later call needs them."""

    token_ids: list[int]

    def start(self, engine: Engine, live: Live) -> None:
        live.seq.token_ids += self.token_ids

    def fail(self, error: SgrtError) -> None:
        """Nobody waits for it; the session's next read shows the error."""


@dataclass(eq=False, slots=True)
class Generate:
    """Continue with the model."""

    task: GenerateTask

    def start(self, engine: Engine, live: Live) -> None:
        engine.begin(live, self.task)

    def fail(self, error: SgrtError) -> None:
        self.task.handle.fail(error)


@dataclass(eq=False, slots=True)
class Call(Generic[T]):
    """Hand out something about the sequence, once all calls before have ended."""

    read: Callable[[Live], T]
    handle: Handle[T]

    def start(self, engine: Engine, live: Live) -> None:
        self.handle.finish(self.read(live))

    def fail(self, error: SgrtError) -> None:
        self.handle.fail(error)


class ScoreText:
    """Append tokens and tell how likely each was.

    Args:
        handle: gets a `TokenLogprob` per token.
    """

    def __init__(
        self, token_ids: Seq[int], num_top: int, handle: Handle[tuple[TokenLogprob, ...]]
    ) -> None:
        self._token_ids = token_ids
        self._num_top = num_top
        self._handle = handle

    def start(self, engine: Engine, live: Live) -> None:
        start = len(live.seq.token_ids)
        if start == 0:
            raise RequestError("nothing stands before the first token, so it has no probability")
        live.seq.token_ids += self._token_ids
        end = len(live.seq.token_ids)
        task = TextTask(start, end, self._num_top, partial(self._on_done, engine, live))
        self._task = task
        engine.look_back(live, task)

    def _on_done(self, engine: Engine, live: Live, error: SgrtError | None) -> None:
        if error is not None:
            self._handle.fail(error)
            return
        self._handle.finish(self._task.result(self._token_ids))
        engine.resume(live)

    def fail(self, error: SgrtError) -> None:
        self._handle.fail(error)


@dataclass(eq=False, slots=True)
class Fork:
    """Let children start from here."""

    engine: Engine
    children: list[Live]

    def start(self, engine: Engine, live: Live) -> None:
        engine.fork(live, self.children)

    def fail(self, error: SgrtError) -> None:
        for child in self.children:
            self.engine.fail(child, error)


class Score:
    """Score options after the text, all of them in one pass over their trie.

    The session's own sequence computes its text, which is the trie's root; each branch then
    begins where its parent ends, on pages that it shares with it. As many branches as the
    scheduler runs at once are at work, the deepest ones first, so that few pages are held.

    Args:
        options: token ids of each option, none empty.
        handle: gets the `ScoreResult`.
        alone: tokens after which the options are scored, too; None for the text only.
    """

    def __init__(
        self,
        engine: Engine,
        options: Seq[Seq[int]],
        handle: Scoring,
        *,
        alone: Seq[int] | None = None,
    ) -> None:
        self._engine = engine
        self._options = [tuple(o) for o in options]
        self._handle = handle
        self._alone = alone
        self._tries = [Trie(options) for _ in range(1 if alone is None else 2)]
        self._ready: list[tuple[Branch, _Stem]] = []
        self._stems: dict[_Stem, None] = {}  # that are needed
        self._num_working = 0

    def start(self, engine: Engine, live: Live) -> None:
        prompt_len = len(live.seq.token_ids)
        if prompt_len == 0:
            raise RequestError("nothing to score after: the sequence is empty")
        longest = prompt_len + max(map(len, self._options))
        if longest > engine.limit:
            raise PromptTooLong(longest, engine.limit)
        self._live = live
        live.pending = self
        self._counts = self._begin(self._tries[0].root, _Stem(live, None)).counts
        self._counts.prompt = prompt_len
        if self._alone is not None:
            self._begin(self._tries[1].root, _Stem(self._new_live(list(self._alone)), None))

    def _new_live(self, token_ids: list[int]) -> Live:
        live = self._engine.new_live(self._live)
        live.seq.token_ids = token_ids
        return live

    def _begin(self, branch: Branch, stem: _Stem) -> BranchTask:
        """Compute a branch on a sequence that ends with it."""
        self._stems[stem] = None
        self._num_working += 1
        stem.num_open = 1 + len(branch.children)
        start = len(stem.live.seq.token_ids) - len(branch.nodes)
        task = BranchTask(branch, start, partial(self._on_done, branch, stem))
        self._engine.compute(stem.live, task)
        return task

    def _on_done(self, branch: Branch, stem: _Stem, error: SgrtError | None) -> None:
        if error is not None:
            self._engine.fail(self._live, error)
            return
        self._num_working -= 1
        self._ready += [(child, stem) for child in branch.children]
        self._leave(stem)
        while self._ready and self._num_working < self._engine.scheduler.max_running:
            child, parent = self._ready.pop()
            live = self._new_live(parent.live.seq.token_ids + list(child.token_ids))
            live.seq.origin = parent.live.seq
            self._begin(child, _Stem(live, parent))
        if not self._stems:
            self._finish()

    def _leave(self, stem: _Stem | None) -> None:
        """One that needed this sequence is done with it: the branch itself or a child."""
        while stem is not None:
            stem.num_open -= 1
            if stem.num_open:
                return
            del self._stems[stem]
            if stem.live is not self._live:
                self._engine.drop(stem.live)
            stem = stem.parent

    def _finish(self) -> None:
        logprobs = [tuple(map(trie.logprobs, self._options)) for trie in self._tries]
        usage = self._counts.usage()
        alone = None if self._alone is None else logprobs[1]
        self._engine.stats.count(usage)
        self._handle.finish(ScoreResult(tuple(self._options), logprobs[0], usage, alone))
        self._engine.resume(self._live)

    def fail(self, error: SgrtError) -> None:
        self._handle.fail(error)
        for stem in self._stems:
            if stem.live is not self._live:
                self._engine.drop(stem.live)
        self._stems = {}


@dataclass(eq=False, slots=True)
class _Stem:
    """A sequence that ends with a branch; its pages stay until no branch begins there any more.

    Args:
        num_open: how many branches need it, its own included.
    """

    live: Live
    parent: _Stem | None
    num_open: int = 0
