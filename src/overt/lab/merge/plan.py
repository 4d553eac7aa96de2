"""How much of which model goes where: numbers, spread over layers, of the command or of a file.

A file is YAML or JSON::

    method: ties            # linear, slerp, task, ties, dare-linear, dare-ties
    base: smollm2           # of all but linear and slerp
    models:
      - ref: my-poet
        weight: 0.6         # or [0, 0.5, 1]: from the first layer to the last, straight between
        density: 0.5        # or {attn: 0.3, ffn: [0.2, 0.8], else: 0.5}: by a part of the name
      - ref: my-clerk
    scale: 1                # of what is added to the base
    t: 0.5                  # slerp: 0 is the first model, 1 the second
    seed: 0                 # of dare's draws
    type: f16               # f32, f16, bf16
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from overt.errors import FormatError, UsageError
from overt.lab.merge.methods import METHODS, WITH_BASE, WITH_DENSITY
from overt.lab.merge.weights import TYPES
from overt.models.recipe import Recipe

Along = float | list[float]
Amount = Along | dict[str, Along] | list[tuple[str, Along]]
"""A number; one for each of some points from the first layer to the last; or those by a part of a
tensor's name, the first that fits, with ``else``. A recipe has the last as pairs: it sorts keys.
"""
MAX_MODELS: Final = 64
MAX_NUMBERS: Final = 1024
_MAX_BYTES: Final = 1 << 20
_KEYS = ("method", "base", "models", "scale", "t", "seed", "type")
_LAYER = re.compile(r"blk\.([0-9]{1,5})\.")
_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "weight": (-1000, 1000),
    "density": (0, 1),
    "t": (0, 1),
    "scale": (-1000, 1000),
}
DEFAULTS: Final[Mapping[str, float]] = {"weight": 1, "density": 0.5, "t": 0.5, "scale": 1}


def read(path: Path) -> dict[str, Any]:
    """What a merge file says, as `checked` gives it; nothing in it is trusted.

    Raises:
        FormatError: not such a file; with what was expected.
    """
    from overt.formats import yamltext

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path.name} cannot be read: {error}") from None
    if len(data) > _MAX_BYTES:
        raise FormatError(
            f"{path.name} is larger than {_MAX_BYTES >> 20} MiB, and no merge file is"
        )
    document = yamltext.load(text, path.name)
    if not isinstance(document, dict):
        raise FormatError(f"{path.name} is no mapping", "a merge file has a method and models")
    try:
        return checked(document)
    except UsageError as error:
        raise FormatError(f"{path.name}: {error.message}", error.hint) from None


def checked(merge: Mapping[str, Any]) -> dict[str, Any]:
    """A merge with every default filled in: method, base, models (ref, weight, density), scale, t,
    seed, type. What a method does not use is left out.

    Raises:
        UsageError: a key or number that has no meaning; which, and what was expected.
    """
    for key in merge:
        if key not in _KEYS:
            raise UsageError(f"a merge has no {str(key)[:60]!r}", f"it has {', '.join(_KEYS)}")
    method = merge.get("method", "linear")
    if method not in METHODS:
        raise UsageError(f"{str(method)[:60]!r} is no method", f"choose {', '.join(METHODS)}")
    models = _models(merge.get("models"), method)
    seed = merge.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
        raise UsageError(f"the seed is {str(seed)[:60]!r}", "it is a whole number from 0")
    type = merge.get("type", "f16")
    if not isinstance(type, str) or type not in TYPES:
        raise UsageError(f"{str(type)[:60]!r} is no type", f"choose {', '.join(TYPES)}")
    base = merge.get("base")
    if (method in WITH_BASE) != isinstance(base, str):
        needs = "needs the base that the models come from" if base is None else "takes no base"
        raise UsageError(f"{method} {needs}", "--base REF" if base is None else None)
    _refuse_unused(merge, method)
    result: dict[str, Any] = {"method": method, "models": models, "type": type}
    if method in WITH_BASE:
        result |= {"base": base, "scale": amount("scale", merge.get("scale", 1))}
    if method == "slerp":
        result["t"] = amount("t", merge.get("t", DEFAULTS["t"]))
    if method.startswith("dare"):
        result["seed"] = seed
    return result


def _refuse_unused(merge: Mapping[str, Any], method: str) -> None:
    """Raises UsageError: an amount that the method has no use for."""
    uses = ["type", *(["t"] if method == "slerp" else ["weight"])]
    if method in WITH_BASE:
        uses.append("scale")
    if method in WITH_DENSITY:
        uses.append("density")
    if method.startswith("dare"):
        uses.append("seed")
    listed = [model for model in merge["models"] if isinstance(model, dict)]
    for key in ("scale", "t", "seed", "weight", "density"):
        if key not in uses and (key in merge or any(key in model for model in listed)):
            hint = f"leave it out: {method} has {', '.join(uses)}"
            if (method, key) == ("slerp", "weight"):
                hint = "say t: 0 is the first model, 1 the second"
            raise UsageError(f"{method} has no {key}", hint)


def _models(value: Any, method: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or len(value) > MAX_MODELS:
        raise UsageError(
            "a merge needs its models", f"a list of 1 to {MAX_MODELS}, each with a ref"
        )
    if method == "slerp" and len(value) != 2:
        raise UsageError(f"slerp is between two models, and {len(value)} are named", "name two")
    models = []
    for entry in value:
        if isinstance(entry, str):
            entry = {"ref": entry}
        if not isinstance(entry, dict) or not isinstance(entry.get("ref"), str):
            raise UsageError("a model of a merge has no ref", "write `- ref: NAME`")
        for key in entry:
            if key not in ("ref", "weight", "density"):
                raise UsageError(
                    f"a model of a merge has no {str(key)[:60]!r}", "it has ref, weight and density"
                )
        model = {"ref": entry["ref"]}
        if method != "slerp":
            model["weight"] = amount("weight", entry.get("weight", DEFAULTS["weight"]))
        if method in WITH_DENSITY:
            model["density"] = amount("density", entry.get("density", DEFAULTS["density"]))
        models.append(model)
    return models


def amount(name: str, given_value: Any) -> Amount:
    """A number, numbers along the layers, or those by parts of names.

    Raises:
        UsageError: it is none, or a number is out of its limits.
    """
    if isinstance(given_value, list) and given_value and isinstance(given_value[0], list):
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in given_value):
            raise UsageError(f"{name} is a list of {len(given_value)} lists", "pairs: [attn, 0.5]")
        if len({str(part) for part, _ in given_value}) < len(given_value):
            raise UsageError(f"{name} names a part twice", "the first that fits counts")
        given_value = {str(part): value for part, value in given_value}
    if isinstance(given_value, dict):
        if not given_value or len(given_value) > MAX_NUMBERS or "else" not in given_value:
            raise UsageError(f"{name} by parts of names lacks `else`", "else: 1 is for the others")
        return {str(key): _along(name, value) for key, value in given_value.items()}
    return _along(name, given_value)


def _along(name: str, value: Any) -> float | list[float]:
    if isinstance(value, list):
        if not 0 < len(value) <= MAX_NUMBERS:
            raise UsageError(f"{name} is a list of {len(value)} numbers", f"1 to {MAX_NUMBERS}")
        return [_number(name, number) for number in value]
    return _number(name, value)


def _number(name: str, value: Any) -> float:
    low, high = _LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(
            f"{name} is {str(value)[:60]!r}", f"it is a number from {low:g} to {high:g}"
        )
    if name == "density" and value == 0:
        raise UsageError("density is 0, which keeps nothing", "it is above 0, and 1 keeps all")
    return float(value)


def value(amount_: Amount, tensor: str, layers: int) -> float:
    """The number of one tensor; what is before the layers has that of the first, what is after
    them that of the last.
    """
    parts = _parts(amount_)
    if parts:
        along = next((value_ for part, value_ in parts.items() if part in tensor), parts["else"])
    else:
        along = cast("Along", amount_)
    if not isinstance(along, list):
        return along
    layer = _LAYER.match(tensor)
    if layer is None:
        return along[-1] if tensor.startswith("output") else along[0]
    place = min(int(layer[1]) / max(layers - 1, 1), 1.0) * (len(along) - 1)
    low = min(math.floor(place), max(len(along) - 2, 0))
    high = min(low + 1, len(along) - 1)
    return along[low] + (along[high] - along[low]) * (place - low)


def _parts(amount_: Amount) -> dict[str, Along]:
    """Amounts by parts of names, in the order they were written; empty where it is none of those.

    ``else`` is for what nothing else fits, wherever it stands.
    """
    if isinstance(amount_, list) and amount_ and isinstance(amount_[0], list | tuple):
        amount_ = dict(amount_)
    return amount_ if isinstance(amount_, dict) else {}


def proved(recipe: Recipe) -> dict[str, Any]:
    """The parameters of a recipe that anybody may have written, as `recipe_parameters` gives them.

    Raises:
        FormatError: they are not those of a merge, or do not fit the recipe's inputs.
    """
    parameters = recipe.parameters
    counts = Counter(entry.role for entry in recipe.inputs)
    if strange := sorted(counts.keys() - {"from", "base", "adapter", "adapter-config"}):
        raise FormatError(f"a merge has no input {strange[0][:60]!r}", "it has from and base")
    try:
        if parameters.get("method") == "adapter":
            return _check_adapters(parameters, counts)
        return _models_of(parameters, counts)
    except UsageError as error:
        raise FormatError(f"the recipe of the merge: {error.message}", error.hint) from None


def _models_of(parameters: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    listed = parameters.get("models")
    if not isinstance(listed, list) or not all(isinstance(model, dict) for model in listed):
        raise UsageError("it has no list of models", "each has its weight")
    if len(listed) != counts["from"] or counts["base"] > 1 or counts["adapter"]:
        raise UsageError(
            f"it has amounts for {len(listed)} models, and the inputs are "
            + ", ".join(f"{count} {role}" for role, count in counts.items()),
            "one amount for each `from`, and at most one `base`",
        )
    merge = {**parameters, "models": [{**model, "ref": "a model"} for model in listed]}
    base = {"base": "a model"} if counts["base"] else {}
    if "base" in merge or "method" not in merge:
        raise UsageError("its base is an input, and its method is said", "leave `base` out")
    needed = recipe_parameters(checked(merge | base))
    if lacking := sorted(needed.keys() - parameters.keys()):
        raise UsageError(f"it does not say {lacking[0]}", f"{needed['method']} needs it")
    for settings_ in (parameters, *listed):
        for key, setting in settings_.items():
            if isinstance(setting, dict):  # whose order a recipe does not keep
                raise UsageError(f"{key} by parts of names is no list", "pairs: [attn, 0.5]")
    return needed


def _check_adapters(parameters: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    listed = parameters.get("adapters")
    if parameters.keys() != {"method", "adapters", "type"} or not isinstance(listed, list):
        raise UsageError("its parameters are others", "it has method, adapters and type")
    type = parameters["type"]
    if not isinstance(type, str) or type not in TYPES:
        raise UsageError(f"{str(type)[:60]!r} is no type", f"choose {', '.join(TYPES)}")
    for entry in listed:
        if not isinstance(entry, dict) or entry.keys() != {"form", "scale"}:
            raise UsageError("an adapter has other parameters", "it has form and scale")
        if entry["form"] not in ("gguf", "peft"):
            raise UsageError(f"{str(entry['form'])[:60]!r} is no form", "choose gguf or peft")
        _number("scale", entry["scale"])
    configs = sum(entry["form"] == "peft" for entry in listed)
    wanted = {"from": 1, "base": 0, "adapter": len(listed), "adapter-config": configs}
    for role, count in wanted.items():
        if counts[role] != count:
            raise UsageError(f"{counts[role]} inputs are {role}, and not {count}")
    return dict(parameters)


def recipe_parameters(merge: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the recipe: the refs are its inputs, and not repeated; amounts by parts of
    names are pairs, in their order.
    """
    ordered = {key: _ordered(merge[key]) for key in merge if key not in ("base", "models")}
    models = cast("list[dict[str, Any]]", merge["models"])
    ordered["models"] = [
        {k: _ordered(v) for k, v in model.items() if k != "ref"} for model in models
    ]
    return ordered


def _ordered(value: Any) -> Any:
    return [[part, item] for part, item in value.items()] if isinstance(value, dict) else value
