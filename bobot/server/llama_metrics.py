"""What llama-server's /metrics tells Prometheus, under its own names, for the boards that read it.

Counts and times are of all models together. The two speeds are those since they were last asked
for, as llama.cpp's are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass
class Totals:
    """Of all answers since the server started. Times in seconds."""

    num_prompt: int = 0
    """Tokens that were computed; the cache held the others."""
    num_cached: int = 0
    prompt_s: float = 0.0
    num_predicted: int = 0
    num_steps: int = 0
    """Predicted tokens behind the first one of an answer."""
    predicted_s: float = 0.0
    most_tokens: int = 0
    """Of prompt and answer together."""

    def add(self, prompt: int, cached: int, predicted: int, prompt_s: float, rest_s: float) -> None:
        """One answer: its tokens, and seconds until the first token and from it to the last."""
        self.num_prompt += prompt - cached
        self.num_cached += cached
        self.prompt_s += prompt_s
        self.num_predicted += predicted
        self.num_steps += max(predicted - 1, 0)
        self.predicted_s += rest_s
        self.most_tokens = max(self.most_tokens, prompt + predicted)


class LlamaMetrics:
    def __init__(self) -> None:
        self.totals = Totals()
        self._last = Totals()

    def text(self, engines: Iterable[Mapping[str, float]]) -> bytes:
        """In Prometheus' text format; `engines`: what each model's engine counts."""
        engines = list(engines)
        lines: list[str] = []
        for kind, name, help_text, value in self._rows(engines):
            full = f"llamacpp:{name}"
            lines += [f"# HELP {full} {help_text}", f"# TYPE {full} {kind}", f"{full} {value:g}"]
        self._last = Totals(**vars(self.totals))
        return ("\n".join(lines) + "\n").encode()

    def _rows(
        self, engines: list[Mapping[str, float]]
    ) -> Iterable[tuple[Literal["counter", "gauge"], str, str, float]]:
        now, last = self.totals, self._last

        def sum_of(name: str) -> float:
            return sum(engine[name] for engine in engines)

        yield "counter", "prompt_tokens_total", "Prompt tokens computed", now.num_prompt
        yield "counter", "prompt_tokens_cached_total", "Prompt tokens reused", now.num_cached
        yield "counter", "prompt_seconds_total", "Seconds of prompts", now.prompt_s
        yield "counter", "tokens_predicted_total", "Tokens written", now.num_predicted
        yield "counter", "tokens_predicted_seconds_total", "Seconds of writing", now.predicted_s
        yield "counter", "n_decode_total", "Steps of the engines", sum_of("num_steps")
        yield "counter", "n_tokens_max", "Longest prompt and answer, in tokens", now.most_tokens
        drafted, accepted = sum_of("num_drafted_tokens"), sum_of("num_accepted_tokens")
        yield "counter", "spec_decode_num_draft_tokens_total", "Tokens guessed", drafted
        yield (
            "counter",
            "spec_decode_num_accepted_tokens_total",
            "Right guesses",
            accepted,
        )
        yield "counter", "spec_decode_num_drafts_total", "Runs of guesses", sum_of("num_drafts")
        prompt_rate = _rate(now.num_prompt - last.num_prompt, now.prompt_s - last.prompt_s)
        yield "gauge", "prompt_tokens_seconds", "Prompt tokens per second, lately", prompt_rate
        rate = _rate(now.num_steps - last.num_steps, now.predicted_s - last.predicted_s)
        yield "gauge", "predicted_tokens_seconds", "Tokens written per second, lately", rate
        yield "gauge", "requests_processing", "Sequences computed now", sum_of("num_running")
        yield "gauge", "requests_deferred", "Sequences that wait", sum_of("num_waiting")
        busy = _rate(sum_of("num_chunks"), sum_of("num_steps"))
        yield "gauge", "n_busy_slots_per_decode", "Sequences per step on average", busy


def _rate(count: float, of: float) -> float:
    return count / of if of > 0 else 0.0
