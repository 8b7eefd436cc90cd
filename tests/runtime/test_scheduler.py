"""The scheduler, simulated without a model."""

from __future__ import annotations

import random

import pytest

from sgrt.runtime.kv_manager import KVManager
from sgrt.runtime.scheduler import Scheduler, common_prefix_len
from sgrt.runtime.sequence import Sequence


def _scheduler(num_pages: int, page_size: int = 4, **options) -> Scheduler:
    cache = options.pop("prefix_cache", True)
    kv = KVManager(num_pages, page_size, lambda a, b: None, prefix_cache=cache)
    return Scheduler(kv, **options)


def _check(scheduler: Scheduler, sequences: list[Sequence]) -> None:
    kv = scheduler.kv
    kv.tree.check()
    held = [p for s in sequences for p in s.pages[s.num_shared :]]
    assert len(held) == len(set(held))
    assert kv.pool.num_free + kv.tree.num_cached + len(held) == kv.num_pages


class Simulation:
    """Sequences that each want a number of tokens; a token is any integer."""

    def __init__(
        self, scheduler: Scheduler, rng: random.Random, *, suspending: float = 0.0
    ) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.suspending = suspending  # how often a sequence waits for something else
        self.suspended: dict[Sequence, int] = {}  # and the step in which it goes on
        self.wanted: dict[Sequence, int] = {}
        self.started: list[Sequence] = []
        self.num_steps = 0

    def add(self, token_ids: list[int], num_wanted: int, **options) -> Sequence:
        seq = Sequence(token_ids, **options)
        self.wanted[seq] = num_wanted
        self.scheduler.add(seq)
        return seq

    def step(self) -> None:
        self.num_steps += 1
        for seq in [s for s, due in self.suspended.items() if due <= self.num_steps]:
            del self.suspended[seq]
            self.scheduler.add(seq)
        works = self.scheduler.schedule() if self.scheduler.has_work else []
        assert works or self.suspended, "a full pool must not stop the oldest"
        assert self.suspended.keys().isdisjoint(w.seq for w in works)
        assert sum(w.end - w.start for w in works) <= self.scheduler.max_step_tokens
        assert len(works) <= self.scheduler.max_running
        for work in works:
            seq = work.seq
            assert work.start == seq.num_computed < work.end <= seq.target_len
            assert len(seq.pages) * self.scheduler.kv.page_size >= work.end
            if seq not in self.started:
                self.started.append(seq)
        for work in works:
            self.scheduler.computed(work)
            if work.seq.todo == 0:
                self._take(work.seq)

    def _take(self, seq: Sequence) -> None:
        self.wanted[seq] -= 1
        if self.wanted[seq] == 0:
            del self.wanted[seq]
            self.scheduler.remove(seq)
            return
        seq.token_ids += [self.rng.randrange(50) for _ in range(self.rng.choice([1, 1, 1, 4]))]
        seq.want_states(len(seq.token_ids) - 1)
        if self.rng.random() < self.suspending:
            self.scheduler.suspend(seq)
            self.suspended[seq] = self.num_steps + self.rng.randint(1, 6)
        else:
            self.scheduler.add(seq)


@pytest.mark.parametrize("seed", range(30))
def test_full_pool_under_random_load_never_deadlocks(seed: int) -> None:
    rng = random.Random(seed)
    page_size = rng.choice([1, 4, 16])
    longest = 120
    num_pages = longest // page_size + rng.choice([1, 2, 20])
    scheduler = _scheduler(
        num_pages,
        page_size,
        max_running=rng.choice([1, 3, 8]),
        max_step_tokens=rng.choice([3, 16, 64]),
        policy=rng.choice(["lpm", "fcfs"]),
        prefix_cache=rng.random() < 0.7,
    )
    sim = Simulation(scheduler, rng, suspending=rng.choice([0, 0.1, 0.5]))
    base = [rng.randrange(50) for _ in range(40)]
    for i in range(25):
        prompt = base[: rng.randrange(40)] + [rng.randrange(50) for _ in range(rng.randint(1, 20))]
        sim.add(prompt, rng.randint(1, 12), group=i % 5, priority=rng.choice([0, 0, 0, 1]))
        for _ in range(rng.randrange(3)):
            if sim.wanted:
                sim.step()
                _check(scheduler, list(sim.wanted))
    while sim.wanted:
        sim.step()
        assert sim.num_steps < 5000
    _check(scheduler, [])
    assert scheduler.kv.num_available == num_pages


