"""The training loop: what it computes, and that a kill at any moment changes nothing of it."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch  # noqa: TID253
from hypothesis import given
from hypothesis import strategies as st

import training_child
from overt.errors import BadSetting, Failure, FormatError, OutOfDisk, OvertError, UsageError
from overt.lab.finetune import checkpoint, loop, loss, measure
from overt.lab.finetune.example import Batch, Example
from overt.lab.finetune.training import Training
from overt.nets.adapter import Adapter
from overt.nets.shape import Shape
from training_child import batches, examples, pairs, tiny

ADAPTER = Adapter(rank=4)
CHILD = Path(training_child.__file__)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def learnt(net):
    return {name: part.detach() for name, part in net.named_parameters() if part.requires_grad}


def run(job, place, tell=lambda event: None, units=None, held=None, **others):
    """A training of a tiny net; the net's learnt tensors and what was done."""
    net = tiny()
    train = batches(examples(10)) if units is None else units
    done = loop.train(net, job, train, held or [], place, tell, **others)
    return learnt(net), done


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def held_loss(net, batches):
    judged = measure.answers(net, [one for batch in batches for one in batch])
    return sum(one.surprise for one in judged) / sum(one.tokens for one in judged)


# what is computed


@pytest.mark.parametrize("cap", [0.0, 4.0], ids=["plain", "capped"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_loss_and_its_gradients_are_those_of_plain_torch(cap, tied, monkeypatch):
    monkeypatch.setattr(loss, "_LOGITS", 64 * 3)  # three tokens at a time
    shape = Shape("gemma2", 1, 32, 4, 2, 8, 48, 64, 128, tied=tied, final_cap=cap)
    texts = examples(3)
    found, wanted = tiny(shape), tiny(shape)
    loss.surprises(found, loss.Head(found, torch.float32), loss.pack(texts)).mean().backward()
    parts = []
    for one in texts:
        logits = wanted.logits(wanted(torch.tensor([one.ids])))[0]
        targets = [id if yes else -100 for id, yes in zip(one.ids, one.labels, strict=True)]
        parts.append(
            torch.nn.functional.cross_entropy(
                logits[:-1], torch.tensor(targets[1:]), reduction="sum"
            )
        )
    (sum(parts) / sum(one.learnt for one in texts)).backward()
    for (name, one), two in zip(found.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_logits_are_only_of_what_is_learnt_and_a_few_at_a_time(monkeypatch):
    seen = []
    log_shares = loss.Head.log_shares

    def counted(self, hidden):
        seen.append(hidden.shape[0])
        return log_shares(self, hidden)

    monkeypatch.setattr(loss.Head, "log_shares", counted)
    monkeypatch.setattr(loss, "_LOGITS", 64 * 4)
    texts, net = examples(4), tiny()
    loss.surprises(net, loss.Head(net, torch.float32), loss.pack(texts)).sum().backward()
    assert max(seen) <= 4
    # a second time for the gradient of an output matrix that learns
    assert sum(seen) == 2 * sum(one.learnt for one in texts)


def test_padded_rows_and_plain_examples_are_the_same():
    texts = examples(3)
    longest = max(len(texts[0].ids) + len(texts[1].ids), len(texts[2].ids))

    def row(parts, empty):
        return [part for one in parts for part in one] + [empty] * (
            longest - sum(len(one) for one in parts)
        )

    rows = [texts[:2], texts[2:]]
    batch = Batch(
        [row([one.ids for one in some], 0) for some in rows],
        [row([one.labels for one in some], False) for some in rows],
        [row([range(len(one.ids)) for one in some], 0) for some in rows],
        [row([[n] * len(one.ids) for n, one in enumerate(some)], -1) for some in rows],
    )
    one, two = loss.pack(batch), loss.pack(texts)
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.segments, two.segments)
    assert torch.equal(one.at, two.at)
    assert torch.equal(one.targets, two.targets)


def test_a_step_is_the_mean_over_its_tokens_however_they_are_cut(tmp_path):
    texts = examples(4)
    one = Training(adapter=ADAPTER, rate=1e-2)
    cut = Training(adapter=ADAPTER, rate=1e-2, accumulate=4, shuffle=False)
    whole, done = run(one, tmp_path / "one", units=[texts])
    parts, other = run(cut, tmp_path / "cut", units=[[text] for text in texts])
    assert done.steps == other.steps == 1
    assert other.curve[0].loss == pytest.approx(done.curve[0].loss, rel=1e-5)
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("learn", ["adapter", "all"])
def test_steps_are_those_of_torch_by_hand(learn, tmp_path):
    job = Training(learn=learn, adapter=ADAPTER, epochs=2, rate=3e-3, shuffle=False, decay=0.1)
    units = batches(examples(6), 3)
    found, done = run(job, tmp_path, units=units)
    net = tiny()
    parts = loop.ready(net, job)
    matrices = [part for part in parts.values() if part.dim() > 1]
    vectors = [part for part in parts.values() if part.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=1)
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(job, step, 4)
        value = loss.surprises(
            net, loss.Head(net, torch.float32), loss.pack(units[step % 2])
        ).mean()
        assert done.curve[step].loss == pytest.approx(value.item(), rel=1e-4)
        value.backward()
        torch.nn.utils.clip_grad_norm_(list(parts.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for name in found:
        torch.testing.assert_close(found[name], parts[name].data, rtol=1e-3, atol=1e-4)


def test_bfloat16_goes_the_same_way(tmp_path):
    curves = []
    for precision in ("float32", "bfloat16"):
        job = Training(adapter=ADAPTER, epochs=4, rate=1e-2, precision=precision)
        curves.append(run(job, tmp_path / precision)[1].curve)
    assert curves[0][-1].loss < 0.9 * curves[0][0].loss
    assert curves[1][0].loss == pytest.approx(curves[0][0].loss, rel=0.01)
    for one, two in zip(*curves, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=0.05)


def test_in_few_bits_a_stream_without_norms_before_its_layers_is_learnt_on(tmp_path):
    """OLMo 2, where some layers have no adapter, and where a preference turns all of them off."""
    shape = Shape("olmo2", 2, 32, 4, 2, 8, 48, 64, 128, norms="after", qk_norm="full")
    for loss_name, units in (("answers", examples), ("preference", pairs)):
        job = Training(
            adapter=Adapter(rank=2, targets=("v_proj", "up_proj")), loss=loss_name, rate=1e-2,
            precision="bfloat16",
        )  # fmt: skip
        done = loop.train(
            tiny(shape), job, batches(units(4)), [], tmp_path / loss_name, lambda event: None
        )
        assert all(math.isfinite(point.loss) for point in done.curve)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.8535534, 0.5, 0.1464466]),
        ("constant", [0.5, 1, 1, 1, 1, 1]),
    ],
)
def test_rates_rise_and_fall(schedule, rates):
    job = Training(rate=1, warmup=0.3, schedule=schedule)
    found = [loop.learning_rate(job, step, 6) for step in range(6)]
    assert found == pytest.approx(rates)


