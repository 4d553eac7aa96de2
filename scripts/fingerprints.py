"""Make src/overt/openness/data/fingerprints.bin from texts that are not part of the project.

    python scripts/fingerprints.py SPDX_XML_REPOSITORY LICENCE_FOLDER MIRRORS

The first is a clone of github.com/spdx/license-list-XML (a bare one will do), whose texts say what
may be replaced or left out; the second the folder `licences` of the project's shared test data;
the third a folder with clones of licensors' own repositories, each as OWNER+NAME/repo.
What is written holds no text: a number for each word (truncated blake2), numbers as they are, and
the places of what may differ.
"""

import csv
import json
import re
import subprocess
import sys
import zlib
from array import array
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

from overt.openness.licence import text as texts
from overt.openness.licence.fingerprints import MAGIC
from overt.openness.licence.remarks import binding

TARGET = Path(__file__).parents[1] / "src/overt/openness/data/fingerprints.bin"
SPDX = [
    "0BSD",
    "AFL-3.0",
    "AGPL-3.0-only",
    "AML",
    "Apache-1.1",
    "Apache-2.0",
    "Artistic-1.0-Perl",
    "Artistic-2.0",
    "BlueOak-1.0.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSD-3-Clause-Open-MPI",
    "BSD-4-Clause",
    "BSL-1.0",
    "BUSL-1.1",
    "C-UDA-1.0",
    "CC-BY-2.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-NC-3.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-ND-4.0",
    "CC-BY-NC-SA-3.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0",
    "CDLA-Sharing-1.0",
    "ECL-2.0",
    "Elastic-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.2",
    "GFDL-1.1-only",
    "GFDL-1.2-only",
    "GFDL-1.3-only",
    "GPL-1.0-only",
    "GPL-2.0-only",
    "GPL-3.0-only",
    "HPND",
    "ISC",
    "LGPL-2.0-only",
    "LGPL-2.1-only",
    "LGPL-3.0-only",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-1.1",
    "MPL-2.0",
    "MS-PL",
    "MS-RL",
    "MulanPSL-2.0",
    "NCSA",
    "O-UDA-1.0",
    "ODbL-1.0",
    "ODC-By-1.0",
    "OFL-1.1",
    "OGL-UK-3.0",
    "OSL-3.0",
    "PDDL-1.0",
    "PolyForm-Noncommercial-1.0.0",
    "PostgreSQL",
    "PSF-2.0",
    "Python-2.0",
    "Python-2.0.1",
    "CNRI-Python",
    "SSPL-1.0",
    "Unicode-3.0",
    "Unlicense",
    "UPL-1.0",
    "W3C",
    "WTFPL",
    "X11",
    "Zlib",
    "ZPL-2.1",
]
# Texts from their licensor's repository: id, repository, file, and what a copy may say otherwise.
OWN: list[tuple[str, str, str, str]] = [
    ("apple-amlr", "apple/ml-fastvlm", "LICENSE_MODEL", ""),
    ("bsd-3-clause-lg-ai-research", "LGAI-Research/EXAONE-Cookbook", "LICENSE.md", ""),
    ("chatglm3", "THUDM/ChatGLM3", "MODEL_LICENSE", ""),
    ("creativeml-open-rail-m", "CompVis/stable-diffusion", "LICENSE", ""),
    ("databricks-open-model", "databricks/dbrx", "LICENSE", ""),
    ("exaone-1.2-nc", "LG-AI-EXAONE/EXAONE-4.0", "LICENSE", ""),
    ("flux-1-dev-nc", "black-forest-labs/flux", "model_licenses/LICENSE-FLUX1-dev", ""),
    ("k-exaone", "LG-AI-EXAONE/K-EXAONE", "LICENSE", ""),
    ("minimax-model-2025-01", "MiniMax-AI/MiniMax-01", "LICENSE-MODEL", ""),
    ("seamless-2023", "facebookresearch/seamless_communication", "SEAMLESS_LICENSE", ""),
    ("sdxl-0.9-research", "Stability-AI/generative-models", "model_licenses/LICENSE-SDXL0.9", ""),
    (
        "stability-ai-nc-2023-11-21",
        "Stability-AI/generative-models",
        "model_licenses/LICENSE-SVD",
        "",
    ),
    (
        "stability-ai-nc-2023-11-28",
        "Stability-AI/generative-models",
        "model_licenses/LICENCE-SD-Turbo",
        "",
    ),
    (
        "stability-ai-nc-2024-03-18",
        "Stability-AI/generative-models",
        "model_licenses/LICENSE-SV3D",
        "",
    ),
    (
        "tencent-hunyuan-community",
        "Tencent-Hunyuan/Hunyuan-A13B",
        "LICENSE",
        r"Hunyuan A13B(?= Release)|June 27, 2025|Hunyuan A13B(?= released)|\[https://github\S+\]",
    ),
    (
        "tencent-hunyuan-community",
        "Tencent-Hunyuan/HunyuanOCR",
        "License.txt",
        r"HunyuanOCR(?= Release)|November 25, 2025|HunyuanOCR(?= released)|\[https://hugging\S+\]",
    ),
    ("tongyi-qianwen-2023", "QwenLM/Qwen-VL", "LICENSE", ""),
]
LATER = [
    "AGPL-3.0",
    "GFDL-1.3",
    "GPL-1.0",
    "GPL-2.0",
    "GPL-3.0",
    "LGPL-2.0",
    "LGPL-2.1",
    "LGPL-3.0",
]
NAMESPACE = "{http://www.spdx.org/license}"
NEGATIONS = {"not", "no", "neither", "nor", "none"}
SHORT = (
    900  # words; a shorter text keeps every second shingle for the shortlist, others every eighth
)


