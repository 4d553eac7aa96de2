"""Every planted change is found and quoted, and no mere layout is called a change.

`licence_cases.figures` gives the whole table; here a part of it runs, every licence and every way.
"""

import os
from pathlib import Path

import licence_cases as cases
import pytest


@pytest.fixture(scope="module")
def folder() -> Path:
    data = os.environ.get("OVERT_TEST_DATA", "")
    found = Path(data) / "licences"
    if not data or not found.is_dir():
        pytest.skip("the licence texts are not here; OVERT_TEST_DATA names their folder")
    return found


def test_planted_changes_are_found(folder: Path) -> None:
    every = list(cases.planted(folder))
    assert len(every) > 800
    missed = [f"{one.licence}: {one.how}" for one in every[::4] if not cases.found(one)]
    assert missed == []


def test_layouts_are_no_changes(folder: Path) -> None:
    every = list(cases.plain(folder))
    alarms = [f"{one.licence}: {one.how}" for one in every[::5] if cases.false_alarm(one)]
    assert alarms == []


def test_what_was_held_out_once(folder: Path) -> None:
    missed = [f"{one.licence}: {one.how}" for one in cases.held(folder, "change")
              if not cases.found(one)]  # fmt: skip
    assert missed == []
    harmless = list(cases.held(folder, "harmless"))
    alarms = [f"{one.licence}: {one.how}" for one in harmless if cases.false_alarm(one)]
    assert len(alarms) <= 3, alarms


def test_second_copies_are_recognised(folder: Path) -> None:
    files = sorted((folder / "second_copies").glob("*.txt"))
    assert len(files) == 18
    for file in (*files, *sorted(folder.glob("*.txt"))):
        text = file.read_text(encoding="utf-8")
        assert not cases.false_alarm(cases.Case(file.stem, "", text, "")), file


def test_real_licence_files_are_seldom_called_altered() -> None:
    found = cases.installed()
    assert found["files"] >= 60
    assert len(found["altered"]) <= 0.15 * found["files"], found["altered"]
