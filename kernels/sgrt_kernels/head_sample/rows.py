"""What `head_sample` is asked: which tokens each row may take, and how it takes one.

Key: R rows that need a token · V vocabulary · W mask words = ceil(V / 32). Arrays that differ in
length from row to row are flat, with ``start [R + 1]``: row r owns ``flat[start[r]:start[r + 1]]``.
Token ids are strictly ascending within a row, which makes them unique and lets kernels merge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

I32: TypeAlias = NDArray[np.int32]
F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]

NO_PROBABILITY = float("nan")
"""Stands where a log-probability was not asked for or does not exist."""


class RowError(ValueError):
    """Some rows cannot be sampled; no row of the call was drawn.

    Draws depend on nothing but their own row, so the other rows can be asked again without these.

    Args:
        rows: the rows at fault, ascending.
    """

    reason = "cannot be sampled"

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = tuple(int(r) for r in rows)
        shown = ", ".join(map(str, self.rows))
        super().__init__(f"row{'s' if len(self.rows) > 1 else ''} {shown}: {self.reason}")


class NoAllowedToken(RowError):
    """The mask, less the banned tokens, allows nothing."""

    reason = "no token is allowed"


class BadLogits(RowError):
    """A hidden state, or a logit that matters, is NaN or infinite."""

    reason = "hidden state or logits are not finite"


class RowKind(IntEnum):
    """How a row says which tokens it may take."""

    FREE = 0
    """Every token."""
    BITMASK = 1
    """Those with a bit set in its row of `MaskPlan.bitmask`."""
    FEW = 2
    """Those listed in `MaskPlan.few_ids`."""
    FORCED = 3
    """The one token listed; the head is not computed."""


_BITMASK, _FEW, _FORCED = (int(k) for k in (RowKind.BITMASK, RowKind.FEW, RowKind.FORCED))
"""Comparing arrays with a member of an enumeration costs microseconds."""


def _array(value: Any, dtype: type[np.generic]) -> NDArray[Any]:
    """A contiguous array of this dtype; integers of the same width keep their bits."""
    array = np.asarray(() if value is None else value)
    wanted = np.dtype(dtype)
    if array.dtype == wanted and array.flags.c_contiguous:
        return array
    same_width = array.dtype.kind in "iu" and array.dtype.itemsize == wanted.itemsize
    if same_width and wanted.kind in "iu":
        return np.ascontiguousarray(array).view(wanted)
    return np.ascontiguousarray(array, dtype=wanted)


def _starts(lengths: Sequence[int]) -> I32:
    start = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=start[1:])
    return start


_OPEN: Any = None
"""Default of array fields that `__post_init__` fills in."""


def _first_disorder(ids: I32, start: I32) -> int | None:
    """The first row whose ids do not ascend strictly, or None."""
    falls = ids[1:] <= ids[:-1]
    if falls.any():
        inner = start[1:-1]
        falls[inner[(inner > 0) & (inner < len(ids))] - 1] = False
        if falls.any():
            return int(np.searchsorted(start, int(falls.argmax()), side="right")) - 1
    return None


def _check_ragged(name: str, ids: I32, start: I32, num_rows: int) -> None:
    """Raise ValueError unless `start` covers `ids` and ids ascend within each row."""
    if start.shape != (num_rows + 1,):
        raise ValueError(f"{name}_start has shape {start.shape}, not ({num_rows + 1},)")
    if start[0] != 0 or start[-1] != len(ids) or (start[1:] < start[:-1]).any():
        raise ValueError(f"{name}_start must rise from 0 to the {len(ids)} {name}_ids")
    row = _first_disorder(ids, start)
    if row is not None:
        raise ValueError(f"{name}_ids of row {row} must ascend without repetition")


def _check_ids(name: str, ids: I32, vocab_size: int) -> None:
    if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{name}_ids holds token {bad}, outside 0..{vocab_size - 1}")


@dataclass(eq=False)
class MaskPlan:
    """The tokens that each of R rows may take. Arrays or CPU tensors; converted where needed.

    Args:
        kind: [R] uint8, values of `RowKind`.
        bitmask: [M, W] uint32 (or int32 with the same bits) or None; bit ``i % 32`` of word
            ``i // 32`` is token i. Read for BITMASK rows only; bits from V on are ignored.
        few_ids: flat int32, the tokens of FEW and FORCED rows, ascending within a row.
        few_start: [R + 1] int32; None where no row lists tokens.
        mask_row: [R] int32, which row of the bitmask is a BITMASK row's own; rows may share one.
            None means row r, and M is R.

    Raises:
        ValueError: shapes that disagree, ids that do not ascend, or a row whose lists do not
            suit its kind.
    """

    kind: NDArray[np.uint8]
    bitmask: NDArray[np.uint32] | None = None
    few_ids: I32 = _OPEN
    few_start: I32 = _OPEN
    mask_row: I32 | None = None

    def __post_init__(self) -> None:
        self.kind = _array(self.kind, np.uint8)
        if self.kind.ndim != 1 or (self.kind > _FORCED).any():
            raise ValueError("kind must be [R] values of RowKind (0..3)")
        self.few_ids = _array(self.few_ids, np.int32)
        if self.few_start is None:
            self.few_start = np.zeros(self.num_rows + 1, np.int32)
        self.few_start = _array(self.few_start, np.int32)
        _check_ragged("few", self.few_ids, self.few_start, self.num_rows)
        self._check_lists(self.few_start[1:] - self.few_start[:-1])
        self._check_bitmask()

    def _check_lists(self, counts: I32) -> None:
        listed = self.kind >= _FEW
        wrong = (counts != 0) & ~listed
        wrong |= (counts != 1) & (self.kind == _FORCED)
        if wrong.any():
            row = int(wrong.argmax())
            kind = RowKind(int(self.kind[row])).name
            raise ValueError(f"row {row} is {kind} but lists {counts[row]} tokens")

    def _check_bitmask(self) -> None:
        masked = self.kind == _BITMASK
        if self.bitmask is None:
            if masked.any():
                raise ValueError("a row is BITMASK but there is no bitmask")
            return
        self.bitmask = _array(self.bitmask, np.uint32)
        if self.bitmask.ndim != 2:
            raise ValueError(f"bitmask has shape {self.bitmask.shape}, not (M, W)")
        num_masks = len(self.bitmask)
        if self.mask_row is None:
            if num_masks != self.num_rows:
                raise ValueError(
                    f"bitmask has shape {self.bitmask.shape}, not ({self.num_rows}, W)"
                )
            return
        self.mask_row = _array(self.mask_row, np.int32)
        if self.mask_row.shape != (self.num_rows,):
            raise ValueError(f"mask_row has shape {self.mask_row.shape}, not ({self.num_rows},)")
        wrong = masked & ((self.mask_row < 0) | (self.mask_row >= num_masks))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"row {row} has mask {self.mask_row[row]} of {num_masks}")

    @property
    def num_rows(self) -> int:
        return len(self.kind)

    @classmethod
    def free(cls, num_rows: int) -> MaskPlan:
        """Rows that may take any token."""
        return cls(np.zeros(num_rows, np.uint8))

    @classmethod
    def build(cls, rows: Sequence[Sequence[int] | NDArray[np.uint32] | None]) -> MaskPlan:
        """A plan from one description per row.

        Args:
            rows: None for any token; a [W] uint32 or int32 array for a bitmask; a sequence of
                token ids (any order) for those tokens, forced where it is one.
        """
        kind, lengths = np.zeros(len(rows), np.uint8), [0] * len(rows)
        flat = list[int]()
        masks = dict[int, NDArray[np.uint32]]()
        for r, row in enumerate(rows):
            if isinstance(row, np.ndarray):
                kind[r], masks[r] = RowKind.BITMASK, _array(row, np.uint32)
            elif row is not None:
                kind[r], lengths[r] = RowKind.FEW, len(row)
                flat.extend(row)
        few_ids, few_start = np.array(flat, np.int32), _starts(lengths)
        if _first_disorder(few_ids, few_start) is not None:
            lists = [np.unique(ids) for ids in np.split(few_ids, few_start[1:-1])]
            few_ids, few_start = np.concatenate(lists), _starts([len(ids) for ids in lists])
        counts = few_start[1:] - few_start[:-1]
        kind[(counts == 1) & (kind == RowKind.FEW)] = RowKind.FORCED
        bitmask = None
        if masks:
            bitmask = np.zeros((len(rows), len(next(iter(masks.values())))), np.uint32)
            for r, words in masks.items():
                bitmask[r] = words
        return cls(kind, bitmask, few_ids, few_start)

    def take(self, rows: Sequence[int]) -> MaskPlan:
        """The plan of some of the rows, in this order; the bitmask is shared."""
        index = np.array(rows, np.intp)
        start, end = self.few_start[index], self.few_start[index + 1]
        lists = [self.few_ids[a:b] for a, b in zip(start, end, strict=True)]
        few_ids = np.concatenate(lists) if lists else self.few_ids[:0]
        mask_row = index if self.mask_row is None else self.mask_row[index]
        few_start = _starts((end - start).tolist())
        return MaskPlan(
            self.kind[index], self.bitmask, few_ids, few_start, _array(mask_row, np.int32)
        )

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ValueError unless every id is below `vocab_size` and the bitmask reaches it."""
        _check_ids("few", self.few_ids, vocab_size)
        if self.bitmask is not None and self.bitmask.shape[1] * 32 < vocab_size:
            words = self.bitmask.shape[1]
            raise ValueError(f"bitmask of {words} words is too short for {vocab_size} tokens")


