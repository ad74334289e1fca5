"""What the fake hosts have in common: a key, events of a stream, the refusal of unknown fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KEY = "sk-test-0123456789abcdef"


def event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def bits(text: str, size: int = 5) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def unknown(body: Mapping[str, Any], known: set[str]) -> tuple[int, str, str] | None:
    extra = sorted(set(body) - known)
    return (400, "invalid_request_error", f"Unknown parameter: {extra[0]}") if extra else None


def embeddings(body: Any) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [
        {"object": "embedding", "index": index, "embedding": [3.0, 4.0 * index]}
        for index, _ in enumerate(texts)
    ]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return {"object": "list", "data": data[::-1], "model": body["model"], "usage": usage}
