"""What clients of Anthropic's Messages API send: the structs of a request's body.

Written from the types of the `anthropic` 2.13 package. A field that is not here is refused, as the
real API does.
"""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta


class AnthropicWire(msgspec.Struct, forbid_unknown_fields=True):
    """Base of what clients send: a field it does not have is refused, as Anthropic does."""


class CacheControl(AnthropicWire):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Block(AnthropicWire, tag_field="type"):
    cache_control: CacheControl | None = None


class TextBlock(Block, tag="text", kw_only=True):
    text: str
    citations: list[Any] | None = None


class Base64Source(AnthropicWire, tag_field="type", tag="base64"):
    data: str
    media_type: str


class UrlSource(AnthropicWire, tag_field="type", tag="url"):
    url: str


class FileSource(AnthropicWire, tag_field="type", tag="file"):
    file_id: str


class TextSource(AnthropicWire, tag_field="type", tag="text"):
    data: str
    media_type: Literal["text/plain"]


class Transformations(AnthropicWire):
    oversized_image: Literal["downsize", "error"] | None = None


class ImageBlock(Block, tag="image", kw_only=True):
    source: Base64Source | UrlSource | FileSource
    transformations: Transformations | None = None


class ContentSource(AnthropicWire, tag_field="type", tag="content"):
    content: str | list[TextBlock | ImageBlock]


class Citations(AnthropicWire):
    enabled: bool = False


class DocumentBlock(Block, tag="document", kw_only=True):
    source: Base64Source | UrlSource | FileSource | TextSource | ContentSource
    citations: Citations | None = None
    context: str | None = None
    title: str | None = None


class SearchResultBlock(Block, tag="search_result", kw_only=True):
    content: list[TextBlock]
    source: str
    title: str
    citations: Citations | None = None


class ThinkingBlock(AnthropicWire, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class RedactedThinkingBlock(AnthropicWire, tag_field="type", tag="redacted_thinking"):
    data: str


class ToolUseBlock(Block, tag="tool_use", kw_only=True):
    id: str
    name: str
    input: msgspec.Raw
    caller: Any = None
    toolset_name: str | None = None


class Foreign(msgspec.Struct, tag_field="type"):
    """A block that only Anthropic's own machines make or read; its fields do not matter."""


class ServerToolUse(Foreign, tag="server_tool_use"): ...


class WebSearchResult(Foreign, tag="web_search_tool_result"): ...


class WebFetchResult(Foreign, tag="web_fetch_tool_result"): ...


class CodeResult(Foreign, tag="code_execution_tool_result"): ...


class BashResult(Foreign, tag="bash_code_execution_tool_result"): ...


class EditorResult(Foreign, tag="text_editor_code_execution_tool_result"): ...


class ToolSearchResult(Foreign, tag="tool_search_tool_result"): ...


class ContainerUpload(Foreign, tag="container_upload"): ...


class ToolReference(Foreign, tag="tool_reference"): ...


class BrowserState(Foreign, tag="browser_state"): ...


class McpUse(Foreign, tag="mcp_tool_use"): ...


class McpResult(Foreign, tag="mcp_tool_result"): ...


class Compaction(Foreign, tag="compaction"): ...


ResultBlock = (
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReference | BrowserState
)


class ToolResultBlock(Block, tag="tool_result", kw_only=True):
    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool = False
    toolset_name: str | None = None


AnyBlock = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | ServerToolUse
    | WebSearchResult
    | WebFetchResult
    | CodeResult
    | BashResult
    | EditorResult
    | ToolSearchResult
    | ContainerUpload
    | ToolReference
    | BrowserState
    | McpUse
    | McpResult
    | Compaction
)


class InputMessage(AnthropicWire):
    role: Literal["user", "assistant", "system"]
    content: str | list[AnyBlock]


class CustomTool(AnthropicWire):
    """A tool of the client's own; most of its fields are hints about cost and caching."""

    name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_.:-]+$")]
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    cache_control: CacheControl | None = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[dict[str, Any]] | None = None
    strict: bool | None = None


class ToolChoiceBody(AnthropicWire, tag_field="type"):
    disable_parallel_tool_use: bool = False


class AutoChoice(ToolChoiceBody, tag="auto", kw_only=True): ...


class AnyChoice(ToolChoiceBody, tag="any", kw_only=True): ...


class AnthropicToolChoice(ToolChoiceBody, tag="tool", kw_only=True):
    name: str


class NoChoice(AnthropicWire, tag_field="type", tag="none"): ...


Display = Literal["summarized", "omitted"]


class Enabled(AnthropicWire, tag_field="type", tag="enabled"):
    budget_tokens: Annotated[int, Meta(ge=1024)]
    display: Display | None = None


class Adaptive(AnthropicWire, tag_field="type", tag="adaptive"):
    display: Display | None = None


class BetweenTools(AnthropicWire, tag_field="type", tag="between_tools"):
    display: Display | None = None


class Disabled(AnthropicWire, tag_field="type", tag="disabled"): ...


class JsonFormat(AnthropicWire):
    type: Literal["json_schema"]
    schema: dict[str, Any]
    name: str | None = None


class OutputConfig(AnthropicWire):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None
    task_budget: Any = None


class MetadataBody(AnthropicWire):
    user_id: str | None = None


class Edit(msgspec.Struct):
    type: str


class ContextManagement(AnthropicWire):
    edits: list[Edit] = []


Name = Annotated[str, Meta(min_length=1)]
Probability = Annotated[float, Meta(ge=0, le=1)]


class NewThread(AnthropicWire, tag_field="type", tag="create"): ...


class OldThread(AnthropicWire, tag_field="type", tag="continue"):
    previous_message_id: str


class PromptBody(AnthropicWire, kw_only=True):
    """What counting and answering have in common."""

    model: Name
    messages: Annotated[list[InputMessage], Meta(min_length=1, max_length=100_000)]
    system: str | list[TextBlock] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: AutoChoice | AnyChoice | AnthropicToolChoice | NoChoice | None = None
    thinking: Enabled | Adaptive | BetweenTools | Disabled | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None  # as a beta had it
    # taken and ignored
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    speed: Literal["standard", "fast"] | None = None
    thread: NewThread | OldThread | None = None
    # refused where given
    container: Any = None
    mcp_servers: list[Any] | None = None
    compaction: Any = None
    fallbacks: Any = None

    refused: ClassVar[tuple[str, ...]] = (
        "container",
        "mcp_servers",
        "compaction",
        "fallbacks",
    )


class AnthropicCountBody(PromptBody, kw_only=True):
    """The body of ``POST /v1/messages/count_tokens``."""


class CreateMessage(PromptBody, kw_only=True):
    """The body of ``POST /v1/messages``."""

    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    # taken and ignored
    metadata: MetadataBody | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    diagnostics: Any = None
    inference_geo: str | None = None
