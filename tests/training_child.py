"""Tiny nets and texts to train on; as a program, trainings that kill themselves in a given step."""

import json
import os
import signal
import sys
from pathlib import Path

import torch  # noqa: TID253

from overt.lab.finetune import loop
from overt.lab.finetune.example import Example, PreferenceExample
from overt.lab.finetune.training import Training
from overt.nets.shape import Shape
from overt.nets.transformer import Transformer

SHAPE = Shape("llama", 2, 32, 4, 2, 8, 48, 64, 128, tied=True)


def tiny(shape=SHAPE, seed=0):
    """A net of random numbers."""
    net = Transformer(shape, device="cpu")
    chance = torch.Generator().manual_seed(seed)
    for name, part in net.named_parameters():
        if "norm" in name:
            part.data.fill_(1).add_(torch.randn(part.shape, generator=chance), alpha=0.1)
        else:
            part.data.copy_(torch.randn(part.shape, generator=chance) * part.shape[-1] ** -0.5)
    return net


def examples(count, seed=1, words=64):
    """Texts that count up, of which the second half is learnt."""
    chance = torch.Generator().manual_seed(seed)
    found = []
    for line in range(count):
        length = int(torch.randint(6, 14, (1,), generator=chance))
        first = int(torch.randint(0, words, (1,), generator=chance))
        ids = [(first + 3 * i) % words for i in range(length)]
        found.append(Example(ids, [i >= length // 2 for i in range(length)], line))
    return found


def pairs(count, words=64):
    return [
        PreferenceExample(
            one.ids[:4], one.ids[4:], [(id + 7) % words for id in one.ids[4:]], one.line
        )
        for one in examples(count)
    ]


def batches(units, size=2):
    return [units[i : i + size] for i in range(0, len(units), size)]


def main(asked):
    job = Training.decode(asked["job"])
    units = pairs if job.loss == "preference" else examples
    train, held = batches(units(10)), batches(units(4))

    def tell(event):
        if event.get("step") == asked["die"]:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.train(tiny(), job, train, held, Path(asked["place"]), tell, save_steps=2)


def ended(asked):
    """The signal that ended a training; each has a process of its own, forked to save time."""
    child = os.fork()
    if child == 0:
        main(asked)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([ended(asked) for asked in json.loads(sys.argv[1])]))
