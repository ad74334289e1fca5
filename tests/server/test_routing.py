"""A policy among the models of a server: who answers, and what a hosted model gets to see.

The table of who should answer is written here a second time, by hand, and compared with the
requests that a host on loopback saw and with the model that the answer names.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_hosts import FakeHost
from policy_host import desk_with
from scripted import ScriptedModel, Talk, source_of

from bobot.chat.protocol import ChatRequest, Event, ParameterError
from bobot.errors import NotFoundError
from bobot.gateway.policy import Policy, load_policy
from bobot.gateway.spending import Ledger
from bobot.server.library import Library
from bobot.server.models import Source
from bobot.server.routing import Routing

POLICY = """
local = "home"
aliases = ["smart"]
[[rules]]
model = "desk:long"
prompt_tokens_above = 100
[[rules]]
model = "desk:tools"
wants_tools = true
[[rules]]
model = "desk:smart"
asked = ["smart"]
[[rules]]
model = "desk:rescue"
local_fails = true
"""
TOO_LONG = "too long for home"
HEADER = {"x-bobot-private": "true"}
PARAMETERS = {"type": "object", "properties": {}}


@dataclass
class Home(ScriptedModel):
    """The local model; its context is too short for one kind of question."""

    name: str = "home"

    async def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        if TOO_LONG in request.messages[-1]["content"]:
            raise ParameterError(
                "The prompt does not fit.", param="messages", code="context_length_exceeded"
            )
        async for event in super().chat(request):
            yield event


class Routed(NamedTuple):
    talk: Talk
    host: FakeHost
    home: Home
    ledger: Ledger
    routing: Routing


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """The host `desk` of the user's hosts.toml."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with desk_with(POLICY, tmp_path / "config" / "bobot", "from afar", monkeypatch) as host:
        yield host


@pytest.fixture
def routed(talk: Callable[..., Talk], desk: FakeHost, tmp_path: Path) -> Iterator[Routed]:
    home, client = Home(), talk()
    policy = load_policy(tmp_path / "config" / "bobot" / "policy.toml")
    assert policy is not None
    ledger = Ledger(tmp_path / "spending.db")
    routing = Routing(policy, client.models, finder(home), ledger)
    client.models.add(source_of(home))
    for source in routing.sources():
        client.models.add(source)
    routing.serve_models()
    yield Routed(client, desk, home, ledger, routing)
    ledger.close()


def finder(*local: ScriptedModel) -> Callable[[str], Source]:
    found = {model.name: source_of(model) for model in local}
    return lambda name: found[name] if name in found else Library().source(name)


class Case(NamedTuple):
    is_private: bool
    is_long: bool
    has_tools: bool
    asks_smart: bool
    fails: bool

    @property
    def text(self) -> str:
        return ("word " * 100 if self.is_long else "word ") + (TOO_LONG if self.fails else "")

    @property
    def name(self) -> str:
        return "smart" if self.asks_smart else "auto"


def should_answer(case: Case) -> str | None:
    """The table; None: nobody may."""
    if case.is_private:
        return None if case.fails else "home"
    for holds, name in (
        (case.is_long, "desk:long"),
        (case.has_tools, "desk:tools"),
        (case.asks_smart, "desk:smart"),
        (case.fails, "desk:rescue"),
    ):
        if holds:
            return name
    return "home"


def openai_chat(case: Case) -> tuple[str, dict[str, Any]]:
    tool = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
    tools = {"tools": [tool]} if case.has_tools else {}
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": case.text}], **tools}


def openai_responses(case: Case) -> tuple[str, dict[str, Any]]:
    tool = {"type": "function", "name": "f", "parameters": PARAMETERS}
    return "/v1/responses", {"input": case.text, **({"tools": [tool]} if case.has_tools else {})}


def anthropic(case: Case) -> tuple[str, dict[str, Any]]:
    tools = {"tools": [{"name": "f", "input_schema": PARAMETERS}]} if case.has_tools else {}
    messages = [{"role": "user", "content": case.text}]
    return "/v1/messages", {"max_tokens": 50, "messages": messages, **tools}


def ollama(case: Case) -> tuple[str, dict[str, Any]]:
    return "/api/chat", {**openai_chat(case)[1], "stream": False}


