"""Chat prompts: published templates and formats, the sandbox, imitated special tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers as tiny

from bobot.errors import TemplateError, TokenizerError
from bobot.text import Tokenizer, load_tokenizer
from bobot.text.chat_template import ChatTemplate

TEMPLATES = [
    "llama-2-chat",
    "llama-3-instruct",
    "meta-llama-3.1",
    "mistral-7b-instruct-v0.2",
    "mistral-7b-instruct-v0.2-v1",
    "mistral-large-2407-v3",
    "mistral-nemo-2407",
    "openai-gpt-oss",
    "kimi-k2-instruct",
    "kimi-k2-instruct-original",
    "kimi-k2-thinking",
]
NOW = datetime(2026, 11, 20, 8, 30)


def conversations(shared: Path) -> dict[str, dict]:
    cases = json.loads((shared / "parity/templates/conversations.json").read_text())
    return {case["name"]: case for case in cases}


def render(source: str, messages: list | None = None, **variables: Any) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    messages = [{"role": "user", "content": "halo"}] if messages is None else messages
    return template.render(messages, None, now=lambda: NOW, **variables)


@pytest.mark.parametrize("name", TEMPLATES)
def test_published_template_gives_the_text_transformers_gives(name: str, shared: Path) -> None:
    folder = shared / "parity/templates"
    expected = json.loads((folder / f"{name}.expected.json").read_text())
    now = datetime.fromisoformat(expected["now"])
    special = {key: expected[key] for key in ("bos_token", "eos_token")}
    template = ChatTemplate((folder / f"{name}.jinja").read_text(), special)
    known = conversations(shared)
    for case in expected["cases"]:
        given = known[case["conversation"]]
        variables = {"add_generation_prompt": given["add_generation_prompt"], **given["kwargs"]}
        variables |= {**case["kwargs"], "now": lambda: now}
        if "error" in case:
            with pytest.raises(TemplateError):
                template.render(given["messages"], given["tools"], **variables)
        else:
            text = template.render(given["messages"], given["tools"], **variables)
            assert text == case["text"], case["conversation"]


@pytest.mark.parametrize("name", ["mistral_v1", "mistral_v3", "mistral_tekken"])
def test_built_in_mistral_format_gives_mistral_commons_ids(
    name: str, shared: Path, published: Callable[[str], Tokenizer]
) -> None:
    tokenizer = published(name)
    expected = json.loads((shared / f"parity/templates/{name}.mistral_common.json").read_text())
    known = conversations(shared)
    for case in expected["cases"]:
        given = known[case["conversation"]]
        if "error" in case:
            with pytest.raises(TemplateError):
                tokenizer.encode_chat(given["messages"], given["tools"])
        else:
            ids = tokenizer.encode_chat(given["messages"], given["tools"])
            assert ids == case["ids"], case["conversation"]


@pytest.mark.parametrize(
    ("tokenizer_name", "template_name"),
    [("llama3", "llama-3-instruct"), ("llama2", "llama-2-chat")],
)
def test_built_in_llama_format_gives_the_published_templates_text(
    tokenizer_name: str, template_name: str, shared: Path, published: Callable[[str], Tokenizer]
) -> None:
    tokenizer = published(tokenizer_name)
    expected = json.loads((shared / f"parity/templates/{template_name}.expected.json").read_text())
    known = conversations(shared)
    num_compared = 0
    for case in expected["cases"]:
        given = known[case["conversation"]]
        roles = [message["role"] for message in given["messages"]]
        is_plain = not given["tools"] and "error" not in case and given["add_generation_prompt"]
        if tokenizer_name == "llama2":  # the published test template opens no turn without system
            is_plain = is_plain and roles[:2] == ["system", "user"]
        if not is_plain or case["conversation"] in ("content_parts", "developer_role"):
            continue
        text = case["text"]
        if tokenizer_name == "llama2":  # Meta's code strips each message and puts BOS first
            messages = [m | {"content": m["content"].strip()} for m in given["messages"]]
            folder = shared / "parity/templates"
            source = (folder / f"{template_name}.jinja").read_text()
            text = "<s>" + render(source, messages, add_generation_prompt=True)
        assert tokenizer.render(given["messages"]) == text, case["conversation"]
        num_compared += 1
    assert num_compared >= 8


def test_template_features_that_publishers_use() -> None:
    assert render("{% generation %}a{{ 1 }}{% endgeneration %}b") == "a1b"
    loop = "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert render(loop) == "01"
    assert render("{% set l = [] %}{% set _ = l.append(3) %}{{ l }}") == "[3]"
    assert render("{{ strftime_now('%d %B %Y') }}") == "20 November 2026"
    assert render("{{ {'a': '<\u4f60>'} | tojson }}") == '{"a": "<\u4f60>"}'
    assert render("{{ bos_token }}{{ x }}", x=5) == "<s>5"
    assert render("{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{{ n.a }}") == "2"
    assert render("{{ 'a' ~ 1 ~ none }}") == "a1None"
    assert render("{{ '{}-{:02d}'.format('a', 5) }}") == "a-05"


def test_a_template_changes_nothing_of_the_caller() -> None:
    messages = [{"role": "user", "content": ["a"]}]
    assert render(
        "{% set _ = messages[0].content.append('b') %}{{ messages[0].content }}", messages
    )
    assert messages == [{"role": "user", "content": ["a"]}]


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__init__.x }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{{ '%s' % messages }}",
        "{{ '{0.__class__.x}'.format(messages) }}",
        "{{ messages.clear() }}",
        "{{ messages[0].update(a=1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ self._TemplateReference__context.x }}",
        "{{ raise_exception('no') }}",
        "{{ absent.x }}",
        "{% for %}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_template_that_fails_or_reaches_outside_is_refused(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for a in [[[]]] recursive %}{{ loop([a, a]) }}{{ loop([a, a]) }}{% endfor %}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ [0] * 10 ** 10 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% set n = namespace(x='aa') %}{% for a in range(40) %}{% set n.x=n.x+n.x %}{% endfor %}",
        "{% set n = namespace(x='aa') %}{% for a in range(40) %}{% set n.x=n.x~n.x %}{% endfor %}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 10 ** 9) }}",
        "{% set n = namespace(x=9) %}{% for a in range(40) %}{% set n.x=n.x * n.x %}{% endfor %}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a' | center(10 ** 9) }}",
        "{{ 'a\nb' | indent(10 ** 9) }}",
        "{{ [1, 2] | tojson(indent=10 ** 9) }}",
        "{{ [1] | batch(10 ** 9, 0) | list }}",
        "{{ [1] | slice(10 ** 9) | list }}",
        "{{ ('a' * 10 ** 6).replace('a', 'b' * 10 ** 6) }}",
        "{{ ('a' * 10 ** 6) | replace('a', 'b' * 10 ** 6) }}",
        "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}",
        "x" * ((1 << 20) + 1),
    ],
)
def test_a_template_without_end_is_stopped(source: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateError):
        render(source)
    assert time.process_time() - start < 6


def special_names(tokenizer: Tokenizer) -> Iterator[str]:
    yield from list(tokenizer.special_tokens)[:12]


def chat_tokenizer(folder: Path, template: str) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(tiny.byte_level_json()))
    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


TURNS = (
    "{% for m in messages %}<|begin|>{{ m.role }}\n{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
)


@pytest.mark.parametrize("wrap", ["{}", "a{}b", " {} ", "{0}{0}", "<|{}", "{}|>"])
def test_special_tokens_in_a_message_stay_text(wrap: str, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, TURNS)
    specials = set(tokenizer.special_tokens.values())
    begin, end = (tokenizer.special_tokens[name] for name in ("<|begin|>", "<|end|>"))
    for name in special_names(tokenizer):
        messages = [{"role": "user", "content": wrap.format(name)}]
        tools = [{"type": "function", "function": {"name": name, "a": [{name: name}]}}]
        ids = tokenizer.encode_chat(messages, tools)
        assert [i for i in ids if i in specials] == [begin, end], name
        assert tokenizer.decode(ids) == tokenizer.render(messages, tools), name


@pytest.mark.parametrize(
    ("template", "contents"),
    [
        ("{{ messages[0].content }}{{ messages[1].content }}", ("<|en", "d|>")),
        ("{{ messages[0].content | trim }}{{ messages[1].content | trim }}", ("<|en ", " d|>")),
        ("<|{{ messages[0].content }}{{ messages[1].content }}", ("end|>", "")),
        ("{{ messages[0].content }}{{ messages[1].content }}|>", ("", "<|end")),
        ("{{ messages[0].content }}nd|>{{ messages[1].content }}", ("<|e", "")),
    ],
)
def test_messages_cannot_build_a_special_token_with_their_surroundings(
    template: str, contents: tuple[str, str], tmp_path: Path
) -> None:
    tokenizer = chat_tokenizer(tmp_path, template)
    messages = [{"role": "user", "content": content} for content in contents]
    assert "<|end|>" in tokenizer.render(messages)
    ids = tokenizer.encode_chat(messages)
    assert not set(ids) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids) == tokenizer.render(messages)


def test_special_tokens_in_messages_stay_text_with_every_real_tokenizer(
    published: Callable[[str], Tokenizer],
) -> None:
    for name in ("llama3", "llama2", "mistral_v3"):
        tokenizer = published(name)
        specials = set(tokenizer.special_tokens.values())

        def count(content: str, tokenizer: Tokenizer = tokenizer, specials: set = specials) -> int:
            ids = tokenizer.encode_chat([{"role": "user", "content": content}])
            return sum(token_id in specials for token_id in ids)

        for lookalike in special_names(tokenizer):
            assert count(f"x {lookalike} {lookalike}{lookalike}") == count("x"), (name, lookalike)


def test_a_message_may_hold_the_marks_own_characters(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, TURNS)
    messages = [{"role": "user", "content": "\U000f0000<|end|>\U000f0001"}]
    assert tokenizer.decode(tokenizer.encode_chat(messages)) == tokenizer.render(messages)


def test_a_chat_without_messages_or_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="empty"):
        chat_tokenizer(tmp_path, TURNS).render([])
    (tmp_path / "plain").mkdir()
    plain = load_tokenizer(tiny.sentencepiece_file(tmp_path / "plain/tokenizer.model"))
    with pytest.raises(TokenizerError, match="no chat template"):
        plain.render([{"role": "user", "content": "halo"}])


def test_a_list_of_templates_has_one_for_tools(tmp_path: Path) -> None:
    named = {"default": "plain", "tool_use": "tools {{ tools | length }}"}
    listed = [{"name": name, "template": text} for name, text in named.items()]
    tokenizer = chat_tokenizer(tmp_path, TURNS)
    config = json.dumps({"chat_template": listed})
    (tmp_path / "tokenizer_config.json").write_text(config)
    tokenizer = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "x"}]
    assert (tokenizer.render(messages), tokenizer.render(messages, [{}])) == ("plain", "tools 1")
