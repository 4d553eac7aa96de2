"""A net on the held-out part, before and after: loss, perplexity, how many tokens it gets right.

The interval of a difference is paired: the same examples are drawn for both, again and again
(`intervals`), each with all its tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

from overt.evaluation.suites import intervals
from overt.lab.finetune.example import Example, PreferenceExample

if TYPE_CHECKING:
    from overt.nets.transformer import Transformer

MIN_EXAMPLES: Final = 8
"""Examples below which no interval is given: so few say nothing about those not seen."""
METHOD: Final = f"paired bootstrap of examples, percentile, {intervals.DRAWS} draws, 95 %"


@dataclass(frozen=True, slots=True)
class JudgedExample:
    """One example: the sum of -log p of its learnt tokens, how many they are, and how many of them
    were the likeliest; of a pair, whether the chosen answer is likelier than the rejected."""

    surprise: float
    tokens: int
    right: int
    preferred: bool | None = None


def answers(
    net: "Transformer", examples: Sequence[Example], *, dtype: Any = None
) -> list[JudgedExample]:
    """How a net does on each example."""
    return [JudgedExample(*text) for text in _texts(net, examples, dtype)]


def pairs(
    net: "Transformer", examples: Sequence[PreferenceExample], *, dtype: Any = None
) -> list[JudgedExample]:
    """The same of preference pairs; tokens are those of the chosen answers."""
    texts = [
        Example(pair.prompt + answer, [False] * len(pair.prompt) + [True] * len(answer), pair.line)
        for pair in examples
        for answer in (pair.chosen, pair.rejected)
    ]
    texts_judged = _texts(net, texts, dtype)
    return [
        JudgedExample(*chosen, preferred=chosen[0] < rejected[0])
        for chosen, rejected in zip(texts_judged[::2], texts_judged[1::2], strict=True)
    ]


def _texts(
    net: "Transformer", examples: Sequence[Example], dtype: Any
) -> list[tuple[float, int, int]]:
    import torch

    from overt.lab.finetune import loss

    results = []
    head = loss.Head(net, dtype or torch.float32)  # once: a frozen output matrix is converted
    with torch.no_grad():
        for example in examples:
            packed = loss.pack([example], net.device)
            hidden = net(packed.ids, segments=packed.segments)[0].index_select(0, packed.at)
            surprise, right = 0.0, 0
            step = max(1, (1 << 24) // net.shape.vocabulary)
            for start in range(0, len(hidden), step):
                logs, _ = head.log_shares(hidden[start : start + step].to(head.dtype))
                targets = packed.targets[start : start + step]
                picked = logs.gather(1, targets[:, None]).double()
                surprise -= float(picked.sum())
                right += int((logs.argmax(-1) == targets).sum())
            results.append((surprise, packed.learnt, right))
    return results


def table(before: Sequence[JudgedExample], after: Sequence[JudgedExample]) -> dict[str, Any]:
    """Both sides and the difference, as JSON."""
    report: dict[str, Any] = {
        "examples": len(before),
        "tokens": sum(judged.tokens for judged in before),
        "before": _side(before),
        "after": _side(after),
        "difference": {
            "loss": _difference([b.surprise for b in before], [a.surprise for a in after], before),
            "accuracy": _difference([b.right for b in before], [a.right for a in after], before),
        },
        "method": METHOD,
    }
    if before and before[0].preferred is not None:
        first = [float(bool(judged.preferred)) for judged in after]
        second = [float(bool(judged.preferred)) for judged in before]
        interval, method = intervals.paired(first, second)
        mean = intervals.mean(first) - intervals.mean(second)
        wide = list(interval) if len(before) >= MIN_EXAMPLES else None
        report["difference"]["preferred"] = {"mean": mean, "interval": wide, "method": method}
    return report


def _side(judged: Sequence[JudgedExample]) -> dict[str, Any]:
    tokens = sum(example.tokens for example in judged)
    loss = sum(example.surprise for example in judged) / tokens if tokens else math.nan
    report = {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": sum(example.right for example in judged) / tokens if tokens else math.nan,
    }
    if judged and judged[0].preferred is not None:
        report["preferred"] = sum(bool(example.preferred) for example in judged) / len(judged)
    return report


def _difference(
    before: Sequence[float], after: Sequence[float], judged: Sequence[JudgedExample]
) -> dict[str, Any]:
    """After minus before, a token; the interval by drawing examples with all their tokens."""
    change = [a - b for a, b in zip(after, before, strict=True)]
    tokens = [example.tokens for example in judged]
    count = len(change)
    mean = sum(change) / sum(tokens)
    if count < MIN_EXAMPLES:
        return {"mean": mean, "interval": None}
    draw = Random(0)  # noqa: S311 - statistics, not secrets
    means = []
    for _ in range(intervals.DRAWS):
        drawn = draw.choices(range(count), k=count)
        means.append(sum(change[at] for at in drawn) / sum(tokens[at] for at in drawn))
    return {"mean": mean, "interval": list(intervals.interval(sorted(means)))}