FACES = (openai_chat, openai_responses, anthropic, ollama)
CASES = [Case(*values) for values in itertools.product((False, True), repeat=5)]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_the_one_who_should_answer_does_and_nobody_else_is_asked(
    routed: Routed, face: Callable[[Case], tuple[str, dict[str, Any]]]
) -> None:
    checked = 0
    for case in CASES:
        path, body = face(case)
        marks = [({"private": True}, {}), ({}, HEADER)] if case.is_private else [({}, {})]
        for mark, headers in marks:
            routed.host.requests.clear()
            asked = {"model": case.name, **body, **mark}
            answer = routed.talk.ask(path, asked, headers=headers)
            expected = should_answer(case)
            seen = [request.body["model"] for request in routed.host.requests]
            if expected is None:
                assert answer.status_code == 400 and seen == [], (case, answer.text)
                assert "desk:" in answer.text and "private" in answer.text
            elif expected == "home":
                assert answer.json()["model"] == "home" and seen == [], (case, answer.text)
            else:
                assert answer.json()["model"] == f"{expected}-2024-08-06", (case, answer.text)
                assert [f"desk:{name}" for name in seen] == [expected], case
            checked += 1
    assert checked == 48


@pytest.mark.parametrize("mark", [({"private": True}, {}), ({}, HEADER)], ids=["body", "header"])
def test_nothing_private_reaches_a_hosted_model_by_any_route(
    routed: Routed, mark: tuple[dict[str, Any], dict[str, str]]
) -> None:
    more, headers = mark
    said = {"messages": [{"role": "user", "content": "secret"}]}
    source = Library().source("desk:m")
    routed.talk.models.add(source)
    asks = {
        "/v1/chat/completions": said,
        "/v1/messages": {**said, "max_tokens": 5},
        "/v1/responses": {"input": "secret"},
        "/v1/completions": {"prompt": "secret"},
        "/v1/embeddings": {"input": "secret"},
        "/api/chat": said,
        "/api/generate": {"prompt": "secret"},
        "/api/embed": {"input": "secret"},
        "/api/embeddings": {"prompt": "secret"},
    }
    for path, body in asks.items():
        answer = routed.talk.ask(path, {"model": "desk:m", **body, **more}, headers=headers)
        assert answer.status_code == 400, (path, answer.text)
        assert "this conversation is private: it is not sent to desk" in answer.text, path
    assert routed.host.requests == []
    told = routed.talk.ask("/v1/chat/completions", {"model": "desk:m", **said})
    assert told.json()["model"] == "desk:m-2024-08-06" and len(routed.host.requests) == 1


def test_unclear_word_of_privacy_is_refused(routed: Routed) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
    for headers, more in (({"x-bobot-private": "yes"}, {}), ({}, {"private": "yes"})):
        answer = routed.talk.ask("/v1/chat/completions", {**body, **more}, headers=headers)
        assert answer.status_code == 400, answer.text
    assert routed.host.requests == [] and routed.home.requests == []


def test_what_follows_a_private_response_is_private_too(routed: Routed) -> None:
    first = routed.talk.ask("/v1/responses", {"model": "auto", "input": "mine", "private": True})
    assert first.json()["private"] is True
    follow = {"model": "smart", "input": "more", "previous_response_id": first.json()["id"]}
    again = routed.talk.ask("/v1/responses", follow)
    assert again.json()["model"] == "home" and again.json()["private"] is True
    third = routed.talk.ask("/v1/responses", {**follow, "previous_response_id": again.json()["id"]})
    assert third.json()["model"] == "home"
    assert routed.host.requests == []


def test_counting_asks_nobody(routed: Routed) -> None:
    body = {"model": "smart", "messages": [{"role": "user", "content": "12345"}]}
    assert routed.talk.ask("/v1/messages/count_tokens", body).json() == {"input_tokens": 5}
    routed.talk.models.add(Library().source("desk:m"))
    hosted = routed.talk.ask("/v1/messages/count_tokens", {**body, "model": "desk:m"})
    assert hosted.status_code == 400 and routed.host.requests == []


def test_listings_show_the_names_and_where_they_lead(routed: Routed) -> None:
    listed = {one["id"]: one for one in routed.talk.ask("/v1/models").json()["data"]}
    assert {"home", "auto", "smart", "desk:long", "desk:rescue"} <= set(listed)
    assert listed["auto"]["owned_by"] == "policy"
    facts = routed.talk.models.describe("auto").facts
    assert facts.routes_to == ("home", "desk:long", "desk:tools", "desk:smart", "desk:rescue")
    for name, is_hosted, routes in (
        ("home", False, None),
        ("auto", False, list(facts.routes_to)),
        ("desk:long", True, None),
    ):
        found = listed[name]
        assert (found["is_hosted"], found["routes_to"]) == (is_hosted, routes), name
        assert found["hosted_routes"] == (routes and routes[1:]), name


