"""What a worker on this machine is told to load for each purpose, and the engine that speaks to it.

The same weights need another kind of worker to answer, to embed, to rerank or to score. The
exchange asks here, starts the worker, and hands it to `engine`. Nothing native is loaded here.
"""

import platform
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from overt.engine import Capabilities, Engine, Purpose
from overt.errors import INSTALL_LAB, Unsupported, lacking
from overt.runtime.worker_engine import WorkerCaller

HOSTS: dict[Purpose, str] = {
    "answer": "overt.runtime.llamacpp.host:LlamaServerHost",
    "embed": "overt.runtime.llamacpp.host:LlamaServerHost",
    "rerank": "overt.runtime.llamacpp.host:LlamaServerHost",
    "score": "overt.runtime.llamacpp.score_host:ScoreHost",
}
"""What `WorkerSpec.host` names for each purpose."""

TORCH = "overt.runtime.torch.host:TorchHost"
"""The same where the setting `engine` is ``torch``."""

POOLINGS = ("", "none", "mean", "cls", "last", "rank")


def available(purpose: Purpose, *, torch: bool = False) -> None:
    """Whether this installation has what `purpose` needs, by llama.cpp or by torch.

    Raises:
        Unsupported: a package is missing, with the command that installs it.
    """
    if torch and not find_spec("torch"):
        raise lacking("the torch engine", "torch")
    if (torch or purpose == "score") and not (
        find_spec("llama_cpp_py_sync") and find_spec("numpy")
    ):
        whose = "the torch engine's words" if torch else "log-probabilities of a prompt"
        what = f"{whose} need llama-cpp-py-sync"
        if platform.machine() == "aarch64":
            raise Unsupported(f"{what}, which is not made for 64-bit Arm Linux")
        raise Unsupported(f"{what}, which is not installed", INSTALL_LAB)


def batch(purpose: Purpose, context: int, own: int, *, causal: bool) -> int:
    """Tokens computed at once, for the memory estimate as well as for `parameters`.

    `own` is what suits the model's size. An encoder (`causal` False) sees a text in one piece or
    not at all, so for it the batch is the context.
    """
    return context if purpose in ("embed", "rerank") and not causal else own


def parameters(
    purpose: Purpose,
    *,
    weights: Path,
    context: int,
    parallel: int,
    batch: int,
    threads: int,
    prompt_threads: int,
    projector: Path | None = None,
    template: str | None = None,
    adapters: Sequence[Path] = (),
    checkpoints: int = 0,
    pooling: str = "",
    debug: bool = False,
) -> dict[str, Any]:
    """What `WorkerSpec.parameters` holds; see `WorkerHost.load` of llamacpp/host.py and
    score_host.py.

    Args:
        purpose: what the worker is for.
        weights: the GGUF, or the first of its files.
        context: tokens a slot holds.
        parallel: slots; a worker that scores has one.
        batch: tokens computed at once, from `batch`.
        threads: to write an answer with.
        prompt_threads: to read a prompt with.
        projector: the file that lets the model see.
        template: Jinja in place of the file's own.
        adapters: LoRA files.
        checkpoints: restore points per slot of models with a window.
        pooling: how token vectors become one, from `POOLINGS`; "" is the model's own way.
        debug: have llama.cpp say all it does.
    """
    return {
        "weights": str(weights),
        "projector": str(projector) if projector else None,
        "template": template,
        "adapters": [str(path) for path in adapters],
        "context": context,
        "parallel": 1 if purpose == "score" else parallel,
        "batch": batch,
        "threads": threads,
        "prompt_threads": prompt_threads,
        "checkpoints": checkpoints,
        "embedding": purpose in ("embed", "rerank"),
        "pooling": "rank" if purpose == "rerank" else pooling,
        "debug": debug,
    }


def engine(
    purpose: Purpose, worker: WorkerCaller, capabilities: Capabilities, *, torch: bool = False
) -> Engine:
    """The engine for a worker that was started with `parameters(purpose, …)`."""
    if torch:
        from overt.runtime.torch.engine import Torch

        return Torch(worker, capabilities)
    from overt.runtime.llamacpp.embed import LlamaCppEmbedder
    from overt.runtime.llamacpp.engine import LlamaCpp
    from overt.runtime.llamacpp.score import LlamaCppScorer

    if purpose == "answer":
        return LlamaCpp(worker, capabilities)
    if purpose == "score":
        return LlamaCppScorer(worker, capabilities)
    return LlamaCppEmbedder(worker, capabilities)
