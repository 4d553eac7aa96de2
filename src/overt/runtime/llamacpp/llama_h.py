"""llama.h, as llama-cpp-py-sync exports it: what all hosts that use it do alike.

Only for workers: to call anything here is to load native code.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any


def load_library() -> tuple[Any, Any]:
    """CFFI's own object and the library, made ready."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else numpy takes memory for every core
    from llama_cpp_py_sync import _cffi_bindings as bindings

    open_ffi: Callable[[], Any] = bindings.get_ffi
    open_library: Callable[[], Any] = bindings.get_lib
    ffi, lib = open_ffi(), open_library()
    lib.llama_backend_init()
    return ffi, lib


def build() -> str:
    """Which llama.cpp it is."""
    import llama_cpp_py_sync as package

    return f"llama.cpp {package.__llama_cpp_tag__}"


def loaded(lib: Any, weights: str, **options: bool) -> Any:
    """A model, on the processor; null where llama.cpp refused the file.

    Args:
        options: fields of ``llama_model_params``, such as ``vocab_only``.
    """
    wanted = lib.llama_model_default_params()
    wanted.n_gpu_layers = 0
    for name, value in options.items():
        setattr(wanted, name, value)
    return lib.llama_model_load_from_file(os.fsencode(weights), wanted)


def vocabulary(lib: Any, weights: str) -> Any:
    """A model without its weights.

    Raises:
        RuntimeError: llama.cpp refused the file; its reason is on standard error.
    """
    model = loaded(lib, weights, vocab_only=True)
    if not model:
        raise RuntimeError("llama.cpp could not load the vocabulary")
    return model


def decode(
    lib: Any, context: Any, batch: Any, tokens: Sequence[int], start: int, first: int = 0
) -> int:
    """Have a context read `tokens`, which stand from position `start` on; 0 where it did.

    Logits are asked for from position `first` on.
    """
    for at, token in enumerate(tokens):
        batch.token[at] = token
        batch.pos[at] = start + at
        batch.n_seq_id[at] = 1
        batch.seq_id[at][0] = 0
        batch.logits[at] = start + at >= first
    batch.n_tokens = len(tokens)
    return int(lib.llama_decode(context, batch))


def logits(ffi: Any, lib: Any, context: Any, row: int, size: int) -> Any:
    """The logits (size,) of a row of the last batch, as llama.cpp holds them; None for none."""
    import numpy as np

    pointer = lib.llama_get_logits_ith(context, row)
    return np.frombuffer(ffi.buffer(pointer, size * 4), np.float32) if pointer else None


class LoadedVocabulary:
    """The vocabulary of a loaded model.

    Attributes:
        size: tokens.
        vocab: as the library takes it.
    """

    def __init__(self, ffi: Any, lib: Any, model: Any) -> None:
        self._ffi, self._lib = ffi, lib
        self.vocab = lib.llama_model_get_vocab(model)
        self.size = int(lib.llama_vocab_n_tokens(self.vocab))
        self._pieces: dict[int, bytes] = {}

    def ends(self) -> list[int]:
        """The ids that end an answer."""
        is_end = self._lib.llama_vocab_is_eog
        return [id for id in range(self.size) if is_end(self.vocab, id)]

    def ids(self, text: str, *, special: bool, around: bool) -> list[int]:
        """The tokens of a text.

        Args:
            special: control tokens written in it are one token each.
            around: with those that the model puts around a prompt.
        """
        raw = text.encode("utf-8", "replace")
        size = len(raw) + 8
        while True:
            ids = self._ffi.new("llama_token[]", size)
            count = self._lib.llama_tokenize(self.vocab, raw, len(raw), ids, size, around, special)
            if count >= 0:
                return list(ids[0:count])
            size = -count

    def piece(self, id: int) -> bytes:
        """The bytes of a token, a control token as it is written."""
        known = self._pieces.get(id)
        if known is not None:
            return known
        size = 256
        while True:
            buffer = self._ffi.new("char[]", size)
            count = self._lib.llama_token_to_piece(self.vocab, id, buffer, size, 0, True)
            if count >= 0:
                piece = self._pieces[id] = bytes(self._ffi.buffer(buffer, count))
                return piece
            size = -count
