"""The inputs of a recipe, found on this machine: models by refs and digests, files by digests.

A model is a manifest of the store, a file is one that the person named (``<home>/data/<64 hex>``,
kept so that the recipe can be replayed, readable by its owner alone) or a blob of the store.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from overt.errors import (
    BadRef,
    FormatError,
    IntegrityError,
    ModelNotFound,
    NotFound,
    OvertError,
    Unsupported,
)
from overt.files.atomic import sync_folder, unwritable
from overt.models import pull
from overt.models.recipe import MAX_BYTES, Input, Recipe
from overt.models.sources.base import CHUNK, Report, sha256_of
from overt.models.store import Manifest, Store, view
from overt.models.store.manifest import hex_of
from overt.provenance.steps import StepInput
from overt.ref import parse
from overt.settings import Settings

MODELS = ("from", "draft")
"""Roles of inputs that are always models; others may be files."""
_PROVED: dict[str, tuple[int, ...]] = {}
_FICLONE = 0x40049409  # Linux: the copy shares its blocks with the original until one is written


def resolve(
    recipe: Recipe, settings: Settings, data: Mapping[str, Path] | None = None
) -> tuple[StepInput, ...]:
    """Every input of `recipe`, in its order.

    Args:
        data: files by their digests, where they lie, beside what is kept here.

    Raises:
        NotFound: some are not here; it names them all, and what to type for the first.
        IntegrityError: a model is here and damaged.
    """
    store = Store(settings.home)
    missing: list[Input] = []
    sources = []
    for entry in recipe.inputs:
        if data and entry.digest in data:
            sources.append(StepInput(data[entry.digest], None, {}))
        elif here := _find_input(entry, store, settings.home):
            sources.append(here)
        else:
            missing.append(entry)
    if missing:
        raise _missing(missing)
    return tuple(sources)


def model(ref: str, settings: Settings, report: Report | None = None) -> pull.LocalModel:
    """A model on this disk: one that is here, or pulled now.

    Raises:
        BadRef, ModelNotFound: as `pull.pull` does.
    """
    try:
        return pull.find(ref, settings, report)
    except ModelNotFound:
        pull.pull(ref, settings, report)
        return pull.find(ref, settings, report)


def plain_model(ref: str, settings: Settings, report: Report | None = None) -> Manifest:
    """A GGUF model of the store that has no adapter beside its weights; pulled where need be.

    Raises:
        BadRef, ModelNotFound: as `model`.
        FormatError, Unsupported: it is something else.
    """
    manifest = model(ref, settings, report).manifest
    if manifest is None or not manifest.weights.path.lower().endswith(".gguf"):
        raise FormatError(
            f"{ref} is not a GGUF model of the store", "`overt list` shows the models that are here"
        )
    refuse_adapter(manifest, ref)
    return manifest


def refuse_adapter(manifest: Manifest | None, ref: str) -> None:
    """What reads the weights alone would lose it. Raises Unsupported: the model has an adapter."""
    if manifest and any(file.role == "adapter" for file in manifest.files):
        raise Unsupported(
            f"{ref} has an adapter beside its weights",
            f"make one model of both: overt merge {ref} NAME --adapter {ref}",
        )


def gguf_of(model: pull.LocalModel) -> Path:
    """The weights of a model that is GGUF.

    Raises:
        FormatError: they are safetensors.
    """
    name = model.manifest.weights.path if model.manifest else model.weights.name
    if name.lower().endswith(".safetensors"):
        plain = model.ref.rpartition("/")[2].partition(":")[0] or "model"
        raise FormatError(
            f"{model.ref} is in safetensors form, and a GGUF model is needed",
            f"overt convert {model.ref} {plain}-f16",
        )
    return model.weights


def keep(data: Mapping[str, Path], recipe: Recipe, home: Path) -> None:
    """Keep in ``<home>/data`` the files that `recipe` reads, under their digests.

    Args:
        data: digest to file; one that the recipe does not read is left where it is.

    Raises:
        IntegrityError: a file has other bytes than its digest says.
        OutOfDisk, Failure: the folder cannot be written.
    """
    for entry in recipe.inputs:
        if file := data.get(entry.digest):
            _keep(entry.digest, file, home)


def digest_of(file: Path) -> str:
    """``sha256:`` and 64 hex. Raises NotFound where it cannot be read."""
    try:
        return f"sha256:{sha256_of(file)}"
    except OSError as error:
        raise NotFound(
            f"{file} cannot be read: {error.strerror}", "name a file that is there"
        ) from None


def manifest(digest: str, store: Store) -> Manifest | None:
    """The manifest of that digest where it is here and whole as a text; its files may be gone."""
    try:
        return store.manifest(digest)
    except OvertError:
        return None


def recipes(manifest: Manifest, store: Store) -> list[Recipe]:
    """The recipes that a model carries, newest first, up to the first that cannot be read."""
    recipes_ = []
    for file in manifest.files:
        if file.role != "recipe":
            continue
        try:
            if file.size > MAX_BYTES:
                break
            recipes_.append(Recipe.decode(store.path(file).read_bytes()))
        except (OvertError, OSError):
            break
    return recipes_


def _find_input(entry: Input, store: Store, home: Path) -> StepInput | None:
    made = manifest(entry.digest, store)
    if made is not None and store.whole(made):
        files = {file.path: store.path(file) for file in made.files}
        for file in made.files:
            _prove(files[file.path], file.digest, made.ref)
        return StepInput(view.weights(store, made), made, files)
    if made is not None:
        return None
    path = data_path(entry.digest, home)
    if path.is_file():
        if digest_of(path) != entry.digest:
            raise IntegrityError(
                f"{path} has other bytes than its name says", "delete it, and give --data again"
            )
        return StepInput(path, None, {})
    blob = store.blob(entry.digest)
    if blob is None:
        return None
    _prove(blob, entry.digest, entry.ref or "the file")
    return StepInput(blob, None, {})


def _prove(path: Path, digest: str, name: str) -> None:
    """A receipt says which bytes were read: they are hashed, once while they stay as they are.

    Raises:
        IntegrityError: the file has others.
    """
    stands = path.stat()
    state = (stands.st_dev, stands.st_ino, stands.st_size, stands.st_mtime_ns, stands.st_ctime_ns)
    if _PROVED.get(digest) == state:
        return
    if digest_of(path) != digest:
        raise IntegrityError(f"a file of {name} is damaged: {digest[:19]}", "type `overt verify`")
    _PROVED[digest] = state


def data_path(digest: str, home: Path) -> Path:
    """Where a file that a recipe read is kept."""
    return home / "data" / hex_of(digest)


def _missing(missing: list[Input]) -> NotFound:
    named = ", ".join(f"{entry.role} {entry.ref or entry.digest[:19]}" for entry in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    pulled, brought, files = [], [], []
    for entry in missing:
        if entry.ref and _can_be_pulled(entry.ref):
            pulled.append(f"type `overt pull {entry.ref}`")
        elif entry.role not in (*MODELS, "base") or not entry.ref:  # what had a path has no ref
            files.append(
                f"name the file: --data FILE, whose SHA-256 is {hex_of(entry.digest)[:12]}…"
            )
        elif _is_ref(entry.ref):
            brought.append(
                f"whoever has {entry.ref} types `overt export {entry.ref}`, and you `overt "
                "import` it"
            )
        else:
            brought.append(f"import or make the model {entry.digest[:19]}")
    hints = [kind[0] for kind in (pulled, brought, files) if kind]
    return NotFound(f"not on this machine: {named}{more}", "; ".join(hints))


def _can_be_pulled(ref: str) -> bool:
    return _is_ref(ref) and parse(ref).scheme in ("hf", "pypi", "ollama", "oci")


def _is_ref(ref: str) -> bool:
    try:
        parse(ref)
    except BadRef:
        return False
    return True


def _keep(digest: str, file: Path, home: Path) -> None:
    target = data_path(digest, home)
    if target.is_file():
        return
    new = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.parent.chmod(0o700)
        if _copy(file, new) != hex_of(digest):
            raise IntegrityError(
                f"{file} has changed since it was read", "wait until it is written, and go on"
            )
        new.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise unwritable(target, error) from None
    finally:
        with suppress(OSError):
            new.unlink()


def _copy(source: Path, target: Path) -> str:
    """Copy, sharing blocks where the file system can; returns the 64 hex of the copy."""
    target.unlink(missing_ok=True)
    handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "r+b") as new, source.open("rb") as old:
        if not _cloned(old.fileno(), new.fileno()):
            while block := old.read(CHUNK):
                new.write(block)
        new.flush()
        os.fsync(new.fileno())
        new.seek(0)
        digest = sha256()
        while block := new.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _cloned(source: int, target: int) -> bool:
    try:
        from fcntl import ioctl

        ioctl(target, _FICLONE, source)
    except (ImportError, OSError):  # another system, or a file system that shares nothing
        return False
    return True
