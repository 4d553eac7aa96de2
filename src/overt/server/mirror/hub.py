"""The hub's read protocol over the store, for `huggingface_hub` clients and `overt pull hf:…`.

::

    GET       /api/models[?search=&author=&limit=]        ids
    GET       /api/models/ID[/revision/REV]               files with sizes and digests
    GET       /api/models/ID/tree/REV[/FOLDER]            the same as a tree
    GET       /api/models/ID/refs                         names of revisions
    GET HEAD  /ID/resolve/REV/PATH                        a file, or a range of it

Every file is declared as one in LFS, since its SHA-256 is what the store knows; the git object id
beside it is that of the LFS pointer, as in a real repository. What a request names is looked up in
manifests and never becomes a path.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from overt.models.store import File
from overt.server.mirror.catalogue import HUB, MirrorCatalogue, Repository, Revision
from overt.server.stream import send_file

_REALM = {"WWW-Authenticate": 'Bearer realm="overt"'}


class Mirror:
    """The hub door: `answer` gives a response, or None for a path that is not the hub's."""

    def __init__(self, shelf: MirrorCatalogue) -> None:
        self._shelf = shelf

    def answer(self, request: Request, path: list[str]) -> Response | None:
        """`path` is the request's, cut at its slashes and decoded. Runs in a thread.

        Raises:
            IntegrityError: a file of the store is damaged.
        """
        match path:
            case ["api", "models"]:
                return self._list(request)
            case ["api", "models", owner, repo]:
                return self._about(f"{owner}/{repo}", "main")
            case ["api", "models", owner, repo, "revision", revision]:
                return self._about(f"{owner}/{repo}", revision)
            case ["api", "models", owner, repo, "refs"]:
                return self._refs(f"{owner}/{repo}")
            case ["api", "models", owner, repo, "tree", revision, *folder]:
                return self._tree(request, f"{owner}/{repo}", revision, "/".join(folder))
            case [owner, repo, "resolve", revision, first, *rest]:
                return self._file(request, f"{owner}/{repo}", revision, "/".join([first, *rest]))
        return None

    def _list(self, request: Request) -> Response:
        wanted = request.query_params
        limit = wanted.get("limit", "")
        rows = [
            {
                "id": repository.id,
                "modelId": repository.id,
                "sha": repository.revisions[0].commit,
                "private": False,
            }
            for repository in self._shelf.all(HUB).values()
            if wanted.get("search", "").lower() in repository.id.lower()
            and wanted.get("author", repository.id.partition("/")[0])
            == repository.id.partition("/")[0]
        ]
        return JSONResponse(rows[: int(limit)] if limit.isdigit() and len(limit) < 7 else rows)

    def _found(self, id: str, name: str) -> Revision | Response:
        repository = self._shelf.repository(HUB, id)
        if repository is None:
            return _error(404, f"this mirror has no repository {id[:200]}", "RepoNotFound")
        revision = self._shelf.revision(HUB, id, name)
        return revision or _no_revision(repository)

    def _about(self, id: str, name: str) -> Response:
        revision = self._found(id, name)
        if isinstance(revision, Response):
            return revision
        return JSONResponse(
            {
                "id": id,
                "modelId": id,
                "author": id.partition("/")[0],
                "sha": revision.commit,
                **_modified(revision.created),
                "private": False,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                **({"cardData": {"license": revision.licence}} if revision.licence else {}),
                "siblings": [_sibling(file) for file in revision.files.values()],
            }
        )

    def _refs(self, id: str) -> Response:
        repository = self._shelf.repository(HUB, id)
        if repository is None:
            return _error(404, f"this mirror has no repository {id[:200]}", "RepoNotFound")
        names = {"main": repository.revisions[0].commit}
        for revision in repository.revisions:
            names |= dict.fromkeys(revision.names, revision.commit)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in names.items()
        ]
        return JSONResponse({"branches": branches, "tags": [], "converts": []})

    def _tree(self, request: Request, id: str, name: str, folder: str) -> Response:
        revision = self._found(id, name)
        if isinstance(revision, Response):
            return revision
        deep = request.query_params.get("recursive", "").lower() in ("1", "true")
        rows = _rows(revision, folder, deep)
        if folder and not rows:
            return _error(404, f"{folder[:200]} is not there", "EntryNotFound", revision.commit)
        return JSONResponse(rows)

    def _file(self, request: Request, id: str, name: str, path: str) -> Response:
        revision = self._found(id, name)
        if isinstance(revision, Response):
            return revision
        file = revision.files.get(path)
        if file is None:
            return _error(404, f"{path[:200]} is not there", "EntryNotFound", revision.commit)
        etag = f'"{file.digest.removeprefix("sha256:")}"'
        headers = {
            "ETag": etag,
            "X-Repo-Commit": revision.commit,
            "X-Linked-Etag": etag,
            "X-Linked-Size": str(file.size),
        }
        return send_file(request, self._shelf.store.path(file), file.size, headers)


