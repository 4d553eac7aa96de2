"""`overt may` as a person and as a program type it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from conftest import ROOT, OvertCli
from gguf_writer import Tensor, write
from overt.openness.permissions.facts import FACTS
from overt.openness.permissions.may import Verdict

Shared = Callable[[str], Path]


def asked(cli: OvertCli, *words: str | Path, code: int | None = None) -> dict[str, Any]:
    """The one object of `overt may … --json`."""
    ran = cli("may", *words, "--json")
    if code is not None:
        assert ran.code == code, ran.stderr + ran.stdout
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """``model("llama3.1")``: a small GGUF whose header names that licence."""

    def make(licence: str | None, name: str = "it") -> Path:
        path = tmp_path / f"{name}.gguf"
        told = {"general.license": licence} if licence else {}
        write(
            path,
            {"general.architecture": "llama", "general.name": "It", **told},
            [Tensor("token_embd.weight", (32, 4))],
        )
        return path

    return make


# ---- answers -------------------------------------------------------------------------------------


def test_an_open_licence_allows(overt_cli: OvertCli, model: Callable[..., Path]) -> None:
    found = asked(overt_cli, model("apache-2.0"), "--commercial", "yes", code=0)
    assert found["verdict"] in ("allow", "allow_with_obligations")
    assert found["missing"] == []
    assert found["chain"][0]["licence"] == "Apache-2.0"
    assert found["facts"] == {"commercial": True}


def test_a_non_commercial_licence_denies(overt_cli: OvertCli, model: Callable[..., Path]) -> None:
    found = asked(overt_cli, model("cc-by-nc-4.0"), "--commercial", "yes", code=5)
    assert found["verdict"] == "deny"
    assert any(one["licence"] == "CC-BY-NC-4.0" and one["section"] for one in found["clauses"])


def test_what_is_not_known_is_named(overt_cli: OvertCli, model: Callable[..., Path]) -> None:
    found = asked(overt_cli, model("llama3.1"), code=6)
    assert found["verdict"] == "unknown"
    assert "mau_at_version_release" in found["missing"]
    below = asked(
        overt_cli, model("llama3.1"), "--mau", "5k", "--received-in-end-product", "no", code=0
    )
    assert below["verdict"] == "allow_with_obligations"
    above = asked(
        overt_cli, model("llama3.1"), "--mau", "800M", "--received-in-end-product", "no", code=5
    )
    assert above["verdict"] == "needs_permission"


def test_what_is_presumed_is_said(overt_cli: OvertCli, model: Callable[..., Path]) -> None:
    path = model("llama3.1")
    assert asked(overt_cli, path, code=6)["missing"] == ["mau_at_version_release"]
    found = asked(overt_cli, path, "--mau", "800M", code=5)
    assert found["verdict"] == "needs_permission"
    assert found["missing"] == ["received_in_end_product"]
    assert found["facts"] == {"mau_at_version_release": 800_000_000}
    assert any(one.startswith("it is presumed that you did not") for one in found["reasons"])
    lines = overt_cli("may", path, "--mau", "800M").stdout.splitlines()
    assert lines[-1].startswith("If it is otherwise: overt may ")
    assert lines[-1].endswith(" --end-product yes")
    assert any("received_in_end_product (taken to be no)" in line for line in lines)
    assert not any(line.startswith("To go on") for line in lines)
    asked(overt_cli, path, "--mau", "800M", "--end-product", "yes", code=0)
    rows = asked(overt_cli, "--facts", code=0)["facts"]
    presumed = {one["name"]: one["presumed"] for one in rows if one["presumed"] is not None}
    assert presumed == {"received_in_end_product": False}


def test_a_model_without_a_licence_cannot_be_judged(
    overt_cli: OvertCli, model: Callable[..., Path]
) -> None:
    found = asked(overt_cli, model(None), code=6)
    assert found["missing"] == ["licence of It"]


@pytest.mark.parametrize("ref", ["llama-3.1-8b", "openai:gpt-5", "smollm2", "llama3.2"])
def test_names_are_enough(overt_cli: OvertCli, ref: str) -> None:
    found = asked(overt_cli, ref, "--offline")
    assert found["model"] == ref
    assert found["chain"]


def test_a_fact_is_spelt_as_one_likes(overt_cli: OvertCli, model: Callable[..., Path]) -> None:
    path = model("llama3.1")
    ways = [
        ("--mau-at-version-release", "900M"),
        ("--mau_at_version_release", "900000000"),
        ("--mau", "900_000_000"),
        ("--mau_at_version_release=900M",),
    ]
    found = [asked(overt_cli, path, *way)["facts"] for way in ways]
    assert found == [{"mau_at_version_release": 900_000_000}] * 4


def test_several_things_are_distributed(overt_cli: OvertCli, model: Callable[..., Path]) -> None:
    path = model("mit")
    one = asked(overt_cli, path, "--distributes", "weights,product")
    two = asked(overt_cli, path, "--distributes", "product", "--distributes", "weights")
    assert one["facts"] == two["facts"] == {"distributes": ["weights", "product"]}


def test_a_card_and_a_text_of_a_folder_are_read(
    overt_cli: OvertCli, tmp_path: Path, shared_data: Shared
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: x/y\n---\n# It\n", "utf-8")
    text = shared_data("licences/CC-BY-NC-4.0.txt").read_text("utf-8")
    (folder / "LICENSE").write_text(text, "utf-8")
    found = asked(overt_cli, folder, "--commercial", "yes", "--offline", code=5)
    assert {one["licence"] for one in found["chain"]} == {"CC-BY-NC-4.0", "MIT", None}
    assert any("both are applied" in one for one in found["remarks"])


# ---- a bare text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--licence-file", "--license-file"])
def test_a_bare_text_is_recognised(overt_cli: OvertCli, shared_data: Shared, option: str) -> None:
    path = shared_data("licences/llama-3.1-license-2024.txt")
    found = asked(overt_cli, option, path)
    assert found["match"]["id"] == "llama-3.1-license-2024"
    assert found["match"]["altered"] is False
    assert found["match"]["riders"] == []
    assert "mau_at_version_release" in found["missing"]


def test_a_rider_is_quoted(overt_cli: OvertCli, tmp_path: Path, shared_data: Shared) -> None:
    text = shared_data("licences/Apache-2.0.txt").read_text("utf-8")
    path = tmp_path / "LICENSE"
    path.write_text(f"{text}\nThe Work shall not be used for any commercial purpose.\n", "utf-8")
    found = asked(overt_cli, "--licence-file", path, code=6)
    assert found["verdict"] == "unknown"
    assert found["match"]["altered"] is True
    assert any("commercial purpose" in one for one in found["match"]["riders"])
    human = overt_cli("may", "--licence-file", path)
    assert human.code == 6
    assert human.stdout.startswith("Cannot say yet")
    assert "commercial purpose" in human.stdout


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"words " * 200])
def test_any_bytes_are_a_text(overt_cli: OvertCli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "LICENSE"
    path.write_bytes(content)
    found = asked(overt_cli, "--licence-file", path, code=6)
    assert found["match"]["id"] is None
    assert found["verdict"] == "unknown"


# ---- for people ----------------------------------------------------------------------------------


def test_people_read_the_verdict_first(overt_cli: OvertCli, model: Callable[..., Path]) -> None:
    ran = overt_cli("may", model("llama3.1"))
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("Cannot say yet: ")
    assert "Not known" in lines
    assert lines[-1].startswith("To go on: overt may ")
    assert "--mau N" in lines[-1]
    denied = overt_cli("may", model("cc-by-nc-4.0"), "--commercial", "yes").stdout
    assert denied.startswith("Not allowed: ")
    assert "CC-BY-NC-4.0, section " in denied
    assert overt_cli("may", model("mit"), "--quiet").stdout.startswith("allow")


def test_a_name_cannot_drive_a_terminal(overt_cli: OvertCli, tmp_path: Path) -> None:
    path = tmp_path / "it.gguf"
    write(
        path,
        {"general.architecture": "llama", "general.name": "a\x1b[2Jb", "general.license": "x\x1by"},
        [Tensor("t", (32, 4))],
    )
    assert "\x1b" not in overt_cli("may", path).stdout


def test_on_a_terminal_it_asks_for_what_is_missing(model: Callable[..., Path]) -> None:
    path = model("llama3.1")
    ran = on_a_terminal(["may", str(path)], ["perhaps", "no", "5k", "", "", "", "", ""])
    assert "Enter alone means" in ran
    assert "say yes or no" in ran or "say a number" in ran
    assert "Allowed, under the conditions below" in ran or "Cannot say yet" in ran


def on_a_terminal(words: list[str], lines: list[str]) -> str:
    """What a terminal shows of that command while a person types `lines`."""
    import pty
    import select

    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "overt", *words],
        stdin=follower, stdout=follower, stderr=follower, env=dict(os.environ),
    )  # fmt: skip
    os.close(follower)
    os.write(leader, ("\n".join(lines) + "\n\x04").encode())
    shown = b""
    try:
        while select.select([leader], [], [], 60)[0]:
            try:
                piece = os.read(leader, 65_536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
    finally:
        os.close(leader)
        process.wait(60)
    return shown.decode("utf-8", "replace")


# ---- facts that are kept -------------------------------------------------------------------------


def test_facts_are_kept_and_flags_and_profiles_go_before_them(
    overt_cli: OvertCli, home: Path, tmp_path: Path, model: Callable[..., Path]
) -> None:
    path = model("mit")
    given = ("--commercial", "yes", "--mau", "5k", "--distributes", "weights")
    asked(overt_cli, path, *given, "--save")
    assert (home / "use.toml").read_text("utf-8").splitlines()[1:] == [
        "commercial = true", 'distributes = ["weights"]', "mau_at_version_release = 5000",
    ]  # fmt: skip
    profile = tmp_path / "profile.toml"
    profile.write_text('mau = "7k"\ncommercial = false\n', "utf-8")
    found = asked(overt_cli, path, "--profile", profile, "--mau", "9k")["facts"]
    assert found == {
        "commercial": False, "distributes": ["weights"], "mau_at_version_release": 9000,
    }  # fmt: skip
    shown = overt_cli("may", "--facts")
    assert shown.code == 0
    assert all(one.name in shown.stdout for one in FACTS)
    assert "5000" in shown.stdout
    listed = asked(overt_cli, "--facts", code=0)
    assert {one["name"]: one["value"] for one in listed["facts"]}["commercial"] is True


def test_facts_can_be_kept_without_a_model(overt_cli: OvertCli, home: Path) -> None:
    assert overt_cli("may", "--commercial", "no", "--save").code == 0
    assert "commercial = false" in (home / "use.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no model is named"),
        (("./none.gguf",), "none.gguf"),
        (("it", "--mau", "many"), "mau_at_version_release is 'many'"),
        (("it", "--commercial", "perhaps"), "say yes or no"),
        (("it", "--profile", "none.toml"), "none.toml"),
        (("--licence-file", "none"), "none"),
        (("it", "--licence-file", "none"), "both named"),
        (("it", "--distributes", "everything"), "distributes is 'everything'"),
    ],
)
def test_mistakes_are_named(overt_cli: OvertCli, words: tuple[str, ...], says: str) -> None:
    ran = overt_cli("may", *words)
    assert ran.code in (2, 3)
    assert says in ran.stderr
    assert ran.stdout == ""


# ---- handing it on -------------------------------------------------------------------------------


def test_a_notice_folder_is_written(
    overt_cli: OvertCli, tmp_path: Path, model: Callable[..., Path]
) -> None:
    path, out = model("llama3.1"), tmp_path / "out"
    words = (path, "--distributes", "weights", "--mau", "1k", "--received-in-end-product", "no")
    found = asked(overt_cli, *words, "--notice", out, code=0)
    assert found["notice"]["files"] == ["NOTICE", "OBLIGATIONS.md"]
    assert found["notice"]["name_prefix"] == ["Llama"]
    assert "llama-3.1-license-2024" in [one["licence"] for one in found["notice"]["missing"]]
    assert "Llama 3.1 is licensed under" in (out / "NOTICE").read_text("utf-8")
    again = overt_cli("may", *words, "--notice", out)
    assert again.code == 2
    assert "is not empty" in again.stderr
    assert overt_cli("may", *words, "--notice", out, "--force").code == 0


# ---- the policy ----------------------------------------------------------------------------------


def test_a_forbidden_export_is_remarked_on_or_refused(
    overt_cli: OvertCli, tmp_path: Path, model: Callable[..., Path]
) -> None:
    folder = tmp_path / "desk"
    folder.mkdir()
    model("mrl-0.1").rename(folder / "it.gguf")
    assert overt_cli("may", "--commercial", "yes", "--save").code == 0
    made = folder / "Modelfile"
    made.write_text("FROM ./it.gguf\n", "utf-8")
    assert overt_cli("create", "it", "-f", made).code == 0
    refused = overt_cli("export", "it", tmp_path / "it.tar", env={"OVERT_LICENCE": "enforce"})
    assert refused.code == 5
    assert "does not allow this use" in refused.stderr
    assert not (tmp_path / "it.tar").exists()
    off = overt_cli("export", "it", tmp_path / "off.tar", env={"OVERT_LICENCE": "off"})
    assert "licence" not in off.stderr
    warned = overt_cli("export", "it", tmp_path / "it.tar")
    assert "does not allow this use" in warned.stderr


def test_the_setting_takes_three_words(overt_cli: OvertCli) -> None:
    ran = overt_cli("settings", env={"OVERT_LICENCE": "sometimes"})
    assert ran.code == 2
    assert "set it to off, warn or enforce" in ran.stderr


def test_show_licence_still_shows_the_licence(
    overt_cli: OvertCli, model: Callable[..., Path]
) -> None:
    ran = overt_cli("show", model("mit"), "--licence")
    assert ran.code == 0
    assert "stated in its file: mit" in ran.stdout


def test_the_document_names_every_fact_and_verdict() -> None:
    text = (ROOT / "docs/may.md").read_text("utf-8")
    for one in FACTS:
        for name in (one.name, *one.aliases):
            assert f"`--{name.replace('_', '-')}`" in text
        assert all(f"`{value}`" in text for value in one.values)
    for verdict in get_args(Verdict):
        assert f"| `{verdict}` |" in text
