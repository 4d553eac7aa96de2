"""The official clients behind one face, each used as its own documentation shows.

A `Talk` keeps the conversation as its client would: what the model answered goes back as the
client's own objects, so that whatever the server hid in them comes back too.
"""

import base64
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import anthropic
import google.genai
import ollama
import openai
from google.genai import types

MODEL = "writer"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
SCHEMA = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """How to ask: `tools` is whether the one tool, weather(city), is given."""

    stream: bool = False
    tools: bool = False
    schema: bool = False
    think: bool = False


@dataclass(frozen=True)
class Said:
    """`finish` is ``stop`` or ``calls``; `tokens` those of prompt and answer."""

    text: str
    thought: str
    calls: list[tuple[str, str, Mapping[str, Any]]]
    finish: str
    tokens: tuple[int, int]


@dataclass
class Talk:
    """One conversation; `options` are the client's own."""

    url: str
    history: list[Any] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    client: Any = None

    def __post_init__(self) -> None:
        raise NotImplementedError

    def ask(self, how: Ask = Ask()) -> Said:
        raise NotImplementedError

    def leave(self) -> None:
        """Ask for a stream and close it after its first piece of text."""
        raise NotImplementedError

    def user(self, text: str, *, image: bool = False) -> None:
        raise NotImplementedError

    def result(self, id: str, name: str, text: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.client.close()


_TOOL: Any = {"type": "function", "name": "weather", "description": "The weather of a city.",
              "parameters": SCHEMA}  # fmt: skip
_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


class Chat(Talk):
    """`openai`, Chat Completions."""

    def __post_init__(self) -> None:
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **self.options)

    def user(self, text: str, *, image: bool = False) -> None:
        shown: Any = {"type": "image_url", "image_url": {"url": _URL}}
        content: Any = [{"type": "text", "text": text}, shown] if image else text
        self.history.append({"role": "user", "content": content})

    def result(self, id: str, name: str, text: str) -> None:
        self.history.append({"role": "tool", "tool_call_id": id, "content": text})

    def ask(self, how: Ask = Ask()) -> Said:
        asked: dict[str, Any] = {"model": MODEL, "messages": self.history}
        if how.tools:
            function = {name: _TOOL[name] for name in ("name", "description", "parameters")}
            asked["tools"] = [{"type": "function", "function": function}]
        if how.schema:
            form = {"name": "place", "schema": SCHEMA, "strict": True}
            asked["response_format"] = {"type": "json_schema", "json_schema": form}
        if how.think:
            asked["reasoning_effort"] = "high"
        whole: Any
        if how.stream:
            asked["stream_options"] = {"include_usage": True}
            with self.client.chat.completions.stream(**asked) as stream:
                thought = "".join(
                    getattr(event.chunk.choices[0].delta, "reasoning_content", None) or ""
                    for event in stream
                    if event.type == "chunk" and event.chunk.choices
                )
                whole = stream.get_final_completion()
        else:
            whole = self.client.chat.completions.create(**asked)
            thought = getattr(whole.choices[0].message, "reasoning_content", None) or ""
        choice = whole.choices[0]
        self.history.append(choice.message.model_dump(exclude_none=True))
        calls = [
            (one.id, one.function.name, json.loads(one.function.arguments))
            for one in choice.message.tool_calls or ()
        ]
        finish = {"stop": "stop", "tool_calls": "calls"}[choice.finish_reason]
        tokens = (whole.usage.prompt_tokens, whole.usage.completion_tokens)
        return Said(choice.message.content or "", thought, calls, finish, tokens)

    def leave(self) -> None:
        asked: dict[str, Any] = {"model": MODEL, "messages": self.history}
        with self.client.chat.completions.create(stream=True, **asked) as stream:
            next(one for one in stream if one.choices and one.choices[0].delta.content)


