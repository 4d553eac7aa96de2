"""llama.cpp itself in this process, asked for everything it computes: an oracle for weights."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def logits(
    path: Path, ids: Sequence[int], *, exact: bool = True, adapter: Path | None = None
) -> "np.ndarray[Any, Any]":
    """(tokens, vocabulary) float32 of a GGUF file, with a GGUF adapter laid over it; with `exact`
    keys and values keep 32 bits.
    """
    from llama_cpp_py_sync import _cffi_bindings as bindings

    ffi: Any = bindings.get_ffi()
    lib: Any = bindings.get_lib()
    lib.llama_backend_init()
    lib.llama_log_set(_silent(ffi), ffi.NULL)
    options = lib.llama_model_default_params()
    options.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(os.fsencode(path), options)
    assert model, f"llama.cpp does not load {path}"
    settings = lib.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = max(len(ids), 32)
    settings.n_threads = settings.n_threads_batch = 1
    settings.flash_attn_type = 0
    if exact:
        settings.type_k = settings.type_v = 0
    context = lib.llama_init_from_model(model, settings)
    assert context, f"llama.cpp makes no context for {path}"
    if adapter is not None:
        laid = lib.llama_adapter_lora_init(model, os.fsencode(adapter))
        assert laid, f"llama.cpp does not load the adapter {adapter}"
        adapters, scales = ffi.new("struct llama_adapter_lora *[]", [laid]), ffi.new("float[]", [1])
        assert not lib.llama_set_adapters_lora(context, adapters, 1, scales)
    batch = lib.llama_batch_init(len(ids), 0, 1)
    try:
        batch.n_tokens = len(ids)
        for place, id in enumerate(ids):
            batch.token[place], batch.pos[place] = id, place
            batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
        assert lib.llama_decode(context, batch) == 0
        size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        found = lib.llama_get_logits(context)
        data = bytes(ffi.buffer(found, 4 * size * len(ids)))
        return np.frombuffer(data, "<f4").reshape(len(ids), size)
    finally:
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        lib.llama_model_free(model)


_KEPT: list[Any] = []


def _silent(ffi: Any) -> Any:
    if not _KEPT:
        kind = "void(enum ggml_log_level, char *, void *)"
        _KEPT.append(ffi.callback(kind, lambda _level, _text, _data: None))
    return _KEPT[0]
