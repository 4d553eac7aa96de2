"""What strangers and bad disks give the lab: nothing is believed, nothing is silently another."""

import base64
import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import tiny_models
import tiny_step
from overt.errors import FormatError, IntegrityError, OvertError, UsageError
from overt.evaluation.suites import lm_eval
from overt.lab.finetune import data
from overt.lab.merge import weights
from overt.lab.merge.weights import Tensors
from overt.models.recipe import Input, Recipe
from overt.models.store import Manifest, Store
from overt.nets.adapter import Adapter
from overt.provenance import checksummed, history, jobs, receipts, run_recipe, steps
from overt.provenance.diff import differ
from overt.provenance.replay import replay, target
from overt.ref import parse
from overt.settings import Settings, load


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(steps, "STEPS", tiny_step.register())
    monkeypatch.setattr(tiny_step.STEP, "drift", 0.0, raising=False)
    return tiny_step.STEP


@pytest.fixture
def settings(home: Path) -> Settings:
    return load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})


def _make(settings: Settings, *given: Input, name: str = "mine", **parameters: Any) -> Manifest:
    told = run_recipe.recipe("tiny", given, {"rows": 3, **parameters}, settings)
    return run_recipe.make(told, name, settings)


def _damaged(path: Path) -> bytes:
    """Flip a bit near the end, as a disk does: neither size nor times tell."""
    before, stands = path.read_bytes(), path.stat()
    path.chmod(0o644)
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 0x40]))
    path.chmod(0o444)
    os.utime(path, ns=(stands.st_atime_ns, stands.st_mtime_ns))
    return before


# ---- a replay that says `identical` where it is not ------------------------------------------


def _receipt(settings: Settings, edit: Callable[[dict[str, Any]], None]) -> bytes:
    """The receipt of `mine`, changed, as somebody without our key can write it."""
    envelope = json.loads(history.receipt("mine", settings))
    statement = json.loads(base64.b64decode(envelope["payload"]))
    edit(statement)
    raw = json.dumps(statement).encode()
    envelope["payload"] = base64.b64encode(raw).decode()
    envelope["signatures"] = []
    return json.dumps(envelope).encode()


def test_a_receipt_that_lists_less_than_was_made_is_not_identical(
    settings: Settings, tmp_path: Path
) -> None:
    _make(settings, log=True)
    file = tmp_path / "r.json"
    file.write_bytes(_receipt(settings, lambda one: one["subject"].pop(0)))
    other = replace(settings, home=tmp_path / "other")
    for keep in ("", "yours", "yours"):
        found = replay(target(str(file), other), other, keep=keep)
        assert found.verdict == "different"
        assert found.first is not None
        assert (found.first.file, found.first.recorded) == ("tiny.safetensors", "nothing")


def test_a_receipt_with_one_name_twice_is_none(settings: Settings, tmp_path: Path) -> None:
    _make(settings)

    def twice(one: dict[str, Any]) -> None:
        one["subject"].insert(0, {**one["subject"][0], "digest": {"sha256": "0" * 64}})

    file = tmp_path / "r.json"
    file.write_bytes(_receipt(settings, twice))
    with pytest.raises(FormatError, match="two of its subjects have one name"):
        target(str(file), settings)


def test_a_file_in_another_role_is_another_model(settings: Settings) -> None:
    """Somebody made a system prompt of a file that the step makes as something else."""
    made = _make(settings, log=True)
    files = [replace(one, role="system") if one.role == "other" else one for one in made.files]
    store = Store(settings.home)
    store.commit(replace(made, files=tuple(files)), {}, [parse("mine")])
    found = replay(target("mine", settings), settings)
    assert found.verdict == "different"
    assert found.first is not None
    assert (found.first.field, found.first.recorded, found.first.here) == (
        "role", "system", "other",
    )  # fmt: skip


