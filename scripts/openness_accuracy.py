"""Write docs/openness-accuracy.md: how often the dossier and the licence reader are right.

    .venv/bin/python scripts/openness_accuracy.py [--without-peers]

Needs the third-party data (OVERT_TEST_DATA) and, for the peers, the package index: aisbom-cli and
ScanCode are installed once into .cache/accuracy, each in an environment of its own. Takes some
minutes. Everything in the page comes from this run.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests"), str(ROOT / "tests/openness")]

PAGE = ROOT / "docs/openness-accuracy.md"
CACHE = ROOT / ".cache/accuracy"
PEERS = {
    "aisbom": ["aisbom-cli==1.7.0"],
    "scancode": ["scancode-toolkit-mini==32.5.0", "pluggy<1.6"],
}
DAY = date(2026, 11, 25)


@dataclass
class Row:
    """One planted case and what each tool said."""

    name: str
    about: str
    found: bool
    by: str
    aisbom: str = ""
    scancode: str = ""
    alarms: list[str] = field(default_factory=list)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--without-peers", action="store_true")
    peers = not options.parse_args().without_peers
    data = Path(os.environ.get("OVERT_TEST_DATA", ROOT.parent / "shared/data"))
    if not (data / "openness").is_dir():
        print(f"{data} holds no openness data; name it with OVERT_TEST_DATA", file=sys.stderr)
        return 1
    import openness_agreement
    from lies import CLEAN, LIES

    if peers:
        install()
    lies = [look(case, data, peers) for case in LIES]
    clean = [look(case, data, peers) for case in CLEAN]
    parts = [
        HEAD.format(system=f"{platform.system()} {platform.machine()}", cores=os.cpu_count()),
        "## Agreement with other indexes\n\n" + openness_agreement.markdown(data),
        "\n".join(licences(data)),
        "\n".join(planted(lies, clean, peers)),
        "\n".join(speed()),
    ]
    PAGE.write_text("\n\n".join(part.strip() for part in parts) + "\n", "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    missed = [row.name for row in lies if not row.found]
    alarms = [row.name for row in clean if row.alarms]
    print(f"missed: {missed}; false alarms: {alarms}")
    return 1 if missed or alarms else 0


HEAD = """# How often the dossier is right

