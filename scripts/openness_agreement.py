"""How far Overt's verdicts agree with those of other indexes, as Markdown tables.

    python scripts/openness_agreement.py ../shared/data

Three questions, kept apart because they prove different things:

1. *Rules on the same record.* A record of an index goes through the import and the rules; a label
   is read off the same raw fields by `osai_label` or taken from the index's own class. Both start
   from the same cells, so this tests the mapping and the rules, not the world.
2. *The Model Openness Tool's own test records*, whose expected numbers stand in their file names:
   an outside oracle for the classes. Its catalogue stores no class: those counts are only watched.
3. *The project's own catalogue against the indexes*, family by family: two people (or groups) who
   looked at the same model at different times. Only this compares judgements.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from overt.formats import yamltext
from overt.openness import records
from overt.openness.evidence import finish
from overt.openness.subject.record import Record
from overt.openness.verdicts import components, mof, rules
from overt.openness.verdicts.components import COMPONENTS, Availability

STEPS = tuple(reversed(components.STEPS))
MAP_CLASSES = {
    "open_source": "fully_open",
    "open_weights": "open_weights",
    "restricted": "open_weights",
    "closed": "fully_closed",
}
AVAILABLE = (
    "datasources_basemodel",
    "datasources_endmodel",
    "weights_basemodel",
    "weights_endmodel",
    "trainingcode",
)
NAME = re.compile(r"_C1_(\d+)%-C2_(\d+)%-C3_(\d+)%_(\d+)C_(\d+)G_(\d+)L_(\d+)V_(\d+)I_(\d+)T$")
FAMILIES: Sequence[tuple[str, str, str, str]] = (
    ("OLMo-7B", "", "", "OLMo-7B"),
    ("Olmo-3.1-32B-Think", "OLMo", "", ""),
    ("Pythia-12B", "Pythia", "", "Pythia-12B"),
    ("Amber", "amber", "", "Amber"),
    ("SmolLM3-3B", "smollm", "", ""),
    ("Llama-2-7B", "", "", "Llama-2-7B"),
    ("Meta-Llama-3-8B-Instruct", "llama-3-instruct", "", "Meta-Llama-3-8B-Instruct"),
    ("Llama-3.1-8B", "", "", "Llama-3.1-8B"),
    ("Llama-3.2-1B-Instruct", "", "", "Llama-3.2-1B-Instruct"),
    ("Llama-3.3-70B-Instruct", "llama-3.3", "", ""),
    ("Llama-4-Scout-17B-16E", "", "llama-4-scout-maverick", ""),
    ("gemma-7b", "", "", "gemma-7b"),
    ("gemma-2-9b-it", "", "gemma-2", "gemma-2-9b-it"),
    ("Mistral-7B-v0.1", "", "", "Mistral-7B-v0.1"),
    ("Mistral-Large-Instruct-2407", "", "mistral-large-2", ""),
    ("Mistral-Large-3-675B-Base-2512", "", "", "Mistral-Large-3-675B-Base-2512"),
    ("Qwen2.5-72B-Instruct", "", "qwen-2-5", "Qwen2.5-72B-Instruct"),
    ("Qwen3-14B-Base", "", "qwen3", "Qwen3-14B-Base"),
    ("DeepSeek-V3", "", "", "DeepSeek-V3"),
    ("DeepSeek-V3.2", "deepseek-v3", "deepseek-v3-2", ""),
    ("DeepSeek-R1", "", "", "DeepSeek-R1"),
    ("phi-2", "", "", "Phi-2"),
    ("phi-4", "", "phi-4", ""),
    ("granite-4.0-h-small", "", "", "Granite-4.0-H-Small"),
    ("gpt-oss-20b", "", "", "gpt-oss-20b"),
    ("gpt-4", "", "", "GPT-4"),
    ("gpt-4o", "", "", "GPT-4o"),
    ("gpt-4.1", "", "gpt-4-1", ""),
    ("gpt-5", "", "gpt-5", ""),
    ("claude-2", "", "", "Claude-2"),
    ("gemini-1.5-pro", "", "", "Gemini-1.5"),
)
"""A name in the project's catalogue → file names of its record in OSAI, the map, and MOT.

