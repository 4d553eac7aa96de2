"""garak's report is read like a stranger's file; garak itself runs where a person has it.

`garak_golden.report.jsonl` is a report of garak 0.17.1 on smollm2 by `overt audit garak`, with the
texts of prompts and answers taken out.
"""

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import OvertCli
from overt.errors import FormatError, NotFound, UsageError
from overt.evaluation.audit import garak, garak_run
from overt.evaluation.suites.intervals import wilson
from overt.settings import load

GOLDEN = Path(__file__).with_name("garak_golden.report.jsonl")


def test_a_real_report_is_counted_with_intervals() -> None:
    found = garak.read(GOLDEN)
    assert (found["version"], found["target"], found["seed"]) == ("0.17.1", "smollm2", 0)
    rows = {(one["probe"], one["detector"]): one for one in found["results"]}
    one = rows["dan.Dan_11_0", "mitigation.MitigationBypass"]
    assert (one["hits"], one["n"], one["prompts"]) == (1, 1, 1)
    assert one["interval"] == list(wilson(1, 1))
    decode = rows["encoding.InjectBase64", "encoding.DecodeMatch"]
    assert (decode["hits"], decode["n"], decode["prompts"]) == (0, 3, 3)
    # The scores of each attempt say the same as garak's own sum of them.
    flagged = 0
    for line in GOLDEN.read_text().splitlines():
        entry = json.loads(line)
        if entry["entry_type"] == "attempt" and entry["status"] == 2:
            scores = entry["detector_results"].get("mitigation.MitigationBypass", [])
            flagged += sum(score > 0.5 for score in scores)
    assert flagged == one["hits"]
    assert "4 of 4 results have fewer than 30 answers" in found["notes"][0]


def test_an_older_report_has_totals_and_no_hits() -> None:
    line = {"entry_type": "eval", "probe": "p.A", "detector": "d.B", "passed": 30, "total": 40}
    one = garak.parsed(json.dumps(line).encode(), "r")["results"][0]
    assert (one["hits"], one["n"], one["prompts"]) == (10, 40, None)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "no results"),
        (b"{}", "no results"),
        (b"[]", "line 1 of r is no object"),
        (b"{", "line 1 of r is not JSON"),
        (b'{"entry_type": "eval", "probe": "p", "detector": "d", "passed": 3, "total": 2}', "fit"),
        (b'{"entry_type": "eval", "probe": "<b>", "detector": "d", "passed":1, "total": 2}', "not"),
        (b'{"entry_type": "eval", "probe": "p", "detector": "d", "fails": -1, "total": 2}', "fit"),
        (b'{"entry_type": "eval", "probe": "p", "detector": "d", "fails":true, "total": 2}', "not"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(line: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        garak.parsed(line, "r")


@given(at=st.integers(0, 1 << 20), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_report_is_refused_or_counted(at: int, byte: int, cut: bool) -> None:
    data = GOLDEN.read_bytes()
    place = at % len(data)
    spoiled = data[:place] if cut else data[:place] + bytes([byte]) + data[place + 1 :]
    try:
        found = garak.parsed(spoiled, "r")
    except FormatError:
        return
    for one in found["results"]:
        assert 0 <= one["hits"] <= one["n"]
        low, high = one["interval"]
        assert 0 <= low <= one["rate"] <= high <= 1 or one["n"] == 0


def test_garak_that_is_not_here_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="garak is not on PATH") as caught:
        garak_run.find(None)
    assert "environment of its own" in (caught.value.hint or "")
    with pytest.raises(NotFound, match="garak is not /no/such"):
        garak_run.find("/no/such")
    assert garak_run.find(sys.executable)[1:] == ["-m", "garak"]
    asked = garak_run.GarakJob("echo:x", sys.executable, None, 1, None, 0)
    with pytest.raises(UsageError, match="no probes"):
        garak_run.run(asked, load(), print)


PROGRAM = """#!{python}
import json, os, pathlib, sys, urllib.request
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
told = json.load(open(given["--generator_option_file"]))["openai"]["OpenAICompatible"]
body = {{"model": given["--target_name"], "messages": [{{"role": "user", "content": "hit me"}}]}}
asked = urllib.request.Request(told["uri"] + "chat/completions", json.dumps(body).encode(),
                               {{"Content-Type": "application/json"}})
with urllib.request.urlopen(asked) as answer:
    said = json.load(answer)["choices"][0]["message"]["content"]
line = {{"entry_type": "eval", "probe": "p.A", "detector": "d.B", "fails": int("hit" in said),
        "passed": int("hit" not in said), "total_evaluated": 1, "nones": 0}}
path = pathlib.Path(given["--report_prefix"] + ".report.jsonl")
path.write_text(json.dumps(line) + "\\n")
assert "SECRET_OF_MINE" not in os.environ
"""


def test_a_program_is_given_our_server_and_its_report_is_read(
    tmp_path: Path, overt_cli: OvertCli
) -> None:
    """Where garak stands, a small program that asks the server as garak does."""
    program = tmp_path / "garak"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    ran = overt_cli(
        "audit", "garak", "echo:x", "--garak", program, "--probes", "probes.p", "--json",
        env={"SECRET_OF_MINE": "x"},
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["results"][0]["hits"] == 1
    assert Path(found["file"]).is_relative_to(os.environ["OVERT_HOME"])


def test_a_program_that_fails_says_so(tmp_path: Path, overt_cli: OvertCli) -> None:
    program = tmp_path / "garak"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('it went wrong')\n")
    program.chmod(0o755)
    ran = overt_cli("audit", "garak", "echo:x", "--garak", program, "--probes", "probes.p")
    assert ran.code == 1
    assert "it went wrong" in ran.stderr
    shown = overt_cli("audit", "garak", GOLDEN)
    assert "mitigation.MitigationBypass" in shown.stdout
