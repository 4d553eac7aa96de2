"""Vectors and rankings: ``/v1/embeddings`` as OpenAI has it, ``/v1/rerank`` as Jina and Cohere do.

OpenAI's clients ask for base64, which is float32 in little-endian order (openai-python reads it
with numpy's ``float32``).
"""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from overt.chat import EmbedRequest, RerankRequest
from overt.protocols.base import BadBody, HttpCall, HttpReply, new_id
from overt.protocols.openai.wire import Count, Name, OpenAIWire, hold

_MAX_INPUTS = 2048  # as OpenAI has it
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]

# ---- embeddings ----------------------------------------------------------------------------


class EmbeddingsBody(OpenAIWire, kw_only=True):
    """The body of ``POST /v1/embeddings``; `truncate` and `keep_alive` are not OpenAI's."""

    model: Name
    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    user: str | None = None
    truncate: bool | None = None
    keep_alive: float | str | None = None


class EmbeddingObject(msgspec.Struct):
    index: int
    embedding: tuple[float, ...] | str
    object: str = "embedding"


class EmbeddingUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
    object: str = "list"


async def embed(call: HttpCall) -> HttpReply:
    """Answer ``POST /v1/embeddings``."""
    body = call.read(EmbeddingsBody)
    request = EmbedRequest(body.model, inputs(body.input), body.dimensions, bool(body.truncate))
    embeddings = await call.services.embed(call.caller, request, hold(body.keep_alive))
    packed = body.encoding_format == "base64"
    data = [
        EmbeddingObject(i, pack(vector) if packed else vector)
        for i, vector in enumerate(embeddings.vectors)
    ]
    return HttpReply(
        EmbeddingList(data, body.model, EmbeddingUsage(embeddings.tokens, embeddings.tokens))
    )


def inputs(value: str | list[Any]) -> tuple[str | tuple[int, ...], ...]:
    """The texts, or lists of token ids, to embed.

    Raises:
        BadBody: nothing, an empty one, texts mixed with token ids, or more than 2048 of them.
    """
    if isinstance(value, str):
        texts: tuple[str | tuple[int, ...], ...] = (value,)
    elif len(kinds := {type(item) for item in value}) > 1:
        raise BadBody("input mixes texts and token ids; give one kind", "input")
    elif kinds == {int}:
        texts = (tuple(value),)
    elif len(value) > _MAX_INPUTS:
        raise BadBody(f"input holds {len(value)} texts; {_MAX_INPUTS} is the most at once", "input")
    else:
        texts = tuple(item if isinstance(item, str) else tuple(item) for item in value)
    if not texts or not all(texts):
        raise BadBody("input is empty; give a text, or token ids", "input")
    return texts


def pack(vector: Sequence[float]) -> str:
    """`vector` as base64 of float32, little-endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


# ---- rerank --------------------------------------------------------------------------------


class DocumentBody(msgspec.Struct):
    """A document; fields beside its text are not read."""

    text: str


class RerankBody(OpenAIWire, kw_only=True):
    """The body of ``POST /v1/rerank``."""

    model: Name
    query: str
    documents: Annotated[list[str | DocumentBody], Meta(min_length=1, max_length=_MAX_INPUTS)]
    top_n: Count | None = None
    return_documents: bool | None = None
    truncation: bool | None = None
    max_tokens_per_doc: int | None = None
    max_chunks_per_doc: int | None = None
    keep_alive: float | str | None = None


class Ranked(msgspec.Struct):
    index: int
    relevance_score: float
    document: DocumentBody | UnsetType = UNSET


class RerankUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class Reranked(msgspec.Struct):
    id: str
    model: str
    results: list[Ranked]
    usage: RerankUsage
    object: str = "list"


async def rerank(call: HttpCall) -> HttpReply:
    """Answer ``POST /v1/rerank``: the best first, with their places in what was sent."""
    body = call.read(RerankBody)
    texts = tuple(d if isinstance(d, str) else d.text for d in body.documents)
    request = RerankRequest(body.model, body.query, texts)
    ranking = await call.services.rerank(call.caller, request, hold(body.keep_alive))
    order = sorted(range(len(texts)), key=lambda i: (-ranking.scores[i], i))[: body.top_n]
    with_documents = body.return_documents is not False
    results = [
        Ranked(i, ranking.scores[i], DocumentBody(texts[i]) if with_documents else UNSET)
        for i in order
    ]
    usage = RerankUsage(ranking.tokens, ranking.tokens)
    return HttpReply(Reranked(new_id("rerank-"), body.model, results, usage))
