"""Tokens, as vLLM and llama.cpp tell them: what lm-eval's ``tokenizer_backend=remote`` asks for.

lm-eval names no model there, and asks beside the address of the completions. So all of it exists
twice: at the root, and under ``/of/{model}``, where the address names the model:
``base_url=http://127.0.0.1:11435/of/smollm2/v1/completions``.

lm-eval asks for tokens without those that a model puts before a text, and sends what it got as the
prompt. So under ``/of/{model}`` a prompt of token ids begins as a text does (`Begin`); at the root
ids are taken as they come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from overt.errors import OvertError, Unsupported
from overt.protocols.base import BadBody, HttpCall, HttpReply
from overt.protocols.openai.logprobs import Prompt
from overt.protocols.openai.wire import OpenAIWire
from overt.runtime.llamacpp.begin_tokens import PROBE

_EOS, _BOS = "tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id"


class TokenizeBody(OpenAIWire, kw_only=True):
    """vLLM's ``prompt`` or llama.cpp's ``content``.

    What a model puts around every prompt is put around the text where ``add_special_tokens``, or
    llama.cpp's ``add_special``, says so; it is left out unless asked for.
    """

    prompt: str | None = None
    content: str | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    parse_special: bool | None = None


class DetokenizeBody(OpenAIWire, kw_only=True):
    tokens: list[Annotated[int, Meta(ge=0, le=2**31 - 1)]]
    model: str | None = None


class Tokenized(msgspec.Struct):
    count: int
    tokens: tuple[int, ...]


class Detokenized(msgspec.Struct):
    prompt: str
    content: str


class TokenizerInfo(msgspec.Struct):
    model: str
    eos_token: str | None
    bos_token: str | None
    chat_template: str | None
    add_bos_token: bool


async def tokenize(call: HttpCall) -> HttpReply:
    """``POST /tokenize``."""
    body = call.read(TokenizeBody)
    text = body.prompt if body.prompt is not None else body.content
    if text is None:
        raise BadBody("Object missing required field `prompt`")
    model = await _model(call, body.model)
    special = body.parse_special is not False
    around = bool(body.add_special_tokens or body.add_special)
    ids = await call.services.tokenize(call.caller, model, text, special=special, around=around)
    return HttpReply(Tokenized(len(ids), ids))


async def detokenize(call: HttpCall) -> HttpReply:
    """``POST /detokenize``."""
    body = call.read(DetokenizeBody)
    model = await _model(call, body.model)
    text = await call.services.detokenize(call.caller, model, body.tokens) if body.tokens else ""
    return HttpReply(Detokenized(text, text))


async def info(call: HttpCall) -> HttpReply:
    """``GET /tokenizer_info``."""
    model = await _model(call, call.query.get("model"))
    details = await call.services.library.show(model)
    ends = [await _word(call, model, details.metadata.get(key)) for key in (_EOS, _BOS)]
    begin = await Begin.of(call, model)
    return HttpReply(
        TokenizerInfo(model, ends[0], ends[1], details.template or None, bool(begin.tokens))
    )


# ---- how a prompt begins -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The tokens that a model puts before every text, such as ``<bos>``; none for many."""

    tokens: tuple[int, ...] = ()

    @classmethod
    async def of(cls, call: HttpCall, model: str) -> "Begin":
        """Those of `model`; none where its engine shows no tokens.

        Raises:
            OvertError: the model cannot be used.
        """
        tokenize = call.services.tokenize
        try:
            plain = await tokenize(call.caller, model, PROBE)
            whole = await tokenize(call.caller, model, PROBE, around=True)
        except Unsupported:
            return cls()
        return cls(whole[: whole.index(plain[0])] if plain and plain[0] in whole else ())

    def added_to(self, prompt: Prompt) -> int:
        """How many tokens `before` puts before `prompt`: an engine adds to a text by itself."""
        own = self.tokens
        return 0 if isinstance(prompt, str) or prompt[: len(own)] == own else len(own)

    async def before(
        self, call: HttpCall, model: str, prompts: Sequence[Prompt]
    ) -> tuple[Prompt, ...]:
        """`prompts`, each of which begins with these tokens once when an engine reads it.

        A text that has them written out would have them twice: it becomes token ids.
        """
        if not self.tokens:
            return tuple(prompts)
        services, caller = call.services, call.caller
        resolved: list[Prompt] = []
        word = ""
        if any(isinstance(prompt, str) for prompt in prompts):
            word = await services.detokenize(caller, model, self.tokens)
        for prompt in prompts:
            if not isinstance(prompt, str):
                resolved.append(self.tokens[: self.added_to(prompt)] + prompt)
            elif word and prompt.startswith(word):
                resolved.append(await services.tokenize(caller, model, prompt))
            else:
                resolved.append(prompt)
        return tuple(resolved)


async def _word(call: HttpCall, model: str, id: object) -> str | None:
    """What a special token reads, so that it can be tokenized again."""
    if not isinstance(id, int):
        return None
    try:
        return await call.services.detokenize(call.caller, model, (id,)) or None
    except OvertError:
        return None  # an id beyond the vocabulary: such files exist, and answer well


async def _model(call: HttpCall, body_model: str | None) -> str:
    """The model of the address or the body, or the only one there is.

    Raises:
        BadBody: the two differ, or several models could be meant.
    """
    named = call.params.get("model") or body_model
    if named:
        if body_model and body_model != named:
            raise BadBody(
                f"the address names {named[:80]!r} and the body {body_model[:80]!r}", "model"
            )
        return named
    cards = [loaded.card for loaded in call.services.loaded()]
    cards = cards or list(await call.services.models(call.caller))
    ids = sorted({card.id for card in cards if card.kind in ("llm", "vlm")})
    if len(ids) != 1:
        raise BadBody(f"which model? {len(ids)} could be meant; send model", "model")
    return ids[0]
