"""Intermediate checkpoints: steps in order, of the model's own shapes, each other than the next.

Headers are read whole and weights in samples, at the same places of the same tensors in every step.
A folder of copies is no history of a training, and neither is one whose last step is no nearer to
the final weights than its first.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from overt.errors import OvertError
from overt.formats import safetensors
from overt.openness.evidence import Finding
from overt.openness.subject import places, samples
from overt.openness.subject.samples import SampledNumbers
from overt.openness.subject.subject import MAX_HEADERS, Subject, SubjectFile
from overt.openness.verdicts.components import Strength

VERSION = 2
TTL = 0

_MAX_STEPS: Final = 64
_EARLY: Final = 16
"""Steps within which weights may not move at the precision they are stored in."""
_OTHERWISE: Final = ("row", "col", "absmax", "qmap", "quant", "scale")
"""Parts of states that are kept smaller than their parameters."""
_MAX_NAME_PARTS: Final = 24  # parts of a tensor's name that are looked at
_OPTIMIZER: Final = ("optim", "exp_avg", "momentum", "adam")


@dataclass
class CheckpointStep:
    """One checkpoint: its files, the shapes of its tensors, and samples of them."""

    number: int
    folder: str
    files: list[SubjectFile] = field(default_factory=list)
    optimizer: list[SubjectFile] = field(default_factory=list)
    tensors: dict[str, tuple[SubjectFile, safetensors.SafetensorsTensor]] = field(
        default_factory=dict
    )
    fault: str = ""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {_base_name(name): info.shape for name, (_, info) in self.tensors.items()}


def check(subject: Subject) -> Iterator[Finding]:
    """Put the checkpoints in order and compare each with the next and with the final weights."""
    if not subject.files:
        return
    files = places.of(subject, "checkpoints")
    steps, double = _steps(files)
    if not steps:
        if places.searched(subject):
            yield Finding(
                "checkpoints",
                "fail",
                Strength.EXISTS,
                absent=True,
                observed=f"none of the {len(subject.files)} files here is a checkpoint of a step",
            )
        return
    paths = tuple(file.name for step in steps for file in step.files)[:64]
    if double:
        yield Finding(
            "checkpoints",
            "fail",
            Strength.CONSISTENT,
            paths=paths,
            observed=f"{double[0]} and {double[1]} are both of step {double[2]}",
            expected="one checkpoint a step",
        )
        return
    left = MAX_HEADERS
    for step in steps[:_MAX_STEPS]:
        left -= _read(step, left)
    faults = [*_labels(subject, steps), *_optimizers(steps), *_broken(steps)]
    for observed, expected, name in faults[:8]:
        yield Finding(
            "checkpoints",
            "fail",
            Strength.CONSISTENT,
            observed=observed,
            expected=expected,
            paths=(name,),
        )
    readable = [step for step in steps[:_MAX_STEPS] if step.tensors]
    if not faults:
        yield _chain(subject, steps, readable, paths)


def _steps(
    files: Sequence[SubjectFile],
) -> tuple[list[CheckpointStep], tuple[str, str, int] | None]:
    """The steps in order, and two folders of one step where there are."""
    by_step: dict[tuple[int, str], CheckpointStep] = {}
    for file in files:
        number = places.step_of(file.name)
        if number is None or not file.size:
            continue
        step = by_step.setdefault(
            (number, _root(file.name)), CheckpointStep(number, _root(file.name))
        )
        if file.suffix == ".safetensors" and not any(word in file.stem for word in _OPTIMIZER):
            step.files.append(file)
        elif any(word in file.name.lower() for word in _OPTIMIZER):
            step.optimizer.append(file)
        elif file.suffix in places.WEIGHTS or file.stem == "trainer_state.json":
            step.files.append(file)
    steps = [step for _, step in sorted(by_step.items()) if any(_weights(f) for f in step.files)]
    for first, second in itertools.pairwise(steps):
        if first.number == second.number:
            return steps, (first.folder, second.folder, first.number)
    return steps, None


def _weights(file: SubjectFile) -> bool:
    return file.suffix in places.WEIGHTS


def _root(name: str) -> str:
    """The path down to the part that names the step; a file's shards share it."""
    parts = name.split("/")
    for depth in range(len(parts), 0, -1):
        if places.step_of(parts[depth - 1]) is not None:
            if depth == len(parts):
                return "/".join([*parts[:-1], parts[-1].split("-0000")[0]])
            return "/".join(parts[:depth])
    return name


def _read(step: CheckpointStep, most: int) -> int:
    """The tensors of a step, as long as fewer than `most` bytes of headers were read; how many."""
    bytes_read = 0
    for file in step.files:
        if file.suffix != ".safetensors" or file.path is None or bytes_read >= most:
            continue
        try:
            header = safetensors.read(file.path, MAX_HEADERS)
        except OvertError as error:
            step.fault = f"{file.name}: {error.message}"
            return bytes_read
        bytes_read += header.data_offset
        step.tensors |= {info.name: (file, info) for info in header.tensors}
    return bytes_read


