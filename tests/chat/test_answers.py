"""Structured answers of LocalModel and Session: reasoning, calls, stop strings, the next prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_model import FakeModel
from scripted_engine import HARMONY, scripted_model

from bobot.chat.answer import Answer
from bobot.chat.local import LocalModel
from bobot.chat.session import Session
from bobot.errors import RequestError, TemplateError, UsageError

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
ASK = [{"role": "user", "content": "halo"}]
THINKS = (
    "<|channel|>analysis<|message|>Hm, END.<|end|><|start|>assistant<|channel|>final<|message|>"
    "Halo! END of it<|return|>"
)
CALLS = (
    "<|channel|>analysis<|message|>f it is<|end|><|start|>assistant<|channel|>commentary<|message|>"
    "Wait.<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json"
    '<|message|>{"a": 1}<|call|>'
)


@pytest.fixture
def harmony(tmp_path: Path) -> Callable[[str], LocalModel]:
    return lambda answer: scripted_model(tmp_path, HARMONY, None, answer)


def test_an_answer_has_its_parts_and_chat_gives_the_text_alone(harmony: Callable) -> None:
    model = harmony(THINKS)
    answer = model.answer(ASK)
    assert (answer.text, answer.reasoning) == ("Halo! END of it", "Hm, END.")
    assert (answer.tool_calls, answer.finish_reason) == ((), "stop")
    assert answer.message["reasoning_content"] == "Hm, END."
    assert model.chat(ASK) == "Halo! END of it"
    pieces = list(model.chat(ASK, stream=True))
    assert "".join(pieces) == "Halo! END of it"
    assert all(len(piece.ids) == 1 for piece in pieces), "not one piece per token"
    assert pieces[-1].finish_reason == "stop"
    assert len(pieces) == model.last_stats.num_completion_tokens


def test_deltas_add_up_to_the_answer_and_count_every_token(harmony: Callable) -> None:
    for script in (THINKS, CALLS):
        model = harmony(script)
        deltas = list(model.answer(ASK, stream=True, tools=TOOLS))
        whole = model.answer(ASK, tools=TOOLS)
        assert [(p.kind, p.name, p.text) for p in Answer.of(deltas).parts] == [
            (p.kind, p.name, p.text) for p in whole.parts
        ]
        assert [d.finish_reason for d in deltas if d.finish_reason] == [deltas[-1].finish_reason]
        assert sum(delta.num_tokens for delta in deltas) == model.last_stats.num_completion_tokens


def test_a_call_ends_the_answer_and_comes_back_in_the_next_prompt(harmony: Callable) -> None:
    model = harmony(CALLS)
    answer = model.answer(ASK, tools=TOOLS)
    [call] = answer.tool_calls
    assert (call.name, call.arguments, call.is_malformed) == ("f", {"a": 1}, False)
    assert (answer.finish_reason, model.last_stats.finish_reason) == ("tool_calls", "tool_calls")
    assert answer.text == "Wait."
    result = {"role": "tool", "tool_call_id": call.id, "content": "7"}
    model.answer([*ASK, answer.message, result], tools=TOOLS)
    prompt = model.tokenizer.decode(model.engine.prompts[-1])
    written = prompt.split("halo<|end|><|start|>assistant", 1)[1]
    assert written == (
        "<|channel|>analysis<|message|>f it is<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>Wait.<|end|><|start|>assistant to=functions.f<|channel|>commentary"
        ' <|constrain|>json<|message|>{"a": 1}<|call|><|start|>functions.f to=assistant'
        "<|channel|>commentary<|message|>7<|end|><|start|>assistant"
    )


@pytest.mark.parametrize(
    ("num_tokens", "text", "reasoning", "calls"),
    [(10, "", "", []), (13, "", "Hm,", []), (10_000, "Wait.", "f it is", ["f"])],
)
def test_an_answer_cut_by_its_limit_keeps_what_was_said(
    harmony: Callable, num_tokens: int, text: str, reasoning: str, calls: list[str]
) -> None:
    script = THINKS if num_tokens < 100 else CALLS.removesuffix("}<|call|>")
    answer = harmony(script).answer(ASK, tools=TOOLS, max_tokens=num_tokens)
    assert (answer.text, answer.reasoning) == (text, reasoning)
    assert answer.finish_reason == "length"
    assert [call.name for call in answer.tool_calls] == calls
    assert all(call.is_malformed for call in answer.tool_calls)


def test_a_stop_string_counts_in_the_text_alone(harmony: Callable) -> None:
    model = harmony(THINKS)
    answer = model.answer(ASK, stop="END")
    assert (answer.reasoning, answer.text) == ("Hm, END.", "Halo! ")
    assert answer.finish_reason == "stop"
    pieces = list(model.chat(ASK, stream=True, stop=["END"]))
    assert "".join(pieces) == "Halo! "
    assert not model.engine.requests, "the request was not given back"
    assert model.answer(ASK, stop="never ENDs").text == "Halo! END of it"


def test_several_answers_are_read_apart(harmony: Callable) -> None:
    model = harmony(THINKS)
    texts = ["", ""]
    for piece in model.chat(ASK, stream=True, n=2):
        texts[piece.index] += piece
    assert texts == ["Halo! END of it"] * 2
    with pytest.raises(RequestError, match="n is 2"):
        model.answer(ASK, n=2)


def test_reasoning_effort_reaches_the_prompt_or_is_refused(
    harmony: Callable, tmp_path: Path
) -> None:
    model = harmony(THINKS)
    model.chat(ASK, reasoning_effort="high")
    assert "Reasoning: high" in model.tokenizer.decode(model.engine.prompts[-1])
    with pytest.raises(TemplateError, match="low, medium, high"):
        model.chat(ASK, reasoning_effort="max")
    (tmp_path / "plain").mkdir()
    plain = scripted_model(tmp_path / "plain", ["<|end|>"], "{{ messages[0].content }}", "x")
    with pytest.raises(RequestError, match="no reasoning effort"):
        plain.chat(ASK, reasoning_effort="low")
    with pytest.raises(RequestError, match="takes no tools"):
        plain.chat(ASK, tools=TOOLS)


def test_a_base_model_continues_text_and_refuses_a_chat(tmp_path: Path) -> None:
    model = scripted_model(tmp_path, ["<|end|>"], None, " dan")
    assert "".join(model.generate("halo")) == " dan"
    for ask in (model.chat, model.answer):
        with pytest.raises(TemplateError, match="like every base model it continues text"):
            ask(ASK)


def test_without_markers_chat_and_generate_give_the_same_pieces(tmp_path: Path) -> None:
    text = 'caf\u00e9 <think> {"name": "f"} [TOOL_CALLS] \U0001f642'
    model = scripted_model(tmp_path, ["<|end|>"], "{{ messages[0].content }}", text)
    prompt = model.tokenizer.encode_chat(ASK)
    chat = [(str(p), p.ids, p.finish_reason) for p in model.chat(ASK, stream=True)]
    generated = [(str(p), p.ids, p.finish_reason) for p in model.generate(prompt, max_tokens=None)]
    assert chat == generated
    assert "".join(piece for piece, _, _ in chat) == text


# ---------------------------------------------------------------------- the session


def talk(session: Session, model: Any, question: str = "q") -> list[Any]:
    session.ask(question)
    return list(session.reply(model))


def test_a_session_keeps_the_reasoning_beside_the_text() -> None:
    model = FakeModel(parts=[("reasoning", "hm so"), ("text", "it is"), ("text", "four")])
    session = Session()
    talk(session, model)
    assert session.messages[-1].content == "it is\n\nfour"
    assert session.last_reasoning == "hm so"
    talk(session, model)
    assert model.calls[-1]["messages"][1] == {
        "role": "assistant",
        "content": "it is\n\nfour",
        "reasoning_content": "hm so",
    }
    copy = Session.from_dict(session.as_dict())
    assert copy.as_dict() == session.as_dict()


def test_a_call_that_nobody_runs_is_quoted_in_the_text() -> None:
    model = FakeModel(parts=[("text", "Wait."), ("tool_call", 'f {"a": 1}')])
    session = Session()
    deltas = talk(session, model)
    assert {delta.kind for delta in deltas} == {"text"}
    shown = "".join(delta.text for delta in deltas)
    assert session.messages[-1].content == shown
    assert shown == 'Wait.\n\n```json\n{"name": "f", "arguments": {"a": 1}}\n```'


def test_reasoning_alone_leaves_the_question_open_and_can_be_looked_at() -> None:
    session = Session()
    talk(session, FakeModel(parts=[("reasoning", "hm so")]))
    assert session.pending
    assert session.last_reasoning == "hm so"
    talk(session, FakeModel())
    assert session.last_reasoning == ""


def test_reasoning_effort_of_a_session_is_checked_and_sent() -> None:
    thinking, plain = FakeModel(parts=[("text", "x")]), FakeModel()
    session = Session()
    session.set_reasoning_effort("low", thinking)
    with pytest.raises(UsageError, match="low, medium, high, default"):
        session.set_reasoning_effort("max")
    with pytest.raises(UsageError, match="no reasoning effort"):
        session.set_reasoning_effort("high", plain)
    talk(session, thinking)
    talk(session, plain)
    assert thinking.calls[-1]["reasoning_effort"] == "low"
    assert "reasoning_effort" not in plain.calls[-1]
    assert Session.from_dict(session.as_dict()).reasoning_effort == "low"


def test_a_conversation_of_an_older_version_still_loads() -> None:
    older = {
        "persona": "plain",
        "persona_system": {},
        "system": None,
        "settings": {"top_k": 5},
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    }
    session = Session.from_dict(older)
    assert (session.reasoning_effort, session.last_reasoning) == (None, "")
    assert session.settings == {"top_k": 5}
