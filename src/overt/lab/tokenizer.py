"""A model's own words: text to tokens and back, and its chat template, as the engine has them.

The vocabulary of a GGUF file is llama.cpp's, so what is trained on is to the token what the engine
will see. It is read in a sandboxed worker (tokenizer_host.py), without the weights.

    with Words(path, settings) as words:
        ids = words.encode(["Hello"])[0]
"""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from overt.errors import BadRequest, EngineFailed, FormatError, lacking
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.runtime.worker.supervisor import Worker

_BATCH: Final = 1 << 20  # characters in one call, about
_PATIENCE: Final = 30.0  # seconds for one rendering; a template may have loops without end
_MEMORY: Final = 4 << 30
_LABEL: Final = "the vocabulary"


class VocabularyWorker:
    """The vocabulary of one GGUF file; a context manager, for one thread outside any event loop.

    Attributes:
        size: tokens.
        bos, eos, eot: ids of the beginning of a text, its end, and the end of a turn; or None.
        begins: the engine puts `bos` before every prompt.
        ends: ids that end an answer.
    """

    def __init__(self, weights: Path, settings: Settings) -> None:
        self._weights, self._settings = weights, settings
        self._runner: asyncio.Runner | None = None
        self._worker: Worker | None = None
        self._pieces: dict[int, bytes] = {}
        self.size = 0
        self.bos: int | None = None
        self.eos: int | None = None
        self.eot: int | None = None
        self.begins = False
        self.ends: frozenset[int] = frozenset()

    def __enter__(self) -> Self:
        """Start the worker.

        Raises:
            Unsupported: the package of llama.cpp is not installed.
            FormatError: llama.cpp cannot read the vocabulary.
        """
        if not find_spec("llama_cpp_py_sync"):
            raise lacking("reading a model's words", "llama-cpp-py-sync")
        from overt.runtime.worker.supervisor import Worker, WorkerSpec

        weights = self._weights.resolve()
        spec = WorkerSpec(
            host="overt.lab.tokenizer_host:TokenizerHost",
            parameters={"weights": str(weights)},
            readable=(weights,),
            memory=_MEMORY,
            isolation=self._settings.isolation,
            label=_LABEL,
        )
        self._runner = asyncio.Runner()
        try:
            starting = Worker.start(spec, self._settings.home / "run")
            self._worker = self._runner.run(starting)
            self._learn(self._worker.info)
        except EngineFailed as error:
            self.close()
            raise FormatError(
                f"the words of {self._weights.name} cannot be read: {error.message}",
                "name a GGUF model",
            ) from None
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        worker, self._worker = self._worker, None
        runner, self._runner = self._runner, None
        if runner is not None:
            try:
                if worker is not None:
                    runner.run(worker.stop())
            finally:
                runner.close()

    def encode(
        self, texts: Sequence[str], *, special: bool = True, begin: bool = False
    ) -> list[list[int]]:
        """The ids of each text.

        Args:
            texts: in any number; they go over in batches.
            special: control tokens written in a text are one token each.
            begin: put before each what the model puts before a prompt.
        """
        all_ids: list[list[int]] = []
        for batch in _batches(texts):
            all_ids += self._call("encode", _json({"texts": batch, "special": special}))
        if len(all_ids) != len(texts) or not all(map(self._sound, all_ids)):
            raise EngineFailed("the worker of the vocabulary broke its own protocol")
        if begin and self.begins and self.bos is not None:
            return [[self.bos, *ids] for ids in all_ids]
        return all_ids

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token, control tokens as they are written.

        Raises:
            BadRequest: an id that is none.
        """
        wanted = sorted({id for id in ids if id not in self._pieces})
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.size:
            raise BadRequest(f"{wanted[-1]} is no token: this model has {self.size}, from 0")
        if wanted:
            encoded = self._call("pieces", _json({"ids": wanted}))
            raw = [base64.b64decode(piece) for piece in encoded]
            self._pieces.update(zip(wanted, raw, strict=True))
        return [self._pieces[id] for id in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are no letters become U+FFFD.

        Raises:
            BadRequest: an id that is none.
        """
        return b"".join(self.pieces(ids)).decode("utf-8", "replace")

    def written(self, id: int | None) -> str:
        """A token as text, "" for None."""
        return "" if id is None else self.decode([id])

    def render(self, template: str, values: Sequence[Mapping[str, Any]]) -> list[str | FormatError]:
        """What a Jinja chat template makes of each of `values`, or why it does not."""
        rendered: list[str | FormatError] = []
        for batch in _batches([_json(dict(value)) for value in values]):
            body = f'{{"template": {_json(template)}, "values": [{", ".join(batch)}]}}'
            for reply in self._call("render", body):
                if isinstance(reply, dict) and isinstance(reply.get("text"), str):
                    rendered.append(reply["text"])
                else:
                    why = reply.get("failed") if isinstance(reply, dict) else None
                    rendered.append(FormatError(f"the chat template says: {str(why)[:200]}"))
        if len(rendered) != len(values):
            raise EngineFailed("the worker of the vocabulary broke its own protocol")
        return rendered

    # ---- inside ----------------------------------------------------------------------------

    def _learn(self, info: Mapping[str, Any]) -> None:
        size, ends = info.get("size"), info.get("ends")
        if not isinstance(size, int) or size <= 0 or not isinstance(ends, list):
            raise EngineFailed("the worker of the vocabulary broke its own protocol")
        self.size = size
        self.bos, self.eos, self.eot = (self._id(info.get(key)) for key in ("bos", "eos", "eot"))
        self.begins = info.get("begins") is True
        self.ends = frozenset(id for id in ends if self._id(id) is not None)

    def _id(self, value: object) -> int | None:
        return value if isinstance(value, int) and 0 <= value < self.size else None

    def _sound(self, ids: object) -> bool:
        return isinstance(ids, list) and all(self._id(id) is not None for id in ids)

    def _call(self, kind: str, request: str) -> list[Any]:
        if self._runner is None:
            raise EngineFailed("the worker of the vocabulary is not running", "use it in `with`")
        patience = _PATIENCE if kind == "render" else None
        try:
            body = request.encode("utf-8", "surrogatepass")
            return self._runner.run(self._asked(kind, body, patience))
        except TimeoutError:
            raise FormatError(
                f"the chat template was stopped: it took more than {_PATIENCE:g} s for a row",
                "choose another template: --template chatml",
            ) from None

    async def _asked(self, kind: str, body: bytes, patience: float | None) -> list[Any]:
        assert self._worker is not None
        replies = []
        async with aclosing(self._worker.call(kind, body)) as chunks:
            while True:
                async with asyncio.timeout(patience):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                try:
                    replies.append(json.loads(chunk))
                except (ValueError, RecursionError):
                    raise EngineFailed(
                        "the worker of the vocabulary broke its own protocol"
                    ) from None
        return replies


def _json(value: Any) -> str:
    """JSON that is no longer than its text: a letter of Russian escaped would take six bytes."""
    return json.dumps(value, ensure_ascii=False)


def _batches(texts: Sequence[str]) -> list[list[str]]:
    """The texts in order, some megabyte at a time."""
    batches: list[list[str]] = [[]]
    held = 0
    for text in texts:
        if held + len(text) > _BATCH and batches[-1]:
            batches.append([])
            held = 0
        batches[-1].append(text)
        held += len(text)
    return batches if texts else []
