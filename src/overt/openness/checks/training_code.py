"""Training code: it is there, it is Python where it says so, it trains, and it trained this model.

A copy of a well known trainer proves nothing about a model; what makes it the code of this one is a
file of settings with the model's own sizes. Nothing is run: texts are parsed in a process of its
own with limits, since a parser can be brought down by what it parses.
"""

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from overt.formats import subprocess_reader
from overt.openness.evidence import Finding, Result
from overt.openness.subject import places
from overt.openness.subject.subject import Subject, SubjectFile
from overt.openness.verdicts.components import Availability, Strength

VERSION = 3
TTL = 0

_MAX_FILES: Final = 400
_MAX_BYTES: Final = 8 << 20
_MAX_FILE: Final = 1 << 20
_SECONDS: Final = 4
_PARTS: Final = ("training_code", "preprocessing_code", "inference_code", "evaluation_code")
_TRAINS: Final = re.compile(
    r"(?<![a-z])(?:backward|optimi[sz]er|value_and_grad|cross_entropy|(?:pre)?train(?:s|er|ing)?)"
    r"(?![a-rt-z])",
    re.IGNORECASE,
)
"""What any code of training mentions; a program without all of these is another program."""
_KEYS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "width": (
        r"hidden[-_]?(?:size|dim)|n[-_]?embd|d[-_]?model|(?:model[-_]?|emb(?:ed(?:ding)?)?[-_]?)?dim|"
        r"embedding[-_](?:length|size)|width|emb[-_]size",
        ("hidden_size", "n_embd", "d_model", "dim"),
    ),
    "layers": (
        r"(?:num|n)[-_]?(?:hidden[-_]?)?(?:layers?|blocks?)|layers|depth|block[-_]count",
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    ),
    "heads": (
        r"(?:num|n)[-_]?(?:attention[-_]?|attn[-_]?)?heads?|heads|(?:attention\.)?head[-_]count",
        ("num_attention_heads", "n_head", "n_heads"),
    ),
    "key-value heads": (
        r"(?:num|n)[-_]?(?:key[-_]?value|kv|query)[-_]?(?:heads?|groups?)|multi_query_group_num",
        ("num_key_value_heads", "n_kv_heads"),
    ),
    "inner": (
        r"intermediate[-_]?(?:size|dim)|ffn[-_]?hidden[-_]?size|n[-_]?inner|d[-_]?ff|"
        r"(?:mlp|ffn|inner|feed[-_]?forward)[-_]?(?:hidden[-_]?)?(?:size|dim|length)|hidden[-_]features",
        ("intermediate_size", "n_inner", "d_ff"),
    ),
    "vocabulary": (
        r"(?:padded[-_]?)?vocab(?:ulary)?[-_]?size|n[-_]?vocab",
        ("vocab_size",),
    ),
    "context": (
        r"max[-_]?position[-_]?embeddings|block[-_]?size|(?:max[-_]?)?seq(?:uence)?[-_]?len(?:gth)?|"
        r"n[-_]?(?:positions|ctx)|context[-_]?(?:length|size)",
        ("max_position_embeddings", "n_positions", "n_ctx"),
    ),
}
"""Sizes of a model: how settings call each, and its keys in config.json."""
_NEEDED: Final = ("width", "layers")
_MIN_SIZES: Final = 3
_ASSIGNED: Final = (
    r"(?<![\w.])(?:--|\w{0,40}\.)?(?:%s)\b[\"']?\]?\s{0,8}(?::\s{0,4}int\s{0,4})?"
    r"[:=\s]\s{0,8}[\"']?(\d[\d_,]{0,20})\b"
)
_COMPILED: Final = {
    size: re.compile(_ASSIGNED % rule, re.IGNORECASE) for size, (rule, _) in _KEYS.items()
}


