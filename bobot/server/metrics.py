"""What /metrics tells Prometheus. Counts and times only, never a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bobot.server.llama_metrics import LlamaMetrics

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ENGINE = {
    "num_running": "Sequences that are computed",
    "num_waiting": "Sequences that wait for their first step",
    "num_free_blocks": "Blocks of the KV cache that nobody holds",
    "num_steps": "Steps since it was loaded",
    "num_preemptions": "Sequences that had to make room since it was loaded",
    "num_restored_tokens": "Prompt tokens read back from the disk since it was loaded",
    "num_disk_bytes": "Of the prefix cache on the disk, all models together",
    "num_dropped_blocks": "Blocks not kept on the disk, because it was behind",
    "num_drafted_tokens": "Tokens guessed since it was loaded",
    "num_accepted_tokens": "Guessed tokens that were right",
}
"""Of engine/stats.py."""


class Metrics:
    """The counters of one server."""

    def __init__(self, num_open: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self.llama = LlamaMetrics()
        self.requests = Counter(
            "bobot_requests", "Requests answered", ("path", "status"), registry=registry
        )
        self.prompt_tokens = Counter(
            "bobot_prompt_tokens", "Prompt tokens read", ("model",), registry=registry
        )
        self.cached_tokens = Counter(
            "bobot_cached_tokens",
            "Prompt tokens found in the prefix cache",
            ("model",),
            registry=registry,
        )
        self.completion_tokens = Counter(
            "bobot_completion_tokens", "Tokens written", ("model",), registry=registry
        )
        self.first_token_s = Histogram(
            "bobot_time_to_first_token_seconds",
            "From the request to its first token",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.token_s = Histogram(
            "bobot_time_per_output_token_seconds",
            "Between the tokens of an answer, on average",
            ("model",),
            buckets=TOKEN_SECONDS,
            registry=registry,
        )
        self.request_s = Histogram(
            "bobot_request_seconds", "Whole requests", ("path",), buckets=SECONDS, registry=registry
        )
        self._open = Gauge("bobot_requests_open", "Requests under way", registry=registry)
        self._open.set_function(num_open)
        self.loaded = Gauge("bobot_models_loaded", "Models in memory", registry=registry)
        self._engine = {
            name: Gauge(f"bobot_engine_{name}", text, ("model",), registry=registry)
            for name, text in ENGINE.items()
        }

    def show_engines(self, counts: Mapping[str, Mapping[str, float]]) -> None:
        """Counts of each model's engine as they are now; those of unloaded models go."""
        for name, gauge in self._engine.items():
            gauge.clear()
            for model, found in counts.items():
                gauge.labels(model).set(found[name])

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
