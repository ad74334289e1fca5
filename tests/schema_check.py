"""The part of JSON schema that the tests use, checked without the library under test."""

from __future__ import annotations

from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> list[str]:
    """What is wrong with the value; nothing if it fits."""
    root = root or schema
    if "$ref" in schema:
        target = root
        for key in schema["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        return problems(value, target, root)
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{value!r} is not in {schema['enum']}")
    if "anyOf" in schema and all(problems(value, one, root) for one in schema["anyOf"]):
        found.append(f"{value!r} fits none of anyOf")
    kind = schema.get("type")
    if kind is not None:
        is_bool = isinstance(value, bool) and kind != "boolean"
        if not isinstance(value, TYPES[kind]) or is_bool:
            return [*found, f"{value!r} is no {kind}"]
    if isinstance(value, dict):
        found += _members(value, schema, root)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{len(value)} items")
        for item in value:
            found += problems(item, schema.get("items", {}), root)
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        found.append(f"{len(value)} letters")
    return found


def _members(value: dict, schema: dict[str, Any], root: dict[str, Any]) -> list[str]:
    known = schema.get("properties", {})
    found = [f"{key} is missing" for key in schema.get("required", ()) if key not in value]
    for key, member in value.items():
        if key in known:
            found += problems(member, known[key], root)
        elif schema.get("additionalProperties", True) is False:
            found.append(f"{key} is not allowed")
    return found