def refusal(status: int, message: str) -> Response:
    """The hub's answer where the guard refuses: its own client then speaks of the token."""
    code = "GatedRepo" if status == 401 else ""
    return _error(status, message, code, headers=_REALM if status == 401 else {})


def _error(
    status: int, message: str, code: str, commit: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    headers_out = {"X-Error-Message": _ascii(message), **(headers or {})}
    if code:
        headers_out["X-Error-Code"] = code
    if commit:
        headers_out["X-Repo-Commit"] = commit
    return JSONResponse({"error": message}, status, headers_out)


def _no_revision(repository: Repository) -> Response:
    there = sorted(
        {name for revision in repository.revisions for name in (revision.commit, *revision.names)}
    )
    message = f"of {repository.id} this mirror has {', '.join(there[:8])}"
    return _error(404, message, "RevisionNotFound")


def _ascii(text: str) -> str:
    """A header's value is visible ASCII with blanks between; what was asked for may be anything."""
    plain = text.encode("ascii", "replace").decode()
    return "".join(c if c.isprintable() else "?" for c in plain).strip()


def _modified(created: str) -> dict[str, str]:
    """A manifest has the date as its origin wrote it; clients read one form and fail on others."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return {}
    moment = time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    return {"lastModified": moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")}


def _sibling(file: File) -> dict[str, Any]:
    hexes = file.digest.removeprefix("sha256:")
    pointer = _pointer(file)
    return {
        "rfilename": file.path,
        "size": file.size,
        "blobId": _git_id(pointer),
        "lfs": {"sha256": hexes, "size": file.size, "pointerSize": len(pointer)},
    }


def _rows(revision: Revision, folder: str, deep: bool) -> list[dict[str, Any]]:
    """The entries below `folder`: of all depths, or the next one only."""
    inside = folder + "/" if folder else ""
    rows: dict[str, dict[str, Any]] = {}
    for path, file in revision.files.items():
        if not path.startswith(inside):
            continue
        parts = path.removeprefix(inside).split("/")
        for depth in range(1, len(parts) if deep else min(len(parts), 2)):
            above = inside + "/".join(parts[:depth])
            id = hashlib.sha1(
                f"{revision.commit} {above}".encode(), usedforsecurity=False
            ).hexdigest()
            rows.setdefault(above, {"type": "directory", "path": above, "oid": id, "size": 0})
        if deep or len(parts) == 1:
            row = _sibling(file)
            lfs = row["lfs"]
            rows[path] = {
                "type": "file",
                "path": path,
                "size": file.size,
                "oid": row["blobId"],
                "lfs": {
                    "oid": lfs["sha256"],
                    "size": file.size,
                    "pointerSize": lfs["pointerSize"],
                },
            }
    return list(rows.values())


def _pointer(file: File) -> bytes:
    """The text that git keeps in place of the file (git-lfs, docs/spec.md)."""
    text = f"version https://git-lfs.github.com/spec/v1\noid {file.digest}\nsize {file.size}\n"
    return text.encode()


def _git_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
