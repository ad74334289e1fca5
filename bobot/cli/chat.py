"""`bobot chat`: opens the screen that this terminal allows and starts the conversation of
chat_loop.py.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from typing import TYPE_CHECKING

from bobot.cli.arguments import (
    add_activations,
    add_adapter,
    add_model,
    add_policy,
    add_reasoning_effort,
    add_sampling,
    add_speculation,
    sampling_of,
)
from bobot.cli.loading import importing, load_model, read_ahead
from bobot.cli.routing import policy_named
from bobot.cli.screen import PlainScreen
from bobot.errors import StorageError
from bobot.messages import tr
from bobot.paths import user_paths

if TYPE_CHECKING:
    from bobot.chat.archive import Archive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr(
        "In a pipe each line is one question and answers go to standard output; three\n"
        "quotes hold several lines together.\n"
        "\n"
        "examples:\n"
        "  bobot chat\n"
        "  bobot chat ./Llama-3.1-8B-Instruct --persona rebel\n"
        "  bobot chat openai:gpt-4o                            (needs OPENAI_API_KEY)\n"
        "  printf 'Hello!\\nAnd in Indonesian?\\n' | bobot chat"
    )
    add_model(parser)
    parser.add_argument(
        "--persona", metavar="NAME", help=tr("plain, rebel, or a text or TOML file")
    )
    parser.add_argument("--system", metavar="TEXT", help=tr("the system prompt"))
    add_sampling(parser)
    add_reasoning_effort(parser)
    add_speculation(parser)
    add_activations(parser)
    add_adapter(parser)
    add_policy(parser)
    parser.add_argument(
        "--private",
        action="store_true",
        help=tr("keep nothing: no history, no saved conversation; no hosted model"),
    )


def run(args: argparse.Namespace) -> int:
    policy = policy_named(args.model, args.policy)
    read_ahead(policy.local if policy else args.model)
    with importing():
        from bobot.chat.session import Session
        from bobot.cli.chat_loop import Chat

    session = Session()
    if args.persona is not None:
        session.take_persona(args.persona)
    session.own_system = args.system
    for name, value in sampling_of(args).items():
        session.set(name, str(value))
    session.is_private = args.private
    load = functools.partial(
        load_model,
        speculation=args.speculation,
        activations=args.activations,
        policy=args.policy,
    )
    model = load(args.model, draft=args.draft, adapter=args.adapter)
    if args.reasoning_effort is not None:
        session.set_reasoning_effort(args.reasoning_effort, model)
    is_full = _is_full_terminal()
    keeps = not args.private and (is_full or (sys.stdin is not None and sys.stdin.isatty()))
    chat = Chat(model, session, _archive() if keeps else None, load)
    if is_full:
        from bobot.cli.terminal import Terminal

        history = None if args.private else user_paths().history
        return chat.run(Terminal(history, chat.commands.candidates))
    return chat.run(PlainScreen())


def _archive() -> Archive | None:
    """The saved conversations; a store that can't be opened is told and ends no chat."""
    from bobot.chat.archive import Archive
    from bobot.chat.store import Store

    paths = user_paths()
    try:
        return Archive(Store(paths.store), paths.chats)
    except StorageError as error:
        PlainScreen().complain(error.render(tr.translate))
        print(tr("From here on this conversation is not saved."), file=sys.stderr)
        return None


def _is_full_terminal() -> bool:
    """Whether both ends are a terminal that can move its cursor."""
    both = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    return both and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
