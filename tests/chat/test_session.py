"""The conversation without a terminal: what each action leaves in it and sends to the model."""

from __future__ import annotations

import pytest
from fake_model import FakeModel

from bobot.chat.session import SETTINGS, Session
from bobot.errors import RequestError, UsageError


def talk(session: Session, model: FakeModel, *questions: str) -> None:
    for question in questions:
        session.ask(question)
        list(session.reply(model))


def contents(session: Session) -> list[str]:
    return [message.content for message in session.messages]


def test_reply_sends_the_conversation_and_keeps_the_answer() -> None:
    session, model = Session(), FakeModel()
    talk(session, model, "one", "two")
    assert [m["content"] for m in model.calls[-1]["messages"]] == ["one", "You said: one", "two"]
    assert contents(session) == ["one", "You said: one", "two", "You said: two"]
    assert not session.pending


def test_answer_stopped_in_the_middle_stays_in_the_conversation() -> None:
    session, model = Session(), FakeModel(answer="a b c d")
    session.ask("go")
    deltas = session.reply(model)
    assert [next(deltas).text, next(deltas).text] == ["a", " b"]
    deltas.close()
    assert contents(session) == ["go", "a b"]
    assert model.closed == 1, "the model's own iterator was not closed"


def test_question_without_an_answer_stays_pending_and_is_replaced_by_the_next() -> None:
    session, model = Session(), FakeModel()
    session.ask("lost")
    session.reply(model).close()
    assert session.pending
    session.ask("found")
    assert contents(session) == ["found"]


def test_undo_takes_back_question_and_answer() -> None:
    session = Session()
    talk(session, FakeModel(), "one", "two")
    assert session.undo() == "two"
    assert contents(session) == ["one", "You said: one"]
    session.undo()
    with pytest.raises(UsageError, match="nothing to undo"):
        session.undo()


def test_retry_answers_the_same_question_again() -> None:
    session, model = Session(), FakeModel()
    with pytest.raises(UsageError, match="nothing to retry"):
        session.retry()
    talk(session, model, "one")
    session.retry()
    assert session.pending
    list(session.reply(model))
    assert model.calls[0] == model.calls[1]


def test_system_prompt_of_a_persona_is_sent_in_the_language_of_the_interface() -> None:
    session, model = Session(), FakeModel()
    session.take_persona("rebel")
    for language, word in (("en", "witty"), ("id", "jenaka")):
        session.ask("x")
        list(session.reply(model, language))
        first = model.calls[-1]["messages"][0]
        assert first["role"] == "system"
        assert word in first["content"]


def test_plain_persona_and_system_off_send_no_system_message() -> None:
    session, model = Session(), FakeModel()
    talk(session, model, "x")
    session.take_persona("rebel")
    session.own_system = ""
    talk(session, model, "y")
    assert {message["role"] for call in model.calls for message in call["messages"]} == {
        "user",
        "assistant",
    }


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("temperature", "hot", "a number or default"),
        ("temperature", "-1", "0 or more"),
        ("temperature", "nan", "0 or more"),
        ("top_p", "1.5", "0 to 1"),
        ("top_k", "1.5", "a whole number"),
        ("max_tokens", "0", "1 or more"),
        ("temprature", "1", "temperature, top_p"),
    ],
)
def test_wrong_setting_names_what_is_allowed_and_changes_nothing(
    name: str, text: str, part: str
) -> None:
    session = Session()
    session.set("temperature", "0.5")
    with pytest.raises((UsageError, RequestError)) as raised:
        session.set(name, text)
    assert part in str(raised.value)
    assert session.settings == {"temperature": 0.5}


def test_settings_reach_the_model_and_default_gives_them_back() -> None:
    session, model = Session(), FakeModel()
    session.set("seed", "7")
    talk(session, model, "x")
    assert model.calls[-1]["seed"] == 7
    session.set("seed", "default")
    talk(session, model, "y")
    assert "seed" not in model.calls[-1]


def test_every_setting_has_a_default_to_show() -> None:
    values = {name: Session().default_of(name, FakeModel()) for name in SETTINGS}
    assert values["temperature"] == 0.7, "the publisher's advice must win"
    assert values["top_p"] == 1.0


def test_trim_drops_the_oldest_turns_until_half_the_context_is_free() -> None:
    session, model = Session(), FakeModel(answer="five words make an answer", max_model_len=40)
    talk(session, model, *(f"question number {i}" for i in range(5)))
    assert session.num_prompt_tokens(model, "en") == 40
    assert session.trim(model) == 3
    assert session.num_prompt_tokens(model, "en") == 16
    assert session.messages[0].content == "question number 3"


def test_trim_keeps_everything_when_the_last_message_alone_is_too_long() -> None:
    session, model = Session(), FakeModel(max_model_len=6)
    talk(session, model, "one")
    session.ask("a b c d e f g")
    before = contents(session)
    with pytest.raises(RequestError, match=r"takes 7 tokens.*has 6"):
        session.trim(model)
    assert contents(session) == before


def test_model_without_a_template_continues_the_text() -> None:
    session, model = Session(), FakeModel(template=None)
    talk(session, model, "Once", "Then")
    assert [call["prompt"] for call in model.calls] == ["Once", "Once\n and so on.\nThen"]


def test_session_survives_the_way_through_data() -> None:
    session = Session()
    session.take_persona("rebel")
    session.own_system = "Be brief."
    session.set("top_k", "40")
    talk(session, FakeModel(), "halo")
    copy = Session.from_dict(session.as_dict())
    assert copy.as_dict() == session.as_dict()
