"""`/metrics`: what Prometheus reads.

Counts are kept in plain dictionaries and become samples only when they are asked for, so a request
costs some additions. The names of models in labels come from clients, so their number is bounded.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from overt.engine import Purpose
from overt.gateway.exchange import ExchangeStats
from overt.server.request_log import GAPS, GenerationRecord, RequestRecord

FIRSTS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper ends, in seconds, of the buckets of the time to the first piece of an answer."""

_MAX_MODELS = 200  # names in labels; the rest are counted as _OTHER
_OTHER = "other"
_IDLE = ExchangeStats({}, {}, {}, {}, 0, 0, 0, 0)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self, ends: Sequence[float]) -> None:
        self.counts = [0] * (len(ends) + 1)
        self.total = 0.0


class _ModelCounters:
    """What was counted for one model."""

    __slots__ = ("cached", "calls", "failed", "firsts", "gaps", "hits", "tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.calls = self.failed = self.hits = 0
        self.tokens_in = self.tokens_out = self.cached = 0
        self.firsts = _Histogram(FIRSTS)
        self.gaps = _Histogram(GAPS)


class Metrics(Collector):
    """Counts what `Watch` tells it, and renders it.

    Args:
        stats: asked when the page is (`Exchange.stats`).
        under_way: how many requests are being answered now.
    """

    def __init__(
        self,
        stats: Callable[[], ExchangeStats] = lambda: _IDLE,
        under_way: Callable[[], int] = lambda: 0,
    ) -> None:
        self.stats = stats
        self.under_way = under_way
        self._requests: dict[tuple[str, str, str, str], int] = {}
        self._models: dict[str, _ModelCounters] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def page(self, headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
        """The page for a request with `headers`, and the headers of the answer."""
        encode, media_type = choose_encoder(headers.get("accept", ""))
        return encode(self._registry), {"content-type": media_type, "cache-control": "no-store"}

    # ---- counted ---------------------------------------------------------------------------

    def request(self, seen: RequestRecord) -> None:
        method = seen.method if seen.method in _METHODS else _OTHER
        key = (seen.protocol, method, seen.route, str(seen.status))
        self._requests[key] = self._requests.get(key, 0) + 1

    def generation(self, work: GenerationRecord, seen: RequestRecord) -> None:
        if work.error and not work.tokens_in and not work.pieces:
            return  # refused before a model began: its name may be anything
        model = self._model(work.answered)
        model.calls += 1
        model.failed += bool(work.error)
        model.hits += work.tokens_cached > 0
        model.tokens_in += work.tokens_in
        model.tokens_out += work.tokens_out
        model.cached += work.tokens_cached
        if work.first is not None:
            model.firsts.counts[bisect_left(FIRSTS, work.first)] += 1
            model.firsts.total += work.first
        gaps = model.gaps.counts
        for at, count in enumerate(work.gaps):
            gaps[at] += count
        model.gaps.total += work.gap_seconds

    def _model(self, name: str) -> _ModelCounters:
        model = self._models.get(name)
        if model is None:
            if len(self._models) >= _MAX_MODELS:
                name = _OTHER
            model = self._models.setdefault(name, _ModelCounters())
        return model

    # ---- rendered --------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Every sample, as prometheus_client wants them."""
        requests = CounterMetricFamily(
            "overt_requests",
            "Requests that are over; 499 is a client that left.",
            labels=("protocol", "method", "route", "status"),
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        yield GaugeMetricFamily(
            "overt_requests_in_flight", "Requests being answered now.", self.under_way()
        )
        yield from self._counters()
        yield self._histogram(
            "overt_time_to_first_token_seconds",
            "From the call of a model to the first piece of its answer, queue included.",
            FIRSTS,
            lambda model: model.firsts,
        )
        yield self._histogram(
            "overt_inter_token_seconds",
            "Between two pieces of an answer, which are mostly one token each.",
            GAPS,
            lambda model: model.gaps,
        )
        yield from self._now()

    def _counters(self) -> Iterator[Metric]:
        rows: tuple[tuple[str, str, Callable[[_ModelCounters], int]], ...] = (
            ("overt_generations", "Calls of a model.", lambda model: model.calls),
            (
                "overt_generations_failed",
                "Those that went wrong or were cancelled.",
                lambda model: model.failed,
            ),
            (
                "overt_tokens_in",
                "Tokens of prompts, cached ones included.",
                lambda model: model.tokens_in,
            ),
            ("overt_tokens_out", "Tokens of answers.", lambda model: model.tokens_out),
            (
                "overt_tokens_cached",
                "Tokens of prompts that were reused and not read again.",
                lambda model: model.cached,
            ),
            (
                "overt_prompt_cache_hits",
                "Calls that reused some of an earlier prompt.",
                lambda model: model.hits,
            ),
        )
        for name, about, of in rows:
            family = CounterMetricFamily(name, about, labels=("model",))
            for model, counted in self._models.items():
                family.add_metric((model,), of(counted))
            yield family

    def _histogram(
        self,
        name: str,
        about: str,
        ends: Sequence[float],
        of: Callable[[_ModelCounters], _Histogram],
    ) -> Metric:
        family = HistogramMetricFamily(name, about, labels=("model",))
        for model, counted in self._models.items():
            histogram, so_far, buckets = of(counted), 0, []
            for end, count in zip((*ends, float("inf")), histogram.counts, strict=True):
                so_far += count
                buckets.append((str(end) if end != float("inf") else "+Inf", so_far))
            if so_far:
                family.add_metric((model,), buckets, histogram.total)
        return family

    def _now(self) -> Iterator[Metric]:
        stats = self.stats()
        yield GaugeMetricFamily(
            "overt_queue_length", "Requests waiting for a model.", sum(stats.waiting.values())
        )
        yield GaugeMetricFamily("overt_models_loaded", "Models in memory.", len(stats.memory))
        of_models: tuple[tuple[str, str, Mapping[tuple[str, Purpose], int]], ...] = (
            ("overt_model_waiting", "Requests waiting for this model.", stats.waiting),
            ("overt_model_busy", "Requests this model is answering now.", stats.busy),
            ("overt_model_memory_bytes", "Memory it takes, as estimated before.", stats.memory),
            ("overt_model_resident_bytes", "Memory its worker has now.", stats.resident),
        )
        for name, about, counts in of_models:
            gauge = GaugeMetricFamily(name, about, labels=("model", "purpose"))
            for labels, count in counts.items():
                gauge.add_metric(labels, count)
            yield gauge
        for name, about, count in (
            ("overt_model_loads", "Models that were loaded.", stats.loads),
            ("overt_model_evictions", "Models that had to go for another.", stats.evictions),
            ("overt_queue_refused", "Requests that found the queue full.", stats.refused),
            ("overt_worker_restarts", "Workers that died and were replaced.", stats.restarts),
        ):
            yield CounterMetricFamily(name, about, count)
