"""A client of the OCI distribution specification (1.1): manifests and blobs of one repository.

What a registry says is checked before it is used: a digest must be ``sha256:`` and 64 hex, a
manifest must have the digest it was asked for, every blob must have the size and digest of its
descriptor, and all of them together may be at most `MAX_BYTES`. Addresses in descriptors
(``urls``) are never followed. https always, except on loopback where a registry may speak http.
"""

import hashlib
import json
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from overt.errors import (
    BadRef,
    FormatError,
    IntegrityError,
    ModelNotFound,
    NeedsAccess,
    NotFound,
    SourceFailed,
    UnsafeFile,
)
from overt.models.sources import registry_auth
from overt.models.sources.base import FetchedFile, Role
from overt.models.sources.download import Download, Network, origin_of, shown, size_of
from overt.models.sources.registry_request import Content, RegistryReply, send
from overt.models.sources.staging import Fetched, Staging
from overt.ref import Ref, safe_member

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"

MAX_BYTES = 2 << 40  # of one model: the largest open model so far is under 2 TB
MAX_TEXT = 16 << 20  # of one licence, template, configuration …
_LAYERS = 1000
LARGE: frozenset[Role] = frozenset(
    {"weights", "projector", "adapter", "draft", "tokenizer", "other"}
)  # the other roles are texts
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor: what a manifest says of one blob (`digest` is ``sha256:`` and 64 hex)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def hexes(self) -> str:
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest, or an index (then `entries` are manifests and there are no layers)."""

    digest: str
    media_type: str
    artifact_type: str
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    entries: tuple[Descriptor, ...]
    annotations: Mapping[str, str]


class RepositoryClient:
    """One repository. Logs in by itself, once it is asked to.

    Args:
        host: with its port, as in a ref.
        actions: what a token is asked for: ``pull`` or ``pull,push``.
    """

    def __init__(self, network: Network, host: str, repository: str, actions: str = "pull") -> None:
        self.network = network
        self.host = host
        self.repository = repository
        self._actions = actions
        self._authorization = ""
        host = {"docker.io": "registry-1.docker.io"}.get(host, host)
        network.require(f"the registry {host}")
        self.base = f"{_scheme(host)}://{host}"

    def url(self, rest: str) -> str:
        return f"{self.base}/v2/{self.repository}/{rest}"

    def call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        content: Content = None,
        *,
        once: bool = False,
    ) -> RegistryReply:
        """A request to the registry itself, with the login it asks for; the status is not judged.

        Raises:
            NeedsAccess, Refused: as registry_auth.py says.
            SourceFailed: no answer.
        """
        redirects = method == "GET"  # one of HEAD already says that it is there
        for again in (True, False):
            sent = {**(headers or {}), **self._login_for(url)}
            reply = send(self.network, method, url, sent, content, redirects=redirects, once=once)
            own = origin_of(reply.url) == origin_of(self.base)
            if reply.status == 403 or (reply.status == 401 and not (again and own)):
                break
            if reply.status != 401:
                return reply
            self._log_in(reply)
        raise registry_auth.refused(self.base, self.repository, self._actions)

    def manifest(self, reference: str, *, index: bool = True) -> Document:
        """The manifest of a tag or digest.

        Raises:
            ModelNotFound: no such repository, tag or digest.
            IntegrityError: other bytes than the digest that was asked for, or stated.
            FormatError: no manifest, or one with digests or sizes that are refused.
        """
        kinds = [OCI_MANIFEST, DOCKER_MANIFEST, *([OCI_INDEX, DOCKER_INDEX] if index else [])]
        url = self.url(f"manifests/{reference}")
        reply = self.call("GET", url, {"Accept": ", ".join(kinds)})
        if reply.status == 404:
            raise ModelNotFound(
                f"{self.host} has no {self.repository} with {reference}", "check name and tag"
            )
        if reply.status != 200:
            raise SourceFailed(f"{shown(url)} answered {reply.status}", complaint(reply))
        digest = "sha256:" + hashlib.sha256(reply.body).hexdigest()
        stated = {reference, reply.headers.get("docker-content-digest", "")}
        for other in stated - {digest}:
            if other.startswith("sha256:"):
                raise IntegrityError(
                    f"the manifest of {self.repository} from {self.host} has the digest "
                    f"{digest[:19]} where {other[:19]} is stated",
                    "try again later; if it stays so, do not use this registry",
                )
        return read_document(reply, digest, f"{self.host}/{self.repository}")

    def fetch(self, desk: Staging, layer: Descriptor, label: str) -> Fetched:
        """Bring one blob to the desk; a login that expires on the way is renewed, as long as
        every one of them brings some more.

        Raises:
            As Desk.fetch; SourceFailed where the registry lists a blob it does not have.
        """
        url = self.url(f"blobs/{layer.digest}")
        part = desk.folder / f"{layer.hexes}.part"
        had = -1
        while True:
            download = Download(
                url, layer.hexes, layer.size, layer.hexes, headers=self._login_for(url), label=label
            )
            try:
                return desk.fetch(download)
            except NotFound:
                raise SourceFailed(
                    f"{self.host} lists {layer.digest[:19]} ({label}) and does not have it"
                ) from None
            except NeedsAccess:
                if size_of(part) <= had:
                    raise
                had = size_of(part)
                reply = send(self.network, "HEAD", url, {})
                if reply.status == 401:  # else a signed address elsewhere has expired
                    self._log_in(reply)

    def blob(self, layer: Descriptor) -> bytes:
        """A small blob, whole.

        Raises:
            IntegrityError: other bytes than its descriptor states.
            SourceFailed: no answer, or more than 4 MiB.
        """
        url = self.url(f"blobs/{layer.digest}")
        reply = self.call("GET", url)
        if reply.status != 200:
            raise SourceFailed(f"{shown(url)} answered {reply.status}", complaint(reply))
        if hashlib.sha256(reply.body).hexdigest() != layer.hexes:
            raise IntegrityError(
                f"{layer.digest[:19]} from {self.host} is not what its digest states",
                "try again later; if it stays so, do not use this registry",
            )
        return reply.body

    def _log_in(self, reply: RegistryReply) -> None:
        self._authorization = registry_auth.authorization(
            self.network, self.base, self.repository, self._actions, reply
        )

    def _login_for(self, url: str) -> dict[str, str]:
        """The login goes to the registry's own origin only."""
        if not self._authorization or origin_of(url) != origin_of(self.base):
            return {}
        return {"Authorization": self._authorization}