Made by `python scripts/openness_accuracy.py` ({system}, {cores} cores); nothing here is written by
hand. The indexes and licence texts are third-party data that the project does not carry
(tests/data_sources.tsv names them); the planted lies are tests/openness/lies.py.
"""


# -- planted lies ----------------------------------------------------------------------------------


def look(case: object, data: Path, peers: bool) -> Row:
    from overt.openness import assemble
    from overt.openness.subject import gather
    from overt.settings import load

    def text(key: str) -> str:
        return (data / f"licences/{key}.txt").read_text("utf-8")

    with tempfile.TemporaryDirectory() as folder:
        planted = case.make(Path(folder), text)
        settings = load({}, {"home": f"{folder}/home", "offline": True})
        base = str(planted.base) if planted.base else None
        subject = gather.subject(str(planted.ref), settings, base=base)
        dossier = assemble.assemble(subject, settings.home, DAY)
        alarms = {
            one.component.name: sorted({e.check for e in one.evidence if e.result == "fail"})
            for one in dossier.components
            if one.state == "contradicted"
        }
        at = [name for name in alarms if name in case.components]
        row = Row(
            case.name,
            case.about,
            bool(at),
            "; ".join(f"{name} ({', '.join(alarms[name])})" for name in at),
            alarms=sorted(alarms),
        )
        if peers:
            row.aisbom = aisbom(planted.ref)
            row.scancode = scancode(planted.ref, "licence" in case.name)
    return row


def planted(lies: list[Row], clean: list[Row], peers: bool) -> Iterator[str]:
    found = sum(row.found for row in lies)
    yield "## Planted lies"
    yield ""
    yield (
        f"{found} of {len(lies)} kinds of lie on small random models are found where they are; "
        f"{sum(bool(row.alarms) for row in clean)} of {len(clean)} honest releases raise an alarm."
    )
    if peers:
        yield ""
        yield (
            "aisbom-cli 1.7.0 looks for code in files and grades bills of materials by presence; "
            "*risk* is a risk above LOW. ScanCode 32.5.0 names licences, and was run where the lie "
            "is about a licence: what it detected in LICENSE stands there, and it is no alarm "
            "where that is the licence that is claimed."
        )
    yield ""
    yield "| lie | what is not as it is said | found by Overt in | aisbom-cli | ScanCode |"
    yield "|---|---|---|---|---|"
    for row in lies:
        yield (
            f"| {row.name} | {row.about} | {row.by or '**missed**'} | {row.aisbom or '-'} "
            f"| {row.scancode or '-'} |"
        )
    yield ""
    yield "| honest release | alarm of Overt | aisbom-cli |"
    yield "|---|---|---|"
    for row in clean:
        yield f"| {row.name} | {', '.join(row.alarms) or 'none'} | {row.aisbom or '-'} |"


# -- licences --------------------------------------------------------------------------------------


def licences(data: Path) -> Iterator[str]:
    import openness_licences

    yield openness_licences.markdown(data)


# -- peers -----------------------------------------------------------------------------------------


def install() -> None:
    for name, packages in PEERS.items():
        folder = CACHE / name
        if (folder / "done").exists():
            continue
        print(f"installing {packages[0]} into {folder.relative_to(ROOT)}")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin/pip", "install", "-q", *packages], check=True)
        (folder / "done").touch()


def aisbom(path: Path) -> str:
    """What aisbom-cli says of it: the worst risk above LOW, or nothing."""
    folder = path if path.is_dir() else path.parent
    with tempfile.TemporaryDirectory() as place:
        written = Path(place) / "bom.json"
        subprocess.run(
            [CACHE / "aisbom/bin/aisbom", "scan", str(folder), "--output", str(written)],
            env={**os.environ, "AISBOM_NO_TELEMETRY": "1", "AISBOM_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        try:
            content = json.loads(written.read_bytes())
        except (OSError, ValueError):
            return "failed"
    risks = {
        prop["value"].split(" ")[0]
        for component in content.get("components", [])
        for prop in component.get("properties", [])
        if prop["name"] in ("aisbom:risk", "aisbom:legal")
    }
    worse = sorted(risks - {"LOW", "UNKNOWN", "PASS", "SAFE"})
    return f"risk {', '.join(worse)}" if worse else ""


def scancode(path: Path, wanted: bool) -> str:
    """The licence that ScanCode detects in LICENSE."""
    file = path / "LICENSE"
    if not wanted or not file.is_file():
        return ""
    ran = subprocess.run(
        [CACHE / "scancode/bin/scancode", "-l", "--quiet", "--json", "-", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    try:
        content = json.loads(ran.stdout)
    except ValueError:
        return "failed"
    found = [one.get("detected_license_expression") for one in content["files"]]
    return ", ".join(str(one) for one in found if one) or "nothing"


# -- speed -----------------------------------------------------------------------------------------


def speed() -> Iterator[str]:
    """A dossier of the 253 MB GGUF in the test home, by the clock of the command line."""
    store = ROOT / ".cache/test-home"
    yield "## Time"
    yield ""
    if not (store / "blobs").is_dir():
        yield "Not measured: the test home is not there (`make test` makes it)."
        return
    cold, warm = [], []
    for _ in range(7):
        with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
            home = Path(folder)
            found = subprocess.run(
                [sys.executable, "-m", "overt", "show", "gemma3", "--json"],
                env={**os.environ, "OVERT_HOME": str(store)},
                stdout=subprocess.PIPE,
                check=True,
            )
            # A plain file with a name of its own: nothing about it is known beforehand.
            file = home / "gemma-3-270m-Q4_K_M.gguf"
            os.link(os.path.realpath(json.loads(found.stdout)["path"]), file)
            env = {**os.environ, "OVERT_HOME": str(home / "home")}
            for kept in (cold, warm):
                start = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "overt", "dossier", str(file), "--json"],
                    env=env,
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
                kept.append(time.perf_counter() - start)
    for name, times in (("cold (nothing known, file hashed)", cold), ("warm", warm)):
        yield (
            f"- {name}: {statistics.median(times):.2f} s "
            f"({min(times):.2f} to {max(times):.2f}, {len(times)} runs) for a GGUF file of 253 MB"
        )


if __name__ == "__main__":
    sys.exit(main())
