"""The arena of the page: pairs, their answers, votes, and who may take part."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

from page_asks import API
from scripted import ScriptedModel, Talk, events_of, source_of

from bobot.chat.elo import ratings
from bobot.chat.protocol import ParameterError
from bobot.server.models import Facts


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


def test_a_private_pair_asks_no_hosted_model_and_stays_private(page: Callable[..., Talk]) -> None:
    models = [ScriptedModel("rose"), ScriptedModel("tulip")]
    talk = page(*models)
    far = source_of(ScriptedModel("desk:big"))
    talk.models.add(dataclasses.replace(far, facts=Facts(is_hosted=True, owner="desk")))
    named = {"models": ["desk:big", "rose"], "is_private": True}
    refused = talk.ask(f"{API}/arena", named)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "private"
    pair = talk.ask(f"{API}/arena", {"is_private": True}).json()
    answer = talk.ask(f"{API}/arena/{pair['id']}/answers", {"content": "x"})
    assert answer.status_code == 200
    assert [one.is_private for model in models for one in model.requests] == [True, True]
    assert talk.chats.kept.conversations() == []  # type: ignore[attr-defined]
    found = talk.ask(f"{API}/arena/{pair['id']}/vote", {"winner": "tie"}).json()
    kept = talk.chats.kept.get(found["conversation"])  # type: ignore[attr-defined]
    assert kept.is_private and kept.extra["arena"]["winner"] == "tie"
    told = talk.ask(f"{API}/conversations/{kept.id}").json()
    path = f"{API}/conversations/{kept.id}/branches"
    made = talk.ask(path, {"message": told["messages"][1]["id"]}).json()
    assert made["is_private"] and made["title"] == told["title"]
    assert talk.chats.kept.get(made["id"]).extra == {}  # type: ignore[attr-defined]