def test_checkpointing_of_layers_changes_nothing(tmp_path):
    found = []
    for checkpointing in (False, True):
        job = Training(adapter=Adapter(rank=4, dropout=0.2), rate=1e-2, checkpointing=checkpointing)
        found.append(run(job, tmp_path / str(checkpointing))[0])
    assert same(*found)


def test_the_weights_of_the_best_held_out_loss_are_kept_and_it_stops(tmp_path):
    held = [[Example([1, 50, 2, 33, 9], [False, True, True, True, True], 0)]]
    job = Training(adapter=ADAPTER, epochs=40, rate=3e-2, held_every=1, patience=3)
    events = []
    net = tiny()
    done = loop.train(net, job, batches(examples(10)), held, tmp_path, events.append)
    assert done.stopped
    assert done.steps == done.best + 3 < 200
    assert done.held is not None
    looks = {point.step: point.held for point in done.curve}
    assert done.held[1] == min([done.held[0], *looks.values()])
    assert held_loss(net, held) == pytest.approx(done.held[1], rel=1e-4)
    steps = [event for event in events if event["kind"] == "loss"]
    assert [event["step"] for event in steps] == list(range(1, done.steps + 1))
    assert steps[0].keys() >= {"steps", "loss", "held", "lr", "tokens", "tokens_per_second", "eta"}


def test_epochs_have_orders_of_their_own_and_every_batch_once():
    job = Training(epochs=3, adapter=ADAPTER)
    one = loop._TrainingRun(tiny(), job, batches(examples(10)), [], Path(), lambda event: None)
    orders = [[one._numbers(5 * epoch + step)[0][1] for step in range(5)] for epoch in range(3)]
    assert [sorted(order) for order in orders] == [[0, 1, 2, 3, 4]] * 3
    assert len({tuple(order) for order in orders}) > 1


def test_an_epoch_is_shuffled_once_however_many_batches_a_step_has(monkeypatch):
    job = Training(epochs=2, accumulate=5, adapter=ADAPTER, seed=77)
    one = loop._TrainingRun(tiny(), job, batches(examples(10)), [], Path(), lambda event: None)
    drawn, random = [], loop.Random
    monkeypatch.setattr(loop, "Random", lambda key: drawn.append(key) or random(key))
    for step in range(2):
        wanted = [0, 1, 2, 3, 4]
        random(f"77 {step}").shuffle(wanted)
        assert one._numbers(step) == [(5 * step + at, wanted[at]) for at in range(5)]
    assert drawn == ["77 0", "77 1"]


