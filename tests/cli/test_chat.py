"""The chat in a pipe and on a screen that plays a person: commands, saving, a full context,
Ctrl-C.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_model import FakeModel

from bobot.chat.archive import Archive
from bobot.chat.session import Session
from bobot.chat.store import Store
from bobot.cli import chat as chat_command
from bobot.cli.chat_commands import METHODS, help_lines, names, parse
from bobot.cli.chat_loop import Chat
from bobot.errors import NotFoundError, StorageError, TemplateError
from bobot.messages import tr
from bobot.text.parts import PartDelta

Run = Callable[..., tuple[int, str, str]]


class Person:
    """A screen: types the entries given, sees everything in `seen`."""

    is_interactive = True

    def __init__(self, *entries: str | BaseException) -> None:
        self.entries = list(entries)
        self.seen: list[str] = []

    def read(self, status: str) -> str:
        if not self.entries:
            raise EOFError
        entry = self.entries.pop(0)
        if isinstance(entry, BaseException):
            raise entry
        return entry

    def answer(self, deltas: Iterator[PartDelta]) -> None:
        self.seen.append("".join(delta.text for delta in deltas if delta.kind == "text"))

    def say(self, text: str) -> None:
        self.seen.append(text)

    complain = say


def no_other_model(name: str | None) -> FakeModel:
    raise NotFoundError("no model {name!r}.", name=name)


def archive_in(folder: Path) -> Archive:
    return Archive(Store(folder / "chats.db"))


class Talk:
    """One chat of a person with a fake model; everything is looked at afterwards."""

    def __init__(self, folder: Path | None, *entries: str | BaseException, **model: object) -> None:
        self.model = FakeModel(**model)  # type: ignore[arg-type]
        archive = archive_in(folder) if folder else None
        self.chat = Chat(self.model, Session(), archive, no_other_model)
        self.person = Person(*entries)
        self.status = self.chat.run(self.person)
        self.seen = "\n".join(self.person.seen)

    @property
    def contents(self) -> list[str]:
        return [message.content for message in self.chat.session.messages]


# ---------------------------------------------------------------------- in a pipe


def test_each_line_of_a_pipe_is_a_question_and_answers_alone_go_to_stdout(
    run_bobot: Run, model: FakeModel, home: Path
) -> None:
    status, out, err = run_bobot("chat", stdin=b"satu\n\ndua\n")
    assert (status, out, err) == (0, "You said: satu\nYou said: dua\n", "")
    assert len(model.calls[1]["messages"]) == 3
    assert not (home / "xdg_data_home").exists(), "a pipe must leave nothing behind"


def test_no_command_at_all_is_a_chat_with_the_default_model(
    run_bobot: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str | None] = []
    monkeypatch.setattr("bobot.load", lambda name: names.append(name) or FakeModel(), raising=False)
    assert run_bobot(stdin=b"x\n")[:2] == (0, "You said: x\n")
    assert names == [None]


def test_another_model_keeps_the_way_of_guessing_and_takes_no_draft(
    run_bobot: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str | None, list[str]]] = []
    monkeypatch.setattr(
        "bobot.load",
        lambda name, **options: seen.append((name, sorted(options))) or FakeModel(),
        raising=False,
    )
    run_bobot("chat", "one", "--speculation", "off", stdin=b"/model two\n")
    run_bobot("chat", "one", "--draft", "small", stdin=b"/model two\n")
    run_bobot("chat", "one", "--activations", "int8", stdin=b"/model two\n")
    assert seen[4:] == [("one", ["activations"]), ("two", ["activations"])]
    config = ["engine_config"]
    assert seen[:4] == [("one", config), ("two", config), ("one", ["draft"]), ("two", [])]


def test_three_quotes_hold_lines_together(run_bobot: Run, model: FakeModel) -> None:
    assert run_bobot("chat", stdin=b'"""a\nb"""\n"""\nc\n')[0] == 0
    asked = [call["messages"][-1]["content"] for call in model.calls]
    assert asked == ["a\nb", "c"]


def test_commands_work_in_a_pipe_and_a_wrong_one_is_exit_status_2(
    run_bobot: Run, model: FakeModel
) -> None:
    status, out, err = run_bobot("chat", stdin=b"/set seed 3\nx\n/frob\ny\n")
    assert (status, out) == (2, "You said: x\n")
    assert model.calls[0]["seed"] == 3
    assert "/frob is no command" in err


def test_invalid_utf8_in_a_pipe_names_the_byte(run_bobot: Run, model: FakeModel) -> None:
    status, out, err = run_bobot("chat", stdin=b"ok\n\xc3\x28\n")
    assert (status, out) == (2, "You said: ok\n")
    assert err == (
        "bobot: standard input is not UTF-8 text at byte 3 (0xc3)."
        " Convert it first, for example with iconv -t UTF-8.\n"
    )


