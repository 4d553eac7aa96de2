"""Whether the weights come from the base that is named, by how alike the tensors are.

Matrices of two models trained apart have a cosine near 0 (measured between seeds of the small
models: 0.033 at most over a tensor of 1024 elements); what was fine-tuned, merged or quantized from
a base stays near it (4 bits 0.996, 2 bits 0.944, IQ1_S 0.891, TQ2_0 0.691; a change of a fifth of
the weights 0.98). So a median below 0.3 is another model, one above 0.6 a descendant, and what lies
between settles nothing. Norms are left out: they are alike in all models.

Of a delta between two models in full precision the rank is told: a merged LoRA adds a matrix of low
rank.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from overt.errors import FormatError
from overt.openness.evidence import Finding
from overt.openness.subject import pairs, tensors
from overt.openness.subject.pairs import TensorPair
from overt.openness.subject.record import Parent
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import Strength

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

VERSION = 3
TTL = 0

MAX_PARAMETERS: Final = 48_000_000
"""Parameters that are compared."""
UNRELATED: Final = 0.3
DESCENDED: Final = 0.6
_RELATIONS = ("finetune", "quantized", "merge", "base")
_SAME_SHAPE = ("finetune", "quantized")
_WORDS = ("embed", "lm_head", "token_embd", "output.weight", "wte", "word_embeddings", "position")
_RANKED = 3  # matrices whose delta's rank is told
_MAX_RANKED = 512  # rows or columns, whichever is less; 20 ms each
_FEW_MATRICES = 8  # matrices under which a lone difference says nothing
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blk|layer|blocks)\.\d")
_ROUNDING = 0.003  # what storing in 16 bits changes: BF16 0.0017, F16 0.0002
_EXACT = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Likeness:
    """One tensor: its cosine with the base's and how far it is, relative to it."""

    pair: TensorPair
    cosine: float
    distance: float
    compared: int


def check(subject: Subject) -> Iterable[Finding]:
    models = [model for model in tensors.of(subject) if model.tensors]
    parents = [parent for parent in subject.record.parents if parent.relation in _RELATIONS]
    if not models or subject.record.kind == "adapter" or not (parents or subject.base):
        return
    if subject.base is None:
        yield _not_run(f"the base is not here: overt pull {parents[0].name}, or --base")
        return
    if reason := pairs.missing():
        yield _not_run(reason)
        return
    for weights in models:
        if weights.lacking:
            yield _not_run(f"{len(weights.lacking)} files of the weights are not here")
        else:
            yield from _model(subject, subject.base, weights, parents)


def _not_run(reason: str) -> Finding:
    return Finding("weights", "not_run", Strength.CONSISTENT, reason=reason)


