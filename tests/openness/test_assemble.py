"""A dossier is put together once: what was found and still holds is not looked at again."""

from datetime import date, timedelta
from pathlib import Path

import pytest

import tiny_models as tiny
from overt.errors import BadSetting
from overt.openness import assemble, checks, day, program
from overt.openness.subject import gather
from overt.settings import load

DAY = date(2026, 11, 25)


@pytest.fixture
def look(tmp_path: Path):
    model = tiny.release(tmp_path / "model")
    settings = load({}, {"home": str(tmp_path / "home"), "offline": True})

    def make(day: date = DAY, **more):
        ran: list[str] = []
        subject = gather.subject(str(model), settings)
        dossier = assemble.assemble(subject, settings.home, day, report=ran.append, **more)
        return dossier, ran

    make.model = model
    return make


def test_a_second_look_runs_nothing_and_says_the_same(look):
    first, ran = look()
    assert tuple(ran) == checks.names()
    second, again = look(DAY + timedelta(days=1))
    assert again == []
    assert second.as_json() == first.as_json()
    assert second.made_on == "2026-11-25"
    assert tuple(look(fresh=True)[1]) == checks.names()


def test_what_has_expired_is_looked_at_again_and_nothing_else(look):
    look()
    lasting = [name for name in checks.names() if checks.load(name).TTL]
    assert lasting
    dossier, ran = look(DAY + timedelta(days=400))
    assert set(ran) <= set(lasting)
    assert "unsafe_files" in ran
    assert dossier.made_on == "2027-12-30"


def test_another_byte_another_claim_and_another_version_are_looked_at(look, monkeypatch):
    look()
    readme = look.model / "README.md"
    readme.write_text(readme.read_text() + "\n")
    assert tuple(look()[1]) == checks.names()
    assert look()[1] == []
    monkeypatch.setattr(checks, "version", lambda name: 99 if name == "shapes" else 1)
    assert "shapes" in look()[1]


def test_every_version_is_read_without_importing_the_check():
    for name in checks.names():
        assert checks.version(name) == checks.load(name).VERSION


@pytest.mark.parametrize("told", ["soon", "9" * 30])
def test_a_day_that_is_none(monkeypatch, told):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", told)
    with pytest.raises(BadSetting, match="SOURCE_DATE_EPOCH"):
        day.today()


def test_the_day_can_be_set(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert day.today() == date(1970, 1, 1)


def test_a_package_that_is_installed_later_is_a_reason_to_look_again(look, monkeypatch):
    monkeypatch.setattr(program, "extras", lambda: ())
    look()
    assert look()[1] == []
    monkeypatch.setattr(program, "extras", lambda: ("numpy",))
    assert tuple(look()[1]) == checks.names()
