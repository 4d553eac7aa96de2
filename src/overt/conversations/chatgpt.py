"""ChatGPT's export: the zip that is mailed, its ``conversations.json``, or one conversation of it.

A conversation is a tree of messages, since answers can be asked for again. The branch that was
shown last (from ``current_node`` up) is read; messages of other branches are counted. Custom
instructions (``user_editable_context``) become the system prompt. OpenAI documents no format: this
is how exports of 2024 to 2026 are described in public.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import msgspec

from overt.chat import (
    ImagePart,
    Message,
    Part,
    TextPart,
    ThoughtPart,
    ToolCallPart,
    ToolResultPart,
)
from overt.conversations.base import (
    ChatExport,
    Conversation,
    Lost,
    mapping,
    seconds,
    several,
    text,
    title_of,
    when,
)

NAME = "chatgpt"
ABOUT = "ChatGPT's export (zip or conversations.json); Open WebUI reads it too"
_MAX_DEPTH = 1_000_000


def looks(member: str, value: Any) -> bool:
    """Whether the first conversations have a mapping of nodes."""
    rows = [value] if isinstance(value, dict) else several(value)
    return bool(rows) and all(isinstance(mapping(row).get("mapping"), dict) for row in rows[:100])


def read(value: Any, archive: ChatExport, lost: Lost) -> Iterator[Conversation]:
    """The conversations, in the order of the file."""
    for row in map(mapping, [value] if isinstance(value, dict) else several(value)):
        nodes = mapping(row.get("mapping"))
        branch = _branch(nodes, text(row.get("current_node")))
        others = sum(1 for id, node in nodes.items() if _is_message(node) and id not in branch)
        lost["message of another branch"] += others
        messages: list[Message] = []
        model = text(row.get("default_model_slug"))
        said_all = [mapping(mapping(node).get("message")) for node in branch.values()]
        for entry, following in zip(said_all, [*said_all[1:], {}], strict=False):
            model = text(mapping(entry.get("metadata")).get("model_slug")) or model
            if message := _message(entry, _tool(following), archive, lost):
                messages.append(message)
        id = text(row.get("conversation_id")) or text(row.get("id"))
        yield Conversation(
            title_of(row.get("title"), messages),
            tuple(messages),
            id,
            model,
            when(row.get("create_time")),
        )


def _branch(nodes: Mapping[str, Any], last: str) -> dict[str, Any]:
    """The nodes from the root to `last`, or to the last leaf where that is not there."""
    if last not in nodes:
        ends = (id for id, node in nodes.items() if not several(mapping(node).get("children")))
        last = next(reversed(list(ends)), "")
    branch: dict[str, Any] = {}
    while last in nodes and last not in branch and len(branch) < _MAX_DEPTH:
        branch[last] = nodes[last]
        last = text(mapping(nodes[last]).get("parent"))
    return dict(reversed(branch.items()))


def _is_message(node: Any) -> bool:
    """Whether a node holds something a person or a model said."""
    message = mapping(mapping(node).get("message"))
    who = text(mapping(message.get("author")).get("role"))
    return who in ("user", "assistant") and bool(
        several(mapping(message.get("content")).get("parts"))
    )


def _tool(entry: Mapping[str, Any]) -> str:
    """The tool that says something; "" where it is somebody else."""
    author = mapping(entry.get("author"))
    return (text(author.get("name")) or "tool") if author.get("role") == "tool" else ""


def _message(
    entry: Mapping[str, Any], following: str, archive: ChatExport, lost: Lost
) -> Message | None:
    """`following` is the tool that speaks next. A call has the name of its tool for an id."""
    author, content = mapping(entry.get("author")), mapping(entry.get("content"))
    role, kind = text(author.get("role")), text(content.get("content_type"))
    if not content or role not in ("system", "user", "assistant", "tool"):
        return None
    if kind == "user_editable_context":
        profile = (text(content.get("user_profile")), text(content.get("user_instructions")))
        joined = "\n\n".join(text_ for text_ in profile if text_)
        return Message.of("system", joined) if joined else None
    parts = tuple(_parts(kind, content, archive, lost))
    if role == "tool":
        result = "".join(part.text for part in parts if isinstance(part, TextPart))
        lost["image that a tool made"] += sum(isinstance(part, ImagePart) for part in parts)
        return Message("tool", (ToolResultPart(_tool(entry), result),))
    recipient = text(entry.get("recipient")) or "all"
    if recipient == "all" and kind == "code" and following:
        recipient = following  # older exports leave out to whom the code went
    if role == "assistant" and recipient != "all":
        arguments = "".join(part.text for part in parts if isinstance(part, TextPart))
        return Message("assistant", (ToolCallPart(recipient, recipient, arguments),))
    return Message(role, parts) if parts else None  # type: ignore[arg-type]


def _parts(
    kind: str, content: Mapping[str, Any], archive: ChatExport, lost: Lost
) -> Iterator[Part]:
    if kind in ("text", "multimodal_text"):
        for part in several(content.get("parts")):
            if isinstance(part, str):
                yield from (TextPart(part),) if part else ()
            else:
                yield from _image_parts(mapping(part), archive, lost)
    elif kind in ("code", "execution_output", "tether_quote", "system_error"):
        if plain := text(content.get("text")):
            yield TextPart(plain)
    elif kind == "thoughts":
        for thought in map(mapping, several(content.get("thoughts"))):
            yield ThoughtPart(text(thought.get("content")) or text(thought.get("summary")))
    elif kind != "reasoning_recap":  # "thought for 5 seconds"
        lost[f"content of the kind {kind or 'nothing'}"[:60]] += 1


def _image_parts(part: Mapping[str, Any], archive: ChatExport, lost: Lost) -> Iterator[Part]:
    """A picture, which lies beside ``conversations.json`` under the mark of its pointer."""
    kind = text(part.get("content_type"))
    if kind == "audio_transcription":
        yield TextPart(text(part.get("text")))
        return
    image = archive.image(text(part.get("asset_pointer")).rpartition("//")[2])
    if kind == "image_asset_pointer" and image:
        yield image
    else:
        what = "image that is not in the file" if kind == "image_asset_pointer" else kind
        lost[(what or "part of no kind")[:60]] += 1


# ---- writing -------------------------------------------------------------------------------


def write(conversations: Sequence[Conversation], lost: Lost) -> bytes:
    """A ``conversations.json``, each conversation one branch."""
    rows = [
        _row(conversation, str(number), lost) for number, conversation in enumerate(conversations)
    ]
    return msgspec.json.encode(rows) + b"\n"


def _row(conversation: Conversation, number: str, lost: Lost) -> dict[str, Any]:
    def named(what: str) -> str:  # the same ids each time: a second export is the same file
        return str(uuid5(NAMESPACE_URL, f"overt:{number}:{conversation.id}:{what}"))

    created = seconds(conversation.created)
    root = named("root")
    nodes: dict[str, Any] = {root: {"id": root, "message": None, "parent": None, "children": []}}
    last, names = root, dict[str, str]()
    for index, message in enumerate(conversation.messages):
        contents = _contents(message, names, lost)
        for place, (role, kind, content, recipient) in enumerate(contents):
            id = named(f"{index}.{place}")
            name = recipient if role == "tool" else None
            author: dict[str, Any] = {"role": role, "name": name, "metadata": {}}
            nodes[last]["children"].append(id)
            nodes[id] = {
                "id": id,
                "message": {
                    "id": id,
                    "author": author,
                    "create_time": created,
                    "update_time": None,
                    "content": {"content_type": kind, **content},
                    "status": "finished_successfully",
                    "end_turn": role == "assistant",
                    "weight": 1.0,
                    "metadata": {"model_slug": conversation.model} if conversation.model else {},
                    "recipient": "all" if role == "tool" else recipient,
                },
                "parent": last,
                "children": [],
            }
            last = id
    return {
        "title": conversation.title,
        "create_time": created,
        "update_time": created,
        "mapping": nodes,
        "current_node": last,
        "default_model_slug": conversation.model or None,
        "conversation_id": conversation.id or named("all"),
        "id": conversation.id or named("all"),
    }


def _contents(
    message: Message, names: dict[str, str], lost: Lost
) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """A message as one or more of ChatGPT's: role, kind, content, and to whom.

    `names` notes which tool a call's id stands for, which its result is known by.
    """
    plain = {"parts": [message.text]}
    if message.text:
        yield message.role, "text", plain, "all"
    for part in message.parts:
        match part:
            case ThoughtPart(thought):
                thoughts = {"thoughts": [{"summary": "", "content": thought}]}
                yield "assistant", "thoughts", thoughts, "all"
            case ToolCallPart(id, name, arguments):
                names[id] = name
                yield "assistant", "code", {"language": "json", "text": arguments}, name or "tool"
            case ToolResultPart(id, result):
                yield "tool", "text", {"parts": [result]}, names.get(id, id)
            case TextPart():
                pass
            case _:
                lost["image"] += 1