def check(subject: Subject) -> Iterator[Finding]:
    """Look for code, then for the model in it."""
    if not subject.files:
        return
    files = places.of(subject, "training_code")
    code = [file for file in files if file.suffix in places.CODE]
    if not code:
        if places.searched(subject):
            yield _absent(subject, files)
        return
    here = [file for file in code if file.path is not None and not file.sparse]
    if not here:
        yield Finding(
            "training_code",
            "not_run",
            Strength.PINNED,
            reason=f"{len(code)} files of code are named, and none is on this disk",
        )
        return
    texts = _texts(subject, files)
    parsed = _parse({n: t for n, t in texts.items() if n.endswith(".py")})
    if parsed is None:
        yield Finding(
            "training_code",
            "inconclusive",
            Strength.PINNED,
            paths=tuple(texts)[:8],
            reason=f"{len(texts)} files took too much time or memory to parse",
        )
        return
    faults = [f"{name} {report['fault']}" for name, report in parsed.items() if report["fault"]]
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        yield Finding(
            "training_code",
            "fail",
            Strength.PINNED,
            observed=f"{faults[0]}{more}",
            expected="files ending in .py that are Python",
            paths=_names(faults)[:8],
        )
        return
    yield _finding(subject, texts, parsed)


def _names(faults: list[str]) -> tuple[str, ...]:
    return tuple(fault.split(" ")[0] for fault in faults)


def _absent(subject: Subject, files: tuple[SubjectFile, ...]) -> Finding:
    beside = f"; {len(files)} files of settings are" if files else ""
    claim = subject.record.claim("training_code")
    where = places.inside(claim.where) if claim else None
    return Finding(
        "training_code",
        "fail",
        Strength.EXISTS,
        absent=True,
        paths=tuple(f.name for f in files[:8]),
        observed=f"none of the {len(subject.files)} files here is training code{beside}",
        expected=f"{where} as claimed" if where else "",
    )


def _texts(subject: Subject, files: tuple[SubjectFile, ...]) -> dict[str, str]:
    """Code and the settings that lie with it, within bounds."""
    texts: dict[str, str] = {}
    left = _MAX_BYTES
    for file in files:
        if file.suffix not in places.CODE + places.SETTINGS + (".md", ".txt"):
            continue
        if file.size > min(left, _MAX_FILE) or len(texts) == _MAX_FILES:
            continue
        text = subject.text(file.name, _MAX_FILE)
        if text is not None:
            texts[file.name] = text
            left -= file.size
    return texts


# -- what it is ----------------------------------------------------------------------------------


def _parse(texts: dict[str, str]) -> dict[str, dict[str, str]] | None:
    """For each text the fault of its syntax and whether it is meant to be started."""
    if not texts:
        return {}
    try:
        reports = subprocess_reader.run(__name__, texts, _SECONDS)
    except subprocess_reader.Exceeded:
        return None
    return {str(name): dict(report) for name, report in reports.items()}


def _reply(texts: Any) -> dict[str, dict[str, str]]:
    warnings.simplefilter("ignore")
    return {name: _parse_file(text) for name, text in texts.items()}


def _parse_file(text: str) -> dict[str, str]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        if "print" in str(error.msg) or "exec" in str(error.msg):  # Python 2
            return {"fault": "", "entry": ""}
        return {"fault": f"is not Python: line {error.lineno}: {error.msg}", "entry": ""}
    except (ValueError, RecursionError):
        return {"fault": "is not Python that can be parsed", "entry": ""}
    tests = [ast.dump(node.test) for node in tree.body if isinstance(node, ast.If)]
    return {"fault": "", "entry": "yes" if any("__main__" in test for test in tests) else ""}


