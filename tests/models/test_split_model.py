"""A real model cut into files answers as the whole one does, from a folder and from the store."""

import json
from pathlib import Path

import pytest

from conftest import OvertCli
from gguf_split import cut
from overt.formats import gguf
from overt.models.pull import find
from overt.settings import load
from servers import Hub, serving

pytestmark = pytest.mark.model

ASK = ("run", "--json", "--temperature", "0", "--max-tokens", "12", "--context", "512")


def answer(cli: OvertCli, ref: str | Path) -> dict[str, object]:
    ran = cli(*ASK, ref, "Name three colours.")
    assert ran.code == 0, ran.stderr
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def test_a_split_model_answers_as_the_whole_one(
    smollm2_gguf: Path, tmp_path: Path, overt_cli: OvertCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "whole.gguf"
    named.symlink_to(smollm2_gguf)
    expected = answer(overt_cli, named)
    assert expected["text"]
    parts = cut(smollm2_gguf, tmp_path / "cut", 3, "smollm2-Q4_1")
    local = answer(overt_cli, parts[0])
    folder = answer(overt_cli, parts[0].parent)
    assert local["text"] == folder["text"] == expected["text"]

    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    files = {f"Q4_1/{path.name}": path.read_bytes() for path in parts}
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        Hub(server, server, "org/cut", files, frozenset(files))
        ran = overt_cli("pull", "--json", "hf:org/cut")
        assert ran.code == 0, ran.stderr
    stored = answer(overt_cli, "hf:org/cut")
    assert stored["text"] == expected["text"]
    assert stored.get("isolation") == expected.get("isolation")  # nothing was opened up for it

    ran = overt_cli("show", "--json", "hf:org/cut")
    shown = json.loads(ran.stdout)
    whole = gguf.read(smollm2_gguf)
    assert shown["parameters"] == whole.parameters
    assert shown["bits_per_weight"] == round(whole.bits_per_weight, 3)
    assert len(shown["parts"]) == 3
    assert shown["size"] == sum(map(len, files.values()))
    assert shown["templates"]["default"] == {"ok": True, "escapes": [], "failed": None}
    assert find("hf:org/cut", load()).weights.parent.parent.name == "views"
