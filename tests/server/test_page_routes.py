"""The page's data routes: what they tell is what the store holds and what the model was asked."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from page_asks import API, asked, new
from scripted import ScriptedModel, Talk, events_of, source_of

from bobot.chat.protocol import ParameterError
from bobot.server.models import Facts


def test_an_answer_is_streamed_stored_and_told_again(page: Callable[..., Talk]) -> None:
    model = ScriptedModel(bits=[("reasoning", "let me see"), ("text", "Hello you there")])
    talk = page(model)
    identity = new(talk, persona="plain")
    events = asked(talk, identity, content="Hi", shows_tokens=True)
    texts = "".join(event["text"] for event in events if event["type"] == "text")
    (done,) = [event["message"] for event in events if event["type"] == "done"]
    stored = talk.chats.kept.message(done["id"])  # type: ignore[attr-defined]
    told = talk.ask(f"{API}/conversations/{identity}").json()
    assert texts == stored.content == done["content"] == told["messages"][1]["content"]
    assert stored.reasoning == told["messages"][1]["reasoning"] == "let me see"
    assert told["head"] == done["id"] and told["title"] == "Hi" and told["running"] == []
    assert stored.usage == done["usage"] and stored.usage["completion_tokens"] == 6
    tokens = talk.ask(f"{API}/conversations/{identity}/messages/{done['id']}/tokens").json()
    assert "".join(token[0] for token in tokens["tokens"]) == "let me see" + stored.content
    assert [len(token[2]) for token in tokens["tokens"]] == [3] * 6
    assert tokens["tokens"][0][2][2] == ["y", -9999.0]
    assert done["has_tokens"] and "tokens" not in done["extra"]


def test_editing_and_asking_again_make_branches_that_the_model_sees_alone(
    page: Callable[..., Talk],
) -> None:
    model = ScriptedModel()
    talk = page(model)
    identity = new(talk, system="Be brief.", settings={"temperature": 0.5, "max_tokens": 9})
    first = asked(talk, identity, content="one")[0]
    question, answer = first["question"]["id"], first["answer"]["id"]
    again = asked(talk, identity, parent=question)[0]
    assert again["question"]["id"] == question and again["answer"]["parent"] == question
    asked(talk, identity, content="two", parent=answer)
    edited = asked(talk, identity, content="uno", parent=None)[0]
    assert edited["question"]["parent"] is None
    told = talk.ask(f"{API}/conversations/{identity}").json()
    parents = {message["id"]: message["parent"] for message in told["messages"]}
    assert list(parents.values()).count(question) == 2 and list(parents.values()).count(None) == 2
    said = [[message["content"] for message in request.messages] for request in model.requests]
    assert said == [
        ["Be brief.", "one"],
        ["Be brief.", "one"],
        ["Be brief.", "one", "Hello there", "two"],
        ["Be brief.", "uno"],
    ]
    assert dict(model.requests[0].sampling) == {"temperature": 0.5, "max_tokens": 9}
    body = {"head": answer}
    changed = talk.ask(f"{API}/conversations/{identity}", body, method="PATCH").json()
    assert changed["head"] == answer
    assert [m.content for m in talk.chats.kept.branch(answer)] == ["one", "Hello there"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_branch_becomes_a_conversation_of_its_own(
    page: Callable[..., Talk], tmp_path: Path, is_kept: bool
) -> None:
    model = ScriptedModel()
    talk = page(model)
    chosen = {"system": "Be brief.", "settings": {"top_k": 3}, "reasoning_effort": "low"}
    identity = new(talk, is_private=True, is_kept=is_kept, title="Old", **chosen)
    first = asked(talk, identity, content="one", shows_tokens=True)[0]
    asked(talk, identity, parent=first["question"]["id"])  # a second answer, on another branch
    asked(talk, identity, content="xylophone", parent=first["answer"]["id"])
    before = talk.ask(f"{API}/conversations/{identity}").json()
    path = f"{API}/conversations/{identity}/branches"
    made = talk.ask(path, {"message": first["answer"]["id"], "title": "New"})
    assert made.status_code == 201, made.text
    told = talk.ask(f"{API}/conversations/{made.json()['id']}").json()
    assert (told["title"], told["is_private"], told["is_kept"]) == ("New", True, is_kept)
    assert {name: told[name] for name in chosen} == chosen
    copies = [
        {name: message[name] for name in ("role", "content", "model", "usage", "has_tokens")}
        for message in (*before["messages"][:2], *told["messages"])
    ]
    assert copies[:2] == copies[2:] and copies[1]["has_tokens"]
    assert told["head"] == told["messages"][1]["id"]
    asked(talk, told["id"], content="two", parent=told["head"])
    said = [message["content"] for message in model.requests[-1].messages]
    assert said == ["Be brief.", "one", "Hello there", "two"] and model.requests[-1].is_private
    assert talk.ask(f"{API}/conversations/{identity}").json() == before
    if not is_kept:
        for file in tmp_path.iterdir():
            assert b"Hello there" not in file.read_bytes(), file
    elsewhere = {"message": told["head"]}
    assert talk.ask(path, elsewhere).status_code == 404
    assert talk.ask(path, {"message": 99}).status_code == 404


def test_an_answer_that_still_comes_is_no_end_of_a_branch(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel(bits=[("text", "a " * 50)], pause_s=0.01))
    path = f"{API}/conversations/{new(talk)}"

    async def branch_early() -> tuple[int, int]:
        asking = asyncio.ensure_future(talk.client.post(f"{path}/answers", json={"content": "go"}))
        while not (running := (await talk.client.get(path)).json()["running"]):
            await asyncio.sleep(0.01)
        body = {"message": running[0]}
        early = await talk.client.post(f"{path}/branches", json=body)
        await asking
        late = await talk.client.post(f"{path}/branches", json=body)
        return early.status_code, late.status_code

    assert talk.loop.run_until_complete(branch_early()) == (400, 201)


def test_files_stand_in_the_text_that_the_model_reads(page: Callable[..., Talk]) -> None:
    model = ScriptedModel()
    talk = page(model)
    files = [{"name": "a.md", "text": "```\nx\n```\n"}]
    first = asked(talk, new(talk), content="Look", attachments=files)[0]
    expected = "Look\n\na.md:\n````\n```\nx\n```\n````"
    assert model.requests[0].messages[-1]["content"] == expected == first["question"]["content"]
    assert first["question"]["extra"] == {"typed": "Look", "attachments": files}


def test_a_stopped_answer_keeps_what_was_said(page: Callable[..., Talk]) -> None:
    model = ScriptedModel(bits=[("text", "a " * 500)], pause_s=0.005)
    talk = page(model)
    identity = new(talk)
    path = f"{API}/conversations/{identity}"

    async def stop_soon() -> tuple[str, str]:
        asking = asyncio.ensure_future(talk.client.post(f"{path}/answers", json={"content": "go"}))
        running: list[int] = []
        while not (running and model.num_open):
            await asyncio.sleep(0.01)
            running = (await talk.client.get(path)).json()["running"]
        follower = asyncio.ensure_future(talk.client.get(f"{path}/answers/{running[0]}"))
        await asyncio.sleep(0.05)
        await talk.client.post(f"{path}/answers/{running[0]}/stop")
        return (await asking).text, (await follower).text

    first, second = talk.loop.run_until_complete(stop_soon())
    assert model.num_cancelled == 1
    message = talk.ask(path).json()["messages"][1]
    assert message["finish_reason"] == "stopped" and not message["is_partial"]
    for text in (first, second):  # who asked and who followed later saw the same
        said = "".join(e["text"] for e in events_of(text) if e["type"] == "text")
        assert said == message["content"] and 0 < len(said) < 900
    assert talk.ask(f"{path}/answers/{message['id']}").status_code == 404


def test_an_answer_goes_on_when_its_reader_leaves(page: Callable[..., Talk]) -> None:
    model = ScriptedModel(bits=[("text", "one two three four five")], pause_s=0.02)
    talk = page(model)
    identity = new(talk)
    path = f"{API}/conversations/{identity}"

    async def leave() -> None:
        asking = asyncio.ensure_future(talk.client.post(f"{path}/answers", json={"content": "go"}))
        while not model.num_open:
            await asyncio.sleep(0.005)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        while (await talk.client.get(path)).json()["running"]:
            await asyncio.sleep(0.01)

    talk.loop.run_until_complete(leave())
    message = talk.ask(path).json()["messages"][1]
    assert message["content"] == "one two three four five" and message["finish_reason"] == "stop"
    assert model.num_cancelled == 0


def test_a_refused_question_stays_and_has_no_answer(page: Callable[..., Talk]) -> None:
    error = ParameterError("{param} is wrong.", param="top_k")
    talk = page(ScriptedModel(error=error))
    identity = new(talk)
    events = asked(talk, identity, content="Hi")
    assert [event["type"] for event in events] == ["asked", "dropped", "error"]
    assert events[2]["error"]["param"] == "top_k"
    told = talk.ask(f"{API}/conversations/{identity}").json()
    assert [message["role"] for message in told["messages"]] == ["user"]
    assert told["head"] == told["messages"][0]["id"]


def test_private_is_told_to_the_model_and_unstored_is_not_on_the_disk(
    page: Callable[..., Talk], tmp_path: Path
) -> None:
    model = ScriptedModel()
    talk = page(model)
    identity = new(talk, is_private=True, is_kept=False)
    asked(talk, identity, content="xylophone")
    assert model.requests[0].is_private
    assert talk.ask(f"{API}/search?q=xylo").json()["hits"][0]["id"] == identity
    assert talk.chats.kept.conversations() == []  # type: ignore[attr-defined]
    for path in tmp_path.iterdir():
        assert b"xylophone" not in path.read_bytes(), path
    assert len(talk.ask(f"{API}/conversations").json()["conversations"]) == 1
    assert talk.ask(f"{API}/conversations/{identity}", method="DELETE").json()["deleted"]
    assert talk.ask(f"{API}/conversations").json()["conversations"] == []


def test_export_and_import_give_the_same_conversation(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel())
    identity = new(talk, title="Old")
    asked(talk, identity, content="Hi")
    before = talk.ask(f"{API}/conversations/{identity}").json()
    answer = talk.ask(f"{API}/export?conversation={identity}")
    assert "attachment" in answer.headers["content-disposition"]
    talk.ask(f"{API}/conversations/{identity}", method="DELETE")
    report = talk.ask(f"{API}/import", answer.content).json()
    assert report == {"num_added": 1, "num_known": 0, "skipped": []}
    (listed,) = talk.ask(f"{API}/conversations").json()["conversations"]
    after = talk.ask(f"{API}/conversations/{listed['id']}").json()
    for name in ("role", "content", "model", "usage"):
        found = [[message[name] for message in told["messages"]] for told in (before, after)]
        assert found[0] == found[1]
    assert talk.ask(f"{API}/import", b'{"a": 1}').status_code == 400
    assert talk.ask(f"{API}/import", b"{").status_code == 400


def test_a_search_marks_the_words_it_found(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel())
    identity = new(talk)
    asked(talk, identity, content="where do blue whales sleep")
    (hit,) = talk.ask(f"{API}/search?q=blue+wha").json()["hits"]
    assert hit["id"] == identity
    assert [p["text"] for p in hit["snippet"] if p["is_hit"]] == ["blue", "whales"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/conversations", {"colour": 1}, 400, None),
        ("POST", "/conversations", {"settings": {"temperature": 9}}, 400, "settings.temperature"),
        ("POST", "/conversations", {"persona": "../x"}, 400, "persona"),
        ("POST", "/conversations/none/answers", {"content": "x"}, 404, None),
        ("GET", "/conversations/none", None, 404, None),
        ("GET", "/conversations?limit=-1", None, 400, "limit"),
        ("POST", "/arena", {"models": ["scripted"]}, 400, "models"),
        ("POST", "/arena", {"models": ["scripted", "scripted"]}, 400, "models"),
        ("POST", "/arena", {}, 400, None),
        ("POST", "/arena/none/vote", {"winner": "a"}, 404, None),
        ("GET", "/models/none/fit", None, 404, "model"),
    ],
)
def test_bad_requests_are_refused_by_name(
    page: Callable[..., Talk], method: str, path: str, body: object, status: int, param: str | None
) -> None:
    answer = page(ScriptedModel()).ask(API + path, body, method=method)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


def test_an_answer_has_a_question_above_it(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel())
    one, other = new(talk), new(talk)
    first = asked(talk, one, content="Hi")[0]
    path = f"{API}/conversations/{one}/answers"
    for body in (
        {},
        {"content": "  "},
        {"parent": first["answer"]["id"]},
        {"parent": first["question"]["id"], "content": "x"},
    ):
        assert talk.ask(path, body).status_code == 400, body
    body = {"parent": first["question"]["id"]}
    assert talk.ask(f"{API}/conversations/{other}/answers", body).status_code == 404
    body = {"head": first["question"]["id"]}
    assert talk.ask(f"{API}/conversations/{other}", body, method="PATCH").status_code == 404


def test_the_page_is_open_and_its_data_needs_a_key_that_may_manage(
    page: Callable[..., Talk],
) -> None:
    talk = page(ScriptedModel(), api_keys=("given",), needs_key=True)
    assert talk.ask("/app/").status_code == 200
    assert talk.ask("/app/web/js/main.js").status_code == 200
    assert talk.ask("/app").headers["location"] == "/app/"
    assert talk.ask(f"{API}/conversations").status_code == 401
    assert talk.ask("/app/web/../api/conversations").status_code == 401
    headers = {"authorization": "Bearer given"}
    assert talk.ask(f"{API}/conversations", headers=headers).status_code == 200
    weak = {"authorization": f"Bearer {talk.keys.make('weak', ('use',))}"}
    assert talk.ask(f"{API}/conversations", headers=weak).status_code == 403
    foreign = {**headers, "origin": "https://evil.example"}
    assert talk.ask(f"{API}/conversations", headers=foreign).status_code == 403


def test_browsers_get_the_page_and_programs_ollamas_greeting(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel())
    answer = talk.ask("/", headers={"accept": "text/html,*/*"})
    assert (answer.status_code, answer.headers["location"]) == (307, "/app/")
    assert talk.ask("/").text == "Ollama is running"
    for path in ("/app/web/%2e%2e/page_files.py", "/app/web/none.js", "/app/web/js"):
        assert talk.ask(path).status_code == 404, path


def test_models_are_listed_with_what_is_known(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel("rose"), ScriptedModel("tulip"))
    told = talk.ask(f"{API}/models").json()
    assert told["default"] == "rose"
    assert [(m["name"], m["context"], m["is_hosted"], m["fit"]) for m in told["models"]] == [
        ("rose", 64, False, None),
        ("tulip", 64, False, None),
    ]
    assert talk.ask(f"{API}/models/rose/fit").json()["verdict"] is None


def test_a_policy_is_listed_with_the_hosted_models_it_may_choose(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel("rose"))
    routes = Facts(routes_to=("rose", "desk:big"), hosted_routes=("desk:big",))
    talk.models.add(dataclasses.replace(source_of(ScriptedModel("auto")), facts=routes))
    listed = {m["name"]: m for m in talk.ask(f"{API}/models").json()["models"]}
    found = [(m["routes_to"], m["hosted_routes"]) for m in listed.values()]
    assert found == [([], []), (["rose", "desk:big"], ["desk:big"])]
