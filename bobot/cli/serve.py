"""`bobot serve`: models behind HTTP, in the words of OpenAI's, Anthropic's and Ollama's APIs."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bobot.cli.loading import importing, waiting
from bobot.cli.sanitize import sanitize
from bobot.errors import RequestError, UsageError
from bobot.messages import tr
from bobot.paths import user_paths

if TYPE_CHECKING:
    from bobot.server.keys import KeyStore
    from bobot.server.models import Models

DEFAULT_PORT = 8008
OLLAMA_PORT = 11434
FIRST_KEY = "first"
KEY_VARIABLE = "BOBOT_API_KEY"
EFFORT = "reasoning_effort"
RAM_SHARE = 0.9
"""Of the memory that is free when the server starts, what models may take."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr(
        "Without MODEL: the embedded model, and every other model of bobot list when a\n"
        "request names it. The first MODEL is loaded at once, the others when they are\n"
        "asked for; the one unused for longest makes room.\n"
        "On another --host than this machine every request needs a key; the first one is\n"
        "made and shown once. bobot keys makes, lists and revokes keys.\n"
        "\n"
        "examples:\n"
        "  bobot serve\n"
        "  bobot serve gpt-oss:20b llama3.1:8b --ollama\n"
        "  bobot serve ./model.gguf --host 0.0.0.0 --allow-host chat.example.org"
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=tr("what to serve"))
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help=tr("address to listen on, or several with commas (default: this machine only)"),
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, metavar="N", help=tr("default: 8008")
    )
    parser.add_argument(
        "--ollama", action="store_true", help=tr("listen on Ollama's port 11434 too")
    )
    parser.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help=tr("demand this key; may be repeated (or the variable BOBOT_API_KEY)"),
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help=tr("a name by which the server may be called; may be repeated"),
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help=tr("a web page that may call it (* for all); may be repeated"),
    )
    _add_habits(parser)


def _add_habits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--any-model",
        action="store_true",
        help=tr("answer with the first model whatever name is asked for"),
    )
    parser.add_argument(
        "--lenient",
        action="store_true",
        help=tr("pass over parameters that are not supported instead of refusing them"),
    )
    parser.add_argument(
        "--llama-server",
        action="store_true",
        help=tr("answer as llama-server does where its API and OpenAI's differ"),
    )
    parser.add_argument(
        "--chat-template",
        type=Path,
        metavar="FILE",
        help=tr("a chat template (Jinja) in the place of the models' own"),
    )
    parser.add_argument(
        "--default",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=tr("temperature, seed, max_tokens ... where a request does not say; may be repeated"),
    )
    parser.add_argument(
        "--show-prompt",
        action="store_true",
        help=tr("answer chats with the prompt too that the model was given (__verbose)"),
    )
    parser.add_argument(
        "--parallel", type=int, default=16, metavar="N", help=tr("answers at once (default: 16)")
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help=tr("tokens of a conversation, at most")
    )
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help=tr("memory for models (default: what is free)")
    )
    parser.add_argument(
        "--max-queue",
        type=int,
        default=256,
        metavar="N",
        help=tr("requests at once; more are told to come back (default: 256)"),
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        metavar="X",
        help=tr("how long open answers may go on after SIGTERM (default: 30)"),
    )


def run(args: argparse.Namespace) -> int:
    _check(args)
    with importing(), waiting(tr("loading the model ...")):
        from bobot.chat import requests
        from bobot.chat.service import ServiceLimits
        from bobot.chat.store import Store
        from bobot.engine import EngineConfig
        from bobot.server import app, hosts, keys, library, listen, models, page_files, settings
        from bobot.server.page_chats import Chats
        from bobot.server.page_routes import page_routes
    given = args.api_key or ([key] if (key := os.environ.get(KEY_VARIABLE)) else [])
    addresses = list(dict.fromkeys(map(str.strip, args.host.split(","))))
    is_open = all(map(hosts.is_loopback, addresses))
    defaults = _defaults(args.default)
    effort = defaults.pop(EFFORT, None)
    try:
        requests.sampling_params(defaults)
    except RequestError as error:
        raise UsageError("--default: {problem}", problem=error) from error
    limits = settings.Settings(
        is_lenient=args.lenient,
        is_llama=args.llama_server,
        shows_prompt=args.show_prompt,
        reasoning_effort=None if effort is None else str(effort),
        defaults=defaults,
        needs_key=not is_open or bool(given),
        allowed_hosts=tuple(args.allow_host),
        allowed_origins=tuple(args.allow_origin),
        max_calls=args.max_queue,
        drain_s=args.drain_seconds,
    )
    shelf = library.Library(
        EngineConfig(max_model_len=args.context, max_num_seqs=args.parallel),
        ServiceLimits(max_queue=args.max_queue),
        _template(args.chat_template),
    )
    served = models.Models(
        shelf.sources(args.models), _budget_bytes(args.memory), any_model=args.any_model
    )
    store = keys.KeyStore.open(user_paths().data / "server.db", given)
    ports = [args.port, *([OLLAMA_PORT] if args.ollama else [])]
    sockets = _listening(addresses, ports, is_open)
    _tell_keys(store, needs_key=limits.needs_key)
    _show_requests()
    chats = Chats(Store(user_paths().store))
    application = app.create_app(
        served,
        limits,
        store,
        shelf,
        pages=lambda runner, inflight: page_routes(runner, inflight, limits, chats),
        open_prefixes=(page_files.FILES,),
    )
    try:
        stopped_by = listen.run(application, served, sockets, limits, lambda: _tell_models(served))
    finally:
        chats.close()
    return 130 if stopped_by == signal.SIGINT else 0