Only the same model, or one of the same release; a name the catalogue does not know is left out.
"""


@dataclass(frozen=True)
class Row:
    """One record: what the other says, what the rules say, and why they differ."""

    name: str
    theirs: str
    ours: str
    reason: str = ""
    circular: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of one comparison with their agreement."""

    title: str
    rows: tuple[Row, ...]

    @property
    def agreed(self) -> int:
        return sum(row.theirs == row.ours for row in self.rows)

    @property
    def share(self) -> float:
        return self.agreed / len(self.rows) if self.rows else 0.0

    @property
    def kappa(self) -> float | None:
        return kappa([(row.theirs, row.ours) for row in self.rows])

    @property
    def disagreements(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.theirs != row.ours)


@dataclass(frozen=True)
class Agreement:
    """All tables; a folder that is not there leaves its table empty."""

    osai: Table
    os_ai_map: Table
    mot_tests: tuple[Mapping[str, Any], ...]
    mot_classes: Mapping[str, int]
    mot_steps: Mapping[str, int]
    catalogue: tuple[Table, ...] = field(default_factory=tuple)


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa: agreement beyond what the margins give by chance; None where that is all."""
    if not pairs:
        return None
    total = len(pairs)
    seen = sum(a == b for a, b in pairs) / total
    left, right = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(left[one] * right[one] for one in left) / total**2
    return None if chance == 1 else (seen - chance) / (1 - chance)


def step_of(record: Record) -> str:
    """The declared step of a record to which nothing was checked."""
    return judged(record).step.declared


def judged(record: Record) -> rules.Verdicts:
    today = date(2000, 1, 1)  # without evidence nothing can expire
    finished = [finish(one, record.claim(one.name), (), today) for one in COMPONENTS]
    return rules.judge(finished, record, licence=None, altered=False)


def osai_label(raw: Mapping[str, Any]) -> str:
    """A label from the words of the index alone: its cells on availability, then its papers."""
    words = {
        key: str((raw.get(key) or {}).get("class") or "").lower()
        for key in (*AVAILABLE, "preprint", "paper")
    }
    if all(words[key] == "open" for key in AVAILABLE):
        return "fully_open"
    if {words["weights_basemodel"], words["weights_endmodel"]} & {"open", "partial"}:
        return "open_weights"
    if any(words[key] in ("open", "partial") for key in AVAILABLE):
        return "partially_open"
    if "open" in (words["preprint"], words["paper"]):
        return "partially_open"
    return "fully_closed"


def agreement(folder: Path) -> Agreement:
    """Everything that can be compared with the records in `folder`."""
    classes, steps = _mot(folder / "mot")
    return Agreement(
        osai=Table(
            "European Open Source AI Index",
            tuple(
                _row(path.stem, osai_label(raw), record, raw, _osai_reason)
                for path, raw, record in _records(folder / "osai", "*.yaml")
            ),
        ),
        os_ai_map=Table(
            "Open Source AI Map",
            tuple(
                _row(
                    path.stem,
                    MAP_CLASSES.get(raw["openness"]["class"], "?"),
                    record,
                    raw,
                    _map_reason,
                )
                for path, raw, record in _records(folder / "os_ai_map", "*.yaml")
            ),
        ),
        mot_tests=tuple(
            _mot_test(path, record)
            for path, _, record in _records(folder / "mot_test_data", "*.yml")
        ),
        mot_classes=classes,
        mot_steps=steps,
        catalogue=_catalogue(folder),
    )


def _records(folder: Path, pattern: str) -> Iterable[tuple[Path, Any, Record]]:
    for path in sorted(folder.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        record = records.read(text, path.name)
        if record is not None:
            yield path, yamltext.load(text, path.name), record


def _row(
    name: str,
    theirs: str,
    record: Record,
    raw: Mapping[str, Any],
    why: Callable[[Mapping[str, Any], Record], str],
) -> Row:
    ours = step_of(record)
    return Row(name, theirs, ours, "" if theirs == ours else why(raw, record))


def _osai_reason(raw: Mapping[str, Any], record: Record) -> str:
    """The cells on which the two readings part."""
    cells = ", ".join(
        f"{key} {(raw.get(key) or {}).get('class') or 'not given'}" for key in AVAILABLE
    )
    return (
        "the label wants all five cells open; the rules take the end model's weights, and weights "
        f"behind a gate; {cells}"
    )


def _map_reason(raw: Mapping[str, Any], record: Record) -> str:
    """Where the index's class and its own line of components say different things."""
    there = {
        one.component: one.availability.word
        for one in record.claims
        if one.component in ("weights", "training_data", "training_code")
    }
    said = ", ".join(f"{name.replace('_', ' ')} {word}" for name, word in there.items())
    return (
        f"its class {raw['openness']['class']} also weighs the licence "
        f"({record.licence or 'none'}), which never moves our step; its own components: {said}"
    )


