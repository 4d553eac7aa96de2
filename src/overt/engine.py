"""The engine contract: a `Request` goes in, `Event`s come out.

An engine is one file in this folder whose name is the engine's. Everything else reaches engines
through `Engine`, so a worker on this machine, a provider's API and the built-in echo look alike.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from overt.chat import (
    Embeddings,
    EmbedRequest,
    Event,
    Ranking,
    Request,
    RerankRequest,
    ScoreRequest,
    TokenLogprob,
)
from overt.errors import Unsupported

Purpose = Literal["answer", "embed", "rerank", "score"]
"""What an engine is loaded for: the same weights need another kind of worker for each."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this engine can do with the model it has loaded."""

    context: int
    longest: int = 0  # the most tokens the model was made for; 0 is not known
    parallel: int = 1
    chat: bool = True  # the model has a chat template; without one it continues text
    images: bool = False
    tools: bool = False
    thinking: bool = False
    logprobs: bool = False
    constrained: bool = False  # JSON schema and grammar
    local: bool = True  # the text of a request stays on this machine


class Engine(Protocol):
    """Something that answers requests for one loaded model.

    `stream` yields events as chat.Event describes, or raises an OvertError, at any moment. Closing
    the iterator (or cancelling the task that reads it) cancels the request in the engine within a
    second and frees its slot.
    """

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def stream(self, request: Request) -> AsyncGenerator[Event, None]: ...

    async def embed(self, request: EmbedRequest) -> Embeddings: ...

    async def rerank(self, request: RerankRequest) -> Ranking: ...

    async def score(self, request: ScoreRequest) -> tuple[TokenLogprob, ...]:
        """How likely each token of a text is; the first token has no log-probability."""
        ...

    async def tokenize(
        self, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        """Token ids of `text`.

        Args:
            special: words such as ``<|im_end|>`` are single tokens.
            around: with those that the model puts around every prompt.
        """
        ...

    async def detokenize(self, tokens: Sequence[int]) -> str: ...

    async def render(self, request: Request) -> str:
        """The text that the model's chat template makes of the messages and tools."""
        ...

    async def count(self, request: Request) -> int:
        """Tokens of `request` as the model would read it."""
        ...

    async def close(self) -> None: ...


class Partial:
    """Base of engines that can do only some of `Engine`: the rest is refused with a clear word."""

    name = "this engine"

    async def embed(self, request: EmbedRequest) -> Embeddings:
        raise Unsupported(f"{self.name} makes no embeddings", "choose an embedding model")

    async def rerank(self, request: RerankRequest) -> Ranking:
        raise Unsupported(f"{self.name} does not rerank", "choose a reranking model")

    async def score(self, request: ScoreRequest) -> tuple[TokenLogprob, ...]:
        raise Unsupported(f"{self.name} does not score a prompt", "leave out echo or logprobs")

    async def tokenize(
        self, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        raise Unsupported(f"{self.name} does not show its tokens")

    async def detokenize(self, tokens: Sequence[int]) -> str:
        raise Unsupported(f"{self.name} does not show its tokens")

    async def render(self, request: Request) -> str:
        raise Unsupported(f"{self.name} has no chat template")

    async def count(self, request: Request) -> int:
        raise Unsupported(f"{self.name} does not count tokens ahead")
