"""Which chat template a model is trained with: its own, as the engine will use it, or a named one.

A named template is for a base model that has none; the new model carries it, so that it is asked
the way it was taught.
"""

from dataclasses import dataclass
from typing import Final

from overt.errors import BadRequest, FormatError
from overt.formats import gguf
from overt.lab.finetune.item import Turn
from overt.lab.words import Words
from overt.overlay import Overlay

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
NAMED: Final = {"chatml": _CHATML, "gemma": _GEMMA, "plain": _PLAIN}
"""For models without one: of Qwen and SmolLM, of Gemma, and one that needs no marks."""
_MARKS: Final = {"chatml": "<|im_end|>", "gemma": "<end_of_turn>"}
NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class Template:
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


def choose(overlay: Overlay, header: gguf.Header, words: Words, asked: str = "") -> Template:
    """The template to train with.

    Args:
        overlay: of the model.
        header: of its weights.
        words: its vocabulary.
        asked: "" for the model's own; a name of `NAMED`; ``none`` for no template at all.

    Raises:
        BadRequest: no such name, or one whose marks are no tokens of this model.
    """
    before = tuple({"role": one.role, "content": one.text} for one in overlay.messages)
    if asked == NONE:
        return Template("", own=True)
    if not asked:
        held = header.metadata.get("tokenizer.chat_template")
        text = overlay.template or (held if isinstance(held, str) else "")
        return Template(text, own=True, before=before, system=overlay.system)
    if asked not in NAMED:
        raise BadRequest(
            f"no template is called {asked[:40]!r}", f"it is one of {', '.join(NAMED)}, {NONE}"
        )
    mark = _MARKS.get(asked, "")
    if mark and not _ends(words, mark):
        raise BadRequest(
            f"{mark} is no token of this model that ends an answer", f"type --template {fit(words)}"
        )
    return Template(NAMED[asked], own=False, before=before, system=overlay.system)


def fit(words: Words) -> str:
    """The named template whose marks the vocabulary has."""
    return next((name for name, mark in _MARKS.items() if _ends(words, mark)), "plain")


def needed(words: Words) -> FormatError:
    """Turns came, and the model has no template."""
    return FormatError(
        "this model has no chat template, and the data are turns of a chat",
        f"choose one that the new model will carry: --template {fit(words)}",
    )


def _ends(words: Words, mark: str) -> bool:
    ids = words.encode([mark])[0]
    return len(ids) == 1 and ids[0] in words.ends
