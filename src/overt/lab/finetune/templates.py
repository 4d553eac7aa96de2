"""Which chat template a model is trained with: its own, as the engine will use it, or a named one.

A named template is for a base model that has none; the new model carries it, so that it is asked
the way it was taught.
"""

from dataclasses import dataclass
from typing import Final

from overt.errors import BadRequest, FormatError
from overt.formats import gguf
from overt.lab.finetune.row import Turn
from overt.lab.tokenizer import VocabularyWorker
from overt.models.defaults import Overlay

_CHATML: Final = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
_GEMMA: Final = (
    "{{ bos_token }}"
    "{%- set first = '' -%}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set first = messages[0]['content'] + '\\n\\n' -%}{%- set messages = messages[1:] -%}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '')"
    " + message['content'] + '<end_of_turn>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)
_PLAIN: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ 'Assistant:\\n' + message['content'] + eos_token + '\\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ 'User:\\n' + message['content'] + '\\n' }}"
    "{%- else -%}{{ message['content'] + '\\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:\\n' }}{%- endif -%}"
)
_LLAMA3: Final = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] + '<|eot_id|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{%- endif -%}"
)
_MISTRAL: Final = (
    "{{ bos_token }}"
    "{%- set first = '' -%}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set first = messages[0]['content'] + '\n\n' -%}{%- set messages = messages[1:] -%}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ ' ' + message['content'] + eos_token }}"
    "{%- else -%}"
    "{{ '[INST] ' + (first if loop.first else '') + message['content'] + '[/INST]' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
NAMED: Final = {
    "chatml": _CHATML,
    "gemma": _GEMMA,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
    "plain": _PLAIN,
}
"""For models without one: of Qwen and SmolLM, of Gemma, of Llama 3, of Mistral (as its own since
v3), and one that needs no marks."""
_END: Final = ""
_MARKS: Final = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("[INST]", "[/INST]", _END),
}
"""What must be one token each; the last ends an answer, and is the model's own end for `_END`."""
NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """How turns become text.

    Attributes:
        text: Jinja; "" where turns are a prompt and what follows it.
        own: the model brings it; otherwise the new model has to carry it.
        before: turns that the model puts before those of a person who gives no system text.
    """

    text: str
    own: bool
    before: tuple[Turn, ...] = ()
    system: str = ""


def choose(
    overlay: Overlay, header: gguf.GgufHeader, words: VocabularyWorker, choice: str = ""
) -> ChatTemplate:
    """The template to train with.

    Args:
        overlay: of the model.
        header: of its weights.
        words: its vocabulary.
        asked: "" for the model's own; a name of `NAMED`; ``none`` for no template at all.

    Raises:
        BadRequest: no such name, or one whose marks are no tokens of this model.
    """
    before = tuple({"role": message.role, "content": message.text} for message in overlay.messages)
    if choice == NONE:
        return ChatTemplate("", own=True)
    if not choice:
        held = header.metadata.get("tokenizer.chat_template")
        text = overlay.template or (held if isinstance(held, str) else "")
        return ChatTemplate(text, own=True, before=before, system=overlay.system)
    if choice not in NAMED:
        raise BadRequest(
            f"no template is called {choice[:40]!r}", f"it is one of {', '.join(NAMED)}, {NONE}"
        )
    if lacking := _lacking(words, choice):
        raise BadRequest(lacking, f"type --template {fit(words)}")
    return ChatTemplate(NAMED[choice], own=False, before=before, system=overlay.system)


def fit(words: VocabularyWorker) -> str:
    """The named template whose marks the vocabulary has."""
    return next((name for name in _MARKS if not _lacking(words, name)), "plain")


def needed(words: VocabularyWorker) -> FormatError:
    """Turns came, and the model has no template."""
    return FormatError(
        "this model has no chat template, and the data are turns of a chat",
        f"choose one that the new model will carry: --template {fit(words)}",
    )


def _lacking(words: VocabularyWorker, name: str) -> str:
    """Which mark of a template the vocabulary lacks, as a sentence; "" where none."""
    *marks, end = _MARKS.get(name, (_END,))
    if end and not _is_one_token(words, end, ends=True):
        return f"{end} is no token of this model that ends an answer"
    missing = (mark for mark in marks if not _is_one_token(words, mark))
    return next((f"{mark} is no token of this model" for mark in missing), "")


def _is_one_token(words: VocabularyWorker, mark: str, *, ends: bool = False) -> bool:
    ids = words.encode([mark])[0]
    return len(ids) == 1 and (ids[0] in words.ends or not ends)
