"""One row of several sequences, and one token after the other, give the logits of the whole."""

from collections.abc import Callable

import pytest

from oracle_models import IDS, Oracle

Find = Callable[[str], Oracle]
SOME = ["llama, llama3", "gemma2", "gemma3", "olmo3, yarn", "qwen3, window"]


@pytest.mark.parametrize("name", SOME)
def test_packed_sequences_do_not_see_each_other(oracle: Find, name: str) -> None:
    import torch

    from overt.nets import load

    model = oracle(name)
    net = load.from_safetensors(model.files, model.config)
    ids, cut = torch.tensor([IDS]), 20
    segments = torch.tensor([[0] * cut + [1] * (len(IDS) - cut)])
    with torch.no_grad():
        packed = net.logits(net(ids, segments=segments))
        alone = [net.logits(net(part)) for part in (ids[:, :cut], ids[:, cut:])]
    assert (packed - torch.cat(alone, 1)).abs().max() < 1e-5


@pytest.mark.parametrize("name", SOME)
def test_a_cache_changes_nothing(oracle: Find, name: str) -> None:
    import torch

    from overt.nets import load

    model = oracle(name)
    net = load.from_safetensors(model.files, model.config)
    ids, cache = torch.tensor([IDS]), net.new_cache()
    ends = [*range(30, len(IDS) + 1)]
    with torch.no_grad():
        parts = [
            net.logits(net(ids[:, begin:end], cache=cache))
            for begin, end in zip([0, *ends], ends, strict=False)
        ]
    assert (torch.cat(parts, 1)[0] - torch.tensor(model.logits)).abs().max() < 1e-4
