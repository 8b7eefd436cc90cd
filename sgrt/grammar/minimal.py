"""Automata without states or classes of characters that nothing tells apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from sgrt.grammar import limits

Tables = tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, ...], ...], tuple[Any, ...]]
"""First characters and classes of runs, the table, and what is said in each state."""


def minimised(
    starts: Iterable[int],
    classes: Iterable[int],
    table: Sequence[Sequence[int]],
    accepting: Sequence[Any],
    *,
    is_tree: bool = False,
) -> Tables:
    """Merge states that accept the same texts, then characters that are never told apart.

    Instead of whether a state accepts, `accepting` may have a number of whatever is said there.

    Args:
        is_tree: every state leads to later ones or to state 1, which is never left.
    """
    group = (_merged_leaves if is_tree else _merged_states)(table, accepting)
    first: dict[int, int] = {}
    for state, name in enumerate(group):
        first.setdefault(name, state)
    number = {name: i for i, name in enumerate(first)}
    rows = [[number[group[target]] for target in table[state]] for state in first.values()]
    columns: dict[tuple[int, ...], int] = {}
    of_class = [columns.setdefault(c, len(columns)) for c in zip(*rows, strict=True)]
    runs: dict[int, int] = {}
    last = -1
    for start, name in zip(starts, classes, strict=True):
        if of_class[name] != last:
            runs[start] = last = of_class[name]
    return (
        tuple(runs),
        tuple(runs.values()),
        tuple(zip(*columns, strict=True)),
        tuple(accepting[state] for state in first.values()),
    )


def _merged_leaves(table: Sequence[Sequence[int]], accepting: Sequence[int]) -> list[int]:
    """A name for each state of a tree: from the leaves on, where states lead is known."""
    group = [0] * len(table)
    names = {(accepting[1], *group[: len(table[1])]): 0}
    for state in (*range(len(table) - 1, 1, -1), 0):
        key = (accepting[state], *[group[target] for target in table[state]])
        group[state] = names.setdefault(key, len(names))
    return group


def _merged_states(table: Sequence[Sequence[int]], accepting: Sequence[int]) -> list[int]:
    """A name for each state; states of one name accept the same texts (Moore's refinement)."""
    names: dict[tuple[int, ...], int] = {}
    group = [names.setdefault(d, len(names)) for d in _distances(table, accepting)]
    members: list[list[int]] = [[] for _ in names]
    for state, name in enumerate(group):
        members[name].append(state)
    targets = [itemgetter(*row, row[0]) for row in table]  # twice, so that it is never one alone
    todo = [m for m in members if len(m) > 1]
    num_groups = len(members)
    while todo:
        limits.check_patience()
        split = []
        for states in todo:
            by_targets: dict[tuple[int, ...], list[int]] = {}
            for state in states:
                by_targets.setdefault(targets[state](group), []).append(state)
            split.append(list(by_targets.values()))
        todo = []
        has_changed = False
        for parts in split:
            has_changed |= len(parts) > 1
            todo += [part for part in parts if len(part) > 1]
            for part in parts[1:]:
                for state in part:
                    group[state] = num_groups
                num_groups += 1
        if not has_changed:
            break
    return group


def _distances(table: Sequence[Sequence[int]], accepting: Sequence[int]) -> list[tuple[int, ...]]:
    """How many characters each state is away from each thing that is said: the same for states
    to be merged. In long chains (counted characters) this tells apart what refinement would one
    by one."""
    sources: list[set[int]] = [set() for _ in table]
    for state, row in enumerate(table):
        for target in row:
            sources[target].add(state)
    found = []
    for said in dict.fromkeys(accepting):
        level = {state for state, says in enumerate(accepting) if says == said}
        distance = [-1] * len(table)
        length = 0
        while level:
            for state in level:
                distance[state] = length
            level = {s for t in level for s in sources[t] if distance[s] < 0}
            length += 1
        found.append(distance)
    return list(zip(*found, strict=True))
