"""The native half of `words.Words`: runs inside a worker, where there is no network and no file.

It holds the vocabulary of a GGUF file through llama-cpp-py-sync, without the weights, and renders
chat templates, which are programs of strangers (formats/template.py says how they are confined).
"""

import base64
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from overt.formats.template import Rendering

Emit = Callable[[bytes], bool]
_MOST = 4 << 20
"""Characters of one rendering; no context of today holds more."""


class Host:
    """One vocabulary."""

    def __init__(self) -> None:
        self._ffi: Any = None
        self._lib: Any = None
        self._model: Any = None
        self._vocab: Any = None
        self._size = 0

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Load the vocabulary of the file `weights`; gives its facts and every token's bytes.

        Raises:
            RuntimeError: llama.cpp refused the file; its reason is on standard error.
        """
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        from llama_cpp_py_sync import _cffi_bindings as bindings

        Rendering("{{ messages | tojson }}{{ 1 }}").render({"messages": []}, _MOST)  # imports Jinja
        open_ffi: Callable[[], Any] = bindings.get_ffi
        open_library: Callable[[], Any] = bindings.get_lib
        self._ffi, self._lib = open_ffi(), open_library()
        self._lib.llama_backend_init()
        options = self._lib.llama_model_default_params()
        options.vocab_only = True
        options.n_gpu_layers = 0
        self._model = self._lib.llama_model_load_from_file(
            os.fsencode(parameters["weights"]), options
        )
        if not self._model:
            raise RuntimeError("llama.cpp could not load the vocabulary")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self._size = self._lib.llama_vocab_n_tokens(self._vocab)
        lib, vocab = self._lib, self._vocab
        if lib.llama_vocab_type(vocab) == 0:
            raise RuntimeError("the file has no vocabulary")
        return {
            "size": self._size,
            "bos": lib.llama_vocab_bos(vocab),
            "eos": lib.llama_vocab_eos(vocab),
            "eot": lib.llama_vocab_eot(vocab),
            "begins": bool(lib.llama_vocab_get_add_bos(vocab)),
            "ends": [id for id in range(self._size) if lib.llama_vocab_is_eog(vocab, id)],
        }

    def handle(self, kind: str, body: bytes, emit: Emit) -> None:
        """Answer one call, a chunk for every item.

        encode {texts, special} gives ids; pieces {ids} gives base64 of bytes; render {template,
        values} gives ``{"text"}`` or ``{"failed"}`` for each of the values.
        """
        asked = json.loads(body)
        if kind == "encode":
            found: Iterator[Any] = (self._ids(text, asked["special"]) for text in asked["texts"])
        elif kind == "pieces":
            found = (
                base64.b64encode(self._piece(id)).decode() for id in self._checked(asked["ids"])
            )
        else:
            found = _rendered(asked["template"], asked["values"])
        for one in found:
            if emit(json.dumps(one).encode()):
                return

    def _checked(self, ids: list[int]) -> list[int]:
        for id in ids:
            if not 0 <= id < self._size:
                raise ValueError(f"{id} is no token")
        return ids

    def _ids(self, text: str, special: bool) -> list[int]:
        raw = text.encode("utf-8", "replace")
        size = len(raw) + 8
        while True:
            ids = self._ffi.new("llama_token[]", size)
            took = self._lib.llama_tokenize(self._vocab, raw, len(raw), ids, size, False, special)
            if took >= 0:
                return list(ids[0:took])
            size = -took

    def _piece(self, id: int) -> bytes:
        size = 256
        while True:
            buffer = self._ffi.new("char[]", size)
            took = self._lib.llama_token_to_piece(self._vocab, id, buffer, size, 0, True)
            if took >= 0:
                return bytes(self._ffi.buffer(buffer, took))
            size = -took


def _rendered(template: str, values: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    try:
        made = Rendering(template)
    except ValueError as error:
        yield from ({"failed": str(error)} for _ in values)
        return
    for one in values:
        try:
            yield {"text": made.render(one, _MOST)}
        except ValueError as error:
            yield {"failed": str(error)}
