"""Which token comes next: the samplers of llama.cpp, in its order and with its defaults.

Bias, penalties, the k likeliest, locally typical, nucleus, least share, temperature, and a draw.
Numbers in, a number out; pure but for the generator that is handed in.

Sources: common/sampling.cpp and src/llama-sampler.cpp of llama.cpp (order, defaults); Meister et
al. 2023 (typical), Holtzman et al. 2020 (nucleus).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

DEFAULTS: Final[Mapping[str, float]] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "repeat_last_n": 64,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_BANNED: Final = -100


def next_token(
    logits: "np.ndarray[Any, Any]",
    past: Sequence[int],
    sampling: Mapping[str, float],
    bias: Sequence[tuple[int, float]],
    generator: "np.random.Generator",
) -> int:
    """Draw a token.

    Args:
        logits: (words,) float32; left as it is.
        past: prompt and answer so far, for the penalties.
        sampling: every name of `DEFAULTS`.
        bias: added to the logits of these tokens; -100 and less bans one.
        generator: is asked for one number, unless the temperature is 0.
    """
    import numpy as np

    scores = logits.astype(np.float64)
    for token, value in bias:
        scores[token] = -np.inf if value <= _BANNED else scores[token] + value
    _penalise(scores, past, sampling)
    if sampling["temperature"] <= 0:
        return int(scores.argmax())
    ids, scores = _likeliest(scores, int(sampling["top_k"]))
    for keep, name in ((_typical, "typical_p"), (_nucleus, "top_p"), (_least, "min_p")):
        scores = np.where(keep(scores, sampling[name]), scores, -np.inf)
    with np.errstate(over="ignore"):  # a temperature close to 0: all but the likeliest are -inf
        shares = _shares((scores - scores.max()) / sampling["temperature"])
    at = int(np.searchsorted(shares.cumsum(), generator.random() * shares.sum(), side="right"))
    return int(ids[min(at, int(np.flatnonzero(shares)[-1]))])


def _penalise(
    scores: "np.ndarray[Any, Any]", past: Sequence[int], sampling: Mapping[str, float]
) -> None:
    """Make tokens of the last part of `past` less likely, in place."""
    import numpy as np

    back = int(sampling["repeat_last_n"])
    repeat, present, often = (
        sampling[name] for name in ("repeat_penalty", "presence_penalty", "frequency_penalty")
    )
    if not back or (repeat == 1 and not present and not often):
        return
    last = past if back < 0 else past[-back:]
    ids, counts = np.unique(np.array(last, np.int64), return_counts=True)
    penalised = scores[ids]
    scores[ids] = (
        np.where(penalised > 0, penalised / repeat, penalised * repeat) - counts * often - present
    )


def _likeliest(
    scores: "np.ndarray[Any, Any]", count: int
) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Ids and scores, best first; of equal ones the lower id first. 0 is all."""
    import numpy as np

    if 0 < count < scores.size:
        limit = np.partition(scores, scores.size - count)[scores.size - count]
        ids = np.flatnonzero(scores >= limit)
    else:
        count, ids = scores.size, np.arange(scores.size)
    ids = ids[np.lexsort((ids, -scores[ids]))][:count]
    return ids, scores[ids]


def _shares(scores: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    import numpy as np

    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum())


def _typical(scores: "np.ndarray[Any, Any]", share: float) -> "np.ndarray[Any, Any]":
    """Those whose surprise is nearest to the expected one, until they have `share`."""
    import numpy as np

    keep = np.ones(scores.size, bool)
    if share >= 1:
        return keep
    shares = _shares(scores)
    some = shares > 0
    surprise = np.full(shares.size, np.inf)
    surprise[some] = -np.log(shares[some])
    expected = float((shares[some] * surprise[some]).sum())
    order = np.argsort(np.abs(surprise - expected), kind="stable")
    count = int(np.searchsorted(shares[order].cumsum(), share, side="right")) + 1
    keep[order[count:]] = False
    return keep


def _nucleus(scores: "np.ndarray[Any, Any]", share: float) -> "np.ndarray[Any, Any]":
    """The likeliest until they have `share`; at least one that no earlier filter took away."""
    import numpy as np

    if share >= 1:
        return np.ones(scores.size, bool)
    before = _shares(scores).cumsum() - _shares(scores)
    keep = before < share
    keep[scores.argmax()] = True
    return np.asarray(keep)


def _least(scores: "np.ndarray[Any, Any]", share: float) -> "np.ndarray[Any, Any]":
    """Those with at least `share` of the likeliest one's probability."""
    import numpy as np

    if share <= 0:
        return np.ones(scores.size, bool)
    return np.asarray(scores >= scores.max() + np.log(share))
