"""The one way bytes come in: resumable, bounded, and careful with credentials.

`Network` sends requests for all sources: TLS, proxies, redirects, retries. `Network.append` resumes
a file with a ``Range`` request (RFC 9110, section 14) guarded by ``If-Range``; a server that does
not know ranges, or whose file has changed, makes it start over. Digests are checked in staging.py.
"""

import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import random
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

from overt.errors import (
    IntegrityError,
    NeedsAccess,
    NotFound,
    Offline,
    SourceFailed,
)
from overt.models.sources.base import CHUNK
from overt.models.sources.retry import Again, Attempt, RateLimit

if TYPE_CHECKING:
    import httpx2

REDIRECTS = 5
_PAGE_BYTES = 64 << 20  # metadata larger than this is refused
_TRIES = 5  # in a row without a new byte
_WIDE = 4 << 40  # no file of a model is larger
AGAIN = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Download:
    """One file to bring.

    Attributes:
        url: without credentials.
        name: the file's name on the desk; plain, no slashes.
        size: bytes, or None where the origin does not say.
        sha256: 64 hex, or None where the origin does not say.
        git_sha1: 40 hex of the git blob, for small files of a hub that have nothing better.
        headers: sent to the URL's own host only, never across a redirect to another.
        access: what to do if the answer is "not allowed".
        label: what a person sees while it comes, where `name` is not fit for that.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    access: str = "check the credentials for this address"
    label: str = ""


@dataclass(frozen=True, slots=True)
class HttpPage:
    """A small answer: `url` is where it was found after redirects."""

    url: str
    media_type: str
    body: bytes


class DownloadTap(Protocol):
    """Sees the bytes of a file as they come: `begin` says at which place the next ones are."""

    def begin(self, start: int) -> None: ...

    def update(self, block: bytes) -> None: ...


class Network:
    """HTTP for the sources. Nothing is opened until the first request; threads may share one.

    Args:
        offline: refuse every request.
        environ: proxies and trusted certificates are taken from it.
        pause: seconds before the first retry; doubled each time.
        bandwidth: bytes a second that all files together may take; 0 is no limit.
        at_once: files that may come at once.
    """

    def __init__(
        self,
        offline: bool = False,
        environ: Mapping[str, str] | None = None,
        pause: float = 0.5,
        *,
        bandwidth: int = 0,
        at_once: int = 1,
    ) -> None:
        self.environ = os.environ if environ is None else environ
        self.offline = offline
        self.pause = pause
        self.at_once = at_once
        self.certificates: str | None = None  # a CA file a source's own configuration names
        self._client: httpx2.Client | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._pace = RateLimit(bandwidth, self._stopped)

    def stop(self) -> None:
        """End what other threads are bringing: each raises Stopped at its next block."""
        self._stopped.set()

    def close(self) -> None:
        if self._client:
            self._client.close()
            self._client = None

    def require(self, what: str) -> None:
        """Raises Offline where the network is switched off."""
        if self.offline:
            raise Offline(
                f"{what} needs the network, which is switched off",
                "unset OVERT_OFFLINE (or HF_HUB_OFFLINE), or use a model that `overt list` shows",
            )

    def page(self, url: str, headers: Mapping[str, str], access: str = "") -> HttpPage:
        """GET a small answer, whole.

        Raises:
            Offline: switched off, by the setting.
            NotFound: 404 or 410.
            NeedsAccess: 401 or 403.
            SourceFailed: no proper answer after several tries, or one past 64 MiB.
        """
        for attempt in self.attempts(url):
            with attempt, self._get(url, headers, access) as answer:
                body = bytearray()
                for block in answer.iter_bytes(CHUNK):
                    body += block
                    if len(body) > _PAGE_BYTES:
                        raise SourceFailed(f"{shown(url)} answered with more than 64 MiB")
                media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
                return HttpPage(str(answer.url), media_type.lower(), bytes(body))
        raise AssertionError("unreachable")

    def some(self, download: Download, start: int, count: int) -> bytes:
        """At most `count` bytes of a file from byte `start` on, for a look at its header.

        Raises:
            SourceFailed: the server does not send parts of a file, or as `page`.
        """
        last = start + count - 1
        range_headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{last}"}
        for attempt in self.attempts(download.url):
            headers = {**download.headers, **range_headers}
            with attempt, self._get(download.url, headers, download.access) as answer:
                if start and _start(answer) != start:
                    raise SourceFailed(f"{shown(download.url)} cannot be read in parts")
                data = bytearray()
                for block in answer.iter_raw():
                    data += block
                    self._pace.take(len(block))
                    if len(data) >= count:
                        break  # a server that knows no ranges sends all there is
                return bytes(data[:count])
        raise AssertionError("unreachable")

    def append(
        self,
        download: Download,
        target: Path,
        grow: Callable[[int, int | None], None],
        tap: "DownloadTap | None" = None,
    ) -> None:
        """Bring what is missing of `target`, resuming it.

        `grow` hears (bytes so far, total); `tap` gets the bytes as they are written.
        """
        for attempt in self.attempts(download.url):
            with attempt:
                before = size_of(target)
                try:
                    self._continue(download, target, grow, tap)
                    return
                finally:
                    if size_of(target) > before:
                        attempt.progressed()

    def _continue(
        self,
        download: Download,
        target: Path,
        grow: Callable[[int, int | None], None],
        tap: "DownloadTap | None",
    ) -> None:
        have = size_of(target)
        note = target.with_name(target.name + ".json")
        seen = _noted(note)
        if have and not _resumable(download, seen, have):
            have = 0
        headers = {**download.headers, "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if seen.get("etag"):
                headers["If-Range"] = str(seen["etag"])
        with self._get(download.url, headers, download.access) as answer:
            if answer.status_code == 416:  # the part is longer than the file is now
                target.unlink()
                raise Again("it has no such bytes (416)")
            total = _total(answer, download)
            start = _start(answer)
            if start not in (0, have):
                raise Again(f"it answered from byte {start} where {have} was asked for")
            _write_note(note, answer.headers.get("etag", ""), total)
            with target.open("r+b" if target.exists() else "w+b", buffering=0) as file:
                file.truncate(start)
                file.seek(start)
                if tap:
                    tap.begin(start)
                self._pour(answer, file.write, start, total, grow, tap)

    def _pour(
        self,
        answer: "httpx2.Response",
        write: Callable[[memoryview], int | None],
        done: int,
        total: int | None,
        grow: Callable[[int, int | None], None],
        tap: "DownloadTap | None",
    ) -> None:
        limit = _WIDE if total is None else total
        for block in answer.iter_raw():  # as it comes: a broken connection must not lose a buffer
            if done + len(block) > limit:
                raise IntegrityError(f"{shown(str(answer.url))} sends more than its {limit} bytes")
            self._pace.go_on()
            view = memoryview(block)
            while view:
                view = view[write(view) or 0 :]
            if tap:
                tap.update(block)
            done += len(block)
            grow(done, total)
            self._pace.take(len(block))
        if total is not None and done < total:
            raise Again(f"it stopped after {done} of {total} bytes")

    @contextmanager
    def _get(
        self, url: str, headers: Mapping[str, str], access: str
    ) -> "Iterator[httpx2.Response]":
        """Follow redirects by hand, so that credentials stay with the host they are for."""
        self.require(shown(url))
        sent = dict(headers)
        here = url
        for _ in range(REDIRECTS + 1):
            request = self.client().build_request("GET", here, headers=sent)
            answer = self.client().send(request, stream=True)
            try:
                if answer.status_code in (301, 302, 303, 307, 308):
                    there = urljoin(here, answer.headers.get("location", ""))
                    sent = allowed(here, there, sent)
                    here = there
                    continue
                _check_status(answer, url, access)
                yield answer
                return
            finally:
                answer.close()
        raise SourceFailed(f"{shown(url)} redirects more than {REDIRECTS} times")

    def client(self) -> "httpx2.Client":
        """The one client, opened at the first request."""
        with self._lock:
            if self._client is None:
                import httpcore2
                import httpx2

                # Each read passes several layers of Python. With 64 KiB a read, as it comes, a
                # large file took a fifth more CPU than with this (bench/transfer.py).
                httpcore2.HTTP11Connection.READ_NUM_BYTES = 256 << 10
                self._client = httpx2.Client(
                    verify=self.tls(),
                    timeout=httpx2.Timeout(30.0, read=60.0),
                    headers={"User-Agent": "overt"},
                    trust_env=True,  # proxies
                )
            return self._client

    def tls(self) -> ssl.SSLContext:
        """The certificates the person names, or else those the system trusts."""
        named = self.certificates or self.environ.get("SSL_CERT_FILE")
        named = named or self.environ.get("REQUESTS_CA_BUNDLE")
        if named:
            try:
                return ssl.create_default_context(cafile=str(Path(named).expanduser()))
            except (OSError, ssl.SSLError) as error:
                raise SourceFailed(
                    f"the certificates in {named} cannot be read: {error}",
                    "correct PIP_CERT, SSL_CERT_FILE or pip's `cert`",
                ) from None
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def attempts(self, url: str) -> "Iterator[Attempt]":
        failed = 0
        while True:
            attempt = Attempt(shown(url), last=failed + 1 >= _TRIES)
            yield attempt
            failed = 1 if attempt.moved else failed + 1
            jitter = 0.5 + random() / 2  # noqa: S311 -- spreads retries, guards nothing
            self._stopped.wait(min(attempt.wait or self.pause * 2**failed, 60.0) * jitter)
            self._pace.go_on()


def shown(url: str) -> str:
    """A URL fit for messages: no credentials, no query (signed addresses carry theirs there)."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def origin_of(url: str) -> tuple[str, str, int | None]:
    """What must be equal for credentials to be sent: scheme, host and port."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", port


def allowed(here: str, there: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that may follow a redirect.

    Raises:
        SourceFailed: it leads from https to http, or to something that is neither.
    """
    scheme = urlsplit(there).scheme
    if scheme not in ("http", "https") or (here.startswith("https:") and scheme == "http"):
        raise SourceFailed(f"{shown(here)} redirects to {shown(there)}, which is not safe")
    if origin_of(here) == origin_of(there):
        return dict(headers)
    return {k: v for k, v in headers.items() if k.lower() not in ("authorization", "cookie")}


