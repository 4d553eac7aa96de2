"""What a fine-tune is asked to do: the parameters of its recipe, with their defaults filled in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args

from overt.errors import BadSetting
from overt.lab.finetune.training import Training

Method = Literal["lora", "qlora", "full", "dpo"]
Type = Literal["f16", "bf16", "f32"]
METHODS: Final = get_args(Method)
RATES: Final[Mapping[str, float]] = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5, "dpo": 5e-5}
"""Learning rates that usually do, by method."""
_MOST_LENGTH: Final = 1 << 20
_KINDS: Final = (".jsonl", ".ndjson", ".json", ".csv", ".txt")


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything that decides the outcome beside the model and the data.

    Attributes:
        method: what learns, and from what.
        file, held_file: what the names of the data files end in, which says how they are read.
        format: of the rows; "" finds out. template: "" is the model's own.
        length, rows: tokens of a row, rows of a batch.
        pack: several examples in a row.
        held: the share held out, where no file of its own is.
        merge: write whole weights of `type` instead of an adapter.
        device: ``cpu`` or ``cuda``.
        data_licence: what the person said of the data; "" is not known.
        training: the rest, as the loop takes it.
    """

    method: Method = "lora"
    file: str = ".jsonl"
    held_file: str = ""
    format: str = ""
    template: str = ""
    length: int = 1024
    rows: int = 1
    pack: bool = True
    held: float = 0.1
    merge: bool = False
    type: Type = "f16"
    device: Literal["cpu", "cuda"] = "cpu"
    data_licence: str = ""
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        for name, low, high in (("length", 8, _MOST_LENGTH), ("rows", 1, 65_536), ("held", 0, 0.9)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadSetting(
                    f"{name} is {value}, and it is between {low} and {high}", f"give another {name}"
                )
        for name, known in (
            ("method", METHODS), ("type", get_args(Type)), ("device", ("cpu", "cuda")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise BadSetting(
                    f"{name} is {getattr(self, name)!r}", f"it is one of {', '.join(known)}"
                )

    def encode(self) -> dict[str, Any]:
        """JSON values, for a recipe."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**found, "training": self.training.encode()}

    @classmethod
    def decode(cls, found: Mapping[str, Any]) -> "Asked":
        """Read what `encode` wrote.

        Raises:
            BadSetting: a name or value that is none.
        """
        known = {one.name: one.type for one in fields(cls)}
        if strange := sorted(set(found) - set(known)):
            raise BadSetting(f"{strange[0]!r} is no parameter of a fine-tune", "leave it out")
        plain = asdict(cls())
        for name, value in found.items():
            kinds = (int, float) if name == "held" else (type(plain[name]),)
            if not isinstance(value, kinds) or isinstance(value, bool) > (bool in kinds):
                raise BadSetting(
                    f"the parameter {name} is {str(value)[:40]!r}", "it should be of another kind"
                )
        rest = {name: value for name, value in found.items() if name != "training"}
        made = cls(**rest)
        if "training" in found:
            made = replace(made, training=Training.decode(dict(found["training"])))
        return made


def ending(name: str) -> str:
    """How a data file is read, by its name: ``.jsonl.gz``."""
    lower = name.lower()
    packed = ".gz" if lower.endswith(".gz") else ""
    plain = lower.removesuffix(".gz")
    return next((one for one in _KINDS if plain.endswith(one)), "") + packed
