"""All routes of the server, behind its door.

`create_app` knows no command line and no file of weights: it is given models that can be opened.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bobot.server.anthropic_answer import Anthropic
from bobot.server.calls import Endpoint, Handler, face_of
from bobot.server.door import Door
from bobot.server.drain import Inflight
from bobot.server.failures import Failure
from bobot.server.keys import KeyStore
from bobot.server.library import Library
from bobot.server.listing import Listing
from bobot.server.llama_predict import Predict
from bobot.server.llama_routes import LlamaServer
from bobot.server.metrics import Metrics
from bobot.server.models import Models
from bobot.server.ollama_answer import Ollama
from bobot.server.ollama_models import OllamaModels
from bobot.server.openai import OpenAi
from bobot.server.rates import Rates
from bobot.server.response_routes import Responses, ResponseStore
from bobot.server.running import Runner
from bobot.server.settings import Settings
from bobot.server.tokens import Tokens
from bobot.server.wire import encode


@dataclass(frozen=True)
class _Row:
    """One route: its method, its paths, what answers it."""

    method: str
    paths: tuple[str, ...]
    handler: Handler
    scope: str = "use"
    is_work: bool = False


def create_app(
    models: Models,
    settings: Settings,
    keys: KeyStore,
    library: Library,
    *,
    pages: Callable[[Runner, Inflight], Sequence[BaseRoute]] | None = None,
    open_prefixes: tuple[str, ...] = (),
) -> Starlette:
    """The ASGI application. The routes of `pages` stand before its own; paths that begin with
    `open_prefixes` need no key. app.state.inflight drains it, app.state.runner asks its models.
    """
    inflight = Inflight(settings.max_calls)
    metrics, rates = Metrics(lambda: len(inflight)), Rates()
    runner = Runner(models, metrics, rates, keys, settings)
    store = ResponseStore(keys.database)
    store.forget_old()
    rows = [
        *_openai_rows(runner, settings, store),
        *_llama_rows(runner, settings),
        *_other_rows(runner, settings, metrics, library),
    ]
    if settings.is_llama:
        rows.append(_predict_row(rows))
    routes = [
        Route(
            path,
            Endpoint(path, row.handler, inflight, settings, scope=row.scope, is_work=row.is_work),
            methods=[row.method],
        )
        for row in rows
        for path in row.paths
    ]
    door = Middleware(
        Door,
        settings=settings,
        keys=keys,
        rates=rates,
        inflight=inflight,
        metrics=metrics,
        open_prefixes=open_prefixes,
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with _unloading(models, settings.unload_after_s):
            yield
        await models.close()
        keys.close()

    app = Starlette(
        routes=[*(pages(runner, inflight) if pages else ()), *routes],
        middleware=[door],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.inflight, app.state.runner = inflight, runner
    app.state.is_llama = settings.is_llama
    return app


@contextlib.asynccontextmanager
async def _unloading(models: Models, after_s: float | None) -> AsyncIterator[None]:
    """Models leave memory inside this block that nobody uses for so long; None: none does."""
    if after_s is None:
        yield
        return
    unloading = asyncio.ensure_future(models.unload_unused(after_s))
    try:
        yield
    finally:
        unloading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await unloading


def _openai_rows(runner: Runner, settings: Settings, store: ResponseStore) -> list[_Row]:
    openai, tokens = OpenAi(runner, settings), Tokens(runner, settings)
    responses = Responses(runner, settings, store)
    return [
        _Row("POST", _both("/chat/completions"), openai.chat, is_work=True),
        _Row("GET", _both("/chat/completions"), openai.stored_chats),
        _Row("POST", _both("/chat/completions/input_tokens"), tokens.count_chat),
        _Row("POST", _shared("/completions", settings), openai.text, is_work=True),
        _Row("POST", _shared("/embeddings", settings), openai.embed, is_work=True),
        _Row("POST", _both("/responses"), responses.create, is_work=True),
        _Row("POST", _both("/responses/input_tokens"), responses.count),
        _Row("GET", _both("/responses/{id}"), responses.get),
        _Row("GET", _both("/responses/{id}/input_items"), responses.items),
        _Row("DELETE", _both("/responses/{id}"), responses.delete),
        _Row("POST", _both("/tokenize"), tokens.tokenize),
        _Row("POST", _both("/detokenize"), tokens.detokenize),
        _Row("GET", _both("/tokenizer_info"), tokens.tokenizer_info),
    ]


def _llama_rows(runner: Runner, settings: Settings) -> list[_Row]:
    llama = LlamaServer(runner, settings)
    ours = ("/completion", "/completions"), ("/embedding", "/embeddings")
    if not settings.is_llama:
        ours = ("/completion",), ("/embedding",)
    return [
        _Row("POST", ours[0], llama.complete, is_work=True),
        _Row("POST", ours[1], llama.embed, is_work=True),
        _Row("POST", ("/infill",), llama.infill, is_work=True),
        _Row("POST", ("/apply-template",), llama.apply_template),
        _Row("POST", (*_both("/rerank"), *_both("/reranking")), llama.rerank),
        _Row("GET", ("/props",), llama.props),
        _Row("GET", ("/slots",), llama.slots, scope="observe"),
        _Row("GET", ("/lora-adapters",), llama.lora_adapters),
    ]


def _predict_row(rows: list[_Row]) -> _Row:
    """Over the routes of the others that any key may ask; Ollama's stream unless told not to."""
    usable = [row for row in rows if row.method == "POST" and row.scope == "use"]
    routes = ((path, row.handler) for row in usable for path in row.paths)
    predict = Predict((path, handler) for path, handler in routes if not path.startswith("/api/"))
    return _Row("POST", ("/predict",), predict.predict, is_work=True)


