"""llama-server's endpoints in front of the embedded model: their numbers are the model's own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scripted import Talk, events_of, talk_to

import bobot
from bobot.chat.local import LocalModel
from bobot.chat.service import LocalService
from bobot.engine import EngineConfig
from bobot.server.models import Facts, Opened, Source
from bobot.text import with_template

STEP = 16
"""Tokens of a step."""
PROMPT = "Once upon a time"
ASK = {"prompt": PROMPT, "n_predict": 6, "temperature": 0, "n_probs": 5, "return_tokens": True}
MESSAGES = [{"role": "user", "content": "Tell me of a river."}]


@pytest.fixture(scope="module")
def model() -> LocalModel:
    config = EngineConfig(max_model_len=128, max_num_seqs=3, max_num_batched_tokens=STEP)
    return bobot.load(dtype="float32", engine_config=config)


@pytest.fixture(scope="module")
def client(model, tmp_path_factory) -> Iterator[Talk]:
    service = LocalService(model)

    async def open_it() -> Opened:
        return Opened(
            service, model.tokenizer, service.prompt_ids, lambda: vars(service.stats()), 3
        )

    facts = Facts(created_s=1, context=128, path="/home/me/model.gguf")
    source = Source("real", facts, lambda: 1, open_it)
    talk = talk_to(
        Path(tmp_path_factory.mktemp("real")), sources=[source], is_llama=True, defaults={"seed": 9}
    )
    yield talk
    talk.close()


def test_probabilities_are_the_model_s_own(client, model):
    """Two ways: through server, engine and cache; and one plain pass without a cache."""
    found = client.ask("/completion", ASK).json()
    ids = model.encode(PROMPT)
    logprobs_TV = model.logits([*ids, *found["tokens"]]).log_softmax(-1)[len(ids) - 1 :]
    assert len(found["completion_probabilities"]) == len(found["tokens"]) == 6
    for entry, expected_V in zip(found["completion_probabilities"], logprobs_TV, strict=False):
        values, best = expected_V.topk(5)
        assert entry["id"] == best[0]
        assert [other["id"] for other in entry["top_logprobs"]] == best.tolist()
        shown = [other["logprob"] for other in entry["top_logprobs"]]
        assert shown == pytest.approx(values.tolist(), abs=1e-3)


def test_post_sampling_probabilities_are_those_the_token_was_drawn_from(client, model):
    sampling = {"temperature": 0.7, "top_k": 4, "top_p": 1.0, "min_p": 0.0, "seed": 3}
    body = {**ASK, **sampling, "n_predict": 1, "post_sampling_probs": True, "n_probs": 10}
    (entry,) = client.ask("/completion", body).json()["completion_probabilities"]
    logits_V = model.logits(model.encode(PROMPT))[-1]
    values, best = logits_V.topk(4)
    expected = dict(zip(best.tolist(), (values / 0.7).softmax(-1).tolist(), strict=True))
    found = {other["id"]: other["prob"] for other in entry["top_probs"]}
    assert found == pytest.approx(expected, abs=1e-4)
    assert math.isclose(sum(found.values()), 1, abs_tol=1e-5)
    assert entry["prob"] == found[entry["id"]]


def test_native_and_openai_s_completions_write_the_same(client):
    native = client.ask("/completion", ASK).json()
    body = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "logprobs": 5}
    choice = client.ask("/v1/completions", body).json()["choices"][0]
    assert native["content"] == choice["text"] and native["stop_type"] == "limit"
    values = [entry["logprob"] for entry in native["completion_probabilities"]]
    assert values == pytest.approx(choice["logprobs"]["token_logprobs"], abs=1e-5)


def test_a_template_applied_by_hand_gives_the_prompt_of_the_chat(client, model):
    """/apply-template, then /completion; and chat/completions itself."""
    body = {"messages": MESSAGES, "max_tokens": 4, "temperature": 0, "verbose": True}
    text = client.ask("/apply-template", body).json()["prompt"]
    chat = client.ask("/v1/chat/completions", body).json()
    native = client.ask("/completion", {**ASK, "prompt": text, "n_predict": 4}).json()
    assert native["tokens_evaluated"] == chat["usage"]["prompt_tokens"]
    assert native["prompt"] == chat["__verbose"]["prompt"]
    without = client.ask("/apply-template", {**body, "add_generation_prompt": False}).json()
    assert text.startswith(without["prompt"]) and text != without["prompt"]


def test_a_prompt_that_is_too_long_says_by_how_much(client, model):
    long = "river " * 200
    for path, body in (
        ("/completion", {"prompt": long}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}),
    ):
        answer = client.ask(path, body)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["type"] == "exceed_context_size_error"
        assert error["n_ctx"] == 128 < error["n_prompt_tokens"]
    assert error["n_prompt_tokens"] > len(model.encode(long))


def test_an_answer_that_fills_the_context_is_called_truncated(client, model):
    body = {"prompt": PROMPT, "ignore_eos": True, "n_predict": -1}
    found = client.ask("/completion", body).json()
    assert found["truncated"] and found["stop_type"] == "limit"
    assert found["tokens_evaluated"] + found["tokens_predicted"] == 128
    banned = {entry["token"] for entry in found["generation_settings"]["logit_bias"]}
    assert banned == set(model.tokenizer.eos_ids)
    assert not client.ask("/completion", {**body, "n_predict": 5}).json()["truncated"]


def test_props_and_slots_tell_what_the_engine_was_given(client):
    props = client.ask("/props").json()
    assert props["total_slots"] == 3 and props["model_path"] == "model.gguf"
    assert props["default_generation_settings"]["n_ctx"] == 128
    assert props["default_generation_settings"]["params"]["seed"] == 9
    slots = client.ask("/slots").json()
    assert [slot["is_processing"] for slot in slots] == [False] * 3

    async def while_it_answers() -> int:
        body = {"prompt": PROMPT, "ignore_eos": True, "n_predict": 100}
        answers = [asyncio.ensure_future(client.client.post("/completion", json=body))]
        busy = 0
        while not answers[0].done():
            busy = max(busy, sum(s["is_processing"] for s in (await _slots(client)).json()))
            await asyncio.sleep(0)
        assert answers[0].result().status_code == 200
        return busy

    assert client.loop.run_until_complete(while_it_answers()) == 1


async def _slots(client: Talk):
    return await client.client.get("/slots")


def test_an_empty_answer_reads_the_prompt_only(client, model):
    found = client.ask("/completion", {"prompt": PROMPT, "n_predict": 0}).json()
    assert found["content"] == "" and found["tokens_predicted"] == 0
    assert found["tokens_evaluated"] == len(model.encode(PROMPT))


def test_embeddings_are_vectors_of_length_one(client):
    (one,) = client.ask("/embedding", {"content": PROMPT}).json()
    (vector,) = one["embedding"]
    same = client.ask("/v1/embeddings", {"input": PROMPT}).json()["data"][0]["embedding"]
    assert torch.tensor(vector).norm() == pytest.approx(1, abs=1e-4)
    assert vector == pytest.approx(same, abs=1e-6)


def test_a_template_can_take_the_place_of_the_model_s_own(model):
    source = "{{ bos_token }}[{{ messages[0].content }}]{{ eos_token }}"
    changed = with_template(model.tokenizer, source)
    names: dict[int | None, str] = {i: name for name, i in changed.special_tokens.items()}
    bos, eos = names.get(changed.bos_id, ""), names[changed.vocabulary.eos_id]
    assert changed.render(MESSAGES) == f"{bos}[Tell me of a river.]{eos}"
    assert changed.chat_template == source != model.tokenizer.chat_template
    assert changed.encode("river") == model.tokenizer.encode("river")


@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions"])
def test_the_reading_of_a_prompt_is_told_step_by_step(client, path):
    text = f"The {path} of a long river through many small and quiet towns by the sea. " * 3
    plain = {"prompt": text, "messages": [{"role": "user", "content": text}], "max_tokens": 3}
    plain |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    asked = {**plain, "return_progress": True, "timings_per_token": True}
    for is_again in (False, True):
        chunks = events_of(client.ask(path, asked).text)
        reads = [chunk for chunk in chunks if "prompt_progress" in chunk]
        told = [chunk["prompt_progress"] for chunk in reads]
        total, cached = told[0]["total"], told[0]["cache"]
        assert total > 2 * STEP and bool(cached) is is_again
        assert [one["processed"] for one in told] == [*range(cached, total, STEP), total]
        assert reads[0]["timings"]["prompt_n"] == reads[0]["timings"]["prompt_ms"] == 0
        assert [r["timings"]["prompt_n"] for r in reads] == [t["processed"] - cached for t in told]
        timings = chunks[-1]["timings"]
        assert (timings["cache_n"], timings["prompt_n"]) == (cached, total - cached)
    others = [chunk for chunk in chunks if "prompt_progress" not in chunk]
    silent = events_of(client.ask(path, plain).text)
    assert _said(others) == _said(silent) and len(_said(silent)) > 0


def _said(chunks: list[dict]) -> str:
    deltas = (choice["delta"] for chunk in chunks for choice in chunk.get("choices", ()))
    return "".join(chunk.get("content") or "" for chunk in [*chunks, *deltas])


def test_what_tells_no_progress_refuses_to(client):
    answer = client.ask("/v1/completions", {"prompt": PROMPT, "return_progress": True})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "return_progress"
