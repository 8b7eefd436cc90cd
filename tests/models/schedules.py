"""Ways to feed the same texts to a decoder; all must give the same hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from sgrt import ops


class Decoder(Protocol):
    spec: ops.DecoderSpec

    def forward(self, batch: ops.DecoderBatch, kv: ops.PagedKV) -> torch.Tensor: ...


def run_schedule(
    decoder: Decoder,
    texts: Sequence[Sequence[int]],
    steps: Sequence[Sequence[int]],
    *,
    page_size: int,
    kv_dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    poison: bool = False,
) -> list[torch.Tensor]:
    """Hidden states of every token of every text.

    Args:
        texts: token ids of each sequence.
        steps: each step's number of new tokens by sequence; 0 leaves a sequence out.
        seed: of the order of the pages.
        poison: fill the pages with NaN first, so that reading what was not written shows.

    Returns:
        [len(text), D] float32 for each text.
    """
    pages = _shuffled_pages(texts, page_size, seed)
    kv = ops.PagedKV.allocate(
        decoder.spec, sum(map(len, pages)) + 1, page_size, dtype=kv_dtype, device=device
    )
    if poison:
        kv.k.fill_(float("nan"))
        kv.v.fill_(float("nan"))
    done = [0] * len(texts)
    hidden: list[list[torch.Tensor]] = [[] for _ in texts]
    for step in steps:
        active = [b for b, n in enumerate(step) if n]
        tokens = [list(texts[b][done[b] : done[b] + step[b]]) for b in active]
        for b in active:
            done[b] += step[b]
        out = decoder.forward(
            ops.DecoderBatch.from_lists(
                tokens,
                [done[b] for b in active],
                [pages[b] for b in active],
                out_rows=range(sum(map(len, tokens))),
            ),
            kv,
        )
        for b, rows in zip(active, out.split([len(t) for t in tokens]), strict=True):
            hidden[b].append(rows)
    assert done == [len(t) for t in texts], "the schedule must feed all tokens"
    return [torch.cat(rows) for rows in hidden]


def _shuffled_pages(texts: Sequence[Sequence[int]], page_size: int, seed: int) -> list[list[int]]:
    """Pages for each text in random order; page 0, the padding of the tables, is nobody's."""
    counts = [-(-len(t) // page_size) for t in texts]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(seed)) + 1
    return [part.tolist() for part in order.split(counts)]


def in_chunks(lengths: Sequence[int], chunk: int, *, delay: int = 0) -> list[list[int]]:
    """Every sequence brings `chunk` tokens a step until it has no more.

    Args:
        delay: steps by which each sequence begins after the one before it.
    """
    left = list(lengths)
    steps: list[list[int]] = []
    while any(left):
        begun = [len(steps) >= b * delay for b in range(len(left))]
        step = [min(chunk, n) if on else 0 for n, on in zip(left, begun, strict=True)]
        left = [n - s for n, s in zip(left, step, strict=True)]
        steps.append(step)
    return [s for s in steps if any(s)]


def mixed(lengths: Sequence[int]) -> list[list[int]]:
    """Prefill chunks of odd sizes beside single tokens, sequences joining and pausing."""
    sizes = (5, 1, 1, 7, 3, 1)
    left = list(lengths)
    steps: list[list[int]] = []
    while any(left):
        turn = len(steps)
        step = []
        for b, n in enumerate(left):
            waits = turn < b or (turn + b) % 5 == 4
            step.append(0 if waits else min(n, sizes[(turn + 2 * b) % len(sizes)]))
        if any(step) or turn > 10_000:
            left = [n - s for n, s in zip(left, step, strict=True)]
        steps.append(step)
    return [s for s in steps if any(s)]
