"""The native half: runs inside a worker of its own, with llama.cpp through llama-cpp-py-sync.

`QuantizeHost` quantizes a file, collects an importance matrix, and tells how likely a model finds
the tokens of a text, beside what another model made of the same. Files are written into the
worker's private folder, which is all it may write in; the parent moves them out (worker.py).

Memory is bounded: of the logits there is one batch at a time (`_LOGITS` bytes), and of another
model's log-probabilities one row.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from overt.runtime.llamacpp import llama_h

Emit = Callable[[bytes], bool]

MODEL, IMATRIX, BASE = "model.gguf", "imatrix.gguf", "base.f16"
"""What the files in the private folder are called."""
_LOGITS = 64 << 20
_SPEED_BATCH = 128  # what the engine reads prompts with
_TOO_LITTLE = -65000.0  # nearly the lowest number of 16 bits


class QuantizeHost:
    """One file at work: to be quantized, or loaded to compute with."""

    def __init__(self) -> None:
        self._ffi: Any = None
        self._lib: Any = None
        self._model: Any = None
        self._context: Any = None
        self._collector: Any = None
        self._log: Any = None
        self._told: list[str] = []
        self._progress: Callable[[str], None] = lambda _: None
        self._words = self._batch = 0
        self._turn = threading.Lock()

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Open the library and, where ``weights`` is given, a model to compute with.

        Args:
            parameters: weights (a path or None), window (tokens of context), threads, collect
                (whether an importance matrix is to be collected).

        Raises:
            RuntimeError: llama.cpp refused the file.
        """
        self._ffi, self._lib = llama_h.load_library()
        import numpy as np  # noqa: F401 (loaded here, under the first filter)

        self._log = self._ffi.callback(
            "void(enum ggml_log_level, const char *, void *)", self._heard
        )
        self._lib.llama_log_set(self._log, self._ffi.NULL)
        info = {"build": llama_h.build()}
        if parameters.get("weights"):
            info |= self._open(parameters)
        return info

    def _open(self, parameters: dict[str, Any]) -> dict[str, Any]:
        lib, window = self._lib, int(parameters["window"])
        collect = bool(parameters.get("collect"))
        # The engine reorders weights for its kernels, and is measured so. Collecting need not.
        self._model = llama_h.loaded(lib, parameters["weights"], use_extra_bufts=not collect)
        if not self._model:
            raise RuntimeError(self._why() or "llama.cpp could not load the model")
        self._words = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        fits = max(32, _LOGITS // (4 * max(self._words, 1)))
        self._batch = min(window, 1 << (fits.bit_length() - 1))
        options = lib.llama_context_default_params()
        options.n_ctx = window
        options.n_batch = options.n_ubatch = options.n_outputs_max = self._batch
        options.n_seq_max = 1
        options.n_threads = options.n_threads_batch = int(parameters["threads"])
        if collect:
            from overt.lab.quantize.activations import Collector

            self._collector = Collector(self._ffi)
            options.cb_eval = self._collector.callback
        self._context = lib.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(self._why() or "llama.cpp could not make a context")
        return {"vocabulary": self._words}

    def handle(self, kind: str, body: bytes, emit: Emit) -> None:
        """Answer one call; every chunk is one JSON object, the last holds the result.

        quantize {source, number, …}: {done, total} as it goes, then {"made": "model.gguf"};
        foresee {source, types, …}: {type, kinds} or {type, problem}, a type at a time; collect
        {windows, about}: {"made": "imatrix.gguf"}; base {windows}: writes the log-probabilities and
        gives {nll, top}; compare {windows, base, top}: {nll, kld, same} a token; speed {ids,
        count}: {prompt, decode} in tokens a second.
        """
        request = json.loads(body)

        def say(value: object) -> bool:
            return emit(json.dumps(value).encode())

        known = {
            "quantize": self._quantize,
            "foresee": self._foresee,
            "collect": self._collect,
            "base": self._base,
            "compare": self._compare,
            "speed": self._speed,
        }
        with self._turn:
            known[kind](request, say)

    # ---- quantizing ------------------------------------------------------------------------

    def _quantize(self, request: dict[str, Any], say: Callable[[object], bool]) -> None:
        keep_alive: list[Any] = []  # what C holds pointers to
        wanted = self._wanted(request, request["number"], keep_alive)
        if request["imatrix"]:
            wanted.imatrix = self._importance(request["imatrix"], keep_alive)
        total = request["total"]
        seen = 0

        def progress(line: str) -> None:
            nonlocal seen
            head, _, rest = line.partition("/")
            if line.startswith("[") and rest.partition("]")[0].strip().isdigit():
                seen = int(head.strip("[ ") or 0)
                say({"done": seen, "total": total})

        if self._carried_out(request["source"], wanted, progress):
            Path(MODEL).unlink(missing_ok=True)
            raise RuntimeError(self._why() or "llama.cpp could not quantize it")
        say({"made": MODEL})

    def _foresee(self, request: dict[str, Any], say: Callable[[object], bool]) -> None:
        """What each tensor would be stored as, type by type; nothing is written."""
        for name, number in request["types"].items():
            keep_alive: list[Any] = []
            wanted = self._wanted(request, number, keep_alive)
            wanted.dry_run = True
            if request["importance"]:
                wanted.imatrix = self._some_importance(keep_alive)
            self._told, seen = [], _TypeDecisions()
            failed = self._carried_out(request["source"], wanted, seen.read)
            reply: dict[str, Any] = {"type": name, "kinds": seen.kinds}
            if failed:
                reply = {"type": name, "problem": self._why() or "llama.cpp cannot make it"}
            elif seen.lacks_importance:
                reply["lacks_importance"] = True
            if say(reply):
                return

    def _wanted(self, request: dict[str, Any], number: int, keep_alive: list[Any]) -> Any:
        """The parameters that a file of the type `number` is made with."""
        wanted = self._lib.llama_model_quantize_default_params()
        wanted.ftype, wanted.nthread = number, request["threads"]
        wanted.allow_requantize = True
        wanted.pure = request["pure"]
        wanted.quantize_output_tensor = not request["keep_output"]
        if request["output"] is not None:
            wanted.output_tensor_type = request["output"]
        if request["embedding"] is not None:
            wanted.token_embedding_type = request["embedding"]
        if request["tensors"]:
            wanted.tt_overrides = self._overrides(request["tensors"], keep_alive)
        return wanted

    def _carried_out(self, source: str, wanted: Any, progress: Callable[[str], None]) -> bool:
        """Whether it failed; `progress` hears every line that llama.cpp says."""
        self._progress = progress
        try:
            return bool(
                self._lib.llama_model_quantize(
                    os.fsencode(source), MODEL.encode(), self._ffi.addressof(wanted)
                )
            )
        finally:
            self._progress = lambda _: None

    def _overrides(self, tensors: Sequence[Sequence[Any]], keep_alive: list[Any]) -> Any:
        array = self._ffi.new("struct llama_model_tensor_override[]", len(tensors) + 1)
        for at, (pattern, number) in enumerate(tensors):
            keep_alive.append(self._ffi.new("char[]", pattern.encode()))
            array[at].pattern, array[at].type = keep_alive[-1], number
        keep_alive.append(array)
        return array

    def _importance(self, path: str, keep_alive: list[Any]) -> Any:
        """The matrix as llama.cpp takes it: means of squares by the name of a tensor."""
        from overt.lab.quantize import imatrix

        entries = imatrix.read(Path(path)).entries
        array = self._ffi.new("struct llama_model_imatrix_data[]", len(entries) + 1)
        for at, (name, values) in enumerate(entries.items()):
            keep_alive.append(self._ffi.new("char[]", name.encode()))
            array[at].name = keep_alive[-1]
            keep_alive.append(values)
            array[at].data = self._ffi.cast("float *", values.ctypes.data)
            array[at].size = values.size
        keep_alive.append(array)
        return array

    def _some_importance(self, keep_alive: list[Any]) -> Any:
        """A matrix of no tensor: some types are mixed otherwise where there is one."""
        keep_alive += [self._ffi.new("char[]", b"-"), self._ffi.new("float[]", [1.0])]
        array = self._ffi.new("struct llama_model_imatrix_data[]", 2)
        array[0].name, array[0].data, array[0].size = keep_alive[-2], keep_alive[-1], 1
        keep_alive.append(array)
        return array

    # ---- reading texts ---------------------------------------------------------------------

    def _collect(self, request: dict[str, Any], say: Callable[[object], bool]) -> None:
        from overt.lab.quantize import imatrix

        windows = request["windows"]
        for at, ids in enumerate(windows):
            # All logits are asked for: of the last layer only the rows that give one are computed.
            for _ in self._read(ids, 0):
                pass
            if say({"done": at + 1, "total": len(windows)}):
                return
        if self._collector.problem:
            raise RuntimeError(self._collector.problem)
        about = imatrix.About(request["about"], len(windows), len(windows[0]))
        imatrix.write(Path(IMATRIX), self._collector.sums, about)
        say({"made": IMATRIX})

    def _base(self, request: dict[str, Any], say: Callable[[object], bool]) -> None:
        import numpy as np

        windows = request["windows"]
        with Path(BASE).open("wb") as file:
            for at, ids in enumerate(windows):
                nll, top = [], []
                for target, row in self._read(ids, len(ids) // 2):
                    logs = _logs(row)
                    nll.append(-float(logs[target]))
                    top.append(int(row.argmax()))
                    file.write(np.maximum(logs, _TOO_LITTLE).astype("<f2").tobytes())
                if say({"done": at + 1, "total": len(windows), "nll": nll, "top": top}):
                    return
        say({"made": BASE})

    def _compare(self, request: dict[str, Any], say: Callable[[object], bool]) -> None:
        import numpy as np

        windows, top, at = request["windows"], request["top"], 0
        expected = self._words * len(top)
        base = np.memmap(request["base"], "<f2", "r")
        if base.size != expected:
            raise RuntimeError(f"the source has {base.size} log-probabilities and not {expected}")
        for number, ids in enumerate(windows):
            nll, kld, same = [], [], []
            for target, row in self._read(ids, len(ids) // 2):
                logs = _logs(row)
                nll.append(-float(logs[target]))
                base_logs = base[at * self._words : (at + 1) * self._words].astype(np.float64)
                kld.append(_divergence(base_logs, logs))
                same.append(int(int(row.argmax()) == top[at]))
                at += 1
            reply = {"done": number + 1, "total": len(windows)}
            if say(reply | {"nll": nll, "kld": kld, "same": same}):
                return

    def _speed(self, request: dict[str, Any], say: Callable[[object], bool]) -> None:
        """Tokens a second: reading a prompt, then continuing it one token at a time."""
        ids, count = request["ids"], request["count"]
        prompt, rest = ids[:-count], ids[-count:]
        lib = self._lib
        step = min(_SPEED_BATCH, self._batch)
        batch = lib.llama_batch_init(step, 0, 1)
        try:
            # the first pass brings weights in and makes room, which is no speed of the type
            self._decode(batch, prompt[:step], 0, step)
            self._decode(batch, rest[:1], len(prompt[:step]), 0)
            lib.llama_synchronize(self._context)
            lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
            begun = time.perf_counter()
            for start in range(0, len(prompt), step):
                part = prompt[start : start + step]
                self._decode(batch, part, start, len(prompt) - 1)
            lib.llama_synchronize(self._context)
            read = time.perf_counter()
            for at, id in enumerate(rest):
                self._decode(batch, [id], len(prompt) + at, 0)
            lib.llama_synchronize(self._context)
            ended = time.perf_counter()
        finally:
            lib.llama_batch_free(batch)
        say({"prompt": len(prompt) / (read - begun), "decode": len(rest) / (ended - read)})

    def _read(self, ids: list[int], first: int) -> Iterator[tuple[int, Any]]:
        """Have the model read `ids`; from position `first` on, each token's id and its logits."""
        lib = self._lib
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        batch = lib.llama_batch_init(self._batch, 0, 1)
        try:
            for start in range(0, len(ids), self._batch):
                part = ids[start : start + self._batch]
                self._decode(batch, part, start, first)
                for row in range(len(part)):
                    at = start + row
                    if at < first or at + 1 >= len(ids):
                        continue
                    logits = llama_h.logits(self._ffi, lib, self._context, row, self._words)
                    if logits is None:
                        raise RuntimeError("this model gives no logits")
                    yield ids[at + 1], logits
        finally:
            lib.llama_batch_free(batch)

    def _decode(self, batch: Any, tokens: list[int], start: int, first: int) -> None:
        for token in tokens:
            if not 0 <= token < self._words:
                raise RuntimeError(f"{token} is no token of this model")
        failed = llama_h.decode(self._lib, self._context, batch, tokens, start, first)
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")

    # ---- what llama.cpp says -----------------------------------------------------------------

    def _heard(self, level: int, text: Any, _: Any) -> None:
        line = self._ffi.string(text).decode("utf-8", "replace")
        if level in (3, 4):  # warnings and errors
            self._told = [*self._told[-20:], line]
            os.write(2, line.encode("utf-8", "replace"))
        self._progress(line)

    def _why(self) -> str:
        """The line that says best why the library gave up."""
        lines = [" ".join(line.split()) for line in self._told]
        telling = [line for line in lines if "ailed" in line or "rror" in line]
        return (telling or lines or [""])[-1]


class _TypeDecisions:
    """What llama.cpp says it makes of each tensor, read from its lines.

    A line begins ``[  3/ 272] name - [shape], type = f16,`` and ends, at once or by the next one,
    with ``size = 1.0 MiB -> 0.5 MiB (q4_K)``, or with the size alone of what stays as it is.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.lacks_importance = False
        self._name = ""

    def read(self, line: str) -> None:
        if line.startswith("["):
            self._name = line.partition("] ")[2].rpartition(" - [")[0].rstrip()
            self.kinds[self._name] = line.rpartition("type =")[2].strip(" ,\n")
        elif self._name and line.startswith("size =") and "->" in line:
            self.kinds[self._name] = line.rpartition("(")[2].strip(") \n")
        elif "will require an imatrix" in line:
            self.lacks_importance = True


def _logs(row: Any) -> Any:
    """The log-probabilities of one position, in 64 bits.

    Raises:
        RuntimeError: the model computes no numbers.
    """
    import numpy as np

    wide = row.astype(np.float64)
    highest = wide.max()
    if not np.isfinite(highest):
        raise RuntimeError("the model computes no numbers (NaN or infinity)")
    wide -= highest
    wide -= np.log(np.exp(wide).sum())
    return wide


def _divergence(base: Any, logs: Any) -> float:
    """KL(base || model) of one position, in nats.

    The base was rounded to 16 bits; what is compared is the distribution those numbers are in
    proportion to, so that a divergence is never below 0.
    """
    import numpy as np

    base = base - np.log(np.exp(base).sum())
    share = np.exp(base)
    seen = share > 0
    return max(0.0, float((share[seen] * (base[seen] - logs[seen])).sum()))