def _defaults(given: list[str]) -> dict[str, Any]:
    """Name -> value, JSON where it is some."""
    found: dict[str, Any] = {}
    for item in given:
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise UsageError("--default is {found!r}; it must be NAME=VALUE.", found=item)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _template(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("can't read {path}: {reason}.", path=file, reason=error) from error


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.port <= 65535:
        raise UsageError("--port is {found}; allowed: 0 to 65535.", found=args.port)
    if args.max_queue < 1:
        raise UsageError("--max-queue is {found}; allowed: 1 or more.", found=args.max_queue)
    if args.parallel < 1:
        raise UsageError("--parallel is {found}; allowed: 1 or more.", found=args.parallel)
    if args.drain_seconds < 0:
        raise UsageError(
            "--drain-seconds is {found}; allowed: 0 or more.", found=args.drain_seconds
        )
    if args.memory is not None and args.memory <= 0:
        raise UsageError("--memory is {found}; it must be more than 0.", found=args.memory)


def _budget_bytes(memory_gib: float | None) -> int:
    from bobot import hardware

    if memory_gib is not None:
        return int(memory_gib * (1 << 30))
    return int(hardware.detect().ram_available_bytes * RAM_SHARE)


def _tell(line: str) -> None:
    print(sanitize(line), flush=True)


def _listening(addresses: list[str], ports: list[int], is_open: bool) -> list[socket.socket]:
    """The same ports at each address."""
    from bobot.server import listen

    sockets: list[socket.socket] = []
    for address in addresses:
        mine = [listen.listening(address, port) for port in dict.fromkeys(ports)]
        ports = [sock.getsockname()[1] for sock in mine]  # 0 has become one that is free
        _tell_addresses(address, ports)
        sockets += mine
    _tell_page(addresses[0], ports[0], is_open)
    return sockets


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _tell_addresses(host: str, ports: list[int]) -> None:
    for port in ports:
        address = _url(host, port)
        _tell(tr("listening on {address}  (OpenAI: {address}/v1)", address=address))


def _tell_page(host: str, port: int, is_open: bool) -> None:
    _tell(tr("chat in a browser: {address}", address=f"{_url(host, port)}/app/"))
    if not is_open:
        _tell(
            tr("other machines can reach it, and the line is not encrypted: see --host in --help")
        )


def _tell_keys(store: KeyStore, *, needs_key: bool) -> None:
    if needs_key and not store.has_keys:
        key = store.make(FIRST_KEY)
        _tell(tr("key, shown only this once: {key}", key=key))
    elif needs_key:
        _tell(tr("every request needs a key; bobot keys lists them"))


def _tell_models(served: Models) -> None:
    for listed in served.listed():
        if listed.state == "ready":
            _tell(
                tr(
                    "{name}: ready, a context of {count} tokens",
                    name=listed.name,
                    count=listed.max_model_len,
                )
            )
    others = [listed.name for listed in served.listed() if listed.state == "absent"]
    if others:
        _tell(tr("when asked for: {names}", names=", ".join(others)))


def _show_requests() -> None:
    """Requests on stderr: a short line on a terminal, else one JSON object each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_ShortLine() if sys.stderr.isatty() else _JsonLine())
    for name in ("bobot.server", "bobot.server.requests"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
    logger = logging.getLogger("bobot.server")
    logger.handlers = [handler]
    logger.propagate = False


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "facts", {})


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{when}Z", "level": record.levelname.lower()}
        line |= _facts(record) or {"message": record.getMessage()}
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
            line += f"  {facts['model']}: {counts}"
        return sanitize(line)
