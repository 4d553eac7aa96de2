"""The net against itself: packing, the cache, windows and checkpointing change nothing.

What it computes is compared with transformers in test_architectures.py.
"""

import pytest
import torch  # noqa: TID253

from overt.nets.shape import Rope, Shape
from training_child import tiny

LLAMA = Shape("llama", 2, 32, 4, 2, 8, 48, 64, 128)
GEMMA2 = Shape(
    "gemma2", 2, 32, 4, 2, 16, 48, 64, 128, window=5, local=(True, False), norms="both",
    activation="gelu_tanh", tied=True, embedding_scale=5.5, attention_cap=8.0, final_cap=5.0,
)  # fmt: skip
GEMMA3 = Shape(
    "gemma3", 2, 32, 4, 1, 8, 48, 64, 128, window=5, local=(True, False), norms="both",
    qk_norm="head", activation="gelu_tanh", tied=True, local_rope=Rope(1e3),
)  # fmt: skip
OLMO = Shape("olmo", 2, 32, 4, 4, 8, 48, 64, 128, norm="layer", clip=0.5)
OLMO2 = Shape("olmo2", 2, 32, 4, 2, 8, 48, 64, 128, norms="after", qk_norm="full")
QWEN2 = Shape("qwen2", 2, 32, 4, 2, 8, 48, 64, 128, bias=True, rope=Rope(share=0.5))
SHAPES = [LLAMA, GEMMA2, GEMMA3, OLMO, OLMO2, QWEN2]
IDS = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.architecture)
def net(request):
    torch.set_num_threads(1)
    return tiny(request.param)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_sequences_packed_into_a_row_do_not_see_each_other(net):
    segments = torch.tensor([[7] * 8 + [3] * 12, [0] * 3 + [1] * 16 + [0]])
    with torch.no_grad():
        packed = net(IDS, segments=segments)
        for row, first, last in [(0, 0, 8), (0, 8, 20), (1, 0, 3), (1, 3, 19), (1, 19, 20)]:
            alone = net(IDS[row : row + 1, first:last])
            close(packed[row, first:last], alone[0])


def test_a_token_does_not_see_those_behind_it(net):
    other = IDS.clone()
    other[:, 10:] = (other[:, 10:] + 1) % 64
    with torch.no_grad():
        close(net(IDS)[:, :10], net(other)[:, :10])


def test_a_cache_gives_what_the_whole_text_gives(net):
    with torch.no_grad():
        whole = net(IDS)
        cache = net.new_cache()
        parts = [net(IDS[:, :7], cache=cache), net(IDS[:, 7:12], cache=cache)]
        parts += [net(IDS[:, at : at + 1], cache=cache) for at in range(12, 20)]
        close(torch.cat(parts, 1), whole)
        assert cache.length == 20
        cache.cut(9)
        close(net(IDS[:, 9:15], cache=cache), whole[:, 9:15])


def test_a_cache_grows(net):
    long = IDS.repeat(1, 15)[:, :290]
    with torch.no_grad():
        cache = net.new_cache()
        net(long[:, :250], cache=cache)
        found = net(long[:, 250:], cache=cache)
        torch.testing.assert_close(found, net(long)[:, 250:], rtol=1e-3, atol=1e-3)


def test_a_local_layer_sees_its_window_only():
    shape = Shape("gemma3", 1, 32, 4, 2, 8, 48, 64, 128, window=5, local=(True,))
    other = IDS.clone()
    other[:, 4] = (other[:, 4] + 1) % 64
    net = tiny(shape)
    with torch.no_grad():
        one, two = net(IDS), net(other)
    close(one[:, 9:], two[:, 9:])
    assert (one[:, 8] - two[:, 8]).abs().max() > 1e-4


def gradients(net):
    net.zero_grad()
    net.logits(net(IDS)).square().mean().backward()
    return {name: part.grad.clone() for name, part in net.named_parameters()}


def test_checkpointing_gives_the_same_gradients(net):
    kept = gradients(net)
    net.checkpointing = True
    again = gradients(net)
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_a_frozen_norm_passes_the_gradient_on_as_a_learning_one(net):
    kept = gradients(net)
    for name, part in net.named_parameters():
        part.requires_grad_("norm" not in name)
    net.zero_grad()
    net.logits(net(IDS)).square().mean().backward()
    for name, part in net.named_parameters():
        if "norm" not in name:
            torch.testing.assert_close(part.grad, kept[name], rtol=1e-4, atol=1e-6)


def test_gradients_are_those_of_differences():
    net = tiny(GEMMA3).double()
    with torch.no_grad():
        for part in net.parameters():
            part.requires_grad_(True)
    weight = net.model.layers[0].mlp.up_proj.weight

    def value():
        return net.logits(net(IDS)).square().mean()

    value().backward()
    with torch.no_grad():
        for place in [(0, 0), (3, 7)]:
            kept = weight[place].item()
            weight[place] = kept + 1e-2
            above = value()
            weight[place] = kept - 1e-2
            slope = (above - value()) / 2e-2
            weight[place] = kept
            assert slope.item() == pytest.approx(weight.grad[place].item(), rel=0.02, abs=1e-4)


def test_logits_are_capped():
    net = tiny(GEMMA2)
    with torch.no_grad():
        assert net.logits(torch.full((1, 32), 1e3)).abs().max() <= 5


def test_bfloat16_is_near():
    exact, rounded = tiny(LLAMA), tiny(LLAMA).to(torch.bfloat16)
    with torch.no_grad():
        far = (exact(IDS) - rounded(IDS).float()).abs().max()
    assert 0 < far < 0.2
