"""Any server that speaks OpenAI's Chat Completions: vLLM, SGLang, llama-server, Ollama, LM Studio …

What OpenAI has no field for is sent under the names that these servers share (llama.cpp's and
vLLM's). Nothing is known of the model beforehand, so nothing is left out: the server refuses.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from overt.chat import Embeddings, EmbedRequest, Request
from overt.engine import Capabilities
from overt.errors import OvertError
from overt.providers.base import EventReader, PostRequest
from overt.providers.dialect import broken, encode
from overt.providers.openai import chat, responses
from overt.providers.openai import embed as openai_embed
from overt.providers.openai.chat_answer import ChatReader
from overt.providers.openai.failure import failure

PARALLEL = 256
"""Requests at once; a provider's own limits are lower, and are its to tell."""
LISTING = PostRequest("/models", b"", method="GET")
_ADDRESS = "its base URL should end in /v1, as in http://127.0.0.1:8000/v1#MODEL"


class CompatibleServer:
    """The dialect of refs like ``http://127.0.0.1:8000/v1#model``."""

    name = "http"
    protocol = "openai"
    listing = LISTING

    def capabilities(self, model: str) -> Capabilities:
        """Everything: the server knows, and this side does not."""
        return Capabilities(
            context=0,
            parallel=PARALLEL,
            images=True,
            tools=True,
            thinking=True,
            logprobs=True,
            constrained=True,
        )

    def headers(self, secret: str) -> dict[str, str]:
        """See `Dialect`."""
        return headers(secret)

    def post(self, request: Request, model: str) -> tuple[PostRequest, tuple[str, ...]]:
        """Chat for messages, completions for a prompt."""
        chat.check(request, "such a server")
        extra = _extra(request)
        left_out: list[str] = []
        if request.grammar is not None:
            left_out.append(
                "the grammar is sent as llama-server and Overt take it; other servers may ignore it"
            )
        if chat.rounded(request.logit_bias):
            left_out.append(ROUNDED)
        if request.prompt is None:
            body = chat.chat(request, model, length="max_tokens", thoughts=self.name, extra=extra)
            return PostRequest("/chat/completions", encode(body)), tuple(left_out)
        if request.json_schema is not None:
            extra |= {"json_schema": dict(request.json_schema)}
            left_out.append(
                "the schema of a bare prompt is sent as llama-server takes it; other servers may "
                "ignore it"
            )
        body = chat.completion(request, model, extra)
        return PostRequest("/completions", encode(body)), tuple(left_out)

    def reader(self, request: Request) -> EventReader:
        return ChatReader(request, "the server", self.name)

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> OvertError:
        return failure(
            "the server", status, headers, body, add_key="overt login URL", missing=_ADDRESS
        )

    def embed(self, request: EmbedRequest, model: str) -> PostRequest:
        return PostRequest(
            "/embeddings", encode(openai_embed.body(request, model, "such a server"))
        )

    def embedded(self, body: bytes, request: EmbedRequest) -> Embeddings:
        return openai_embed.read(body, request, "the server")

    def counting(self, request: Request, model: str) -> PostRequest:
        """llama-server and Overt count what they would read for Responses; most others do not."""
        chat.check(request, "such a server")
        body = responses.conversation(request, model, effort=request.effort)
        return PostRequest("/responses/input_tokens", encode(body))

    def counted(self, body: bytes) -> int:
        return token_count(body, "the server")


ROUNDED = "logit_bias was rounded: whole numbers of -100 to 100 are what it takes"


_MAX_MODELS_LISTED = 10_000  # OpenRouter has some 400
_NAME = re.compile(r"[^#]{1,512}")  # as in refs


class _Listed(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Listed]


class _OpenAICount(msgspec.Struct):
    input_tokens: int


_counted = msgspec.json.Decoder(_OpenAICount).decode
_list = msgspec.json.Decoder(_List).decode


def headers(secret: str) -> dict[str, str]:
    """What every request carries."""
    fields = {"Content-Type": "application/json"}
    return fields | ({"Authorization": f"Bearer {secret}"} if secret else {})


def listed(body: bytes, who: str) -> tuple[str, ...]:
    """The models of a server, by the answer to `LISTING`; names that no ref can hold left out.

    Raises:
        ProviderFailed: it is no such answer.
    """
    try:
        rows = _list(body).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise broken(who, error, billed=False) from None
    names = dict.fromkeys(row.id for row in rows[:_MAX_MODELS_LISTED])
    return tuple(name for name in names if _NAME.fullmatch(name) and name.isprintable())


def token_count(body: bytes, who: str) -> int:
    """The answer to ``…/input_tokens``.

    Raises:
        ProviderFailed: it is none.
    """
    try:
        return max(_counted(body).input_tokens, 0)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise broken(who, error, billed=False) from None


def _extra(request: Request) -> dict[str, Any]:
    """Fields that OpenAI does not have."""
    sampling = request.sampling
    fields: dict[str, Any] = {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "typical_p": sampling.typical_p,
        "repeat_last_n": sampling.repeat_last_n,
        # llama.cpp and Ollama read the one, vLLM, SGLang and OpenRouter the other
        "repeat_penalty": sampling.repeat_penalty,
        "repetition_penalty": sampling.repeat_penalty,
        "grammar": request.grammar,
    }
    if request.prompt is None:
        fields["reasoning_effort"] = request.effort
        thinking = False if request.effort == "none" else request.thinking
        if thinking is not None:
            fields["chat_template_kwargs"] = {"enable_thinking": thinking}
    return {name: value for name, value in fields.items() if value is not None}
