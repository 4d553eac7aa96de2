"""The dossier as one page that explains itself, for people who do not know the words.

It needs nothing but itself: no script, no font, no picture and no address is loaded, and its policy
forbids it. Every text of the dossier is escaped, shown with its unseen characters, and kept from
turning the line around it.
"""

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from overt.openness.dossier import Dossier
from overt.openness.export import licences, spectrum, words
from overt.openness.export.html_parts import (
    ICONS,
    code,
    icon,
    link,
    row,
    section,
    table,
    tables,
    text,
)
from overt.openness.export.text import shorten
from overt.openness.verdicts.components import STEPS

if TYPE_CHECKING:
    from overt.openness.verdicts.rules import Next

_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
_MAX_FILES: Final = 300
_MAX_PURPOSES: Final = 12
_SCHEMES: Final = {
    "step": "the step",
    "mof": "the Model Openness Framework",
    "osaid": "the Open Source AI Definition",
    "eu_53_2": "the European exemption",
}


def render(dossier: Dossier) -> str:
    name = shorten(dossier.record.name or dossier.ref, 120)
    parts = [
        _head(name),
        '<body>\n<svg width="0" height="0" aria-hidden="true" focusable="false">'
        f"<defs>{ICONS}</defs></svg>\n"
        "<main>\n",
        _top(dossier, name),
        _contradictions(dossier),
        _spectrum_and_licence(dossier),
        _counts(dossier),
        tables(dossier),
        _permissions_section(dossier),
        _parents(dossier),
        _schemes(dossier),
        _next(dossier),
        _how(dossier),
        _glossary(),
        "</main>\n",
        f"<footer><p>Written by Overt. Rules of version {dossier.rules_version}. "
        f"{_lineage_section(dossier)}</p></footer>\n</body>\n</html>\n",
    ]
    return "".join(parts)


@cache
def _style() -> str:
    return (resources.files("overt.openness.export") / "page.css").read_text(encoding="utf-8")


def _head(name: str) -> str:
    return (
        '<!doctype html>\n<html lang="en" dir="ltr">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>How open is {text(name, tag=False)}?</title>\n"
        f"<style>\n{_style()}</style>\n</head>\n"
    )


# -- the first screen ----------------------------------------------------------------------------


def _top(dossier: Dossier, name: str) -> str:
    facts = dossier.record.facts
    known = []
    if facts.get("producer"):
        known.append(f"by {text(str(facts['producer']))}")
    if count := _count(facts.get("parameters")):
        known.append(count)
    if facts.get("quantization"):
        known.append(f"compressed as {text(str(facts['quantization']))}")
    if facts.get("released"):
        known.append(f"released {text(str(facts['released']))}")
    known.append(f"looked up as {code(shorten(dossier.ref, 200))}")
    return (
        '<header>\n<p class="over">How open is this model?</p>\n'
        f"<h1>{text(name)}</h1>\n"
        f'<p class="lead">{words.headline(dossier)}</p>\n'
        f'<p class="soft small">{" · ".join(known)}</p>\n'
        "</header>\n"
    )


