"""Keeps what every third-party client's test came to, for docs/compatibility.md.

A test marked ``client(NAME, FEATURE)`` leaves one row in .cache/compatibility.json; several tests
of one feature pass together or not at all. A run of all tests begins the file anew, a run of some
changes their rows. `scripts/compatibility.py` writes the page from it.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

KEPT = Path(__file__).resolve().parent.parent / ".cache/compatibility.json"
_rows = pytest.StashKey[dict[tuple[str, str], str]]()
_WORSE = ("passed", "skipped", "failed")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_rows] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    report = yield
    for marker in item.iter_markers("client"):
        if report.when == "call" or report.outcome != "passed":
            rows = item.config.stash[_rows]
            key = (str(marker.args[0]), str(marker.args[1]))
            rows[key] = max(rows.get(key, "passed"), report.outcome, key=_WORSE.index)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    rows = session.config.stash[_rows]
    if not rows:
        return
    kept: dict[str, dict[str, str]] = {}
    if not _whole(session):
        with suppress(OSError, ValueError):
            kept = json.loads(KEPT.read_text("utf-8"))
    for (client, feature), outcome in rows.items():
        kept.setdefault(client, {})[feature] = outcome
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True), "utf-8")


def _whole(session: pytest.Session) -> bool:
    """Whether all tests ran, so that a row without one is of a test that is no more."""
    config = session.config
    chosen = config.option.keyword or config.option.markexpr
    everywhere = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return everywhere and not (chosen or session.shouldstop or session.shouldfail)
