"""Which licence a text is, and what in it is not that licence.

No licence text is part of the project, only fingerprints of them (`fingerprints.py`). The known
texts that share most rows of words with a part of the text are laid over it (`fit.py`), the best is
kept, and so on with the rest. Words that differ are changes, numbers exactly; what stands beside
the licence and is not the furniture of licence files (`remarks.py`) is a rider.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Final, Literal

from overt.openness.licence import pointers
from overt.openness.licence.fingerprints import load_index
from overt.openness.licence.fit import LicenceFit, ShingleRows, TextGap, fit, window
from overt.openness.licence.names import canonical
from overt.openness.licence.remarks import explained, quoted, remarks
from overt.openness.licence.text import MAX_CHARACTERS, LicenceWords, hashed, read

Kind = Literal["exact", "near", "altered", "notice_only", "unknown"]

_ROUNDS: Final = 40  # licences in one file
_WORK: Final = 1_000_000  # words that are looked through for them
_CANDIDATES: Final = 5
_LONG: Final = 20_000  # words
_SHOWN: Final = 60  # changes and riders that are told
_MIN_COVERAGE: Final = 0.6  # of a text's words; less is not that text
_MIN_NOTICE_COVERAGE: Final = 0.8


@dataclass(frozen=True, slots=True)
class TextChange:
    """A place where the text differs from the licence.

    Attributes:
        expected: the licence's numbers, … for its other words; "" where nothing was there.
        found: what the text says; "" where it left words out.
        sentence: the sentence it is in, from the text.
    """

    expected: str
    found: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Match:
    """What a text is.

    Attributes:
        id: the first licence in it; None where none was recognised.
        kind: ``exact`` and ``near`` have the same terms, ``altered`` has others, ``notice_only``
            names a licence without its text.
        riders: sentences of the text that were added or changed, or stand where some were removed.
        missing_version: it names a family of licences and not which version.
        coverage: the share of the licence's words that are there, 0 to 1.
        sha256: of the text (UTF-8).
        others: the other licences in it.
    """

    id: str | None
    kind: Kind
    altered: bool
    riders: tuple[str, ...]
    changes: tuple[TextChange, ...]
    missing_version: bool
    coverage: float
    sha256: str
    others: tuple[str, ...]


@lru_cache(maxsize=16)  # the check of a licence file and the finding both ask
def match(text: str) -> Match:
    """Recognise a licence text."""
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    text, rest = text[:MAX_CHARACTERS], text[MAX_CHARACTERS : 2 * MAX_CHARACTERS].strip()
    words = read(text)
    fits = sorted(_fits(words), key=lambda fit: fit.first)
    whole = [fit for fit in fits if not fit.entry.notice]
    if not fits:
        return _pointed(text, words, digest)
    main = (whole or fits)[0]
    changes = [change for each in fits for change in _changes(text, words, each)]
    lost = [gap for gap in main.gaps if _unversioned(words, main, gap)]
    riders = [change.sentence for change in changes]
    riders += [quoted(text, *_place(words, gap.first, gap.first)) for gap in lost]
    riders += list(islice(_riders(text, words, fits), 4 * _SHOWN))
    if rest:
        riders.append(quoted(rest, 0, min(len(rest), 200)))
    altered = bool(riders)
    others = dict.fromkeys(fit.entry.id for fit in fits if fit.entry.id != main.entry.id)
    return Match(
        id=main.entry.id,
        kind=_kind(main, words, fits, altered=altered),
        altered=altered,
        riders=tuple(dict.fromkeys(riders))[:_SHOWN],
        changes=tuple(change for change in changes if change.expected or change.found)[:_SHOWN],
        missing_version=bool(lost),
        coverage=round(main.coverage, 4),
        sha256=digest,
        others=tuple(others),
    )


def _kind(
    main: LicenceFit, words: LicenceWords, fits: Sequence[LicenceFit], *, altered: bool
) -> Kind:
    if altered:
        return "altered"
    if main.entry.notice:
        return "notice_only"
    alone = len(fits) == 1 and main.plain and main.behind - main.first == len(words.words)
    return "exact" if alone else "near"


def _fits(words: LicenceWords) -> Iterator[LicenceFit]:
    """The licences in a text, each over its own part of it."""
    vocabulary = load_index().vocabulary
    own: dict[str, int] = {}
    ids = []
    for word in words.words:
        if word not in own:
            own[word] = vocabulary.get(hashed(word), -1 - len(own))
        ids.append(own[word])
    rows = ShingleRows(ids)
    regions = [(0, len(ids))]
    tried: dict[tuple[int, int, int], LicenceFit | None] = {}
    for _ in range(max(8, min(_ROUNDS, _WORK // (len(ids) + 1)))):
        fit = _best(words, ids, rows, regions, tried)
        if fit is None:
            return
        yield fit
        regions = [
            part
            for first, behind in regions
            for part in (
                ((first, fit.first), (fit.behind, behind))
                if first <= fit.first < behind
                else ((first, behind),)
            )
            if part[1] - part[0] >= 12
        ]


def _best(
    words: LicenceWords,
    ids: Sequence[int],
    rows: ShingleRows,
    regions: Sequence[tuple[int, int]],
    tried: dict[tuple[int, int, int], LicenceFit | None],
) -> LicenceFit | None:
    """The licence that fits best in any region; `tried` keeps what was laid over which."""
    best: LicenceFit | None = None
    likely = _candidates(rows, regions)
    # The likeliest may be no more than a long piece of one, with a short one whole beside it.
    most, least = (4 * _CANDIDATES if len(ids) < _LONG else _CANDIDATES), 0.0
    for place, (size, number) in enumerate(likely):
        if place >= most or size < least:
            break
        entry = load_index().entry(number)
        for first, behind in regions:
            key = (number, first, behind)
            if key not in tried:
                part = window(entry, rows, first, min(behind, len(rows.all)))
                tried[key] = part and fit(entry, words, ids, part[0], min(behind, part[1] + 5))
            candidate = tried[key]
            if candidate and _enough(candidate) and (best is None or candidate.score > best.score):
                if best is None:
                    most, least = min(most, place + _CANDIDATES), 0.4 * size
                best = candidate
            if candidate and candidate.plain:
                return candidate
    return best


def _enough(fit: LicenceFit) -> bool:
    return fit.coverage >= (_MIN_NOTICE_COVERAGE if fit.entry.notice else _MIN_COVERAGE) and (
        fit.score > -fit.equal // 2
    )


def _candidates(rows: ShingleRows, regions: Sequence[tuple[int, int]]) -> list[tuple[float, int]]:
    """The entries that many of their rows are in the text of, those with most words first."""
    shortlist = load_index().shortlist
    hits: Counter[int] = Counter()
    for row in set().union(*(rows.listed(first, behind) for first, behind in regions)):
        hits.update(shortlist.get(row, ()))
    likely = []
    for number, count in hits.items():
        length, sampled = load_index().sampled(number)
        if count >= 0.25 * sampled:
            likely.append((count / sampled * length, number))
    likely.sort(reverse=True)
    return likely[: 4 * _CANDIDATES]


def _changes(text: str, words: LicenceWords, fit: LicenceFit) -> Iterator[TextChange]:
    for gap in fit.gaps:
        first, behind = gap.first, gap.behind
        if _renumbered(words, fit, gap):
            start, end = _place(words, first, behind)
            expected = _expected(fit, gap.dropped[:1])
            yield TextChange(expected, text[start:end][:300], quoted(text, start, end))
            continue
        if not gap.missing and first < behind:
            source = words.source[words.starts[first] : words.ends[behind - 1]]
            if explained(source) and (gap.loose or "copyright" in words.words[first:behind]):
                continue
            if _titled(words, words.starts[first], words.ends[behind - 1], {fit.entry.id}):
                continue
            if gap.loose and not any(remarks(words.source, *_lines(words, first, behind))):
                continue
            inserted = _inserted(text, words, first, behind, fit.first)
            if inserted is not None:
                yield from (TextChange("", "", sentence) for sentence in inserted)
                continue
        elif not gap.missing:
            continue
        start, end = _place(words, first, behind)
        source = " ".join(text[start:end].split()) if first < behind else ""
        yield TextChange(_expected(fit, gap.missing), source[:300], quoted(text, start, end))


def _renumbered(words: LicenceWords, fit: LicenceFit, gap: TextGap) -> bool:
    """Whether a part that may be left out, like a title, is there with another number."""
    if gap.missing or not gap.dropped or gap.first == gap.behind:
        return False
    expected = load_index().numbers.get(fit.entry.words[gap.dropped[0]])
    word = words.words[gap.first]
    return expected is not None and word[:1].isdigit() and word != expected


def _inserted(
    text: str, words: LicenceWords, first: int, behind: int, opening: int
) -> list[str] | None:
    """The riders in words that stand between two sentences; None: they stand inside one."""
    source = words.source
    for shift in (0, *(k for n in range(1, 13) for k in (-n, n))):
        a, b = first + shift, behind + shift
        if a < 0 or b > len(words.words) or not _slid(words.words, first, behind, shift):
            continue
        start, end = _place(words, a, b)
        before = source[words.ends[a - 1] if a else 0 : start]
        after = source[end : words.starts[b] if b < len(words.words) else len(source)]
        opened = a in (0, opening)
        start = _lines(words, a, a + 1)[0] if opened and a < b else start
        lined = (opened or "\n" in before) and (b == len(words.words) or "\n" in after)
        sentences = [
            quoted(text, remark.first, remark.behind) for remark in remarks(source, start, end)
        ]
        if (lined and not sentences) or (
            lined and _ends(before, start=opened) and _ends(after, start=b == len(words.words))
        ):
            return sentences
        if _ends(before, start=opened) and re.search(r"[.;:!?]|\n\s*\n", after) and sentences:
            return sentences
    return None


def _slid(words: Sequence[str], first: int, behind: int, shift: int) -> bool:
    """Whether words first … behind may as well be those `shift` further on."""
    if shift < 0:
        return words[first + shift : first] == words[behind + shift : behind]
    return words[first : first + shift] == words[behind : behind + shift]


def _ends(between: str, *, start: bool) -> bool:
    return start or bool(re.search(r"[.;:!?]|\n\s*\n|^\s*[*#=_-]{2,}", between))


def _place(words: LicenceWords, first: int, behind: int) -> tuple[int, int]:
    """Where words stand in the text; for none, the place between their neighbours."""
    if first < behind:
        return words.starts[first], words.ends[behind - 1]
    at = words.ends[first - 1] if first else 0
    return at, at


def _lines(words: LicenceWords, first: int, behind: int) -> tuple[int, int]:
    """The whole lines that words stand on."""
    start = words.source.rfind("\n", 0, words.starts[first]) + 1
    end = words.source.find("\n", words.ends[behind - 1])
    return start, end if end >= 0 else len(words.source)


def _expected(fit: LicenceFit, missing: Sequence[int]) -> str:
    """Numbers of the licence in clear; other words are not known."""
    numbers = load_index().numbers
    shown: list[str] = []
    for k in missing:
        word = numbers.get(fit.entry.words[k], "…")
        if word != "…" or shown[-1:] != ["…"]:
            shown.append(word)
    return " ".join(shown)


def _riders(text: str, words: LicenceWords, fits: Sequence[LicenceFit]) -> Iterator[str]:
    """What stands before, between and behind the licences."""
    at = 0
    for following in (*fits, None):
        end = words.starts[following.first] if following else len(words.source)
        if end > at:
            for remark in remarks(words.source, at, end):
                if pointers.explains(words.source[remark.first : remark.behind]):
                    continue
                if _titled(words, remark.first, remark.behind, {each.entry.id for each in fits}):
                    continue
                if remark.behind == end and following and _runs_on(words, at, following.first):
                    continue
                yield quoted(text, remark.first, remark.behind)
        at = words.ends[following.behind - 1] if following else end


def _titled(words: LicenceWords, first: int, behind: int, ids: set[str]) -> bool:
    """Whether the lines that a remark stands on are the name of a licence that is in the text."""
    source = words.source
    start, end = source.rfind("\n", 0, first) + 1, source.find("\n", behind)
    name = " ".join(source[start : end if end >= 0 else len(source)].split()).strip("*#=_ ")
    if len(name) > 120:
        return False
    return canonical(name) in ids or canonical(f"Creative Commons {name}") in ids


def _runs_on(words: LicenceWords, at: int, first: int) -> bool:
    """Whether the line that a licence seems to begin in is neutral as a whole."""
    start, end = _lines(words, first, first + 1)
    return start < words.starts[first] and not any(remarks(words.source, max(at, start), end))


def _unversioned(words: LicenceWords, fit: LicenceFit, gap: TextGap) -> bool:
    """Whether the text stands still where the licence tells its version."""
    numbers = load_index().numbers
    lost = (*gap.missing, *gap.dropped)
    versions = [numbers[fit.entry.words[k]] for k in lost if fit.entry.words[k] in numbers]
    if not versions or len(lost) > 8 or min(lost) == 0 or min(lost) > 200:
        return False
    if any(word[:1].isdigit() for word in words.words[gap.first : gap.behind]):
        return False
    return versions[0] not in words.words[: fit.first + 80]


def _pointed(text: str, words: LicenceWords, digest: str) -> Match:
    """A text that holds no known licence, but may name one."""
    named = pointers.named_ids(words.source)
    riders: tuple[str, ...] = ()
    if named.ids:
        riders = tuple(
            dict.fromkeys(
                quoted(text, remark.first, remark.behind)
                for remark in islice(remarks(words.source, 0, len(words.source)), 4 * _SHOWN)
                if not pointers.explains(words.source[remark.first : remark.behind])
            )
        )[:_SHOWN]
    return Match(
        id=named.ids[0] if named.ids else None,
        kind="altered" if riders else "notice_only" if named.ids or named.family else "unknown",
        altered=bool(riders),
        riders=riders,
        changes=(),
        missing_version=not named.ids and named.family,
        coverage=0.0,
        sha256=digest,
        others=named.ids[1:],
    )
