"""OpenAI's handlers without a server: services that echo, or play what a test writes down."""

import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wire_rig

from overt.chat import Ranking, Request, RerankRequest, ScoreRequest, TokenLogprob
from overt.errors import OvertError
from overt.protocols.base import (
    AS_EVER,
    NOBODY,
    Caller,
    HttpCall,
    HttpReply,
    ModelCard,
    ModelHold,
    Stream,
)
from overt.protocols.openai import PROTOCOL

WORDS = {1: " a", 2: " b", 3: "c", 4: " d", 9: "<s>"}  # the vocabulary of the fake scorer


@dataclass
class Services(wire_rig.Services):
    """`wire_rig.Services`, which also rank, score and know tokens.

    Texts are scored as one token a character, -1, -2, -3 … for each but the first. `begin` has the
    model put a token before a text.
    """

    home: Path = Path("unused")
    number: float = 0.1
    begin: bool = False
    deleted: list[str] = field(default_factory=list)
    cards: Sequence[ModelCard] = (
        ModelCard("smollm2", "0" * 64, 98, 1_700_000_000.5, publisher="HuggingFaceTB"),
        ModelCard("embed", "1" * 64, 20, 1_600_000_000, kind="embedding"),
    )

    @property
    def library(self) -> "Services":
        return self

    async def delete(self, ref: str) -> None:
        await self.model(NOBODY, ref)
        self.deleted.append(ref)

    async def unload(self, caller: Caller, ref: str) -> bool:
        return False

    def loaded(self) -> list[Any]:
        return []

    async def show(self, ref: str) -> Any:
        @dataclass
        class Details:
            metadata: dict[str, Any]
            template: str

        return Details(
            {"tokenizer.ggml.eos_token_id": 9, "tokenizer.ggml.bos_token_id": 77}, "{{}}"
        )

    async def rerank(
        self, caller: Caller, request: RerankRequest, hold: ModelHold = AS_EVER
    ) -> Ranking:
        self.asked.append(request)
        return Ranking(tuple(float(len(text)) for text in request.documents), 7)

    async def score(
        self, caller: Caller, request: ScoreRequest, hold: ModelHold = AS_EVER
    ) -> tuple[TokenLogprob, ...]:
        self.asked.append(request)
        if isinstance(request.prompt, str):
            words = [*(["<s>"] if self.begin else []), *request.prompt]
        else:
            words = [WORDS.get(id, "?") for id in request.prompt]
        ids = [ord(word) for word in words if len(word) == 1] or list(range(len(words)))
        if len(ids) != len(words):
            ids = list(range(len(words)))
        return tuple(
            TokenLogprob(
                word,
                -float(i) if i else None,
                (("top", -0.5), (word, -float(i)))[: request.top] if i else (),
                ids[i],
            )
            for i, word in enumerate(words)
        )

    async def count(self, caller: Caller, request: Request) -> int:
        return len(request.prompt or "")

    async def tokenize(
        self, caller: Caller, model: str, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        self.asked.append((model, text, special))
        begin = (9,) if self.begin and around else ()
        if text.startswith(WORDS[9]):  # written out, it is one token
            begin, text = (9,), text.removeprefix(WORDS[9])
        return (*begin, *map(ord, text))

    async def detokenize(self, caller: Caller, model: str, tokens: Sequence[int]) -> str:
        return "".join(WORDS.get(id, "?") for id in tokens)


@dataclass
class Answered:
    """What a client would get: `chunks` of a stream, else `body`."""

    status: int
    body: Any
    chunks: list[Any]
    headers: dict[str, str]


async def ask(
    services: Services, path: str, body: Any = None, method: str = "POST", **params: str
) -> Answered:
    """Send `body` (JSON, or bytes as they are) to the handler of `path`, as the server does."""
    route = next(r for r in PROTOCOL.routes if r.method == method and r.path == path)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = HttpCall(services, NOBODY, "req_1", method, path, params, {}, {}, raw)  # type: ignore[arg-type]
    try:
        result = await route.handler(call)
        if isinstance(result, Stream):
            async with aclosing(result.chunks) as chunks:
                raw = b"".join([chunk async for chunk in chunks])
            return Answered(200, None, events(raw), result.headers)
    except OvertError as error:
        result = PROTOCOL.refuse(error, "req_1")
    assert isinstance(result, HttpReply)
    return Answered(result.status, json.loads(result.body()), [], result.headers)


def events(raw: bytes) -> list[Any]:
    """Server-sent events: each one ``data:`` line of JSON, and the last word as it is."""
    *pieces, rest = raw.decode().split("\n\n")
    assert rest == ""
    assert all(piece.startswith("data: ") and "\n" not in piece for piece in pieces)
    return [
        "[DONE]" if piece == "data: [DONE]" else json.loads(piece.removeprefix("data: "))
        for piece in pieces
    ]


def user(text: str, **fields: Any) -> dict[str, Any]:
    """A chat of one message."""
    return {"model": "echo:", "messages": [{"role": "user", "content": text}], **fields}