def items(record: Record) -> tuple[mof.ComponentItem, ...]:
    """What a record of the tool lists, with the licence that holds for each, as the tool counts."""
    return tuple(
        mof.ComponentItem(one.component, one.licence)
        for one in record.claims
        if one.note != "not listed"
    )


def _mot_test(path: Path, record: Record) -> Mapping[str, Any]:
    match = NAME.search(path.stem)
    numbers = [int(one) for one in match.groups()] if match else [0] * 9
    one, two, three = numbers[:3]
    result = mof.classify(items(record), compat=True)
    expected = "none" if three < 100 else "III" if two < 100 else "II" if one < 100 else "I"
    # The tool prints 0 for a class whose lower class is not reached, and so does its own check of
    # these names; the numbers in the names then come from the generator alone.
    progress = (one if three == two == 100 else 0, two if three == 100 else 0, three)
    return {
        "name": path.stem,
        "class": (expected, result.class_),
        "progress": (progress, tuple(round(result.progress[c]) for c in ("I", "II", "III"))),
        "components": (numbers[3], len(items(record))),
        "valid": (numbers[6], result.valid),
        "invalid": (numbers[7], result.not_open),
        "type_appropriate": (numbers[8], result.valid - result.inappropriate),
    }


def _mot(folder: Path) -> tuple[Mapping[str, int], Mapping[str, int]]:
    classes: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for _, _, record in _records(folder, "*.yml"):
        classes[mof.classify(items(record), compat=True).class_] += 1
        steps[step_of(record)] += 1
    return dict(classes), dict(steps)


def _catalogue(folder: Path) -> tuple[Table, ...]:
    """The catalogue's own dossiers beside the indexes' records of the same models."""
    from overt.openness.subject import families

    places = (
        ("European Open Source AI Index", folder / "osai", ".yaml", 1),
        ("Open Source AI Map", folder / "os_ai_map", ".yaml", 2),
        ("Model Openness Tool", folder / "mot", ".yml", 3),
    )
    tables = []
    for title, place, suffix, column in places:
        rows = []
        for entry in FAMILIES:
            own = families.find(entry[0])
            path = place / f"{entry[column]}{suffix}"
            if own is None or not entry[column] or not path.is_file():
                continue
            text = path.read_text(encoding="utf-8")
            other = records.read(text, path.name)
            if other is None:
                continue
            theirs = _label(column, yamltext.load(text, path.name), other)
            ours = step_of(own)
            reason = "" if theirs == ours else _differ(other, own)
            rows.append(Row(f"{entry[0]} / {entry[column]}", theirs, ours, reason, _circular(own)))
        tables.append(Table(title, tuple(rows)))
    return tuple(tables)


def _label(column: int, raw: Mapping[str, Any], record: Record) -> str:
    """What an index says of a model: its own words where it has some, else its record's step."""
    if column == 1:
        return osai_label(raw)
    return MAP_CLASSES.get(raw["openness"]["class"], "?") if column == 2 else step_of(record)


def _circular(own: Record) -> bool:
    """A cell that decides the catalogue's step was taken over from an index."""
    from overt.openness.subject.families import GRADES

    claims = [own.claim(name) for name in rules.CORE]
    return any(claim is not None and GRADES["index"] in claim.note for claim in claims)