def _other_rows(
    runner: Runner, settings: Settings, metrics: Metrics, library: Library
) -> list[_Row]:
    listing = Listing(runner.models, metrics, is_llama=settings.is_llama)
    anthropic, ollama = Anthropic(runner, settings), Ollama(runner, settings)
    ollama_models = OllamaModels(runner.models, library)
    return [
        _Row("GET", _both("/health"), listing.health),
        _Row("GET", ("/metrics",), listing.metrics, scope="observe"),
        _Row("GET", _both("/models"), listing.models),
        _Row("GET", _both("/models/{id:path}"), listing.model),
        _Row("POST", _both("/messages"), anthropic.messages, is_work=True),
        _Row("POST", _both("/messages/count_tokens"), anthropic.count),
        _Row("GET", ("/",), ollama_models.root),
        _Row("GET", ("/api/version",), ollama_models.version),
        _Row("GET", ("/api/tags",), ollama_models.tags),
        _Row("GET", ("/api/ps",), ollama_models.ps),
        _Row("POST", ("/api/show",), ollama_models.show),
        _Row("POST", ("/api/chat",), ollama.chat, is_work=True),
        _Row("POST", ("/api/generate",), ollama.generate, is_work=True),
        _Row("POST", ("/api/embed",), ollama.embed, is_work=True),
        _Row("POST", ("/api/embeddings",), ollama.embeddings, is_work=True),
        _Row("POST", ("/api/pull",), ollama_models.pull, scope="manage"),
        _Row("DELETE", ("/api/delete",), ollama_models.delete, scope="manage"),
        _Row("POST", ("/api/create", "/api/copy", "/api/push"), ollama_models.refused),
        _Row("POST", ("/api/blobs/{digest}",), ollama_models.refused),
    ]


def _both(path: str) -> tuple[str, str]:
    return f"/v1{path}", path


def _shared(path: str, settings: Settings) -> tuple[str, ...]:
    """The paths of OpenAI's route where llama-server has its own one under `path`."""
    return (f"/v1{path}",) if settings.is_llama else _both(path)


async def _http_error(request: Request, error: Exception) -> Response:
    """No such route, or another method, in the words of the path's API."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    message = f"{request.method} {path}: {str(error.detail).lower()}."
    failure = Failure(error.status_code, "invalid_request_error", message, None, code)
    call = request.scope["state"]["call"]
    face = face_of(path, is_llama=request.app.state.is_llama)
    reply = face.reply(failure, call.request_id)
    headers = {**(error.headers or {}), "content-type": "application/json"}
    return Response(encode(reply.content), reply.status, headers)
