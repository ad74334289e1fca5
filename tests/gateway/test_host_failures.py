"""What goes wrong between here and a host: told in one line, tried again where that may help, and
never with a key in it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
from email.utils import formatdate
from typing import Any

import pytest
from fake_hosts import KEY, WIRES, Cut, End, Hold, Insert, Refuse, running_host
from talking import ENVIRON, QUESTION, Waits, ask, host_of

from bobot.chat.protocol import (
    ChatRequest,
    Event,
    OverloadedError,
    ParameterError,
    Started,
)
from bobot.errors import BobotError, GatewayError, NotFoundError, RequestError, UsageError
from bobot.gateway import sse
from bobot.gateway.client import MAX_ATTEMPTS, MAX_ERROR_BYTES, waiting_time
from bobot.gateway.failures import MAX_WORDS, refusal_of
from bobot.gateway.hosted import HostedModel

ALL = tuple(WIRES)
TEXT = [("text", "abcdefghijklmnopqrstuvwxyz")]


def failure(wire: str, *faults: Any, **options: Any) -> tuple[BobotError, int, Waits]:
    """The error of one request, how often it was sent, and the waits between."""
    waits = Waits()
    with running_host(wire, options.pop("parts", TEXT)) as fake:
        fake.faults = list(faults)
        with pytest.raises(BobotError) as caught:
            ask(fake, waits=waits, **options)
        assert KEY not in str(caught.value)
        assert KEY[:8] not in str(caught.value)
        return caught.value, len(fake.requests), waits


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("wire", ALL)
def test_wrong_key_names_the_variable_and_is_not_tried_again(wire: str) -> None:
    error, count, _ = failure(wire, environ={"TEST_KEY": "sk-test-wrong"})
    assert isinstance(error, GatewayError)
    assert "refuses the key in TEST_KEY" in str(error)
    assert "sk-test" not in str(error)
    assert count == 1


@pytest.mark.parametrize("wire", ALL)
@pytest.mark.parametrize("environ", [{}, {"TEST_KEY": " "}])
def test_missing_key_says_which_variable_to_set(wire: str, environ: dict[str, str]) -> None:
    error, count, _ = failure(wire, environ=environ)
    assert "TEST_KEY is not set" in str(error)
    assert "export TEST_KEY=" in str(error)
    assert count == 0


def test_key_that_can_not_be_one_is_not_sent() -> None:
    error, count, _ = failure("openai", environ={"TEST_KEY": f"{KEY}\nX-Evil: 1"})
    assert isinstance(error, UsageError)
    assert count == 0


@pytest.mark.parametrize("wire", ["openai", "anthropic", "gemini"])
def test_unknown_model_is_not_found(wire: str) -> None:
    error, count, _ = failure(wire, model="no-such-model")
    assert isinstance(error, NotFoundError)
    assert "no model 'no-such-model'" in str(error)
    assert count == 1


TOO_LONG = {
    "openai": {
        "error": {
            "message": "This model's maximum context length is 8192 tokens. However, your messages"
            " resulted in 9001 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
    "anthropic": {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "prompt is too long: 210000 tokens > 200000 maximum",
        },
    },
    "gemini": {
        "error": {
            "code": 400,
            "message": "The input token count (2000000) exceeds the maximum number of tokens"
            " allowed (1048576).",
            "status": "INVALID_ARGUMENT",
        }
    },
}


@pytest.mark.parametrize("wire", TOO_LONG)
def test_too_long_a_conversation_keeps_the_numbers_of_the_host(wire: str) -> None:
    error, count, _ = failure(wire, Refuse(400, TOO_LONG[wire]))
    assert isinstance(error, ParameterError)
    assert (error.param, error.code) == ("messages", "context_length_exceeded")
    assert {"openai": "9001", "anthropic": "210000", "gemini": "1048576"}[wire] in str(error)
    assert count == 1


def test_refused_parameter_is_named_as_the_host_names_it() -> None:
    body = {"error": {"message": "Invalid 'seed'.", "param": "seed", "code": "invalid_value"}}
    error, _, _ = failure("openai", Refuse(400, body))
    assert isinstance(error, ParameterError)
    assert (error.param, error.code) == ("seed", "invalid_value")
    assert str(error) == "test refuses the request: Invalid 'seed'."
    error, _, _ = failure("anthropic", Refuse(400, {"type": "error", "error": {"message": "no"}}))
    assert isinstance(error, RequestError)


def test_words_of_a_host_are_one_bounded_line_without_the_key() -> None:
    words = f"\x1b[31mbad\r\n{KEY} \u202e{'x' * 5000}"
    error, _, _ = failure("openai", Refuse(403, {"error": {"message": words}}))
    text = str(error)
    assert len(text) < MAX_WORDS + 60
    assert text.isprintable()
    assert "bad *** " in text
    html = b"<html>" + b"y" * (2 * MAX_ERROR_BYTES)
    assert len(str(failure("openai", Refuse(403, html))[0])) < MAX_WORDS + 60


def test_another_address_is_not_followed() -> None:
    with running_host("openai", TEXT) as elsewhere:
        to = {"Location": f"{elsewhere.base_url}/chat/completions"}
        error, _, _ = failure("openai", Refuse(307, {}, to))
        assert elsewhere.requests == []
    assert "your key was not sent there" in str(error)


# ------------------------------------------------------------------ trying again

BUSY = {
    "openai": Refuse(429, {"error": {"message": "Rate limit", "code": "rate_limit_exceeded"}}),
    "openai-responses": Refuse(503, {"error": {"message": "Slow down"}}),
    "anthropic": Refuse(
        529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    ),
    "gemini": Refuse(503, {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}),
}


@pytest.mark.parametrize("wire", ALL)
def test_busy_host_is_asked_again_with_growing_waits_until_it_answers(wire: str) -> None:
    waits = Waits()
    with running_host(wire, TEXT) as fake:
        fake.faults = [BUSY[wire]] * 3
        told = ask(fake, waits=waits)
        assert len(fake.requests) == 4
    assert told.shape() == TEXT
    assert [0.25, 0.5, 1.0] <= waits <= [0.5, 1.0, 2.0]


@pytest.mark.parametrize("wire", ALL)
def test_host_that_stays_busy_is_given_up(wire: str) -> None:
    error, count, _ = failure(wire, *[BUSY[wire]] * 9)
    assert isinstance(error, OverloadedError)
    assert error.retry_after_s > 0
    assert count == MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
        ({"Retry-After": "soon"}, 0.375),
        ({"Retry-After": "-5"}, 0.375),
    ],
)
def test_host_is_asked_again_when_it_says(headers: dict[str, str], expected: float) -> None:
    waits = Waits()
    with running_host("openai", TEXT) as fake:
        fake.faults = [Refuse(429, {}, headers)]
        ask(fake, waits=waits)
    assert waits == [pytest.approx(expected, abs=0.13)]


def test_host_may_say_the_hour() -> None:
    ahead = {"retry-after": formatdate(time.time() + 86400, usegmt=True)}
    wait_s = refusal_of(429, ahead, b"", []).wait_s
    assert wait_s is not None
    assert 80000 < wait_s <= 86400
    assert refusal_of(429, {"retry-after": formatdate(0, usegmt=True)}, b"", []).wait_s == 0


def test_long_wait_is_told_instead_of_waited_for() -> None:
    error, count, waits = failure("openai", Refuse(429, {}, {"Retry-After": "3600"}))
    assert isinstance(error, OverloadedError)
    assert (error.retry_after_s, count, waits) == (3600.0, 1, [])


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Refuse(500, {}), MAX_ATTEMPTS),
        (Refuse(500, {}, {"x-should-retry": "false"}), 1),
        (Refuse(400, {}, {"x-should-retry": "true"}), MAX_ATTEMPTS),
        (Refuse(429, {"error": {"code": "insufficient_quota", "message": "pay"}}), 1),
        (Refuse(403, {}), 1),
        (Cut(0), MAX_ATTEMPTS),
        (Cut(3), 1),
    ],
)
def test_only_what_may_be_mended_is_tried_again(fault: Any, expected: int) -> None:
    assert failure("openai", *[fault] * 9)[1] == expected


def test_waits_are_spread_and_grow() -> None:
    for attempt in (1, 2, 3):
        waits = [waiting_time(attempt, None) for _ in range(200)]
        base = 0.5 * 2 ** (attempt - 1)
        assert base / 2 <= min(waits) < 0.6 * base
        assert 0.9 * base < max(waits) <= base


def test_host_that_is_not_there_is_told() -> None:
    with running_host("openai", TEXT) as fake:
        gone = fake
    waits = Waits()
    with pytest.raises(GatewayError, match="can't be reached"):
        ask(gone, waits=waits)
    assert len(waits) == MAX_ATTEMPTS - 1


# ------------------------------------------------------------------ in the middle of an answer


@pytest.mark.parametrize("wire", ALL)
@pytest.mark.parametrize("fault", [Cut(3), End(3)])
def test_answer_that_breaks_off_is_an_error_after_what_came(wire: str, fault: Any) -> None:
    seen: list[Event] = []

    async def talk(fake: Any) -> None:
        model = HostedModel(host_of(fake), "m-1", ENVIRON, Waits())
        try:
            async for event in model.chat(ChatRequest(messages=QUESTION)):
                seen.append(event)
        finally:
            await model.close()

    with running_host(wire, TEXT) as fake:
        fake.faults = [fault]
        with pytest.raises(GatewayError, match="broke off the answer"):
            asyncio.run(talk(fake))
        assert len(fake.requests) == 1, "an answer that began was asked for again"
    assert isinstance(seen[0], Started)


def test_second_answer_that_never_begins_is_missed() -> None:
    with running_host("openai", [("text", "abc")]) as fake:
        fake.faults = [End(3)]  # role, text, finish: the whole first answer
        with pytest.raises(GatewayError, match="broke off the answer"):
            ask(fake, sampling={"n": 2})


ERRORS = {
    "openai": {"error": {"message": "The server had an error", "type": "server_error"}},
    "openai-responses": {
        "type": "response.failed",
        "response": {"error": {"code": "server_error", "message": "The server had an error"}},
    },
    "anthropic": {
        "type": "error",
        "error": {"type": "api_error", "message": "The server had an error"},
    },
    "gemini": {"error": {"code": 500, "message": "The server had an error", "status": "INTERNAL"}},
}


@pytest.mark.parametrize("wire", ALL)
def test_error_inside_a_stream_keeps_its_words(wire: str) -> None:
    event = f"event: error\ndata: {json.dumps(ERRORS[wire])}\n\n".encode()
    error, count, _ = failure(wire, Insert(3, event))
    assert "The server had an error" in str(error)
    assert count == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"data: {broken\n\n", "does not answer with JSON"),
        (b"data: [1, 2]\n\n", "does not answer with JSON"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "does not answer with JSON"),
        (b'data: {"choices": 3}\n\n', "not its own: choices"),
        (b'data: {"choices": [{"delta": {"content": 3}}]}\n\n', "not its own: text"),
        (b'data: {"choices": [{"index": -1, "delta": {}}]}\n\n', "not its own: index"),
        (b'data: {"choices": [{"delta": {}, "finish_reason": "eaten"}]}\n\n', "with 'eaten'"),
        (b'data: {"choices": [], "usage": {"prompt_tokens": "9"}}\n\n', "prompt_tokens"),
    ],
)
def test_stream_in_another_form_is_one_clear_error(content: bytes, words: str) -> None:
    assert words in str(failure("openai", Insert(2, content))[0])


@pytest.mark.parametrize(
    "content", [b"<html>log in</html>", b"", b"null", b"3", gzip.compress(b"{}")]
)
def test_whole_answer_in_another_form_is_one_clear_error(content: bytes) -> None:
    packed = {"Content-Encoding": "gzip"} if content[:2] == b"\x1f\x8b" else {}
    error, _, _ = failure("openai", Refuse(200, content, packed))
    assert "does not answer with JSON" in str(error)


@pytest.mark.parametrize("newline", [b"\n", b"xx"])
def test_endless_event_or_answer_ends_at_its_limit(
    newline: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100_000)
    monkeypatch.setattr(sse, "MAX_ANSWER_BYTES", 300_000)
    flood = (b"data: " + b"x" * 90 + newline) * 10_000
    error, _, _ = failure("openai", Insert(2, flood))
    assert "more than an answer can be" in str(error)


def test_silent_host_is_given_up_and_not_paid_twice() -> None:
    fault = Hold(after=0)
    with running_host("openai", TEXT) as fake:
        fake.faults = [fault]
        # pings come every 20 ms; a shorter limit sees none
        with pytest.raises(GatewayError, match="sent nothing for 0 seconds"):
            ask(fake, host={"idle_timeout_s": 0.005})
        fault.release.set()
        assert len(fake.requests) == 1


def test_no_log_holds_a_key_or_a_word_of_the_conversation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "bobot")
    with running_host("openai", TEXT) as fake:
        fake.faults = [BUSY["openai"]]
        ask(fake, [{"role": "user", "content": "secret-question"}])
    assert "attempt 1 failed" in caplog.text
    assert KEY not in caplog.text
    assert "secret-question" not in caplog.text


# ------------------------------------------------------------------ events out of bytes


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_events_are_the_same_however_the_bytes_are_cut(size: int, newline: bytes) -> None:
    lines = [b": hello", b"event: x", b"data: a", b"data:b", b"", b"", b"id: 3", b"data: c", b""]
    content = newline.join([*lines, b"data: cut off"])

    async def chunks():
        for start in range(0, len(content), size):
            yield content[start : start + size]

    async def read() -> list[bytes]:
        return [event async for event in sse.events(chunks())]

    assert asyncio.run(read()) == [b"a\nb", b"c"]