def _base_name(name: str) -> str:
    """A tensor's name without what a wrapper puts before all names."""
    for prefix in ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model."):
        name = name.removeprefix(prefix)
    return name


# -- what must not be ----------------------------------------------------------------------------


def _broken(steps: Sequence[CheckpointStep]) -> Iterator[tuple[str, str, str]]:
    for step in steps:
        if step.fault:
            yield step.fault, "weights of the step that can be read", step.files[0].name


def _labels(subject: Subject, steps: Sequence[CheckpointStep]) -> Iterator[tuple[str, str, str]]:
    """A trainer's own note of the step it is at."""
    for step in steps:
        for file in step.files:
            if file.stem != "trainer_state.json":
                continue
            state: Any = subject.json(file.name)
            number = state.get("global_step") if isinstance(state, dict) else None
            if isinstance(number, int) and number != step.number:
                yield (
                    f"{file.name} says it is step {number}",
                    f"step {step.number}, as its folder is called",
                    file.name,
                )


def _optimizers(steps: Sequence[CheckpointStep]) -> Iterator[tuple[str, str, str]]:
    """Moments of an optimizer have the shapes of the parameters they belong to."""
    for step in steps:
        shapes = step.shapes
        for file in step.optimizer:
            if file.suffix != ".safetensors" or file.path is None or not shapes:
                continue
            try:
                header = safetensors.read(file.path)
            except OvertError as error:
                yield error.message, "the state of an optimizer", file.name
                continue
            for info in header.tensors:
                if any(word in info.name for word in _OTHERWISE):
                    continue
                owner = _owner(info.name, shapes)
                if owner and info.parameters > 1 and info.shape != shapes[owner]:
                    yield (
                        f"{file.name} has {info.name} of shape {list(info.shape)}",
                        f"shape {list(shapes[owner])}, as the parameter has",
                        file.name,
                    )
                    break


def _owner(name: str, shapes: Mapping[str, object]) -> str | None:
    """The longest name of a parameter in that of a moment of it: ``exp_avg.layers.0.weight``."""
    parts = name.split(".")[:_MAX_NAME_PARTS]
    for length in range(len(parts), 0, -1):
        for start in range(len(parts) - length + 1):
            whole = ".".join(parts[start : start + length])
            cuts = (
                at for at, letter in enumerate(whole) if letter == "_" and "." not in whole[at:]
            )
            for end in (len(whole), *sorted(cuts, reverse=True)):
                if whole[:end] in shapes:
                    return whole[:end]
    return None


# -- the chain -----------------------------------------------------------------------------------


def _chain(
    subject: Subject,
    steps: Sequence[CheckpointStep],
    readable: Sequence[CheckpointStep],
    paths: tuple[str, ...],
) -> Finding:
    if not readable:
        here = sum(1 for step in steps for file in step.files if file.path is not None)
        reason = (
            f"{len(steps)} steps are here in files that are not read: pickles run code"
            if here
            else f"{len(steps)} steps are named, and none is on this disk"
        )
        return Finding(
            "checkpoints",
            "inconclusive" if here else "not_run",
            Strength.CONSISTENT,
            reason=reason,
            paths=paths,
        )
    final = _final(subject)
    if fault := _shapes(readable, final):
        return Finding(
            "checkpoints",
            "fail",
            Strength.CONSISTENT,
            observed=fault[0],
            expected=fault[1],
            paths=paths,
        )
    if any(file.sparse for step in readable for file in step.files):
        return Finding(
            "checkpoints",
            "pass",
            Strength.PINNED,
            paths=paths,
            observed=f"{len(readable)} steps of the same shapes; their weights are not here",
        )
    if len(readable) < 2:
        return Finding(
            "checkpoints",
            "inconclusive",
            Strength.CONSISTENT,
            paths=paths,
            reason=f"step {readable[0].number} alone is no chain",
        )
    return _moving(readable, final, paths)


def _final(subject: Subject) -> Mapping[str, tuple[SubjectFile, safetensors.SafetensorsTensor]]:
    """The final weights by their bare names; empty where they are not here as safetensors."""
    return {
        _base_name(info.name): (file, info)
        for name, header in subject.safetensors.items()
        for info in header.tensors
        if (file := subject.file(name)) is not None and not file.sparse
    }


