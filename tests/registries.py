"""Registries for tests: the real one of Debian, one that answers as it is told, and a bad line.

- `docker_registry`: the distribution project's own server, with or without TLS and logins.
- `Scripted`: a registry made of one function, for what no honest registry does.
- `cutting`: a connection to another server that breaks after so many bytes.
"""

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from overt.models.sources.registry import DOCKER_MANIFEST, OCI_MANIFEST

OLLAMA = "application/vnd.ollama.image."
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


# ---- the real one --------------------------------------------------------------------------


@dataclass(frozen=True)
class Real:
    """A running registry. `log` is what it says; `blobs` is where it keeps them."""

    host: str
    scheme: str
    folder: Path

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def blob(self, digest: str) -> bytes:
        hexes = digest.removeprefix("sha256:")
        place = f"data/docker/registry/v2/blobs/sha256/{hexes[:2]}/{hexes}/data"
        return (self.folder / place).read_bytes()


@contextmanager
def docker_registry(
    folder: Path, auth: str = "", tls: "Certificate | None" = None, name: str = "127.0.0.1"
) -> Iterator[Real]:
    """Debian's docker-registry on a free port. `auth` is YAML of its section of that name."""
    program = shutil.which("docker-registry")
    if program is None:
        reason = "docker-registry is not installed; type: apt-get install docker-registry"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    secure = f"  tls:\n    certificate: {tls.certificate}\n    key: {tls.key}\n" if tls else ""
    (folder / "config.yml").write_text(
        "version: 0.1\nlog:\n  level: warn\n"
        f"storage:\n  filesystem:\n    rootdirectory: {folder / 'data'}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n  secret: of-this-test\n{secure}{auth}"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield Real(f"{name}:{port}", "https" if tls else "http", folder)
    finally:
        process.kill()
        process.wait()


def put_blob(registry: Real, repository: str, body: bytes) -> str:
    """Through the registry's own API: POST, then PUT."""
    base = f"{registry.url}/v2/{repository}/blobs/uploads/"
    with httpx2.Client(trust_env=False) as client:
        begun = client.post(base)
        assert begun.status_code == 202, begun.text
        where = httpx2.URL(begun.headers["location"]).copy_add_param("digest", digest(body))
        done = client.put(where, content=body, headers={"Content-Type": "application/octet-stream"})
        assert done.status_code == 201, done.text
    return digest(body)


def put_manifest(registry: Real, repository: str, tag: str, content: dict[str, object]) -> bytes:
    body = json.dumps(content).encode()
    with httpx2.Client(trust_env=False) as client:
        done = client.put(
            f"{registry.url}/v2/{repository}/manifests/{tag}",
            content=body,
            headers={"Content-Type": str(content["mediaType"])},
        )
        assert done.status_code == 201, done.text
    return body


def layer(media_type: str, body: bytes, **annotations: str) -> dict[str, object]:
    found: dict[str, object] = {"mediaType": media_type, "digest": digest(body), "size": len(body)}
    return {**found, "annotations": annotations} if annotations else found


def ollama_manifest(parts: Sequence[tuple[str, bytes]], config: bytes = b"{}") -> dict[str, object]:
    """A manifest as Ollama writes it: `parts` are kinds (``model``, ``template`` …) and bytes."""
    return {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": layer(DOCKER_CONFIG, config),
        "layers": [layer(OLLAMA + kind, body) for kind, body in parts],
    }


def oci_manifest(layers: Sequence[dict[str, object]], config: bytes = b"{}") -> dict[str, object]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": layer("application/vnd.cncf.model.config.v1+json", config),
        "layers": list(layers),
    }


def publish_ollama(
    registry: Real, name: str, tag: str, parts: Sequence[tuple[str, bytes]], config: bytes = b"{}"
) -> bytes:
    """Fill the registry with one Ollama model; returns the bytes of its manifest."""
    for _, body in (*parts, ("", config)):
        put_blob(registry, name, body)
    return put_manifest(registry, name, tag, ollama_manifest(parts, config))


# ---- certificates and tokens ---------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate and its key, as PEM files."""

    certificate: Path
    key: Path


