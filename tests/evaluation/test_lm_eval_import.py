"""What lm-eval writes becomes a receipt: lines as lm-eval 0.4.13 wrote them, and damaged ones."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import servers
from overt.errors import EngineFailed, FormatError, OvertError, Refused, Unsupported, UsageError
from overt.evaluation.suites import lm_eval, lm_eval_output, receipt
from overt.settings import Settings

MODEL = {"ref": "m", "resolved": "m", "digest": "", "engine": "torch", "build": "", "away": False}
RESULTS = {
    "results": {
        "tiny": {"name": "tiny", "alias": "tiny", "sample_len": 3, "acc,none": 2 / 3,
                 "acc_stderr,none": 0.33, "acc_norm,none": 1 / 3}
    },
    "configs": {"tiny": {"task": "tiny", "output_type": "multiple_choice"}},
    "versions": {"tiny": 1},
    "n-samples": {"tiny": {"original": 3, "effective": 3}},
    "lm_eval_version": "0.4.13",
}  # fmt: skip
NAME = "samples_tiny_2026-11-26T06-14-25.009392.jsonl"


def line(number: int, *logprobs: float, acc: float = 1.0, **over: Any) -> dict[str, Any]:
    resps = [[[str(value), str(value == max(logprobs))]] for value in logprobs]
    return {
        "doc_id": number, "doc": {"question": "The sun rises in the"}, "target": "0",
        "arguments": {"gen_args_0": {"arg_0": "The sun rises in the", "arg_1": " east"}},
        "resps": resps, "filtered_resps": [one[0] for one in resps], "filter": "none",
        "metrics": ["acc", "acc_norm"], "doc_hash": f"d{number}", "prompt_hash": f"p{number}",
        "target_hash": "t", "acc": acc, "acc_norm": 0.0, **over,
    }  # fmt: skip


LINES = [line(0, -0.25, -19.5), line(1, -3.0, -2.0), line(2, -1.0, -4.0, acc=0.0)]


def raw(lines: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in lines).encode()


def parsed(lines: Any = LINES, results: Any = RESULTS) -> lm_eval_output.LmEvalOutput:
    return lm_eval_output.parsed(json.dumps(results).encode(), {NAME: raw(lines)})


def made(output: lm_eval_output.LmEvalOutput, task: str = "tiny", **model: Any) -> dict[str, Any]:
    return lm_eval_output.receipt_of(output, task, {**MODEL, **model}, {"limit": None}, 0, 1e9, 2.5)


def test_a_receipt_has_every_item_with_its_score_and_its_log_probabilities(tmp_path):
    found = made(parsed())
    assert found["score"] == pytest.approx(2 / 3)
    assert (found["n"], found["suite"]["name"], found["suite"]["kind"]) == (3, "tiny", "lm-eval")
    assert found["suite"]["method"] == "lm-eval 0.4.13: acc of multiple_choice"
    low, high = found["interval"]
    assert 0.2 < low < 2 / 3 < high < 0.95
    assert [one["id"] for one in found["items"]] == ["tiny/0", "tiny/1", "tiny/2"]
    assert [one["score"] for one in found["items"]] == [1.0, 1.0, 0.0]
    assert [one["answer"] for one in found["items"]] == ["0", "1", "0"]
    assert found["items"][1]["detail"] == {"acc_norm": 0.0, "logprobs": [-3.0, -2.0]}
    assert found["summary"] == {"acc,none": 2 / 3, "acc_stderr,none": 0.33, "acc_norm,none": 1 / 3}
    assert not any("not the mean" in note for note in found["notes"])
    path = receipt.write(tmp_path, found)
    again = receipt.read(str(path), tmp_path)
    assert again["items"] == found["items"]


def test_two_engines_are_compared_item_by_item():
    first = made(parsed())
    other = [line(0, -0.26, -19.4), line(1, -2.0, -3.0, acc=0.0), line(2, -1.0, -4.0, acc=0.0)]
    second = made(parsed(other), ref="other")
    found = receipt.compare(first, second)
    assert (found["n"], found["first_only"], found["second_only"]) == (3, 1, 0)
    assert found["difference"] == pytest.approx(1 / 3)
    assert found["same_suite"]
    prompts = [line(n, -1.0, -2.0, prompt_hash="otherwise") for n in range(3)]
    assert not receipt.compare(first, made(parsed(prompts)))["same_suite"]
    items = [line(n, -1.0, -2.0, doc_hash="otherwise") for n in range(3)]
    with pytest.raises(FormatError, match="different items"):
        receipt.compare(first, made(parsed(items)))


def test_answers_that_were_written_and_several_filters():
    strict = {
        "doc_id": 0, "resps": [["It is 4."]], "filtered_resps": ["[invalid]"], "filter": "strict",
        "metrics": ["exact_match"], "doc_hash": "d", "target_hash": "t", "exact_match": 0.0,
    }  # fmt: skip
    loose = {**strict, "filtered_resps": ["4"], "filter": "flexible", "exact_match": 1.0}
    results = {**RESULTS, "results": {"tiny": {"exact_match,strict": 0.0}}}
    output = parsed([strict, loose], results)
    (item,) = output.items
    assert item.values == {
        "exact_match": 0.0, "exact_match,strict": 0.0, "exact_match,flexible": 1.0
    }  # fmt: skip
    found = made(output)
    assert (found["score"], found["items"][0]["answer"]) == (0.0, "[invalid]")
    assert found["items"][0]["detail"] == {}


def test_a_group_of_tasks_is_one_receipt():
    samples = {
        "samples_a_2026.jsonl": raw([line(0, -1, -2)]),
        "samples_b_x_2026.jsonl": raw([line(0, -1, -2, acc=0.0)]),
    }
    results = {**RESULTS, "results": {"a": {"acc,none": 1.0}, "b_x": {"acc,none": 0.0}}}
    output = lm_eval_output.parsed(json.dumps(results).encode(), samples)
    found = made(output, "both")
    assert [one["id"] for one in found["items"]] == ["a/0", "b_x/0"]
    assert found["score"] == 0.5
    assert found["summary"] == {"a": {"acc,none": 1.0}, "b_x": {"acc,none": 0.0}}


def test_a_figure_that_is_not_the_mean_is_told():
    results = {**RESULTS, "results": {"tiny": {"acc,none": 0.9}}}
    assert any("lm-eval gives 0.9000" in note for note in made(parsed(results=results))["notes"])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"doc_id": "0"}], "line 1 of .* has no doc_id"),
        ([line(0, -1, -2), {"doc_id": 1}], "line 2 of .* names no metrics"),
        ([line(0, -1, -2), line(0, -1, -2, doc_hash="x")], "line 2 of .* is item 0 once more"),
    ],
)
def test_lines_that_make_no_sense_are_named(lines, words):
    with pytest.raises(FormatError, match=words):
        parsed(lines)


def test_a_task_without_scores_for_items_is_refused():
    rolling = {**line(0, -1, -2), "metrics": ["word_perplexity"], "word_perplexity": [-1.0, 3]}
    with pytest.raises(FormatError, match="no score for each item"):
        made(parsed([rolling]))
    nan = line(0, -1, -2, acc=math.nan, acc_norm=math.inf)
    with pytest.raises(FormatError, match="no score for each item"):
        made(parsed([nan]))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FormatError, match="0 results and 0 lists"):
        lm_eval_output.read(tmp_path)


def test_mutated_files_make_a_receipt_or_an_error(tmp_path):
    draw = random.Random(4)
    results, samples = json.dumps(RESULTS).encode(), raw(LINES)
    whole = 0
    for _ in range(300):
        pair = [bytearray(results), bytearray(samples)]
        for _ in range(draw.randint(1, 3)):
            data = pair[draw.randrange(2)]
            at = draw.randrange(len(data))
            what = draw.randrange(3)
            if what == 0:
                data[at] = draw.randrange(256)
            elif what == 1:
                del data[at : at + draw.randint(1, 40)]
            else:
                data[at:at] = draw.choice([b"[", b"{}", b"null", b'"', b"1e999", b"\n", b"-"])
        try:
            output = lm_eval_output.parsed(bytes(pair[0]), {NAME: bytes(pair[1])})
            receipt.write(tmp_path, made(output))
            whole += 1
        except OvertError:
            continue
    assert whole > 10


_any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(LINES[0], _any)), max_size=3),
       st.fixed_dictionaries({}, optional=dict.fromkeys(RESULTS, _any)))  # fmt: skip
def test_whatever_json_it_is(lines, results):
    try:
        made(parsed(lines, results))
    except OvertError:
        return


# ---- how it is started ---------------------------------------------------------------------


def test_where_lm_eval_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(lm_eval, "find_spec", lambda _: None)
    with pytest.raises(Unsupported, match="need lm-eval") as caught:
        lm_eval.command(Settings())
    assert "pip install 'overt[lm-eval]'" in (caught.value.hint or "")
    program = tmp_path / "lm_eval"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert lm_eval.command(Settings()) == [str(program)]
    assert lm_eval.command(Settings(lm_eval=str(program))) == [str(program)]
    with pytest.raises(Unsupported, match="is no program"):
        lm_eval.command(Settings(lm_eval=str(tmp_path / "none")))


def test_it_sees_no_keys_and_no_network_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    closed = lm_eval._environ(tmp_path, lm_eval.LmEvalOptions())
    assert "ANTHROPIC_API_KEY" not in closed
    assert "HTTPS_PROXY" not in closed
    assert closed["HF_HUB_OFFLINE"] == closed["HF_DATASETS_OFFLINE"] == "1"
    opened = lm_eval._environ(tmp_path, lm_eval.LmEvalOptions(hub=True))
    assert opened["HTTPS_PROXY"] == "http://proxy"
    assert "HF_HUB_OFFLINE" not in opened
    assert "ANTHROPIC_API_KEY" not in opened


def who(**over: Any) -> lm_eval.ScoredModel:
    told = {"ref": "m", "resolved": "m", "digest": "", "engine": "llamacpp", "build": "",
            "away": False, "context": 64}  # fmt: skip
    return lm_eval.ScoredModel(**{**told, **over})


def program(folder: Path, text: str) -> list[str]:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


def test_why_it_failed_is_told(tmp_path):
    told = "echo 'Loglikelihood is not supported for chat completions' >&2; exit 1"
    away = who(away=True, resolved="openai:x")
    with pytest.raises(Refused, match="openai:x tells none"):
        lm_eval._run(program(tmp_path, told), tmp_path, away, lm_eval.LmEvalOptions())
    hub = "echo 'ConnectionError: Could not reach it in offline mode'; exit 1"
    with pytest.raises(OvertError, match="lacks a data set") as caught:
        lm_eval._run(program(tmp_path, hub), tmp_path, who(), lm_eval.LmEvalOptions())
    assert "--hub" in (caught.value.hint or "")
    with pytest.raises(OvertError, match="ended with 3: boom"):
        lm_eval._run(
            program(tmp_path, "echo boom; exit 3"), tmp_path, who(), lm_eval.LmEvalOptions()
        )


def test_what_it_is_asked(tmp_path):
    options = lm_eval.LmEvalOptions(include=tmp_path, limit=5, shots=0)
    here = lm_eval._arguments(who(), "t", options, "http://127.0.0.1:1")
    assert "local-completions" in here
    assert here[here.index("--model_args") + 1] == (
        "model=m,base_url=http://127.0.0.1:1/of/m/v1/completions,timeout=86400,max_retries=1,"
        "tokenizer_backend=remote,tokenized_requests=True,max_length=64"
    )
    begun = lm_eval._arguments(who(begins=True), "t", options, "http://127.0.0.1:1")
    assert begun[begun.index("--model_args") + 1].endswith(",max_length=63")  # a place is taken
    assert here[-6:] == [
        "--include_path", str(tmp_path), "--limit", "5", "--num_fewshot", "0"
    ]  # fmt: skip
    there = lm_eval._arguments(who(away=True), "t", lm_eval.LmEvalOptions(), "http://127.0.0.1:1")
    assert "local-chat-completions" in there
    assert "--apply_chat_template" in there
    assert there[there.index("--model_args") + 1].endswith(",timeout=86400,max_retries=3")


@pytest.mark.parametrize(
    ("status", "said", "wanted"),
    [
        (200, b'{"add_bos_token": true}', True),
        (200, b'{"add_bos_token": false}', False),
        (200, b"{}", "add_bos_token"),
        (200, b"[1]", "does not tell"),
        (200, b"<html>", "does not tell"),
        (404, b'{"error": "no such model"}', "no such model"),
    ],
)
def test_how_prompts_begin_is_asked_of_our_server(status, said, wanted):
    ours = servers.Server(routes=[lambda seen: servers.Answer(status, said)])
    with servers.serving(ours):
        if isinstance(wanted, bool):
            assert lm_eval.begins(ours.url, "a b/c") is wanted
            assert ours.asked("/of/a b/c/tokenizer_info")
            return
        with pytest.raises(EngineFailed, match=wanted) as caught:
            lm_eval.begins(ours.url, "m")
    assert "overt run m" in (caught.value.hint or "")


def test_how_far_it_is_is_read_from_its_own_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(lm_eval, "_MOMENT", 0.02)
    bar = "\rRequesting API:  17%|#7  | {}/48 [00:03<{}, 2.4it/s]"
    program_says = program(tmp_path, f"printf %s '{bar.format(8, '00:16')}'; sleep 0.4")
    told: list[str] = []
    lm_eval._run(program_says, tmp_path, who(), lm_eval.LmEvalOptions(), told.append)
    assert set(told) == {"8 of 48 requests, 00:16 left"}
    assert lm_eval.progress_of(bar.format(8, "00:16") + bar.format(0, "?")) == "0 of 48 requests"
    assert lm_eval.progress_of("Tokenizing inputs: 5%|# | 1/20 [00:03<00:16, 2it/s]") == ""


@given(st.text() | st.text("Requesting API: 0123456789%|/[<?:] \r"))
def test_whatever_it_says_is_no_error(said):
    lm_eval.progress_of(said)


def test_a_receipt_names_what_answered():
    one = who(build="scorer 1", writes="server 2", begins=True)
    kinds = {
        ("multiple_choice",): "scorer 1", ("generate_until",): "server 2",
        ("loglikelihood", "generate_until"): "scorer 1; server 2", (): "scorer 1",
    }  # fmt: skip
    for types, build in kinds.items():
        configs = {str(at): {"output_type": kind} for at, kind in enumerate(types)}
        assert (
            lm_eval._model(one, parsed(results={**RESULTS, "configs": configs}))["build"] == build
        )
    assert lm_eval._parameters(one, lm_eval.LmEvalOptions())["begin_token"] is True


@pytest.mark.parametrize("name", ["a,b", "", "--model", "a b", 'a"b'])
def test_names_that_lm_eval_would_read_otherwise_are_refused(name, tmp_path):
    settings = Settings(home=tmp_path, lm_eval=program(tmp_path, "exit 0")[0])
    with pytest.raises(UsageError, match="cannot be handed to lm-eval"):
        lm_eval.evaluate(who(), [name], lm_eval.LmEvalOptions(), settings, lambda _: None)


def test_a_servers_address_needs_a_name(tmp_path):
    settings = Settings(home=tmp_path, lm_eval=program(tmp_path, "exit 0")[0])
    address = "http://127.0.0.1:1/v1#m"
    with pytest.raises(UsageError, match="is a server's address"):
        lm_eval.evaluate(who(ref=address), ["t"], lm_eval.LmEvalOptions(), settings, lambda _: None)


def test_what_our_server_said_is_told(tmp_path):
    told = "echo 'WARNING API request failed with error message: {boom}. Retrying'; echo x; exit 1"
    with pytest.raises(OvertError, match=r"ended with 1: \{boom\}"):
        lm_eval._run(program(tmp_path, told), tmp_path, who(), lm_eval.LmEvalOptions())


def test_a_model_elsewhere_is_known_without_asking_it(home):
    found = lm_eval.identify("openai:gpt-4o", Settings(home=home))
    assert (found.engine, found.away, found.context) == ("openai", True, 0)
