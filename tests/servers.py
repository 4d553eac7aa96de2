"""Network peers for tests, on loopback: a file server, a package index, and a hub.

They speak HTTP as their models do (ranges, validators, redirects, status codes) and can be told to
misbehave. Every request is kept in `seen`.
"""

import hashlib
import io
import json
import ssl
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Seen:
    path: str
    query: str
    range: str | None
    authorization: str | None
    headers: dict[str, str]


@dataclass
class Answer:
    """What to send: `body` with `status`, or only a status and headers."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """Files by path, and rules for how they are sent.

    Attributes:
        ranges: whether ``Range`` is honoured.
        etag: whether a strong validator is sent.
        speed: bytes a second, or None.
        cut: the number of bytes after which an answer breaks off, once for each in the list.
        fail: status codes to answer with first, in order.
        routes: asked before the files; None means no answer of theirs.
        tls: a certificate and its key; without them the server speaks plain HTTP.
    """

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    ranges: bool = True
    etag: bool = True
    length: bool = True
    speed: float | None = None
    cut: list[int] = field(default_factory=list)
    fail: list[int] = field(default_factory=list)
    routes: list[Callable[[Seen], Answer | None]] = field(default_factory=list)
    tls: tuple[Path, Path] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]


@contextmanager
def serving(server: Server | None = None) -> Iterator[Server]:
    """A server on a free port of loopback, ended at the end of the block."""
    state = server or Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            # The client may have been killed, which is the point of some tests.
            with suppress(BrokenPipeError, ConnectionResetError):
                _answer(self, state)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    if state.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*state.tls)
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    state.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def _answer(handler: BaseHTTPRequestHandler, state: Server) -> None:
    parts = urlsplit(handler.path)
    seen = Seen(
        unquote(parts.path),
        parts.query,
        handler.headers.get("Range"),
        handler.headers.get("Authorization"),
        {k.lower(): v for k, v in handler.headers.items()},
    )
    state.seen.append(seen)
    if state.fail:
        _send(handler, Answer(state.fail.pop(0)))
        return
    for route in state.routes:
        if answer := route(seen):
            _send(handler, answer)
            return
    if seen.path not in state.files:
        unknown_repo = seen.path.startswith("/api/models/")  # a hub does not say what is private
        _send(
            handler,
            Answer(401, headers={"X-Error-Code": "RepoNotFound"}) if unknown_repo else Answer(404),
        )
        return
    _send_file(handler, state, seen)


def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    handler.send_response(answer.status)
    for name, value in answer.headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(answer.body)))
    handler.end_headers()
    handler.wfile.write(answer.body)


def _send_file(handler: BaseHTTPRequestHandler, state: Server, seen: Seen) -> None:
    body = state.files[seen.path]
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    start = 0
    guard = seen.headers.get("if-range")
    if state.ranges and seen.range and guard in (None, etag):
        start = int(seen.range.removeprefix("bytes=").partition("-")[0])
        if start >= len(body):
            _send(handler, Answer(416, headers={"Content-Range": f"bytes */{len(body)}"}))
            return
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    else:
        handler.send_response(200)
    if state.etag:
        handler.send_header("ETag", etag)
    if state.length:
        handler.send_header("Content-Length", str(len(body) - start))
    handler.send_header("Content-Type", state.types.get(seen.path, "application/octet-stream"))
    handler.end_headers()
    end = min(len(body), start + state.cut.pop(0)) if state.cut else len(body)
    step = 1 << 20 if state.speed is None else max(1, int(state.speed / 100))
    for place in range(start, end, step):
        handler.wfile.write(body[place : min(end, place + step)])
        if state.speed is not None:
            time.sleep(0.01)


# ---- a package index ---------------------------------------------------------------------------


def wheel(
    name: str, version: str, members: dict[str, bytes], requires: tuple[str, ...] = ()
) -> bytes:
    """A wheel's bytes: `members` plus a proper dist-info."""
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        everything = {
            **members,
            f"{info}/METADATA": (metadata + "\nA description.\n").encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
        for path, body in everything.items():
            archive.writestr(
                zipfile.ZipInfo(path, (2026, 1, 2, 3, 4, 6)), body, zipfile.ZIP_DEFLATED
            )
    return buffer.getvalue()


def filename(name: str, version: str) -> str:
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def publish(
    server: Server, name: str, wheels: dict[str, bytes], html: bool = False, **extra: object
) -> None:
    """List `wheels` (version to bytes) of one package under ``/simple/``.

    `extra` overrides fields of every file in the list (``hashes``, ``yanked``, ``size``).
    """
    rows = []
    for version, body in wheels.items():
        file = filename(name, version)
        server.files[f"/files/{file}"] = body
        row: dict[str, object] = {
            "filename": file,
            "url": f"../../files/{file}",
            "hashes": {"sha256": hashlib.sha256(body).hexdigest()},
            "size": len(body),
            "yanked": False,
        }
        rows.append(row | extra)
    path = f"/simple/{name}/"
    if html:
        links = "".join(
            f'<a href="{row["url"]}#sha256={row["hashes"]["sha256"]}"'  # type: ignore[index]
            f"{' data-yanked' if row['yanked'] else ''}>{row['filename']}</a><br/>"
            for row in rows
        )
        server.files[path] = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        server.types[path] = "text/html; charset=utf-8"
    else:
        listing = {"meta": {"api-version": "1.1"}, "name": name, "files": rows}
        server.files[path] = json.dumps(listing).encode()
        server.types[path] = "application/vnd.pypi.simple.v1+json"


# ---- a hub -------------------------------------------------------------------------------------


@dataclass
class Hub:
    """One repository of a hub, with its own storage host for LFS files, as the real one has.

    Attributes:
        lfs: paths kept in LFS; they are redirected to `storage`.
        token: if set, metadata and files need it.
        gated: if True, files and metadata answer as a gated repository does without access.
        gated_by: how access is given, as the metadata of a gated repository says.
    """

    server: Server
    storage: Server
    repo: str
    files: dict[str, bytes]
    lfs: frozenset[str] = frozenset()
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    branches: tuple[str, ...] = ("main",)
    token: str | None = None
    gated: bool = False
    card: dict[str, object] = field(default_factory=lambda: {"license": "apache-2.0"})
    siblings: list[dict[str, object]] | None = None
    gated_by: str = "auto"

    def __post_init__(self) -> None:
        self.server.routes.append(self._route)
        for path in self.lfs:
            self.storage.files[f"/lfs/{path}"] = self.files[path]
        for path, body in self.files.items():
            self.server.files[f"/{self.repo}/resolve/{self.commit}/{path}"] = body

    def listing(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for path, body in self.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
            row: dict[str, object] = {"rfilename": path, "size": len(body), "blobId": git}
            if path in self.lfs:
                digest = hashlib.sha256(body).hexdigest()
                row["lfs"] = {"size": len(body), "sha256": digest, "pointerSize": 134}
            rows.append(row)
        return rows

    def _route(self, seen: Seen) -> Answer | None:
        api = f"/api/models/{self.repo}"
        resolve = f"/{self.repo}/resolve/"
        if not seen.path.startswith((api, resolve)):
            return None
        if self.token and seen.authorization != f"Bearer {self.token}":
            return Answer(
                401, headers={"X-Error-Code": "GatedRepo" if self.gated else "RepoNotFound"}
            )
        if self.gated and not self.token:
            return Answer(403, headers={"X-Error-Code": "GatedRepo"})
        if seen.path.startswith(api):
            return self._info(seen.path.removeprefix(api))
        path = seen.path.removeprefix(resolve).partition("/")[2]
        if path in self.lfs:
            return Answer(
                302, headers={"Location": f"{self.storage.url}/lfs/{path}?signature=secret"}
            )
        return None

    def _info(self, rest: str) -> Answer:
        revision = rest.removeprefix("/revision/")
        if revision and revision not in (*self.branches, self.commit):
            return Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        body = {
            "id": self.repo,
            "sha": self.commit,
            "lastModified": "2026-05-06T07:08:09.000Z",
            "private": False,
            "gated": self.gated_by if self.gated or self.gated_by != "auto" else False,
            "cardData": self.card,
            "tags": [],
            "siblings": self.siblings if self.siblings is not None else self.listing(),
        }
        return Answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


def gguf(seed: int = 0, size: int = 4096) -> bytes:
    """Bytes that begin as a GGUF file does and do not compress; enough for the store."""
    block = hashlib.shake_256(str(seed).encode()).digest(size)
    return b"GGUF\x03\x00\x00\x00" + block