def test_the_best_weights_are_kept_in_one_place():
    one = loop._TrainingRun(tiny(), Training(adapter=ADAPTER), [], [], Path(), lambda event: None)
    one._keep()
    places = {name: part.data_ptr() for name, part in one.best.items()}
    name, learnt = next(iter(one.learnt.items()))
    learnt.data.add_(1)
    assert not torch.equal(one.best[name], learnt)
    one._keep()
    assert same(one.best, {name: part.detach() for name, part in one.learnt.items()})
    assert {name: part.data_ptr() for name, part in one.best.items()} == places


# what is refused


def test_a_loss_that_is_no_number_is_said(tmp_path):
    net = tiny()
    net.model.norm.weight.data[3] = float("nan")
    job = Training(adapter=ADAPTER)
    with pytest.raises(Failure, match="the loss of step 1 is no number") as caught:
        loop.train(net, job, batches(examples(2)), [], tmp_path, lambda event: None)
    assert caught.value.hint == "try a learning rate a tenth of that"


def test_nothing_to_learn_is_said(tmp_path):
    with pytest.raises(UsageError, match="no token to learn"):
        run(Training(), tmp_path, units=[[Example([1, 2], [True, False], 0)]])


@given(
    st.dictionaries(
        st.sampled_from(["rate", "epochs", "adapter", "precision", "other", "seed"]),
        st.none() | st.integers() | st.text(max_size=5) | st.dictionaries(st.text(), st.none()),
    )
)
def test_settings_are_read_or_refused_in_words(found):
    with contextlib.suppress(OvertError):
        assert Training.decode(Training.decode(found).encode()) == Training.decode(found)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"schedule": "cosin"}, "schedule is 'cosin'; it is one of cosine, linear, constant"),
        ({"precision": "bf16"}, "precision is 'bf16'"),
        ({"epochs": 1.5}, "epochs is '1.5'; it is a whole number"),
        ({"steps": True}, "steps is 'True'"),
        ({"rate": "1"}, "rate is '1'; it is a number"),
        ({"rate": math.nan}, "rate is nan"),
        ({"shuffle": 1}, "shuffle is '1'; it is true or false"),
        ({"adapter": {"rank": 2.0}}, "rank is '2.0'"),
        ({"adapter": {"stabilised": 1}}, "stabilised is '1'"),
        ({"adapter": {"targets": "q_proj"}}, "the layers of an adapter are 'q_proj'"),
        ({"adapter": {"targets": [1]}}, "targets is"),
        ({"adapter": {"colour": 1}}, "cannot be read"),
        ({"adapter": 7}, "cannot be read"),
        ({"other": 1}, "'other' is no setting"),
    ],
)
def test_a_recipe_of_somebody_else_is_refused_in_words(found, said):
    with pytest.raises(FormatError) as caught:
        Training.decode(found)
    assert str(caught.value).startswith(said) or said in caught.value.message
    assert caught.value.hint


def test_settings_out_of_range_are_named():
    with pytest.raises(BadSetting, match="rate is -1"):
        Training(rate=-1)
    with pytest.raises(BadSetting, match="rank is 0"):
        Training(adapter=Adapter(rank=0))
    with pytest.raises(BadSetting, match="cannot learn on 'lm_head'") as caught:
        Training(adapter=Adapter(targets=("q_proj", "lm_head")))
    assert "q_proj, k_proj" in str(caught.value.hint)


# kills, damage, a full disk

