"""A model on this machine made ready to run: what a ref means, what fits, and the worker for it.

`PlaceCache.get` turns a ref into a `ModelPlace` (from headers and small texts alone), `planner`
says for one place and purpose how it would be loaded within a budget, and what it loads is an
`OpenedModel`.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overt import ref as refs
from overt.engine import Capabilities, Engine, Purpose
from overt.errors import BadRequest, BadSetting, EngineFailed, NotFound, OutOfMemory
from overt.formats import gguf, split
from overt.models import defaults as overlay
from overt.models import pull
from overt.models.defaults import Overlay
from overt.models.memory import CHECKPOINTS, ContextFit, choose
from overt.runtime import cpu, registry
from overt.runtime.slots import LoadPlan
from overt.runtime.torch import plan
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.runtime.worker.supervisor import Worker, WorkerSpec

Notice = Callable[[str], None]
Fits = Callable[..., ContextFit]
Kind = Literal["llm", "embedding", "rerank"]

SLOTS = 4
"""Requests a served model answers at once, where memory allows and nobody said otherwise."""
_ROOMY = 4096  # tokens of context that are worth more than another slot, or than half the memory
_SLACK = 300 << 20  # what llama.cpp allocates for a moment while loading, measured
_MAX_KNOWN_REFS = 1024  # refs
_SETTLED = 50_000_000  # ns after which a folder's time stamp can be relied on

ENCODERS = frozenset(
    (
        "bert",
        "modern-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "neo-bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "gemma-embedding",
        "eurobert",
    )
)
"""Architectures of llama.cpp that give vectors only."""
_ELSEWHERE = (*refs.PROVIDERS, "http")  # engines
_RANK = 4  # llama.cpp's LLAMA_POOLING_TYPE_RANK


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is true of an opened model; for `ps`, `--json` and people who ask.

    `build` of a model that runs elsewhere is the server that it is asked at, as ``host:port``.
    """

    ref: str
    digest: str
    engine: str
    build: str = ""
    context: int = 0
    threads: cpu.Threads | None = None
    isolation: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The engine in words: ``llamacpp 0.1``, or ``openai at api.openai.com``."""
        between = " at " if self.engine in _ELSEWHERE else " "
        return f"{self.engine}{between}{self.build}" if self.build else self.engine


@dataclass(slots=True)
class OpenedModel:
    """An engine that runs."""

    engine: Engine
    facts: ModelFacts
    purpose: Purpose = "answer"
    overlay: Overlay = Overlay()
    worker: "Worker | None" = None
    gone: Callable[["OpenedModel"], None] = lambda _: None  # told once it has been closed

    async def close(self) -> None:
        await self.engine.close()
        self.gone(self)


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """What a ref means: the files of a model, and what they say."""

    model: pull.LocalModel
    header: gguf.GgufHeader
    overlay: Overlay
    kind: Kind

    @property
    def template(self) -> str:
        return self.overlay.template or self.header.chat_template or ""

    @property
    def purpose(self) -> Purpose:
        """What the model is made for."""
        return _MADE_FOR[self.kind]

    def check(self, purpose: Purpose) -> None:
        """Raises BadRequest: the model is not made for that."""
        if purpose == self.purpose or (self.kind == "llm" and purpose in ("embed", "score")):
            return
        ref = self.model.ref
        if purpose == "rerank":
            raise BadRequest(f"{ref} is not made for ranking", "choose a reranking model")
        if self.kind == "embedding":
            raise BadRequest(
                f"{ref} makes embeddings and does not write text", "choose a model that chats"
            )
        raise BadRequest(f"{ref} only ranks documents", "choose another model, or ask it to rerank")


_MADE_FOR: dict[Kind, Purpose] = {"llm": "answer", "embedding": "embed", "rerank": "rerank"}


def kind_of(header: gguf.GgufHeader) -> Kind:
    """What a model is made for, by its architecture and how its vectors are pooled."""
    pooling = header.number(f"{header.architecture}.pooling_type")
    if pooling == _RANK or header.tensor("cls.output.weight") or header.tensor("cls.weight"):
        return "rerank"
    return "embedding" if pooling or header.architecture in ENCODERS else "llm"


def causal(header: gguf.GgufHeader) -> bool:
    """Whether a token sees only those before it; an encoder's see all."""
    stated = header.metadata.get(f"{header.architecture}.attention.causal")
    return stated if isinstance(stated, bool) else header.architecture not in ENCODERS


