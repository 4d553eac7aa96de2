"""What decides how a fine-tune runs, and what comes out of one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from overt.errors import BadSetting, FormatError
from overt.nets.adapter import ATTENTION, MLP, Adapter


@dataclass(frozen=True, slots=True)
class Training:
    """Everything that decides the outcome of `loop.train`, beside the net and the examples.

    Attributes:
        learn: an ``adapter`` on the frozen net, or ``all`` of the net.
        loss: cross entropy of the ``answers``, or of a ``preference`` (DPO, Rafailov et al. 2023).
        adapter: where one learns.
        epochs: passes over the batches; steps: ends earlier or later than that if not 0.
        accumulate: batches in one step. A step's loss is the mean over all its learnt tokens
            (pairs, with a preference), whatever batch they came in.
        rate: the highest learning rate; warmup: share of the steps until it is reached;
        schedule: how it falls to 0 after that.
        decay: weight decay of matrices; beta1, beta2, eps: of AdamW (Loshchilov and Hutter 2019).
        clip: the largest norm of a step's gradient; 0: any.
        held_every: steps between two looks at the held-out loss; 0: once an epoch.
        patience: so many looks without a better held-out loss, and training stops; 0: never.
        beta, smoothing: of DPO: how near to stay to the base, and the share of wrong labels.
        checkpointing: compute each layer again in the backward pass, to save memory.
        precision: of the frozen matrices' products and of what flows between layers.
        shuffle: each epoch takes the batches in an order of its own.
        seed, threads: part of the outcome.
    """

    learn: Literal["adapter", "all"] = "adapter"
    loss: Literal["answers", "preference"] = "answers"
    adapter: Adapter = field(default_factory=Adapter)
    epochs: int = 1
    steps: int = 0
    accumulate: int = 1
    rate: float = 2e-4
    warmup: float = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0
    held_every: int = 0
    patience: int = 0
    beta: float = 0.1
    smoothing: float = 0.0
    checkpointing: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    shuffle: bool = True
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        check_kinds(self)
        check_kinds(self.adapter)
        for name, low, high in _LIMITS:
            value = getattr(self.adapter if name in _OF_ADAPTER else self, name)
            if not low <= value <= high:
                raise BadSetting(
                    f"{name} is {value}, and it is between {low} and {high}", f"give another {name}"
                )
        known = (*ATTENTION, *MLP)
        if not self.adapter.targets:
            raise BadSetting("an adapter of no layers learns nothing", "name layers such as q_proj")
        if strange := [target for target in self.adapter.targets if target not in known]:
            raise BadSetting(
                f"an adapter cannot learn on {strange[0][:60]!r}",
                f"the layers that take one are {', '.join(known)}",
            )

    def encode(self) -> dict[str, Any]:
        """JSON values, for a recipe."""
        adapter = {**asdict(self.adapter), "targets": [*self.adapter.targets]}
        return {**asdict(self), "adapter": adapter}

    @classmethod
    def decode(cls, document: dict[str, Any]) -> "Training":
        """Read what `encode` wrote; names it does not know are refused.

        Raises:
            FormatError: a name or value that is none: a recipe may be anybody's.
        """
        try:
            adapter = dict(document.get("adapter", {}))
            targets = adapter.get("targets", [*ATTENTION, *MLP])
            if not isinstance(targets, list):
                raise FormatError(f"the layers of an adapter are {str(targets)[:40]!r}", _HINT)
            adapter["targets"] = tuple(targets)
            known = {field.name for field in fields(cls)} - {"adapter"}
            rest = {name: value for name, value in document.items() if name != "adapter"}
            if strange := sorted(set(rest) - known):
                raise FormatError(f"{strange[0][:60]!r} is no setting of a fine-tune", _HINT)
            return cls(adapter=Adapter(**adapter), **rest)
        except BadSetting as error:
            raise FormatError(error.message, error.hint) from None
        except (TypeError, ValueError) as error:
            raise FormatError(
                f"the settings of a fine-tune cannot be read: {str(error)[:120]}", _HINT
            ) from None


def check_kinds(value: Any) -> None:
    """Raises BadSetting where a field of a data class holds what its annotation does not say."""
    for entry in fields(value):
        setting, kind = getattr(value, entry.name), entry.type
        if get_origin(kind) is Literal and setting not in get_args(kind):
            raise BadSetting(
                f"{entry.name} is {str(setting)[:40]!r}",
                f"it is one of {', '.join(get_args(kind))}",
            )
        if kind in _KINDS and not _fits(setting, kind):
            raise BadSetting(f"{entry.name} is {str(setting)[:40]!r}", f"it is {_KINDS[kind]}")


def _fits(value: object, kind: Any) -> bool:
    """Whether a number is what it should be; True and False are no numbers."""
    if kind == tuple[str, ...]:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


_HINT = "use the recipe as the Overt wrote it that made it"
_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple[str, ...]: "a list of names",
}
_OF_ADAPTER = ("rank", "alpha", "dropout")
_LIMITS: tuple[tuple[str, float, float], ...] = (
    ("rank", 1, 4096),
    ("alpha", 1e-6, 1e6),
    ("dropout", 0, 0.95),
    ("epochs", 1, 100_000),
    ("steps", 0, 100_000_000),
    ("accumulate", 1, 65_536),
    ("rate", 0, 10),
    ("warmup", 0, 1),
    ("decay", 0, 10),
    ("beta1", 0, 0.99999),
    ("beta2", 0, 0.9999999),
    ("eps", 0, 1),
    ("clip", 0, 1e9),
    ("held_every", 0, 100_000_000),
    ("patience", 0, 100_000),
    ("beta", 1e-6, 1e3),
    ("smoothing", 0, 0.5),
    ("seed", 0, 2**63 - 1),
    ("threads", 1, 4096),
)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One step of the loss curve; `held` where it was looked at after that step."""

    step: int
    loss: float
    rate: float
    tokens: int
    held: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What `loop.train` did; the net holds the weights that were best.

    Attributes:
        steps: done.
        best: the step whose weights these are; without held-out examples, the last.
        held: the held-out loss before the first step and at `best`, or None.
        stopped: it ended early because the held-out loss did not get better.
        curve: of every step.
    """

    steps: int
    best: int
    held: tuple[float, float] | None
    stopped: bool
    curve: Sequence[CurvePoint]