@dataclass
class Print:
    """One text on its way: words, and spans (first, behind last, kind, argument)."""

    id: str
    notice: bool
    words: list[str] = field(default_factory=list)
    spans: list[list[object]] = field(default_factory=list)


@dataclass
class Pieces:
    text: list[str] = field(default_factory=list)
    spans: list[tuple[str, object]] = field(default_factory=list)

    def open(self, kind: str, argument: object = 0) -> None:
        self.text.append(f" {texts.OPEN} ")
        self.spans.append((kind, argument))

    def close(self) -> None:
        self.text.append(f" {texts.CLOSE} ")


def local(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(NAMESPACE)


def walk(element: ElementTree.Element, into: Pieces) -> None:
    """The words of an element and what is below it."""
    tag = local(element)
    if tag in ("bullet", "copyrightText"):  # anybody's copyright line is explained by remarks.py
        return
    if tag in ("p", "br", "item", "list", "titleText"):
        into.text.append("\n\n")
    if tag in ("optional", "titleText"):
        into.open("optional")
    elif tag == "alt":
        into.open(*variants(element))
    into.text.append(squeeze(element.text))
    for child in element:
        walk(child, into)
        into.text.append(squeeze(child.tail))
    if tag in ("optional", "titleText", "alt"):
        into.close()
    if tag in ("p", "item", "titleText"):
        into.text.append("\n\n")


def squeeze(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "")


def variants(alt: ElementTree.Element) -> tuple[str, object]:
    """What may stand in an element's place: any name, or one of a few wordings."""
    match = alt.get("match", "")
    shown = "".join(alt.itertext())
    if "." not in re.sub(r"\\.", "", match) and (found := expanded(match)) is not None:
        return "alt", found
    levelled = texts.read(shown).words
    most = 60 if "." in re.sub(r"\\.", "", match) else len(levelled) + 6
    free = bool(binding(shown))
    return "wild", [most, free, bool(NEGATIONS & set(levelled))]


def expanded(match: str) -> list[str] | None:
    """The wordings of a regular expression without repetitions; None for one that has them."""
    plain = re.sub(r"\\s[+*]|\[ \\t\\r\\n\\f\]\{[\d,]+\}|\\s|\[ _\]", " ", match)
    plain = re.sub(r"\\([.()\"'-])", r" ", plain)
    plain = re.sub(r"[-#*=]\{[\d,]+\}|[#*=-][*+]", " ", plain)
    plain = re.sub(r"(\w)\?", r"(\1)?", plain)
    if re.search(r"[\[\]{}\\+*]", plain):
        return None
    try:
        return sorted(set(branches(plain)))
    except ValueError:
        return None


def branches(pattern: str) -> list[str]:
    """Alternatives of a pattern of words, ``|``, brackets and ``?``."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(pattern):
        depth += (c == "(") - (c == ")")
        if depth < 0:
            raise ValueError(pattern)
        if c == "|" and not depth:
            parts.append(pattern[start:i])
            start = i + 1
    parts.append(pattern[start:])
    if depth or len(parts) > 60:
        raise ValueError(pattern)
    return [one for part in parts for one in sequence(part)]


def sequence(part: str) -> list[str]:
    pools: list[list[str]] = []
    at = 0
    while at < len(part):
        if part[at] != "(":
            end = part.find("(", at)
            end = len(part) if end < 0 else end
            pools.append([part[at:end]])
            at = end
            continue
        depth, end = 0, at
        while True:
            depth += (part[end] == "(") - (part[end] == ")")
            end += 1
            if not depth:
                break
        inner = branches(part[at + 1 : end - 1].removeprefix("?:"))
        if part[end : end + 1] == "?":
            inner.append("")
            end += 1
        pools.append(inner)
        at = end
    if any("?" in one for pool in pools for one in pool):
        raise ValueError(part)
    found = ["".join(one) for one in product(*pools)]
    if len(found) > 60:
        raise ValueError(part)
    return found


def finished(name: str, pieces: Pieces, *, notice: bool) -> Print:
    """Words with spans out of pieces with marks."""
    made = Print(name, notice)
    waiting: list[tuple[int, str, object]] = []
    kinds = iter(pieces.spans)
    for word in texts.read("".join(pieces.text)).words:
        if word == texts.OPEN:
            waiting.append((len(made.words), *next(kinds)))
        elif word == texts.CLOSE:
            start, kind, argument = waiting.pop()
            made.spans.append([start, len(made.words), kind, argument])
        else:
            made.words.append(word)
    assert not waiting, name
    return made


def from_xml(repository: Path, name: str, *, text: bool = True) -> list[Print]:
    command = ["git", "-C", str(repository), "show", f"HEAD:src/{name}.xml"]
    root = ElementTree.fromstring(subprocess.run(command, capture_output=True, check=True).stdout)
    made = []
    body = root.find(f".//{NAMESPACE}text")
    if text and body is not None:
        pieces = Pieces()
        walk(body, pieces)
        made.append(finished(name, pieces, notice=False))
    for header in root.iter(f"{NAMESPACE}standardLicenseHeader"):
        pieces = Pieces()
        walk(header, pieces)
        one = finished(name, pieces, notice=True)
        if len(one.words) >= 20:
            made.append(one)
    return made


def from_text(name: str, source: str, other: str = "") -> Print:
    """A text nobody marked up: its title may be left out and what `other` finds be another name."""
    first, _, rest = _unclaimed(source).lstrip().partition("\n")
    pieces = Pieces()
    titled = len(first.split()) <= 10
    if titled:
        pieces.open("optional")
    pieces.text.append(f"{first}\n")
    if titled:
        pieces.close()
    pieces.text.append("\n")
    at = 0
    for found in re.finditer(other, rest) if other else ():
        pieces.text.append(rest[at : found.start()])
        pieces.open("wild", [8, False, False])
        pieces.text.append(found[0])
        pieces.close()
        at = found.end()
    pieces.text.append(rest[at:])
    return finished(name, pieces, notice=False)


def _unclaimed(source: str) -> str:
    """A text without the copyright lines above it: remarks.py explains anybody's."""
    lines = source.lstrip("\ufeff").strip().splitlines()
    while lines and (not lines[0].strip() or re.match(r"\W*copyright\b", lines[0], re.IGNORECASE)):
        del lines[0]
    return "\n".join(lines)


def from_owner(mirrors: Path, row: tuple[str, str, str, str]) -> Print:
    name, repository, file, other = row
    place = mirrors / repository.replace("/", "+") / "repo"
    command = ["git", "-C", str(place), "show", f"HEAD:{file}"]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    return from_text(name, content.decode("utf-8-sig"), other)


def collected(repository: Path, folder: Path, mirrors: Path) -> list[Print]:
    made = [one for name in SPDX for one in from_xml(repository, name)]
    made += [one for name in LATER for one in from_xml(repository, f"{name}-or-later", text=False)]
    with (folder / "index.tsv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            if row["key"] not in SPDX:
                source = (folder / f"{row['key']}.txt").read_text(encoding="utf-8")
                made.append(from_text(row["key"], source))
    return made + [from_owner(mirrors, row) for row in OWN]


def packed(prints: list[Print]) -> bytes:
    """The file: see overt/openness/licence/fingerprints.py."""
    every = {word for one in prints for word in one.words}
    for one in prints:
        for span in one.spans:
            if span[2] == "alt":
                span[3] = [list(texts.read(v).words) for v in span[3]]  # type: ignore[attr-defined]
                every.update(word for v in span[3] for word in v)
    numbers = {texts.hashed(word) for word in every}
    assert len(numbers) == len(every), "two words have the same number: use more bytes"
    order = sorted(every, key=texts.hashed)
    place = {word: i for i, word in enumerate(order)}
    keys, owners = array("I"), array("H")
    entries = []
    tokens = array("H")
    for number, one in enumerate(prints):
        sequence_ = [place[word] for word in one.words]
        tokens.extend(sequence_)
        optional = {k for s, e, kind, _ in one.spans if kind == "optional" for k in range(s, e)}
        every_th = 2 if len(sequence_) < SHORT else 8
        rows = enumerate(texts.shingles(sequence_))
        chosen = sorted({s for k, s in rows if s % every_th == 0 and k not in optional})
        keys.extend(chosen)
        owners.extend([number] * len(chosen))
        spans = [
            [s, e, kind, [[place[w] for w in v] for v in argument] if kind == "alt" else argument]
            for s, e, kind, argument in one.spans
        ]
        required = len(sequence_) - len(optional)
        entries.append([one.id, one.notice, len(sequence_), required, len(chosen), spans])
    head = {
        "entries": entries,
        "numbers": {place[word]: word for word in order if word[:1].isdigit()},
    }
    body = json.dumps(head, separators=(",", ":"), sort_keys=True).encode()
    vocabulary = array("I", [texts.hashed(word) for word in order])
    for one in (vocabulary, tokens, keys, owners):
        if sys.byteorder == "big":
            one.byteswap()
    sizes = array("I", [len(body), len(vocabulary), len(tokens), len(keys)])
    content = b"".join(
        (
            sizes.tobytes(),
            body,
            vocabulary.tobytes(),
            tokens.tobytes(),
            keys.tobytes(),
            owners.tobytes(),
        )
    )
    return MAGIC + zlib.compress(content, 9)


def main() -> None:
    prints = collected(*(Path(one) for one in sys.argv[1:4]))
    content = packed(prints)
    TARGET.write_bytes(content)
    texts_ = sum(not one.notice for one in prints)
    words = sum(len(one.words) for one in prints)
    print(
        f"{TARGET.name}: {texts_} texts, {len(prints) - texts_} notices, "
        f"{words} words, {len(content)} bytes"
    )


if __name__ == "__main__":
    main()