# ---- which model -----------------------------------------------------------------------------

_Stamp = tuple[object, ...]


class PlaceCache:
    """Refs and what they mean, remembered until the store (or a plain file) changes.

    `admit` is asked about each before it is remembered, and may refuse it.
    """

    def __init__(
        self, settings: Settings, admit: Callable[["ModelPlace"], None] = lambda _: None
    ) -> None:
        self._settings, self._admit = settings, admit
        self._known: dict[str, tuple[ModelPlace, _Stamp]] = {}
        self._folders = (str(settings.home / "names"), str(settings.home / "manifests"))

    def known(self, ref: str) -> ModelPlace | None:
        """What `ref` meant and still means; reads two time stamps and nothing else."""
        cached = self._known.get(ref)
        if cached is None or cached[1] != self._stamp(cached[0].model):
            return None
        return cached[0]

    def get(self, ref: str) -> ModelPlace:
        """What `ref` means now. May take a while: a plain file is hashed.

        Raises:
            BadRef, ModelNotFound, IntegrityError, FormatError, EngineFailed: as `pull.find`, or
                not a model that can be run here.
            OvertError: what `admit` raises.
        """
        parsed = refs.parse(ref)
        if parsed.remote:
            raise BadRequest(
                f"{ref} is on another server, and has no files here",
                "choose one from `overt list --available`",
            )
        begun = self._folder_stamp()
        model = pull.find(ref, self._settings)
        header = _header(model)
        place = ModelPlace(model, header, overlay.read(model), kind_of(header))
        self._admit(place)
        stamp = (*begun, *self._stamp(model)[len(begun) :])
        if len(self._known) >= _MAX_KNOWN_REFS:
            self._known.clear()
        # What was written a moment ago may be written again without a change of its time stamp.
        if time.time_ns() - max(begun) > _SETTLED:
            self._known[ref] = place, stamp
        return place

    def _stamp(self, model: pull.LocalModel) -> _Stamp:
        if model.manifest is not None:
            return self._folder_stamp()
        return (*self._folder_stamp(), *_file_stamp(model.weights), *_file_stamp(Path(model.ref)))

    def _folder_stamp(self) -> tuple[int, int]:
        first, second = self._folders
        return _changed(first), _changed(second)


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - a third of the time of Path.stat
    except OSError:
        return 0


def _file_stamp(path: Path) -> tuple[int, ...]:
    try:
        stat = path.expanduser().stat()
    except (OSError, RuntimeError):
        return (0,)
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _header(model: pull.LocalModel) -> gguf.GgufHeader:
    """The header of the weights, or a clear word where this engine does not read their kind."""
    name = model.manifest.weights.path if model.manifest else model.weights.name
    if name.endswith(".safetensors"):
        raise EngineFailed(
            f"{name} is safetensors, and the local engine reads GGUF",
            "pull a GGUF of this model (`overt list --available`)",
        )
    return gguf.read(model.weights)