def test_options_set_persona_and_sampling_before_the_first_question(
    run_bobot: Run, model: FakeModel
) -> None:
    run_bobot("chat", "--persona", "rebel", "--temperature", "0.3", "--lang", "id", stdin=b"x\n")
    call = model.calls[0]
    assert call["temperature"] == 0.3
    assert "jenaka" in call["messages"][0]["content"]
    assert run_bobot("chat", "--persona", "nobody")[0] == 1


# ---------------------------------------------------------------------- commands


def test_every_command_has_a_method_and_a_line_of_help(tmp_path: Path) -> None:
    talk = Talk(tmp_path, "/help", "/?")
    for line, _ in help_lines():
        assert talk.seen.count(f"{line} ") >= 2, line
    for name in names():
        assert callable(getattr(talk.chat.commands, METHODS.get(name, name)))


@pytest.mark.parametrize("entry", ["/etc/hosts is what?", "//", "/ help", "no /help", "/-"])
def test_text_that_only_looks_like_a_command_goes_to_the_model(entry: str) -> None:
    assert parse(entry) is None


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ("/persno", "did you mean /persona"),
        ("/xyz", "/help lists them"),
        ("/set temperature hot", "a number or default"),
        ("/set temperature -1", "0 or more"),
        ("/set frob 1", "temperature, top_p"),
        ("/set frob", "temperature, top_p"),
        ("/persona nobody", "plain, rebel"),
        ("/lang fr", "en, id"),
        ("/stats maybe", "on or off"),
        ("/load ../../etc/passwd", "can't name a conversation"),
        ("/load nothing", "no saved conversation"),
        ("/save", "is empty"),
        ("/undo", "nothing to undo"),
        ("/retry", "nothing to retry"),
        ("/export x", "is empty"),
        ("/model nothing", "no model 'nothing'"),
    ],
)
def test_wrong_command_says_what_is_allowed_and_the_chat_goes_on(
    tmp_path: Path, entry: str, part: str
) -> None:
    talk = Talk(tmp_path, entry, "still here")
    assert part in talk.seen
    assert talk.contents == ["still here", "You said: still here"]
    assert talk.status == 0


def test_undo_retry_and_new_change_the_conversation(tmp_path: Path) -> None:
    talk = Talk(tmp_path, "a", "b", "/undo", "/retry")
    assert talk.contents == ["a", "You said: a"]
    assert len(talk.model.calls) == 3
    assert Talk(tmp_path, "a", "/new", "b").contents == ["b", "You said: b"]


def test_settings_are_shown_with_their_defaults(tmp_path: Path) -> None:
    talk = Talk(tmp_path, "/set seed 5", "/set", "/set top_p")
    assert "temperature         0.7 (default)" in talk.seen
    assert "seed                5\n" in talk.seen
    assert talk.person.seen[-1] == "top_p  1.0 (default)"


def test_stats_come_on_request(tmp_path: Path) -> None:
    assert "No answer yet" in Talk(tmp_path, "/stats").seen
    assert "tokens/s" not in Talk(tmp_path, "a").seen
    assert "12.5 tokens/s" in Talk(tmp_path, "a", "/stats").seen
    assert Talk(tmp_path, "/stats on", "a", "b", "/set stats off", "c").seen.count("tokens/s") == 2


def test_language_of_the_interface_changes_at_once(tmp_path: Path) -> None:
    talk = Talk(tmp_path, "/lang id", "/frob")
    assert tr.language == "id"
    assert "bukan perintah" in talk.seen


def test_persona_and_system_prompt_reach_the_model(tmp_path: Path) -> None:
    talk = Talk(
        tmp_path, "/persona", "/persona rebel", "a", "/system Be brief.", "b", "/system off", "c"
    )
    first = [call["messages"][0] for call in talk.model.calls]
    assert "* plain" in talk.seen
    assert "witty" in first[0]["content"]
    assert first[1] == {"role": "system", "content": "Be brief."}
    assert first[2]["role"] == "user"


# ---------------------------------------------------------------------- saving


def test_each_turn_is_saved_as_soon_as_it_is_finished(tmp_path: Path) -> None:
    saved: list[int] = []

    class Watcher(Person):
        def read(self, status: str) -> str:
            other = archive_in(tmp_path)
            saved.append(sum(len(other.load(name).messages) for name in other.names()))
            return super().read(status)

    chat = Chat(FakeModel(), Session(), archive_in(tmp_path), no_other_model)
    chat.run(Watcher("a", "b", "/undo", "/undo"))
    assert saved == [0, 2, 4, 2, 0]