def collect(
    registry: RepositoryClient, desk: Staging, wanted: Sequence[tuple[Role, str, Descriptor]]
) -> tuple[FetchedFile, ...]:
    """Bring the blobs and say what they are; what is here already is not brought again.

    Raises:
        FormatError: a model, or a text of it, of more bytes than are allowed.
        UnsafeFile: a path that would leave the model's folder, or that two layers claim.
        OutOfDisk: they do not fit.
    """
    paths = [_safe(path, registry.host) for _, path, _ in wanted]
    if doubles := {path for path in paths if paths.count(path) > 1}:
        raise UnsafeFile(
            f"{registry.host}/{registry.repository} has two layers for {min(doubles)}",
            "do not use this model",
        )
    _bound(registry, wanted)
    blobs = {layer.digest: layer for _, _, layer in wanted}
    desk.room(sum(layer.size - _staged_bytes(desk, layer) for layer in blobs.values()))
    fetched: dict[str, Fetched] = {}
    for _, path, layer in wanted:
        if layer.digest not in fetched:
            fetched[layer.digest] = registry.fetch(desk, layer, path)
    return tuple(
        FetchedFile(role, path, fetched[layer.digest].file, layer.hexes, layer.size)
        for (role, _, layer), path in zip(wanted, paths, strict=True)
    )


def check_pins(wanted: Iterable[tuple[Role, str, Descriptor]], pins: Mapping[str, str]) -> None:
    """Raises IntegrityError where the catalogue vouches for another digest of a file."""
    for _, path, layer in wanted:
        if pins.get(path, layer.hexes) != layer.hexes:
            raise IntegrityError(
                f"the registry states {layer.digest[:19]} for {path}, where the catalogue has "
                f"{pins[path][:12]}",
                "do not use this registry for models until you know why",
            )


