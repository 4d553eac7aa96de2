"""Two files that should be the same: the first tensor, element, field or byte that is not."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from overt.provenance.diff import differ

RNG = np.random.default_rng(1)
ROWS = RNG.normal(size=(6, 64)).astype("<f4")


def _gguf(path: Path, type: str, rows: np.ndarray[Any, Any] = ROWS, **fields: str) -> Path:
    writer = GGUFWriter(str(path), "llama")
    for key, text in fields.items():
        writer.add_string(f"general.{key}", text)
    kind = GGMLQuantizationType[type]
    data = rows.astype("<f4") if type == "F32" else quants.quantize(rows, kind)
    writer.add_tensor("one", np.ones((2, 64), "<f4"))
    writer.add_tensor("two", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _changed(by: float, at: tuple[int, int] = (4, 33)) -> np.ndarray[Any, Any]:
    rows = ROWS.copy()
    rows[at] += by
    return rows


@pytest.mark.parametrize("type", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_the_first_element_of_a_gguf_tensor(tmp_path: Path, type: str) -> None:
    old = _gguf(tmp_path / "old.gguf", type)
    new = _gguf(tmp_path / "new.gguf", type, _changed(3.0))
    found = differ("w.gguf", old, new)
    assert found is not None
    assert (found.tensor, found.tensors, found.field) == ("two", 1, "")
    assert found.index[0] == 4
    before, after = (
        quants.dequantize(quants.quantize(rows, GGMLQuantizationType[type]),
                          GGMLQuantizationType[type]) if type != "F32" else rows
        for rows in (ROWS, _changed(3.0))
    )  # fmt: skip
    gap = np.abs(before.astype(float) - after)
    assert found.index == tuple(np.argwhere(gap)[0])
    assert found.recorded == pytest.approx(before[found.index])
    assert found.here == pytest.approx(after[found.index])
    assert found.max_difference == pytest.approx(gap.max())
    assert found.largest == found.relative == pytest.approx(gap.max() / np.abs(before).max())
    assert "two[4, " in found.sentence


def test_the_largest_of_all_tensors_counts(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    a = {"a": np.array([1.0, 4.0], "<f4"), "b": np.array([[1.0], [2.0]], "<f4")}
    save_file(a, str(old))
    save_file({"a": np.array([1.0, 4.5], "<f4"), "b": np.array([[2.0], [2.0]], "<f4")}, str(new))
    found = differ("w", old, new)
    assert found is not None
    assert (found.tensor, found.index, found.relative) == ("a", (1,), 0.125)
    assert (found.largest, found.tensors) == (0.5, 2)


@pytest.mark.parametrize("type", ["<f8", "<f2", "<i4", "?"])
def test_types_of_safetensors(tmp_path: Path, type: str) -> None:
    for name, last in (("old", 0), ("new", 1)):
        save_file({"x": np.array([1, 0, last], type)}, str(tmp_path / name))
    found = differ("w", tmp_path / "old", tmp_path / "new")
    assert found is not None
    assert (found.tensor, found.index, found.max_difference) == ("x", (2,), 1.0)


def test_other_shapes_and_fields_are_no_matter_of_tolerance(tmp_path: Path) -> None:
    old = _gguf(tmp_path / "a.gguf", "F32", name="mine")
    field = differ("w", old, _gguf(tmp_path / "b.gguf", "F32", name="yours"))
    assert field is not None
    assert (field.field, field.recorded, field.here) == ("general.name", "mine", "yours")
    shape = differ("w", old, _gguf(tmp_path / "c.gguf", "F32", ROWS[:5], name="mine"))
    assert shape is not None
    assert (shape.tensor, shape.recorded, shape.here) == ("two", "F32 [6, 64]", "F32 [5, 64]")
    assert field.largest == shape.largest == math.inf
    assert json.dumps(shape.as_json(), allow_nan=False)


def test_not_a_number_is_far_from_every_number(tmp_path: Path) -> None:
    old = _gguf(tmp_path / "a.gguf", "F32")
    found = differ("w", old, _gguf(tmp_path / "b.gguf", "F32", _changed(math.nan)))
    assert found is not None
    assert found.largest == math.inf
    assert json.dumps(found.as_json(), allow_nan=False)


def test_the_same_numbers_in_other_bytes(tmp_path: Path) -> None:
    for name, zero in (("old", 0.0), ("new", -0.0)):
        save_file({"x": np.array([1, zero], "<f4")}, str(tmp_path / name))
    found = differ("w", tmp_path / "old", tmp_path / "new")
    assert found is not None
    assert (found.largest, found.tensor) == (0.0, "")
    assert found.byte is not None


def test_json_is_compared_number_by_number(tmp_path: Path) -> None:
    old, new = tmp_path / "a.json", tmp_path / "b.json"
    old.write_text(json.dumps({"losses": [4.0, 2.0], "name": "x"}))
    new.write_text(json.dumps({"losses": [4.0, 2.5], "name": "x"}))
    found = differ("log.json", old, new)
    assert found is not None
    assert (found.field, found.recorded, found.here, found.largest) == (
        "/losses/1",
        2.0,
        2.5,
        0.125,
    )
    new.write_text(json.dumps({"losses": [4.0], "name": "x"}))
    found = differ("log.json", old, new)
    assert found is not None
    assert (found.field, found.largest) == ("/losses/1", math.inf)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, a: bytes, b: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    old, new = folder / "old", folder / "new"
    old.write_bytes(a)
    new.write_bytes(b)
    found = differ("x", old, new)
    assert (found is None) == (a == b)
    if found:
        json.dumps(found.as_json(), allow_nan=False)


@given(data=st.data())
def test_mutated_models(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A file somebody damaged differs, in words, and never in an exception."""
    folder = tmp_path_factory.getbasetemp()
    old = folder / "whole.gguf"
    if not old.exists():
        _gguf(old, "Q8_0", name="mine")
    raw = bytearray(old.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    new = folder / "damaged.gguf"
    new.write_bytes(raw)
    for one, other in ((old, new), (new, old)):
        found = differ("w", one, other)
        assert (found is None) == (bytes(raw) == old.read_bytes())
        if found:
            assert found.sentence
            json.dumps(found.as_json(), allow_nan=False)
