"""Requests in a provider's own protocol that it would refuse: they are translated, not handed on.

A client keeps a conversation as it was answered. Where a name of the owner's moved to another
provider since, that is what the former one wrote, in the client's protocol but not in the new
one's words: a thought nobody signed, a call without Gemini's mark. Translating leaves out, or
spells anew, what the provider answers 400 to; what it would accept goes on byte for byte. A
parameter that the family of models does not take is no reason to translate: it alone is cut out.

Nothing here looks deeper than needed, and a body that cannot be read is the provider's to refuse.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from overt.chat import Sampling
from overt.providers.anthropic.body import TOOL_ID
from overt.providers.supported_parameters import SupportedParameters, accepts
from overt.server.passthrough.body import RefusedMembers

UNSIGNED_ID = re.compile(r"rs_[0-9a-f]{29}")
"""The id of reasoning told by this server (protocols/openai/responses_stream.py); OpenAI's are
longer."""
_MAX_CHAT_ID_LENGTH = 40  # characters of a call's id, in Chat Completions


def refused(
    body: bytes, path: str, engine: str, model: str, *, named: bool, beta: bool = False
) -> bool:
    """Whether `engine` would refuse `body` at this server's `path`, as far as is known.

    `beta` is whether a header asks for one, which a translation would lose. `named` is whether the
    owner's name led there: then the caller does not know the model, and
    what only this server can do for it counts too. For parameters that are refused see `spared`.
    """
    chat = engine == "openai" and path.endswith("/chat/completions")
    kind = _Chat if chat else _KINDS.get(engine)
    if kind is None:
        return False  # a server of any make: who knows
    try:
        fields = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    taken = accepts(engine, model)
    if fields.foreign(taken):
        return True
    if not named:
        return False
    if chat:
        return "stop" in taken.refuses and _stops(body)
    return kind is _Responses and not beta and _uses_stored_state(body)


_OURS_TOO = frozenset((
    "model", "input", "instructions", "stream", "stream_options", "store", "tools", "tool_choice",
    "parallel_tool_calls", "reasoning", "text", "max_output_tokens", "temperature", "top_p",
    "include", "previous_response_id", "metadata", "user",
))  # fmt: skip
"""Fields of a response that mean here what they mean at OpenAI."""


def _uses_stored_state(body: bytes) -> bool:
    """Whether a response is to be kept, and can be made and kept here as well as at OpenAI.

    Kept there, no other provider could go on from it by ``previous_response_id``. One that goes
    on from OpenAI's own stays there.
    """
    fields: dict[str, Any] = msgspec.json.decode(body)
    tools = fields.get("tools") or ()
    reasoning = fields.get("reasoning") or {}
    return (
        fields.get("store") is not False
        and isinstance(reasoning, dict)
        and reasoning.keys() <= {"effort"}  # a summary is told by other events here
        and fields.get("previous_response_id") is None
        and fields.keys() <= _OURS_TOO
        and isinstance(tools, list | tuple)
        and all(isinstance(tool, dict) and tool.get("type") == "function" for tool in tools)
    )


def spared(body: bytes, path: str, engine: str, model: str) -> RefusedMembers:
    """What of `body` the family of `model` refuses, and what can be done about it as it goes on.

    Of stop sequences it cannot: translating carries them out here. Gemini ignores what it refuses.
    """
    if engine not in ("openai", "anthropic"):
        return RefusedMembers()
    taken = accepts(engine, model)
    refuses = taken.refuses
    at_none = taken.extra.get("at_none")
    if at_none and _effort(body, taken) == "none":
        refuses -= frozenset(at_none)
    cut = (refuses & Sampling.__dataclass_fields__.keys()) | (refuses & {"logprobs", "logit_bias"})
    if "logprobs" in cut:
        cut |= {"top_logprobs"}
    if engine == "anthropic":
        return RefusedMembers(cut, most={"max_tokens": taken.most_out} if taken.most_out else {})
    reasons = path.endswith("/chat/completions") and taken.extra.get("efforts")
    return RefusedMembers(cut, {"max_tokens": "max_completion_tokens"} if reasons else {})


class _Effort(msgspec.Struct):
    reasoning_effort: Any = None
    reasoning: Any = None
    stop: Any = None


def _effort(body: bytes, taken: SupportedParameters) -> Any:
    try:
        fields = msgspec.json.decode(body, type=_Effort)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    inner = fields.reasoning.get("effort") if isinstance(fields.reasoning, dict) else None
    return fields.reasoning_effort or inner or taken.extra.get("effort")


def _stops(body: bytes) -> bool:
    return bool(msgspec.json.decode(body, type=_Effort).stop)


# ---- OpenAI ----------------------------------------------------------------------------------


class _ForwardedCall(msgspec.Struct):
    id: str = ""
    extra_content: Any = None


class _ForwardedMessage(msgspec.Struct):
    role: str = ""
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: list[_ForwardedCall] | None = None


class _Chat(msgspec.Struct):
    messages: list[_ForwardedMessage] = []

    def foreign(self, taken: SupportedParameters) -> bool:
        """Reasoning of other servers, which OpenAI knows no field for, or ids it finds too long."""
        return any(
            message.reasoning_content is not None
            or message.reasoning is not None
            or message.reasoning_details is not None
            or any(
                len(call.id) > _MAX_CHAT_ID_LENGTH or call.extra_content is not None
                for call in message.tool_calls or ()
            )
            for message in self.messages
        )


class _Responses(msgspec.Struct):
    input: Any = None

    def foreign(self, taken: SupportedParameters) -> bool:
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


class _ForwardedBlock(msgspec.Struct):
    type: Any = None
    id: Any = None


class _ForwardedTurn(msgspec.Struct):
    role: Any = None
    content: str | list[_ForwardedBlock] = ""

    @property
    def blocks(self) -> Sequence[_ForwardedBlock]:
        return self.content if isinstance(self.content, list) else ()


class _Thinking(msgspec.Struct):
    type: Any = None


class _Messages(msgspec.Struct):
    messages: list[_ForwardedTurn] = []
    thinking: _Thinking | None = None

    def foreign(self, taken: SupportedParameters) -> bool:
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


class _ForwardedPart(msgspec.Struct, rename="camel"):
    function_call: Any = None
    thought_signature: Any = None


class _ForwardedContent(msgspec.Struct):
    parts: list[_ForwardedPart] | None = None


class _Generate(msgspec.Struct):
    contents: list[_ForwardedContent] | _ForwardedContent | None = None

    def foreign(self, taken: SupportedParameters) -> bool:
        """A call without the mark that these models want at the first of a turn."""
        if not taken.extra.get("signs"):
            return False
        for content in self.contents if isinstance(self.contents, list) else ():
            calls = [part for part in content.parts or () if part.function_call is not None]
            if calls and not calls[0].thought_signature:
                return True
        return False


_KINDS: dict[str, type[Any]] = {
    "openai": _Responses,
    "anthropic": _Messages,
    "gemini": _Generate,
}
