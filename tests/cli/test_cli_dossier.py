"""`overt dossier` as a person types it."""

import json
from pathlib import Path

import pytest

import tiny_models as tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.release(tmp_path / "model")


def data(result) -> dict:
    assert result.code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_json_has_what_was_promised(overt_cli, model):
    found = data(overt_cli("dossier", str(model), "--json"))
    assert set(found["step"]) == {"declared", "verified"}
    assert found["step"]["verified"] == "open_weights"
    assert found["mof"] == {"declared": "none", "verified": "none"}
    assert len(found["components"]) == 21
    for one in found["components"]:
        assert {"name", "state", "availability", "licence", "evidence"} <= set(one)
        assert one["state"] in ("verified", "declared", "missing", "contradicted")
        for piece in one["evidence"]:
            assert piece["id"].startswith("sha256:")
            assert piece["at"]


def test_the_same_input_gives_the_same_bytes(overt_cli, model, tmp_path):
    first = overt_cli("dossier", str(model), "--json")
    again = overt_cli("dossier", str(model), "--json")
    elsewhere = overt_cli("dossier", str(model), "--json", "--home", str(tmp_path / "other"))
    assert first.stdout == again.stdout == elsewhere.stdout


def test_for_people_the_spectrum_is_drawn(overt_cli, model):
    result = overt_cli("dossier", str(model))
    assert result.code == 0, result.stderr
    assert "as claimed" in result.stdout
    assert "as verified" in result.stdout
    assert "Final weights" in result.stdout


@pytest.mark.parametrize(
    ("kind", "begins"),
    [
        ("html", "<!doctype html>"),
        ("badge", "<svg"),
        ("cyclonedx", "{"),
        ("spdx", "{"),
        ("intoto", "{"),
        ("mof", "framework:"),
        ("osai", ""),
    ],
)
def test_other_forms_go_to_stdout_or_a_file(overt_cli, model, tmp_path, kind, begins):
    result = overt_cli("dossier", str(model), "--format", kind)
    assert result.code == 0, result.stderr
    assert result.stdout.lower().startswith(begins)
    target = tmp_path / "out"
    again = overt_cli("dossier", str(model), "--format", kind, "-o", str(target))
    assert again.stdout == ""
    assert target.read_text("utf-8") == result.stdout


def test_a_closed_model_and_a_catalogue_name(overt_cli):
    closed = data(overt_cli("dossier", "openai:gpt-5", "--json"))
    assert closed["step"] == {"declared": "fully_closed", "verified": "fully_closed"}
    known = data(overt_cli("dossier", "olmo-2", "--json", "--offline"))
    assert known["step"]["declared"] == "fully_open"


def test_check_finds_a_step_back_and_stays_red_until_it_is_seen(overt_cli, model):
    data(overt_cli("dossier", str(model), "--json"))
    assert data(overt_cli("dossier", "check", str(model), "--json"))["ok"]
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    for _ in range(2):
        result = overt_cli("dossier", "check", str(model), "--json")
        assert result.code == 1
        (one,) = json.loads(result.stdout)["checked"]
        assert any(line["after"] == "contradicted" for line in one["regressions"])
    (model / "config.json").write_text(json.dumps(config))
    assert data(overt_cli("dossier", "check", "--json"))["ok"]


def test_check_against_a_saved_dossier_needs_no_home(overt_cli, model, tmp_path):
    saved = tmp_path / "saved.json"
    saved.write_text(overt_cli("dossier", str(model), "--json").stdout)
    (model / "model.safetensors").write_bytes(b"\0" * 100)
    result = overt_cli(
        "dossier", "check", str(model), "--against", str(saved), "--home", str(tmp_path / "h")
    )
    assert result.code == 1
    assert "weights" in result.stdout


def test_diff_takes_models_and_saved_dossiers(overt_cli, model, tmp_path):
    other = tiny.release(tmp_path / "other", config={"hidden_size": 64})
    saved = tmp_path / "saved.json"
    saved.write_text(overt_cli("dossier", str(model), "--json").stdout)
    found = data(overt_cli("dossier", "diff", str(saved), str(other), "--json"))
    assert any(one["after"] == "contradicted" for one in found["changes"])
    same = overt_cli("dossier", "diff", str(model), str(model))
    assert same.stdout.strip() == "no difference"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("dossier", "./nothing-here"), 3, "there is no file"),
        (("dossier", "echo:x"), 2, "no model"),
        (("dossier", "a", "b"), 2, "too many"),
        (("dossier", "check", "./x", "--against", "nope.json"), 2, "cannot be read"),
        (("dossier", "a", "--json", "--html"), 2, "exclude each other"),
        (("dossier", "nobody/knows"), 2, ""),
        (("dossier", "check", "smollm2"), 2, "no earlier dossier"),
    ],
)
def test_what_makes_no_sense_ends_in_a_sentence(overt_cli, arguments, code, says):
    result = overt_cli(*arguments)
    assert result.code == code
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"a: &x [1]\nb: *x\n",
        b"\xff\xfe\x00",
        b"a: !!python/object:os.system x\n",
        b"",
    ],
)
def test_a_record_that_is_none_ends_in_a_sentence(overt_cli, tmp_path, content):
    path = tmp_path / "record.yaml"
    path.write_bytes(content)
    result = overt_cli("dossier", str(path))
    assert result.code == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_statement_is_signed_with_the_key_of_the_home(overt_cli, model):
    result = overt_cli("dossier", str(model), "--format", "intoto", "--sign")
    assert result.code == 0, result.stderr
    envelope = json.loads(result.stdout)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert envelope["signatures"][0]["sig"]
    assert overt_cli("dossier", str(model), "--sign").code == 2