def test_a_damaged_file_of_the_store_is_not_identical_to_itself(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest has the digest that comes out again; its bytes are others by now."""
    made = _make(settings, loose=1.0)
    _damaged(Store(settings.home).path(made.weights))
    before = run_recipe.environment.current
    for versions in ({}, {"numpy": "0"}):  # and no tolerance is for a bad disk
        monkeypatch.setattr(
            run_recipe.environment, "current", lambda *a, v=versions: {**before(*a), **v}
        )
        found = replay(target("mine", settings), settings)
        assert found.verdict == "different"
        assert found.first is not None
        assert (found.first.tensor, found.first.index) == ("rows", (2, 3))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_tolerance_has_room_for_what_is_no_number(tmp_path: Path, value: float) -> None:
    """inf / inf is no number, and what is compared with that is never larger."""
    old, new = np.ones((2, 4), "<f4"), np.ones((2, 4), "<f4")
    old[0, 0] = value
    save_file({"x": old}, str(tmp_path / "old"))
    save_file({"x": new}, str(tmp_path / "new"))
    for one, other in (("old", "new"), ("new", "old")):
        found = differ("w", tmp_path / one, tmp_path / other)
        assert found is not None
        assert found.largest == math.inf
    new[:] = old  # one infinity in both, and beside it anything at all
    new[1, 1] = 1000
    save_file({"x": new}, str(tmp_path / "new"))
    found = differ("w", tmp_path / "old", tmp_path / "new")
    assert found is not None
    assert found.largest > 1


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({"vocab": {"a": 100_000}}, {"vocab": {"a": 100_001}}),
        ({"ids": [100_000, 7]}, {"ids": [100_000, 8]}),
        ({"a/b": 1.5, "a": {"b": 2.5}}, {"a/b": 7.5, "a": {"b": 2.5}}),
        ({"x": 10**400}, {"x": 10**400 + 1}),
        ({"x": 10**400}, {"x": 1.5}),
    ],
)
def test_whole_numbers_are_names_and_have_no_tolerance(
    tmp_path: Path, was: object, now: object
) -> None:
    old, new = tmp_path / "a.json", tmp_path / "b.json"
    old.write_text(json.dumps(was))
    new.write_text(json.dumps(now))
    found = differ("tokenizer.json", old, new)
    assert found is not None
    assert found.largest > 0.5


# ---- recipes of strangers --------------------------------------------------------------------


PARAMETERS: list[dict[str, Any]] = [
    {},
    {"type": 7, "method": [], "models": "x", "adapters": {"a": 1}, "training": {"epochs": 1.5}},
    {"type": "f16", "method": "linear", "models": [], "tensors": 3, "threads": "x"},
    {"type": "f16", "method": "adapter", "adapters": [{}], "threads": 10**30},
]


@pytest.mark.parametrize("step", [one for one in steps.STEPS if one != "tiny"])
def test_a_strangers_recipe_is_refused_in_words(
    settings: Settings, tmp_path: Path, step: str
) -> None:
    other = tmp_path / "file"
    other.write_text("hello")
    digest = f"sha256:{run_recipe.sha256_of(other)}"
    version = steps.find(step).version
    for roles in ((), ("from",), ("data", "adapter", "adapter-config")):
        for keep, parameters in zip(("", "mine", "", "mine"), PARAMETERS, strict=True):
            given = tuple(Input(role, digest) for role in roles)
            file = tmp_path / "recipe.json"
            file.write_bytes(Recipe(step, version, given, parameters, {}).encode())
            files = [other] if roles else []
            with pytest.raises(OvertError) as caught:
                replay(target(str(file), settings), settings, data=files, keep=keep)
            assert "\n" not in str(caught.value)
    assert not list((settings.home / "names").glob("*"))
    assert not list((settings.home / "jobs").glob("*"))


@pytest.mark.parametrize("alpha", ["1" + "0" * 400, "-1" + "0" * 400, "1e999"])
def test_a_number_without_end_in_an_adapter(alpha: str) -> None:
    config = f'{{"peft_type": "LORA", "r": 4, "lora_alpha": {alpha}, "target_modules": ["q_proj"]}}'
    with pytest.raises(FormatError):
        Adapter.of_config(config.encode())


@pytest.mark.parametrize("name", ["bomb.json.gz", "bomb.jsonl.gz"])
def test_a_small_file_that_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A megabyte of gzip can hold 80 million lists, which take 5 GB."""
    monkeypatch.setattr("overt.evaluation.suites.rows.MAX_PARTS", 1 << 12)
    row = b'{"text": "a", "more": [' + b"[]," * (1 << 12) + b"[]]}"
    file = tmp_path / name
    file.write_bytes(gzip.compress(b"[" + row + b"]" if "jsonl" not in name else row + b"\n"))
    with pytest.raises(FormatError, match="lists, objects and commas"):
        data.read(file)


# ---- inputs and unfinished work on a bad disk ------------------------------------------------


def test_a_damaged_input_makes_nothing(settings: Settings) -> None:
    """A receipt would say that it was made of what the digest means."""
    base = _make(settings, name="base")
    _damaged(Store(settings.home).path(base.weights))
    with pytest.raises(IntegrityError, match="is damaged"):
        _make(settings, Input("from", base.digest, "base"), rows=4)
    with pytest.raises(IntegrityError, match="is damaged"):
        _make(settings, Input("data", base.weights.digest), rows=4)


def test_a_result_that_was_damaged_before_it_was_stored_is_made_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_recipe, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            _make(settings)
    (folder,) = (settings.home / "jobs").iterdir()
    assert (folder / "result.json").exists()
    _damaged(folder / "work" / "tiny.safetensors")
    made = _make(settings)
    assert Store(settings.home).verify() == []
    assert replay(target("mine", settings), settings).verdict == "identical"
    assert receipts.read(receipts.of(made.digest, settings.home) or b"").ran.starts == 2


def test_a_job_that_is_a_link_is_not_worked_in(settings: Settings, tmp_path: Path) -> None:
    told = run_recipe.recipe("tiny", (), {"rows": 3}, settings)
    folder = jobs.folder_of(told, settings.home)
    folder.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    with pytest.raises(OvertError, match="it is a link"):
        run_recipe.make(told, "mine", settings)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "zeros", "no seal", "another seal", "empty"])
