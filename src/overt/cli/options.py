"""Options that verbs share, and how they become `Settings`, `Sampling` and a `Request`.

`verb` gives a command the options every verb has and hands it an `Output` and the `Settings`.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from overt.cli.output import Output
from overt.errors import BadRequest
from overt.settings import Settings, load

if TYPE_CHECKING:
    from overt.chat import Sampling

Function = Callable[..., Any]

RANGES: dict[str, tuple[type[int] | type[float], float, float, str]] = {
    "seed": (int, 0, 2**32 - 2, "Same seed, same text on the same machine."),
    "temperature": (float, 0, 100, "0 always takes the likeliest token."),
    "top_k": (int, 0, 1_000_000, "Draw from the N likeliest tokens; 0 is all."),
    "top_p": (float, 0, 1, "Draw from the likeliest tokens that share this probability."),
    "min_p": (float, 0, 1, "Leave out tokens less likely than this share of the likeliest."),
    "typical_p": (float, 0, 1, "Leave out tokens that surprise too much or too little; 1 is off."),
    "repeat_penalty": (float, 0.01, 100, "Divide the score of repeated tokens; 1 is off."),
    "repeat_last_n": (int, -1, 1_000_000, "Tokens that penalties look back; -1 is the context."),
    "presence_penalty": (float, -100, 100, "Lower the score of tokens used before; 0 is off."),
    "frequency_penalty": (float, -100, 100, "The same, for each time used; 0 is off."),
    "max_tokens": (int, 1, 10_000_000, "End after N tokens."),
}
"""What an answer's numbers may be: kind, least, most, meaning. Shared by flags and chat's /set."""

SEED = click.IntRange(0, 2**32 - 2)
"""The seed of verbs that ask a model or train one: what `RANGES` says of it. That of a merge may be
larger, as its recipes have them."""

THREADS = "Threads; 0 counts the free cores."
"""What --threads means in every verb; those with another default say it after that."""

MAX_SCHEMA_BYTES = 1 << 20  # a larger schema or grammar is a mistake


def verb(function: Function) -> Function:
    """Add --json, --quiet, --debug, --offline and --home, and pass on `out` and `settings`.

    Any other option named like a field of `Settings` (``context``, ``threads`` …) overrides it and
    is not passed on, but for the two that verbs use for something else.
    """
    names = {field.name for field in fields(Settings)} - {"model", "licence"}

    def wrapped(*args: Any, **options: Any) -> Any:
        as_json, quiet = options.pop("json"), options.pop("quiet")
        flags = {name: options.pop(name) for name in list(options) if name in names}
        out = Output("json" if as_json else "quiet" if quiet else "human")
        return function(*args, out=out, settings=load(flags=flags), **options)

    update_wrapper(wrapped, function)
    for option in (
        click.option("--home", metavar="DIR", help="Folder of everything Overt writes."),
        click.option("--offline", is_flag=True, default=None, help="Never use the network."),
        click.option("--debug", is_flag=True, default=None, help="Show tracebacks and logs."),
        click.option("-q", "--quiet", is_flag=True, help="Print the data and no remarks."),
        click.option("--json", is_flag=True, help="Print one JSON object."),
    ):
        wrapped = option(wrapped)
    return wrapped


def engine_options(function: Function) -> Function:
    """Options that decide how a model is loaded; all of them are settings."""
    for option in (
        click.option("--engine", metavar="WHICH", help="llama.cpp: auto, wheel, native; or torch."),
        click.option("--isolation", metavar="HOW", help="Sandbox: best, full, off."),
        click.option("--memory", metavar="SIZE", help="Most memory the model may take: 8g, 500m."),
        click.option("--parallel", type=int, metavar="N", help="Requests answered at once."),
        click.option("--threads", type=int, metavar="N", help=THREADS),
        click.option(
            "--context", type=int, metavar="N", help="Tokens of context; 0 is the model's own."
        ),
    ):
        function = option(function)
    return function


def asking_options(concurrency: str) -> Callable[[Function], Function]:
    """Options of verbs that ask many items: how many at once, and what they may cost.

    Args:
        concurrency: the help of ``--concurrency``.
    """

    def add(function: Function) -> Function:
        for option in (
            click.option("--allow-unknown", is_flag=True, help="Go on where a price is not known."),
            click.option(
                "--budget",
                type=click.FloatRange(0),
                metavar="USD",
                help="Stop before this is spent.",
            ),
            click.option(
                "--concurrency",
                type=click.IntRange(1, 256),
                default=1,
                show_default=True,
                metavar="N",
                help=concurrency,
            ),
        ):
            function = option(function)
        return function

    return add


def threads(settings: Settings, unless: int) -> int:
    """Threads to compute with: as many as were named; where a person typed --threads 0, as many as
    cores are free; `unless` where nobody said.
    """
    source = click.get_current_context().get_parameter_source("threads")
    if settings.threads or source is not ParameterSource.COMMANDLINE:
        return settings.threads or unless
    from overt.runtime import cpu

    return max(1, int(cpu.free() + 0.25))  # as `cores.plan` counts them


def sampling_options(function: Function) -> Function:
    """Options that decide how the next token is drawn and when the answer ends."""
    function = click.option("--stop", multiple=True, metavar="TEXT", help="End before TEXT.")(
        function
    )
    for name, (kind, low, high, text) in reversed(RANGES.items()):
        option = f"--{name.replace('_', '-')}"
        type_ = click.IntRange(int(low), int(high)) if kind is int else click.FloatRange(low, high)
        function = click.option(option, type=type_, metavar="N", help=text)(function)
    return function


def take_sampling(options: dict[str, Any]) -> "Sampling":
    """The `Sampling` among the options `given`, which are taken out."""
    from overt.chat import Sampling

    named = [field.name for field in fields(Sampling) if field.name in options]
    return Sampling(**{name: options.pop(name) for name in named})


def read_schema(text: str) -> Mapping[str, Any]:
    """A JSON Schema given as a file name or as JSON itself.

    Raises:
        BadRequest: not readable, not JSON, or not an object.
    """
    import json

    inline = text.lstrip().startswith("{")
    source = text if inline else read_text(Path(text), "--schema", MAX_SCHEMA_BYTES)
    try:
        schema = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"the schema is not JSON: {str(error)[:120]}", "give --schema a JSON file or '{…}'"
        ) from None
    if not isinstance(schema, dict):
        raise BadRequest(
            f"the schema is a JSON {type(schema).__name__}", "a JSON Schema is an object: '{…}'"
        )
    return schema


def read_text(path: Path, option: str, most: int) -> str:
    """A text file named by an option, at most `most` bytes long.

    Raises:
        BadRequest: it cannot be read, is too long, or is not UTF-8.
    """
    return decode(read_bytes(path, option, most), str(path))


def read_bytes(path: Path, option: str, most: int) -> bytes:
    """A file named by an option, at most `most` bytes long.

    Raises:
        BadRequest: it cannot be read or is too long.
    """
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise BadRequest(
            f"{path} cannot be read: {error.strerror}", f"give {option} an existing file"
        ) from None
    if len(data) > most:
        raise BadRequest(f"{path} is larger than {most} bytes", "give a smaller file")
    return data


def decode(data: bytes, what: str) -> str:
    """UTF-8 text, a byte order mark left out.

    Raises:
        BadRequest: not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"{what} is not UTF-8 text (byte {error.start})",
            "convert it with iconv, or use --image",
        ) from None
