"""The number of parameters that is claimed against the sum over the headers.

A name rounds, and people count differently: with and without embeddings, all experts, those that
work on one token, or one of them (``8x7B``). A claim holds if any of these counts is within its own
precision. Of 34 published models (Llama 2 to 3.2, Pythia, Gemma 1 to 3, Qwen, OLMo 2, Mistral,
SmolLM2, GPT-2; tests/openness/test_check_weights_numbers.py) the nearest count is at most 11 % from
a name of one digit (Gemma 7B: 7.75 without embeddings), 2.1 % from one of two (Mistral Nemo 12B)
and 1.5 % from one of three (Pythia 160M). More is allowed, for names that were not measured.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from overt.openness.evidence import Finding
from overt.openness.shapes import plan
from overt.openness.subject import tensors
from overt.openness.subject.subject import MAX_HEADERS, Subject
from overt.openness.subject.tensors import Weights
from overt.openness.verdicts.components import Strength

VERSION = 2
TTL = 0

_NAME = re.compile(
    r"(?<![A-Za-z0-9.])(?:(\d{1,4})x)?(\d{1,4}(?:\.\d{1,3})?)([MB])(?![A-Za-z0-9])", re.I
)
_LABEL = re.compile(r"(?:(\d{1,4})x)?(\d{1,6}(?:\.\d{1,3})?)([KMBTQ])", re.I)
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12, "Q": 10**15}
_TOLERANCE = {1: 0.12, 2: 0.08, 3: 0.06}
_EXACT = 0.02
_HALF = 0.6  # of the last digit: half of it for rounding, and some for counting otherwise
_EMBEDDINGS = re.compile(
    r"(.*\.)?(embed_tokens|wte|embed_in|word_embeddings|token_embd|wpe|position_embd|"
    r"position_embeddings|embed_positions)\.weight"
)
_OUTPUTS = re.compile(r"(.*\.)?(lm_head|embed_out|output)\.weight")
_EXPERT = re.compile(r".*\.experts\.(\d+)\..*")


@dataclass(frozen=True, slots=True)
class StatedParameters:
    """One claim: `number` with `unit` as the value of its last digit; `experts` in ``8x7B``."""

    text: str
    source: str
    number: float
    unit: float
    digits: int
    experts: int = 0

    def holds(self, count: int) -> bool:
        if self.digits > 5:
            return abs(count - self.number) <= _EXACT * self.number
        slack = _TOLERANCE.get(self.digits, _EXACT) * self.number
        return abs(count - self.number) <= max(slack, _HALF * self.unit)


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """The ways to count."""

    total: int
    ways: tuple[int, ...]
    one_expert: int
    experts: int


def check(subject: Subject) -> Iterable[Finding]:
    if subject.record.kind == "adapter":
        return
    for weights in tensors.of(subject):
        claims = list(_claims(subject, weights))
        if not claims:
            continue
        if weights.lacking or (weights.format == "safetensors" and _packed(subject)):
            reason = "the weights are packed, or some of their files are not here"
            yield Finding("metadata", "not_run", Strength.CONSISTENT, reason=reason)
            continue
        yield _finding(weights, claims, counts(subject, weights))


def _packed(subject: Subject) -> bool:
    return bool((subject.config or {}).get("quantization_config"))


def _finding(
    weights: Weights, claims: "list[list[StatedParameters]]", counted: ParameterCounts
) -> Finding:
    """Each source may name several numbers (``OLMo-1B-724B``): one of them must hold."""
    observed = f"{counted.total} parameters in {len(weights.tensors)} tensors"
    if counted.ways[1:]:
        observed += f" ({min(counted.ways)} by the least way to count)"
    for claim in claims:
        if not any(_agrees(statement, counted) for statement in claim):
            expected = f"{claim[0].text} by {claim[0].source}"
            return Finding(
                "metadata", "fail", Strength.CONSISTENT, observed, expected, paths=weights.files
            )
    expected = ", ".join(f"{claim[0].text} by {claim[0].source}" for claim in claims)
    return Finding("metadata", "pass", Strength.CONSISTENT, observed, expected, paths=weights.files)


def _agrees(statement: StatedParameters, counted: ParameterCounts) -> bool:
    if not statement.experts:
        return any(statement.holds(count) for count in counted.ways)
    if counted.experts and counted.experts != statement.experts:
        return False
    # What is named is the size of a model with one of the experts; or all of it, roughly.
    single = [count for count in (counted.one_expert,) if count]
    return any(statement.holds(count) for count in single) or (
        0.55 <= counted.total / (statement.number * statement.experts) <= 1.15
    )


# ---- counting ------------------------------------------------------------------------------


def counts(subject: Subject, weights: Weights) -> ParameterCounts:
    total, inputs, outputs, experts, number = 0, 0, 0, 0, 0
    for name, tensor in weights.tensors.items():
        size = tensor.parameters
        total += size
        if _EMBEDDINGS.fullmatch(name):
            inputs += size
        elif _OUTPUTS.fullmatch(name):
            outputs += size
        elif match := _EXPERT.fullmatch(name):
            experts, number = experts + size, max(number, int(match[1]) + 1)
        elif "_exps." in name and tensor.shape:
            experts, number = experts + size, max(number, tensor.shape[0])
    ways = [total]
    if inputs:
        ways += [total - inputs, total - outputs, total - inputs - outputs]
    one_expert = 0
    if number:
        one_expert = total - experts + experts // number
        used = _used(subject, weights)
        active = total - experts + experts * min(used, number) // number
        ways += [active, active - inputs, active - inputs - outputs]
    return ParameterCounts(total, tuple(ways), one_expert, number)


def _used(subject: Subject, weights: Weights) -> int:
    header = weights.header
    if header is not None:
        return header.number(f"{header.architecture}.expert_used_count") or 1
    text = plan.text_config(subject.config or {})
    for name in ("num_experts_per_tok", "num_experts_per_token", "top_k"):
        if isinstance(text.get(name), int) and text[name] > 0:
            return int(text[name])
    return 1


# ---- what is claimed -----------------------------------------------------------------------


def _claims(subject: Subject, weights: Weights) -> Iterator[list[StatedParameters]]:
    parameters = subject.record.facts.get("parameters")
    if isinstance(parameters, int) and not isinstance(parameters, bool) and parameters > 0:
        yield [_plain(parameters, "the record")]
    header = weights.header
    if header is not None:
        label = header.text("general.size_label")
        if label and (match := _LABEL.fullmatch(label)):
            yield [_stated(match, "general.size_label")]
        exact = header.number("general.parameter_count")
        if exact:
            yield [_plain(exact, "general.parameter_count", exactly=True)]
        yield from _in_names(header.name or "", "general.name")
    yield from _total(subject, weights)
    yield from _configured(subject, weights)
    yield from _in_names(subject.record.name.rpartition("/")[2], "the model's name")
    if weights.format == "gguf":
        yield from _in_names(weights.name.rpartition("/")[2], "the file's name")
    if subject.card is not None:
        title = next((x for x in subject.card.body.split("\n")[:200] if x.startswith("# ")), "")
        yield from _in_names(title[:200], "the card's title")


def _total(subject: Subject, weights: Weights) -> Iterator[list[StatedParameters]]:
    """``total_parameters`` in the index, as transformers writes it since 4.52."""
    if weights.format != "safetensors" or not subject.file(tensors.INDEX):
        return
    content = subject.json(tensors.INDEX, MAX_HEADERS)
    about = content.get("metadata") if isinstance(content, dict) else None
    total = about.get("total_parameters") if isinstance(about, dict) else None
    if isinstance(total, int) and not isinstance(total, bool) and total > 0:
        yield [_plain(total, "the index", exactly=True)]


def _configured(subject: Subject, weights: Weights) -> Iterator[list[StatedParameters]]:
    """A count that some write into config.json."""
    if weights.format != "safetensors":
        return
    for key in ("num_parameters", "total_parameters", "n_params", "num_params"):
        number = (subject.config or {}).get(key)
        if isinstance(number, int) and not isinstance(number, bool) and number > 0:
            yield [_plain(number, f"{key} of config.json")]


def _in_names(text: str, source: str) -> Iterator[list[StatedParameters]]:
    statements = [_stated(match, source) for match in _NAME.finditer(text)]
    if statements:
        yield statements


def _stated(match: "re.Match[str]", source: str) -> StatedParameters:
    unit = _UNITS[match[3].upper()]
    _, _, decimals = match[2].partition(".")
    digits = len(match[2].replace(".", "").lstrip("0")) or 1
    number = float(match[2]) * unit
    return StatedParameters(
        match[0], source, number, unit / 10 ** len(decimals), digits, int(match[1] or 0)
    )


def _plain(number: int, source: str, *, exactly: bool = False) -> StatedParameters:
    text = str(number)
    digits = len(text.rstrip("0"))
    unit = 10 ** (len(text) - digits)
    return StatedParameters(text, source, float(number), float(unit), 6 if exactly else digits)
