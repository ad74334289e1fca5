"""Small tokenizers with the special tokens and templates of each family's answers, and short ways
to parse with them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from itertools import count, pairwise
from pathlib import Path

import tiny_tokenizers as tiny

from bobot.text import Tokenizer, load_tokenizer
from bobot.text.answer_parser import AnswerParser, answer_parser
from bobot.text.parts import Part, PartDelta, parts_of

HARMONY = [
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>"),
    "<|call|>",
]
KIMI = [
    *("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|im_end|>"),
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
    *("<|tool_call_argument_begin|>", "<|tool_call_end|>", "<think>", "</think>"),
]
MISTRAL = ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"]
LLAMA = ["<|begin_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]

THINK_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: <think>\n"
)
# name -> (special tokens, chat template): what decides which parser is taken.
FAMILIES: dict[str, tuple[list[str], str | None]] = {
    "harmony": (HARMONY, None),
    "kimi": (KIMI, "<|im_assistant|>{{ messages[0].content }}"),
    "mistral": (MISTRAL, "[INST]{{ messages[0].content }}[/INST]"),
    "llama": (LLAMA, "{{ messages[0].content }}"),
    "think": (["<|end|>"], THINK_TEMPLATE),
    "plain": (["<|end|>"], "{{ messages[0].content }}"),
}


def family(name: str, folder: Path) -> Tokenizer:
    """A byte-level tokenizer with the special tokens and the template of FAMILIES[name]."""
    specials, template = FAMILIES[name]
    document = tiny.byte_level_json()
    vocab = document["model"]["vocab"]
    for token in [t for t in document["added_tokens"] if t["content"] in vocab]:
        del vocab[token["content"]]
    first = len(vocab)
    document["added_tokens"] = [tiny._added(first + i, name) for i, name in enumerate(specials)]
    target = folder / name
    target.mkdir(exist_ok=True)
    (target / "tokenizer.json").write_text(json.dumps(document))
    config = {} if template is None else {"chat_template": template}
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(target)


def numbered() -> Iterator[str]:
    return (f"call{number:05d}" for number in count(1))


def parser_of(tokenizer: Tokenizer, *, tools: list | None = None) -> AnswerParser:
    return answer_parser(tokenizer, tools=tools, new_call_id=numbered().__next__)


def pushed(parser: AnswerParser, pieces: Iterable[int | str]) -> list[PartDelta]:
    return [delta for piece in pieces for delta in parser.push(piece)] + parser.finish()


def parts(tokenizer: Tokenizer, answer: str, *, tools: list | None = None) -> list[Part]:
    """The parts of an answer in which special tokens are written out; parsed from its ids."""
    ids = tokenizer.encode(answer, allow_special=True)
    return parts_of(pushed(parser_of(tokenizer, tools=tools), ids))


def cut(text: str, rng: random.Random) -> list[str]:
    """`text` in pieces of random lengths."""
    places = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(0, 12))))
    ends = [0, *places, len(text)]
    return [text[a:b] for a, b in pairwise(ends)]


def short(found: list[Part]) -> list[tuple[str, ...]]:
    """Parts as tuples that are quick to compare: calls with their name, the others without."""
    return [
        (part.kind, part.name, part.text) if part.kind == "tool_call" else (part.kind, part.text)
        for part in found
    ]
