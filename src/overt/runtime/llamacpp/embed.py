"""llama.cpp as an engine for vectors: embeddings, and scores of documents against a query.

Its worker was loaded with ``embedding`` (local.py): such a worker answers nothing else. Vectors
come as base64 of 32-bit floats, a quarter of their length as digits.
"""

import asyncio
import binascii
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar

import msgspec

from overt.chat import Embeddings, EmbedRequest, Ranking, RerankRequest
from overt.errors import BadRequest, ContextExceeded, EngineFailed
from overt.runtime.llamacpp.answer import LlamaRefusal, as_error
from overt.runtime.llamacpp.tokenizer import TokenizerMixin
from overt.runtime.worker_engine import HostedModel

Input = str | tuple[int, ...]

_TEXTS = 16  # texts in one call to the worker,
_LETTERS = 8192  # and their letters: a call that was cancelled runs to its end
_DOCUMENTS = 16
# The only words of llama.cpp's errors that tell how long a text was and how long it may be.
_TOO_LONG = re.compile(
    r"\((\d+) tokens\) is (?:too large to process.*size: |larger than the max context size \()(\d+)"
    r"|\((\d+) tokens\) (exceeds) the available context size \((\d+)",
    re.DOTALL,
)


class _LlamaVector(msgspec.Struct):
    index: int
    embedding: str


class _Score(msgspec.Struct):
    index: int
    relevance_score: float


class _LlamaEmbedUsage(msgspec.Struct):
    prompt_tokens: int = 0


class _Vectors(msgspec.Struct):
    data: list[_LlamaVector] = []
    usage: _LlamaEmbedUsage = msgspec.field(default_factory=_LlamaEmbedUsage)
    error: LlamaRefusal | None = None


class _Scores(msgspec.Struct):
    results: list[_Score] = []
    usage: _LlamaEmbedUsage = msgspec.field(default_factory=_LlamaEmbedUsage)
    error: LlamaRefusal | None = None


Reply = TypeVar("Reply", _Vectors, _Scores)


class _TooLongError(Exception):
    """A text has `tokens` tokens, and `most` can be read."""

    def __init__(self, tokens: int, most: int) -> None:
        super().__init__(tokens, most)
        self.tokens, self.most = tokens, most


