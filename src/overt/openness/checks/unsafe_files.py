"""Files that run something when loaded, or reach out of their folder.

Told by content, whatever the name: pickles, programs, scripts under the names of data, archives,
layers that hold code (Keras), operations that touch the disk (TensorFlow), external data outside
the folder (ONNX), links that leave it. Nothing is loaded, unpacked or run.

A plain pickle of weights is not what a claim denies, so it settles nothing; one that would call
anything beyond what weights need, or that goes under another name, is a fail.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from overt.formats import pickle
from overt.openness.evidence import Finding
from overt.openness.subject import content, places
from overt.openness.subject.content import ContentReport
from overt.openness.subject.subject import MAX_HEADERS, Subject, SubjectFile
from overt.openness.verdicts.components import Strength

VERSION = 3
TTL = 90  # what is known to be dangerous grows

_MAX_FILES: Final = 20_000
_MAX_PICKLES: Final = 24
_MAX_BYTES_SEARCHED: Final = 192 << 20
"""Bytes of all files of these kinds that are searched, but for the ends of each."""
_SEARCHED: Final = (".h5", ".hdf5", ".keras", ".onnx", ".pb")
_MAX_NAMES_SHOWN: Final = 16
_SAFE: Final = "files that hold data and run nothing when loaded"


def check(subject: Subject) -> Iterator[Finding]:
    """Look into every file that is here."""
    bad: list[tuple[str, str]] = []
    doubts: list[tuple[str, str]] = []
    looked = 0
    for look in _looks(subject):
        looked += look.read
        bad += [(look.name, fault) for fault in look.faults]
        doubts += [(look.name, doubt) for doubt in look.doubts]
    bad += list(_outside(subject))
    doubts += [
        (file.name, "is called like a pickle, and its bytes are not here")
        for file in subject.files
        if subject.remote and file.path is None and file.suffix in pickle.PICKLED_SUFFIXES
    ]
    yield from _findings(bad, doubts)
    left = sum(1 for file in subject.files if file.path is None or file.sparse)
    if looked and not bad and not doubts:
        rest = f"; {left} others are not on this disk" if left else ""
        yield Finding(
            "weights",
            "pass",
            Strength.EXISTS,
            expected=_SAFE,
            observed=f"{looked} files: no pickle, program, archive or link out of the folder{rest}",
            paths=tuple(f.name for f in subject.files if f.path)[:_MAX_NAMES_SHOWN],
        )
    elif left and not looked:
        yield Finding(
            "weights", "not_run", Strength.EXISTS, reason=f"{left} files are not on this disk"
        )
    if len(subject.files) > _MAX_FILES:
        yield Finding(
            "weights",
            "not_run",
            Strength.EXISTS,
            reason=f"of {len(subject.files)} files the first {_MAX_FILES} were looked into",
        )
    yield from _custom_code(subject)


def _findings(bad: list[tuple[str, str]], doubts: list[tuple[str, str]]) -> Iterator[Finding]:
    for name, fault in bad[:_MAX_NAMES_SHOWN]:
        yield Finding(
            "weights",
            "fail",
            Strength.EXISTS,
            observed=f"{name} {fault}",
            expected=_SAFE,
            paths=(name,),
        )
    if len(bad) > _MAX_NAMES_SHOWN:
        names = ", ".join(name for name, _ in bad[_MAX_NAMES_SHOWN : _MAX_NAMES_SHOWN + 4])
        yield Finding(
            "weights",
            "fail",
            Strength.EXISTS,
            expected=_SAFE,
            observed=f"{len(bad) - _MAX_NAMES_SHOWN} more such files: {names}",
        )
    for name, doubt in doubts[:_MAX_NAMES_SHOWN]:
        yield Finding(
            "weights", "inconclusive", Strength.EXISTS, reason=f"{name} {doubt}", paths=(name,)
        )


def _looks(subject: Subject) -> Iterator[ContentReport]:
    """Each file in turn, small ones first, so that the few scans of pickles go to what hides."""
    scans, left = _MAX_PICKLES, _MAX_BYTES_SEARCHED
    ordered = sorted(subject.files[:_MAX_FILES], key=lambda file: file.size)
    for file in ordered:
        if file.path is None or file.sparse:
            continue
        code = places.component_of(file.name) in _CODE_PARTS
        most = min(content.MAX_BYTES_SEARCHED, max(left, 0))
        look = content.inspect(file.name, file.path, scan=scans > 0, code=code, most=most)
        if file.suffix in _SEARCHED:
            left -= min(file.size, most)
        scans -= look.scans
        yield look


_CODE_PARTS: Final = (
    "training_code",
    "inference_code",
    "evaluation_code",
    "preprocessing_code",
    "libraries",
)


def _outside(subject: Subject) -> Iterator[tuple[str, str]]:
    """Names, links and indexes that leave the folder."""
    pathless = [file for file in subject.files if file.path is None]
    for file in subject.files:
        if file.name.startswith("/") or ".." in file.name.split("/") or "\\" in file.name:
            yield file.name, "has a name that leaves its folder"
    # A cache keeps all its files as links to another folder; there a link tells nothing.
    if places.searched(subject) and 2 * len(pathless) < len(subject.files):
        for file in pathless:
            yield file.name, "is a link that leaves the folder, or no plain file"
    for file in subject.files:
        if file.name.endswith(".index.json"):
            yield from ((file.name, fault) for fault in _index(subject, file))


def _index(subject: Subject, file: SubjectFile) -> Iterator[str]:
    index = subject.json(file.name, MAX_HEADERS)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict):
        return
    for target in sorted(
        {file_name for file_name in weights.values() if isinstance(file_name, str)}
    ):
        if target.startswith(("/", "~")) or ".." in target.replace("\\", "/").split("/"):
            yield f"says that tensors lie in {target[:80]}, outside the folder"
            return


def _custom_code(subject: Subject) -> Iterator[Finding]:
    """``auto_map``: classes the transformers library loads from Python beside the weights."""
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        held: Any = subject.json(name) if subject.file(name) else None
        mapped = held.get("auto_map") if isinstance(held, dict) else None
        if not isinstance(mapped, dict) or not mapped:
            continue
        targets = sorted(
            {
                target
                for value in mapped.values()
                for target in (value if isinstance(value, list) else [value])
                if isinstance(target, str)
            }
        )[:16]
        elsewhere = [target for target in targets if "--" in target]
        if elsewhere:
            yield Finding(
                "inference_code",
                "inconclusive",
                Strength.EXISTS,
                paths=(name,),
                reason=f"{name} lets a program load {elsewhere[0]}, code of another repository "
                "that no digest pins",
            )
        own = [target for target in targets if "--" not in target]
        if own:
            yield from _own_code(subject, name, own)


_STARTS: Final = re.compile(
    r"^[^#\n'\"]{0,120}?(?<![\w.])(os\.(?:system|popen|exec[lv]\w{0,3}|spawn\w{1,4})|pty\.spawn"
    r"|subprocess\.(?:run|Popen|call|check_call|check_output|getoutput)"
    r"|exec(?=\(\s*(?:base64|zlib|marshal|codecs|bytes|urllib|requests|__import__)))\(?",
    re.MULTILINE,
)
"""Calls that start another program, or run what was hidden."""


def _own_code(subject: Subject, name: str, targets: list[str]) -> Iterator[Finding]:
    files = sorted({f"{target.rpartition('.')[0].replace('.', '/')}.py" for target in targets})
    here = [name_ for name_ in files if subject.file(name_)]
    lost = [name_ for name_ in files if name_ not in here]
    for file in here:
        if match := _STARTS.search(subject.text(file, 1 << 20) or ""):
            yield Finding(
                "inference_code",
                "fail",
                Strength.EXISTS,
                paths=(name, file),
                observed=f"{file}, which {name} lets a program run, calls {match[1]}",
                expected="code that computes, and starts no other program",
            )
            return
    if here:
        yield Finding(
            "inference_code",
            "pass",
            Strength.EXISTS,
            paths=(name, *here),
            observed=f"{', '.join(here)}: code of its own that {name} lets a program run",
        )
    if lost and places.searched(subject):
        yield Finding(
            "inference_code",
            "inconclusive",
            Strength.EXISTS,
            paths=(name,),
            reason=f"{name} names {', '.join(lost[:3])}, which is not here",
        )
