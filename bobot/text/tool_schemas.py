"""Schemas of tools' arguments as they are enforced: closed, where JSON Schema leaves them open.

    {"type": "object", "properties": {"city": {"type": "string"}}}

allows any further property. Nobody who describes a tool so means it, and a small model that is held
to it may write properties of its own until its context is full. So only the named ones may come,
unless `additionalProperties` says otherwise; what fits the closed schema fits the given one.
llama.cpp and xgrammar read every schema so. Numbers keep any count of digits: llguidance bounds
integers of 64 bits only, and no fractions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MAX_DEPTH = 60

_BY_NAME = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")
_COMBINING = {"allOf", "oneOf", "not", "if", "dependentSchemas", "unevaluatedProperties"}
"""A closed object in one of these may contradict another, or no longer be told from it."""
_TOLD = {"additionalProperties", "patternProperties", "minProperties", "enum", "const"}
"""An object with one of these is not closed: it says itself what it holds."""


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with its objects closed; unchanged where two schemas speak of the same value
    anywhere, for there a closed one could leave nothing at all.
    """
    return schema if _combines(schema, 0) else _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    found = dict(schema)
    for key in _BY_NAME:
        if isinstance(found.get(key), Mapping):
            found[key] = {name: _closed(part) for name, part in found[key].items()}
    for key in _LISTS:
        if isinstance(found.get(key), list):
            found[key] = [_closed(part) for part in found[key]]
    for key in _SINGLE:
        if key in found:
            found[key] = _closed(found[key])
    if _may_be_closed(found):
        found["additionalProperties"] = False
    return found


def _may_be_closed(schema: Mapping[str, Any]) -> bool:
    properties, required = schema.get("properties"), schema.get("required", [])
    return (
        isinstance(properties, Mapping)
        and not _TOLD & schema.keys()
        and isinstance(required, list)
        and all(name in properties for name in required)
    )


def _combines(schema: Any, depth: int) -> bool:
    """Whether two schemas speak of the same value, here or below, or it is too deep to tell."""
    if not isinstance(schema, Mapping):
        return False
    has_two = "properties" in schema and ("anyOf" in schema or "$ref" in schema)
    if has_two or _COMBINING & schema.keys() or depth > MAX_DEPTH:
        return True
    return any(_combines(part, depth + 1) for part in _parts(schema))


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    for key in _BY_NAME:
        if isinstance(schema.get(key), Mapping):
            yield from schema[key].values()
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            yield from schema[key]
    yield from (schema[key] for key in _SINGLE if key in schema)
