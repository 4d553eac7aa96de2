"""The one training loop: adapters, quantized bases, whole nets and preferences all go through it.

What a step does depends on its number and on the weights, and on nothing else: the order of an
epoch and the draws of dropout are seeded by where they stand. So a training that is killed and goes
on from a checkpoint ends with the bytes of one that was not.
"""

# ruff: noqa: TID253 - whoever imports this module wants torch
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from torch import Tensor, nn

from overt.errors import Failure, OutOfDisk, UsageError
from overt.lab.finetune import checkpoint, loss
from overt.lab.finetune.determinism import ended_as_stopped, fixed, undivided
from overt.lab.finetune.loss import Head, Loss, Packed, Unit
from overt.lab.finetune.training import CurvePoint, Training, TrainingOutcome
from overt.nets import lora
from overt.nets.quantized import Quantized
from overt.nets.transformer import Norm, Transformer

Tell = Callable[[Mapping[str, Any]], None]
_REFERENCE = "reference"
_SAVE_LOOK = 10.0  # seconds since the last checkpoint, after which a look makes another


def fast_precision(device: str = "cpu") -> str:
    """``bfloat16`` where the `device` (``cpu`` or ``cuda``) multiplies it natively, else
    ``float32``.
    """
    if device == "cuda":  # torch computes it on older cards too, by way of float32
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float32"
    known = torch.cpu.get_capabilities()
    native = known.get("avx512_bf16") or known.get("amx_bf16") or known.get("bf16")
    return "bfloat16" if native else "float32"


def train(
    net: Transformer,
    job: Training,
    train: Sequence[Unit],
    held: Sequence[Unit],
    place: Path,
    tell: Tell,
    *,
    first: float | None = None,
    save_seconds: float = 120.0,
    save_steps: int = 0,
) -> TrainingOutcome:
    """Train `net`, or go on where `place` says that it stands; the best weights are in it then.

    A Ctrl-C or SIGTERM is a KeyboardInterrupt after a checkpoint of the last whole step.

    Args:
        net: in float32, or quantized where it is frozen; an adapter is put on it here.
        train, held: batches; without `held` the last weights are the best.
        place: a folder for checkpoints. They are kept for another call; `checkpoint.forget` ends
            that.
        tell: ``loss`` after each step, ``reference`` while a preference's base is computed,
            ``note`` of anything else.
        first: the held-out loss before the first step, where it is known.
        save_seconds, save_steps: between two checkpoints; 0 steps: time alone decides.

    Raises:
        UsageError: there is nothing to learn from.
        Failure: a loss or gradient is no number.
        OutOfDisk: a checkpoint has no room.
    """
    if not any(loss.pack(unit).learnt for unit in train):
        raise UsageError("the training data has no token to learn", "look at its answers")
    with fixed(job.threads), ended_as_stopped():
        run = _TrainingRun(net, job, train, held, place, tell)
        return run.go(first, save_seconds, save_steps)


@dataclass
class _TrainingState:
    """Where the training is; all but the tensors."""

    step: int = 0
    best: int = 0
    best_held: float | None = None
    first_held: float | None = None
    since: int = 0
    stopped: bool = False
    tokens: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)


