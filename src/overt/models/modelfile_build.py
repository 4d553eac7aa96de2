"""A Modelfile becomes a model of the store, and a model of the store is written as a Modelfile.

`create` writes no weights: the new manifest lists the blobs that are there, and a file of the
person's own is linked where it lies. What the Modelfile says becomes small files beside them
(defaults.py reads those), and a recipe says what was made of what (recipe.py).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from overt.errors import BadRef, FormatError, ModelNotFound, OvertError
from overt.formats import gguf, gotemplate
from overt.formats.modelfile import Modelfile, ModelfileCommand, write
from overt.models import defaults, pull
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import FetchProgress, Role
from overt.models.store import File, FileLink, Manifest, Store
from overt.ref import Ref, parse
from overt.settings import Settings

__all__ = ["CreatedModel", "create", "modelfile_of", "parse_name"]

_SAID = ("renderer", "parser", "requires")
_PATHS: dict[Role, str] = {
    "adapter": "adapter.gguf",
    "draft": "draft.gguf",
    "licence": "LICENSE",
    "projector": "projector.gguf",
}
_WHATS = {"adapter": "adapter", "mmproj": "projector"}
Report = Callable[[FetchProgress], None]


@dataclass(frozen=True, slots=True)
class CreatedModel:
    """A new model, and what a person should know about it, one sentence each."""

    manifest: Manifest
    notices: tuple[str, ...]


@dataclass(slots=True)
class _Draft:
    """A manifest in the making: files in order, and where those that are not stored come from."""

    files: list[File] = field(default_factory=list)
    links: dict[str, FileLink] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)
    licence: str | None = None
    origin: dict[str, str] = field(default_factory=lambda: {"source": "create"})
    notices: list[str] = field(default_factory=list)

    def drop(self, role: Role) -> None:
        self.files = [file for file in self.files if file.role != role]

    def add(self, file: File) -> None:
        """One more file; what is listed for the same purpose already is not listed twice."""
        if any((file.role, file.digest) == (other.role, other.digest) for other in self.files):
            return
        taken = {file.path for file in self.files}
        path, number = file.path, 1
        while path in taken:
            number += 1
            stem, dot, end = file.path.partition(".")
            path = f"{stem}-{number}{dot}{end}"
        self.files.append(replace(file, path=path))

    def text(self, role: Role, path: str, data: bytes) -> None:
        digest = f"sha256:{sha256(data).hexdigest()}"
        self.texts[digest] = data
        self.add(File(role, path, digest, len(data)))


def create(
    name: str,
    modelfile: Modelfile,
    folder: Path,
    settings: Settings,
    progress: Report | None = None,
    *,
    own: bool = False,
) -> CreatedModel:
    """Make the model `name` as `modelfile` says; relative paths in it are below `folder`.

    A model it builds on that is not in the store is pulled. The same Modelfile on the same model
    gives the same manifest. With `own` the files below `folder` are moved into the store, else
    they are linked where they lie.

    Raises:
        BadRef: `name` is no plain name, or one of the catalogue.
        ModelNotFound: what it builds on is not to be had; or another error of `pull`.
        FormatError: a file that is not what its command says, or two models at once.
    """
    ref = parse_name(name)
    store = Store(settings.home)
    report = progress or (lambda _: None)
    draft = _Draft()
    for value in modelfile.values("from"):
        _add_base(draft, value, folder, settings, report)
    if not any(file.role == "weights" for file in draft.files):
        raise FormatError("no FROM line names a model with weights", "add one: FROM and a model")
    for role in ("adapter", "draft"):
        for value in modelfile.values(role):
            _add_file(draft, role, value, folder, settings, report)
    _add_texts(draft, modelfile, store)
    _check_texts(draft)
    _check_architecture(draft, store)
    _add_recipe(draft, modelfile)
    manifest = Manifest(tuple(draft.files), str(ref), draft.origin, draft.licence)
    with store.pulling(ref) as place:
        files = _moved(draft, folder) if own else {}
        for number, (digest, data) in enumerate(draft.texts.items()):
            files[digest] = place / f"text-{number}"
            files[digest].write_bytes(data)
        store.commit(manifest, files, [ref], draft.links)
    return CreatedModel(manifest, tuple(draft.notices))


def _moved(draft: _Draft, folder: Path) -> dict[str, Path]:
    """The files below `folder` by digest, which are no links any more."""
    root = folder.resolve()
    paths = {digest: Path(link.path) for digest, link in draft.links.items()}
    inside = {digest: path for digest, path in paths.items() if path.is_relative_to(root)}
    for digest in inside:
        del draft.links[digest]
    return inside


def parse_name(name: str) -> Ref:
    """The name of a model of one's own.

    Raises:
        BadRef: `name` is no plain name, or one of the catalogue.
    """
    from overt.models.sources.catalogue import lookup

    ref = parse(name)
    if ref.scheme != "name":
        raise BadRef(f"{name} is not a plain name", "choose one like my-model or my-model:v2")
    if lookup(ref):
        raise BadRef(f"{name} is a name of the catalogue", f"choose another, such as my-{name}")
    return ref


# ---- FROM ----------------------------------------------------------------------------------


def _add_base(draft: _Draft, value: str, folder: Path, settings: Settings, report: Report) -> None:
    """What one FROM line names: a model with all its files, or a projector to go with it."""
    model, manifest, paths = _resolved(value, folder, settings, report)
    files = list(manifest.files)
    kind = _kind(model.weights)
    if kind == "adapter":
        raise FormatError(f"{value} is an adapter", f"write ADAPTER {value}, and FROM its model")
    if kind == "projector":
        files = [replace(file, role="projector") for file in files if file.role == "weights"]
    elif any(file.role == "weights" for file in draft.files):
        if not any(file.role == "projector" for file in files):
            raise FormatError(
                f"{value} is a second model", "keep one FROM line, and one for its projector"
            )
        files = [file for file in files if file.role == "projector"]
    for file in files:
        if file.role == "projector":
            draft.drop("projector")
    path = parse(manifest.ref).scheme == "path"
    draft.inputs.append(Input("from", model.digest, "" if path else manifest.ref))
    for file in files:
        draft.add(file)
        if file.digest in paths:
            draft.links[file.digest] = paths[file.digest]
    draft.licence = draft.licence or manifest.licence
    if not path:
        kept_facts = {key: manifest.origin[key] for key in _SAID if key in manifest.origin}
        draft.origin |= {"base": draft.origin.get("base", manifest.ref), **kept_facts}


def _resolved(
    value: str, folder: Path, settings: Settings, report: Report
) -> tuple[pull.LocalModel, Manifest, dict[str, FileLink]]:
    """The model a value names, its manifest, and links to those of its files not in the store."""
    path = _path(value, folder)
    if path is None:
        ref = _ref(value)
        try:
            model = pull.find(ref, settings)
        except ModelNotFound as missing:
            _pulled(ref, value, settings, report, missing)
            model = pull.find(ref, settings)
        if model.manifest is None:
            raise ModelNotFound(f"{value} is not a model of the store", "name another")
        return model, model.manifest, {}
    ref = str(path)
    base = path if path.is_dir() else path.parent
    links = {}
    model = pull.find(ref, settings, report)
    manifest = pull.pull(ref, settings, report)
    for file in manifest.files:
        links[file.digest] = FileLink.of(base / file.path, str(base))
    return model, manifest, links


def _pulled(
    ref: str, value: str, settings: Settings, report: Report, missing: ModelNotFound
) -> None:
    try:
        pull.pull(ref, settings, report)
    except ModelNotFound:
        if parse(ref).scheme == "name":
            hint = f"a model of Ollama's registry is FROM ollama:{value}, a file FROM ./{value}"
            raise ModelNotFound(f"FROM {value}: {missing.message}", hint) from None
        raise


def _path(value: str, folder: Path) -> Path | None:
    """The file or folder a value names, if it is one."""
    try:
        path = folder / Path(value).expanduser()
        if path.exists():
            return path.absolute()
    except (OSError, RuntimeError, ValueError):  # a name too long, no such home, a null character
        return None
    return None


def _ref(value: str) -> str:
    """A value of FROM as a ref: Ollama's ways to name a hub or registry are understood too."""
    for host in ("hf.co/", "huggingface.co/"):
        if value.startswith(host):
            repository, _, kind = value.removeprefix(host).partition(":")
            return f"hf:{repository}{'#' + kind if kind else ''}"
    try:
        parse(value)
    except BadRef:
        if "/" in value:  # namespace/name or host/namespace/name
            return f"ollama:{value}"
    return value


