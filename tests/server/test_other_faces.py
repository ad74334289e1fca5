"""Anthropic's messages, OpenAI's responses and Ollama's API: their own forms, and that all give the
same answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripted import ScriptedModel, events_of

BITS = [("reasoning", "let me see"), ("text", "Hello there"), ("tool_call", 'f {"a": 1}')]
MESSAGES = [{"role": "user", "content": "Hi"}]
THINKS = {"type": "enabled", "budget_tokens": 1024}


def of_openai(client) -> dict[str, Any]:
    message = client.ask("/v1/chat/completions", {"messages": MESSAGES}).json()["choices"][0]
    call = message["message"]["tool_calls"][0]
    return {
        "text": message["message"]["content"],
        "reasoning": message["message"]["reasoning"],
        "call": (call["function"]["name"], json.loads(call["function"]["arguments"])),
    }


def of_anthropic(client) -> dict[str, Any]:
    body = {"messages": MESSAGES, "max_tokens": 99, "thinking": THINKS}
    blocks = {b["type"]: b for b in client.ask("/v1/messages", body).json()["content"]}
    return {
        "text": blocks["text"]["text"],
        "reasoning": blocks["thinking"]["thinking"],
        "call": (blocks["tool_use"]["name"], blocks["tool_use"]["input"]),
    }


def of_responses(client) -> dict[str, Any]:
    items = client.ask("/v1/responses", {"input": "Hi"}).json()["output"]
    found = {item["type"]: item for item in items}
    return {
        "text": found["message"]["content"][0]["text"],
        "reasoning": found["reasoning"]["content"][0]["text"],
        "call": (found["function_call"]["name"], json.loads(found["function_call"]["arguments"])),
    }


def of_ollama(client) -> dict[str, Any]:
    body = {"model": "scripted", "messages": MESSAGES, "stream": False}
    message = client.ask("/api/chat", body).json()["message"]
    call = message["tool_calls"][0]["function"]
    return {
        "text": message["content"],
        "reasoning": message["thinking"],
        "call": (call["name"], call["arguments"]),
    }


@pytest.mark.parametrize("face", [of_anthropic, of_responses, of_ollama])
def test_every_api_gives_the_answer_that_openai_gives(talk, face):
    client = talk(ScriptedModel(bits=BITS))
    assert face(client) == of_openai(client)
    assert client.keys is not None


def test_messages_stream_adds_up_to_the_whole_message(talk):
    client = talk(ScriptedModel(bits=[*BITS, ("tool_call", 'g {"b": 2}')]))
    body = {"messages": MESSAGES, "max_tokens": 99, "thinking": THINKS}
    whole = client.ask("/v1/messages", body).json()
    text = client.ask("/v1/messages", {**body, "stream": True}).text
    events = events_of(text)
    assert [line[7:] for line in text.splitlines() if line.startswith("event: ")] == [
        event["type"] for event in events
    ]
    assert events[0]["type"] == "message_start" and events[-1]["type"] == "message_stop"
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            delta, block = dict(event["delta"]), blocks[event["index"]]
            kind = delta.pop("type")
            for name, value in delta.items():
                name = "json" if kind == "input_json_delta" else name
                block[name] += value
    for block in blocks:
        text = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(text)
    assert blocks == whole["content"]
    end = events[-2]
    assert end["delta"]["stop_reason"] == whole["stop_reason"] == "tool_use"
    assert end["usage"] == whole["usage"]
    assert whole["usage"]["input_tokens"] + whole["usage"]["cache_read_input_tokens"] == 2


def test_thinking_is_sent_only_to_those_who_ask_for_it(talk):
    client = talk(ScriptedModel(bits=BITS))
    for thinking in (None, {"type": "disabled"}, {"type": "adaptive", "display": "omitted"}):
        body = {"messages": MESSAGES, "max_tokens": 9, "thinking": thinking}
        content = client.ask("/v1/messages", body).json()["content"]
        assert content[0]["type"] == "text"
        events = events_of(client.ask("/v1/messages", {**body, "stream": True}).text)
        assert all(event.get("content_block", {}).get("type") != "thinking" for event in events)


def test_blocks_of_a_conversation_become_messages(talk):
    model = ScriptedModel()
    body = {
        "max_tokens": 9,
        "system": [{"type": "text", "text": "be"}, {"type": "text", "text": "kind"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True},
                {"type": "text", "text": "well?"},
            ]},
            {"role": "assistant", "content": "It is"},
        ],
        "stop_sequences": ["x"], "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    }  # fmt: skip
    assert talk(model).ask("/v1/messages", body).status_code == 200
    request = model.requests[0]
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert request.messages == (
        {"role": "system", "content": "be\nkind"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "Error: no", "tool_call_id": "t1"},
        {"role": "user", "content": "well?"},
        {"role": "assistant", "content": "It is"},
    )
    assert request.continues_last and request.tool_choice == "required"
    assert not request.parallel_tool_calls and request.stop == ("x",)


def test_what_claude_code_always_sends_asks_for_nothing(talk):
    model = ScriptedModel()
    edits = [{"type": "clear_thinking_20251015", "keep": "all"}]
    body = {
        "max_tokens": 32000, "stream": True, "messages": MESSAGES,
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": edits},
        "output_config": {"effort": "high"}, "metadata": {"user_id": "x"},
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "defer_loading": True}],
    }  # fmt: skip
    client = talk(model)
    assert client.ask("/v1/messages?beta=true", body).status_code == 200
    assert model.requests[0].reasoning_effort == "high" and model.requests[0].effort_is_optional
    client.ask("/v1/messages", {**body, "output_config": {"effort": "low"}})
    assert not model.requests[1].effort_is_optional
    edits = [{"type": "clear_tool_uses_20250919"}]
    refused = client.ask("/v1/messages", {**body, "context_management": {"edits": edits}})
    assert refused.status_code == 400 and "context_management" in refused.text


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"temperature": 1.5}, 400, "invalid_request_error"),
        ({"model": "claude"}, 404, "not_found_error"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400,
         "invalid_request_error"),
    ],
)  # fmt: skip
def test_failures_have_the_form_of_anthropic(talk, change, status, kind):
    body = {"max_tokens": 9, "messages": MESSAGES, **change}
    answer = talk(ScriptedModel()).ask("/v1/messages", body)
    found = answer.json()
    assert (answer.status_code, found["type"], found["error"]["type"]) == (status, "error", kind)
    assert found["request_id"] == answer.headers["request-id"]


def test_response_events_add_up_to_the_whole_response(talk):
    client = talk(ScriptedModel(bits=[*BITS, ("tool_call", 'patch {"input": "*** x"}')]))
    tools = [{"type": "function", "name": "f"}, {"type": "custom", "name": "patch"}]
    body = {"input": "Hi", "tools": tools, "include": ["message.output_text.logprobs"]}
    whole = client.ask("/v1/responses", body).json()
    events = events_of(client.ask("/v1/responses", {**body, "stream": True}).text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = events[-1]["response"]
    assert events[-1]["type"] == "response.completed" and last["usage"] == whole["usage"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == last["output"]
    texts: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
    for mine, other in zip(done, whole["output"], strict=True):
        assert texts[mine["id"]] == _text_of(mine) == _text_of(other)
        assert mine["type"] == other["type"] and mine["status"] == other["status"]
    assert [item["type"] for item in done] == [
        "reasoning", "message", "function_call", "custom_tool_call",
    ]  # fmt: skip


def test_response_has_no_null_where_the_description_of_the_api_has_none(talk):
    client = talk(ScriptedModel(bits=BITS))
    body = {"input": "Hi", "tools": [{"type": "custom", "name": "patch"}], "user": None}
    for event in events_of(client.ask("/v1/responses", {**body, "stream": True}).text):
        if "response" in event:
            response = event["response"]
            assert "user" not in response and response["tools"] == body["tools"]
            assert ("usage" in response) == (event["type"] == "response.completed")
    assert client.ask("/v1/responses", {**body, "user": "ann"}).json()["user"] == "ann"
    listed = client.ask("/v1/chat/completions").json()
    assert (listed["first_id"], listed["last_id"], listed["data"]) == ("", "", [])


def _text_of(item: dict[str, Any]) -> str:
    if "content" in item:
        return item["content"][0]["text"]
    return item["arguments"] if "arguments" in item else item["input"]


def test_response_goes_on_where_the_one_before_ended(talk):
    model = ScriptedModel(bits=BITS)
    client = talk(model)
    first = client.ask("/v1/responses", {"input": "Hi", "instructions": "be kind"}).json()
    output = [{"type": "function_call_output", "call_id": "call_2", "output": "42"}]
    stored = {"previous_response_id": first["id"], "input": output}
    assert client.ask("/v1/responses", stored).status_code == 200
    sent = {"input": [{"role": "user", "content": "Hi"}, *first["output"], *output]}
    assert client.ask("/v1/responses", sent).status_code == 200
    assert model.requests[1].messages == model.requests[2].messages
    assert len(model.requests[1].messages) == 3  # instructions are not carried over


def test_responses_are_kept_read_and_deleted_unless_store_is_false(talk):
    client = talk(ScriptedModel())
    made = client.ask("/v1/responses", {"input": "Hi"}).json()
    path = f"/v1/responses/{made['id']}"
    assert client.ask(path).json() == made
    items = client.ask(f"{path}/input_items").json()["data"]
    assert items[0]["content"][0]["text"] == "Hi"
    assert client.ask(path, method="DELETE").json()["deleted"] is True
    assert client.ask(path).status_code == 404
    silent = client.ask("/v1/responses", {"input": "Hi", "store": False}).json()
    assert client.ask(f"/v1/responses/{silent['id']}").status_code == 404


def test_response_that_is_cut_is_incomplete(talk):
    client = talk(ScriptedModel())
    body = {"input": "Hi", "max_output_tokens": 1}
    whole = client.ask("/v1/responses", body).json()
    assert whole["status"] == "incomplete"
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
    events = events_of(client.ask("/v1/responses", {**body, "stream": True}).text)
    assert events[-1]["type"] == "response.incomplete"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].arguments"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.json_schema.schema"),
    ],
)
def test_responses_that_can_not_be_made_are_refused_by_name(talk, change, param):
    answer = talk(ScriptedModel()).ask("/v1/responses", {"input": "Hi", **change})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_lines_of_ollama_add_up_to_the_whole_answer(talk, path):
    client = talk(ScriptedModel(bits=BITS))
    body = {"model": "scripted:latest", "messages": MESSAGES, "prompt": "Hi", "logprobs": True}
    whole = client.ask(path, {**body, "stream": False}).json()
    answer = client.ask(path, body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    shown = [line["message"] if path == "/api/chat" else line for line in lines]
    name = "content" if path == "/api/chat" else "response"
    expected = whole["message"] if path == "/api/chat" else whole
    assert "".join(one[name] for one in shown) == expected[name]
    assert "".join(one.get("thinking", "") for one in shown) == expected["thinking"]
    calls = [call for one in shown for call in one.get("tool_calls", [])]
    assert calls == expected["tool_calls"]
    logprobs = [entry for line in lines for entry in line.get("logprobs", [])]
    assert logprobs == whole["logprobs"]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    for name in ("eval_count", "eval_duration", "prompt_eval_count", "prompt_eval_duration"):
        assert lines[-1][name] == whole[name]
    assert whole["eval_duration"] == 1_000_000_000


def test_options_of_ollama_reach_the_model(talk):
    model = ScriptedModel()
    options = {
        "temperature": 3, "top_k": -1, "repeat_penalty": 1.2, "num_predict": -1, "seed": 5,
        "stop": ["x"], "num_ctx": 99999, "num_gpu": 1, "mirostat": 0,
    }  # fmt: skip
    body = {"model": "scripted", "prompt": "Hi", "system": "be", "options": options, "think": True}
    assert talk(model).ask("/api/generate", body).status_code == 200
    request = model.requests[0]
    assert request.sampling == {
        "temperature": 3, "top_k": 0, "repetition_penalty": 1.2, "max_tokens": None, "seed": 5,
    }  # fmt: skip
    assert request.stop == ("x",) and request.template_options == {"enable_thinking": True}
    raw = {"model": "scripted", "prompt": "Hi", "raw": True}
    client = talk(model)
    client.ask("/api/generate", raw)
    assert model.requests[1].prompt == "Hi"


def test_ollama_lists_loads_and_unloads(talk):
    model = ScriptedModel()
    client = talk(model)
    assert client.ask("/").text == "Ollama is running"
    assert client.ask("/api/tags").json()["models"][0]["name"] == "scripted"
    assert client.ask("/api/ps").json() == {"models": []}
    assert client.ask("/api/generate", {"model": "scripted"}).json()["done_reason"] == "load"
    assert client.ask("/api/ps").json()["models"][0]["size"] == 100
    client.ask("/api/chat", {"model": "scripted", "messages": MESSAGES, "keep_alive": 0})
    assert client.ask("/api/ps").json() == {"models": []} and model.is_closed


@pytest.mark.parametrize("path", ["/api/create", "/api/copy", "/api/push"])
def test_what_bobot_has_no_use_for_is_refused_in_words(talk, path):
    answer = talk(ScriptedModel()).ask(path, {})
    assert answer.status_code == 501 and list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chat", {"model": "x", "messages": MESSAGES}, 404),
        ("/api/chat", {"messages": MESSAGES}, 400),
        ("/api/chat", {"model": "scripted", "messages": [{"role": "user", "images": ["x"]}]}, 400),
        ("/api/generate", {"model": "scripted", "prompt": "a", "format": "xml"}, 400),
        ("/api/generate", {"model": "scripted", "prompt": "a", "context": [1]}, 400),
        ("/api/generate", {"model": "scripted", "prompt": "a", "options": {"mirostat": 2}}, 400),
        ("/api/show", {"model": "x"}, 404),
        ("/api/embed", {"model": "scripted", "input": "a", "dimensions": 3}, 400),
    ],
)
def test_failures_have_the_form_of_ollama(talk, path, body, status):
    answer = talk(ScriptedModel()).ask(path, body)
    assert answer.status_code == status and list(answer.json()) == ["error"], answer.text


def test_vectors_of_ollama_are_those_of_openai(talk):
    client = talk(ScriptedModel())
    ollama = client.ask("/api/embed", {"model": "scripted", "input": ["a", "b"]}).json()
    openai = client.ask("/v1/embeddings", {"input": ["a", "b"]}).json()
    assert ollama["embeddings"] == [entry["embedding"] for entry in openai["data"]]
    older = client.ask("/api/embeddings", {"model": "scripted", "prompt": "a"}).json()
    assert older["embedding"] == ollama["embeddings"][0]
