"""Radix tree: tokens per second of match + insert, and what evicting a page costs.

    python -m benchmarks.radix [--repeats N]

The claims: at least 5M tokens/s through match + insert, counting each prompt token once for each
of the two; and an eviction cost per page that does not grow with the tree.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks import common
from sgrt.runtime.page_pool import PagePool
from sgrt.runtime.radix_tree import RadixTree

VOCABULARY = 49_152
Prompts = list[list[int]]


def tokens(rng: random.Random, num: int) -> list[int]:
    return rng.choices(range(VOCABULARY), k=num)


def extraction_prompts(rng: random.Random) -> Iterator[list[int]]:
    """One instruction of 386 tokens before 500 passages of 126."""
    shared = tokens(rng, 386)
    for _ in range(500):
        yield shared + tokens(rng, 126)


def conversation_prompts(rng: random.Random) -> Iterator[list[int]]:
    """20 conversations of 40 turns, in turns: each prompt is the last one and 100 tokens more."""
    system = tokens(rng, 200)
    histories = [list(system) for _ in range(20)]
    for _ in range(40):
        for history in histories:
            history += tokens(rng, 100)
            yield list(history)


def unrelated_prompts(rng: random.Random) -> Iterator[list[int]]:
    """500 prompts of 512 tokens that share nothing."""
    for _ in range(500):
        yield tokens(rng, 512)


WORKLOADS = {
    "extraction": extraction_prompts,
    "conversations": conversation_prompts,
    "unrelated": unrelated_prompts,
}


def serve(prompts: Prompts, page_size: int) -> float:
    """CPU seconds that the life of these prompts takes in tree and pool, locks and all."""
    pool = PagePool(sum(map(len, prompts)) // page_size, page_size)
    tree = RadixTree(pool)
    start = time.process_time()
    for prompt in prompts:
        match = tree.match(prompt)
        tree.lock(match.node)
        num_pages = len(prompt) // page_size
        pages = match.pages + pool.allocate(num_pages - len(match.pages))
        inserted = tree.insert(prompt[: num_pages * page_size], pages)
        tree.lock(inserted.node)
        tree.unlock(match.node)
        tree.unlock(inserted.node)
    return time.process_time() - start


def throughput(workload: str, page_size: int, repeats: int) -> dict[str, Any]:
    prompts = list(WORKLOADS[workload](random.Random(0)))
    num_tokens = 2 * sum(map(len, prompts))
    seconds = median(serve(prompts, page_size) for _ in range(repeats))
    return {
        "workload": workload,
        "page_size": page_size,
        "prompts": len(prompts),
        "million_tokens_per_s": round(num_tokens / seconds / 1e6, 2),
        "us_per_prompt": round(seconds / len(prompts) * 1e6, 1),
    }


def grown(num_nodes: int, pages_per_node: int) -> RadixTree:
    """A tree of random shape: each new edge hangs on a random earlier one."""
    rng = random.Random(0)
    pool = PagePool(num_nodes * pages_per_node, 1)
    tree = RadixTree(pool)
    paths: list[tuple[list[int], list[int]]] = [([], [])]
    for i in range(num_nodes):
        prompt, pages = rng.choice(paths)
        prompt = [*prompt, i, *tokens(rng, pages_per_node - 1)]
        inserted = tree.insert(prompt, pages + pool.allocate(pages_per_node))
        if len(paths) < 1000:  # bounds the depth and the set-up, not the tree
            paths.append((prompt, inserted.pages))
    return tree


def eviction(num_nodes: int, pages_per_node: int, repeats: int) -> dict[str, Any]:
    """Half of the tree goes, a few pages at a time, as a busy scheduler asks for them."""
    seconds = []
    for _ in range(repeats):
        tree = grown(num_nodes, pages_per_node)
        half = tree.num_cached // 2
        gc.collect()
        start = time.process_time()
        freed = 0
        while freed < half:
            freed += tree.evict(16)
        seconds.append((time.process_time() - start) / freed)
    return {
        "nodes": num_nodes,
        "pages_per_node": pages_per_node,
        "us_per_page": round(median(seconds) * 1e6, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows: list[dict[str, Any]] = []
    for page_size in (1, 16):
        rows += [throughput(workload, page_size, repeats) for workload in WORKLOADS]
    for pages_per_node in (1, 8):
        rows += [eviction(num, pages_per_node, repeats) for num in (1_000, 10_000, 100_000)]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    common.save("radix", rows, statistic=f"median of {repeats} runs, CPU time of one thread")


if __name__ == "__main__":
    main()
