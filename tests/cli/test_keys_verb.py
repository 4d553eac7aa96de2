"""`overt keys`: what it prints, once and never again."""

import json
from pathlib import Path

import pytest

from conftest import OvertCli
from overt.cli.keys import seconds
from overt.errors import BadRequest
from overt.server.api_keys import ApiKeys


def test_add_prints_the_key_on_stdout_and_the_rest_beside_it(
    home: Path, overt_cli: OvertCli
) -> None:
    ran = overt_cli("keys", "add", "laptop", "--expires", "90d")
    key = ran.stdout.strip()
    assert (ran.code, key[:6], len(key)) == (0, "sk-ov-", 35)
    assert "sk-lm-" in ran.stderr
    assert "only time it is shown" in ran.stderr
    caller = ApiKeys(home).find(key)
    assert caller is not None
    assert caller.name == "laptop"
    kept = ApiKeys(home).all()[0]
    assert kept.expires is not None
    assert kept.expires - kept.created == pytest.approx(90 * 86400)
    quiet = overt_cli("keys", "add", "--lm-studio", "--quiet")
    assert quiet.stdout.startswith("sk-lm-")
    assert quiet.stderr == ""
    said = json.loads(overt_cli("keys", "add", "--json").stdout)
    assert ApiKeys(home).find(said["key"]) == ApiKeys(home).find(said["lm_studio"]) is not None
    assert said["state"] == "works"


def test_list_shows_no_secret_and_revoke_ends_a_key(home: Path, overt_cli: OvertCli) -> None:
    assert "overt keys add" in overt_cli("keys", "list").stdout
    new = ApiKeys(home).add("phone")
    ApiKeys(home).add("short", seconds=1e-6)
    listed = overt_cli("keys", "list")
    assert new.text[-20:] not in listed.stdout + listed.stderr
    assert new.key.sha256 not in listed.stdout
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert rows[1][:3] == [new.key.id, "phone", "works"]
    assert rows[2][1:3] == ["short", "expired"]
    assert overt_cli("keys", "list", "-q").stdout.split() == [new.key.id]
    gone = overt_cli("keys", "revoke", new.key.id)
    assert (gone.code, gone.stderr) == (0, f"revoked {new.key.id} (phone)\n")
    again = overt_cli("keys", "revoke", new.key.id)
    assert again.code == 3
    assert "was revoked before; `overt keys list` shows the ids" in again.stderr
    said = json.loads(overt_cli("keys", "list", "--json").stdout)["keys"]
    assert [one["state"] for one in said] == ["revoked", "expired"]
    assert said[0]["revoked"].endswith("Z")


def test_times_as_people_write_them() -> None:
    assert [seconds(text) for text in ("30m", "12h", "90d", "2w", "1y", "7", "1.5 h")] == [
        1800, 43200, 7776000, 1209600, 31536000, 604800, 5400,
    ]  # fmt: skip
    for text in ("", "d", "-1d", "1e9d", "90 days", "1s", "1d2h", "9999999d"):
        with pytest.raises(BadRequest):
            seconds(text)
