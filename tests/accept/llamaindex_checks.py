"""LlamaIndex's openai-like model; see checking.py and clients.py."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Literal

from checking import MODEL, URL, check, run_checks
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, ConfigDict

HI = [ChatMessage(role="user", content="Say hello.")]


class Person(BaseModel):
    """Somebody."""

    model_config = ConfigDict(extra="forbid")  # else so small a model never ends the object
    rank: Literal["low", "high"]


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid")
    city: Literal["Jakarta", "Paris"]


def gpt(**options: Any) -> OpenAILike:
    values = {"is_chat_model": True, "is_function_calling_model": True, **options}
    return OpenAILike(
        model=MODEL,
        api_base=f"{URL}/v1",
        api_key="none",
        max_tokens=100,
        temperature=0,
        max_retries=0,
        **values,
    )


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@check
def streams_what_it_answers() -> None:
    whole = gpt().chat(HI).message.content
    assert whole and "".join(piece.delta or "" for piece in gpt().stream_chat(HI)) == whole
    assert asyncio.run(gpt().achat(HI)).message.content == whole


@check
def completes_a_text() -> None:
    model = gpt(is_chat_model=False)
    whole = model.complete("Once").text
    assert whole and "".join(piece.delta or "" for piece in model.stream_complete("Once")) == whole


@check
def calls_a_tool() -> None:
    tool = FunctionTool.from_defaults(weather, fn_schema=Place)
    options = {"user_msg": "Weather?", "tool_required": True}
    (call,) = gpt().get_tool_calls_from_response(gpt().chat_with_tools([tool], **options))
    assert call.tool_kwargs["city"] in ("Jakarta", "Paris")
    assert str(gpt().predict_and_call([tool], **options)).startswith("sunny in ")


@check
def predicts_a_structure() -> None:
    assert isinstance(gpt().structured_predict(Person, PromptTemplate("A person")), Person)


if __name__ == "__main__":
    sys.exit(run_checks())
