"""The cache of huggingface_hub: ``models--owner--repo/snapshots/<commit>/<path>``.

A snapshot's files are links to ``blobs/<etag>``; an etag of 64 hex is the SHA-256 the hub states
for a large file, one of 40 hex the git object id of a small one. So a model from here is as pinned
and as checked as one that was pulled.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from overt.models.sources.file_selection import FileChoice
from overt.models.sources.local_caches.base import (
    ForeignFile,
    ForeignModel,
    UnusableModel,
    name_of,
    read_text,
    ref_of,
)
from overt.models.sources.local_caches.folder import in_folders

_FOLDER = re.compile(r"models--([A-Za-z0-9][A-Za-z0-9._-]*?)(?:--([A-Za-z0-9][A-Za-z0-9._-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DEPTH = 6


def places(environ: Mapping[str, str]) -> list[Path]:
    """Where it may keep models, by the variables that huggingface_hub reads."""
    person = Path(environ.get("HOME") or "~").expanduser()
    cache = Path(environ.get("XDG_CACHE_HOME") or person / ".cache")
    home = Path(environ.get("HF_HOME") or cache / "huggingface").expanduser()
    named = [environ.get("HF_HUB_CACHE"), environ.get("HUGGINGFACE_HUB_CACHE")]
    return [*(Path(name).expanduser() for name in named if name), home / "hub"]


def look(place: Path) -> Iterator[ForeignModel | UnusableModel]:
    """Each GGUF file, or each set of safetensors, of each snapshot."""
    for repo in sorted(place.iterdir()):
        named = _FOLDER.fullmatch(repo.name)
        if not named or not (repo / "snapshots").is_dir():
            continue
        title = "/".join(part for part in named.groups() if part)
        newest = read_text(repo / "refs/main").strip()
        for snapshot in sorted((repo / "snapshots").iterdir()):
            if not _COMMIT.fullmatch(snapshot.name):
                yield UnusableModel(
                    f"{title}@{snapshot.name}", "its folder is not named by a commit"
                )
            elif not snapshot.is_symlink():
                yield from _snapshot(snapshot, title, newest)


def _snapshot(snapshot: Path, title: str, newest: str) -> Iterator[ForeignModel | UnusableModel]:
    commit = snapshot.name
    shown = f"{title}@{commit[:12]}"
    for chosen in in_folders(snapshot, _DEPTH, shown):
        if isinstance(chosen, UnusableModel):
            yield UnusableModel(
                f"{shown} {chosen.shown.removeprefix(f'{snapshot}/')}", chosen.reason
            )
        else:
            yield _foreign_model(snapshot, title, commit, newest, chosen)


def _foreign_model(
    snapshot: Path, title: str, commit: str, newest: str, chosen: FileChoice
) -> ForeignModel:
    alone = chosen.weights[0].lower().endswith(".gguf")
    file = f"#{chosen.weights[0]}" if alone else ""
    plain = name_of(title.rpartition("/")[2])
    ref = ref_of(f"hf:{title}@{commit}{file}") or plain
    name = ref_of(f"hf:{title}{file}") if commit == newest else None
    parts = tuple(_part(snapshot / path, role, path) for role, path in chosen.files)
    origin = {"source": "hf", "repository": title, "commit": commit}
    return ForeignModel(f"{title}@{commit[:12]}{file}", ref, parts, origin, name=name)


def _part(file: Path, role: str, path: str) -> ForeignFile:
    blob = file.resolve().name if file.is_symlink() else ""
    part = ForeignFile(role, path, file)  # type: ignore[arg-type]
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        return ForeignFile(part.role, path, file, sha256=blob)
    if re.fullmatch(r"[0-9a-f]{40}", blob):
        return ForeignFile(part.role, path, file, git_sha1=blob)
    return part
