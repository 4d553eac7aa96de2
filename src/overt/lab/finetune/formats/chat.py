"""Messages as OpenAI writes them, calls of tools included.

A content that is a list of parts is joined where all of them are text; anything else is refused.
``function_call`` and the role ``function``, which came before tools, are read as those.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from overt.lab.finetune.item import Bad, Item, Kind, Talk, Turn, clean, talk, turn

NAME: Final = "chat"
ABOUT: Final = "messages as OpenAI writes them"
KIND: Final[Kind] = "answers"
EXAMPLE: Final = (
    '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
)
_EXPECTED: Final = f"write {EXAMPLE}"


def looks(row: Mapping[str, Any]) -> bool:
    return "messages" in row


def read(row: Mapping[str, Any]) -> Item:
    return talk_of(row.get("messages"), row.get("tools"))


def talk_of(messages: Any, tools: Any = None) -> Talk:
    """Messages and the tools that could be called. Raises Bad."""
    return talk(turns_of(messages), _tools(tools))


def turns_of(messages: Any) -> list[Turn]:
    """Messages of any order. Raises Bad: one is none."""
    if not isinstance(messages, list):
        raise Bad("has messages that are no list", _EXPECTED)
    return [_turn(one, number) for number, one in enumerate(messages, 1)]


def _turn(message: Any, number: int) -> Turn:
    if not isinstance(message, dict):
        raise Bad(f"has a turn {number} that is no object", _EXPECTED)
    role = message.get("role")
    if not isinstance(role, str):
        raise Bad(f"has no 'role' in turn {number}", _EXPECTED)
    role = {"function": "tool", "developer": "system"}.get(role, role)
    content = _content(message.get("content"), number)
    if role != "assistant":
        found = dict(turn(role, content))
        if role == "tool" and isinstance(message.get("name"), str):
            found["name"] = clean(message["name"], "name")
        if role == "tool" and isinstance(message.get("tool_call_id"), str):
            found["tool_call_id"] = clean(message["tool_call_id"], "tool_call_id")
        return found
    calls = _calls(message, number)
    if not content.strip() and not calls:
        raise Bad(f"has an empty answer (turn {number})", "fill it in, or leave the row out")
    found = {"role": "assistant", "content": clean(content, "content")}
    thought = message.get("reasoning_content")
    if isinstance(thought, str) and thought:
        found["reasoning_content"] = clean(thought, "reasoning_content")
    return {**found, "tool_calls": calls} if calls else found


def _content(content: Any, number: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Bad(f"has a content in turn {number} that is no text", _EXPECTED)
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise Bad(f"has {str(kind)[:40]!r} in turn {number}", "only text can be learnt")
        texts.append(text)
    return "".join(texts)


def _calls(message: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") or []
    if (old := message.get("function_call")) and not calls:
        calls = [{"function": old}]
    if not isinstance(calls, list):
        raise Bad(f"has tool_calls in turn {number} that are no list", _CALL)
    return [_call(one, number) for one in calls]


_CALL: Final = 'write {"function": {"name": "…", "arguments": {…}}}'


def _call(call: Any, number: int) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise Bad(f"has a call in turn {number} without a function's name", _CALL)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise Bad(f"has arguments in turn {number} that are not JSON", _CALL) from None
    if not isinstance(arguments, dict):
        raise Bad(f"has arguments in turn {number} that are no object", _CALL)
    clean(json.dumps(arguments, ensure_ascii=False), "arguments")
    found: dict[str, Any] = {
        "type": "function",
        "function": {"name": clean(name, "name"), "arguments": arguments},
    }
    if isinstance(call.get("id"), str):
        found["id"] = clean(call["id"], "id")
    return found


def tools_of(row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The tools of a row. Raises Bad: one is none."""
    return _tools(row.get("tools"))


def _tools(tools: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(tools, str):  # some sets hold them as a text of JSON
        try:
            tools = json.loads(tools or "[]")
        except (ValueError, RecursionError):
            raise Bad("has tools that are not JSON", _TOOLS) from None
    if not tools:
        return ()
    if not isinstance(tools, list):
        raise Bad("has tools that are no list", _TOOLS)
    found = []
    for one in tools:
        function = one.get("function", one) if isinstance(one, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Bad("has a tool without a function's name", _TOOLS)
        clean(json.dumps(function, ensure_ascii=False), "tools")
        found.append({"type": "function", "function": function})
    return found


_TOOLS: Final = 'write "tools": [{"type": "function", "function": {"name": "…", …}}]'
