"""OpenAI's Agents SDK over both of OpenAI's APIs; see checking.py and clients.py."""

from __future__ import annotations

import asyncio
import sys
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    ToolCallItem,
    function_tool,
    set_tracing_disabled,
)
from checking import MODEL, URL, check, run_checks
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
KINDS = (OpenAIChatCompletionsModel, OpenAIResponsesModel)
ONE_CALL = {"max_tokens": 100, "temperature": 0, "parallel_tool_calls": False}


class Person(BaseModel):
    rank: Literal["low", "high"]


@function_tool
def weather(city: Literal["Jakarta", "Paris"]) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def model(kind: type) -> OpenAIChatCompletionsModel | OpenAIResponsesModel:
    return kind(MODEL, AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0))


@check
def agents_answer_and_stream_the_same() -> None:
    async def both(kind: type) -> tuple[str, str]:
        settings = ModelSettings(max_tokens=60, temperature=0)
        agent = Agent("plain", instructions="Be kind.", model=model(kind), model_settings=settings)
        whole = await Runner.run(agent, "Say hello.")
        streamed = Runner.run_streamed(agent, "Say hello.")
        async for _ in streamed.stream_events():
            pass
        return whole.final_output, streamed.final_output

    for kind in KINDS:
        one, two = asyncio.run(both(kind))
        assert one and one == two, kind


@check
def agents_call_a_tool_and_take_its_result() -> None:
    for kind in KINDS:
        settings = ModelSettings(tool_choice="weather", **ONE_CALL)
        agent = Agent("tools", model=model(kind), model_settings=settings, tools=[weather])
        found = asyncio.run(Runner.run(agent, "Weather?"))
        calls = [item for item in found.new_items if isinstance(item, ToolCallItem)]
        assert calls and found.final_output, kind


@check
def agents_keep_a_type() -> None:
    for kind in KINDS:
        settings = ModelSettings(max_tokens=60)
        agent = Agent("typed", model=model(kind), model_settings=settings, output_type=Person)
        assert isinstance(asyncio.run(Runner.run(agent, "A person")).final_output, Person), kind


if __name__ == "__main__":
    sys.exit(run_checks())
