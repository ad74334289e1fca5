"""`bobot serve`: models behind HTTP, in the words of OpenAI's, Anthropic's and Ollama's APIs."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from bobot.cli.arguments import add_activations, add_policy
from bobot.cli.loading import importing, waiting
from bobot.cli.routing import policy_of
from bobot.cli.sanitize import sanitize
from bobot.errors import UsageError
from bobot.messages import tr
from bobot.paths import user_paths

if TYPE_CHECKING:
    from bobot.gateway.policy import Policy
    from bobot.server.keys import KeyStore
    from bobot.server.library import Library
    from bobot.server.models import Models

DEFAULT_PORT = 8008
OLLAMA_PORT = 11434
FIRST_KEY = "first"
KEY_VARIABLE = "BOBOT_API_KEY"
GIB = 1 << 30
RAM_SHARE = 0.9
"""Of the memory that is free when the server starts, what models may take."""
PREFIX_CACHE_GIB = 4.0
"""On the disk of one who serves himself. What others say is kept only where the one who serves them
asks for it."""


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
        "  bobot serve llama3.1:8b --adapter poet=./poet --adapter clerk=./clerk\n"
        "  bobot serve ./model.gguf --host 0.0.0.0 --allow-host chat.example.org"
    )
    parser.epilog += "\n\n" + tr(
        "A policy file makes one more model, usually called auto: its rules choose who\n"
        "answers. A request with the header x-bobot-private: true, or with private: true\n"
        "in its body, is never sent to a hosted model.\n"
        "\n"
        "  bobot serve auto --policy ./policy.toml"
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=tr("what to serve"))
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help=tr(
            "a LoRA adapter of the first model, served as NAME; MODEL:NAME=PATH:"
            " one of another model; may be repeated"
        ),
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help=tr("address to listen on (default: this machine only)")
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
    add_policy(parser)
    parser.add_argument(
        "--context", type=int, metavar="N", help=tr("tokens of a conversation, at most")
    )
    add_activations(parser)
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help=tr("memory for models (default: what is free)")
    )
    parser.add_argument(
        "--prefix-cache",
        type=float,
        metavar="GIB",
        help=tr(
            "disk for the beginnings of prompts, so that they need not be read again after a"
            " restart; 0: none (default: 4 on this machine's own address, else 0)"
        ),
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
        from bobot.chat.service import ServiceLimits
        from bobot.chat.store import Store
        from bobot.engine import EngineConfig
        from bobot.server import app, hosts, keys, library, listen, page_files, settings
        from bobot.server.page_chats import Chats
        from bobot.server.page_routes import page_routes
    given = args.api_key or ([key] if (key := os.environ.get(KEY_VARIABLE)) else [])
    is_open = hosts.is_loopback(args.host)
    limits = settings.Settings(
        is_lenient=args.lenient,
        needs_key=not is_open or bool(given),
        allowed_hosts=tuple(args.allow_host),
        allowed_origins=tuple(args.allow_origin),
        max_calls=args.max_queue,
        drain_s=args.drain_seconds,
    )
    prefix_gib = args.prefix_cache
    if prefix_gib is None:
        prefix_gib = PREFIX_CACHE_GIB if is_open else 0.0
    shelf = library.Library(
        EngineConfig(max_model_len=args.context),
        ServiceLimits(max_queue=args.max_queue),
        int(prefix_gib * GIB),
        args.activations,
    )
    _show_requests()
    with contextlib.ExitStack() as ending:
        served = _served(args, shelf, ending)
        store = keys.KeyStore.open(user_paths().data / "server.db", given)
        ports = [args.port, *([OLLAMA_PORT] if args.ollama else [])]
        sockets = [
            ending.enter_context(_listening(args.host, port)) for port in dict.fromkeys(ports)
        ]
        _tell_addresses(args.host, [sock.getsockname()[1] for sock in sockets], is_open)
        _tell_keys(store, needs_key=limits.needs_key)
        _tell_prefixes(prefix_gib)
        chats = ending.enter_context(contextlib.closing(Chats(Store(user_paths().store))))
        application = app.create_app(
            served,
            limits,
            store,
            shelf,
            pages=lambda runner, inflight: page_routes(runner, inflight, limits, chats),
            open_prefixes=(page_files.FILES,),
        )
        stopped_by = listen.run(application, served, sockets, limits, lambda: _tell_models(served))
    return 130 if stopped_by == signal.SIGINT else 0


def _served(args: argparse.Namespace, shelf: Library, ending: contextlib.ExitStack) -> Models:
    """The models in the order in which they were named; without names all, the policy's last."""
    from bobot.gateway.spending import Ledger, spending_file
    from bobot.server.adapters import adapter_sources
    from bobot.server.models import Models
    from bobot.server.routing import Routing

    served = Models([], _budget_bytes(args.memory), any_model=args.any_model)
    routing = None
    if (policy := _policy(args)) is not None:
        ledger = ending.enter_context(contextlib.closing(Ledger(spending_file())))
        routing = Routing(policy, served, shelf.source, ledger)
    routes = {source.name: source for source in routing.sources()} if routing else {}
    named = [routes.get(name) or shelf.source(name) for name in args.models]
    named = named or shelf.sources([])
    for source in [*named, *adapter_sources(args.adapter, named)]:
        served.add(source)
    if routing is not None:
        for source in routes.values():
            served.add(source)
        routing.serve_models()
    return served