class Responses(Talk):
    """`openai`, Responses, kept nowhere: the client sends all of it again."""

    def __post_init__(self) -> None:
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **self.options)

    def user(self, text: str, *, image: bool = False) -> None:
        shown: Any = {"type": "input_image", "image_url": _URL, "detail": "auto"}
        content: Any = [{"type": "input_text", "text": text}, shown] if image else text
        self.history.append({"role": "user", "content": content})

    def result(self, id: str, name: str, text: str) -> None:
        self.history.append({"type": "function_call_output", "call_id": id, "output": text})

    def ask(self, how: Ask = Ask()) -> Said:
        asked: dict[str, Any] = {
            "model": MODEL, "input": self.history, "store": False,
            "include": ["reasoning.encrypted_content"],
        }  # fmt: skip
        if how.tools:
            asked["tools"] = [{**_TOOL, "strict": True}]
        if how.schema:
            form = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
            asked["text"] = {"format": form}
        if how.think:
            asked["reasoning"] = {"effort": "high", "summary": "auto"}
        if how.stream:
            with self.client.responses.stream(**asked) as stream:
                for _ in stream:
                    pass
                whole: Any = stream.get_final_response()
        else:
            whole = self.client.responses.create(**asked)
        self.history += whole.output
        thought = "".join(
            part.text
            for item in whole.output if item.type == "reasoning"
            for part in [*(item.content or ()), *item.summary]
        )  # fmt: skip
        calls = [
            (item.call_id, item.name, json.loads(item.arguments))
            for item in whole.output if item.type == "function_call"
        ]  # fmt: skip
        assert whole.status == "completed"
        tokens = (whole.usage.input_tokens, whole.usage.output_tokens)
        return Said(whole.output_text, thought, calls, "calls" if calls else "stop", tokens)

    def leave(self) -> None:
        asked: dict[str, Any] = {"model": MODEL, "input": self.history, "store": False}
        with self.client.responses.create(stream=True, **asked) as stream:
            next(one for one in stream if one.type == "response.output_text.delta")


class Messages(Talk):
    """`anthropic`."""

    def __post_init__(self) -> None:
        self.client = anthropic.Anthropic(base_url=self.url, api_key="none", **self.options)

    def user(self, text: str, *, image: bool = False) -> None:
        data = base64.b64encode(PNG).decode()
        source = {"type": "base64", "media_type": "image/png", "data": data}
        shown: Any = {"type": "image", "source": source}
        content: Any = [{"type": "text", "text": text}, shown] if image else text
        self.history.append({"role": "user", "content": content})

    def result(self, id: str, name: str, text: str) -> None:
        told = {"type": "tool_result", "tool_use_id": id, "content": text}
        self.history.append({"role": "user", "content": [told]})

    def ask(self, how: Ask = Ask()) -> Said:
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 4096, "messages": self.history}
        if how.tools:
            asked["tools"] = [{"name": "weather", "description": "The weather of a city.",
                               "input_schema": SCHEMA}]  # fmt: skip
        if how.schema:
            asked["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        if how.think:
            asked["thinking"] = {"type": "enabled", "budget_tokens": 2048}
        if how.stream:
            with self.client.messages.stream(**asked) as stream:
                whole: Any = stream.get_final_message()
        else:
            whole = self.client.messages.create(**asked)
        self.history.append({"role": "assistant", "content": whole.content})
        text = "".join(one.text for one in whole.content if one.type == "text")
        thought = "".join(one.thinking for one in whole.content if one.type == "thinking")
        calls = [(one.id, one.name, one.input) for one in whole.content if one.type == "tool_use"]
        finish = {"end_turn": "stop", "tool_use": "calls"}[whole.stop_reason]
        return Said(
            text, thought, calls, finish, (whole.usage.input_tokens, whole.usage.output_tokens)
        )

    def leave(self) -> None:
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 4096, "messages": self.history}
        with self.client.messages.stream(**asked) as stream:
            next(stream.text_stream)


