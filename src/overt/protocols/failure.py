"""What went wrong, as far as all protocols tell it alike: errors as events and back, and headers.

An engine may fail after its stream has begun, when a protocol has not sent anything yet: then the
client is still to get the error's own status and form.
"""

import math
from functools import cache

from overt.chat import Failed
from overt.errors import Busy, EngineFailed, OvertError, ProviderFailed, WorkerDied


def error_of(failed: Failed) -> OvertError:
    """An error of the class that `failed.code` names, saying what `failed` says."""
    kind = _kinds().get(failed.code, EngineFailed)
    error = kind.__new__(kind)  # the classes take various arguments, of which only this is left
    OvertError.__init__(error, failed.message, failed.hint)
    if isinstance(error, Busy):
        error.retry_after = None
    if isinstance(error, ProviderFailed):
        error.billed = True  # its answer had begun
    return error


def failed_of(error: OvertError) -> Failed:
    """An error raised after the first event, as the event it should have been."""
    return Failed(error.code, error.message, error.hint)


def headers(error: OvertError) -> dict[str, str]:
    """What HTTP itself has to say with an error: how to prove who asks, and when to ask again."""
    fields: dict[str, str] = {}
    if error.status == 401:
        fields["www-authenticate"] = "Bearer"
    if isinstance(error, Busy) and error.retry_after is not None:
        fields["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return fields


def advice(error: OvertError) -> dict[str, str]:
    """`headers`, and ``x-should-retry`` of OpenAI's and Anthropic's servers.

    Their official clients try again by themselves after 429 and any 5xx; this tells them where
    that is useless and where it is not.
    """
    fields = headers(error)
    if error.status == 429 or error.status >= 500:
        useful = isinstance(error, Busy | WorkerDied)
        if isinstance(error, Busy) and error.asked_again:
            useful = False  # three tries of theirs for each three of ours would be nine
        fields["x-should-retry"] = "true" if useful else "false"
    return fields


@cache
def _kinds() -> dict[str, type[OvertError]]:
    """Every class of errors.py by its code."""
    kinds: dict[str, type[OvertError]] = {}
    waiting: list[type[OvertError]] = [OvertError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__ == OvertError.__module__:
            kinds[kind.__new__(kind).code] = kind
    return kinds
