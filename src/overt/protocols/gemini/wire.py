"""What clients of Gemini's API send: the structs of its bodies, in either spelling.

Written from the types of the `google-genai` 3.6 package. Google reads ``topP`` and ``top_p`` alike,
a single object where a list is meant, and enumerations in capitals; the official client itself
mixes the spellings. `read` brings a body into one form first, by the structs alone, so that what is
the user's own (arguments, JSON schemas, names of properties) is never touched.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from overt.protocols.base import BadBody, bad_body

T = TypeVar("T")


_MAX_CONTENTS = 20_000  # contents, and parts of one
_MAX_ITEMS = 50_000  # of all lists and of objects whose keys are free, as in server/services.py
_MAX_TEXTS = 2048  # to embed at once, as OpenAI has it
MAX_TOOLS = 1024
"""Functions of one request."""


class GeminiWire(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Base of what clients send: a field it does not have is refused, as Google does."""


# ---- contents ------------------------------------------------------------------------------


class Blob(GeminiWire):
    data: str = ""
    mime_type: str = ""
    display_name: str | None = None


class GeminiFunctionCall(GeminiWire):
    name: str = ""
    args: dict[str, Any] | None = None
    id: str | None = None


class FunctionResponsePart(GeminiWire):
    inline_data: Blob | None = None
    file_data: dict[str, Any] | None = None


class FunctionResponse(GeminiWire):
    name: str = ""
    response: dict[str, Any] | None = None
    id: str | None = None
    parts: list[FunctionResponsePart] | None = None
    will_continue: bool | None = None
    scheduling: str | None = None


class GeminiPart(GeminiWire):
    text: str | None = None
    inline_data: Blob | None = None
    function_call: GeminiFunctionCall | None = None
    function_response: FunctionResponse | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    # refused where given
    file_data: dict[str, Any] | None = None
    executable_code: dict[str, Any] | None = None
    code_execution_result: dict[str, Any] | None = None
    tool_call: dict[str, Any] | None = None
    tool_response: dict[str, Any] | None = None
    video_metadata: dict[str, Any] | None = None
    # taken and ignored
    media_resolution: Any = None
    media_processing: Any = None
    part_metadata: Any = None


class Content(GeminiWire):
    parts: Annotated[list[GeminiPart], Meta(max_length=_MAX_CONTENTS)] = []
    role: str | None = None


# ---- tools and schemas ---------------------------------------------------------------------


class Schema(GeminiWire):
    """The subset of OpenAPI 3.0 that Google calls a schema."""

    type: str | None = None
    format: str | None = None
    title: str | None = None
    description: str | None = None
    nullable: bool | None = None
    enum: list[str] | None = None
    items: "Schema | None" = None
    properties: "dict[str, Schema] | None" = None
    required: list[str] | None = None
    property_ordering: list[str] | None = None
    any_of: "list[Schema] | None" = None
    min_items: int | str | None = None
    max_items: int | str | None = None
    min_length: int | str | None = None
    max_length: int | str | None = None
    min_properties: int | str | None = None
    max_properties: int | str | None = None
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    default: Any = None
    example: Any = None
    additional_properties: Any = None
    ref: str | None = None
    defs: "dict[str, Schema] | None" = None


class FunctionDeclaration(GeminiWire):
    name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:-]+$")]
    description: str | None = None
    parameters: Schema | None = None
    parameters_json_schema: dict[str, Any] | None = None
    response: Any = None
    response_json_schema: Any = None
    behavior: str | None = None


class GeminiTool(GeminiWire):
    function_declarations: (
        Annotated[list[FunctionDeclaration], Meta(max_length=MAX_TOOLS)] | None
    ) = None
    # refused where given
    google_search: Any = None
    google_search_retrieval: Any = None
    google_maps: Any = None
    code_execution: Any = None
    url_context: Any = None
    computer_use: Any = None
    file_search: Any = None
    mcp_servers: Any = None


class FunctionCallingConfig(GeminiWire):
    mode: str | None = None
    allowed_function_names: Annotated[list[str], Meta(max_length=MAX_TOOLS)] | None = None


class ToolConfig(GeminiWire):
    function_calling_config: FunctionCallingConfig | None = None
    retrieval_config: Any = None
    include_server_side_tool_invocations: bool | None = None


# ---- requests ------------------------------------------------------------------------------


class ThinkingConfig(GeminiWire):
    include_thoughts: bool | None = None
    thinking_budget: Annotated[int, Meta(ge=-1)] | None = None
    thinking_level: str | None = None


