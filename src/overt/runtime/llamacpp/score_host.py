"""The native half of scoring: runs inside a worker of its own, never in the parent.

`ScoreHost` is loaded by name by the worker once the sandbox is up. It holds a model through
llama-cpp-py-sync, which exports all of llama.h, and answers in JSON: xllamacpp, which the other
host holds, gives no logits of a prompt. The two never share a process.
"""

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from overt.runtime.llamacpp import llama_h

Emit = Callable[[bytes], bool]


class RefusedError(Exception):
    """One request cannot be carried out; `told` is what the parent gets."""

    def __init__(self, kind: str, message: str = "", tokens: int = 0, context: int = 0) -> None:
        super().__init__(message or kind)
        self.told = {"kind": kind, "message": message, "tokens": tokens, "context": context}


class ScoreHost:
    """One model that tells how likely each token of a text is."""

    def __init__(self) -> None:
        self._ffi: Any = None
        self._lib: Any = None
        self._words: Any = None
        self._context: Any = None
        self._kept: tuple[Any, ...] = ()  # what C holds pointers to
        self._batch = self._room = 0
        self._turn = threading.Lock()

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Load the model.

        Args:
            parameters: weights, adapters (paths), context (most tokens of a text), batch, threads,
                prompt_threads; others that local.parameters gives are not used.

        Raises:
            RuntimeError: llama.cpp refused the file; its reason is on standard error.
        """
        self._ffi, self._lib = llama_h.load_library()
        import numpy as np  # noqa: F401 (loaded here, under the first filter, for `_scored`)

        lib = self._lib
        model = llama_h.loaded(lib, parameters["weights"])
        if not model:
            raise RuntimeError("llama.cpp could not load the model")
        options = lib.llama_context_default_params()
        options.n_ctx = parameters["context"]
        options.n_batch = options.n_ubatch = options.n_outputs_max = parameters["batch"]
        options.n_seq_max = 1
        options.n_threads = parameters["threads"]
        options.n_threads_batch = parameters["prompt_threads"]
        self._context = lib.llama_init_from_model(model, options)
        if not self._context:
            raise RuntimeError("llama.cpp could not make a context")
        self._kept = (model, self._adapters(model, parameters.get("adapters") or []))
        self._words = llama_h.LoadedVocabulary(self._ffi, lib, model)
        self._batch, self._room = parameters["batch"], lib.llama_n_ctx(self._context)
        return {"build": llama_h.build(), "vocabulary": self._words.size}

    def handle(self, kind: str, body: bytes, emit: Emit) -> None:
        """Answer one request; every chunk is one JSON object.

        score {prompt (text or ids), top} gives ``{"tokens": [{id, raw, logprob, top}]}`` a batch;
        tokenize {text, special, around} gives ``{"ids"}``; detokenize {tokens} gives ``{"text"}``.
        An error is ``{"error": {kind, message, tokens, context}}``.
        """
        request = json.loads(body)
        try:
            if kind == "score":
                self._score(request["prompt"], request["top"], emit)
            elif kind == "tokenize":
                ids = self._words.ids(
                    request["text"], special=request["special"], around=request["around"]
                )
                emit(json.dumps({"ids": ids}).encode())
            elif kind == "detokenize":
                raw = b"".join(map(self._words.piece, self._checked(request["tokens"])))
                emit(json.dumps({"text": raw.decode("utf-8", "replace")}).encode())
            else:
                raise RefusedError("unknown", f"no such call: {kind}")
        except RefusedError as error:
            emit(json.dumps({"error": error.told}).encode())

    def _score(self, prompt: str | list[int], top: int, emit: Emit) -> None:
        if isinstance(prompt, str):
            tokens = self._words.ids(prompt, special=True, around=True)
        else:
            tokens = self._checked(prompt)
        if len(tokens) > self._room:
            raise RefusedError("too_long", tokens=len(tokens), context=self._room)
        with self._turn:
            for pieces in self._scored(tokens, top):
                if emit(json.dumps({"tokens": pieces}).encode()):
                    return

    def _scored(self, tokens: list[int], top: int) -> Iterator[list[dict[str, Any]]]:
        """The pieces of `tokens`, a batch at a time."""
        lib = self._lib
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        pieces = [self._told(id) for id in tokens[:1]]
        batch = lib.llama_batch_init(self._batch, 0, 1)
        try:
            for start in range(0, len(tokens) - 1, self._batch):
                chunk = tokens[start : min(start + self._batch, len(tokens) - 1)]
                self._decode(batch, chunk, start)
                for row in range(len(chunk)):
                    pieces.append(self._judged(row, tokens[start + row + 1], top))
                yield pieces
                pieces = []
        finally:
            lib.llama_batch_free(batch)
        if pieces:
            yield pieces

    def _decode(self, batch: Any, tokens: list[int], start: int) -> None:
        failed = llama_h.decode(self._lib, self._context, batch, tokens, start)
        if failed:
            raise RefusedError("failed", f"llama_decode returned {failed}")

    def _judged(self, row: int, token: int, top: int) -> dict[str, Any]:
        """What the model made of `token`, by the logits of the one before it."""
        logits = llama_h.logits(self._ffi, self._lib, self._context, row, self._words.size)
        if logits is None:
            raise RefusedError("failed", "this model gives no logits")
        return self._weighed(logits, token, top)

    def _weighed(self, logits: Any, token: int, top: int) -> dict[str, Any]:
        """`token` and the `top` likeliest, by the logits (words,) of its place."""
        import numpy as np

        highest = logits.max()
        total = float(highest) + float(np.log(np.exp(logits - highest, dtype=np.float64).sum()))
        best: list[int] = []
        if top:
            count = min(top, self._words.size)
            best = np.argpartition(logits, -count)[-count:].tolist()
            best.sort(key=lambda id: (-logits[id], id))
        entry = self._told(token, float(logits[token]) - total)
        entry["top"] = [self._told(id, float(logits[id]) - total) for id in best]
        return entry

    def _told(self, id: int, logprob: float | None = None) -> dict[str, Any]:
        raw = base64.b64encode(self._words.piece(id)).decode()
        return {"id": id, "raw": raw, "logprob": logprob}

    def _checked(self, ids: list[int]) -> list[int]:
        for id in ids:
            if not 0 <= id < self._words.size:
                raise RefusedError(
                    "bad_token", f"{id} is no token: this model has {self._words.size}, from 0"
                )
        return ids

    def _adapters(self, model: Any, paths: list[str]) -> tuple[Any, ...]:
        """Lay LoRA files over the model, in full strength, as the other host does."""
        if not paths:
            return ()
        loaded = [self._lib.llama_adapter_lora_init(model, os.fsencode(path)) for path in paths]
        if not all(loaded):
            raise RuntimeError("llama.cpp could not load an adapter")
        array = self._ffi.new("struct llama_adapter_lora *[]", loaded)
        scales = self._ffi.new("float[]", [1.0] * len(loaded))
        if self._lib.llama_set_adapters_lora(self._context, array, len(loaded), scales):
            raise RuntimeError("llama.cpp could not apply an adapter")
        return (array, scales)