def _check_status(answer: "httpx2.Response", url: str, access: str) -> None:
    status = answer.status_code
    if status in (200, 206, 416):
        return
    if status in (401, 403):
        raise NeedsAccess(f"{shown(url)} answered {status}, not allowed", access or None)
    if status in (404, 410):
        raise NotFound(f"{shown(url)} is not there ({status})", "check the name")
    if status in AGAIN:
        after = answer.headers.get("retry-after", "")
        raise Again(f"it answered {status}", float(after) if after.isdigit() else 0.0)
    raise SourceFailed(f"{shown(url)} answered {status}", "try again later")


def _total(answer: "httpx2.Response", download: Download) -> int | None:
    """The whole file's size by this answer, proved equal to what the origin stated."""
    length = answer.headers.get("content-length", "")
    total = int(length) if length.isdigit() else None
    if answer.status_code == 206:
        length_text = answer.headers.get("content-range", "").rpartition("/")[2]
        total = int(length_text) if length_text.isdigit() else None
    if total is not None and download.size is not None and total != download.size:
        raise IntegrityError(
            f"{shown(download.url)} is {total} bytes where {download.size} are stated",
            "try again later; if it stays so, do not use this source",
        )
    return total if total is not None else download.size


def _start(answer: "httpx2.Response") -> int:
    if answer.status_code != 206:
        return 0
    first = answer.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else -1


def _resumable(download: Download, seen: Mapping[str, object], have: int) -> bool:
    """Whether a part may be continued: a known digest or a strong validator must guard it."""
    size = download.size
    if size is not None and (have > size or seen.get("total") not in (None, size)):
        return False
    return bool(download.sha256 or download.git_sha1 or seen.get("etag"))


def _noted(path: Path) -> Mapping[str, object]:
    try:
        noted = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _write_note(path: Path, etag: str, total: int | None) -> None:
    strong = etag if etag.startswith('"') else ""  # a weak one does not promise equal bytes
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps({"etag": strong, "total": total}), "utf-8")
    new.replace(path)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
