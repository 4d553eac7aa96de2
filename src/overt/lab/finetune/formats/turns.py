"""Turns of a chat as OpenAI and ShareGPT write them, and what stands beside them in a row.

A content that is a list of parts is joined where all of them are text; anything else is refused.
``function_call``, ``functions`` and the role ``function``, which came before tools, are read as
those. A turn with ``"weight": 0`` (OpenAI) or ``"train": false`` (axolotl) is read and not learnt.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from overt.conversations.sharegpt import ROLES
from overt.lab.finetune.row import BadRow, DialogueTurn, TrackedRow, clean, perhaps, turn

OPENAI: Final = (
    '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
)
SHAREGPT: Final = (
    '{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}'
)
_EXPECTED: Final = f"write {OPENAI}"
_SHARED: Final = f"write {SHAREGPT}"
_CALL: Final = 'write {"function": {"name": "…", "arguments": {…}}}'
_TOOLS: Final = 'write "tools": [{"type": "function", "function": {"name": "…", …}}]'
_OLD: Final = {"function": "tool", "developer": "system"}


def turns_of(value: Any, name: str = "messages") -> list[DialogueTurn]:
    """The list of that name as turns of any order. Raises Bad: one is none."""
    if not isinstance(value, list):
        hint = _SHARED if name.startswith("conversation") else _EXPECTED
        raise BadRow(f"has {name} that are no list", hint)
    return [_turn(entry, number) for number, entry in enumerate(value, 1)]


def system_of(row: Mapping[str, Any]) -> str:
    """What the row says to the system beside its turns, or "". Raises Bad: it is no text."""
    texts = (perhaps(row.get(name), name) for name in ("system", "system_prompt") if name in row)
    return next(filter(None, texts), "")


def with_system(row: Mapping[str, Any], turns: Sequence[DialogueTurn]) -> list[DialogueTurn]:
    """The turns of a row after its system text. Raises Bad: there are two of them."""
    system = system_of(row)
    if not system:
        return list(turns)
    if turns and turns[0].role == "system":
        if turns[0].turn["content"].strip() == system.strip():
            return list(turns)
        raise BadRow(
            "has a system turn, and another text 'system' beside it", "keep one of the two"
        )
    return [turn("system", system), *turns]


def tools_of(row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The tools of a row. Raises Bad: one is none."""
    tools = row.get("tools") or row.get("functions")
    if isinstance(tools, str):  # some sets hold them as a text of JSON
        try:
            tools = json.loads(tools or "[]")
        except (ValueError, RecursionError):
            raise BadRow("has tools that are not JSON", _TOOLS) from None
    if not tools:
        return ()
    if not isinstance(tools, list):
        raise BadRow("has tools that are no list", _TOOLS)
    functions = []
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("has a tool without a function's name", _TOOLS)
        clean(json.dumps(function, ensure_ascii=False), "tools")
        functions.append({"type": "function", "function": function})
    return functions


# ---- one turn ------------------------------------------------------------------------------


def _turn(value: Any, number: int) -> DialogueTurn:
    if not isinstance(value, dict):
        raise BadRow(f"has a turn {number} that is no object", _EXPECTED)
    fields = TrackedRow(value)
    shared = "from" in fields or "value" in fields
    spoken = _sharegpt(fields, number) if shared else _openai(fields, number)
    return replace(spoken, unread=tuple(fields.unread()))


def _openai(fields: TrackedRow, number: int) -> DialogueTurn:
    role = fields.get("role")
    if not isinstance(role, str):
        raise BadRow(f"has no 'role' in turn {number}", _EXPECTED)
    role = _OLD.get(role) or ROLES.get(role.lower(), role)
    content = _content(fields.get("content"), number)
    if role != "assistant":
        spoken = turn(role, content)
        more = {}
        for name in ("name", "tool_call_id"):
            if role == "tool" and isinstance(fields.raw.get(name), str):
                more[name] = clean(fields[name], name)
        _is_learnt(fields, number, role)
        return replace(spoken, turn={**spoken.turn, **more})
    calls = _calls(fields, number)
    if not content.strip() and not calls:
        raise BadRow(f"has an empty answer (turn {number})", "fill it in, or leave the row out")
    answer: dict[str, Any] = {"role": "assistant", "content": clean(content, "content")}
    if thought := perhaps(fields.get("reasoning_content"), "reasoning_content"):
        answer["reasoning_content"] = thought
    if calls:
        answer["tool_calls"] = calls
    return DialogueTurn(answer, learnt=_is_learnt(fields, number, role))


def _sharegpt(fields: TrackedRow, number: int) -> DialogueTurn:
    speaker = fields["from"] if "from" in fields else fields.get("role")
    value = fields["value"] if "value" in fields else fields.get("content")
    if not isinstance(speaker, str):
        raise BadRow(f"has no 'from' in turn {number}", _SHARED)
    if not isinstance(value, str):
        raise BadRow(f"has no text 'value' in turn {number}", _SHARED)
    if speaker.lower() == "function_call":
        try:
            call = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRow(
                f"has a function_call in turn {number} that is not JSON", _SHARED
            ) from None
        calls = [_call(entry, number) for entry in (call if isinstance(call, list) else [call])]
        if not calls:
            raise BadRow(f"has a function_call in turn {number} that calls nothing", _SHARED)
        called = {"role": "assistant", "content": "", "tool_calls": calls}
        return DialogueTurn(called, learnt=_is_learnt(fields, number, "assistant"))
    role = ROLES.get(speaker.lower())
    if role is None:
        raise BadRow(f"has a turn {number} of {speaker[:40]!r}", f"speakers are {', '.join(ROLES)}")
    return replace(turn(role, value), learnt=_is_learnt(fields, number, role))


def _is_learnt(fields: TrackedRow, number: int, role: str) -> bool:
    """Whether an answer is learnt; others never are, and a mark that says so is obeyed."""
    learnt = True
    for name in ("weight", "train"):
        value = fields.raw.get(name)
        if value is None or (role != "assistant" and value):
            continue
        if fields[name] not in (0, 1):
            raise BadRow(
                f"has a {name!r} in turn {number} that is neither 0 nor 1",
                "0 or false is read and not learnt, 1 or true is learnt",
            )
        learnt = learnt and bool(value)
    return learnt


def _content(content: Any, number: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow(f"has a content in turn {number} that is no text", _EXPECTED)
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise BadRow(f"has {str(kind)[:40]!r} in turn {number}", "only text can be learnt")
        texts.append(text)
    return "".join(texts)


def _calls(fields: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    calls = fields.get("tool_calls") or []
    if not calls and (old := fields.get("function_call")):
        calls = [{"function": old}]
    if not isinstance(calls, list):
        raise BadRow(f"has tool_calls in turn {number} that are no list", _CALL)
    return [_call(entry, number) for entry in calls]


def _call(call: Any, number: int) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise BadRow(f"has a call in turn {number} without a function's name", _CALL)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise BadRow(f"has arguments in turn {number} that are not JSON", _CALL) from None
    if not isinstance(arguments, dict):
        raise BadRow(f"has arguments in turn {number} that are no object", _CALL)
    clean(json.dumps(arguments, ensure_ascii=False), "arguments")
    result: dict[str, Any] = {
        "type": "function",
        "function": {"name": clean(name, "name"), "arguments": arguments},
    }
    if isinstance(call.get("id"), str):
        result["id"] = clean(call["id"], "id")
    return result
