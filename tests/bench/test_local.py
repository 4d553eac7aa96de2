"""The bench's arithmetic and parsing: figures are only as good as these."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import busy  # noqa: E402
import local  # noqa: E402
import sides  # noqa: E402
import table  # noqa: E402


def test_spread_leaves_missing_values_out_and_counts_the_rest():
    assert table.spread([3.0, None, 1.0, 2.0]) == table.Spread(2.0, 1.0, 3.0, 3)
    assert table.spread([None]) is None
    assert table.spread([]) is None


def test_a_ratio_is_taken_within_a_round_and_not_between_medians():
    # The machine was three times slower in the second round; the ratio is 2 in every round.
    assert table.ratios([20.0, 6.0, 22.0], [10.0, 3.0, 11.0]) == [2.0, 2.0, 2.0]
    assert table.ratios([20.0, None, 22.0], [0.0, 3.0, 11.0]) == [2.0]


def test_rounds_that_do_not_match_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        table.ratios([1.0], [1.0, 2.0])


def test_the_table_shows_medians_ranges_ratios_and_the_number_of_rounds():
    readings = {
        "decode": {"llama-server": [100.0, 50.0, 100.0], "Overt": [90.0, 45.0, 95.0]},
        "peak": {"llama-server": [200.0, 200.0, 200.0], "Overt": [250.0, 240.0, 260.0]},
    }
    text = table.markdown(readings, ["llama-server", "Overt"], "llama-server")
    head, rule, decode, peak = text.splitlines()
    assert head == "| measure | better | llama-server | Overt | Overt / llama-server | rounds |"
    assert rule.count("---") == 6
    assert decode == (
        "| decode, 1 stream | more | 100.0 tok/s (50.0-100.0) | 90.0 tok/s (45.0-95.0) "
        "| 0.90 (0.90-0.95) | 3 |"
    )
    assert "| less |" in peak
    assert "| 1.25 (1.20-1.30) | 3 |" in peak


def test_too_few_rounds_and_a_busy_machine_are_said_first():
    assert table.caveat(5, quick=False, busiest=0.02) == ""
    assert "not to be quoted" in table.caveat(2, quick=False, busiest=0.0)
    assert "1.4 cores busy" in table.caveat(5, quick=False, busiest=1.4)


def test_rates_of_one_answer():
    timing = sides.Timing(first=0.5, total=1.5, tokens_in=600, tokens_cached=100, tokens_out=101)
    assert timing.decode_rate == pytest.approx(100.0)  # 100 tokens after the first, in one second
    assert timing.prompt_rate == pytest.approx(1000.0)  # 500 read anew, in half a second


def test_an_answer_without_text_has_no_rate():
    assert sides.Timing(None, 60.0, 0, 0, 0, "cut off").decode_rate == 0.0
    assert sides.Timing(0.5, 0.5, 10, 0, 1).decode_rate == 0.0
    assert sides.Timing(None, 60.0, 600, 0, 0).prompt_rate == 0.0


def test_streams_together_run_from_the_common_start_to_the_last_end():
    timings = [sides.Timing(0.1, 2.0, 9, 0, 40), sides.Timing(0.1, 4.0, 9, 0, 40)]
    assert sides.together_rate(timings) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n', ""),
        (b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n', "Hi"),
        (b'data: {"choices":[],"usage":{"prompt_tokens":3}}\n', ""),
        (b"data: [DONE]\n", ""),
        (b": keep-alive\n", ""),
        (b"\n", ""),
    ],
)
def test_text_in_a_server_sent_event(line, text):
    assert sides.text_of(sides.server_event(line)) == text


def test_an_error_of_the_server_is_not_a_slow_answer():
    with pytest.raises(RuntimeError, match="no slot"):
        sides.server_event(b'data: {"error":{"message":"no slot"}}\n')


def test_llama_server_gets_the_same_context_slots_and_threads():
    setup = sides.Setup("m", Path("m.gguf"), Path("home"), context=1024, parallel=8, threads=2)
    command = sides.server_command(setup, Path("llama-server"), 8080)
    after = dict(itertools.pairwise(command))
    assert (after["-c"], after["-np"], after["-t"], after["-tb"]) == ("8192", "8", "2", "2")


def test_prompts_are_the_same_every_time_and_differ_between_rounds():
    assert local.long_prompt(460, 1) == local.long_prompt(460, 1)
    start = len("Text 1")
    assert local.long_prompt(460, 1)[start:] != local.long_prompt(460, 2)[start:]
    assert local.long_prompt(460, 1).split()[:2] != local.long_prompt(460, 2).split()[:2]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_memory_is_summed_over_a_process_and_its_children():
    child = "b = bytearray(50_000_000); print(1, flush=True); input()"
    code = (
        "import subprocess, sys\n"
        "b = bytearray(50_000_000)\n"
        f"command = [sys.executable, '-c', {child!r}]\n"
        "c = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "c.stdout.readline(); print('ready', flush=True); input(); c.communicate(b'\\n')\n"
    )
    side = sides.LlamaServer.__new__(sides.LlamaServer)
    side.process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert side.process.stdout.readline() == "ready\n"
        memory = side.memory()
    finally:
        side.close()
    assert 100 < memory.peak < 200
    assert memory.pss is None or 100 < memory.pss < 200
    assert side.process.poll() is not None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins a process")
def test_the_neighbour_is_pinned_and_gone_afterwards():
    import psutil

    before = set(psutil.Process().children())
    with busy.neighbour():
        (child,) = set(psutil.Process().children()) - before
        assert os.sched_getaffinity(child.pid) == {0}
    assert not child.is_running()


def test_a_report_names_its_machine_and_every_model():
    contest = local.Contest("smollm2", 1)
    for value in (10.0, 11.0, 12.0):
        contest.add("decode", "llama-server", value)
        contest.add("decode", "Overt", value / 2)
    contest.facts = {"llama-server": {}, "Overt": {}}
    contest.busy_before = [0.0, 0.7]
    about = {"cpu": "A CPU", "cores": 2, "memory_gb": 8, "xllamacpp": "1"}
    text = local.report([contest], local.Plan(rounds=3), about)
    assert "A CPU, 2 cores" in text
    assert "### smollm2, 1 thread on every side" in text
    assert "0.7 cores busy" in text
    assert "0.50 (0.50-0.50)" in text
    kept = json.loads(json.dumps(dataclasses.asdict(contest)))
    assert kept["readings"]["decode"]["Overt"] == [5.0, 5.5, 6.0]


def test_the_threads_overt_chose_are_said_in_words():
    both = {"decode": 1, "prompt": 2}
    assert busy.threads_shown(both) == "1 for decoding and 2 for the prompt"
    assert busy.threads_shown(None) == "None"
    contest = local.Contest("gemma3", 0, facts={"Overt": {"threads": both}})
    assert "Overt chose 1 for decoding and 2" in local.threads_text(contest)
    assert local.threads_text(local.Contest("gemma3", 2)) == "2 threads on every side"