class GenerationConfig(GeminiWire):
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[float, Meta(ge=0, le=1_000_000)] | None = None
    candidate_count: Annotated[int, Meta(ge=1, le=8)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    stop_sequences: list[Annotated[str, Meta(min_length=1)]] | None = None
    seed: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    response_mime_type: str | None = None
    response_schema: Schema | None = None
    response_json_schema: Any = None
    response_logprobs: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    thinking_config: ThinkingConfig | None = None
    response_modalities: list[str] | None = None
    # refused where given
    speech_config: Any = None
    image_config: Any = None
    audio_transcription_config: Any = None
    # taken and ignored
    media_resolution: Any = None
    enable_enhanced_civic_answers: bool | None = None


class GenerateBody(GeminiWire):
    """The body of ``:generateContent`` and ``:streamGenerateContent``."""

    contents: Annotated[list[Content], Meta(max_length=_MAX_CONTENTS)] = []
    system_instruction: Content | str | None = None
    tools: Annotated[list[GeminiTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_config: ToolConfig | None = None
    generation_config: GenerationConfig | None = None
    model: str | None = None
    # refused where given
    cached_content: str | None = None
    continuation_token: str | None = None
    # taken and ignored
    safety_settings: list[dict[str, Any]] | None = None
    labels: dict[str, str] | None = None
    service_tier: str | None = None
    store: bool | None = None


class GeminiCountBody(GeminiWire):
    """The body of ``:countTokens``: the contents, or a whole request."""

    contents: Annotated[list[Content], Meta(max_length=_MAX_CONTENTS)] | None = None
    generate_content_request: GenerateBody | None = None
    model: str | None = None


class EmbedBody(GeminiWire):
    """The body of ``:embedContent``, and each of those of ``:batchEmbedContents``."""

    content: Content
    model: str | None = None
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class BatchEmbedBody(GeminiWire):
    requests: Annotated[list[EmbedBody], Meta(min_length=1, max_length=_MAX_TEXTS)]


# ---- reading -------------------------------------------------------------------------------


def read(body: bytes, kind: type[T]) -> T:
    """`body` (JSON) as `kind`, whatever its spelling.

    Raises:
        BadBody: not JSON, not of that shape, too many items, or a field that `kind` does not have.
    """
    try:
        document = msgspec.json.decode(body or b"{}")
        return msgspec.convert(_Plain().of(document, _shape(kind)), kind)
    except msgspec.ValidationError as error:
        raise bad_body(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(f"the body is not valid JSON: {error}") from None


@dataclass(slots=True)
class _Fields:
    """A struct: each spelling of a field to its own, and what lies in it."""

    names: dict[str, str] = field(default_factory=dict)
    inside: dict[str, "_Shape"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Each:
    """A list of what has a shape."""

    shape: "_Shape"


@dataclass(frozen=True, slots=True)
class _Values:
    """An object whose keys are the user's, and whose values have a shape."""

    shape: "_Shape"


_Shape = _Fields | _Each | _Values | None
"""What may be brought into form. None is the user's own."""


class _Plain:
    """Brings one body into form; counts its items, since millions would hold up everybody."""

    def __init__(self) -> None:
        self._items = 0

    def of(self, value: Any, shape: _Shape) -> Any:
        match shape:
            case _Fields(names, inside) if isinstance(value, dict):
                spelled = [(names.get(str(key), str(key)), item) for key, item in value.items()]
                return {name: self.of(item, inside.get(name)) for name, item in spelled}
            case _Each(kind):
                if value is None:
                    return None
                several = value if isinstance(value, list) else [value]
                self._count(len(several))
                return [self.of(item, kind) for item in several]
            case _Values(kind) if isinstance(value, dict):
                self._count(len(value))
                return {key: self.of(item, kind) for key, item in value.items()}
            case _:
                return value

    def _count(self, more: int) -> None:
        self._items += more
        if self._items > _MAX_ITEMS:
            raise BadBody(
                f"the body has {self._items} contents, parts and other items or more; "
                f"send {_MAX_ITEMS} at most"
            )


@cache
def _struct(kind: type[msgspec.Struct]) -> _Fields:
    shape = _Fields()
    _FILLING[kind] = shape
    hints = get_type_hints(kind, include_extras=True)
    for field_ in msgspec.structs.fields(kind):
        shape.names[field_.name] = shape.names[field_.encode_name] = field_.encode_name
        shape.inside[field_.encode_name] = _shape(hints[field_.name])
    if kind is Schema:
        shape.names |= {"$ref": "ref", "$defs": "defs"}
    del _FILLING[kind]
    return shape


_FILLING: dict[type[msgspec.Struct], _Fields] = {}  # for schemas, which hold schemas


def _shape(kind: Any) -> _Shape:
    """What lies in a field of the type `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _shape(arguments[0])
    if origin in (Union, types.UnionType):
        return next(
            (shape for argument in arguments if (shape := _shape(argument)) is not None), None
        )
    if origin is list:
        inner = _shape(arguments[0])
        return None if inner is None else _Each(inner)
    if origin in (dict, Mapping):
        inner = _shape(arguments[1])
        return None if inner is None else _Values(inner)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _FILLING.get(kind) or _struct(kind)
    return None
