"""What Prometheus may ask: requests by route and code, tokens, times, and how full the engine is."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aquila.serve.worker import Load, Timing

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics(Collector):
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "aquila_requests", "HTTP requests that were answered", ["route", "code"], registry=self.registry
        )
        self.aborted = Counter("aquila_aborted", "Requests whose client left", registry=self.registry)
        self.ttft = self._histogram("aquila_ttft_seconds", "From the request to its first token", _SECONDS)
        self.tpot = self._histogram("aquila_tpot_seconds", "Per token after the first", _TOKEN_SECONDS)
        self.e2e = self._histogram("aquila_e2e_seconds", "From the request to its last token", _SECONDS)
        self._stats: Callable[[], Load] | None = None
        self.registry.register(self)

    def watch(self, stats: Callable[[], Load]) -> None:
        """Asks an engine for its figures from now on."""
        self._stats = stats

    def observe(self, timing: Timing) -> None:
        """Takes how a request went."""
        if timing.aborted:
            self.aborted.inc()
            return
        self.ttft.observe(timing.seconds_to_first_token)
        self.e2e.observe(timing.seconds)
        if timing.num_output_tokens > 1:
            self.tpot.observe((timing.seconds - timing.seconds_to_first_token) / (timing.num_output_tokens - 1))

    def page(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """The engine's own figures, read when somebody asks."""
        if self._stats is None:
            return
        load = self._stats()
        gauges = {
            "aquila_running": ("Completions that are computed", load.num_running),
            "aquila_queue_depth": ("Completions that wait", load.num_waiting),
            "aquila_kv_usage_ratio": ("Share of pages in use", 1 - load.num_free_pages / load.num_pages),
        }
        counters = {
            "aquila_prompt_tokens": ("Tokens of prompts", load.num_prompt_tokens),
            "aquila_cached_tokens": ("Tokens of prompts that were computed before", load.num_cached_tokens),
            "aquila_generation_tokens": ("Tokens that came out", load.num_output_tokens),
            "aquila_steps": ("Steps of the engine", load.num_steps),
            "aquila_preemptions": ("Completions that had to start over", load.num_preemptions),
            "aquila_spec_drafted": ("Tokens guessed", load.num_drafted_tokens),
            "aquila_spec_accepted": ("Guesses that were right", load.num_accepted_tokens),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)
