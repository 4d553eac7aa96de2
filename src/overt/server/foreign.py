"""Requests in a provider's own protocol that it would refuse: they are translated, not handed on.

A client keeps a conversation as it was answered. Where a name of the owner's moved to another
provider since, that is what the former one wrote, in the client's protocol but not in the new
one's words: a thought nobody signed, a call without Gemini's mark. And what a client asks for may
be a field that the family of models does not take. Translating leaves out, or spells anew, what
the provider answers 400 to; what it would accept goes on byte for byte.

Nothing here looks deeper than needed, and a body that cannot be read is the provider's to refuse.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from overt.engines.accepts import Accepts, accepts

TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,256}")
"""What Anthropic takes for the id of a call."""
UNSIGNED_ID = re.compile(r"rs_[0-9a-f]{29}")
"""The id of reasoning told by this server (protocols/openai_responses_stream.py); OpenAI's are
longer."""
_LONGEST_CHAT_ID = 40  # characters of a call's id, in Chat Completions


def refused(body: bytes, path: str, engine: str, model: str, *, named: bool) -> bool:
    """Whether `engine` would refuse `body` at this server's `path`, as far as is known.

    `named` is whether the owner's name led there: then the caller does not know the model, and
    what its family refuses counts too.
    """
    chat = engine == "openai" and path.endswith("/chat/completions")
    kind = _Chat if chat else _KINDS.get(engine)
    if kind is None:
        return False  # a server of any make: who knows
    try:
        asked = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    taken = accepts(engine, model)
    return asked.foreign(taken) or (named and _untaken(body, asked, engine, taken))


def _untaken(body: bytes, asked: Any, engine: str, taken: Accepts) -> bool:
    """Whether a field is given that the family does not take."""
    if engine == "gemini":
        return False  # it ignores them
    names = [*taken.refuses]
    if engine == "openai" and isinstance(asked, _Chat) and taken.extra.get("efforts"):
        names.append("max_tokens")  # models that reason have another word for it
    if engine == "anthropic" and 0 < taken.most_out < (asked.most or 0):
        return True
    if not any(f'"{name}"'.encode() in body for name in names):
        return False
    given: Any = msgspec.json.decode(body)
    return any(given.get(name) is not None for name in names)


# ---- OpenAI ----------------------------------------------------------------------------------


class _Call(msgspec.Struct):
    id: str = ""


class _Said(msgspec.Struct):
    role: str = ""
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_Call] | None = None


class _Chat(msgspec.Struct):
    messages: list[_Said] = []

    def foreign(self, taken: Accepts) -> bool:
        """Reasoning of other servers, which OpenAI knows no field for, or ids it finds too long."""
        return any(
            said.reasoning_content is not None
            or said.reasoning is not None
            or any(len(call.id) > _LONGEST_CHAT_ID for call in said.tool_calls or ())
            for said in self.messages
        )


class _Responses(msgspec.Struct):
    input: Any = None

    def foreign(self, taken: Accepts) -> bool:
        """Reasoning that nobody signed: OpenAI would look for it among what it keeps."""
        if not isinstance(self.input, list):
            return False
        return any(
            isinstance(item, dict)
            and item.get("type") == "reasoning"
            and not item.get("encrypted_content")
            and UNSIGNED_ID.fullmatch(str(item.get("id")))
            for item in self.input
        )


# ---- Anthropic -------------------------------------------------------------------------------


class _Block(msgspec.Struct):
    type: Any = None
    id: Any = None


class _Turn(msgspec.Struct):
    role: Any = None
    content: str | list[_Block] = ""

    @property
    def blocks(self) -> Sequence[_Block]:
        return self.content if isinstance(self.content, list) else ()


class _Thinking(msgspec.Struct):
    type: Any = None


class _Messages(msgspec.Struct):
    messages: list[_Turn] = []
    thinking: _Thinking | None = None
    max_tokens: Any = None

    @property
    def most(self) -> int:
        return self.max_tokens if isinstance(self.max_tokens, int) else 0

    def foreign(self, taken: Accepts) -> bool:
        """A call whose id has other signs in it, or a turn that goes on without a thought."""
        if any(
            block.type == "tool_use" and not TOOL_ID.fullmatch(str(block.id))
            for turn in self.messages
            for block in turn.blocks
        ):
            return True
        kind = self.thinking.type if self.thinking else None
        kinds = taken.extra.get("kinds", ())
        if kind in ("enabled", "disabled") and kinds and kind not in kinds:
            return True
        return kind == "enabled" and self._unthought()

    def _unthought(self) -> bool:
        if len(self.messages) < 2:
            return False
        before, last = (turn.blocks for turn in self.messages[-2:])
        goes_on = any(block.type == "tool_result" for block in last)
        return bool(goes_on and before) and before[0].type not in ("thinking", "redacted_thinking")


# ---- Gemini ----------------------------------------------------------------------------------


class _Part(msgspec.Struct, rename="camel"):
    function_call: Any = None
    thought_signature: Any = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Generate(msgspec.Struct):
    contents: list[_Content] | _Content | None = None

    def foreign(self, taken: Accepts) -> bool:
        """A call without the mark that these models want at the first of a turn."""
        if not taken.extra.get("signs"):
            return False
        for content in self.contents if isinstance(self.contents, list) else ():
            calls = [part for part in content.parts or () if part.function_call is not None]
            if calls and not calls[0].thought_signature:
                return True
        return False


_KINDS: dict[str, type[Any]] = {
    "openai": _Responses, "anthropic": _Messages, "gemini": _Generate,
}  # fmt: skip
