"""One call to a host over HTTP: the JSON objects of its answer, with back-off before the first.

A key goes to its host's address only: no redirect is followed, and no error or log holds one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import httpx2

from bobot.errors import GatewayError, UsageError
from bobot.gateway.failures import Refusal, error_of, refusal_in, refusal_of
from bobot.gateway.hosts import Host, check_address
from bobot.gateway.sse import TooLarge, events, whole
from bobot.gateway.wire import Call

MAX_ATTEMPTS = 4
MAX_WAIT_S = 30.0
"""A host that asks to wait longer is not waited for: the user is told."""
CONNECT_TIMEOUT_S = 10.0
MAX_ERROR_BYTES = 64 << 10
DRAIN_S = 0.25

log = logging.getLogger("bobot.gateway")

Sleep = Callable[[float], Awaitable[object]]


class _Failed(Exception):
    """An attempt that failed: the error to show, whether to try again, and after how long."""

    def __init__(self, error: Exception, may_repeat: bool, wait_s: float | None = None) -> None:
        self.error = error
        self.may_repeat = may_repeat
        self.wait_s = wait_s


class Client:
    """The connections to one host. `sleep` waits between attempts; tests give their own."""

    def __init__(
        self, host: Host, environ: Mapping[str, str], sleep: Sleep = asyncio.sleep
    ) -> None:
        self.host = host
        self.key = _key(host, environ)
        self._secrets = [self.key] if self.key else []
        self._sleep = sleep
        self._base_url = base_url(host, environ)
        self._headers = {"User-Agent": "bobot", "Accept-Encoding": "identity"}
        for header, variable in host.headers_env.items():
            if environ.get(variable):
                self._headers[header] = _printable(environ[variable], variable)
        self._open: httpx2.AsyncClient | None = None

    def _http(self) -> httpx2.AsyncClient:
        """The connections, opened by the first call after close()."""
        if self._open is not None:
            return self._open
        try:
            self._open = httpx2.AsyncClient(
                base_url=self._base_url,
                timeout=httpx2.Timeout(self.host.idle_timeout_s, connect=CONNECT_TIMEOUT_S),
                headers=self._headers,
            )
            return self._open
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise UsageError(
                "the proxy in the environment can't be used: {reason}",
                hint="bobot goes through proxies at http:// addresses (HTTPS_PROXY, ALL_PROXY).",
                reason=error,
            ) from error

    async def close(self) -> None:
        """Hangs up; a later call opens new connections, in another event loop if need be."""
        if self._open is not None:
            opened, self._open = self._open, None
            await opened.aclose()

    async def answer(self, call: Call, model: str) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON objects of the answer: those of a stream, or the one of a whole answer.

        Tries again, with back-off, what another attempt may mend, until the first object came.
        Raises a BobotError.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            has_begun = False
            try:
                async with aclosing(self._attempt(call, model)) as objects:
                    async for data in objects:
                        has_begun = True
                        yield data
                return
            except _Failed as failed:
                wait_s = waiting_time(attempt, failed.wait_s)
                is_last = attempt == MAX_ATTEMPTS or wait_s > MAX_WAIT_S
                if has_begun or is_last or not failed.may_repeat:
                    raise failed.error from failed.__cause__
                log.info("%s: attempt %d failed, waiting %.1f s", self.host.name, attempt, wait_s)
            await self._sleep(wait_s)

    async def _attempt(self, call: Call, model: str) -> AsyncGenerator[dict[str, Any], None]:
        headers = dict(call.headers)
        if self.key:
            headers[call.key_header] = call.key_prefix + self.key
        try:
            content = json.dumps(call.body, ensure_ascii=False, allow_nan=False).encode(
                "utf-8", "replace"
            )
            headers["Content-Type"] = "application/json"
            async with (
                self._http().stream(
                    "POST", call.path.lstrip("/"), content=content, headers=headers
                ) as response,
                aclosing(self._objects(response, model)) as objects,
            ):
                async for data in objects:
                    yield data
        except TooLarge as error:
            raise _Failed(self._too_large(), False) from error
        except httpx2.HTTPError as error:
            raise _Failed(self._unreachable(error), _may_repeat(error)) from error
        except (httpx2.StreamError, httpx2.InvalidURL) as error:
            raise _Failed(self._unreachable(error), False) from error

    async def _objects(
        self, response: httpx2.Response, model: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _Failed(self._not_json(), False)
        # not aiter_bytes: a packed answer could grow beyond every limit in one step
        async with aclosing(response.aiter_raw()) as chunks:  # type: ignore[type-var]
            if not response.is_success:
                content = await _beginning(chunks)
                refusal = refusal_of(response.status_code, response.headers, content, self._secrets)
                raise self._refused(refusal, model)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                yield self._object(await whole(chunks), model)
                return
            async with aclosing(events(chunks)) as found:
                async for data in found:
                    if data.strip() == b"[DONE]":
                        await to_the_end(found)
                        return
                    yield self._object(data, model)

    def _object(self, content: bytes, model: str) -> dict[str, Any]:
        try:
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _Failed(self._not_json(), False) from error
        if refusal := refusal_in(data, self._secrets):
            raise self._refused(refusal, model)
        if not isinstance(data, dict):
            raise _Failed(self._not_json(), False)
        return data

    def _refused(self, refusal: Refusal, model: str) -> _Failed:
        return _Failed(error_of(refusal, self.host, model), refusal.may_repeat, refusal.wait_s)

    def _unreachable(self, error: Exception) -> GatewayError:
        if isinstance(error, httpx2.ReadTimeout):
            return GatewayError(
                "{host} sent nothing for {seconds} seconds.",
                host=self.host.name,
                seconds=round(self.host.idle_timeout_s),
            )
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            return GatewayError(
                "{host} can't be reached: {reason}.",
                hint="Check the connection. Models on this machine work without: bobot list",
                host=self.host.name,
                reason=str(error) or type(error).__name__,
            )
        return broken_off(self.host)

    def _not_json(self) -> GatewayError:
        return GatewayError(
            "{host} does not answer with JSON.",
            hint="Is its address right, or does a log-in page of the network stand between?",
            host=self.host.name,
        )

    def _too_large(self) -> GatewayError:
        return GatewayError("{host} sends more than an answer can be.", host=self.host.name)


async def to_the_end(rest: AsyncIterator[Any]) -> None:
    """Reads what follows a whole answer, mostly nothing, so that the connection can be used again;
    a host that does not end is left.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in rest:
                pass


