"""What `bobot serve` says: where it listens, what it serves, and a line for each request."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from bobot.cli.sanitize import sanitize
from bobot.messages import tr
from bobot.paths import user_paths

if TYPE_CHECKING:
    from bobot.server.keys import KeyStore
    from bobot.server.models import Models

FIRST_KEY = "first"
OTHERS = ("uvicorn", "asyncio", "py.warnings")
"""Loggers that say something in a server, beside those of bobot."""


def _tell(line: str) -> None:
    print(sanitize(line), flush=True)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def tell_addresses(host: str, ports: list[int]) -> None:
    for port in ports:
        address = _url(host, port)
        _tell(tr("listening on {address}  (OpenAI: {address}/v1)", address=address))


def tell_page(host: str, port: int, is_open: bool) -> None:
    _tell(tr("chat in a browser: {address}", address=f"{_url(host, port)}/app/"))
    if not is_open:
        _tell(
            tr("other machines can reach it, and the line is not encrypted: see --host in --help")
        )


def tell_prefixes(size_gib: float) -> None:
    if size_gib:
        folder = user_paths().prefixes
        _tell(
            tr(
                "beginnings of prompts are kept, {size:g} GiB at most: {folder}",
                size=size_gib,
                folder=folder,
            )
        )


def tell_keys(store: KeyStore, *, needs_key: bool) -> None:
    if needs_key and not store.has_keys:
        key = store.make(FIRST_KEY)
        _tell(tr("key, shown only this once: {key}", key=key))
    elif needs_key:
        _tell(tr("every request needs a key; bobot keys lists them"))


def tell_models(served: Models) -> None:
    for listed in served.listed():
        if listed.facts.routes_to:
            models = ", ".join(listed.facts.routes_to)
            _tell(tr("{name}: chooses among {models}", name=listed.name, models=models))
        elif listed.state == "ready":
            _tell(
                tr(
                    "{name}: ready, a context of {count} tokens",
                    name=listed.name,
                    count=listed.max_model_len,
                )
            )
    absent = [listed for listed in served.listed() if listed.state == "absent"]
    others = [listed.name for listed in absent if not listed.facts.routes_to]
    if others:
        _tell(tr("when asked for: {names}", names=", ".join(others)))


def show_requests() -> None:
    """Requests, and whatever else the log says, on stderr: a short line on a terminal, else one
    JSON object each. bobot/log.py has set up the place.
    """
    handlers = logging.getLogger("bobot").handlers
    for handler in handlers:
        handler.setFormatter(_ShortLine() if sys.stderr.isatty() else _JsonLine())
    logging.captureWarnings(True)
    for name in OTHERS:
        logging.getLogger(name).handlers = handlers
    logger = logging.getLogger("bobot.server")
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "facts", {})


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{when}Z", "level": record.levelname.lower()}
        line |= _facts(record) or {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _ShortLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when, facts = time.strftime("%H:%M:%S"), _facts(record)
        if not facts:
            text = f"{when} {record.getMessage()}"
            return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text
        line = f"{when} {facts['status']} {facts['method']} {facts['path']}"
        line += f" {facts['seconds']:.2f} s"
        if facts["model"]:
            counts = f"{facts['prompt_tokens']} + {facts['completion_tokens']}"
            chosen = "" if facts["asked"] == facts["model"] else f"{facts['asked']} -> "
            line += f"  {chosen}{facts['model']}: {counts}"
        return sanitize(line)