def certificate(folder: Path, names: str) -> Certificate:
    """`names` as openssl has them: ``DNS:localhost,IP:127.0.0.1``."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=test", "-addext", f"subjectAltName={names}", "-keyout", str(made.key), "-out",
         str(made.certificate)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return made


def token_of(signer: Certificate, service: str, access: Sequence[dict[str, object]]) -> str:
    """A token as the distribution project's registry wants it (JWT, RS256, x5c)."""
    now = int(time.time())
    pem = signer.certificate.read_text()
    der = "".join(line for line in pem.splitlines() if "---" not in line)
    header = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
    claims = {
        "iss": "overt-tests",
        "sub": "me",
        "aud": service,
        "exp": now + 300,
        "nbf": now - 60,
        "iat": now,
        "jti": str(time.monotonic_ns()),
        "access": list(access),
    }
    body = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    signed = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", str(signer.key)],
        input=body,
        capture_output=True,
        check=True,
    )
    return (body + b"." + _base64(signed.stdout)).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


# ---- one that answers as it is told --------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Told:
    """An answer. A `body` that is an iterator is sent without a length, until the client goes."""

    status: int = 200
    body: bytes | Iterator[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Scripted:
    answer: Callable[[Asked], Told]
    host: str = ""
    scheme: str = "http"
    seen: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"


@contextmanager
def scripted(
    answer: Callable[[Asked], Told], tls: Certificate | None = None, name: str = "127.0.0.1"
) -> Iterator[Scripted]:
    """A registry on loopback that is the function `answer`."""
    state = Scripted(answer, scheme="https" if tls else "http")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _any(self) -> None:
            with suppress(OSError):
                _tell(self, state)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _any

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, address: object) -> None:
            pass  # a client that does not trust it, or has been killed

    httpd = Quiet(("127.0.0.1", 0), Handler)
    if tls:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        httpd.socket = context.wrap_socket(
            httpd.socket, server_side=True, do_handshake_on_connect=False
        )
    state.host = f"{name}:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def _tell(handler: BaseHTTPRequestHandler, state: Scripted) -> None:
    parts = urlsplit(handler.path)
    length = int(handler.headers.get("Content-Length") or 0)
    headers = {name.lower(): value for name, value in handler.headers.items()}
    asked = Asked(
        handler.command, parts.path, parse_qs(parts.query), headers, handler.rfile.read(length)
    )
    if parts.path != "/v2/":  # the question whether this port speaks plain http
        state.seen.append(asked)
    told = state.answer(asked) if parts.path != "/v2/" else Told(200)
    handler.send_response(told.status)
    for name, value in told.headers.items():
        handler.send_header(name, value)
    if isinstance(told.body, bytes):
        if "Content-Length" not in told.headers:
            handler.send_header("Content-Length", str(len(told.body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(told.body)
    else:
        handler.end_headers()
        for block in told.body:
            handler.wfile.write(block)


# ---- a bad line ----------------------------------------------------------------------------


@contextmanager
def cutting(port: int, after: Sequence[int]) -> Iterator[int]:
    """A port that leads to `port`; its nth connection breaks once the client sent so many bytes.

    Connections beyond the list do not break. Connections that send little are not counted.
    """
    budgets = list(after)
    lock = threading.Lock()
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket, counted: bool) -> None:
        passed = 0
        with suppress(OSError):
            while block := source.recv(65536):
                passed += len(block)
                if counted:
                    with lock:
                        cut = bool(budgets) and passed > budgets[0]
                        if cut:
                            budgets.pop(0)
                    if cut:
                        break
                target.sendall(block)
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                pair = [
                    threading.Thread(target=pump, args=(client, server, True), daemon=True),
                    threading.Thread(target=pump, args=(server, client, False), daemon=True),
                ]
                threading.Thread(target=_close_after, args=(pair, client, server)).start()
                for thread in pair:
                    thread.start()

    accepting = threading.Thread(target=serve)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()


def _close_after(pair: list[threading.Thread], *sides: socket.socket) -> None:
    for thread in pair:
        while thread.ident is None:
            time.sleep(0.01)
        thread.join()
    for side in sides:
        side.close()
