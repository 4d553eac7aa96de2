"""Anthropic's Messages API as an engine: its dialect, made of the files beside this one.

The body is written in body.py, the stream read in reader.py, failures named in
failure.py; what each family of models takes is data, anthropic.toml.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from overt.chat import Embeddings, EmbedRequest, Request
from overt.engine import Capabilities
from overt.errors import OvertError, ProviderFailed, Unsupported
from overt.providers.anthropic.body import NEW, OLD, answered, count_body
from overt.providers.anthropic.failure import failure
from overt.providers.anthropic.reader import AnthropicReader
from overt.providers.base import PostRequest
from overt.providers.dialect import MAX_TOKENS, broken, encode
from overt.providers.supported_parameters import accepts


class _AnthropicCount(msgspec.Struct):
    input_tokens: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class Anthropic:
    """A `Dialect`. Its base URL is without ``/v1``, as ANTHROPIC_BASE_URL is."""

    name = "anthropic"
    protocol = "anthropic"
    # Lists are the same in all versions.
    listing = PostRequest("/v1/models", b"", {"anthropic-version": OLD}, method="GET")

    def capabilities(self, model: str) -> Capabilities:
        """From anthropic.toml; `context` 0 is not known."""
        taken = accepts(self.name, model)
        return Capabilities(
            context=taken.context,
            longest=taken.context,
            images=taken.images,
            tools=taken.tools,
            thinking=taken.thinking,
            constrained=bool(taken.extra.get("structured")),
            local=False,
        )

    def headers(self, secret: str) -> dict[str, str]:
        """The key. The version goes with each POST: it depends on the model."""
        return {"x-api-key": secret} if secret else {}

    def post(self, request: Request, model: str) -> tuple[PostRequest, tuple[str, ...]]:
        """``POST /v1/messages``, and one sentence for each thing left out.

        Raises:
            BadRequest, Unsupported: what Anthropic cannot carry out as asked.
        """
        body, notes = answered(request, model, accepts(self.name, model))
        return self._post("/v1/messages", body, model), tuple(notes)

    def reader(self, request: Request) -> AnthropicReader:
        return AnthropicReader()

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> OvertError:
        return failure(status, headers, body)

    def embed(self, request: EmbedRequest, model: str) -> PostRequest:
        raise Unsupported("anthropic makes no embeddings", "choose an embedding model")

    def embedded(self, body: bytes, request: EmbedRequest) -> Embeddings:
        raise ProviderFailed("anthropic makes no embeddings")

    def counting(self, request: Request, model: str) -> PostRequest:
        """``POST /v1/messages/count_tokens``. Raises as `post`."""
        body = count_body(request, model, accepts(self.name, model))
        return self._post("/v1/messages/count_tokens", body, model)

    def counted(self, body: bytes) -> int:
        """Tokens of the prompt.

        Raises:
            ProviderFailed: `body` does not say.
        """
        try:
            return msgspec.json.decode(body, type=_AnthropicCount).input_tokens
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise broken(self.name, error, billed=False) from None

    def _post(self, path: str, body: dict[str, object], model: str) -> PostRequest:
        version = accepts(self.name, model).extra.get("version", NEW)
        return PostRequest(path, encode(body), {"anthropic-version": str(version)})
