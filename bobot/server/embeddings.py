"""OpenAI's embeddings: texts or token ids in, vectors out as numbers or base64."""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bobot.server.openai_text import prompts_of
from bobot.server.wire import unsupported_parameter


class EmbeddingBody(Struct, kw_only=True):
    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    private: bool = False
    """bobot's own: never asks a hosted model."""


def texts_of(body: EmbeddingBody, *, lenient: bool) -> list[str | list[int]]:
    """Raises ParameterError. A vector is not cut to `dimensions`: only models trained for it keep
    their meaning."""
    if body.dimensions is not None and not lenient:
        raise unsupported_parameter("dimensions")
    prompts = prompts_of(body.input, "input")
    return [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts]


def embedding_list(
    model: str, vectors: list[list[float]], num_tokens: int, *, as_text: bool
) -> dict[str, Any]:
    """`as_text`: base64. Leniently numbers are sent anyway: OpenAI's client checks the types of
    an answer before it decodes it, and takes either."""
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(vector) if as_text else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def _base64(vector: list[float]) -> str:
    """Little-endian float32, as OpenAI's clients read it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
