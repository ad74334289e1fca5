"""The Hub over HTTP: what a repository holds, and requests with back-off whose refusals say what to
do.

Speaks the two addresses that a mirror (HF_ENDPOINT) serves too: /api/models/ORG/NAME/revision/REV
for names, sizes and digests, and /ORG/NAME/resolve/COMMIT/FILE for content. The token goes to that
host only: httpx2 drops it when an answer leads to another one. Not used here: huggingface_hub's own
client, which forgets the received part of a file when it is stopped, checks no digest over HTTP,
and reports its environment to the Hub. Its settings and its cache are kept to.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from bobot.errors import BobotError, DownloadError, NotFoundError, UnsafeFileError, UsageError
from bobot.hub.cache import huggingface_home
from bobot.hub.names import aliases

HUB = "https://huggingface.co"
TOKENS_PAGE = f"{HUB}/settings/tokens"
MAX_ATTEMPTS = 6
"""Failures in a row, without one byte received between them, after which a request is given up."""
MAX_WAIT_S = 300
MAX_LISTING_BYTES = 64 << 20

_TRUE = {"1", "ON", "YES", "TRUE"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class RemoteFile:
    """One file as the Hub lists it. `etag` is its digest: SHA-256 of the content for large files
    (64 digits), git's SHA-1 of it for small ones (40 digits).
    """

    name: str
    size: int
    etag: str


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None


class Interrupted(Exception):
    """A request that may be repeated failed: why, and how long the server asks to wait."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        self.reason = reason
        self.wait_s = wait_s


