"""OpenAI's OpenAPI description, cut down to what bobot serves.

What is taken out: paths that it has not, fields that it refuses by name (bobot.server says which),
and of each union the kinds that it refuses (pictures, sounds, files, hosted tools). What is left
must be answered as the description says, but for three places where it contradicts OpenAI's own
clients: the error of DELETE /responses/{id} lacks the "error" around it; vectors as base64
are called lists; discriminators without a mapping stand for the names of schemas, which no
answer has as its type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bobot.server import openai_chat, openai_text, responses

PATHS = {
    "/chat/completions": ("get", "post"),
    "/completions": ("post",),
    "/embeddings": ("post",),
    "/models": ("get",),
    "/models/{model}": ("get",),
    "/responses": ("post",),
    "/responses/{response_id}": ("get", "delete"),
    "/responses/{response_id}/input_items": ("get",),
    "/responses/input_tokens": ("post",),
}
FIELDS = {
    "CreateChatCompletionRequest": {*openai_chat.UNSUPPORTED},
    "CreateCompletionRequest": {*openai_text.UNSUPPORTED, "best_of"},
    "CreateEmbeddingRequest": {"dimensions", "encoding_format"},
    "CreateResponse": {*responses.UNSUPPORTED},
    "ResponseProperties": {*responses.UNSUPPORTED},
    "TokenCountsBody": {*responses.UNSUPPORTED, "personality"},
    "ResponseTextParam": {"verbosity"},
    "ChatCompletionRequestAssistantMessage": {"audio"},
}
"""Name of a schema -> the properties that are taken out of it."""
KINDS = {
    "ChatCompletionRequestUserMessageContentPart": {"ChatCompletionRequestMessageContentPartText"},
    "ChatCompletionToolChoiceOption": {"ChatCompletionNamedToolChoice"},
    "ChatCompletionMessageToolCalls": {"ChatCompletionMessageToolCall"},
    "CreateChatCompletionRequest": {"ChatCompletionTool", "ResponseFormatText",
                                    "ResponseFormatJsonSchema", "ResponseFormatJsonObject",
                                    "ChatCompletionFunctionCallOption"},
    "InputItem": {"EasyInputMessage", "Item"},
    "Item": {"InputMessage", "OutputMessage", "FunctionToolCall", "FunctionCallOutputItemParam",
             "ReasoningItem", "CustomToolCall", "CustomToolCallOutput"},
    "InputContent": {"InputTextContent"},
    "FunctionCallOutputItemParam": {"InputTextContentParam", "FunctionCallItemStatus",
                                    "ToolCallCallerParam"},
    "FunctionAndCustomToolCallOutput": {"InputTextContent"},
    "Tool": {"FunctionTool", "CustomToolParam"},
    "ToolChoiceParam": {"ToolChoiceOptions", "ToolChoiceFunction", "ToolChoiceCustom"},
}  # fmt: skip
"""Name of a schema -> the kinds that stay in its unions; kinds without a name stay."""


def cut(spec: dict[str, Any], response_ids: tuple[str, str]) -> dict[str, Any]:
    """The description, changed in place. `response_ids`: stored responses to get and to delete."""
    spec["paths"] = {
        path: {method: spec["paths"][path][method] for method in methods}
        for path, methods in PATHS.items()
    }
    schemas = spec["components"]["schemas"]
    for schema in _schemas_in(schemas):
        if "mapping" not in schema.get("discriminator", {"mapping": {}}):
            del schema["discriminator"]
    for name, fields in FIELDS.items():
        for schema in _schemas_in(schemas[name]):
            for field in fields:
                schema.get("properties", {}).pop(field, None)
    for name, kinds in KINDS.items():
        for schema in _schemas_in(schemas[name]):
            _keep(schema, kinds)
    got, deleted = response_ids
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            identity = deleted if method == "delete" else got
            _frame(operation)
            _know(operation, {"model": "bobot", "response_id": identity})
            if (path, method) == ("/responses/{response_id}", "delete"):
                del operation["responses"]["404"]
    return spec


def _schemas_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every dict inside."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _schemas_in(inner)


def _keep(schema: dict[str, Any], kinds: set[str]) -> None:
    for union in ("oneOf", "anyOf"):
        if union in schema:
            schema[union] = [
                kind
                for kind in schema[union]
                if "$ref" not in kind or kind["$ref"].rsplit("/", 1)[-1] in kinds
            ]


def _frame(operation: dict[str, Any]) -> None:
    """What the description says of an event is meant of its data, which is JSON or the last word
    of a stream; schemathesis wants it said of the whole event."""
    for answer in operation["responses"].values():
        found = answer.get("content", {}).get("text/event-stream")
        if found is not None:
            data = {"contentMediaType": "application/json", "contentSchema": found["schema"]}
            is_last = {"properties": {"data": {"const": "[DONE]"}}}
            found["schema"] = {
                "type": "object",
                "if": is_last,
                "else": {"properties": {"data": {"type": "string", **data}}},
            }


def _know(operation: dict[str, Any], values: dict[str, str]) -> None:
    """Gives parameters of the path a value that exists."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["schema"] = {"type": "string", "enum": [values[parameter["name"]]]}
            parameter.pop("example", None)