def _model(
    subject: Subject, base: Subject, weights: tensors.Weights, parents: list[Parent]
) -> Iterator[Finding]:
    paired = pairs.of(weights, subject, base)
    kind = parents[0].relation if parents else "base"
    if isinstance(paired, str):
        if paired.startswith("the architectures") and kind in _SAME_SHAPE:
            yield _fail(paired, f"the architecture of {base.ref}", weights)
        else:
            yield _not_run(paired)
        return
    apart = [
        difference
        for difference in paired.apart
        if not any(word in difference[0] for word in _WORDS)
    ]
    if apart and kind in _SAME_SHAPE:
        name, mine, theirs = apart[0]
        yield _fail(
            f"{name} has the shape {list(mine)}", f"{list(theirs)} as in {base.ref}", weights
        )
        return
    matrices = [
        pair for pair in paired.pairs if len(pair.mine.shape) > 1 and pair.mine.parameters > 64
    ]
    if not matrices:
        yield _not_run("the two have no matrix of one name and shape")
        return
    most = max(pairs.CHUNK // 64, MAX_PARAMETERS // len(matrices))
    try:
        alike = [_likeness(pair, most) for pair in matrices]
        yield _finding(alike, paired, weights, base, parents)
    except FormatError as error:
        yield _not_run(error.message)


def _likeness(pair: TensorPair, most: int) -> Likeness:
    import numpy as np

    dot = mine = theirs = apart = 0.0
    compared = 0
    for start, stop in pair.places(most):
        a = pairs.read(pair.mine, start, stop).ravel()
        b = pair.rows(start, stop).ravel()
        with np.errstate(all="ignore"):
            dot += float(np.vdot(a, b))
            mine += float(np.vdot(a, a))
            theirs += float(np.vdot(b, b))
            delta = a - b
            apart += float(np.vdot(delta, delta))
        compared += len(a)
    length = (mine * theirs) ** 0.5
    same = 1.0 if apart == 0 else 0.0
    cosine = dot / length if length > 0 else same
    return Likeness(pair, cosine, (apart / theirs) ** 0.5 if theirs > 0 else 1 - same, compared)


def _finding(
    alike: list[Likeness],
    paired: pairs.PairedTensors,
    weights: tensors.Weights,
    base: Subject,
    parents: list[Parent],
) -> Finding:
    ordered = sorted(likeness.cosine for likeness in alike)
    middle = ordered[len(ordered) // 2]
    measured = f"cosine {middle:.3f} (median of {len(alike)} matrices, {ordered[0]:.3f} the least)"
    expected = f"weights that come from {base.ref}"
    tuned = any(parent.relation == "finetune" for parent in parents)
    compared, total = (
        sum(likeness.compared for likeness in alike),
        sum(o.pair.mine.parameters for o in alike),
    )
    if compared < total:
        measured += f", {compared} of {total} parameters looked at"
    strangers = [likeness for likeness in alike if not likeness.cosine >= UNRELATED]
    if not middle >= UNRELATED:
        first = strangers[0].pair.mine.name
        return _fail(f"{measured}: another model's weights, the first {first}", expected, weights)
    if all(likeness.distance == 0 for likeness in alike) and _norms_equal(paired):
        if tuned and compared == total and not paired.alone and not paired.apart:
            return _fail(
                f"{len(alike)} matrices and all norms are equal to the base's",
                f"a fine-tune of {base.ref}",
                weights,
            )
        measured = f"{len(alike)} matrices and all norms are equal to the base's"
    elif middle < DESCENDED:
        return Finding(
            "weights",
            "inconclusive",
            Strength.CONSISTENT,
            measured,
            expected,
            "too far from the base to tell",
            paths=weights.files,
        )
    elif (lone := _lone(alike)) is not None:
        return _fail(
            f"{lone.pair.mine.name} alone differs, by {lone.distance:.4f} of its length and in all "
            f"directions; the other {len(alike) - 1} matrices are the base's as their types tell",
            expected,
            weights,
        )
    elif strangers:
        stranger = strangers[0]
        return _fail(
            f"{stranger.pair.mine.name} has the cosine {stranger.cosine:.3f}, and {measured}",
            expected,
            weights,
        )
    else:
        measured += _nature(alike)
    return Finding("weights", "pass", Strength.CONSISTENT, measured, expected, paths=weights.files)


def _fail(observed: str, expected: str, weights: tensors.Weights) -> Finding:
    return Finding("weights", "fail", Strength.CONSISTENT, observed, expected, paths=weights.files)


def _lone(alike: list[Likeness]) -> Likeness | None:
    """The one matrix that differs where all others are equal, and in all directions.

    Training changes all matrices of a layer, an edit or a LoRA of one matrix a few directions.
    """
    changed = [likeness for likeness in alike if likeness.distance > _rounding(likeness.pair)]
    if len(changed) != 1 or len(alike) < _FEW_MATRICES:
        return None
    lone = changed[0]
    exact = lone.pair.mine.type in _EXACT and lone.pair.theirs in _EXACT
    if not exact or not _BLOCK.search(lone.pair.mine.name) or not _small(lone.pair):
        return None
    return lone if _rank(lone.pair) * 4 > min(lone.pair.height, lone.pair.width) else None


def _rounding(pair: TensorPair) -> float:
    """How far equal numbers are apart that were stored in another format: F16 0.0002."""
    return 0.0 if pair.mine.type == pair.theirs else _ROUNDING


def _norms_equal(paired: pairs.PairedTensors) -> bool:
    small = [pair for pair in paired.pairs if len(pair.mine.shape) == 1]
    return all(_likeness(pair, pair.mine.parameters).distance == 0 for pair in small)


def _nature(alike: list[Likeness]) -> str:
    """What the delta looks like: which tensors changed, and the rank of the change."""
    changed = [likeness for likeness in alike if likeness.distance > _ROUNDING]
    text = f", {max(likeness.distance for likeness in alike):.4f} from it at most"
    if any(likeness.pair.mine.type not in _EXACT for likeness in alike) or not changed:
        return text
    text += f", {len(changed)} of them changed"
    fit = [likeness.pair for likeness in changed if _small(likeness.pair)][:_RANKED]
    ranked = [(_rank(pair), min(pair.height, pair.width)) for pair in fit]
    if ranked and all(rank * 4 <= whole for rank, whole in ranked):
        text += f"; the change has rank {max(rank for rank, _ in ranked)}, as a merged LoRA has"
    return text


def _small(pair: TensorPair) -> bool:
    return (
        min(pair.height, pair.width) <= _MAX_RANKED
        and pair.mine.parameters <= 8 * _MAX_RANKED**2
        and not any(word in pair.mine.name for word in _WORDS)
    )


def _rank(pair: TensorPair) -> int:
    """The least rank that holds 95 % of the change's energy."""
    import numpy as np

    delta = pairs.read(pair.mine, 0, pair.height) - pair.rows(0, pair.height)
    if not np.isfinite(delta).all():
        return int(min(delta.shape))
    values = np.linalg.svd(delta.astype(np.float64), compute_uv=False) ** 2
    total = float(values.sum())
    if total <= 0:
        return 0
    return len(np.flatnonzero(np.cumsum(values) / total < 0.95)) + 1
