"""What a fine-tune makes small: cross entropy of the answers, or a preference between two (DPO).

Both need the log-probability of some tokens only. The hidden states that predict them are gathered
first, and their logits are computed a few megabytes at a time: a table of every token by every
word is never in memory, and a prompt costs no logits at all.
"""

# ruff: noqa: TID253 - whoever imports this module wants torch
# mypy: disallow-subclassing-any=False
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from overt.lab.finetune.example import Batch, Example, PreferenceExample
from overt.nets.quantized import Quantized
from overt.nets.transformer import Transformer

_LOGITS = 1 << 24  # numbers of a table of logits: 64 MB
_ROWS = 8192  # of a quantized output matrix, unpacked together

Unit = Batch | Sequence[Example] | Sequence[PreferenceExample]
"""What the net sees at once."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences end to end in one row, without padding.

    Attributes:
        ids, segments: (1, N).
        at: (M,) the places whose next token is learnt.
        targets: (M,) those tokens.
        owners: (M,) which sequence each belongs to.
        sequences: how many there are.
    """

    ids: Tensor
    segments: Tensor
    at: Tensor
    targets: Tensor
    owners: Tensor
    sequences: int

    @property
    def tokens(self) -> int:
        return int(self.ids.shape[1])

    @property
    def learnt(self) -> int:
        return int(self.at.shape[0])


def pack(unit: Unit, device: Any = "cpu") -> Packed:
    """Put the sequences of a batch end to end; a pair is its chosen, then its rejected text."""
    ids: list[int] = []
    segments: list[int] = []
    at: list[int] = []
    owners: list[int] = []
    number = 0
    for number, (tokens, labels) in enumerate(_sequences(unit), 1):
        learnt = [len(ids) + i for i in range(len(tokens) - 1) if labels[i + 1]]
        ids += tokens
        segments += [number] * len(tokens)
        at += learnt
        owners += [number - 1] * len(learnt)
    row = torch.tensor([ids], dtype=torch.int64)
    places = torch.tensor(at, dtype=torch.int64)
    return Packed(
        row.to(device),
        torch.tensor([segments]),
        places.to(device),
        row[0, places + 1].to(device),
        torch.tensor(owners, dtype=torch.int64, device=device),
        number,
    )


def _sequences(unit: Unit) -> Iterator[tuple[list[int], list[bool]]]:
    if isinstance(unit, Batch):
        for ids, labels, segments in zip(unit.ids, unit.labels, unit.segments, strict=True):
            first = 0
            for index in range(1, len(ids) + 1):
                if index < len(ids) and segments[index] == segments[first]:
                    continue
                if segments[first] >= 0:
                    yield list(ids[first:index]), list(labels[first:index])
                first = index
        return
    for example in unit:
        if isinstance(example, PreferenceExample):
            for answer in (example.chosen, example.rejected):
                yield example.prompt + answer, [False] * len(example.prompt) + [True] * len(answer)
        else:
            yield example.ids, example.labels


