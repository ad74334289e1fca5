"""What a failed request is told: one table of statuses, and the error objects of the three APIs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bobot.chat.protocol import OverloadedError, ParameterError
from bobot.errors import (
    BobotError,
    GatewayError,
    NotFoundError,
    RequestError,
    TemplateError,
    UsageError,
)


@dataclass(frozen=True)
class Failure:
    """A failed request in the words of OpenAI's API."""

    status: int
    kind: str
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None
    context: tuple[int, int] | None = None
    """Of a prompt that is too long: its tokens, and those that fit."""

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After where waiting helps, x-should-retry where trying again can't."""
        if self.retry_after_s is not None:
            seconds = max(self.retry_after_s, 0.001)
            return {
                "retry-after": str(max(1, round(seconds))),
                "retry-after-ms": str(round(seconds * 1000)),
            }
        return {"x-should-retry": "false"} if self.status == 500 else {}


class DoorError(RequestError):
    """A request that the server itself turns away."""

    def __init__(
        self,
        template: str,
        /,
        *,
        status: int,
        code: str,
        retry_after_s: float | None = None,
        **values: Any,
    ) -> None:
        super().__init__(template, **values)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


KINDS = {
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "not_supported_error",
    502: "server_error",
    503: "unavailable_error",
}
"""`type` of an error by its status; else invalid_request_error."""

STATUS_OF_CODE = {"model_not_found": 404, "not_found": 404}

ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
ANTHROPIC_OVERLOADED = 529

CONTEXT_CODE = "context_length_exceeded"


def failure_of(error: Exception) -> Failure:
    """What the client is told about an error. Of a bug it learns nothing but that it is one."""
    message = str(error)
    if isinstance(error, DoorError):
        kind = KINDS.get(error.status, "invalid_request_error")
        return Failure(error.status, kind, message, None, error.code, error.retry_after_s)
    if isinstance(error, ParameterError):
        status = STATUS_OF_CODE.get(error.code, 400)
        found = Failure(status, "invalid_request_error", message, error.param, error.code)
        sizes = error.values.get("found"), error.values.get("allowed")
        if error.code == CONTEXT_CODE and all(isinstance(size, int) for size in sizes):
            return replace(found, context=sizes)  # type: ignore[arg-type]
        return found
    if isinstance(error, OverloadedError):
        after_s = error.retry_after_s
        return Failure(503, KINDS[503], message, None, "overloaded", after_s)
    if isinstance(error, NotFoundError):
        return Failure(404, "invalid_request_error", message, None, "not_found")
    if isinstance(error, RequestError | TemplateError | UsageError):
        return Failure(400, "invalid_request_error", message)
    if isinstance(error, GatewayError):
        return Failure(502, KINDS[502], message, None, "host_failed")
    if isinstance(error, BobotError):
        return Failure(500, KINDS[500], message)
    return Failure(500, KINDS[500], "The server failed; its log says why.")


def openai_error(failure: Failure) -> dict[str, Any]:
    return {
        "error": {
            "message": failure.message,
            "type": failure.kind,
            "param": failure.param,
            "code": failure.code,
        }
    }


def anthropic_status(failure: Failure) -> int:
    return ANTHROPIC_OVERLOADED if failure.status == 503 else failure.status


def anthropic_error(failure: Failure, request_id: str) -> dict[str, Any]:
    kind = ANTHROPIC_KINDS.get(failure.status, "api_error")
    error = {"type": kind, "message": failure.message}
    return {"type": "error", "error": error, "request_id": request_id}


LLAMA_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


def llama_error(failure: Failure) -> dict[str, Any]:
    """llama-server's error: `code` is the status; a prompt that is too long has both sizes."""
    kind, sizes, message = LLAMA_KINDS.get(failure.status, failure.kind), {}, failure.message
    if failure.context is not None:
        kind = "exceed_context_size_error"
        sizes = dict(zip(("n_prompt_tokens", "n_ctx"), failure.context, strict=True))
        message += " The request exceeds the available context size."  # what clients look for
    error = {"code": failure.status, "message": message, "type": kind, "param": failure.param}
    return {"error": {**error, **sizes}}


def ollama_error(failure: Failure) -> dict[str, Any]:
    return {"error": failure.message}
