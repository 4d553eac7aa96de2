"""What counts as the same quantization where two machines round differently, and what does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from overt.lab.quantize import STEP, agreement, imatrix, parameters, types
from overt.models.recipe import Input, Recipe
from overt.provenance import diff
from overt.provenance.steps import judging

Array = np.ndarray[Any, Any]
SIZES = {"width": 256, "inner": 256, "layers": 1}
NAME = "blk.0.ffn_down.weight"
TYPES = ("Q8_0", "Q4_0", "TQ2_0")
"""Which numpy quantizes at once; the last stands for all whose step is as large as a weight."""


def recipe(type: str, role: str = "from", **given: Any) -> Recipe:
    inputs = (Input(role, "sha256:" + "0" * 64),)
    return Recipe("quantize", STEP.version, inputs, parameters(types.find(type), **given), {})


def pair(folder: Path, type: str, change: Callable[[Array], Array]) -> tuple[Path, Path]:
    """A file of that type, and the same with one tensor changed before it was stored."""

    def edit(arrays: dict[str, Array]) -> dict[str, Array]:
        return {**arrays, NAME: change(arrays[NAME].copy())}

    kinds = {NAME: type}
    before = tiny_models.gguf(folder / "before.gguf", "llama", "Q8_0", types=kinds, **SIZES)
    after = tiny_models.gguf(
        folder / "after.gguf", "llama", "Q8_0", types=kinds, edit_gguf=edit, **SIZES
    )
    return before, after


def test_replays_ask_this_step() -> None:
    assert judging(STEP) is not None


def within(files: tuple[Path, Path], type: str = "q8_0", role: str = "from") -> bool:
    found = STEP.agreement(recipe(type, role), (), {"q.gguf": files})
    assert {one.files for one in found} == {("q.gguf",)}
    return all(one.holds for one in found)


def one_block(values: Array) -> Array:
    """A block has another scale, as where two of them are as good."""
    values[7, :32] *= np.float32(1.004)
    return values


def two_rows(values: Array) -> Array:
    """More than a block, by little: rounding alone does not reach so far."""
    values[7:9] *= np.float32(1.004)
    return values


def emptied(values: Array) -> Array:
    return np.zeros_like(values)


def negated(values: Array) -> Array:
    return -values


def only_large(values: Array) -> Array:
    """What one bound of elements alone lets through: all but the largest weights are gone."""
    return np.where(np.abs(values) < np.abs(values).max() / 4, np.float32(0), values)


def another(values: Array) -> Array:
    return np.roll(values, 1, 0)


def one_row(values: Array) -> Array:
    """A change of little size: half a percent of the tensor's energy."""
    values[3] = -values[3]
    return values


@pytest.mark.parametrize("type", TYPES)
def test_rounding_is_within_and_no_other_change_is(tmp_path: Path, type: str) -> None:
    assert within(pair(tmp_path, type, one_block))
    assert not within(pair(tmp_path, type, two_rows))
    assert within(pair(tmp_path, type, two_rows), role="calibrate")
    for change in (emptied, negated, another, one_row):
        assert not within(pair(tmp_path, type, change)), change
        assert not within(pair(tmp_path, type, change), role="calibrate"), change


@pytest.mark.parametrize("role", ["from", "calibrate"])
def test_an_outlier_elsewhere_in_the_tensor_hides_no_emptied_rows(
    tmp_path: Path, role: str
) -> None:
    """Nor does a large tensor beside a small one: each is asked for itself."""
    kinds = {NAME: "Q4_0", "blk.0.ffn_up.weight": "Q4_0"}

    def forged(rows: int) -> Callable[[dict[str, Array]], dict[str, Array]]:
        def edit(arrays: dict[str, Array]) -> dict[str, Array]:
            values = arrays[NAME] * 0.1
            values[0, :32] = 8.0
            values[2 : 2 + rows] = 0
            return {**arrays, NAME: values}

        return edit

    files = [
        tiny_models.gguf(
            tmp_path / f"{rows}.gguf", "llama", "Q8_0", types=kinds, edit_gguf=forged(rows), **SIZES
        )
        for rows in (0, 10)
    ]
    found = STEP.agreement(recipe("q4_0", role), (), {"q.gguf": (files[0], files[1])})
    broken = {one.what for one in found if not one.holds}
    assert "an element, of what its block allows" in broken
    if role == "from":
        assert "the same, of one tensor" in broken
    (allowed,) = (one.largest for one in found if "of its size" in one.what)
    assert allowed < 0.05, "the size alone would not show it"


