"""What a hub says instead of the files, and who may ask: tokens, terms, refusals, no answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import Body, Cut, FakeHub, Status, etag_of
from tiny_repository import FILES, NAME, SHARD, Pull, contents, pull_as

from bobot.errors import DownloadError, NotFoundError, UsageError
from bobot.hub.cache import CacheEntry
from bobot.hub.remote import MAX_ATTEMPTS, Hub


def test_token_stays_with_the_hub(
    hub: FakeHub, connect: Callable[..., Hub], entry: CacheEntry
) -> None:
    hub.add(NAME, FILES)
    hub.token = "hf_secret"
    pull_as(connect(HF_TOKEN="hf_secret"), entry)
    tokens = {r.host: set() for r in hub.requests}
    for request in hub.requests:
        tokens[request.host].add(request.headers.get("Authorization"))
    assert tokens == {"hub": {"Bearer hf_secret"}, "storage": {None}}


def test_saved_token_of_hf_is_used(connect: Callable[..., Hub], environ: dict[str, str]) -> None:
    folder = Path(environ["HF_HOME"])
    folder.mkdir()
    (folder / "token").write_text("hf_saved\n")
    assert connect().token == "hf_saved"
    assert connect(HF_TOKEN="hf_other").token == "hf_other"
    with pytest.raises(UsageError, match="token in HF_TOKEN has blanks"):
        connect(HF_TOKEN="hf_two words")


@pytest.mark.parametrize(
    ("token", "parts"),
    [
        (None, ["accept terms", "Agree and access repository", "/settings/tokens", "HF_TOKEN"]),
        ("no-access", ["not given your account access", "Agree and access repository"]),
        ("hf_wrong", ["refuses your HF_TOKEN", "/settings/tokens"]),
    ],
)
def test_gated_repository_says_what_to_click(
    hub: FakeHub,
    connect: Callable[..., Hub],
    entry: CacheEntry,
    token: str | None,
    parts: list[str],
) -> None:
    hub.add(NAME, FILES, is_gated=True)
    hub.token = "hf_right"
    with pytest.raises(DownloadError) as raised:
        pull_as(connect(HF_TOKEN=token or ""), entry)
    for part in parts:
        assert part in str(raised.value)
    if token != "hf_wrong":
        assert f"https://huggingface.co/{NAME}" in str(raised.value)


def test_accepted_terms_open_a_gated_repository(
    hub: FakeHub, connect: Callable[..., Hub], entry: CacheEntry
) -> None:
    hub.add(NAME, FILES, is_gated=True)
    hub.token = "hf_right"
    assert contents(pull_as(connect(HF_TOKEN="hf_right"), entry)) == FILES


def test_missing_repository_suggests_a_close_one(client: Hub, hub: FakeHub) -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'openai/gpt-oss-20b'"):
        client.list_files("openai/gptoss-20b", "main")
    with pytest.raises(NotFoundError, match="does not exist"):
        client.list_files("nobody/nothing", "main")
    hub.add(NAME, FILES)
    with pytest.raises(NotFoundError, match="no such revision"):
        client.list_files(NAME, "v9")


def test_full_request_budget_is_waited_for_as_asked(
    hub: FakeHub, pull: Pull, waits: list[float]
) -> None:
    hub.faults["listing"] = [Status(429, {"Retry-After": "7"}), Status(503)]
    hub.faults[SHARD] = [Status(429, {"Retry-After": "11"}), Status(500), Status(403)]
    assert contents(pull()) == FILES
    assert waits == [7, 2, 11, 2, 4]


def test_endless_failure_is_given_up_and_what_arrived_is_kept(
    hub: FakeHub, pull: Pull, waits: list[float], entry: CacheEntry
) -> None:
    hub.faults[SHARD] = [Cut(1000), *(Status(500) for _ in range(MAX_ATTEMPTS))]
    with pytest.raises(DownloadError, match=r"HTTP 500.*what has arrived is kept"):
        pull()
    assert entry.partial(etag_of(SHARD, FILES[SHARD])).stat().st_size == 1000
    assert waits == [1, 2, 4, 8, 16]
    assert len(pull().name) == 40


def test_no_network_is_told_at_once(connect: Callable[..., Hub], waits: list[float]) -> None:
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1 can't be reached.*bobot list"):
        connect(HF_ENDPOINT="http://127.0.0.1:1").list_files(NAME, "main")
    assert not waits
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        connect(HF_HUB_OFFLINE="1")
    with pytest.raises(UsageError, match=r"HF_ENDPOINT is 'huggingface\.co'"):
        connect(HF_ENDPOINT="huggingface.co")


def test_proxy_that_cannot_be_used_is_told(
    connect: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(UsageError, match=r"proxy in the environment.*http://"):
        connect()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>log in</html>",
        b"[]",
        b'{"sha": 1}',
        b'{"sha": "%s", "siblings": [{"rfilename": "x"}]}' % (b"0" * 40),
        b'{"sha": "%s", "siblings": [{"rfilename": "x", "size": -1, "blobId": "%s"}]}'
        % (b"0" * 40, b"0" * 40),
        b'{"sha": "../../x", "siblings": []}',
        b"[" * 100_000,
    ],
)
def test_answer_of_no_hub_is_one_clear_error(hub: FakeHub, client: Hub, answer: bytes) -> None:
    hub.faults["listing"] = [Body(answer)]
    with pytest.raises(DownloadError, match="HF_ENDPOINT"):
        client.list_files(NAME, "main")
