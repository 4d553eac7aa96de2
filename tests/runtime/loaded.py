"""Real workers with a model for one purpose, without the exchange in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from overt.chat import Answer, Request
from overt.engine import Capabilities, Engine, Purpose
from overt.runtime import registry
from overt.runtime.worker.supervisor import Worker, WorkerSpec


@asynccontextmanager
async def loaded(
    purpose: Purpose,
    weights: Path,
    run: Path,
    *,
    context: int = 256,
    chat: bool = True,
    images: bool = False,
    **given: Any,
) -> AsyncIterator[Engine]:
    """An engine on `weights` in a worker of its own with every wall there is."""
    given = {"parallel": 1, "batch": 128, "threads": 1, "prompt_threads": 1} | given
    beside = [path for path in (given.get("projector"), *given.get("adapters", ())) if path]
    spec = WorkerSpec(
        host=registry.HOSTS[purpose],
        parameters=registry.parameters(purpose, weights=weights, context=context, **given),
        readable=(weights, *beside),
        memory=1 << 30,
        label=weights.name,
    )
    worker = await Worker.start(spec, run, timeout=60)
    can = Capabilities(
        context=context,
        parallel=given["parallel"],
        chat=chat and purpose == "answer",
        images=images,
    )
    engine = registry.engine(purpose, worker, can)
    try:
        yield engine
    finally:
        await engine.close()


async def answered(engine: Engine, request: Request) -> Answer:
    answer = Answer()
    async for event in engine.stream(request):
        answer.add(event)
    return answer
