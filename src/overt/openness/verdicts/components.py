"""The parts of a model that can be disclosed, and what proves each.

The 17 of the Model Openness Framework 1.0 (White et al. 2024, arXiv:2403.13784; the names are those
of its tool's records), and four that it does not name: tokenizer, chat template, safety policy and
signature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

Kind = Literal["code", "data", "document"]
"""Which of a distribution's licences a component inherits in a MOF record."""


Step = Literal["fully_open", "open_weights", "partially_open", "fully_closed"]
STEPS: Final[tuple[Step, ...]] = ("fully_closed", "partially_open", "open_weights", "fully_open")
"""Least open first."""


class Availability(IntEnum):
    """How far a component can be had, least first. It says nothing about its licence."""

    ABSENT = 0  # stated or searched for, and not there
    UNKNOWN = 1  # nobody says, and there was no place to look
    DESCRIBED = 2  # a text says what it is
    INDEXED = 3  # its sources are listed
    PARTIAL = 4  # some of it can be had
    RECONSTRUCTIBLE = 5  # scripts and sources that resolve rebuild it
    GATED = 6  # all of it, for who agrees to terms first
    FULL = 7  # all of it

    @property
    def word(self) -> str:
        return self.name.lower()


class Strength(IntEnum):
    """What a piece of evidence is worth, least first."""

    ASSERTED = 0  # somebody says so
    EXISTS = 1  # the file or address is there
    PINNED = 2  # by a digest or a signature
    CONSISTENT = 3  # it agrees with the rest of the artefact
    EXECUTED = 4  # it was loaded or run
    REPLAYED = 5  # it was made again, bit for bit

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Component:
    """One part.

    Attributes:
        name: what the project calls it, in JSON and in code.
        title: for people.
        mof: its name in a MOF record; None for the four of our own.
        kind: whose licence it inherits in a MOF record.
        classes: the MOF classes that need it ("III" is needed by II and I too); "" for none.
        bar: the least strength of a pass that makes a claim verified.
    """

    name: str
    title: str
    mof: str | None
    kind: Kind
    classes: Literal["I", "II", "III", ""]
    bar: Strength


_S = Strength
COMPONENTS: Final = (
    Component("weights", "Final weights", "Model parameters (Final)", "data", "III", _S.CONSISTENT),
    Component(
        "checkpoints",
        "Intermediate checkpoints",
        "Model parameters (Intermediate)",
        "data",
        "I",
        _S.CONSISTENT,
    ),
    Component("architecture", "Architecture", "Model architecture", "code", "III", _S.CONSISTENT),
    Component("training_code", "Training code", "Training code", "code", "II", _S.PINNED),
    Component(
        "preprocessing_code",
        "Data preparation code",
        "Data preprocessing code",
        "code",
        "I",
        _S.PINNED,
    ),
    Component("inference_code", "Inference code", "Inference code", "code", "II", _S.EXISTS),
    Component("evaluation_code", "Evaluation code", "Evaluation code", "code", "II", _S.EXISTS),
    Component(
        "libraries", "Supporting libraries", "Supporting libraries and tools", "code", "", _S.EXISTS
    ),
    Component("training_data", "Training data", "Datasets", "data", "I", _S.PINNED),
    Component("evaluation_data", "Evaluation data", "Evaluation data", "data", "II", _S.EXISTS),
    Component(
        "sample_outputs", "Sample outputs", "Sample model outputs", "document", "", _S.EXISTS
    ),
    Component("metadata", "Metadata", "Model metadata", "data", "", _S.CONSISTENT),
    Component("model_card", "Model card", "Model card", "document", "III", _S.EXISTS),
    Component("data_card", "Data card", "Data card", "document", "III", _S.EXISTS),
    Component("report", "Technical report", "Technical report", "document", "III", _S.EXISTS),
    Component("paper", "Research paper", "Research paper", "document", "I", _S.EXISTS),
    Component(
        "evaluation_results",
        "Evaluation results",
        "Evaluation results",
        "document",
        "III",
        _S.EXISTS,
    ),
    Component("tokenizer", "Tokenizer", None, "data", "", _S.CONSISTENT),
    Component("chat_template", "Chat template", None, "code", "", _S.EXISTS),
    Component("safety_policy", "Safety policy", None, "document", "", _S.EXISTS),
    Component("signature", "Signature", None, "document", "", _S.PINNED),
)
"""In the order in which a dossier lists them."""

BY_NAME: Final[Mapping[str, Component]] = {component.name: component for component in COMPONENTS}
BY_MOF: Final[Mapping[str, Component]] = {
    component.mof: component for component in COMPONENTS if component.mof
}
