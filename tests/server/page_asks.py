"""What the page asks its server: shorthands for tests."""

from __future__ import annotations

from scripted import Talk, events_of

API = "/app/api"


def new(talk: Talk, **fields) -> str:
    answer = talk.ask(f"{API}/conversations", fields)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def asked(talk: Talk, identity: str, **body) -> list[dict]:
    answer = talk.ask(f"{API}/conversations/{identity}/answers", body)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)