class _TrainingRun:
    """One training."""

    def __init__(
        self,
        net: Transformer,
        job: Training,
        train: Sequence[Unit],
        held: Sequence[Unit],
        place: Path,
        tell: Tell,
    ) -> None:
        self.net, self.job, self.place, self.tell = net, job, place, tell
        self.device = net.device
        self.train, self.held = train, held
        self.learnt = ready(net, job)
        self.dtype = torch.bfloat16 if job.precision == "bfloat16" else torch.float32
        self.optimizer = _optimizer(job, self.learnt)
        self.at = _TrainingState()
        self.best: dict[str, Tensor] = {}
        self.began = 0
        self.steps = job.steps or -(-job.epochs * len(train) // job.accumulate)

    def go(self, first: float | None, save_seconds: float, save_steps: int) -> TrainingOutcome:
        base = self._reference(save_seconds)
        self._resume()
        head = Head(self.net, self.dtype)
        learn, check = self._losses(head, base)
        if self.held and self.at.first_held is None:
            held_loss = self._look(check) if first is None else first
            self.at.first_held = self.at.best_held = held_loss
            self._keep()
        saved, started, behind = time.monotonic(), time.monotonic(), self.at.tokens
        self.began = len(self.at.curve)
        try:
            while self._owes_look() or not self._done():
                self._on(learn, check)
                self._tell(time.monotonic() - started, self.at.tokens - behind)
                due = save_steps and self.at.step % save_steps == 0
                looked = self.at.curve[-1]["held"] is not None
                wait = min(save_seconds, _SAVE_LOOK) if looked else save_seconds
                if self._done() or due or time.monotonic() - saved > wait:
                    self._save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            if self.at.step:
                self._stop(self._save)
            raise
        self._restore_best()
        at = self.at
        held = None
        if at.first_held is not None and at.best_held is not None:
            held = at.first_held, at.best_held
        curve = [CurvePoint(**point) for point in at.curve]
        return TrainingOutcome(at.step, at.best if self.held else at.step, held, at.stopped, curve)

    def _done(self) -> bool:
        return self.at.step >= self.steps or self.at.stopped

    def _on(self, learn: Loss, check: Loss) -> None:
        """One step and the look after it; only the look, where that was stopped."""
        if not self._owes_look():
            self._step(learn)
        if self._owes_look():
            held = self._look(check)
            with undivided():
                self._judge(held)

    def _stop(self, save: Callable[[], None]) -> None:
        """Keep what was done, whatever the moment: `self.at` and the weights are of one step."""
        try:
            with undivided():
                save()
        except OutOfDisk as error:
            self.tell({"kind": "note", "text": f"the last steps are not kept: {error.message}"})

    # one step

    def _step(self, learn: Loss) -> None:
        at, job = self.at, self.job
        rate = learning_rate(job, at.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts, count, tokens = [], 0, 0
        self.net.train()
        numbers = self._numbers(at.step)
        packs = [loss.pack(self.train[number], self.device) for _, number in numbers]
        # the mean over the whole step: each part is divided by what all of them count
        count = sum(self._counted(pack) for pack in packs)
        for (draw, number), packed in zip(numbers, packs, strict=True):
            lora.draw(self.net, (job.seed * 1_000_003 + draw) % 2**40)
            with self._autocast():
                total, _ = learn(packed, number)
            part = total / max(count, 1)
            part.backward()
            parts.append(part.item())
            tokens += packed.tokens
        value = sum(parts)
        norm = nn.utils.clip_grad_norm_(self.learnt.values(), job.clip or float("inf"))
        _check(at.step + 1, value, float(norm), rate)
        with undivided():
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            at.step += 1
            at.tokens += tokens
            at.curve.append(
                {"step": at.step, "loss": value, "rate": rate, "tokens": tokens, "held": None}
            )

    def _numbers(self, step: int) -> list[tuple[int, int]]:
        """How many batches came before, and which batch it is, of each batch of the step."""
        first = step * self.job.accumulate
        last = first + self.job.accumulate
        if not self.job.steps:
            last = min(last, self.job.epochs * len(self.train))
        pairs = []
        for draw in range(first, last):
            epoch, index = divmod(draw, len(self.train))
            if self.job.shuffle:
                index = _order(self.job.seed, epoch, len(self.train))[index]
            pairs.append((draw, index))
        return pairs

    def _counted(self, packed: Packed) -> int:
        return packed.sequences // 2 if self.job.loss == "preference" else packed.learnt

    def _autocast(self) -> Any:
        """A frozen net's matrices are converted once; those that learn, at each use."""
        if self.dtype == torch.float32 or self.job.learn == "adapter":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    # held-out loss

    def _owes_look(self) -> bool:
        """Whether the last step is one after which the held-out part is looked at."""
        job, step = self.job, self.at.step
        if not self.held or not step or self.at.curve[-1]["held"] is not None:
            return False
        every = job.held_every or max(1, len(self.train) // job.accumulate)
        return step % every == 0 or step == self.steps

    def _look(self, check: Loss) -> float:
        self.net.eval()
        total, count = 0.0, 0
        with torch.no_grad(), self._autocast():
            for number, unit in enumerate(self.held):
                packed = loss.pack(unit, self.device)
                value, many = check(packed, number)
                total, count = total + value.item(), count + many
        return total / max(count, 1)

    def _judge(self, held: float) -> None:
        at = self.at
        at.curve[-1]["held"] = held
        if at.best_held is None or held < at.best_held:
            at.best, at.best_held, at.since = at.step, held, 0
            self._keep()
        else:
            at.since += 1
            at.stopped = bool(self.job.patience) and at.since >= self.job.patience

    def _keep(self) -> None:
        """Into the same memory each time: two copies at once would be one too many."""
        for name, part in self.learnt.items():
            if name in self.best:
                self.best[name].copy_(part.detach())
            else:
                self.best[name] = part.detach().clone()

    def _restore_best(self) -> None:
        for name, part in self.best.items():
            self.learnt[name].data.copy_(part)
        self.net.eval()

    # the base of a preference

    def _losses(self, head: Head, base: tuple[list[Tensor], list[Tensor]]) -> tuple[Loss, Loss]:
        job, net = self.job, self.net
        if job.loss == "answers":
            total = loss.answers(net, head)
            return total, total
        return (
            loss.preferences(net, head, base[0], job.beta, job.smoothing),
            loss.preferences(net, head, base[1], job.beta, job.smoothing),
        )

    def _reference(self, save_seconds: float) -> tuple[list[Tensor], list[Tensor]]:
        """What the net gave the answers before it learnt: computed once, and kept.

        A checkpoint of it has the number of batches done for a step. Stopped, it goes on there.
        """
        if self.job.loss != "preference":
            return [], []
        folder, numbers = self.place / _REFERENCE, self._visited()
        units = [*(self.train[number] for number in numbers), *self.held]
        loaded = checkpoint.load(folder)
        done = [] if loaded is None else [*loaded[0]["logs"].split(loaded[0]["sizes"].tolist())]
        count = len(done)

        def keep() -> None:
            if len(done) == count:
                return
            sizes = torch.tensor([len(logs) for logs in done])
            checkpoint.save(folder, len(done), {"logs": torch.cat(done), "sizes": sizes}, {})

        saved = started = time.monotonic()
        try:
            for logs in self._logs(units[count:]):
                done.append(logs)
                now = time.monotonic()
                per_batch = (now - started) / (len(done) - count)
                self.tell(
                    {
                        "kind": "reference",
                        "done": len(done),
                        "batches": len(units),
                        "eta": per_batch * (len(units) - len(done)),
                    }
                )
                if now - saved > save_seconds:
                    keep()
                    saved = now
        except KeyboardInterrupt:
            self._stop(keep)
            raise
        keep()
        train = [torch.empty(0)] * len(self.train)
        for number, logs in zip(numbers, done, strict=False):
            train[number] = logs
        return train, done[len(numbers) :]

    def _visited(self) -> Sequence[int]:
        """The batches that will be learnt from: of few steps not all."""
        if self.steps * self.job.accumulate >= len(self.train):
            return range(len(self.train))
        return sorted(number for step in range(self.steps) for _, number in self._numbers(step))

    def _logs(self, units: Sequence[Unit]) -> Iterator[Tensor]:
        if not units:
            return
        head = Head(self.net, self.dtype)
        self.net.eval()
        with torch.no_grad(), self._autocast(), lora.off(self.net):
            for unit in units:
                packed = loss.pack(unit, self.device)
                yield -loss.per_sequence(loss.surprises(self.net, head, packed), packed).cpu()

    # checkpoints

    def _save(self) -> None:
        tensors = {f"now.{name}": part.detach() for name, part in self.learnt.items()}
        tensors |= {f"best.{name}": part for name, part in self.best.items()}
        for name, part in self.learnt.items():
            for key, value in self.optimizer.state[part].items():
                tensors[f"{key}.{name}"] = value
        cpu = {name: part.contiguous().cpu() for name, part in tensors.items()}
        checkpoint.save(self.place, self.at.step, cpu, asdict(self.at))

    def _resume(self) -> None:
        loaded = checkpoint.load(self.place)
        if loaded is None:
            return
        tensors, state, wrong = loaded
        for sentence in wrong:
            self.tell({"kind": "note", "text": f"{sentence}; the one before it is used"})
        self.at = _TrainingState(**state)
        for name, part in self.learnt.items():
            part.data.copy_(tensors[f"now.{name}"])
            if f"best.{name}" in tensors:
                self.best[name] = tensors[f"best.{name}"].to(part.device)
            self.optimizer.state[part] = {
                key: tensors[f"{key}.{name}"].to(part.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
        self.tell({"kind": "note", "text": f"going on after step {self.at.step}"})

    def _tell(self, seconds: float, tokens: int) -> None:
        point = self.at.curve[-1]
        done = len(self.at.curve) - self.began
        left = self.steps - self.at.step
        per_step = seconds / max(1, done)
        self.tell(
            {
                "kind": "loss",
                "step": point["step"],
                "steps": self.steps,
                "loss": point["loss"],
                "held": point["held"],
                "lr": point["rate"],
                "tokens": self.at.tokens,
                "tokens_per_second": tokens / seconds if seconds else 0.0,
                "eta": left * per_step,
            }
        )


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    """Of an epoch's batches; a step reaches into two epochs at the most, unless they are tiny."""
    order = list(range(count))
    Random(f"{seed} {epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
    return tuple(order)


def learning_rate(job: Training, step: int, steps: int) -> float:
    """Of the step after `step` have been done."""
    warm = math.ceil(job.warmup * steps)
    if step < warm:
        return job.rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    if job.schedule == "linear":
        return job.rate * (1 - done)
    if job.schedule == "cosine":
        return job.rate * 0.5 * (1 + math.cos(math.pi * done))
    return job.rate


def _check(step: int, value: float, norm: float, rate: float) -> None:
    if not (math.isfinite(value) and math.isfinite(norm)):
        what = "loss" if not math.isfinite(value) else "gradient"
        raise Failure(
            f"the {what} of step {step} is no number, at the learning rate {rate:.3g}",
            "try a learning rate a tenth of that",
        )


def ready(net: Transformer, job: Training) -> dict[str, nn.Parameter]:
    """Put an adapter on the net, and have it compute as it will in training; what learns, by name.

    A net that is ready stays as it is. It computes what the base computes, in `job.precision`.
    """
    net.checkpointing = job.checkpointing
    if job.learn == "adapter":
        if not any(True for _ in lora.adapted(net)):
            lora.add(net, job.adapter, job.seed)
        if job.precision == "bfloat16":
            _round_frozen(net)
    elif any(isinstance(layer, Quantized) for layer in net.modules()):
        raise UsageError(
            "quantized weights cannot learn", "train an adapter, or start from an f16 model"
        )
    else:
        net.requires_grad_(True)
    return {name: part for name, part in net.named_parameters() if part.requires_grad}


def _round_frozen(net: Transformer) -> None:
    """Products of frozen matrices in bfloat16; norms, the stream between layers and what learns
    stay float32.
    """
    for layer in net.model.layers.modules():
        if isinstance(layer, Quantized):
            layer.product = torch.bfloat16
        elif isinstance(layer, nn.Linear):
            layer.to(torch.bfloat16)  # one that was loaded so stays as it is
            if _in_its_type not in layer._forward_pre_hooks.values():
                layer.register_forward_pre_hook(_in_its_type)
        elif isinstance(layer, Norm):
            layer.out = torch.bfloat16


def _in_its_type(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A layer without a norm before it (OLMo 2) gets the stream itself, in float32."""
    return (inputs[0].to(cast("Tensor", layer.weight).dtype),)


def _optimizer(job: Training, learnt: Mapping[str, nn.Parameter]) -> torch.optim.AdamW:
    """Adam with the decay of matrices only, as is usual."""
    matrices = [part for part in learnt.values() if part.dim() > 1]
    vectors = [part for part in learnt.values() if part.dim() < 2]
    groups = [{"params": matrices, "weight_decay": job.decay}]
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})
    return torch.optim.AdamW(
        groups, lr=job.rate, betas=(job.beta1, job.beta2), eps=job.eps, fused=True
    )
