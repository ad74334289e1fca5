"""`bobot launch`: coding agents and other tools with the models of a bobot server."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from typing import Any

from bobot.cli.arguments import Parser
from bobot.cli.launch_files import write
from bobot.cli.launch_tools import AGENT_CONTEXT, Place, Setup, Tool, tools
from bobot.cli.sanitize import sanitize
from bobot.cli.table import table
from bobot.errors import BobotError, GatewayError, NotFoundError, UsageError
from bobot.messages import tr

DEFAULT_URL = "http://127.0.0.1:8008"
DEFAULT_KEY_ENV = "BOBOT_API_KEY"
TIMEOUT_S = 5.0


def add_arguments(parser: Parser) -> None:
    parser.epilog = tr(
        "Without TOOL: the tools, which of them are installed, and whether a server\n"
        "answers. With TOOL its configuration is printed; --write puts it into the\n"
        "tool's own file (a copy of the old one stays beside it), --run starts the tool\n"
        "with it. What follows -- goes to the tool and means --run too.\n"
        "\n"
        "examples:\n"
        "  bobot serve gpt-oss:20b                 (in another terminal)\n"
        "  bobot launch\n"
        "  bobot launch claude --run\n"
        "  bobot launch opencode --model gpt-oss:20b --write\n"
        "  bobot launch llm -- 'Why is the sky blue?'"
    )
    parser.passes_rest = True
    parser.add_argument("tool", nargs="?", metavar="TOOL", help=", ".join(tools()))
    parser.add_argument(
        "--model", metavar="NAME", help=tr("a model of the server (default: its first)")
    )
    parser.add_argument(
        "--url", default=DEFAULT_URL, help=tr("the server (default: http://127.0.0.1:8008)")
    )
    parser.add_argument(
        "--key-env",
        metavar="NAME",
        default=DEFAULT_KEY_ENV,
        help=tr("the variable with the server's key (default: BOBOT_API_KEY)"),
    )
    parser.add_argument("--write", action="store_true", help=tr("write the tool's own file"))
    parser.add_argument("--run", action="store_true", help=tr("start the tool"))
    parser.add_argument("--yes", action="store_true", help=tr("don't ask before writing"))
    parser.add_argument("--json", action="store_true", help=tr("print one JSON object"))


def run(args: argparse.Namespace) -> int:
    passed_on = args.passed_on
    url = _address(args.url)
    if args.tool is None:
        return _list(url, args)
    if args.tool not in tools():
        raise UsageError(
            "{name!r} is no tool that bobot knows; there are {known}.",
            hint="Any other works too: bobot launch openai says what to tell it.",
            name=args.tool,
            known=", ".join(tools()),
        )
    tool = tools()[args.tool]
    server = look(url, os.environ.get(args.key_env))
    place = _place(server, args)
    setup = tool.setup(place)
    if tool.is_agent and place.context is not None and place.context < AGENT_CONTEXT:
        _note(
            tr(
                "{model} has a context of {count} tokens; {tool} wants at least {least}.",
                model=place.model,
                count=place.context,
                tool=tool.about,
                least=AGENT_CONTEXT,
            )
        )
    starts = args.run or bool(passed_on)
    if args.write:
        _write(setup, args)
    if starts:
        _check_start(server, tool, setup)
        return _start(tool, setup, passed_on)
    if args.json:
        print(json.dumps(_report(args.tool, tool, setup, place), ensure_ascii=False))
    elif not args.write:
        _print(tool, setup, place)
    return 0


# ---------------------------------------------------------------------- the server


@dataclass(frozen=True)
class Server:
    url: str
    models: list[dict[str, Any]] = field(default_factory=list)
    is_up: bool = True


def look(url: str, key: str | None) -> Server:
    """The server at `url` and its models. Raises GatewayError where it refuses, or is no server of
    this kind.
    """
    import httpx2

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        # trust_env: a proxy can't reach this machine's own servers
        with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as client:
            answer = client.get(f"{url}/v1/models", headers=headers)
    except httpx2.InvalidURL as error:
        raise _no_address(url) from error
    except httpx2.HTTPError:
        return Server(url, is_up=False)
    if answer.status_code in (401, 403):
        raise GatewayError(
            "the server at {url} wants a key, and the one given is missing or wrong.",
            hint="bobot keys make NAME makes one; then: export BOBOT_API_KEY=...",
            url=url,
        )
    if answer.status_code != 200:
        raise _no_server(url, f"HTTP {answer.status_code}")
    try:
        return Server(url, [{**model, "id": str(model["id"])} for model in answer.json()["data"]])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_server(url, type(error).__name__) from error


def _no_server(url: str, reason: str) -> GatewayError:
    return GatewayError("{url} is no server of models: {reason}.", url=url, reason=reason)


def _down(url: str) -> NotFoundError:
    return NotFoundError(
        "no server answers at {url}.", hint="Start one: bobot serve [MODEL]", url=url
    )


def _address(text: str) -> str:
    url = text.rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")) or any(letter in url for letter in " \"'\n"):
        raise _no_address(text)
    return url


def _no_address(text: str) -> UsageError:
    return UsageError(
        "--url is {found!r}; it is an address such as http://127.0.0.1:8008.", found=text
    )


def _place(server: Server, args: argparse.Namespace) -> Place:
    """Raises NotFoundError for a server that is not up and no --model, or one it does not serve."""
    served = {model["id"]: model for model in server.models}
    name = args.model or next(iter(served), None)
    if name is None:
        raise _down(server.url)
    if server.is_up and name not in served:
        raise NotFoundError(
            "the server at {url} has no model {name!r}; there are {known}.",
            url=server.url,
            name=name,
            known=", ".join(served) or "-",
        )
    if not server.is_up:
        _note(_down(server.url).render(tr.translate))
    context = served.get(name, {}).get("context_length")
    key_env = args.key_env if os.environ.get(args.key_env) else None
    is_number = isinstance(context, int) and context > 0
    return Place(server.url, name, context if is_number else None, key_env, os.environ)


# ---------------------------------------------------------------------- what is done


def _list(url: str, args: argparse.Namespace) -> int:
    rows = [(name, tool.about, shutil.which(tool.program)) for name, tool in tools().items()]
    failure = None
    try:
        server = look(url, os.environ.get(args.key_env))
    except BobotError as error:
        server, failure = Server(url, is_up=False), error
    names = [model["id"] for model in server.models]
    if args.json:
        known = [{"name": name, "about": about, "path": path} for name, about, path in rows]
        state = {"url": url, "is_up": server.is_up, "models": names}
        print(json.dumps({"tools": known, "server": state}, ensure_ascii=False))
        return 0
    shown = [(name, about, path or tr("not installed")) for name, about, path in rows]
    print(sanitize(table([(tr("NAME"), tr("TOOL"), tr("PROGRAM")), *shown])))
    print()
    if server.is_up:
        models = ", ".join(names) or tr("none")
        print(sanitize(tr("{url} answers; its models: {models}", url=url, models=models)))
    else:
        print(sanitize((failure or _down(url)).render(tr.translate)))
    return 0


def _write(setup: Setup, args: argparse.Namespace) -> None:
    """Raises UsageError where there is no file, or nobody to ask."""
    if setup.file is None:
        raise UsageError(
            "{tool} has no file to write; its settings are variables.",
            hint="Leave --write out and put the printed lines into your shell's profile.",
            tool=args.tool,
        )
    path = setup.file.path
    if not args.yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError("--write changes {file}; --yes says that it may.", file=path)
        print(setup.file.shown(), file=sys.stderr)
        print(tr("Write this into {file}? [y/N]", file=path), end=" ", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes", "ya"):
            raise UsageError("nothing was written.")
    copy = write(setup.file)
    _note(tr("Written to {file}.", file=path))
    if setup.hint:
        _note(setup.hint)
    if copy is not None:
        _note(tr("What it held is in {file}.", file=copy))


def _check_start(server: Server, tool: Tool, setup: Setup) -> None:
    if not server.is_up:
        raise _down(server.url)
    if shutil.which(tool.program) is None:
        raise NotFoundError("{program} is not installed (not on PATH).", program=tool.program)
    if setup.needs_file and setup.file is not None and not setup.file.path.is_file():
        raise UsageError(
            "{file} is not there yet.", hint="Write it first, with --write.", file=setup.file.path
        )


def _start(tool: Tool, setup: Setup, passed_on: list[str]) -> int:
    """Becomes the tool; does not return."""
    command = [tool.program, *setup.options, *passed_on]
    sys.stdout.flush()
    environ = {name: text for name, text in os.environ.items() if name not in setup.unset}
    os.execvpe(command[0], command, {**environ, **setup.environ})  # noqa: S606  the user's own tool


def _report(name: str, tool: Tool, setup: Setup, place: Place) -> dict[str, Any]:
    """A key is left out: its variable says where it is."""
    file = setup.file
    hidden = setup.secret if place.key_env else ()
    return {
        "tool": name,
        "command": [tool.program, *setup.options],
        "environment": {key: text for key, text in setup.environ.items() if key not in hidden},
        "key_in": dict.fromkeys(hidden, place.key_env),
        "file": None if file is None else str(file.path),
        "content": None if file is None else file.shown(),
    }


def _print(tool: Tool, setup: Setup, place: Place) -> None:
    """Lines for a shell, and the file; a key is named by its variable."""
    key = f'"${place.key_env}"' if place.key_env else None
    for name in setup.unset:
        print(f"unset {name}")
    for name, value in setup.environ.items():
        if name == place.key_env:
            continue
        said = key if key and name in setup.secret else shlex.quote(value)
        print(f"export {name}={said}")
    print(shlex.join([tool.program, *setup.options]))
    if setup.file is not None:
        print()
        print(f"# {setup.file.path}")
        print(setup.file.shown(), end="")
    if setup.hint:
        _note(setup.hint)


def _note(line: str) -> None:
    print(f"bobot: {sanitize(line)}", file=sys.stderr)
