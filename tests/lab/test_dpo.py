"""Preferences: the loss is the paper's, its base is the net before it learnt."""

import math

import numpy as np
import pytest
import torch  # noqa: TID253

from overt.lab.finetune import loop, loss
from overt.lab.finetune.training import Training
from overt.nets import lora
from overt.nets.adapter import Adapter
from training_child import batches, pairs, tiny


def log_of(net, prompt, answer):
    """log p of an answer, by its plain definition."""
    with torch.no_grad():
        logs = torch.log_softmax(net.logits(net(torch.tensor([prompt + answer])))[0], -1)
    return sum(logs[len(prompt) + i - 1, id].item() for i, id in enumerate(answer))


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (0.5, 0.1)])
def test_the_loss_is_the_formula(beta, smoothing):
    logs = np.random.default_rng(1).normal(-20, 5, (4, 2, 2))
    found = loss.preference(
        torch.from_numpy(logs[..., 0]).flatten(), torch.from_numpy(logs[..., 1]).flatten(),
        beta, smoothing,
    )  # fmt: skip
    for one, ((chosen, base_chosen), (rejected, base_rejected)) in zip(found, logs, strict=True):
        margin = beta * ((chosen - base_chosen) - (rejected - base_rejected))
        right, wrong = 1 / (1 + math.exp(-margin)), 1 / (1 + math.exp(margin))
        wanted = -(1 - smoothing) * math.log(right) - smoothing * math.log(wrong)
        assert one.item() == pytest.approx(wanted, rel=1e-9)


def test_the_first_loss_is_log_2_and_answers_alone_count(tmp_path):
    torch.set_num_threads(1)
    units = pairs(4)
    job = Training(loss="preference", adapter=Adapter(rank=4), epochs=1, rate=1e-3)
    done = loop.train(tiny(), job, batches(units), [], tmp_path, lambda event: None)
    assert done.curve[0].loss == pytest.approx(math.log(2), abs=1e-6)
    net = tiny()
    packed = loss.pack(units)
    with torch.no_grad():
        values = loss.surprises(net, loss.Head(net, torch.float32), packed)
    sums = loss.per_sequence(values, packed).tolist()
    for number, pair in enumerate(units):
        assert -sums[2 * number] == pytest.approx(log_of(net, pair.prompt, pair.chosen), rel=1e-4)
        wanted = log_of(net, pair.prompt, pair.rejected)
        assert -sums[2 * number + 1] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("learn", ["adapter", "all"])
def test_a_second_step_is_the_formula_against_the_net_before(learn, tmp_path):
    torch.set_num_threads(1)
    units = pairs(2)
    job = Training(
        loss="preference", learn=learn, adapter=Adapter(rank=4), steps=2, rate=5e-3, warmup=0,
        schedule="constant", beta=0.3, smoothing=0.05,
    )  # fmt: skip
    net, once = tiny(), tiny()
    done = loop.train(net, job, [units], [], tmp_path / "two", lambda event: None)
    one = Training.decode(job.encode() | {"steps": 1})
    loop.train(once, one, [units], [], tmp_path / "one", lambda event: None)
    base, wanted = tiny(), []
    for pair in units:
        margin = job.beta * (
            log_of(once, pair.prompt, pair.chosen)
            - log_of(base, pair.prompt, pair.chosen)
            - log_of(once, pair.prompt, pair.rejected)
            + log_of(base, pair.prompt, pair.rejected)
        )
        wanted.append(
            (1 - job.smoothing) * math.log1p(math.exp(-margin))
            + job.smoothing * math.log1p(math.exp(margin))
        )
    assert done.curve[1].loss == pytest.approx(sum(wanted) / 2, rel=1e-3)
    assert done.curve[1].loss < done.curve[0].loss


def test_what_was_chosen_becomes_likelier(tmp_path):
    torch.set_num_threads(1)
    units = pairs(6)
    job = Training(loss="preference", adapter=Adapter(rank=4), epochs=6, rate=1e-2)
    net = tiny()
    done = loop.train(net, job, batches(units), batches(units[:2]), tmp_path, lambda event: None)
    assert done.held is not None
    assert done.held[0] == pytest.approx(math.log(2), abs=1e-6)
    assert done.held[1] < 0.5
    for pair in units:
        ahead = log_of(net, pair.prompt, pair.chosen) - log_of(net, pair.prompt, pair.rejected)
        with lora.off(net):
            before = log_of(net, pair.prompt, pair.chosen)
            before -= log_of(net, pair.prompt, pair.rejected)
        assert ahead > before


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("stop", "first"), [(Killed, 4), (KeyboardInterrupt, 5)], ids=["killed", "by a person"]
)
def test_the_pass_over_the_base_goes_on_where_it_was_stopped(stop, first, tmp_path):
    """Killed it loses what it had not saved; asked to stop it saves what it has."""
    torch.set_num_threads(1)
    job = Training(loss="preference", adapter=Adapter(rank=2), rate=1e-2)
    train, held, events = batches(pairs(10)), batches(pairs(4)), []

    def run(place, tell, save_seconds):
        net = tiny()
        done = loop.train(net, job, train, held, place, tell, save_seconds=save_seconds)
        return done, lora.state(net)

    def stopping(event):
        if event.get("done") == 4:
            raise stop

    with pytest.raises(stop):
        run(tmp_path / "cut", stopping, 0.0 if stop is Killed else 120.0)
    done, found = run(tmp_path / "cut", events.append, 120.0)
    read = [one for one in events if one["kind"] == "reference"]
    assert [one["done"] for one in read] == list(range(first, 8))
    assert {one["batches"] for one in read} == {7}
    assert read[-1]["eta"] == 0
    whole, wanted = run(tmp_path / "whole", lambda event: None, 120.0)
    assert done == whole
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    events.clear()
    run(tmp_path / "cut", events.append, 120.0)
    assert [one["kind"] for one in events] == ["note"], "what is known is not computed again"


def test_the_base_is_asked_only_of_what_is_learnt_from(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    job = Training(loss="preference", adapter=Adapter(rank=2), rate=1e-2, steps=2)
    train, held, found = batches(pairs(10)), batches(pairs(4)), []
    for name in ("few", "all"):
        events, net = [], tiny()
        done = loop.train(net, job, train, held, tmp_path / name, events.append)
        read = [one["batches"] for one in events if one["kind"] == "reference"]
        found.append((read, done, lora.state(net)))
        monkeypatch.setattr(loop._TrainingRun, "_visited", lambda run: range(len(run.train)))
    (few, one, learnt), (every, other, wanted) = found
    assert few == [4] * 4
    assert every == [7] * 7
    assert one == other
    assert all(torch.equal(learnt[name], wanted[name]) for name in wanted)
