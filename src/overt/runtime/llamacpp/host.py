"""The native half of the llama.cpp engine: runs inside the worker process, never in the parent.

`LlamaServerHost` is loaded by name by the worker once the sandbox is up. It holds llama.cpp's own
server (through xllamacpp) and hands JSON bodies and JSON chunks through unread, so no Python runs
per token beyond one call. Facts behind the settings are measured; they are listed in
docs/engine.md.
"""

import json
import os
import secrets
from collections.abc import Callable
from typing import Any

Emit = Callable[[bytes], bool]


class LlamaServerHost:
    """One model in llama.cpp's server, reachable through `handle` and the worker's own socket."""

    listens = True

    def __init__(self) -> None:
        self._server: Any = None

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Load the model.

        Args:
            parameters: weights (path), projector (path or None), template (Jinja in place of the
                file's own, or None), adapters (paths of LoRA files), context (tokens per slot),
                parallel (slots), batch (tokens read between two looks at cancellation), threads,
                prompt_threads, checkpoints (restore points per slot of models with a window),
                embedding (for vectors instead of answers) and pooling ("" is the model's own).

        Returns:
            What the parent cannot know: the build and its instruction sets.

        Raises:
            RuntimeError: llama.cpp refused the file; its reason is on standard error.
        """
        import xllamacpp

        self._server = xllamacpp.Server(_common(xllamacpp, parameters))
        return {
            "build": xllamacpp.__version__,
            "instructions": xllamacpp.get_system_info().strip(" |"),
            "path": os.path.dirname(xllamacpp.__file__),  # noqa: PTH120
        }

    def handle(self, kind: str, body: bytes, emit: Emit) -> None:
        """Answer one request; every chunk is one JSON object as llama.cpp's server writes it.

        An error becomes a last chunk ``{"error": {"message", "type"}}``, the server's own shape.
        """
        try:
            if kind == "chat":
                self._server.handle_chat_completions(body, emit)
            elif kind == "completion":
                self._server.handle_completions(body, emit)
            elif kind == "embed":
                emit(self._server.handle_embeddings(body))
            elif kind == "rerank":
                emit(self._server.handle_rerank(body))
            else:
                raise ValueError(f"no such call: {kind}")
        except Exception as error:  # noqa: BLE001 (any C++ exception arrives as one of Python's)
            emit(
                json.dumps(
                    {"error": {"message": str(error), "type": type(error).__name__}}
                ).encode()
            )


def _common(xllamacpp: Any, parameters: dict[str, Any]) -> Any:
    """llama.cpp's parameters for `given` (see `LlamaServerHost.load`)."""
    common = xllamacpp.CommonParams()
    common.model.path = parameters["weights"]
    if parameters.get("projector"):
        common.mmproj.path = parameters["projector"]
        common.mmproj_use_gpu = False
    if parameters.get("template"):
        common.chat_template = parameters["template"]
    common.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in parameters.get("adapters") or ()
    ]
    common.n_parallel = parameters["parallel"]
    # Without a unified cache each slot has its own share, and a request's numbers do not depend on
    # what the others hold.
    common.kv_unified = False
    common.n_ctx = parameters["context"] * parameters["parallel"]
    # Cancellation is only seen between batches.
    common.n_batch = common.n_ubatch = parameters["batch"]
    common.n_gpu_layers = parameters.get("gpu_layers", 0)
    common.cpuparams.n_threads = parameters["threads"]
    common.cpuparams_batch.n_threads = parameters["prompt_threads"]
    if parameters.get("embedding"):
        common.embedding = True
        # As many for each slot: llama.cpp aborts on others while it plans an encoder's mean.
        share = -(-parameters["batch"] // parameters["parallel"])
        common.n_batch = common.n_ubatch = share * parameters["parallel"]
    if pooling := parameters.get("pooling"):
        common.pooling_type = getattr(
            xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}"
        )
    common.warmup = False
    common.fit_params = False  # Overt decides what fits, before the load, and says so
    common.ctx_shift = False  # a full context ends the answer; nothing is dropped in silence
    # Restore points of windowed layers: the memory estimate counts so many and no more.
    common.n_ctx_checkpoints = parameters["checkpoints"]
    common.cache_ram_mib = 0  # no copies of old prompts beyond the slots' own memory
    common.offline = True
    common.endpoint_slots = False
    common.ui = False
    common.n_threads_http = 2  # for questions about words and tokens only
    # 1 is errors only: they are the reason a person is given when a model does not load.
    common.verbosity = 4 if parameters.get("debug") else 1
    if os.name == "posix":
        # xllamacpp always opens a listener. A name that ends so is a UNIX socket, here in the
        # worker's private folder: no internet socket, and nothing other users could find.
        common.hostnames = ["engine.sock"]
    else:
        common.hostnames = ["127.0.0.1"]
        common.port = 0
        common.api_keys = [secrets.token_urlsafe(32)]
    return common
