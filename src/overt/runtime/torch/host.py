"""The native half of the torch engine: runs inside a worker, never in the parent.

The weights are those of the file as 32-bit numbers, computed as the architecture's paper says
(nets/transformer.py): nothing of a prompt is rounded to 8 bits on the way, as llama.cpp does with
quantized weights. So it is slow, and what faster engines are compared with. The words are
llama.cpp's own, of the same file.

Every answer is computed from its own prompt alone: the same request gives the same bits.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from overt.runtime.llamacpp import llama_h, score_host
from overt.runtime.llamacpp.score_host import Emit, RefusedError

_MAX_TEXT = 4 << 20  # characters of a rendered conversation


class TorchHost(score_host.ScoreHost):
    """One model that writes, and tells how likely each token of a text is."""

    def __init__(self) -> None:
        super().__init__()
        self._net: Any = None
        self._ends: frozenset[int] = frozenset()
        self._template: Any = None
        self._refused = ""

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Load the model.

        Args:
            parameters: weights (path), template (Jinja, or None), context (most tokens of prompt
                and answer), batch (tokens read between two looks at cancellation), prompt_threads;
                others that local.parameters gives are not used.

        Raises:
            RuntimeError: the vocabulary cannot be read; llama.cpp's reason is on standard error.
            OvertError: the weights are of an architecture or shape that is not computed here.
        """
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        import torch

        from overt.nets import load

        torch.set_num_threads(parameters["prompt_threads"])
        torch.use_deterministic_algorithms(True)
        self._net = load.from_gguf(Path(parameters["weights"])).eval()
        self._ffi, self._lib = llama_h.load_library()
        self._kept = (llama_h.vocabulary(self._lib, parameters["weights"]),)
        self._words = llama_h.LoadedVocabulary(self._ffi, self._lib, self._kept[0])
        self._ends = frozenset(self._words.ends())
        if self._net.shape.vocabulary < self._words.size:
            raise RuntimeError(
                f"the model has {self._net.shape.vocabulary} rows for {self._words.size} tokens"
            )
        self._batch, self._room = parameters["batch"], parameters["context"]
        self._load_template(parameters.get("template"))
        return {"build": f"{torch.__version__} in 32 bits", "vocabulary": self._words.size}

    def _load_template(self, text: str | None) -> None:
        if text:
            from overt.formats.template import Rendering

            try:
                self._template = Rendering(text)
            except ValueError as error:
                self._refused = str(error)

    def handle(self, kind: str, body: bytes, emit: Emit) -> None:
        """Answer one request; every chunk is one JSON object.

        Besides what the scorer answers: write {prompt or values, sampling, bias, seed, most, top}
        gives ``{"read", "of"}`` while the prompt is read, ``{"tokens": [{id, raw, logprob, top,
        shown}]}`` for each token and last ``{"end": {why, read, written, seconds}}``; render
        {values} gives ``{"text"}``; count {prompt or values} gives ``{"count"}``.
        """
        if kind not in ("write", "render", "count"):
            super().handle(kind, body, emit)
            return
        request = json.loads(body)
        try:
            if kind == "write":
                with self._turn:
                    self._write(request, emit)
            elif kind == "render":
                emit(json.dumps({"text": self._rendered(request["values"])}).encode())
            else:
                emit(json.dumps({"count": len(self._prompt(request))}).encode())
        except RefusedError as error:
            emit(json.dumps({"error": error.told}).encode())

    # ---- the prompt ------------------------------------------------------------------------

    def _prompt(self, request: dict[str, Any]) -> list[int]:
        """The tokens of what is asked, with those that the model puts around every prompt."""
        prompt = request.get("prompt")
        if isinstance(prompt, list):
            return self._checked(prompt)
        if prompt is None:
            prompt = self._rendered(request["values"])
            lib, vocab = self._lib, self._words.vocab
            begin = self._text(lib.llama_vocab_bos(vocab))
            if begin and lib.llama_vocab_get_add_bos(vocab):  # else it would stand there twice
                prompt = prompt.removeprefix(begin)
        ids: list[int] = self._words.ids(prompt, special=True, around=True)
        return ids

    def _rendered(self, values: dict[str, Any]) -> str:
        if self._template is None:
            raise RefusedError("template", self._refused or "this model has no chat template")
        lib, vocab = self._lib, self._words.vocab
        words = {
            "bos_token": self._text(lib.llama_vocab_bos(vocab)),
            "eos_token": self._text(lib.llama_vocab_eos(vocab)),
        }
        try:
            variables = {"add_generation_prompt": True, **words, **values}
            text: str = self._template.render(variables, _MAX_TEXT)
        except ValueError as error:
            raise RefusedError("template", str(error)) from None
        return text

    def _text(self, id: int) -> str:
        return (
            self._words.piece(id).decode("utf-8", "replace") if 0 <= id < self._words.size else ""
        )

    # ---- computing -------------------------------------------------------------------------

    def _scored(self, tokens: list[int], top: int) -> Iterator[list[dict[str, Any]]]:
        """The pieces of `tokens`, a batch at a time."""
        pieces = [self._told(id) for id in tokens[:1]]
        cache = self._net.new_cache()
        for start in range(0, len(tokens) - 1, self._batch):
            chunk = tokens[start : min(start + self._batch, len(tokens) - 1)]
            logits = self._logits(self._hidden(chunk, cache))
            for row in range(len(chunk)):
                pieces.append(self._weighed(logits[row], tokens[start + row + 1], top))
            yield pieces
            pieces = []
        if pieces:
            yield pieces

    def _hidden(self, tokens: Sequence[int], cache: Any) -> Any:
        """(tokens, width), behind what is in `cache`."""
        import torch

        # A thread has its own switch, and every call is in a thread of its own.
        with torch.inference_mode():
            return self._net(torch.tensor([tokens]), cache=cache)[0]

    def _write(self, request: dict[str, Any], emit: Emit) -> None:
        import numpy as np

        from overt.runtime.llamacpp.sampler import next_token

        tokens = self._prompt(request)
        if not tokens:
            raise RefusedError("empty", "the prompt is empty")
        if len(tokens) >= self._room:
            raise RefusedError("too_long", tokens=len(tokens), context=self._room)
        bias = [(int(id), float(value)) for id, value in request["bias"]]
        self._checked([id for id, _ in bias])
        most = min(request["most"] or self._room, self._room - len(tokens))
        generator = np.random.default_rng(request["seed"])
        begun, read = time.perf_counter(), len(tokens)
        cache = self._net.new_cache()
        last = None
        for start in range(0, read, self._batch):
            last = self._hidden(tokens[start : start + self._batch], cache)[-1:]
            done = min(start + self._batch, read)
            if emit(json.dumps({"read": done, "of": read}).encode()):
                return
        middle, why = time.perf_counter(), "length"
        while len(tokens) - read < most:
            logits = self._logits(last)[0]
            id = next_token(logits, tokens, request["sampling"], bias, generator)
            tokens.append(id)
            if id in self._ends:
                why = "stop"
                break
            if emit(json.dumps({"tokens": [self._shown(logits, id, request["top"])]}).encode()):
                return
            last = self._hidden([id], cache)
        seconds = [middle - begun, time.perf_counter() - middle]
        end = {"why": why, "read": read, "written": len(tokens) - read, "seconds": seconds}
        emit(json.dumps({"end": end}).encode())

    def _logits(self, hidden: Any) -> Any:
        """(rows, words) of (rows, width), as numpy has them."""
        import torch

        with torch.inference_mode():
            return self._net.logits(hidden).numpy()[:, : self._words.size]

    def _shown(self, logits: Any, id: int, top: int | None) -> dict[str, Any]:
        """A token that was written; its share is worked out where somebody asked for it."""
        entry = self._told(id) if top is None else self._weighed(logits, id, top)
        entry["shown"] = not self._lib.llama_vocab_is_control(self._words.vocab, id)
        return entry
