"""Evidence is only added, survives a cut-off line, and two writers do not mix."""

import json
from concurrent.futures import ThreadPoolExecutor

from overt.openness.evidence import Evidence
from overt.openness.evidence_log import CheckRun, EvidenceLog, key_of
from overt.openness.verdicts.components import Strength


def run(n, observed="x") -> CheckRun:
    piece = Evidence("a", 1, "weights", "pass", Strength.EXISTS, observed, at="2026-11-25")
    return CheckRun(key_of("a", n, "s", "", ""), "a", "2026-11-25", (piece,))


def test_what_was_added_is_read_and_the_newest_counts(tmp_path):
    log = EvidenceLog(tmp_path, "a model")
    assert log.runs() == {}
    log.add([run(1, "old"), run(2)])
    log.add([run(1, "new")])
    assert log.runs()[run(1).key].evidence[0].observed == "new"
    assert len(log.runs()) == 2
    assert "old" in log.path.read_text()  # nothing is taken away


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path):
    log = EvidenceLog(tmp_path, "a model")
    log.add([run(1), run(2)])
    data = log.path.read_bytes()
    for cut in range(len(data)):
        log.path.write_bytes(data[:cut])
        log.add([run(3)])
        assert run(3).key in log.runs()


def test_lines_that_are_no_runs_are_passed_over(tmp_path):
    log = EvidenceLog(tmp_path, "a model")
    log.add([run(1)])
    with log.path.open("ab") as file:
        file.write(b'[]\n{"key": 3}\n\xff\xfe\n' + b"[" * 100_000 + b"\n")
        content = json.loads(log.path.read_bytes().splitlines()[0])
        content["evidence"][0]["result"] = "maybe"
        file.write(json.dumps(content).encode())
    assert list(log.runs()) == [run(1).key]


def test_many_writers_at_once_lose_nothing(tmp_path):
    log = EvidenceLog(tmp_path, "a model")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: log.add([run(n)]), range(100)))
    assert len(log.runs()) == 100


def test_a_home_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "dossiers").write_text("a file where the folder should be")
    log = EvidenceLog(tmp_path, "a model")
    log.add([run(1)])
    assert log.runs() == {}
