"""Checks of a server at the address in the first argument, with the vendors' own clients. Prints
one line per check; status 1 if one fails. See clients.py.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable

import anthropic
import ollama
import openai
from checking import MODEL, URL, check, run_checks
from pydantic import BaseModel

HI = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Jakarta", "Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
gpt = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
claude = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
llama = ollama.Client(host=URL)
ONE_CALL = {"parallel_tool_calls": False, "max_tokens": 100}
"""So small a model would call until its tokens are used up."""


def refused(call: Callable[[], object], param: str | None = None, status: int = 400) -> None:
    try:
        call()
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        assert error.type and (param is None or error.param == param), (error.param, error.body)
    else:
        raise AssertionError("it was accepted")


def chat(**options):
    return gpt.chat.completions.create(
        **{"model": MODEL, "messages": HI, "max_tokens": 40, **options}
    )


@check
def openai_models_are_listed_and_found() -> None:
    assert next(model.id for model in gpt.models.list()) == MODEL
    assert gpt.models.retrieve(MODEL).id == MODEL


@check
def openai_unknown_model_is_404() -> None:
    refused(lambda: chat(model="nope"), "model", 404)
    refused(lambda: gpt.models.retrieve("a/b:c"), None, 404)


@check
def openai_chat_answers() -> None:
    answer = chat()
    assert answer.choices[0].message.content and answer.usage.total_tokens > 0
    assert answer.choices[0].finish_reason in ("stop", "length")


@check
def openai_chat_streams_what_it_answers() -> None:
    whole = chat(temperature=0, seed=1).choices[0].message.content
    with chat(temperature=0, seed=1, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices


@check
def openai_same_seed_gives_the_same_answer() -> None:
    first, second = (chat(temperature=1.5, seed=7).choices[0].message.content for _ in range(2))
    assert first == second


@check
def openai_n_answers_differ() -> None:
    answer = chat(n=3, temperature=2, seed=1)
    assert len({choice.message.content for choice in answer.choices}) > 1


@check
def openai_stop_ends_before_the_text() -> None:
    text = chat(temperature=0).choices[0].message.content
    cut = chat(temperature=0, stop=[text[3:6]])
    assert cut.choices[0].message.content == text[: text.index(text[3:6])]
    assert cut.choices[0].finish_reason == "stop"


@check
def openai_max_tokens_is_kept() -> None:
    answer = chat(max_completion_tokens=3, max_tokens=openai.omit)
    assert answer.usage.completion_tokens == 3 and answer.choices[0].finish_reason == "length"


@check
def openai_logprobs_are_probabilities() -> None:
    entries = chat(logprobs=True, top_logprobs=5, max_tokens=5).choices[0].logprobs.content
    assert len(entries) == 5
    for entry in entries:
        assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token
        assert len(entry.top_logprobs) == 5
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) < 1.0001


@check
def openai_logit_bias_bans() -> None:
    text = chat(temperature=0, logprobs=True, max_tokens=1).choices[0]
    token = text.logprobs.content[0].token
    found = gpt.post("/tokenize", body={"prompt": token}, cast_to=object)
    other = chat(temperature=0, max_tokens=1, logit_bias={str(found["tokens"][0]): -100})
    assert other.choices[0].message.content != text.message.content


@check
def openai_named_tool_is_called_with_arguments_of_its_schema() -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    answer = chat(tools=[WEATHER, TIME], tool_choice=choice, **ONE_CALL).choices[0]
    call = answer.message.tool_calls[0]
    assert answer.finish_reason == "tool_calls" and call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Jakarta", "Paris")


@check
def openai_required_tool_is_called() -> None:
    answer = chat(tools=[WEATHER], tool_choice="required", **ONE_CALL).choices[0]
    assert answer.message.tool_calls[0].function.name == "weather"


@check
def openai_streamed_call_is_the_whole_call() -> None:
    options = {"tools": [WEATHER], "tool_choice": "required", "temperature": 0, **ONE_CALL}
    whole = chat(**options).choices[0].message.tool_calls[0].function
    name = arguments = ""
    for chunk in chat(**options, stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert (name, arguments) == (whole.name, whole.arguments)


@check
def openai_none_calls_nothing() -> None:
    assert not chat(tools=[WEATHER], tool_choice="none").choices[0].message.tool_calls


@check
def openai_result_of_a_tool_is_taken() -> None:
    call = {"id": "c1", "type": "function"}
    call["function"] = {"name": "weather", "arguments": '{"city": "Paris"}'}
    messages = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_call_id": "c1", "content": "sunny"})
    assert chat(messages=messages, tools=[WEATHER]).choices[0].finish_reason


@check
def openai_json_schema_is_kept() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    answer = chat(response_format=form, max_tokens=200).choices[0]
    assert answer.finish_reason == "stop", answer
    found = json.loads(answer.message.content)
    assert set(found) == {"name", "age"} and isinstance(found["age"], int)


@check
def openai_parses_into_a_class() -> None:
    class Person(BaseModel):
        is_tall: bool

    answer = gpt.chat.completions.parse(
        model=MODEL, messages=HI, response_format=Person, max_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


@check
def openai_regex_of_vllm_is_kept() -> None:
    answer = chat(extra_body={"structured_outputs": {"regex": "[a-c]{3}"}})
    assert len(answer.choices[0].message.content) == 3


@check
def openai_mistakes_name_their_parameter() -> None:
    refused(lambda: chat(temperature=9), "temperature")
    refused(lambda: chat(messages=[]), "messages")
    refused(lambda: chat(messages=[{"role": "cat", "content": "x"}]), "messages[0].role")
    refused(lambda: chat(tool_choice="required"), "tool_choice")
    refused(lambda: chat(extra_body={"audio": {"voice": "alloy"}}), "audio")


@check
def openai_long_prompt_is_refused_with_its_code() -> None:
    try:
        chat(messages=[{"role": "user", "content": "word " * 5000}])
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded", error
    else:
        raise AssertionError("it was cut")


@check
def openai_completions_take_texts_and_ids() -> None:
    one = gpt.completions.create(model=MODEL, prompt="Once", max_tokens=5, temperature=0)
    two = gpt.completions.create(model=MODEL, prompt=["Once", "Upon"], max_tokens=5, temperature=0)
    assert two.choices[0].text == one.choices[0].text and len(two.choices) == 2


@check
def openai_echo_scores_the_prompt() -> None:
    answer = gpt.completions.create(
        model=MODEL, prompt="Once upon", max_tokens=1, echo=True, logprobs=1
    )
    found = answer.choices[0].logprobs
    assert answer.choices[0].text.startswith("Once upon") and found.token_logprobs[0] is None
    assert all(value <= 0 for value in found.token_logprobs[1:])


@check
def openai_vectors_have_length_one() -> None:
    found = gpt.embeddings.create(model=MODEL, input=["Hello", "Halo"]).data
    assert all(abs(sum(x * x for x in entry.embedding) - 1) < 1e-3 for entry in found)


@check
def openai_responses_answer_and_go_on() -> None:
    first = gpt.responses.create(model=MODEL, input="Say hello.", max_output_tokens=30)
    assert first.output_text and first.status in ("completed", "incomplete")
    second = gpt.responses.create(model=MODEL, input="Again.", previous_response_id=first.id)
    assert second.usage.input_tokens > first.usage.input_tokens
    assert gpt.responses.retrieve(first.id).output_text == first.output_text
    gpt.responses.delete(first.id)
    refused(lambda: gpt.responses.retrieve(first.id), None, 404)


@check
def openai_responses_stream() -> None:
    with gpt.responses.stream(model=MODEL, input="Say hello.", max_output_tokens=30) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert text == stream.get_final_response().output_text


@check
def openai_responses_call_tools() -> None:
    tool = {"type": "function", **WEATHER["function"]}
    answer = gpt.responses.create(
        model=MODEL, input="Weather?", tools=[tool], tool_choice="required", max_output_tokens=99
    )
    calls = [item for item in answer.output if item.type == "function_call"]
    assert json.loads(calls[0].arguments)["city"] in ("Jakarta", "Paris")


def message(temperature: float = 0, **options):
    body = {"temperature": temperature}  # this client no longer has it
    options = {"model": MODEL, "max_tokens": 40, "messages": HI, "extra_body": body, **options}
    return claude.messages.create(**options)


@check
def anthropic_answers() -> None:
    answer = message(system="Be kind.")
    assert answer.content[0].text and answer.usage.output_tokens > 0


@check
def anthropic_streams_what_it_answers() -> None:
    whole = message().content[0].text
    options = {"model": MODEL, "max_tokens": 40, "messages": HI}
    with claude.messages.stream(**options, extra_body={"temperature": 0}) as stream:
        assert "".join(stream.text_stream) == whole
        assert stream.get_final_message().content[0].text == whole


@check
def anthropic_stop_sequence_is_named() -> None:
    text = message().content[0].text
    answer = message(stop_sequences=[text[3:6]])
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == text[3:6]


@check
def anthropic_tool_is_used() -> None:
    tool = {"name": "weather", "input_schema": WEATHER["function"]["parameters"]}
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    answer = message(tools=[tool], tool_choice=choice, max_tokens=100)
    assert answer.stop_reason == "tool_use"
    assert answer.content[-1].input["city"] in ("Jakarta", "Paris")


@check
def anthropic_counts_tokens() -> None:
    counted = claude.messages.count_tokens(model=MODEL, messages=HI).input_tokens
    usage = message().usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


@check
def anthropic_goes_on_with_a_prefilled_answer() -> None:
    answer = message(messages=[*HI, {"role": "assistant", "content": "Hello"}])
    assert answer.content and not answer.content[0].text.startswith("Hello")


@check
def anthropic_errors_are_its_own() -> None:
    for call, kind in (
        (lambda: message(model="nope"), anthropic.NotFoundError),
        (lambda: message(temperature=2), anthropic.BadRequestError),
    ):
        try:
            call()
        except kind as error:
            assert error.body["type"] == "error" and error.request_id
        else:
            raise AssertionError("it was accepted")


@check
def ollama_answers_and_streams() -> None:
    options = {"temperature": 0, "num_predict": 20}
    whole = llama.chat(MODEL, HI, options=options).message.content
    parts = list(llama.chat(MODEL, HI, options=options, stream=True))
    assert "".join(part.message.content for part in parts) == whole
    assert parts[-1].done and parts[-1].eval_count <= 20


@check
def ollama_generates_in_a_format() -> None:
    answer = llama.generate(MODEL, "A person", format=SCHEMA, options={"num_predict": 200})
    assert set(json.loads(answer.response)) == {"name", "age"}


@check
def ollama_lists_shows_and_embeds() -> None:
    assert llama.list().models[0].model == MODEL
    assert llama.show(MODEL).details.format == "gguf"
    assert len(llama.embed(MODEL, ["a", "b"]).embeddings) == 2
    assert any(model.model == MODEL for model in llama.ps().models)


@check
def ollama_unknown_model_is_404() -> None:
    try:
        llama.chat("nope", HI)
    except ollama.ResponseError as error:
        assert error.status_code == 404
    else:
        raise AssertionError("it was accepted")


if __name__ == "__main__":
    sys.exit(run_checks())
