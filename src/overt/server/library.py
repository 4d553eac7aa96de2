"""What the server does with the store: look, pull, push, make, copy and delete models.

The same functions as the command line's, in threads, with progress for any number of callers.
Clients name models and never files of this machine: a ref that is a path is refused everywhere.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio.to_thread

from overt.errors import BadRef, BadRequest, ModelNotFound, OvertError, Unsupported
from overt.formats import gguf
from overt.formats.modelfile import Modelfile, ModelfileCommand
from overt.models import pull
from overt.models.defaults import is_jinja
from overt.models.sources import catalogue
from overt.models.sources.base import FetchProgress, Report
from overt.models.store import Manifest, Store
from overt.models.store.manifest import file_name
from overt.protocols.base import ModelCard
from overt.ref import Ref, parse, part_of
from overt.server.cards import ModelDetails, card_of, details_of
from overt.server.jobs import Jobs
from overt.server.named_models import NamedModels
from overt.server.registries import ANYWHERE, Registries
from overt.server.uploads import PLACE, Incoming
from overt.settings import Settings

__all__ = ["ModelDetails", "ModelLibrary"]

_CARDS = 4096  # kept at once


@dataclass(frozen=True, slots=True)
class _ListedModel:
    """A card, and the name's file and the folder of all names as they were when it was made."""

    path: Path
    facts: "_Facts"
    names: "_Facts"
    card: ModelCard


