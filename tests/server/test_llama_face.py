"""llama-server's own endpoints, over scripted models."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import ScriptedModel, events_of

from bobot.chat.protocol import ChatRequest, TextRequest
from bobot.hub import resolve
from bobot.server.llama_fields import CompletionBody, prompts_of
from bobot.server.llama_routes import Extra, InfillBody, _infill_ids
from bobot.text import load_tokenizer

PATH = "/completion"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve(None))


def asked(model: ScriptedModel) -> TextRequest:
    request = model.requests[-1]
    assert isinstance(request, TextRequest)
    return request


@pytest.mark.parametrize("num_probs", [0, 2])
@pytest.mark.parametrize("prompt", ["ab", ["ab", "c"], [[65], [66, 67]]])
def test_streamed_and_whole_answers_are_the_same(talk, tokenizer, prompt, num_probs):
    client = talk(ScriptedModel(), tokenizer=tokenizer)
    body = {"prompt": prompt, "n_probs": num_probs, "return_tokens": True, "n": 2}
    whole = client.ask(PATH, body).json()
    chunks = events_of(client.ask(PATH, {**body, "stream": True}).text)
    assert [one["index"] for one in whole] == list(range(len(whole)))
    for one in whole:
        mine = [chunk for chunk in chunks if chunk["index"] == one["index"]]
        assert [chunk["stop"] for chunk in mine] == [False] * (len(mine) - 1) + [True]
        assert "".join(chunk["content"] for chunk in mine) == one["content"] == "Hello there"
        tokens = [token_id for chunk in mine for token_id in chunk["tokens"]]
        assert tokens == one["tokens"] == [0, 1]
        entries = [e for chunk in mine for e in chunk.get("completion_probabilities", ())]
        assert entries == one.get("completion_probabilities", [])
        assert len(entries) == 2 * bool(num_probs)
        last = mine[-1]
        for name in ("stop_type", "prompt", "tokens_predicted", "tokens_evaluated", "truncated"):
            assert last[name] == one[name], name
        assert one["stop_type"] == "eos" and one["tokens_predicted"] == 2


def test_prompts_in_every_form_are_the_same_ids(tokenizer):
    ids = tokenizer.encode("ab cd")
    first, second = tokenizer.encode("ab"), tokenizer.encode(" cd")
    bos = [tokenizer.bos_id] if tokenizer.adds_bos else []
    text = [tuple(bos + ids)]
    assert prompts_of("ab cd", tokenizer) == (text, False)
    assert prompts_of({"prompt_string": "ab cd"}, tokenizer) == (text, False)
    assert prompts_of(["ab cd", {"prompt_string": "ab cd"}], tokenizer) == (text * 2, True)
    assert prompts_of(bos + ids, tokenizer) == (text, False)
    assert prompts_of([bos + ids], tokenizer) == (text, True)
    mixed = [*bos, *first, *second, 1]
    assert prompts_of([*bos, *first, " cd", 1], tokenizer) == ([tuple(mixed)], False)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        ([], "prompt"),
        (7.5, "prompt"),
        ([1, 2, -1], "prompt"),
        ([1 << 40], "prompt"),
        (["a", [1, None]], "prompt[1]"),
        ({"prompt_string": "a", "multimodal_data": ["AA"]}, "prompt.multimodal_data"),
    ],
)
def test_what_is_no_prompt_is_refused_by_name(talk, tokenizer, prompt, param):
    answer = talk(ScriptedModel(), tokenizer=tokenizer).ask(PATH, {"prompt": prompt})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and error["code"] == 400


UNSUPPORTED: list[tuple[str, Any, Any]] = [
    ("typical_p", 0.5, 1.0),
    ("dynatemp_range", 0.5, 0),
    ("dry_multiplier", 0.8, 0),
    ("xtc_probability", 0.5, 0),
    ("mirostat", 2, 0),
    ("top_n_sigma", 1.0, -1),
    ("adaptive_target", 0.5, -1),
    ("min_keep", 3, 0),
    ("n_indent", 4, 0),
    ("t_max_predict_ms", 100, 0),
    ("samplers", ["top_k", "temperature"], None),
    ("lora", [{"id": 0, "scale": 1.0}], []),
    ("repeat_last_n", 64, -1),
]


@pytest.mark.parametrize(("name", "value", "harmless"), UNSUPPORTED)
@pytest.mark.parametrize("path", [PATH, CHAT, "/v1/completions"])
def test_samplers_that_are_not_here_are_refused_and_never_ignored(
    talk, tokenizer, path, name, value, harmless
):
    base = {"prompt": "a", "messages": HELLO, "repeat_penalty": 1.1}
    client = talk(ScriptedModel(), tokenizer=tokenizer)
    refused = client.ask(path, {**base, name: value})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == name
    assert client.ask(path, {**base, name: harmless}).status_code == 200
    lenient = talk(ScriptedModel(), tokenizer=tokenizer, is_lenient=True)
    assert lenient.ask(path, {**base, name: value}).status_code == 200


def test_sampling_is_the_request_s_then_the_server_s_then_llama_cpp_s(talk, tokenizer):
    model = ScriptedModel()
    defaults = {"temperature": 0.3, "seed": 7, "max_tokens": 5}
    client = talk(model, tokenizer=tokenizer, defaults=defaults)
    body = {"prompt": "a", "top_k": 3, "seed": -1}
    answer = client.ask(PATH, body).json()
    expected = {"temperature": 0.3, "top_k": 3, "top_p": 0.95, "min_p": 0.05, "max_tokens": 5}
    assert {name: asked(model).sampling[name] for name in expected} == expected
    assert answer["generation_settings"]["n_predict"] == 5
    client.ask(PATH, {"prompt": "a", "n_predict": -1})
    assert asked(model).sampling["max_tokens"] is None
    client.ask(CHAT, {"messages": HELLO, "temperature": 0.9})
    chat = model.requests[-1]
    assert isinstance(chat, ChatRequest)
    assert chat.sampling == {"temperature": 0.9, "seed": 7, "max_tokens": 5}


def test_every_form_of_logit_bias_is_the_same(talk, tokenizer):
    model = ScriptedModel()
    client = talk(model, tokenizer=tokenizer)
    (token_id,) = tokenizer.encode("a")
    found = []
    for bias in ([[token_id, -100]], [["a", False]], {"a": -100}, {str(token_id): -100}):
        assert client.ask(PATH, {"prompt": "b", "logit_bias": bias}).status_code == 200
        found.append(asked(model).sampling["logit_bias"])
    assert found == [{token_id: -100}] * 4
    for bias in ([[token_id]], [[None, 1]], "a", [[token_id, True]]):
        assert client.ask(PATH, {"prompt": "b", "logit_bias": bias}).status_code == 400


def test_fields_of_an_answer_can_be_picked(talk, tokenizer):
    client = talk(ScriptedModel(), tokenizer=tokenizer)
    fields = ["content", "generation_settings/n_predict", "nothing"]
    body = {"prompt": "a", "n_predict": 9, "response_fields": fields}
    found = client.ask(PATH, body).json()
    assert found == {"content": "Hello there", "generation_settings/n_predict": 9}


def test_shared_paths_are_openai_s_unless_told_otherwise(talk, tokenizer):
    body = {"prompt": "a", "input": "a"}
    ours = talk(ScriptedModel(), tokenizer=tokenizer)
    theirs = talk(ScriptedModel(), tokenizer=tokenizer, is_llama=True)
    assert "choices" in ours.ask("/completions", body).json()
    assert "content" in theirs.ask("/completions", body).json()
    for client in (ours, theirs):
        assert "choices" in client.ask("/v1/completions", body).json()
        assert "content" in client.ask("/completion", body).json()
        assert client.ask("/embedding", body).json()[0]["embedding"] == [[1.0, 0.0, 0.5]]
        assert "data" in client.ask("/v1/embeddings", body).json()
    assert "data" in ours.ask("/embeddings", body).json()
    assert isinstance(theirs.ask("/embeddings", body).json(), list)


def test_errors_are_in_the_words_of_the_path_s_api(talk, tokenizer):
    for is_llama in (False, True):
        client = talk(ScriptedModel(), tokenizer=tokenizer, is_llama=is_llama, api_keys=["k"])
        answer = client.ask(CHAT, {"messages": []}, headers={"x-api-key": "k"})
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["type"] == "invalid_request_error"
        assert error["code"] == (400 if is_llama else "invalid_value")
    client = talk(ScriptedModel(), tokenizer=tokenizer, needs_key=True, api_keys=["k"])
    refused = client.ask(PATH, {"prompt": "a"})
    assert refused.status_code == 401
    assert refused.json()["error"]["type"] == "authentication_error"
    assert client.ask(CHAT, {}).json()["error"]["type"] == "invalid_request_error"


def test_chats_as_llama_server_answers_them(talk, tokenizer):
    """A stream begins with null; a last message of the assistant is continued, two are refused."""
    model = ScriptedModel()
    client = talk(model, tokenizer=tokenizer, is_llama=True)
    body = {"messages": HELLO, "stream": True, "timings_per_token": True}
    first, *others = events_of(client.ask(CHAT, body).text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    counts = [chunk["timings"]["predicted_n"] for chunk in others]
    assert counts == [1, 2, 2]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    for server, text in ((client, "a\n\nb"), (talk(model, tokenizer=tokenizer), "a\nb")):
        said = [{"role": role, "content": parts} for role in ("user", "assistant")]
        server.ask(CHAT, {"messages": said})
        found = [message["content"] for message in model.requests[-1].messages]  # type: ignore[union-attr]
        assert found == ["a\nb", text]
    mine = {"role": "assistant", "content": "Hel"}
    for messages, continues in ((HELLO, False), ([*HELLO, mine], True)):
        client.ask(CHAT, {"messages": messages})
        request = model.requests[-1]
        assert isinstance(request, ChatRequest)
        assert request.continues_last is continues and request.begins_with_bos
    refused = client.ask(CHAT, {"messages": [*HELLO, mine, mine]})
    assert refused.json()["error"]["param"] == "messages[2]"
    plain = talk(model, tokenizer=tokenizer)
    assert plain.ask(CHAT, {"messages": [*HELLO, mine, mine]}).status_code == 200


def test_preflight_tells_nothing_to_a_page_that_may_not_call(talk):
    client = talk(ScriptedModel(), is_llama=True)
    for origin, is_allowed in (("http://localhost:3000", True), ("http://evil.com", False)):
        headers = {"origin": origin, "access-control-request-method": "POST"}
        answer = client.ask(PATH, method="OPTIONS", headers=headers)
        assert answer.status_code == 200
        assert ("access-control-allow-origin" in answer.headers) is is_allowed
    refused = client.ask("/v1/models", headers={"origin": "http://evil.com"})
    assert refused.status_code == 403


def test_metrics_under_llama_cpp_s_names_add_up(talk, tokenizer):
    client = talk(ScriptedModel(), tokenizer=tokenizer, is_llama=True)
    prompt_n = cached_n = predicted_n = 0
    for length in (3, 5):
        timings = client.ask(PATH, {"prompt": "a" * length}).json()["timings"]
        prompt_n += timings["prompt_n"]
        cached_n += timings["cache_n"]
        predicted_n += timings["predicted_n"]
    lines = client.ask("/metrics").text.splitlines()
    found = dict(line.split(" ") for line in lines if line.startswith("llamacpp:"))
    assert float(found["llamacpp:prompt_tokens_total"]) == prompt_n
    assert float(found["llamacpp:prompt_tokens_cached_total"]) == cached_n == 2
    assert float(found["llamacpp:tokens_predicted_total"]) == predicted_n == 4
    assert float(found["llamacpp:predicted_tokens_seconds"]) > 0
    again = client.ask("/metrics").text
    assert "llamacpp:predicted_tokens_seconds 0\n" in again
    assert "llamacpp:" not in talk(ScriptedModel()).ask("/metrics").text


class _FimTokenizer:
    """Letters are their codes."""

    vocab_size, adds_bos, bos_id = 200, True, 150

    def __init__(self, *names: str) -> None:
        self.special_tokens = {name: 151 + place for place, name in enumerate(names)}

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        return list(text.encode())


def test_infill_puts_the_parts_between_the_model_s_own_tokens():
    body = InfillBody(input_prefix="ab", input_suffix="c", prompt="d")
    plain: Any = _FimTokenizer("<PRE>", "<SUF>", "<MID>")
    a, b, c, d = b"abcd"
    assert _infill_ids(plain, body, "m") == (150, 151, a, b, 152, c, 153, d)
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")
    body = InfillBody(input_prefix="ab", input_extra=[Extra(text="x", filename="f")])
    whole: Any = _FimTokenizer(*names)
    ids = _infill_ids(whole, body, "m")
    repo, files = 154, 155
    expected = (150, repo, *b"myproject\n", files, *b"f\n", *b"x", files, *b"filename\n", 151)
    assert ids == (*expected, a, b, 152, 153)


def test_what_no_model_here_can_do_says_so(talk, tokenizer):
    client = talk(ScriptedModel(), tokenizer=tokenizer)
    for path, body in (
        ("/infill", {"input_prefix": "a"}),
        ("/rerank", {"query": "a", "documents": ["b"]}),
        ("/v1/reranking", {"query": "a", "documents": ["b"]}),
    ):
        answer = client.ask(path, body)
        assert answer.status_code == 501, path
        assert answer.json()["error"]["type"] == "not_supported_error"
        assert "does not support" in answer.json()["error"]["message"]
    assert client.ask("/lora-adapters").json() == []


def test_bodies_have_llama_cpp_s_limits():
    assert CompletionBody().limit is None and CompletionBody(n_predict=-1).limit is None
    assert CompletionBody(max_tokens=3).limit == 3
    assert CompletionBody(n_predict=0, max_tokens=3).limit == 0
    assert CompletionBody(logprobs=4).num_probs == 4


def test_predictions_are_what_each_route_answers_alone(talk, tokenizer):
    client = talk(ScriptedModel(), tokenizer=tokenizer, is_llama=True)
    chat, text = {"messages": HELLO}, {"prompt": "ab", "n_predict": 2}
    instances = [
        {"@requestFormat": "chatCompletions", **chat},
        {"@requestFormat": "/completion", **text},
        {"@requestFormat": "completion", "prompt": 7.5},
        {"@requestFormat": "chatCompletions", "stream": True, **chat},
        {"@requestFormat": "metrics"},
        {"messages": HELLO},
    ]
    answer = client.ask("/predict", {"instances": instances})
    assert answer.status_code == 200, answer.text
    first, second, *failed = answer.json()["predictions"]
    alone = client.ask(CHAT, chat).json()
    assert first["choices"] == alone["choices"] and first["usage"] == alone["usage"]
    assert second["content"] == client.ask(PATH, text).json()["content"] == "Hello there"
    params = ["prompt", "stream", "@requestFormat", "@requestFormat"]
    assert [one["error"]["param"] for one in failed] == params
    assert all(one["error"]["code"] == 400 for one in failed)


@pytest.mark.parametrize("instances", [None, {}, [7], [{}] * 129])
def test_predictions_need_a_list_of_objects(talk, instances):
    answer = talk(ScriptedModel(), is_llama=True).ask("/predict", {"instances": instances})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("instances")


def test_only_llama_server_predicts(talk):
    assert talk(ScriptedModel()).ask("/predict", {"instances": []}).status_code == 404


def test_a_glance_at_a_sleeping_model_does_not_wake_it(talk, tokenizer):
    client = talk(ScriptedModel(), tokenizer=tokenizer, is_llama=True)
    awake = client.ask("/props").json()
    assert awake["is_sleeping"] is False
    client.ask("/api/generate", {"model": "scripted", "keep_alive": 0})
    for _ in range(2):
        assert client.ask("/props").json() == {**awake, "is_sleeping": True}
    assert client.ask(PATH, {"prompt": "a"}).status_code == 200
    assert client.ask("/props").json() == awake
