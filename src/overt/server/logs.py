"""The log: one line a request on stderr, with no content and no secrets.

What a client sent appears only as the path (without the query, where some put their key) and the
name of the model, both cut; the key appears as its id.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from overt.server.request_log import GenerationRecord, RequestRecord

Kind = Literal["json", "text", "off"]

_MAX_CHARACTERS = 200  # characters of a path or a model's name


class AccessLog:
    """A sink of `Watch` that writes a line for each request with `write`."""

    def __init__(self, kind: Kind, write: Callable[[str], None]) -> None:
        self._form = as_json if kind == "json" else as_text
        self._write = write

    def request(self, seen: RequestRecord) -> None:
        with suppress(OSError, ValueError):  # whoever read the log has gone: requests go on
            self._write(self._form(seen))

    def generation(self, work: GenerationRecord, seen: RequestRecord) -> None:
        pass


def as_json(seen: RequestRecord) -> str:
    """A request that is over, as one line of ASCII JSON; what is not known is left out."""
    row = {
        "time": _time(seen.time),
        "level": "error" if seen.status >= 500 else "info",
        "id": seen.id,
        "protocol": seen.protocol,
        "method": seen.method[:20],
        "path": seen.path[:_MAX_CHARACTERS],
        "status": seen.status,
        "seconds": round(seen.seconds, 6),
        "bytes": seen.sent,
        "key": seen.key or None,
        "model": seen.model[:_MAX_CHARACTERS] or None,
        "tokens_in": seen.tokens_in or None,
        "tokens_out": seen.tokens_out or None,
        "tokens_cached": seen.tokens_cached or None,
        "ttft_ms": None if seen.first is None else round(seen.first * 1000, 3),
        "error": seen.error or None,
        "broken_off": None if seen.whole else True,
    }
    return json.dumps({name: value for name, value in row.items() if value is not None})


def as_text(seen: RequestRecord) -> str:
    """The same for people; whoever prints it makes control characters visible."""
    parts = [
        f"{seen.method[:20]} {seen.path[:_MAX_CHARACTERS]} {seen.status} in {seen.seconds:.3f} s"
    ]
    if seen.model:
        parts.append(f"{seen.model[:_MAX_CHARACTERS]} {seen.tokens_in}+{seen.tokens_out} tokens")
    if seen.first is not None:
        parts.append(f"first after {seen.first * 1000:.0f} ms")
    if seen.key:
        parts.append(f"key {seen.key}")
    if seen.error:
        parts.append(seen.error)
    if not seen.whole:
        parts.append("broken off")
    parts.append(f"id {seen.id}")
    return ", ".join(parts)


def set_up(kind: Kind) -> None:
    """Write what the server's own modules log (a handler that failed) in the same form.

    Without this Python's default applies: warnings and errors as bare text.
    """
    if kind != "json":
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            row["trace"] = self.formatException(record.exc_info)
        return json.dumps(row)


def _time(moment: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
    return f"{whole}.{int(moment % 1 * 1000):03}Z"
