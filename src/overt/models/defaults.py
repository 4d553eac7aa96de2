"""What a model brings beside its weights: system text, parameters, messages, template, adapters.

`read` takes the small files of a model and makes an `Overlay` of them; `apply` puts it under a
`Request` and `settings` under the settings, so that whoever asks for something keeps the last word.
Only `read` touches the disk. The files come from registries and from other people: everything in
them is bounded and checked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from overt.chat import Message, Request, Sampling
from overt.errors import FormatError
from overt.models.pull import LocalModel
from overt.models.sources.base import Role
from overt.settings import Settings

ROLES: tuple[Role, ...] = ("system", "parameters", "messages", "template")
MAX_BYTES = 8 << 20
_MAX_MESSAGES = 10_000
_MAX_STOPS = 1000
_SAMPLING = tuple(field.name for field in fields(Sampling))
_USED = (*_SAMPLING, "stop", "num_ctx", "num_predict", "num_thread")
_OWN = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_keep")  # Overt decides these itself


@dataclass(frozen=True)
class Overlay:
    """What lies over the weights.

    Attributes:
        system: the first message, unless the conversation brings its own.
        messages: come before the conversation.
        sampling, stop, max_tokens: hold where a request says nothing.
        context, threads: hold where the settings say nothing; 0 is not given.
        template: a Jinja chat template in place of the file's own.
        adapters: LoRA files, in order.
        notices: what a person should know, one sentence each.
    """

    system: str = ""
    messages: tuple[Message, ...] = ()
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    context: int = 0
    threads: int = 0
    template: str | None = None
    adapters: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()


def read(model: LocalModel) -> Overlay:
    """The overlay of a model on this disk.

    Raises:
        FormatError: one of its small files is not what its role says.
        IntegrityError: one of them is missing.
    """
    renderer = (model.manifest.origin if model.manifest else {}).get("renderer", "")
    return build(texts(model), model.parts.get("adapter", ()), renderer=renderer)


def texts(model: LocalModel) -> dict[str, str]:
    """The small files of a model by role. Raises FormatError: one of them is too large."""
    return {
        role: text_of(path, role)
        for role in ROLES
        if (path := next(iter(model.parts.get(role, ())), None))
    }


def build(texts: Mapping[str, str], adapters: tuple[Path, ...] = (), renderer: str = "") -> Overlay:
    """An overlay of the texts of a model's small files, by role.

    Raises:
        FormatError: parameters or messages that are not what they should be.
    """
    overlay = Overlay(system=texts.get("system", ""), adapters=adapters)
    if "parameters" in texts:
        overlay = _with_parameters(overlay, _json(texts["parameters"], "parameters"))
    if "messages" in texts:
        overlay = replace(overlay, messages=_messages(_json(texts["messages"], "messages")))
    if texts.get("template"):
        overlay = _with_template(overlay, texts["template"])
    elif renderer:
        notice = f"{renderer[:40]} is a renderer inside Ollama: the file's own template is used"
        overlay = replace(overlay, notices=(*overlay.notices, notice))
    return overlay


def apply(overlay: Overlay, request: Request) -> Request:
    """The request as the model's maker meant it, where whoever asks left it open.

    A request with a bare `prompt` gets neither system text nor messages. Texts that end the
    answer add up: those of the model keep its own marks out of the answer.
    """
    messages = request.messages
    if request.prompt is None and messages:
        own = 0
        while own < len(messages) and messages[own].role == "system":
            own += 1
        first = messages[:own]
        if not first and overlay.system:
            first = (Message.of("system", overlay.system),)
        messages = (*first, *overlay.messages, *messages[own:])
    chosen = {
        name: value for name in _SAMPLING if (value := getattr(request.sampling, name)) is not None
    }
    return replace(
        request,
        messages=messages,
        sampling=replace(overlay.sampling, **chosen),
        stop=tuple(dict.fromkeys((*request.stop, *overlay.stop))),
        max_tokens=overlay.max_tokens if request.max_tokens is None else request.max_tokens,
    )


def settings(overlay: Overlay, chosen: Settings, most: int | None) -> Settings:
    """The settings with the model's context (at most `most`) and threads where none are chosen."""
    context = min(overlay.context, most) if most else overlay.context
    return replace(
        chosen,
        context=chosen.context or context,
        threads=chosen.threads or overlay.threads,
    )