class Gemini(Talk):
    """`google-genai`."""

    def __post_init__(self) -> None:
        options = types.HttpOptions(base_url=self.url, **self.options)
        self.client = google.genai.Client(api_key="none", http_options=options)

    def user(self, text: str, *, image: bool = False) -> None:
        parts = [types.Part(text=text)]
        if image:
            parts.append(types.Part.from_bytes(data=PNG, mime_type="image/png"))
        self.history.append(types.Content(role="user", parts=parts))

    def result(self, id: str, name: str, text: str) -> None:
        told = types.FunctionResponse(id=id, name=name, response={"output": text})
        self.history.append(types.Content(role="user", parts=[types.Part(function_response=told)]))

    def ask(self, how: Ask = Ask()) -> Said:
        config: dict[str, Any] = {}
        if how.tools:
            declared = types.FunctionDeclaration(
                name="weather", description="The weather of a city.", parameters_json_schema=SCHEMA
            )
            config["tools"] = [types.Tool(function_declarations=[declared])]
            config["automatic_function_calling"] = {"disable": True}
        if how.schema:
            config |= {"response_mime_type": "application/json", "response_json_schema": SCHEMA}
        if how.think:
            config["thinking_config"] = {"include_thoughts": True}
        asked: dict[str, Any] = {
            "model": MODEL, "contents": self.history,
            "config": types.GenerateContentConfig(**config),
        }  # fmt: skip
        models = self.client.models
        if how.stream:
            answers = list(models.generate_content_stream(**asked))
        else:
            answers = [models.generate_content(**asked)]
        parts: list[types.Part] = []
        for answer in answers:
            for candidate in answer.candidates or ():
                if candidate.content and candidate.content.parts:
                    parts += candidate.content.parts
        self.history.append(types.Content(role="model", parts=parts))
        last: Any = answers[-1]
        assert last.candidates[0].finish_reason == "STOP", last
        used = last.usage_metadata
        calls = [
            (one.function_call.id or "", one.function_call.name or "", one.function_call.args or {})
            for one in parts if one.function_call
        ]  # fmt: skip
        return Said(
            "".join(one.text or "" for one in parts if not one.thought),
            "".join(one.text or "" for one in parts if one.thought),
            calls,
            "calls" if calls else "stop",
            (used.prompt_token_count or 0, used.candidates_token_count or 0),
        )

    def leave(self) -> None:
        with closing(
            self.client.models.generate_content_stream(model=MODEL, contents=self.history)
        ) as stream:
            next(one for one in stream if one.text)


class Ollama(Talk):
    """`ollama`."""

    def __post_init__(self) -> None:
        self.client = ollama.Client(host=self.url, **self.options)

    def user(self, text: str, *, image: bool = False) -> None:
        shown = {"images": [PNG]} if image else {}
        self.history.append({"role": "user", "content": text, **shown})

    def result(self, id: str, name: str, text: str) -> None:
        self.history.append({"role": "tool", "tool_name": name, "content": text})

    def ask(self, how: Ask = Ask()) -> Said:
        asked: dict[str, Any] = {"model": MODEL, "messages": self.history}
        if how.tools:
            function = {name: _TOOL[name] for name in ("name", "description", "parameters")}
            asked["tools"] = [{"type": "function", "function": function}]
        if how.schema:
            asked["format"] = SCHEMA
        if how.think:
            asked["think"] = True
        if how.stream:
            answers = list(self.client.chat(stream=True, **asked))
        else:
            answers = [self.client.chat(**asked)]
        messages = [answer.message for answer in answers]
        text = "".join(one.content or "" for one in messages)
        thought = "".join(one.thinking or "" for one in messages)
        called = [call for one in messages for call in one.tool_calls or ()]
        self.history.append(
            ollama.Message(role="assistant", content=text, thinking=thought or None,
                           tool_calls=called or None)
        )  # fmt: skip
        last = answers[-1]
        assert (last.done, last.done_reason) == (True, "stop"), last
        calls: list[Any] = [("", one.function.name, one.function.arguments) for one in called]
        tokens = (last.prompt_eval_count or 0, last.eval_count or 0)
        return Said(text, thought, calls, "calls" if calls else "stop", tokens)

    def leave(self) -> None:
        with closing(self.client.chat(model=MODEL, messages=self.history, stream=True)) as stream:
            next(one for one in stream if one.message.content)


TALKS: dict[str, type[Talk]] = {
    "chat": Chat, "responses": Responses, "anthropic": Messages, "gemini": Gemini,
    "ollama": Ollama,
}  # fmt: skip
NAMES = {"chat": "openai", "responses": "openai", "anthropic": "anthropic",
         "gemini": "google-genai", "ollama": "ollama"}  # fmt: skip
"""What each client is called in docs/compatibility.md."""