def test_streams_name_the_model_too(routed: Routed) -> None:
    body = {"model": "smart", "messages": [{"role": "user", "content": "x"}], "stream": True}
    text = routed.talk.ask("/v1/chat/completions", body).text
    assert '"model":"desk:smart-2024-08-06"' in text


def test_answers_are_counted_by_the_model_that_gave_them(routed: Routed) -> None:
    for name in ("auto", "smart", "smart"):
        body = {"model": name, "messages": [{"role": "user", "content": "x"}]}
        assert routed.talk.ask("/v1/chat/completions", body).status_code == 200
    assert routed.ledger.spent("home").answers == 1
    assert routed.ledger.spent("desk:smart").answers == 2


def test_accounts_name_the_model_that_answered_and_the_log_the_one_asked_for_too(
    routed: Routed, caplog: pytest.LogCaptureFixture
) -> None:
    """Log, metrics and the use of a key, against a table by hand: a host calls itself
    smart-2024-08-06, and answers of 12 tokens.
    """
    headers = {"x-api-key": routed.talk.keys.make("mine")}
    said = {"messages": [{"role": "user", "content": "12345"}]}
    asks = [
        ("/v1/chat/completions", {"model": "auto", **said}, "home"),
        ("/v1/chat/completions", {"model": "smart", **said}, "desk:smart"),
        ("/v1/chat/completions", {"model": "home", **said}, "home"),
        ("/v1/completions", {"model": "smart", "prompt": "12345"}, "home"),
        ("/v1/embeddings", {"model": "smart", "input": "12345"}, "home"),
    ]
    with caplog.at_level(logging.INFO, "bobot.server.requests"):
        for path, body, _ in asks:
            assert routed.talk.ask(path, body, headers=headers).status_code == 200
    lines = [record.facts for record in caplog.records if hasattr(record, "facts")]
    told = [(line["asked"], line["model"]) for line in lines]
    assert told == [(body["model"], answered) for _, body, answered in asks]
    rows = routed.talk.keys.database.execute(
        "SELECT model, requests, completion_tokens FROM usage ORDER BY model"
    )
    assert [tuple(row) for row in rows] == [("desk:smart", 1, 12), ("home", 4, 6)]
    metrics = routed.talk.ask("/metrics", headers=headers).text
    found = [one for one in metrics.splitlines() if one.startswith("bobot_completion_tokens_total")]
    assert sorted(found) == [
        'bobot_completion_tokens_total{model="desk:smart"} 12.0',
        'bobot_completion_tokens_total{model="home"} 6.0',
    ]


def test_model_that_can_not_be_opened_is_told_and_the_next_one_answers(
    talk: Callable[..., Talk], desk: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DESK_KEY")
    client, home = talk(), Home()
    policy = load_policy(tmp_path / "config" / "bobot" / "policy.toml")
    assert policy is not None
    ledger = Ledger(tmp_path / "spending.db")
    routing = Routing(policy, client.models, finder(home), ledger)
    for source in routing.sources():
        client.models.add(source)
    routing.serve_models()
    assert [one.name for one in client.models.listed()] == ["auto", "smart", "home"]
    body = {"model": "smart", "messages": [{"role": "user", "content": "x"}]}
    assert client.ask("/v1/chat/completions", body).json()["model"] == "home"
    missing = Routing(Policy(local="nowhere"), client.models, finder(), ledger)
    with pytest.raises(NotFoundError, match="nowhere"):
        missing.serve_models()
    ledger.close()


def test_the_same_files_are_served_once(tmp_path: Path, talk: Callable[..., Talk]) -> None:
    library, client = Library(), talk()
    client.models.add(library.source("bobot"))
    other = library.source(str(library.source("bobot").facts.path))
    assert other.name != "bobot"
    ledger = Ledger(tmp_path / "spending.db")
    Routing(
        Policy(local=str(other.facts.path)), client.models, library.source, ledger
    ).serve_models()
    assert [one.name for one in client.models.listed()] == ["bobot"]
    ledger.close()
