"""``GET /metrics``: what the server did, for Prometheus.

Nearly everything is read off the engine's own counters when somebody asks; what is measured while
requests run are times: one bisection per token, on the engine's thread.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from sgrt.core import Generation

if TYPE_CHECKING:
    from sgrt.server.service import Service

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """Observations by size, from any thread.

    Args:
        bounds: upper ends of the buckets, rising, in seconds.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one value."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Bounds with how many were not above, as Prometheus counts them."""
        total = 0
        found: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            found.append((str(bound), total))
        return found

    @property
    def sum(self) -> float:
        """Of all values."""
        return self._sum


class Timer:
    """Times of one generation: each is counted once, however late somebody begins to follow it.

    A generation that fails counts nowhere, and one without tokens has no first.
    """

    __slots__ = ("_began", "_first", "_gaps", "_handle", "_last", "_whole")

    def __init__(
        self,
        handle: Generation,
        began: float,
        first: Histogram,
        gaps: Histogram,
        whole: Histogram,
    ) -> None:
        self._handle = handle
        self._began = began
        self._last: float | None = None
        self._first, self._gaps, self._whole = first, gaps, whole

    def changed(self) -> None:
        """After each event, on the engine's thread; the call at the end counts nothing."""
        if not self._handle.done():
            self._token(time.perf_counter())

    def ended(self) -> None:
        """Once, at the end; at once where that was before anybody followed."""
        if self._handle.error() is not None:
            return
        now = time.perf_counter()
        if self._last is None and self._handle.events_from(0):
            self._token(now)
        self._whole.observe(now - self._began)

    def _token(self, now: float) -> None:
        if self._last is None:
            self._first.observe(now - self._began)
        else:
            self._gaps.observe(now - self._last)
        self._last = now


class Metrics:
    """Counts and times of one server.

    Attributes:
        num_rejected: requests refused because the queue was full.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.num_rejected = 0
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[str, Histogram] = {}
        self._first = Histogram(_SLOW)
        self._gaps = Histogram(_FAST)
        self._whole = Histogram(_SLOW)
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(self._collect))
        ProcessCollector(registry=self._registry)

    # -- while requests run

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one HTTP request. ``route`` is a pattern, so that strangers add no names."""
        self._answers[method, route, status] += 1
        if route not in self._seconds:
            self._seconds[route] = Histogram(_SLOW)
        self._seconds[route].observe(seconds)

    def timer(self, handle: Generation, began: float) -> Timer:
        """What times a generation.

        Args:
            began: when the request was understood, on `time.perf_counter`.
        """
        return Timer(handle, began, self._first, self._gaps, self._whole)

    # -- when somebody asks

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its media type, in the form that the header ``Accept`` prefers."""
        encoder, media = choose_encoder(accept)
        return encoder(self._registry), media

    def _collect(self) -> Iterator[Metric]:
        service = self._service
        stats = service.stats()
        yield from self._of_server(stats is not None and not service.is_draining)
        yield from self._times("sgrt_", _TIMES, {})
        if stats is None:
            return
        yield from _of_engine(stats)
        alias = service.config.metrics_alias
        if alias is not None:
            yield from self._aliases(alias, stats, service.names[0])

    def _of_server(self, ready: bool) -> Iterator[Metric]:
        service = self._service
        yield GaugeMetricFamily("sgrt_ready", "1 where new requests are taken", float(ready))
        yield GaugeMetricFamily(
            "sgrt_requests_under_way", "requests that wait or run", service.num_running
        )
        yield CounterMetricFamily(
            "sgrt_queue_rejections",
            "requests refused because the queue was full",
            self.num_rejected,
        )
        requests = CounterMetricFamily(
            "sgrt_requests", "answered requests", labels=("method", "route", "status")
        )
        for (method, route, status), count in list(self._answers.items()):
            requests.add_metric((method, route, str(status)), count)
        yield requests
        seconds = HistogramMetricFamily(
            "sgrt_request_seconds",
            "from a request's arrival to the end of its answer",
            labels=["route"],
        )
        for route, histogram in list(self._seconds.items()):
            seconds.add_metric([route], histogram.buckets(), histogram.sum)
        yield seconds

    def _times(
        self, prefix: str, names: Mapping[str, tuple[str, str]], labels: Mapping[str, str]
    ) -> Iterator[Metric]:
        for name, (attribute, text) in names.items():
            histogram: Histogram = getattr(self, attribute)
            family = HistogramMetricFamily(prefix + name, text, labels=tuple(labels))
            family.add_metric(tuple(labels.values()), histogram.buckets(), histogram.sum)
            yield family

    def _aliases(self, alias: str, stats: Mapping[str, float], model: str) -> Iterator[Metric]:
        """The same under the names of another server."""
        values = {**stats, **_derived(stats), "answered": sum(self._answers.values())}
        labels = {"model_name": model} | ({"engine": "0"} if alias == "vllm" else {})
        for name, (kind, source) in _ALIASES[alias].items():
            family = kind(f"{alias}:{name}", f"as {alias} calls it", labels=tuple(labels))
            family.add_metric(tuple(labels.values()), values[source])
            yield family
        yield from self._times(f"{alias}:", _ALIAS_TIMES, labels)


class _Collector:
    """What `prometheus_client` takes from: a function that yields metrics."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.collect = collect

    def describe(self) -> list[Metric]:
        return []


