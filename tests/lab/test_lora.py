"""Adapters: computed, learnt and written as peft does it."""

import contextlib
import json

import pytest
import torch  # noqa: TID253
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import FormatError, OvertError, Unsupported
from overt.lab.finetune import loss
from overt.nets import lora
from overt.nets.adapter import ATTENTION, Adapter
from overt.nets.shape import Shape
from training_child import SHAPE, examples, tiny

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
IDS = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(5))


def adapted(adapter, seed=1):
    """A tiny net with an adapter that does something."""
    torch.set_num_threads(1)
    net = tiny()
    lora.add(net, adapter, seed)
    chance = torch.Generator().manual_seed(9)
    for _, layer in lora.adapted(net):
        layer.lora_B.data.copy_(torch.randn(layer.lora_B.shape, generator=chance) * 0.3)
    return net


def theirs(folder, trainable=False):
    """The same tiny net in transformers, with the adapter that lies in `folder`."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=128, rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )  # fmt: skip
    net = transformers.LlamaForCausalLM(config).eval()
    net.load_state_dict(tiny().state_dict(), strict=False)
    return peft.PeftModel.from_pretrained(net, folder, is_trainable=trainable)


@pytest.mark.parametrize(
    "adapter",
    [
        Adapter(rank=4, alpha=8),
        Adapter(rank=3, alpha=5, stabilised=True),
        Adapter(rank=2, alpha=4, targets=ATTENTION[:2]),
    ],
    ids=["plain", "stabilised", "two layers"],
)
def test_peft_loads_it_and_computes_the_same(adapter, tmp_path):
    net = adapted(adapter)
    lora.save(net, adapter, tmp_path, "base")
    with torch.no_grad():
        found = theirs(tmp_path)(IDS).logits
        torch.testing.assert_close(net.logits(net(IDS)), found, rtol=1e-4, atol=1e-5)


def test_what_peft_writes_is_read(tmp_path):
    lora.save(adapted(Adapter(rank=4)), Adapter(rank=4), tmp_path / "ours")
    other = theirs(tmp_path / "ours")
    other.save_pretrained(tmp_path / "theirs")
    net = tiny()
    assert lora.load(net, tmp_path / "theirs").rank == 4
    with torch.no_grad():
        torch.testing.assert_close(net.logits(net(IDS)), other(IDS).logits, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_peft(tmp_path):
    adapter = Adapter(rank=4, alpha=8)
    net = adapted(adapter)
    lora.save(net, adapter, tmp_path)
    other = theirs(tmp_path, trainable=True)
    labels = IDS.clone()
    labels[:, :5] = -100
    other(IDS, labels=labels).loss.backward()
    wanted = {
        name.replace(".default", ""): part.grad
        for name, part in other.named_parameters()
        if part.grad is not None
    }
    texts = [(row.tolist(), [i >= 5 for i in range(12)]) for row in IDS]
    packed = loss.pack([_example(*text) for text in texts])
    loss.surprises(net, loss.Head(net, torch.float32), packed).mean().backward()
    found = {
        f"base_model.model.{name}.weight": part.grad
        for name, part in net.named_parameters()
        if part.requires_grad
    }
    assert sorted(found) == sorted(wanted)
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-6)


def _example(ids, labels):
    return type(examples(1)[0])(ids, labels, 0)


def test_layers_with_one_input_give_what_they_give_alone():
    net = adapted(Adapter(rank=4))
    attention = net.model.layers[0].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = layers[0].together(x, layers)
    sum(part.sin().sum() for part in found).backward()
    kept = x.grad.clone(), [layer.lora_A.grad.clone() for layer in layers]
    x.grad = None
    for layer in layers:
        layer.lora_A.grad = None
        flat = x @ layer.base.weight.t() + (x @ layer.lora_A.t() @ layer.lora_B.t()) * layer.scale
        flat.sin().sum().backward()
    torch.testing.assert_close(kept[0], x.grad, rtol=1e-4, atol=1e-5)
    for one, layer in zip(kept[1], layers, strict=True):
        torch.testing.assert_close(one, layer.lora_A.grad, rtol=1e-4, atol=1e-5)


def test_biases_are_kept():
    shape = Shape("qwen2", 1, 32, 4, 2, 8, 48, 64, 128, bias=True)
    net = tiny(shape)
    with torch.no_grad():
        before = net(IDS)
        lora.add(net, Adapter(rank=2), 1)
        torch.testing.assert_close(net(IDS), before, rtol=1e-5, atol=1e-6)


def test_a_new_adapter_changes_nothing_and_one_switched_off_neither():
    net = tiny()
    with torch.no_grad():
        before = net(IDS)
        other = adapted(Adapter(rank=4))
        assert not torch.allclose(other(IDS), before, atol=1e-2)
        with lora.off(other):
            torch.testing.assert_close(other(IDS), before)
        assert not torch.allclose(other(IDS), before, atol=1e-2)


def test_dropout_draws_by_its_seed_and_its_gradient_is_of_what_was_kept():
    net = adapted(Adapter(rank=4, dropout=0.5)).train()
    layer = net.model.layers[0].mlp.up_proj
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    lora.draw(net, 3)
    one, two = layer(x), layer(x)
    assert torch.equal(one, two)
    lora.draw(net, 4)
    assert not torch.equal(layer(x), one)
    lora.draw(net, 3)
    layer(x).sum().backward()
    chance = torch.Generator().manual_seed(layer.draw)
    keep = (torch.rand(6, 32, generator=chance) >= 0.5).float() * 2
    plain = x.detach().clone().requires_grad_(True)
    low = (plain * keep) @ layer.lora_A.detach().t() @ layer.lora_B.detach().t()
    y = plain @ layer.base.weight.t() + layer.scale * low
    torch.testing.assert_close(y, one, rtol=1e-4, atol=1e-5)
    y.sum().backward()
    torch.testing.assert_close(x.grad, plain.grad, rtol=1e-4, atol=1e-5)
    assert torch.equal(layer.eval()(x), layer(x))


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        lora.save(adapted(Adapter(rank=4)), Adapter(rank=4), tmp_path / name)
    one, two = ((tmp_path / name / lora.WEIGHTS).read_bytes() for name in ("one", "two"))
    assert one == two


def test_in_few_bits_a_small_adapter_is_not_lost():
    """Of what it adds, on the average: behind a product that was rounded most of it would be."""
    chance = torch.Generator().manual_seed(3)
    base = torch.nn.Linear(256, 64, bias=False)
    base.weight.data.copy_(torch.randn(64, 256, generator=chance) / 16)
    layer = lora.Adapted(base.to(torch.bfloat16), Adapter(rank=4, alpha=8), "cpu")
    layer.lora_A.data.copy_(torch.randn(4, 256, generator=chance) / 16)
    layer.lora_B.data.copy_(torch.randn(64, 4, generator=chance) * 3e-4)
    x = torch.randn(512, 256, generator=chance)
    added = x @ layer.lora_A.t() @ layer.lora_B.t() * layer.scale
    with torch.no_grad():
        found = layer(x).float() - base(x.to(torch.bfloat16)).float()
    assert ((found * added).sum() / added.square().sum()).item() == pytest.approx(1, abs=0.3)


def test_an_unknown_target_is_named():
    with pytest.raises(Unsupported, match="no layer called 'query'"):
        lora.add(tiny(), Adapter(targets=("query",)), 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"modules_to_save": ["lm_head"]}, "whole layers"),
        ({"rank_pattern": {"q_proj": 2}}, "several ranks"),
        ({"bias": "all"}, "biases"),
        ({"r": 0}, "rank 0"),
        ({"r": "8"}, "rank 8"),
        ({"lora_alpha": None}, "alpha is None"),
        ({"lora_dropout": 1}, "dropout is 1"),
        ({"target_modules": [1]}, "no names"),
    ],
)
def test_other_adapters_are_refused(change, said):
    content = json.loads(Adapter().config("")) | change
    with pytest.raises(OvertError, match=said):
        Adapter.of_config(json.dumps(content).encode())


def test_a_configuration_is_read_as_it_was_written():
    adapter = Adapter(rank=7, alpha=3.5, targets=("k_proj", "q_proj"), stabilised=True, dropout=0.1)
    assert Adapter.of_config(adapter.config("base")) == adapter


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_a_configuration(data):
    with pytest.raises(OvertError):
        Adapter.of_config(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_breaks_it_in_words_only(place, value):
    data = bytearray(Adapter(rank=8).config("base"))
    data[place % len(data)] = value
    with contextlib.suppress(OvertError):
        Adapter.of_config(bytes(data))


@pytest.mark.parametrize("kind", ["another layer", "another size", "one of two", "no tensors"])
def test_an_adapter_of_another_net_is_refused(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    lora.save(adapted(Adapter(rank=4)), Adapter(rank=4), tmp_path)
    tensors = load_file(tmp_path / lora.WEIGHTS)
    name = next(iter(tensors))
    if kind == "another layer":
        tensors[name.replace("layers.0", "layers.9")] = tensors.pop(name)
    elif kind == "another size":
        tensors[name] = torch.zeros(4, 5)
    elif kind == "one of two":
        del tensors[name]
    save_file(tensors, tmp_path / lora.WEIGHTS)
    if kind == "no tensors":
        (tmp_path / lora.WEIGHTS).write_bytes(b"\0" * 40)
    with pytest.raises(FormatError):
        lora.load(tiny(SHAPE), tmp_path)
