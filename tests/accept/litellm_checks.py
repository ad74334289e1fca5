"""LiteLLM in front of the server by each of its APIs; see checking.py and clients.py."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet at import

import litellm
from checking import MODEL, URL, check, run_checks

HI = [{"role": "user", "content": "Say hello."}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Jakarta", "Paris"]}}}
CITY |= {"required": ["city"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
BASES = {"openai": "/v1", "hosted_vllm": "/v1", "ollama_chat": "", "anthropic": ""}


def ask(provider: str, **options: Any) -> Any:
    return litellm.completion(
        **{
            "model": f"{provider}/{MODEL}",
            "api_base": URL + BASES[provider],
            "api_key": "none",
            "messages": HI,
            "max_tokens": 150,
            "temperature": 0,
            "num_retries": 0,
            **options,
        }
    )


def streams(provider: str) -> None:
    whole = ask(provider).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(provider, stream=True)]
    assert whole and "".join(pieces) == whole, (whole, pieces)


@check
def openai_streams_what_it_answers() -> None:
    streams("openai")


@check
def vllm_streams_what_it_answers() -> None:
    streams("hosted_vllm")


@check
def ollama_streams_what_it_answers() -> None:
    streams("ollama_chat")


@check
def anthropic_streams_what_it_answers() -> None:
    streams("anthropic")


@check
def tools_are_called_through_every_api_that_can_demand_it() -> None:
    # Not hosted_vllm: LiteLLM takes additionalProperties out of the schema for it, and then so
    # small a model never ends the object.
    for provider in ("openai", "anthropic"):
        choice = {"type": "function", "function": {"name": "weather"}}
        answer = ask(provider, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
        call = answer.choices[0].message.tool_calls[0]
        assert json.loads(call.function.arguments)["city"] in ("Jakarta", "Paris"), provider


@check
def schemas_are_kept() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    for provider in ("openai", "ollama_chat"):
        answer = ask(provider, response_format=form).choices[0].message.content
        assert json.loads(answer)["city"] in ("Jakarta", "Paris"), provider


@check
def texts_are_completed_and_embedded() -> None:
    place = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none"}
    assert litellm.text_completion(**place, prompt="Once", max_tokens=5).choices[0].text
    found = litellm.embedding(**place, input=["a", "b"], encoding_format="float")
    assert len(found.data) == 2


@check
def errors_have_their_class() -> None:
    for options, kind in (
        ({"model": "openai/nope"}, litellm.NotFoundError),
        ({"temperature": 9}, litellm.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 5000}]},
         litellm.ContextWindowExceededError),
    ):  # fmt: skip
        try:
            ask("openai", **options)
        except kind:
            continue
        raise AssertionError(f"{options} was accepted")


if __name__ == "__main__":
    sys.exit(run_checks())
