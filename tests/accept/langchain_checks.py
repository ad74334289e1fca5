"""LangChain's models for OpenAI, Ollama and Anthropic; see checking.py and clients.py."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Literal

from checking import MODEL, URL, check, run_checks
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, ConfigDict, SecretStr

KEY = SecretStr("none")
QUESTION = "Say hello."


class Weather(BaseModel):
    """The weather of a city."""

    model_config = ConfigDict(extra="forbid")  # else so small a model never ends the object
    city: Literal["Jakarta", "Paris"]


def gpt(**options: Any) -> ChatOpenAI:
    values = {"max_tokens": 100, "temperature": 0, "max_retries": 0, **options}
    return ChatOpenAI(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, **values)


def claude() -> ChatAnthropic:
    return ChatAnthropic(base_url=URL, api_key=KEY, model_name=MODEL, max_tokens=100, max_retries=0)


def llama(**options: Any) -> ChatOllama:
    return ChatOllama(base_url=URL, model=MODEL, num_predict=100, temperature=0, **options)


@check
def openai_streams_what_it_answers() -> None:
    whole = gpt().invoke(QUESTION)
    pieces = list(gpt(stream_usage=True).stream(QUESTION))
    assert whole.content and "".join(str(piece.content) for piece in pieces) == whole.content
    assert whole.usage_metadata is not None
    used = [piece.usage_metadata for piece in pieces if piece.usage_metadata]
    assert used[-1]["output_tokens"] == whole.usage_metadata["output_tokens"]


@check
def openai_batches_and_awaits() -> None:
    answers = gpt().batch([QUESTION, "And you?"])
    assert asyncio.run(gpt().ainvoke(QUESTION)).content == answers[0].content


@check
def openai_keeps_a_schema() -> None:
    structured = gpt().with_structured_output(Weather, method="json_schema")
    assert isinstance(structured.invoke(QUESTION), Weather)


@check
def openai_keeps_a_schema_by_a_function() -> None:
    structured = gpt().with_structured_output(Weather, method="function_calling")
    assert isinstance(structured.invoke(QUESTION), Weather)


@check
def openai_calls_a_tool_and_takes_its_result() -> None:
    bound = gpt().bind_tools([Weather], tool_choice="Weather", parallel_tool_calls=False)
    message = bound.invoke(QUESTION)
    assert isinstance(message, AIMessage)
    (call,) = message.tool_calls
    assert call["args"]["city"] in ("Jakarta", "Paris")
    result = ToolMessage("sunny", tool_call_id=call["id"])
    assert gpt().bind_tools([Weather]).invoke([HumanMessage(QUESTION), message, result])


@check
def openai_streams_a_tool_call() -> None:
    bound = gpt().bind_tools([Weather], tool_choice="any", parallel_tool_calls=False)
    whole = None
    for piece in bound.stream(QUESTION):
        whole = piece if whole is None else whole + piece  # type: ignore[operator]
    assert whole is not None and whole.tool_calls[0]["args"]["city"] in ("Jakarta", "Paris")


@check
def openai_answers_as_responses() -> None:
    model = gpt(use_responses_api=True)
    assert "".join(piece.text for piece in model.stream(QUESTION)) == model.invoke(QUESTION).text


@check
def openai_completes_a_text() -> None:
    model = OpenAI(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, max_tokens=20, temperature=0)
    assert "".join(model.stream("Once")) == model.invoke("Once")


@check
def openai_embeds() -> None:
    model = OpenAIEmbeddings(
        base_url=f"{URL}/v1", api_key=KEY, model=MODEL, check_embedding_ctx_length=False
    )
    one, two = model.embed_documents(["Hello", "Halo"])
    error = max(abs(x - y) for x, y in zip(one, model.embed_query("Hello"), strict=True))
    assert error < 1e-3 and one != two


@check
def anthropic_streams_what_it_answers() -> None:
    whole = gpt().invoke(QUESTION)
    model = claude().bind(extra_body={"temperature": 0})
    assert model.invoke(QUESTION).text == whole.content
    assert "".join(piece.text for piece in model.stream(QUESTION)) == whole.content


@check
def anthropic_uses_a_tool() -> None:
    choice = {"type": "tool", "name": "Weather", "disable_parallel_tool_use": True}
    message = claude().bind_tools([Weather], tool_choice=choice).invoke(QUESTION)
    assert isinstance(message, AIMessage)
    assert message.tool_calls[0]["args"]["city"] in ("Jakarta", "Paris")


@check
def anthropic_keeps_a_schema() -> None:
    assert isinstance(claude().with_structured_output(Weather).invoke(QUESTION), Weather)


@check
def ollama_streams_what_it_answers() -> None:
    whole = llama().invoke(QUESTION)
    assert "".join(str(piece.content) for piece in llama().stream(QUESTION)) == whole.content
    assert whole.usage_metadata and whole.usage_metadata["output_tokens"] > 0


@check
def ollama_keeps_a_schema() -> None:
    structured = llama().with_structured_output(Weather, method="json_schema")
    assert isinstance(structured.invoke(QUESTION), Weather)


@check
def ollama_takes_tools() -> None:
    assert isinstance(llama().bind_tools([Weather]).invoke(QUESTION), AIMessage)


@check
def ollama_embeds() -> None:
    assert len(OllamaEmbeddings(base_url=URL, model=MODEL).embed_documents(["a", "b"])) == 2


if __name__ == "__main__":
    sys.exit(run_checks())