def _count(value: Any) -> str:
    """A number of parameters as people say it."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**18:
        return ""
    for size, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word} parameters"
    return f"{value:,} parameters"


def _contradictions(dossier: Dossier) -> str:
    pieces = words.contradictions(dossier)
    riders = dossier.licence.match.riders if dossier.licence.match else ()
    if not pieces and not dossier.licence.altered:
        return ""
    rows = [
        f"<li><strong>{text(title)}</strong>"
        f"<dl><dt>Expected</dt><dd>{text(piece.expected or 'what is claimed')}</dd>"
        f"<dt>Found</dt><dd>{text(piece.observed or 'otherwise')}</dd></dl></li>\n"
        for title, piece in pieces
    ]
    if dossier.licence.altered:
        rows.append(
            "<li><strong>Licence text</strong><p>The text that comes with the model is not "
            "the standard text of the licence it names. What was added or changed:</p>"
            + "".join(f"<blockquote>{text(rider)}</blockquote>" for rider in riders)
            + "".join(_change(*change) for change in _changes(dossier))
            + "</li>\n"
        )
    word = "point does" if len(rows) == 1 else "points do"
    return (
        '<section class="card alarm" aria-labelledby="contradictions">\n'
        f'<h2 id="contradictions">{icon("contradicted")} {len(rows)} {word} not hold</h2>\n'
        f"<ul>\n{''.join(rows)}</ul>\n</section>\n"
    )


def _changes(dossier: Dossier) -> list[tuple[str, str, str]]:
    match = dossier.licence.match
    return (
        [(change.expected, change.found, change.sentence) for change in match.changes[:20]]
        if match
        else []
    )


def _change(expected: str, actual: str, sentence: str) -> str:
    usual = (
        f"where the standard text has {text(expected)}, it has {text(actual)}"
        if expected and actual
        else f"it has {text(actual)}"
        if actual
        else "words are missing"
    )
    quoted = f": <q>{text(sentence)}</q>" if sentence else ""
    return f"<blockquote>{usual[0].upper()}{usual[1:]}{quoted}</blockquote>"


def _spectrum_and_licence(dossier: Dossier) -> str:
    step = words.step_phrase(dossier)
    title = words.step_words(step)
    means = f"{title.capitalize()} means: {words.STEP_MEANING.get(step, 'not known')}."
    if not words.anything_verified(dossier) and step != STEPS[0]:
        title += ", by what is claimed"
    return (
        '<div class="pair">\n<section class="card" aria-labelledby="step">\n'
        f'<h2 id="step">How far open: {title}</h2>\n'
        f"{spectrum.draw(dossier)}"
        f"<p>{words.step_difference(dossier)} "
        f"{means}</p>\n</section>\n"
        f"{_licence(dossier)}</div>\n"
    )


def _licence(dossier: Dossier) -> str:
    finding = dossier.licence
    title = "altered licence text" if finding.altered else words.kind_words(finding.kind)
    rows = "".join(f"<p>{line}</p>\n" for line in words.licence_lines(dossier))
    for label, licence in (
        ("Claimed", licences.declared(dossier)),
        ("In the files", licences.concluded(dossier)),
    ):
        if licence:
            rows += f'<p class="small"><span class="soft">{label}:</span> '
            rows += f"{_licence_name(licence)}</p>\n"
    return (
        '<section class="card" aria-labelledby="licence">\n'
        f'<h2 id="licence">{title.capitalize()}</h2>\n{rows}'
        '<p class="small soft">A licence never moves the step. It says what you may do '
        "with what you have.</p>\n</section>\n"
    )


def _licence_name(licence: licences.ExportedLicence) -> str:
    return link(licence.url, licence.title) if licence.url else text(licence.title)


def _counts(dossier: Dossier) -> str:
    states = [words.state_of(component) for component in dossier.components]
    rows = "".join(
        f'<li><span class="state {state}">{icon(state)} {states.count(state)} '
        f"{words.STATE_WORDS[state]}</span><br>"
        f'<span class="small soft">{words.STATE_MEANING[state]}</span></li>\n'
        for state in words.STATE_WORDS
        if state in states
    )
    return section(
        "parts",
        f"What is there: {len(states)} parts of a model",
        f'<ul class="counts">\n{rows}</ul>\n',
    )


# -- what follows from it ------------------------------------------------------------------------


def _permissions_section(dossier: Dossier) -> str:
    """What the licence forbids and asks for, in the words of our own data."""
    from overt.openness.permissions import phrases, terms
    from overt.openness.permissions import uses as fields

    id_ = dossier.licence.id
    terms_ = terms.load(id_) if id_ else None
    if terms_ is None:
        return ""
    rules: dict[str, None] = {}
    for clause in terms_.clauses:
        says = {"deny": "Not allowed", "needs_permission": "Ask first"}.get(
            clause.effect, "Good to know"
        )
        rules[_rule(says, phrases.when(clause.when), clause.rule, clause.section)] = None
    if terms_.bans:
        uses = list(
            dict.fromkeys(fields.label(ban.category) for ban in terms_.bans if not ban.only)
        )
        more = " and more" if len(uses) > _MAX_PURPOSES else ""
        listed = "; ".join(uses[:_MAX_PURPOSES]) + more
        rules[_rule("Not allowed", "", f"uses on its list: {listed}", "")] = None
    for duty in terms_.obligations:
        rules[_rule("To do", phrases.when(duty.when), duty.text, duty.section)] = None
    if not rules:
        return ""
    warning = ""
    if dossier.licence.altered:
        warning = (
            "<p>These are the points of the standard text; the one in the files was changed.</p>\n"
        )
    return section(
        "asks",
        f"What the licence asks of you: {text(terms_.title)}",
        f"{warning}<ul>\n{''.join(rules)}</ul>\n"
        '<p class="small soft">A summary in our own words, not the licence and not legal advice. '
        f"{code(f'overt may {shorten(dossier.ref, 80)}')} answers for your own case.</p>\n",
    )


def _rule(says: str, when: str, rule: str, where: str) -> str:
    if_ = f" <em>{text(when)}</em>" if when else ""
    place = f' <span class="soft small">({text(where)})</span>' if where else ""
    return f"<li><strong>{says}</strong>{if_}: {text(rule)}{place}</li>\n"


def _parents(dossier: Dossier) -> str:
    if not dossier.record.parents:
        return ""
    rows = ""
    for parent in dossier.record.parents:
        licence = text(parent.licence) if parent.licence else '<span class="soft">not said</span>'
        rows += (
            f"<li>{words.RELATION_WORDS[parent.relation]} <strong>{text(parent.name)}</strong>; "
            f"licence: {licence}</li>\n"
        )
    body = f"<ul>\n{rows}</ul>\n<p>The licences of all of these hold for this model too.</p>\n"
    return section("made-from", "What it was made from", body)


def _schemes(dossier: Dossier) -> str:
    verdicts = dossier.verdicts
    rows = []
    for key, title, pair, names in (
        ("mof", "Model Openness Framework", verdicts.mof, words.MOF_WORDS),
        ("osaid", "Open Source AI Definition", verdicts.osaid, words.OSAID_WORDS),
        ("eu_53_2", "European AI Act, Article 53(2)", verdicts.eu_53_2, words.EXEMPTION_WORDS),
    ):
        why = verdicts.reasons.get(f"{key}_verified") or verdicts.reasons.get(key) or ()
        listed = "".join(f"<li>{text(reason)}</li>" for reason in why)
        because = f"<details><summary>why</summary><ul>{listed}</ul></details>" if listed else ""
        verified = names.get(pair.verified, text(pair.verified))
        rows.append(
            row(
                title,
                ("Claimed", names.get(pair.declared, text(pair.declared))),
                ("Verified", f"{verified} {because}"),
            )
        )
    columns = ("Definition", "By what is claimed", "By what was verified")
    return section("schemes", "By the definitions of others", table(columns, rows))


def _next(dossier: Dossier) -> str:
    rows = ""
    for goal in dossier.verdicts.next:
        steps = "".join(f"<li>{text(step)}</li>" for step in goal.steps)
        rows += f"<h3>{_goal(goal)}</h3>\n<ul>{steps}</ul>\n"
    return section("next", "The shortest way to the next grade", rows) if rows else ""


def _goal(goal: "Next") -> str:
    """What a plan reaches: the headline of its steps."""
    named = {"step": words.STEP_WORDS, "mof": words.MOF_WORDS}.get(goal.scheme, {})
    grade = named.get(goal.to, text(goal.to))
    scheme = _SCHEMES.get(goal.scheme, text(goal.scheme))
    basis = "verified" if goal.basis == "verified" else "claimed"
    return f"{scheme[0].upper()}{scheme[1:]}: “{grade}”, as {basis}"


def _how(dossier: Dossier) -> str:
    record = dossier.record
    origin = f"Claims come from {link(record.source, record.source)}. " if record.source else ""
    compared = f" It was compared with {code(dossier.base)}." if dossier.base else ""
    files = dossier.files[:_MAX_FILES]
    rows = "".join(
        f"<li>{code(name)}, {size:,} bytes<br>"
        f'<span class="soft">{code(digest) if digest else "not read"}</span></li>\n'
        for name, size, digest in files
    )
    count = len(dossier.files)
    if count > len(files):
        rows += f"<li>and {count - len(files):,} more</li>\n"
    body = (
        f"<p>{origin}Overt opened the files itself where there were any, ran its checks on them, "
        "and put what was found beside what is said. A part counts as verified only if a check "
        f"strong enough for it passed and none failed.{compared}</p>\n"
    )
    if rows:
        body += (
            f"<details><summary>{count:,} {'file' if count == 1 else 'files'} "
            f'looked at, with digests</summary>\n<ul class="small">\n{rows}</ul></details>\n'
        )
    else:
        body += "<p>There were no files to look at: everything here is what is claimed.</p>\n"
    if record.said:
        said_by = "".join(f"<li>{text(k)}: {text(v)}</li>" for k, v in sorted(record.said.items()))
        body += (
            f"<details><summary>What the source itself says</summary><ul>{said_by}</ul></details>\n"
        )
    return section("how", "How this page was made", body)


def _lineage_section(dossier: Dossier) -> str:
    return f"Newest evidence: {text(dossier.made_on)}." if dossier.made_on else "Undated."


def _glossary() -> str:
    rows = "".join(
        f"<div><dt>{word}</dt><dd>{meaning}</dd></div>\n" for word, meaning in words.GLOSSARY
    )
    return section("words", "Words on this page", f'<dl class="words">\n{rows}</dl>\n')
