"""What a caller of the tree may rely on, one condition at a time."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence

import pytest

from sgrt.errors import EngineError
from sgrt.runtime.page_pool import PagePool
from sgrt.runtime.radix_tree import Inserted, RadixTree


def cache(
    num_pages: int = 64, page_size: int = 1, *, retain: bool = True
) -> tuple[PagePool, RadixTree]:
    pool = PagePool(num_pages, page_size)
    return pool, RadixTree(pool, retain=retain)


def put(tree: RadixTree, tokens: Sequence[int], namespace: str = "") -> Inserted:
    """Insert on fresh pages, as a sequence that computed all of it would."""
    pages = tree.pool.allocate(len(tokens) // tree.pool.page_size)
    inserted = tree.insert(tokens, pages, namespace=namespace)
    tree.pool.free(inserted.duplicates)
    tree.check()
    return inserted


def known(tree: RadixTree, tokens: Sequence[int], namespace: str = "") -> int:
    return tree.match(tokens, namespace=namespace).num_tokens


# ---------------------------------------------------------------- match and insert


def test_match_empty_tree_or_prompt_nothing() -> None:
    _, tree = cache()
    assert tree.match([1, 2]).pages == tree.match([]).pages == []


@pytest.mark.parametrize("page_size", [1, 2, 16])
@pytest.mark.parametrize("differs_at", [0, 1, 15, 16, 17, 31, 32, 47])
def test_match_diverging_prompt_whole_pages_before_it(page_size: int, differs_at: int) -> None:
    _, tree = cache(page_size=page_size)
    tokens = list(range(48))
    pages = put(tree, tokens).pages
    tokens[differs_at] = 1000
    match = tree.match(tokens)
    assert match.pages == pages[: differs_at // page_size]
    assert match.num_tokens == len(match.pages) * page_size
    tree.check()


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("length", range(13))
def test_match_shorter_or_longer_prompt_whole_pages_of_it(page_size: int, length: int) -> None:
    _, tree = cache(page_size=page_size)
    put(tree, range(8))
    assert known(tree, range(length)) == min(length, 8) // page_size * page_size


@pytest.mark.parametrize("kind", [list, tuple, lambda ids: array("i", ids), bytes, bytearray])
def test_match_any_sequence_type_same_answer(
    kind: Callable[[Sequence[int]], Sequence[int]],
) -> None:
    _, tree = cache(page_size=4)
    put(tree, kind(range(8)))
    assert known(tree, kind(range(8))) == known(tree, list(range(8))) == 8


def test_match_tokens_equal_modulo_bytes_told_apart() -> None:
    _, tree = cache()
    put(tree, [1, 0])
    assert known(tree, [1 << 8]) == known(tree, [1 << 16]) == known(tree, [(1 << 32) - 1]) == 0


@pytest.mark.parametrize("token", [-1, 1 << 32, 1.0, "1"])
def test_tokens_not_ids_refused(token: int) -> None:
    pool, tree = cache()
    with pytest.raises(EngineError, match="token ids"):
        tree.match([token])
    with pytest.raises(EngineError, match="token ids"):
        tree.insert([token], pool.allocate(1))
    assert tree.num_cached == 0


@pytest.mark.parametrize(("num_tokens", "num_pages"), [(4, 2), (5, 1), (3, 1), (0, 1)])
def test_insert_lengths_differ_refused(num_tokens: int, num_pages: int) -> None:
    pool, tree = cache(page_size=4)
    with pytest.raises(EngineError, match=f"{num_tokens} token ids on {num_pages} pages"):
        tree.insert(range(num_tokens), pool.allocate(num_pages))
    assert tree.num_cached == 0


def test_insert_free_page_refused() -> None:
    pool, tree = cache()
    pages = pool.allocate(2)
    pool.free(pages[1:])
    with pytest.raises(EngineError, match="not all taken"):
        tree.insert([1, 2], pages)
    assert tree.num_cached == known(tree, [1, 2]) == 0


def test_insert_nothing_is_the_root() -> None:
    _, tree = cache()
    assert tree.insert([], []) == (tree.match([1]).node, [], [])


def test_insert_known_prefix_caller_keeps_duplicates() -> None:
    pool, tree = cache()
    first = put(tree, [1, 2, 3])
    own = pool.allocate(4)
    second = tree.insert([1, 2, 4, 5], own)
    assert second.pages == first.pages[:2] + own[2:]
    assert second.duplicates == own[:2]
    assert tree.num_cached == 5
    pool.free(second.duplicates)  # still the caller's: no double free
    assert pool.num_free + tree.num_cached == pool.num_pages


def test_insert_pages_out_of_the_tree_no_duplicates() -> None:
    pool, tree = cache(page_size=2)
    match = tree.match(range(4)) if put(tree, range(4)) else None
    assert match is not None
    longer = tree.insert(range(6), match.pages + pool.allocate(1))
    assert longer.duplicates == []
    assert longer.pages[:2] == match.pages
    assert tree.num_cached == 3


def test_insert_behind_shared_pages_only_own_are_duplicates() -> None:
    pool, tree = cache()
    shared = put(tree, [1, 2]).pages
    first = put(tree, [1, 2, 3])
    own = pool.allocate(2)
    assert first.pages[:2] == shared
    second = tree.insert([1, 2, 3, 4], shared + own)
    assert second.duplicates == own[:1]
    assert second.pages == first.pages + own[1:]


def test_insert_same_twice_same_node() -> None:
    _, tree = cache()
    assert put(tree, [1, 2, 3]).node is put(tree, [1, 2, 3]).node


def test_namespaces_same_tokens_never_meet() -> None:
    _, tree = cache(page_size=2)
    one, other = put(tree, [1, 2, 3, 4], "a"), put(tree, [1, 2, 3, 4], "b")
    assert other.duplicates == []
    assert not set(one.pages) & set(other.pages)
    assert tree.match([1, 2, 3, 4], namespace="a").pages == one.pages
    assert tree.match([1, 2, 3, 4], namespace="b").pages == other.pages
    assert known(tree, [1, 2, 3, 4]) == known(tree, [1, 2], "c") == 0


def test_namespace_that_spells_a_token_never_meets_it() -> None:
    _, tree = cache(page_size=2)
    token = int.from_bytes(b"spam", sys.byteorder)
    put(tree, [token, 5])
    put(tree, [5, 6], "spam")
    assert tree.num_cached == 2
    assert known(tree, [5], "spam") == known(tree, [5, 6]) == 0  # half a page, another tenant
    assert known(tree, [5, 6], "spam") == 2


# ---------------------------------------------------------------- locks and splits


def test_lock_covers_the_prefix_and_no_more() -> None:
    _, tree = cache()
    put(tree, [1, 2, 3, 4])
    half = tree.match([1, 2]).node
    tree.lock(half)
    assert (tree.num_locked, tree.num_evictable) == (2, 2)
    assert tree.evict(99) == 2
    assert known(tree, [1, 2, 3, 4]) == 2
    tree.unlock(half)
    assert tree.clear() == 2


def test_split_while_locked_handle_stays_valid() -> None:
    pool, tree = cache()
    whole = put(tree, range(8))
    tree.lock(whole.node)
    upper = tree.match([0, 1, 2, 99]).node
    assert upper is not whole.node
    put(tree, [0, 1, 2, 3, 4, 77])
    assert tree.num_locked == 8
    tree.lock(upper)
    assert tree.evict(99) == 1
    tree.unlock(whole.node)
    tree.check()
    assert (tree.num_locked, tree.num_evictable) == (3, 5)
    assert tree.evict(99) == 5
    assert tree.match(range(8)).pages == whole.pages[:3]
    tree.unlock(upper)
    assert tree.clear() == 3
    assert pool.num_free == pool.num_pages


def test_locks_counted_until_the_last() -> None:
    _, tree = cache()
    node = put(tree, [1, 2]).node
    tree.lock(node)
    tree.lock(node)
    tree.unlock(node)
    assert (tree.num_locked, tree.evict(9)) == (2, 0)
    tree.unlock(node)
    assert (tree.num_locked, tree.evict(9)) == (0, 2)


def test_unlock_without_lock_refused_and_nothing_changes() -> None:
    _, tree = cache()
    deep = put(tree, [1, 2, 3, 4]).node
    upper = tree.match([1, 2]).node
    tree.lock(deep)  # counts on `upper` too, but is not a lock of it
    for node in (upper, tree.match([]).node):
        with pytest.raises(EngineError, match="not locked"):
            tree.unlock(node)
    assert tree.num_locked == 4
    tree.check()
    tree.unlock(deep)
    with pytest.raises(EngineError, match="not locked"):
        tree.unlock(deep)


def test_lock_of_evicted_node_refused() -> None:
    _, tree = cache()
    node = put(tree, [1, 2]).node
    tree.clear()
    with pytest.raises(EngineError, match="evicted"):
        tree.lock(node)


def test_lock_of_root_protects_nothing() -> None:
    _, tree = cache()
    root = tree.match([1]).node
    tree.lock(root)
    put(tree, [1, 2])
    assert tree.num_locked == 0
    assert tree.clear() == 2
    tree.unlock(root)
    tree.check()


# ---------------------------------------------------------------- eviction


def order_of_eviction(tree: RadixTree, prompts: list[list[int]]) -> list[int]:
    """Indices of the prompts in the order in which they lose a page."""
    size = {i: len(p) for i, p in enumerate(prompts)}
    order = []
    while tree.evict(1):
        left = contents(tree)
        for i, prompt in enumerate(prompts):
            if i not in order and sum(tuple(prompt[:n]) in left for n in range(1, 9)) < size[i]:
                order.append(i)
    return order


def contents(tree: RadixTree) -> set[tuple[int, ...]]:
    """Every cached prefix (page size 1), found without using it."""
    found, stack = set(), [(tree._root, ())]
    while stack:
        node, path = stack.pop()
        ids = array("I", node.tokens).tolist()
        found |= {path + tuple(ids[:n]) for n in range(1, len(ids) + 1)}
        stack += [(child, path + tuple(ids)) for child in node.children.values()]
    return found


def test_evict_unused_since_longest_goes_first() -> None:
    _, tree = cache()
    prompts = [[1, 1], [2, 2], [3, 3], [4, 4]]
    nodes = [put(tree, p).node for p in prompts]
    tree.match([1, 1])
    tree.lock(nodes[1])
    put(tree, [3, 3])
    tree.unlock(nodes[1])
    assert order_of_eviction(tree, prompts) == [3, 0, 2, 1]


def test_evict_use_of_an_extension_counts_for_its_beginning() -> None:
    _, tree = cache()
    put(tree, [1, 1])
    put(tree, [2, 2])
    put(tree, [1, 1, 5])
    assert order_of_eviction(tree, [[1, 1], [2, 2]]) == [1, 0]


def test_evict_beginning_used_by_itself_outlives_its_extension() -> None:
    _, tree = cache()
    put(tree, [1, 1, 5])
    put(tree, [2, 2])
    tree.match([1, 1])
    assert order_of_eviction(tree, [[1, 1, 5], [2, 2], [1, 1]]) == [0, 1, 2]


def test_evict_refused_insert_leaves_a_sound_order() -> None:
    pool, tree = cache()
    put(tree, [1, 1, 5])
    put(tree, [2, 2])
    with pytest.raises(EngineError, match="not all taken"):
        tree.insert([1, 7], [*tree.match([1]).pages, pool.num_pages - 1])
    tree.check()
    assert order_of_eviction(tree, [[1, 1, 5], [2, 2], [1]]) == [0, 1, 2]


def test_evict_part_of_a_leaf_keeps_its_beginning() -> None:
    pool, tree = cache(page_size=4)
    pages = put(tree, range(32)).pages
    assert tree.evict(3) == 3
    tree.check()
    assert tree.match(range(32)).pages == pages[:5]
    assert pool.num_free == pool.num_pages - 5
    again = put(tree, range(32))
    assert again.pages[:5] == pages[:5]
    assert tree.num_cached == 8


def test_evict_more_than_there_is_returns_what_went() -> None:
    pool, tree = cache()
    put(tree, [1, 2, 3])
    tree.lock(put(tree, [4, 5]).node)
    assert tree.evict(0) == tree.evict(-1) == 0
    assert tree.evict(9) == 3
    assert tree.evict(9) == 0
    assert pool.num_free == pool.num_pages - 2


def test_chain_deeper_than_recursion_limit_lock_evict_check() -> None:
    depth = 1500
    _, tree = cache(depth)
    deep = put(tree, [7] * depth).node
    for length in range(1, depth):
        tree.match([7] * length)  # cuts the edge: one node per token in the end
    tree.lock(deep)
    tree.check()
    assert tree.num_locked == depth
    tree.unlock(deep)
    assert tree.clear() == depth


# ---------------------------------------------------------------- going on from a node


def go_on(tree: RadixTree, num_times: int, *, page_size: int) -> Inserted:
    """A session: it locks what it has, and adds a page to it each time."""
    node = tree.match([]).node
    tree.lock(node)
    for i in range(num_times):
        last = tree.extend(node, [i] * page_size, tree.pool.allocate(1))
        node = last.node
    return last


@pytest.mark.parametrize("retain", [True, False])
def test_extend_a_thousand_times_stays_shallow_and_findable(retain: bool) -> None:
    pool, tree = cache(1000, page_size=2, retain=retain)
    node = go_on(tree, 1000, page_size=2).node
    tree.check()
    assert tree.num_locked == tree.num_cached == 1000
    assert sum(1 for _ in tree._nodes()) < 12
    tokens = [i for i in range(1000) for _ in range(2)]
    assert known(tree, tokens) == (2000 if retain else 0)
    tree.unlock(node)
    assert tree.clear() == (1000 if retain else 0)
    assert pool.num_free == 1000


def test_extend_from_a_node_that_others_hold_leaves_theirs_as_it_is() -> None:
    pool, tree = cache()
    shared = put(tree, [1, 2, 3])
    for _ in range(2):
        tree.lock(shared.node)
    mine = tree.extend(shared.node, [4], pool.allocate(1))
    theirs = tree.extend(shared.node, [5], pool.allocate(1))
    tree.check()
    assert (known(tree, [1, 2, 3, 4]), known(tree, [1, 2, 3, 5])) == (4, 4)
    tree.unlock(mine.node)
    tree.check()
    assert tree.num_locked == 4
    tree.unlock(theirs.node)
    assert tree.num_locked == 0


def test_extend_with_what_another_has_added_takes_theirs() -> None:
    pool, tree = cache()
    shared = put(tree, [1])
    tree.lock(shared.node)
    first = put(tree, [1, 2, 3])
    own = pool.allocate(3)
    mine = tree.extend(shared.node, [2, 3, 4], own)
    assert mine.pages == [*first.pages[1:], own[2]]
    assert mine.duplicates == own[:2]
    assert mine.node.end == 4
    tree.check()


def test_extend_of_the_root_keeps_namespaces_apart() -> None:
    pool, tree = cache()
    root = tree.match([]).node
    for namespace in ("a", "b"):
        tree.lock(root)
        tree.extend(root, [1], pool.allocate(1), namespace=namespace)
    assert (known(tree, [1], "a"), known(tree, [1], "b"), known(tree, [1])) == (1, 1, 0)
    tree.check()


def test_extend_without_a_lock_refused_and_nothing_changes() -> None:
    pool, tree = cache()
    node = put(tree, [1]).node
    with pytest.raises(EngineError, match="not locked"):
        tree.extend(node, [2], pool.allocate(1))
    assert known(tree, [1, 2]) == 1
    tree.check()


# ---------------------------------------------------------------- prefix cache off


def test_retain_off_match_finds_nothing_even_if_locked() -> None:
    _, tree = cache(retain=False)
    tree.lock(put(tree, [1, 2, 3]).node)
    match = tree.match([1, 2, 3])
    assert (match.pages, match.num_tokens) == ([], 0)


def test_retain_off_forks_share_until_the_last_unlock() -> None:
    pool, tree = cache(retain=False)
    parent = put(tree, [1, 2, 3])
    tree.lock(parent.node)
    forks = [tree.insert([1, 2, 3, n], parent.pages + pool.allocate(1)).node for n in (4, 5)]
    for fork in forks:
        tree.lock(fork)
    assert (tree.num_cached, tree.num_locked) == (5, 5)
    tree.unlock(parent.node)
    assert tree.num_cached == 5
    tree.unlock(forks[0])
    assert (tree.num_cached, pool.num_free) == (4, pool.num_pages - 4)
    tree.unlock(forks[1])
    assert (tree.num_cached, pool.num_free) == (0, pool.num_pages)
    tree.check()


def test_retain_off_unlock_frees_to_the_next_lock_only() -> None:
    pool, tree = cache(retain=False)
    upper = put(tree, [1, 2]).node
    tree.lock(upper)
    deep = tree.insert([1, 2, 3], [*put(tree, [1, 2]).pages, *pool.allocate(1)]).node
    tree.lock(deep)
    tree.unlock(deep)
    assert tree.num_cached == 2
    tree.unlock(upper)
    assert tree.num_cached == 0


def test_retain_off_unlock_keeps_what_was_inserted_below() -> None:
    pool, tree = cache(retain=False)
    upper = put(tree, [1, 2])
    tree.lock(upper.node)
    below = tree.insert([1, 2, 3], upper.pages + pool.allocate(1))
    tree.unlock(upper.node)
    tree.check()
    assert tree.num_cached == tree.num_evictable == 3
    tree.lock(below.node)
    tree.unlock(below.node)
    assert (tree.num_cached, pool.num_free) == (0, pool.num_pages)
