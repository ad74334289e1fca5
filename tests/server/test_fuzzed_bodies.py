"""Bodies of the wrong shape: every route answers with a mistake of the client, never with 5xx."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

import pytest
from scripted import ScriptedModel

from bobot.hub import resolve
from bobot.server.library import Library
from bobot.text import load_tokenizer

MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    {"role": "user", "content": "b"},
]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": MESSAGES, "temperature": 1, "n": 1, "stop": ["x"], "logprobs": True,
        "top_logprobs": 1, "logit_bias": {"1": 1}, "seed": 1, "stream": False, "max_tokens": 3,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto", "response_format": {"type": "json_object"}, "store": False,
        "chat_template_kwargs": {}, "functions": [], "structured_outputs": None,
    },
    "/v1/completions": {
        "prompt": "a", "logprobs": 1, "echo": True, "suffix": None, "best_of": 1, "n": 1,
        "prompt_logprobs": 1, "max_tokens": 2, "guided_choice": ["a"], "stream_options": None,
    },
    "/v1/embeddings": {"input": ["a"], "encoding_format": "float", "dimensions": None},
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "tools": [{"type": "function", "name": "f", "parameters": {}}], "tool_choice": "auto",
        "include": [], "reasoning": {"effort": None}, "text": {"format": {"type": "text"}},
        "metadata": {}, "previous_response_id": None, "max_output_tokens": 3,
    },
    "/v1/messages": {
        "messages": MESSAGES, "max_tokens": 3, "system": [{"type": "text", "text": "a"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "stop_sequences": ["x"],
        "tool_choice": {"type": "auto"}, "thinking": {"type": "enabled", "budget_tokens": 2000},
    },
    "/v1/messages/count_tokens": {"messages": MESSAGES, "system": "a"},
    "/api/chat": {
        "model": "scripted", "messages": [{"role": "user", "content": "a", "images": []}],
        "tools": [{"function": {"name": "f"}}], "options": {"temperature": 1, "stop": "x"},
        "format": {"type": "object"}, "think": True, "keep_alive": "5m", "stream": False,
    },
    "/api/generate": {"model": "scripted", "prompt": "a", "raw": True, "options": {"seed": 1}},
    "/api/embed": {"model": "scripted", "input": ["a"]},
    "/api/show": {"model": "scripted"},
    "/tokenize": {"prompt": "a", "messages": None, "with_pieces": True},
    "/detokenize": {"tokens": [1, 2]},
}  # fmt: skip
ODD = [
    None, True, False, 0, -1, 7, 1 << 31, 1 << 63, 1 << 70, -(1 << 70), 0.5, -1e308, 1e308, "", "a",
    "\x00", "\ud83d\ude00", "[", "x" * 300, [], [[]], [None], ["a", 1], [1.5], [{}], {}, {"a": 1},
    {"type": "x"}, {"type": "function"}, {"type": "text", "text": None}, [[1], ["a"]], {"": []},
]  # fmt: skip
RAW = [
    b'{"messages": [{"role": "user", "content": "\\ud800"}], "prompt": "\\ud800", "input": "\\u"}',
    b'{"prompt": NaN}', b'{"temperature": 1e999}', b'{"n": 1' + b"0" * 5000 + b"}",
    b"[" * 20000, b'{"a":' * 20000, b'{"messages": "\xff"}', b"\x00", b"\xef\xbb\xbf{}", b'"a"',
    b'{"model": "\\u0000"}', b"{}{}", b"{'a': 1}", b'{"tools": [{"function": {"parameters": '
    + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}}]}",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += places(value[key], (*path, key))
    return found


def changed(body: Any, rng: random.Random) -> Any:
    """A copy with up to three values replaced, removed or doubled."""
    body = json.loads(json.dumps(body))
    for _ in range(rng.randint(1, 3)):
        options = places(body)
        if not options:
            break
        *way, last = rng.choice(options)
        inner = body
        for key in way:
            inner = inner[key]
        action = rng.random()
        if action < 0.8:
            inner[last] = deepcopy(rng.choice(ODD))
        elif isinstance(inner, list):
            inner.append(deepcopy(inner[last]))
        else:
            del inner[last]
    return body


@pytest.fixture
def client(talk):
    return talk(ScriptedModel(), tokenizer=load_tokenizer(resolve(None)), library=Library())


@pytest.mark.parametrize("path", GOOD)
def test_good_body_is_answered(client, path):
    answer = client.ask(path, GOOD[path])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", GOOD)
def test_odd_values_never_break_the_server(client, path):
    rng = random.Random(path)
    broken, num_refused = [], 0
    for _ in range(150):
        body = changed(GOOD[path], rng)
        answer = client.ask(path, json.dumps(body).encode())
        num_refused += answer.status_code >= 400
        if answer.status_code >= 500 and answer.status_code != 501:
            broken.append((answer.status_code, json.dumps(body)[:300], answer.text[:200]))
        elif answer.status_code >= 400:
            assert "error" in answer.json()
    assert not broken, f"{len(broken)} of 150: {broken[:3]}"
    assert num_refused > 20


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("number", range(len(RAW)))
def test_bytes_that_are_no_request_never_break_the_server(client, path, number):
    answer = client.ask(path, RAW[number])
    assert 400 <= answer.status_code < 500, answer.text


def test_every_field_refuses_every_odd_type_or_takes_it(client):
    """Each field alone with each odd value, for the route with the most fields."""
    path = "/v1/chat/completions"
    broken = []
    for name in GOOD[path]:
        for value in ODD:
            answer = client.ask(path, json.dumps({**GOOD[path], name: value}).encode())
            if answer.status_code not in (200, 400, 404):
                broken.append((name, value, answer.status_code))
    assert not broken, broken[:5]
