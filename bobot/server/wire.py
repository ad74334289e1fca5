"""Bytes of HTTP bodies: JSON in, checked against the types of a struct; JSON, server-sent events
and lines of JSON out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from bobot.chat.protocol import ParameterError
from bobot.errors import RequestError

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

T = TypeVar("T", bound=msgspec.Struct)

_PLACE = re.compile(r"(.*) - at `(?:key in )?\$\.?(.*)`", re.DOTALL)
_encoder = msgspec.json.Encoder()


def decode(body: bytes, kind: type[T]) -> T:
    """The JSON object as a struct; fields that it does not know are passed over.

    ParameterError with the path of a value of a wrong type, RequestError for what is no JSON.
    """
    if not body.strip():
        raise RequestError("The body is empty; a JSON object is needed.")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _wrong_value(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError("The body is not valid JSON: {reason}.", reason=error) from error
    except RecursionError as error:
        raise RequestError("The body is nested too deeply.") from error


def _wrong_value(problem: str) -> RequestError:
    """From msgspec's "Expected `int`, got `str` - at `$.n`"."""
    place = _PLACE.fullmatch(problem)
    what, where = (place[1], place[2]) if place else (problem, "")
    if missing := re.search(r"missing required field `(\w+)`", what):
        name = f"{where}.{missing[1]}" if where else missing[1]
        return ParameterError("{param} is missing.", param=name, code="missing_required_parameter")
    if not where:
        return RequestError("The body does not fit: {problem}.", problem=what)
    return ParameterError("{param}: {problem}.", param=where, problem=what)


def encode(value: Any) -> bytes:
    return _encoder.encode(value)


def sse(value: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + _encoder.encode(value) + b"\n\n"


def line(value: Any) -> bytes:
    """One line of NDJSON."""
    return _encoder.encode(value) + b"\n"


def refuse_unsupported(
    body: msgspec.Struct, unsupported: Mapping[str, Iterable[Any]], *, lenient: bool
) -> None:
    """ParameterError for a field that the API knows and bobot does not; name -> the values that
    ask for nothing. Leniently such fields are passed over.
    """
    if lenient:
        return
    for name, harmless in unsupported.items():
        value = getattr(body, name)
        if value is not None and value not in harmless:
            raise unsupported_parameter(name)


def unsupported_parameter(name: str) -> ParameterError:
    return ParameterError(
        "{param} is not supported here; leave it out.",
        param=name,
        code="unsupported_parameter",
    )