class Head:
    """The output matrix of a net, ready for products in `dtype`; a frozen one is converted once."""

    def __init__(self, net: Transformer, dtype: Any) -> None:
        self.module, self.dtype, self.cap = net.head(), dtype, net.shape.final_cap
        self.words = net.shape.vocabulary
        weight = getattr(self.module, "weight", None)
        self.learnt: Tensor | None = weight if weight is not None and weight.requires_grad else None
        self._frozen = None if weight is None or self.learnt is not None else weight.to(dtype)

    def parts(self) -> Iterator[tuple[int, int, Tensor]]:
        """The matrix as (first, last, rows): in one part, unless it is unpacked to be used."""
        if self.learnt is not None:
            yield 0, self.words, self.learnt.detach().to(self.dtype)
        elif self._frozen is not None:
            yield 0, self.words, self._frozen
        else:
            for first in range(0, self.words, _ROWS):
                last = min(first + _ROWS, self.words)
                yield first, last, cast("Quantized", self.module).part(first, last, self.dtype)

    def surprise(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p (M,) float32 of the targets after the hidden states (M, width)."""
        return cast("Tensor", _Surprise.apply(hidden, targets, self, self.learnt))

    def log_shares(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (m, words) float32, and the capped logits if there is a cap."""
        logits = torch.empty(hidden.shape[0], self.words, device=hidden.device)
        for first, last, rows in self.parts():
            logits[:, first:last] = functional.linear(hidden, rows)
        if not self.cap:
            return torch.log_softmax(logits, -1), None
        capped = logits.div_(self.cap).tanh_().mul_(self.cap)
        return torch.log_softmax(capped, -1), capped


class _Surprise(torch.autograd.Function):
    """-log p of each target.

    A token's value depends on its own hidden state alone, so its gradient is computed with it,
    while its logits are there; the backward pass only multiplies. The gradient of an output
    matrix that learns needs what comes from above, and computes the logits again.
    """

    @staticmethod
    def forward(
        context: Any, hidden: Tensor, targets: Tensor, head: Head, weight: Tensor | None
    ) -> Tensor:
        low = hidden.to(head.dtype)
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        wanted = context.needs_input_grad[0]
        grad = torch.empty_like(hidden, dtype=torch.float32) if wanted else None
        for some in _chunks(hidden.shape[0], head.words):
            logs, capped = head.log_shares(low[some])
            losses[some] = -logs.gather(1, targets[some, None])[:, 0]
            if grad is not None:
                down = _downwards(logs, capped, targets[some], head.cap).to(head.dtype)
                grad[some] = sum(down[:, first:last] @ rows for first, last, rows in head.parts())
        context.save_for_backward(low if weight is not None else None, targets, grad)
        context.head, context.dtype = head, hidden.dtype
        return losses

    @staticmethod
    def backward(context: Any, *up: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        low, targets, grad = context.saved_tensors
        head = context.head
        of_hidden = None if grad is None else (grad * up[0][:, None]).to(context.dtype)
        if low is None:
            return of_hidden, None, None, None
        of_weight = torch.zeros(head.words, low.shape[1], device=low.device)
        for some in _chunks(low.shape[0], head.words):
            logs, capped = head.log_shares(low[some])
            down = _downwards(logs, capped, targets[some], head.cap).mul_(up[0][some, None])
            of_weight.addmm_(down.t(), low[some].float())
        return of_hidden, None, None, of_weight


def _chunks(tokens: int, words: int) -> Iterator[slice]:
    step = max(1, _LOGITS // words)
    return (slice(first, min(first + step, tokens)) for first in range(0, tokens, step))


def _downwards(logs: Tensor, capped: Tensor | None, targets: Tensor, cap: float) -> Tensor:
    """The gradient of -log p by the logits before the cap; `logs` are used up."""
    down = logs.exp_()
    down[torch.arange(len(targets), device=down.device), targets] -= 1
    if capped is not None:
        down.mul_(1 - (capped / cap).square_())
    return down


def surprises(net: Transformer, head: Head, packed: Packed) -> Tensor:
    """-log p (M,) of every learnt token of a batch."""
    hidden = net(packed.ids, segments=packed.segments)
    return head.surprise(hidden[0].index_select(0, packed.at), packed.targets)


def per_sequence(values: Tensor, packed: Packed) -> Tensor:
    """Sums over the tokens of each sequence."""
    sums = torch.zeros(packed.sequences, dtype=values.dtype, device=values.device)
    return sums.index_add(0, packed.owners, values)


def preference(logs: Tensor, base: Tensor, beta: float, smoothing: float) -> Tensor:
    """The loss of each pair (Rafailov et al. 2023, equation 7).

    Args:
        logs: log-probabilities of the answers (2 P,): chosen, rejected, chosen, …
        base: the same of the net before it learnt.
        smoothing: share of labels taken to be wrong (conservative DPO, Mitchell 2023).
    """
    ratio = (logs - base).view(-1, 2)
    margin = beta * (ratio[:, 0] - ratio[:, 1])
    right, wrong = functional.logsigmoid(margin), functional.logsigmoid(-margin)
    return -(1 - smoothing) * right - smoothing * wrong


Loss = Callable[[Packed, int], tuple[Tensor, int]]
"""Of a batch and its number: the sum of the losses, and how many losses that is."""


def answers(net: Transformer, head: Head) -> Loss:
    """Cross entropy, counted in tokens."""

    def loss(packed: Packed, number: int) -> tuple[Tensor, int]:
        return surprises(net, head, packed).sum(), packed.learnt

    return loss


def preferences(
    net: Transformer, head: Head, base: Sequence[Tensor], beta: float, smoothing: float
) -> Loss:
    """DPO, counted in pairs; `base` are the log-probabilities of every batch's answers."""

    def loss(packed: Packed, number: int) -> tuple[Tensor, int]:
        logs = -per_sequence(surprises(net, head, packed), packed)
        losses = preference(logs, base[number].to(logs.device), beta, smoothing)
        return losses.sum(), len(losses)

    return loss
