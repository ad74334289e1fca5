"""The page's files, read and not run: no foreign code, no inline code, nothing missing."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib

import pytest

from bobot.chat import persona
from bobot.server.page_files import HEADERS, WEB

OWN = sorted((WEB / "js").glob("*.js"))
MARKUP = [WEB / "index.html", *OWN]


def test_vendored_files_have_the_sums_and_licences_that_are_written_down() -> None:
    folder = WEB / "vendor"
    entries = tomllib.loads((folder / "VENDORED.toml").read_text(encoding="utf-8"))["file"]
    for entry in entries:
        found = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
        assert found == entry["sha256"], entry["file"]
        assert ("sha256_published" in entry) == ("change" in entry), entry["file"]
        assert len((folder / entry["licence_file"]).read_text(encoding="utf-8")) > 500
    present = {path.name for path in folder.iterdir() if path.is_file()} - {"VENDORED.toml"}
    assert present == {entry["file"] for entry in entries}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_imports_lead_to_files_and_names_that_exist(path) -> None:
    text = path.read_text(encoding="utf-8")
    pattern = r"(?:import|export)\s+([^;\"]*?)\s*from\s+\"([^\"]+)\"|import\(\"([^\"]+)\"\)"
    for names, source, lazily in re.findall(pattern, text):
        found = (path.parent / (source or lazily)).resolve()
        assert found.is_file() and WEB in found.parents, f"{path.name}: {source or lazily}"
        wanted = re.search(r"\{([^}]*)\}", names)
        if wanted and found.parent == path.parent:
            for name in filter(None, map(str.strip, wanted[1].split(","))):
                assert re.search(rf"export [^;]*\b{name}\b", found.read_text()), f"{source}: {name}"


def test_no_code_stands_in_the_markup_and_nothing_comes_from_elsewhere() -> None:
    assert "unsafe" not in HEADERS["content-security-policy"]
    for path in MARKUP:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\son[a-z]+=[\"']", text), path.name
        assert not re.search(r"<[a-z][^>]*\sstyle=", text), path.name
        assert not re.search(r"\b(eval|document\.write|insertAdjacentHTML)\b|new Function", text)
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
    for address in re.findall(r"(?:src|href)=\"([^\"]+)\"", page):
        assert address.startswith("/app/web/")
        assert (WEB / address.removeprefix("/app/web/")).is_file(), address
    for path in (WEB / "css").glob("*.css"):
        for address in re.findall(r"url\(\"?([^\")]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / address).resolve().is_file(), address


def test_html_of_a_model_is_set_only_where_it_was_cleaned() -> None:
    places = [
        line.strip()
        for path in OWN
        for line in path.read_text().splitlines()
        if "innerHTML" in line
    ]
    assert len(places) == 3
    assert all(re.search(r"innerHTML = (clean|htmlOf)\(", place) for place in places), places
    markdown = (WEB / "js" / "markdown.js").read_text(encoding="utf-8")
    assert "htmlOf = (text) => clean(" in markdown and "dangerouslySetInnerHTML" not in markdown


def test_both_languages_say_everything_that_the_page_asks_for() -> None:
    english, indonesian = (
        json.loads((WEB / "locale" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("en", "id")
    )
    assert list(english) == list(indonesian)
    for key, text in english.items():
        assert re.findall(r"\{\w+\}", text) == re.findall(r"\{\w+\}", indonesian[key]), key
    source = "\n".join(path.read_text(encoding="utf-8") for path in OWN)
    used = set(re.findall(r"\bt\(\"(\w+)\"", source))
    assert used - set(english) == set()
    assert {f"persona_{name}" for name in persona.shipped()} <= set(english)
    quoted = set(re.findall(r"[\"`](\w+)[\"`]", source))
    made = re.compile(r"persona_|theme_|effort_|vote_|role_")
    assert {key for key in english if key not in quoted and not made.match(key)} == set()


def test_own_files_are_short() -> None:
    for path in [*OWN, *(WEB / "css").glob("*.css")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 300, f"{path.name}: {len(lines)}"
