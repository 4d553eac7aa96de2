"""Every planted lie is found where it is, and honest releases raise no alarm (lies.py)."""

from datetime import date

import pytest
from lies import CLEAN, LIES

from overt.openness import assemble
from overt.openness.subject import gather
from overt.settings import load

DAY = date(2026, 11, 25)


@pytest.fixture
def dossier(tmp_path, shared_data):
    def text(key: str) -> str:
        return shared_data(f"licences/{key}.txt").read_text("utf-8")

    def make(case):
        planted = case.make(tmp_path, text)
        settings = load({}, {"home": str(tmp_path / "home"), "offline": True})
        base = str(planted.base) if planted.base else None
        subject = gather.subject(str(planted.ref), settings, base=base)
        return assemble.assemble(subject, settings.home, DAY)

    return make


def fails(found) -> dict[str, list[str]]:
    return {
        one.component.name: [
            f"{e.check}: {e.observed} (expected {e.expected})"
            for e in one.evidence
            if e.result == "fail"
        ]
        for one in found.components
        if one.state == "contradicted"
    }


def test_there_are_enough_of_both():
    assert len(LIES) >= 40
    assert len(CLEAN) >= 40
    assert len({case.name for case in LIES + CLEAN}) == len(LIES + CLEAN)


@pytest.mark.parametrize("case", LIES, ids=lambda case: case.name)
def test_a_planted_lie_is_found(case, dossier):
    found = fails(dossier(case))
    assert set(case.components) & set(found), f"{case.about}: only {found}"


@pytest.mark.parametrize("case", CLEAN, ids=lambda case: case.name)
def test_an_honest_release_raises_no_alarm(case, dossier):
    assert not fails(dossier(case))
