"""How long a fine-tune takes, by doing one step of it and throwing that away."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from overt.lab.finetune import judge, load
from overt.lab.finetune.asked import Asked
from overt.lab.finetune.fixed import fixed
from overt.lab.finetune.prepare import Prepared


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured, and what follows from it.

    Attributes:
        tokens_per_second: of the largest batches, forward and backward.
        steps: of the whole training.
        seconds: of the whole training with its looks at what is held out, about.
    """

    tokens_per_second: float
    steps: int
    seconds: float


def trial(prepared: Prepared, asked: Asked) -> Trial:
    """Train two steps on a net of its own and time the second: the first one warms up."""
    from overt.lab.finetune import loop

    when: list[tuple[float, int]] = []

    def tell(event: object) -> None:
        if isinstance(event, dict) and event.get("kind") == "loss":
            when.append((time.monotonic(), int(event["tokens"])))

    two = replace(asked.training, steps=2, epochs=1, patience=0)
    with tempfile.TemporaryDirectory() as place, fixed(asked.training.threads):
        net = load(prepared.base.weights, asked)
        loop.train(net, two, prepared.train, [], Path(place), tell)
        begun = time.monotonic()
        judge(net, prepared.held_examples[:2], asked)
        look = (time.monotonic() - begun) / max(1, min(2, len(prepared.held_examples)))
    speed = (when[1][1] - when[0][1]) / max(when[1][0] - when[0][0], 1e-9)
    steps = steps_of(prepared, asked)
    share = steps * asked.training.accumulate / max(1, len(prepared.train))
    looks = 2 + share  # before, after, and one an epoch
    seconds = prepared.tokens * share / speed + looks * look * len(prepared.held_examples)
    return Trial(speed, steps, seconds)


def steps_of(prepared: Prepared, asked: Asked) -> int:
    """Steps of the whole training, as the loop counts them."""
    job = asked.training
    return job.steps or -(-job.epochs * len(prepared.train) // job.accumulate)
