"""The pack says what the files beside it say, and is never believed where it is behind."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from overt.openness import packed
from overt.openness.licence import names
from overt.openness.permissions import terms
from overt.openness.subject import families

ROOT = Path(__file__).parents[2]


def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("pack_data", ROOT / "scripts/pack_data.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_pack_is_what_the_script_makes() -> None:
    made = script().whole()
    assert packed.PACK.read_bytes() == made, "run: python scripts/pack_data.py"


@pytest.mark.parametrize("folder", ["terms", "models"])
def test_what_is_packed_is_what_stands_in_the_file(folder: str) -> None:
    for path in sorted((packed.DATA / folder).glob("*.toml")):
        data = path.read_bytes()
        assert packed.cached(f"{folder}/{path.stem}", data) == tomllib.loads(data.decode()), path


def test_a_changed_file_is_read_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "terms").mkdir()
    text = (packed.DATA / "terms/MIT.toml").read_text("utf-8")
    (tmp_path / "terms/MIT.toml").write_text(text.replace('id = "MIT"', 'id = "Mit"'), "utf-8")
    monkeypatch.setattr(packed, "DATA", tmp_path)
    assert packed.toml("terms/MIT")["id"] == "Mit"


@pytest.mark.parametrize("lost", [b"", b"# nothing\n"])
def test_without_a_pack_all_is_as_with_it(lost: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers() -> list[object]:
        for cached in (names._table, names._by_loose_name, families._family_index, families._read):
            cached.cache_clear()
        terms.load.cache_clear()
        words = ("apache-2.0", "llama3.2", "LicenseRef-Gemma", "CC BY NC 4.0", "gpl", "house rules")
        table = names._table()
        return [
            [names.canonical(one) for one in words],
            (table.ids, table.families, table.rows, table.lists, dict(names._by_loose_name())),
            terms.load("llama-3.2-license-2024"),
            families.find("meta-llama/Llama-3.1-8B"),
        ]

    before = answers()
    monkeypatch.setattr(packed, "_pack", lambda: lost)
    assert answers() == before
    monkeypatch.undo()
    assert answers() == before


def test_no_name_holds_a_line_break() -> None:
    table = names._table()
    every = [*table.rows, *(name for row in table.rows.values() for name in names._names(row))]
    assert names._keys(every) == [names._key(one) for one in every]


def test_a_key_is_its_own_key() -> None:
    keys = [one for one in names._table().ids if "--" not in one]
    assert [names._key(one) for one in keys] == keys
