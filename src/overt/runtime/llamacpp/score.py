"""llama.cpp as an engine that tells how likely each token of a text is.

Its own server does not (it ignores `echo`), so the worker holds another binding of llama.cpp
(score_host.py), which gives the logits of every position.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from overt.chat import ScoreRequest, TokenLogprob
from overt.errors import BadRequest, ContextExceeded, EngineFailed
from overt.runtime.llamacpp.begin_tokens import Probed
from overt.runtime.worker_engine import HostedModel


class ScoredToken(msgspec.Struct):
    """A token: its id, its bytes in base64, and its log-probability."""

    id: int
    raw: bytes
    logprob: float | None = None
    top: list["ScoredToken"] = []


class ScoreProblem(msgspec.Struct):
    """Why a worker cannot carry a request out."""

    kind: str
    message: str = ""
    tokens: int = 0
    context: int = 0


class _Reply(msgspec.Struct):
    tokens: list[ScoredToken] = []
    ids: list[int] = []
    text: str = ""
    error: ScoreProblem | None = None


class LlamaCppScorer(Probed, HostedModel):
    """One model loaded in one worker, to score."""

    purpose = "to score texts"

    async def score(self, request: ScoreRequest) -> tuple[TokenLogprob, ...]:
        """Each token of the prompt, those that the model puts before it included.

        Raises:
            BadRequest: an id that is no token of this model, or too many alternatives.
            ContextExceeded: the text does not fit, with both numbers.
            EngineFailed: llama.cpp gave up; WorkerDied where its process ended.
        """
        if not 0 <= request.top <= 20:
            raise BadRequest(f"{request.top} alternatives were asked for", "it goes from 0 to 20")
        prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
        pieces: list[TokenLogprob] = []
        async with aclosing(self._call("score", {"prompt": prompt, "top": request.top})) as replies:
            async for reply in replies:
                pieces += map(token, reply.tokens)
        return tuple(pieces)

    async def _tokens(
        self, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        body = {"text": text, "special": special, "around": around}
        async with aclosing(self._call("tokenize", body)) as replies:
            return tuple([id async for reply in replies for id in reply.ids])

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`.

        Raises:
            BadRequest: an id that is none.
        """
        async with aclosing(self._call("detokenize", {"tokens": list(tokens)})) as replies:
            return "".join([reply.text async for reply in replies])

    async def _call(self, kind: str, body: dict[str, object]) -> AsyncGenerator[_Reply, None]:
        async with aclosing(self._worker.call(kind, json.dumps(body).encode())) as chunks:
            async for chunk in chunks:
                try:
                    reply = msgspec.json.decode(chunk, type=_Reply)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise EngineFailed(f"the scorer broke its own protocol: {error}") from None
                if reply.error is not None:
                    raise as_error(reply.error)
                yield reply


def as_error(problem: ScoreProblem) -> Exception:
    """What a worker refused, in our tree."""
    message = " ".join(problem.message.split())[:400]
    if problem.kind == "too_long":
        return ContextExceeded(problem.tokens, problem.context)
    if problem.kind == "bad_token":
        return BadRequest(message or "a token id is beyond this model's vocabulary")
    return EngineFailed(f"the text could not be scored: {message or 'no reason given'}")


def token(piece: ScoredToken) -> TokenLogprob:
    """A token of the worker in our words."""
    text = piece.raw.decode("utf-8", "replace")
    whole = text.encode() == piece.raw
    top = tuple(
        (other.raw.decode("utf-8", "replace"), other.logprob)
        for other in piece.top
        if other.logprob is not None
    )
    return TokenLogprob(text, piece.logprob, top, piece.id, None if whole else piece.raw)