KINDS = {
    "adapter with dropout": Training(
        adapter=Adapter(rank=4, dropout=0.1), epochs=3, held_every=3, accumulate=2, rate=1e-2
    ),
    "full": Training(learn="all", epochs=2, rate=1e-3),
    "preference": Training(loss="preference", epochs=2, adapter=Adapter(rank=2), rate=1e-2),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder for each kind, in which a training was killed in its fifth step."""
    folder = tmp_path_factory.mktemp("killed")
    jobs = [
        {"job": job.encode(), "die": 5, "place": str(folder / kind)} for kind, job in KINDS.items()
    ]
    done = subprocess.run(
        [sys.executable, str(CHILD), json.dumps(jobs)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [signal.SIGKILL] * len(KINDS)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_gone_on_it_ends_with_the_same_bytes(kind, killed, tmp_path):
    job = KINDS[kind]
    notes = []
    units = pairs if job.loss == "preference" else examples
    options = {"units": batches(units(10)), "held": batches(units(4)), "save_steps": 2}
    found, on = run(job, killed / kind, notes.append, **options)
    assert notes[0] == {"kind": "note", "text": "going on after step 4"}
    wanted, whole = run(job, tmp_path, **options)
    assert same(found, wanted)
    assert on == whole


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", range(1, 9))
def test_stopped_at_any_moment_of_writing_it_ends_the_same(at, tmp_path, monkeypatch):
    job = Training(adapter=ADAPTER, epochs=1, rate=1e-2)
    wanted, _ = run(job, tmp_path / "whole", save_steps=1)
    calls, replace, fsync = [], Path.replace, os.fsync

    def dying(function):
        def called(*arguments):
            calls.append(function)
            if len(calls) == at:
                raise Killed
            return function(*arguments)

        return called

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying(replace))
        patch.setattr(os, "fsync", dying(fsync))
        with pytest.raises(Killed):
            run(job, tmp_path / "cut", save_steps=1)
    found, _ = run(job, tmp_path / "cut", save_steps=1)
    assert same(found, wanted)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [7, 10, 12])
def test_stopped_by_a_person_it_keeps_its_last_step(kind, at, tmp_path, monkeypatch):
    """In the middle of a step, of a look, and of what a signal may not divide."""
    job = Training(adapter=ADAPTER, epochs=3, held_every=2, rate=1e-2)
    options = {"held": batches(examples(4))}
    wanted, whole = run(job, tmp_path / "whole", **options)
    calls, surprises, step = [], loss.surprises, torch.optim.AdamW.step

    def called(function):
        def stopping(*arguments):
            calls.append(function)
            if len(calls) == at:
                os.kill(os.getpid(), kind)
            return function(*arguments)

        return stopping

    notes = []
    with monkeypatch.context() as patch:
        patch.setattr(loss, "surprises", called(surprises))
        patch.setattr(torch.optim.AdamW, "step", called(step))
        with pytest.raises(KeyboardInterrupt):
            run(job, tmp_path / "cut", **options)
    found, on = run(job, tmp_path / "cut", notes.append, **options)
    assert notes[0]["text"].startswith("going on after step")
    assert same(found, wanted)
    assert on == whole


def test_a_base_that_was_measured_is_not_measured_again(tmp_path):
    held = batches(examples(4))
    job = Training(adapter=ADAPTER, rate=1e-2)
    first = held_loss(tiny(), held)
    found, done = run(job, tmp_path / "told", held=held, first=first)
    wanted, other = run(job, tmp_path / "found", held=held)
    assert same(found, wanted)
    assert done.held == pytest.approx(other.held, rel=1e-5)
    assert done.held[0] == first


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(suffix, damage, tmp_path):
    job = Training(adapter=ADAPTER, epochs=2, rate=1e-2)
    wanted, _ = run(job, tmp_path / "whole")

    def stop(event):
        if event.get("step") == 5:
            raise Killed

    with pytest.raises(Killed):
        run(job, tmp_path / "cut", stop, save_steps=2)
    newest = tmp_path / "cut" / f"checkpoint-000000004.{suffix}"
    data = bytearray(newest.read_bytes())
    if damage == "cut":
        newest.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        data[len(data) * 3 // 4] ^= 1
        newest.write_bytes(data)
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.unlink()
    notes = []
    found, _ = run(job, tmp_path / "cut", notes.append)
    texts = [note["text"] for note in notes if note["kind"] == "note"]
    assert texts[-1] == "going on after step 2"
    assert same(found, wanted)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*arguments, **others):
        with Path("/dev/full").open("wb") as file:
            file.write(b"x" * 65536)

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutOfDisk, match="too full for a checkpoint") as caught:
        run(Training(adapter=ADAPTER), tmp_path, save_steps=1)
    assert caught.value.hint is not None
    assert not list(tmp_path.glob("*.part"))


def test_only_two_checkpoints_are_kept_and_then_none(tmp_path):
    run(Training(adapter=ADAPTER), tmp_path, save_steps=1)
    names = [f"checkpoint-{step:09}.{end}" for step in (4, 5) for end in ("json", "safetensors")]
    assert sorted(path.name for path in tmp_path.glob("check*")) == names
    checkpoint.forget(tmp_path)
    assert not list(tmp_path.glob("check*"))


def test_a_training_that_is_done_is_not_done_again(tmp_path):
    job = Training(adapter=ADAPTER, epochs=2)
    one, done = run(job, tmp_path)
    events = []
    two, again = run(job, tmp_path, events.append)
    assert same(one, two)
    assert again == done
    assert [event["kind"] for event in events] == ["note"]
    assert math.isfinite(done.curve[-1].loss)
