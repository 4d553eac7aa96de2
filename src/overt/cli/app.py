"""The top of the command line: finds the verb, imports it, and turns every ending into a status."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import click

from overt.cli import VERBS
from overt.cli.output import Output, plain
from overt.errors import Failure, OutOfDisk, OvertError, Stopped, UsageError

if TYPE_CHECKING:
    from typing_extensions import override  # in the standard library from Python 3.12
else:

    def override(method: Any) -> Any:
        return method


ANYWHERE = ("--json", "--quiet", "-q", "--debug", "--offline")
"""Options of every verb, also accepted before it: `overt --json list`."""

HEAD = "Overt gets an open model and runs it privately on this machine."
TAIL = """\
Start here
  overt run smollm2 "Why is the sky blue?"
  overt chat

Every verb takes --json, --quiet, --debug, --offline and --home; `overt VERB --help` lists the rest.
Answers go to stdout, remarks and errors to stderr. Exit codes: 0 done, 1 failed, 2 usage,
3 not found, 4 does not fit, 5 refused, 130 stopped (`overt help exit-codes`)."""


def help_text() -> str:
    """The page of `overt --help`, made from the table alone."""
    lines = [HEAD, "", "usage: overt VERB [OPTIONS] [ARGUMENTS]"]
    group = None
    for name, verb in VERBS.items():
        if verb.group != group:
            group = verb.group
            lines += ["", group]
        lines.append(f"  {name:<10}{verb.help}")
    return "\n".join([*lines, "", TAIL])


class Overt(click.Group):
    """The verbs, imported one at a time, and one way to report every ending."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command = importlib.import_module(verb.module).command
        return cast("click.Command", command)

    @override
    def get_help(self, ctx: click.Context) -> str:
        return help_text()

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((i for i, arg in enumerate(args) if arg not in ANYWHERE), len(args))
        if 0 < first < len(args) and not args[first].startswith("-"):
            flags, args = args[:first], args[first:]
            end = args.index("--") if "--" in args else len(args)
            args = [*args[:end], *flags, *args[end:]]
        elif first and first == len(args):
            args = []
        return super().parse_args(ctx, args or ["--help"])

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS:
            raise UsageError(f"there is no verb {plain(args[0][:80])!r}", _nearest(args[0]))
        return super().resolve_command(ctx, args)

    @override
    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
        sys.exit(run(sys.argv[1:] if args is None else args))


@click.command(cls=Overt, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="overt", message="overt %(version)s")
def overt() -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit status; prints, and raises nothing.

    Every error ends here: one sentence on stderr and, with --json, one object on stdout.
    """
    flags = _before_dashes(arguments)
    debug = "--debug" in flags or os.environ.get("OVERT_DEBUG", "") not in ("", "0")
    out = Output("json" if "--json" in flags else "human")
    _be_printable()
    try:
        code = click.Group.main(overt, list(arguments), prog_name="overt", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - this is the one place where every ending ends
        return _exit_code(error, out, debug)
    return code if isinstance(code, int) else 0


def _exit_code(error: BaseException, out: Output, debug: bool) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        # The program reading our output has gone (`overt list | head -1`): not worth a word.
        _give_up_stdout()
        return 1
    known = _as_overt(error)
    try:
        if debug and not isinstance(known, Stopped | UsageError):
            _traceback(error)
        out.error(known)
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
    return known.exit_code


def _as_overt(error: BaseException) -> OvertError:
    if isinstance(error, OvertError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return _as_overt((error.subgroup(OvertError) or error).exceptions[0])
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Stopped("stopped")
    if isinstance(error, MemoryError):
        return Failure("there was not enough memory", "close something, or try a smaller model")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OutOfDisk(
            "the disk is full", "free some space: overt rm, or set OVERT_HOME elsewhere"
        )
    if isinstance(error, PermissionError) and error.filename:
        return Failure(
            f"{error.filename} may not be used: {error.strerror}",
            "check who owns it, or set OVERT_HOME to another folder",
        )
    what = " ".join(str(error).split())[:300]
    return Failure(
        f"something went wrong inside Overt ({type(error).__name__}{': ' if what else ''}{what})",
        "run again with --debug to see where",
    )


def _usage(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    verb = context.command_path if context else "overt"
    near = getattr(error, "possibilities", None)
    hint = f"did you mean {' or '.join(near)}?" if near else f"see `{verb} --help`"
    message = error.message if near is not None else error.format_message()
    message = message or error.format_message()
    for theirs, ours in (("float range", "number"), ("integer range", "whole number")):
        message = message.replace(f"not a valid {theirs}", f"not a {ours}")
    return UsageError(message[:1].lower() + message[1:].rstrip(". "), hint)


def _nearest(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, VERBS, n=2, cutoff=0.5)
    if near:
        return f"did you mean `overt {'` or `overt '.join(near)}`?"
    return "`overt --help` lists the verbs"


def _before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: list(arguments).index("--")] if "--" in arguments else arguments


def _be_printable() -> None:
    """A model may say what the terminal's encoding cannot: show a mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")


def _give_up_stdout() -> None:
    """Nothing more can be written there, and the interpreter shall not try again at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error, file=sys.stderr)
