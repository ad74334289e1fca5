"""A pull against a hub on loopback: what is fetched, kept and checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import Body, Cut, FakeHub, Hold, etag_of
from tiny_repository import FILES, NAME, SHARD, UNWANTED, Pull, contents, num_downloads, pull_as

from bobot.errors import (
    CheckpointError,
    DownloadError,
    NotFoundError,
    StorageError,
    UnsafeFileError,
)
from bobot.hub.cache import CacheEntry, huggingface_cache
from bobot.hub.names import resolve
from bobot.hub.pull import RESERVE_BYTES, Plan, Room, check_room
from bobot.hub.remote import Hub, is_safe


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
