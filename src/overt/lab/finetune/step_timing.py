"""How long a fine-tune takes, by doing one step of it and throwing that away."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from overt.lab.finetune import judge, load
from overt.lab.finetune.config import FinetuneConfig
from overt.lab.finetune.determinism import fixed
from overt.lab.finetune.example import Example, PreferenceExample
from overt.lab.finetune.prepare import PreparedFinetune


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured, and what follows from it.

    Attributes:
        tokens_per_second: of one step, forward and backward.
        steps: of the whole training.
        seconds: of the whole training with its looks at what is held out, about.
    """

    tokens_per_second: float
    steps: int
    seconds: float


def trial(prepared: PreparedFinetune, config: FinetuneConfig) -> Trial:
    """Train two steps on a net of its own and time the second: the first one warms up."""
    from overt.lab.finetune import loop

    when: list[tuple[float, int]] = []

    def tell(event: object) -> None:
        if isinstance(event, dict) and event.get("kind") == "loss":
            when.append((time.monotonic(), int(event["tokens"])))

    job = config.training
    two = replace(job, steps=2, epochs=1, patience=0)
    some = prepared.train[: 2 * job.accumulate]  # of preferences, all that are given are read first
    texts = (prepared.held_examples or prepared.train_examples)[:2]
    with tempfile.TemporaryDirectory() as place, fixed(job.threads):
        net = load(prepared.base.weights, config)
        loop.train(net, two, some, [], Path(place), tell)
        begun = time.monotonic()
        judge(net, texts, config)
        look = (time.monotonic() - begun) / max(1, len(texts))
    speed = (when[1][1] - when[0][1]) / max(when[1][0] - when[0][0], 1e-9)
    steps = steps_of(prepared, config)
    share = steps * job.accumulate / max(1, len(prepared.train))
    seconds = sum(map(_tokens, prepared.train_examples)) * share / speed
    return Trial(speed, steps, seconds + look * _looked_at(prepared, config))


def _tokens(example: Example | PreferenceExample) -> int:
    """That the net reads of one example: of a pair both texts, each with the prompt."""
    if isinstance(example, PreferenceExample):
        return 2 * len(example.prompt) + len(example.chosen) + len(example.rejected)
    return len(example.ids)


def _looked_at(prepared: PreparedFinetune, config: FinetuneConfig) -> float:
    """Examples that are read without learning, each as often as it is."""
    job, held = config.training, len(prepared.held_examples)
    every = job.held_every or max(1, len(prepared.train) // job.accumulate)
    looks = 2 + -(-steps_of(prepared, config) // every)  # before, after, and between
    if job.loss != "preference":
        return looks * held
    share = min(1.0, steps_of(prepared, config) * job.accumulate / max(1, len(prepared.train)))
    return looks * held + held + share * len(prepared.train_examples)


def steps_of(prepared: PreparedFinetune, config: FinetuneConfig) -> int:
    """Steps of the whole training, as the loop counts them."""
    job = config.training
    return job.steps or -(-job.epochs * len(prepared.train) // job.accumulate)