def _kind(weights: Path) -> str:
    """model, adapter or projector, by the header of a GGUF file."""
    try:
        header = gguf.read(weights)
    except FormatError:
        return "model"  # safetensors; the engine says what it cannot read
    if header.architecture == "clip":
        return "projector"
    return _WHATS.get(str(header.metadata.get("general.type")), "model")


# ---- the other commands --------------------------------------------------------------------


def _add_file(
    draft: _Draft, role: Role, value: str, folder: Path, settings: Settings, report: Report
) -> None:
    """ADAPTER and DRAFT: a GGUF file where it lies, or the weights of a stored model."""
    model, manifest, links = _resolved(value, folder, settings, report)
    file = manifest.weights
    kind = _kind(model.weights)
    wanted = "a GGUF adapter" if role == "adapter" else "a GGUF model"
    if file.path.endswith(".safetensors") or kind != wanted.rpartition(" ")[2]:
        what = (
            "safetensors"
            if file.path.endswith(".safetensors")
            else f"{'an' if kind == 'adapter' else 'a'} {kind}"
        )
        raise FormatError(
            f"{role.upper()} {value} is {what}, where {wanted} is needed",
            "overt convert FOLDER --base REF --output FILE.gguf" if role == "adapter" else None,
        )
    draft.inputs.append(Input(role, file.digest))
    draft.add(replace(file, role=role, path=_PATHS[role]))
    if file.digest in links:
        draft.links[file.digest] = links[file.digest]
    if role == "draft":
        draft.notices.append("the DRAFT model is kept, and this version of Overt does not use it")