def _finding(subject: Subject, texts: dict[str, str], parsed: dict[str, dict[str, str]]) -> Finding:
    paths = tuple(texts)[:64]
    claim = subject.record.claim("training_code")
    # A claim about an address is not a claim about the copy that lies here.
    claimed = (
        claim is not None
        and claim.availability >= Availability.PARTIAL
        and "://" not in claim.where
    )
    count = sum(1 for name in texts if name.endswith(places.CODE))
    trains = [name for name, text in texts.items() if _TRAINS.search(text)]
    wanted = _config_sizes(subject)
    enough = set(_NEEDED) <= wanted.keys() and len(wanted) >= _MIN_SIZES
    if not trains:
        another = enough and _holder(texts, wanted)[2]
        return _unsettled(
            claimed or another,
            f"none of {count} files of code mentions training, a loss or an optimizer",
            "code that trains the model",
            paths,
        )
    if not enough:
        return Finding(
            "training_code",
            "inconclusive",
            Strength.PINNED,
            paths=paths,
            reason=f"{count} files of code are here, and no config says which sizes to look for",
        )
    name, sizes, another = _holder(texts, wanted)
    stated_sizes = ", ".join(f"{size} {number}" for size, number in wanted.items())
    if not name:
        nearest = f"; the nearest is {sizes}" if sizes else ""
        return _unsettled(
            claimed or another,
            f"none of {len(texts)} files of code and settings has this model's sizes{nearest}",
            stated_sizes,
            paths,
        )
    entry = next((n for n, report in parsed.items() if report["entry"]), trains[0])
    return Finding(
        "training_code",
        "pass",
        Strength.PINNED,
        expected=stated_sizes,
        paths=(name, *paths),
        observed=f"{count} files of code, started by {entry}; {name} has {sizes}",
    )


def _unsettled(claimed: bool, observed: str, expected: str, paths: tuple[str, ...]) -> Finding:
    """What contradicts a claim of training code, and settles nothing where none is made."""
    result: Result = "fail" if claimed else "inconclusive"
    finding = Finding("training_code", result, Strength.PINNED, expected=expected, paths=paths)
    return replace(finding, observed=observed) if claimed else replace(finding, reason=observed)


# -- whose it is ---------------------------------------------------------------------------------


def _config_sizes(subject: Subject) -> dict[str, int]:
    """The sizes of the model, from config.json or a GGUF header."""
    config = subject.config
    if config is not None:
        inner = config.get("text_config")
        config = {**config, **inner} if isinstance(inner, dict) else config
        config_sizes = {
            size: next((config[key] for key in keys if _is_size(config.get(key))), None)
            for size, (_, keys) in _KEYS.items()
        }
        return {size: number for size, number in config_sizes.items() if number is not None}
    header = subject.model
    if header is None:
        return {}
    values = {
        "width": header.embedding_length,
        "layers": header.block_count,
        "heads": (*header.head_counts, None)[0],
        "key-value heads": (*header.kv_head_counts, None)[0],
        "inner": (*header.feed_forward_lengths, None)[0],
        "vocabulary": header.vocabulary_size,
        "context": header.context_length,
    }
    return {size: number for size, number in values.items() if _is_size(number) and number}


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40


def _holder(texts: dict[str, str], wanted: dict[str, int]) -> tuple[str, str, bool]:
    """The file that states the model's sizes and which it states; else "" and the nearest miss,
    and whether width, depth and one more size are stated as another model's throughout."""
    nearest: tuple[int, str] = (0, "")
    another = False
    agreed = False
    for name, text in texts.items():
        stated = {
            size: {_number(match) for match in _COMPILED[size].findall(text)} for size in wanted
        }
        held = [size for size in wanted if wanted[size] in stated[size]]
        if set(_NEEDED) <= set(held) and len(held) >= min(_MIN_SIZES, len(wanted)):
            return name, ", ".join(f"{size} {wanted[size]}" for size in held), False
        agreed = agreed or any(size in held for size in _NEEDED)
        others = [
            f"{size} {min(stated[size])}" for size in wanted if stated[size] and size not in held
        ]
        foreign = [size for size in wanted if stated[size] and size not in held]
        another = another or (set(_NEEDED) <= set(foreign) and len(foreign) >= _MIN_SIZES)
        if len(others) > nearest[0]:
            nearest = (len(others), f"{name} with {', '.join(others[:4])}")
    return "", nearest[1], another and not agreed


def _number(text: str) -> int:
    digits = re.sub(r"\D", "", text)[:18]
    return int(digits) if digits else 0


if __name__ == "__main__":
    subprocess_reader.serve(_reply)
