"""`bobot serve`: models behind HTTP, in the words of OpenAI's, Anthropic's and Ollama's APIs."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import socket
from pathlib import Path

from bobot.cli.arguments import add_activations, add_policy
from bobot.cli.loading import importing, waiting
from bobot.cli.serve_lines import (
    show_requests,
    tell_addresses,
    tell_keys,
    tell_models,
    tell_page,
    tell_prefixes,
)
from bobot.cli.serve_setup import GIB, models_of, settings_of, template_of
from bobot.errors import UsageError
from bobot.messages import tr
from bobot.paths import user_paths

DEFAULT_PORT = 8008
OLLAMA_PORT = 11434
KEY_VARIABLE = "BOBOT_API_KEY"
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
    add_policy(parser)
    _add_door(parser)
    _add_habits(parser)
    _add_limits(parser)


def _add_door(parser: argparse.ArgumentParser) -> None:
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
    add_activations(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parallel", type=int, default=16, metavar="N", help=tr("answers at once (default: 16)")
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=512,
        metavar="N",
        help=tr("tokens computed in one step, of all answers together (default: 512)"),
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help=tr("tokens of a conversation, at most")
    )
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help=tr("memory for models (default: what is free)")
    )
    parser.add_argument(
        "--unload-after",
        type=float,
        metavar="X",
        help=tr("seconds after which an unused model leaves memory (default: when others need it)"),
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
        from bobot.server import app, hosts, keys, library, listen, page_files
        from bobot.server.page_chats import Chats
        from bobot.server.page_routes import page_routes
    given = args.api_key or ([key] if (key := os.environ.get(KEY_VARIABLE)) else [])
    addresses = list(dict.fromkeys(map(str.strip, args.host.split(","))))
    is_open = all(map(hosts.is_loopback, addresses))
    prefix_gib = args.prefix_cache
    if prefix_gib is None:
        prefix_gib = PREFIX_CACHE_GIB if is_open else 0.0
    limits = settings_of(args, needs_key=not is_open or bool(given))
    shelf = library.Library(
        EngineConfig(
            max_model_len=args.context,
            max_num_seqs=args.parallel,
            max_num_batched_tokens=args.batch_size,
        ),
        ServiceLimits(max_queue=args.max_queue),
        int(prefix_gib * GIB),
        args.activations,
        template_of(args.chat_template),
    )
    show_requests()
    with contextlib.ExitStack() as ending:
        served = models_of(args, shelf, ending)
        store = keys.KeyStore.open(user_paths().data / "server.db", given)
        ports = [args.port, *([OLLAMA_PORT] if args.ollama else [])]
        sockets = _listening(addresses, ports, is_open, ending)
        tell_keys(store, needs_key=limits.needs_key)
        tell_prefixes(prefix_gib)
        chats = ending.enter_context(contextlib.closing(Chats(Store(user_paths().store))))
        application = app.create_app(
            served,
            limits,
            store,
            shelf,
            pages=lambda runner, inflight: page_routes(runner, inflight, limits, chats),
            open_prefixes=(page_files.FILES,),
        )
        stopped_by = listen.run(application, served, sockets, limits, lambda: tell_models(served))
    return 130 if stopped_by == signal.SIGINT else 0


def _listening(
    addresses: list[str], ports: list[int], is_open: bool, ending: contextlib.ExitStack
) -> list[socket.socket]:
    """The same ports at each address; closed at the end."""
    sockets: list[socket.socket] = []
    for address in addresses:
        mine = [ending.enter_context(_bound(address, port)) for port in dict.fromkeys(ports)]
        ports = [sock.getsockname()[1] for sock in mine]  # 0 has become one that is free
        tell_addresses(address, ports)
        sockets += mine
    tell_page(addresses[0], ports[0], is_open)
    return sockets


def _bound(host: str, port: int) -> socket.socket:
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


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.port <= 65535:
        raise UsageError("--port is {found}; allowed: 0 to 65535.", found=args.port)
    if args.max_queue < 1:
        raise UsageError("--max-queue is {found}; allowed: 1 or more.", found=args.max_queue)
    if args.parallel < 1:
        raise UsageError("--parallel is {found}; allowed: 1 or more.", found=args.parallel)
    if args.batch_size < args.parallel:
        raise UsageError(
            "--batch-size is {found}; allowed: {allowed} (as --parallel) or more.",
            found=args.batch_size,
            allowed=args.parallel,
        )
    if args.drain_seconds < 0:
        raise UsageError(
            "--drain-seconds is {found}; allowed: 0 or more.", found=args.drain_seconds
        )
    if args.memory is not None and args.memory <= 0:
        raise UsageError("--memory is {found}; it must be more than 0.", found=args.memory)
    if args.unload_after is not None and not 0 < args.unload_after < math.inf:
        raise UsageError(
            "--unload-after is {found}; it must be more than 0.", found=args.unload_after
        )
    if args.prefix_cache is not None and not 0 <= args.prefix_cache < math.inf:
        raise UsageError("--prefix-cache is {found}; allowed: 0 or more.", found=args.prefix_cache)