def test_conversation_is_found_again_by_its_name(tmp_path: Path) -> None:
    Talk(tmp_path, "/persona rebel", "halo", "/save my talk")
    talk = Talk(tmp_path, "/load", "/load my talk", "more")
    assert "my talk" in talk.seen
    assert talk.contents == ["halo", "You said: halo", "more", "You said: more"]
    assert talk.chat.session.persona.name == "rebel"
    assert len(archive_in(tmp_path).load("my talk").messages) == 4


def test_save_does_not_overwrite_another_conversation(tmp_path: Path) -> None:
    Talk(tmp_path, "one", "/save mine")
    assert "already" in Talk(tmp_path, "two", "/save mine").seen
    assert archive_in(tmp_path).load("mine").messages[0].content == "one"


def test_branch_leaves_the_original_as_it_is(tmp_path: Path) -> None:
    Talk(tmp_path, "one", "/save trunk", "/branch twig", "two")
    archive = archive_in(tmp_path)
    assert [len(archive.load(name).messages) for name in ("trunk", "twig")] == [2, 4]


def test_export_writes_markdown_and_never_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "out.md"
    talk = Talk(tmp_path / "chats", "halo", f"/export {file}", f"/export {file}")
    assert file.read_text() == "**You**\n\nhalo\n\n**fake**\n\nYou said: halo\n"
    assert "exists already" in talk.seen


def test_private_chat_saves_nothing_and_says_so(tmp_path: Path) -> None:
    assert "nothing is saved" in Talk(None, "a", "/save x").seen


@pytest.mark.parametrize("method", ["add", "update"])
def test_store_that_fails_is_told_once_and_the_chat_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("{path}: the disk is full, nothing was written.", path="x")

    monkeypatch.setattr(Store, method, full)
    talk = Talk(tmp_path, "a", "b")
    assert talk.seen.count("the disk is full") == 1
    assert talk.seen.count("not saved") == 1
    assert len(talk.contents) == 4


def test_store_that_can_not_be_opened_is_told_and_the_chat_goes_on(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "xdg_data_home").write_text("")
    assert chat_command._archive() is None
    told = capsys.readouterr().err
    assert "can't be opened as a database" in told
    assert "not saved" in told


def test_answer_is_in_the_store_with_its_model_and_what_it_took(tmp_path: Path) -> None:
    Talk(tmp_path, "one", "/retry", answer="a b")
    store = archive_in(tmp_path).store
    [found] = store.conversations()
    question, first, second = store.messages(found.id)
    assert (first.parent, second.parent, found.head) == (question.id, question.id, second.id)
    assert (first.content, first.model, first.is_partial) == ("a b", "fake", False)
    assert first.usage is not None
    assert (first.usage["completion_tokens"], first.finish_reason) == (2, "stop")


