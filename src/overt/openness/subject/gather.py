"""From what a person types to a `Subject`: the files of a model and everything claimed about it.

A folder or file is taken where it lies, a stored model from the store, a hub's repository by its
list of files, its small texts and the headers of its weights (the weights themselves are not
fetched), and a catalogue name or a model behind somebody's API as claims without files.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from overt.errors import FormatError, ModelNotFound, NotFound, OvertError, UsageError
from overt.formats import gguf
from overt.formats.pickle import PICKLED_SUFFIXES
from overt.models.recipe import MAX_BYTES, Recipe
from overt.models.sources.base import FetchProgress
from overt.models.store import Manifest, Store
from overt.openness import records
from overt.openness.subject import claims, families
from overt.openness.subject.record import Parent, Record, Relation
from overt.openness.subject.subject import Subject, SubjectFile
from overt.ref import PROVIDERS, Ref, parse
from overt.settings import Settings

_MAX_FILES = 20_000
_DEPTH = 12
_SKIPPED = {".git", ".hg", ".svn", "__pycache__", ".cache", "node_modules", ".venv"}
_OTHERS = (".onnx", ".h5", ".hdf5", ".keras", ".tflite", ".mlmodel", ".npz", ".npy", ".msgpack")
_RECORD_BYTES = 4 << 20
_STEPS: Mapping[str, Relation] = {
    "finetune": "finetune",
    "merge": "merge",
    "adapter": "adapter",
    "quantize": "quantized",
    "convert": "quantized",
    "export": "quantized",
}
"""What the input of a step of Overt's is to the model it makes."""
_SMALL = 64 << 10
"""Bytes of a file that is hashed as fast as its kept digest is read."""

Progress = Callable[[FetchProgress], None]


def subject(
    ref: str, settings: Settings, *, base: str | None = None, progress: Progress | None = None
) -> Subject:
    """Whatever `ref` names, ready for the checks.

    Args:
        base: what to compare it with; without it, the base it claims if that is in the store.

    Raises:
        BadRef, UsageError: not a name, or one of something without a dossier.
        ModelNotFound: not here, not in the catalogue, and (offline, or not there) not on a hub.
        FormatError: a file that is neither a model nor a record of a known index.
    """
    subject_ = _take(ref, settings, progress)
    if base:
        subject_.base = _take(base, settings, progress)
    elif subject_.files:
        subject_.base = _claimed_base(subject_, settings)
    return subject_


def _take(ref: str, settings: Settings, progress: Progress | None) -> Subject:
    parsed = parse(ref)
    if parsed.scheme == "echo":
        raise UsageError("echo is built in and is no model", "name a model of `overt list`")
    if parsed.scheme == "path":
        return _finished(_local(ref, Path(parsed.name).expanduser().absolute(), settings, progress))
    if parsed.remote:
        return _service(ref, parsed)
    try:
        return _finished(_stored(ref, settings))
    except ModelNotFound as missing:
        return _elsewhere(ref, parsed, settings, missing)


def _elsewhere(ref: str, parsed: Ref, settings: Settings, missing: ModelNotFound) -> Subject:
    """What is not in the store: a hub's repository, else what the catalogue claims."""
    known = families.lookup(parsed)
    if parsed.scheme == "hf" and not settings.offline:
        from overt.openness.subject import hub

        try:
            return _finished(hub.subject(ref, parsed, settings))
        except (NotFound, OvertError) as error:
            if known is None or isinstance(error, UsageError):
                raise
    if known is None:
        raise _versions(parsed, missing)
    return Subject(ref, (), known)


def _versions(parsed: Ref, missing: ModelNotFound) -> ModelNotFound:
    """For the bare name of a family, which says nothing about a model: the versions there are."""
    if parsed.scheme != "name" or not parsed.name:
        return missing
    of = [name.partition("/") for name in families.names()]
    names = [name for family, _, name in of if family == parsed.name.lower()]
    if not names:
        return missing
    several = f"{', '.join(names[:5])}{' …' if names[5:] else ''}"
    return ModelNotFound(
        f"{parsed.name} is a family of {len(names)} models", f"name one: {several}"
    )


