"""A pull against a hub on loopback: what is fetched, kept, checked, refused, and in what words."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import Body, Cut, FakeHub, Hold, Status, etag_of

from bobot.errors import (
    CheckpointError,
    DownloadError,
    NotFoundError,
    StorageError,
    UnsafeFileError,
    UsageError,
)
from bobot.hub.cache import CacheEntry, huggingface_cache
from bobot.hub.names import resolve
from bobot.hub.pull import RESERVE_BYTES, Plan, Room, carry_out, check_room, plan_pull
from bobot.hub.remote import MAX_ATTEMPTS, Hub, is_safe
from bobot.hub.transfer import Meter

NAME = "org/tiny"
SHARD = "model-00002-of-00002.safetensors"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "model-00001-of-00002.safetensors": os.urandom(300_000),
    SHARD: os.urandom(500_000),
}
UNWANTED = {
    "original/model.safetensors": b"again",
    "metal/model.bin": b"and again",
    "pytorch_model.bin": b"pickle",
    ".gitattributes": b"",
}

Pull = Callable[..., Path]


@pytest.fixture
def waits() -> list[float]:
    """The seconds that would have been waited between attempts."""
    return []


@pytest.fixture
def connect(environ: dict[str, str], waits: list[float]) -> Iterator[Callable[..., Hub]]:
    """connect(HF_TOKEN="...") -> a client of that user, closed after the test."""
    clients: list[Hub] = []

    def make(**settings: str) -> Hub:
        clients.append(Hub({**environ, **settings}, sleep=waits.append))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Hub]) -> Hub:
    return connect()


@pytest.fixture
def entry(environ: dict[str, str]) -> CacheEntry:
    return CacheEntry(huggingface_cache(environ), NAME)


@pytest.fixture
def plan(hub: FakeHub, client: Hub, entry: CacheEntry) -> Callable[..., Plan]:
    def make(quantization: str | None = None) -> Plan:
        return plan_pull(client, entry, "main", quantization)

    hub.add(NAME, {**FILES, **UNWANTED}, licence="mit")
    return make


@pytest.fixture
def pull(client: Hub, plan: Callable[..., Plan]) -> Pull:
    def run(quantization: str | None = None, watch: Callable[[], None] = lambda: None) -> Path:
        planned = plan(quantization)
        meter = Meter(planned.total_bytes, threading.Event())
        path = carry_out(client, planned, meter, watch)
        assert meter.done_bytes == planned.total_bytes, "the bar would not end at 100 %"
        return path

    return run


def contents(snapshot: Path) -> dict[str, bytes]:
    files = (path for path in snapshot.rglob("*") if path.is_file())
    return {path.relative_to(snapshot).as_posix(): path.read_bytes() for path in files}


def num_downloads(hub: FakeHub) -> int:
    return sum(len(hub.downloads(name)) for name in FILES if not name.endswith(".safetensors")) + (
        sum(r.host == "storage" for r in hub.requests)
    )


def test_pull_brings_the_needed_files_once_and_names_find_them(
    hub: FakeHub, pull: Pull, plan: Callable[..., Plan], environ: dict[str, str]
) -> None:
    assert plan().licence == "mit"
    assert plan().left_out_bytes == sum(map(len, UNWANTED.values()))
    snapshot = pull()
    assert contents(snapshot) == FILES
    assert resolve(NAME, environ) == snapshot
    assert num_downloads(hub) == len(FILES)


def test_second_pull_asks_for_the_listing_only_and_reads_no_weights(
    hub: FakeHub, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pull()
    hub.requests.clear()
    monkeypatch.setattr("bobot.hub.pull.verify", lambda *_: pytest.fail("read again"))
    assert pull() == first
    assert [request.path for request in hub.requests] == [f"/api/models/{NAME}/revision/main"]


def test_new_commit_fetches_only_what_changed(hub: FakeHub, pull: Pull, entry: CacheEntry) -> None:
    old = pull()
    hub.requests.clear()
    hub.add(NAME, {**FILES, "config.json": b'{"model_type": "llama"}'})
    new = pull()
    assert new != old
    assert contents(new) == {**FILES, "config.json": b'{"model_type": "llama"}'}
    assert num_downloads(hub) == 1
    assert (entry.folder / "refs/main").read_text() == new.name


def test_cut_connection_is_resumed_at_the_byte_where_it_broke(
    hub: FakeHub, pull: Pull, waits: list[float]
) -> None:
    hub.faults[SHARD] = [Cut(200_000), Cut(100_000), Cut(0)]
    assert contents(pull())[SHARD] == FILES[SHARD]
    starts = [r.range for r in hub.downloads(SHARD) if r.host == "storage"]
    assert starts == [f"bytes={start}-499999" for start in (0, 200_000, 300_000, 300_000)]
    assert waits == [1, 1, 2], "progress forgives earlier failures"


def test_part_left_by_an_earlier_run_is_used(hub: FakeHub, pull: Pull, entry: CacheEntry) -> None:
    etag = etag_of(SHARD, FILES[SHARD])
    entry.partial(etag).parent.mkdir(parents=True)
    entry.partial(etag).write_bytes(FILES[SHARD][:123_456])
    assert contents(pull())[SHARD] == FILES[SHARD]
    (request,) = (r for r in hub.downloads(SHARD) if r.host == "storage")
    assert request.range == "bytes=123456-499999"
    assert not entry.partial(etag).exists()


def test_part_longer_than_the_file_is_started_anew(pull: Pull, entry: CacheEntry) -> None:
    etag = etag_of(SHARD, FILES[SHARD])
    entry.partial(etag).parent.mkdir(parents=True)
    entry.partial(etag).write_bytes(bytes(600_000))
    assert contents(pull())[SHARD] == FILES[SHARD]


def test_server_without_ranges_is_started_anew(hub: FakeHub, pull: Pull) -> None:
    hub.faults[SHARD] = [Cut(200_000), Body()]
    assert contents(pull())[SHARD] == FILES[SHARD]


def test_stopping_keeps_what_arrived(hub: FakeHub, pull: Pull, entry: CacheEntry) -> None:
    hold = Hold(after=400_000)
    hub.faults[SHARD] = [hold]
    partial = entry.partial(etag_of(SHARD, FILES[SHARD]))

    def stop_when_held() -> None:
        if hold.reached.is_set() and partial.stat().st_size == 400_000:
            hold.release.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(watch=stop_when_held)
    assert partial.stat().st_size >= 400_000
    assert not (entry.folder / "snapshots").exists(), "half a model must not be found"
    hub.requests.clear()
    assert contents(pull()) == FILES
    (request,) = (r for r in hub.downloads(SHARD) if r.host == "storage")
    assert request.range is not None
    assert int(request.range[6:].split("-")[0]) >= 400_000


def test_files_are_fetched_side_by_side(hub: FakeHub, pull: Pull) -> None:
    holds = [Hold(after=1000), Hold(after=1000)]
    hub.faults["model-00001-of-00002.safetensors"], hub.faults[SHARD] = holds[:1], holds[1:]

    def release_when_both_are_under_way() -> None:
        if all(hold.reached.is_set() for hold in holds):
            for hold in holds:
                hold.release.set()

    assert contents(pull(watch=release_when_both_are_under_way)) == FILES


@pytest.mark.parametrize("name", [SHARD, "tokenizer.json"])
def test_wrong_digest_names_the_file_and_removes_it(
    hub: FakeHub, pull: Pull, entry: CacheEntry, name: str
) -> None:
    hub.faults[name] = [Body(bytes(len(FILES[name])))]
    with pytest.raises(CheckpointError, match=rf"{name}.* removed.* Pull again") as raised:
        pull()
    assert NAME in str(raised.value)
    etag = etag_of(name, FILES[name])
    assert not entry.blob(etag).exists()
    assert not entry.partial(etag).exists()
    assert contents(pull()) == FILES


def test_file_of_another_program_is_checked_before_it_is_used(
    hub: FakeHub, pull: Pull, entry: CacheEntry
) -> None:
    blob = entry.blob(etag_of(SHARD, FILES[SHARD]))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(FILES[SHARD])
    assert contents(pull()) == FILES
    assert not hub.downloads(SHARD)


def test_damaged_file_of_another_program_is_found_and_fetched_anew(
    hub: FakeHub, pull: Pull, entry: CacheEntry
) -> None:
    blob = entry.blob(etag_of(SHARD, FILES[SHARD]))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(len(FILES[SHARD])))
    with pytest.raises(CheckpointError, match="damaged"):
        pull()
    assert contents(pull()) == FILES


def test_file_changed_after_it_was_verified_is_checked_again(pull: Pull, entry: CacheEntry) -> None:
    snapshot = pull()
    (snapshot / SHARD).write_bytes(bytes(len(FILES[SHARD])))
    with pytest.raises(CheckpointError, match=SHARD):
        pull()


def test_huggingface_hub_and_bobot_share_the_cache(
    hub: FakeHub, pull: Pull, entry: CacheEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)

    def theirs(name: str) -> str:
        return huggingface_hub.hf_hub_download(
            NAME, name, cache_dir=entry.cache, endpoint=hub.endpoint, token=False
        )

    hub.add(NAME, FILES)
    assert Path(theirs(SHARD)).read_bytes() == FILES[SHARD]
    hub.requests.clear()
    snapshot = pull()
    assert not hub.downloads(SHARD), "fetched twice"
    hub.requests.clear()
    for name in FILES:
        assert Path(theirs(name)) == snapshot / name
    assert {request.method for request in hub.requests} == {"HEAD"}
    huggingface_hub.close_session()


def test_disk_without_links_keeps_each_file_once(
    hub: FakeHub, pull: Pull, entry: CacheEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    snapshot = pull()
    assert contents(snapshot) == FILES
    assert not list((entry.folder / "blobs").iterdir())
    hub.requests.clear()
    assert contents(pull()) == FILES
    assert num_downloads(hub) == 0


def pull_as(client: Hub, entry: CacheEntry) -> Path:
    planned = plan_pull(client, entry, "main", None)
    return carry_out(client, planned, Meter(1, threading.Event()), lambda: None)


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


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../b", "a//b", "./a", "C:x", "a\\b", "a\x1b[2Jb", "x\n", "",
     "a/" * 600, "é" * 200, "\ud800"],
)  # fmt: skip
def test_hostile_file_name_stops_everything(hub: FakeHub, pull: Pull, name: str) -> None:
    assert not is_safe(name)
    hub.extra_siblings = [{"rfilename": name, "size": 1, "blobId": "0" * 40}]
    with pytest.raises(UnsafeFileError, match="nothing was fetched") as raised:
        pull()
    assert str(raised.value).isprintable()
    assert num_downloads(hub) == 0


def test_link_out_of_the_cache_is_not_followed(
    tmp_path: Path, hub: FakeHub, client: Hub, environ: dict[str, str]
) -> None:
    repository = hub.add("xai-org/grok-1", {"ckpt-0/tensor00000_000": b"x" * 10})
    entry = CacheEntry(huggingface_cache(environ), "xai-org/grok-1")
    outside = tmp_path / "outside"
    outside.mkdir()
    snapshot = entry.snapshot(repository.commit)
    snapshot.mkdir(parents=True)
    (snapshot / "ckpt-0").symlink_to(outside)
    with pytest.raises(UnsafeFileError, match="out of the cache"):
        pull_as(client, entry)
    assert not list(outside.iterdir())


def test_full_disk_is_told_before_anything_is_fetched(
    hub: FakeHub, plan: Callable[..., Plan], entry: CacheEntry
) -> None:
    needed = sum(map(len, FILES.values()))
    planned = plan()
    assert planned.missing_bytes == needed
    check_room(planned, Room(needed + RESERVE_BYTES, entry.cache))
    with pytest.raises(StorageError, match=r"needs 0\.3 GiB more on the disk of .*HF_HOME"):
        check_room(planned, Room(needed + RESERVE_BYTES - 1, entry.cache))
    partial = entry.partial(etag_of(SHARD, FILES[SHARD]))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(1000))
    assert plan().missing_bytes == needed - 1000


def test_complete_model_needs_no_room(
    pull: Pull, plan: Callable[..., Plan], entry: CacheEntry
) -> None:
    pull()
    check_room(plan(), Room(0, entry.cache))


def test_equal_files_are_fetched_once(hub: FakeHub, pull: Pull) -> None:
    hub.add(NAME, {**FILES, "model-00001-of-00002.safetensors": FILES[SHARD]})
    snapshot = pull()
    assert contents(snapshot)["model-00001-of-00002.safetensors"] == FILES[SHARD]
    assert sum(r.host == "storage" for r in hub.requests) == 1


def test_two_pulls_of_one_repository_do_not_mix(hub: FakeHub, pull: Pull) -> None:
    hold = Hold(after=1000)
    hub.faults[SHARD] = [hold]
    complaints = []

    def pull_again() -> None:
        if hold.reached.is_set() and not complaints:
            with pytest.raises(DownloadError, match="another program is pulling") as raised:
                pull()
            complaints.append(raised.value)
            hold.release.set()

    assert contents(pull(watch=pull_again)) == FILES
    assert complaints


def test_one_quantization_of_a_gguf_repository_is_fetched_and_found(
    hub: FakeHub, pull: Pull, environ: dict[str, str]
) -> None:
    files = {f"tiny-{tag}.gguf": tag.encode() for tag in ("Q2_K", "Q4_K_M", "Q8_0")}
    hub.add(NAME, files)
    snapshot = pull()
    assert contents(snapshot) == {"tiny-Q4_K_M.gguf": b"Q4_K_M"}
    assert resolve(NAME, environ) == snapshot / "tiny-Q4_K_M.gguf"
    pull("q8_0")
    assert resolve(f"{NAME}:Q8_0", environ) == snapshot / "tiny-Q8_0.gguf"
    assert resolve(f"{NAME}/tiny-Q4_K_M.gguf", environ) == snapshot / "tiny-Q4_K_M.gguf"
    with pytest.raises(NotFoundError, match=f"{NAME}:Q4_K_M, {NAME}:Q8_0"):
        resolve(NAME, environ)
    with pytest.raises(NotFoundError, match=f"bobot pull {NAME}:Q2_K"):
        resolve(f"{NAME}:Q2_K", environ)


def test_blob_is_named_by_its_digest(pull: Pull, entry: CacheEntry) -> None:
    snapshot = pull()
    link = os.readlink(snapshot / SHARD)
    assert link == f"../../blobs/{hashlib.sha256(FILES[SHARD]).hexdigest()}"
