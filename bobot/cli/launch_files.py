"""Files of other programs, changed without losing what stands in them.

Each kind says what the file will hold (`merged`), given what it holds now. A form that can't be
changed safely is refused: the user adds the lines.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bobot.errors import ConfigError
from bobot.paths import storage_error, write_atomic

BEGIN, END = "# bobot launch: begin", "# bobot launch: end"
MAX_BYTES = 4 << 20
_BLOCK = re.compile(rf"^[ ]*{BEGIN}\n.*?^[ ]*{END}\n", re.MULTILINE | re.DOTALL)


class ToolFile(Protocol):
    @property
    def path(self) -> Path: ...
    def shown(self) -> str:
        """What is added, to be read by a person."""
        ...

    def merged(self, before: str | None) -> str:
        """The whole file; `before` is None where there is none. Raises ConfigError."""
        ...


@dataclass(frozen=True)
class WholeFile:
    """A file that belongs to bobot alone."""

    path: Path
    text: str

    def shown(self) -> str:
        return self.text

    def merged(self, before: str | None) -> str:
        return self.text


@dataclass(frozen=True)
class JsonFile:
    """An object whose fields join those of the file, at every depth."""

    path: Path
    content: Mapping[str, Any]

    def shown(self) -> str:
        return _json(self.content)

    def merged(self, before: str | None) -> str:
        if before is None or not before.strip():
            return self.shown()
        try:
            found = json.loads(before)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                "{file} is no plain JSON (comments?), so it is left as it is: {reason}.",
                hint="Add the lines by hand; bobot launch prints them.",
                file=self.path,
                reason=error,
            ) from error
        if not isinstance(found, dict):
            raise _other_form(self.path)
        return _json(_joined(found, self.content))


@dataclass(frozen=True)
class YamlItem:
    """An item of a list, between two comments by which it is found again: the list is the whole
    file, or stands below the key `below`. `head`: what a file begins with that is made.
    """

    path: Path
    item: Mapping[str, Any]
    below: str | None = None
    head: Mapping[str, Any] = field(default_factory=dict)

    def shown(self) -> str:
        return self.merged(None)

    def merged(self, before: str | None) -> str:
        text = _BLOCK.sub("", before or "")
        if text and not text.endswith("\n"):
            text += "\n"
        if self.below is None:
            self._check_list(text)
            return text + self._block("")
        if not text.strip():
            head = "".join(f"{name}: {json.dumps(value)}\n" for name, value in self.head.items())
            return f"{text}{head}{self.below}:\n{self._block('  ')}"
        key = re.search(rf"^{self.below}:[ ]*(#.*)?\n", text, re.MULTILINE)
        if key is None:
            if re.search(rf"^['\"]?{self.below}", text, re.MULTILINE) or _is_flow(text):
                raise _other_form(self.path)
            return f"{text}{self.below}:\n{self._block('  ')}"
        first = re.match(r"(?:[ ]*(?:#.*)?\n)*([ ]*)-[ ]", text[key.end() :])
        if first is None and re.match(r"(?:[ ]*(?:#.*)?\n)*[ ]+\S", text[key.end() :]):
            raise _other_form(self.path)
        indent = first[1] if first else "  "
        return text[: key.end()] + self._block(indent) + text[key.end() :]

    def _block(self, indent: str) -> str:
        lines = [f"{name}: {json.dumps(value)}" for name, value in self.item.items()]
        body = [f"- {lines[0]}", *(f"  {line}" for line in lines[1:])]
        return "".join(f"{indent}{line}\n" for line in [BEGIN, *body, END])

    def _check_list(self, text: str) -> None:
        """Every line of a list of blocks begins with a dash, a blank or a comment."""
        if any(line and line[0] not in "- #" for line in text.splitlines()):
            raise _other_form(self.path)


def _other_form(path: Path) -> ConfigError:
    return ConfigError(
        "{file} is of another form, so it is left as it is.",
        hint="Add the lines by hand; bobot launch prints them.",
        file=path,
    )


def _is_flow(text: str) -> bool:
    """Whether the whole file is written as in JSON, or holds several documents."""
    return text.lstrip()[:1] in "{[" or bool(re.search(r"^(---|\.\.\.)", text, re.MULTILINE))


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _joined(found: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(found)
    for name, value in added.items():
        both = isinstance(value, Mapping) and isinstance(joined.get(name), dict)
        joined[name] = _joined(joined[name], value) if both else value
    return joined


def read_text(path: Path) -> str | None:
    """What stands in a file; None where there is none. Raises ConfigError."""
    try:
        content = path.read_bytes()[: MAX_BYTES + 1]
        if len(content) > MAX_BYTES:
            raise ConfigError("{file} is too large for a configuration file.", file=path)
        return content.decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            "{file}: can't read: {reason}.", file=path, reason=error.strerror
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError("{file} is no UTF-8 text.", file=path) from error


def write(file: ToolFile) -> Path | None:
    """Changes the file on the disk; where it was other than now, the copy of what it held. Raises
    ConfigError, StorageError.
    """
    path = file.path
    before = read_text(path)
    after = file.merged(before)
    if after == before:
        return None
    copy = None
    if before is not None:
        copy = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.bak")
        write_atomic(copy, before.encode(), mode=_mode(path))
    # A link stays a link: what it points at is replaced.
    write_atomic(path.resolve(), after.encode(), mode=_mode(path))
    return copy


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        return 0o600
    except OSError as error:
        raise storage_error(path, error) from error