class Hub:
    """One host that speaks the Hub's API. `sleep` waits between attempts; tests give their own."""

    def __init__(
        self, environ: Mapping[str, str], sleep: Callable[[float], object] = time.sleep
    ) -> None:
        if environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
            raise DownloadError(
                "HF_HUB_OFFLINE is set, so nothing is fetched.",
                hint="Take it out of the environment to download.",
            )
        self.endpoint = _endpoint(environ)
        self.token = _token(environ)
        self.sleep = sleep
        try:
            self._client = httpx2.Client(
                follow_redirects=True,
                timeout=httpx2.Timeout(30, connect=10),
                headers={"User-Agent": "bobot", "Accept-Encoding": "identity"},
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise UsageError(
                "the proxy in the environment can't be used: {reason}",
                hint="bobot goes through proxies at http:// addresses (HTTPS_PROXY, ALL_PROXY).",
                reason=error,
            ) from error

    def close(self) -> None:
        self._client.close()

    def list_files(self, repository: str, revision: str) -> Listing:
        """The files of `repository` at `revision`; DownloadError, NotFoundError or UnsafeFileError
        when there is no answer, no such repository, or an answer with a hostile file name.
        """
        address = f"/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
        for failures in range(1, MAX_ATTEMPTS + 1):
            try:
                return _listing(self._json(address, repository), repository)
            except Interrupted as error:
                if isinstance(error.__cause__, httpx2.ConnectError):
                    raise self._unreachable(error) from error
                if failures == MAX_ATTEMPTS:
                    raise self.given_up(error) from error
                self.sleep(waiting_time(error, failures))
        raise AssertionError("unreachable")

    def _json(self, address: str, repository: str) -> Any:
        with self.get(address, repository) as response:
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_LISTING_BYTES:
                    raise self._no_hub()
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._no_hub() from error

    @contextmanager
    def get(
        self, address: str, repository: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx2.Response]:
        """The streamed answer to GET `address` (a path on the endpoint).

        Raises Interrupted, also out of the block that reads the answer, for what another attempt
        may mend; DownloadError or NotFoundError for a refusal.
        """
        headers = dict(headers or {})
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            with self._client.stream("GET", self.endpoint + address, headers=headers) as response:
                if not response.is_success:
                    raise self._refusal(response, repository)
                yield response
        except (httpx2.TransportError, httpx2.StreamError) as error:
            reason = re.sub(r"\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
            raise Interrupted(reason) from error
        except (httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
            raise self._no_hub() from error

    def _refusal(self, response: httpx2.Response, repository: str) -> Exception:
        """What an answer other than 2xx means. X-Error-Code is the Hub's own reason."""
        status, reason = response.status_code, response.headers.get("X-Error-Code", "")
        # What a storage host refuses has mostly expired; the Hub then gives a fresh address.
        is_elsewhere = response.url.origin != httpx2.URL(self.endpoint).origin
        if status in (408, 416, 429) or status >= 500 or is_elsewhere:
            return Interrupted(f"HTTP {status}", _retry_after(response.headers))
        if reason == "GatedRepo":
            return self._gated(repository)
        if reason == "RevisionNotFound":
            return NotFoundError(
                "{repository} has no such revision.",
                hint="Its branches and tags: {page}/tree/main",
                repository=repository,
                page=f"{HUB}/{repository}",
            )
        if "Invalid credentials" in response.headers.get("X-Error-Message", ""):
            return self._token_refused(status)
        if status in (401, 404):  # 401 too: the Hub hides what is private
            return self._no_repository(repository)
        if status == 403:
            return self._token_refused(status) if self.token else self._gated(repository)
        return DownloadError(
            "{endpoint} answered HTTP {status} when asked for {repository}.",
            hint="Is HF_ENDPOINT right?",
            endpoint=self.endpoint,
            status=status,
            repository=repository,
        )

    def _no_repository(self, repository: str) -> NotFoundError:
        close = difflib.get_close_matches(repository, aliases().values(), n=1, cutoff=0.7)
        if close and close[0] != repository:
            return NotFoundError(
                "{repository} does not exist on {endpoint}, or it is private.",
                hint="Did you mean {close!r}?",
                repository=repository,
                endpoint=self.endpoint,
                close=close[0],
            )
        return NotFoundError(
            "{repository} does not exist on {endpoint}, or it is private.",
            hint="Look for its name on {hub}/models; for a private one set HF_TOKEN.",
            repository=repository,
            endpoint=self.endpoint,
            hub=HUB,
        )

    def _gated(self, repository: str) -> DownloadError:
        page = f"{HUB}/{repository}"
        if self.token:
            return DownloadError(
                "the publisher of {repository} has not given your account access.",
                hint='Open {page} with that account, press "Agree and access repository" (some'
                " publishers take a while to answer), then pull again.",
                repository=repository,
                page=page,
            )
        return DownloadError(
            "the publisher of {repository} asks you to accept terms first.",
            hint='Open {page}, log in and press "Agree and access repository"; make a token of'
            " the kind Read on {tokens}; then: export HF_TOKEN=hf_... and pull again.",
            repository=repository,
            page=page,
            tokens=TOKENS_PAGE,
        )

    def _token_refused(self, status: int) -> DownloadError:
        return DownloadError(
            "{endpoint} refuses your HF_TOKEN (HTTP {status}).",
            hint="Make a new one of the kind Read on {tokens}, or take HF_TOKEN out of the"
            " environment.",
            endpoint=self.endpoint,
            status=status,
            tokens=TOKENS_PAGE,
        )

    def _unreachable(self, error: Interrupted) -> DownloadError:
        return DownloadError(
            "{endpoint} can't be reached: {reason}.",
            hint="Check the connection; behind a firewall set HTTPS_PROXY, or HF_ENDPOINT to a"
            " mirror. What is on this machine works without: bobot list",
            endpoint=self.endpoint,
            reason=error.reason,
        )

    def given_up(self, error: Interrupted) -> DownloadError:
        """The error for a request that failed MAX_ATTEMPTS times in a row."""
        return DownloadError(
            "{endpoint} can't be reached or broke off {count} times: {reason}.",
            hint="Check the connection and pull again; what has arrived is kept.",
            endpoint=self.endpoint,
            count=MAX_ATTEMPTS,
            reason=error.reason,
        )

    def _no_hub(self) -> DownloadError:
        return DownloadError(
            "{endpoint} does not answer as a model hub does.",
            hint="Is HF_ENDPOINT right, or does a log-in page of the network stand between?",
            endpoint=self.endpoint,
        )


def waiting_time(error: Interrupted, failures: int) -> float:
    """Seconds before the next attempt: what the server asks for, else 1, 2, 4, 8, 16."""
    return min(error.wait_s if error.wait_s is not None else 2.0 ** (failures - 1), MAX_WAIT_S)


def _retry_after(headers: httpx2.Headers) -> float | None:
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isdecimal() and len(value) < 9 else None


def _endpoint(environ: Mapping[str, str]) -> str:
    endpoint = environ.get("HF_ENDPOINT", "").strip().rstrip("/") or HUB
    try:
        parts = urlsplit(endpoint)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address:
        raise UsageError(
            "HF_ENDPOINT is {found!r}; it must be an address such as {example}.",
            found=endpoint,
            example=HUB,
        )
    return endpoint


def _token(environ: Mapping[str, str]) -> str | None:
    """HF_TOKEN, else what `hf auth login` saved, else None."""
    token, source = environ.get("HF_TOKEN", "").strip(), "HF_TOKEN"
    if not token:
        path = Path(environ.get("HF_TOKEN_PATH") or huggingface_home(environ) / "token")
        try:
            token, source = path.read_text(encoding="utf-8").strip(), str(path)
        except (OSError, ValueError):
            return None  # most people have no token, and most models need none
    if not re.fullmatch(r"[!-~]*", token):
        raise UsageError(
            "the token in {source} has blanks or letters that no token has.",
            hint="Copy it again from {tokens}.",
            source=source,
            tokens=TOKENS_PAGE,
        )
    return token or None


def _listing(answer: Any, repository: str) -> Listing:
    """The Listing in the API's answer, each field checked: it comes from the network."""
    try:
        commit = _matching(_COMMIT, answer["sha"])
        files = tuple(_remote_file(entry, repository) for entry in answer["siblings"])
    except BobotError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise DownloadError(
            "the listing of {repository} lacks sizes or digests.",
            hint="Is HF_ENDPOINT a mirror that knows ?blobs=true?",
            repository=repository,
        ) from error
    card = answer.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    return Listing(
        repository=repository,
        commit=commit,
        files=files,
        licence=licence if isinstance(licence, str) and licence.isprintable() else None,
    )


def _remote_file(entry: Any, repository: str) -> RemoteFile:
    name, size, lfs = entry["rfilename"], entry["size"], entry.get("lfs")
    if not isinstance(name, str) or not is_safe(name):
        raise UnsafeFileError(
            "{repository} lists the file {name!r}, which would lie outside of its folder; nothing"
            " was fetched.",
            hint="Report it to the Hub; don't use this repository.",
            repository=repository,
            name=name,
        )
    if lfs:
        size, etag = lfs["size"], _matching(_SHA256, lfs["sha256"])
    else:
        etag = _matching(_COMMIT, entry["blobId"])
    if type(size) is not int or size < 0:
        raise ValueError(f"size {size!r}")
    return RemoteFile(name, size, etag)


def is_safe(name: str) -> bool:
    """Whether a name from the network stays inside the folder it is joined to, on any system."""
    parts = name.split("/")
    return (
        name.isprintable()
        and len(name) < 1024
        and "\\" not in name
        and not _WINDOWS_DRIVE.match(name)
        and all(part not in ("", ".", "..") and len(part.encode()) < 256 for part in parts)
    )


def _matching(pattern: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is no digest")
    return value
