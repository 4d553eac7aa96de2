"""What Anthropic says when it fails, as one of our errors. Nothing here raises."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from overt.errors import (
    BadRequest,
    Busy,
    ContextExceeded,
    ModelNotFound,
    NeedsAccess,
    OvertError,
    ProviderFailed,
    TimedOut,
    TooLarge,
    TooMany,
)
from overt.providers.dialect import sentence, wait

_TOO_LONG = re.compile(
    r"prompt is too long: (\d{1,12}) tokens > (\d{1,12}) maximum"
    r"|request \((\d{1,12}) tokens\) exceeds the available context size \((\d{1,12}) tokens\)"
    r"|the prompt is (\d{1,12}) tokens and the context holds (\d{1,12})"
)
"""As Anthropic says it, llama-server and `overt serve`."""
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class _ErrorDetail(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Body(msgspec.Struct):
    error: _ErrorDetail | None = None


_decode = msgspec.json.Decoder(_Body).decode


def failure(status: int, headers: Mapping[str, str], body: bytes) -> OvertError:
    """The error of an answer that is not 200."""
    problem = _ErrorDetail()
    # Else it is a gateway's page: its status says enough.
    with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
        problem = _decode(body).error or problem
    if status == 404 and not problem.type:
        return ProviderFailed(
            "nothing at the address of anthropic answers messages (404)",
            "check ANTHROPIC_BASE_URL, which is without /v1",
        )
    kind = problem.type if problem.type in _TOLD else _KINDS.get(status, "")
    return failed(kind, problem.message, status=status, retry_after=wait(headers))


def failed(
    kind: str,
    message: str,
    *,
    status: int = 0,
    retry_after: float | None = None,
    billed: bool = False,
) -> OvertError:
    """The error that `kind` of Anthropic's is.

    Args:
        kind: such as ``overloaded_error``.
        message: what it says of it.
        status: of the answer; 0 within a stream.
        retry_after: seconds, where it says so.
        billed: something was answered before.
    """
    reason = sentence(message)
    why = f": {reason}" if reason else ""
    match kind:
        case "overloaded_error":
            return Busy(
                f"anthropic has no room for the request now{why}", _later(retry_after), retry_after
            )
        case "rate_limit_error":
            return TooMany(
                f"the account's rate at anthropic is used up{why}", _later(retry_after), retry_after
            )
        case "invalid_request_error" | "conflict_error":
            return _refused(reason)
        case "authentication_error":
            return NeedsAccess(f"anthropic does not know the key{why}", _KEY)
        case "permission_error":
            return NeedsAccess(f"the key may not do this at anthropic{why}", _KEY)
        case "billing_error":
            return NeedsAccess(f"the account at anthropic does not pay for this{why}", None)
        case "not_found_error":
            return ModelNotFound(
                f"anthropic does not have what was asked for{why}",
                "see platform.claude.com/docs/en/models for the names",
            )
        case "request_too_large":
            return TooLarge(f"the request is more bytes than anthropic takes{why}", "send less")
        case "timeout_error":
            return TimedOut(f"anthropic took too long{why}", "try again", billed=billed)
        case _:
            what = f"anthropic answered {status}" if status else "anthropic failed"
            return ProviderFailed(f"{what}{why}", "try again", billed=billed)


_TOLD = frozenset((*_KINDS.values(), "conflict_error", "api_error"))
_KEY = "overt login anthropic, or set ANTHROPIC_API_KEY"


def _refused(reason: str) -> OvertError:
    if match := _TOO_LONG.search(reason):
        tokens, context = (int(number) for number in match.groups() if number)
        return ContextExceeded(
            tokens, context, "shorten it, or choose a model with a longer context"
        )
    return BadRequest(f"anthropic refuses the request{f': {reason}' if reason else ''}")


def _later(seconds: float | None) -> str:
    return "try again later" if seconds is None else f"try again in {math.ceil(seconds)} s"
