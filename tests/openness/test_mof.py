"""The Model Openness Framework: its tool's own test records, and the corners of its algorithm."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from overt.openness import records
from overt.openness.verdicts import mof
from overt.openness.verdicts.components import COMPONENTS, Availability
from overt.openness.verdicts.mof import ComponentItem, classify

LISTED = [
    line.split("\t")[0]
    for line in (Path(__file__).parents[1] / "data_sources.tsv").read_text("utf-8").splitlines()
]
TESTS = [name for name in LISTED if name.startswith("openness/mot_test_data/")]
RECORDS = [name for name in LISTED if name.startswith("openness/mot/")]
NAME = re.compile(r"_C1_(\d+)%-C2_(\d+)%-C3_(\d+)%_(\d+)C_(\d+)G_(\d+)L_(\d+)V_(\d+)I_(\d+)T$")
III = ("weights", "architecture", "evaluation_results", "model_card", "data_card", "report")
II = (*III, "training_code", "inference_code", "evaluation_code", "evaluation_data")
I = (*II, "training_data", "preprocessing_code", "checkpoints", "paper")  # noqa: E741


def listed(names: Sequence[str], licence: str | None = "MIT") -> list[ComponentItem]:
    return [ComponentItem(name, licence) for name in names]


def of_record(path: Path) -> list[ComponentItem]:
    record = records.read(path.read_text("utf-8"), path.name)
    assert record is not None
    return [
        ComponentItem(one.component, one.licence)
        for one in record.claims
        if one.availability > Availability.ABSENT
    ]


def test_the_27_are_listed() -> None:
    assert len(TESTS) == 27
    assert len(RECORDS) == 273


@pytest.mark.parametrize("compat", [True, False], ids=["compat", "fixed"])
@pytest.mark.parametrize("name", TESTS, ids=lambda name: Path(name).stem)
def test_records_of_the_tool(name: str, compat: bool, shared_data: Callable[[str], Path]) -> None:
    """As the tool's own check reads its names: 0 for a class while one below is not reached."""
    path = shared_data(name)
    match = NAME.search(path.stem)
    assert match
    one, two, three, components, _, _, valid, invalid, _ = map(int, match.groups())
    items = of_record(path)
    result = classify(items, compat=compat)
    reached = "none" if three < 100 else "III" if two < 100 else "II" if one < 100 else "I"
    assert result.class_ == reached
    assert round(result.progress["III"]) == three
    assert round(result.progress["II"]) == (two if three == 100 else 0)
    assert round(result.progress["I"]) == (one if two == three == 100 else 0)
    assert len(items) == components
    if compat:  # lists of open licences have grown since
        assert (result.valid, result.not_open) == (valid, invalid)


def test_type_appropriate_licences(shared_data: Callable[[str], Path]) -> None:
    """The tool's authors say that their names do not have this count right; 23 of 27 have."""
    agree = 0
    for name in TESTS:
        path = shared_data(name)
        match = NAME.search(path.stem)
        assert match
        result = classify(of_record(path), compat=True)
        agree += result.valid - result.inappropriate == int(match.group(9))
    assert agree == 23


def test_regression_on_the_tools_catalogue(shared_data: Callable[[str], Path]) -> None:
    """No truth: the tool stores no class. The same counts as an earlier port gave."""
    found = dict.fromkeys(("I", "II", "III", "none"), 0)
    for name in RECORDS:
        found[classify(of_record(shared_data(name)), compat=True).class_] += 1
    assert found == {"I": 14, "II": 1, "III": 16, "none": 242}


@pytest.mark.parametrize(
    ("names", "class_"),
    [((), "none"), (III[:-1], "none"), (III, "III"), (II, "II"), (I, "I"), (I[1:], "none")],
)
def test_classes(names: Sequence[str], class_: str) -> None:
    assert classify(listed(names)).class_ == class_


def test_what_each_class_requires() -> None:
    assert set(mof.required("III")) == set(III)
    assert set(mof.required("II")) == set(II)
    assert set(mof.required("I")) == set(I)


def test_a_paper_replaces_the_report() -> None:
    without = [name for name in I if name != "report"]
    assert classify(listed(without)).class_ == "I"
    assert classify(listed([*III[:-1], "paper"])).class_ == "III"
    # Twelve of the thirteen that are then needed.
    assert round(classify(listed([*II[:4], "data_card", "paper"])).progress["III"]) == 100


def test_a_paper_without_an_open_licence_replaces_nothing() -> None:
    items = [*listed(III[:-1]), ComponentItem("paper", None)]
    result = classify(items)
    assert result.class_ == "none"
    assert result.unlicensed["III"] == ("paper",)
    assert classify([*listed(I[:-1]), ComponentItem("paper", None)]).progress["I"] == pytest.approx(
        1300 / 14
    )
    # For class I the report stays required beside a paper that does not count.
    bad = [
        *listed([name for name in I if name not in ("paper", "report")]),
        ComponentItem("paper", "Foo"),
    ]
    assert classify(bad).share["I"] == pytest.approx(1200 / 14)


def test_a_report_that_is_open_needs_no_paper_below_class_one() -> None:
    assert classify([*listed(II), ComponentItem("paper", "proprietary")]).class_ == "II"


def test_missing_invalid_and_unlicensed() -> None:
    items = [
        *listed(III[:3]),
        ComponentItem("model_card", None),
        ComponentItem("data_card", "CC-BY-NC-4.0"),
    ]
    result = classify(items)
    assert result.missing["III"] == ("report",)
    assert result.unlicensed["III"] == ("model_card",)
    assert result.invalid["III"] == ("data_card",)
    assert result.progress == {"III": 50.0, "II": 0.0, "I": 0.0}
    assert (result.valid, result.not_open) == (3, 1)


@pytest.mark.parametrize("licence", ["PDDL-1.0", "C-UDA-1.0", "OpenMDW-1.1"])
def test_the_gaps_of_the_tools_list(licence: str) -> None:
    assert not mof.is_open(licence, compat=True)
    assert mof.is_open(licence)


@pytest.mark.parametrize(
    ("licence", "open_", "compat"),
    [
        ("MIT", True, True),
        ("Apache-2.0", True, True),
        ("apache-2.0", True, False),
        ("CC-BY-4.0", True, True),
        ("ODC-By-1.0", True, True),
        ("OpenMDW-1.0", True, True),
        ("CC-BY-NC-4.0", False, False),
        ("MIT OR CC-BY-NC-4.0", True, False),
        ("MIT AND CC-BY-NC-4.0", False, False),
        ("llama-3.1-license-2024", False, False),
        ("Undisclosed", False, False),
        ("", False, False),
        ("((", False, False),
    ],
)
def test_open_licences(licence: str, open_: bool, compat: bool) -> None:
    assert mof.is_open(licence) is open_
    assert mof.is_open(licence, compat=True) is compat


def test_what_is_listed_twice_counts_once_and_what_is_foreign_not_at_all() -> None:
    result = classify(
        [
            *listed(III),
            ComponentItem("weights", "MIT"),
            ComponentItem("tokenizer", "MIT"),
            ComponentItem("x"),
        ]
    )
    assert result.class_ == "III"
    assert classify([*listed(III), ComponentItem("weights", None)]).class_ == "none"


def test_classes_need_only_known_components() -> None:
    assert set(I) <= {one.name for one in COMPONENTS}
