"""The shapes computed from the configuration against those in the headers of the weights.

``config.json`` against safetensors, and a GGUF header's own numbers against its tensor table. The
first tensor that differs is named with both shapes. Of an architecture whose tensors are not known
nothing is said but that.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from overt.openness import tensors
from overt.openness.components import Strength
from overt.openness.evidence import Finding
from overt.openness.shapes import plan
from overt.openness.shapes.plan import Difference, Plan
from overt.openness.subject import Subject

VERSION = 1
TTL = 0


@dataclass(frozen=True)
class Compared:
    """One model of a subject with its plan and how it differs."""

    weights: tensors.Weights
    plan: Plan
    difference: Difference
    paths: tuple[str, ...]


def compared(subject: Subject) -> Iterator[Compared | Finding]:
    """Each model whose tensors can be told; a Finding on the architecture where they cannot."""
    for weights in tensors.of(subject):
        paths = weights.files
        try:
            if weights.format == "gguf":
                if weights.header is None or not weights.tensors:
                    raise plan.UnknownLayout(f"{weights.name} holds no header, or no tensors")
                wanted, form = plan.of_gguf(weights.header, weights.tensors), "gguf"
            elif subject.config is None:
                continue
            else:
                wanted, form = plan.of_config(subject.config), "hf"
                paths = ("config.json", *paths)
        except plan.UnknownLayout as reason:
            yield _not_run(str(reason), paths)
            continue
        shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
        yield Compared(weights, wanted, plan.compare(wanted, shapes, form), paths)


def check(subject: Subject) -> Iterable[Finding]:
    if subject.config is not None and not tensors.of(subject):
        remote = any(f.suffix in (".safetensors", ".gguf") for f in subject.files if not f.path)
        if remote:
            yield _not_run("the weights are not here; overt pull gets them", ("config.json",))
        return
    for one in compared(subject):
        yield one if isinstance(one, Finding) else _judged(one)


def _judged(one: Compared) -> Finding:
    found, wanted = one.difference, one.plan
    source = "the header" if one.weights.format == "gguf" else "config.json"
    if found.wrong:
        name, there, expected = found.wrong[0]
        more = f" and {len(found.wrong) - 1} more" if len(found.wrong) > 1 else ""
        return Finding(
            "architecture", "fail", Strength.CONSISTENT,
            f"{name} has the shape {list(there)}{more}",
            f"{list(expected)} by {source}", paths=one.paths,
        )  # fmt: skip
    if found.beyond:
        return Finding(
            "architecture", "fail", Strength.CONSISTENT,
            f"{len(found.beyond)} tensors beyond the last block, the first {found.beyond[0]}",
            f"{wanted.blocks} blocks by {source}", paths=one.paths,
        )  # fmt: skip
    whole = [name for name in found.missing if not one.weights.lacking]
    if whole:
        return Finding(
            "architecture", "fail", Strength.CONSISTENT,
            f"{len(whole)} tensors are missing, the first {whole[0]}",
            f"{len(wanted.required)} tensors in {wanted.blocks} blocks by {source}",
            paths=one.paths,
        )  # fmt: skip
    if found.unknown:
        return Finding(
            "architecture", "inconclusive", Strength.CONSISTENT,
            f"{len(found.unknown)} tensors that {wanted.architecture} does not have, the first "
            f"{found.unknown[0]}",
            reason="a variant of the architecture, or tensors that nobody describes",
            paths=one.paths,
        )  # fmt: skip
    if found.missing:
        return _not_run(f"{len(one.weights.lacking)} files of the weights are not here", one.paths)
    return Finding(
        "architecture", "pass", Strength.CONSISTENT,
        f"{len(one.weights.tensors)} tensors, {one.weights.parameters} parameters, have the shapes "
        f"of {wanted.architecture} with {wanted.blocks} blocks",
        f"what {source} asks for", paths=one.paths,
    )  # fmt: skip


def _not_run(reason: str, paths: tuple[str, ...]) -> Finding:
    return Finding("architecture", "not_run", Strength.CONSISTENT, reason=reason, paths=paths)
