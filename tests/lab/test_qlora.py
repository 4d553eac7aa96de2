"""Learning on quantized weights: the numbers are gguf's, and in memory are the file's bytes."""

import gguf
import numpy as np
import pytest
import torch  # noqa: TID253

from overt.errors import FormatError, Unsupported, UsageError
from overt.lab.finetune import loop, loss
from overt.lab.finetune.training import Training
from overt.nets import lora
from overt.nets.adapter import MLP, Adapter
from overt.nets.quantized import KINDS, Quantized, unpack
from overt.nets.shape import Shape
from training_child import batches, examples, pairs, tiny

SHAPE = Shape("llama", 2, 64, 4, 2, 16, 96, 64, 128, tied=True)
QUANTIZED = sorted(name for name in KINDS if name not in ("F32", "F16", "BF16"))
IDS = torch.randint(0, 64, (1, 10), generator=torch.Generator().manual_seed(5))


def random_blocks(kind, rows=37, blocks=3):
    """Blocks of random bytes, their scales small numbers."""
    size = KINDS[kind][1]
    generator = np.random.default_rng(1)
    data = generator.integers(0, 256, (rows * blocks, size), dtype=np.uint8)
    scales = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_0": (0,), "Q5_0": (0,)}
    for place in scales.get(kind, (0,) if kind == "Q8_0" else (0, 2)):
        some = generator.normal(size=(rows * blocks, 1)).astype(np.float16)
        data[:, place : place + 2] = some.view(np.uint8)
    return data.reshape(rows, blocks * size)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_numbers_are_bit_for_bit_those_of_gguf(kind):
    data = random_blocks(kind)
    with np.errstate(all="ignore"):  # not every type has scales that `random_blocks` sets
        wanted = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    found = unpack(torch.from_numpy(data), kind).numpy()
    assert found.dtype == wanted.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_any_bytes_are_numbers_of_gguf(kind):
    data = np.random.default_rng(2).integers(0, 256, (8, KINDS[kind][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):
        wanted = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    found = unpack(torch.from_numpy(data), kind).numpy()
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_numbers_are_read(kind):
    values = torch.randn(3, 8).to(torch.float16 if kind == "F16" else torch.bfloat16)
    assert torch.equal(unpack(values.view(torch.uint8), kind), values.float())


def quantized(kind="Q8_0"):
    """Two nets with the same numbers: one in blocks, one dense."""
    torch.set_num_threads(1)
    packed, dense = tiny(SHAPE), tiny(SHAPE)
    for path, layer in list(packed.named_modules()):
        if isinstance(layer, torch.nn.Linear | torch.nn.Embedding):
            weight = layer.weight.detach().numpy()
            data = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])
            parent, _, name = path.rpartition(".")
            new = Quantized(torch.from_numpy(data), kind)
            setattr(packed.get_submodule(parent), name, new)
            dense.get_submodule(path).weight.data.copy_(new.matrix(torch.float32))
    return packed, dense


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_net_in_blocks_learns_as_the_same_net_unpacked(kind):
    packed, dense = quantized(kind)
    texts = examples(2)
    found = []
    for net in (packed, dense):
        lora.add(net, Adapter(rank=4), 1)
        one = loss.surprises(net, loss.Head(net, torch.float32), loss.pack(texts))
        one.mean().backward()
        found.append((one, net.model.layers[0].self_attn.q_proj.lora_B.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


def test_layers_without_an_adapter_pass_the_gradient_on():
    packed, dense = quantized()
    found = []
    for net in (packed, dense):
        lora.add(net, Adapter(rank=2, targets=MLP[:1]), 1)
        net.logits(net(IDS)).square().mean().backward()
        found.append(net.model.layers[0].mlp.gate_proj.lora_B.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_on_blocks_goes_like_one_on_their_numbers(precision, tmp_path):
    job = Training(adapter=Adapter(rank=4), epochs=4, rate=1e-2, precision=precision)
    curves = []
    for name, net in zip(("packed", "dense"), quantized("Q4_0"), strict=True):
        done = loop.train(net, job, batches(examples(6)), [], tmp_path / name, lambda event: None)
        curves.append([point.loss for point in done.curve])
    assert curves[0] == pytest.approx(curves[1], rel=1e-2 if precision == "bfloat16" else 1e-4)
    assert curves[0][-1] < curves[0][0]


def test_preferences_on_blocks_go_like_those_on_their_numbers(tmp_path):
    job = Training(loss="preference", adapter=Adapter(rank=4), epochs=4, rate=1e-2)
    curves = []
    for name, net in zip(("packed", "dense"), quantized("Q4_0"), strict=True):
        units = batches(pairs(6))
        done = loop.train(net, job, units, units[:1], tmp_path / name, lambda event: None)
        curves.append([point.loss for point in done.curve])
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    assert curves[0][-1] < curves[0][0]


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_a_training_on_k_quants_goes_like_one_on_their_numbers(kind, tmp_path):
    torch.set_num_threads(1)
    shape = Shape("llama", 1, 256, 4, 2, 64, 256, 64, 128, tied=True)
    packed, dense = tiny(shape), tiny(shape)
    for path, layer in list(packed.named_modules()):
        if isinstance(layer, torch.nn.Linear | torch.nn.Embedding):
            data = random_blocks(kind, *layer.weight.shape[:1], blocks=1)
            for place in {"Q4_K": (0, 2), "Q6_K": (208,)}[kind]:  # scales of weights, not of noise
                some = data[:, place : place + 2].copy().view(np.float16) * np.float16(2e-4)
                data[:, place : place + 2] = some.view(np.uint8)
            parent, _, name = path.rpartition(".")
            new = Quantized(torch.from_numpy(data), kind)
            setattr(packed.get_submodule(parent), name, new)
            dense.get_submodule(path).weight.data.copy_(new.matrix(torch.float32))
    job = Training(adapter=Adapter(rank=4), epochs=3, rate=1e-2)
    curves, learnt = [], []
    for name, net in (("packed", packed), ("dense", dense)):
        done = loop.train(net, job, batches(examples(6)), [], tmp_path / name, lambda event: None)
        curves.append([point.loss for point in done.curve])
        learnt.append(net.model.layers[0].self_attn.q_proj.lora_B.detach())
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    assert curves[0][-1] < curves[0][0]
    torch.testing.assert_close(*learnt, rtol=1e-2, atol=1e-3)


def test_in_memory_are_the_bytes_of_the_file():
    packed, dense = quantized("Q4_0")
    lora.add(packed, Adapter(rank=4), 1)
    bytes_of = [
        sum(part.nbytes for part in [*net.parameters(), *net.buffers()]) for net in (packed, dense)
    ]
    adapter = sum(part.nbytes for part in packed.parameters() if part.requires_grad)
    norms = sum(part.nbytes for name, part in dense.named_parameters() if "norm" in name)
    assert bytes_of[0] - adapter - norms == (bytes_of[1] - norms) * 18 // 128
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        packed(IDS)
    widest = max(one.numel() for one in kept if one.is_floating_point())
    assert widest <= SHAPE.inner * 10, "an unpacked matrix is kept for the backward pass"


def test_quantized_weights_do_not_learn_themselves(tmp_path):
    packed, _ = quantized()
    job = Training(learn="all")
    with pytest.raises(UsageError, match="cannot learn"):
        loop.train(packed, job, batches(examples(2)), [], tmp_path, lambda event: None)


def test_other_types_and_broken_rows_are_refused():
    with pytest.raises(Unsupported, match="Q8_1"):
        Quantized(torch.zeros(2, 36, dtype=torch.uint8), "Q8_1")
    with pytest.raises(FormatError, match="35 bytes"):
        Quantized(torch.zeros(2, 35, dtype=torch.uint8), "Q8_0")
