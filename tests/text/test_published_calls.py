"""The grammar of an answer takes what each publisher's own template writes for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_answer_parser import TEMPLATES, prompt, prompt_with_answer, up_to_end

from bobot.errors import TemplateError
from bobot.text import Tokenizer
from bobot.text.answer_parser import answer_style
from bobot.text.answer_rules import AnswerRules, Calls
from bobot.text.chat_template import ChatTemplate
from bobot.text.constraints import Constraints


def accepted(constraints: Constraints, grammar: str, ids: list[int]) -> int:
    """How many of the ids the masks allow one after the other; one more for an end behind them."""
    constraint = constraints.of(grammar)
    for place, token_id in enumerate([*ids, constraints.eos_ids[0]]):
        bits = constraint.masks([])[0]
        if not bits[token_id // 8] >> (token_id % 8) & 1:
            return place
        constraint.accept(token_id)
    return len(ids) + 1


@pytest.mark.parametrize(("tokenizer_name", "template", "counts"), TEMPLATES)
def test_the_grammar_takes_what_the_template_writes(
    tokenizer_name: str,
    template: str | None,
    counts: tuple[int, int],
    shared: Path,
    published: Callable[[str], Tokenizer],
) -> None:
    tokenizer = published(tokenizer_name)
    folder = shared / "parity/templates"
    if template:
        expected = json.loads((folder / f"{template}.expected.json").read_text())
        names = {key: expected[key] for key in ("bos_token", "eos_token")}
        source = (folder / f"{template}.jinja").read_text()
        tokenizer = Tokenizer(tokenizer.vocabulary, ChatTemplate(source, names))
    constraints = Constraints(tokenizer, tokenizer.vocab_size, tokenizer.eos_ids)
    num_checked = 0
    wrong = []
    for case in json.loads((folder / "conversations.json").read_text()):
        messages, tools = case["messages"], case["tools"] or []
        for place in range(1, len(messages)):
            if messages[place]["role"] != "assistant" or case["name"] == "tool_args_json_string":
                continue
            try:
                before = prompt(tokenizer, messages[:place], tools)
                after = prompt_with_answer(tokenizer, messages[: place + 2], place, tools)
            except TemplateError:
                continue
            if after[: len(before)] != before:
                continue
            ids = answer_of(tokenizer, after[len(before) :])
            style = answer_style(tokenizer, tools=tools, prompt_ids=before)
            for calls in kinds(messages[place], tokenizer.decode(ids), bool(tools)):
                rules = AnswerRules(style, tools=tools, calls=calls)
                size = accepted(constraints, rules.grammar(tokenizer), ids)
                if size <= len(ids):
                    said, refused = tokenizer.decode(ids[:size]), tokenizer.decode(ids[size:])
                    wrong.append((case["name"], calls, said, refused))
            num_checked += 1
    assert not wrong
    assert num_checked == counts[0]


def answer_of(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The tokens of the answer without its end; of harmony's calls the first, after which gpt-oss
    stops."""
    ids = up_to_end(tokenizer, ids)
    ends = {tokenizer.special_tokens.get("<|end|>"), *tokenizer.eos_ids}
    if (call := tokenizer.special_tokens.get("<|call|>")) in ids:
        ids = ids[: ids.index(call)]
    return ids[:-1] if ids and ids[-1] in ends else ids


def kinds(message: dict[str, Any], text: str, has_tools: bool) -> list[Calls]:
    """What may be asked of an answer that says this; a forced call has no words in front."""
    if not has_tools:
        return ["none"]
    only_calls = message.get("tool_calls") and not message.get("content") and text
    return ["allowed", "required"] if only_calls else ["allowed"]