class ModelLibrary:
    """The models of one store, for the event loop it is first used in.

    `registries` says where clients may send the server for models.
    """

    def __init__(self, settings: Settings, registries: Registries = ANYWHERE) -> None:
        self._settings = settings
        self._registries = registries
        self._store = Store(settings.home)
        self._jobs = Jobs()
        self._incoming = Incoming(self._store)
        self._known: dict[str, ModelCard] = {}  # by digest: what the files say never changes
        self._seen: dict[tuple[str, ...], _ListedModel] = {}
        self._names = settings.home / "names"
        self._own = NamedModels(settings.home, self._stored)

    async def close(self) -> None:
        """Stop every pull, push and create that is still on its way."""
        await self._jobs.close()

    # ---- looking ---------------------------------------------------------------------------

    async def cards(self) -> list[ModelCard]:
        """One card for each name of the store and each alias, newest first.

        Of two names that the catalogue knows as the same model only the shorter one is told.
        """
        return await anyio.to_thread.run_sync(self._cards)

    async def card(self, *refs: str) -> ModelCard:
        """The card of the first of `refs` that is here; its `id` is the store's name for it.

        Raises:
            BadRef: no ref, or a file of this machine.
            ModelNotFound: none is in the store, in the words for the first; never downloads.
        """
        if (
            (not refs or self._own.ref(refs[0]) is None)
            and (seen := self._seen.get(refs))
            and _facts(seen.path) == seen.facts
            and (len(refs) == 1 or _facts(self._names) == seen.names)
        ):
            return seen.card
        return await anyio.to_thread.run_sync(self._card, *refs)

    def card_now(self, ref: str, digest: str = "") -> ModelCard:
        """The card of a model that is loaded, without waiting; a bare one where it is gone.

        Reads a few small files, and the header where no card of it was asked for before.
        """
        if (seen := self._seen.get((ref,))) and _facts(seen.path) == seen.facts:
            return seen.card
        try:
            return self._card(ref)
        except OvertError:
            return ModelCard(ref, digest, 0, 0.0)

    async def show(self, ref: str, *, verbose: bool = False) -> ModelDetails:
        """Everything about a model.

        Raises:
            BadRef, ModelNotFound: as `card`.
            IntegrityError, FormatError: it is damaged.
        """

        def look() -> ModelDetails:
            card = self._card(ref)
            target = self._own.ref(card.id) or card.id
            meant = parse(target)
            if target != card.id and (meant.remote or meant.scheme == "echo"):
                return ModelDetails(card)  # its owner's name for what has no files to look at
            model = pull.find(target, self._settings)
            return details_of(card, model, self._settings, verbose=verbose)

        return await anyio.to_thread.run_sync(look)

    # ---- long work -------------------------------------------------------------------------

    def pull(self, *refs: str) -> AsyncGenerator[FetchProgress, None]:
        """Bring a model into the store; the next of `refs` is tried where one is not to be found.

        Callers that ask for the same share one pull; it stops when the last of them leaves.

        Raises:
            Refused: a registry that clients may not name.
            As pull.pull: the first ref's reason.
        """
        for ref in refs:
            _check(ref)

        def work(report: Report) -> None:
            failed: ModelNotFound | BadRef | None = None
            for ref in refs:
                self._registries.check(parse(ref))
                try:
                    pull.pull(ref, self._settings, report)
                except (ModelNotFound, BadRef) as error:
                    failed = failed or error
                else:
                    return
            raise failed or ModelNotFound("no model was named", "name one")

        return self._jobs.watch(f"pull {' '.join(refs)}", work)

    def push(self, ref: str, target: str = "") -> AsyncGenerator[FetchProgress, None]:
        """Send a model to an OCI registry: to `target`, or where its own name says.

        Raises:
            BadRef, ModelNotFound: as `card`. Refused: a registry that clients may not name.
            As push.push.
        """
        _check(ref)
        place = target or ref
        if parse(place).scheme != "oci":
            raise BadRef(
                f"{place} is no place to push to", "copy it to host/namespace/name, and push that"
            )

        def work(report: Report) -> None:
            from overt.models.push import push

            self._registries.check(parse(place))
            push(self._card(ref).id, place, self._settings, report)

        return self._jobs.watch(f"push {ref} {place}", work)

    def create(
        self,
        name: str,
        *,
        base: str = "",
        files: Mapping[str, str] | None = None,
        adapters: Mapping[str, str] | None = None,
        drafts: Mapping[str, str] | None = None,
        commands: Sequence[tuple[str, str, str]] = (),
    ) -> AsyncGenerator[FetchProgress, None]:
        """Make the model `name`.

        Args:
            base: the ref of a model it builds on; pulled where the store lacks it.
            files, adapters, drafts: GGUF files by path, as digests of what was sent.
            commands: the rest of its Modelfile: word, key, value.

        Raises:
            BadRef: `name` is no plain name, or `base` no model's.
            BadRequest: neither `base` nor `files`. NotFound: a file that has not been sent.
            Refused: `base` is not here, and in a registry that clients may not name.
            As create.create.
        """
        if base:
            _check(base)
        parts = {"from": files or {}, "adapter": adapters or {}, "draft": drafts or {}}
        for path in (path for part in parts.values() for path in part):
            if not path.lower().endswith(".gguf"):
                raise Unsupported(f"{path[:80]} is not GGUF", "convert it to GGUF first")
        if not base and not files:
            raise BadRequest("neither 'from' or 'files' was specified", "give one of the two")

        def work(report: Report) -> None:
            from overt.models.modelfile_build import create

            source = self._source(base) if base else ""
            wanted = {path: digest for part in parts.values() for path, digest in part.items()}
            with self._incoming.staged(wanted) as folder:
                for path in wanted:
                    gguf.read(folder / PLACE / path, whole=False)  # raises what is none
                lines = [ModelfileCommand("from", source)] if source else []
                lines += [
                    ModelfileCommand(word, f"{PLACE}/{path}")
                    for word, part in parts.items()
                    for path in sorted(part)
                    if not ((cut := part_of(path)) and cut.number > 1)  # the first brings them
                ]
                lines += [ModelfileCommand(word, value, key) for word, key, value in commands]
                modelfile = Modelfile(tuple(lines))
                modelfile.parameters()
                made = create(name, modelfile, folder, self._settings, report, own=True)
            for notice in made.notices:
                report(FetchProgress(notice, 0, None))

        key = f"create {name} {base} {sorted(map(str, parts.items()))} {list(commands)}"
        return self._jobs.watch(key, work)

    async def fill(self, template: str, messages: Sequence[Mapping[str, object]]) -> str:
        """What a chat template of the client's own, Go or Jinja, makes of `messages`.

        It runs in a process without rights, for a few seconds at most.

        Raises:
            FormatError: no template, or one that is refused.
        """

        def work() -> str:
            from overt.formats import gotemplate
            from overt.formats.template import render

            jinja = template if is_jinja(template) else gotemplate.to_jinja(template)
            return render(jinja, {"messages": list(messages)})

        return await anyio.to_thread.run_sync(work)

    # ---- small work ------------------------------------------------------------------------

    async def copy(self, source: str, destination: str) -> None:
        """Give a model one more name; what that named before is left.

        Raises:
            BadRef, ModelNotFound: as `card`; `destination` is a name, or where to push it.
        """
        name = parse(destination)
        if name.scheme not in ("name", "oci", "ollama") or _is_digest(destination):
            raise BadRef(f"{destination} is no name for a model", "choose one like my-model:v2")
        await anyio.to_thread.run_sync(
            lambda: self._store.name(name, self._named(source)[1])  # commit checks every file
        )

    async def delete(self, ref: str) -> None:
        """Drop a name, and the files that no other name needs.

        Raises:
            BadRef, ModelNotFound: as `card`. Busy: another process holds the store.
        """

        def work() -> None:
            self._store.remove(self._named(ref)[0])

        await anyio.to_thread.run_sync(work)

    # ---- files that clients send -----------------------------------------------------------

    async def has_blob(self, digest: str) -> bool:
        """Whether a file is here, sent or stored. Raises BadRequest: not a digest."""
        return await anyio.to_thread.run_sync(self._incoming.find, digest) is not None

    async def put_blob(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        """Take in a file for `create`, as Incoming.put says."""
        await self._incoming.put(digest, chunks)

    # ---- inside ----------------------------------------------------------------------------

    def _cards(self) -> list[ModelCard]:
        by_key: dict[tuple[str, str], ModelCard] = {}
        for entry in self._store.names():
            known = catalogue.lookup(entry.ref)
            # Names of the catalogue that mean the same are one; any other name is its own.
            same = str(known.ref) if known else str(entry.ref)
            key = (entry.manifest.digest, same)
            if key not in by_key or len(str(entry.ref)) < len(by_key[key].id):
                by_key[key] = self._made(entry.ref, entry.manifest)
        aliases = self._own.cards()
        hidden = {card.id for card in aliases}
        cards = [*aliases, *(card for card in by_key.values() if card.id not in hidden)]
        return sorted(cards, key=lambda card: (-card.modified, card.id))

    def _card(self, *refs: str) -> ModelCard:
        for ref in refs:
            if card := self._own.card(ref):
                return card
        return self._stored(*refs)

    def _stored(self, *refs: str) -> ModelCard:
        names = _facts(self._names)
        name, manifest = self._first(refs)
        path = self._names / file_name(name)
        facts = _facts(path)
        card = self._made(name, manifest)
        if facts is not None:
            if len(self._seen) >= _CARDS:
                self._seen.clear()
            self._seen[refs] = _ListedModel(path, facts, names, card)
        return card

    def _first(self, refs: Sequence[str]) -> tuple[Ref, Manifest]:
        missing: ModelNotFound | None = None
        for ref in refs:
            try:
                return self._named(ref)
            except ModelNotFound as error:
                missing = missing or error
        raise missing or ModelNotFound("no model was named", "name one")

    def _made(self, name: Ref, manifest: Manifest) -> ModelCard:
        digest = manifest.digest
        facts = _facts(self._names / file_name(name))
        modified = facts[0] / 1e9 if facts else 0.0
        card = self._known.get(digest)
        if card is None:
            card = card_of(str(name), manifest, modified, self._store)
            if len(self._known) >= _CARDS:
                self._known.clear()
            if card.parameters is not None:  # what cannot be read now may be mended
                self._known[digest] = card
        return replace(card, id=str(name), modified=modified)

    def _source(self, ref: str) -> str:
        """The store's own name for `ref`, or where to bring it from. Raises Refused."""
        try:
            return str(self._named(ref)[0])
        except ModelNotFound:
            self._registries.check(parse(ref))
            return ref

    def _named(self, ref: str) -> tuple[Ref, Manifest]:
        """The store's own name for `ref`, and what it names.

        Ollama's clients, and whoever read our list in its form, write ``:latest`` behind a name
        without a tag.
        """
        wanted = _check(ref)
        bare = replace(wanted, tag=None) if is_latest(wanted) else None
        for candidate in (wanted, bare) if bare else (wanted,):
            entry = catalogue.lookup(candidate)
            for name in (candidate, *(catalogue.names_of(entry) if entry else ())):
                try:
                    return name, self._store.get(name)
                except ModelNotFound:
                    continue
        pull.find(ref, self._settings)  # raises, with the best hint
        raise ModelNotFound(f"{ref} is not in the store", f"type `overt pull {ref}`")


def _check(ref: str) -> Ref:
    """Raises BadRef: no ref, or one that names a file of this machine."""
    parsed = parse(ref)
    if parsed.scheme == "path":
        raise BadRef(
            f"{ref[:80]!r} is a file, and a server answers for models of its store only",
            "name one that it lists",
        )
    return parsed


def is_latest(ref: Ref) -> bool:
    """Whether a ref has the tag that may stand for none."""
    return ref.tag == "latest" and ref.scheme in ("name", "ollama", "oci")


def _is_digest(text: str) -> bool:
    return 12 <= len(text) <= 64 and not set(text) - set("0123456789abcdef")


_Facts = tuple[int, int, int] | None


def _facts(path: Path) -> _Facts:
    """What changes whenever a name is pointed elsewhere, its time first; None where none is."""
    try:
        facts = os.stat(path)  # noqa: PTH116 -- on the way of every request
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_ino, facts.st_size
