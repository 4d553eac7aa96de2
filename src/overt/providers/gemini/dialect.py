"""Google's Gemini API (``generativelanguage.googleapis.com``, v1beta) as a `Dialect`.

Chosen over Google's OpenAI-compatible endpoint because only here are thought signatures, safety
reasons, cached tokens and the counting of tokens. What each family takes is in ``gemini.toml``.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from overt.chat import Embeddings, EmbedRequest, Request
from overt.engine import Capabilities
from overt.errors import BadRequest, OvertError, ProviderFailed, Unsupported
from overt.providers.base import EventReader, PostRequest
from overt.providers.dialect import broken, count, encode, unit
from overt.providers.gemini import body as gemini_body
from overt.providers.gemini import reader as gemini_reader
from overt.providers.gemini.body import ENGINE
from overt.providers.supported_parameters import SupportedParameters, accepts

_MAX_TEXTS = 100


class Gemini:
    """Gemini's wire. Holds nothing."""

    name = ENGINE
    protocol = "gemini"
    listing = PostRequest("/v1beta/models", b"", method="GET")

    def capabilities(self, model: str) -> Capabilities:
        taken = _supported(model)
        return Capabilities(
            context=taken.context,
            longest=taken.context,
            images=taken.images,
            tools=taken.tools,
            thinking=taken.thinking,
            logprobs=True,
            constrained=True,
            local=False,
        )

    def headers(self, secret: str) -> dict[str, str]:
        """The key as a header: in the URL, as Google allows too, it would be in every log."""
        return {"x-goog-api-key": secret} if secret else {}

    def post(self, request: Request, model: str) -> tuple[PostRequest, tuple[str, ...]]:
        body, left_out = gemini_body.body(request, model, _supported(model))
        return _post(model, "streamGenerateContent?alt=sse", body), left_out

    def reader(self, request: Request) -> EventReader:
        return gemini_reader.GeminiReader(request)

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> OvertError:
        return gemini_reader.failure(status, headers, body)

    def embed(self, request: EmbedRequest, model: str) -> PostRequest:
        if len(request.inputs) > _MAX_TEXTS:
            raise BadRequest(
                f"{len(request.inputs)} texts, and gemini embeds {_MAX_TEXTS} at once",
                "send them in several requests",
            )
        requests = []
        for text in request.inputs:
            if not isinstance(text, str):
                raise Unsupported("gemini embeds text, not token ids", "send the text")
            item: dict[str, Any] = {
                "model": _resource(model),
                "content": {"parts": [{"text": text}]},
            }
            if request.dimensions is not None:
                item["outputDimensionality"] = request.dimensions
            requests.append(item)
        return _post(model, "batchEmbedContents", {"requests": requests})

    def embedded(self, body: bytes, request: EmbedRequest) -> Embeddings:
        try:
            answer = msgspec.json.decode(body, type=_Embedded)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise broken(ENGINE, error) from None
        vectors = [embedding.values for embedding in answer.embeddings]
        if len(vectors) != len(request.inputs) or len({len(vector) for vector in vectors}) > 1:
            raise ProviderFailed(
                f"gemini sent {len(vectors)} vectors for {len(request.inputs)} texts, or of "
                "several lengths",
                "ask again",
                billed=True,
            )
        tokens = answer.usage_metadata.prompt_token_count if answer.usage_metadata else None
        # Google's are not of length 1 where fewer dimensions than all are asked for.
        return Embeddings(tuple(unit(vector, ENGINE) for vector in vectors), count(tokens))

    def counting(self, request: Request, model: str) -> PostRequest:
        body, _ = gemini_body.body(gemini_body.for_counting(request), model, _supported(model))
        whole = {"model": _resource(model), **body}
        return _post(model, "countTokens", {"generateContentRequest": whole})

    def counted(self, body: bytes) -> int:
        try:
            return max(0, msgspec.json.decode(body, type=_GeminiCount).totalTokens)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise broken(ENGINE, error, billed=False) from None


# ---- addresses and bodies ------------------------------------------------------------------


def _model_id(model: str) -> str:
    return model.removeprefix("models/")


def _resource(model: str) -> str:
    return model if model.startswith("tunedModels/") else f"models/{_model_id(model)}"


def _supported(model: str) -> SupportedParameters:
    return accepts(ENGINE, _model_id(model))


def resource(model: str) -> str:
    """What a path has of a model: ``models/NAME``, whatever its name may hold."""
    kind, _, name = _resource(model).partition("/")
    return f"{kind}/{quote(name, safe='')}"


def _post(model: str, method: str, body: Mapping[str, Any]) -> PostRequest:
    """A POST of one method of one model."""
    return PostRequest(f"/v1beta/{resource(model)}:{method}", encode(body))


# ---- answers that are no stream ------------------------------------------------------------


class _GeminiVector(msgspec.Struct):
    values: list[float]


class _EmbedUsage(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None


class _Embedded(msgspec.Struct, rename="camel"):
    embeddings: list[_GeminiVector]
    usage_metadata: _EmbedUsage | None = None


class _GeminiCount(msgspec.Struct):
    totalTokens: int
