"""A model as probes ask it: over an exchange, every answer and score kept as it comes.

Answers are kept in the same files as those of `overt eval` (evaluation/suites/answers.py), so a
killed audit goes on where it was and a second one is free.
"""

import json
import math
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from overt.chat import Message, Request, Sampling, ScoreRequest, TokenLogprob
from overt.errors import EngineFailed, OvertError, Unsupported
from overt.evaluation.suites.answers import Answers, ModelReply
from overt.evaluation.suites.ask import ModelClient, ModelIdentity
from overt.gateway.exchange import Exchange
from overt.openness.export.text import canonical
from overt.protocols.openai.logprobs import without_added

_ALTERNATIVES = 20


class AuditedModel:
    """One model. `scores` and `why_not` are known after `look_around`."""

    def __init__(
        self,
        exchange: Exchange,
        who: ModelIdentity,
        asker: ModelClient,
        answers: Answers,
        seed: int,
    ) -> None:
        self.who = who
        self.scores = False
        self.why_not = ""
        self.new = 0
        """Requests that were not kept from before."""
        self._exchange, self._asker, self._kept, self._seed = exchange, asker, answers, seed

    async def look_around(self) -> None:
        """Find out whether it tells how likely a text is."""
        try:
            await self._scored("\nHello", 0)
        except Unsupported as error:
            self.why_not = error.message
        else:
            self.scores = True

    async def likely(self, context: str, text: str) -> list[tuple[bytes, float]]:
        """The tokens of `text` after `context`; one across the border belongs to `text`.

        Raises:
            ContextExceeded, EngineFailed, Unsupported: as Exchange.score.
        """
        tokens = await self._scored(context + text, 0)
        return _after(tokens, context, text)

    async def choose(self, context: str, options: Sequence[str]) -> list[float]:
        """The log-probability of each option; see `likely` for errors.

        An option of one token that is among the likeliest after `context` is taken from there, and
        is the same number as when it is scored on its own.
        """
        known: dict[str, float] = {}
        chosen = []
        for option in options:
            if option not in known:
                tokens = await self._scored(context + option, _ALTERNATIVES)
                own = _after_tokens(tokens, context, option)
                known[option] = sum(value for _, value in _values(own))
                if len(own) == 1:
                    known = dict(own[0].top) | known
            chosen.append(known[option])
        return chosen

    async def answer(self, prompt: str, max_tokens: int) -> str:
        request = Request(
            self._ref,
            (Message.of("user", prompt),),
            max_tokens=max_tokens,
            sampling=Sampling(temperature=0.0, seed=self._seed),
            deterministic=self._local,
        )
        return await self._said(request)

    async def go_on(self, text: str, max_tokens: int) -> str:
        request = Request(
            self._ref,
            prompt=text,
            sampling=Sampling(temperature=0.0, seed=self._seed),
            max_tokens=max_tokens,
            deterministic=self._local,
        )
        return await self._said(request)

    @property
    def _ref(self) -> str:
        return self.who.ref

    @property
    def _local(self) -> bool:
        return bool(self.who.digest)

    async def _said(self, request: Request) -> str:
        reply = await self._asker.ask(request)
        self.new += not reply.cached
        return reply.text

    async def _scored(self, text: str, top: int) -> tuple[TokenLogprob, ...]:
        """The tokens of `text`, kept or new, without what the model puts before it."""
        key = sha256(canonical(["score", text, top]).encode("utf-8", "replace")).hexdigest()[:32]
        reply = self._kept.get(key)
        tokens = None if reply is None else _read(reply.text)
        if tokens is None:
            begun = time.monotonic()
            scored = await self._exchange.score(ScoreRequest(self._ref, text, top))
            # Of the alternatives only those of the last token are looked at.
            tokens = [
                [token.utf8.hex(), token.logprob, dict(token.top) if at == len(scored) - 1 else {}]
                for at, token in enumerate(scored)
            ]
            seconds = round(time.monotonic() - begun, 4)
            stored = ModelReply(
                json.dumps(tokens), "score", len(scored), 0, seconds, None, self.who.resolved
            )
            self._kept.put(key, stored)
            self.new += 1
        pieces = tuple(
            TokenLogprob(raw.decode("utf-8", "replace"), value, tuple(others.items()), None, raw)
            for raw, value, others in ((bytes.fromhex(a), b, c) for a, b, c in tokens)
        )
        return without_added(pieces, text)


def _after(tokens: Sequence[TokenLogprob], context: str, text: str) -> list[tuple[bytes, float]]:
    return _values(_after_tokens(tokens, context, text))


def _values(tokens: Sequence[TokenLogprob]) -> list[tuple[bytes, float]]:
    """Raises EngineFailed: a token without a finite log-probability."""
    values = []
    for token in tokens:
        if token.logprob is None or not math.isfinite(token.logprob):
            raise EngineFailed(
                f"the engine told no log-probability of {token.token!r}",
                "the probe cannot be run on this model",
            )
        values.append((token.utf8, token.logprob))
    return values


def _after_tokens(
    tokens: Sequence[TokenLogprob], context: str, text: str
) -> Sequence[TokenLogprob]:
    """The tokens that end behind `context`.

    Raises:
        EngineFailed: the tokens do not read as the text, so nobody knows which are which.
    """
    before = len(context.encode("utf-8", "replace"))
    wanted = (context + text).encode("utf-8", "replace")
    joined = b"".join(token.utf8 for token in tokens)
    if joined == b" " + wanted:  # SentencePiece begins every text with a space
        before += 1
    elif joined != wanted:
        raise EngineFailed(
            "the tokens of a text do not read as the text", "the probe cannot be run on this model"
        )
    end = 0
    for at, token in enumerate(tokens):
        end += len(token.utf8)
        if end > before:
            return tokens[at:]
    return ()


def _read(text: str) -> list[list[Any]] | None:
    """Kept tokens; None where a file was damaged."""
    try:
        rows = json.loads(text)
        for raw, value, others in rows:
            bytes.fromhex(raw)
            if not isinstance(value, float | int | None) or not isinstance(others, dict):
                return None
    except (ValueError, TypeError, RecursionError):
        return None
    return list(rows)


def failed(error: OvertError) -> dict[str, str]:
    """An error as a receipt shows it."""
    return {"code": error.code, "message": error.message[:300]}