def _check_architecture(draft: _Draft, store: Store) -> None:
    """An adapter is for one architecture; llama.cpp would only say so when it loads."""
    heads: dict[str, str] = {}
    for file in draft.files:
        if file.role in ("weights", "adapter"):
            link = draft.links.get(file.digest)
            path = Path(link.path) if link else store.path(file)
            try:
                heads.setdefault(file.role, gguf.read(path, whole=False).architecture)
            except FormatError:
                return
    own, other = heads.get("weights"), heads.get("adapter")
    if other and own != other:
        raise FormatError(
            f"the adapter is made for the architecture {other!r}, and the model is {own!r}",
            "name the model the adapter was trained on",
        )


def _check_texts(draft: _Draft) -> None:
    """Raises FormatError: texts that nobody could read again when the model is to be run."""
    texts: dict[str, str] = {}
    for file in draft.files:
        if file.digest in draft.texts and file.role in defaults.ROLES:
            data = draft.texts[file.digest]
            texts[file.role] = defaults.decoded(data, file.role)
    texts.pop("template", None)  # one that cannot be used is said, and the file's own is
    draft.notices += defaults.build(texts).notices


def _add_texts(draft: _Draft, modelfile: Modelfile, store: Store) -> None:
    """Everything that is text, and what only Ollama can use."""
    template, system = modelfile.last("template"), modelfile.last("system")
    if template is not None:
        draft.drop("template")
        if template:
            draft.text("template", "template", template.encode())
            _say_template(draft, template)
    if system is not None:
        draft.drop("system")
        if system:
            draft.text("system", "system", system.encode())
    _add_parameters(draft, modelfile, store)
    messages = [
        {"role": command.key, "content": command.value}
        for command in modelfile.commands
        if command.word == "message"
    ]
    if messages:
        draft.drop("messages")
        draft.text("messages", "messages.json", _canonical(messages))
    for text in modelfile.values("license"):
        draft.text("licence", _PATHS["licence"], text.encode())
        if len(text) <= 64 and "\n" not in text and text.isprintable():
            draft.licence = text
    for word in _SAID:
        if (value := modelfile.last(word)) is not None:
            draft.origin[word] = value[:64]
    if modelfile.last("renderer") and not template:
        draft.notices.append("RENDERER names code inside Ollama: the template is used instead")


def _add_parameters(draft: _Draft, modelfile: Modelfile, store: Store) -> None:
    """PARAMETER: over those of the model it builds on, name by name."""
    parameters, dropped = modelfile.parameters()
    if parameters:
        parameters = {**_old_parameters(draft, store), **parameters}
        draft.drop("parameters")
        draft.text("parameters", "params.json", _canonical(parameters))
    if dropped:
        draft.notices.append(f"left out, as Ollama does: {', '.join(dropped)}")


def _say_template(draft: _Draft, template: str) -> None:
    from overt.formats.template import check

    try:
        jinja = template if defaults.is_jinja(template) else gotemplate.to_jinja(template)
    except FormatError as error:
        draft.notices.append(f"{error.message}, so the template of the model's file is used")
        return
    report = check(jinja)
    if report.escapes:
        draft.notices.append(f"TEMPLATE tries to leave its sandbox: {report.escapes[0]}")
    elif report.failed:
        draft.notices.append(f"TEMPLATE does not render here: {report.failed}")


