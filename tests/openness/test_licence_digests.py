"""Texts known by their digest are what the matcher finds them to be."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from overt.openness.licence import digests, match, names
from overt.openness.permissions import gate
from overt.openness.subject.named_licences import StatedLicence

Shared = Callable[[str], Path]


def listed() -> list[list[str]]:
    lines = digests.FILE.read_text("utf-8").splitlines()
    assert lines[0].startswith("#")
    return [line.split("\t") for line in lines[1:]]


def test_every_line_is_a_digest_and_an_id() -> None:
    rows = listed()
    assert len({digest for digest, _ in rows}) == len(rows) > 100
    for digest, one in rows:
        assert re.fullmatch("[0-9a-f]{64}", digest)
        assert names.canonical(one) == one


def test_the_matcher_says_the_same_of_the_texts_at_hand(shared_data: Shared) -> None:
    seen = 0
    for path in sorted(shared_data("licences/index.tsv").parent.glob("*.txt")):
        text = path.read_text("utf-8")
        known = digests.id_of(text)
        found = match.match(text)
        if known:
            seen += 1
            assert (found.id, found.altered, found.others) == (known, False, ())
            assert found.kind in ("exact", "near")
    assert seen > 30


def test_only_layout_may_differ(shared_data: Shared) -> None:
    text = shared_data("licences/Apache-2.0.txt").read_text("utf-8")
    assert digests.id_of(text) == "Apache-2.0"
    assert digests.id_of(text.replace("\n", "\r\n  ")) == "Apache-2.0"
    for changed in (
        text.replace("perpetual", "revocable"),
        text.replace("not", "", 1),
        f"{text} Not for profit.",
        text[:-200],
        "",
    ):
        assert digests.id_of(changed) is None


def test_a_gate_does_not_lay_a_known_text_over_anything(
    shared_data: Shared, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match, "match", lambda _: pytest.fail("its digest is known"))
    path = tmp_path / "LICENSE"
    path.write_bytes(shared_data("licences/llama-3.1-license-2024.txt").read_bytes())
    assert gate._recognised(("LICENSE", "", path), home) == (
        StatedLicence("llama-3.1-license-2024"),
    )
    path.write_bytes(shared_data("licences/gemma-pup-2024-02-21.txt").read_bytes())
    assert gate._recognised(("LICENSE", "", path), home) == ()
