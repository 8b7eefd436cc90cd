"""What the engine did since it started."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from sgrt.core import Usage
from sgrt.runtime.model_runner import Batch


@dataclass(slots=True)
class Stats:
    """Counters. Times are seconds of the loop thread; only ``mask_s`` runs beside it.

    Args:
        submissions: times that sessions handed work over; a whole segment is one. Per program,
            these are its round trips to the engine.
        steps: forward passes.
        prompt, cached, forced, sampled: as in `core.Usage`, over finished generations.
        computed: tokens that went through the model.
        head_rows: dot products with rows of the LM head.
        forward_s: in the decoder.
        mask_s: filling masks, hidden behind the forward pass.
        late_masks: rows left out of a step because their mask was not there in time.
        mask_wait_s: the part of it that the loop had to wait for.
        sample_s: in head and sampling.
        schedule_s: deciding and bookkeeping.
        idle_s: asleep, with nothing to do.
    """

    submissions: int = 0
    steps: int = 0
    prompt: int = 0
    cached: int = 0
    forced: int = 0
    sampled: int = 0
    computed: int = 0
    head_rows: int = 0
    late_masks: int = 0
    forward_s: float = 0.0
    mask_s: float = 0.0
    mask_wait_s: float = 0.0
    sample_s: float = 0.0
    schedule_s: float = 0.0
    idle_s: float = 0.0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of a block to a counter."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)

    def count_step(self, batch: Batch, mask_s: float, head_rows: int) -> None:
        """Count one forward pass; ``mask_s`` is the filler's total."""
        self.steps += 1
        self.computed += len(batch.token_ids)
        self.mask_s = mask_s
        self.head_rows += head_rows

    def count(self, usage: Usage) -> None:
        """Count one finished generation."""
        self.prompt += usage.prompt
        self.cached += usage.cached
        self.forced += usage.forced
        self.sampled += usage.sampled

    def as_dict(self) -> dict[str, float]:
        """All counters by name, and ``cache_hit_rate`` = cached / prompt."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["cache_hit_rate"] = self.cached / self.prompt if self.prompt else 0.0
        return values
