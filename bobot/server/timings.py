"""What an answer took, and has taken so far, for clients that show tokens per second."""

from __future__ import annotations

import time
from typing import Any

from bobot.chat.protocol import Delta, Event, PromptRead, Started, Usage


def timings(usage: Usage) -> dict[str, Any]:
    """In llama.cpp's words, from which clients show tokens per second."""
    cached = usage.cached_tokens or 0
    prompt_n = usage.prompt_tokens - cached
    # The first token belongs to the prompt's time.
    predicted_n = max(usage.completion_tokens - 1, 0)
    found: dict[str, Any] = {"cache_n": cached, "prompt_n": prompt_n}
    for name, count, time_s in (
        ("prompt", prompt_n, usage.prompt_s),
        ("predicted", predicted_n, usage.completion_s),
    ):
        is_known = time_s is not None
        found[f"{name}_ms"] = 1000 * time_s if is_known else None
        per_token_ms = 1000 * time_s / count if time_s and count else 0.0
        found[f"{name}_per_token_ms"] = per_token_ms if is_known else None
        found[f"{name}_per_second"] = (count / time_s if time_s else 0.0) if is_known else None
    found["predicted_n"] = usage.completion_tokens
    return found


class Clock:
    """Reads the events of one request."""

    def __init__(self) -> None:
        self._started_s = self._first_s = self._last_s = time.monotonic()
        self._num_prompt = self._num_tokens = 0
        self._read: PromptRead | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started_s = time.monotonic()
            self._num_prompt = len(event.prompt_ids or ())
        elif isinstance(event, PromptRead):
            is_first = event.processed == event.cached
            self._read = event
            self._first_s = self._last_s = self._started_s if is_first else time.monotonic()
        elif isinstance(event, Delta):
            self._last_s = time.monotonic()
            if not self._num_tokens:
                self._first_s = self._last_s
            self._num_tokens += len(event.token_ids)

    def timings(self) -> dict[str, Any]:
        """In llama.cpp's words; how many tokens the cache held is known at the end only, or where
        the reading of the prompt is told."""
        read = self._read
        usage = Usage(
            prompt_tokens=self._num_prompt if read is None else read.processed - read.cached,
            completion_tokens=self._num_tokens,
            prompt_s=self._first_s - self._started_s,
            completion_s=self._last_s - self._first_s,
        )
        return {name: value for name, value in timings(usage).items() if name != "cache_n"}

    def progress(self, read: PromptRead) -> dict[str, Any]:
        """llama.cpp's prompt_progress."""
        return {
            "total": read.total,
            "cache": read.cached,
            "processed": read.processed,
            "time_ms": 1000 * (self._first_s - self._started_s),
        }