@dataclass(frozen=True, kw_only=True)
class SamplingRow:
    """How one row takes its token; see `SamplingRows` for the meaning of the fields.

    Args:
        history: (occurrences in the prompt, occurrences in the output) of each token seen.
        bias: added to the logits of these tokens.
        banned: tokens that are not allowed, whatever the mask says.
        targets: take no token, but report the log-probability of each of these.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    position: int = 0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    history: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    bias: Mapping[int, float] = field(default_factory=dict)
    banned: Sequence[int] = ()
    num_top: int = -1
    unmasked: bool = False
    targets: Sequence[int] = ()


_SCALARS: dict[str, type[np.generic]] = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float64,
    "min_p": np.float64,
    "seed": np.uint64,
    "position": np.int64,
    "repetition": np.float32,
    "presence": np.float32,
    "frequency": np.float32,
    "num_top": np.int32,
    "unmasked": np.bool_,
}
_RAGGED: dict[str, dict[str, type[np.generic]]] = {
    "history": {"history_prompt_counts": np.int32, "history_output_counts": np.int32},
    "bias": {"bias_values": np.float32},
    "banned": {},
    "target": {},
}


@dataclass(eq=False, kw_only=True)
class SamplingRows:
    """How each of R rows takes its token. Arrays or CPU tensors; converted where needed.

    A row's logits pass, in this order: repetition (divides positive, multiplies negative logits
    of tokens in the history), frequency × output count and presence (once if in the output)
    subtracted, bias added, mask; then at temperature 0 the highest wins, ties to the lowest id;
    else top-k, top-p over the rest, min-p relative to the best, and the highest of
    logit / temperature + Gumbel noise wins. The noise is a function of (seed, position, token id).

    Args:
        temperature: [R] float32 >= 0. The default 0 is greedy.
        top_k: [R] int32; <= 0 is off.
        top_p: [R] float64 in (0, 1].
        min_p: [R] float64 in [0, 1].
        seed: [R] uint64 (or int64 with the same bits).
        position: [R] int64 >= 0, index of the drawn token in its sequence.
        repetition, presence, frequency: [R] float32.
        history_ids, history_prompt_counts, history_output_counts, history_start: tokens seen.
        bias_ids, bias_values, bias_start: float32 added to logits.
        banned_ids, banned_start: tokens not allowed, whatever the mask says.
        num_top: [R] int32; -1 reports no log-probability, k >= 0 the taken token's and the k best.
        unmasked: [R] bool; log-probabilities are over all V tokens, not the allowed ones.
        target_ids, target_start: rows that list tokens here take none; the log-probability of
            each listed one is reported.

    Raises:
        ValueError: a shape or a value outside its range, naming the field and the row.
    """

    temperature: F32
    top_k: I32 = _OPEN
    top_p: F64 = _OPEN
    min_p: F64 = _OPEN
    seed: NDArray[np.uint64] = _OPEN
    position: NDArray[np.int64] = _OPEN
    repetition: F32 = _OPEN
    presence: F32 = _OPEN
    frequency: F32 = _OPEN
    history_ids: I32 = _OPEN
    history_prompt_counts: I32 = _OPEN
    history_output_counts: I32 = _OPEN
    history_start: I32 = _OPEN
    bias_ids: I32 = _OPEN
    bias_values: F32 = _OPEN
    bias_start: I32 = _OPEN
    banned_ids: I32 = _OPEN
    banned_start: I32 = _OPEN
    num_top: I32 = _OPEN
    unmasked: NDArray[np.bool_] = _OPEN
    target_ids: I32 = _OPEN
    target_start: I32 = _OPEN

    def __post_init__(self) -> None:
        self.temperature = _array(self.temperature, np.float32)
        for name, dtype in _SCALARS.items():
            self._set_scalar(name, dtype)
        self._check_ranges()
        for name, values in _RAGGED.items():
            self._set_ragged(name, values)

    def _set_scalar(self, name: str, dtype: type[np.generic]) -> None:
        value = getattr(self, name)
        if value is None:
            value = np.full(self.num_rows, getattr(SamplingRow, name), dtype)
        array = _array(value, dtype)
        setattr(self, name, array)
        if array.shape != (self.num_rows,):
            raise ValueError(f"{name} has shape {array.shape}, not ({self.num_rows},)")

    def _check_ranges(self) -> None:
        values = np.array([getattr(self, name) for name in _RANGES], np.float64)  # [n, R]
        good = (values >= _LOW) & (values <= _HIGH)  # False for NaN
        if not good.all():
            field_at, row = divmod(int(good.argmin()), self.num_rows)
            name, (low, high) = list(_RANGES.items())[field_at]
            raise ValueError(
                f"{name} of row {row} is {getattr(self, name)[row]}; it must be in {low:g}..{high:g}"
            )

    def _set_ragged(self, name: str, values: dict[str, type[np.generic]]) -> None:
        ids = _array(getattr(self, f"{name}_ids"), np.int32)
        start = getattr(self, f"{name}_start")
        start = np.zeros(self.num_rows + 1, np.int32) if start is None else start
        setattr(self, f"{name}_ids", ids)
        setattr(self, f"{name}_start", _array(start, np.int32))
        _check_ragged(name, ids, getattr(self, f"{name}_start"), self.num_rows)
        for key, dtype in values.items():
            setattr(self, key, _array(getattr(self, key), dtype))
            if getattr(self, key).shape != ids.shape:
                raise ValueError(f"{key} has shape {getattr(self, key).shape}, not {ids.shape}")

    @property
    def num_rows(self) -> int:
        return len(self.temperature)

    @property
    def has_targets(self) -> NDArray[np.bool_]:
        """[R] rows that take no token."""
        return self.target_start[1:] > self.target_start[:-1]

    @property
    def max_top(self) -> int:
        """Alternatives of the row that asks for most; 0 where none does."""
        return max(0, int(self.num_top.max(initial=0)))

    @classmethod
    def greedy(cls, num_rows: int) -> SamplingRows:
        """Rows that take the most likely token."""
        return cls(temperature=np.zeros(num_rows, np.float32))

    @classmethod
    def build(cls, rows: Sequence[SamplingRow]) -> SamplingRows:
        """Arrays from one description per row."""
        arrays: dict[str, Any] = {
            name: np.array([getattr(row, name) for row in rows], dtype)
            for name, dtype in _SCALARS.items()
        }
        if any(row.history for row in rows):
            history = [sorted(row.history.items()) for row in rows]
            seen = np.array([(i, *c) for h in history for i, c in h], np.int32)  # [n, 3]
            arrays["history_start"] = _starts([len(h) for h in history])
            arrays["history_ids"], arrays["history_prompt_counts"] = seen[:, 0], seen[:, 1]
            arrays["history_output_counts"] = seen[:, 2]
        if any(row.bias for row in rows):
            bias = [sorted(row.bias.items()) for row in rows]
            arrays["bias_start"] = _starts([len(b) for b in bias])
            arrays["bias_ids"] = np.array([i for b in bias for i, _ in b], np.int32)
            arrays["bias_values"] = np.array([v for b in bias for _, v in b], np.float32)
        for name, lists in (
            ("banned", [row.banned for row in rows]),
            ("target", [row.targets for row in rows]),
        ):
            if any(lists):
                ids = [sorted(set(tokens)) for tokens in lists]
                arrays[f"{name}_start"] = _starts([len(i) for i in ids])
                arrays[f"{name}_ids"] = np.array([i for row in ids for i in row], np.int32)
        return cls(**arrays)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ValueError unless every token id is below `vocab_size`."""
        _check_ids("history", self.history_ids, vocab_size)
        _check_ids("bias", self.bias_ids, vocab_size)
        _check_ids("banned", self.banned_ids, vocab_size)
        _check_ids("target", self.target_ids, vocab_size)


