"""Does a model give documents back word for word, and find them likelier than other text.

From each passage of the documents a model gets a prefix and goes on greedily; the continuation is
compared with what stands in the document (Carlini et al. 2021, 2023). A match alone says little:
licences, lists and phrases that are everywhere match as well, so everything is also asked of a
control, and only the difference counts. The best control is text of the same kind that was never
published; without one the documents stand for themselves, each prefix compared with the
continuation of *another* passage, which shows what resembles by chance and nothing more.

Of likelihood three scores are given (Shi et al. 2024 for Min-K%; Carlini et al. 2021 for zlib): the
mean log-probability a token, the mean of the least likely fifth of the tokens, and the
log-probability for each byte that zlib makes of the text.
"""

import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from overt.errors import BadRequest, FormatError
from overt.evaluation.audit import sets
from overt.evaluation.audit.probe import (
    AuditPlan,
    Contrast,
    Measure,
    Need,
    Outcome,
    ProbedModel,
    ProbeItem,
    ProbeMaterial,
    Use,
)

PREFIX: Final = 200
"""Characters of prefix (50 tokens of English, about)."""
TARGET: Final = 200
"""Characters of the document that are compared, about 50 tokens."""
TOKENS: Final = 50
LIKE: Final = 0.75
"""How alike two texts must be (1 less edit distance over length) to match approximately."""
_K: Final = 0.2
_MAX_FILE: Final = 16 << 20
_MAX_FILES: Final = 2000
_MAX_PASSAGES: Final = 50  # of one document, spread over it
_ENDINGS: Final = (".txt", ".md", ".rst", ".text")


def _of(group: str, key: str) -> Any:
    def value(outcome: Outcome) -> float | None:
        return float(outcome[key]) if outcome["from"] == group else None

    return value


def _value_of(key: str) -> Any:
    return lambda outcome: float(outcome[key])


def _score(key: str) -> Any:
    return lambda outcome: float(outcome[key]) if outcome.get(key) is not None else None


class _MemorisationProbe:
    name = "memorisation"
    title = "Documents given back word for word"
    version = "2"
    uses: tuple[Use, ...] = ()
    need: Need = "score"
    sets: tuple[str, ...] = ()
    method = (
        f"{PREFIX} characters of a document, {TOKENS} tokens of greedy continuation, compared with "
        f"what follows (exactly; and as alike when 1 - edit distance / length is {LIKE} or more); "
        "and how likely the passage is"
    )
    limits = (
        "A match is a verbatim match and no proof of training: only the difference against the "
        "control says anything, and only as well as the control is chosen",
        "No match does not mean that a document was not in the training text: other prefixes, "
        "longer ones and sampling find more",
        "Likelihood tells kinds of text apart (style, topic, age) as well as what was seen; an AUC "
        "above 0.5 between unlike kinds shows nothing",
    )
    cite = (
        "Carlini et al. 2021, Extracting training data from large language models, USENIX Security",
        "Carlini et al. 2023, Quantifying memorization across neural language models, ICLR 2023",
        "Shi et al. 2024, Detecting pretraining data from large language models, ICLR 2024",
    )
    measures = (
        Measure(
            "exact_documents",
            "share of passages of the documents that are given back exactly",
            _of("document", "exact"),
            split=False,
        ),
        Measure("exact_control", "the same of the control", _of("control", "exact"), split=False),
        Measure(
            "alike_documents",
            "share of passages of the documents that are given back alike",
            _of("document", "alike"),
            split=False,
        ),
        Measure("alike_control", "the same of the control", _of("control", "alike"), split=False),
    )
    contrasts = (
        Contrast(
            "exact_difference",
            "exact matches in the documents minus those in the control",
            _value_of("exact"),
            "document",
            "control",
        ),
        Contrast(
            "alike_difference",
            "alike matches in the documents minus those in the control",
            _value_of("alike"),
            "document",
            "control",
        ),
        Contrast(
            "auc_likelihood",
            "how often a passage of the documents is likelier a token than one of the control",
            _score("mean"),
            "document",
            "control",
            "auc",
            0.5,
        ),
        Contrast(
            "auc_min_k",
            "the same by the least likely fifth of the tokens (Min-20%)",
            _score("min_k"),
            "document",
            "control",
            "auc",
            0.5,
        ),
        Contrast(
            "auc_zlib",
            "the same by log-probability for each byte of zlib",
            _score("zlib"),
            "document",
            "control",
            "auc",
            0.5,
        ),
    )

    def material(self, plan: AuditPlan) -> ProbeMaterial:
        if plan.documents is None:
            raise BadRequest(
                "no documents were given to look for", "name them: --documents FILE or folder"
            )
        own, data, notes = _passages(plan.documents, "document")
        if plan.control is not None:
            others, more, remarks = _passages(plan.control, "control")
            return ProbeMaterial(own + others, data + more, notes + remarks)
        different = len({item.given["target"] for item in own})
        if different < 2:
            raise BadRequest(
                f"{plan.documents} has {different} passage, too few to stand for their own control",
                f"give more text ({PREFIX + TARGET} characters each), or a --control",
            )
        note = (
            "no control was given: each prefix is also compared with the continuation of another "
            "passage, which shows chance resemblance only; likelihood scores have no control"
        )
        return ProbeMaterial(own + _crossed(own), data, [*notes, note])

    async def look(self, item: ProbeItem, model: ProbedModel, plan: AuditPlan) -> dict[str, Any]:
        data = item.given
        continuation = await model.go_on(data["prefix"], TOKENS)
        return (
            {"from": data["from"]}
            | matched(continuation, data["target"])
            | await _likely(data, model)
        )


