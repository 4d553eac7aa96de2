"""The memory estimate against the peak of real runs, and what a refusal says."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny_models
from overt.errors import OutOfDisk, OutOfMemory
from overt.formats import gguf
from overt.lab.finetune import plan
from overt.lab.finetune.config import FinetuneConfig
from overt.lab.finetune.example import Example
from overt.lab.finetune.pack import packed
from overt.lab.finetune.plan import MemoryRequest
from overt.lab.finetune.training import Training
from overt.nets import architectures
from overt.nets.adapter import ATTENTION, MLP, Adapter
from overt.nets.shape import Shape

SIZES = {
    "layers": 6, "width": 256, "heads": 4, "kv_heads": 2, "head": 64, "inner": 768,
    "vocabulary": 8192, "context": 2048,
}  # fmt: skip
SHAPE = Shape("llama", **SIZES, tied=True)
RUN = """
import json, os, sys, tempfile
from pathlib import Path
import torch
from overt.lab import finetune
from overt.lab.finetune import loop
from overt.lab.finetune.config import FinetuneConfig
from overt.lab.finetune.example import Example
from overt.lab.finetune.pack import packed
from overt.lab.finetune.training import Training
from overt.nets.adapter import Adapter

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

def run(path, method, precision, checkpointing, length, best):
    examples = [Example([3] * length, [False] + [True] * (length - 1), n) for n in range(2)]
    job = Training(
        learn="all" if method == "full" else "adapter", adapter=Adapter(rank=8),
        steps=2 if method == "full" else 1,  # the second has the moments of the first
        checkpointing=checkpointing, precision=precision,
    )
    net = finetune.load(Path(path), FinetuneConfig(method=method, training=job))
    units = packed(examples, length, 1)
    with tempfile.TemporaryDirectory() as folder:
        loop.train(net, job, units, units[:1] if best else [], Path(folder), lambda _: None)

torch.set_num_threads(1)
for precision in ("float32", "bfloat16"):  # the pages of torch that are used by and by
    run(sys.argv[1], "lora", precision, False, 16, False)
for case in json.loads(sys.argv[2]):
    if not os.fork():  # which begins with the pages that are in use now
        begun = peak()
        run(*case)
        print(json.dumps([begun, peak()]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
CASES = (
    ("llama", "lora", "float32", False, 512, False),
    ("llama", "lora", "float32", True, 512, False),
    ("llama", "lora", "bfloat16", False, 512, False),
    ("llama", "qlora", "bfloat16", False, 512, False),
    ("llama", "full", "float32", False, 96, True),
    ("llama", "full", "bfloat16", False, 96, True),
    ("gemma2", "lora", "bfloat16", False, 512, False),  # with a cap on scores
)


def wanted(method: str, *, rows: int, length: int, checkpointing: bool = False) -> MemoryRequest:
    return MemoryRequest(method, 8, (*ATTENTION, *MLP), rows, length, checkpointing, 4, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_estimate_is_near_the_peak(tmp_path: Path) -> None:
    cap = {"gemma2.attn_logit_softcapping": 50.0}
    sizes = {**SIZES, "layers": 4, "heads": 8}
    paths = {
        name: tiny_models.gguf(tmp_path / f"{name}.gguf", name, "Q8_0", metadata=more, **sizes)
        for name, more in (("llama", {}), ("gemma2", cap))
    }
    cases = [(str(paths[name]), *rest) for name, *rest in CASES]
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(paths["llama"]), json.dumps(cases)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wrong = {}
    for case, line in zip(CASES, run.stdout.splitlines(), strict=True):
        begun, peak = json.loads(line)
        found = planned(paths[case[0]], *case[1:])
        took = peak - begun
        if abs(found.total - found.program - took) > plan.MARGIN * took:
            wrong[case] = found, f"{(found.total - found.program) >> 20} for {took >> 20} MiB"
        assert begun < 1.2 * found.program, begun >> 20
    assert not wrong


def planned(
    path: Path, method: Any, precision: Any, checkpointing: bool, length: int, best: bool
) -> plan.Estimate:
    """What is expected of a run."""
    job = Training(
        learn="all" if method == "full" else "adapter",
        adapter=Adapter(rank=8), checkpointing=checkpointing, precision=precision,
    )  # fmt: skip
    header = gguf.read(path)
    base = SimpleNamespace(header=header, shape=architectures.shape_of_gguf(header))
    examples = [Example([3] * length, [True] * length, n) for n in range(2)]
    units = packed(examples, length, 1)
    prepared: Any = SimpleNamespace(
        base=base, rows=1, longest=length, train=units, held=units if best else [],
        train_examples=examples,
    )  # fmt: skip
    return plan.estimate(
        base.shape, plan.memory_request(prepared, FinetuneConfig(method=method, training=job))
    )


def test_a_refusal_names_what_would_fit() -> None:
    big = wanted("lora", rows=8, length=2048)
    needs = plan.estimate(SHAPE, big).total
    with pytest.raises(OutOfMemory, match="is free") as caught:
        plan.check(SHAPE, big, needs * 3 // 4)
    assert caught.value.hint == "type --checkpointing"
    with pytest.raises(OutOfMemory) as caught:
        plan.check(SHAPE, big, needs // 4)
    assert str(caught.value.hint).startswith("type --checkpointing --batch")
    with pytest.raises(OutOfMemory) as caught:
        plan.check(SHAPE, big, 1000)
    assert caught.value.hint == "choose a smaller model"
    assert plan.check(SHAPE, big, needs).total == needs


def test_each_way_to_save_saves() -> None:
    full = wanted("full", rows=4, length=1024)
    sizes = [
        plan.estimate(SHAPE, one).total
        for one in (full, wanted("lora", rows=4, length=1024), wanted("lora", rows=2, length=1024))
    ]
    assert sizes == sorted(sizes, reverse=True)
    quantized = MemoryRequest("qlora", 8, (*ATTENTION, *MLP), 1, 128, False, 4, 5 << 20)
    assert (
        plan.estimate(SHAPE, quantized).weights
        < plan.estimate(SHAPE, wanted("lora", rows=1, length=128)).weights
    )


def test_preferences_are_told_to_keep_what_is_quantized() -> None:
    asked = replace(wanted("dpo", rows=1, length=64, checkpointing=True), file=2 << 20)
    kept = replace(asked, kept=True)
    found = plan.estimate(SHAPE, kept)
    assert found.weights < plan.estimate(SHAPE, asked).weights
    assert found.activations == plan.estimate(SHAPE, asked).activations
    with pytest.raises(OutOfMemory) as caught:
        plan.check(SHAPE, asked, found.total)
    assert caught.value.hint == "type --keep-quantized"


def test_room_for_checkpoints_and_for_what_is_made() -> None:
    full, lora = wanted("full", rows=1, length=128), wanted("lora", rows=1, length=128)
    parameters = 6 * 256 * (256 * 3 + 3 * 768) + 8192 * 256 + 6 * 4 * 256
    found = plan.disk(SHAPE, full, best=True, whole=2)
    assert found == parameters * (3 * 16 + 2)
    assert plan.disk(SHAPE, lora, best=False, whole=0) < found // 10
    plan.check_disk(found, found)
    with pytest.raises(OutOfDisk, match="for checkpoints and the new model") as caught:
        plan.check_disk(found, found - 1)
    assert "OVERT_HOME" in str(caught.value.hint)
