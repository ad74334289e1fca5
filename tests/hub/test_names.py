"""Names of models: each kind finds its folder, and a wrong one says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from bobot.errors import NotFoundError
from bobot.hub.names import aliases, embedded_folder, is_model, names_model, reference, resolve
from bobot.hub.store import models


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}


def in_cache(home: Path, repository: str, revision: str = "abc") -> Path:
    entry = home / ".cache/huggingface/hub" / f"models--{repository.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True, exist_ok=True)
    (entry / "refs/main").write_text(revision)
    return make_model(entry / "snapshots" / revision)


def test_folder_and_file_are_themselves(tmp_path: Path, environ: dict[str, str]) -> None:
    folder = make_model(tmp_path / "model")
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF")
    assert resolve(str(folder), environ) == folder
    assert resolve(folder, environ) == folder
    assert resolve(str(file), environ) == file


def test_folder_with_one_gguf_is_that_file_and_with_two_is_a_question(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    folder = tmp_path / "ggufs"
    folder.mkdir()
    (folder / "a.gguf").write_bytes(b"")
    assert resolve(str(folder), environ) == folder / "a.gguf"
    (folder / "b.gguf").write_bytes(b"")
    with pytest.raises(NotFoundError, match=r"2 GGUF models.*a\.gguf, .*b\.gguf"):
        resolve(str(folder), environ)


def test_gguf_in_parts_is_one_model(tmp_path: Path, environ: dict[str, str]) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for part in (1, 2, 11):
        (folder / f"big-{part:05d}-of-00011.gguf").write_bytes(b"")
    assert resolve(str(folder), environ).name == "big-00001-of-00011.gguf"


def test_store_lists_gguf_models_one_by_one(tmp_path: Path, environ: dict[str, str]) -> None:
    store = tmp_path / "data/bobot/models"
    for name in ("single/one.gguf", "org/several/a.gguf", "org/several/b.gguf", "loose.gguf"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"")
    found = {name: path.name for name, path in models(environ) if path.is_relative_to(store)}
    assert found == {
        "single": "one.gguf",
        str(store / "org/several/a.gguf"): "a.gguf",
        str(store / "org/several/b.gguf"): "b.gguf",
        str(store / "loose.gguf"): "loose.gguf",
    }


def test_short_name_and_repository_are_found_in_both_stores(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    cached = in_cache(tmp_path, "mistralai/Mistral-7B-Instruct-v0.3")
    own = make_model(tmp_path / "data/bobot/models/openai/gpt-oss-20b")
    assert resolve("mistral:7b", environ) == cached
    assert resolve("gpt-oss:20b", environ) == own
    assert resolve("openai/gpt-oss-20b", environ) == own
    names = [name for name, _ in models(environ)]
    assert names[-2:] == ["openai/gpt-oss-20b", "mistralai/Mistral-7B-Instruct-v0.3"]


def test_cache_snapshot_of_main_wins_and_empty_ones_are_skipped(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    in_cache(tmp_path, "a/b", "old")
    wanted = in_cache(tmp_path, "a/b", "new")
    assert resolve("a/b", environ) == wanted
    (wanted / "config.json").unlink()
    assert resolve("a/b", environ).name == "old"


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_cache_folder_comes_from_the_environment(
    tmp_path: Path, environ: dict[str, str], variable: str
) -> None:
    hub = tmp_path / "elsewhere" / ("hub" if variable == "HF_HOME" else "")
    snapshot = make_model(hub / "models--a--b/snapshots/r")
    environ[variable] = str(tmp_path / "elsewhere")
    assert resolve("a/b", environ) == snapshot


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("llama3.1:8b", "Get it with: bobot pull llama3.1:8b (15.0 GiB)"),
        ("some/model", "Get it with: bobot pull some/model"),
        ("some/model:Q4_K_M", "Get it with: bobot pull some/model:Q4_K_M"),
        ("https://huggingface.co/some/model", "Get it with: bobot pull"),
        ("mistrl:7b", "Did you mean 'mistral:7b'?"),
        ("qqqq", "bobot list"),
        ("openai:gpt-4o", "owner's computers"),
        ("./missing", "no such folder"),
        ("../../no/such", "no such folder"),
        ("a/..", "no such folder"),
    ],
)
def test_unknown_name_says_what_to_do(environ: dict[str, str], name: str, part: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        resolve(name, environ)
    assert part in str(raised.value)


def test_folder_without_a_model_says_what_is_missing(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    with pytest.raises(NotFoundError, match=r"no config\.json, params\.json or \.gguf"):
        resolve(str(tmp_path), environ)


def test_missing_embedded_model_is_told(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], tmp_path: Path
) -> None:
    monkeypatch.setattr("bobot.hub.names.embedded_folder", lambda: tmp_path / "assets")
    for name in (None, "bobot"):
        with pytest.raises(NotFoundError, match="embedded model is missing"):
            resolve(name, environ)


def test_every_short_name_stands_for_a_repository() -> None:
    assert {"llama2:7b", "llama3:8b", "llama3.1:405b", "mistral:7b", "gpt-oss:20b"} <= set(
        aliases()
    )
    for name, repository in aliases().items():
        assert reference(repository) == reference(name) == (repository, None), name
        with pytest.raises(NotFoundError, match=r"bobot pull .* GiB"):
            resolve(name, {"HOME": "/nonexistent"})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", ("org/name", None)),
        ("org/name:Q4_K_M", ("org/name", "Q4_K_M")),
        ("org/name/sub/file.gguf", ("org/name", "sub/file.gguf")),
        ("https://huggingface.co/org/name/", ("org/name", None)),
        ("hf.co/org/name:Q8_0", ("org/name", "Q8_0")),
        ("org/name/file.bin", None),
        ("org/../name", None),
        ("org", None),
        ("-x/y", None),
        ("openai:gpt-4o", None),
    ],
)
def test_reference_is_a_repository_and_a_choice(
    name: str, expected: tuple[str, str | None] | None
) -> None:
    assert reference(name) == expected


def test_words_that_name_a_model_are_told_from_prompts(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    assert names_model("bobot", environ)
    assert names_model("mistral:7b", environ)
    assert names_model(str(make_model(tmp_path / "m")), environ)
    for prompt in ("halo", "either/or", "what is bobot?", str(tmp_path), "x\0y", "long " * 999):
        assert not names_model(prompt, environ), prompt


def test_embedded_folder_lies_inside_the_package() -> None:
    assert embedded_folder().parts[-2:] == ("bobot", "assets")
    assert not is_model(Path("/nonexistent"))