def read_document(reply: RegistryReply, digest: str, place: str) -> Document:
    """Read a manifest or an index; nothing in it is trusted.

    Raises:
        FormatError: see the message.
    """
    try:
        content = json.loads(reply.body)
        if not isinstance(content, dict) or content.get("schemaVersion") != 2:
            raise ValueError("its schemaVersion is not 2")
        header_type = reply.headers.get("content-type", "").partition(";")[0].strip()
        media_type = content.get("mediaType") or header_type
        if header_type and header_type.endswith("+json") and media_type != header_type:
            raise ValueError(
                f"it is sent as {header_type!r} and calls itself {str(media_type)[:80]!r}"
            )
        config = content.get("config")
        return Document(
            digest=digest,
            media_type=_text(media_type),
            artifact_type=_text(content.get("artifactType") or ""),
            config=None if config is None else _layer(config),
            layers=tuple(map(_layer, _list(content.get("layers")))),
            entries=tuple(map(_layer, _list(content.get("manifests")))),
            annotations=_annotations(content.get("annotations")),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            f"the manifest of {place} is refused: {str(error)[:200]}", "do not use this model"
        ) from None


def pinned(ref: Ref, host: str | None, name: str, digest: str) -> Ref:
    """A ref that can only mean the manifest of that digest."""
    return Ref(ref.scheme, name, host, digest)


def _layer(item: object) -> Descriptor:
    if not isinstance(item, dict):
        raise ValueError("a descriptor is no object")
    digest, size = item["digest"], item["size"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{str(digest)[:80]!r} is no sha256 digest")
    if type(size) is not int or not 0 <= size <= MAX_BYTES:
        raise ValueError(f"{str(size)[:40]} is no size of a layer")
    annotations = _annotations(item.get("annotations"))
    return Descriptor(_text(item["mediaType"]), digest, size, annotations)


def _list(value: object) -> list[object]:
    items = [] if value is None else value
    if not isinstance(items, list) or len(items) > _LAYERS:
        raise ValueError(f"it is no list of at most {_LAYERS} layers")
    return items


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise ValueError(f"{str(value)[:80]!r} is no media type")
    return value


def _annotations(value: object) -> Mapping[str, str]:
    annotations = {} if value is None else value
    if not isinstance(annotations, dict) or len(annotations) > 1000:
        raise ValueError("its annotations are no object")
    return {str(key): text for key, text in annotations.items() if isinstance(text, str)}


def _bound(registry: RepositoryClient, wanted: Sequence[tuple[Role, str, Descriptor]]) -> None:
    place = f"{registry.host}/{registry.repository}"
    for role, path, layer in wanted:
        if role not in LARGE and layer.size > MAX_TEXT:
            raise FormatError(
                f"{path} of {place} has {layer.size} bytes, where a {role} may have {MAX_TEXT}",
                "do not use this model",
            )
    total = sum(layer.size for _, _, layer in wanted)
    if total > MAX_BYTES:
        raise FormatError(
            f"{place} states {total} bytes, where a model may have {MAX_BYTES}",
            "do not use this model",
        )


def _safe(path: str, host: str) -> str:
    try:
        return safe_member(path)
    except BadRef as error:
        raise UnsafeFile(
            f"a model of {host} is refused: {error.message}", "do not use this model"
        ) from None


def _staged_bytes(desk: Staging, layer: Descriptor) -> int:
    """Bytes of a blob that an earlier try left on the desk."""
    whole = size_of(desk.folder / layer.hexes)
    return min(layer.size, whole or size_of(desk.folder / f"{layer.hexes}.part"))


def complaint(reply: RegistryReply) -> str | None:
    """The registry's own words for an error, as a hint (specification, "Error Codes")."""
    try:
        complaint_ = json.loads(reply.body)["errors"][0]
        text = f"{complaint_.get('code', '')} {complaint_.get('message', '')}".strip()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
    return f"it says: {text[:200]}" if text else None


def _scheme(host: str) -> str:
    """https, except for a registry on this machine that answers to plain http."""
    parts = urlsplit(f"//{host}")
    name = parts.hostname or ""
    if not registry_auth.is_loopback(name):
        return "https"
    try:
        port = parts.port or 443
        with socket.create_connection((name, port), timeout=5) as opened:
            opened.sendall(f"GET /v2/ HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            first = opened.recv(16)
    except (OSError, ValueError):
        return "http"
    plain = first.startswith(b"HTTP/1") and b" 400" not in first  # 400: "this is an HTTPS port"
    return "http" if plain else "https"
