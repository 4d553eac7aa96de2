"""An engine that repeats what it is told: deterministic, instant, no model needed.

For trying a client, a script or a protocol without a download, and for tests. The name after
``echo:`` may be any word; these change what it does:

    echo:slow    20 words a second, to try streaming and cancelling
    echo:think   reasons in a `Thought` first
    echo:tool    calls the first tool it is given, with {"text": the message}
    echo:fail    fails after three words

Tokens are words, so every count can be checked by hand.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator

from overt.chat import (
    Done,
    Event,
    Finish,
    Logprobs,
    Progress,
    Request,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from overt.engines.base import Capabilities
from overt.errors import ContextExceeded, EngineFailed

_CONTEXT = 1_000_000
_TOKEN = re.compile(r"\S+\s*|\s+")


class Echo:
    """Answers with the last message (or the prompt), one word an event."""

    name = "echo"
    capabilities = Capabilities(
        context=_CONTEXT, parallel=1_000_000, images=True, tools=True, thinking=True, logprobs=True
    )

    def __init__(self, mode: str = "") -> None:
        self._mode = mode

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Repeat.

        Raises:
            ContextExceeded: more than a million words.
            EngineFailed: the mode is ``fail``.
        """
        asked = [message.text for message in request.messages] or [request.prompt or ""]
        tokens_in = sum(len(_TOKEN.findall(text)) for text in asked)
        if tokens_in > _CONTEXT:
            raise ContextExceeded(tokens_in, _CONTEXT, "shorten it")
        yield Progress(tokens_in, tokens_in)
        if self._mode == "think":
            yield Thought(f"The message has {len(asked[-1])} characters.")
        if self._mode == "tool" and request.tools:
            yield ToolCall(0, "call_0", request.tools[0].name, json.dumps({"text": asked[-1]}))
            yield Usage(tokens_in, 1)
            yield Done("tool_calls")
            return
        words, finish = _cut(_TOKEN.findall(asked[-1]), request)
        for count, word in enumerate(words):
            if self._mode == "fail" and count == 3:
                raise EngineFailed("echo:fail fails after three words, as its name says")
            if self._mode == "slow":
                await asyncio.sleep(0.05)
            yield Text(word)
            if request.logprobs is not None:
                yield Logprobs((TokenLogprob(word, 0.0, ((word, 0.0),)),))
        yield Usage(tokens_in, len(words))
        yield Done(finish)

    async def close(self) -> None:
        """Nothing to free."""


def _cut(words: list[str], request: Request) -> tuple[list[str], Finish]:
    """Apply stop sequences, then the token limit."""
    text = "".join(words)
    stops = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    if stops:
        words = _TOKEN.findall(text[: min(stops)])
    if request.max_tokens is not None and len(words) > request.max_tokens:
        return words[: request.max_tokens], "length"
    return words, "stop"
