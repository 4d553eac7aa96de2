"""The native half of `words.Words`: runs inside a worker, where there is no network and no file.

It holds the vocabulary of a GGUF file through llama-cpp-py-sync, without the weights, and renders
chat templates, which are programs of strangers (formats/template.py says how they are confined).
"""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

from overt.formats.template import Rendering
from overt.runtime.llamacpp import llama_h

Emit = Callable[[bytes], bool]
_MAX_CHARACTERS = 4 << 20
"""Characters of one rendering; no context of today holds more."""


class TokenizerHost:
    """One vocabulary."""

    def __init__(self) -> None:
        self._model: Any = None  # what the vocabulary is a part of
        self._words: Any = None

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Load the vocabulary of the file `weights`; gives its size and which ids mean what.

        Raises:
            RuntimeError: llama.cpp refused the file; its reason is on standard error.
        """
        Rendering("{{ messages | tojson }}{{ 1 }}").render(
            {"messages": []}, _MAX_CHARACTERS
        )  # imports Jinja
        ffi, lib = llama_h.load_library()
        self._model = llama_h.vocabulary(lib, parameters["weights"])
        self._words = llama_h.LoadedVocabulary(ffi, lib, self._model)
        vocab = self._words.vocab
        if lib.llama_vocab_type(vocab) == 0:
            raise RuntimeError("the file has no vocabulary")
        return {
            "size": self._words.size,
            "bos": lib.llama_vocab_bos(vocab),
            "eos": lib.llama_vocab_eos(vocab),
            "eot": lib.llama_vocab_eot(vocab),
            "begins": bool(lib.llama_vocab_get_add_bos(vocab)),
            "ends": self._words.ends(),
        }

    def handle(self, kind: str, body: bytes, emit: Emit) -> None:
        """Answer one call, a chunk for every item.

        encode {texts, special} gives ids; pieces {ids} gives base64 of bytes; render {template,
        values} gives ``{"text"}`` or ``{"failed"}`` for each of the values.
        """
        request = json.loads(body)
        if kind == "encode":
            answers: Iterator[Any] = (
                self._words.ids(text, special=request["special"], around=False)
                for text in request["texts"]
            )
        elif kind == "pieces":
            answers = (
                base64.b64encode(self._words.piece(id)).decode()
                for id in self._checked(request["ids"])
            )
        else:
            answers = _rendered(request["template"], request["values"])
        for answer in answers:
            if emit(json.dumps(answer).encode()):
                return

    def _checked(self, ids: list[int]) -> list[int]:
        for id in ids:
            if not 0 <= id < self._words.size:
                raise ValueError(f"{id} is no token")
        return ids


def _rendered(template: str, values: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    try:
        made = Rendering(template)
    except ValueError as error:
        yield from ({"failed": str(error)} for _ in values)
        return
    for value in values:
        try:
            yield {"text": made.render(value, _MAX_CHARACTERS)}
        except ValueError as error:
            yield {"failed": str(error)}
