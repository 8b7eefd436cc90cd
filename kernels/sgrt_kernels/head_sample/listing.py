"""Bitmasks that allow few tokens, as lists of ids: what decides how a row is drawn."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from sgrt_kernels.native import Library


def list_masks(
    bitmask: NDArray[np.uint32],  # [M, W]
    vocab_size: int,
    few: int,
    library: Library | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The tokens of masks that allow at most ``few``.

    Args:
        bitmask: [M, W] uint32, C-contiguous; bits from ``vocab_size`` on are ignored.
        vocab_size: tokens that exist.
        library: native kernels; None for numpy.

    Returns:
        counts [M] int32: tokens of each mask, -1 where there are more than ``few``; and the ids
        of those that have no -1, flat int32, one mask after the other, ascending.

    Raises:
        ValueError: the bitmask is of another kind or too short.

    Cost: one pass over the words; natively 0.3 µs per mask of 49k tokens that allows few.
    """
    if bitmask.dtype != np.uint32 or bitmask.ndim != 2 or not bitmask.flags.c_contiguous:
        raise ValueError(
            f"bitmask is {bitmask.dtype} {bitmask.shape}, not contiguous [M, W] uint32"
        )
    if bitmask.shape[1] * 32 < vocab_size:
        raise ValueError(f"bitmask of {bitmask.shape[1]} words is too short for {vocab_size}")
    if library is None:
        return _by_numpy(bitmask, vocab_size, few)
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    run = library.function(
        "sgrt_list_masks", size, [pointer, size, size, size, size, pointer, pointer]
    )
    num_masks, num_words = bitmask.shape
    counts = np.empty(num_masks, np.int32)
    ids = np.empty(num_masks * few, np.int32)
    total = run(
        bitmask.ctypes.data,
        num_masks,
        num_words,
        vocab_size,
        few,
        counts.ctypes.data,
        ids.ctypes.data,
    )
    return counts, ids[:total]


def _by_numpy(
    bitmask: NDArray[np.uint32], vocab_size: int, few: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    lists = [_one(row, vocab_size, few) for row in bitmask]
    counts = np.array([-1 if ids is None else len(ids) for ids in lists], np.int32)
    found = [ids for ids in lists if ids is not None]
    return counts, np.concatenate(found) if found else np.zeros(0, np.int32)


def _one(row: NDArray[np.uint32], vocab_size: int, few: int) -> NDArray[np.int32] | None:
    words = row[: (vocab_size + 31) // 32].nonzero()[0]
    if len(words) > few + 1:  # each holds a bit, and all but the last one that of a token
        return None
    bits = np.unpackbits(row[words].astype("<u4", copy=False).view(np.uint8), bitorder="little")
    at = bits.nonzero()[0]
    ids: NDArray[np.int32] = (words[at >> 5] * 32 + (at & 31)).astype(np.int32)
    ids = ids[ids < vocab_size]
    return None if len(ids) > few else ids