class LlamaCppEmbedder(TokenizerMixin, HostedModel):
    """One model loaded in one worker, to embed or to rerank."""

    purpose = "for embeddings"

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """A vector of length 1 for each input.

        Raises:
            BadRequest: an input is empty, or more dimensions were asked for than there are.
            ContextExceeded: a text is longer than the model reads, and `truncate` is off.
            EngineFailed: llama.cpp gave up; WorkerDied where its process ended.
        """
        if not request.inputs:
            raise BadRequest("there is nothing to embed", "give at least one text")
        vectors: list[tuple[float, ...]] = []
        tokens = 0
        for group in _groups(request.inputs):
            try:
                embeddings = await self._embedded(group)
            except _TooLongError as error:
                if not request.truncate:
                    raise ContextExceeded(
                        error.tokens, error.most, "shorten it, or have it cut: truncate"
                    ) from None
                embeddings = await self._embedded(await self._cut(group, error.most))
            tokens += embeddings.tokens
            vectors += (_scaled(vector, request.dimensions) for vector in embeddings.vectors)
            await asyncio.sleep(0)
        return Embeddings(tuple(vectors), tokens)

    async def rerank(self, request: RerankRequest) -> Ranking:
        """A score for each document.

        Raises:
            BadRequest: there are no documents.
            ContextExceeded: query and document together are longer than the model reads.
            Unsupported: the model was not made for that.
        """
        if not request.documents:
            raise BadRequest("there is nothing to rank", "give at least one document")
        scores: list[float] = []
        tokens = 0
        for start in range(0, len(request.documents), _DOCUMENTS):
            documents = request.documents[start : start + _DOCUMENTS]
            body = {"query": request.query, "documents": list(documents)}
            try:
                reply = await self._call("rerank", body, _Scores)
            except _TooLongError as error:
                raise ContextExceeded(
                    error.tokens, error.most, "shorten the query or the document"
                ) from None
            scores_by_index = {result.index: result.relevance_score for result in reply.results}
            if sorted(scores_by_index) != list(range(len(documents))):
                raise EngineFailed("llama.cpp did not score every document")
            scores += (scores_by_index[index] for index in range(len(documents)))
            tokens += reply.usage.prompt_tokens
        return Ranking(tuple(scores), tokens)

    async def _embedded(self, inputs: Sequence[Input]) -> Embeddings:
        """Vectors as the engine makes them."""
        items = [text if isinstance(text, str) else list(text) for text in inputs]
        reply = await self._call("embed", {"input": items, "encoding_format": "base64"}, _Vectors)
        vectors = {row.index: _floats(row.embedding) for row in reply.data}
        if sorted(vectors) != list(range(len(inputs))):
            raise EngineFailed("llama.cpp did not embed every text")
        ordered = tuple(vectors[index] for index in range(len(inputs)))
        return Embeddings(ordered, reply.usage.prompt_tokens)

    async def _cut(self, inputs: Sequence[Input], most: int) -> list[Input]:
        """The inputs with those cut that have more than `most` tokens; the closing ones stay."""
        _, closing = await self.around()
        keep = max(most - len(closing), 0)
        out: list[Input] = []
        for text in inputs:
            tokens = text if not isinstance(text, str) else await self._tokens(text, around=True)
            if len(tokens) <= most:
                out.append(text)
            elif isinstance(text, str):
                out.append((*tokens[:keep], *closing))
            else:
                out.append(tokens[:most])
        return out

    async def _call(self, kind: str, body: dict[str, Any], form: type[Reply]) -> Reply:
        async with aclosing(self._worker.call(kind, json.dumps(body).encode())) as chunks:
            reply_bytes = b"".join([chunk async for chunk in chunks])
        try:
            reply = msgspec.json.decode(reply_bytes, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineFailed(f"llama.cpp broke its own protocol: {error}") from None
        if reply.error is not None:
            _refuse(reply.error, self._capabilities.longest)
        return reply


def _refuse(error: LlamaRefusal, longest: int) -> NoReturn:
    if match := _TOO_LONG.search(error.message):
        tokens, most = int(match[1] or match[3]), int(match[2] or match[5])
        # A causal model needs one place more than the text has tokens.
        raise _TooLongError(tokens, most - 1 if match[4] else most)
    if "cannot be empty" in error.message:
        raise BadRequest("an input has no tokens", "leave out empty texts")
    raise as_error(error, longest)


def _groups(inputs: Sequence[Input]) -> Iterator[list[Input]]:
    """`inputs` in order, so many at a time that none holds the worker up for long."""
    group: list[Input] = []
    letters = 0
    for text in inputs:
        if group and (len(group) == _TEXTS or letters + len(text) > _LETTERS):
            yield group
            group, letters = [], 0
        group.append(text)
        letters += len(text) if isinstance(text, str) else 4 * len(text)
    yield group


def _floats(text: str) -> tuple[float, ...]:
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
        values = tuple(memoryview(raw).cast("f"))
    except (ValueError, TypeError):
        raise EngineFailed("llama.cpp sent an embedding that cannot be read") from None
    if not values or not all(map(math.isfinite, values)):
        raise EngineFailed("the model's embedding is not made of numbers", "try another file of it")
    return values


def _scaled(vector: tuple[float, ...], dimensions: int | None) -> tuple[float, ...]:
    """The first `dimensions` of `vector`, of length 1."""
    if dimensions is not None:
        if not 1 <= dimensions <= len(vector):
            raise BadRequest(
                f"dimensions is {dimensions}", f"this model's go from 1 to {len(vector)}"
            )
        vector = vector[:dimensions]
    length = math.hypot(*vector)
    return tuple(value / length for value in vector) if length else vector
