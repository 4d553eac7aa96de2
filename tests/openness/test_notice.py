"""The folder that goes along with a model that is handed on."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import Failure, UsageError
from overt.openness.permissions import chain, may, notice
from overt.openness.permissions.notice import Bundle, copyright_lines
from overt.openness.subject.record import Parent, Record
from overt.openness.subject.subject import Subject, SubjectFile
from overt.settings import Settings, load

Shared = Callable[[str], Path]


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def made(settings: Settings, folder: Path, record: Record, files: dict[str, str]) -> Bundle:
    listed = []
    for name, text in sorted(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        listed.append(SubjectFile(name, path.stat().st_size, path))
    subject = Subject("it", tuple(listed), record, place=True)
    links = chain.of(subject, settings)
    return notice.bundle(subject, links, may.decide(links.links, {"distributes": ("weights",)}))


def test_a_llama_asks_for_its_line_its_name_and_its_text(
    settings: Settings, tmp_path: Path
) -> None:
    found = made(settings, tmp_path, Record("it", licence="llama3.1"), {})
    line = found.files["NOTICE"].decode()
    assert "Llama 3.1 is licensed under the Llama 3.1 Community License" in line
    assert "Meta Platforms" in line
    assert found.prefix == ("Llama",)
    assert "Built with Llama" in found.shown
    duties = found.files["OBLIGATIONS.md"].decode()
    assert "“Llama”" in duties
    assert "Built with Llama" in duties
    missing = {one.licence: one for one in found.missing}
    assert missing["llama-3.1-license-2024"].url.startswith("https://")
    assert missing["llama-3.1-license-2024"].of == ("it",)


def test_texts_of_the_model_are_copied_byte_for_byte(
    settings: Settings, tmp_path: Path, shared_data: Shared
) -> None:
    licence = shared_data("licences/Apache-2.0.txt").read_text("utf-8")
    found = made(
        settings,
        tmp_path,
        Record("it", licence="apache-2.0"),
        {"LICENSE": licence, "NOTICE": "It\r\nCopyright 2024 Ada\r\n", "model.gguf": "no text"},
    )
    assert found.files["licences/LICENSE"] == licence.encode()
    assert found.files["licences/NOTICE"] == b"It\r\nCopyright 2024 Ada\r\n"
    assert found.missing == ()
    assert "Copyright 2024 Ada" in found.files["NOTICE"].decode()
    assert set(found.files) == {"NOTICE", "OBLIGATIONS.md", "licences/LICENSE", "licences/NOTICE"}


def test_the_text_of_a_base_is_named_as_missing(settings: Settings, tmp_path: Path) -> None:
    record = Record("it", licence="mit", parents=(Parent("x/y", "base", "apache-2.0"),))
    found = made(settings, tmp_path, record, {})
    assert {one.licence: one.of for one in found.missing} == {
        "MIT": ("it",), "Apache-2.0": ("x/y",),
    }  # fmt: skip


def test_the_same_model_gives_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    record = Record("it", licence="gemma", parents=(Parent("x/y", "base", "llama3.2"),))
    assert made(settings, tmp_path, record, {}) == made(settings, tmp_path, record, {})


def test_names_cannot_write_markdown(settings: Settings, tmp_path: Path) -> None:
    found = made(settings, tmp_path, Record("# [it](x)\n# two", licence="mit"), {})
    head = found.files["OBLIGATIONS.md"].decode().splitlines()[0]
    assert head == r"# \# \[it\](x) \# two: what goes along with it"


def test_a_folder_with_something_in_it_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    found = made(settings, tmp_path / "model", Record("it", licence="mit"), {"LICENSE": "x"})
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("mine", "utf-8")
    with pytest.raises(UsageError, match="is not empty"):
        notice.write(found, target)
    assert [one.name for one in target.iterdir()] == ["mine"]
    notice.write(found, target, force=True)
    assert {one.name for one in target.iterdir()} == {
        "mine",
        "NOTICE",
        "OBLIGATIONS.md",
        "licences",
    }
    assert stat.S_IMODE((target / "NOTICE").stat().st_mode) == 0o644


def test_a_place_that_is_no_folder_is_named(settings: Settings, tmp_path: Path) -> None:
    found = made(settings, tmp_path / "model", Record("it", licence="mit"), {})
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(UsageError, match="is a file"):
        notice.write(found, tmp_path / "file")
    with pytest.raises((Failure, UsageError)):
        notice.write(found, tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Copyright 2024 Ada Lovelace\n", ("Copyright 2024 Ada Lovelace",)),
        ("  Copyright (c) 2023-2024 Some Lab. All rights reserved.", None),
        ("© 2024 A\n© 2024 A\n", ("© 2024 A",)),
        ("Copyright [yyyy] [name of copyright owner]", ()),
        ("Copyright (c) <year> <owner>", ()),
        ("each copyright notice of 2004 shall stay where it stands in all copies of it", ()),
        ("the Copyright Act of 1976", ()),
    ],
)
def test_copyright_lines_are_found(text: str, lines: tuple[str, ...] | None) -> None:
    assert copyright_lines(text) == ((" ".join(text.split()),) if lines is None else lines)


@given(st.text(max_size=2000))
def test_any_text_has_a_bounded_number_of_copyright_lines(text: str) -> None:
    assert all(len(line) <= 300 and "\n" not in line for line in copyright_lines(text))