def _old_parameters(draft: _Draft, store: Store) -> dict[str, Any]:
    for file in draft.files:
        if file.role == "parameters" and file.size <= defaults.MAX_BYTES:
            try:
                old = json.loads(store.path(file).read_bytes())
            except (ValueError, RecursionError):
                old = None
            if isinstance(old, dict):
                return old
            raise FormatError("the parameters of the model in FROM are no JSON object")
    return {}


def _add_recipe(draft: _Draft, modelfile: Modelfile) -> None:
    """The recipe first, then those of the models it builds on, newest first."""
    from importlib.metadata import version

    inputs = {
        role: iter([i.digest for i in draft.inputs if i.role == role])
        for role in ("from", "adapter", "draft")
    }
    commands = [
        [
            command.word,
            command.key,
            next(inputs[command.word]) if command.word in inputs else command.value,
        ]
        for command in modelfile.commands
    ]
    older = [file for file in draft.files if file.role == "recipe"]
    draft.drop("recipe")
    recipe = Recipe(
        "create", "1", tuple(draft.inputs), {"modelfile": commands}, {"overt": version("overt")}
    )
    draft.text("recipe", "recipe.json", recipe.encode())
    for file in older:
        draft.add(replace(file, path="recipe.json"))


def _canonical(value: object) -> bytes:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


# ---- back to a Modelfile -------------------------------------------------------------------


def modelfile_of(ref: str, settings: Settings) -> str:
    """The Modelfile that makes this model again: its base, and everything that lies over it.

    Raises:
        ModelNotFound, IntegrityError: it is not here, or damaged.
        FormatError: one of its small files is damaged, or cannot be written in a Modelfile.
    """
    model = pull.find(ref, settings)
    store = Store(settings.home)
    commands = [ModelfileCommand("from", value) for value in _bases(model, store)]
    for role in ("adapter", "draft"):
        commands += [ModelfileCommand(role, str(path)) for path in model.parts.get(role, ())]
    texts = defaults.texts(model)
    commands += [
        ModelfileCommand(role, texts[role]) for role in ("template", "system") if role in texts
    ]
    parameters = json.loads(texts.get("parameters", "{}"))
    for name, value in parameters.items() if isinstance(parameters, dict) else ():
        for item in value if isinstance(value, list) else [value]:
            shown = str(item).lower() if isinstance(item, bool) else str(item)
            commands.append(ModelfileCommand("parameter", shown, name))
    over = defaults.build({k: v for k, v in texts.items() if k == "messages"})
    commands += [
        ModelfileCommand("message", message.text, message.role) for message in over.messages
    ]
    for file in _own_licences(model, store):
        text = defaults.text_of(store.path(file), "licence")
        commands.append(ModelfileCommand("license", text))
    origin = model.manifest.origin if model.manifest else {}
    commands += [ModelfileCommand(word, origin[word]) for word in _SAID if word in origin]
    head = f"# {ref} as a Modelfile; make it again: overt create NAME -f this-file\n"
    return head + write(Modelfile(tuple(commands)))


def _bases(model: pull.LocalModel, store: Store) -> Iterable[str]:
    """What to write after FROM: what the model was made of, else the files themselves."""
    files = [str(path) for path in (model.weights, model.projector) if path]
    if model.manifest is None:
        return files
    if not (recipes := model.parts.get("recipe")):
        return [model.manifest.ref]
    recipe = Recipe.decode(recipes[0].read_bytes())
    named = []
    for entry in recipe.inputs:
        if entry.role == "from":
            if not (value := _base(entry, store)):
                return files
            named.append(value)
    return named or files


def _own_licences(model: pull.LocalModel, store: Store) -> list[File]:
    """The licences that FROM does not bring along already."""
    if model.manifest is None or not (recipes := model.parts.get("recipe")):
        return []
    brought: set[str] = set()
    for entry in Recipe.decode(recipes[0].read_bytes()).inputs:
        try:
            brought |= {file.digest for file in store.manifest(entry.digest).files}
        except OvertError:
            continue
    return [
        file
        for file in model.manifest.files
        if file.role == "licence" and file.digest not in brought
    ]


def _base(entry: Input, store: Store) -> str | None:
    """A base by its name where that still means the same, else by its digest."""
    if entry.ref and parse(entry.ref).scheme != "name":
        return entry.ref
    try:
        if entry.ref and store.get(parse(entry.ref)).digest == entry.digest:
            return entry.ref
    except OvertError:
        pass
    try:
        return entry.digest if store.whole(store.manifest(entry.digest)) else None
    except OvertError:
        return None
