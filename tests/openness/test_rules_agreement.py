"""scripts/openness_agreement.py: agreement with other indexes on the records that are here.

Fit no special cases to this: other records of the same indexes are tried elsewhere.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "scripts/openness_agreement.py"
    spec = importlib.util.spec_from_file_location("openness_agreement", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["openness_agreement"] = module
    spec.loader.exec_module(module)
    return module


def test_agreement_with_the_indexes(script: ModuleType, shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("openness/osai/OLMo.yaml").parents[1]
    found = script.agreement(folder)
    assert (len(found.osai.rows), len(found.os_ai_map.rows)) == (97, 18)
    assert found.osai.share >= 0.95
    assert found.osai.kappa > 0.9
    both = found.osai.agreed + found.os_ai_map.agreed
    assert both / (97 + 18) >= 0.95
    # Its class weighs the licence, its own components say that data and code are open.
    assert [row.name for row in found.os_ai_map.disagreements] == ["nemotron-3"]
    assert all(row.reason for row in (*found.osai.disagreements, *found.os_ai_map.disagreements))
    assert all(one["class"][0] == one["class"][1] for one in found.mot_tests)
    assert all(one["progress"][0] == one["progress"][1] for one in found.mot_tests)
    assert found.mot_classes == {"I": 14, "II": 1, "III": 16, "none": 242}
    page = script.render(found)
    assert page == script.render(script.agreement(folder))
    assert "| nemotron-3 | open_weights | fully_open |" in page


@pytest.mark.parametrize(
    ("pairs", "value"),
    [
        ([("a", "a"), ("b", "b")], 1.0),
        ([("a", "b"), ("b", "a")], -1.0),
        ([("a", "a")] * 5, None),
        ([], None),
        # Cohen 1960 in small: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no.
        ([("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15, 0.4),
    ],
)
def test_kappa(script: ModuleType, pairs: list[tuple[str, str]], value: float | None) -> None:
    assert script.kappa(pairs) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("cells", "label"),
    [
        ("OOOOO", "fully_open"),
        ("OOCOO", "open_weights"),
        ("CCPPC", "open_weights"),
        ("CCCOC", "open_weights"),
        ("PPCCO", "partially_open"),
        ("CCCCC", "fully_closed"),
    ],
)
def test_labels(script: ModuleType, cells: str, label: str) -> None:
    words = {"O": "open", "P": "partial", "C": "closed"}
    raw = {key: {"class": words[one]} for key, one in zip(script.AVAILABLE, cells, strict=True)}
    assert script.osai_label(raw) == label
