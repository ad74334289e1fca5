"""The page's data routes: what they tell is what the store holds and what the model was asked."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted import ScriptedModel, Talk, events_of, source_of

from bobot.chat.elo import ratings
from bobot.chat.protocol import ParameterError
from bobot.chat.store import Store
from bobot.server.app import create_app
from bobot.server.keys import KeyStore
from bobot.server.models import Facts, Models
from bobot.server.page_chats import Chats
from bobot.server.page_files import FILES
from bobot.server.page_routes import page_routes
from bobot.server.settings import Settings

API = "/app/api"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    """page(model, ..., needs_key=True) -> a client; its conversations are in talk.chats."""
    made: list[Talk] = []

    def make(*models: ScriptedModel, api_keys: tuple[str, ...] = (), **settings) -> Talk:
        keys = KeyStore.open(tmp_path / "server.db", list(api_keys))
        chats = Chats(Store(tmp_path / "chats.db"))
        limits = Settings(**settings)
        served = Models([source_of(model) for model in models], 1000)
        app = create_app(
            served,
            limits,
            keys,
            None,  # type: ignore[arg-type]
            pages=lambda runner, inflight: page_routes(runner, inflight, limits, chats),
            open_prefixes=(FILES,),
        )
        talk = Talk(app, served, keys)
        talk.chats = chats  # type: ignore[attr-defined]
        made.append(talk)
        return talk

    yield make
    for talk in made:
        talk.close()
        talk.chats.close()  # type: ignore[attr-defined]


def new(talk: Talk, **fields) -> str:
    answer = talk.ask(f"{API}/conversations", fields)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def asked(talk: Talk, identity: str, **body) -> list[dict]:
    answer = talk.ask(f"{API}/conversations/{identity}/answers", body)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


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


def test_a_blind_pair_tells_no_names_until_the_vote(page: Callable[..., Talk]) -> None:
    models = [ScriptedModel("rose", bits=[("text", "of rose")]), ScriptedModel("tulip")]
    talk = page(*models)
    pair = talk.ask(f"{API}/arena", {"is_blind": True}).json()
    assert pair["models"] is None
    vote = {"winner": "a"}
    assert talk.ask(f"{API}/arena/{pair['id']}/vote", vote).status_code == 400
    texts = []
    for question in ("first", "second"):
        answer = talk.ask(f"{API}/arena/{pair['id']}/answers", {"content": question})
        assert "tulip" not in answer.text and '"rose"' not in answer.text
        texts.append(events_of(answer.text))
    said = ["".join(e["text"] for e in texts[0] if e["side"] == i and "text" in e) for i in (0, 1)]
    found = talk.ask(f"{API}/arena/{pair['id']}/vote", vote).json()
    words = {"rose": "of rose", "tulip": "Hello there"}
    assert [usage["completion_tokens"] for usage in found["usage"]] == [2, 2]
    assert said == [words[name] for name in found["models"]]
    assert [len(model.requests[1].messages) for model in models] == [3, 3]
    store = talk.chats.kept  # type: ignore[attr-defined]
    roles = [(m.role, m.content, m.model) for m in store.messages(found["conversation"])]
    assert roles[0] == ("user", "first", None) and len(roles) == 7
    assert roles[1][2] == found["models"][0]
    rated = talk.ask(f"{API}/arena/ratings?blind_only=true").json()["ratings"]
    expected = ratings([(*found["models"], 1.0)])
    assert [(r["model"], r["elo"], r["low"]) for r in rated] == [
        (r.model, r.elo, r.low) for r in expected
    ]
    assert talk.ask(f"{API}/arena/{pair['id']}/vote", vote).status_code == 404


def test_one_side_that_fails_leaves_the_other_alone(page: Callable[..., Talk]) -> None:
    error = ParameterError("tulip: {param} is wrong.", param="x")
    talk = page(ScriptedModel("rose"), ScriptedModel("tulip", error=error))
    pair = talk.ask(f"{API}/arena", {"models": ["rose", "tulip"], "is_blind": True}).json()
    events = events_of(talk.ask(f"{API}/arena/{pair['id']}/answers", {"content": "x"}).text)
    (failure,) = [event for event in events if event["type"] == "error"]
    assert "tulip" not in json.dumps(failure)
    other = "".join(e["text"] for e in events if e["side"] != failure["side"] and "text" in e)
    assert other == "Hello there"
    assert talk.ask(f"{API}/arena/{pair['id']}/vote", {"winner": "a"}).status_code == 400


def test_models_are_listed_with_what_is_known(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel("rose"), ScriptedModel("tulip"))
    told = talk.ask(f"{API}/models").json()
    assert told["default"] == "rose"
    assert [(m["name"], m["context"], m["is_hosted"], m["fit"]) for m in told["models"]] == [
        ("rose", 64, False, None),
        ("tulip", 64, False, None),
    ]
    assert talk.ask(f"{API}/models/rose/fit").json()["verdict"] is None


def test_a_hosted_model_is_in_the_arena_only_when_it_is_named(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel("rose"), ScriptedModel("tulip"))
    far = source_of(ScriptedModel("desk:big"))
    talk.models.add(dataclasses.replace(far, facts=Facts(is_hosted=True, owner="desk")))
    for _ in range(20):
        drawn = talk.ask(f"{API}/arena", {"is_blind": False}).json()["models"]
        assert sorted(drawn) == ["rose", "tulip"]
    named = talk.ask(f"{API}/arena", {"models": ["desk:big", None], "is_blind": False}).json()
    assert named["models"][0] == "desk:big" and named["models"][1] in ("rose", "tulip")
    listed = {m["name"]: m["is_hosted"] for m in talk.ask(f"{API}/models").json()["models"]}
    assert listed == {"rose": False, "tulip": False, "desk:big": True}


def test_a_policy_is_listed_with_the_hosted_models_it_may_choose(page: Callable[..., Talk]) -> None:
    talk = page(ScriptedModel("rose"))
    routes = Facts(routes_to=("rose", "desk:big"), hosted_routes=("desk:big",))
    talk.models.add(dataclasses.replace(source_of(ScriptedModel("auto")), facts=routes))
    listed = {m["name"]: m for m in talk.ask(f"{API}/models").json()["models"]}
    found = [(m["routes_to"], m["hosted_routes"]) for m in listed.values()]
    assert found == [([], []), (["rose", "desk:big"], ["desk:big"])]
