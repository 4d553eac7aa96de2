"""The list of the training data against the data: digests, counts, and a sample of its tokens.

Every listed file that is here is hashed. Sizes and counts that are stated are counted where that is
cheap, and a sample of the text is cut into tokens with the model's own tokenizer where the
`tokenizers` library is installed. Addresses are pinned by their digests; nothing is fetched.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from overt.errors import FormatError
from overt.openness.evidence import Finding
from overt.openness.subject import manifests, places, shards
from overt.openness.subject.manifests import DataManifest, ListedFile
from overt.openness.subject.subject import Subject, SubjectFile
from overt.openness.verdicts.components import Availability, Strength

VERSION = 2
TTL = 0

_MAX_MANIFESTS: Final = 16
_MAX_PATHS: Final = 64
_WEIGHTS: Final = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt")
_DATA: Final = ("training_data", "evaluation_data")


def check(subject: Subject) -> Iterator[Finding]:
    """Read every list of files and look at what it lists."""
    if not subject.files:
        return
    files = _candidates(subject)
    listed = False
    for file in files[:_MAX_MANIFESTS]:
        try:
            manifest = manifests.read(subject, file)
        except FormatError as error:
            if places.component_of(file.name) == "training_data":
                yield Finding(
                    "training_data",
                    "inconclusive",
                    Strength.PINNED,
                    reason=error.message,
                    paths=(file.name,),
                )
            continue
        if manifest is None:
            continue
        for component, entries in _by_component(subject, manifest).items():
            listed = listed or component == "training_data"
            yield from _compared(subject, manifest, component, entries)
    if not listed:
        yield from _without_list(subject, files)


def _candidates(subject: Subject) -> list[SubjectFile]:
    claimed = {file.name for file in places.of(subject, "training_data")}
    manifests_found = [file for file in subject.files if manifests.is_manifest(file)]
    for name in ("metadata.json", "dataset_infos.json", "index.json"):
        manifests_found += [
            f for f in subject.named(name) if f.name in claimed and f not in manifests_found
        ]
    return sorted(manifests_found, key=lambda file: (file.name.count("/"), file.name))


def _without_list(subject: Subject, lists: Sequence[SubjectFile]) -> Iterator[Finding]:
    named = {file.name for file in lists}
    data = [f for f in places.of(subject, "training_data") if f.name not in named and f.size]
    if data:
        yield Finding(
            "training_data",
            "pass",
            Strength.EXISTS,
            observed=f"{len(data)} files of {sum(f.size for f in data)} bytes, without a list of "
            "digests",
            paths=tuple(f.name for f in data[:_MAX_PATHS]),
        )
    elif places.searched(subject) and not any(f for f in lists if f.name.startswith("data")):
        yield Finding(
            "training_data",
            "fail",
            Strength.EXISTS,
            absent=True,
            observed=f"none of the {len(subject.files)} files here is training data or lists it",
        )


def _by_component(subject: Subject, manifest: DataManifest) -> dict[str, list[ListedFile]]:
    """What a list at the top is of is told by each file; one among the data is of the data."""
    own = places.component_of(manifest.name) or "training_data"
    claim = subject.record.claim("training_data")
    about_data = (
        manifest.kind == "croissant"
        or "/" in manifest.name
        or (claim is not None and places.inside(claim.where) == manifest.name)
    )
    by_component: dict[str, list[ListedFile]] = {}
    for entry in manifest.entries:
        name = manifest.place(entry) if not entry.elsewhere else ""
        if about_data:
            component: str | None = own if own in _DATA else "training_data"
        elif name.count("/") == 0 and name.lower().endswith(_WEIGHTS):
            component = "weights"
        else:
            component = places.component_of(name) if name else own
            if component is None and manifest.kind != "sums":
                component = own
        if component in (*_DATA, "weights", "checkpoints"):
            by_component.setdefault(component, []).append(entry)
    return by_component


# -- a list and what it lists --------------------------------------------------------------------


def _compared(
    subject: Subject, manifest: DataManifest, component: str, entries: list[ListedFile]
) -> Iterator[Finding]:
    here: list[tuple[ListedFile, SubjectFile]] = []
    lost: list[str] = []
    for entry in entries:
        if entry.elsewhere:
            continue
        place = manifest.place(entry)
        file = subject.file(place) or subject.file(entry.path.lstrip("./"))
        if file is not None:
            here.append((entry, file))
        else:
            lost.append(place or entry.path)
    wrong = list(_mismatches(subject, here))
    paths = (manifest.name, *(file.name for _, file in here[:_MAX_PATHS]))
    strength = Strength.PINNED if component in (*_DATA, "weights") else Strength.EXISTS
    for observed, expected, path in wrong[:8]:
        yield Finding(
            component,
            "fail",
            strength,
            observed=observed,
            expected=expected,
            paths=(manifest.name, path),
        )
    if lost:
        yield _missing_files(subject, manifest, component, lost, len(entries))
    urls = [entry for entry in entries if entry.elsewhere]
    if urls:
        pinned = sum(1 for entry in urls if entry.sha256)
        yield Finding(
            component,
            "not_run",
            strength,
            paths=(manifest.name,),
            reason=f"{len(urls)} addresses in {manifest.name}, {pinned} with a digest, were not "
            "fetched",
        )
    if wrong or not here:
        return
    hashed = [pair for pair in here if pair[0].sha256 and _sha(subject, pair[1])]
    if not hashed:
        yield Finding(
            component,
            "inconclusive",
            strength,
            paths=paths,
            reason=f"{manifest.name} lists {len(here)} files that are here, none with a digest "
            "that could be compared",
        )
        return
    yield from _agreed(subject, manifest, component, here, len(hashed), bool(lost), paths)


def _missing_files(
    subject: Subject, manifest: DataManifest, component: str, lost: list[str], total: int
) -> Finding:
    text = f"{len(lost)} of {total} files that {manifest.name} lists are not here: " + ", ".join(
        lost[:3]
    )
    claim = subject.record.claim(component)
    partial = claim is not None and Availability.UNKNOWN < claim.availability < (
        Availability.RECONSTRUCTIBLE
    )
    if not places.searched(subject) or partial:
        return Finding(
            component, "inconclusive", Strength.PINNED, reason=text, paths=(manifest.name,)
        )
    return Finding(
        component,
        "fail",
        Strength.EXISTS,
        observed=text,
        expected=f"{total} files",
        absent=len(lost) == total and component != "weights",
        paths=(manifest.name,),
    )


def _mismatches(
    subject: Subject, here: list[tuple[ListedFile, SubjectFile]]
) -> Iterator[tuple[str, str, str]]:
    """(observed, expected, file) of each file that is not as it is listed."""
    for entry, file in here:
        sha256 = _sha(subject, file)
        if entry.sha256 and sha256 and sha256 != entry.sha256:
            yield f"{file.name} has sha256 {sha256}", f"sha256 {entry.sha256} as listed", file.name
            continue
        if entry.size is not None and entry.size != file.size:
            yield f"{file.name} has {file.size} bytes", f"{entry.size} bytes as listed", file.name
            continue
        for fault, expected in shards.faults(file, entry):
            yield f"{file.name} {fault}", expected, file.name


def _sha(subject: Subject, file: SubjectFile) -> str:
    if file.sparse and not file.stated:
        return ""
    digest = subject.digest(file.name)
    return digest.removeprefix("sha256:") if digest.startswith("sha256:") else ""


def _agreed(
    subject: Subject,
    manifest: DataManifest,
    component: str,
    here: list[tuple[ListedFile, SubjectFile]],
    hashed: int,
    partly: bool,
    paths: tuple[str, ...],
) -> Iterator[Finding]:
    if component not in _DATA:
        yield Finding(
            component,
            "pass",
            Strength.PINNED if component == "weights" else Strength.EXISTS,
            observed=f"{hashed} files have the digests {manifest.name} lists",
            paths=paths,
        )
        return
    stated = [entry.tokens for entry in manifest.entries if entry.tokens is not None]
    total = manifest.tokens
    if total is not None and len(stated) == len(manifest.entries) and sum(stated) != total:
        yield Finding(
            component,
            "fail",
            Strength.CONSISTENT,
            paths=paths,
            observed=f"the files of {manifest.name} are listed with {sum(stated)} tokens",
            expected=f"{total} tokens, its total",
        )
        return
    sample = shards.sample(subject, here) if component == "training_data" else shards.ShardSample()
    finding = Finding(
        component,
        "fail" if sample.fault else "pass",
        Strength.PINNED,
        paths=paths,
        observed=sample.fault
        or f"{hashed} of {len(here)} listed files have the digests "
        f"{manifest.name} lists{_sample_text(sample)}",
        expected=sample.expected,
    )
    if not sample.fault:
        finding = replace(
            finding,
            strength=Strength.CONSISTENT if sample.tokenized else Strength.PINNED,
            licence=_licence(manifest),
        )
        if partly:
            return
    yield finding


def _sample_text(sample: "shards.ShardSample") -> str:
    return f"; {sample.told}" if sample.told else ""


def _licence(manifest: DataManifest) -> str | None:
    """The licence all of it is listed under, where that is one that is known."""
    from overt.openness.licence import names

    words = {entry.licence for entry in manifest.entries if entry.licence}
    if manifest.licence:
        words.add(manifest.licence)
    return names.canonical(words.pop()) if len(words) == 1 else None
