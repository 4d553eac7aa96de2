"""A request of Anthropic's Messages API as a chat.Request.

What the real API documents and a local model cannot do is refused by name where leaving it out
would change the answer (tools that run on Anthropic's machines, files and addresses to fetch, PDF,
citations); hints about caching, pricing and tenants are taken and ignored.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, ClassVar

import msgspec

from overt.chat import (
    ImagePart,
    Message,
    Part,
    Request,
    Sampling,
    TextPart,
    Thought,
    ThoughtPart,
    Tool,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
)
from overt.errors import NotFound
from overt.protocols import media, signed
from overt.protocols.anthropic import wire
from overt.protocols.base import BadBody, bad_body
from overt.protocols.turns import joined

OLD, NEW = "2023-06-01", "2026-10-21"
"""The versions of the API (header ``anthropic-version``). A request without one is taken for old,
where Anthropic answers 400. NEW forbids documents in the assistant's messages and citations in the
user's text; sampling parameters, which it forbids as well, are taken all the same: local models
have them."""

OWN = "anthropic"
"""The engine whose signatures stand as they are."""

SIGNATURE = "b3ZlcnQ6dW5zaWduZWQ="
"""Stands where Anthropic signs a thought (base64 of ``overt:unsigned``). Nothing is proved by it:
a person may move a conversation between providers, so no signature is checked here."""


class LostThread(NotFound):
    """A conversation that Anthropic would hold is not held here; its client sends it whole then."""

    details: ClassVar[dict[str, str]] = {"error_code": "thread_not_found"}

    @property
    def code(self) -> str:
        return "not_found"


def request(body: wire.CreateMessage, version: str = OLD) -> Request:
    """The request that `body` is.

    ``max_tokens`` 0 asks to read the prompt only; the request has 1, and whoever answers leaves
    that one out.

    Raises:
        BadBody: it makes no sense, or only Anthropic's machines can do it.
        LostThread: see `prompt`.
    """
    thinking = body.thinking
    if isinstance(thinking, wire.Enabled) and thinking.budget_tokens >= body.max_tokens:
        raise BadBody(
            f"max_tokens is {body.max_tokens}, and must be greater than thinking.budget_tokens, "
            f"which is {thinking.budget_tokens}",
            "max_tokens",
        )
    stops = tuple(body.stop_sequences or ())
    if any(not stop.strip() for stop in stops):
        raise BadBody("each stop sequence must contain non-whitespace", "stop_sequences")
    top_k = None if body.top_k is None or body.top_k < 0 else body.top_k
    return replace(
        prompt(body, version),
        sampling=Sampling(temperature=body.temperature, top_p=body.top_p, top_k=top_k),
        max_tokens=max(1, body.max_tokens),
        stop=stops,
    )


def prompt(body: wire.PromptBody, version: str = OLD) -> Request:
    """All of `body` that the model reads.

    Raises:
        BadBody: as `request`.
        LostThread: it goes on with what only Anthropic would have kept.
    """
    if isinstance(body.thread, wire.OldThread):
        raise LostThread("this server keeps no threads", "send the whole conversation")
    for name in body.refused:
        if getattr(body, name):
            raise BadBody(f"{name} needs Anthropic's own machines; leave it out", name)
    tools, choice, parallel = _tools(body)
    config = body.output_config or wire.OutputConfig()
    format = config.format or body.output_format
    thinking = None
    if isinstance(body.thinking, wire.Enabled | wire.Disabled):
        thinking = isinstance(body.thinking, wire.Enabled)
    return Request(
        model=body.model,
        messages=tuple(_merged(_messages(body, new=version == NEW))),
        tools=tools,
        tool_choice=choice,
        parallel_tools=parallel,
        json_schema=format.schema if format else None,
        thinking=thinking,
        effort=config.effort,
    )


# ---- messages ------------------------------------------------------------------------------


def _messages(body: wire.PromptBody, *, new: bool) -> Iterator[Message]:
    if body.system:
        blocks = [body.system] if isinstance(body.system, str) else [b.text for b in body.system]
        yield Message.of("system", "\n\n".join(text for text in blocks if text))
    for at, message in enumerate(body.messages):
        path = f"messages[{at}].content"
        content = message.content
        if isinstance(content, str):
            yield Message.of(message.role, content)
        elif message.role == "user":
            yield from _user(content, path, new=new)
        elif message.role == "assistant":
            yield Message("assistant", tuple(_assistant(content, path, new=new)))
        else:
            yield Message("system", tuple(_system(content, path)))


def _merged(messages: Iterator[Message]) -> Iterator[Message]:
    """Neighbours of one role as one message, as Anthropic reads them.

    Many chat templates know nothing but turns.
    """
    for role, several in groupby(messages, lambda message: message.role):
        turn = list(several)
        if role == "tool" or len(turn) == 1:
            yield from turn
            continue
        parts = tuple(part for message in turn for part in message.parts)
        yield Message(role, parts if role == "assistant" else joined(parts))


def _user(blocks: Sequence[wire.AnyBlock], path: str, *, new: bool) -> Iterator[Message]:
    """A message for each tool result, and one for what the person says."""
    parts: list[Part] = []
    for at, block in enumerate(blocks):
        where = f"{path}[{at}]"
        match block:
            case wire.ToolResultBlock():
                if parts:
                    yield Message("user", joined(parts))
                text, images = _result(block, where)
                yield Message("tool", (ToolResultPart(block.tool_use_id, text, block.is_error),))
                parts = images  # templates know images in what a person says only
            case wire.TextBlock() if new and block.citations:
                raise BadBody(
                    f"citations are not permitted in user text since {NEW}", f"{where}.citations"
                )
            case wire.ThinkingBlock() | wire.RedactedThinkingBlock() | wire.ToolUseBlock():
                raise BadBody("this block can only be in assistant messages", where)
            case _:
                parts.extend(_visible_parts(block, where))
    if parts:
        yield Message("user", joined(parts))


def _assistant(blocks: Sequence[wire.AnyBlock], path: str, *, new: bool) -> Iterator[Part]:
    for at, block in enumerate(blocks):
        where = f"{path}[{at}]"
        match block:
            case wire.ThinkingBlock(thinking=thought, signature=signature):
                yield _thought(thought, signature, sealed=False)
            case wire.RedactedThinkingBlock(data=data):
                if not _CALL.fullmatch(data):
                    yield _thought("", data, sealed=True)
            case wire.ToolUseBlock(id=id, name=name):
                before = blocks[at - 1] if at else None
                signs, origin = _of_call(before)
                arguments = _object(block.input, f"{where}.input")
                yield ToolCallPart(id, name, arguments, signs, origin)
            case wire.ToolResultBlock():
                raise BadBody("tool_result blocks can only be in user messages", where)
            case wire.DocumentBlock() if new:
                raise BadBody(f"documents are for user messages only since {NEW}", where)
            case _:
                yield from _visible_parts(block, where)


def _thought(text: str, signature: str, *, sealed: bool) -> ThoughtPart:
    if signature == SIGNATURE:
        return ThoughtPart(text)
    own_signature, origin = signed.split(signature, OWN)
    return ThoughtPart(text, own_signature, sealed, origin)


def sealed(piece: Thought) -> str:
    """The signature of `piece` as a client is to send it back."""
    return signed.with_origin(piece.signature or "", piece.origin, OWN)


def marked(body: bytes) -> bool:
    """Whether thoughts in `body` may be signed by this server, which Anthropic would refuse.

    Such a body cannot be handed on as it is: it is to be translated, which leaves them out.
    """
    return SIGNATURE.encode() in body or b'"overt:' in body


_CALL = re.compile(r"overt:call:(.*)", re.DOTALL)


def sealed_call(piece: ToolCall) -> str:
    """The signature of a call as the data of a sealed thought, which stands before the call."""
    return f"overt:call:{signed.with_origin(piece.signature or '', piece.origin, OWN)}"


def _of_call(before: wire.AnyBlock | None) -> tuple[str, str] | tuple[None, None]:
    """The signature and origin of a call that `before` stands before, as `sealed_call` wrote it."""
    data = before.data if isinstance(before, wire.RedactedThinkingBlock) else ""
    match = _CALL.fullmatch(data)
    return signed.split(match[1], OWN) if match else (None, None)


def _system(blocks: Sequence[wire.AnyBlock], path: str) -> Iterator[Part]:
    for at, block in enumerate(blocks):
        if not isinstance(block, wire.TextBlock):
            raise BadBody("a system message is made of text blocks only", f"{path}[{at}]")
        yield TextPart(block.text)


def _visible_parts(block: wire.AnyBlock, path: str) -> Iterator[Part]:
    """Text and images, and what can be told as text."""
    match block:
        case wire.TextBlock(text=text):
            yield TextPart(text)
        case wire.ImageBlock():
            yield _image(block, f"{path}.source")
        case wire.DocumentBlock():
            yield from _document(block, path)
        case wire.SearchResultBlock(title=title, source=source):
            _no_citations(block.citations, path)
            text = "\n".join(part.text for part in block.content)
            yield TextPart(_quoted("search_result", text, title=title, source=source))
        case _:
            kind = block.__struct_config__.tag
            raise BadBody(
                f"{kind} blocks are made and read by Anthropic's own machines; leave them out", path
            )


def _image(block: wire.ImageBlock, path: str) -> ImagePart:
    match block.source:
        case wire.Base64Source(data=data):
            return media.from_base64(data, f"{path}.data")
        case wire.UrlSource(url=url) if url.startswith("data:"):
            return media.from_url(url, f"{path}.url")
        case wire.UrlSource():
            raise BadBody("an image is sent as base64; this server fetches no addresses", path)
        case _:
            raise BadBody("an image is sent as base64; this server keeps no files of yours", path)


def _document(block: wire.DocumentBlock, path: str) -> Iterator[Part]:
    _no_citations(block.citations, path)
    match block.source:
        case wire.TextSource(data=text):
            yield TextPart(_quoted("document", text, title=block.title, context=block.context))
        case wire.ContentSource(content=str(text)):
            yield TextPart(_quoted("document", text, title=block.title, context=block.context))
        case wire.ContentSource(content=list(parts)):
            yield TextPart(_quoted("document", None, title=block.title, context=block.context))
            for at, part in enumerate(parts):
                yield from _visible_parts(part, f"{path}.source.content[{at}]")
            yield TextPart("</document>")
        case _:
            raise BadBody(
                "a document is sent as plain text; this server reads no PDF, fetches no addresses "
                "and keeps no files of yours",
                f"{path}.source",
            )


def _quoted(tag: str, text: str | None, **attributes: str | None) -> str:
    """`text` between tags that say what it is; None leaves it open."""
    attribute_text = "".join(f' {name}="{value}"' for name, value in attributes.items() if value)
    return (
        f"<{tag}{attribute_text}>" if text is None else f"<{tag}{attribute_text}>\n{text}\n</{tag}>"
    )


def _no_citations(citations: wire.Citations | None, path: str) -> None:
    if citations is not None and citations.enabled:
        raise BadBody("local models make no citations; leave them off", f"{path}.citations")


def _result(block: wire.ToolResultBlock, path: str) -> tuple[str, list[Part]]:
    """The text of a tool's result, and its images."""
    if not isinstance(block.content, list):
        return block.content or "", []
    parts = [
        part
        for at, part_ in enumerate(block.content)
        for part in _visible_parts(part_, f"{path}.content[{at}]")
    ]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return "\n".join(texts), [part for part in parts if isinstance(part, ImagePart)]


