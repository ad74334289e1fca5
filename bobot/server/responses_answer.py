"""OpenAI's responses: the answer as items, whole and as events."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from bobot.chat.protocol import Delta, Event, Finished, Started, TokenLogprob, Usage
from bobot.server.failures import Failure
from bobot.server.openai_chat_answer import chat_logprobs
from bobot.server.responses import ResponseBody, custom_names
from bobot.server.running import Answer, Gathered
from bobot.server.wire import sse
from bobot.text.parts import Part, PartDelta

PREFIXES = {"reasoning": "rs", "text": "msg", "tool_call": "fc"}


def new_response(body: ResponseBody) -> dict[str, Any]:
    """The response object before anything is written; the model is not known yet. OpenAI's
    description allows no null for `user` and `usage`, so they are left out until they are known.
    """
    reasoning = {"effort": body.reasoning.effort if body.reasoning else None, "summary": None}
    chosen = body.text.format if body.text else None
    form: dict[str, Any] = {"type": chosen.type if chosen else "text"}
    if chosen is not None and chosen.type == "json_schema":
        form |= {"name": "schema", "schema": chosen.schema}
    choice = body.tool_choice
    return {
        "id": f"resp_{secrets.token_hex(16)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": "",
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": reasoning,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": body.temperature,
        "text": {"format": form},
        "tool_choice": choice if isinstance(choice, str) else _choice(body),
        "tools": [_tool(tool) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        **({} if body.user is None else {"user": body.user}),
    }


def _choice(body: ResponseBody) -> Any:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return "auto"
    if choice.type == "allowed_tools":
        tools = [{"type": ref.type, "name": ref.name} for ref in choice.tools or ()]
        return {"type": choice.type, "mode": choice.mode or "auto", "tools": tools}
    return {"type": choice.type, "name": choice.name}


def _tool(tool: Any) -> dict[str, Any]:
    found = {"type": tool.type, "name": tool.name}
    if tool.type == "function":
        function = {"parameters": tool.parameters, "strict": True}
        return {**found, "description": tool.description, **function}
    return found if tool.description is None else {**found, "description": tool.description}


def finish_response(
    response: dict[str, Any], output: list[dict[str, Any]], gathered: Gathered
) -> dict[str, Any]:
    """The whole response object."""
    usage, reason = gathered.usage, gathered.answers[0].reason
    is_cut = reason in ("length", "content_filter")
    why = {"length": "max_output_tokens"}.get(reason, reason)
    return {
        **response,
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": why} if is_cut else None,
        "completed_at": None if is_cut else int(time.time()),
        "model": gathered.model,
        "output": output,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens or 0,
                "cache_write_tokens": 0,
            },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


class Items:
    """Makes the items of one answer and gives each its id."""

    def __init__(self, body: ResponseBody) -> None:
        self._customs = custom_names(body)
        self._shows_logprobs = body.shows_logprobs

    def new_id(self, kind: str, name: str = "") -> str:
        prefix = "ctc" if name in self._customs else PREFIXES[kind]
        return f"{prefix}_{secrets.token_hex(16)}"

    def is_custom(self, name: str) -> bool:
        return name in self._customs

    def of(
        self,
        part: Part,
        item_id: str,
        status: str = "completed",
        logprobs: Iterable[TokenLogprob] = (),
    ) -> dict[str, Any]:
        head = {"id": item_id, "status": status}
        if part.kind == "reasoning":
            content = [{"type": "reasoning_text", "text": part.text}]
            return {**head, "type": "reasoning", "summary": [], "content": content}
        if part.kind == "text":
            content = [self.text(part.text, logprobs)]
            return {**head, "type": "message", "role": "assistant", "content": content}
        call = {**head, "call_id": part.id, "name": part.name}
        if self.is_custom(part.name):
            text = (part.arguments or {}).get("input", part.text)
            return {**call, "type": "custom_tool_call", "input": text}
        return {**call, "type": "function_call", "arguments": part.text}

    def text(self, text: str, logprobs: Iterable[TokenLogprob] = ()) -> dict[str, Any]:
        entries = chat_logprobs(logprobs)["content"] if self._shows_logprobs else []
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": entries}

    def whole(self, answer: Answer) -> list[dict[str, Any]]:
        """All items of an answer. Log-probabilities are of all its tokens."""
        status = "incomplete" if answer.reason == "length" else "completed"
        return [
            self.of(
                part,
                self.new_id(part.kind, part.name),
                status if part is answer.parts[-1] else "completed",
                answer.logprobs if part.kind == "text" else (),
            )
            for part in answer.parts
        ]


Ending = Callable[[list[dict[str, Any]], Gathered], dict[str, Any]]
"""(output, gathered) -> the whole response, after it has been kept."""


async def response_events(
    events: AsyncGenerator[Event, None],
    response: dict[str, Any],
    items: Items,
    ending: Ending,
) -> AsyncGenerator[bytes, None]:
    """Server-sent events from response.created to response.completed or .incomplete."""
    writer = _EventWriter(response, items, ending)
    async with aclosing(events):
        async for event in events:
            writer.gathered.add(event)
            if frame := b"".join(map(writer.frame, writer.events(event))):
                yield frame


def error_event(failure: Failure) -> bytes:
    """After the head was sent."""
    return sse(
        {
            "type": "error",
            "code": failure.code or failure.kind,
            "message": failure.message,
            "param": failure.param,
            "error": {"message": failure.message, "code": failure.code, "type": failure.kind},
        },
        "error",
    )


class _EventWriter:
    def __init__(self, response: dict[str, Any], items: Items, ending: Ending) -> None:
        self.gathered = Gathered()
        self._response = response
        self._items = items
        self._ending = ending
        self._output: list[dict[str, Any]] = []
        self._deltas: list[PartDelta] = []
        """Of the item that is open."""
        self._logprobs: list[TokenLogprob] = []
        self._item_id = ""
        self._count = 0

    def frame(self, value: dict[str, Any]) -> bytes:
        value["sequence_number"] = self._count
        self._count += 1
        return sse(value, value["type"])

    def events(self, event: Event) -> Iterable[dict[str, Any]]:
        if isinstance(event, Started):
            self._response["model"] = event.model
            yield {"type": "response.created", "response": self._response}
            yield {"type": "response.in_progress", "response": self._response}
        elif isinstance(event, Delta):
            yield from self._delta(event)
        elif isinstance(event, Finished):
            yield from self._close("incomplete" if event.reason == "length" else "completed")
        elif isinstance(event, Usage):
            whole = self._ending(self._output, self.gathered)
            yield {"type": f"response.{whole['status']}", "response": whole}

    def _delta(self, event: Delta) -> Iterable[dict[str, Any]]:
        part = event.part
        if not self._deltas or self._deltas[0].part != part.part:
            if not part.text and part.kind != "tool_call":
                return
            yield from self._close()
            yield from self._open(part)
        self._deltas.append(part)
        self._logprobs += event.logprobs
        if not part.text or self._items.is_custom(self._deltas[0].name):
            return
        if part.kind == "tool_call":
            yield self._at("response.function_call_arguments.delta", delta=part.text)
        elif part.kind == "reasoning":
            yield self._at("response.reasoning_text.delta", content_index=0, delta=part.text)
        else:
            entries = self._items.text("", event.logprobs)["logprobs"]
            yield self._at(
                "response.output_text.delta", content_index=0, delta=part.text, logprobs=entries
            )

    def _open(self, part: PartDelta) -> Iterable[dict[str, Any]]:
        self._item_id = self._items.new_id(part.kind, part.name)
        empty = Part(part.kind, "", part.id, part.name)
        item = self._items.of(empty, self._item_id, "in_progress")
        if part.kind != "tool_call":
            content = item["content"]
            item["content"] = []
            yield self._item("response.output_item.added", item)
            yield self._at("response.content_part.added", content_index=0, part=content[0])
        else:
            yield self._item("response.output_item.added", item)

    def _close(self, status: str = "completed") -> Iterable[dict[str, Any]]:
        if not self._deltas:
            return
        first, text = self._deltas[0], "".join(delta.text for delta in self._deltas)
        part = Part(first.kind, text, first.id, first.name)
        item = self._items.of(part, self._item_id, status, self._logprobs)
        if first.kind == "reasoning":
            yield self._at("response.reasoning_text.done", content_index=0, text=text)
        elif first.kind == "text":
            entries = item["content"][0]["logprobs"]
            yield self._at(
                "response.output_text.done", content_index=0, text=text, logprobs=entries
            )
        elif self._items.is_custom(first.name):
            given = item["input"]
            yield self._at("response.custom_tool_call_input.delta", delta=given)
            yield self._at("response.custom_tool_call_input.done", input=given)
        else:
            yield self._at("response.function_call_arguments.done", name=first.name, arguments=text)
        if first.kind != "tool_call":
            content = item["content"][0]
            yield self._at("response.content_part.done", content_index=0, part=content)
        yield self._item("response.output_item.done", item)
        self._output.append(item)
        self._deltas, self._logprobs = [], []

    def _at(self, kind: str, **values: Any) -> dict[str, Any]:
        place = {"item_id": self._item_id, "output_index": len(self._output)}
        return {"type": kind, **place, **values}

    def _item(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        return {"type": kind, "output_index": len(self._output), "item": item}