def _finished(taken: Subject) -> Subject:
    """A subject with files, its claims merged: its own over those of its family.

    A bare quantization inherits what its family claims about training; a model that says it was
    made from another by training does not.
    """
    own = claims.of(taken).over(taken.record)
    header = taken.model
    known = families.lookup(parse(taken.ref)) if not taken.ref.startswith((".", "/", "~")) else None
    if known is None and header is not None:
        # a header has licences only of what a fine-tune or a merge of Overt's was made from
        bases = [
            p.name
            for p in own.parents
            if p.relation in ("base", "quantized")
            and (p.licence is None or p.source == claims.RECIPE)
        ]
        names = bases[:1] or ([header.name] if header.name else [])
        known = next((family_ for name in names if (family_ := families.find(name))), None)
    if known is not None:
        own = replace(own.over(known), name=own.name or known.name)
    taken.record = replace(own, source=own.source or "its files")
    return taken


# -- what lies on this disk ----------------------------------------------------------------------


def _local(ref: str, path: Path, settings: Settings, progress: Progress | None) -> Subject:
    digest_of = _digests(settings, progress)
    if path.is_dir():
        files = tuple(_walk(path))
        if not files:
            raise ModelNotFound(f"{path} holds no files", "name a model's folder or file")
        return Subject(ref, files, Record(path.name), place=True, digest_of=digest_of)
    if not path.exists():
        raise ModelNotFound(f"there is no file {path}", "check the path")
    if not path.is_file():
        raise FormatError(f"{path} is no plain file", "name a model's file or folder")
    if path.suffix.lower() in (".yaml", ".yml"):
        return Subject(ref, (), _record(path))
    kind = _kind(path)
    files = tuple(
        SubjectFile(f"{part.name}{kind}", part.stat().st_size, part) for part in _parts_of(path)
    )
    return Subject(ref, files, Record(path.stem), digest_of=digest_of)


def _kind(path: Path) -> str:
    """A single file is looked at where it is weights by its name or by its first bytes.

    Returns:
        What its name lacks: a blob of another program's cache has no suffix.

    Raises:
        FormatError: it is neither.
    """
    if path.suffix.lower() in (*PICKLED_SUFFIXES, ".gguf", ".safetensors", *_OTHERS):
        return ""
    try:
        with path.open("rb") as file:
            first = file.read(9)
    except OSError as error:
        raise FormatError(f"{path.name} cannot be read: {error.strerror}") from None
    if first[:4] == b"GGUF":
        return ".gguf"
    if first[8:9] != b"{" or first[:1] in b"{[":
        hint = "name a model's file or folder, or a record of another index (YAML)"
        if path.suffix.lower() == ".json":
            hint = "a saved dossier is compared: overt dossier diff FILE.json REF"
        raise FormatError(f"{path.name} is no model file", hint)
    return ".safetensors"


