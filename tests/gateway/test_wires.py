"""Each wire format against a host that speaks it: the same answer comes out of all four."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from fake_hosts import KEY, WIRES, Hold, Part, running_host
from talking import ENVIRON, QUESTION, Told, ask, host_of

from bobot.chat.protocol import (
    ChatRequest,
    Delta,
    Finished,
    Format,
    ParameterError,
    Started,
    TextRequest,
    Usage,
)
from bobot.errors import GatewayError
from bobot.gateway.failures import refusal_in
from bobot.gateway.hosted import HostedModel
from bobot.gateway.hosts import LongPrices, ModelFacts
from bobot.gateway.openai_chat import Reader

ALL = tuple(WIRES)
ANSWER: list[Part] = [
    ("reasoning", "The user greets me; \u00e9\u00e8 \U0001f600."),
    ("text", "Halo! Apa kabar?\nBaik."),
    ("tool_call", "call_1", "weather", '{"city": "Bandung", "days": 3}'),
    ("tool_call", "call_2", "weather", '{"city": "Medan"}'),
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA},
}


@pytest.mark.parametrize("wire", ALL)
@pytest.mark.parametrize("whole", [False, True])
def test_every_host_gives_the_same_answer_streamed_and_whole(wire: str, whole: bool) -> None:
    with running_host(wire, ANSWER) as fake:
        fake.whole = whole
        told = ask(fake, tools=(TOOL,))
    assert told.shape() == ANSWER
    assert told.finished == [Finished(0, "tool_calls")]
    assert isinstance(told.events[0], Started)
    assert told.started.model.startswith("test:")
    usage = told.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (40, 12)
    assert (usage.cached_tokens, usage.reasoning_tokens) == (8, 5)
    assert usage.cost_usd is None


@pytest.mark.parametrize("wire", ALL)
def test_pieces_come_as_they_are_sent(wire: str) -> None:
    with running_host(wire, ANSWER) as fake:
        told = ask(fake, tools=(TOOL,))
    deltas = [event.part for event in told.events if isinstance(event, Delta)]
    texts = [delta.text for delta in deltas if delta.kind == "text"]
    assert len(texts) == 5, texts
    calls = [delta for delta in deltas if delta.kind == "tool_call"]
    named = [(delta.id, delta.name) for delta in calls if delta.id]
    assert named == [("call_1", "weather"), ("call_2", "weather")]
    assert len(calls) == 2 if wire == "gemini" else len(calls) > 8


@pytest.mark.parametrize("wire", ALL)
@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_reasons_to_end_are_told_apart(wire: str, reason: str) -> None:
    with running_host(wire, [("text", "abc")], reason) as fake:
        assert ask(fake).finished == [Finished(0, reason)]


def test_stop_string_of_anthropic_is_told() -> None:
    with running_host("anthropic", [("text", "abc")]) as fake:
        fake.stop_sequence = "END"
        told = ask(fake, stop=("END",))
    assert told.finished == [Finished(0, "stop", "END")]
    assert fake.requests[0].body["stop_sequences"] == ["END"]


# ------------------------------------------------------------------ what is sent

TURNS: tuple[dict[str, Any], ...] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Bandung?"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I should look.",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Bandung"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "31 degrees"},
    {"role": "user", "content": "And tomorrow?"},
)


def sent(wire: str, **request: Any) -> Any:
    with running_host(wire, [("text", "ok")]) as fake:
        ask(fake, request.pop("messages", TURNS), **request)
        [asked] = fake.requests
    return asked


def test_openai_gets_the_conversation_as_it_is() -> None:
    asked = sent("openai", tools=(TOOL,), tool_choice="function:weather")
    body = asked.body
    assert asked.path == "/v1/chat/completions"
    assert [message["role"] for message in body["messages"]] == [
        *("system", "user", "assistant", "tool", "user")
    ]
    assert "reasoning_content" not in body["messages"][2]
    assert body["tools"] == [TOOL]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["stream_options"] == {"include_usage": True}


def test_anthropic_gets_system_and_blocks() -> None:
    body = sent("anthropic", tools=(TOOL,), tool_choice="required", parallel_tool_calls=False).body
    assert body["system"] == "Be brief."
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    call = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bandung"}}
    assert body["messages"][1]["content"] == [call]
    result, text = body["messages"][2]["content"]
    assert result == {"type": "tool_result", "tool_use_id": "call_1", "content": "31 degrees"}
    assert text == {"type": "text", "text": "And tomorrow?"}
    assert body["tools"] == [
        {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
    ]
    assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert body["max_tokens"] == 8192


def test_gemini_gets_contents_and_names_the_function_of_a_result() -> None:
    asked = sent("gemini", model="gemini-3-pro", tools=(TOOL,), tool_choice="function:weather")
    body = asked.body
    assert asked.path == "/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse"
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert [turn["role"] for turn in body["contents"]] == ["user", "model", "user"]
    [call] = body["contents"][1]["parts"]
    assert call["functionCall"] == {"name": "weather", "args": {"city": "Bandung"}}
    assert call["thoughtSignature"]
    response, text = body["contents"][2]["parts"]
    assert response["functionResponse"] == {
        "name": "weather",
        "response": {"result": "31 degrees"},
    }
    assert text == {"text": "And tomorrow?"}
    config = body["toolConfig"]["functionCallingConfig"]
    assert config == {"mode": "ANY", "allowedFunctionNames": ["weather"]}
    older = sent("gemini", model="gemini-2.5-pro").body
    assert "thoughtSignature" not in older["contents"][1]["parts"][0]


def test_responses_get_items_and_store_nothing() -> None:
    asked = sent("openai-responses", tools=(TOOL,), tool_choice="function:weather")
    body = asked.body
    assert asked.path == "/v1/responses"
    assert body["store"] is False
    kinds = [item.get("type", item.get("role")) for item in body["input"]]
    assert kinds == ["system", "user", "function_call", "function_call_output", "user"]
    assert body["tools"][0]["name"] == "weather"
    assert body["tool_choice"] == {"type": "function", "name": "weather"}


SAMPLING = {"max_tokens": 50, "temperature": 0.5, "top_p": 0.9}


def test_sampling_takes_the_names_of_each_host() -> None:
    openai = sent("openai", sampling={**SAMPLING, "seed": 3, "logit_bias": {7: 2.0}}).body
    assert openai["max_tokens"] == 50
    assert openai["seed"] == 3
    assert openai["logit_bias"] == {"7": 2.0}
    assert openai["temperature"] == 0.5
    renamed = {"max_tokens_name": "max_completion_tokens"}
    assert sent("openai", sampling=SAMPLING, host=renamed).body["max_completion_tokens"] == 50
    assert sent("openai-responses", sampling=SAMPLING).body["max_output_tokens"] == 50
    old = sent("anthropic", sampling={**SAMPLING, "top_k": 5})
    assert (old.body["max_tokens"], old.body["top_k"]) == (50, 5)
    assert old.headers["anthropic-version"] == "2023-06-01"
    plain = sent("anthropic", sampling={"max_tokens": 50})
    assert plain.headers["anthropic-version"] == "2026-10-21"
    config = sent("gemini", sampling={**SAMPLING, "top_k": 5, "seed": 3}).body["generationConfig"]
    assert (config["maxOutputTokens"], config["topP"], config["topK"]) == (50, 0.9, 5)


def test_reasoning_effort_and_schema_take_the_form_of_each_host() -> None:
    options = {"reasoning_effort": "high", "format": Format("json_schema", SCHEMA)}
    openai = sent("openai", **options).body
    assert openai["reasoning_effort"] == "high"
    assert openai["response_format"]["json_schema"]["schema"] == SCHEMA
    responses = sent("openai-responses", **options).body
    assert responses["reasoning"]["effort"] == "high"
    assert responses["text"]["format"]["schema"] == SCHEMA
    anthropic = sent("anthropic", **options).body["output_config"]
    assert anthropic == {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}}
    gemini = sent("gemini", **options).body["generationConfig"]
    assert gemini["thinkingConfig"]["thinkingLevel"] == "HIGH"
    assert gemini["responseJsonSchema"] == SCHEMA


def test_effort_that_asks_for_nothing_special_is_not_sent() -> None:
    for wire in ALL:
        usual = sent(wire, reasoning_effort="high", effort_is_optional=True).body
        assert usual == sent(wire).body


def test_values_that_ask_for_nothing_are_not_sent() -> None:
    neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "n": 1, "logit_bias": {}}
    for wire in ALL:
        sent(wire, sampling={**neutral, "seed": None, "ignore_eos": False, "stop_token_ids": ()})


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((wire, {"is_private": True}, "model") for wire in ALL),
    *((wire, {"format": Format("lark", grammar="start: x")}, "grammar") for wire in ALL),
    *((wire, {"sampling": {"min_p": 0.1}}, "min_p") for wire in ALL),
    *((wire, {"sampling": {"ignore_eos": True}}, "ignore_eos") for wire in ALL),
    *((wire, {"sampling": {"temperature": float("nan")}}, "temperature") for wire in ALL),
    *((wire, {"template_options": {"x": 1}}, "chat_template_kwargs") for wire in ALL),
    ("openai", {"sampling": {"top_k": 4}}, "top_k"),
    ("openai", {"continues_last": True}, "continue_final_message"),
    ("openai-responses", {"sampling": {"seed": 1}}, "seed"),
    ("openai-responses", {"stop": ("x",)}, "stop"),
    ("anthropic", {"sampling": {"seed": 1}}, "seed"),
    ("anthropic", {"sampling": {"n": 2}}, "n"),
    ("anthropic", {"sampling": {"logprobs": 2}}, "logprobs"),
    ("anthropic", {"format": Format("json_object")}, "response_format"),
    ("gemini", {"sampling": {"logit_bias": {1: 1.0}}}, "logit_bias"),
    ("gemini", {"tools": (TOOL,), "parallel_tool_calls": False}, "parallel_tool_calls"),
]


@pytest.mark.parametrize(("wire", "request_", "param"), REFUSED)
def test_what_a_host_can_not_do_is_refused_before_anything_is_sent(
    wire: str, request_: dict[str, Any], param: str
) -> None:
    with running_host(wire, [("text", "x")]) as fake:
        with pytest.raises(ParameterError) as caught:
            ask(fake, **request_)
        assert caught.value.param == param
        assert fake.requests == []


def test_hosts_that_know_more_accept_more_and_too_many_stops_are_refused() -> None:
    more = {"accepts": ("top_k", "chat_template_kwargs"), "max_stop": 1}
    body = sent("openai", sampling={"top_k": 4}, template_options={"x": 1}, host=more).body
    assert (body["top_k"], body["chat_template_kwargs"]) == (4, {"x": 1})
    with pytest.raises(ParameterError, match="at most 1 stop strings, not 2"):
        sent("openai", stop=("a", "b"), host=more)
    with pytest.raises(ParameterError) as caught:
        sent("openai", sampling={"seed": 1}, host={"refuses": ("seed",)})
    assert caught.value.param == "seed"


def test_late_system_message_and_broken_arguments_are_named_for_anthropic() -> None:
    with pytest.raises(ParameterError) as caught:
        sent("anthropic", messages=(*QUESTION, {"role": "system", "content": "x"}))
    assert caught.value.param == "messages[1].role"
    broken = {"id": "1", "function": {"name": "f", "arguments": "{"}}
    with pytest.raises(ParameterError, match="no JSON object"):
        sent("anthropic", messages=({"role": "assistant", "tool_calls": [broken]},))


# ------------------------------------------------------------------ more of OpenAI's wire


def test_several_answers_and_log_probabilities() -> None:
    with running_host("openai", [("text", "halo dunia")]) as fake:
        told = ask(fake, sampling={"n": 2, "logprobs": 2})
    assert told.shape(0) == [("text", "halo dunia")]
    assert told.shape(1) == [("text", "halo dunia #1")]
    assert [event.index for event in told.finished] == [0, 1]
    first = next(e for e in told.events if isinstance(e, Delta) and e.logprobs)
    [entry] = first.logprobs
    assert (entry.piece, entry.logprob) == (b"halo ", -0.25)
    assert [(piece, logprob) for _, piece, logprob in entry.top] == [(b"A", -1.0), (b"B", -2.0)]


def test_reasoning_that_is_counted_beside_the_completion_is_added() -> None:
    with running_host("openai", [("text", "x")]) as fake:
        reader = Reader(host_of(fake))
    details = {"completion_tokens_details": {"reasoning_tokens": 50}}
    usage = {"prompt_tokens": 10, "completion_tokens": 4, **details}
    list(reader.read({"choices": [], "usage": {**usage, "total_tokens": 64}}))
    assert reader.usage is not None
    assert reader.usage.completion_tokens == 54
    list(reader.read({"choices": [], "usage": {**usage, "total_tokens": 14}}))
    assert reader.usage.completion_tokens == 4


def run_model(wire: str, parts: list[Part], use: Any) -> Any:
    async def run() -> Any:
        model = HostedModel(host_of(fake), "m-1", ENVIRON)
        try:
            return await use(model)
        finally:
            await model.close()

    with running_host(wire, parts) as fake:
        return asyncio.run(run()), fake.requests


def test_text_is_continued_and_embedded_where_the_wire_can() -> None:
    async def complete(model: HostedModel) -> Told:
        request = TextRequest(prompt="Once", sampling={"max_tokens": 5}, suffix="end")
        return Told([event async for event in model.complete(request)])

    told, [asked] = run_model("openai", [("text", "upon a time")], complete)
    assert told.shape() == [("text", "upon a time")]
    assert asked.path == "/v1/completions"
    assert (asked.body["max_tokens"], asked.body["suffix"]) == (5, "end")

    async def embed(model: HostedModel) -> Any:
        return await model.embed(["a", "b"])

    (vectors, count), _ = run_model("openai", [], embed)
    assert vectors == [[1.0, 0.0], [0.6, 0.8]]
    assert count == 7
    for use in (complete, embed):
        with pytest.raises(ParameterError, match="nothing was sent"):
            run_model("anthropic", [("text", "x")], use)


def test_scored_prompts_are_refused() -> None:
    async def score(model: HostedModel) -> None:
        async for _ in model.complete(TextRequest(prompt="x", prompt_logprobs=1)):
            pass

    with pytest.raises(ParameterError) as caught:
        run_model("openai", [("text", "x")], score)
    assert caught.value.param == "prompt_logprobs"


def test_leaving_an_answer_hangs_up() -> None:
    async def leave(model: HostedModel) -> None:
        events = model.chat(ChatRequest(messages=QUESTION))
        async for event in events:
            if isinstance(event, Delta):
                break
        await events.aclose()  # type: ignore[attr-defined]
        await asyncio.to_thread(fake.gone.wait, 10)

    with running_host("openai", [("text", "abcdefghij" * 5)]) as fake:
        fake.faults = [Hold(after=3)]

        async def run() -> None:
            model = HostedModel(host_of(fake), "m-1", ENVIRON)
            await leave(model)
            await model.close()

        asyncio.run(run())
        assert fake.gone.is_set()


@pytest.mark.parametrize("wire", ALL)
@pytest.mark.parametrize("never_ends", [False, True])
def test_connection_is_used_again_unless_the_host_does_not_end(wire: str, never_ends: bool) -> None:
    async def twice(model: HostedModel) -> None:
        for _ in range(2):
            told = [event async for event in model.chat(ChatRequest(messages=QUESTION))]
            assert isinstance(told[-1], Usage)

    async def run() -> None:
        model = HostedModel(host_of(fake), "m-1", ENVIRON)
        try:
            await twice(model)
        finally:
            await model.close()

    if never_ends and wire == "gemini":
        pytest.skip("nothing but the end tells the end of an answer of Gemini")
    with running_host(wire, [("text", "abc")]) as fake:
        fake.never_ends = never_ends
        asyncio.run(run())
        fake.never_ends = False
        assert len(set(fake.addresses)) == (2 if never_ends else 1)


# ------------------------------------------------------------------ hostile values


def changed(value: Any, draw: random.Random) -> Any:
    """The value with one thing in it replaced by something of another kind."""
    odd = [None, True, -1, 1e400, "", "x" * 300, "\ud800", [], {}, [[]], [1], {"a": 1}, 1 << 70]
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return draw.choice(odd)
    copy = dict(value) if isinstance(value, dict) else list(value)
    key = draw.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
    copy[key] = changed(copy[key], draw)
    return copy


@pytest.mark.parametrize("wire", ALL)
def test_any_value_in_a_strangers_answer_is_read_or_refused_by_our_error(wire: str) -> None:
    with running_host(wire, ANSWER) as fake:
        host = host_of(fake)
        spoken = [*WIRES[wire].events(fake, {"model": "m", "stream_options": {"include_usage": 1}})]
        whole = WIRES[wire].whole(fake, {"model": "m"})
    objects = [json.loads(e.split(b"data: ")[1]) for e in spoken if b"[DONE]" not in e]
    model = HostedModel(host, "m", ENVIRON)
    num_refused = 0
    for seed in range(1500):
        draw = random.Random(seed)
        stream = [whole] if seed % 5 == 0 else list(objects)
        place = draw.randrange(len(stream))
        stream[place] = changed(stream[place], draw)
        reader = model._wire.Reader(host)
        try:
            for data in stream:
                if isinstance(data, dict):  # the client refuses anything else
                    refusal_in(data, [KEY])
                    events = list(reader.read(data))
                    for event in events:
                        if isinstance(event, Delta):
                            (event.part.text + event.part.id + event.part.name).encode()
        except GatewayError:
            num_refused += 1
    assert 50 < num_refused < 1400, num_refused


# ------------------------------------------------------------------ cost


def test_cost_is_what_a_hand_calculation_gives() -> None:
    facts = ModelFacts(context_length=100, input=2.0, output=10.0, cached=0.5)
    with running_host("openai", [("text", "x")]) as fake:
        told = ask(fake, host={"models": {"m-1": facts}})
    # 32 fresh prompt tokens, 8 cached, 12 of answer; the model named itself m-1-2024-08-06
    assert told.started.model == "test:m-1-2024-08-06"
    assert told.usage.cost_usd == pytest.approx((32 * 2.0 + 8 * 0.5 + 12 * 10.0) / 1e6, rel=1e-12)


def test_long_prompts_cost_the_price_of_long_prompts() -> None:
    above = LongPrices(tokens=39, input=4.0, output=20.0)
    facts = ModelFacts(input=2.0, output=10.0, above=above)
    usage = Usage(prompt_tokens=40, completion_tokens=10, cached_tokens=None)
    assert facts.cost_usd(usage) == pytest.approx((40 * 4.0 + 10 * 20.0) / 1e6)
    short = Usage(prompt_tokens=39, completion_tokens=10)
    assert facts.cost_usd(short) == pytest.approx((39 * 2.0 + 10 * 10.0) / 1e6)
