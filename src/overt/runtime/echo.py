"""An engine that repeats what it is told: deterministic, instant, no model needed.

For trying a client, a script or a protocol without a download, and for tests. The name after
``echo:`` may be any word; these change what it does:

    echo:slow    20 words a second, to try streaming and cancelling
    echo:think   reasons in a `Thought` first
    echo:tool    calls the first tool it is given, with {"text": the message}
    echo:fail    fails after three words

A required or named tool is called by all of them; a JSON schema is answered with a small value
that fits it. Tokens are words, so every count can be checked by hand. An embedding is a sum over
words, a ranking counts the words of the query, and each word of a scored text has the
log-probability -1.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from overt.chat import (
    Done,
    Embeddings,
    EmbedRequest,
    Event,
    Logprobs,
    Progress,
    Ranking,
    Request,
    RerankRequest,
    ScoreRequest,
    Text,
    Thought,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
)
from overt.engine import Capabilities
from overt.errors import BadRequest, ContextExceeded, EngineFailed

_CONTEXT = 1_000_000
_DIMENSIONS = 8
_TOKEN = re.compile(r"\S+\s*|\s+")
_MIN_ID = 1 << 30  # so that small numbers, as people type them, are echoed as numbers


class Echo:
    """Answers with the last message (or the prompt), one word an event."""

    name = "echo"
    capabilities = Capabilities(
        context=_CONTEXT,
        parallel=1_000_000,
        images=True,
        tools=True,
        thinking=True,
        logprobs=True,
        constrained=True,
    )

    def __init__(self, mode: str = "") -> None:
        self._mode = mode

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Repeat.

        Raises:
            ContextExceeded: more than a million words.
            EngineFailed: the mode is ``fail``.
        """
        texts = _user_texts(request)
        tokens_in = sum(len(_words(text)) for text in texts)
        _fits(tokens_in)
        yield Progress(tokens_in, tokens_in)
        if self._mode == "think" and request.thinking is not False:
            yield Thought(f"The message has {len(texts[-1])} characters.")
        if tool := self._tool(request):
            yield ToolCall(0, "call_0", tool.name, json.dumps({"text": texts[-1]}))
            yield Usage(tokens_in, 1)
            yield Done("tool_calls")
            return
        text = texts[-1]
        if request.json_schema is not None:
            text = json.dumps(example(request.json_schema, request.json_schema))
        words, done = _cut(text, request)
        for count, word in enumerate(words):
            if self._mode == "fail" and count == 3:
                raise EngineFailed("echo:fail fails after three words, as its name says")
            if self._mode == "slow":
                await asyncio.sleep(0.05)
            yield Text(word)
            if request.logprobs is not None:
                yield Logprobs((_logprob(word, 0.0, request.logprobs),))
        yield Usage(tokens_in, len(words))
        yield done

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Texts that share words get vectors that point the same way.

        Raises:
            BadRequest: more than eight dimensions, or none.
            ContextExceeded: more than a million words, and `truncate` is off.
        """
        size = _DIMENSIONS if request.dimensions is None else request.dimensions
        if not 1 <= size <= _DIMENSIONS:
            raise BadRequest(f"dimensions is {size}", f"it goes from 1 to {_DIMENSIONS}")
        texts = [_words(_text(item)) for item in request.inputs]
        for words in texts:
            if not request.truncate:
                _fits(len(words))
        texts = [words[:_CONTEXT] for words in texts]
        return Embeddings(tuple(_vector(words, size) for words in texts), sum(map(len, texts)))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """The share of the query's words that a document has."""
        wanted = _plain(request.query)
        scores = [len(wanted & _plain(text)) / max(len(wanted), 1) for text in request.documents]
        words = sum(len(_words(request.query)) + len(_words(text)) for text in request.documents)
        return Ranking(tuple(scores), words)

    async def score(self, request: ScoreRequest) -> tuple[TokenLogprob, ...]:
        """Every word is as likely as the next."""
        words = _words(_text(request.prompt))
        _fits(len(words))
        rest = [_logprob(word, -1.0, request.top) for word in words[1:]]
        first = [TokenLogprob(word, None, (), _token(word)) for word in words[:1]]
        return (*first, *rest)

    async def tokenize(
        self, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        return tuple(map(_token, _words(text)))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return _text(tuple(tokens))

    async def render(self, request: Request) -> str:
        """One line a message: ``<|role|>`` and its text.

        Raises:
            BadRequest: there is a prompt in place of messages.
        """
        if request.prompt is not None:
            raise BadRequest("a prompt is not rendered", "give messages")
        return "".join(f"<|{message.role}|>{message.text}\n" for message in request.messages)

    async def count(self, request: Request) -> int:
        return sum(len(_words(text)) for text in _user_texts(request))

    async def close(self) -> None:
        """Nothing to free."""

    def _tool(self, request: Request) -> Tool | None:
        """The tool to call, if any.

        Raises:
            BadRequest: the one chosen is not among those given.
        """
        choice, tools = request.tool_choice, request.tools
        if choice == "none" or not tools:
            return None
        if choice in ("auto", "required"):
            return tools[0] if choice == "required" or self._mode == "tool" else None
        for tool in tools:
            if tool.name == choice:
                return tool
        raise BadRequest(f"tool choice {choice!r} is none of the tools given")


def example(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """A small value that fits `schema`, if that is of the simple kind; `root` holds its $defs."""
    if not isinstance(schema, Mapping) or depth > 20:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return example(schema[name][0], root, depth + 1)
    if "$ref" in schema:
        return example(_referred(str(schema["$ref"]), root), root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    return _of_kind(str(kind), schema, root, depth)


def _of_kind(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    if kind == "object":
        inside = schema.get("properties", {})
        needed = schema.get("required", ())
        return {name: example(inside.get(name, {}), root, depth + 1) for name in needed}
    if kind == "array":
        count = min(int(schema.get("minItems", 0)), 100)
        return [example(schema.get("items", {}), root, depth + 1) for _ in range(count)]
    if kind == "string":
        return "a" * min(int(schema.get("minLength", 1)), 10_000)
    if kind in ("integer", "number"):
        above = schema.get("exclusiveMinimum")
        low = schema.get("minimum", 0 if above is None else int(above) + 1)
        high = schema.get("maximum", low)
        return min(low, high)
    return {"boolean": False}.get(kind)


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    target: Any = root
    for name in reference.removeprefix("#").split("/")[1:]:
        target = target.get(name.replace("~1", "/").replace("~0", "~"), {})
    return target


# ---- words ---------------------------------------------------------------------------------

_known: dict[int, str] = {}  # every word an id was given for, in this process


def _words(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _token(word: str) -> int:
    """The word's id: from its letters, so that it is the same in every process."""
    digest = blake2b(word.encode("utf-8", "replace"), digest_size=4).digest()
    id = _MIN_ID | int.from_bytes(digest, "big") & (_MIN_ID - 1)
    while _known.setdefault(id, word) != word:
        id = _MIN_ID | (id + 1) & (_MIN_ID - 1)
    return id


def _text(value: str | tuple[int, ...]) -> str:
    """What `given` says; an id of no word that was seen here is its number."""
    if isinstance(value, str):
        return value
    return "".join(_known.get(id, f"{id} ") for id in value).rstrip(" ")


def _user_texts(request: Request) -> list[str]:
    """Each message's text, or the prompt."""
    if request.messages:
        return [message.text for message in request.messages]
    return [_text(request.prompt or "")]


def _plain(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _fits(words: int) -> None:
    if words > _CONTEXT:
        raise ContextExceeded(words, _CONTEXT, "shorten it")


def _vector(words: list[str], size: int) -> tuple[float, ...]:
    total = [0.0] * _DIMENSIONS
    for word in [word.strip().lower() for word in words] or [""]:
        digest = blake2b(word.encode("utf-8", "replace"), digest_size=_DIMENSIONS).digest()
        total = [sum(pair) for pair in zip(total, (byte - 127.5 for byte in digest), strict=True)]
    length = sum(value * value for value in total[:size]) ** 0.5 or 1.0
    return tuple(value / length for value in total[:size])


def _logprob(word: str, value: float, top: int) -> TokenLogprob:
    return TokenLogprob(word, value, ((word, value),)[:top], _token(word))


def _cut(text: str, request: Request) -> tuple[list[str], Done]:
    """Apply stop sequences, then the token limit."""
    cuts = [(at, stop) for stop in request.stop if (at := text.find(stop)) >= 0]
    at, stop = min(cuts, key=lambda cut: cut[0]) if cuts else (len(text), None)
    words = _words(text[:at])
    if request.max_tokens is not None and len(words) > request.max_tokens:
        return words[: request.max_tokens], Done("length")
    return words, Done("stop", stop)
