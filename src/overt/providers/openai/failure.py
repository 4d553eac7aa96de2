"""What an OpenAI-compatible server says when it fails, as one of our errors.

Servers agree on ``{"error": {"message", "type", "param", "code"}}`` and on little else:
llama-server adds counts of tokens, vLLM and OpenRouter put an HTTP status into `code`, some send
bare text.
Nothing here raises, whatever a body holds.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from overt.errors import (
    BadRequest,
    Busy,
    ContextExceeded,
    ModelNotFound,
    NeedsAccess,
    OvertError,
    ProviderFailed,
    TooLarge,
    TooMany,
    Unsupported,
)
from overt.providers.dialect import sentence, wait

_MAX_BODY = 1 << 20  # of an error's body, bytes; what is longer is no error object
_MAX_SHOWN = 300  # of a provider's words, characters
_MAX_TOKENS = 10**9

_KEY = re.compile(r"\b(?:sk|pk|sess|org|proj)-[\w*.-]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|maximum context|exceeds the (?:available )?context"
    r"|context holds",
    re.IGNORECASE,
)
_HOLDS = re.compile(
    r"(?:context (?:length|window|size)(?: of this model)?(?: is| of)|context holds)"
    r"\D{0,20}(\d{1,9})",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"(\d{1,9})(?: tokens)? (?:in|from) the (?:messages|prompt|input)", re.IGNORECASE
)
_NEEDS = re.compile(
    r"(?:resulted in|request has|request \(|prompt is|prompt contains|input is|input has)"
    r"\D{0,20}(\d{1,9})",
    re.IGNORECASE,
)
_SHORTER = "shorten it, or choose a model with a longer context"


class Fault(msgspec.Struct):
    """One error object. Types are loose: a field of another kind than expected counts as absent."""

    message: Any = None
    type: Any = None
    param: Any = None
    code: Any = None
    n_prompt_tokens: Any = None  # llama-server's
    n_ctx: Any = None

    @property
    def words(self) -> str:
        """One sentence of bounded length, without anything that looks like a key."""
        text = self.message if isinstance(self.message, str) else ""
        return sentence(_KEY.sub("…", text[: 4 * _MAX_SHOWN]), _MAX_SHOWN)

    @property
    def names(self) -> tuple[str, ...]:
        """What kind it is, in the provider's own words."""
        return tuple(x for x in (self.code, self.type) if isinstance(x, str))


def fault_of(error: Any) -> Fault:
    """An error object that has been decoded already, of whatever kind."""
    if isinstance(error, str):
        return Fault(error)
    if isinstance(error, dict):
        inner = error.get("error")
        if isinstance(inner, dict | str) and inner:
            return fault_of(inner) if isinstance(inner, str) else _object(inner)
        return _object(error)
    return Fault()


def read(body: bytes) -> Fault:
    """The error object of a body, an empty one where there is none."""
    if len(body) > _MAX_BODY:
        return Fault()
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Fault()
    return fault_of(document)


def failure(
    who: str, status: int, headers: Mapping[str, str], body: bytes, *, add_key: str, missing: str
) -> OvertError:
    """The error of an answer that is not 200.

    Args:
        who: the provider, for the sentence.
        status, headers, body: the answer.
        add_key: what to type where it wants a key.
        missing: what to do where there is nothing at the address that was asked.
    """
    fault = read(body)
    return error_of(who, fault, status, retry_after=wait(headers), add_key=add_key, missing=missing)


def error_of(
    who: str,
    fault: Fault,
    status: int = 0,
    *,
    retry_after: float | None = None,
    add_key: str = "",
    missing: str = "",
) -> OvertError:
    """The error that `fault` is; `status` 0 where it came within a stream, which may be billed."""
    billed = not status
    inside = fault.code
    if not status and isinstance(inside, int) and not isinstance(inside, bool):
        status = inside if 400 <= inside <= 599 else 0
    if named_error := _by_name(who, fault, status, retry_after, add_key):
        return named_error
    if status:
        return _by_status(who, fault, status, retry_after, add_key, missing, billed)
    detail = f": {fault.words}" if fault.words else ""
    if any(name in _ASKED or name.startswith(_IMAGES) for name in fault.names):
        return BadRequest(f"{who} refused the request{detail}")
    return ProviderFailed(f"{who} failed within its answer{detail}", "try again", billed=billed)


