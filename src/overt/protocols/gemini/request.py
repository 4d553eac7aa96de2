"""A request of Gemini's API as a chat.Request.

What Google documents and a local model cannot do is refused by name where leaving it out would
change the answer: tools that run at Google, files kept there, cached contents, audio and pictures
as output. Safety settings, labels and service tiers are taken and ignored.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from overt.chat import (
    Message,
    Part,
    Request,
    Role,
    Sampling,
    TextPart,
    ThoughtPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from overt.protocols import media, signed
from overt.protocols.base import BadBody, encode
from overt.protocols.gemini import wire
from overt.protocols.gemini.schema import camel, to_json
from overt.protocols.turns import PendingCalls, joined


def request(model: str, body: wire.GenerateBody, candidate: int = 0) -> Request:
    """The request that `body` is; each of several candidates has a seed of its own.

    Raises:
        BadBody: it makes no sense, or only Google's machines can do it.
    """
    try:
        return _request(model, body, candidate)
    except RecursionError:
        raise BadBody("the body is nested too deeply") from None


def _request(model: str, body: wire.GenerateBody, candidate: int) -> Request:
    for name in ("cached_content", "continuation_token"):
        if getattr(body, name):
            raise BadBody(f"{name} names what only Google keeps; send it whole", camel(name))
    config = body.generation_config or wire.GenerationConfig()
    _check(config)
    tools, choice = _tools(body)
    schema, grammar = _format(config)
    thinking, effort = _thinking(config.thinking_config)
    return Request(
        model=model,
        messages=tuple(_messages(body)),
        sampling=Sampling(
            temperature=config.temperature,
            top_k=None if config.top_k is None else int(config.top_k),
            top_p=config.top_p,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            seed=None if config.seed is None else (config.seed + candidate) % _SEEDS,
        ),
        max_tokens=config.max_output_tokens,
        stop=tuple(config.stop_sequences or ()),
        tools=tools,
        tool_choice=choice,
        json_schema=schema,
        grammar=grammar,
        logprobs=(config.logprobs or 0) if config.response_logprobs else None,
        thinking=thinking,
        effort=effort,
    )


def text(content: wire.Content, path: str) -> str:
    """The text of what is to be embedded, or to instruct.

    Raises:
        BadBody: there is none, or something else.
    """
    parts = [
        part for at, part_body in enumerate(content.parts) for part in _part(part_body, path, at)
    ]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if not texts or len(texts) < len(parts):
        raise BadBody("this is to be text, and nothing else", f"{path}.parts")
    return "\n".join(texts)


GEMINI = "gemini"
"""The engine whose signatures stand as they are."""
_SEEDS = 2**32 - 1  # llama.cpp takes one below this; the last is its word for "choose one"

# ---- contents ------------------------------------------------------------------------------

_ROLES: dict[str | None, Role] = {
    None: "user",
    "": "user",
    "user": "user",
    "model": "assistant",
    "function": "user",
    "tool": "user",
    "system": "system",
}


def _messages(body: wire.GenerateBody) -> Iterator[Message]:
    if not body.contents:
        raise BadBody("contents is not specified", "contents")
    instruction = body.system_instruction
    if isinstance(instruction, str):
        yield Message.of("system", instruction)
    elif instruction is not None and instruction.parts:
        yield Message.of("system", text(instruction, "systemInstruction"))
    role: Role = "user"
    parts: list[Part] = []
    calls = _CallIds()
    for at, content in enumerate(body.contents):
        path = f"contents[{at}]"
        if content.role not in _ROLES:
            raise BadBody(f"Please use a valid role: user, model; not {content.role!r}", path)
        if _ROLES[content.role] != role:
            yield from _message(role, parts)
            role, parts = _ROLES[content.role], []
        for number, part in enumerate(content.parts):
            if part.function_response is not None:
                yield from _message(role, parts)
                result, parts = _result(part.function_response, f"{path}.parts[{number}]", calls)
                yield Message("tool", (result,))
            else:
                parts += _part(part, path, number, calls, signs=role == "assistant")
    yield from _message(role, parts)


def _message(role: Role, parts: Sequence[Part]) -> Iterator[Message]:
    """A message of `parts`, if there are any; texts in a row are one, and so are thoughts."""
    if parts:
        yield Message(role, joined(_thoughts(parts), "" if role == "assistant" else "\n"))


def _thoughts(parts: Sequence[Part]) -> Iterator[Part]:
    """`parts` with the pieces of a thought as one, up to its signature: so they were streamed."""
    held: list[ThoughtPart] = []
    for part in parts:
        if held and (not isinstance(part, ThoughtPart) or part.sealed or held[-1].signature):
            yield _together(held)
            held = []
        if isinstance(part, ThoughtPart) and not part.sealed:
            held.append(part)
        else:
            yield part
    if held:
        yield _together(held)


def _together(pieces: Sequence[ThoughtPart]) -> ThoughtPart:
    return replace(pieces[-1], text="".join(piece.text for piece in pieces))


class _CallIds:
    """Ids for the calls of functions, which Gemini may leave out: a result is then told by name."""

    def __init__(self) -> None:
        self._waiting = PendingCalls()
        self._count = 0

    def made(self, name: str, id: str | None) -> str:
        self._count += 1
        id = id or f"call_{self._count}"
        self._waiting.add(id, name)
        return id

    def answered(self, name: str, id: str | None) -> str:
        if id:
            self._waiting.take(id=id)
            return id
        return self._waiting.take(name=name) or f"call_{name}"


_REFUSED = {
    "file_data": "files are kept at Google; send the data inline",
    "executable_code": "code is run at Google only",
    "code_execution_result": "code is run at Google only",
    "tool_call": "these tools run at Google only",
    "tool_response": "these tools run at Google only",
    "video_metadata": "local models see no videos",
}


def _part(
    part: wire.GeminiPart,
    path: str,
    number: int,
    calls: _CallIds | None = None,
    *,
    signs: bool = False,
) -> Iterator[Part]:
    """What `part` is; with `signs`, a signature beside a text is a thought of its own."""
    path = f"{path}.parts[{number}]"
    for name, why in _REFUSED.items():
        if getattr(part, name) is not None:
            raise BadBody(why, f"{path}.{camel(name)}")
    signature, origin = _signature(part)
    if part.function_call is not None:
        call = part.function_call
        id = (calls or _CallIds()).made(call.name, call.id)
        yield ToolCallPart(id, call.name, encode(call.args or {}).decode(), signature, origin)
    elif part.inline_data is not None:
        yield _blob(part.inline_data, f"{path}.inlineData")
    elif part.thought:
        yield ThoughtPart(part.text or "", signature, origin=origin)
    else:
        if part.text:
            yield TextPart(part.text)
        if signs and signature:
            yield ThoughtPart("", signature, sealed=True, origin=origin)


def _signature(part: wire.GeminiPart) -> tuple[str | None, str | None]:
    """The signature and who made it. Google's are bytes, so another's stands in base64 here."""
    encoded = part.thought_signature
    if not encoded:
        return None, None
    try:
        standard = encoded.replace("-", "+").replace("_", "/")
        text = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return encoded, GEMINI
    signature, origin = signed.split(text, GEMINI)
    return (encoded, GEMINI) if origin == GEMINI else (signature, origin)


def _blob(blob: wire.Blob, path: str) -> Part:
    kind = blob.mime_type.lower()
    if kind.startswith("image/"):
        return media.from_base64(blob.data, f"{path}.data")
    if kind.startswith("text/") or kind == "application/json":
        try:
            standard = blob.data.replace("-", "+").replace("_", "/")
            return TextPart(base64.b64decode(standard + "==").decode())
        except (binascii.Error, ValueError) as error:
            raise BadBody(f"this is no text in base64: {error}", f"{path}.data") from None
    raise BadBody(
        f"Unsupported MIME type: {blob.mime_type[:60]!r}; send images or text", f"{path}.mimeType"
    )


def _result(
    response: wire.FunctionResponse, path: str, calls: _CallIds
) -> tuple[ToolResultPart, list[Part]]:
    """The result of a function, and its images, which the next message shows."""
    path = f"{path}.functionResponse"
    output = response.response or {}
    whole = output.get("output", output.get("result")) if len(output) == 1 else None
    content = whole if isinstance(whole, str) else encode(output).decode()
    images: list[Part] = []
    for at, part in enumerate(response.parts or ()):
        if part.inline_data is None:
            raise BadBody(_REFUSED["file_data"], f"{path}.parts[{at}].fileData")
        images.append(_blob(part.inline_data, f"{path}.parts[{at}].inlineData"))
    id = calls.answered(response.name, response.id)
    return ToolResultPart(id, content, error=set(output) == {"error"}), images


# ---- tools ---------------------------------------------------------------------------------

_MODES = {"AUTO": "auto", "VALIDATED": "auto", "ANY": "required", "NONE": "none"}


def _tools(body: wire.GenerateBody) -> tuple[tuple[Tool, ...], str]:
    tools = []
    for at, tool in enumerate(body.tools or ()):
        for name in tool.__struct_fields__[1:]:
            if getattr(tool, name) is not None:
                raise BadBody(f"{camel(name)} runs at Google only", f"tools[{at}].{camel(name)}")
        for number, function in enumerate(tool.function_declarations or ()):
            path = f"tools[{at}].functionDeclarations[{number}]"
            tools.append(
                Tool(function.name, function.description or "", _parameters(function, path))
            )
    if len(tools) > wire.MAX_TOOLS:
        raise BadBody(f"{len(tools)} functions are declared; {wire.MAX_TOOLS} at most", "tools")
    names = Counter(tool.name for tool in tools)
    if twice := [name for name, count in names.items() if count > 1]:
        raise BadBody(f"Duplicate function declaration found: {min(twice)}", "tools")
    calling = body.tool_config and body.tool_config.function_calling_config
    config = calling or wire.FunctionCallingConfig()
    path = "toolConfig.functionCallingConfig"
    mode = (config.mode or "AUTO").upper()
    if mode == "MODE_UNSPECIFIED":
        mode = "AUTO"
    if mode not in _MODES:
        raise BadBody(f"Invalid value {mode[:40]!r}: AUTO, ANY, VALIDATED or NONE", f"{path}.mode")
    if allowed := config.allowed_function_names:
        if missing := [name for name in allowed if name not in names]:
            raise BadBody(
                f"{missing[0]!r} is none of the functions declared", f"{path}.allowedFunctionNames"
            )
        allowed_names = set(allowed)
        tools = [tool for tool in tools if tool.name in allowed_names]
    if mode == "ANY" and not tools:
        raise BadBody("Function calling mode ANY needs functions", f"{path}.mode")
    return tuple(tools), _MODES[mode]


def _parameters(function: wire.FunctionDeclaration, path: str) -> Mapping[str, Any]:
    if function.parameters is not None and function.parameters_json_schema is not None:
        raise BadBody("parameters and parametersJsonSchema cannot be set both", path)
    if function.parameters is not None:
        return to_json(function.parameters, f"{path}.parameters")
    return function.parameters_json_schema or {}


# ---- the form of the answer ----------------------------------------------------------------

_ANY = {"type": ["object", "array"]}


def _format(config: wire.GenerationConfig) -> tuple[Mapping[str, Any] | None, str | None]:
    """The JSON Schema of the answer, or the grammar."""
    path = "generationConfig"
    kind = config.response_mime_type or "text/plain"
    openapi_schema, given_json = config.response_schema, config.response_json_schema
    if openapi_schema is not None and given_json is not None:
        raise BadBody("responseSchema and responseJsonSchema cannot be set both", path)
    schema: Any = given_json
    if openapi_schema is not None:
        schema = to_json(openapi_schema, f"{path}.responseSchema")
    if kind == "text/plain":
        if schema is not None:
            raise BadBody(
                "a schema needs responseMimeType application/json or text/x.enum",
                f"{path}.responseMimeType",
            )
        return None, None
    if schema is not None and not isinstance(schema, dict):
        raise BadBody("a JSON schema is an object", f"{path}.responseJsonSchema")
    if kind == "application/json":
        return (_ANY if schema is None else schema), None
    if kind == "text/x.enum":
        words = schema.get("enum") if schema else None
        if not isinstance(words, list) or not words:
            raise BadBody("text/x.enum needs a schema with an enum", f"{path}.responseSchema")
        return None, "root ::= " + " | ".join(encode(str(word)).decode() for word in words)
    raise BadBody(
        f"responseMimeType {kind[:60]!r} is not allowed; allowed are text/plain, "
        "application/json and text/x.enum",
        f"{path}.responseMimeType",
    )


def _check(config: wire.GenerationConfig) -> None:
    path = "generationConfig"
    for name in ("speech_config", "image_config", "audio_transcription_config"):
        if getattr(config, name) is not None:
            raise BadBody("local models answer in text only", f"{path}.{camel(name)}")
    for modality in config.response_modalities or ():
        if modality.upper() not in ("TEXT", "MODALITY_UNSPECIFIED"):
            raise BadBody("local models answer in text only", f"{path}.responseModalities")
    if config.logprobs is not None and not config.response_logprobs:
        raise BadBody("logprobs is only allowed if response_logprobs is true", f"{path}.logprobs")


_LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH")


def _thinking(config: wire.ThinkingConfig | None) -> tuple[bool | None, str | None]:
    """`Request.thinking` and `Request.effort`.

    A budget of 0 means none, -1 as much as the model likes. ``MINIMAL`` asks templates that can to
    leave thinking out, and the others for little of it.
    """
    if config is None:
        return None, None
    thinking = None
    if config.thinking_budget is not None and config.thinking_budget >= 0:
        thinking = config.thinking_budget > 0
    level = (config.thinking_level or "THINKING_LEVEL_UNSPECIFIED").upper()
    if level == "THINKING_LEVEL_UNSPECIFIED":
        return thinking, None
    if level not in _LEVELS:
        raise BadBody(
            f"Invalid value {level[:40]!r}", "generationConfig.thinkingConfig.thinkingLevel"
        )
    if level == "MINIMAL":
        return (False if thinking is None else thinking), "low"
    return thinking, level.lower()
