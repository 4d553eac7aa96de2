"""What went wrong, in LM Studio's words: one form for REST, one for the sockets.

On a socket an error carries ``displayData`` with a code by which SDKs tell a missing model from
other trouble (lms-shared-types' GenericErrorDisplayData).
"""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from overt.errors import ModelNotFound, NotFound, OvertError, Refused, Unsupported, UsageError
from overt.protocols.base import BadBody, HttpReply
from overt.protocols.failure import headers
from overt.protocols.lmstudio.instances import SAMPLE, InstanceGone, NoModel, WrongDomain


class ErrorDetails(msgspec.Struct, rename="camel"):
    """An error on a socket (lms-shared-types' SerializedLMSExtendedError)."""

    title: str
    root_title: str
    suggestion: str | UnsetType = UNSET
    display_data: dict[str, Any] | UnsetType = UNSET


class NoPreset(NotFound):
    """A preset was named; this server has none."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no preset {name[:200]!r}", "send the settings themselves in the config"
        )
        self.name = name

    @property
    def code(self) -> str:
        return "not_found"


class NoJob(NotFound):
    """No download of that id."""

    @property
    def code(self) -> str:
        return "not_found"


def trouble(error: OvertError) -> ErrorDetails:
    """Where there is no suggestion SDKs print the title on the line of their own words."""
    trouble_ = ErrorDetails(error.message, error.message)
    data = _display(error)
    if data is not None:
        trouble_.display_data = data
    if error.hint:
        trouble_.suggestion = error.hint
    return trouble_


def _display(error: OvertError) -> dict[str, Any] | None:
    match error:
        case NoModel():
            return {
                "code": "generic.noModelMatchingQuery",
                "query": error.query,
                "loadedModelsSample": error.loaded[:SAMPLE],
                "totalLoadedModels": len(error.loaded),
            }
        case ModelNotFound():
            return {
                "code": "generic.noModelMatchingQuery",
                "query": {},
                "loadedModelsSample": [],
                "totalLoadedModels": 0,
            }
        case NoPreset():
            return {
                "code": "generic.presetNotFound",
                "specifiedFuzzyPresetIdentifier": error.name,
                "availablePresetsSample": [],
                "totalAvailablePresets": 0,
            }
        case InstanceGone():
            return {"code": "generic.specificModelUnloaded"}
        case WrongDomain():
            return {
                "code": "generic.domainMismatch",
                "path": error.path,
                "actualDomain": error.actual,
                "expectedDomain": error.expected,
            }
    return None


# ---- REST ----------------------------------------------------------------------------------


class WrongRequest(msgspec.Struct, omit_defaults=True):
    type: str
    message: str
    code: str | None = None
    param: str | None = None


class RefusalBody(msgspec.Struct):
    error: WrongRequest


def bad_request(error: OvertError) -> WrongRequest:
    """The ``error`` of an answer or an event."""
    if isinstance(error, BadBody):
        if error.unknown is not None:
            text = f"Unrecognized key(s) in object: '{error.unknown}'"
            return WrongRequest("invalid_request", text, "unrecognized_keys", error.path or None)
        return WrongRequest("invalid_request", str(error), "invalid_value", error.path or None)
    code = {"Busy": "server_busy", "TooMany": "too_many_requests"}.get(type(error).__name__)
    param = "model" if isinstance(error, ModelNotFound) else None
    return WrongRequest(_type(error), str(error), code or error.code, param)


def _type(error: OvertError) -> str:
    if isinstance(error, ModelNotFound):
        return "model_not_found"
    if isinstance(error, NoJob):
        return "job_not_found"
    if isinstance(error, Unsupported):
        return "not_implemented"
    if isinstance(error, UsageError | NotFound | Refused):
        return "invalid_request"
    return "internal_error"


def refuse(error: OvertError, id: str) -> HttpReply:
    """Any error as a REST answer."""
    return HttpReply(RefusalBody(bad_request(error)), error.status, headers(error))
