"""What all dialects do alike: a body is written, and what a provider says is bounded.

Nothing that comes from a provider is believed: its sentences are cut to one line, its counts and
waits to what can be true, its vectors to length 1.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from overt.errors import BadRequest, ProviderFailed

MAX_TOKENS = 2**53
_MAX_SHOWN = 400  # of a provider's words, characters
_MAX_WAIT_SECONDS = 86_400.0  # seconds; who asks for more is taken to ask for a day
_SHORT = 1e-12  # a vector of this length has no direction


def encode(body: Mapping[str, Any]) -> bytes:
    """A body as JSON, as compact as it goes.

    Raises:
        BadRequest: it holds what JSON does not have, which only a schema can.
    """
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise BadRequest(
            f"the request cannot be written as JSON: {str(error)[:200]}",
            "look at the JSON schemas given with it",
        ) from None


def sentence(text_in: str, most: int = _MAX_SHOWN) -> str:
    """Somebody else's words on one line of at most `most` characters, without a stop at the end."""
    text = "".join(c if c.isprintable() else " " for c in text_in[: 4 * most])
    line = " ".join(text.split())
    if len(line) > most:
        line = line[: most - 1].rstrip() + "…"
    return line.rstrip(". ")


def count(value: object) -> int:
    """A number of tokens that somebody else counted; 0 for what is no number.

    It comes last: a whole answer that is paid for must not be thrown away for it.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return min(max(value, 0), MAX_TOKENS)


def stated_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds of ``retry-after-ms`` or ``retry-after``, just as they are told.

    None where neither is a number; a date is one for whoever has a clock, which a dialect has not.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(lower[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return seconds
    return None


def wait(headers: Mapping[str, str]) -> float | None:
    """`stated_wait` where it can be meant: from 0 seconds to a day."""
    seconds = stated_wait(headers)
    return None if seconds is None or seconds < 0 else min(seconds, _MAX_WAIT_SECONDS)


def unit(vector: Sequence[float], who: str) -> tuple[float, ...]:
    """`vector` made of length 1.

    Raises:
        ProviderFailed: it has no direction, or no end.
    """
    length = math.hypot(*vector)
    if not _SHORT <= length < math.inf:
        raise ProviderFailed(
            f"{who} answered with a vector that has no direction", "try again", billed=True
        )
    return tuple(number / length for number in vector)


def broken(who: str, why: object, *, billed: bool = True) -> ProviderFailed:
    """What came is not what the protocol has. Whoever has begun to answer may bill it."""
    return ProviderFailed(
        f"{who} sent what no client understands: {sentence(str(why), 200)}",
        "try again",
        billed=billed,
    )


def ended_early(who: str, *, billed: bool = True) -> ProviderFailed:
    """The stream ended, and its answer had not."""
    return ProviderFailed(f"{who} ended the stream before the answer", "try again", billed=billed)
