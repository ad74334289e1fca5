"""Who is let in: names, pages, keys, limits; and what is written down of it."""

from __future__ import annotations

import logging

import pytest
from scripted import ScriptedModel

from bobot.errors import NotFoundError, UsageError
from bobot.server.failures import DoorError
from bobot.server.hosts import is_loopback
from bobot.server.keys import Key, KeyStore
from bobot.server.rates import Rates

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "my secret prompt"}]}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8008", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8008", 200),
        ("192.168.1.7", 200),
        ("host.docker.internal:8008", 200),
        ("bobot.example.org", 200),
        ("evil.example.org", 403),
        ("127.0.0.1.evil.org", 403),
        ("localhost.evil.org", 403),
        ("", 403),
        ("a b", 403),
        ("localhost:port", 403),
    ],
)
def test_only_addresses_and_own_names_are_answered(talk, host, status):
    client = talk(ScriptedModel(), allowed_hosts=("bobot.example.org",))
    assert client.ask("/v1/models", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8008", 200),
        ("http://localhost:3000", 200),
        ("https://chat.example.org", 200),
        ("https://evil.org", 403),
        ("http://localhost.evil.org", 403),
        ("null", 403),
        ("file://", 403),
        ("http://[", 403),
    ],
)
def test_only_pages_of_this_machine_may_call(talk, origin, status):
    model = ScriptedModel()
    client = talk(model, allowed_origins=("https://chat.example.org",))
    answer = client.ask(CHAT, BODY, headers={"origin": origin})
    assert answer.status_code == status and len(model.requests) == (status == 200)
    shown = answer.headers.get("access-control-allow-origin")
    assert shown == (origin if status == 200 else None)
    asked = {"origin": origin, "access-control-request-headers": "authorization"}
    before = client.ask(CHAT, method="OPTIONS", headers=asked)
    assert before.status_code == (204 if status == 200 else 403)
    assert "access-control-allow-credentials" not in before.headers


