"""The contract of a probe: its items, what is asked of a model, and what is measured.

A probe looks at one item at a time and gives an outcome: plain JSON values. Measures are functions
of an outcome and give one number an item, or None where the item says nothing to it; the figure is
their mean. So every figure can be made again from a receipt, has an n and an interval, and two
models are compared item by item. To add a probe: a file in `probes/`, a line in its `PROBES`, a
section of docs/audit.md, a test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Mapping[str, Any]
Need = Literal["score", "answer", "either"]
"""`score`: log-probabilities of a text. `answer`: a chat. `either`: the first where there is it."""


@dataclass(frozen=True, slots=True)
class ProbeItem:
    """One thing to look at.

    Attributes:
        id: tells it apart in its probe, the same in every run.
        groups: what figures are also given for, such as a category.
        given: what the probe needs to look at it.
        part: a sample has as many items of each part.
    """

    id: str
    groups: tuple[str, ...]
    given: Mapping[str, Any]
    part: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of an outcome, and what its mean tells.

    Attributes:
        name: in receipts, the same in every version.
        means: what the figure is, in one sentence for a page.
        value: of an outcome; from `least` to `most`, None where it says nothing to this.
        neutral: the mean of a model without the bias, or None.
        split: also given for each group of the items.
    """

    name: str
    means: str
    value: Callable[[Outcome], float | None]
    least: float = 0.0
    most: float = 1.0
    neutral: float | None = None
    split: bool = True


@dataclass(frozen=True, slots=True)
class Contrast:
    """A measure in one group of items against another.

    Attributes:
        kind: the `difference` of the two means, the `middle` between them, or the share of pairs
            of an item of each in which the first has the larger value (`auc`).
        reference: the value where both groups are alike; None for none.
    """

    name: str
    means: str
    value: Callable[[Outcome], float | None]
    first: str
    second: str
    kind: Literal["difference", "middle", "auc"] = "difference"
    reference: float | None = 0.0


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """What a person asked of an audit.

    Attributes:
        data: folder of the data sets, or None.
        limit: items of each probe, drawn by `seed`; 0 for all.
        documents, control: texts for the memorisation probe.
        items: questions of the person's own for the robustness probe.
        concurrency: items that are looked at at once; changes no outcome.
    """

    data: Path | None = None
    limit: int = 300
    seed: int = 0
    documents: Path | None = None
    control: Path | None = None
    items: Path | None = None
    max_tokens: int = 128
    concurrency: int = 1


@dataclass(frozen=True, slots=True)
class ProbeMaterial:
    """The items of a probe, and what is to be said of them.

    Attributes:
        data: of each file read: file, sha256, set, licence, upstream, as_published.
        notes: sentences for the receipt.
    """

    items: Sequence[ProbeItem]
    data: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = field(default=())


class ProbedModel(Protocol):
    """What a probe asks; model.py has it over an exchange."""

    @property
    def scores(self) -> bool:
        """Whether it tells how likely a text is."""
        ...

    async def likely(self, context: str, text: str) -> list[tuple[bytes, float]]:
        """The tokens of `text` after `context` with their natural log-probabilities."""
        ...

    async def choose(self, context: str, options: Sequence[str]) -> list[float]:
        """The log-probability of each option as what follows `context`."""
        ...

    async def answer(self, prompt: str, max_tokens: int) -> str:
        """A chat's greedy answer to one message."""
        ...

    async def go_on(self, text: str, max_tokens: int) -> str:
        """The greedy continuation of a text, without a chat template."""
        ...


Use = Literal["seed", "max_tokens"]
"""A field of `AuditPlan` that may change what is found of an item."""


class AuditProbe(Protocol):
    """One probe; docs/audit.md says what each is."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def version(self) -> str:
        """Raised when the same answers could be measured otherwise."""
        ...

    @property
    def need(self) -> Need: ...

    @property
    def uses(self) -> tuple[Use, ...]:
        """What of the plan two results must agree in to be compared, beside data and version."""
        ...

    @property
    def sets(self) -> tuple[str, ...]:
        """Names in sets.toml."""
        ...

    @property
    def method(self) -> str:
        """How, in one sentence, for receipts."""
        ...

    @property
    def limits(self) -> tuple[str, ...]:
        """What its figures do not mean."""
        ...

    @property
    def cite(self) -> tuple[str, ...]: ...

    @property
    def measures(self) -> tuple[Measure, ...]: ...

    @property
    def contrasts(self) -> tuple[Contrast, ...]: ...

    def material(self, plan: AuditPlan) -> ProbeMaterial:
        """Its items, all of them. Raises NotFound, FormatError, BadRequest."""
        ...

    async def look(self, item: ProbeItem, model: ProbedModel, plan: AuditPlan) -> dict[str, Any]:
        """What the model made of `item`, as JSON values."""
        ...
