"""One request, from the door to the engine and back. Kept short: this is the only such path.

The command line, the Python API, the server and the evaluators all call `Exchange.stream`. Here a
ref becomes an engine (found in the store, checked for fit, loaded in a worker), and the engine's
events pass through unread.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overt import cores, overlay, pull
from overt import ref as refs
from overt.chat import Event, Failed, Progress, Request
from overt.engines.base import Capabilities, Engine
from overt.errors import BadSetting, EngineFailed, NotFound, OvertError
from overt.fit import CHECKPOINTS, Fit, choose, free_memory
from overt.formats import gguf, split
from overt.overlay import Overlay
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.workers.supervise import WorkerSpec

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of an opened model; for `ps`, `--json` and people who ask."""

    ref: str
    digest: str
    engine: str
    build: str = ""
    context: int = 0
    threads: cores.Threads | None = None
    isolation: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(slots=True)
class _Open:
    engine: Engine
    facts: Facts
    overlay: Overlay = Overlay()


class Exchange:
    """Opens engines on demand, keeps them, and streams requests through them.

    Belongs to the event loop it is first used in. `notice` is told, in one sentence each, what a
    person should know but did not ask: a context reduced to fit, a weaker sandbox.
    """

    def __init__(self, settings: Settings, notice: Notice | None = None) -> None:
        self._settings = settings
        self._notice = notice or (lambda _: None)
        self._open: dict[str, _Open] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    async def open(self, ref: str) -> Engine:
        """The engine that answers for `ref`, started if it is not running.

        Raises:
            BadRef, ModelNotFound, FormatError: no such model here, or not one.
            OutOfMemory: it does not fit, with the numbers.
            NoIsolation, EngineFailed: the worker could not start.
        """
        async with self._opening.setdefault(ref, asyncio.Lock()):
            if ref not in self._open:
                self._open[ref] = await self._start(ref)
            return self._open[ref].engine

    def facts(self, ref: str) -> Facts:
        """Facts of a model that `open` has opened."""
        return self._open[ref].facts

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer one request.

        Raises an OvertError as long as nothing of the answer has been yielded; after that an error
        ends the stream as a `Failed` event, so that what was delivered is never lost.
        """
        engine = await self.open(request.model)
        request = overlay.apply(self._open[request.model].overlay, request)
        begun = False
        async with aclosing(engine.stream(request)) as events:
            try:
                async for event in events:
                    begun = begun or not isinstance(event, Progress)
                    yield event
            except OvertError as error:
                if not begun:
                    raise
                yield Failed(error.code, error.message, error.hint)

    async def close(self) -> None:
        """Stop every engine this exchange started."""
        opened, self._open = list(self._open.values()), {}
        await asyncio.gather(*(one.engine.close() for one in opened))

    async def _start(self, ref: str) -> _Open:
        parsed = refs.parse(ref)
        if parsed.scheme == "echo":
            from overt.engines.echo import Echo

            return _Open(Echo(parsed.name), Facts(ref, "", "echo"))
        if parsed.remote:
            raise NotFound(
                f"{ref} is on another server, and this version of Overt runs local models only",
                "choose one from `overt list --available`",
            )
        return await self._start_local(ref)

    async def _start_local(self, ref: str) -> _Open:
        from overt.engines.llamacpp import LlamaCpp
        from overt.workers.supervise import Worker

        model = pull.find(ref, self._settings)
        over = overlay.read(model)
        header = _header(model)
        own = header.context_length
        if own and self._settings.context > own:
            raise BadSetting(
                f"{ref} holds {own} tokens at most, and {self._settings.context} were asked for",
                f"--context {own}",
            )
        settings = overlay.settings(over, self._settings, own)
        template = over.template or header.chat_template
        batch = batch_size(header)
        native = _native(settings)
        fit = choose(
            header,
            context=settings.context,
            parallel=settings.parallel,
            batch=batch,
            free=settings.memory or free_memory(),
            projector=sum(path.stat().st_size for path in _beside(model, over)),
            native=native is not None,
            label=ref,
        )
        if settings.threads:
            threads = cores.Threads(settings.threads, settings.threads)
        else:
            threads = cores.plan(header.file_size, header.block_count or 1, cores.free())
        spec = self._spec(model, over, fit, batch, threads, native)
        for notice in (*over.notices, *_remarks(fit, template)):
            self._notice(notice)
        worker = await Worker.start(spec, settings.home / "run")
        isolation = worker.isolation
        if isolation.missing:
            self._notice(f"isolation is weaker here: {'; '.join(isolation.missing)}")
        engine = LlamaCpp(
            worker, _capabilities(template or "", fit, own or 0, images=model.projector is not None)
        )
        facts = Facts(
            ref=ref,
            digest=model.digest,
            engine=engine.name,
            build=str(worker.info.get("build", "")),
            context=fit.context,
            threads=threads,
            isolation=isolation.layers,
            missing=isolation.missing,
        )
        return _Open(engine, facts, over)

    def _spec(
        self,
        model: pull.Model,
        over: Overlay,
        fit: Fit,
        batch: int,
        threads: cores.Threads,
        native: Path | None,
    ) -> "WorkerSpec":
        from overt.engines import openmp
        from overt.engines.llamacpp import HOST
        from overt.workers.supervise import WorkerSpec

        settings = self._settings
        parameters = {
            "weights": str(model.weights),
            "projector": str(model.projector) if model.projector else None,
            "template": over.template,
            "adapters": [str(path) for path in over.adapters],
            "context": fit.context,
            "parallel": settings.parallel,
            "batch": batch,
            "threads": threads.decode,
            "prompt_threads": threads.prompt,
            "checkpoints": CHECKPOINTS,
            "debug": settings.debug,
        }
        return WorkerSpec(
            host=HOST,
            parameters=parameters,
            readable=(*split.files(model.weights), *_beside(model, over)),
            memory=fit.need.total + _SLACK,
            isolation=settings.isolation,
            label=model.ref,
            digest=model.digest,
            python_path=(native,) if native else (),
            environ=openmp.environ(),
        )


def _remarks(fit: Fit, template: str | None) -> Iterator[str]:
    """What is not as one would expect, a sentence each."""
    if fit.reduced_from:
        yield (
            f"context is {fit.context} tokens: the model's own {fit.reduced_from} "
            f"does not fit in memory (--context N to choose)"
        )
    if not template:
        yield (
            "this model has no chat template, so it continues your words as they stand, "
            "and may not stop by itself (--max-tokens N)"
        )


def _header(model: pull.Model) -> gguf.Header:
    """The header of the weights, or a clear word where this engine does not read their kind."""
    name = model.manifest.weights.path if model.manifest else model.weights.name
    if name.endswith(".safetensors"):
        raise EngineFailed(
            f"{name} is safetensors, and the local engine reads GGUF",
            "pull a GGUF of this model (`overt list --available`)",
        )
    return gguf.read(model.weights)


def _beside(model: pull.Model, over: Overlay) -> tuple[Path, ...]:
    """What the worker loads beside the weights."""
    return (*((model.projector,) if model.projector else ()), *over.adapters)


_SLACK = 300 << 20  # what llama.cpp allocates for a moment while loading, measured


def batch_size(header: gguf.Header) -> int:
    """Prompt tokens read between two looks at cancellation: about 0.7 s of work on one core.

    Measured: 27 billion parameters times tokens a second and thread, and no loss of prompt speed
    from 128 upwards; below 32 the loss is large.
    """
    embedding = header.tensor("token_embd.weight")
    parameters = header.parameters - (embedding.parameters if embedding else 0)
    tokens = 0.7 * 27e9 / max(parameters, 1)
    return next((size for size in (128, 64) if size <= tokens), 32)


def _capabilities(template: str, fit: Fit, longest: int, *, images: bool) -> Capabilities:
    return Capabilities(
        context=fit.context,
        longest=longest,
        parallel=fit.need.parallel,
        chat=bool(template),
        images=images,
        tools="tools" in template,
        thinking="think" in template,
        logprobs=True,
        constrained=True,
    )


def _native(settings: Settings) -> Path | None:
    if settings.engine == "wheel":
        return None
    from overt.engines.build import native_path

    native = native_path(settings.home)
    if native is None and settings.engine == "native":
        raise NotFound("no native engine has been built for this machine", "overt engine build")
    return native