def test_key_opens_and_nothing_else_does(talk):
    client = talk(ScriptedModel(), api_keys=["sk-right"], needs_key=True)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer "},
                    {"x-api-key": "sk-righ"}):  # fmt: skip
        answer = client.ask(CHAT, BODY, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    for headers in ({"authorization": "Bearer sk-right"}, {"authorization": "bearer  sk-right"},
                    {"x-api-key": "sk-right"}):  # fmt: skip
        assert client.ask(CHAT, BODY, headers=headers).status_code == 200
    assert client.ask("/health").status_code == client.ask("/v1/health").status_code == 200
    assert client.ask("/metrics").status_code == 401
    assert client.ask("/nowhere").status_code == 401
    anthropic = client.ask("/v1/messages", {}).json()
    assert anthropic["error"]["type"] == "authentication_error"
    assert client.ask("/api/tags").json() == {"error": anthropic["error"]["message"]}


def test_without_need_of_a_key_any_text_passes(talk):
    client = talk(ScriptedModel())
    assert client.ask(CHAT, BODY, headers={"authorization": "Bearer ollama"}).status_code == 200


def test_scopes_limit_what_a_key_can_do(talk):
    client = talk(ScriptedModel(), needs_key=True)
    use = {"authorization": f"Bearer {client.keys.make('u', ('use',))}"}
    observe = {"authorization": f"Bearer {client.keys.make('o', ('observe',))}"}
    assert client.ask(CHAT, BODY, headers=use).status_code == 200
    assert client.ask("/metrics", headers=use).status_code == 403
    assert client.ask("/metrics", headers=observe).status_code == 200
    assert client.ask(CHAT, BODY, headers=observe).json()["error"]["code"] == "missing_scope"
    body = {"model": "scripted"}
    assert client.ask("/api/delete", body, method="DELETE", headers=use).status_code == 403


def test_responses_belong_to_the_key_that_made_them(talk):
    client = talk(ScriptedModel(), needs_key=True)
    mine, other = ({"x-api-key": client.keys.make(name)} for name in ("mine", "other"))
    made = client.ask("/v1/responses", {"input": "Hi"}, headers=mine).json()["id"]
    assert client.ask(f"/v1/responses/{made}", headers=mine).status_code == 200
    assert client.ask(f"/v1/responses/{made}", headers=other).status_code == 404
    body = {"input": "Hi", "previous_response_id": made}
    assert client.ask("/v1/responses", body, headers=other).status_code == 404


def test_use_is_counted_per_key(talk):
    client = talk(ScriptedModel(), needs_key=True)
    headers = {"x-api-key": client.keys.make("mine")}
    for _ in range(3):
        client.ask(CHAT, BODY, headers=headers)
    (key, used), *_ = client.keys.all()
    prompt = len(BODY["messages"][0]["content"])
    assert (key.name, used.requests) == ("mine", 3)
    assert (used.prompt_tokens, used.completion_tokens) == (3 * prompt, 3 * 2)


def test_limit_of_requests_is_told_and_kept(talk):
    client = talk(ScriptedModel(), needs_key=True)
    headers = {"x-api-key": client.keys.make("slow", requests_per_minute=2)}
    answers = [client.ask("/v1/models", headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [a.headers["x-ratelimit-remaining-requests"] for a in answers[:2]] == ["1", "0"]
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30


def test_tokens_are_a_debt_that_time_pays():
    now = [0.0]
    rates, key = Rates(lambda: now[0]), Key(1, "k", tokens_per_minute=60, requests_per_minute=100)
    rates.enter(key)
    rates.spend(key, 100)
    with pytest.raises(DoorError) as caught:
        rates.enter(key)
    assert caught.value.retry_after_s == pytest.approx(41)  # 40 tokens of debt and one more
    now[0] = 41.5
    headers = rates.enter(key)
    assert headers["x-ratelimit-remaining-tokens"] == "1"
    assert headers["x-ratelimit-limit-requests"] == "100"


def test_refused_request_does_not_count_against_the_limit_of_requests():
    rates, key = Rates(lambda: 0.0), Key(1, "k", tokens_per_minute=10, requests_per_minute=5)
    rates.spend(key, 20)
    for _ in range(9):
        with pytest.raises(DoorError):
            rates.enter(key)
    assert rates._bucket(key, "requests", 5).level == 5


def test_body_that_is_too_large_is_refused(talk):
    model = ScriptedModel()
    client = talk(model, max_body_bytes=100)
    assert client.ask(CHAT, b" " * 101).status_code == 413
    assert client.ask("/v1/messages", b" " * 101).json()["error"]["type"] == "request_too_large"
    assert not model.requests


def test_headers_that_are_too_large_are_refused(talk):
    client = talk(ScriptedModel(), max_head_bytes=1000)
    assert client.ask("/v1/models", headers={"x-a": "a" * 1000}).status_code == 431
    assert client.ask("/v1/models", headers={"x-a": "a" * 100}).status_code == 200


def test_full_server_says_when_to_come_back(talk):
    client = talk(ScriptedModel(pause_s=0.05), max_calls=2)
    answers = client.together(*[(CHAT, BODY)] * 5)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
    full = next(answer for answer in answers if answer.status_code == 503)
    assert full.json()["error"]["code"] == "overloaded" and full.headers["retry-after"] == "5"


def test_answer_that_takes_too_long_is_ended_and_cancelled(talk):
    model = ScriptedModel(pause_s=60)
    client = talk(model, max_answer_s=0.05)
    answer = client.ask(CHAT, BODY)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "timeout"
    assert (model.num_open, model.num_cancelled) == (0, 1)


def test_silence_is_filled_with_pings(talk):
    client = talk(ScriptedModel(pause_s=0.1), ping_s=0.03)
    text = client.ask(CHAT, {**BODY, "stream": True}).text
    assert ": ping\n\n" in text and text.endswith("data: [DONE]\n\n")
    events = client.ask("/v1/messages", {**BODY, "max_tokens": 5, "stream": True}).text
    assert events.count('{"type":"ping"}') > 1


def test_metrics_and_log_hold_numbers_and_no_text(talk, caplog):
    client = talk(ScriptedModel(), needs_key=True)
    secret = client.keys.make("mine")
    with caplog.at_level(logging.DEBUG, "bobot"):
        client.ask(CHAT, BODY, headers={"x-api-key": secret})
        client.ask(CHAT, {**BODY, "n": 0}, headers={"x-api-key": secret})
        metrics = client.ask("/metrics", headers={"x-api-key": secret}).text
    assert 'bobot_completion_tokens_total{model="scripted"} 2.0' in metrics
    assert 'bobot_requests_total{path="/v1/chat/completions",status="400"} 1.0' in metrics
    assert "bobot_time_to_first_token_seconds_bucket" in metrics
    facts = [record.facts for record in caplog.records if hasattr(record, "facts")]
    assert [fact["status"] for fact in facts] == [200, 400, 200]
    assert facts[0]["key"] == "mine" and facts[0]["completion_tokens"] == 2
    written = caplog.text + str(facts) + metrics
    for text in ("my secret", "Hello", secret):
        assert text not in written


def test_errors_of_routes_have_the_form_of_their_api(talk):
    client = talk(ScriptedModel())
    assert client.ask("/v1/nowhere").json()["error"]["code"] == "not_found"
    wrong = client.ask(CHAT, method="PUT")
    assert wrong.status_code == 405 and wrong.json()["error"]["code"] == "method_not_allowed"
    assert client.ask("/v1/messages/x").json()["error"]["type"] == "not_found_error"
    assert client.ask("/api/nowhere").json() == {"error": "GET /api/nowhere: not found."}


def test_keys_are_stored_as_hashes_and_can_be_revoked(tmp_path):
    path = tmp_path / "server.db"
    store = KeyStore.open(path)
    text = store.make("a", ("use",), 5, 6)
    found = store.find(text)
    assert found is not None and found.scopes == ("use",) and found.requests_per_minute == 5
    with pytest.raises(UsageError):
        store.make("a")
    store.close()
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert text.encode() not in files and text[12:-4].encode() not in files
    assert path.stat().st_mode & 0o077 == 0
    again = KeyStore.open(path)
    again.revoke("a")
    assert again.find(text) is None and not again.has_keys
    with pytest.raises(NotFoundError):
        again.revoke("a")
    again.close()
    with pytest.raises(UsageError):
        KeyStore.open(path, [" "])


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("192.168.0.1", False), ("example.org", False)],
)  # fmt: skip
def test_only_addresses_of_this_machine_need_no_key(address, expected):
    assert is_loopback(address) is expected


@pytest.mark.parametrize("version", [None, "2023-06-01", "2026-10-21", "2031-01-01"])
@pytest.mark.parametrize(
    "key",
    [
        {"x-api-key": "sk-right"},
        {"authorization": "Bearer sk-right"},
        {"authorization": "Bearer sk-right", "x-api-key": "sk-of-another-host"},
        {"authorization": "Bearer of-another-host", "x-api-key": "sk-right"},
    ],
)
def test_anthropics_clients_of_every_version_pass_with_either_header(talk, version, key):
    client = talk(ScriptedModel(), api_keys=["sk-right"], needs_key=True)
    headers = key if version is None else {**key, "anthropic-version": version}
    body = {"max_tokens": 5, **BODY}
    assert client.ask("/v1/messages", body, headers=headers).json()["type"] == "message"
    assert client.ask("/v1/messages/count_tokens", BODY, headers=headers).status_code == 200
    wrong = {name: f"{text}-not" for name, text in headers.items()}
    assert client.ask("/v1/messages", body, headers=wrong).status_code == 401
