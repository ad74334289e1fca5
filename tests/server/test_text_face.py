"""OpenAI's completions, embeddings and token routes."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from scripted import ScriptedModel, events_of

from bobot.hub import resolve
from bobot.text import load_tokenizer

PATH = "/v1/completions"


def assembled(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Index -> text, log-probabilities and reason that a stream adds up to."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            one = found.setdefault(choice["index"], {"text": "", "logprobs": {}})
            one["text"] += choice["text"]
            for name, values in (choice["logprobs"] or {}).items():
                one["logprobs"].setdefault(name, []).extend(values or [])
            one["finish_reason"] = choice["finish_reason"]
    return found


PROMPTS = ["ab", ["ab", "c", "def"], [1, 2, 3], [[1], [2, 3]]]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("echo", [False, True])
def test_streamed_and_whole_texts_are_the_same(talk, prompt, echo):
    client = talk(ScriptedModel())
    body = {"prompt": prompt, "n": 2, "logprobs": 2, "echo": echo}
    whole = client.ask(PATH, body).json()["choices"]
    streamed = assembled(events_of(client.ask(PATH, {**body, "stream": True}).text))
    num_prompts = len(prompt) if isinstance(prompt, list) and type(prompt[0]) is not int else 1
    assert [choice["index"] for choice in whole] == list(range(2 * num_prompts))
    for choice in whole:
        one = streamed[choice["index"]]
        assert one["text"] == choice["text"]
        assert one["finish_reason"] == choice["finish_reason"]
        assert one["logprobs"] == choice["logprobs"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve(None))


def test_prompt_is_scored_as_evaluation_harnesses_read_it(talk, tokenizer):
    """lm-eval: echo, logprobs and max_tokens 1 give one entry per token of the prompt and one
    more, the first null, each dict with the most likely value in it."""
    ids = tokenizer.encode("Hello world again")
    client = talk(ScriptedModel(), tokenizer=tokenizer)
    body = {"prompt": [ids, ids[:2]], "echo": True, "logprobs": 1, "max_tokens": 1}
    first, second = client.ask(PATH, body).json()["choices"]
    for choice, num_ids in ((first, len(ids)), (second, 2)):
        found = choice["logprobs"]
        assert len(found["token_logprobs"]) == num_ids + 1
        assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
        assert found["token_logprobs"][1:num_ids] == [-float(i) for i in range(1, num_ids)]
        pairs = zip(found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True)
        assert all(max(top.values()) >= value for value, top in pairs)
    assert first["text"] == "Hello world again" + "Hello"
    assert first["logprobs"]["tokens"][0] == "Hello"


def test_offsets_count_in_the_text_also_inside_a_character(talk, tokenizer):
    """Token i begins where the text of the tokens before it ends."""
    text = "caf\u00e9 \U0001f600 ok"
    client = talk(ScriptedModel(), tokenizer=tokenizer)
    body = {"prompt": text, "echo": True, "logprobs": 0, "max_tokens": 0}
    choice = client.ask(PATH, body).json()["choices"][0]
    data = text.encode()
    expected = [len(data[:place].decode("utf-8", "ignore")) for place in range(1, len(data))]
    # The scripted model reads one byte per token; the first has the text of the tokenizer's first.
    begin = len(tokenizer.decode(tokenizer.encode(text)[:1])) - 1
    assert choice["logprobs"]["text_offset"] == [0, *(begin + place for place in expected)]


def test_prompt_is_scored_without_writing_anything(talk):
    model = ScriptedModel()
    body = {"prompt": "abc", "echo": True, "logprobs": 1, "max_tokens": 0}
    choice = talk(model).ask(PATH, body).json()["choices"][0]
    assert choice["text"] == "abc" and choice["finish_reason"] == "length"
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -2.0]
    assert model.requests[0].prompt_logprobs == 1 and model.requests[0].sampling["max_tokens"] == 0


def test_prompt_logprobs_have_the_form_of_vllm(talk):
    choice = talk(ScriptedModel()).ask(PATH, {"prompt": [65, 66], "prompt_logprobs": 2}).json()
    first, second = choice["choices"][0]["prompt_logprobs"]
    assert first is None
    assert second["66"] == {"logprob": -1.0, "rank": 1, "decoded_token": "B"}
    assert second["7"]["rank"] == 2


def test_sixteen_tokens_are_the_default_as_at_openai(talk):
    model = ScriptedModel()
    talk(model).ask(PATH, {"prompt": "x"})
    assert model.requests[0].sampling == {"max_tokens": 16}


def test_one_bad_prompt_among_many_ends_all_with_its_error(talk):
    model = ScriptedModel(error=ValueError("x"), error_after=1)
    client = talk(model)
    assert client.ask(PATH, {"prompt": ["a"] * 40}).status_code == 500
    assert model.num_open == 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, [2]]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"suffix": "b"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_texts_that_can_not_be_continued_are_refused_by_name(talk, change, param):
    answer = talk(ScriptedModel()).ask(PATH, {"prompt": "a", **change})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize("given", ["a", ["a"], [1, 2], [[1, 2]]])
def test_vectors_as_numbers_and_as_base64_are_the_same(talk, given):
    client = talk(ScriptedModel())
    numbers = client.ask("/v1/embeddings", {"input": given}).json()
    text = client.ask("/v1/embeddings", {"input": given, "encoding_format": "base64"}).json()
    for one, other in zip(numbers["data"], text["data"], strict=True):
        data = base64.b64decode(other["embedding"])
        assert list(struct.unpack(f"<{len(data) // 4}f", data)) == one["embedding"]
    assert numbers["usage"]["total_tokens"] == (
        1 if isinstance(given, str) or given == ["a"] else 2
    )


def test_dimensions_are_refused(talk):
    answer = talk(ScriptedModel()).ask("/v1/embeddings", {"input": "a", "dimensions": 2})
    assert answer.json()["error"]["param"] == "dimensions"


def test_tokens_go_there_and_back_in_the_words_of_vllm_and_llama_cpp(talk, tokenizer):
    client = talk(ScriptedModel(), tokenizer=tokenizer)
    text = "Halo dunia \U0001f600<|im_end|>"
    vllm = client.ask("/tokenize", {"prompt": text, "return_token_strs": True}).json()
    llama = client.ask("/tokenize", {"content": text, "with_pieces": True}).json()
    assert vllm["tokens"] == tokenizer.encode(text, allow_special=True)
    assert [entry["id"] for entry in llama["tokens"]] == vllm["tokens"]
    assert vllm["count"] == len(vllm["tokens"]) and vllm["max_model_len"] == 64
    back = client.ask("/detokenize", {"tokens": vllm["tokens"][:-1]}).json()
    assert back == {"prompt": "Halo dunia \U0001f600", "content": "Halo dunia \U0001f600"}
    plain = client.ask("/tokenize", {"prompt": text, "parse_special": False}).json()
    assert plain["tokens"] == tokenizer.encode(text)
    bad = client.ask("/detokenize", {"tokens": [0, 1 << 20]})
    assert bad.json()["error"]["param"] == "tokens[1]"


def test_tokenizer_info_names_the_special_tokens(talk, tokenizer):
    info = talk(ScriptedModel(), tokenizer=tokenizer).ask("/tokenizer_info").json()
    eos = tokenizer.encode(info["eos_token"], allow_special=True)
    assert eos == [info["eos_token_id"]] and info["chat_template"] == tokenizer.chat_template


def test_model_without_a_tokenizer_here_says_so(talk):
    answer = talk(ScriptedModel()).ask("/tokenize", {"prompt": "a"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "model"


def test_prompts_are_counted_alike_by_every_api(talk):
    client = talk(ScriptedModel())
    messages = [{"role": "user", "content": "Hello"}]
    chat = client.ask("/v1/chat/completions/input_tokens", {"messages": messages}).json()
    anthropic = client.ask("/v1/messages/count_tokens", {"messages": messages}).json()
    responses = client.ask("/v1/responses/input_tokens", {"input": "Hello"}).json()
    assert chat["input_tokens"] == anthropic["input_tokens"] == responses["input_tokens"] == 5
