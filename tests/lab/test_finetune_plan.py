"""The memory estimate against the peak of real runs, and what a refusal says."""

import json
import subprocess
import sys

import pytest

from overt.errors import OutOfDisk, OutOfMemory
from overt.lab.finetune import plan
from overt.lab.finetune.plan import Wanted
from overt.nets.adapter import ATTENTION, MLP
from overt.nets.shape import Shape

SIZES = {
    "layers": 6, "width": 256, "heads": 4, "kv_heads": 2, "head": 64, "inner": 768,
    "vocabulary": 8192, "context": 2048,
}  # fmt: skip
SHAPE = Shape("llama", **SIZES, tied=True)
RUN = """
import json, resource, sys, tempfile
from pathlib import Path
import torch
from overt.lab.finetune import loop
from overt.lab.finetune.example import Example
from overt.lab.finetune.pack import packed
from overt.lab.finetune.training import Training
from overt.nets.adapter import Adapter
from overt.nets.shape import Shape
from overt.nets.transformer import Transformer

sizes, method, rows, length, checkpointing = json.loads(sys.argv[1])
torch.set_num_threads(1)
net = Transformer(Shape("llama", **sizes, tied=True), torch.float32, "cpu")
with torch.no_grad():
    for part in net.parameters():
        part.fill_(0.01)
examples = [Example([3] * length, [False] + [True] * (length - 1), n) for n in range(rows)]
job = Training(
    learn="all" if method == "full" else "adapter", adapter=Adapter(rank=8), steps=1,
    checkpointing=checkpointing,
)
with tempfile.TemporaryDirectory() as folder:
    loop.train(net, job, packed(examples, length, rows), [], Path(folder), lambda _: None)
if sys.platform == "linux":  # ru_maxrss begins at what the process was forked from
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def wanted(method: str, *, rows: int, length: int, checkpointing: bool = False) -> Wanted:
    return Wanted(method, 8, (*ATTENTION, *MLP), rows, length, checkpointing, 4, 0)


@pytest.mark.parametrize(
    ("method", "checkpointing"), [("lora", False), ("lora", True), ("full", False)]
)
def test_the_estimate_is_near_the_peak(method: str, checkpointing: bool) -> None:
    rows, length = 1, 768
    run = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([SIZES, method, rows, length, checkpointing])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak = int(run.stdout.split()[-1])
    asked = wanted(method, rows=rows, length=length, checkpointing=checkpointing)
    found = plan.estimate(SHAPE, asked).total
    assert abs(found - peak) <= plan.MARGIN * peak, (found >> 20, peak >> 20)


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
    quantized = Wanted("qlora", 8, (*ATTENTION, *MLP), 1, 128, False, 4, 5 << 20)
    assert (
        plan.estimate(SHAPE, quantized).weights
        < plan.estimate(SHAPE, wanted("lora", rows=1, length=128)).weights
    )


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
