"""A quantized file made again from the base it is said to come from, tensor by tensor.

Where `gguf` can encode a type the rows are quantized again and the bytes compared; llama.cpp makes
the same bytes (measured on rows of SmolLM2, Gemma 3 270M and MiniLM: 56 of 56 tensors in each of
F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, TQ1_0, TQ2_0, MXFP4) unless it was given an importance
matrix, in which case hardly a block agrees. K and IQ types are decoded and their distance from the
base is bounded. Noise of 0.5 % in a tensor leaves at most 14 % of its blocks as they were, so one
tensor that differs among others that do not is found by its bytes; where there are no equal bytes,
noise shows when the distance leaves the bound, or is 1.3 times that of half of the model's matrices
of that type (those of MiniLM, whose base is in 32 bits, vary by 3 %): of 2 % in Q6_K, 6 % in Q4_K.

A pass in which every row was compared bit by bit is a replay; of large models rows of each tensor
are compared, at four places.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from overt.errors import FormatError
from overt.openness.evidence import Finding
from overt.openness.subject import pairs, tensors
from overt.openness.subject.pairs import TensorPair
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import Strength

VERSION = 2
TTL = 0

MAX_PARAMETERS: Final = 160_000_000
"""Parameters that are compared: 134.5 million take about 4 s."""
ENCODED: Final = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "TQ1_0",
    "TQ2_0",
    "MXFP4",
)
MAX_ERROR: Final = {
    "F32": 1e-6, "F16": 0.0004, "BF16": 0.0023, "Q8_0": 0.0078, "Q6_K": 0.0255, "Q5_K": 0.051,
    "Q5_0": 0.062, "Q5_1": 0.065, "Q4_K": 0.1, "IQ4_NL": 0.106, "IQ4_XS": 0.106, "Q4_1": 0.11,
    "Q4_0": 0.149, "MXFP4": 0.157, "NVFP4": 0.16, "Q3_K": 0.212, "IQ3_S": 0.238, "IQ3_XXS": 0.3,
    "IQ2_S": 0.38, "IQ2_XS": 0.41, "Q2_K": 0.42, "IQ2_XXS": 0.471, "IQ1_M": 0.61, "IQ1_S": 0.67,
    "TQ1_0": 1.09, "TQ2_0": 1.09,
}  # fmt: skip
"""Largest ‖decoded - base‖ / ‖base‖ of a tensor: 1.3 times the largest of 56 matrices of those
three models (F16 0.0002, Q8_0 0.0059, Q6_K 0.0195, Q5_K 0.039, Q4_K 0.077, Q4_0 0.114, Q3_K 0.163,
Q2_K 0.321, IQ1_S 0.514 …); NVFP4, which was not measured, as MXFP4."""
_OUTLIER = 1.3
_PEERS = 4
_WHOLE = ("F32", "F16", "BF16", "F64", "I64", "I32", "BOOL")


@dataclass(frozen=True)
class TensorOutcome:
    """One tensor: `equal` None where its type cannot be encoded; `error` as in MAX_ERROR."""

    pair: TensorPair
    equal: bool | None
    error: float
    compared: int


def check(subject: Subject) -> Iterable[Finding]:
    claimed = [p for p in subject.record.parents if p.relation in ("quantized", "base")]
    models = [model for model in tensors.of(subject) if model.format == "gguf" and model.tensors]
    if not models or not (claimed or subject.base):
        return
    is_claimed = any(parent.relation == "quantized" for parent in claimed)
    if subject.base is None:
        if is_claimed:
            yield _not_run(f"the base is not here: overt pull {claimed[0].name}, or --base")
        return
    if reason := pairs.missing():
        yield _not_run(reason)
        return
    for weights in models:
        yield from _model(subject, subject.base, weights, is_claimed)


def _not_run(reason: str) -> Finding:
    return Finding("weights", "not_run", Strength.REPLAYED, reason=reason)


def _model(
    subject: Subject, base: Subject, weights: tensors.Weights, is_claimed: bool
) -> Iterator[Finding]:
    if weights.lacking:
        yield _not_run(f"{len(weights.lacking)} files of the weights are not here")
        return
    paired = pairs.of(weights, subject, base)
    if isinstance(paired, str):
        if not is_claimed or not paired.startswith("the architectures"):
            yield _not_run(paired)
            return
        yield _fail(paired, f"a quantization of {base.ref}", weights)
        return
    if _coarse(base):
        yield _not_run("the base is quantized itself, and is not what this was made from")
        return
    apart = [difference for difference in paired.apart if difference[0] not in pairs.VOCABULARY]
    if apart:
        name, mine, theirs = apart[0]
        yield _fail(f"{name} has the shape {list(mine)}", f"{list(theirs)} as in the base", weights)
        return
    if not paired.pairs:
        yield _not_run("no tensor of the base has a name that is known here")
        return
    share = max(pairs.CHUNK // 16, MAX_PARAMETERS // len(paired.pairs))
    if weights.parameters <= MAX_PARAMETERS:
        share = weights.parameters
    try:
        outcomes = [_compare(pair, share) for pair in paired.pairs]
    except FormatError as error:
        yield _not_run(error.message)
        return
    yield _finding(outcomes, paired, weights, base)


def _coarse(base: Subject) -> bool:
    models = tensors.of(base)
    return bool(models) and all(
        any(len(t.shape) > 1 and t.type not in _WHOLE for t in model.tensors.values())
        for model in models
    )


# ---- one tensor ----------------------------------------------------------------------------


def _compare(pair: TensorPair, most: int) -> TensorOutcome:
    import numpy as np

    distance = norm = 0.0
    equal: bool | None = pair.mine.type in ENCODED
    compared = 0
    for start, stop in pair.places(most):
        wanted = pair.rows(start, stop)
        data = pairs.raw(pair.mine, start, stop)
        compared += (stop - start) * pair.width
        if equal:
            equal = _encoded(wanted, pair.mine.type) == data
        with np.errstate(all="ignore"):
            norm += float(np.vdot(wanted, wanted))
            if not equal or pair.mine.type not in ENCODED:
                apart = pairs.decoded(data, pair.mine.type, stop - start).reshape(wanted.shape)
                apart = apart - wanted
                distance += float(np.vdot(apart, apart))
    error = (distance / norm) ** 0.5 if norm > 0 else float(distance > 0)
    return TensorOutcome(pair, equal if pair.mine.type in ENCODED else None, error, compared)


def _encoded(rows: Any, type: str) -> bytes | None:
    import gguf
    import numpy as np

    if type == "F32":
        return bytes(np.ascontiguousarray(rows, dtype="<f4").tobytes())
    try:
        with np.errstate(all="ignore"):
            made = gguf.quants.quantize(np.ascontiguousarray(rows), gguf.GGMLQuantizationType[type])
    except (gguf.quants.QuantError, ValueError):
        return None
    return bytes(made.tobytes())


# ---- all of them ---------------------------------------------------------------------------


def _finding(
    outcomes: list[TensorOutcome],
    paired: pairs.PairedTensors,
    weights: tensors.Weights,
    base: Subject,
) -> Finding:
    bad = _first_mismatch(outcomes)
    if bad is not None:
        outcome, why = bad
        return _fail(
            f"{outcome.pair.mine.name} ({outcome.pair.mine.type}) {why}",
            f"{outcome.pair.mine.type} of {outcome.pair.base} of {base.ref}",
            weights,
        )
    compared, equal = sum(o.compared for o in outcomes), sum(o.equal is True for o in outcomes)
    parts = [f"{equal} of {len(outcomes)} tensors bit for bit"]
    worst = max(outcomes, key=lambda outcome: outcome.error)
    if worst.error:
        name, kind = worst.pair.mine.name, worst.pair.mine.type
        parts.append(f"the farthest {name} ({kind}) {worst.error:.4f} from the base")
    if compared < weights.parameters:
        parts.append(f"{compared} of {weights.parameters} parameters looked at")
    unpaired = [name for name in paired.alone if not name.startswith("rope_")]
    unpaired += [name for name, _, _ in paired.apart]
    whole = equal == len(outcomes) and compared == weights.parameters and not unpaired
    if unpaired:
        return Finding(
            "weights",
            "inconclusive",
            Strength.CONSISTENT,
            ", ".join(parts),
            reason=f"{len(unpaired)} tensors have none beside them in the base, the "
            f"first {unpaired[0]}",
            paths=weights.files,
        )
    return Finding(
        "weights",
        "pass",
        Strength.REPLAYED if whole else Strength.CONSISTENT,
        ", ".join(parts),
        f"what quantizing {base.ref} makes",
        paths=weights.files,
    )


def _fail(observed: str, expected: str, weights: tensors.Weights) -> Finding:
    return Finding("weights", "fail", Strength.REPLAYED, observed, expected, paths=weights.files)


def _first_mismatch(outcomes: list[TensorOutcome]) -> tuple[TensorOutcome, str] | None:
    """The first tensor that is not what it should be, and why."""
    groups: dict[tuple[str, bool], list[TensorOutcome]] = {}
    for outcome in outcomes:
        matrix = outcome.pair.mine.name.startswith("blk.") and len(outcome.pair.mine.shape) > 1
        groups.setdefault((outcome.pair.mine.type, matrix), []).append(outcome)
    for outcome in outcomes:
        kind, name = outcome.pair.mine.type, outcome.pair.mine.name
        matrix = name.startswith("blk.") and len(outcome.pair.mine.shape) > 1
        group = groups[(kind, matrix)]
        if outcome.equal:
            continue
        if not outcome.error <= MAX_ERROR.get(kind, 0.7):
            most = MAX_ERROR.get(kind, 0.7)
            return outcome, f"is {outcome.error:.4f} from the base, and {kind} is at most {most}"
        same = sum(other.equal is True for other in group)
        if outcome.equal is False and same * 2 >= len(group):
            return outcome, f"is not what quantizing makes, as {same} of {len(group)} tensors are"
        errors = sorted(other.error for other in group)
        middle = errors[len(errors) // 2]
        if matrix and len(group) >= _PEERS and outcome.error > _OUTLIER * middle > 0:
            return outcome, f"is {outcome.error:.4f} from the base, and its kind {middle:.4f}"
    return None
