"""Tokens, as vLLM and llama.cpp tell them: what lm-eval's ``tokenizer_backend=remote`` asks for.

lm-eval names no model there, and asks beside the address of the completions. So all of it exists
twice: at the root, and under ``/of/{model}``, where the address names the model:
``base_url=http://127.0.0.1:11435/of/smollm2/v1/completions``.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from overt.errors import OvertError
from overt.protocols.base import BadBody, Call, Reply
from overt.protocols.openai_wire import Wire

_EOS, _BOS = "tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id"


class TokenizeBody(Wire, kw_only=True):
    """vLLM's ``prompt`` or llama.cpp's ``content``.

    Nothing is put around the text whatever ``add_special_tokens`` says: no engine here tells those
    tokens apart from the text's own.
    """

    prompt: str | None = None
    content: str | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    parse_special: bool | None = None


class DetokenizeBody(Wire, kw_only=True):
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


async def tokenize(call: Call) -> Reply:
    """``POST /tokenize``."""
    body = call.read(TokenizeBody)
    text = body.prompt if body.prompt is not None else body.content
    if text is None:
        raise BadBody("Object missing required field `prompt`")
    model = await _model(call, body.model)
    special = body.parse_special is not False
    ids = await call.services.tokenize(call.caller, model, text, special=special)
    return Reply(Tokenized(len(ids), ids))


async def detokenize(call: Call) -> Reply:
    """``POST /detokenize``."""
    body = call.read(DetokenizeBody)
    model = await _model(call, body.model)
    text = await call.services.detokenize(call.caller, model, body.tokens) if body.tokens else ""
    return Reply(Detokenized(text, text))


async def info(call: Call) -> Reply:
    """``GET /tokenizer_info``."""
    model = await _model(call, call.query.get("model"))
    details = await call.services.library.show(model)
    ends = [await _word(call, model, details.metadata.get(key)) for key in (_EOS, _BOS)]
    return Reply(TokenizerInfo(model, ends[0], ends[1], details.template or None))


async def _word(call: Call, model: str, id: object) -> str | None:
    """What a special token reads, so that it can be tokenized again."""
    if not isinstance(id, int):
        return None
    try:
        return await call.services.detokenize(call.caller, model, (id,)) or None
    except OvertError:
        return None  # an id beyond the vocabulary: such files exist, and answer well


async def _model(call: Call, asked: str | None) -> str:
    """The model of the address or the body, or the only one there is.

    Raises:
        BadBody: the two differ, or several models could be meant.
    """
    named = call.params.get("model") or asked
    if named:
        if asked and asked != named:
            raise BadBody(f"the address names {named[:80]!r} and the body {asked[:80]!r}", "model")
        return named
    cards = [one.card for one in call.services.loaded()]
    cards = cards or list(await call.services.models(call.caller))
    ids = sorted({card.id for card in cards if card.kind in ("llm", "vlm")})
    if len(ids) != 1:
        raise BadBody(f"which model? {len(ids)} could be meant; send model", "model")
    return ids[0]