def _derived(stats: Mapping[str, float]) -> dict[str, float]:
    used = stats["pages"] - stats["pages_free"] - stats["pages_cached"]
    return {
        "pages_used": used,
        "kv_usage": used / stats["pages"],
        "tokens_used": used * stats["page_size"],
        "generated": stats["sampled"] + stats["forced"],
        "grammars_asked": stats["grammars_compiled"]
        + stats["grammars_cached"]
        + stats["grammars_refused"],
    }


def _of_engine(stats: Mapping[str, float]) -> Iterator[Metric]:
    values = {**stats, **_derived(stats)}
    for name, (source, text) in _GAUGES.items():
        yield GaugeMetricFamily(name, text, values[source])
    for name, (source, text) in _COUNTERS.items():
        yield CounterMetricFamily(name, text, values[source])


_GAUGES = {
    "sgrt_sequences_running": ("running", "sequences in the engine's steps"),
    "sgrt_sequences_waiting": ("waiting", "sequences that wait for a place in a step"),
    "sgrt_kv_usage_ratio": ("kv_usage", "share of the KV pages that sequences hold"),
    "sgrt_kv_pages": ("pages", "KV pages there are"),
    "sgrt_kv_pages_used": ("pages_used", "KV pages that sequences hold"),
    "sgrt_kv_pages_cached": ("pages_cached", "KV pages of prefixes that nobody uses now"),
    "sgrt_kv_pages_free": ("pages_free", "KV pages that hold nothing"),
}
_COUNTERS = {
    "sgrt_prompt_tokens": ("prompt", "tokens of prompts, over generations that ended"),
    "sgrt_cached_tokens": ("cached", "those of them that were found computed"),
    "sgrt_sampled_tokens": ("sampled", "tokens drawn"),
    "sgrt_forced_tokens": ("forced", "tokens that a constraint left no choice about"),
    "sgrt_computed_tokens": ("computed", "tokens that went through the model"),
    "sgrt_steps": ("steps", "forward passes"),
    "sgrt_retracted": ("retracted", "sequences put back because pages were short"),
    "sgrt_forward_seconds": ("forward_s", "time in the model"),
    "sgrt_sample_seconds": ("sample_s", "time in head and sampling"),
    "sgrt_schedule_seconds": ("schedule_s", "time deciding and bookkeeping"),
    "sgrt_mask_seconds": ("mask_s", "time filling masks, beside the model"),
    "sgrt_mask_wait_seconds": ("mask_wait_s", "the part of it that the loop waited for"),
    "sgrt_late_masks": ("late_masks", "rows left out of a step for a mask that was late"),
    "sgrt_grammars_compiled": ("grammars_compiled", "constraints compiled"),
    "sgrt_grammars_cached": ("grammars_cached", "constraints found compiled"),
    "sgrt_grammars_refused": (
        "grammars_refused",
        "constraints refused: unsupported, wrong or too costly",
    ),
    "sgrt_grammars_over_budget": ("grammars_over_budget", "those of them that were too costly"),
    "sgrt_grammar_compile_seconds": ("grammar_s", "time compiling"),
}
_TIMES = {
    "time_to_first_token_seconds": ("_first", "from a request understood to its first token"),
    "inter_token_seconds": ("_gaps", "between the tokens of one generation; a forced run is one"),
    "generation_seconds": ("_whole", "from a request understood to the end of a generation"),
}
_ALIAS_TIMES = {
    "time_to_first_token_seconds": ("_first", "time to first token"),
    "inter_token_latency_seconds": ("_gaps", "time between tokens"),
    "e2e_request_latency_seconds": ("_whole", "time of a request"),
}
_Family = type[GaugeMetricFamily] | type[CounterMetricFamily]
_ALIASES: dict[str, dict[str, tuple[_Family, str]]] = {
    "vllm": {
        "num_requests_running": (GaugeMetricFamily, "running"),
        "num_requests_waiting": (GaugeMetricFamily, "waiting"),
        "kv_cache_usage_perc": (GaugeMetricFamily, "kv_usage"),
        "num_preemptions": (CounterMetricFamily, "retracted"),
        "prompt_tokens": (CounterMetricFamily, "prompt"),
        "generation_tokens": (CounterMetricFamily, "generated"),
        "prefix_cache_queries": (CounterMetricFamily, "prompt"),
        "prefix_cache_hits": (CounterMetricFamily, "cached"),
    },
    "sglang": {
        "num_running_reqs": (GaugeMetricFamily, "running"),
        "num_queue_reqs": (GaugeMetricFamily, "waiting"),
        "num_used_tokens": (GaugeMetricFamily, "tokens_used"),
        "token_usage": (GaugeMetricFamily, "kv_usage"),
        "cache_hit_rate": (GaugeMetricFamily, "cache_hit_rate"),
        "prompt_tokens": (CounterMetricFamily, "prompt"),
        "generation_tokens": (CounterMetricFamily, "generated"),
        "cached_tokens": (CounterMetricFamily, "cached"),
        "num_requests": (CounterMetricFamily, "answered"),
        "num_grammar": (CounterMetricFamily, "grammars_asked"),
        "num_grammar_cache_hit": (CounterMetricFamily, "grammars_cached"),
        "num_grammar_timeout": (CounterMetricFamily, "grammars_over_budget"),
        "num_grammar_aborted": (CounterMetricFamily, "grammars_refused"),
    },
}
