"""Runs the tests that a client's authors wrote, against a running server.

Their files are copied out of the source distribution and only the names of models are changed, to
models that are here. A table beside the test lists each of them that cannot pass, with the reason:
a test of that table that passes, and one outside it that fails, are both found.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import filter
from pathlib import Path
from shutil import copytree
from xml.etree import ElementTree

_OPTIONS = """[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = {}
"""


def run(
    sdist: Path,
    files: Sequence[str],
    into: Path,
    *,
    models: Mapping[str, Mapping[str, str]],
    env: Mapping[str, str],
    arguments: Sequence[str] = (),
    timeout: float = 280,
) -> dict[str, str]:
    """The outcome (passed, failed, skipped) of every test of `files`, by its id without parameters.

    Args:
        sdist: the unpacked source distribution.
        files: paths below its ``tests`` folder.
        into: an empty folder of this test's own.
        models: for each file ("" for the others) what its names are replaced by; whole strings.
        env: added to the environment; says where the server is.
        arguments: more for pytest.
        timeout: seconds for all of them.
    """
    copytree(sdist / "tests", into / "tests")
    for name in files:
        path = into / "tests" / name
        text = path.read_text("utf-8")
        for old, new in models.get(name, models.get("", {})).items():
            text = text.replace(f'"{old}"', f'"{new}"')
        path.write_text(text, "utf-8")
    paths = [f"tests/{name}" for name in files]
    found: dict[str, str] = {}
    for case in cases(into, paths, env, arguments, timeout=timeout):
        name = f"{case.get('classname', '')}::{case.get('name', '').partition('[')[0]}"
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "passed"
        outcome = "skipped" if "skipped" in tags else outcome
        if found.get(name, outcome) != outcome:
            outcome = "failed"  # passes in one form and fails in another
        found[name] = outcome
    return found


def cases(
    into: Path,
    paths: Sequence[str],
    env: Mapping[str, str],
    arguments: Sequence[str] = (),
    *,
    loop: str = "session",
    timeout: float = 280,
) -> list[ElementTree.Element]:
    """Run the tests of `paths` in the folder `into`; its report's ``testcase`` elements.

    `loop` is the scope of the event loop that asynchronous fixtures get.
    """
    (into / "pytest.ini").write_text(_OPTIONS.format(loop))
    report = into / "report.xml"
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short",
            "-c", "pytest.ini", f"--junitxml={report}", *arguments, *paths,
        ],
        cwd=into, env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    (into / "output.txt").write_text(done.stdout + done.stderr)
    assert report.is_file(), done.stdout[-4000:] + done.stderr[-4000:]
    return list(ElementTree.parse(report).iter("testcase"))


def table(path: Path) -> dict[str, str]:
    """What cannot pass, and why: a line is a test's id (for fnmatch), a tab, the reason."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if row and row[0][:1] != "#"]
    assert all(len(row) == 2 and len(row[1].split()) > 3 for row in rows), rows
    return {row[0]: row[1] for row in rows}


def differences(outcomes: Mapping[str, str], expected: Mapping[str, str], into: Path) -> list[str]:
    """One line for each test that did not do what `expected` says of it."""
    failed = {name for name, outcome in outcomes.items() if outcome == "failed"}
    matched = {pattern: set(filter(outcomes, pattern)) for pattern in expected}
    told = set[str]().union(*matched.values())
    lines = [f"{name} fails" for name in sorted(failed - told)]
    lines += [f"{name} is said to fail" for name in sorted(told - failed)]
    lines += [f"{pattern} is no test" for pattern, names in matched.items() if not names]
    if lines:
        lines.append((into / "output.txt").read_text()[-6000:])
    return lines
