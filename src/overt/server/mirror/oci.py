"""The pull half of the OCI distribution specification (1.1) over the store.

::

    GET       /v2/                                 who are you
    GET       /v2/NAME/tags/list                   tags
    GET HEAD  /v2/NAME/manifests/TAG|DIGEST        a ModelPack manifest, made from ours
    GET HEAD  /v2/NAME/blobs/DIGEST                a file of that repository, or its configuration

A stored manifest always becomes the same artefact, so its digest can be pinned. Digests that
clients send are looked up in what the repository lists; they never become a path.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from overt.models.sources.base import FetchedFile
from overt.models.sources.oci import CONFIG, describe
from overt.models.sources.registry import OCI_MANIFEST
from overt.models.store import Manifest
from overt.server.mirror import hub
from overt.server.mirror.catalogue import REGISTRY, MirrorCatalogue, Repository
from overt.server.stream import send_file

_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
_CODES = {401: "UNAUTHORIZED", 404: "NAME_UNKNOWN", 421: "DENIED", 500: "UNKNOWN"}


class RegistryMirror:
    """The registry door: `answer` gives a response, or None for a path that is not a registry's."""

    def __init__(self, shelf: MirrorCatalogue) -> None:
        self._shelf = shelf

    def answer(self, request: Request, path: list[str]) -> Response | None:
        """`path` is the request's, cut at its slashes and decoded. Runs in a thread.

        Raises:
            IntegrityError: a file of the store is damaged.
        """
        match path:
            case ["v2"] | ["v2", ""]:
                return JSONResponse({}, headers=_VERSION)
            case ["v2", *name, "tags", "list"]:
                return self._tags("/".join(name))
            case ["v2", *name, "manifests", reference]:
                return self._manifest(request, "/".join(name), reference)
            case ["v2", *name, "blobs", digest]:
                return self._blob(request, "/".join(name), digest)
        return None

    def _tags(self, name: str) -> Response:
        repository = self._shelf.repository(REGISTRY, name)
        if repository is None:
            return _no_name(name)
        tags = {
            tag for revision in repository.revisions for tag in (*revision.names, revision.commit)
        }
        tags |= {"latest"}
        return JSONResponse({"name": name, "tags": sorted(tags)}, headers=_VERSION)

    def _manifest(self, request: Request, name: str, reference: str) -> Response:
        repository = self._shelf.repository(REGISTRY, name)
        if repository is None:
            return _no_name(name)
        if reference.startswith("sha256:"):
            bodies = [artefact(manifest)[0] for manifest in _manifests(repository)]
            body = next(
                (candidate for candidate in bodies if _digest(candidate) == reference), None
            )
        else:
            revision = self._shelf.revision(REGISTRY, name, reference)
            # Two quantizations of one hub commit are two models; a tag means the newest.
            body = artefact(revision.manifests[0])[0] if revision else None
        if body is None:
            return _error(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference[:80]}")
        return _bytes(request, body, OCI_MANIFEST)

    def _blob(self, request: Request, name: str, digest: str) -> Response:
        repository = self._shelf.repository(REGISTRY, name)
        if repository is None:
            return _no_name(name)
        for manifest in _manifests(repository):
            for file in manifest.files:
                if file.digest == digest:
                    headers = {**_VERSION, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
                    return send_file(request, self._shelf.store.path(file), file.size, headers)
            config = artefact(manifest)[1]
            if _digest(config) == digest:
                return _bytes(request, config, CONFIG)
        return _error(404, "BLOB_UNKNOWN", f"{name} has no such blob")


def artefact(manifest: Manifest) -> tuple[bytes, bytes]:
    """The ModelPack manifest and configuration of a stored model; always the same bytes for it."""
    pieces = [
        FetchedFile(file.role, file.path, Path(), file.digest.removeprefix("sha256:"), file.size)
        for file in manifest.files
    ]
    facts = {
        "licence": manifest.licence or "",
        "created": manifest.created,
        "from": manifest.ref,
    }
    return describe(pieces, facts)


def refuse(path: str, status: int, message: str) -> Response:
    """An error in the form of whichever protocol owns `path`."""
    if path == "/v2" or path.startswith("/v2/"):
        headers = {"WWW-Authenticate": 'Basic realm="overt"'} if status == 401 else {}
        return _error(status, _CODES.get(status, "UNKNOWN"), message, headers)
    return hub.refusal(status, message)


def _manifests(repository: Repository) -> list[Manifest]:
    """Everything a digest can mean."""
    return [manifest for revision in repository.revisions for manifest in revision.manifests]


def _bytes(request: Request, body: bytes, media_type: str) -> Response:
    headers = {
        **_VERSION,
        "Content-Type": media_type,
        "Content-Length": str(len(body)),
        "Docker-Content-Digest": _digest(body),
        "ETag": f'"{_digest(body)}"',
    }
    return Response(b"" if request.method == "HEAD" else body, 200, headers)


def _no_name(name: str) -> Response:
    return _error(404, "NAME_UNKNOWN", f"this mirror has no repository {name[:200]}")


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    body = {"errors": [{"code": code, "message": message}]}
    return JSONResponse(body, status, {**_VERSION, **(headers or {})})


def _digest(body: bytes) -> str:
    return "sha256:" + sha256(body).hexdigest()
