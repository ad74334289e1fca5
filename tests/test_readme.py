"""What the pages tell a reader to type exists: commands, their options, make targets, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bobot import cli

ROOT = Path(__file__).resolve().parents[1]
READMES = ["README.md", "README.id.md"]
PAGES = [*READMES, *sorted(page.relative_to(ROOT).as_posix() for page in ROOT.glob("docs/*.md"))]
PROGRAMS = ("bobot", "make")


def code_blocks(page: str) -> list[list[str]]:
    """The lines of each block that is fenced or indented by four spaces."""
    blocks: list[list[str]] = [[]]
    in_fence = False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            in_fence = not in_fence
            blocks.append([])
        elif in_fence or line.startswith("    "):
            blocks[-1].append(line.strip())
        elif line.strip():
            blocks.append([])
    return blocks


def typed_lines(page: str) -> list[list[str]]:
    """The words of each `bobot` or `make` line in the code blocks of a page, up to a pipe.

    In a transcript, a block with lines that begin with `$`, only those lines were typed.
    """
    lines = []
    for block in code_blocks(page):
        prompted = [line[2:] for line in block if line.startswith("$ ")]
        for line in prompted or block:
            typed = re.sub(r"^.*\| *(?=bobot( |$))", "", line)
            if re.match(rf"({'|'.join(PROGRAMS)})( |$)", typed):
                words = shlex.split(typed, comments=True)
                end = next((i for i, word in enumerate(words) if word in "|>&&;"), len(words))
                lines.append(words[:end])
    return lines


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The --help of the command that `words` names, or of the default one."""
    command = [word for word in words[1:2] if not word.startswith("-")]
    assert not command or command[0] in cli.commands(), f"{' '.join(words)}: no such command"
    texts = []
    for argv in ([*(command or ["chat"]), "--help"], ["--help"]):
        assert cli.main(argv) == 0
        texts.append(capsys.readouterr().out)
    return "\n".join(texts)


@pytest.mark.parametrize("page", READMES)
def test_readme_shows_the_door_and_the_program(page):
    typed = typed_lines(page)
    assert ["make", "chat"] in typed
    assert any(words[0] == "bobot" for words in typed)


@pytest.mark.parametrize("page", PAGES)
def test_every_bobot_command_and_option_exists(page, capsys):
    for words in typed_lines(page):
        if words[0] == "bobot":
            text = help_of(words, capsys)
            for option in (word.split("=")[0] for word in words if word.startswith("--")):
                known = re.search(rf"(?<![\w-]){option}(?![\w-])", text)
                assert known, f"{page}: {' '.join(words)}: no option {option}"


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w./-]+):", makefile, re.MULTILINE))
    for words in typed_lines(page):
        if words[0] == "make":
            assert set(words[1:]) <= targets, f"{page}: {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    missing = [link for link in local if not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing, f"{page} links to {missing}"
