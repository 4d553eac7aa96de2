"""``/embeddings`` of OpenAI and of servers that speak so: the body, and the vectors that come."""

import base64
import binascii
import struct
from typing import Any

import msgspec

from overt.chat import Embeddings, EmbedRequest
from overt.errors import BadRequest, ProviderFailed
from overt.providers.dialect import broken, count, unit

_MAX_INPUTS = 2048
_MAX_DIMENSIONS = 1 << 16  # numbers of a vector


class _EmbedRow(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _OpenAIEmbedUsage(msgspec.Struct):
    prompt_tokens: int | None = 0
    total_tokens: int | None = 0


class _EmbedAnswer(msgspec.Struct):
    data: list[_EmbedRow]
    usage: _OpenAIEmbedUsage | None = None


_decode = msgspec.json.Decoder(_EmbedAnswer).decode


def body(request: EmbedRequest, model: str, who: str, *, encoding: str = "") -> dict[str, Any]:
    """What is sent. `encoding` "" leaves the server its own.

    Raises:
        BadRequest: nothing, too much, or texts beside token ids.
    """
    inputs = request.inputs
    if not 0 < len(inputs) <= _MAX_INPUTS:
        raise BadRequest(
            f"{len(inputs)} texts were given; {who} takes 1 to {_MAX_INPUTS} at once",
            "send them in parts",
        )
    texts = sum(isinstance(item, str) for item in inputs)
    if texts not in (0, len(inputs)):
        raise BadRequest(f"{who} takes texts or token ids, not both at once", "send them apart")
    if not all(inputs):
        raise BadRequest(f"input {list(map(bool, inputs)).index(False)} is empty", "leave it out")
    fields: dict[str, Any] = {
        "model": model,
        "input": [item if isinstance(item, str) else list(item) for item in inputs],
    }
    if encoding:
        fields["encoding_format"] = encoding
    if request.dimensions is not None:
        fields["dimensions"] = request.dimensions
    return fields


def read(answer: bytes, request: EmbedRequest, who: str) -> Embeddings:
    """The vectors, each made of length 1.

    Raises:
        ProviderFailed: not one vector for each input, of one length that was asked for.
    """
    try:
        reply = _decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise broken(who, error) from None
    wanted = len(request.inputs)
    rows: dict[int, _EmbedRow] = {}
    for place, row in enumerate(reply.data):
        rows[place if row.index is None else row.index] = row
    if len(reply.data) != wanted or rows.keys() != set(range(wanted)):
        raise ProviderFailed(
            f"{who} answered {wanted} texts with {len(reply.data)} vectors",
            "try again, or send fewer at once",
            billed=True,
        )
    vectors = tuple(_vector(rows[place].embedding, who) for place in range(wanted))
    lengths = {len(vector) for vector in vectors}
    size = request.dimensions or len(vectors[0])
    if lengths != {size}:
        raise ProviderFailed(
            f"{who} answered with vectors of {min(lengths)} to {max(lengths)} numbers, "
            f"and {size} were expected",
            "leave out dimensions" if request.dimensions else None,
            billed=True,
        )
    usage = reply.usage or _OpenAIEmbedUsage()
    return Embeddings(vectors, count(usage.prompt_tokens or usage.total_tokens))


def _vector(value: list[float] | str, who: str) -> tuple[float, ...]:
    numbers = _unpacked(value, who) if isinstance(value, str) else value
    if not 0 < len(numbers) <= _MAX_DIMENSIONS:
        raise broken(who, f"a vector of {len(numbers)} numbers")
    return unit(numbers, who)


def _unpacked(text: str, who: str) -> list[float]:
    """Base64 of little-endian float32."""
    try:
        data = base64.b64decode(text, validate=True)
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    except (binascii.Error, ValueError, struct.error):
        raise broken(who, "a vector that is not base64 of float32") from None
