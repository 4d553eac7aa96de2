"""Log-probabilities as the older completions tell them, and those of a prompt.

``text_offset`` counts characters of the text that is returned. ``top_logprobs`` has the token
itself beside the most likely ones, as OpenAI documents it; the first token of a prompt has nothing
before it, so both are null there.
"""

import codecs
from collections.abc import Iterable

import msgspec

from overt.chat import ScoreRequest, TokenLogprob
from overt.protocols.base import HttpCall, ModelHold

Prompt = str | tuple[int, ...]
_LOWEST = -9999.0  # JSON has no infinity


class LegacyLogprobs(msgspec.Struct):
    """One entry a token in each list."""

    text_offset: list[int]
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]


def legacy(tokens: Iterable[TokenLogprob], top: int, offset: int = 0) -> LegacyLogprobs:
    """`tokens` with `top` alternatives each, the first at `offset` characters."""
    body = LegacyLogprobs([], [], [], [])
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    for token in tokens:
        body.text_offset.append(offset)
        offset += len(decode(token.utf8))
        body.tokens.append(token.token)
        if token.logprob is None:
            body.token_logprobs.append(None)
            body.top_logprobs.append(None)
            continue
        own = max(token.logprob, _LOWEST)
        likely = {text: max(p, _LOWEST) for text, p in reversed(token.top[:top])}
        # Two tokens may read the same; the likelier one, written last, stands.
        likely[token.token] = max(own, likely.get(token.token, _LOWEST))
        body.token_logprobs.append(own)
        body.top_logprobs.append(likely)
    return body


async def scored(
    call: HttpCall, model: str, prompt: Prompt, top: int, hold: ModelHold, *, after: bool
) -> tuple[tuple[TokenLogprob, ...], TokenLogprob | None]:
    """The tokens of `prompt`, and with `after` the most likely one to follow.

    Raises:
        As Services.score.
    """
    services, caller = call.services, call.caller
    if not prompt:
        return (), None
    if not after:
        return await services.score(caller, ScoreRequest(model, prompt, top), hold), None
    if isinstance(prompt, str):
        first = await services.score(caller, ScoreRequest(model, prompt, top), hold)
        ids = tuple(token.id for token in first if token.id is not None)
        if not ids or len(ids) != len(first):
            return first, None
    else:
        ids = prompt
    # The alternatives at one more position are what may follow, whichever token stands there.
    more = await services.score(caller, ScoreRequest(model, (*ids, ids[0]), max(top, 1)), hold)
    if not more or not more[-1].top:
        return more[:-1], None
    token, logprob = more[-1].top[0]
    return more[:-1], TokenLogprob(token, logprob, more[-1].top)


def without_added(tokens: tuple[TokenLogprob, ...], prompt: str) -> tuple[TokenLogprob, ...]:
    """`tokens` of a text without what the model puts before it (a begin-of-text token)."""
    token_bytes = [token.utf8 for token in tokens]
    wanted = prompt.encode("utf-8", "replace")
    for added in range(3):
        rest = b"".join(token_bytes[added:])
        if rest in (wanted, b" " + wanted):  # SentencePiece begins every text with a space
            return tokens[added:]
    return tokens


def text_of(tokens: Iterable[TokenLogprob]) -> str:
    """What `tokens` read together."""
    return b"".join(token.utf8 for token in tokens).decode("utf-8", "replace")