def test_a_sealed_file_is_as_it_was_written_or_gone(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(range(256)) * 9)
    checksummed.seal(file)
    assert checksummed.intact(file)
    if damage == "flipped":
        _damaged(file)
    elif damage in ("zeros", "empty"):
        file.write_bytes(bytes(256 * 9 if damage == "zeros" else 0))
    elif damage == "no seal":
        checksummed.place(file).unlink()
    else:
        checksummed.place(file).write_bytes(b"\xff" * 64)
    assert not checksummed.intact(file)
    assert not file.exists()
    assert not checksummed.place(file).exists()


@pytest.mark.parametrize("at", [0.4, 0.9])
@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_a_merge_goes_on_from_no_tensor_that_a_power_cut_left_empty(
    tmp_path: Path, at: float, fill: bytes
) -> None:
    """The file has its whole length, and part of it was never written."""
    first = Tensors(tiny_models.gguf(tmp_path / "base.gguf", "llama", "F32", seed=1), "base")
    seen: list[str] = []

    def tensor(one: Any) -> bytes:
        seen.append(one.name)
        return weights.encoded(first.read(one.name), "f32", one.name)

    made = tmp_path / "made.gguf"
    weights.write(made, first, "f32", tensor, lambda *_: None)
    whole, count = made.read_bytes(), len(seen)
    weights.write(made, first, "f32", tensor, lambda *_: None)
    assert (made.read_bytes(), len(seen)) == (whole, count)  # nothing was computed again
    cut = int(len(whole) * at)
    made.write_bytes(whole[:cut] + fill * (len(whole) - cut))
    weights.write(made, first, "f32", tensor, lambda *_: None)
    assert made.read_bytes() == whole
    assert count < len(seen) < 2 * count


# ---- programs of others ----------------------------------------------------------------------


@pytest.mark.parametrize("task", ["./a.yaml", "../x", "a.yml", "--include_path", "a\nb", "a{}"])
def test_a_task_of_lm_eval_is_a_name(settings: Settings, task: str) -> None:
    """A path would be opened, and the Python that it names run."""
    who = lm_eval.ScoredModel("m", "m", "", "torch", "", away=False, context=8)
    settings = replace(settings, lm_eval=sys.executable)
    with pytest.raises(UsageError):
        lm_eval.evaluate(who, [task], lm_eval.LmEvalOptions(), settings, lambda _: None)


_KILLED = """
import os, pathlib, signal
from overt.evaluation import external_tool
from overt.settings import load
with external_tool.server(load({"OVERT_HOME": os.environ["OVERT_HOME"], "OVERT_OFFLINE": "1"})):
    me = os.getpid()
    print(pathlib.Path(f"/proc/{me}/task/{me}/children").read_text(), flush=True)
    os.kill(me, signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no system call says it")
def test_the_server_for_other_programs_does_not_outlive_a_kill(home: Path) -> None:
    """It has the person's keys, and asks for none."""
    environ = {**os.environ, "OVERT_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", _KILLED], env=environ, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    server = int(done.stdout)
    deadline = time.monotonic() + 30
    while _runs(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(server)


def _runs(pid: int) -> bool:
    """Whether it does; one that ended may wait for whoever is to read how."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