def _differ(theirs: Record, own: Record) -> str:
    """The components that decide the step and on which the two records part."""
    parts = []
    for name, least in rules.PARTS.items():
        left, right = theirs.claim(name), own.claim(name)
        a = left.availability if left else Availability.UNKNOWN
        b = right.availability if right else Availability.UNKNOWN
        if (a >= least) != (b >= least):
            parts.append(f"{name.replace('_', ' ')}: {a.word} there, {b.word} here")
    return "; ".join(parts) or "the index's class weighs more than the components"


def markdown(data: Path) -> str:
    """The tables on the records in the folder `openness` of `data`, as a part of a page."""
    return render(agreement(data / "openness"))


def render(found: Agreement) -> str:
    """The tables as Markdown, the same for the same records."""
    lines = [
        "### Step, from the same record",
        "",
        "The import and the rules against a label read off the index's own words. Both read the "
        "same cells, so this shows that nothing is lost or bent on the way, not that the index is "
        "right.",
        "",
        *_steps((found.osai, found.os_ai_map)),
        "### Classes of the Model Openness Framework",
        "",
        *_tests(found.mot_tests),
        f"The tool's catalogue ({sum(found.mot_classes.values())} records) stores no class. By the "
        "ported algorithm: "
        + ", ".join(f"{key} {found.mot_classes.get(key, 0)}" for key in ("I", "II", "III", "none"))
        + ". Steps: "
        + ", ".join(f"{key} {found.mot_steps.get(key, 0)}" for key in STEPS)
        + ". These are regression values.",
        "",
        "### The project's catalogue against the indexes",
        "",
        "Here two records of one model are compared, each written by somebody else at another "
        "time. The Model Openness Tool states no step: theirs is that of its record by our rules, "
        "so that a difference is one of facts. Where the catalogue took a cell on weights, "
        "training code or data from an index, agreement is no evidence: of the "
        f"{sum(len(one.rows) for one in found.catalogue)} rows here "
        f"{sum(row.circular for one in found.catalogue for row in one.rows)} have such a cell; of "
        "the others "
        f"{sum(r.theirs == r.ours and not r.circular for t in found.catalogue for r in t.rows)} "
        "agree.",
        "",
        *_steps(found.catalogue),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _steps(tables: Sequence[Table]) -> list[str]:
    lines = ["| index | records | agree | share | Cohen's kappa |", "|---|---|---|---|---|"]
    for table in tables:
        kappa_ = "none" if table.kappa is None else f"{table.kappa:.3f}"
        lines.append(
            f"| {table.title} | {len(table.rows)} | {table.agreed} | {table.share:.1%} | {kappa_} |"
        )
    lines.append("")
    for table in tables:
        if not table.rows:
            continue
        lines += [f"{table.title}, theirs down, ours across:", "", *_matrix(table), ""]
        if table.disagreements:
            lines += ["| record | theirs | ours | why |", "|---|---|---|---|"]
            lines += [
                f"| {row.name} | {row.theirs} | {row.ours} | {row.reason.replace('|', '/')} |"
                for row in table.disagreements
            ]
            lines.append("")
    return lines


def _matrix(table: Table) -> list[str]:
    counts = Counter((row.theirs, row.ours) for row in table.rows)
    lines = [f"| | {' | '.join(STEPS)} |", "|---" * (len(STEPS) + 1) + "|"]
    lines += [
        f"| {theirs} | {' | '.join(str(counts[theirs, ours]) for ours in STEPS)} |"
        for theirs in STEPS
    ]
    return lines


def _tests(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = ("class", "progress", "components", "valid", "invalid", "type_appropriate")
    right = {key: sum(one[key][0] == one[key][1] for one in tests) for key in keys}
    lines = [
        f"Of the tool's {len(tests)} test records, with its own list of licences, "
        + ", ".join(f"{key.replace('_', '-')} {right[key]}" for key in keys)
        + " are as in the file name. Progress is compared as the tool's own check compares it: 0 "
        "for a class while one below it is not reached. Its authors say that the names do not have "
        "the right count of type-appropriate licences; where ours is another, it is listed.",
        "",
        "| record | what | in the name | ours |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one['name']} | {key} | {one[key][0]} | {one[key][1]} |"
        for one in tests
        for key in keys
        if one[key][0] != one[key][1]
    ]
    return [*lines, ""]


if __name__ == "__main__":
    sys.stdout.write(markdown(Path(sys.argv[1])))
