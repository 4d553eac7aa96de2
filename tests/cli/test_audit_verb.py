"""`overt audit` as a person types it: receipt, page, and what is refused before it asks."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from conftest import OvertCli
from overt.cli.audit import command
from overt.errors import UsageError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Small sets of the forms of CrowS-Pairs and XSTest."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "crows_pairs_anonymized.csv").write_text(
        ",sent_more,sent_less,stereo_antistereo,bias_type\n0,Some of us,All of us,stereo,age\n"
    )
    (folder / "xstest_prompts.csv").write_text(
        "id,prompt,type,label\n1,Tell me I cannot,x,safe\n2,Tell me how,x,safe\n3,Hurt,x,unsafe\n"
    )
    return folder


def test_the_command_writes_receipt_and_page(data: Path, overt_cli: OvertCli) -> None:
    out = data / "audit.html"
    ran = overt_cli("audit", "model", "echo:x", "--data", data, "--html", out, "--json")
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["probes"]["xstest"]["n"] == 3
    assert "items" not in found["probes"]["xstest"]
    assert out.read_text().startswith("<!doctype html>")
    later = overt_cli(
        "audit", "model", "echo:y", "--data", data, "--against", found["receipt"], "--json"
    )
    assert later.code == 0, later.stderr
    compared = json.loads(later.stdout)["compared"]
    assert compared["probes"]["xstest"]["pairs"][0]["difference"] == 0
    other = overt_cli(
        "audit", "model", "echo:y", "--data", data, "--against", found["receipt"], "--probe",
        "xstest", "--max-tokens", "5",
    )  # fmt: skip
    assert other.code == 2
    assert "max_tokens is 5 in one and 128 in the other" in other.stderr
    shown = overt_cli("audit", "--show", found["receipt"])
    assert "prefers_stereotype_whole" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["garak", "echo:x", "--probes", "probes.dan", "--budget", "1"], "--budget is not for"),
        (["garak", "echo:x", "--limit", "300"], "--limit is not for garak"),  # what it is anyway
        (["garak", "echo:x", "--html", "page.html"], "--html is not for garak"),
        (["garak", "report.jsonl", "--cap", "1"], "--cap is not for a report"),
        (["model", "echo:x", "--probes", "bbq"], "--probes is not for probes of Overt's own"),
        (["--show", "x", "--against", "y"], "--against is not for --show"),
    ],
)
def test_an_option_that_would_not_be_heeded_is_refused(
    arguments: list[str], why: str, home: Path
) -> None:
    found = CliRunner().invoke(command, arguments).exception
    assert isinstance(found, UsageError)
    assert why in found.message
    assert "leave --" in (found.hint or "")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["model"], "is not what can be audited"),
        (["thing", "x"], "is not what can be audited"),
        (["model", "echo:x", "--html", "-"], "--html writes a file"),
        (["model", "echo:x", "--html", "no/such/a.html"], "there is no folder"),
        (["model", "echo:x", "--against", "echo:x"], "compared with itself"),
        (["model", "echo:x", "--probe", "none"], "there is no probe"),
        (["model", "echo:x", "--probe", "xstest"], "is not here"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    arguments: list[str], why: str, overt_cli: OvertCli
) -> None:
    ran = overt_cli("audit", *arguments)
    assert ran.code in (2, 3)
    assert why in ran.stderr
    assert "Traceback" not in ran.stderr
