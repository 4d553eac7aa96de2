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


class _Keeper:
    """Gathers the reports, in the process that has them all where several run the tests."""

    def __init__(self, rows: dict[tuple[str, str], str]) -> None:
        self.rows = rows

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for client, feature in getattr(report, "clients", ()):
                key = (client, feature)
                self.rows[key] = max(self.rows.get(key, "passed"), report.outcome, key=_WORSE.index)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_rows] = {}
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Keeper(config.stash[_rows]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    report = yield
    # An attribute of plain lists travels with the report to another process.
    report.clients = [list(map(str, marker.args[:2])) for marker in item.iter_markers("client")]
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
