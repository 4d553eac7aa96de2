"""Ollama's Modelfile: the whole grammar, read and written.

::

    file     = { line }, at least one FROM
    line     = blank | "#" comment | command
    command  = word value                   word = FROM | ADAPTER | DRAFT | TEMPLATE | SYSTEM
                                                 | LICENSE | RENDERER | PARSER | REQUIRES
             | "PARAMETER" name value       name = [A-Za-z0-9_]+
             | "MESSAGE" role value         role = system | user | assistant
    value    = the rest of the line, blanks around it cut off
             | one or three double quotes, text of any lines, the same quotes

Command words are read in any case. There are no escapes: a quoted value ends at the first line
whose last characters are the closing quotes. The text is UTF-8, or UTF-16 with its byte order mark.
Facts of the grammar were read in Ollama's parser/parser.go; what differs is more lenient: several
blanks between words, and the characters that Ollama drops (such as the joiners inside emoji).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from overt.errors import FormatError

MAX_BYTES = 8 << 20
_MAX_COMMANDS = 10_000

WORDS = (
    "from",
    "adapter",
    "draft",
    "template",
    "system",
    "license",
    "renderer",
    "parser",
    "requires",
    "parameter",
    "message",
)
ROLES = ("system", "user", "assistant")

PARAMETERS: Mapping[str, type[int] | type[float] | type[bool] | type[str]] = {
    "temperature": float, "top_k": int, "top_p": float, "min_p": float, "typical_p": float,
    "repeat_last_n": int, "repeat_penalty": float, "presence_penalty": float,
    "frequency_penalty": float, "seed": int, "stop": str, "num_predict": int, "num_keep": int,
    "num_ctx": int, "num_batch": int, "num_gpu": int, "main_gpu": int, "num_thread": int,
    "use_mmap": bool, "draft_num_predict": int,
}  # fmt: skip
"""Every parameter Ollama knows, and its kind; ``stop`` is the one that makes a list."""

DEPRECATED = (
    "penalize_newline",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "numa",
    "tfs_z",
)

_SEMVER = re.compile(
    r"v?(0|[1-9]\d*)(\.(0|[1-9]\d*)(\.(0|[1-9]\d*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?)?)?",
    re.ASCII,
)
_NUMBER = re.compile(r"[+-]?[0-9]{0,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,4})?")
_BLANKS = " \t"
_EDGES = " \t\r\n\v\f\x85\xa0"


@dataclass(frozen=True, slots=True)
class ModelfileCommand:
    """One command: `word` in lower case; `key` is a parameter's name or a message's role."""

    word: str
    value: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Modelfile:
    """The commands in their order."""

    commands: tuple[ModelfileCommand, ...]

    def values(self, word: str) -> tuple[str, ...]:
        """The values of every command `word`, in order."""
        return tuple(command.value for command in self.commands if command.word == word)

    def last(self, word: str) -> str | None:
        """The value that counts where a later command replaces an earlier one."""
        values = self.values(word)
        return values[-1] if values else None

    def parameters(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The parameters by name, typed, and those left out because Ollama gave them up.

        Raises:
            FormatError: an unknown parameter, or a value of another kind.
        """
        parameters: dict[str, Any] = {}
        dropped: list[str] = []
        for command in self.commands:
            if command.word != "parameter":
                continue
            if command.key in DEPRECATED:
                dropped.append(command.key)
            elif command.key == "stop":
                parameters.setdefault("stop", []).append(command.value)
            else:
                parameters[command.key] = _typed(command.key, command.value)
        return parameters, tuple(dict.fromkeys(dropped))


def read(data: bytes, name: str = "the Modelfile") -> Modelfile:
    """Read a Modelfile; `name` is for messages.

    Raises:
        FormatError: it does not follow the grammar; the message has the line.
    """
    if len(data) > MAX_BYTES:
        raise FormatError(f"{name} is {len(data)} bytes", f"keep it under {MAX_BYTES}")
    commands: list[ModelfileCommand] = []
    for line, command in _commands(_decode(data, name), name):
        if len(commands) >= _MAX_COMMANDS:
            raise FormatError(f"{name} has more than {_MAX_COMMANDS} commands", "shorten it")
        _check(command, line, name)
        commands.append(command)
    if not any(command.word == "from" for command in commands):
        raise FormatError(f"{name} has no FROM line", "begin it with FROM and a model")
    return Modelfile(tuple(commands))


def write(modelfile: Modelfile) -> str:
    """The text that `read` turns back into the same commands.

    Raises:
        FormatError: a value that no quoting of the grammar can carry.
    """
    return "".join(f"{_line(command)}\n" for command in modelfile.commands)


# ---- reading -------------------------------------------------------------------------------


def _decode(data: bytes, name: str) -> str:
    """UTF-8 or UTF-16 by its byte order mark, as text without the mark."""
    kind = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(kind)
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{name} is not {kind.removesuffix('-sig').upper()} text (byte {error.start})",
            "save it as UTF-8",
        ) from None


