"""The files of the catalogue: every cell has a source, a day, a component, a known licence."""

from collections.abc import Iterator
from datetime import date
from typing import Any, get_args

import pytest

from overt.openness import packed
from overt.openness.licence import names as licences
from overt.openness.subject import families
from overt.openness.subject.record import Relation, SubjectKind
from overt.openness.verdicts.components import BY_NAME, Availability

FAMILIES = families._families()
FACTS = {
    "parameters": int,
    "context_length": int,
    "modality": str,
    "producer": str,
    "released": str,
    "training_flop": float,
    "systemic_risk": bool,
}


def nodes(family: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, content in families._read(family).items():
        if isinstance(content, dict) and name != "sources":
            yield name, content


@pytest.mark.parametrize("family", FAMILIES)
def test_every_source_has_an_address_a_day_and_a_grade(family: str) -> None:
    for address, day, grade in families._read(family)["sources"].values():
        assert address
        assert date(2024, 1, 1) < date.fromisoformat(day) <= date(2026, 11, 25)
        assert grade in families.GRADES
        assert grade != "primary" or address.startswith("https://")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_has_a_component_an_availability_and_a_source(family: str) -> None:
    sources = families._read(family)["sources"]
    for name, node in nodes(family):
        cells = node.get("cells", [])
        assert len({cell[0] for cell in cells}) == len(cells), name
        for cell in cells:
            assert 4 <= len(cell) <= 6, cell
            assert cell[0] in BY_NAME
            assert Availability[cell[1].upper()] is not Availability.UNKNOWN
            assert cell[3] in sources
            assert len(cell) < 5 or not cell[4] or cell[4].startswith("https://"), cell
            assert len(cell) < 6 or len(cell[5]) <= 200, cell
        assert set(node.get("without", ())) <= set(BY_NAME)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_licence_is_canonical(family: str) -> None:
    for _, node in nodes(family):
        used = {cell[2] for cell in node.get("cells", ())} | {node.get("licence", "")}
        used |= {parent[2] for parent in node.get("parents", ())}
        assert {one: licences.canonical(one) for one in used if one} == {
            one: one for one in used if one
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_and_parents_are_of_their_kinds_and_have_a_source(family: str) -> None:
    sources = families._read(family)["sources"]
    for name, node in nodes(family):
        for key, value in node.get("facts", {}).items():
            assert type(value) is FACTS[key], (name, key)
        assert node.get("facts", {}).get("modality", "text") in ("text", "multimodal")
        assert {node[key] for key in ("facts_from", "sizes_from") if key in node} <= set(sources)
        assert "sizes" not in node or "sizes_from" in node
        assert "said" not in node or "fmti" in sources
        assert node.get("kind", "model") in get_args(SubjectKind)
        for _, relation, _, source in node.get("parents", ()):
            assert relation in get_args(Relation)
            assert source in sources


@pytest.mark.parametrize("family", FAMILIES)
def test_no_source_is_there_for_nothing(family: str) -> None:
    used = {"fmti"}
    for _, node in nodes(family):
        used |= {cell[3] for cell in node.get("cells", ())}
        used |= {parent[3] for parent in node.get("parents", ())}
        used |= {node.get("facts_from", ""), node.get("sizes_from", "")}
    assert set(families._read(family)["sources"]) <= used


@pytest.mark.parametrize("family", FAMILIES)
def test_the_index_lists_the_nodes_of_the_file(family: str) -> None:
    written = {name for name, _ in nodes(family)}
    assert set(families._nodes(family)) == written - {"base"}
    assert all(node.get("under", "base") in written for _, node in nodes(family))
    assert all("{" not in owner and owner == owner.lower() for owner in
               families._read(family)["owners"])  # fmt: skip


def test_no_name_leads_to_two_nodes() -> None:
    listed = [key for nodes in families._read("index").values() for one in nodes.values()
              for key in one]  # fmt: skip
    assert len(listed) == len(set(listed))
    for key in listed:
        name, _, size = key.partition("@")
        assert name == families._squeezed(families._plain(name))
        assert not size or size == families._squeezed(size)


def test_every_file_is_a_family_of_the_index() -> None:
    files = {path.stem for path in (packed.DATA / "models").glob("*.toml")}
    assert files == {*FAMILIES, "index"}


def test_every_record_claims_something_about_its_weights() -> None:
    for name, record in zip(families.names(), families.all_records(), strict=True):
        weights = record.claim("weights")
        assert weights is not None, name
        assert weights.source, name
        assert weights.date, name
        assert record.facts["producer"], name
        if record.kind == "api":
            assert weights.availability == Availability.ABSENT, name
            assert record.licence, name


def test_a_cell_that_is_not_from_the_producer_says_so() -> None:
    for name, record in zip(families.names(), families.all_records(), strict=True):
        for claim in record.claims:
            grade = families.sources(name)[claim.component].grade
            assert families.GRADES[grade] in claim.note
