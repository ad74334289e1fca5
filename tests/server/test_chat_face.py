"""OpenAI's chat/completions: requests in their words, answers whole and streamed."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from scripted import ScriptedModel, events_of

from bobot.chat.protocol import AnswerError, Format, OverloadedError, ParameterError
from bobot.errors import RequestError

HI = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
PATH = "/v1/chat/completions"


def assembled(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Index -> the message that the deltas of a stream add up to, with its finish_reason."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            message = found.setdefault(choice["index"], {"content": "", "tool_calls": []})
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            if "reasoning" in delta:
                assert delta["reasoning"] == delta["reasoning_content"]
                message["reasoning"] = message.get("reasoning", "") + delta["reasoning"]
            for call in delta.get("tool_calls", []):
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"id": call["id"], "name": "", "arguments": ""})
                    message["tool_calls"][-1]["name"] = call["function"]["name"]
                message["tool_calls"][call["index"]]["arguments"] += call["function"]["arguments"]
            message["finish_reason"] = choice["finish_reason"]
    return found


def as_assembled(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    calls = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls", [])]
    found = {"content": message["content"] or "", "tool_calls": calls}
    if "reasoning" in message:
        assert message["reasoning"] == message["reasoning_content"]
        found["reasoning"] = message["reasoning"]
    return {**found, "finish_reason": choice["finish_reason"]}


@pytest.mark.parametrize("seed", range(20))
def test_streamed_and_whole_answers_are_the_same(talk, seed):
    rng = random.Random(seed)
    kinds = rng.choices(["text", "reasoning", "tool_call"], k=rng.randint(1, 5))
    bits = [
        (kind, 'f {"a": 1}' if kind == "tool_call" else f"part {number} \u4f60\U0001f600 end")
        for number, kind in enumerate(kinds)
    ]
    client = talk(ScriptedModel(bits=bits))
    body = {"model": "scripted", "messages": HI, "n": rng.randint(1, 3)}
    whole = client.ask(PATH, body).json()
    streamed = client.ask(PATH, {**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.endswith("data: [DONE]\n\n")
    expected = {choice["index"]: as_assembled(choice) for choice in whole["choices"]}
    assert assembled(events_of(streamed.text)) == expected


def test_stream_begins_with_the_role_and_ends_with_reason_and_usage(talk):
    client = talk(ScriptedModel())
    body = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    first, *middle, end, usage = events_of(client.ask(PATH, body).text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert end["choices"][0]["delta"] == {} and end["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == [] and usage["usage"]["total_tokens"] == 4
    assert all(chunk["usage"] is None for chunk in [first, *middle, end])
    assert {chunk["id"] for chunk in [first, *middle, end, usage]} == {first["id"]}


def test_without_include_usage_no_chunk_names_usage(talk):
    chunks = events_of(talk(ScriptedModel()).ask(PATH, {"messages": HI, "stream": True}).text)
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_and_timings_use_the_words_of_openai_and_llama_cpp(talk):
    answer = talk(ScriptedModel()).ask(PATH, {"messages": HI}).json()
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 2,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert answer["timings"]["cache_n"] == 1
    assert answer["timings"]["prompt_per_second"] == 2.0  # one token was new, in half a second
    assert answer["timings"]["predicted_per_second"] == 1.0  # one token after the first


def test_every_parameter_reaches_the_model(talk):
    model = ScriptedModel()
    body = {
        "model": "scripted",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "be"}]},
            {"role": "user", "content": "Hi", "name": "ann"},
            {"role": "assistant", "content": None, "reasoning": "why", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            ]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 1, "frequency_penalty": -1, "seed": -1, "n": 2, "logit_bias": {"7": -5},
        "max_completion_tokens": 9, "stop": "x", "stop_token_ids": [3], "ignore_eos": True,
        "logprobs": True, "top_logprobs": 2, "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False, "reasoning_effort": "high",
        "chat_template_kwargs": {"enable_thinking": False}, "unknown_field": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    }  # fmt: skip
    assert talk(model).ask(PATH, body).status_code == 200
    request = model.requests[0]
    assert request.sampling == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 1, "frequency_penalty": -1, "seed": 2**63 - 1, "n": 2,
        "logit_bias": {7: -5}, "max_tokens": 9, "stop_token_ids": (3,), "ignore_eos": True,
        "logprobs": 2,
    }  # fmt: skip
    assert request.stop == ("x",) and request.tool_choice == "function:weather"
    assert request.parallel_tool_calls is False and request.reasoning_effort == "high"
    assert request.template_options == {"enable_thinking": False}
    assert request.format == Format("json_schema", schema={})
    assert request.messages == (
        {"role": "system", "content": "be"},
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "assistant", "content": "", "reasoning_content": "why", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        ]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    )  # fmt: skip


REFUSED = [
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "cat", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"temperature": 9}, "temperature", "invalid_value"),
    ({"temperature": "warm"}, "temperature", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": True}, "n", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logit_bias": {"the": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
    ({"stop": [""]}, "stop", "invalid_value"),
    ({"stop": ["x"] * 17}, "stop", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"audio": {"voice": "alloy"}}, "audio", "unsupported_parameter"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
    ({"store": True}, "store", "unsupported_parameter"),
    ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [WEATHER, WEATHER]}, "tools", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "maybe"}, "tool_choice", "invalid_value"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema",
     "missing_required_parameter"),
    ({"guided_regex": "a", "grammar": "b"}, "grammar", "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
     "messages[0].content[0].type", "unsupported_parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param", "code"), REFUSED)
def test_what_can_not_be_done_is_refused_by_name(talk, change, param, code):
    answer = talk(ScriptedModel()).ask(PATH, {"messages": HI, **change})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, code), error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b" ", b"{", b"[]", b"null", b'{"messages"', b"\xff\xfe"])
def test_body_that_is_no_json_object_is_a_mistake_of_the_client(talk, body):
    answer = talk(ScriptedModel()).ask(PATH, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ParameterError("no", param="n"), 400, "invalid_request_error"),
        (RequestError("no"), 400, "invalid_request_error"),
        (OverloadedError("wait", retry_after_s=2.5), 503, "unavailable_error"),
        (AnswerError("broken"), 500, "server_error"),
        (ZeroDivisionError("secret"), 500, "server_error"),
    ],
)
def test_failure_before_the_answer_has_a_status_and_after_its_begin_is_an_event(
    talk, error, status, kind
):
    client = talk(ScriptedModel(error=error))
    answer = client.ask(PATH, {"messages": HI, "stream": True})
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert "secret" not in answer.text
    if status == 503:
        assert answer.headers["retry-after-ms"] == "2500"
    if status == 500:
        assert answer.headers["x-should-retry"] == "false"
    late = talk(ScriptedModel(error=error, error_after=1))
    answer = late.ask(PATH, {"messages": HI, "stream": True})
    events = events_of(answer.text)
    assert answer.status_code == 200 and "[DONE]" not in answer.text
    assert events[-1]["error"]["type"] == kind and "choices" in events[-2]


def test_unknown_model_is_404_and_any_model_answers_when_allowed(talk):
    body = {"model": "gpt-9", "messages": HI}
    error = talk(ScriptedModel()).ask(PATH, body)
    assert error.status_code == 404 and error.json()["error"]["code"] == "model_not_found"
    assert talk(ScriptedModel(), any_model=True).ask(PATH, body).json()["model"] == "scripted"


def test_lenient_server_passes_over_what_it_does_not_support(talk):
    model = ScriptedModel()
    body = {
        "messages": HI, "store": True, "audio": {}, "logit_bias": {"foo": 0}, "max_tokens": 0,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert talk(model, is_lenient=True).ask(PATH, body).status_code == 200
    assert model.requests[0].sampling == {"max_tokens": 1}


def test_legacy_functions_are_answered_with_function_call(talk):
    client = talk(ScriptedModel(bits=[("tool_call", 'weather {"a": 1}')]))
    function = {"name": "weather", "parameters": {"type": "object"}}
    body = {"messages": HI, "functions": [function], "function_call": {"name": "weather"}}
    choice = client.ask(PATH, body).json()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"a": 1}'}
    chunks = events_of(client.ask(PATH, {**body, "stream": True}).text)
    deltas = [chunk["choices"][0]["delta"].get("function_call", {}) for chunk in chunks]
    assert "".join(delta.get("arguments", "") for delta in deltas) == '{"a": 1}'
    assert [delta["name"] for delta in deltas if "name" in delta] == ["weather"]


def test_logprobs_of_stream_and_whole_are_the_same_and_hold_no_infinity(talk):
    client = talk(ScriptedModel())
    body = {"messages": HI, "logprobs": True, "top_logprobs": 3}
    whole = client.ask(PATH, body).json()["choices"][0]["logprobs"]["content"]
    chunks = events_of(client.ask(PATH, {**body, "stream": True}).text)
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry for part in found if part for entry in part["content"]] == whole
    assert whole[0]["token"] == "Hello" and bytes(whole[0]["bytes"]) == b"Hello"
    assert [top["logprob"] for top in whole[0]["top_logprobs"]] == [-0.5, -1.5, -9999.0]


def test_prompt_logprobs_of_a_conversation_are_those_of_its_ids(talk):
    client = talk(ScriptedModel())
    chat = client.ask(PATH, {"messages": HI, "prompt_logprobs": 1}).json()["prompt_logprobs"]
    ids = list(b"Hi")
    text = client.ask("/v1/completions", {"prompt": ids, "prompt_logprobs": 1}).json()
    assert chat == text["choices"][0]["prompt_logprobs"]
    assert chat[0] is None and chat[1][str(ids[1])]["logprob"] == -1.0


def test_token_ids_are_returned_when_asked_for(talk):
    answer = talk(ScriptedModel()).ask(PATH, {"messages": HI, "return_token_ids": True}).json()
    assert answer["prompt_token_ids"] == list(b"Hi")
    assert answer["choices"][0]["token_ids"] == [0, 1]


def test_path_without_v1_and_the_request_id_come_back(talk):
    answer = talk(ScriptedModel()).ask(
        "/chat/completions", {"messages": HI}, headers={"x-request-id": "abc-1"}
    )
    assert answer.status_code == 200 and answer.headers["x-request-id"] == "abc-1"
    assert json.loads(answer.text)["choices"][0]["message"]["content"] == "Hello there"
