"""A `Failed` event as the error it stands for.

An engine may fail after its stream has begun, when a protocol has not sent anything yet: then the
client is still to get the error's own status and form.
"""

from functools import cache

from overt.chat import Failed
from overt.errors import Busy, OvertError


def error_of(failed: Failed) -> OvertError:
    """An error of the class that `failed.code` names, saying what `failed` says."""
    kind = _kinds().get(failed.code, OvertError)
    error = kind.__new__(kind)  # the classes take various arguments, of which only this is left
    OvertError.__init__(error, failed.message, failed.hint)
    if isinstance(error, Busy):
        error.retry_after = None
    return error


@cache
def _kinds() -> dict[str, type[OvertError]]:
    """Every class of errors.py by its code."""
    found: dict[str, type[OvertError]] = {}
    waiting: list[type[OvertError]] = [OvertError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__ == OvertError.__module__:
            found[kind.__new__(kind).code] = kind
    return found
