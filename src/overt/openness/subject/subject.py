"""What lies in front of the checks: the files of one model, read when somebody asks and only once.

A subject comes from a folder, a single file, the store or a hub (`gather.py`). Nothing in it is
trusted: every text is bounded, every header goes through the readers of `formats`, and what cannot
be read is kept in `damaged` with the reason instead of ending the dossier.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from overt.errors import FormatError, OvertError
from overt.openness.subject.record import Record

if TYPE_CHECKING:
    from overt.formats.gguf import GgufHeader as GgufHeader
    from overt.formats.safetensors import SafetensorsHeader as SafetensorsHeader
    from overt.openness.licence.match import Match
    from overt.openness.subject.card import Card

MAX_TEXT = 4 << 20
"""Bytes of a text file that is read whole."""
MAX_TOKENIZER = 48 << 20
MAX_HEADERS = 24 << 20
"""Bytes of the headers of all safetensors files together: some 200 thousand tensors."""
_MAX_GGUF = 64 << 20
"""What may be kept of the headers of all GGUF files: a byte a character, 100 a tensor."""
_MAX_TEXTS = 4 << 20
"""Characters of all licence files together, and of all chat templates."""


@dataclass(frozen=True)
class SubjectFile:
    """One file.

    Attributes:
        name: its path inside the model, with slashes.
        size: bytes.
        path: where its bytes are; None where only its name, size and digest are known (on a hub).
        stated: ``sha256:…`` where it is known without reading (the store, a hub's large files).
        sparse: only the header's bytes are at `path`; what follows reads as zeros.
    """

    name: str
    size: int
    path: Path | None = None
    stated: str = ""
    sparse: bool = False

    @cached_property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()

    @cached_property
    def stem(self) -> str:
        """The last part of the name, in lower case."""
        return PurePosixPath(self.name).name.lower()


@dataclass(eq=False)
class Subject:
    """The files of one model and what is claimed about it.

    Attributes:
        ref: as it was asked for.
        files: in order of name.
        record: what is claimed, merged from all sources.
        place: where all of a release should lie (a folder, a repository), so that what is not
            among `files` is absent; a bare GGUF or a stored model is no such place.
        base: the model it is compared with, where that is on this disk; with the name claimed.
        digest_of: the digest (``sha256:…``) of a file on this disk.
        remote: the files without a path could be fetched with a network.
    """

    ref: str
    files: tuple[SubjectFile, ...]
    record: Record
    place: bool = False
    base: "Subject | None" = None
    digest_of: Callable[[Path], str] = field(default=lambda path: _hash(path), repr=False)
    remote: bool = False
    damaged: dict[str, str] = field(default_factory=dict)
    _matches: "dict[str, Match]" = field(default_factory=dict, init=False, repr=False)
    kept: dict[str, Any] = field(default_factory=dict, repr=False)
    """What others worked out from the files and keep with them, by their own name."""

    # -- files -------------------------------------------------------------------------------

    def file(self, name: str) -> SubjectFile | None:
        return self._by_name.get(name)

    def named(self, *names: str) -> tuple[SubjectFile, ...]:
        """Files whose last part is one of `names`, in any case, nearest to the top first."""
        wanted = {name.lower() for name in names}
        matching = [file for file in self.files if file.stem in wanted]
        return tuple(sorted(matching, key=lambda file: (file.name.count("/"), file.name)))

    def under(self, folder: str) -> tuple[SubjectFile, ...]:
        return tuple(f for f in self.files if f.name.startswith(folder.rstrip("/") + "/"))

    def digest(self, name: str) -> str:
        """``sha256:…`` of a file, or "" where its bytes are not here and nobody states it."""
        file = self._by_name[name]
        if file.stated:
            return file.stated
        return self.digest_of(file.path) if file.path else ""

    def bytes(self, name: str, most: int = MAX_TEXT) -> bytes | None:
        """The bytes of a file; None where they are not here or more than `most`."""
        file = self._by_name.get(name)
        if file is None or file.path is None or file.sparse or file.size > most:
            return None
        try:
            with file.path.open("rb") as opened:
                data = opened.read(most + 1)
        except OSError:
            return None
        return data if len(data) <= most else None

    def text(self, name: str, most: int = MAX_TEXT) -> str | None:
        """A file as UTF-8 text, broken bytes replaced; None as for `bytes`."""
        data = self.bytes(name, most)
        return None if data is None else data.decode("utf-8-sig", "replace")

    def json(self, name: str, most: int = MAX_TEXT) -> Any:
        """A JSON file; None as for `bytes`, or where it is not JSON (then it is in `damaged`)."""
        text = self.text(name, most)
        if text is None:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            self.damaged[name] = f"is not JSON: {str(error)[:120]}"
            return None

    @cached_property
    def digest_all(self) -> str:
        """``sha256:…`` of the list of names and digests: equal for equal content."""
        lines = "".join(f"{file.name}\0{self.digest(file.name)}\n" for file in self.files)
        return "sha256:" + sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()

    # -- what the files say ------------------------------------------------------------------

    @cached_property
    def gguf(self) -> "Mapping[str, GgufHeader]":
        """Headers of the GGUF files that are here, by name; projectors and adapters too."""
        from overt.formats import gguf

        headers: dict[str, GgufHeader] = {}
        left = _MAX_GGUF
        for file in self.files:
            if file.path and file.suffix == ".gguf":
                if left <= 0:
                    self.damaged[file.name] = "was not read: the headers before it are too large"
                    continue
                try:
                    header = headers[file.name] = gguf.read(file.path, whole=False)
                    texts = (value for value in header.metadata.values() if isinstance(value, str))
                    left -= sum(map(len, texts)) + 100 * len(header.tensors)
                except OvertError as error:
                    self.damaged[file.name] = error.message
        return headers

    @cached_property
    def safetensors(self) -> "Mapping[str, SafetensorsHeader]":
        """Headers of the safetensors files at the top that are here, by name."""
        from overt.formats import safetensors

        headers: dict[str, SafetensorsHeader] = {}
        left = MAX_HEADERS
        for file in self.files:
            if file.path and file.suffix == ".safetensors" and "/" not in file.name:
                try:
                    headers[file.name] = safetensors.read(file.path, left)
                    left -= headers[file.name].data_offset
                except OvertError as error:
                    self.damaged[file.name] = error.message
        return headers

    @cached_property
    def model(self) -> "GgufHeader | None":
        """The header of the GGUF model, not of a projector, adapter or second part of it."""
        for header in self.gguf.values():
            kind = header.text("general.type") or "model"
            if kind == "model" and header.architecture not in ("clip", ""):
                return header
        return None

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """``config.json`` at the top, as the transformers library writes it."""
        config = self.json("config.json") if self.file("config.json") else None
        if config is not None and not isinstance(config, dict):
            self.damaged["config.json"] = "is no JSON object"
            return None
        return config

    @cached_property
    def card(self) -> "Card | None":
        """The model card: ``README.md`` at the top, or the nearest file that is one."""
        from overt.openness.subject import card

        for file in self.named("readme.md", "model_card.md", "modelcard.md"):
            if "/" in file.name:
                continue
            text = self.text(file.name)
            if text is None:
                continue
            try:
                return card.read(file.name, text)
            except FormatError as error:
                self.damaged[file.name] = error.message
        return None

    @cached_property
    def licence_texts(self) -> Mapping[str, str]:
        """Texts of the licence files, by name."""
        texts = {}
        left = _MAX_TEXTS
        for file in sorted(
            filter(_is_licence, self.files), key=lambda file_: file_.name.count("/")
        ):
            text = self.text(file.name, min(1 << 20, left))
            if text is not None:
                texts[file.name] = text
                left -= len(text)
        return dict(sorted(texts.items()))

    def licence_match(self, name: str) -> "Match":
        """What the licence file `name` is: laid over the known texts once, however many ask."""
        if name not in self._matches:
            from overt.openness.licence import match

            text = self.licence_texts[name] if name in self.licence_texts else self.text(name)
            self._matches[name] = match.match(text or "")
        return self._matches[name]

    @cached_property
    def templates(self) -> Mapping[str, str]:
        """Chat templates by name: of GGUF headers, ``*.jinja`` and ``tokenizer_config.json``."""
        templates: dict[str, str] = {}
        for name, header in self.gguf.items():
            for key, text in header.chat_templates.items():
                templates[f"{name}: {key}"] = text
        left = _MAX_TEXTS
        for file in self.files:
            own = self.text(file.name, min(1 << 20, left)) if file.suffix == ".jinja" else None
            if own is not None:
                templates[file.name] = own
                left -= len(own)
        return {**templates, **self._configured_templates}

    @cached_property
    def _configured_templates(self) -> Mapping[str, str]:
        templates: dict[str, str] = {}
        for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json"):
            templates |= self._templates_of(name)
        return templates

    def _templates_of(self, name: str) -> dict[str, str]:
        config = self.json(name) if self.file(name) else None
        template = config.get("chat_template") if isinstance(config, dict) else None
        if isinstance(template, str):
            return {name: template}
        if isinstance(template, list):
            return {
                f"{name}: {entry['name']}": entry["template"]
                for entry in template[:32]
                if isinstance(entry, dict)
                and isinstance(entry.get("template"), str)
                and isinstance(entry.get("name"), str)
            }
        return {}

    @cached_property
    def _by_name(self) -> Mapping[str, SubjectFile]:
        return {file.name: file for file in self.files}


def _is_licence(file: SubjectFile) -> bool:
    """``LICENSE``, ``LICENCE.txt``, ``COPYING``, ``USE_POLICY.md`` … at most one folder down, or
    where a wheel keeps them."""
    deep = 1 + (".dist-info/licenses/" in file.name)
    if file.name.count("/") > deep or file.suffix in (
        ".py",
        ".json",
        ".gguf",
        ".safetensors",
        ".html",
    ):
        return False
    if file.stem.startswith(("license.", "license-", "licence.", "licence-")):
        return True
    starts = ("license", "licence", "copying", "use_policy", "terms")
    return file.stem.startswith(starts) and file.suffix in ("", ".txt", ".md", ".rst")


def _hash(path: Path) -> str:
    from overt.models.sources.base import sha256_of

    return f"sha256:{sha256_of(path)}"