def _record(path: Path) -> Record:
    """A file of another index."""
    try:
        with path.open("rb") as file:
            data = file.read(_RECORD_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{path.name} cannot be read: {error.strerror}") from None
    if len(data) > _RECORD_BYTES:
        raise FormatError(f"{path.name} is larger than {_RECORD_BYTES} bytes", "name one record")
    record = records.read(data.decode("utf-8-sig", "replace"), path.name)
    if record is None:
        raise FormatError(
            f"{path.name} is no record of the Model Openness Tool, OSAI or os-ai-map",
            "name a model's file or folder, or a record of one of these",
        )
    return record


def _parts_of(path: Path) -> list[Path]:
    from overt.ref import part_of

    part = part_of(path.name)
    names = [part.sibling(n) for n in range(1, part.total + 1)] if part else [path.name]
    return [path.with_name(name) for name in names if path.with_name(name).is_file()]


def _walk(root: Path) -> Iterator[SubjectFile]:
    """Files below `root` in order of name; links that leave it are listed without a path."""
    files: list[SubjectFile] = []
    real = _roots(root)

    def stop(error: OSError) -> None:
        raise _unreadable(Path(error.filename or root), error) from None

    for folder, inner, names in os.walk(root, onerror=stop):
        here = Path(folder).relative_to(root)
        inner[:] = sorted(name for name in inner if name not in _SKIPPED)
        if len(here.parts) >= _DEPTH:
            inner.clear()
        more = names[: _MAX_FILES + 1 - len(files)]
        files += [
            _subject_file(Path(folder, name), (here / name).as_posix(), real) for name in more
        ]
        if len(files) > _MAX_FILES:
            raise FormatError(
                f"{root} holds more than {_MAX_FILES} files", "name one model's folder"
            )
    yield from sorted(files, key=lambda file: file.name)


def _unreadable(path: Path, error: OSError) -> FormatError:
    return FormatError(
        f"{path} cannot be read: {error.strerror or error}",
        "check its permissions, or leave it out",
    )


def _roots(root: Path) -> tuple[Path, ...]:
    """Where links below `root` may lead: inside it and, of a hub's cache, to its own blobs."""
    real = root.resolve()
    if real.parent.name == "snapshots":
        return (real, real.parent.parent / "blobs")
    return (real,)


def _subject_file(path: Path, name: str, roots: tuple[Path, ...]) -> SubjectFile:
    try:
        inside = not path.is_symlink() or any(map(path.resolve().is_relative_to, roots))
        plain = inside and path.is_file()
        return SubjectFile(name, path.stat().st_size if plain else 0, path if plain else None)
    except (OSError, RuntimeError):
        return SubjectFile(name, 0)


def _digests(settings: Settings, progress: Progress | None) -> Callable[[Path], str]:
    from overt.models.sources import folder
    from overt.models.sources.base import sha256_of

    def digest(path: Path) -> str:
        try:
            if path.stat().st_size <= _SMALL:
                return f"sha256:{sha256_of(path)}"
            return f"sha256:{folder.digest(path, settings.home / 'digests', progress)}"
        except OSError as error:
            raise _unreadable(path, error) from None

    return digest


def _stored(ref: str, settings: Settings) -> Subject:
    from overt.models.pull import find

    manifest = find(ref, settings).manifest
    if manifest is None:
        raise ModelNotFound(f"{ref} is not in the store", f"type `overt pull {ref}`")
    store = Store(settings.home)
    files = tuple(
        SubjectFile(file.path, file.size, store.path(file), file.digest)
        for file in sorted(manifest.files, key=lambda file: file.path)
        if file.role != "recipe"
    )
    licence = manifest.licence if manifest.licence != "other" else None
    record = Record(ref, licence=licence, parents=_made_from(manifest, store))
    return Subject(ref, files, record, digest_of=_digests(settings, None))


def _made_from(manifest: Manifest, store: Store) -> tuple[Parent, ...]:
    """What Overt made a model from, by its newest recipe; of data only whose licence was said."""
    recipe_file = next((file for file in manifest.files if file.role == "recipe"), None)
    if recipe_file is None or recipe_file.size > MAX_BYTES:
        return ()
    try:
        recipe = Recipe.decode(store.path(recipe_file).read_bytes())
    except (OvertError, OSError):
        return ()
    relation = _STEPS.get(recipe.step)
    licence = recipe.parameters.get("data_licence")
    licences = _of_parents(manifest, recipe, store)
    parents = []
    for entry in recipe.inputs:
        if entry.role in ("from", "base") and entry.ref and relation:
            parents.append(Parent(entry.ref, relation, licences.get(entry.digest), claims.RECIPE))
        elif entry.role == "data" and isinstance(licence, str) and licence:
            name = entry.ref or entry.digest
            parents.append(Parent(name, "dataset", licence, source=claims.RECIPE))
    return tuple(parents)


def _of_parents(manifest: Manifest, recipe: Recipe, store: Store) -> Mapping[str, str | None]:
    """The licence of each model of the recipe, by its digest.

    That of what was made is the one of all together (provenance/run_recipe.py), so of several each
    is asked: its
    manifest, or where it is not here what was written into the header of what was made.
    """
    models = dict.fromkeys(i.digest for i in recipe.inputs if i.role in ("from", "base", "adapter"))
    if len(models) == 1:
        return dict.fromkeys(models, manifest.licence)
    licences = {digest: _stated(digest, store) for digest in models}
    if recipe.step == "merge" and not all(licences.values()):
        try:
            header = gguf.read(store.path(manifest.weights), whole=False)
        except (OvertError, OSError):
            return licences
        for number, digest in enumerate(models):
            licence = header.text(f"general.base_model.{number}.license") or ""
            licences[digest] = licences[digest] or licence[:200] or None
    return licences


def _stated(digest: str, store: Store) -> str | None:
    """The licence of the model with that manifest, where it is here and states one."""
    try:
        licence = store.manifest(digest).licence
    except OvertError:
        return None
    return licence if licence != "other" else None


# -- what lies elsewhere -------------------------------------------------------------------------


def _service(ref: str, parsed: Ref) -> Subject:
    """A model behind somebody's server: claims only."""
    known = families.lookup(parsed)
    if known is None:
        source = f"{parsed.scheme} serves it; nothing else is known about it here"
        if parsed.scheme not in PROVIDERS:
            source = "a server that speaks the OpenAI API; what it runs cannot be seen from outside"
        known = Record(parsed.file or parsed.name, kind="api", source=source)
    return Subject(ref, (), known)


def _claimed_base(subject_: Subject, settings: Settings) -> Subject | None:
    """The base it claims: a path of this disk, a model beside it, or one of the store."""
    if (beside := _beside(subject_, settings)) is not None:
        return beside

    wanted = {p.name.lower() for p in subject_.record.parents if p.relation != "dataset"}
    if not wanted:
        return None
    here = subject_.files[0].stated
    for entry in Store(settings.home).names():
        origin = entry.manifest.origin.get("repository", "").lower()
        if origin in wanted or str(entry.ref).lower() in wanted:
            base = _stored(str(entry.ref), settings)
            if not here or all(file.stated != here for file in base.files):
                return base
    return None


def _beside(subject_: Subject, settings: Settings) -> Subject | None:
    """The base where it is named by a path, or lies beside the model under its own name."""
    first = subject_.files[0]
    if subject_.remote or first.stated or first.path is None:
        return None
    root = first.path.parents[first.name.count("/")]
    for parent in subject_.record.parents:
        if parent.relation == "dataset":
            continue
        for path in _places(parent.name, root, subject_.place):
            if path.is_file() if path.suffix == ".gguf" else _is_model(path, root):
                try:
                    base = _finished(_local(str(path), path, settings, None))
                except OvertError:
                    continue
                base.ref = parent.name  # the same on every machine
                return base
    return None


def _places(name: str, root: Path, folder: bool) -> Iterator[Path]:
    if name.startswith(("./", "../", "/")):
        yield Path(os.path.normpath(root / name))
        return
    parts = [part for part in name.split("/") if part not in ("", ".", "..")][-2:]
    if not parts or any(len(part) > 200 for part in parts):
        return
    above = (root.parent, root) if folder else (root,)
    for place in above:
        for last in dict.fromkeys((parts[-1], parts[-1].lower())):
            yield place / last
            yield place / f"{last}.gguf"
    yield above[0].parent.joinpath(*parts)


def _is_model(path: Path, root: Path) -> bool:
    """Whether a folder holds weights at its top, and is not the model's own or one around it."""
    try:
        if not path.is_dir() or path == root or path in root.parents:
            return False
        return any(entry.suffix in (".safetensors", ".gguf") for entry in path.iterdir())
    except OSError:
        return False
