"""`overt chats`: in, out, and nothing twice."""

import json
from pathlib import Path

import pytest

from conftest import OvertCli


@pytest.fixture
def export(tmp_path: Path) -> Path:
    file = tmp_path / "all.jsonl"
    rows = [
        {"messages": [{"role": "system", "content": "Be brief."},
                      {"role": "user", "content": "How are ducks?"},
                      {"role": "assistant", "content": "Well."}]},
        {"messages": [{"role": "user", "content": "How are ducks?"},
                      {"role": "assistant", "content": "Wet."}], "extra": 1},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_what_comes_in_is_saved_once_and_goes_out_again(
    overt_cli: OvertCli, export: Path, tmp_path: Path
) -> None:
    tried = overt_cli("chats", "import", export, "--dry-run", "--json")
    assert json.loads(tried.stdout)["imported"] == ["how-are-ducks", "how-are-ducks-2"]
    assert overt_cli("chats", "list").stdout == ""
    came = overt_cli("chats", "import", export, "--model", "echo:x")
    assert (came.code, came.stdout) == (
        0,
        "2 of 2 conversations came in (format: openai)\n",
    )
    assert "left behind: field extra (1)" in came.stderr
    again = json.loads(overt_cli("chats", "import", export, "--json").stdout)
    assert (again["imported"], again["unchanged"]) == ([], 2)
    listed = json.loads(overt_cli("chats", "list", "--json").stdout)["chats"]
    assert [row["messages"] for row in listed] == [2, 2]
    out = tmp_path / "out.jsonl"
    gone = overt_cli("chats", "export", "--to", "openai", "-o", out)
    assert gone.code == 0, gone.stderr
    want = [json.loads(line)["messages"] for line in export.read_text().splitlines()]
    assert [json.loads(line)["messages"] for line in out.read_text().splitlines()] == want
    assert gone.stdout.startswith("2 conversations are in ")
    loaded = overt_cli("chat", "echo:x", stdin="/load how-are-ducks\n")
    assert loaded.stderr.splitlines()[-1] == "(2 messages of how-are-ducks are back)"
    refused = overt_cli("chats", "export", "--to", "openai", "-o", out)
    assert refused.code == 2
    assert "--replace" in refused.stderr


def test_a_file_is_converted_without_being_kept(
    overt_cli: OvertCli, export: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there.json"
    ran = overt_cli("chats", "convert", export, there, "--to", "claude")
    assert ran.code == 0
    assert "left behind: system prompt, which Claude's format has no place for (1)" in ran.stderr
    assert len(json.loads(there.read_text())) == 2
    assert overt_cli("chats", "list", "--json").stdout == '{"chats": []}\n'


def test_an_empty_one_is_counted_and_tools_do_not_stop_the_chat(
    overt_cli: OvertCli, tmp_path: Path
) -> None:
    calls = [{"id": "", "function": {"name": "f", "arguments": "{}"}}]
    rows = [
        {"messages": [{"role": "user", "content": "Go"},
                      {"role": "assistant", "tool_calls": calls}]},
        {"messages": []},
    ]  # fmt: skip
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    came = overt_cli("chats", "import", file, "--model", "echo:x")
    assert came.stdout == "1 of 2 conversations came in (format: openai)\n"
    assert came.stderr == "left behind: empty conversation (1)\n"
    ran = overt_cli("chat", "echo:x", "--json", stdin="/load go\nOn\n")
    assert json.loads(ran.stdout)["tokens_in"] == 6  # Go, (f was called: {}), On
