"""`overt eval` on the command line."""

import json
from pathlib import Path

import pytest

from conftest import OvertCli
from overt.cli import eval


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "w.csv").write_text("w,x\na,a\nb,c\nd,d\n")
    path = tmp_path / "w.yaml"
    path.write_text('kind: exact\ndata: w.csv\nprompt: "{w}"\nanswer: "{x}"\n')
    return path


def test_one_model(overt_cli: OvertCli, suite: Path) -> None:
    ran = overt_cli("eval", suite, "-m", "echo:x", "--json")
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert list(found)[:4] == ["score", "interval", "n", "receipt"]
    assert (found["score"], found["n"]) == (pytest.approx(2 / 3), 3)
    shown = overt_cli("eval", "--show", found["receipt"])
    assert "echo:x" in shown.stdout
    assert "0.667" in shown.stdout


def test_two_models(overt_cli: OvertCli, suite: Path) -> None:
    ran = overt_cli("eval", suite, "-m", "echo:x", "-m", "echo:fail", "--json")
    assert ran.code == 0, ran.stderr  # three words it never says
    found = json.loads(ran.stdout)
    assert [one["model"] for one in found["models"]] == ["echo:x", "echo:fail"]
    (pair,) = found["pairs"]
    assert (pair["n"], pair["difference"], pair["mcnemar_p"]) == (3, 0, 1)
    receipts = [one["receipt"] for one in found["models"]]
    compared = overt_cli("eval", "--compare", *receipts)
    assert "echo:x minus echo:fail: +0.000" in compared.stdout
    people = overt_cli("eval", suite, "-m", "echo:x", "-m", "echo:fail")
    assert "McNemar p = 1" in people.stdout


def test_who_answered_for_a_route_is_counted(
    overt_cli: OvertCli, suite: Path, tmp_path: Path
) -> None:
    check = tmp_path / "check.sh"
    check.write_text("#!/bin/sh\ngrep -q a\n")
    check.chmod(0o700)
    route = tmp_path / "r.yaml"
    route.write_text(f"models: [echo:x, echo:y]\nescalate: {{check: {{command: [{check}]}}}}\n")
    assert overt_cli("alias", "set", "ladder", "--route", route).code == 0
    ran = overt_cli("eval", suite, "-m", "ladder", "-m", "echo:x")
    assert ran.code == 0, ran.stderr
    assert "ladder: answered by echo:y 2, echo:x 1\n" in ran.stdout
    assert ran.stdout.count("answered by") == 1


def test_costs_are_shown_as_in_a_comparison() -> None:
    def model(ref: str, **totals: object) -> dict[str, object]:
        return {
            "model": {"ref": ref}, "score": 1.0, "interval": [0.5, 1.0], "n": 3, "items": [],
            "summary": {}, "parameters": {"errors": "wrong"},
            "totals": {"errors": 0, "seconds": 1.0, **totals},
        }  # fmt: skip

    said = eval._report(
        [
            model("a", cost=0.00042, cost_known=True),
            model("b", cost=None, cost_known=False, cost_unknown=2, cost_least=0.01),
            model("c", cost=None, cost_known=False, cost_unknown=3, cost_least=0),
            model("d", cost=0, cost_known=True),
        ],
        [],
    )
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert [row for row in rows if row.startswith(("a ", "b ", "c ", "d "))] == [
        "a 1.000 0.500 to 1.000 3 0 $0.00042 1.0 s",
        "b 1.000 0.500 to 1.000 3 0 $0.01000 + 2 unknown 1.0 s",
        "c 1.000 0.500 to 1.000 3 0 unknown 1.0 s",
        "d 1.000 0.500 to 1.000 3 0 $0.00000 1.0 s",
    ]


@pytest.mark.parametrize("cost", ["x", -1, float("inf"), float("nan")])
def test_a_cost_that_somebody_wrote_by_hand_is_unknown(cost: object) -> None:
    assert eval._cost({"cost_known": True, "cost": cost})["cost"] is None


def test_a_home_that_cannot_be_written(overt_cli: OvertCli, suite: Path, home: Path) -> None:
    (home / "evaluations").write_text("in the way")
    ran = overt_cli("eval", suite, "-m", "echo:x")
    assert ran.code == 1
    assert "cannot be written" in ran.stderr
    assert "check OVERT_HOME" in ran.stderr
    assert "inside Overt" not in ran.stderr


def test_a_new_suite_runs(
    overt_cli: OvertCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert overt_cli("eval", "--new", "mine").code == 0
    ran = overt_cli("eval", "mine.yaml", "-m", "echo:x", "-q")
    assert (ran.code, ran.stdout.strip()) == (0, "0.0000")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "give one of SUITE, --new, --show and --compare"),
        (("x.yaml",), 3, "there is no suite 'x.yaml'"),
        (("gsm8k",), 3, "comes without its data"),
        (("--show", "x"), 3, "there is no receipt 'x'"),
    ],
)
def test_mistakes(overt_cli: OvertCli, arguments: tuple[str, ...], code: int, said: str) -> None:
    ran = overt_cli("eval", *arguments)
    assert (ran.code, said in ran.stderr) == (code, True), ran.stderr
