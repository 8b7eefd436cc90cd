"""Tree and pool under arbitrary callers, against a model that knows one page at a time.

The model is a dictionary of every computed prefix. It has no edges, so it has no splits, and it
finds the next page to evict by looking at all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sgrt.errors import OutOfPages
from sgrt.runtime.page_pool import PagePool
from sgrt.runtime.radix_tree import Node, RadixTree

NUM_PAGES = 20
Prefix = tuple[str, tuple[int, ...]]  # namespace, indices into the alphabet of pages


@dataclass
class Entry:
    page: int
    used: int = 0
    locks: int = 0


@dataclass
class Model:
    """Every computed prefix by namespace and pages of tokens."""

    retain: bool
    entries: dict[Prefix, Entry] = field(default_factory=dict)
    clock: int = 0

    def beginnings(self, prefix: Prefix) -> list[Prefix]:
        namespace, units = prefix
        return [(namespace, units[:n]) for n in range(1, len(units) + 1)]

    def longest(self, prefix: Prefix) -> list[Prefix]:
        known = [p for p in self.beginnings(prefix) if p in self.entries]
        return known if self.retain else []

    def touch(self, prefix: Prefix) -> None:
        self.clock += 1
        for beginning in self.beginnings(prefix):
            if beginning in self.entries:
                self.entries[beginning].used = self.clock

    def insert(self, prefix: Prefix, pages: list[int]) -> list[int]:
        """Returns the duplicates."""
        duplicates = []
        for beginning, page in zip(self.beginnings(prefix), pages, strict=True):
            if self.entries.setdefault(beginning, Entry(page)).page != page:
                duplicates.append(page)
        self.touch(prefix)
        return duplicates

    def lock(self, prefix: Prefix) -> None:
        for beginning in self.beginnings(prefix):
            self.entries[beginning].locks += 1

    def unlock(self, prefix: Prefix) -> None:
        for beginning in self.beginnings(prefix):
            self.entries[beginning].locks -= 1
        self.touch(prefix)
        for beginning in [] if self.retain else reversed(self.beginnings(prefix)):
            if beginning not in self.evictable_ends():
                break
            del self.entries[beginning]

    def evictable_ends(self) -> list[Prefix]:
        inner = {(namespace, units[:-1]) for namespace, units in self.entries}
        return [p for p, e in self.entries.items() if not e.locks and p not in inner]

    def evict(self, num_pages: int) -> int:
        freed = 0
        while freed < num_pages and (ends := self.evictable_ends()):
            del self.entries[min(ends, key=lambda p: self.entries[p].used)]
            freed += 1
        return freed

    def pages(self) -> list[int]:
        return [entry.page for entry in self.entries.values()]

    def num_locked(self) -> int:
        return sum(entry.locks > 0 for entry in self.entries.values())


@dataclass
class Caller:
    """A sequence: where its tokens are computed and what it has locked."""

    prefix: Prefix
    pages: list[int]
    node: Node
    locked: Prefix
    held: list[int]  # pages that are its own; the rest are the tree's


# One draw per argument: drawing is what costs. Few different pages, so that prefixes are shared.
units = st.sampled_from(
    [u for n in range(4) for u in product(range(3), repeat=n)]
    + [u for n in range(4, 7) for u in product(range(2), repeat=n)]
)
few_units = st.sampled_from([u for n in range(1, 3) for u in product(range(2), repeat=n)])
ranks = st.integers(0, 5)
namespaces = st.sampled_from(["", "", "", "key"])


class CacheMachine(RuleBasedStateMachine):
    page_size = 1
    retain = True

    @initialize()
    def start(self) -> None:
        self.pool = PagePool(NUM_PAGES, self.page_size)
        self.tree = RadixTree(self.pool, retain=self.retain)
        self.model = Model(self.retain)
        self.callers: list[Caller] = []
        # Pages that differ in the last token, in the first, or in nothing but their rank.
        self.alphabet = [
            (7,) * self.page_size,
            (7,) * (self.page_size - 1) + (300_000,),
            (8,) + (7,) * (self.page_size - 1),
        ]

    def tokens(self, prefix: Prefix) -> list[int]:
        return [token for unit in prefix[1] for token in self.alphabet[unit]]

    def allocate(self, num: int) -> list[int] | None:
        """What a scheduler does: evict what is missing, give up where that is not enough."""
        missing = num - self.pool.num_free
        if missing > 0:
            assert self.tree.evict(missing) == self.model.evict(missing)
        try:
            return self.pool.allocate(num)
        except OutOfPages as error:
            assert (error.needed, error.free) == (num, self.pool.num_free)
            assert self.tree.num_evictable == 0
            return None

    def lock(self, node: Node, prefix: Prefix) -> None:
        self.tree.lock(node)
        self.model.lock(prefix)

    def unlock(self, caller: Caller) -> None:
        self.tree.unlock(caller.node)
        self.model.unlock(caller.locked)

    def insert(self, caller: Caller, num_pages: int) -> tuple[Node, Prefix]:
        """Hands over the first pages of a caller, who goes on with the tree's."""
        prefix = (caller.prefix[0], caller.prefix[1][:num_pages])
        given = caller.pages[:num_pages]
        inserted = self.tree.insert(self.tokens(prefix), given, namespace=prefix[0])
        assert inserted.duplicates == self.model.insert(prefix, given)
        assert inserted.pages == [self.model.entries[p].page for p in self.model.beginnings(prefix)]
        self.pool.free(inserted.duplicates)
        caller.pages[:num_pages] = inserted.pages
        caller.held = [page for page in caller.held if page not in given]
        return inserted.node, prefix

    def publish(self, caller: Caller, num_pages: int) -> None:
        """Hand over what is not in the tree yet; the caller's lock moves to its end."""
        first = len(caller.locked[1])
        prefix = (caller.prefix[0], caller.prefix[1][:num_pages])
        given = caller.pages[:num_pages]
        behind = self.tokens((prefix[0], prefix[1][first:]))
        inserted = self.tree.extend(caller.node, behind, given[first:], namespace=prefix[0])
        assert inserted.duplicates == self.model.insert(prefix, given)
        known = [self.model.entries[p].page for p in self.model.beginnings(prefix)]
        assert inserted.pages == known[first:]
        self.pool.free(inserted.duplicates)
        caller.pages[:num_pages] = known
        caller.held = [page for page in caller.held if page not in given]
        self.model.lock(prefix)
        self.model.unlock(caller.locked)
        caller.node, caller.locked = inserted.node, prefix

    def publish_again(self, caller: Caller, num_pages: int) -> None:
        """The same from the root on, as who was rewound does."""
        node, prefix = self.insert(caller, num_pages)
        self.lock(node, prefix)
        self.unlock(caller)
        caller.node, caller.locked = node, prefix

    def pick(self, rank: int) -> Caller:
        return self.callers[rank % len(self.callers)]

    some_callers = precondition(lambda self: self.callers)

    @rule(units=units, namespace=namespaces, tail=st.integers(0, 15))
    def match(self, units: tuple[int, ...], namespace: str, tail: int) -> None:
        ragged = [7] * (tail % self.page_size)  # less than a page: never matched
        match = self.tree.match(self.tokens((namespace, units)) + ragged, namespace=namespace)
        known = self.model.longest((namespace, units))
        self.model.touch((namespace, units[: len(known)]))
        assert match.pages == [self.model.entries[p].page for p in known]
        assert match.num_tokens == len(known) * self.page_size

    @rule(units=units, namespace=namespaces)
    def open(self, units: tuple[int, ...], namespace: str) -> None:
        match = self.tree.match(self.tokens((namespace, units)), namespace=namespace)
        known = self.model.longest((namespace, units))
        assert match.pages == [self.model.entries[p].page for p in known]
        locked = (namespace, units[: len(known)])
        self.model.touch(locked)
        self.lock(match.node, locked)
        fresh = self.allocate(len(units) - len(known))
        caller = Caller(
            (namespace, units), match.pages + (fresh or []), match.node, locked, fresh or []
        )
        if fresh is None:
            self.unlock(caller)
        else:
            self.callers.append(caller)

    @rule(units=units)
    def serve(self, units: tuple[int, ...]) -> None:
        """A sequence from beginning to end."""
        before = len(self.callers)
        self.open(units, "")
        if len(self.callers) > before:
            self.finish(self.callers[-1], keep=True)

    @precondition(lambda self: self.model.entries)
    @rule(rank=st.integers(0, NUM_PAGES))
    def match_known(self, rank: int) -> None:
        namespace, units = list(self.model.entries)[rank % len(self.model.entries)]
        self.match(units, namespace, 0)

    @some_callers
    @rule(rank=ranks, units=few_units)
    def extend(self, rank: int, units: tuple[int, ...]) -> None:
        caller, fresh = self.pick(rank), self.allocate(len(units))
        if fresh is not None:
            self.take(caller, units, fresh)

    def take(self, caller: Caller, units: tuple[int, ...], fresh: list[int]) -> None:
        caller.prefix = (caller.prefix[0], caller.prefix[1] + units)
        caller.pages += fresh
        caller.held += fresh

    @some_callers
    @rule(rank=ranks, num_pages=st.integers(0, 6), again=st.booleans())
    def publish_chunk(self, rank: int, num_pages: int, again: bool) -> None:
        caller = self.pick(rank)
        publish = self.publish_again if again else self.publish
        publish(caller, min(len(caller.locked[1]) + num_pages, len(caller.pages)))

    @some_callers
    @rule(rank=ranks)
    def fork(self, rank: int) -> None:
        caller = self.pick(rank)
        self.publish(caller, len(caller.pages))
        self.lock(caller.node, caller.locked)
        twin = Caller(caller.prefix, list(caller.pages), caller.node, caller.locked, [])
        self.callers.append(twin)

    @some_callers
    @rule(rank=ranks)
    def race(self, rank: int) -> None:
        """Two that share a beginning compute the same tokens behind it, each for itself."""
        caller = self.pick(rank)
        self.fork(rank)
        for racer in (caller, twin := self.callers[-1]):
            if (fresh := self.allocate(2)) is None:
                return
            self.take(racer, (0, 1), fresh)
        self.publish(twin, len(twin.pages))
        self.publish(caller, len(caller.pages))

    @some_callers
    @rule(rank=ranks, keep=st.booleans())
    def close(self, rank: int, keep: bool) -> None:
        self.finish(self.pick(rank), keep)

    def finish(self, caller: Caller, keep: bool) -> None:
        if keep and self.retain:
            self.insert(caller, len(caller.pages))
        self.pool.free(caller.held)
        self.unlock(caller)
        self.callers.remove(caller)

    @rule(num_pages=st.integers(1, 4))
    def evict_some(self, num_pages: int) -> None:
        self.evict(num_pages)

    @rule(num_pages=st.sampled_from([0, 5, 9, NUM_PAGES]))
    def evict(self, num_pages: int) -> None:
        assert self.tree.evict(num_pages) == self.model.evict(num_pages)

    @rule()
    def clear(self) -> None:
        assert self.tree.clear() == self.model.evict(NUM_PAGES)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        self.tree.check()
        assert self.tree.num_cached == len(self.model.entries)
        assert self.tree.num_locked == self.model.num_locked()
        assert self.tree.num_evictable == len(self.model.entries) - self.model.num_locked()
        assert contents(self.tree) == sorted(self.model.pages())

    @invariant()
    def every_page_has_one_owner(self) -> None:
        owned = self.model.pages() + [page for caller in self.callers for page in caller.held]
        assert len(owned) == len(set(owned))
        assert self.pool.holds(owned)
        assert self.pool.num_free + len(owned) == NUM_PAGES

    @invariant()
    def no_caller_lost_a_page(self) -> None:
        cached = set(self.model.pages())
        for caller in self.callers:
            assert cached.issuperset(set(caller.pages) - set(caller.held))

    def teardown(self) -> None:
        if not hasattr(self, "tree"):
            return
        for caller in self.callers:
            self.pool.free(caller.held)
            self.unlock(caller)
        assert self.tree.num_locked == 0
        assert self.tree.clear() == len(self.model.entries)
        self.tree.check()
        assert self.pool.num_free == NUM_PAGES


def contents(tree: RadixTree) -> list[int]:
    return sorted(page for node in tree._nodes() for page in node.pages)


@pytest.mark.parametrize("retain", [True, False])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_tree_and_pool_any_callers_equal_brute_force(page_size: int, retain: bool) -> None:
    machine = type("Machine", (CacheMachine,), {"page_size": page_size, "retain": retain})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100 if retain else 40,
            stateful_step_count=20,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