def broken_off(host: Host) -> GatewayError:
    return GatewayError("{host} broke off the answer.", hint="Ask again.", host=host.name)


def waiting_time(attempt: int, asked_s: float | None) -> float:
    """Seconds before the next attempt: what the host asks for, else about 0.5, 1, 2, less at
    random, so that many clients do not come back at once.
    """
    if asked_s is not None:
        return asked_s
    return 0.5 * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)


def base_url(host: Host, environ: Mapping[str, str]) -> str:
    """The address in the environment if there is one, else that of the host. Raises UsageError."""
    address = environ.get(host.base_url_env or "", "").strip() or host.base_url
    place = host.base_url_env if address != host.base_url else host.name
    check_address(address, place or host.name, sends_key=host.key_env is not None)
    return address.rstrip("/") + "/"


def _key(host: Host, environ: Mapping[str, str]) -> str | None:
    if host.key_env is None:
        return None
    key = environ.get(host.key_env, "").strip()
    if not key:
        raise GatewayError(
            "{host} needs a key, and {variable} is not set.",
            hint="Get one at {page}, then: export {variable}=...",
            host=host.name,
            variable=host.key_env,
            page=host.keys_page or host.base_url,
        )
    return _printable(key, host.key_env)


def _printable(value: str, variable: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(
            "{variable} has blanks or letters that no key has.",
            hint="Copy it again.",
            variable=variable,
        )
    return value


def _may_repeat(error: Exception) -> bool:
    """Not after a long silence: the host may have worked, and be paid, for nothing."""
    return not isinstance(error, httpx2.ReadTimeout | httpx2.UnsupportedProtocol)


async def _beginning(chunks: AsyncIterator[bytes]) -> bytes:
    """As much of a refusal as is worth reading."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) >= MAX_ERROR_BYTES:
            break
    return bytes(content[:MAX_ERROR_BYTES])
