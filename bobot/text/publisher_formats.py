"""Chat formats of publishers whose own folders hold no template: Meta's Llama 2 and 3, Mistral's.

Sources: meta-llama/llama llama/generation.py (Llama 2), meta-llama/llama-models
models/llama3/chat_format.py, mistralai/mistral-common tokens/tokenizers/instruct.py (v1, v3,
tekken) with its request normaliser. The special tokens stand as text in what render returns.
After one of them SentencePiece puts its own space in front of what follows, so that Mistral v3
writes none.
"""

from __future__ import annotations

import json
import re
from typing import Any

from bobot.errors import TemplateError


class PublisherFormat:
    """The format of one kind: llama2, llama3, mistral_v1, mistral_v3 or mistral_tekken."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.source = f"built-in: {kind}"
        self.published: str | None = None
        self.takes_argument_text = True

    def takes(self, variable: str) -> bool:
        return variable == "tools" and self.kind in ("mistral_v3", "mistral_tekken")

    def render(self, messages: list, tools: list | None, **variables: Any) -> str:
        """The prompt; TemplateError where the publisher's code refuses the conversation."""
        if self.kind == "llama3":
            return _llama3(messages, tools, bool(variables.get("add_generation_prompt", True)))
        if self.kind == "llama2":
            return _llama2(messages, tools)
        return _mistral(messages, tools, self.kind)


def _refuse(problem: str) -> TemplateError:
    return TemplateError("The chat format refuses this conversation: {problem}", problem=problem)


def _text(message: dict) -> str:
    """The text of a message; text parts are joined by blank lines, as mistral-common does."""
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise _refuse("a message holds parts other than text")
        return "\n\n".join(part["text"] for part in content)
    if content is not None and not isinstance(content, str):
        raise _refuse("the content of a message is not text")
    return content or ""


def _check_roles(messages: list, allowed: tuple[str, ...]) -> None:
    for message in messages:
        if message.get("role") not in allowed:
            raise _refuse(f"role {message.get('role')!r}; allowed: {', '.join(allowed)}")


def _llama3(messages: list, tools: list | None, add_generation_prompt: bool) -> str:
    _check_roles(messages, ("system", "user", "assistant", "ipython"))
    if tools:
        raise _refuse("the built-in Llama 3 format has no tools")
    turns = [(message["role"], _text(message).strip() + "<|eot_id|>") for message in messages]
    turns += [("assistant", "")] if add_generation_prompt else []
    headed = (f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}" for role, text in turns)
    return "<|begin_of_text|>" + "".join(headed)


def _llama2(messages: list, tools: list | None) -> str:
    if tools:
        raise _refuse("the Llama 2 format has no tools")
    _check_roles(messages, ("system", "user", "assistant"))
    texts = [_text(message) for message in messages]
    roles = [message["role"] for message in messages]
    if roles[:1] == ["system"] and len(roles) > 1:
        texts[:2] = [f"<<SYS>>\n{texts[0]}\n<</SYS>>\n\n{texts[1]}"]
        del roles[0]
    if not roles or roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        raise _refuse("after an optional system message, user and assistant must take turns")
    turns = [
        f"<s>[INST] {text.strip()} [/INST]" if role == "user" else f" {text.strip()} </s>"
        for role, text in zip(roles, texts, strict=True)
    ]
    return "".join(turns)


def _mistral(messages: list, tools: list | None, kind: str) -> str:
    """v1 writes [INST] as text and knows no tools; v3 and tekken have special tokens for both.

    The system prompt goes before the first user turn in v1, before the last one in v3 and tekken.
    """
    system, turns = _mistral_turns(messages)
    users = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
    place = users[0] if kind == "mistral_v1" else users[-1]
    if system:
        turns[place]["content"] = system + "\n\n" + turns[place]["content"]
    prompt = "<s>"
    for number, turn in enumerate(turns):
        if turn["role"] == "user":
            if tools and number == users[-1] and kind != "mistral_v1":
                prompt += (
                    f"[AVAILABLE_TOOLS]{_json(list(map(_mistral_tool, tools)))}[/AVAILABLE_TOOLS]"
                )
            space = " " if kind == "mistral_v1" else ""
            prompt += f"[INST]{space}{turn['content']}{space}[/INST]"
        elif kind == "mistral_v1" and (turn["role"] == "tool" or turn["calls"]):
            raise _refuse("Mistral's first format has no tools")
        elif turn["role"] == "tool":
            result = {"content": _parsed(turn["content"]), "call_id": _call_id(turn["id"])}
            prompt += f"[TOOL_RESULTS]{_json(result)}[/TOOL_RESULTS]"
        elif turn["calls"]:
            prompt += f"[TOOL_CALLS]{_json(list(map(_mistral_call, turn['calls'])))}</s>"
        elif kind == "mistral_v1":
            prompt += f" {turn['content']}</s>"
        else:
            prompt += f"{turn['content'].rstrip(' ')}</s>"
    return prompt


def _mistral_turns(messages: list) -> tuple[str, list[dict]]:
    """The system prompt; the turns, neighbours of one role merged, with a user turn in front."""
    _check_roles(messages, ("system", "user", "assistant", "tool"))
    system = "\n\n".join(_text(message) for message in messages if message["role"] == "system")
    turns: list[dict] = []
    for message in messages:
        role, text, calls = message["role"], _text(message), message.get("tool_calls") or []
        if role == "system":
            continue
        if calls and text:
            raise _refuse("an assistant message has both content and tool_calls")
        if turns and role == turns[-1]["role"] != "tool":
            turns[-1]["content"] = "\n\n".join(filter(None, (turns[-1]["content"], text)))
            turns[-1]["calls"] += calls
        else:
            call_id = message.get("tool_call_id")
            turns.append({"role": role, "content": text, "calls": list(calls), "id": call_id})
    if turns and turns[-1]["role"] == "assistant":
        raise _refuse("the last message is from the assistant; it must be from user or tool")
    if not turns or turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": "", "calls": [], "id": None})
    return system, turns


def _mistral_tool(tool: dict) -> dict:
    function = tool["function"]
    inner = {"name": function["name"], "description": function.get("description", "")}
    return {
        "type": "function",
        "function": inner | {"parameters": function.get("parameters") or {}},
    }


def _mistral_call(call: dict) -> dict:
    function = call["function"]
    arguments = _parsed(function["arguments"])
    return {"name": function["name"], "arguments": arguments, "id": _call_id(call.get("id"))}


def _call_id(call_id: object) -> str:
    if not isinstance(call_id, str) or not re.fullmatch("[a-zA-Z0-9]{9}", call_id):
        raise _refuse(f"tool call id {call_id!r}; allowed: 9 letters and digits")
    return call_id


def _parsed(value: Any) -> Any:
    """JSON text as what it says, any other text as itself."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
