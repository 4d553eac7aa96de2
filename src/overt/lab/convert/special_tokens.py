"""Which tokens begin and end a text, and the chat template: the smaller keys of a vocabulary.

What is put around a text is read from the template of tokenizer.json's post-processor, where there
is one; the roles of tokens from tokenizer_config.json, special_tokens_map.json and config.json.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from overt.errors import FormatError, Unsupported

ROLES = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}
"""A role in the files of a release, and the end of its key in GGUF (spelt as llama.cpp does)."""
_MAX_PROCESSORS = 16
_MAX_TEMPLATE = 1 << 20
_PARTED = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_text|>",
    "<eos>",
)
"""Tokens that llama.cpp ends an answer at by their names alone."""


def keys(
    texts: Mapping[str, Any],
    config: Mapping[str, Any],
    tokens: Sequence[str],
    processor: object,
    *,
    first: bool,
) -> Iterator[tuple[str, Any]]:
    """The ids of the roles, what is put around a text, and the chat templates.

    Args:
        processor: the ``post_processor`` of tokenizer.json.
        first: a text begins with BOS where no file says so.

    Raises:
        FormatError: a file is not what it should be.
        Unsupported: more is put around a text than llama.cpp can.
    """
    tokenizer_config = _object(texts, "tokenizer_config.json")
    ids = {token: id for id, token in enumerate(tokens)}
    roles = dict(_roles(texts, config, ids))
    before, after, silent = _around(processor)
    for role, token, default in (("bos", before, first), ("eos", after, False)):
        if token:
            if token not in ids:
                raise FormatError(f"the post-processor adds {token[:40]!r}, which is no token")
            if role == "eos" and roles.get("eos", ids[token]) != ids[token]:
                raise Unsupported(
                    f"the tokenizer ends texts with {token[:40]!r}, which is not its EOS token"
                )
            roles[role] = ids[token]
        add = tokenizer_config.get(f"add_{role}_token")
        known = not silent and isinstance(add, bool)
        yield f"tokenizer.ggml.add_{role}_token", bool(token) or (add if known else default)
    for role, id in roles.items():
        yield f"tokenizer.ggml.{ROLES[role]}", id
    if (turn := _turn(texts, roles.get("eos"), tokens)) is not None:
        yield "tokenizer.ggml.eot_token_id", turn
    yield from _templates(texts, tokenizer_config)


def _roles(
    texts: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int]
) -> Iterator[tuple[str, int]]:
    files = (_object(texts, "tokenizer_config.json"), _object(texts, "special_tokens_map.json"))
    inner = config.get("text_config")
    configs = (config, inner if isinstance(inner, dict) else {})
    for role in ROLES:
        named = (_content(file.get(f"{role}_token")) for file in files)
        id = next((ids[token] for token in named if token is not None and token in ids), None)
        for config_ in configs:
            stated = config_.get(f"{role}_token_id")
            if isinstance(stated, list) and stated:
                stated = stated[0]
            if id is None and type(stated) is int and 0 <= stated < len(ids):
                id = stated
        if id is not None:
            yield role, id


def _content(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _around(processor: object) -> tuple[str, str, bool]:
    """The token put before a text and the one after it; and whether the files' word stands.

    A byte-level processor alone says that nothing is added, whatever tokenizer_config.json says.
    """
    if processor is None:
        return "", "", False
    parts: Any = [processor]
    if isinstance(processor, Mapping) and processor.get("type") == "Sequence":
        parts = processor.get("processors")
    if not isinstance(parts, list) or len(parts) > _MAX_PROCESSORS:
        raise FormatError("tokenizer.json has post-processors that are none")
    before = after = ""
    silent = False
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "TemplateProcessing":
            before, after = _template(part.get("single"))
        elif kind == "ByteLevel":
            silent = True
        else:
            raise Unsupported(f"the tokenizer has the post-processor {str(kind)[:80]!r}")
    return before, after, silent


def _template(single: object) -> tuple[str, str]:
    before: list[str] = []
    after: list[str] = []
    side = before
    for part in single if isinstance(single, list) else [None]:
        special = part.get("SpecialToken") if isinstance(part, Mapping) else None
        if isinstance(special, Mapping) and isinstance(special.get("id"), str):
            side.append(special["id"])
        elif isinstance(part, Mapping) and "Sequence" in part and side is before:
            side = after
        else:
            raise FormatError("the template of tokenizer.json's post-processor is none")
    if side is before or len(before) > 1 or len(after) > 1:
        raise Unsupported(
            f"the tokenizer puts {len(before)} tokens before a text and {len(after)} after it, "
            "and llama.cpp one at most"
        )
    return "".join(before), "".join(after)


def _turn(texts: Mapping[str, Any], eos: int | None, tokens: Sequence[str]) -> int | None:
    """A second token that ends an answer, where llama.cpp would not know it by its name."""
    ends = _object(texts, "generation_config.json").get("eos_token_id")
    others = [
        id
        for id in (ends if isinstance(ends, list) else ())
        if type(id) is int and id != eos and 0 <= id < len(tokens) and tokens[id] not in _PARTED
    ]
    return others[0] if len(others) == 1 else None


def _templates(texts: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    template = texts.get("chat_template.jinja") or config.get("chat_template")
    if template is None:
        template = _object(texts, "chat_template.json").get("chat_template")
    if isinstance(template, str):
        template = [{"name": "default", "template": template}]
    if not isinstance(template, list) or len(template) > 64:
        return
    names = []
    for entry in template:
        name = entry.get("name") if isinstance(entry, dict) else None
        text = entry.get("template") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(text, str) or len(text) > _MAX_TEMPLATE:
            raise FormatError("tokenizer_config.json has a chat template that is none")
        if name == "default":
            yield "tokenizer.chat_template", text
        elif name.replace("_", "").replace("-", "").isalnum() and name.isascii() and len(name) < 64:
            names.append(name)
            yield f"tokenizer.chat_template.{name}", text
        else:
            raise FormatError(f"a chat template has the name {name[:80]!r}")
    if len(set(names)) != len(names):
        raise FormatError("two chat templates have one name")
    if names:
        yield "tokenizer.chat_templates", names


def _object(texts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = texts.get(name, {})
    if not isinstance(value, dict):
        raise FormatError(f"{name} holds no object")
    return value
