"""What a fine-tune is asked to do: the parameters of its recipe, with their defaults filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, get_args

from overt.errors import BadSetting, FormatError
from overt.lab.finetune.training import Training, check_kinds

Method = Literal["lora", "qlora", "full", "dpo"]
Type = Literal["f16", "bf16", "f32"]
METHODS: Final = get_args(Method)
RATES: Final[Mapping[str, float]] = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5, "dpo": 5e-5}
"""Learning rates that usually do, by method."""
_MAX_LENGTH: Final = 1 << 20
_KINDS: Final = (".jsonl", ".ndjson", ".json", ".csv", ".txt")


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """Everything that decides the outcome beside the model and the data.

    Attributes:
        method: what learns, and from what.
        file, held_file: what the names of the data files end in, which says how they are read.
        format: of the rows; "" finds out. template: "" is the model's own.
        length, rows: tokens of a row, rows of a batch.
        pack: several examples in a row.
        held: the share held out, where no file of its own is.
        keep_quantized: with preferences, the frozen weights stay in memory as the file has them;
            `quantized` says so of every method.
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
    keep_quantized: bool = False
    merge: bool = False
    type: Type = "f16"
    device: Literal["cpu", "cuda"] = "cpu"
    data_licence: str = ""
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        check_kinds(self)
        for name, low, high in (("length", 8, _MAX_LENGTH), ("rows", 1, 65_536), ("held", 0, 0.9)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadSetting(
                    f"{name} is {value}, and it is between {low} and {high}", f"give another {name}"
                )
        for name in ("file", "held_file"):
            value = getattr(self, name)
            if ending(value) != value:
                raise BadSetting(f"{name} is {value[:40]!r}", "it is an ending such as .jsonl")
        learn, loss = follows(self.method)
        for name, value, wanted in (
            ("learn", self.training.learn, learn),
            ("loss", self.training.loss, loss),
        ):
            if value != wanted:
                raise BadSetting(
                    f"{name} is {value!r}, and the method {self.method} makes it {wanted!r}",
                    f"give another {name}",
                )
        if self.keep_quantized and self.method != "dpo":
            raise BadSetting(
                f"keep_quantized is for the method dpo, and this is {self.method}",
                "the method qlora keeps quantized weights as they are",
            )

    @property
    def quantized(self) -> bool:
        """Whether the frozen weights stay in memory as the file has them."""
        return self.method == "qlora" or self.keep_quantized

    def encode(self) -> dict[str, Any]:
        """JSON values, for a recipe."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "training": self.training.encode()}

    @classmethod
    def decode(cls, values: Mapping[str, Any]) -> "FinetuneConfig":
        """Read what `encode` wrote.

        Raises:
            FormatError: a name or value that is none: a recipe may be anybody's.
        """
        known = {field.name for field in fields(cls)}
        if strange := sorted(set(values) - known):
            raise FormatError(f"{strange[0][:60]!r} is no parameter of a fine-tune", "leave it out")
        training = values.get("training", {})
        if not isinstance(training, dict):
            raise FormatError(
                f"the parameter training is {str(training)[:40]!r}", "it is a table of settings"
            )
        try:
            return cls(**{**values, "training": Training.decode(training)})
        except BadSetting as error:
            raise FormatError(error.message, error.hint) from None


def follows(method: str) -> tuple[Literal["adapter", "all"], Literal["answers", "preference"]]:
    """What learns, and by which loss, with a method."""
    return (
        "all" if method == "full" else "adapter",
        "preference" if method == "dpo" else "answers",
    )


def ending(name: str) -> str:
    """How a data file is read, by its name: ``.jsonl.gz``."""
    lower = name.lower()
    packed = ".gz" if lower.endswith(".gz") else ""
    plain = lower.removesuffix(".gz")
    return next((kind for kind in _KINDS if plain.endswith(kind)), "") + packed
