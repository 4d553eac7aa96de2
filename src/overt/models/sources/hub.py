"""``hf:owner/repo@revision#file``: a repository of the Hugging Face hub, or of a mirror of it.

Metadata comes through `huggingface_hub`, bytes through download.py. ``HF_ENDPOINT``, ``HF_TOKEN``
(or the token that ``hf auth login`` stored) and ``HF_HUB_OFFLINE`` are honoured. A revision is
pinned to its commit; LFS files are checked against their sha256, others against their git object.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from overt.errors import (
    BadRef,
    IntegrityError,
    ModelNotFound,
    NeedsAccess,
    Offline,
    OvertError,
    SourceFailed,
    UnsafeFile,
)
from overt.models.sources.base import Collected, FetchedFile, FetchPlan, Role
from overt.models.sources.download import Download, Network, shown
from overt.models.sources.file_selection import choose
from overt.models.sources.staging import Staging
from overt.ref import Ref, safe_member

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_ENDPOINT = "https://huggingface.co"
_FILES = 100_000
_BESIDE_BYTES = 16 << 20  # a licence or card larger than this is left out
_CODE = 8  # Python files named, at most
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _HubFile:
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit.

    Attributes:
        ref: pinned to the commit, without a file.
        sizes: bytes of every file by its path.
        parameters: of its GGUF files, as the hub counted them.
        some: at most so many bytes of a file from a place on: path, start, count.
        digests: by path as the hub states them: ``sha256:…`` of large files, ``git-sha1:…`` (of
            git's own form of the file) of small ones.
    """

    ref: Ref
    sizes: Mapping[str, int]
    parameters: int | None
    some: Callable[[str, int, int], bytes]
    digests: Mapping[str, str] = field(default_factory=dict)


def listing(ref: Ref, network: Network) -> Listing:
    """The files of a repository. Raises as `plan`."""
    hub, info = _open_repository(ref, network)
    commit, files = _read(info, ref)
    parameters = info.gguf.get("total") if isinstance(info.gguf, dict) else None

    def some(path: str, start: int, count: int) -> bytes:
        return network.some(hub.download(ref.name, commit, path, files[path], {}), start, count)

    return Listing(
        replace(ref, tag=commit, file=None),
        {path: file.size for path, file in files.items()},
        parameters if isinstance(parameters, int) and 0 < parameters < 1 << 50 else None,
        some,
        {
            path: f"sha256:{file.sha256}" if file.sha256 else f"git-sha1:{file.git_sha1}"
            for path, file in files.items()
        },
    )


def plan(ref: Ref, network: Network, pins: Mapping[str, str]) -> FetchPlan:
    """As base.Planner. `pins` holds digests of files by their path in the repository.

    Raises:
        ModelNotFound: no such repository, revision or file; no weights in it.
        NeedsAccess: gated or private, and no token that may read it.
        UnsafeFile, FormatError: as file_selection.py says.
        Offline: by setting, or HF_HUB_OFFLINE.
        SourceFailed: the hub gave no proper answer.
    """
    hub, info = _open_repository(ref, network)
    commit, files = _read(info, ref)
    chosen = choose(sorted(files), ref.file, f"hf:{ref.name}")
    wanted = [
        (role, path)
        for role, path in chosen.files
        if role not in ("licence", "card") or files[path].size <= _BESIDE_BYTES
    ]
    single = chosen.weights[0] if chosen.weights[0].lower().endswith(".gguf") else ref.file
    pinned = replace(ref, tag=commit, file=single)
    origin = {"source": "hf", "repository": ref.name, "commit": commit}
    if code := sorted(path for path in files if path.lower().endswith(".py")):
        origin["code"] = _in_short(code)
    downloads = [
        (role, path, hub.download(ref.name, commit, path, files[path], pins))
        for role, path in wanted
    ]
    created = info.last_modified.strftime("%Y-%m-%dT%H:%M:%SZ") if info.last_modified else ""
    return FetchPlan(pinned, origin, partial(_collect, downloads, _licence(info), created))