# ---- how it would be loaded ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loader:
    """Plans and loads one place for one purpose; a `workers.room.Planner`.

    `shared` says that the machine serves several models to several people: contexts leave room for
    others where that costs little, and slots are reduced to what fits.
    """

    place: ModelPlace
    purpose: Purpose
    settings: Settings
    shared: bool
    notice: Notice
    gone: Callable[[OpenedModel], None] = lambda _: None

    def __call__(self, budget: int, size: int) -> LoadPlan[OpenedModel]:
        """How to load it within `budget` bytes, with a context of `size` tokens or more.

        Raises:
            OutOfMemory: it does not fit, with the numbers.
            BadSetting: more context was set than the model has.
        """
        if self._torch:
            plan.refuse(self.purpose, self.place.overlay.adapters)
        registry.available(self.purpose, torch=self._torch)
        chosen = self._chosen()
        own = self.place.header.context_length
        size = min(size, own) if own else size
        fit = self._fit(chosen, budget, size)
        memory = fit.need.total + self._extra(fit)
        if memory > budget:
            raise OutOfMemory(
                f"{self.place.model.ref} needs {memory >> 20} MiB to give the likelihood of a text "
                f"and {budget >> 20} MiB are free",
                "close other programs, or choose a smaller model",
            )
        return LoadPlan(memory, fit.need.parallel, fit.context, lambda: self._load(chosen, fit))

    @property
    def _torch(self) -> bool:
        return self.settings.engine == "torch"

    def _chosen(self) -> Settings:
        """The settings, with what the model itself says where they leave it open."""
        own, wanted = self.place.header.context_length, self.settings.context
        if own and wanted > own:
            if not self.shared and self.purpose == "answer":
                raise BadSetting(
                    f"{self.place.model.ref} holds {own} tokens at most, and {wanted} were "
                    f"asked for",
                    f"--context {own}",
                )
            return overlay.settings(self.place.overlay, replace(self.settings, context=own), own)
        return overlay.settings(self.place.overlay, self.settings, own)

    def _fit(self, chosen: Settings, budget: int, size: int) -> ContextFit:
        """Raises OutOfMemory."""
        if self._torch:
            batch, label = batch_size(self.place.header), self.place.model.ref
            return plan.choose(self.place.header, chosen.context, size, budget, batch, label)
        own = self.place.header.context_length or _ROOMY
        fits: Fits = partial(
            choose,
            self.place.header,
            batch=self._batch(max(chosen.context, size) if chosen.context else own),
            projector=sum(path.stat().st_size for path in self._beside()),
            native=_native(self.settings) is not None,
            label=self.place.model.ref,
        )
        slots = self._slots()
        if chosen.context:
            return _explicit(fits, max(chosen.context, size), slots, budget)
        fit = self._open(fits, slots, budget)
        return fit if fit.context >= size else _explicit(fits, size, slots, budget)

    def _slots(self) -> tuple[int, ...]:
        """How many slots to try, best first."""
        if self.purpose == "score":
            return (1,)
        if self.settings.parallel or not self.shared:
            return (self.settings.parallel or 1,)
        return tuple(range(SLOTS, 0, -1))

    def _open(self, fits: Fits, slots: tuple[int, ...], budget: int) -> ContextFit:
        """A context that is left to us.

        Of a shared machine half is taken if that is enough for all slots with a decent context, so
        that another model has room beside it; else no more than that context, and slots are given
        up before it is.
        """
        if self.shared:
            own = self.place.header.context_length or _ROOMY
            roomy = min(own, _ROOMY)
            with suppress(OutOfMemory):
                fit = fits(context=0, parallel=slots[0], free=budget // 2)
                if fit.context >= roomy:
                    return fit
            with suppress(OutOfMemory):
                fit = _explicit(fits, roomy, slots, budget)
                return replace(fit, reduced_from=own if roomy < own else None)
        return fits(context=0, parallel=slots[-1], free=budget)

    def _batch(self, context: int) -> int:
        header = self.place.header
        return registry.batch(self.purpose, context, batch_size(header), causal=causal(header))

    def _extra(self, fit: ContextFit) -> int:
        """Bytes beyond the estimate: who scores keeps the logits of a whole batch."""
        if self.purpose != "score" or self._torch:
            return 0
        vocabulary = self.place.header.vocabulary_size or 0
        return 3 * 4 * vocabulary * self._batch(fit.context)

    def _beside(self) -> tuple[Path, ...]:
        """What the worker loads beside the weights."""
        projector = self.place.model.projector if self.purpose == "answer" else None
        return (*((projector,) if projector else ()), *self.place.overlay.adapters)

    # ---- loading -----------------------------------------------------------------------------

    async def _load(self, chosen: Settings, fit: ContextFit) -> OpenedModel:
        """Raises NoIsolation, EngineFailed: the worker could not start."""
        from overt.runtime.worker.supervisor import Worker

        model = self.place.model
        threads = await self._threads(chosen)
        for notice in (*self.place.overlay.notices, *self._remarks(fit)):
            self.notice(notice)
        worker = await Worker.start(self._spec(fit, threads), self.settings.home / "run")
        isolation = worker.isolation
        if isolation.missing:
            self.notice(f"isolation is weaker here: {'; '.join(isolation.missing)}")
        engine = registry.engine(self.purpose, worker, self._capabilities(fit), torch=self._torch)
        facts = ModelFacts(
            ref=model.ref,
            digest=model.digest,
            engine=engine.name,
            build=str(worker.info.get("build", "")),
            context=fit.context,
            threads=threads,
            isolation=isolation.layers,
            missing=isolation.missing,
        )
        return OpenedModel(engine, facts, self.purpose, self.place.overlay, worker, self.gone)

    async def _threads(self, chosen: Settings) -> cpu.Threads:
        if chosen.threads:
            return cpu.Threads(chosen.threads, chosen.threads)
        # One person's command looks back to its own start; who serves looks at this moment.
        free = await asyncio.to_thread(cpu.free, cpu.sample()) if self.shared else cpu.free()
        header = self.place.header
        return cpu.plan(header.file_size, header.block_count or 1, free)

    def _spec(self, fit: ContextFit, threads: cpu.Threads) -> "WorkerSpec":
        from overt.runtime.native_build import openmp
        from overt.runtime.worker.supervisor import WorkerSpec

        place, settings = self.place, self.settings
        model, native = place.model, _native(settings)
        stated = place.header.number(f"{place.header.architecture}.pooling_type")
        parameters = registry.parameters(
            self.purpose,
            weights=model.weights,
            context=fit.context,
            parallel=fit.need.parallel,
            batch=self._batch(fit.context),
            threads=threads.decode,
            prompt_threads=threads.prompt,
            projector=model.projector if self.purpose == "answer" else None,
            template=place.template if self._torch else place.overlay.template,
            adapters=place.overlay.adapters,
            checkpoints=CHECKPOINTS,
            pooling="last" if place.kind == "llm" and not stated else "",
            debug=settings.debug,
        )
        return WorkerSpec(
            host=registry.TORCH if self._torch else registry.HOSTS[self.purpose],
            parameters=parameters,
            readable=(*split.files(model.weights), *self._beside()),
            memory=fit.need.total + self._extra(fit) + _SLACK,
            isolation=settings.isolation,
            label=model.ref,
            digest=model.digest,
            python_path=(native,) if native else (),
            environ=openmp.environ(),
        )

    def _capabilities(self, fit: ContextFit) -> Capabilities:
        if self.purpose != "answer":
            return Capabilities(context=fit.context, parallel=fit.need.parallel, chat=False)
        template = self.place.template
        if self._torch:
            longest = self.place.header.context_length or 0
            return Capabilities(fit.context, longest, chat=bool(template), logprobs=True)
        return Capabilities(
            context=fit.context,
            longest=self.place.header.context_length or 0,
            parallel=fit.need.parallel,
            chat=bool(template),
            images=self.place.model.projector is not None,
            tools="tools" in template,
            thinking="think" in template,
            logprobs=True,
            constrained=True,
        )

    def _remarks(self, fit: ContextFit) -> Iterator[str]:
        """What is not as one would expect, a sentence each."""
        if self._torch:
            yield (
                f"the torch engine computes in 32 bits, slowly, to be compared with; it holds "
                f"{fit.context} tokens (--engine auto is fast)"
            )
        if fit.reduced_from and self.shared:
            yield (
                f"{self.place.model.ref} has a context of {fit.context} tokens for each of "
                f"{fit.need.parallel} requests at once, of its own {fit.reduced_from}, to leave "
                f"room for other models (--context N to choose)"
            )
        elif fit.reduced_from:
            yield (
                f"context is {fit.context} tokens: the model's own {fit.reduced_from} "
                f"does not fit in memory (--context N to choose)"
            )
        if self.purpose == "answer" and not self.place.template:
            yield (
                "this model has no chat template, so it continues your words as they stand, "
                "and may not stop by itself (--max-tokens N)"
            )


def _explicit(fits: Fits, context: int, slots: tuple[int, ...], budget: int) -> ContextFit:
    """With as many slots as fit; raises OutOfMemory where not even the fewest do."""
    for count in slots[:-1]:
        with suppress(OutOfMemory):
            return fits(context=context, parallel=count, free=budget)
    return fits(context=context, parallel=slots[-1], free=budget)


def batch_size(header: gguf.GgufHeader) -> int:
    """Prompt tokens read between two looks at cancellation: about 0.7 s of work on one core.

    Measured: 27 billion parameters times tokens a second and thread, and no loss of prompt speed
    from 128 upwards; below 32 the loss is large.
    """
    embedding = header.tensor("token_embd.weight")
    parameters = header.parameters - (embedding.parameters if embedding else 0)
    tokens = 0.7 * 27e9 / max(parameters, 1)
    return next((size for size in (128, 64) if size <= tokens), 32)


def _native(settings: Settings) -> Path | None:
    if settings.engine in ("wheel", "torch"):
        return None
    from overt.runtime.native_build.build import native_path

    native = native_path(settings.home)
    if native is None and settings.engine == "native":
        raise NotFound("no native engine has been built for this machine", "overt engine build")
    return native
