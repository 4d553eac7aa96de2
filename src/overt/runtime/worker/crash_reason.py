"""Why a worker failed, in words: the telling line of what native code printed, and how it died."""

import re
import signal

MAX_LOG_BYTES = 64 << 10
"""Bytes of standard error kept; the rest is forgotten, oldest first."""
_MAX_REASON = 240

# llama.cpp's log: minutes, seconds, milliseconds, microseconds, then the level.
_LEVEL = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} ([A-Z]) +")
# Most telling first; lines its log calls an error ("E") come after the first of these kinds. The
# first line of a kind is the cause, later ones only follow from it.
_TELLING = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"GGML_ASSERT|GGML_ABORT|Assertion .* failed|terminate called|Fatal Python error",
        r"error loading model|what\(\):",
        r"^\w*(Error|Exception): |\berror\b[ :]",
        r"\b(failed|cannot|could not|unable|unsupported|unknown|invalid|corrupt)",
    )
)
_SHORTAGE = re.compile(
    r"bad_alloc|out of memory|MemoryError|cannot allocate|failed to allocate|unable to allocate"
    r"|mem_buffer != NULL|mmap failed|can't start new thread|failed to create thread",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"(['\"])[^'\"]*[\\/]([^'\"\\/]+)\1")
_FOLDERS = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][^\\/\s'\":]+)*[\\/](?=[^\\/\s'\":])")
_POINTER = re.compile(r"\s*\(?\b0x[0-9a-fA-F]{4,}\b\)?")
_CONTROL = re.compile(
    r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]"
)
_CALLER = re.compile(
    r"^(?:(?!error\b|fatal\b)[a-z][\w:~]*|(?:srv|slot|cmn) +\w+|what\(\)): +(?=\S)"
)


class LogRing:
    """The last `MAX_LOG_BYTES` bytes written to it."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> None:
        self._held += data[-MAX_LOG_BYTES:]
        del self._held[:-MAX_LOG_BYTES]

    @property
    def text(self) -> str:
        return self._held.decode("utf-8", "replace")


def telling(text: str) -> str:
    """The line of `text` that says best what went wrong, cleaned, or "" where none does.

    Folders, pointers and control characters are taken out, and no more than 240 characters kept:
    the text comes from code that is not trusted, and ends up in one sentence.
    """
    plain, errors = [], []
    for whole in filter(None, map(str.strip, text.splitlines())):
        line = _CONTROL.sub("", whole[: 4 * _MAX_REASON])  # cut, as searching takes time
        level = _LEVEL.match(line)
        if level is None:
            plain.append(line)
        elif level[1] == "E":
            errors.append(line)
    fatal, *others = _TELLING
    lines = [line for line in (*plain, *errors) if fatal.search(line)] or errors
    for pattern in others:
        lines = lines or [line for line in plain if pattern.search(line)]
    return clean(lines[0]) if lines else ""


def clean(line: str) -> str:
    """One line without folders, pointers, control characters, its time and its C++ caller."""
    line = _CONTROL.sub("", " ".join(line[: 4 * _MAX_REASON].split()))
    line = _QUOTED.sub(r"\1\2\1", _LEVEL.sub("", line))
    line = _POINTER.sub("", _FOLDERS.sub("", line))
    line = _CALLER.sub("", line).strip().rstrip(".")
    return line if len(line) <= _MAX_REASON else line[: _MAX_REASON - 1] + "…"


def short_of_memory(text: str) -> bool:
    """Whether what native code printed speaks of an allocation that failed."""
    return bool(_SHORTAGE.search(text))


def how(returncode: int) -> str:
    """How a process ended: ``was killed by SIGSEGV`` or ``ended with status 3``."""
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"