_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_RATE = frozenset({"rate_limit_exceeded", "slow_down", "requests", "tokens", "rate_limit_error"})
_KEYS = frozenset({"invalid_api_key", "authentication_error", "permission_denied"})
_ASKED = frozenset({"invalid_request_error", "invalid_prompt", "invalid_value", "bio_policy"})
_IMAGES = ("image_", "invalid_image", "invalid_base64", "unsupported_image", "empty_image")
_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error", "context_exceeded"})


def _by_name(
    who: str, fault: Fault, status: int, retry_after: float | None, add_key: str
) -> OvertError | None:
    names = frozenset(fault.names)
    if names & _LONG or (status in (0, 400, 413, 422, 500) and _TOO_LONG.search(fault.words)):
        return _too_long(who, fault)
    if names & _QUOTA:
        # Comes as 429, but waiting does not help: it is no `Busy`, which is asked again.
        return NeedsAccess(f"{who} says that the account has no credit left", "add credit to it")
    if "model_not_found" in names:
        detail = fault.words or "it gave no name"
        return ModelNotFound(f"{who} has no such model: {detail}", "choose one that it lists")
    if names & _KEYS:
        return NeedsAccess(f"{who} does not accept the key", add_key or None)
    if names & _RATE:
        return _busy(who, fault, retry_after, TooMany if status in (0, 429) else Busy)
    return None


def _by_status(
    who: str,
    fault: Fault,
    status: int,
    retry_after: float | None,
    add_key: str,
    missing: str,
    billed: bool,
) -> OvertError:
    detail = f": {fault.words}" if fault.words else ""
    if status == 401:
        return NeedsAccess(f"{who} does not accept the key", add_key or None)
    if status == 403:
        return NeedsAccess(f"{who} does not allow it{detail}", add_key or None)
    if status == 404:
        if "model" in fault.words.lower():
            return ModelNotFound(f"{who} does not have it{detail}", "choose a model that it lists")
        return ProviderFailed(f"{who} has nothing at that address (404){detail}", missing or None)
    if status == 413:
        return TooLarge(f"the request is larger than {who} takes{detail}", "send less at once")
    if status in (429, 503, 529):
        return _busy(who, fault, retry_after, TooMany if status == 429 else Busy)
    if status == 501:
        return Unsupported(f"{who} cannot do it{detail}")
    if status in (400, 422):
        return BadRequest(f"{who} refused the request ({status}){detail}")
    return ProviderFailed(f"{who} answered {status}{detail}", "try again", billed=billed)


def _busy(who: str, fault: Fault, retry_after: float | None, kind: type[Busy] = Busy) -> Busy:
    detail = f": {fault.words}" if fault.words else ""
    hint = "try again later" if retry_after is None else f"try again in {retry_after:.0f} s"
    return kind(f"{who} takes no more requests for now{detail}", hint, retry_after)


def _too_long(who: str, fault: Fault) -> OvertError:
    """`ContextExceeded` where both numbers are told and agree, else the provider's words."""
    tokens, context = _count(fault.n_prompt_tokens), _count(fault.n_ctx)
    if not (tokens and context) and isinstance(fault.message, str):
        text = fault.message[: 4 * _MAX_SHOWN].replace(",", "")
        holds = _HOLDS.search(text)
        rest = text[holds.end() :] if holds else text
        # What the answer may need is counted in by some; a prompt alone is what we tell.
        needs = _PROMPT.search(text) or _NEEDS.search(rest) or _NEEDS.search(text)
        if holds and needs:
            tokens, context = int(needs.group(1)), int(holds.group(1))
    if tokens and context and tokens > context:
        return ContextExceeded(tokens, context, _SHORTER)
    detail = f": {fault.words}" if fault.words else ""
    return BadRequest(
        f"the request is longer than the context of the model at {who}{detail}", _SHORTER
    )


def _count(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_TOKENS:
        return value
    return 0


def _object(error: Mapping[str, Any]) -> Fault:
    return Fault(*(error.get(name) for name in Fault.__struct_fields__))