_TINY = float(np.finfo(np.float32).tiny)
_HUGE = float(np.finfo(np.float32).max)
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 1e30),
    "top_p": (_TINY, 1.0),
    "min_p": (0.0, 1.0),
    "position": (0, 2.0**62),
    "repetition": (_TINY, _HUGE),
    "presence": (-_HUGE, _HUGE),
    "frequency": (-_HUGE, _HUGE),
}
_LOW, _HIGH = (np.array(bounds)[:, None] for bounds in zip(*_RANGES.values(), strict=True))


@dataclass(eq=False)
class Drawn:
    """One token per row.

    Args:
        token_ids: [R] int32; -1 for rows that list targets.
        logprobs: [R] float32, natural, of the model's own logits; NaN where not asked for.
        top_ids: [R, K] int32, the likeliest tokens in order (ties to the lowest id); -1 past the
            end of a row's list. K is the largest `num_top`.
        top_logprobs: [R, K] float32; NaN past the end of a row's list.
        target_logprobs: like ``target_ids``, float32; -inf where the row does not allow the token.
        rows_computed: dot products with rows of the head that were really computed.
    """

    token_ids: I32  # [R]
    logprobs: F32  # [R]
    top_ids: I32  # [R, K]
    top_logprobs: F32  # [R, K]
    target_logprobs: F32
    rows_computed: int

    @classmethod
    def empty(cls, rows: SamplingRows) -> Drawn:
        """Nothing drawn yet."""
        num_rows, max_top = rows.num_rows, rows.max_top
        return cls(
            np.full(num_rows, -1, np.int32),
            np.full(num_rows, NO_PROBABILITY, np.float32),
            np.full((num_rows, max_top), -1, np.int32),
            np.full((num_rows, max_top), NO_PROBABILITY, np.float32),
            np.full(len(rows.target_ids), NO_PROBABILITY, np.float32),
            0,
        )