def _open_repository(ref: Ref, network: Network) -> "tuple[_Hub, ModelInfo]":
    if any(_on(network.environ.get(k)) for k in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        raise Offline(
            f"{ref} needs the network and HF_HUB_OFFLINE is set", "unset it, or use a stored model"
        )
    network.require(str(ref))
    hub = _Hub(network)
    info = hub.info(ref)
    hub.asks = info.gated == "manual"
    return hub, info


def _in_short(paths: list[str]) -> str:
    """The Python files of a repository, which are named in `overt show` and never fetched."""
    more = f" and {len(paths) - _CODE} more" if len(paths) > _CODE else ""
    return ", ".join(paths[:_CODE]) + more


def _collect(
    downloads: list[tuple[Role, str, Download]], licence: str | None, created: str, desk: Staging
) -> Collected:
    desk.room(sum(download.size or 0 for _, _, download in downloads))
    fetched = desk.fetch_all([download for _, _, download in downloads])
    pieces = tuple(
        FetchedFile(role, path, got.file, got.sha256, got.size)
        for (role, path, _), got in zip(downloads, fetched, strict=True)
    )
    return Collected(pieces, licence, created)


class _Hub:
    """One endpoint with the token that goes to it and nowhere else."""

    def __init__(self, network: Network) -> None:
        environ = network.environ
        self.network = network
        self.endpoint = (environ.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("https://", "http://")):
            raise SourceFailed(
                f"HF_ENDPOINT is {shown(self.endpoint)!r}", "set it to an http or https address"
            )
        self.token = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN") or None
        if self.token is None and not _on(environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
            from huggingface_hub import get_token

            self.token = get_token()
        self.asks = False  # the authors answer each request for access themselves
        _trust(network)

    def info(self, ref: Ref) -> "ModelInfo":
        """What the hub says of one revision, its errors as ours."""
        import httpx2
        from huggingface_hub import HfApi, constants, errors

        # Else it fetches how agents are told, and says which agent and which PyTorch are here.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        api = HfApi(endpoint=self.endpoint, token=self.token or False, user_agent="overt")
        for attempt in range(1, _TRIES + 1):
            try:
                return api.model_info(ref.name, revision=ref.tag, files_metadata=True, timeout=60)
            except errors.GatedRepoError:
                raise self._gated(ref) from None
            except errors.RepositoryNotFoundError:
                raise self._missing(ref) from None
            except errors.RevisionNotFoundError:
                raise ModelNotFound(
                    f"hf:{ref.name} has no revision {ref.tag}", "leave out the @ and what follows"
                ) from None
            except errors.OfflineModeIsEnabled:
                raise Offline(f"{ref} needs the network", "unset HF_HUB_OFFLINE") from None
            except errors.HfHubHTTPError as error:
                status = error.response.status_code
                if status in (401, 403):
                    raise self._gated(ref) from None
                if attempt == _TRIES or (status < 500 and status != 429):
                    raise self._failed(f"answered {status}") from None
            except httpx2.HTTPError as error:
                if attempt == _TRIES:
                    reason = str(error) or type(error).__name__
                    raise self._failed(f"cannot be reached: {reason}") from None
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise self._failed(f"gave an answer that cannot be read: {error}") from None
            time.sleep(self.network.pause * 2**attempt)
        raise AssertionError("unreachable")

    def download(
        self, repo: str, commit: str, path: str, file: _HubFile, pins: Mapping[str, str]
    ) -> Download:
        from huggingface_hub import hf_hub_url

        pin = pins.get(path)
        if pin and file.sha256 and pin != file.sha256:
            raise IntegrityError(
                f"the hub states sha256:{file.sha256[:12]} for {path}, where the catalogue has "
                f"{pin[:12]}",
                "do not use this endpoint for models until you know why",
            )
        name = PurePosixPath(path).name
        return Download(
            hf_hub_url(repo, path, revision=commit, endpoint=self.endpoint),
            f"{hashlib.sha256(path.encode()).hexdigest()[:16]}-{name[-100:]}",
            file.size,
            pin or file.sha256,
            file.git_sha1,
            headers={"Authorization": f"Bearer {self.token}"} if self.token else {},
            access=self._gated_hint(repo),
            label=name,
        )

    def _gated(self, ref: Ref) -> NeedsAccess:
        reason = "the token does not give access to it" if self.token else "no token is set"
        return NeedsAccess(
            f"hf:{ref.name} is gated or private, and {reason}", self._gated_hint(ref.name)
        )

    def _gated_hint(self, repo: str) -> str:
        page = f"{shown(self.endpoint)}/{repo}"
        do = f"ask its authors for access at {page}" if self.asks else f"accept its terms at {page}"
        if self.token:
            return f"{do} with the account of your token, then pull again"
        return f"{do}, then set HF_TOKEN, or run `hf auth login`"

    def _missing(self, ref: Ref) -> OvertError:
        if self.token:
            return ModelNotFound(f"the hub has no repository {ref.name}", "check its spelling")
        return ModelNotFound(
            f"the hub has no public repository {ref.name}",
            "check its spelling, or set HF_TOKEN if it is private",
        )

    def _failed(self, what: str) -> SourceFailed:
        return SourceFailed(
            f"the hub at {shown(self.endpoint)} {what}", "check the network, then try again"
        )


def _trust(network: Network) -> None:
    """Let huggingface_hub use the certificates that Network uses; SSL_CERT_FILE it knows itself."""
    environ = network.environ
    if environ.get("REQUESTS_CA_BUNDLE") and not environ.get("SSL_CERT_FILE"):
        import httpx2
        from huggingface_hub import set_client_factory

        certificates = network.tls()
        set_client_factory(
            lambda: httpx2.Client(verify=certificates, follow_redirects=True, timeout=None)
        )


def _read(info: "ModelInfo", ref: Ref) -> tuple[str, dict[str, _HubFile]]:
    """The commit and the files, nothing in them trusted."""
    commit = info.sha
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise SourceFailed(f"the hub names no commit for hf:{ref.name}", "try again later")
    siblings = info.siblings or []
    if len(siblings) > _FILES:
        raise SourceFailed(f"hf:{ref.name} lists more than {_FILES} files")
    files: dict[str, _HubFile] = {}
    for sibling in siblings:
        try:
            path = safe_member(str(sibling.rfilename))
        except BadRef as error:
            raise UnsafeFile(
                f"hf:{ref.name} is refused: {error.message}", "do not use this repository"
            ) from None
        size = sibling.lfs.size if sibling.lfs else sibling.size
        if not isinstance(size, int) or size < 0:
            continue  # a file without metadata cannot be checked, so it cannot be chosen
        sha256 = _hexes(sibling.lfs.sha256, 64) if sibling.lfs else None
        git_sha1 = None if sibling.lfs else _hexes(sibling.blob_id, 40)
        if sha256 or git_sha1:
            files[path] = _HubFile(size, sha256, git_sha1)
    return commit, files


def _licence(info: "ModelInfo") -> str | None:
    card = info.card_data
    if card is None:
        return None
    licence = card.get("license")
    if licence == "other":
        licence = card.get("license_name") or licence
    return licence[:64] if isinstance(licence, str) and licence else None


def _hexes(value: object, length: int) -> str | None:
    text = value.lower() if isinstance(value, str) else ""
    return text if re.fullmatch(rf"[0-9a-f]{{{length}}}", text) else None


def _on(value: str | None) -> bool:
    return (value or "").strip().lower() in ("1", "true", "yes", "on")