def test_answer_is_in_the_store_while_it_comes(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []

    class Watcher(Person):
        def answer(self, deltas: Iterator[PartDelta]) -> None:
            for _ in deltas:
                store = archive_in(tmp_path).store
                [found] = store.conversations()
                last = store.branch(found.head)[-1]
                seen.append((last.content, last.is_partial))

    chat = Chat(FakeModel(answer="a b c"), Session(), archive_in(tmp_path), no_other_model)
    chat.run(Watcher("q"))
    assert seen[0] == ("a", True)
    assert all("a b c".startswith(text) and is_partial for text, is_partial in seen)


def test_words_are_found_in_other_conversations(tmp_path: Path) -> None:
    Talk(tmp_path, "Resep kopi tubruk", "/save coffee")
    talk = Talk(tmp_path, "/search tubr", "/search susu", "/search")
    assert "coffee" in talk.seen
    assert "tubruk" in talk.seen
    assert "Nothing found" in talk.seen
    assert "needs words" in talk.seen


def test_conversation_goes_out_and_in_as_json(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    Talk(tmp_path / "a", "one", "/retry", f"/export {file}")
    talk = Talk(tmp_path / "b", f"/import {file}", f"/import {file}", "/import", "/import none")
    assert "1 conversations imported, 0 were there already" in talk.seen
    assert "0 conversations imported, 1 were there already" in talk.seen
    store = archive_in(tmp_path / "b").store
    [found] = store.conversations()
    assert [m.content for m in store.messages(found.id)] == ["one", *["You said: one"] * 2]


# ---------------------------------------------------------------------- reasoning


def test_reasoning_is_shown_on_request_and_is_no_part_of_the_text(tmp_path: Path) -> None:
    parts = [("reasoning", "hm so"), ("text", "it is four")]
    file = tmp_path / "out.md"
    talk = Talk(tmp_path / "c", "/reasoning", "q", f"/export {file}", "/reasoning", parts=parts)
    assert talk.contents == ["q", "it is four"]
    assert "came without reasoning" in talk.person.seen[2]
    assert talk.person.seen[-1] == "hm so"
    assert "hm so" not in file.read_text()
    archive = archive_in(tmp_path / "c")
    assert archive.load(archive.names()[0]).messages[1].reasoning == "hm so"


def test_reasoning_effort_is_set_and_refused_where_there_is_none(tmp_path: Path) -> None:
    talk = Talk(tmp_path, "/reasoning low", "q", "/reasoning max", parts=[("text", "x")])
    assert talk.model.calls[0]["reasoning_effort"] == "low"
    assert "low, medium, high, default" in talk.seen
    assert "no reasoning effort" in Talk(tmp_path, "/reasoning low").seen


def test_a_tool_call_is_quoted_and_told(
    tmp_path: Path, run_bobot: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [("reasoning", "hm"), ("tool_call", 'f {"a": 1}')]
    talk = Talk(tmp_path, "q", parts=parts, finish_reason="tool_calls")
    assert '{"name": "f", "arguments": {"a": 1}}' in talk.seen
    assert "this chat runs none" in talk.seen
    model = FakeModel(parts=[("reasoning", "hm"), ("text", "four")])
    monkeypatch.setattr("bobot.load", lambda name: model, raising=False)
    assert run_bobot("chat", stdin=b"q\n") == (0, "four\n", "")


# ---------------------------------------------------------------------- limits


def test_full_context_offers_a_choice_and_cuts_nothing(tmp_path: Path) -> None:
    talk = Talk(tmp_path, "a b c", "d e f g", "/trim", max_model_len=12)
    assert "takes 12 tokens" not in talk.person.seen[-1]
    assert "The conversation takes 12 tokens; the context of fake holds 12." in " ".join(
        Talk(tmp_path, "a b c", "d e f g", max_model_len=12).person.seen
    )
    assert talk.contents == ["d e f g", "You said: d e f g"]


def test_answer_cut_by_a_limit_says_which(tmp_path: Path) -> None:
    assert "Cut at max_tokens" in Talk(tmp_path, "/set max_tokens 2", "x").seen


def test_model_without_a_template_is_told_once(tmp_path: Path) -> None:
    talk = Talk(tmp_path, "a", "b", template=None)
    assert talk.seen.count("no chat template") == 1


def test_refused_system_prompt_suggests_to_leave_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FakeModel, messages: list[dict[str, str]]) -> list[int]:
        if messages[0]["role"] == "system":
            raise TemplateError("no system here.")
        return [0]

    monkeypatch.setattr(FakeModel, "_encode_chat", refuse)
    talk = Talk(tmp_path, "/persona rebel", "hi", "/system off", "/retry")
    assert "/system off, then /retry" in talk.seen
    assert talk.contents == ["hi", "You said: hi"]


def test_ctrl_c_stops_the_answer_and_not_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FakeModel._stream

    def interrupted(self: FakeModel, *args: object) -> Iterator[object]:
        for index, piece in enumerate(original(self, *args)):  # type: ignore[arg-type]
            if index == 1 and len(self.calls) == 1:
                signal.raise_signal(signal.SIGINT)
            yield piece

    monkeypatch.setattr(FakeModel, "_stream", interrupted)
    talk = Talk(tmp_path, "a b c", "next")
    assert talk.status == 0
    assert "Stopped." in talk.seen
    assert talk.contents == ["a b c", "You said:", "next", "You said: next"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_stops_an_answer_that_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FakeModel._stream

    def slow(self: FakeModel, *args: object) -> Iterator[object]:
        if len(self.calls) == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        yield from original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeModel, "_stream", slow)
    talk = Talk(tmp_path, "a b c", "/retry")
    assert "Stopped." in talk.seen
    assert talk.contents == ["a b c", "You said: a b c"]


def test_ctrl_c_at_the_prompt_hints_first_and_leaves_the_second_time(tmp_path: Path) -> None:
    talk = Talk(tmp_path, KeyboardInterrupt(), "a")
    assert "Ctrl-D or /bye leaves" in talk.seen
    assert talk.status == 0
    with pytest.raises(KeyboardInterrupt):
        Talk(tmp_path, KeyboardInterrupt(), KeyboardInterrupt())


def test_completion_knows_commands_and_their_values(tmp_path: Path) -> None:
    commands = Talk(tmp_path, "a", "/save my talk").chat.commands
    assert list(commands.candidates("/per")) == ["/persona"]
    assert list(commands.candidates("/persona r")) == ["/persona rebel"]
    assert "/set top_p" in commands.candidates("/set t")
    assert list(commands.candidates("/load m")) == ["/load my talk"]
    assert list(commands.candidates("/undo x")) == []
