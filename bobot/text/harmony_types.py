"""Tools as TypeScript, the form in which harmony shows functions to gpt-oss.

    namespace functions {

    // Get the current weather for a city.
    type get_weather = (_: {
    // City name
    city: string,
    unit?: "celsius" | "fahrenheit",
    }) => any;

    } // namespace functions

The same text as openai-harmony 0.0.8, odd spaces included, since the model was trained on it. What
that library does not show is not shown here: anyOf, allOf, $ref, const, bounds, and values of an
enum that are not strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MAX_DEPTH = 60
_PLAIN = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean"}


def namespace(name: str, functions: Sequence[Mapping]) -> str:
    """The functions (name, description, parameters) of one namespace, with its heading.

    Raises ValueError for a schema nested deeper than 60 levels.
    """
    lines = [f"## {name}\n", f"namespace {name} {{\n"]
    lines += [_function(function) for function in functions]
    return "\n".join([*lines, f"}} // namespace {name}"])


def _function(function: Mapping) -> str:
    description = function.get("description") or ""
    lines = description.removesuffix("\n").split("\n") if description else []
    comment = "".join(f"// {line}\n" for line in lines)
    parameters = function.get("parameters")
    taken = "" if parameters is None else f"_: {_type(parameters, '')}"
    return f"{comment}type {function['name']} = ({taken}) => any;\n"


def _type(schema: Any, indent: str) -> str:
    """The TypeScript of one JSON schema whose members stand at `indent`."""
    if len(indent) > 4 * _MAX_DEPTH:
        raise ValueError(f"a tool's parameters are nested deeper than {_MAX_DEPTH} levels")
    schema = schema if isinstance(schema, Mapping) else {}
    kind = schema.get("type")
    if isinstance(schema.get("oneOf"), list):
        return "".join(f"\n{variant}" for variant in _variants(schema["oneOf"], indent))
    if isinstance(kind, list):
        names = [_mapped(name) for name in kind if isinstance(name, str)]
        return " | ".join(names) or "any"
    if kind == "object":
        return _object(schema, indent)
    if kind == "array":
        return f"{_type(schema['items'], indent)}[]" if "items" in schema else "Array<any>"
    if kind == "string" and _enum(schema):
        texts = [f'"{value}"' for value in schema["enum"] if isinstance(value, str)]
        return " | ".join(texts) or kind
    return _PLAIN.get(kind, "any") if isinstance(kind, str) else "any"


def _mapped(name: str) -> str:
    return "number" if name == "integer" else name


def _object(schema: Mapping, indent: str) -> str:
    properties = schema.get("properties")
    required = schema.get("required")
    required = required if isinstance(required, list) else []
    text = _comment(schema.get("description"), indent) + "{\n"
    for name, value in (properties if isinstance(properties, Mapping) else {}).items():
        text += "".join(_property(name, value, name in required, indent))
    return f"{text}{indent}}}"


def _property(name: str, schema: Any, is_required: bool, indent: str) -> Iterator[str]:
    """The lines of one property: what is said about it, then its name and type."""
    schema = schema if isinstance(schema, Mapping) else {}
    mark = "" if is_required else "?"
    if isinstance(schema.get("title"), str):
        yield f"{indent}// {schema['title']}\n{indent}//\n"
    if not isinstance(schema.get("oneOf"), list):
        yield _comment(schema.get("description"), indent)
        yield from _examples(schema, indent)
        default = f", // {_default(schema)}" if "default" in schema else ","
        yield f"{indent}{name}{mark}: {_nullable(schema, indent + '    ')}{default}\n"
        return
    yield from _examples(schema, indent)
    if not schema["oneOf"] or _description(schema["oneOf"][0]) != _description(schema):
        yield _comment(schema.get("description"), indent)
    if "default" in schema:
        yield f"{indent}// {_default(schema)}\n"
    yield f"{indent}{name}{mark}:\n"
    for variant in _variants(schema["oneOf"], indent, schema):
        yield f"{variant}\n"
    yield f"{indent},\n"


def _comment(text: object, indent: str) -> str:
    return f"{indent}// {text}\n" if isinstance(text, str) else ""


def _examples(schema: Mapping, indent: str) -> Iterator[str]:
    examples = schema.get("examples")
    if isinstance(examples, list) and examples:
        yield f"{indent}// Examples:\n"
        yield from (f'{indent}// - "{text}"\n' for text in examples if isinstance(text, str))


def _variants(variants: list, indent: str, owner: Mapping | None = None) -> Iterator[str]:
    """The alternatives of a oneOf; `owner` is the property that has them, if one does.

    A property's description is not repeated, and takes the place of its first alternative's.
    """
    told = _description(owner)
    for number, variant in enumerate(variants):
        shown = variant if isinstance(variant, Mapping) else {}
        is_told = told is not None and (number == 0 or shown.get("description") == told)
        notes = [str(shown["description"])] if "description" in shown and not is_told else []
        if "default" in shown:
            notes.append(_default(shown if owner is not None else {"default": shown["default"]}))
        comment = f" // {' '.join(notes)}" if notes else ""
        yield f"{indent} | {_nullable(shown, indent + '   ')}{comment}"


def _description(schema: object) -> str | None:
    text = schema.get("description") if isinstance(schema, Mapping) else None
    return text if isinstance(text, str) else None


def _nullable(schema: Mapping, indent: str) -> str:
    text = _type(schema, indent)
    return text + " | null" if schema.get("nullable") is True and "null" not in text else text


def _default(schema: Mapping) -> str:
    value = schema["default"]
    if isinstance(value, str):
        return f"default: {value}" if _enum(schema) else f'default: "{value}"'
    return "default: " + json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _enum(schema: Mapping) -> bool:
    return isinstance(schema.get("enum"), list) and bool(schema["enum"])
