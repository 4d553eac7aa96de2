"""The page, the badge and the Markdown: for people, and safe to open."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from dossier_samples import (
    HOSTILE,
    SAMPLES,
    closed_api,
    empty,
    fully_open,
    hostile,
    open_weights,
    overstated,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from overt.openness.export import badge, html, markdown, words
from overt.openness.verdicts.components import COMPONENTS

ANY = st.text(st.characters(codec=None), max_size=60)
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section", "div",
    "h1", "h2", "h3", "p", "ul", "li", "dl", "dt", "dd", "strong", "em", "span", "bdi", "code", "q",
    "blockquote", "a", "br", "details", "summary", "table", "caption", "thead", "tbody", "tr", "th",
    "td", "svg", "defs", "symbol", "use", "g", "rect", "circle", "path", "line", "text",
}  # fmt: skip
VOID = {"meta", "br"}


class Page(HTMLParser):
    """What a browser sees: tags, attributes, ids, and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


def _safe(text: str) -> Page:
    page = Page(text)
    assert page.open == []
    assert page.wrong == []
    for tag, attributes in page.tags:
        assert tag in TAGS
        assert not any(
            name.startswith("on") or name in ("src", "style", "srcdoc") for name in attributes
        )
        for name in ("href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#icon-", "https://", "http://"))
    assert text.count("<style>") == text.count("</style>") == 1
    return page


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_page_loads_nothing_and_is_well_formed(sample):
    text = html.render(SAMPLES[sample]())
    page = _safe(text)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    named = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert named <= set(ids)
    assert {a["href"] for tag, a in page.tags if tag == "use"} <= {f"#{one}" for one in ids}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE) | ANY, min_size=1, max_size=6))
def test_the_page_is_safe_with_any_text(texts):
    text = html.render(hostile(tuple(texts)))
    _safe(text)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", text)


def test_what_is_hostile_is_shown_and_not_obeyed():
    page = Page(html.render(hostile()))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in page.said
    assert "⟨U+202E⟩gnp.exe" in page.said


def test_the_page_begins_with_what_a_person_wants_to_know():
    said = Page(html.render(open_weights())).said
    order = [
        "Campanile 8B Instruct",
        "You can download it and run it. You cannot check what it was trained on.",
        "3 points do not hold",
        "6,738,415,616 parameters in the header",
        "How far open: open weights",
        "Altered licence text",
        "The model itself",
        "What the licence asks of you",
        "By the definitions of others",
        "The shortest way to the next grade",
        "How this page was made",
        "Words on this page",
    ]
    places = [said.find(one) for one in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)


def test_every_component_has_a_row_with_its_state_in_words():
    page = Page(html.render(open_weights()))
    rows = [a for _, a in page.tags if a.get("scope") == "row"]
    assert len(rows) == len(COMPONENTS) + 3
    for one in COMPONENTS:
        assert one.title in page.said
    for word in ("verified", "claimed only", "missing", "contradicted", "not known"):
        assert word in page.said


def test_the_spectrum_marks_what_is_claimed_and_what_was_verified():
    text = html.render(overstated())
    label = 'aria-label="Claimed: fully open. Only this much could be verified: open weights."'
    assert text.count(label) == 2  # one for wide pages, one for narrow ones
    assert ">claimed</text>" in text
    assert ">verified</text>" in text
    nothing = html.render(closed_api())
    assert "Nothing could be verified, because there are no files to look at." in nothing
    assert ">claimed</text>" in nothing
    assert ">verified</text>" not in nothing


def test_what_was_only_claimed_is_not_called_closed():
    claimed = replace(overstated(), components=tuple(
        replace(one, state="declared", evidence=()) for one in overstated().components
    ))  # fmt: skip
    said = Page(html.render(claimed)).said
    assert "How far open: fully open, by what is claimed" in said
    assert "none of that was checked." in said
    assert "fully open claimed, nothing verified" in badge.render(claimed)


def test_the_page_of_a_model_without_faults_has_no_alarm():
    assert 'class="card alarm"' not in html.render(fully_open())
    assert 'class="card alarm"' in html.render(open_weights())


def test_a_page_of_nothing_is_a_page():
    assert "nothing" in Page(html.render(empty())).said.lower()


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_letters_have_the_contrast_that_wcag_aa_asks_for_in_light_and_dark():
    style = html.render(empty()).split("<style>")[1]
    light, dark = (
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{3,6});", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    )
    for colours in (light, light | dark):
        for ink in (
            "ink",
            "soft",
            "verified",
            "declared",
            "missing",
            "contradicted",
            "unknown",
            "link",
        ):
            for ground in ("page", "card", "shade", "alarm"):
                assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert _contrast(colours["on"], colours["verified"]) >= 4.5


# -- the badge -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_badge_is_xml_with_a_text_of_its_own(sample):
    text = badge.render(SAMPLES[sample]())
    root = ET.fromstring(text)
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == root.get("aria-label")
    assert root.get("role") == "img"
    assert "href" not in text
    assert len(text) < 2000
    for colour in re.findall(r'fill="(#[0-9a-f]{6})"', text):
        assert _contrast("#fff", colour) >= 4.5


def test_the_badge_says_the_verified_step_first():
    assert "openness: fully open, verified" in badge.render(fully_open())
    said = "openness: open weights verified, fully open claimed, 1 contradicted"
    assert said in badge.render(overstated())
    assert 'aria-label="openness: fully closed"' in badge.render(closed_api())


# -- Markdown ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(ANY | st.sampled_from(HOSTILE))
def test_text_means_nothing_in_markdown(one):
    found = markdown.text(one)
    assert not set(re.sub(r"&#[0-9]+;", "", found)) & set("<>&`*_[]|\\~\n")


def test_the_markdown_has_the_verdicts_and_what_does_not_hold():
    text = markdown.render(open_weights())
    assert "| step | open weights | open weights |" in text
    assert "expected 8 billion parameters" in text
    assert text.count("\n| ") >= len(COMPONENTS)
    assert words.headline(open_weights()) in text
