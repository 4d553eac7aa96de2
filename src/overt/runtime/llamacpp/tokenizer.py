"""Words and tokens of a model in a worker: what only llama.cpp's own listener can tell.

A worker answers over its listener, a UNIX socket in its folder (runtime/worker/http.py). It is not
trusted: whatever it says ends in values of the right kind or in an OvertError.
"""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from overt.chat import Request
from overt.engine import Capabilities
from overt.errors import BadRequest, EngineFailed, Unsupported
from overt.runtime.llamacpp.answer import LlamaRefusal, as_error
from overt.runtime.llamacpp.begin_tokens import PROBE, Probed
from overt.runtime.llamacpp.request import check, continued, conversation
from overt.runtime.worker_engine import WorkerCaller

_FIM = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<PRE>", "<SUF>", "<MID>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    ("<|prefix|>", "<|suffix|>", "<|middle|>"),  # Falcon-H1 Coder
)
"""What stands before the prefix, the suffix and the gap, as llama.cpp knows them
(src/llama-vocab.cpp)."""


class _TokenizedReply(msgspec.Struct):
    tokens: list[int] | None = None
    error: LlamaRefusal | None = None


class _DetokenizedContent(msgspec.Struct):
    content: str | None = None
    error: LlamaRefusal | None = None


class _Prompt(msgspec.Struct):
    prompt: str | None = None
    error: LlamaRefusal | None = None


class _Count(msgspec.Struct):
    input_tokens: int | None = None
    error: LlamaRefusal | None = None


Reply = TypeVar("Reply", _TokenizedReply, _DetokenizedContent, _Prompt, _Count)


class TokenizerMixin(Probed):
    """Mixed into engines that have `_worker` and `_capabilities`."""

    _worker: WorkerCaller
    _capabilities: Capabilities
    _fim: tuple[int, ...] | None = None

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`.

        Raises:
            BadRequest: an id that is none.
        """
        if any(not 0 <= token < 2**31 for token in tokens):
            raise BadRequest("token ids are whole numbers from 0 to 2147483647")
        reply = await self._ask("/detokenize", {"tokens": list(tokens)}, _DetokenizedContent)
        return _as_given(reply.content)

    async def render(self, request: Request) -> str:
        """The text that the chat template makes of the messages and tools.

        Raises:
            BadRequest: `request` has no messages, or what this model cannot take.
            Unsupported: the model has no chat template.
        """
        check(request, self._capabilities)
        if request.prompt is not None:
            raise BadRequest("a prompt is not rendered", "give messages")
        if not self._capabilities.chat:
            raise Unsupported("this model has no chat template")
        reply = await self._ask("/apply-template", conversation(request), _Prompt)
        return _as_given(reply.prompt)

    async def count(self, request: Request) -> int:
        """Tokens of `request` as the model would read it, images included."""
        if request.prompt is None and not self._capabilities.chat:
            request = continued(request)
        check(request, self._capabilities)
        if request.suffix is not None:
            return len(await self.gap(request))
        if isinstance(request.prompt, str):
            return len(await self._tokens(request.prompt, around=True))
        if request.prompt is not None:
            return len(request.prompt)
        path = "/v1/chat/completions/input_tokens"
        reply = await self._ask(path, conversation(request), _Count)
        return _as_given(reply.input_tokens)

    async def gap(self, request: Request) -> tuple[int, ...]:
        """The prompt that makes the model write what is missing between prompt and suffix.

        Built here because llama.cpp's own /infill cuts both sides to fit one batch.

        Raises:
            BadRequest: the model was not made to fill gaps.
        """
        before, after, middle = await self._gap_marks()
        beginning, _ = await self.around()
        prompt = request.prompt or ""
        prefix = await self._tokens(prompt, special=False) if isinstance(prompt, str) else prompt
        suffix = await self._tokens(request.suffix or "", special=False)
        return (*beginning, before, *prefix, after, *suffix, middle)

    async def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that the model puts before and after every text."""
        plain, whole = await self.tokenize(PROBE), await self.tokenize(PROBE, around=True)
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
        return whole[:1], ()

    async def _gap_marks(self) -> tuple[int, ...]:
        if self._fim is None:
            self._fim = ()
            for names in _FIM:
                ids = [await self._tokens(name) for name in names]
                if all(len(token_ids) == 1 for token_ids in ids) and len(set(ids)) == len(ids):
                    self._fim = tuple(token_ids[0] for token_ids in ids)
                    break
        if not self._fim:
            raise BadRequest(
                "this model was not made to fill gaps: it has no tokens for that",
                "leave out the suffix, or choose a model for code",
            )
        return self._fim

    async def _tokens(
        self, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        body = {"content": text, "parse_special": special, "add_special": around}
        reply = await self._ask("/tokenize", body, _TokenizedReply)
        return tuple(_as_given(reply.tokens))

    async def _ask(self, path: str, body: dict[str, Any], kind: type[Reply]) -> Reply:
        reply_bytes = await self._worker.ask(path, json.dumps(body).encode())
        try:
            reply = msgspec.json.decode(reply_bytes, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineFailed(f"llama.cpp broke its own protocol: {error}") from None
        if reply.error is not None:
            raise as_error(reply.error, self._capabilities.longest)
        return reply


Given = TypeVar("Given")


def _as_given(value: Given | None) -> Given:
    if value is None:
        raise EngineFailed("llama.cpp answered something else than it was asked")
    return value