def _commands(text: str, name: str) -> Iterator[tuple[int, ModelfileCommand]]:
    """Every command with its line's number (from 1)."""
    lines = re.split(r"(\r\n|\r|\n)", text)  # a line, its end, a line, its end …, a line
    at = 0
    while at < len(lines):
        number, line = at // 2 + 1, lines[at].lstrip(_EDGES)
        at += 2
        if not line or line.startswith("#"):
            continue
        word, rest = _word(line)
        lower = word.lower()
        if lower not in WORDS or rest[:1] not in ("", " ", "\t"):
            raise _bad(name, number, f"{line[:40]!r} is no command", f"use {_listed(WORDS)}")
        key = ""
        if lower in ("parameter", "message"):
            key, rest = _word(rest.lstrip(_BLANKS))
            if not key or rest[:1] not in ("", " ", "\t"):
                what = "the name of a parameter" if lower == "parameter" else "a role"
                raise _bad(name, number, f"{word} is not followed by {what}", _form(lower))
        value, at = _value(rest, lines, at, name)
        yield number, ModelfileCommand(lower, value, key)


def _word(text: str) -> tuple[str, str]:
    match = re.match(r"[A-Za-z0-9_]*", text)
    end = match.end() if match else 0
    return text[:end], text[end:]


def _value(rest: str, lines: list[str], at: int, name: str) -> tuple[str, int]:
    """A value that begins with `rest`, and the index of the line after it."""
    first = at // 2
    value = rest.strip(_EDGES)
    if not value.startswith('"'):
        return value, at
    quote = '"""' if value.startswith('"""') else '"'
    pieces = [rest]
    closed = value.endswith(quote) and len(value) >= 2 * len(quote)
    while not closed:
        if at >= len(lines):
            raise _bad(
                name,
                first,
                f"the text that opens with {quote} has no end",
                f"end its last line with {quote}",
            )
        pieces += [lines[at - 1], lines[at]]
        closed = lines[at].rstrip(_EDGES).endswith(quote)
        at += 2
    return "".join(pieces).strip(_EDGES)[len(quote) : -len(quote)], at


def _check(command: ModelfileCommand, line: int, name: str) -> None:
    word = command.word.upper()
    if command.word in ("from", "adapter", "draft") and not command.value:
        raise _bad(name, line, f"{word} names nothing", "write the model or file after it")
    if command.word == "requires" and not _SEMVER.fullmatch(command.value):
        raise _bad(
            name, line, f"REQUIRES {command.value[:40]!r} is no version", "write it like 0.14.0"
        )
    if command.word == "message" and command.key not in ROLES:
        raise _bad(name, line, f"MESSAGE has the role {command.key!r}", f"use {_listed(ROLES)}")
    if command.word == "parameter":
        _typed_at(command, line, name)


def _typed_at(command: ModelfileCommand, line: int, name: str) -> None:
    if command.key in DEPRECATED:
        return
    try:
        _typed(command.key, command.value)
    except FormatError as error:
        raise _bad(name, line, error.message, error.hint or "") from None


def _typed(key: str, value: str) -> int | float | bool | str:
    """A parameter's value in its kind.

    Raises:
        FormatError: unknown, or of another kind.
    """
    kind = PARAMETERS.get(key)
    if kind is None:
        from difflib import get_close_matches

        near = get_close_matches(key, PARAMETERS, n=2, cutoff=0.5)
        raise FormatError(
            f"there is no parameter {key!r}",
            f"did you mean {' or '.join(near)}?" if near else f"use {_listed(tuple(PARAMETERS))}",
        )
    if kind is str:
        return value
    try:
        if kind is bool:
            return {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}[
                value.lower()
            ]
        if not _NUMBER.fullmatch(value):
            raise ValueError(value)
        number = float(value) if kind is float else int(value)
        if abs(number) > (2**63 - 1 if kind is int else 3.4e38) or number != number:
            raise ValueError(value)
    except (ValueError, KeyError):
        what = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise FormatError(f"PARAMETER {key} is {value[:40]!r}", f"it should be {what}") from None
    return number


def _bad(name: str, line: int, what: str, hint: str) -> FormatError:
    return FormatError(f"line {line} of {name}: {what}", hint)


def _form(word: str) -> str:
    return "write PARAMETER name value" if word == "parameter" else "write MESSAGE user text"


def _listed(words: tuple[str, ...]) -> str:
    shown = [word.upper() if words is WORDS else word for word in words]
    return f"{', '.join(shown[:-1])} or {shown[-1]}"


# ---- writing -------------------------------------------------------------------------------


def _line(command: ModelfileCommand) -> str:
    """One command on as many lines as it needs; the plainest quoting that reads back the same."""
    head = command.word.upper() + (f" {command.key}" if command.key else "")
    value = command.value
    for text in (value, f'"{value}"', f'"""{value}"""'):
        if not text:
            continue
        # A second command after it: a quote left open would swallow it.
        try:
            back = [value for _, value in _commands(f"{head} {text}\nFROM x\n", "")]
        except FormatError:
            continue
        if back == [command, ModelfileCommand("from", "x")]:
            return f"{head} {text}"
    raise FormatError(
        f"{command.word.upper()} has a line that ends with quotes, which a Modelfile cannot carry",
        "change that line, for example with a blank and a dot after the quotes",
    )
