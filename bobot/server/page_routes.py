"""The routes of the page: its files, open to all, and its data under /app/api, which need the scope
"manage" where keys are needed: conversations are their owner's.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from bobot.server import page_files
from bobot.server.calls import Endpoint, Handler
from bobot.server.drain import Inflight
from bobot.server.page_answers import AnswerRoutes
from bobot.server.page_arena import ArenaRoutes
from bobot.server.page_chats import ChatRoutes, Chats
from bobot.server.page_live import LiveAnswers
from bobot.server.page_models import ModelRoutes
from bobot.server.running import Runner
from bobot.server.settings import Settings

API = "/app/api"
SCOPE = "manage"

Row = tuple[str, str, Handler, bool]
"""Method, path, handler, whether it asks a model."""


class _ForBrowsers(Route):
    """Matches only who asks for a page: at "/" programs look for Ollama."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and "text/html" in Request(scope).headers.get("accept", ""):
            return super().matches(scope)
        return Match.NONE, {}


def page_routes(
    runner: Runner, inflight: Inflight, settings: Settings, chats: Chats
) -> list[BaseRoute]:
    """All of them; the server closes `chats`."""

    def endpoint(label: str, handler: Handler, is_work: bool, scope: str) -> Endpoint:
        return Endpoint(label, handler, inflight, settings, scope=scope, is_work=is_work)

    files = [
        Route("/app", endpoint("/app", page_files.to_page, False, "use")),
        Route("/app/", endpoint("/app/", page_files.page, False, "use")),
        Route("/app/web/{path:path}", endpoint("/app/web", page_files.file, False, "use")),
        _ForBrowsers("/", endpoint("/", page_files.to_page, False, "use")),
    ]
    data = [
        Route(API + path, endpoint(API + path, handler, is_work, SCOPE), methods=[method])
        for method, path, handler, is_work in _rows(runner, inflight, chats)
    ]
    return [*files, *data]


def _rows(runner: Runner, inflight: Inflight, chats: Chats) -> list[Row]:
    live = LiveAnswers(runner, inflight)
    talk, answers = ChatRoutes(chats, live), AnswerRoutes(runner, chats, live)
    models, arena = ModelRoutes(runner.models), ArenaRoutes(runner, chats.kept)
    one = "/conversations/{id}"
    return [
        ("GET", "/conversations", talk.list, False),
        ("POST", "/conversations", talk.create, False),
        ("GET", "/search", talk.search, False),
        ("GET", "/export", talk.export, False),
        ("POST", "/import", talk.bring_in, False),
        ("GET", "/personas", talk.personas, False),
        ("GET", one, talk.get, False),
        ("PATCH", one, talk.change, False),
        ("DELETE", one, talk.delete, False),
        ("POST", f"{one}/branches", talk.branch_off, False),
        ("POST", f"{one}/answers", answers.ask, True),
        ("GET", f"{one}/answers/{{message:int}}", answers.follow, False),
        ("POST", f"{one}/answers/{{message:int}}/stop", answers.stop, False),
        ("GET", f"{one}/messages/{{message:int}}/tokens", talk.tokens, False),
        ("GET", "/models", models.list, False),
        ("GET", "/models/{name:path}/fit", models.fit, False),
        ("POST", "/arena", arena.create, False),
        ("POST", "/arena/{id}/answers", arena.ask, True),
        ("POST", "/arena/{id}/vote", arena.vote, False),
        ("GET", "/arena/ratings", arena.ratings, False),
    ]
