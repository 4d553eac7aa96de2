"""The catalogue: its facts hang together, and its form is kept strictly."""

import pytest

from overt.errors import FormatError, ModelNotFound
from overt.models.sources import MODULES, catalogue
from overt.ref import parse


def test_every_entry_can_be_named_and_pulled_from_somewhere() -> None:
    entries = catalogue.entries()
    assert {entry.name for entry in entries} >= {
        "smollm2", "gemma3", "llama3.1", "llama3.2", "mistral", "mistral-nemo", "olmo2", "olmo3",
        "olmo-hybrid",
    }  # fmt: skip
    for entry in entries:
        assert catalogue.lookup(entry.ref) is entry
        assert any(ref.scheme in MODULES for ref in entry.refs)
        assert entry.facts
        assert all(fact.source and fact.date for fact in entry.facts)
        sourced = " ".join(fact.about for fact in entry.facts)
        for key in ("licence", "parameters", "size", "context", "sha256"):
            assert getattr(entry, key) is None or key in sourced, (entry.ref, key)
        for name in catalogue.names_of(entry):
            assert catalogue.need(name) is entry
    assert sum(entry.default for entry in entries) == len({entry.name for entry in entries})


def test_the_default_model_is_pinned() -> None:
    entry = catalogue.need(parse("smollm2"))
    assert entry.ref == parse("smollm2:135m-instruct-q4_1")
    assert entry.refs[0].scheme == "pypi"
    assert entry.refs[0].tag
    assert entry.sha256
    assert entry.pins


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smolm2", "did you mean smollm2"),
        ("SmolLM2", "did you mean smollm2"),
        ("llama3.2:2b", "did you mean llama3.2:3b-instruct-q4_k_m or llama3.2:1b-instruct-q4_k_m"),
        ("zzzzzz", "overt list --available"),
    ],
)
def test_an_unknown_name_gets_near_ones(name: str, hint: str) -> None:
    with pytest.raises(ModelNotFound, match=f"no model called {name}") as caught:
        catalogue.need(parse(name))
    assert hint in (caught.value.hint or "")


GOOD = """
[m]
about = "a model"
default = "t"
[m.tags.t]
refs = ["pypi:m==1"]
kind = "chat"
licence = "MIT"
size = 5
facts = [{ about = "size", source = "measured", date = 2026-11-24 }]
"""


def test_a_good_one_is_read() -> None:
    (entry,) = catalogue.read(GOOD)
    assert (str(entry.ref), entry.size, entry.default) == ("m:t", 5, True)
    assert entry.facts[0].date == "2026-11-24"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('kind = "chat"', 'kind = "chatty"'),
        ('kind = "chat"', ""),
        ("size = 5", "sizes = 5"),
        ("size = 5", "size = true"),
        ("size = 5", "size = 0"),
        ("size = 5", 'sha256 = "abc"'),
        ("size = 5", 'pins = { "f.whl" = "abc" }'),
        ('refs = ["pypi:m==1"]', "refs = []"),
        ('refs = ["pypi:m==1"]', 'refs = ["pypi:m==1#../x"]'),
        ('refs = ["pypi:m==1"]', "refs = [5]"),
        ('licence = "MIT"', 'licence = "see below"'),
        ('default = "t"', 'default = "u"'),
        ('about = "a model"\n', ""),
        ("[m]", '["m m"]'),
        ("date = 2026-11-24", 'date = "today"'),
        (', source = "measured"', ""),
        ("[m]", "[m"),
    ],
)
def test_anything_else_is_refused(old: str, new: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new).replace("[m.tags", '["m m".tags' if "m m" in new else "[m.tags")
    with pytest.raises(FormatError):
        catalogue.read(text)