def matched(continuation: str, target: str) -> dict[str, Any]:
    """How a continuation compares with what stands in the document.

    As many characters are compared as both have; the ends, which tokens cut anywhere, are left out.
    """
    length = min(len(continuation), len(target))
    written, other = continuation[:length], target[:length]
    enough = length >= TARGET // 4  # a model that stopped at once has given nothing back
    likeness = 1 - distance(written, other) / length if length else 0.0
    return {
        "exact": enough and written.strip() == other.strip(),
        "alike": enough and likeness >= LIKE,
        "likeness": round(likeness, 4),
        "compared": length,
        "said_sha256": sha256(continuation.encode("utf-8", "replace")).hexdigest(),
    }


def distance(first: str, other: str) -> int:
    """Edit distance (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for at, letter in enumerate(first, 1):
        before, row[0] = row[0], at
        for place, wanted in enumerate(other, 1):
            before, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, before + (letter != wanted)),
            )
    return row[-1]


async def _likely(data: Any, model: ProbedModel) -> dict[str, Any]:
    if data.get("crossed"):
        return {}
    text = data["prefix"] + data["target"]
    logprobs = [value for _, value in await model.likely("\n", text)]
    return likelihood(logprobs, text)


def likelihood(logprobs: list[float], text: str) -> dict[str, Any]:
    """The three scores of a text, from the log-probabilities of its tokens."""
    least = sorted(logprobs)[: max(1, int(_K * len(logprobs)))]
    return {
        "mean": round(sum(logprobs) / len(logprobs), 6),
        "min_k": round(sum(least) / len(least), 6),
        "zlib": round(sum(logprobs) / len(zlib.compress(text.encode(), 9)), 6),
    }


def _passages(path: Path, kind: str) -> tuple[list[ProbeItem], list[dict[str, Any]], list[str]]:
    """The passages below `path`, what a receipt says of each file, and notes."""
    path = path.expanduser()
    if path.is_dir():
        files = sorted(path_ for path_ in path.rglob("*") if path_.suffix.lower() in _ENDINGS)
        files = [path_ for path_ in files if path_.is_file()][:_MAX_FILES]
    else:
        files = [path]
    items: list[ProbeItem] = []
    used: list[dict[str, Any]] = []
    seen: set[str] = set()
    for file in files:
        data = sets.bounded(file, _MAX_FILE)
        digest = sha256(data).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        used.append(sets.own_file_facts(file.name, digest, f"your {kind}s"))
        text = " ".join(data.decode("utf-8-sig", "replace").split(" ")).replace("\r\n", "\n")
        items += _cut(text, f"{kind}/{digest[:12]}", kind)
    if not items:
        raise FormatError(
            f"{path} has no text of {PREFIX + TARGET} characters",
            f"give files that end in {', '.join(_ENDINGS)}",
        )
    copies = len(files) - len(used)
    return items, used, [f"{copies} of your {kind}s are copies of others: left out"] * bool(copies)


def _cut(text: str, name: str, kind: str) -> list[ProbeItem]:
    """Passages of a text that begin at a word, spread over it and without overlap.

    Where no word begins soon, as in text without blanks, they begin anywhere.
    """
    size = PREFIX + TARGET
    count = min(_MAX_PASSAGES, len(text) // size)
    items: list[ProbeItem] = []
    end = 0
    for number in range(count):
        start = max(number * len(text) // count, end)
        blank = text.find(" ", start, start + PREFIX) if start else -1
        begin = blank + 1 if blank >= 0 else start
        if len(text) - begin < size:
            break
        cut = text.rfind(" ", begin, begin + PREFIX)  # the prefix ends before a blank
        cut = cut if cut > begin + PREFIX // 2 else begin + PREFIX
        data = {"from": kind, "prefix": text[begin:cut], "target": text[cut : cut + TARGET]}
        items.append(ProbeItem(f"{name}/{begin}", (kind,), data, kind))
        end = cut + TARGET
    return items


def _crossed(items: list[ProbeItem]) -> list[ProbeItem]:
    """Each prefix with the continuation of the next passage that goes on otherwise.

    Two of `items` at least go on differently.
    """
    targets, count = [item.given["target"] for item in items], len(items)
    after = [0] * count
    for at in reversed(range(2 * count)):  # twice round, as the last ones look past the end
        here, following = at % count, (at + 1) % count
        same = targets[here] == targets[following]
        after[here] = after[following] if same else following
    crossed = []
    for item, which in zip(items, after, strict=True):
        other = items[which]
        data = {
            "from": "control",
            "prefix": item.given["prefix"],
            "target": other.given["target"],
            "crossed": True,
        }
        crossed.append(ProbeItem(f"crossed/{item.id}", ("control",), data, "control"))
    return crossed


PROBE = _MemorisationProbe()
