"""Weights that do not learn: in memory in the type they are used in, with the same numbers."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch  # noqa: TID253

import tiny_models
from overt.errors import FormatError
from overt.lab import finetune
from overt.lab.finetune import loop
from overt.lab.finetune.config import FinetuneConfig
from overt.lab.finetune.measure import JudgedExample
from overt.lab.finetune.training import Training
from overt.nets import load, lora
from overt.nets.adapter import Adapter
from overt.nets.quantized import Quantized
from training_child import batches, examples, pairs

KNOWN = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo", "olmo2")
IDS = torch.randint(0, 100, (1, 12), generator=torch.Generator().manual_seed(3))


def job(precision="float32", **changes):
    given = {"adapter": Adapter(rank=4), "steps": 2, "rate": 1e-2, "accumulate": 2, "held_every": 1}
    return Training(precision=precision, **{**given, **changes})


def trained(net, job, place):
    torch.set_num_threads(1)
    units = batches(pairs(4) if job.loss == "preference" else examples(4))
    done = loop.train(net, job, units, units[:1], place, lambda event: None)
    return [(one.loss, one.held or 0.0) for one in done.curve], lora.state(net)


@pytest.mark.parametrize(
    ("name", "type", "precision", "loss"),
    [
        ("llama", "Q8_0", "float32", "answers"),
        ("llama", "Q8_0", "bfloat16", "answers"),
        ("gemma3", "Q4_1", "bfloat16", "preference"),
        ("olmo2", "F32", "bfloat16", "answers"),
    ],
)
def test_what_is_learnt_does_not_show_how_it_was_loaded(name, type, precision, loss, tmp_path):
    path = tiny_models.gguf(tmp_path / "model.gguf", name, type)
    asked = job(precision, loss=loss)
    method = "dpo" if loss == "preference" else "lora"
    straight = finetune.load(path, FinetuneConfig(method=method, training=asked))
    later = load.from_gguf(path)  # in 32 bits, and rounded when it is made ready
    found = [trained(net, asked, tmp_path / str(at)) for at, net in enumerate((straight, later))]
    assert found[0][0] == found[1][0]
    assert all(torch.equal(part, found[1][1][key]) for key, part in found[0][1].items())


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_frozen_matrices_are_in_memory_once(name, tmp_path):
    path = tiny_models.gguf(tmp_path / "model.gguf", name, "Q8_0")
    net = load.from_gguf(path, frozen=torch.bfloat16)
    types = {key: part.dtype for key, part in net.named_parameters()}
    assert {kind for key, kind in types.items() if "norm" in key} == {torch.float32}
    assert {kind for key, kind in types.items() if "norm" not in key} == {torch.bfloat16}
    assert isinstance(net.model.embed_tokens, Quantized)  # as the file has it
    head = loop.Head(net, torch.bfloat16)
    ((_, _, rows),) = head.parts()
    assert rows.data_ptr() == net.lm_head.weight.data_ptr()
    dense = load.from_gguf(path)
    assert torch.equal(rows, dense.head().weight.to(torch.bfloat16))
    assert torch.equal(net.model.embed_tokens(IDS), dense.model.embed_tokens(IDS))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_an_embedding_that_is_no_number_is_refused(name, tmp_path):
    def spoilt(arrays):
        arrays["token_embd.weight"][5, 3] = np.inf
        return arrays

    path = tiny_models.gguf(tmp_path / "model.gguf", name, "F16", edit_gguf=spoilt)
    with pytest.raises(FormatError, match="infinite or none"):
        load.from_gguf(path, frozen=torch.bfloat16)


def test_a_tied_table_in_32_bits_is_there_once(tmp_path):
    path = tiny_models.gguf(tmp_path / "model.gguf", "gemma3", "Q8_0")
    net = load.from_gguf(path, frozen=torch.float32)
    assert net.head() is net.model.embed_tokens
    assert not hasattr(net, "lm_head")


@pytest.mark.parametrize("name", KNOWN)
def test_every_shape_learns_on_blocks_as_on_their_numbers(name, tmp_path):
    path = tiny_models.gguf(tmp_path / "model.gguf", name, "Q8_0")
    kept, dense = load.from_gguf(path, keep_quantized=True), load.from_gguf(path)
    assert any(isinstance(layer, Quantized) for layer in kept.modules())
    with torch.no_grad():
        torch.testing.assert_close(
            kept.logits(kept(IDS)), dense.logits(dense(IDS)), rtol=1e-4, atol=1e-5
        )
    curves = [trained(net, job(), tmp_path / str(at))[0] for at, net in enumerate((kept, dense))]
    np.testing.assert_allclose(*curves, rtol=1e-4)
    assert curves[0][-1][0] < curves[0][0][0]


def test_an_adapter_is_placed_on_a_net_without_parameters(tmp_path):
    path = tiny_models.gguf(tmp_path / "model.gguf", "olmo", "Q8_0")
    nets = [load.from_gguf(path, keep_quantized=True) for _ in range(2)]
    assert not list(nets[0].parameters())
    lora.add(nets[0], Adapter(rank=2), 1)
    lora.place(nets[1], Adapter(rank=2), lora.state(nets[0]))
    assert torch.equal(nets[0](IDS), nets[1](IDS))


@pytest.mark.parametrize("type", ["IQ4_NL", "MXFP4", "F16"])
def test_types_that_the_library_unpacks_stay_in_blocks(type, tmp_path):
    path: Path = tiny_models.gguf(tmp_path / "model.gguf", "llama", type)
    asked = FinetuneConfig(method="qlora", training=job())
    net = finetune.load(path, asked)
    assert {layer.kind for layer in net.modules() if isinstance(layer, Quantized)} == {type}
    curves = [
        trained(one, asked.training, tmp_path / name)[0]
        for name, one in (("kept", net), ("dense", load.from_gguf(path)))
    ]
    np.testing.assert_allclose(*curves, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "precision", "known"),
    [("full", "bfloat16", False), ("full", "float32", True), ("lora", "bfloat16", True)],
)
def test_the_first_look_measures_as_the_later_ones(method, precision, known, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(loop, "train", lambda *given, first: found.append(first))
    work = SimpleNamespace(place=tmp_path, tell=None)
    learn = "all" if method == "full" else "adapter"
    asked = FinetuneConfig(method=method, training=job(precision, learn=learn))
    before = [JudgedExample(3.0, 2, 1), JudgedExample(1.0, 2, 1)]
    finetune._trained(work, None, SimpleNamespace(train=[], held=[]), asked, before)
    assert found == [1.0 if known else None]


def test_the_precision_is_that_of_the_device(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or not asked
    )
    for known, wanted in (({"avx512_bf16": True}, "bfloat16"), ({}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert loop.fast_precision("cpu") == wanted
    assert not asked
    assert loop.fast_precision("cuda") == "float32"
    assert asked == [{"including_emulation": False}]
