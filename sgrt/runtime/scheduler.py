"""Which tokens are computed in the next step.

Pure Python over integers: it knows lengths, pages, priorities and groups, no tensors and no
grammar, so that it can be simulated without a model.

Promises:

* The oldest running sequence always advances, so a full pool cannot deadlock: others are
  retracted (their pages go back, their tokens stay) and admitted again later.
* A waiting sequence is overtaken a bounded number of times (`Scheduler.max_overtaken`), then
  nothing of its priority is admitted before it.
* Sequences that share a prefix which one of them is computing right now wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Literal

from sgrt.runtime.kv_manager import KVManager
from sgrt.runtime.sequence import Sequence, Work

SHORT = 32
"""A sequence with at most so many tokens to compute does not wait behind long prompts."""

MAX_ORDERED = 256
"""Waiting sequences whose cached prefix is looked up for the order; the rest come after them."""


@dataclass(slots=True)
class Counters:
    """What the scheduler did, since the start."""

    num_retracted: int = 0
    num_admitted: int = 0
    num_recomputed_tokens: int = 0


class Scheduler:
    """Continuous batching: prefill chunks and decode rows in one step.

    Args:
        kv: pages of this scheduler's sequences.
        max_running: most sequences in one step.
        max_step_tokens: most tokens in one step.
        policy: "lpm" (longest cached prefix first, groups together) or "fcfs".
        max_overtaken: after so many later sequences went first, a sequence is next.
    """

    def __init__(
        self,
        kv: KVManager,
        *,
        max_running: int = 64,
        max_step_tokens: int = 512,
        policy: Literal["lpm", "fcfs"] = "lpm",
        max_overtaken: int = 32,
    ) -> None:
        self.kv = kv
        self.max_running = max_running
        self.max_step_tokens = max_step_tokens
        self.policy = policy
        self.max_overtaken = max_overtaken
        self.running: list[Sequence] = []  # in order of admission
        self.waiting: list[Sequence] = []
        self.idle: dict[Sequence, None] = {}  # holds pages, wants nothing; least recent first
        self.counters = Counters()
        self._step = 0
        self._arrivals = 0
        self._works: dict[Sequence, Work] = {}
        self._blocked: tuple[int, int] | None = None

    # -- what the engine tells it

    def add(self, seq: Sequence) -> None:
        """The sequence wants its tokens [num_computed, target_len) computed.

        One that is running goes on without waiting again.
        """
        seq.suspended = False
        self.kv.rewind(seq, seq.first_output)
        if seq in self.running:
            return
        self.idle.pop(seq, None)
        self._arrivals += 1
        seq.arrival = self._arrivals
        seq.overtaken = 0
        self._blocked = None
        self.waiting.append(seq)

    def computed(self, work: Work) -> None:
        """The step that held this work is over."""
        seq = work.seq
        is_prompt_chunk = work.end - work.start > 1
        seq.num_computed = work.end
        if is_prompt_chunk and self.kv.prefix_cache:
            self.kv.share(seq)

    def suspend(self, seq: Sequence) -> None:
        """The sequence wants nothing before it is added again, and goes on running then."""
        seq.suspended = seq in self.running

    def park(self, seq: Sequence) -> None:
        """The sequence wants nothing for now; it keeps its pages while there are enough."""
        self._forget(seq)
        if seq.pages:
            self.idle[seq] = None

    def remove(self, seq: Sequence) -> None:
        """The sequence is over; what it computed stays in the cache."""
        self._forget(seq)
        self.idle.pop(seq, None)
        self.kv.release(seq)

    def _forget(self, seq: Sequence) -> None:
        seq.suspended = False
        for queue in (self.running, self.waiting):
            if seq in queue:
                queue.remove(seq)

    @property
    def has_work(self) -> bool:
        """Whether a step could compute something."""
        return bool(self.waiting) or not all(seq.suspended for seq in self.running)

    # -- the step

    def schedule(self) -> list[Work]:
        """The next step's work; pages for all of it are in place.

        Returns:
            Empty where the only sequence that runs does not fit into the whole pool, or where
            those that run are suspended and leave no room for those that wait.
        """
        self._step += 1
        self._works = {}
        num_retracted = self.counters.num_retracted
        budget = self.max_step_tokens
        for seq in self._serving_order():
            if budget == 0:
                break
            if seq in self.running and not seq.suspended:  # else it was retracted just now
                budget -= self._advance(seq, budget)
        if budget and num_retracted == self.counters.num_retracted:
            self._admit(budget)
        for seq in self._works:
            seq.last_step = self._step
        return list(self._works.values())

    def _serving_order(self) -> list[Sequence]:
        """Decode rows and forced runs before long chunks, then the longest unserved first."""
        return sorted(self.running, key=lambda s: (s.todo > SHORT, s.last_step))

    def _advance(self, seq: Sequence, budget: int) -> int:
        num = min(seq.todo, budget)
        if not self._make_room(seq, seq.num_computed + num):
            return 0
        self._works[seq] = Work(seq, seq.num_computed, seq.num_computed + num)
        return num

    def _make_room(self, seq: Sequence, num_tokens: int) -> bool:
        """Find pages: from the pool and cache, from those who wait, then by retracting."""
        while not self.kv.try_grow(seq, num_tokens):
            if self._reclaim():
                continue
            if len(self.running) == 1:
                return False
            victim = self._victim()
            self.retract(victim)
            if victim is seq:
                return False
        return True

    def _reclaim(self, keep: Sequence | None = None) -> bool:
        """Take the pages of one sequence that is not running."""
        for seq in (*self.idle, *reversed(self.waiting)):
            if seq.pages and seq is not keep:
                self.idle.pop(seq, None)
                self.kv.release(seq)
                return True
        return False

    def _victim(self) -> Sequence:
        """The least important running sequence: among equals one that is suspended, else the
        latest admitted.

        The oldest of the highest priority is it only while it is suspended, so someone always
        advances.
        """
        return min(reversed(self.running), key=lambda s: (s.priority, not s.suspended))

    def retract(self, seq: Sequence) -> None:
        """Take a running sequence's pages; it will be admitted again, and loses nothing else."""
        self.running.remove(seq)
        self._works.pop(seq, None)
        self.counters.num_retracted += 1
        self.counters.num_recomputed_tokens += seq.num_computed
        self.kv.release(seq)
        if seq.suspended:
            seq.suspended = False  # it comes back with `add`
        else:
            self.waiting.insert(0, seq)

    # -- admission

    def _admit(self, budget: int) -> None:
        if not self.waiting or len(self.running) >= self.max_running or self._still_blocked():
            return
        deferred: set[Sequence] = set()
        for seq in self._admission_order():
            if budget == 0 or len(self.running) >= self.max_running:
                break
            if self._is_being_computed(seq):
                deferred.add(seq)
            elif self._try_start(seq):
                self._count_overtaking(seq, deferred)
                budget -= self._advance(seq, budget)
            else:
                self._blocked = (self.kv.num_available, len(self.running))
                break

    def _still_blocked(self) -> bool:
        """Whether nothing has changed since a sequence did not fit: spares looking again."""
        if self._blocked is None:
            return False
        available, num_running = self._blocked
        if self.kv.num_available > available or len(self.running) < num_running:
            self._blocked = None
        return self._blocked is not None

    def _count_overtaking(self, admitted: Sequence, deferred: set[Sequence]) -> None:
        for seq in self.waiting:
            if seq.arrival < admitted.arrival and seq not in deferred:
                seq.overtaken += 1

    def _try_start(self, seq: Sequence) -> bool:
        """Attach the cached prefix and take pages for all that is wanted.

        One page per running sequence is left for them to grow into. Where nothing runs, the
        sequence starts with what there is.
        """
        if not seq.pages:
            self.kv.attach(seq)
        while not self._has_headroom(seq) and self._reclaim(keep=seq):
            pass
        if self.running and not (self._has_headroom(seq) and self.kv.try_grow(seq, seq.target_len)):
            self.kv.release(seq)
            return False
        self.waiting.remove(seq)
        self.running.append(seq)
        self.counters.num_admitted += 1
        return True

    def _has_headroom(self, seq: Sequence) -> bool:
        missing = self.kv.pages_for(seq.target_len) - len(seq.pages)
        return missing + len(self.running) <= self.kv.num_available

    def _admission_order(self) -> list[Sequence]:
        """Priority, then the aged, then groups by their best cached prefix, then arrival."""
        if self.policy == "fcfs":
            return sorted(self.waiting, key=lambda s: (-s.priority, s.arrival))
        candidates = self.waiting[:MAX_ORDERED]
        found = {s: s.num_computed or self.kv.find(s) for s in candidates}
        best: dict[int, int] = {}
        first: dict[int, int] = {}
        for s in candidates:
            best[s.group] = max(best.get(s.group, 0), found[s])
            first[s.group] = min(first.get(s.group, s.arrival), s.arrival)
        return sorted(
            candidates,
            key=lambda s: (
                -s.priority,
                s.arrival if s.overtaken >= self.max_overtaken else self._arrivals + 1,
                -best[s.group],
                first[s.group],
                -found[s],
                s.arrival,
            ),
        )

    def _is_being_computed(self, seq: Sequence) -> bool:
        """Whether a running prefill will soon have more of this prefix than is found now."""
        if not self.kv.prefix_cache or seq.overtaken >= self.max_overtaken:
            return False
        found: int | None = None
        size = self.kv.page_size
        limit = seq.first_output // size * size
        for other in self.running:
            if other.todo <= 1 or other.namespace != seq.namespace:
                continue
            if limit <= other.num_shared * size:
                continue
            shared = common_prefix_len(seq.token_ids, other.token_ids, min(limit, other.target_len))
            shared = shared // size * size
            if shared <= other.num_shared * size:
                continue  # all of it is in the tree already
            if found is None:
                found = max(seq.num_computed, self.kv.find(seq))
            if shared > found:
                return True
        return False


def common_prefix_len(a: Seq[int], b: Seq[int], limit: int) -> int:
    """Length of the common prefix of two token lists, at most ``limit``.

    Cost: O(limit) slice comparisons at C speed, by bisection.
    """
    low, high = 0, min(limit, len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
