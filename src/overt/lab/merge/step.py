"""Several models of one architecture become one, or adapters become part of their base.

It goes tensor by tensor: the memory it takes is that of one tensor of each model. The same recipe
gives the same bytes; `slerp` alone sums over elements, whose order belongs to numpy.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from overt.errors import FormatError, UsageError
from overt.formats.bounded import shown
from overt.formats.gguf import Array, GgufHeader, GgufTensor
from overt.lab.merge import adapters, methods, plan, weights
from overt.lab.merge.weights import Tensors
from overt.models.recipe import Recipe
from overt.models.sources.base import FetchProgress as Progress
from overt.provenance import gguf_keys
from overt.provenance.steps import StepContext, StepOutput

if TYPE_CHECKING:
    import numpy as np

_SAME = (
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "expert_count",
    "expert_used_count",
)
_LONG = (
    "tokenizer.chat_template",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
)
_WORDS = (
    *_LONG,
    "tokenizer.ggml.pre",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
)
_TOLD = (
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "context_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
)


class _MergeStep:
    """Inputs: ``from`` for each model, ``base`` where the method has one; or one ``from`` and its
    ``adapter`` files. Parameters: as `plan.checked` gives them, or ``adapters``.
    """

    name = "merge"
    version = "2"
    packages = ("gguf", "numpy")
    reports: tuple[str, ...] = ()

    def run(self, work: StepContext) -> list[StepOutput]:
        """Raises FormatError, UsageError: models that do not go together, with both numbers."""
        parameters = plan.proved(work.recipe)
        models = [_open(source.path, input.ref) for source, input in _inputs(work, "from")]
        bases = [_open(source.path, input.ref) for source, input in _inputs(work, "base")]
        # the header is a model's own: a base may know neither its template nor where it ends
        first = models[0]
        for other in (*models[1:], *bases):
            _together(first, other)
            for note in _differences(first, other):
                work.tell({"kind": "note", "text": note})
        type: weights.Type = parameters["type"]
        made = work.place / "model.gguf"
        if parameters["method"] == "adapter":
            laid = adapters.read(work, first)
            mix: _Mix = _AppliedAdapters(first, laid)
        else:
            mix = _MergedModel(bases[0] if bases else None, models, parameters)

        def tensor(info: GgufTensor) -> bytes:
            if not first.is_float(info.name):
                return first.raw(info.name)
            kind = weights.stored(info, first.header, type)
            return weights.encoded(mix.tensor(info.name), kind, info.name)

        weights.write(
            made,
            first,
            type,
            tensor,
            lambda done, total: work.report(Progress("merging", done, total)),
            gguf_keys.derived(work.recipe.inputs, work.inputs),
        )
        return [StepOutput("weights", f"merged-{type}.gguf", made)]

    def tolerance(self, recipe: Recipe) -> float:
        return 1e-6 if recipe.parameters.get("method") == "slerp" else 0.0


STEP = _MergeStep()


class _MergedModel:
    """Tensors of several models."""

    def __init__(
        self, base: Tensors | None, models: Sequence[Tensors], parameters: Mapping[str, Any]
    ) -> None:
        self._base, self._models, self._parameters = base, models, parameters
        self._layers = models[0].header.block_count or 0

    def tensor(self, name: str) -> "np.ndarray[Any, Any]":
        parameters, method = self._parameters, self._parameters["method"]
        if method == "slerp":
            first, second = (source.read(name) for source in self._models)
            return methods.slerp(first, second, self._number(parameters["t"], name))
        shares = [self._number(model["weight"], name) for model in parameters["models"]]
        if method == "linear":
            if abs(sum(shares)) < 1e-9:
                raise UsageError(f"the weights of {name} add up to 0", "choose others")
            return methods.linear([source.read(name) for source in self._models], shares)
        assert self._base is not None
        base = self._base.read(name)
        deltas = [self._delta(name, base, number) for number in range(len(self._models))]
        scale = self._number(parameters["scale"], name)
        if method in ("ties", "dare-ties"):
            if min(shares) < 0:
                raise UsageError(
                    f"a weight of {name} is {min(shares):g}", "an election has none below 0"
                )
            return methods.elected(base, deltas, shares, scale)
        return methods.task(base, deltas, shares, scale)

    def _delta(
        self, name: str, base: "np.ndarray[Any, Any]", number: int
    ) -> "np.ndarray[Any, Any]":
        """What one model changed, made thin as the method asks."""
        delta = self._models[number].read(name)
        delta -= base
        method = self._parameters["method"]
        if method == "task":
            return delta
        density = self._number(self._parameters["models"][number]["density"], name)
        if method == "ties":
            return methods.trim(delta, density)
        return methods.drop(delta, density, self._parameters["seed"], name, number)

    def _number(self, amount: plan.Amount, name: str) -> float:
        return plan.value(amount, name, self._layers)


class _AppliedAdapters:
    """Tensors of a model with adapters laid into them."""

    def __init__(self, base: Tensors, laid: Sequence[adapters.AdapterDelta]) -> None:
        self._base, self._laid = base, laid

    def tensor(self, name: str) -> "np.ndarray[Any, Any]":
        result = self._base.read(name)
        for adapter in self._laid:
            if adapter.has(name):
                result += adapter.delta(name)
        return result


_Mix = _MergedModel | _AppliedAdapters


def _inputs(work: StepContext, role: str) -> list[tuple[Any, Any]]:
    pairs = zip(work.inputs, work.recipe.inputs, strict=True)
    return [(source, input) for source, input in pairs if input.role == role]


def _open(path: Any, ref: str) -> Tensors:
    return Tensors(path, ref or path.name)


# ---- what goes together --------------------------------------------------------------------


def _together(first: Tensors, other: Tensors) -> None:
    """Raises FormatError: `other` is not of the same architecture, shapes and vocabulary."""
    header, two = first.header, other.header
    if header.architecture != two.architecture:
        raise FormatError(
            f"{first.name} is a {header.architecture} and {other.name} a {two.architecture}",
            "merge models of one architecture",
        )
    if header.block_count != two.block_count:
        raise FormatError(
            f"{first.name} has {header.block_count} layers and {other.name} {two.block_count}",
            "merge models of one size",
        )
    for key in _SAME:
        values = [source.metadata.get(f"{header.architecture}.{key}") for source in (header, two)]
        if values[0] != values[1]:
            raise FormatError(
                f"{key} is {values[0]} in {first.name} and {values[1]} in {other.name}",
                "merge models of one size",
            )
    _same_words(first, other)
    for name in sorted(first.by_name.keys() ^ other.by_name.keys()):
        has, lacks = (first, other) if name in first.by_name else (other, first)
        raise FormatError(
            f"{has.name} has {len(has.by_name)} tensors and {lacks.name} {len(lacks.by_name)}, "
            f"without {name}"
        )
    for name, tensor in first.by_name.items():
        if tensor.shape != other.by_name[name].shape:
            raise FormatError(
                f"{name} is {weights.by(tensor.shape)} in {first.name} and "
                f"{weights.by(other.by_name[name].shape)} in {other.name}",
                "merge models of one size",
            )
        if not first.is_float(name) and first.raw(name) != other.raw(name):
            raise FormatError(f"{name} holds indexes, and they differ in {other.name}")


def _same_words(first: Tensors, other: Tensors) -> None:
    words = [_words(source.header) for source in (first, other)]
    if len(words[0]) != len(words[1]):
        raise FormatError(
            f"{first.name} has {len(words[0])} tokens and {other.name} {len(words[1])}",
            "merge models of one vocabulary",
        )
    for number, (token, two) in enumerate(zip(*words, strict=True)):
        if token != two:
            raise FormatError(
                f"token {number} is {str(token)[:40]!r} in {first.name} and {str(two)[:40]!r} in "
                f"{other.name}",
                "merge models of one vocabulary",
            )


def _words(header: GgufHeader) -> tuple[Any, ...]:
    tokens = _loaded(header.metadata.get("tokenizer.ggml.tokens", ()))
    return tokens if isinstance(tokens, tuple) else ()


def _differences(first: Tensors, other: Tensors) -> list[str]:
    """What does not stop a merge and changes what comes of it."""
    notes = []
    architecture = first.header.architecture
    for key in (*(f"{architecture}.{key_}" for key_ in _TOLD), *_WORDS):
        mine, two = (_loaded(source.header.metadata.get(key)) for source in (first, other))
        # that a base has no template, or does not say where answers end, is no news
        if mine == two or (two is None and key in _WORDS):
            continue
        if key in _LONG:
            what = "is another in" if mine is not None else f"is missing in {first.name} and not in"
            notes.append(f"{key} {what} {other.name}: the first is kept")
        else:
            notes.append(
                f"{key} is {_shown_value(mine)} in {first.name}, and {_shown_value(two)} in "
                f"{other.name}: "
                "the first is kept"
            )
    return notes


def _shown_value(value: Any) -> str:
    return "not said" if value is None else shown(value)


def _loaded(value: Any) -> Any:
    return value.load() if isinstance(value, Array) else value