def test_small_weights_are_not_to_be_had_for_nothing(tmp_path: Path) -> None:
    """A bound of a quarter of the largest weight alone would let two thirds of them go."""
    before, after = pair(tmp_path, "Q4_0", only_large)
    found = diff.differ("q.gguf", before, after)
    assert found
    assert found.largest < 0.25 + 1 / 8
    assert not within((before, after), role="calibrate")


def test_a_computed_matrix_may_move_more_blocks_and_none_far(tmp_path: Path) -> None:
    def scales(values: Array) -> Array:
        values[:40] *= np.float32(1.01)
        return values

    files = pair(tmp_path, "Q4_0", scales)
    assert not within(files)
    assert within(files, role="calibrate")


def test_without_a_matrix_two_implementations_make_the_same_bytes() -> None:
    import gguf as library

    values = np.random.default_rng(0).normal(0, 0.05, (8, 256)).astype(np.float32)
    for type in ("Q8_0", "Q5_1", "Q4_0", "TQ2_0"):
        kind = library.GGMLQuantizationType[type]
        here = library.quants.quantize(values, kind).tobytes()
        assert here == tiny_models._by_ggml(values, kind)


def test_what_cannot_be_compared_does_not_agree(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "Q8_0", emptied)
    after.write_bytes(after.read_bytes()[:-100])
    assert not within((before, after))
    other = tiny_models.gguf(tmp_path / "other.gguf", "llama", "Q4_0", **SIZES)
    assert not within((before, other))
    nothing = pair(tmp_path, "F16", lambda values: np.full_like(values, np.nan))
    assert not within(nothing)
    assert STEP.agreement(recipe("q8_0"), (), {"card.md": (before, after)}) == []


@pytest.mark.parametrize(("off", "holds"), [(0.01, True), (0.2, False)])
def test_an_importance_matrix_may_be_off_by_little(
    tmp_path: Path, off: float, *, holds: bool
) -> None:
    files = []
    for factor in (1.0, 1.0 + off):
        sums = {"blk.0.x": (np.arange(64.0).reshape(1, 64) * factor, np.array([4.0]))}
        files.append(tmp_path / f"{factor}.gguf")
        imatrix.write(files[-1], sums, imatrix.About("", 1, 1))
    asked = recipe("q8_0", "calibrate")
    (found,) = STEP.agreement(asked, (), {"imatrix.gguf": (files[0], files[1])})
    assert found.holds is holds
    assert found.largest == pytest.approx(off, rel=1e-3)
    (given,) = STEP.agreement(recipe("q8_0"), (), {"imatrix.gguf": (files[0], files[1])})
    assert not given.holds, "it is what was given, and no sum"


def test_the_tolerance_of_elements_is_a_step_and_never_all_of_a_weight() -> None:
    for name in types.TYPES:
        assert 0 <= STEP.tolerance(recipe(name)) <= 0.25
    assert STEP.tolerance(recipe("q8_0")) == 1 / 127
    assert STEP.tolerance(recipe("f16")) == 0
    assert STEP.tolerance(recipe("f16", output="q4_0")) == 1 / 8
    assert STEP.tolerance(recipe("q8_0", tensors=[["ffn", "q5_0"], ["attn", "q6_k"]])) == 1 / 16


def test_no_room_is_that_of_an_emptied_block() -> None:
    for type in ("Q8_0", "Q6_K", "Q4_0", "IQ4_NL", "Q3_K", "MXFP4"):
        assert agreement.room(type, agreement.GIVEN) <= agreement.room(type, agreement.COMPUTED)
        assert agreement.room(type, agreement.COMPUTED) < 0.7
    assert agreement.room("F16", agreement.COMPUTED) == 0


def test_a_neighbour_in_the_grid_is_no_more_than_a_step() -> None:
    """The grids as the `gguf` package has them: the widest gap, over the largest magnitude."""
    import gguf as library

    ramp = np.linspace(-1, 1, 14 * 144, dtype=np.float32).reshape(144, 14)
    ends = np.tile(np.array([1, -1], np.float32), (144, 1))
    values = np.hstack([ends, ramp]).reshape(9, 256)  # each part of a block has the same scale
    for type in ("Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1"):
        kind = library.GGMLQuantizationType[type]
        raw = np.frombuffer(tiny_models.quantized(values, type), np.uint8).reshape(9, -1)
        seen = np.sort(library.quants.dequantize(raw, kind).ravel())
        gap = np.diff(seen).max() / np.abs(seen).max()
        assert 0.8 < gap / agreement.step(type) < 1.1, type
