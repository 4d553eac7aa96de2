"""The items of a response: what a client sends, what the API shows of it, what a model reads."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from overt.chat import (
    ImagePart,
    Message,
    Part,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from overt.protocols import media
from overt.protocols.base import BadBody, encode
from overt.protocols.openai import responses_reasoning as sealed

T = TypeVar("T")

Item = dict[str, Any]
"""One item of a conversation as JSON has it, once `normal` has seen to it."""

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

# ---- as they are sent ------------------------------------------------------------------------


class _MessageItem(msgspec.Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]
    id: str | None = None
    phase: str | None = None


class _CallItem(msgspec.Struct):
    call_id: str
    name: str
    arguments: str = ""
    input: str = ""
    id: str | None = None


class _Result(msgspec.Struct):
    output: str | list[dict[str, Any]]
    call_id: str
    id: str | None = None


class _TextItem(msgspec.Struct):
    text: str


class _Reasoning(msgspec.Struct):
    summary: list[_TextItem] = []
    content: list[_TextItem] | None = None
    id: str | None = None
    encrypted_content: str | None = None


class _InputImage(msgspec.Struct):
    image_url: str | None = None
    file_id: str | None = None
    detail: str = "auto"


class _Refusal(msgspec.Struct):
    refusal: str


def items_of(value: str | Sequence[Mapping[str, Any]] | None, name: str) -> list[Item]:
    """The items of `input`, each with an id that `name` begins; references are left as they are.

    Raises:
        BadBody: an item that is not understood; its path says which.
    """
    if value is None:
        return []
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return [normal(item, f"input[{n}]", f"{name}1{n:04x}") for n, item in enumerate(value)]


def normal(item: Mapping[str, Any], path: str, name: str) -> Item:
    """`item` with all that the API shows of one; `name` makes an id where it has none."""
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if kind == "item_reference":
        if not isinstance(item.get("id"), str):
            raise BadBody(f"{path} is of no type and refers to no item", path)
        return {"type": "item_reference", "id": item["id"]}
    shape = _NORMAL.get(kind) if isinstance(kind, str) else None
    if shape is None:
        raise BadBody(f"{path} is of type {str(kind)[:80]!r}, which is not taken here", path)
    made = shape(item, path)
    id = item.get("id")
    known = isinstance(id, str) and _ID.fullmatch(id)
    return {"id": id if known else _PREFIX[kind] + name, "type": kind, **made}


def _normal_message(item: Mapping[str, Any], path: str) -> Item:
    message = convert(item, _MessageItem, path)
    assistant = message.role == "assistant"
    content = message.content
    if isinstance(content, str):
        content = [{"type": "output_text" if assistant else "input_text", "text": content}]
    for n, part in enumerate(content):
        _part(part, f"{path}.content[{n}]")
        if assistant and part.get("type") == "output_text":
            part.setdefault("annotations", [])
    made = {"role": message.role, "status": "completed", "content": content}
    return {**made, "phase": message.phase} if message.phase else made


def _normal_call(item: Mapping[str, Any], path: str) -> Item:
    call = convert(item, _CallItem, path)
    what = "input" if item.get("type") == "custom_tool_call" else "arguments"
    return {
        "call_id": call.call_id,
        "name": call.name,
        what: getattr(call, what),
        "status": "completed",
    }


def _normal_result(item: Mapping[str, Any], path: str) -> Item:
    result = convert(item, _Result, path)
    if not isinstance(result.output, str):
        for n, part in enumerate(result.output):
            _part(part, f"{path}.output[{n}]")
    return {"call_id": result.call_id, "output": result.output, "status": "completed"}


def _normal_reasoning(item: Mapping[str, Any], path: str) -> Item:
    reasoning = convert(item, _Reasoning, path)
    made = {"summary": item.get("summary") or []}
    if item.get("content"):
        made["content"] = item["content"]
    if reasoning.encrypted_content:
        made["encrypted_content"] = reasoning.encrypted_content
        if isinstance(item.get("status"), str):  # what a provider made goes back to it as it was
            made["status"] = item["status"]
    return made


_NORMAL = {
    "message": _normal_message,
    "function_call": _normal_call,
    "custom_tool_call": _normal_call,
    "function_call_output": _normal_result,
    "custom_tool_call_output": _normal_result,
    "reasoning": _normal_reasoning,
}
_PREFIX = {
    "message": "msg_",
    "function_call": "fc_",
    "custom_tool_call": "ctc_",
    "function_call_output": "fco_",
    "custom_tool_call_output": "ctco_",
    "reasoning": "rs_",
}


# ---- messages --------------------------------------------------------------------------------


def messages(items: Iterable[Item], instructions: str | None = None) -> tuple[Message, ...]:
    """What the model reads.

    Reasoning, text and calls of one turn become one message; system messages at the beginning too,
    because many templates know only one.
    """
    made: list[_MessageTurn] = []
    if instructions:
        made.append(_MessageTurn(Message.of("system", instructions)))
    signs: tuple[str | None, str | None] = (None, None)
    for item in items:
        if item["type"] == "reasoning" and (signature := sealed.of_call(item)):
            signs = signature
            continue
        message = _message(item, *signs)
        signs = (None, None)
        if made and made[-1].goes_on(message, first=len(made) == 1):
            made[-1].add(message)
        else:
            made.append(_MessageTurn(message))
    return tuple(Message(turn.role, tuple(turn.parts)) for turn in made)


class _MessageTurn:
    """A message in the making."""

    def __init__(self, message: Message) -> None:
        self.role = message.role
        self.parts: list[Part] = []
        self._said = False  # whether there was more than reasoning
        self._take(message.parts)

    def goes_on(self, message: Message, *, first: bool) -> bool:
        if self.role != message.role:
            return False
        if self.role == "system":
            return first
        if self.role != "assistant":
            return False
        # A second text, or reasoning after the answer, is a turn of its own.
        return not self._said or all(isinstance(part, ToolCallPart) for part in message.parts)

    def add(self, message: Message) -> None:
        if self.role == "system":
            self.parts.append(TextPart("\n\n"))
        self._take(message.parts)

    def _take(self, parts: Sequence[Part]) -> None:
        self.parts += parts
        self._said = self._said or any(isinstance(part, TextPart | ToolCallPart) for part in parts)


def _message(item: Item, signature: str | None = None, origin: str | None = None) -> Message:
    """`signature` and its `origin` are those of a call."""
    kind = item["type"]
    if kind == "message":
        role: Role = "system" if item["role"] == "developer" else item["role"]
        return Message(role, tuple(_part(part, "input") for part in item["content"]))
    if kind == "reasoning":
        texts = item.get("content") or item["summary"]
        part = sealed.part(item, "".join(text["text"] for text in texts))
        return Message("assistant", (part,))
    if kind == "function_call":
        call = ToolCallPart(item["call_id"], item["name"], item["arguments"], signature, origin)
        return Message("assistant", (call,))
    if kind == "custom_tool_call":
        text = encode({"input": item["input"]}).decode()
        call = ToolCallPart(item["call_id"], item["name"], text, signature, origin)
        return Message("assistant", (call,))
    return _result(item)


def _result(item: Item) -> Message:
    output = item["output"]
    if isinstance(output, str):
        return Message("tool", (ToolResultPart(item["call_id"], output),))
    parts = [_part(part, "input") for part in output]
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    images = tuple(part for part in parts if isinstance(part, ImagePart))
    return Message("tool", (ToolResultPart(item["call_id"], text), *images))


def _part(part: Mapping[str, Any], path: str) -> TextPart | ImagePart:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return TextPart(convert(part, _TextItem, path).text)
    if kind == "refusal":
        return TextPart(convert(part, _Refusal, path).refusal)
    if kind == "input_image":
        image = convert(part, _InputImage, path)
        if image.image_url is None:
            raise BadBody("an image is sent as image_url with a data: URL", f"{path}.image_url")
        return media.from_url(image.image_url, f"{path}.image_url")
    raise BadBody(
        f"{path} is of type {str(kind)[:80]!r}; this server reads input_text and input_image", path
    )


def convert(value: Any, kind: type[T], path: str) -> T:
    """JSON already read, as a struct.

    Raises:
        BadBody: it is not of that shape; `path` is where it was.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        at = path + where.rstrip("`")
        raise BadBody(f"{what} at {at}", at) from None