def _policy(args: argparse.Namespace) -> Policy | None:
    """The policy, if it is to be served: where models are named, it has to be named too."""
    policy = policy_of(args.policy)
    if policy is None or args.policy is not None or not args.models:
        return policy
    return policy if set(args.models) & set(policy.names) else None


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.port <= 65535:
        raise UsageError("--port is {found}; allowed: 0 to 65535.", found=args.port)
    if args.max_queue < 1:
        raise UsageError("--max-queue is {found}; allowed: 1 or more.", found=args.max_queue)
    if args.drain_seconds < 0:
        raise UsageError(
            "--drain-seconds is {found}; allowed: 0 or more.", found=args.drain_seconds
        )
    if args.memory is not None and args.memory <= 0:
        raise UsageError("--memory is {found}; it must be more than 0.", found=args.memory)
    if args.prefix_cache is not None and not 0 <= args.prefix_cache < math.inf:
        raise UsageError("--prefix-cache is {found}; allowed: 0 or more.", found=args.prefix_cache)


def _budget_bytes(memory_gib: float | None) -> int:
    from bobot import hardware

    if memory_gib is not None:
        return int(memory_gib * GIB)
    return int(hardware.detect().ram_available_bytes * RAM_SHARE)


def _listening(host: str, port: int) -> socket.socket:
    from bobot.server.listen import listening

    try:
        return listening(host, port)
    except UsageError as error:
        if port != OLLAMA_PORT:
            raise
        raise UsageError(
            "can't listen on Ollama's port {port}: {reason}.",
            hint="Is Ollama running? End it, or leave --ollama out.",
            port=port,
            reason=error.values["reason"],
        ) from error


def _tell(line: str) -> None:
    print(sanitize(line), flush=True)


def _tell_addresses(host: str, ports: list[int], is_open: bool) -> None:
    name = f"[{host}]" if ":" in host else host
    for port in ports:
        address = f"http://{name}:{port}"
        _tell(tr("listening on {address}  (OpenAI: {address}/v1)", address=address))
    _tell(tr("chat in a browser: {address}", address=f"http://{name}:{ports[0]}/app/"))
    if not is_open:
        _tell(
            tr("other machines can reach it, and the line is not encrypted: see --host in --help")
        )


def _tell_prefixes(size_gib: float) -> None:
    if size_gib:
        folder = user_paths().prefixes
        _tell(
            tr(
                "beginnings of prompts are kept, {size:g} GiB at most: {folder}",
                size=size_gib,
                folder=folder,
            )
        )


def _tell_keys(store: KeyStore, *, needs_key: bool) -> None:
    if needs_key and not store.has_keys:
        key = store.make(FIRST_KEY)
        _tell(tr("key, shown only this once: {key}", key=key))
    elif needs_key:
        _tell(tr("every request needs a key; bobot keys lists them"))


def _tell_models(served: Models) -> None:
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
