"""The calls of a session, as the loop carries them out."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Generic, TypeVar

from sgrt.core import Handle, Scoring
from sgrt.errors import SgrtError
from sgrt.runtime.engine import Engine, Live
from sgrt.runtime.tasks import GenerateTask, OptionTask, score_result

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
    """Score options after the text.

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
        self._before_alone = alone
        self._tasks: list[OptionTask] = []
        self._alone: list[OptionTask] | None = None
        self._lives: list[Live] = []
        self._num_open = 0

    def start(self, engine: Engine, live: Live) -> None:
        live.pending = self
        self._tasks = self._begin(live, live)
        if self._before_alone is not None:
            empty = engine.new_live(live)
            empty.seq.token_ids = list(self._before_alone)
            self._alone = self._begin(empty, live)

    def _begin(self, base: Live, live: Live) -> list[OptionTask]:
        """Score the options after ``base``, for ``live``."""
        tasks, lives = [], []
        for token_ids in self._options:
            option = self._engine.new_live(live)
            task = OptionTask(len(base.seq.token_ids), token_ids, self._on_done(live, option))
            option.task = task
            tasks.append(task)
            lives.append(option)
        self._num_open += len(tasks)
        self._lives += lives
        self._engine.begin_options(base, lives)
        return tasks

    def _on_done(self, live: Live, option: Live) -> Callable[[SgrtError | None], None]:
        def done(error: SgrtError | None) -> None:
            self._engine.end_option(option)
            if error is not None:
                self._engine.fail(live, error)
                return
            self._num_open -= 1
            if self._num_open == 0:
                result = score_result(self._tasks, self._alone)
                self._engine.stats.count(result.usage)
                self._handle.finish(result)
                self._engine.resume(live)

        return done

    def fail(self, error: SgrtError) -> None:
        self._handle.fail(error)
        for option in self._lives:
            self._engine.end_option(option)