def is_jinja(template: str) -> bool:
    """Whether a template is Jinja; Ollama's are Go's, which know no ``{%``."""
    return "{%" in template


def text_of(path: Path, role: str) -> str:
    """A small text file, decoded leniently. Raises FormatError: it is too large."""
    with path.open("rb") as file:
        return decoded(file.read(MAX_BYTES + 1), role)


def decoded(data: bytes, role: str) -> str:
    """The same of bytes."""
    if len(data) > MAX_BYTES:
        raise FormatError(f"the model's {role} is larger than {MAX_BYTES >> 20} MiB")
    return data.decode("utf-8", "replace")


# ---- inside --------------------------------------------------------------------------------


def _with_parameters(overlay: Overlay, parameters: Any) -> Overlay:
    from overt.formats.modelfile import DEPRECATED  # here and below: most models bring none of it

    if not isinstance(parameters, dict) or len(parameters) > 1000:
        raise FormatError("the model's parameters are no JSON object", "pull the model again")
    for name, value in parameters.items():
        _check(name, value)
    unused = [name for name in parameters if name not in (*_USED, *_OWN, *DEPRECATED)]
    predict, context = parameters.get("num_predict", -1), parameters.get("num_ctx", 0)
    threads = parameters.get("num_thread", 0)
    stop = parameters.get("stop", [])
    drawn = {name: parameters[name] for name in _SAMPLING if name in parameters}
    if not 0 <= drawn.get("seed", 0) < 2**32 - 1:
        del drawn["seed"]  # -1 is another one each time
    if "top_k" in drawn:
        drawn["top_k"] = max(0, drawn["top_k"])
    return replace(
        overlay,
        sampling=Sampling(**drawn),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        max_tokens=predict if predict > 0 else None,  # -1 is without end, -2 until it is full
        context=max(0, context),
        threads=max(0, threads),
        notices=(*overlay.notices, _unused(unused)) if unused else overlay.notices,
    )


def _unused(names: list[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:8])
    verb = "is" if len(names) == 1 else "are"
    return f"{shown} of this model's parameters {verb} not used by this engine"


def _check(name: str, value: object) -> None:
    """Raises FormatError where a known parameter is of another kind."""
    from overt.formats.modelfile import PARAMETERS

    kind = PARAMETERS.get(name)
    if name == "stop":
        items = value if isinstance(value, list) else [value]
        if len(items) > _MAX_STOPS:
            raise FormatError(f"the model has {len(items)} stops", f"{_MAX_STOPS} are the most")
        good = all(isinstance(item, str) and item for item in items)
    elif kind is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
    elif kind is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    else:
        good = True
    if not good:
        raise FormatError(
            f"the model's parameter {name} is {str(value)[:40]!r}", "it should be of another kind"
        )


def _messages(listed: Any) -> tuple[Message, ...]:
    from overt.formats.modelfile import ROLES

    if not isinstance(listed, list):
        raise FormatError("the model's messages are no list", "pull the model again")
    if len(listed) > _MAX_MESSAGES:
        raise FormatError(
            f"the model brings {len(listed)} messages", f"{_MAX_MESSAGES} are the most"
        )
    messages = []
    for message in listed:
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content", "") if isinstance(message, dict) else None
        if role not in ROLES or not isinstance(content, str):
            raise FormatError(
                f"one of the model's messages is {str(message)[:40]!r}", "pull the model again"
            )
        messages.append(Message.of(role, content))
    return tuple(messages)


def _with_template(overlay: Overlay, template: str) -> Overlay:
    if is_jinja(template):
        return replace(overlay, template=template)
    from overt.formats import gotemplate

    try:
        return replace(overlay, template=gotemplate.to_jinja(template))
    except FormatError as error:
        notice = f"{error.message}, so the template of the model's file is used"
        return replace(overlay, notices=(*overlay.notices, notice))


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError(f"the model's {what} are not JSON", "pull the model again") from None