def _object(raw: msgspec.Raw, path: str) -> str:
    """A JSON object as it was written."""
    try:
        text = bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not valid JSON: {error}", path) from None
    if not text.lstrip().startswith("{"):
        raise BadBody("Input should be a valid dictionary", path)
    return text


# ---- tools ---------------------------------------------------------------------------------


def _tools(body: wire.PromptBody) -> tuple[tuple[Tool, ...], str, bool]:
    """The tools, which of them is to be used, and whether several at once may be."""
    tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(body.tools or ())]
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise BadBody("Tool names must be unique.", "tools")
    choice = body.tool_choice
    if choice is None or isinstance(choice, wire.NoChoice):
        return tuple(tools), "auto" if choice is None else "none", True
    parallel = not choice.disable_parallel_tool_use
    if not tools:
        raise BadBody("tool_choice may only be specified while providing tools", "tool_choice")
    if isinstance(choice, wire.AutoChoice):
        return tuple(tools), "auto", parallel
    if isinstance(choice, wire.AnyChoice):
        return tuple(tools), "required", parallel
    if choice.name not in names:
        raise BadBody(f"Tool {choice.name!r} not found in provided tools", "tool_choice.name")
    if choice.name in ("auto", "none", "required"):  # cannot be told from the mode of that name
        return tuple(tool for tool in tools if tool.name == choice.name), "required", parallel
    return tuple(tools), choice.name, parallel


def _tool(body: dict[str, Any], path: str) -> Tool:
    kind = body.get("type")
    if isinstance(kind, str) and kind != "custom":
        raise BadBody(
            f"the tool {kind} is Anthropic's own and no local model was taught it; describe one "
            "with an input_schema instead",
            f"{path}.type",
        )
    try:
        tool = msgspec.convert(body, wire.CustomTool)
    except msgspec.ValidationError as error:
        raise bad_body(error, path) from None
    except RecursionError:
        raise BadBody("the schema is nested too deeply", path) from None
    return Tool(tool.name, tool.description or "", tool.input_schema)