def test_cold_sequence_against_an_endless_hot_stream_is_overtaken_a_bounded_number_of_times() -> (
    None
):
    rng = random.Random(0)
    scheduler = _scheduler(40, max_running=2, max_overtaken=8)
    sim = Simulation(scheduler, rng)
    hot = list(range(100, 132))
    sim.add([*hot, 1], 1)
    while sim.wanted:
        sim.step()
    for i in range(4):
        sim.add([*hot, i], 3)
    sim.step()
    cold = sim.add(list(range(200, 240)), 1)
    later = []
    for i in range(60):
        later.append(sim.add([*hot, 50, i], 2))
        sim.step()
        if cold in sim.started:
            break
    started_before = [s for s in sim.started if s in later]
    assert cold in sim.started
    assert len(started_before) <= scheduler.max_overtaken + scheduler.max_running


@pytest.mark.parametrize("max_step_tokens", [16, 40, 512])
def test_sequences_that_share_an_uncomputed_prefix_compute_it_once(max_step_tokens: int) -> None:
    scheduler = _scheduler(200, max_step_tokens=max_step_tokens)
    sim = Simulation(scheduler, random.Random(0))
    prefix = list(range(100, 164))
    sequences = [sim.add([*prefix, i], 1) for i in range(6)]
    num_computed = 0
    while sim.wanted:
        works = scheduler.schedule()
        num_computed += sum(w.end - w.start for w in works)
        for work in works:
            scheduler.computed(work)
            if work.seq.todo == 0:
                sim._take(work.seq)
    assert num_computed == len(prefix) + len(sequences)


def test_siblings_of_a_group_are_admitted_together() -> None:
    scheduler = _scheduler(400, max_running=4)
    sim = Simulation(scheduler, random.Random(0))
    groups = [sim.add([10 * i + 1, 7, 7], 1, group=i % 3) for i in range(12)]
    sim.step()
    assert len({s.group for s in sim.started}) == 1
    assert sim.started == groups[0::3]


def test_priority_goes_first_and_retraction_takes_the_least_important() -> None:
    scheduler = _scheduler(12, page_size=1, max_running=3)
    sim = Simulation(scheduler, random.Random(0))
    low = sim.add([1, 2, 3], 4)
    high = sim.add([4, 5, 6], 6, priority=1)
    sim.step()
    assert sim.started[0] is high
    while sim.wanted:
        sim.step()
    assert low not in scheduler.running


def test_common_prefix_len_equals_brute_force() -> None:
    rng = random.Random(1)
    for _ in range(500):
        a = [rng.randrange(2) for _ in range(rng.randrange(12))]
        b = [rng.randrange(2) for _ in range(rng.randrange(12))]
        limit = rng.randrange(13)
        brute = 0
        while brute < min(limit, len(a), len(b)) and a[brute] == b[brute]:
            brute += 1
        assert common_prefix_len(a, b, limit) == brute


def test_decode_rows_go_on_while_a_long_prompt_is_prefilled() -> None:
    scheduler = _scheduler(400, max_step_tokens=8)
    sim = Simulation(scheduler, random.Random(0))
    decoding = sim.add([1, 2, 3], 30)
    sim.step()
    sim.add(list(range(1000, 1200)), 1)
    for _ in range(10):
        before = sim.wanted[decoding]
        sim.step()
        assert sim.wanted[decoding] == before - 1