def _shapes(
    readable: Sequence[CheckpointStep],
    final: Mapping[str, tuple[SubjectFile, safetensors.SafetensorsTensor]],
) -> tuple[str, str] | None:
    """(observed, expected) where a step is of another model."""
    wanted = {name: info.shape for name, (_, info) in final.items()} or readable[-1].shapes
    source = "the final weights" if final else f"step {readable[-1].number}"
    for step in readable:
        shapes = step.shapes
        other = [name for name in wanted if name in shapes and shapes[name] != wanted[name]]
        lost = [name for name in wanted if name not in shapes]
        if lost and sorted(shapes.values()) == sorted(wanted.values()):
            continue  # other names, the same model
        # An output layer that is the embedding may be left out of either.
        lost = [name for name in lost if not name.startswith(("lm_head", "embed_out", "output."))]
        if other or lost:
            name = (other or lost)[0]
            has = f"{name} of shape {list(shapes[name])}" if other else f"no {name}"
            return (
                f"step {step.number} has {has}, and {len(other) + len(lost)} of {len(wanted)} "
                "tensors differ",
                f"shape {list(wanted[name])}, as {source} have it",
            )
    return None


def _moving(
    readable: Sequence[CheckpointStep],
    final: Mapping[str, tuple[SubjectFile, safetensors.SafetensorsTensor]],
    paths: tuple[str, ...],
) -> Finding:
    held = [
        {_base_name(name): tensor for name, tensor in step.tensors.items()} for step in readable
    ]
    names = samples.choose([*held, *([final] if final else [])]) or samples.choose(held)
    taken = [samples.take(tensors_held, names) for tensors_held in held]
    common = set.intersection(*(set(sample) for sample in taken))
    if not common:
        return Finding(
            "checkpoints",
            "inconclusive",
            Strength.CONSISTENT,
            paths=paths,
            reason="the steps have no tensor in common that could be compared",
        )
    numbers = [step.number for step in readable]
    for i in range(len(readable) - 1):
        if all(taken[i][name].data == taken[i + 1][name].data for name in common):
            return _same(numbers[i], numbers[i + 1], len(common), paths)
    ends = {name: sample for name, sample in samples.take(final, names).items() if name in common}
    if not ends:
        return Finding(
            "checkpoints",
            "pass",
            Strength.PINNED,
            paths=paths,
            observed=f"{_listed(numbers)}, each other than the next; no final weights to compare",
        )
    away = [_distance({name: sample[name] for name in ends}, ends) for sample in taken]
    return _approach(numbers, away, paths)


def _same(first: int, second: int, tensors: int, paths: tuple[str, ...]) -> Finding:
    text = f"steps {first} and {second} hold the same weights in samples of {tensors} tensors"
    if second <= _EARLY:
        return Finding("checkpoints", "inconclusive", Strength.CONSISTENT, reason=text, paths=paths)
    return Finding(
        "checkpoints",
        "fail",
        Strength.CONSISTENT,
        observed=text,
        paths=paths,
        expected="weights that differ from step to step",
    )


def _distance(mine: Mapping[str, SampledNumbers], other: Mapping[str, SampledNumbers]) -> float:
    """The distance of samples over the length of the second, over all tensors."""
    apart = length = 0.0
    for name, sample in other.items():
        for a, b in zip(mine[name].numbers, sample.numbers, strict=False):
            apart += (a - b) ** 2
            length += b * b
    return math.sqrt(apart / length) if length and math.isfinite(apart / length) else math.inf


def _approach(numbers: list[int], away: list[float], paths: tuple[str, ...]) -> Finding:
    last = len(numbers) - 1
    equal = [numbers[i] for i in range(last) if away[i] == 0]
    text = (
        f"{_listed(numbers)}; the final weights are {away[0]:.3g} from step {numbers[0]} and "
        f"{away[last]:.3g} from step {numbers[last]}, of their own length"
    )
    if equal:
        return Finding(
            "checkpoints",
            "fail",
            Strength.CONSISTENT,
            paths=paths,
            observed=f"step {equal[0]} of {numbers[last]} already holds the final weights",
            expected="weights on the way to the final ones",
        )
    for i in range(1, last):
        # Unrelated weights are 1.4 of their length apart, steps of one training less and less.
        if away[i] > 1 and max(away[i - 1], away[i + 1]) < 0.5 * away[i]:
            return Finding(
                "checkpoints",
                "fail",
                Strength.CONSISTENT,
                paths=paths,
                observed=f"step {numbers[i]} is {away[i]:.3g} from the final weights, of their "
                f"length, and steps {numbers[i - 1]} and {numbers[i + 1]} are {away[i - 1]:.3g} "
                f"and {away[i + 1]:.3g}",
                expected="steps of one training",
            )
    if not math.isfinite(away[last]) or (away[last] > 1 and away[last] > 0.95 * away[0]):
        return Finding(
            "checkpoints",
            "fail",
            Strength.CONSISTENT,
            observed=text,
            paths=paths,
            expected=f"a step {numbers[last]} that is nearer to the final weights than step "
            f"{numbers[0]}",
        )
    if away[last] > away[0]:
        return Finding("checkpoints", "inconclusive", Strength.CONSISTENT, reason=text, paths=paths)
    return Finding("checkpoints", "pass", Strength.CONSISTENT, observed=text, paths=paths)


def _listed(numbers: list[int]) -> str:
    return f"{len(numbers)} steps from {numbers[0]} to {numbers[-1]}"
